"""The examples of the README, run as they stand there against the server that ``make run`` starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from confide.engine import catalogue
from confide.engine.pull import LocalModel
from tests.clients.environments import NODE_FOLDER, node_environment, python_environment
from tests.hub import hub_with
from tests.serving import RunningServer, serving

DEVELOPMENT = 3
README = Path(__file__).parent.parent / "README.md"
PORT = 8000  # the server's default, as make run has it


@dataclass(frozen=True)
class Checked:
    """Where the commands ran, with which variables, and what they printed."""

    folder: Path
    env: dict[str, str]
    outputs: list[str]


def examples(text: str) -> dict[str, str]:
    """The first fenced block under each heading."""
    found: dict[str, str] = {}
    heading, block = "", None
    for line in text.splitlines(keepends=True):
        if block is not None and line.startswith("```"):
            found.setdefault(heading, "".join(block))
            block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("```"):
            block = []
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    return found


def example(heading: str) -> str:
    """The example under a heading of the README."""
    found = examples(README.read_text())
    assert heading in found, f"README.md has no example under the heading '{heading}'"
    return found[heading]


def is_free(port: int) -> bool:
    """Whether a server can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def printed(server: RunningServer, start: str) -> str:
    """The line that the server printed and that starts so."""
    tick = threading.Event()
    for _ in range(100):
        for line in server.log.read_text().splitlines():
            if line.startswith(start):
                return line
        tick.wait(0.1)
    raise AssertionError(f"the server printed no line that starts with '{start}':\n{server.log.read_text()}")


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """What make run starts: the default model, and commands printed."""
    port = PORT if is_free(PORT) else 0
    args = ["--print-curl", "--port", str(port), "--cache-dir", str(model_cache)]
    with serving(tmp_path_factory.mktemp("readme"), [], *args, model=catalogue.DEFAULT) as running:
        yield running


@pytest.fixture(scope="module")
def exported(server: RunningServer) -> dict[str, str]:
    """The variables of the export line that the server printed."""
    command, *pairs = shlex.split(printed(server, "export "))
    assert command == "export"
    return dict(pair.split("=", 1) for pair in pairs)


