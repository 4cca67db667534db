"""The page's own readers and drawers, called in the browser: whole, in odd pieces, and byte by byte."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.environments import node_environment
from tests.conftest import ROOT
from tests.page.browsing import Visit
from tests.page.conftest import Open

EVENTS = """async ([module, bytes, sizes]) => {
  const { EventReader } = await import(module);
  const reader = new EventReader();
  const events = [];
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length];
    events.push(...reader.feed(new Uint8Array(bytes.slice(at, at + size))));
    at += size;
  }
  return [events, reader.pending];
}"""
DRAWN = """async ([module, text, sizes]) => {
  const { MarkdownView } = await import(module);
  const root = document.createElement("div");
  const view = new MarkdownView(root);
  for (let at = 0, turn = 0; at < text.length; turn++) {
    const size = sizes[turn % sizes.length];
    view.push(text.slice(at, at + size));
    view.draw();
    at += size;
  }
  view.end();
  for (const button of root.querySelectorAll("button")) button.remove();
  root.normalize();
  for (const code of root.querySelectorAll("*")) code.normalize();
  return root.innerHTML;
}"""
LAYOUT = ROOT / "tests" / "web"
SCRIPTS = sorted((ROOT / "src" / "confide" / "web").glob("*.js"))
SIZES = {"whole": [1_000_000], "odd": [3, 1, 17, 2, 97, 5], "one by one": [1]}


@pytest.fixture
def visit(opened: Open) -> Iterator[Visit]:
    with opened() as visit:
        visit.settled()
        yield visit


def test_their_layout_is_one() -> None:
    """Prettier's, as that of the modules in ``proof/``."""
    environment = node_environment(LAYOUT)
    program = LAYOUT / "node_modules" / "prettier" / "bin" / "prettier.cjs"
    config = ["--config", str(LAYOUT / ".prettierrc.json"), "--check"]
    command = [str(environment.program), str(program), *config, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_script_turns_text_into_markup_or_asks_anybody_else() -> None:
    """Read from the scripts themselves, beside what the policy forbids."""
    assert len(SCRIPTS) > 20
    for script in SCRIPTS:
        text = script.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), (
            script
        )
        assert not re.search(r"[\"'`]https?://(?!www\.w3\.org/2000/svg)", text), script


def module(visit: Visit, name: str) -> str:
    """The address of a module of the page that is open."""
    app = str(visit.page.locator("script[type=module]").get_attribute("src"))
    return app.replace("app.js", name)


def events(visit: Visit, data: bytes, sizes: list[int]) -> Any:
    return visit.page.evaluate(EVENTS, [module(visit, "sse.js"), list(data), sizes])


def drawn(visit: Visit, text: str, sizes: list[int]) -> str:
    return str(visit.page.evaluate(DRAWN, [module(visit, "markdown.js"), text, sizes]))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_events_however_they_are_cut(visit: Visit, sizes: list[int], end: str) -> None:
    said = ["\u2028\u2029 \x85 no line ends", "ünïcödé 🦉 𝄞", json.dumps({"a": "b\nc"}), ""]
    stream = "\ufeff: a comment" + end + end
    stream += "".join(f"event: x{end}id: 1{end}data: {text}{end}{end}" for text in said)
    stream += f"data:one{end}data: two{end}{end}datum{end}data: [DONE]{end}{end}"
    assert events(visit, stream.encode(), sizes) == [[*said, "one\ntwo", "[DONE]"], False]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("tail", ["data: half", "data: a line\n", ": comment\ndata: x\r"])
def test_an_event_that_nothing_ends_is_none(visit: Visit, sizes: list[int], tail: str) -> None:
    assert events(visit, f"data: whole\n\n{tail}".encode(), sizes) == [["whole"], True]


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_no_text_are_refused(visit: Visit, broken: bytes) -> None:
    with pytest.raises(Exception, match="TypeError"):
        events(visit, b"data: " + broken + b"\n\n", [1])


