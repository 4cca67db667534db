"""``confide csr``, beside a guest agent that releases keys and beside none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.simulator.agent import Handler, agent

from confide.attest.choose import Places
from confide.attest.dev import DevMachine
from confide.attest.dev_agent import DevAgent
from confide.attest.dev_pki import create_pki
from confide.attest.dstack import DstackSource
from confide.cli import csr, run
from confide.identity.identity import Identity, Terms

Captured = pytest.CaptureFixture[str]

SETTINGS = 'tls = true\ntls_domains = ["api.example", "www.example"]\n'


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CONFIDE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CONFIDE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "confide.toml").write_text(SETTINGS)
    monkeypatch.setattr(csr, "Places", partial(Places, dstack_sockets=[tmp_path / "agent.sock"]))


AGENT = DevAgent(DevMachine(create_pki(datetime.now(UTC))))


async def _released(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return AGENT.answer(method, arguments)


async def _no_key(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"key": "00" * 32, "signature_chain": []}


@contextmanager
def answering(path: Path, handler: Handler) -> Iterator[None]:
    """The agent, on a loop of its own: the command has another."""
    ready, done = threading.Event(), threading.Event()

    async def main() -> None:
        async with agent(path, handler):
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        done.set()
        thread.join()


async def _ask_identity(path: Path) -> Identity:
    source = DstackSource(path, 10)
    try:
        return await Identity.create(source, Terms(tls=True), epoch=2900, not_after=2**32)
    finally:
        await source.aclose()


@pytest.mark.parametrize("tee", [[], ["--tee", "dstack"]])
def test_the_request_is_for_the_key_that_serves(tmp_path: Path, capsys: Captured, tee: list[str]) -> None:
    with answering(tmp_path / "agent.sock", _released):
        assert run(["csr", *tee]) == 0
        serving = asyncio.run(_ask_identity(tmp_path / "agent.sock"))
    printed = capsys.readouterr()
    assert printed.err == ""
    request = x509.load_pem_x509_csr(printed.out.encode())
    assert request.is_signature_valid
    assert request.public_key() == serving.tls.public_key()
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["api.example", "www.example"]
    assert printed.out == f"{printed.out.strip()}\n"


@pytest.mark.parametrize(
    ("settings", "handler", "code", "text"),
    [
        ("tls = true\n", _released, 2, "set tls_domains"),
        ('tls_domains = ["api.example"]\n', _released, 2, "has a meaning only with tls = true"),
        (SETTINGS, _no_key, 1, "GetKey: the key is not a secp256k1 key"),
    ],
)
def test_what_makes_no_request(
    tmp_path: Path, capsys: Captured, settings: str, handler: Handler, code: int, text: str
) -> None:
    (tmp_path / "confide.toml").write_text(settings)
    with answering(tmp_path / "agent.sock", handler):
        assert run(["csr"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert text in " ".join(printed.err.split())


def test_a_key_that_ends_with_the_process_gets_no_certificate(capsys: Captured) -> None:
    assert run(["csr", "--tee", "dev"]) == 2
    assert "ends with its process" in " ".join(capsys.readouterr().err.split())