def shell(command: str, env: Mapping[str, str]) -> dict[str, object]:
    """Run a command as a person would, and read the JSON that it prints."""
    kept = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    bash = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(bash, env=kept | dict(env), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_is_an_answer(answer: dict[str, object]) -> None:
    assert answer.get("object") == "chat.completion", answer
    assert answer["model"] == catalogue.DEFAULT
    assert answer["choices"][0]["message"]["content"]


def test_the_variables_are_those_of_the_readme(exported: dict[str, str], server: RunningServer) -> None:
    assert set(exported) == {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    assert exported["OPENAI_API_KEY"].startswith("sk-")
    assert exported["OPENAI_BASE_URL"] == server.url
    shown = re.search(r"^export OPENAI_API_KEY=sk-\S+ OPENAI_BASE_URL=(\S+)$", README.read_text(), re.MULTILINE)
    assert shown, "README.md doesn't show the export line"
    assert shown[1] == f"http://127.0.0.1:{PORT}/v1"


def test_the_printed_curl_command(server: RunningServer) -> None:
    assert_is_an_answer(shell(printed(server, "curl "), {}))


def test_curl(exported: dict[str, str]) -> None:
    assert_is_an_answer(shell(example("curl"), exported))


@pytest.mark.timeout(900)
def test_python(exported: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example("Python"))
    done = python_environment("clients-openai").run(script, exported)
    assert done.returncode == 0, done.stderr
    *text, parsed = done.stdout.splitlines()
    assert "".join(text)
    assert re.fullmatch(r"kind='(cat|dog|bird)' legs=(2|4)", parsed)


@pytest.mark.timeout(900)
def test_typescript(exported: dict[str, str], tmp_path: Path) -> None:
    node = node_environment()
    # The example is TypeScript that is JavaScript as well, so that Node runs it as it stands.
    script = tmp_path / "example.mjs"
    script.write_text(example("TypeScript"))
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    done = node.run(script, exported)
    assert done.returncode == 0, done.stderr
    assert "get_weather" in done.stdout
    assert re.search(r"""city\\?"\s*:\s*\\?"(Paris|Rome)""", done.stdout), done.stdout


CONFIDE = Path(sys.executable).parent / "confide"


@pytest.fixture(scope="module")
def checked(exported: dict[str, str], server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """The commands of "From the shell", one after the other; a development root ends each with 3, which goes on."""
    folder = tmp_path_factory.mktemp("check")
    data = server.log.parent / "data"
    path = f"{CONFIDE.parent}:/usr/local/bin:/usr/bin:/bin"
    env = {**exported, "PATH": path, "HOME": str(folder), "CONFIDE_DATA_DIR": str(data), "COLUMNS": "120"}
    script = example("From the shell").replace(f"http://127.0.0.1:{PORT}", server.url.removesuffix("/v1"))
    commands = re.split(r"\n(?=confide )", script)
    outputs = []
    for number, command in enumerate(commands[1:], 1):
        bash = ["bash", "-uo", "pipefail", "-c", f"{commands[0]}\n{command}"]
        done = subprocess.run(bash, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == DEVELOPMENT, f"command {number}: {done.stdout}\n{done.stderr}"
        outputs.append(done.stdout + done.stderr)
    return Checked(folder, env | {"ROOT": str(data / "dev-pki" / "development-roots.pem")}, outputs)


def test_checking_from_the_shell(checked: Checked) -> None:
    init, verify, _, audit = checked.outputs
    assert "policy.toml" in init
    for shown in (verify, audit):
        assert "Consistent, but it rests on a development root" in shown
    assert "receipt.5" in audit
    assert (checked.folder / "bundle.json").exists()


@pytest.mark.timeout(900)
def test_checking_in_a_program(checked: Checked, server: RunningServer, tmp_path: Path) -> None:
    script = checked.folder / "example.py"
    script.write_text(example("In a program").replace(f"http://127.0.0.1:{PORT}", server.url.removesuffix("/v1")))
    done = subprocess.run(
        [sys.executable, str(script)], env=checked.env, cwd=checked.folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def blocks() -> list[str]:
    """Every fenced block, in order."""
    return re.findall(r"^```\w*\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def lines(block: str) -> list[str]:
    """Commands without their comments."""
    return [line for raw in block.splitlines() if (line := re.sub(r"\s+# .*", "", raw).strip())]


def test_every_block_has_its_test() -> None:
    """The first block is what CI runs and test_tutorial starts; the second what the variables' test compares."""
    first, export, *others = blocks()
    assert lines(first) == ["make run", "make test"]
    assert len(lines(export)) == 1
    run = [example(name) for name in ("curl", "Python", "TypeScript", "From the shell", "In a program")]
    assert others == [*run, *commands_of_the_operator()]


def commands_of_the_operator() -> list[str]:
    """The blocks under "Other models"."""
    section = README.read_text().partition("## Other models\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\w*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


MODELS = lines(commands_of_the_operator()[0])


def test_the_command_that_lists_models(checked: Checked) -> None:
    done = subprocess.run(shlex.split(MODELS[0]), env=checked.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert catalogue.DEFAULT in done.stdout


@pytest.mark.parametrize(
    ("command", "id"),
    [
        ("confide serve --model qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("confide serve --model ./model.gguf", "model"),
        ("confide serve --model mine=hf:owner/name/f.gguf", "mine"),
    ],
)
def test_other_models_are_served(command: str, id: str, smollm2: LocalModel, model_cache: Path, tmp_path: Path) -> None:
    """As they stand there, on a machine without a TEE; the hub is a stand-in whose file is the default model."""
    assert command in MODELS
    (tmp_path / "model.gguf").write_bytes(smollm2.path.read_bytes())
    cache = tmp_path / "cache" if "hf:" in command else model_cache
    folders = {"CONFIDE_DATA_DIR": str(tmp_path / "data"), "CONFIDE_CACHE_DIR": str(cache), "HOME": str(tmp_path)}
    path = f"{CONFIDE.parent}:/usr/local/bin:/usr/bin:/bin"
    with hub_with("f.gguf", smollm2.path.read_bytes()) as (hub, _):
        env = os.environ | folders | {"CONFIDE_TEE": "dev", "CONFIDE_PORT": "0", "HF_ENDPOINT": hub, "PATH": path}
        made = subprocess.run(["confide", "keys", "create", "t"], env=env, capture_output=True, text=True, check=True)
        key = next(word for word in made.stdout.split() if word.startswith("sk-"))
        log = tmp_path / "log"
        with log.open("w") as out:
            process = subprocess.Popen(shlex.split(command), env=env, cwd=tmp_path, stdout=out, stderr=out)
        try:
            assert_serves(process, log, id, key)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def assert_serves(process: subprocess.Popen[bytes], log: Path, id: str, key: str) -> None:
    """It says so, and answers under that name."""
    tick = threading.Event()
    while not (said := re.search(rf"^Serving {re.escape(id)} on (\S+)", log.read_text(), re.MULTILINE)):
        assert process.poll() is None, log.read_text()
        tick.wait(0.1)
    asked = {"model": id, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 3}
    answer = httpx.post(
        f"{said[1]}/chat/completions", json=asked, headers={"Authorization": f"Bearer {key}"}, timeout=120
    ).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", id)


def test_the_commands_about_models_are_all_tried() -> None:
    assert len(MODELS) == 4


def test_commands_about_keys(checked: Checked) -> None:
    create, show, revoke, doctor = lines(commands_of_the_operator()[1])
    for command, wanted in ((create, "sk-"), (show, "NAME"), (revoke, "Revoked NAME")):
        done = subprocess.run(shlex.split(command), env=checked.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout + done.stderr, command
    done = subprocess.run(shlex.split(doctor), env=checked.env, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    assert "Data folder" in done.stdout
