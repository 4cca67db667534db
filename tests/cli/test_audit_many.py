"""``confide audit`` over many bundles: what is found, in which order, in how many processes, and how it ends early."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.unmeasured import unmeasured
from tests.verify.making import RESPONSE, made_bundle, made_exchange, made_options, made_policy, made_report

from confide.cli import audit_find, run
from confide.cli.audit_find import Found, Others
from confide.cli.audit_tell import screen, tell_json, tell_many
from confide.cli.audit_work import TOGETHER, Audited, AuditStopped, Case, audited
from confide.verify.bundle import MOST_BYTES, Bundle
from confide.verify.material import Material

Captured = pytest.CaptureFixture[str]
MANY = TOGETHER * 4 + 5


@cache
def good() -> Bundle:
    """A bundle of one answer of a development service."""
    return made_bundle(made_report(), made_exchange())


@cache
def bad() -> Bundle:
    """The same with a byte more in the answer."""
    return made_bundle(made_report(), made_exchange(response=RESPONSE + b" "))


@pytest.fixture(scope="module")
def accepting(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of somebody who accepts that service."""
    return made_options(tmp_path_factory.mktemp("person"))


def case(**members: Any) -> Case:
    """As those options say it."""
    given: dict[str, Any] = {"policy": made_policy(), "development": made_report().roots(), "material": Material()}
    return Case(**given | {"at": None} | members)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many bundles at several depths, one of which failed, and others on lines."""
    here = tmp_path / "evidence"
    (here / "b" / "deep").mkdir(parents=True)
    lines = [good().encode(), b"", bad().encode(), b"{", good().encode()]
    (here / "c.JSONL").write_bytes(b"\n".join(lines))
    (here / "notes.txt").write_text("not looked at")
    for number in range(MANY):
        place = here / ("b" if number % 2 else "b/deep")
        (place / f"{number:04}.json").write_bytes((bad() if number == 77 else good()).encode())
    return here


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The real program in a process group of its own."""
    command = [sys.executable, "-m", "confide", "audit", *map(str, arguments)]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "process_group": 0}
    given |= {"env": unmeasured()}
    return subprocess.Popen(command, **given | options)


# What is found -------------------------------------------------------------------------------------------------------


def test_everything_below_a_folder_is_found_in_the_order_of_the_names(folder: Path) -> None:
    others = Others()
    found = [one.name.removeprefix(f"{folder}/") for one in audit_find.bundles(audit_find.files([folder], others))]
    odd = [f"b/{number:04}.json" for number in range(1, MANY, 2)]
    even = [f"b/deep/{number:04}.json" for number in range(0, MANY, 2)]
    assert found == [*odd, *even, *(f"c.JSONL:{number}" for number in (1, 3, 4, 5))]
    assert others.count == 1


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    for text in (b'{"a":1}\n\n  \r\n{"b":2}\n', b'{"a":1}\n\n  \r\n{"b":2}'):
        (tmp_path / "x.jsonl").write_bytes(text)
        found = list(audit_find.bundles(audit_find.files([tmp_path / "x.jsonl"], Others())))
        assert [(one.name.rpartition(":")[2], one.problem) for one in found] == [("1", ""), ("4", "")]
        read = [text[one.start :][: one.length].strip() for one in found]
        assert read == [b'{"a":1}', b'{"b":2}']


def test_a_line_that_is_too_long_does_not_hide_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 10)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + good().encode() + b"\n")
    found = list(audit_find.bundles(audit_find.files([path], Others())))
    assert [one.problem for one in found] == [f"{path}:1 is longer than {MOST_BYTES} bytes", ""]
    assert sum(one.size for one in found) == path.stat().st_size


