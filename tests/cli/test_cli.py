from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from confide import __version__
from confide.announcing import try_it
from confide.cli import run
from confide.cli.console import Downloads
from confide.cli.doctor import examine
from confide.cli.gpu import ask
from confide.cli.serve import announcement, local_model, missing_modules, need_extras
from confide.config import ModelSettings, load
from confide.engine.catalogue import CATALOGUE
from confide.errors import OperatorError
from confide.store.keys import KeyRing, KeyStore
from confide.store.open import opened
from confide.store.sqlite import SqliteFile

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings, keys and models of the person who runs it."""
    for name in [name for name in os.environ if name.startswith("CONFIDE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CONFIDE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CONFIDE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def test_version(capsys: Captured) -> None:
    for arguments in (["version"], ["--version"]):
        assert run(arguments) == 0
        assert capsys.readouterr().out.startswith(f"confide {__version__} (Python 3.")


def test_every_command_explains_itself(capsys: Captured) -> None:
    for command in (
        [],
        ["serve"],
        ["pull"],
        ["models"],
        ["keys"],
        ["keys", "create"],
        ["csr"],
        ["doctor"],
        ["version"],
    ):
        assert run([*command, "--help"]) == 0
        assert "Usage: confide" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["serve", "--port", "x"], ["keys", "create"]]
)
def test_wrong_usage_exits_2(capsys: Captured, arguments: list[str]) -> None:
    assert run(arguments) == 2
    assert "Usage: confide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["serve", "--port", "99999"],
            2,
            "--port: expected an integer from 0 to 65535 (0: any free port), got 99999",
        ),
        (
            ["serve", "--no-auth", "--host", "0.0.0.0"],
            2,
            "--no-auth: keys can be off only on a loopback address",
        ),
        (["serve", "--config", "absent.toml"], 2, "absent.toml: can't be read: No such file or directory"),
        (["serve", "--tee", "dev", "--model", "nobody"], 1, "no model and no file is called nobody"),
        (["pull", "absent.gguf"], 1, "absent.gguf: No such file or directory"),
        (["keys", "revoke", "nobody"], 1, "there is no active key with the name or id nobody"),
        (["keys", "create", "two words"], 1, "'two words' can't name a key"),
    ],
)
def test_an_operator_error_is_one_sentence_and_an_exit_code(
    capsys: Captured, arguments: list[str], code: int, sentence: str
) -> None:
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: {sentence}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_offending_line_reaches_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "confide.toml").write_text("host = '127.0.0.1'\nworkers = 0\n")
    assert run(["serve"]) == 2
    assert capsys.readouterr().err == ("Error: confide.toml line 2: workers: expected an integer from 1 to 64, got 0\n")


def test_keys_live_from_create_to_revoke(tmp_path: Path, capsys: Captured) -> None:
    assert run(["keys", "list"]) == 0
    assert "No keys yet" in capsys.readouterr().out
    assert run(["keys", "create", "app"]) == 0
    key = capsys.readouterr().out.strip()
    assert re.fullmatch(r"sk-confide-[A-Za-z0-9_-]{43}", key)
    with KeyStore(SqliteFile(tmp_path / "data" / "confide.db")) as store:
        assert KeyRing(store).find(key) is not None
    assert run(["keys", "list", "--json"]) == 0
    out = capsys.readouterr().out
    (record,) = json.loads(out)
    assert (record["name"], record["revoked"]) == ("app", None)
    assert key not in out
    assert run(["keys", "revoke", record["id"]]) == 0
    assert capsys.readouterr().out == f"Revoked app ({record['id']}).\n"
    assert run(["keys", "list"]) == 0
    assert re.search(rf"app +{record['id']} +20\d\d-.* UTC +20\d\d-.* UTC", capsys.readouterr().out)


@pytest.mark.parametrize("options", [[], ["--require-e2ee"]])
def test_a_key_for_the_settings_is_stored_nowhere(tmp_path: Path, capsys: Captured, options: list[str]) -> None:
    assert run(["keys", "create", "app", "--print-setting", *options]) == 0
    key, setting = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "data").exists()
    (tmp_path / "confide.toml").write_text(f'api_keys = ["{setting}"]')
    settings = load({}, environ={}, config_file=tmp_path / "confide.toml")
    with opened(SqliteFile(tmp_path / "other.db"), settings.api_keys) as stores:
        found = stores.keys.find(key)
    assert found is not None
    assert (found.name, found.require_e2ee) == ("app", bool(options))
    assert run(["keys", "create", "other"]) == 0
    assert run(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"app +{found.id} +in the settings", out)
    assert "other" in out
    for name in ("app", found.id):
        assert run(["keys", "revoke", name]) == 1
        assert "take it out of api_keys there" in capsys.readouterr().err


def test_the_data_folder_is_a_flag_too(tmp_path: Path) -> None:
    assert run(["keys", "create", "app", "--data-dir", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "confide.db").exists()
    assert not (tmp_path / "data").exists()


def test_models(tmp_path: Path, capsys: Captured) -> None:
    hub_file = tmp_path / "cache/hub/models--o--n/snapshots/abc/x.gguf"
    hub_file.parent.mkdir(parents=True)
    hub_file.write_bytes(b"GGUF")
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in rows] == [*CATALOGUE, "hf:o/n@abc/x.gguf"]
    assert [row["path"] for row in rows] == [None, None, str(hub_file)]
    assert [row["default"] for row in rows] == [True, False, False]
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"smollm2-135m-instruct .* 98 MB +8192 +not fetched, default", out)


def test_pull_a_local_file(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF1234")
    assert run(["pull", "m.gguf"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm.gguf'}  (no pinned SHA-256)\n"
    (tmp_path / "confide.toml").write_text("[[model]]\nsource = './m.gguf'\n")
    assert run(["pull"]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "m.gguf"))


def test_a_projector_of_the_settings_wins(tmp_path: Path) -> None:
    folder = tmp_path / "seeing"
    folder.mkdir()
    for name in ("m.gguf", "mmproj-m.gguf"):
        (folder / name).write_bytes(b"GGUF1234")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF1234")
    assert local_model(ModelSettings(source=str(folder)), tmp_path).projector == folder / "mmproj-m.gguf"
    assert local_model(ModelSettings(source=str(folder), projector=str(other)), tmp_path).projector == other


def test_lines_to_try_it() -> None:
    curl, export = try_it("http://127.0.0.1:8000", "it's", "sk-confide-x")
    assert curl.startswith("curl http://127.0.0.1:8000/v1/chat/completions -H 'Authorization: Bearer sk-confide-x' ")
    assert export == "export OPENAI_API_KEY=sk-confide-x OPENAI_BASE_URL=http://127.0.0.1:8000/v1"
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {curl}"], check=True, capture_output=True, text=True)
    assert json.loads(words.stdout.splitlines()[-1])["model"] == "it's"
    curl, export = try_it("http://127.0.0.1:8000", "m", None)
    assert "Authorization" not in curl
    assert "OPENAI_API_KEY=none" in export


def test_print_curl_makes_a_fresh_key_at_each_start(tmp_path: Path, capsys: Captured) -> None:
    keys = []
    for _ in range(2):
        announcement(load({}), "m", print_curl=True)("http://127.0.0.1:1/")
        (key,) = set(re.findall(r"sk-confide-[\w-]{43}", capsys.readouterr().out))
        keys.append(key)
    with KeyStore(SqliteFile(tmp_path / "data" / "confide.db")) as store:
        assert [KeyRing(store).find(key) is None for key in keys] == [True, False]
    announcement(load({}), "m", print_curl=False)("http://127.0.0.1:1")
    announcement(load({"auth": False}), "m", print_curl=True)("http://127.0.0.1:1")
    assert "sk-confide" not in "".join(capsys.readouterr())


def test_missing_extras_are_named() -> None:
    with pytest.raises(OperatorError, match=r"needs no_such_engine: pip install 'confide\[local\]'"):
        need_extras(("json", "no_such_engine"))


def test_the_extras_are_installed_here() -> None:
    assert missing_modules() == []


def machine(root: Path) -> Path:
    """A small /dev, /proc and /sys."""
    (root / "proc").mkdir(parents=True)
    (root / "dev").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\nHugePages: 0\n")
    (root / "proc/cpuinfo").write_text("processor: 0\nflags : fpu avx2 avx512f\n")
    return root


def test_doctor_on_a_machine_without_a_tee(tmp_path: Path) -> None:
    checks = {check.name: check for check in examine(load({"port": 0}), machine(tmp_path / "root"))}
    for name in (
        "Python",
        "Engine",
        "Server libraries",
        "Cache folder",
        "Data folder",
        "Memory",
        "CPU",
        "Port",
    ):
        assert checks[name].state == "ok", checks[name]
    assert checks["Memory"].detail == "4.1 GB available of 8.2 GB"
    for name in ("Intel TDX guest", "AMD SEV-SNP guest", "TSM reports", "dstack"):
        assert checks[name].state == "not available"
        assert checks[name].advice
    assert not (tmp_path / "data").exists()


def test_doctor_finds_tee_devices(tmp_path: Path) -> None:
    root = machine(tmp_path / "root")
    (root / "dev/tdx_guest").touch()
    (root / "var/run").mkdir(parents=True)
    (root / "var/run/tappd.sock").touch()
    checks = {check.name: check for check in examine(load({}), root)}
    assert (checks["Intel TDX guest"].state, checks["Intel TDX guest"].detail) == ("ok", "/dev/tdx_guest")
    assert (checks["dstack"].state, checks["dstack"].detail) == ("ok", "/var/run/tappd.sock")


def test_doctor_says_what_stops_the_server(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "confide.toml").write_text(f"port = {taken.getsockname()[1]}")
        assert run(["doctor", "--json"]) == 1
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
        assert checks["Port"]["state"] == checks["Cache folder"]["state"] == "missing"
        assert "Address already in use" in checks["Port"]["detail"]
        assert run(["doctor"]) == 1
        assert re.search(r"Port +missing +127\.0\.0\.1 port \d+: Address already in use", capsys.readouterr().out)


class NvmlError(Exception):
    pass


def nvml(*, cc: int = 1, developer: int = 0, broken: bool = False, old: bool = False) -> SimpleNamespace:
    """What the module pynvml looks like from here."""

    def init() -> None:
        if broken:
            raise NvmlError("Driver Not Loaded")

    def state() -> SimpleNamespace:
        if old:
            raise NvmlError("Not Supported")
        return SimpleNamespace(ccFeature=cc, devToolsMode=developer)

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlSystemGetConfComputeState=state,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"H200 number {handle}",
    )


@pytest.mark.parametrize(
    ("module", "mode"),
    [
        (nvml(), "on"),
        (nvml(cc=0), "off"),
        (nvml(developer=1), "on, in developer mode"),
        (nvml(old=True), "unknown (Not Supported)"),
    ],
)
def test_gpus_and_their_mode(module: SimpleNamespace, mode: str) -> None:
    first, second = ask(module)
    assert first.detail == f"H200 number 0, driver 580.1, confidential computing {mode}"
    assert second.name == "GPU 1"


def test_a_driver_that_is_not_there() -> None:
    (card,) = ask(nvml(broken=True))
    assert (card.usable, card.detail) == (False, "NVML: Driver Not Loaded")


def test_downloads_show_a_bar_on_a_terminal_and_a_line_elsewhere() -> None:
    for terminal, expected in [(True, "100%|2.0/2.0 MB"), (False, "^Fetching it \\(2 MB\\) …\n$")]:
        out = io.StringIO()
        shown = Downloads(Console(file=out, force_terminal=terminal, width=100))
        shown.start(2_000_000, "Fetching it")
        shown.advance(2_000_000)
        shown.done()
        shown.advance(1)
        assert re.search(expected, out.getvalue())


def test_a_download_of_unknown_size() -> None:
    out = io.StringIO()
    shown = Downloads(Console(file=out, force_terminal=True, width=100))
    shown.start(0, "Fetching it")
    shown.done()
    assert "Fetching it" in out.getvalue()
