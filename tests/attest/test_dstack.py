"""dstack's agent on a real unix socket: both generations of answers, and every kind of bad one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from confide.attest import dstack
from confide.attest.base import Evidence, EvidenceFailed
from confide.attest.dev import DevMachine
from confide.attest.dev_agent import DevAgent
from confide.attest.dstack import Agent, DstackSource
from confide.wire import eventlog, tdx
from tests.simulator.agent import Reply, agent, response

from .conftest import REPORT_DATA

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "dstack"
CHAIN = ["ab" * 65, "cd" * 65]
T = TypeVar("T")
Change = Callable[[dict[str, Any]], Reply]


def ask(
    tmp_path: Path,
    replies: Callable[[str, dict[str, Any]], Reply],
    question: Callable[[DstackSource], Awaitable[T]],
    seconds: float = 10.0,
) -> T:
    """Ask a scripted agent one question."""

    async def handler(method: str, arguments: dict[str, Any]) -> Reply:
        return replies(method, arguments)

    async def main() -> T:
        async with agent(tmp_path / "s", handler):
            source = DstackSource(tmp_path / "s", seconds)
            try:
                return await question(source)
            finally:
                await source.aclose()

    return asyncio.run(main())


def quote(source: DstackSource) -> Awaitable[Evidence]:
    return source.quote(REPORT_DATA)


def changed(machine: DevMachine, method: str, change: Change) -> Callable[[str, dict[str, Any]], Reply]:
    """A good agent that does one thing differently."""
    good = DevAgent(machine)

    def replies(asked: str, arguments: dict[str, Any]) -> Reply:
        answer = good.answer(asked, arguments)
        return change(answer) if asked == method else answer

    return replies


def as_0_6(answer: dict[str, Any]) -> dict[str, Any]:
    """No digests for dstack's own events, one more member, and settings as a value."""
    events = [e | {"digest": ""} if e["event_type"] == 0x08000001 else e for e in json.loads(answer["event_log"])]
    return answer | {
        "event_log": json.dumps(events),
        "attestation": "00" * 100,
        "vm_config": json.loads(answer["vm_config"]),
    }


def check(evidence: Evidence, machine: DevMachine) -> None:
    report = tdx.parse_quote(evidence.quote).report
    assert evidence.report_data == report.report_data == REPORT_DATA
    assert eventlog.replay(eventlog.parse_events(evidence.event_log or "")) == report.rtmrs
    assert evidence.app_compose == machine.app_compose
    assert json.loads(evidence.vm_config or "")["development"] is True
    assert evidence.info == machine.info()
    assert evidence.key_custody is None


def test_an_answer_of_0_5(tmp_path: Path, machine: DevMachine) -> None:
    evidence = ask(tmp_path, DevAgent(machine).answer, quote)
    check(evidence, machine)
    assert evidence.event_log == machine.event_log()


def test_an_answer_of_0_6(tmp_path: Path, machine: DevMachine) -> None:
    evidence = ask(tmp_path, changed(machine, "GetQuote", as_0_6), quote)
    check(evidence, machine)
    assert '"digest": ""' in (evidence.event_log or "")


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info | {"tcb_info": json.loads(info["tcb_info"])},
        lambda info: response(json.dumps(info).encode(), headers="Content-Type: application/json\r\n"),
    ],
)
def test_shapes_of_info(tmp_path: Path, machine: DevMachine, change: Change) -> None:
    assert ask(tmp_path, changed(machine, "Info", change), quote).app_compose == machine.app_compose


@pytest.mark.parametrize("tcb_info", ["", None, {}, "{}", '{"app_compose":null}'])
def test_an_application_that_is_not_public(tmp_path: Path, machine: DevMachine, tcb_info: object) -> None:
    replies = changed(machine, "Info", lambda info: info | {"tcb_info": tcb_info})
    assert ask(tmp_path, replies, quote).app_compose is None


def test_vm_config_may_be_in_info_only(tmp_path: Path, machine: DevMachine) -> None:
    def without(answer: dict[str, Any]) -> Reply:
        return {name: value for name, value in answer.items() if name not in ("vm_config", "report_data")}

    assert ask(tmp_path, changed(machine, "GetQuote", without), quote).vm_config == machine.vm_config()


def test_the_log_may_be_a_value_or_missing(tmp_path: Path, machine: DevMachine) -> None:
    replies = changed(machine, "GetQuote", lambda answer: answer | {"event_log": json.loads(answer["event_log"])})
    events = eventlog.parse_events(ask(tmp_path, replies, quote).event_log or "")
    assert events == eventlog.parse_events(machine.event_log())
    assert ask(tmp_path, changed(machine, "GetQuote", lambda a: a | {"event_log": ""}), quote).event_log is None


