"""The commands that check a service, as programs: what they print, what they write, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.client.world import Between, Passing, World, between, free_port, world
from tests.unmeasured import unmeasured
from typer.main import get_command

from confide.cli import COMMANDS, app, run
from confide.verify.bundle import Bundle, parse_bundle
from confide.verify.policy import read_policy
from confide.wire.session import Claim, TlsBinding, build_session

PROGRAM = [sys.executable, "-m", "confide"]
CLIENT = ("verify", "audit", "policy", "sessions", "chat", "proxy")
EVIL = "\x1b[2J\x1b]0;owned\x07[bold red]\u202e\x9b31m"

Captured = pytest.CaptureFixture[str]


def environment(**more: str) -> dict[str, str]:
    """That of the tests, without what would change a command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONFIDE_", "OPENAI_"))}
    return kept | {"COLUMNS": "200"} | more


def confide(*arguments: object, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=90, env=environment(**variables), check=False
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server without TLS, so that everything is sealed."""
    with world(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def relay(plain: World) -> Iterator[Between]:
    """Somebody on the way to it."""
    with between(plain) as made:
        yield made


@pytest.fixture
def on_wire(relay: Between) -> Between:
    """The same, honest until told otherwise."""
    relay.relay.tamper = lambda _: None
    relay.relay.seen.clear()
    return relay


@pytest.fixture(scope="module")
def folder(plain: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a person: the development root, an API key, and a policy that `confide policy init` made."""
    here = tmp_path_factory.mktemp("person")
    (here / "roots.pem").write_bytes(plain.pki.roots_pem())
    (here / "key").write_text(plain.key + "\n")
    done = confide("policy", "init", plain.url, "--insecure-dev-root", here / "roots.pem", "-o", here / "policy.toml")
    assert done.returncode == 3, done.stderr
    assert "trusted on first use" in done.stderr
    return here


@pytest.fixture
def accepting(folder: Path) -> list[str]:
    """The options of somebody who accepts that server."""
    return ["--insecure-dev-root", str(folder / "roots.pem"), "--policy", str(folder / "policy.toml")]


@pytest.fixture
def keyed(accepting: list[str], folder: Path) -> list[str]:
    """With its key."""
    return [*accepting, "--api-key-file", str(folder / "key")]


@pytest.fixture(scope="module")
def kept(plain: World, folder: Path) -> Path:
    """A bundle of one checked answer."""
    accepted = ["--insecure-dev-root", folder / "roots.pem", "--policy", folder / "policy.toml"]
    path = folder / "bundle.json"
    done = confide("chat", plain.url, *accepted, "--api-key-file", folder / "key", "--once", "keep me", "--save", path)
    assert done.returncode == 3, done.stderr
    return path


# The command line itself ---------------------------------------------------------------------------------------------


def test_the_table_says_what_the_commands_say() -> None:
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    for command in COMMANDS:
        assert command.load().help.splitlines()[0] == command.line, command.name
    assert list(get_command(app).commands) == [*names, "version"]


def test_each_command_explains_itself(capsys: Captured) -> None:
    for command in COMMANDS:
        inner = getattr(command.load(), "commands", {})
        for words in ([command.name], *([command.name, name] for name in inner)):
            assert run([*words, "--help"]) == 0
            assert f"Usage: confide {' '.join(words)} " in capsys.readouterr().out
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in CLIENT)


def test_a_name_that_is_nearly_right(capsys: Captured) -> None:
    assert run(["verfy"]) == 2
    assert "Did you mean 'verify'?" in capsys.readouterr().err


def test_help_loads_nothing() -> None:
    quiet = {name: value for name, value in environment().items() if not name.startswith("COVERAGE")}
    script = "import sys; from confide.cli import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=quiet, check=True)
    loaded = {name for name in done.stderr.split() if name.startswith("confide")}
    assert loaded == {"confide", "confide.cli", "confide.errors"}
    assert not {"httpx", "msgspec", "cryptography"} & set(done.stderr.split())


