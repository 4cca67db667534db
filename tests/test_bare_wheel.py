"""The wheel without extras, in an environment that holds nothing else: the client half works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from confide.verify.bundle import Bundle, Exchange
from tests.conftest import ROOT
from tests.vectors.loading import VECTORS
from tests.verify.making import HOST, MODEL, NOW, REQUEST, RESPONSE, made_receipt, made_report

SERVER_ONLY = ("uvicorn", "starlette", "uvloop", "coincurve", "llguidance", "xllamacpp", "PIL", "jsonschema")
INTEL = VECTORS / "evidence" / "intel"
TAKEN = "2025-06-20T00:00:00Z"
ANYTHING = 'roots = ["intel", "amd", "nvidia"]\nunsafe_any_workload = true\n'


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its base dependencies, in the versions of the lock file."""
    folder = tmp_path_factory.mktemp("bare")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (wheel,) = folder.glob("confide-*.whl")
    lock = (ROOT / "requirements" / "run.lock").read_text().splitlines()
    (folder / "pins.txt").write_text("\n".join(line.partition(" ")[0] for line in lock if "==" in line))
    _run(sys.executable, "-m", "venv", folder / "venv")
    found = folder / "venv" / "bin" / "python"
    _run(found, "-m", "pip", "install", "-q", "-c", folder / "pins.txt", wheel)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A bundle of a development service, its roots, and a policy, in a folder."""
    made = made_report(gpus=1)
    exchange = Exchange(id="chatcmpl-1", model=MODEL, request=REQUEST, response=RESPONSE, receipt=made_receipt())
    bundle = Bundle(
        captured_at=NOW,
        url=f"https://{HOST}",
        report=made.document,
        nonce=made.nonce,
        channel=made.channel,
        manifest=made.manifest,
        exchanges=(exchange,),
    )
    (tmp_path / "good.json").write_bytes(bundle.encode())
    (tmp_path / "bad.json").write_bytes(bundle.encode().replace(*_changed(bundle)))
    (tmp_path / "policy.toml").write_text(ANYTHING)
    roots = made.pki.roots_pem() + b"".join(pki.roots_pem() for pki in made.gpu_pkis)
    (tmp_path / "roots.pem").write_bytes(roots)
    return tmp_path


def _changed(bundle: Bundle) -> tuple[bytes, bytes]:
    """The answer as it stands in the file, and another one."""
    text = json.loads(bundle.encode())["exchanges"][0]["response"]
    return f'"{text}"'.encode(), f'"{text[:-4]}AAAA"'.encode()


def _run(*command: object, code: int = 0, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _confide(python: Path, *arguments: object, code: int, cwd: Path) -> str:
    return _run(python, "-m", "confide", *arguments, code=code, cwd=cwd)


def test_nothing_of_the_server_is_installed(python: Path) -> None:
    script = f"import importlib.util as u, sys; sys.exit([n for n in {SERVER_ONLY!r} if u.find_spec(n)] or 0)"
    _run(python, "-c", script)


def test_a_bundle_is_audited(python: Path, files: Path) -> None:
    audit = ("--policy", "policy.toml", "--insecure-dev-root", "roots.pem")
    assert "development root" in _confide(python, "audit", "good.json", *audit, code=3, cwd=files)
    assert "receipt.5" in _confide(python, "audit", "bad.json", *audit, code=1, cwd=files)
    assert "tdx.2" in _confide(python, "audit", "good.json", "--policy", "policy.toml", code=1, cwd=files)


def test_real_hardware_is_audited(python: Path, files: Path) -> None:
    """A recorded quote of a real machine. It quotes other bytes than an address, so it is no report of a service."""
    quote = (INTEL / "tdx_v4.quote").read_bytes()
    held = quote[568:632]
    report = {"signing_address": "0x" + held[:20].hex(), "signing_algo": "ecdsa", "intel_quote": quote.hex()}
    (files / "report.json").write_text(json.dumps(report))
    loose = ("--report", "report.json", "--nonce", held[32:].hex(), "--collateral", INTEL / "tdx_v4.collateral.json")
    shown = json.loads(
        _confide(python, "audit", *loose, "--policy", "policy.toml", "--at", TAKEN, "--json", code=1, cwd=files)
    )
    (verdict,) = [one["verdict"] for one in shown["audits"]]
    found = {finding["step"]: finding["outcome"] for finding in verdict["findings"]}
    assert {found[f"tdx.{number}"] for number in (1, 2, 3, 4, 5, 6, 8, 9, 10)} == {"pass"}
    assert {step for step, outcome in found.items() if outcome == "fail"} == {"legacy.3"}
    assert verdict["roots"] == ["Intel SGX Root CA"]


def test_the_library_is_there(python: Path, tmp_path: Path) -> None:
    _run(python, "-c", "import confide; confide.verified; confide.Policy", cwd=tmp_path)


def test_the_server_names_its_extra(python: Path, tmp_path: Path) -> None:
    assert "confide[" in _confide(python, "serve", "--tee", "dev", code=2, cwd=tmp_path)