@pytest.mark.parametrize("name", ["getquote_0_5.json", "getquote_0_6.json"])
def test_recorded_answers(tmp_path: Path, machine: DevMachine, name: str) -> None:
    recorded = json.loads((VECTORS / name).read_text())
    asked = tdx.parse_quote(bytes.fromhex(recorded["quote"])).report.report_data
    replies = changed(machine, "GetQuote", lambda _: recorded)
    evidence = ask(tmp_path, replies, lambda source: source.quote(asked))
    assert evidence.quote.hex() == recorded["quote"]
    assert evidence.event_log == recorded["event_log"]
    assert evidence.vm_config == recorded["vm_config"]


def flipped(answer: dict[str, Any]) -> Reply:
    """One bit of report_data."""
    raw = bytearray.fromhex(answer["quote"])
    raw[568] ^= 1
    return answer | {"quote": raw.hex()}


@pytest.mark.parametrize(
    ("method", "change", "text"),
    [
        ("GetQuote", flipped, "other bytes"),
        ("GetQuote", lambda a: a | {"quote": a["quote"][:-2]}, "needs"),
        ("GetQuote", lambda a: a | {"quote": a["quote"] + "01"}, "not zero"),
        ("GetQuote", lambda a: a | {"quote": "not hex"}, "not hexadecimal"),
        ("GetQuote", lambda a: a | {"quote": "04 00"}, "not hexadecimal"),
        ("GetQuote", lambda a: a | {"quote": ""}, "no TDX quote"),
        ("GetQuote", lambda a: {"attestation": "00"}, "no TDX quote"),
        ("GetQuote", lambda a: a | {"quote": 7}, "can't be read"),
        ("GetQuote", lambda a: a | {"event_log": "[1]"}, "event log"),
        ("GetQuote", lambda a: a | {"event_log": [{"imr": 9, "event_type": 1}]}, "no register 9"),
        ("GetQuote", lambda a: response(b""), "can't be read"),
        ("GetQuote", lambda a: response(b"[]"), "can't be read"),
        ("GetQuote", lambda a: response(b"[" * 100_000), "can't be read"),
        ("GetQuote", lambda a: response(b"\xff\xfe"), "can't be read"),
        ("GetQuote", lambda a: response(b'{"error":"boom"}', "400 Bad Request"), "status 400 .'boom'"),
        ("GetQuote", lambda a: response(b'{"error":"' + b"x" * 9999 + b'"}', "500 X"), "x{200}'.$"),
        ("GetQuote", lambda a: response(b"<html>", "502 Bad Gateway"), "status 502$"),
        ("GetQuote", lambda a: response(b"", "302 Found", "Location: http://example.invalid/\r\n"), "status 302"),
        ("GetQuote", lambda a: b"", "without sending a response"),
        ("GetQuote", lambda a: b"SSH-2.0-OpenSSH\r\n", "GetQuote"),
        ("GetQuote", lambda a: b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "GetQuote"),
        ("GetQuote", lambda a: b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "GetQuote"),
        ("Info", lambda a: response(b"null"), "Info"),
        ("Info", lambda a: a | {"tcb_info": "{"}, "tcb_info"),
        ("Info", lambda a: a | {"tcb_info": '{"app_compose":1}'}, "tcb_info"),
        ("Info", lambda a: a | {"tcb_info": [1]}, "tcb_info"),
        ("Info", lambda a: response(b"{}", "404 Not Found"), "status 404"),
    ],
)
def test_bad_answers(tmp_path: Path, machine: DevMachine, method: str, change: Change, text: str) -> None:
    with pytest.raises(EvidenceFailed, match=text):
        ask(tmp_path, changed(machine, method, change), quote)


def test_a_huge_answer_is_not_read_to_its_end(tmp_path: Path, machine: DevMachine) -> None:
    replies = changed(machine, "GetQuote", lambda _: response(b" " * (dstack.MOST_BYTES + 1)))
    with pytest.raises(EvidenceFailed, match=f"more than {dstack.MOST_BYTES} bytes"):
        ask(tmp_path, replies, quote)


def test_compression_is_not_undone(tmp_path: Path, machine: DevMachine) -> None:
    replies = changed(machine, "GetQuote", lambda _: response(b"\x1f\x8b", headers="Content-Encoding: gzip\r\n"))
    with pytest.raises(EvidenceFailed, match="can't be read"):
        ask(tmp_path, replies, quote)


