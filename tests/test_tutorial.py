"""The tutorial, as a reader walks through it: every command and program on the page, in order, against ``make run``."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from confide.engine.pull import LocalModel
from tests.test_readme import PORT, is_free

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial" / "verified-answer.md"
START_SECONDS = 180


class Step(NamedTuple):
    """A block of the page: commands with what the page says they print, or a program with its file's name."""

    kind: str
    text: str
    shown: str | None
    file: str | None


def steps() -> list[Step]:
    """The page's blocks in order. A ``text`` block is what the commands before it print."""
    found: list[Step] = []
    fences = re.finditer(r"^```(sh|python|text)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    end = 0
    for fence in fences:
        kind, text = fence[1], fence[2]
        between = PAGE.read_text()[end : fence.start()]
        end = fence.end()
        if kind == "text":
            found[-1] = found[-1]._replace(shown=text)
        else:
            named = re.findall(r"Save this as `([\w.]+)`", between)
            found.append(Step(kind, text, None, named[-1] if named else None))
    return found


class Server(NamedTuple):
    """What ``make run`` printed, its address, and its data folder."""

    output: str
    url: str
    data: Path


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The first block of the page, verbatim, in a terminal of its own."""
    folder = tmp_path_factory.mktemp("tutorial")
    port = PORT if is_free(PORT) else 0
    env = os.environ | {
        "CONFIDE_PORT": str(port),
        "CONFIDE_DATA_DIR": str(folder / "data"),
        "CONFIDE_CACHE_DIR": str(model_cache),
    }
    log = folder / "make-run.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", steps()[0].text], cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        printed = until_exported(process, log)
        found = re.search(r"^export .*OPENAI_BASE_URL=(\S+)/v1$", printed, re.MULTILINE)
        assert found
        yield Server(printed, found[1], folder / "data")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def until_exported(process: subprocess.Popen[bytes], log: Path) -> str:
    """What it has printed once it serves."""
    tick = threading.Event()
    for _ in range(START_SECONDS * 5):
        text = log.read_text()
        if re.search(r"^export .*\n", text, re.MULTILINE) or process.poll() is not None:
            return text
        tick.wait(0.2)
    raise AssertionError(f"make run printed no export line:\n{log.read_text()}")


@pytest.fixture(scope="module")
def walked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Step, str, int]]:
    """Every later block in one shell, and what it printed and ended with."""
    folder = tmp_path_factory.mktemp("walk")
    export = next(line for line in server.output.splitlines() if line.startswith("export "))
    script = [export]
    for number, step in enumerate(steps()[1:], 1):
        if step.kind == "python":
            assert step.file, f"the page says no file name for\n{step.text}"
            source = folder / step.file
            source.write_text(here(step.text, server))
            script.append(f"cp {shlex.quote(str(source))} .")
        else:
            source = folder / f"{number}.sh"
            source.write_text(here(step.text, server))
            script.append(f"source {source} > {folder}/{number}.out 2>&1 < /dev/null; echo $? > {folder}/{number}.code")
    # The variables of a reader's shell, and the data folder that the test gave the server.
    env = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    env |= {"TMPDIR": str(folder), "CONFIDE_DATA_DIR": str(server.data), "COLUMNS": "200"}
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=ROOT, env=env, timeout=280, check=False)
    assert done.returncode == 0
    return [
        (step, (folder / f"{number}.out").read_text(), int((folder / f"{number}.code").read_text()))
        for number, step in enumerate(steps()[1:], 1)
        if step.kind == "sh"
    ]


def here(text: str, server: Server) -> str:
    """A block as it is, at the address where this server listens if the page's port was taken."""
    return text.replace(f"http://127.0.0.1:{PORT}", server.url)


def assert_prints(shown: str, printed: str, where: str) -> None:
    """Each line of the page is printed, in this order; ``…`` stands for anything."""
    at = 0
    for line in shown.splitlines():
        wanted = re.compile(".*?".join(re.escape(part) for part in line.strip().split("…")))
        found = wanted.search(printed, at)
        assert found, f"{where}\nprints no line like\n{line}\nafter position {at} of\n{printed}"
        at = found.end()


def test_the_page_has_its_steps() -> None:
    kinds = [step.kind for step in steps()]
    assert kinds.count("python") == 2
    assert kinds.count("sh") >= 12
    assert steps()[0].text == "make run\n"


def test_make_run_prints_what_the_page_says(server: Server) -> None:
    shown = steps()[0].shown
    assert shown
    assert_prints(here(shown, server), server.output, "make run")


def test_every_command_does_what_the_page_says(walked: list[tuple[Step, str, int]]) -> None:
    for step, printed, code in walked:
        assert code == 0, f"{step.text}\nended with {code}:\n{printed}"
        assert printed.strip() or step.shown is None, step.text
        if step.shown:
            assert_prints(step.shown, printed, step.text)