def spoil(folder: Path) -> dict[str, str]:
    """Everything that can be wrong with a file; a sentence that names each."""
    (folder / "a-cut.json").write_bytes(good().encode()[:-100])
    (folder / "b-empty.json").write_bytes(b"")
    with (folder / "c-huge.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (folder / "d-loop.json").symlink_to("d-loop.json")
    (folder / "e-folder").symlink_to(".")
    (folder / "f-gone.json").symlink_to("absent")
    os.mkfifo(folder / "g-pipe.json")
    Path(os.fsdecode(os.fsencode(folder) + b"/h-\xff\xfe.json")).write_bytes(b"[]")
    (folder / "i-error.json").symlink_to("/proc/self/mem")
    (folder / "j-none.jsonl").write_bytes(b"\n \n")
    (folder / "k-report.json").write_bytes(good().report)
    return {
        "a-cut.json": "is no bundle of version 1: Input data was truncated",
        "b-empty.json": "is no bundle of version 1",
        "c-huge.json": f"is longer than {MOST_BYTES} bytes",
        "d-loop.json": "can't be read: Too many levels of symbolic links",
        "e-folder": "is a link to a folder: name that folder itself",
        "f-gone.json": "can't be read: No such file or directory",
        "g-pipe.json": "is no regular file",
        r"h-\xff\xfe.json": "is no bundle of version 1",
        "i-error.json": "can't be read: Input/output error",
        "j-none.jsonl": "holds no bundle",
        "k-report.json": "an attestation report goes with --report",
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_bad_file_has_its_sentence_and_the_rest_is_audited(
    tmp_path: Path, accepting: list[str], jobs: int
) -> None:
    sentences = spoil(tmp_path)
    for number in range(TOGETHER):
        (tmp_path / f"z{number}.json").write_bytes(good().encode())
    done = program(tmp_path, *accepting, "--jobs", jobs)
    out, err = done.communicate(timeout=250)
    assert done.returncode == 2
    for name, sentence in sentences.items():
        assert f"{tmp_path}/{name}: no verdict\n" in out, name
        assert any(f"{tmp_path}/{name}" in line and sentence in line for line in err.splitlines()), name
    assert out.count(": consistent, development root\n") == TOGETHER
    said = f"{TOGETHER + len(sentences)} bundles: {len(sentences)} no verdict (exit code 2); {TOGETHER} consistent"
    assert said in out
    assert "The exit code is that of the worst: 2." in out
    assert "Traceback" not in err


AS_NOBODY = """
import os, sys
from confide.cli.audit_find import Others, files
from confide.cli.audit_work import Case, Work
from confide.verify.material import Material
from pathlib import Path

work = Work(Case(None, (), Material(), None))  # what it needs is read before
os.geteuid() or os.setuid(65534)  # root may read everything
for one in work.all(files(map(Path, sys.argv[1:]), Others())):
    print(one.code, one.problem)
"""


def test_what_nobody_may_read() -> None:
    with tempfile.TemporaryDirectory() as here:
        Path(here).chmod(0o755)
        (Path(here) / "closed").mkdir(mode=0)
        inner = Path(here) / "closed" / "inner.json"
        (Path(here) / "secret.json").write_bytes(good().encode())
        (Path(here) / "secret.json").chmod(0)
        command = [sys.executable, "-c", AS_NOBODY, here, inner]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = (Path(here) / "closed", Path(here) / "secret.json", inner)
    expected = [f"2 {name} can't be read: Permission denied" for name in names]
    assert done.stdout.splitlines() == expected, done.stderr


def test_of_several_paths_each_counts(tmp_path: Path, accepting: list[str], capsys: Captured) -> None:
    (tmp_path / "good.json").write_bytes(good().encode())
    (tmp_path / "bad.json").write_bytes(bad().encode())
    (tmp_path / "empty").mkdir()
    paths = [str(tmp_path / name) for name in ("good.json", "empty", "absent.json", "good.json")]
    assert run(["audit", *paths, *accepting]) == 2
    said = capsys.readouterr()
    assert "4 bundles: 2 no verdict (exit code 2); 2 consistent, development root (exit code 3)" in said.out
    assert "holds no *.json or *.jsonl file" in said.err
    assert "absent.json can't be read: No such file" in said.err
    assert run(["audit", *paths, str(tmp_path / "bad.json"), *accepting]) == 1
    assert "receipt.5\tFAIL" in capsys.readouterr().out


# Processes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_several_processes_say_the_same_as_one(folder: Path, accepting: list[str], options: list[str]) -> None:
    told = []
    for jobs in (1, 3):
        done = program(folder, *accepting, *options, "--jobs", jobs)
        out, err = done.communicate(timeout=250)
        assert done.returncode == 1, err
        told.append((out, err))
    assert told[0] == told[1]
    assert told[0][0].count("0077.json") == 1
    assert "Traceback" not in told[0][1]


def endless(path: Path, count: int) -> Iterator[Found]:
    """The same bundle again and again."""
    for number in range(count):
        yield Found(str(number), path, size=path.stat().st_size)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A good bundle."""
    path = tmp_path / "one.json"
    path.write_bytes(good().encode())
    return path


def test_only_a_bounded_number_is_ahead(one: Path) -> None:
    taken = itertools.count()
    outcomes = audited((found for found in endless(one, 10_000) if next(taken) >= 0), case(), jobs=2)
    assert next(outcomes).code == 3
    assert next(taken) <= TOGETHER * 10
    assert isinstance(outcomes, Iterator)
    outcomes.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_few_bundles_need_no_second_process(one: Path) -> None:
    before = time.process_time()
    assert len(list(audited(endless(one, TOGETHER), case(), jobs=8))) == TOGETHER
    assert multiprocessing.active_children() == []
    assert time.process_time() > before


def test_a_process_that_dies_is_an_error(one: Path) -> None:
    def until_one_is_killed() -> Iterator[Found]:
        yield from endless(one, TOGETHER * 4)
        victim = multiprocessing.active_children()[0]
        victim.kill()
        victim.join()
        yield from endless(one, TOGETHER * 100)

    seen: list[Audited] = []
    with pytest.raises(AuditStopped, match="What is above is not all"):
        seen.extend(audited(until_one_is_killed(), case(), jobs=2))
    assert len(seen) < TOGETHER * 104
    assert multiprocessing.active_children() == []


def linked(folder: Path, one: Path, count: int) -> Path:
    """A folder with so many names of one file."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.json").hardlink_to(one)
    return folder


def is_empty(group: int) -> bool:
    """Whether nothing of a process group is left, after some patience."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("options", [["--jobs", "1"], ["--jobs", "2", "--json"]])
def test_an_interrupt_ends_all_of_it_and_says_no_verdict(
    tmp_path: Path, one: Path, accepting: list[str], options: list[str]
) -> None:
    running = program(linked(tmp_path / "many", one, 4_000), *accepting, *options)
    assert running.stdout is not None
    first = running.stdout.readline()
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=250)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert "bundles:" not in out
    assert first
    if "--json" in options:
        with pytest.raises(json.JSONDecodeError):
            json.loads(first + out)
    assert is_empty(running.pid)


def test_processes_end_when_the_one_that_asked_is_killed(tmp_path: Path, one: Path, accepting: list[str]) -> None:
    running = program(linked(tmp_path / "many", one, 4_000), *accepting, "--jobs", 2)
    assert running.stdout is not None
    running.stdout.readline()
    running.kill()
    running.communicate(timeout=250)
    assert is_empty(running.pid)


# What is said --------------------------------------------------------------------------------------------------------


def watching(capsys: Captured, seen: list[str]) -> Iterator[Audited]:
    """Three outcomes; before each, what had been said until then is noted."""
    for name, code in (("a", 3), ("b", 2), ("c", 3)):
        seen.append(capsys.readouterr().out)
        yield Audited(name, code, problem="because" if code == 2 else "")


def test_json_is_one_document_and_comes_as_it_is_made(capsys: Captured) -> None:
    seen: list[str] = []
    codes = tell_json(watching(capsys, seen), None, Others(7))
    whole = "".join(seen) + capsys.readouterr().out
    assert (codes[2], codes[3]) == (1, 2)
    assert '"file": "a"' in seen[1]
    assert '"file": "b"' in seen[2]
    value = json.loads(whole)
    assert [(each["file"], each["exit_code"], each["problem"]) for each in value["audits"]] == [
        ("a", 3, None),
        ("b", 2, "because"),
        ("c", 3, None),
    ]
    assert (value["exit_code"], value["counts"], value["not_looked_at"]) == (2, {"2": 1, "3": 2}, 7)
    assert [json.loads(line.rstrip(","))["file"] for line in whole.splitlines()[1:4]] == ["a", "b", "c"]


def test_lines_come_as_they_are_made(capsys: Captured) -> None:
    seen: list[str] = []
    with screen(lambda: 0, above=True) as to:
        tell_many(watching(capsys, seen), made_policy(), Others(), to, every_step=False)
    assert seen[1:] == ["a: consistent, development root\n", "b: no verdict\n"]
    assert "3 bundles: 1 no verdict (exit code 2); 2 consistent" in capsys.readouterr().out


def test_names_cannot_move_the_cursor(capsys: Captured) -> None:
    hostile = Audited("\x1b[2Jx\u202e", 2, problem="\x1b]0;x\x07")
    with screen(lambda: 0, above=True) as to:
        tell_many([hostile], made_policy(), Others(), to, every_step=False)
    said = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e"} & {*said.out, *said.err}


def test_where_nobody_watches_a_line_tells_how_far_it_is(capsys: Captured) -> None:
    now = itertools.chain([0.0], iter(range(4, 40, 4)))
    with screen(lambda: pytest.fail("no bar, no total"), above=True, clock=lambda: float(next(now))) as to:
        assert len(list(to.watched([Audited("x", 0)] * 6))) == 6
    assert capsys.readouterr().err == "3 bundles audited ...\n5 bundles audited ...\n"


def on_a_terminal(*arguments: object, alone: bool = False) -> tuple[str, str]:
    """What reaches a terminal, as its screen has it in the end, and what stdout says where it is ``alone``."""
    ours, theirs = pty.openpty()
    environment = unmeasured() | {"TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    stdout = subprocess.PIPE if alone else theirs
    running = program(*arguments, stdout=stdout, stderr=theirs, env=environment)
    os.close(theirs)
    said = running.stdout.read() if running.stdout else ""
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other side was closed
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    running.communicate()
    assert running.returncode == 3
    return shown.decode(), said


def test_the_bar_is_on_stderr_and_the_output_stays_clean(tmp_path: Path, one: Path, accepting: list[str]) -> None:
    many = linked(tmp_path / "many", one, TOGETHER * 3)
    shown, said = on_a_terminal(many, *accepting, alone=True)
    assert "Auditing" in shown
    assert "bundles" in shown
    assert "\x1b" not in said
    assert said.startswith(f"{many}/000000.json: consistent, development root\n")


@pytest.mark.parametrize("options", [[], ["--json"], ["--steps"]])
def test_what_is_said_stands_above_the_bar(tmp_path: Path, one: Path, accepting: list[str], options: list[str]) -> None:
    many = linked(tmp_path / "many", one, TOGETHER + 1)
    shown, _ = on_a_terminal(many, *accepting, *options)
    lines = re.split(r"\r?\n|\r", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))
    assert ("Auditing" in shown) == (not options)
    assert not [line for line in lines if "Auditing" in line and "consistent" in line]
    assert sum("000032.json" in line for line in lines) == 1