MARKDOWN = {
    "paragraphs": "one **two** *three* `four` ~~five~~\nsix\n\nseven \\*eight\\*",
    "headings": "# a\n## b\n###### c ##\n#not\n",
    "lists": "- a\n- b\n  - c\n\n  d\n\n1. x\n2. y\n   ```py\n   z = 1\n   ```\n3. w\n",
    "long list": "".join(f"{number}. item *{number}*\n" for number in range(1, 60)) + "\nend",
    "code": "before\n```js\nlet a = `1`;\n``` no end\n``\n```\nafter\n\n~~~\n```\n~~~\n",
    "code that nothing ends": '```json\n{"a": [1, true]}\n',
    "table": "| a | b |\n|:--|--:|\n| 1 | *2* |\n| 3 |\n\nend",
    "quote": "> a\n> > b\n> - c\n\nd",
    "rules": "a\n\n---\n***\nb",
    "long paragraph": "word " * 500 + "**bold " + "word " * 300 + "end** " + "last " * 300,
    "marks that nothing closes": "*a **b _c `d [e " * 60,
    "links": "[a](https://x.example/y) <https://z.example> https://w.example/a_b. ![p](https://i.example/p.png)",
}


@pytest.mark.parametrize("text", MARKDOWN.values(), ids=MARKDOWN)
def test_a_text_is_drawn_the_same_however_it_comes(visit: Visit, text: str) -> None:
    whole = drawn(visit, text, SIZES["whole"])
    for sizes in ([1], [2], [3, 1, 17, 2, 97, 5], [64]):
        assert drawn(visit, text, sizes) == whole


def test_markdown_reads_as_it_is_meant(visit: Visit) -> None:
    one = SIZES["whole"]
    assert drawn(visit, "a **b** `c`", one) == "<p>a <strong>b</strong> <code>c</code></p>"
    assert drawn(visit, "# t\n- a\n- b", one) == "<h3>t</h3><ul><li>a</li><li>b</li></ul>"
    assert drawn(visit, "3. a", one) == '<ol start="3"><li>a</li></ol>'
    assert 'href="https://x.example/y"' in drawn(visit, "[a](https://x.example/y)", one)
    assert "snake_case_name" in drawn(visit, "snake_case_name", one)


HOSTILE = {
    "markup": "<script>alert(1)</script> <img src=x onerror=alert(1)> <svg onload=alert(1)>",
    "markup in code": "```<img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```",
    "links that run": "[a](javascript:alert(1)) [b](data:text/html,x) [c](vbscript:x) <javascript:alert(1)>",
    "links that hide": '[x](https://e.example/"onmouseover=alert(1)) [y]( javascript:alert(1) )',
    "pictures": "![a](https://e.example/p.png) ![b](/v1/models) ![c](data:image/png;base64,AAAA)",
    "names": "# <a id=prompt>\n[a](#key=x) [b](//e.example) [c](/v1/models)",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_a_model_says_becomes_markup(visit: Visit, text: str) -> None:
    found = visit.page.evaluate(
        """async ([module, text]) => {
          const { MarkdownView } = await import(module);
          const root = document.createElement("div");
          const view = new MarkdownView(root);
          view.push(text);
          view.end();
          const inside = [...root.querySelectorAll("*:not(button *):not(button)")];
          return { tags: inside.map((one) => one.localName),
                   attributes: inside.flatMap((one) => [...one.attributes].map(({ name }) => name)),
                   links: inside.filter(({ href }) => href)
                     .map(({ href, rel, target }) => [new URL(href).protocol, rel, target]) };
        }""",
        [module(visit, "markdown.js"), text],
    )
    assert set(found["tags"]) <= {"p", "h3", "a", "span", "br", "div", "pre", "code"}
    assert set(found["attributes"]) <= {"href", "target", "rel", "title", "class", "tabindex", "role", "aria-label"}
    for protocol, relation, target in found["links"]:
        assert protocol == "https:"
        assert relation == "noopener noreferrer nofollow"
        assert target == "_blank"


def test_marks_without_end_take_no_time(visit: Visit) -> None:
    """Each unclosed mark is looked for once: 200,000 characters of them are drawn, and this test ends."""
    text = "*a _b **c `d` [e](f ~~g " * 8000
    assert len(drawn(visit, text, SIZES["whole"])) >= len(text) * 0.9


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            '{"a":[1.50,-2e10,"x\\"y"],"b":{},"c":[]}',
            '{\n  "a": [\n    1.50,\n    -2e10,\n    "x\\"y"\n  ],\n  "b": {},\n  "c": []\n}',
        ),
        ("12345678901234567890", "12345678901234567890"),
        ('{"a": no}', '{"a": no}'),
    ],
)
def test_json_is_indented_and_spelt_as_it_came(visit: Visit, text: str, shown: str) -> None:
    got = visit.page.evaluate(
        "async ([module, text]) => (await import(module)).indented(text)", [module(visit, "jsonview.js"), text]
    )
    assert got == shown