@pytest.mark.parametrize("prefix", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"])
def test_a_slow_agent(tmp_path: Path, prefix: bytes) -> None:
    async def main() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(prefix)
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(connected, tmp_path / "s")
        source = DstackSource(tmp_path / "s", 0.1)
        with pytest.raises(EvidenceFailed, match=r"GetQuote of the dstack agent took longer than 0\.1 seconds"):
            await source.quote(REPORT_DATA)
        await source.aclose()
        server.close()
        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_no_agent(tmp_path: Path) -> None:
    async def main() -> None:
        source = DstackSource(tmp_path / "nothing")
        with pytest.raises(EvidenceFailed, match="nothing answered GetQuote with"):
            await source.quote(REPORT_DATA)
        with pytest.raises(ValueError, match="64 bytes"):
            await source.quote(b"short")
        assert source.describe().source == "dstack"
        await source.aclose()

    asyncio.run(main())


def test_released_keys_are_in_later_evidence(tmp_path: Path, machine: DevMachine) -> None:
    replies = changed(machine, "GetKey", lambda answer: answer | {"signature_chain": CHAIN})

    async def question(source: DstackSource) -> tuple[Evidence, Evidence]:
        before = await source.quote(REPORT_DATA)
        first = await source.key("receipts", "aci.receipt.ed25519.v1")
        again = await source.key("receipts", "aci.receipt.ed25519.v1")
        other = await source.key("receipts", "aci.receipt.ed25519.v1", "ed25519")
        assert first.secret == again.secret != other.secret
        assert first.proof.public_key[0] in (2, 3)
        assert (len(first.proof.public_key), len(other.proof.public_key)) == (33, 32)
        assert first.secret.hex() not in repr(first)
        after = await source.quote(REPORT_DATA)
        assert after.key_custody is not None
        assert after.key_custody.keys == (first.proof, other.proof)
        return before, after

    before, after = ask(tmp_path, replies, question)
    assert before.key_custody is None
    assert after.key_custody is not None
    assert after.key_custody.keys[0].signature_chain == tuple(map(bytes.fromhex, CHAIN))


def test_a_key_without_a_chain_is_no_proof(tmp_path: Path, machine: DevMachine) -> None:
    async def question(source: DstackSource) -> Evidence:
        await source.key("p", "x")
        return await source.quote(REPORT_DATA)

    assert ask(tmp_path, DevAgent(machine).answer, question).key_custody is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({}, "can't be read"),
        ({"key": 1}, "can't be read"),
        ({"key": "zz" * 32}, "not hexadecimal"),
        ({"key": "11" * 31}, "31 bytes"),
        ({"key": "00" * 32}, "not a secp256k1 key"),
        ({"key": "ff" * 32}, "not a secp256k1 key"),
        ({"key": "11" * 32, "signature_chain": ["q"]}, "not hexadecimal"),
        ({"key": "11" * 32, "signature_chain": "ab"}, "can't be read"),
    ],
)
def test_keys_that_are_none(tmp_path: Path, answer: dict[str, Any], text: str) -> None:
    with pytest.raises(EvidenceFailed, match=text) as failed:
        ask(tmp_path, lambda *_: answer, lambda source: source.key("p", "x"))
    assert "11" * 31 not in str(failed.value)


def test_the_agent_is_asked_in_its_own_words(tmp_path: Path) -> None:
    async def main() -> None:
        requests: list[tuple[str, dict[str, Any]]] = []

        async def handler(method: str, arguments: dict[str, Any]) -> Reply:
            requests.append((method, arguments))
            return {"key": "11" * 32}

        async with agent(tmp_path / "s", handler):
            source = DstackSource(tmp_path / "s")
            await source.key("a/b", "c", "ed25519")
            await source.aclose()
        assert requests == [("GetKey", {"path": "a/b", "purpose": "c", "algorithm": "ed25519"})]

    asyncio.run(main())


def test_a_limit_of_bytes_is_an_argument(tmp_path: Path) -> None:
    async def main() -> None:
        async def handler(method: str, arguments: dict[str, Any]) -> Reply:
            return {"version": "0.6.0"}

        async with agent(tmp_path / "s", handler):
            client = Agent(tmp_path / "s")
            assert (await client.call("Version", {}, dict[str, str]))["version"] == "0.6.0"
            await client.aclose()
            small = Agent(tmp_path / "s", most_bytes=5)
            with pytest.raises(EvidenceFailed, match="more than 5 bytes"):
                await small.call("Version", {}, dict[str, str])
            await small.aclose()

    asyncio.run(main())
