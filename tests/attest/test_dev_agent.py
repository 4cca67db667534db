"""The development agent: dstack's own client talks to it unchanged, and nothing makes it fall over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from confide.attest import dev_agent
from confide.attest.base import EvidenceFailed
from confide.attest.dev import DevMachine
from confide.attest.dstack import Agent, DstackSource
from confide.wire import eventlog, tdx
from tests.clients.environments import python_environment

from .conftest import REPORT_DATA

T = TypeVar("T")


def serving(machine: DevMachine, path: Path, client: Callable[[], Awaitable[T]]) -> T:
    """Run a client against the agent."""

    async def main() -> T:
        server = await dev_agent.serve(machine, path)
        try:
            return await client()
        finally:
            server.close()
            await server.wait_closed()

    return asyncio.run(main())


def call(machine: DevMachine, path: Path, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One answer, through our own client."""

    async def client() -> dict[str, Any]:
        agent = Agent(path)
        try:
            return await agent.call(method, arguments, dict[str, Any])
        finally:
            await agent.aclose()

    return serving(machine, path, client)


def test_our_own_source_takes_its_evidence(tmp_path: Path, machine: DevMachine) -> None:
    async def client() -> None:
        source = DstackSource(tmp_path / "s")
        evidence = await source.quote(REPORT_DATA)
        assert (evidence.event_log, evidence.app_compose) == (machine.event_log(), machine.app_compose)
        assert (await source.key("a", "b", "ed25519")).secret == machine.derive("a", "ed25519")
        await source.aclose()

    serving(machine, tmp_path / "s", client)


def test_the_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path, machine: DevMachine) -> None:
    for _ in range(2):
        assert call(machine, tmp_path / "s", "Version", {})["version"] == dev_agent.VERSION
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        call(machine, tmp_path / "file", "Version", {})
    assert (tmp_path / "file").read_text() == "mine"


def test_short_report_data_is_padded(tmp_path: Path, machine: DevMachine) -> None:
    answer = call(machine, tmp_path / "s", "GetQuote", {"report_data": "1234"})
    assert answer["report_data"] == "1234" + "00" * 62
    assert tdx.parse_quote(bytes.fromhex(answer["quote"])).report.report_data == bytes.fromhex(answer["report_data"])


def test_events_extend_register_3(tmp_path: Path, machine: DevMachine) -> None:
    before = machine.state()
    assert call(machine, tmp_path / "s", "EmitEvent", {"event": "mine", "payload": "ab"}) == {}
    after = machine.state()
    assert after.registers[:3] == before.registers[:3]
    assert after.registers[3] == eventlog.extend(before.registers[3], eventlog.runtime_digest("mine", b"\xab"))


def test_a_tls_key_with_its_quote(tmp_path: Path, machine: DevMachine) -> None:
    arguments = {
        "subject": "confide.example",
        "alt_names": ["confide.example"],
        "usage_ra_tls": True,
        "usage_server_auth": True,
        "usage_client_auth": True,
        "not_after": 4_000_000_000,
    }
    answer = call(machine, tmp_path / "s", "GetTlsKey", arguments)
    leaf, *issuers = (x509.load_pem_x509_certificate(pem.encode()) for pem in answer["certificate_chain"])
    leaf.verify_directly_issued_by(issuers[0])
    assert issuers[-1] == machine.pki.roots[0]
    key = load_pem_private_key(answer["key"].encode(), None).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki == leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.62397.1.1")).value
    assert isinstance(value, x509.UnrecognizedExtension)
    raw = value.value[value.value.index(b"\x04\x00\x02\x00\x81") :]
    assert tdx.parse_quote(raw).report.report_data == hashlib.sha512(b"ratls-cert:" + spki).digest()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["confide.example"]


def test_a_plain_tls_key(tmp_path: Path, machine: DevMachine) -> None:
    (pem, *_) = call(machine, tmp_path / "s", "GetTlsKey", {})["certificate_chain"]
    leaf = x509.load_pem_x509_certificate(pem.encode())
    assert [extension.oid.dotted_string for extension in leaf.extensions] == ["2.5.29.19"]


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("Nothing", {}, "no method Nothing"),
        ("GetQuote", {}, "1 to 64 bytes"),
        ("GetQuote", {"report_data": "00" * 65}, "1 to 64 bytes"),
        ("GetQuote", {"report_data": "zz"}, "hexadecimal"),
        ("GetQuote", {"report_data": 7}, "is text"),
        ("GetKey", {"path": "a", "algorithm": "rsa"}, "no algorithm rsa"),
        ("EmitEvent", {"event": "", "payload": ""}, "has a name"),
        ("GetTlsKey", {"subject": 1}, "subject is text"),
        ("GetTlsKey", {"subject": "x" * 65}, "<= 64"),
        ("GetTlsKey", {"not_after": 1}, "."),
        ("GetTlsKey", {"not_after": 10**18}, "not_after is no time"),
    ],
)
def test_requests_that_are_refused(
    tmp_path: Path, machine: DevMachine, method: str, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(EvidenceFailed, match=f"status 400 .*{text}"):
        call(machine, tmp_path / "s", method, arguments)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"POST /Info HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /Info HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /Info HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
        b"POST /Info HTTP/1.1\r\nContent-Length: 10\r\n\r\n{}",
        b"POST /Info HTTP/1.1\r\nX: " + b"y" * 100_000,
        b"POST /Info HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnull",
    ],
)
def test_bytes_that_are_no_request_leave_it_standing(tmp_path: Path, machine: DevMachine, raw: bytes) -> None:
    async def client() -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(raw)
        writer.write_eof()
        answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
        writer.close()
        agent = Agent(tmp_path / "s")
        assert (await agent.call("Version", {}, dict[str, str]))["rev"] == "development"
        await agent.aclose()

    serving(machine, tmp_path / "s", client)


def test_a_connection_serves_many_requests(tmp_path: Path, machine: DevMachine) -> None:
    async def client() -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"POST /prpc/Version HTTP/1.1\r\nHost: x\r\ncontent-length: 2\r\n\r\n{}" * 3)
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        writer.close()

    serving(machine, tmp_path / "s", client)


def test_the_unmodified_sdk(tmp_path: Path, machine: DevMachine) -> None:
    environment = python_environment("clients-dstack")
    script = Path(__file__).parent / "dstack_client.py"

    async def client() -> str:
        env = {"DSTACK_SIMULATOR_ENDPOINT": str(tmp_path / "s")}
        done = await asyncio.to_thread(environment.run, script, env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = json.loads(serving(machine, tmp_path / "s", client))
    report = tdx.parse_quote(bytes.fromhex(said["quote"])).report
    assert report.report_data == b"data".ljust(64, b"\0")
    assert [said["rtmrs"][str(i)] for i in range(4)] == [register.hex() for register in report.rtmrs]
    assert machine.state().events[-1].event == "from-sdk"
    assert said["key"] == machine.derive("a", "secp256k1").hex() != said["other"]
    assert (said["chain"], said["version"]) == ([], dev_agent.VERSION)