WITHOUT_SERVER = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent or name in ours:
            raise ModuleNotFoundError(f"not here: {name}", name=name)

absent = {"starlette", "uvicorn", "httptools", "uvloop", "jsonschema", "llguidance", "PIL", "xllamacpp", "coincurve",
          "openai", "huggingface_hub"}
rooms = ("config", "server", "api", "route", "engine", "store", "attest", "identity", "listening", "tls", "workers")
ours = {f"confide.{room}" for room in rooms} if sys.argv[1] == "client" else set()
if ours:
    sys.meta_path.insert(0, Missing())
else:
    sys.modules.update(dict.fromkeys(absent))
from confide.cli import run
sys.exit(run(sys.argv[2:]))
"""


def bare(part: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program where the extras are not installed."""
    command = [sys.executable, "-c", WITHOUT_SERVER, part, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment(), check=False)


def test_client_commands_need_no_extra(plain: World, accepting: list[str], keyed: list[str], kept: Path) -> None:
    for name in CLIENT:
        assert bare("client", name, "--help").returncode == 0
    assert bare("client", "verify", plain.url, *accepting).returncode == 3
    assert bare("client", "audit", kept, *accepting).returncode == 3
    done = bare("client", "chat", plain.url, *keyed, "--once", "said without a server's libraries")
    assert (done.returncode, done.stdout) == (3, "said without a server's libraries\n")


