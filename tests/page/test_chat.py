"""Talking to the model in the page."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.page.browsing import PATIENCE, Visit
from tests.page.conftest import Open
from tests.page.meddler import Meddler, meddling
from tests.proof.talking import EchoServer
from tests.simulator.echo_server import MODEL

TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
LONG = "word " * 4000


@pytest.fixture
def visit(opened: Open) -> Iterator[Visit]:
    with opened() as visit:
        visit.settled("development")
        yield visit


@pytest.fixture
def meddler(echo: EchoServer) -> Iterator[Meddler]:
    with meddling(echo.port) as meddler:
        yield meddler


def sent(visit: Visit) -> list[dict[str, object]]:
    """The bodies of the chat requests, from now on and in clear."""
    visit.unseal()
    bodies: list[dict[str, object]] = []
    visit.page.on(
        "request",
        lambda request: bodies.append(json.loads(request.post_data or "")) if request.method == "POST" else None,
    )
    return bodies


def test_an_answer_streams_and_ends(visit: Visit) -> None:
    answer = visit.answered("Hello **there**\n\n\u2028 ünïcödé 🦉")
    expect(answer.locator(".prose strong")).to_have_text("there")
    expect(answer.locator(".prose")).to_contain_text("ünïcödé 🦉")
    expect(answer).to_have_attribute("aria-busy", "false")
    assert re.search(r"\d+ \+ \d+ tokens · [\d.]+ s", answer.locator(".measure").inner_text())
    assert visit.badge(answer) == "development"


LENGTHS = """() => {
  window.lengths = [];
  const note = () => window.lengths.push(document.querySelector(".assistant .prose")?.textContent.length ?? 0);
  const what = { subtree: true, childList: true, characterData: true };
  new MutationObserver(note).observe(document.querySelector("#log"), what);
}"""


@pytest.mark.parametrize("text", [LONG, "- a line of words\n" * 1000, "```py\n" + "x = compute()\n" * 1000 + "```"])
def test_a_long_answer_is_drawn_in_pieces_however_fast_it_comes(visit: Visit, text: str) -> None:
    visit.page.evaluate(LENGTHS)
    answer = visit.answered(text)
    lengths: list[int] = visit.page.evaluate("window.lengths")
    assert max(lengths) > 10_000
    assert max(after - before for before, after in itertools.pairwise(lengths)) <= 2_000
    shown = answer.locator(".prose").inner_text()
    words = re.findall(r"\w+", text.replace("```py", ""))
    assert re.findall(r"\w+", shown.replace("py\n", "", 1)).count(words[0]) == words.count(words[0])


def test_the_conversation_is_sent_along(visit: Visit) -> None:
    bodies = sent(visit)
    visit.page.click("#options")
    visit.page.fill("#option-system", "Be brief.")
    visit.page.fill("#option-temperature", "0.5")
    visit.page.fill("#option-max_tokens", "99")
    visit.page.get_by_role("button", name="Done").click()
    visit.answered("one")
    visit.answered("two")
    assert bodies[-1] == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "two"},
        ],
        "temperature": 0.5,
        "max_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping(opened: Open, meddler: Meddler, how: str) -> None:
    """What was said stays; the receipt is checked as far as it goes, and nothing is shown as good."""
    with opened() as visit:
        visit.settled()
        visit.order("echo:slow:40")
        answer = visit.say(LONG)
        expect(answer.locator(".prose")).to_contain_text("word word", timeout=PATIENCE)
        if how == "button":
            visit.page.get_by_role("button", name="Stop").click()
        else:
            visit.page.keyboard.press("Escape")
        expect(answer.locator(".measure")).to_contain_text("stopped")
        assert visit.badge(answer) != "good"
        assert 0 < len(answer.locator(".prose").inner_text()) < len(LONG)
        expect(visit.page.locator("#send")).to_have_attribute("data-does", "send")


def test_answering_again_and_editing(visit: Visit) -> None:
    bodies = sent(visit)
    visit.answered("one")
    visit.page.get_by_role("button", name="Answer again").click()
    expect(visit.answers).to_have_count(1)
    visit.badge()
    assert bodies[0] == bodies[1]
    visit.answered("two")
    visit.page.locator(".turn.user").first.hover()
    visit.page.get_by_role("button", name="Edit and send again").first.click()
    visit.page.get_by_label("Edit the message").fill("three")
    visit.page.get_by_role("button", name="Send again", exact=True).click()
    expect(visit.page.locator(".turn.user")).to_have_count(1)
    visit.badge()
    assert bodies[-1]["messages"] == [{"role": "user", "content": "three"}]
    visit.page.get_by_role("button", name="New conversation").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    expect(visit.page.locator("#welcome")).to_be_visible()


def test_keys_of_the_keyboard(visit: Visit) -> None:
    expect(visit.page.locator("#prompt")).to_be_focused()
    visit.page.keyboard.type("one")
    visit.page.keyboard.press("Shift+Enter")
    visit.page.keyboard.type("two")
    expect(visit.answers).to_have_count(0)
    visit.page.keyboard.press("Enter")
    visit.badge()
    expect(visit.page.locator(".turn.user p")).to_have_text("one\ntwo")
    expect(visit.page.locator("#prompt")).to_have_value("")
    expect(visit.page.locator("#prompt")).to_be_focused()


def test_a_tool_is_called_and_its_result_goes_back(visit: Visit) -> None:
    bodies = sent(visit)
    visit.page.click("#options")
    visit.page.fill("#option-tools", json.dumps([TOOL]))
    visit.page.get_by_role("button", name="Done").click()
    answer = visit.answered("weather?")
    card = answer.locator(".card.call")
    expect(card.locator("header b")).to_have_text("get_weather")
    assert json.loads(card.locator("pre").inner_text()) == {"said": "weather?"}
    expect(card.locator(".j-name")).to_have_text('"said"')
    visit.page.get_by_label("Result of get_weather").fill('{"degrees": 21}')
    visit.page.get_by_role("button", name="Send result").click()
    expect(visit.answers).to_have_count(2)
    visit.badge()
    first, second = bodies
    assert first["tools"] == [{"type": "function", "function": TOOL}]
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"said": "weather?"}'},
    }
    assert second["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": '{"degrees": 21}'},
    ]


def test_json_is_shown_as_json(visit: Visit) -> None:
    bodies = sent(visit)
    schema = {"type": "object"}
    visit.page.click("#options")
    visit.page.fill("#option-schema", json.dumps(schema))
    visit.page.get_by_role("button", name="Done").click()
    answer = visit.answered('{"a":[1,2],"b":"x"}')
    expect(answer.locator(".code-head")).to_contain_text("valid JSON")
    assert answer.locator("pre.json").inner_text() == '{\n  "a": [\n    1,\n    2\n  ],\n  "b": "x"\n}'
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    assert bodies[0]["response_format"] == wanted
    broken = visit.answered("no JSON")
    expect(broken.locator(".code-head")).to_have_count(0)
    expect(broken.locator(".prose")).to_have_text("no JSON")


def test_what_the_model_offers_is_said(visit: Visit) -> None:
    visit.page.click("#options")
    said = visit.page.locator("dialog[open] header + .aside").inner_text()
    for what in (
        MODEL,
        "100\u2009000 tokens of context",
        "calls tools",
        "answers by a schema",
        "sees images",
        "echo 1",
    ):
        assert what in said, what
    for name in ("temperature", "max_tokens", "seed", "schema", "tools"):
        expect(visit.page.locator(f"#option-{name}")).to_be_enabled()


def test_settings_that_are_no_json_stop_nothing_else(visit: Visit) -> None:
    visit.page.click("#options")
    visit.page.fill("#option-tools", "[{")
    expect(visit.page.locator("#wrong-tools")).not_to_be_empty()
    visit.page.get_by_role("button", name="Done").click()
    visit.page.fill("#prompt", "hello")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#note")).to_contain_text("The list of tools is no JSON")
    expect(visit.answers).to_have_count(0)
    expect(visit.page.locator("#prompt")).to_have_value("hello")


def picture(size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, "teal").save(made, kind)
    return made.getvalue()


def test_images_go_along(visit: Visit) -> None:
    bodies = sent(visit)
    chosen = picture()
    files = [{"name": "a.png", "mimeType": "image/png", "buffer": chosen}]
    visit.page.set_input_files("#file", files)  # type: ignore[arg-type]
    expect(visit.page.locator("#pictures img")).to_have_count(1)
    drop(visit, "drop", picture((9, 9)))
    drop(visit, "paste", picture((10, 10)))
    expect(visit.page.locator("#pictures img")).to_have_count(3)
    visit.page.get_by_role("button", name="Remove dropped.png").first.click()
    expect(visit.page.locator("#pictures img")).to_have_count(2)
    answer = visit.answered("what is this?")
    expect(visit.page.locator(".turn.user img")).to_have_count(2)
    expect(answer.locator(".prose")).to_have_text("what is this?")
    text, first, _ = bodies[0]["messages"][0]["content"]  # type: ignore[index]
    assert text == {"type": "text", "text": "what is this?"}
    assert base64.b64decode(first["image_url"]["url"].removeprefix("data:image/png;base64,")) == chosen


def drop(visit: Visit, how: str, data: bytes) -> None:
    """Drop an image on the page, or paste it."""
    visit.page.evaluate(
        """([how, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
          const event = how === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
          document.querySelector("#prompt").dispatchEvent(event);
        }""",
        [how, list(data)],
    )


def test_images_are_made_small_enough_or_refused(visit: Visit) -> None:
    bodies = sent(visit)
    drop(visit, "drop", picture((3000, 1500)))
    expect(visit.page.locator("#pictures img")).to_have_count(1)
    drop(visit, "drop", b"no image")
    expect(visit.page.locator("#note")).to_contain_text("can't be read")
    for _ in range(8):
        drop(visit, "drop", picture())
    expect(visit.page.locator("#note")).to_contain_text("At most 8 images")
    expect(visit.page.locator("#pictures img")).to_have_count(8)
    visit.page.press("#prompt", "Enter")
    visit.badge()
    url = bodies[0]["messages"][0]["content"][0]["image_url"]["url"]  # type: ignore[index]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as got:
        assert got.size == (2048, 1024)


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_in_the_servers_words(visit: Visit) -> None:
    sent(visit)
    visit.page.click("#options")
    visit.page.fill("#option-tools", '[{"name": "bad name!", "parameters": {}}]')
    visit.page.get_by_role("button", name="Done").click()
    answer = visit.say("hello")
    problem = answer.locator(".problem")
    expect(problem).to_contain_text("status 400")
    expect(problem).to_contain_text("tools[0].function.name")
    expect(problem.locator("p").first).not_to_be_empty()


def test_an_answer_that_fails_in_its_middle(visit: Visit) -> None:
    visit.order("echo:fail:3")
    answer = visit.answered(LONG)
    expect(answer.locator(".problem")).to_contain_text("The engine broke.")
    assert visit.badge(answer) == "development"  # that it failed is what the receipt says, too
    expect(answer.locator(".events")).to_contain_text("engine_failed")


def test_a_server_that_is_gone(opened: Open, meddler: Meddler) -> None:
    with opened() as visit:
        visit.settled()
        visit.page.context.set_offline(True)
        answer = visit.say("hello")
        expect(answer.locator(".problem")).to_contain_text("The server can't be reached")
        assert visit.badge(answer) == "none"
        assert all("ERR_INTERNET_DISCONNECTED" in one for one in visit.wrong)
        visit.wrong.clear()


def test_the_key_is_asked_for_and_stays_out_of_the_address(opened: Open, echo: EchoServer) -> None:
    with opened(key="") as visit:
        visit.page.goto(f"{visit.origin}/")
        visit.page.get_by_label("API key").fill("sk-wrong")
        visit.page.get_by_role("button", name="Use this key").click()
        expect(visit.page.locator("#key-wrong")).to_have_text("Incorrect API key provided.")
        visit.page.get_by_label("API key").fill(echo.keys[1])
        visit.page.get_by_role("button", name="Use this key").click()
        visit.settled()
        visit.answered("hello")
        assert visit.page.url == f"{visit.origin}/"
        assert not [url for url in visit.requests if echo.keys[1] in url]
        assert visit.page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])") == "[{},{}]"
        visit.page.reload()
        expect(visit.page.get_by_label("API key")).to_be_visible()
        visit.page.get_by_label("API key").fill(echo.keys[1])
        visit.page.get_by_label("Keep it until this tab is closed").check()
        visit.page.get_by_role("button", name="Use this key").click()
        visit.settled()
        visit.page.reload()
        visit.settled()
        visit.answered("hello again")


def test_the_key_of_a_link_works_and_goes_out_of_the_address(visit: Visit, echo: EchoServer) -> None:
    assert visit.page.url == f"{visit.origin}/"
    assert visit.page.evaluate("history.length") <= 2
    visit.answered("hello")
    assert not [url for url in visit.requests if echo.keys[0] in url.partition("#")[0]]


def test_the_theme_is_chosen_and_kept(visit: Visit) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visit.page.evaluate(ground)
    visit.page.get_by_role("button", name="Switch to dark").click()
    dark = visit.page.evaluate(ground)
    assert dark != light
    visit.page.get_by_role("button", name="Switch to light").click()
    assert visit.page.evaluate(ground) == light
    visit.page.get_by_role("button", name="Switch to dark").click()
    visit.page.reload()
    assert visit.page.evaluate(ground) == dark