def test_serving_without_its_extra_is_one_sentence(tmp_path: Path) -> None:
    done = bare("server", "serve", "--data-dir", tmp_path, "--cache-dir", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "confide serve needs starlette, uvicorn," in done.stderr
    assert "pip install 'confide[local]'" in done.stderr
    for words in (["keys", "list", "--data-dir", tmp_path], ["models", "--cache-dir", tmp_path]):
        assert bare("server", *words).returncode == 0
    done = bare("server", "doctor", "--data-dir", tmp_path, "--cache-dir", tmp_path)
    assert done.returncode == 1
    assert "pip install 'confide[server]'" in done.stdout


# confide verify ------------------------------------------------------------------------------------------------------


def steps(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The outcome of each step in the output of a command that writes to a pipe."""
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 2 and re.fullmatch(r"[a-z]+\.\d+", row[0])}


def test_3_a_development_root(plain: World, accepting: list[str]) -> None:
    done = confide("verify", plain.url, *accepting)
    assert done.returncode == 3
    assert done.stderr == ""
    found = steps(done)
    assert found["tdx.2"] == found["report.3"] == found["report.10"] == "pass"
    assert "FAIL" not in found.values()
    assert "hardware   false" in done.stdout
    assert "Consistent, but it rests on a development root" in done.stdout
    assert "not reviewed" in done.stdout


def test_1_a_check_fails(plain: World, folder: Path) -> None:
    done = confide("verify", plain.url, "--policy", folder / "policy.toml")
    assert done.returncode == 1
    assert steps(done)["tdx.2"] == "FAIL"
    assert "FAILED: do not send anything" in done.stdout


def test_1_another_workload(plain: World, folder: Path, tmp_path: Path) -> None:
    text = (folder / "policy.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(re.sub(r'rtmr2 = "..', 'rtmr2 = "00', text))
    done = confide("verify", plain.url, "--insecure-dev-root", folder / "roots.pem", "--policy", other)
    assert done.returncode == 1
    assert steps(done)["tdx.7"] == "FAIL"


def test_5_not_enough_evidence(plain: World, folder: Path, tmp_path: Path) -> None:
    demanding = tmp_path / "demanding.toml"
    demanding.write_text((folder / "policy.toml").read_text() + "\n[keys]\ncustody = true\n")
    done = confide("verify", plain.url, "--insecure-dev-root", folder / "roots.pem", "--policy", demanding)
    assert done.returncode == 5
    assert steps(done)["report.7"] == "not checked"
    assert "Not enough evidence" in done.stdout
    assert "--network" in done.stdout


def test_2_without_a_policy_everything_is_shown_and_nothing_is_good(plain: World, folder: Path) -> None:
    done = confide("verify", plain.url, "--insecure-dev-root", folder / "roots.pem")
    assert done.returncode == 2
    assert "FAIL" not in steps(done).values()
    assert "confide policy init" in done.stdout
    value = json.loads(confide("verify", plain.url, "--insecure-dev-root", folder / "roots.pem", "--json").stdout)
    assert (value["verdict"], value["exit_code"], value["policy_trust"]) == ("no policy", 2, None)


def test_4_nobody_answers(accepting: list[str]) -> None:
    done = confide("verify", f"http://127.0.0.1:{free_port()}", *accepting)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("Error: 127.0.0.1 can't be reached: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "https://host/path", "https://u:p@host", "http://example.org", "\x1b[2J"]
)
def test_2_what_is_no_address(capsys: Captured, url: str) -> None:
    assert run(["verify", url]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert "\x1b" not in said


def test_verify_as_json(plain: World, accepting: list[str]) -> None:
    done = confide("verify", plain.url, *accepting, "--json")
    value = json.loads(done.stdout)
    assert (done.returncode, value["exit_code"], value["hardware"]) == (3, 3, False)
    assert value["policy_trust"] == "first use"
    assert any("not reviewed" in line for line in value["advice"])
    assert {"tdx.1", "report.1"} <= {finding["step"] for finding in value["findings"]}


def test_tls_that_no_authority_signed(tmp_path: Path, folder: Path) -> None:
    with world(tmp_path, tls=True) as secure:
        (tmp_path / "roots.pem").write_bytes(secure.pki.roots_pem())
        root = ["--insecure-dev-root", str(tmp_path / "roots.pem")]
        done = confide("verify", secure.url, *root)
        assert done.returncode == 4
        assert "--self-signed" in done.stderr
        done = confide("policy", "init", secure.url, *root, "--self-signed", "-o", tmp_path / "policy.toml")
        assert done.returncode == 3, done.stderr
        done = confide("verify", secure.url, *root, "--self-signed", "--policy", tmp_path / "policy.toml")
        assert done.returncode == 3
        assert "TLS ends at an attested key" in done.stdout


# Servers that are no services ----------------------------------------------------------------------------------------


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does this with each connection after it has read something."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65536)
                    answer(connection)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def http(status: str, body: bytes = b"", **fields: str) -> Callable[[socket.socket], None]:
    """An answer of HTTP/1.1."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return lambda connection: connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)


def hang(connection: socket.socket) -> None:
    """Nothing, for long."""
    connection.settimeout(60)
    connection.recv(1)


NO_SERVICES: dict[str, tuple[Callable[[socket.socket], None], int, str]] = {
    "html": (http("200 OK", b"<html>welcome</html>", Content_Type="text/html"), 5, "no report of a known kind"),
    "another document": (http("200 OK", b'{"welcome": "x"}'), 5, "no report of a known kind"),
    "deep": (http("200 OK", b"[" * 200_000), 5, "no report of a known kind"),
    "not found": (http("404 Not Found", b"{}"), 4, "answered 404"),
    "no key": (http("401 Unauthorized", b"{}"), 4, "--key-for-report"),
    "elsewhere": (http("302 Found", Location="http://example.org/"), 4, "answered 302"),
    "no http": (lambda connection: connection.sendall(b"SSH-2.0-x\r\n"), 4, "can't be reached"),
    "nothing": (lambda connection: None, 4, "can't be reached"),
    "too long": (http("200 OK", b" " * (10 << 20)), 4, "sent more than"),
    "silent": (hang, 4, "can't be reached"),
}


@pytest.mark.parametrize("what", NO_SERVICES)
def test_what_is_no_service(what: str, accepting: list[str]) -> None:
    answer, code, sentence = NO_SERVICES[what]
    with answering(answer) as url:
        done = confide("verify", url, *accepting, "--timeout", "1")
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def changed(passing: Passing, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON that passes."""
    value = json.loads(passing.body)
    change(value)
    passing.body = json.dumps(value).encode()


def test_text_of_a_service_moves_no_cursor(on_wire: Between, accepting: list[str], capsys: Captured) -> None:
    def deface(passing: Passing) -> None:
        if "/attestation" in passing.path:
            changed(passing, lambda value: value["attestation"]["source_provenance"].update(repo_url=EVIL))
            changed(passing, lambda value: value["attestation"].update(tee_type=EVIL))
            changed(passing, lambda value: value["service_capabilities"].update(serving=EVIL))

    on_wire.relay.tamper = deface
    for more in ([], ["--json"]):
        done = confide("verify", on_wire.url, *accepting, *more)
        assert done.returncode in (1, 5)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.stdout + done.stderr)


# confide audit -------------------------------------------------------------------------------------------------------


def rewritten(path: Path, to: Path, **members: Any) -> Path:
    """A bundle with other members."""
    to.write_bytes(msgspec.structs.replace(parse_bundle(path.read_bytes()), **members).encode())
    return to


def exchange_of(path: Path) -> Any:
    """The first exchange of a bundle."""
    return parse_bundle(path.read_bytes()).exchanges[0]


def test_audit_repeats_a_verification(kept: Path, accepting: list[str]) -> None:
    done = confide("audit", kept, *accepting)
    assert done.returncode == 3
    assert steps(done)["receipt.4"] == steps(done)["receipt.5"] == "pass"
    assert "the time that the bundle states" in done.stdout
    done = confide("audit", kept, *accepting, "--json")
    value = json.loads(done.stdout)
    assert (value["exit_code"], value["audits"][0]["verdict"]["exit_code"]) == (3, 3)


@pytest.mark.parametrize("part", ["request", "response", "receipt"])
def test_audit_sees_what_was_changed(
    kept: Path, accepting: list[str], tmp_path: Path, capsys: Captured, part: str
) -> None:
    exchange = exchange_of(kept)
    value = bytearray(getattr(exchange, part))
    value[len(value) // 2] ^= 1
    bad = rewritten(kept, tmp_path / "bad.json", exchanges=(msgspec.structs.replace(exchange, **{part: bytes(value)}),))
    assert run(["audit", str(bad), *accepting]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert run(["audit", str(kept), str(bad), *accepting]) == 1
    assert "2 bundles: 1 FAILED (exit code 1); 1 consistent, development root (exit code 3)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no bundle"),
        (b"\x00\xff" * 100, "no bundle"),
        (b"[" * 100_000, "no bundle"),
        (b"{}", "no bundle"),
        (b'{"confide_bundle": 2, "captured_at": 1, "report": ""}', "no bundle"),
        (b'{"confide_bundle": 1, "captured_at": 1, "report": "", "\x1b[2J": 1}', "no bundle"),
        (b'{"attestation": {"workload_keyset": {}}}', "goes with --report"),
    ],
)
def test_2_what_is_no_bundle(
    tmp_path: Path, accepting: list[str], capsys: Captured, data: bytes, sentence: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    assert run(["audit", str(path), *accepting]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "\x1b" not in said.err + said.out


def test_garbage_in_a_bundle_is_no_traceback(
    kept: Path, tmp_path: Path, accepting: list[str], capsys: Captured
) -> None:
    for number, report in enumerate((b"", b"{}", b"\xff" * 9, b'{"api_version":"aci/1"}', b"[" * 100_000)):
        bad = rewritten(kept, tmp_path / f"{number}.json", report=report)
        assert run(["audit", str(bad), *accepting]) in (1, 5), report[:20]
    assert run(["audit", str(rewritten(kept, tmp_path / "x.json", service="nobody")), *accepting]) == 2
    assert "no service is called 'nobody'" in capsys.readouterr().err


def test_audit_of_a_folder(kept: Path, tmp_path: Path, accepting: list[str], capsys: Captured) -> None:
    assert run(["audit", str(tmp_path), *accepting]) == 2
    assert "holds no *.json" in capsys.readouterr().err
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_bytes(kept.read_bytes())
    (tmp_path / "notes.txt").write_text("not looked at")
    assert run(["audit", str(tmp_path), *accepting]) == 3
    said = capsys.readouterr().out
    assert "2 bundles: 2 consistent, development root (exit code 3)" in said
    assert "1 files with other names" in said
    (tmp_path / "c.json").write_text("{")
    assert run(["audit", str(tmp_path), *accepting]) == 2
    assert run(["audit", str(tmp_path), *accepting, "--json"]) == 2
    found = json.loads(capsys.readouterr().out.split("\n{", 1)[-1].join(["{", ""]) or "{}")
    assert [one["exit_code"] for one in found["audits"]] == [3, 3, 2]


def loose(kept: Path, to: Path) -> tuple[list[str], Bundle]:
    """The parts of a bundle as files, and the options that name them."""
    bundle = parse_bundle(kept.read_bytes())
    exchange = bundle.exchanges[0]
    parts = {
        "report": bundle.report,
        "manifest": bundle.manifest,
        "receipt": exchange.receipt,
        "request": exchange.request,
        "response": exchange.response,
    }
    options = []
    for name, data in parts.items():
        assert data is not None
        (to / name).write_bytes(data)
        options += [f"--{name}", str(to / name)]
    assert bundle.channel is not None
    assert bundle.channel.sealed_to is not None
    options += ["--nonce", str(bundle.nonce), "--host", bundle.channel.host, "--sealed-to", bundle.channel.sealed_to]
    return options, bundle


def test_audit_of_loose_files(kept: Path, tmp_path: Path, accepting: list[str], capsys: Captured) -> None:
    options, bundle = loose(kept, tmp_path)
    assert run(["audit", *options, *accepting, "--at", str(bundle.captured_at)]) == 3
    assert run(["audit", *options, *accepting, "--now"]) == 3
    out = capsys.readouterr().out
    assert out.count("receipt.5\tpass") == 2
    (tmp_path / "response").write_bytes(b"something else")
    assert run(["audit", *options, *accepting, "--now"]) == 1
    assert "receipt.5\tFAIL" in capsys.readouterr().out


def test_dates_are_compared_with_the_time_that_was_given(kept: Path, accepting: list[str], capsys: Captured) -> None:
    assert run(["audit", str(kept), *accepting, "--at", "2001-01-01"]) == 1
    assert "2001-01-01 00:00:00 UTC" in capsys.readouterr().out
    assert run(["audit", str(kept), *accepting, "--at", "2100-01-01T00:00:00Z"]) == 1
    assert run(["audit", str(kept), *accepting, "--now"]) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give bundles or folders"),
        (["absent.json"], "can't be read: No such file"),
        (["{kept}", "--receipt", "x"], "go with --report"),
        (["{kept}", "--report", "x"], "give bundles or folders"),
        (["{kept}", "--at", "yesterday"], "expected Unix seconds or ISO 8601"),
        (["{kept}", "--at", "0", "--now"], "contradict"),
        (["--report", "{kept}"], "loose files say no time"),
        (["--report", "{kept}", "--now", "--spki", "00"], "need --host"),
        (["{kept}", "--collateral", "{kept}"], "expected TDX collateral"),
        (["{kept}", "--policy", "{kept}"], ""),
        (["{kept}", "--insecure-dev-root", "{kept}"], "PEM"),
    ],
)
def test_2_audits_that_cannot_be_made(kept: Path, capsys: Captured, arguments: list[str], sentence: str) -> None:
    assert run(["audit", *(one.format(kept=kept) for one in arguments)]) == 2
    assert sentence in capsys.readouterr().err


def test_audit_without_a_policy(kept: Path, folder: Path, capsys: Captured) -> None:
    assert run(["audit", str(kept), "--insecure-dev-root", str(folder / "roots.pem")]) == 2
    assert "No verdict" in capsys.readouterr().out


def test_material_is_told_apart_by_its_bytes(
    kept: Path, accepting: list[str], tmp_path: Path, capsys: Captured
) -> None:
    vectors = Path(__file__).parent.parent / "vectors" / "evidence"
    given = [vectors / "intel" / "tdx_v4.collateral.json", vectors / "amd" / "dstack_milan_v3.vcek.pem"]
    given += [vectors / "amd" / "vcek.der", *sorted((vectors / "nvidia" / "rims").iterdir())[:1]]
    assert run(["audit", str(kept), *accepting, *(word for path in given for word in ("--collateral", str(path)))]) == 3


# confide policy ------------------------------------------------------------------------------------------------------


def test_a_policy_of_first_use_accepts_what_it_was_made_from(folder: Path, capsys: Captured) -> None:
    policy = read_policy(folder / "policy.toml")
    assert policy.trust == "first use"
    assert policy.names_workload
    assert not policy.unsafe_any_workload
    assert run(["policy", "check", str(folder / "policy.toml")]) == 0
    said = capsys.readouterr().out
    assert "written on first use" in said
    assert policy.tdx.measurements[0].mr_td is not None
    assert policy.tdx.measurements[0].mr_td in said
    assert run(["policy", "check", str(folder / "policy.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == policy.digest()


def test_a_policy_is_not_replaced_by_accident(plain: World, folder: Path, capsys: Captured) -> None:
    words = ["policy", "init", plain.url, "--insecure-dev-root", str(folder / "roots.pem"), "-o"]
    assert run([*words, str(folder / "policy.toml")]) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*words, str(folder / "absent" / "policy.toml")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_no_policy_is_made_of_evidence_that_is_not_genuine(plain: World, tmp_path: Path, capsys: Captured) -> None:
    assert run(["policy", "init", plain.url, "-o", str(tmp_path / "policy.toml")]) == 1
    said = capsys.readouterr()
    assert "Nothing was written" in said.err
    assert "tdx.2" in said.err
    assert (said.out, list(tmp_path.iterdir())) == ("", [])


def test_a_policy_on_the_terminal(plain: World, folder: Path, capsys: Captured) -> None:
    assert run(["policy", "init", plain.url, "--insecure-dev-root", str(folder / "roots.pem"), "--name", EVIL]) == 3
    said = capsys.readouterr()
    assert 'trust = "first use"' in said.out
    assert "\x1b" not in said.out


@pytest.mark.parametrize(
    "text", ["", "roots = []", "roots = ['intel']", "roots = ['intel']\nunheard = 1", "= =", "\udcff"]
)
def test_2_policies_that_say_too_little(tmp_path: Path, capsys: Captured, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert run(["policy", "check", str(path)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


# confide chat --------------------------------------------------------------------------------------------------------


def test_a_conversation_through_pipes(
    plain: World, keyed: list[str], tmp_path: Path, folder: Path, plain_key: str
) -> None:
    lines = ["first words", "/proof", "/unheard", "/model", f"/save {tmp_path / 'x.json'}", "/new", "", "zweite Wörter"]
    done = confide("chat", plain.url, *keyed, given="\n".join([*lines, "/quit", "never asked"]))
    assert done.returncode == 3, done.stderr
    assert done.stdout == "first words\nzweite Wörter\n"
    assert done.stderr.count("✓ receipt rcpt-") == 2
    assert "request.received body_hash=sha256:" in done.stderr
    assert "/quit, /save FILE" in done.stderr
    assert plain_key not in done.stderr
    assert len(parse_bundle((tmp_path / "x.json").read_bytes()).exchanges) == 1


@pytest.fixture
def plain_key(plain: World) -> str:
    """The API key, which must not be shown."""
    return plain.key


def test_the_key_may_be_in_a_variable_but_never_in_the_arguments(plain: World, accepting: list[str]) -> None:
    done = confide("chat", plain.url, *accepting, "--once", "hi", CONFIDE_API_KEY=plain.key)
    assert (done.returncode, done.stdout) == (3, "hi\n")
    done = confide("chat", plain.url, *accepting, "--once", "hi", "--api-key", plain.key)
    assert done.returncode == 2
    assert "--api-key-file" in done.stderr
    assert plain.key not in done.stderr
    done = confide("chat", plain.url, *accepting, "--once", "hi", OPENAI_API_KEY=plain.key)
    assert done.returncode == 4
    assert "answered 401" in done.stderr


def test_chat_needs_a_policy_and_a_service_that_satisfies_it(plain: World, folder: Path, on_wire: Between) -> None:
    root = ["--insecure-dev-root", str(folder / "roots.pem")]
    done = confide("chat", on_wire.url, *root, "--once", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert "confide policy init" in done.stderr
    done = confide("chat", on_wire.url, "--policy", folder / "policy.toml", "--once", "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tdx.2" in done.stderr
    assert on_wire.relay.posts == []


def tampering(passing: Passing) -> None:
    """Change a receipt."""
    if passing.is_receipt:
        passing.body = passing.body.replace(b'"served_at":1', b'"served_at":2')


def test_1_an_answer_whose_receipt_fails(on_wire: Between, keyed: list[str]) -> None:
    on_wire.relay.tamper = tampering
    done = confide("chat", on_wire.url, *keyed, "--once", "hi")
    assert done.returncode == 1
    assert "✗ Do not believe what came: " in done.stderr
    assert "receipt.2" in done.stderr


def test_the_worst_answer_decides(on_wire: Between, keyed: list[str]) -> None:
    count = iter(range(9))

    def second(passing: Passing) -> None:
        if passing.is_receipt and next(count) == 1:
            tampering(passing)

    on_wire.relay.tamper = second
    done = confide("chat", on_wire.url, *keyed, given="one\ntwo\nthree\n")
    assert done.returncode == 1
    assert (done.stderr.count("✓"), done.stderr.count("✗")) == (2, 1)


def test_4_a_service_that_refuses(on_wire: Between, keyed: list[str]) -> None:
    def refuse(passing: Passing) -> None:
        if passing.is_answer:
            passing.status, passing.body = 500, json.dumps({"error": {"message": EVIL}}).encode()

    on_wire.relay.tamper = refuse
    done = confide("chat", on_wire.url, *keyed, "--once", "hi")
    assert (done.returncode, done.stdout) == (4, "")
    assert "answered 500" in done.stderr
    assert "\x1b" not in done.stderr


def test_ctrl_c_stops_the_answer_and_not_the_program(on_wire: Between, keyed: list[str]) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def first(passing: Passing) -> None:
        if passing.is_answer and not reached.is_set():
            reached.set()
            go_on.wait(30)

    on_wire.relay.tamper = first
    command = [*PROGRAM, "chat", on_wire.url, *keyed]
    pipes: Mapping[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, env=unmeasured(environment()), **pipes) as talk:
        assert talk.stdin is not None
        talk.stdin.write("one\n")
        talk.stdin.flush()
        assert reached.wait(30)
        talk.send_signal(signal.SIGINT)
        time.sleep(0.3)
        go_on.set()
        said, told = talk.communicate("two\n", timeout=60)
    assert said == "two\n"
    assert "stopped; what came was not checked" in told
    assert told.count("✓") == 1
    assert talk.returncode == 5


# confide proxy -------------------------------------------------------------------------------------------------------


@contextmanager
def proxying(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A proxy that runs, and its base URL."""
    command = [*PROGRAM, "proxy", *map(str, arguments), "--port", "0"]
    pipes: Mapping[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=unmeasured(environment()), **pipes) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("export OPENAI_BASE_URL=http://127.0.0.1:"), line
            yield line.split()[1].partition("=")[2], process
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def test_a_proxy_for_programs_that_cannot_be_changed(
    plain: World, keyed: list[str], accepting: list[str], tmp_path: Path, capsys: Captured
) -> None:
    with proxying(plain.url, *keyed, "--save", tmp_path / "kept") as (url, process):
        body = {"model": "acme/echo-1", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=30)
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert process.returncode == 3
    assert run(["audit", str(tmp_path / "kept"), *accepting]) == 3


def test_1_a_proxy_that_saw_a_bad_proof(on_wire: Between, keyed: list[str]) -> None:
    on_wire.relay.tamper = tampering
    with proxying(on_wire.url, *keyed) as (url, process):
        body = {"model": "acme/echo-1", "messages": [{"role": "user", "content": "hi"}]}
        assert httpx.post(f"{url}/chat/completions", json=body, timeout=30).status_code == 502
    assert process.returncode == 1


def test_a_proxy_does_not_begin_without_a_good_verdict(plain: World, folder: Path, accepting: list[str]) -> None:
    assert confide("proxy", plain.url, "--policy", folder / "policy.toml").returncode == 1
    assert confide("proxy", plain.url).returncode == 2
    done = confide("proxy", plain.url, *accepting, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "loopback" in done.stderr


# confide sessions ----------------------------------------------------------------------------------------------------


def test_a_direct_service_has_no_sessions(plain: World, accepting: list[str]) -> None:
    done = confide("sessions", plain.url, *accepting)
    assert (done.returncode, done.stdout) == (3, "")
    assert "direct, no sessions" in done.stderr


def a_session(now: int, **claims: Claim) -> Any:
    """A session of an upstream that was verified a minute ago."""
    return build_session(
        upstream_name="upstream",
        endpoint="https://upstream.example/v1",
        verifier_id="test",
        period=(now - 60, now + 600),
        bindings=(TlsBinding(origin="https://upstream.example", spki_sha256="ab" * 32),),
        claims={"tee_attested": Claim(status="asserted", source="hardware_proven"), **claims},
        evidence=b"what was seen",
    )


def aggregating(listed: list[Any], documents: dict[str, bytes]) -> Callable[[Passing], None]:
    """Let a service be an aggregator, whose list has these entries."""

    def tamper(passing: Passing) -> None:
        path = passing.path.partition("?")[0]
        if path == "/v1/aci/attestation":
            changed(passing, lambda value: value["service_capabilities"].update(serving="aggregator"))
        elif path == "/v1/aci/sessions":
            passing.status = 200
            passing.body = json.dumps({"api_version": "aci/1", "sessions": listed}).encode()
        elif path.startswith("/v1/aci/sessions/"):
            passing.status, passing.body = 200, documents[path.rpartition("/")[2]]

    return tamper


def test_sessions_of_an_aggregator(on_wire: Between, accepting: list[str], capsys: Captured) -> None:
    good = a_session(int(time.time()))
    refuted = a_session(int(time.time()), tee_attested=Claim(status="refuted", source="hardware_proven"))
    documents = {good.id(): good.document(), refuted.id(): refuted.document()}
    on_wire.relay.tamper = aggregating([{"session_id": good.id(), "claims": EVIL}], documents)
    assert run(["sessions", on_wire.url, *accepting]) == 3
    assert f"{good.id()}\tupstream\thttps://upstream.example/v1\tpass\n" in capsys.readouterr().out
    on_wire.relay.tamper = aggregating([{"session_id": one} for one in documents], documents)
    assert run(["sessions", on_wire.url, *accepting, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["session_id"]: row["exit_code"] for row in rows} == {good.id(): 0, refuted.id(): 1}
    on_wire.relay.tamper = aggregating([{"session_id": good.id()}], {good.id(): refuted.document()})
    assert run(["sessions", on_wire.url, *accepting]) == 1
    assert "session.1" in capsys.readouterr().out


@pytest.mark.parametrize("listed", [[1], [{"session_id": "../../x"}], [{}], [None], [{"session_id": EVIL}]])
def test_4_a_list_that_is_none(on_wire: Between, accepting: list[str], capsys: Captured, listed: list[Any]) -> None:
    on_wire.relay.tamper = aggregating(listed, {})
    assert run(["sessions", on_wire.url, *accepting]) == 4
    said = capsys.readouterr()
    assert "list of sessions" in said.err
    assert "\x1b" not in said.err
