"""What is fuzzed: functions that take any bytes, and real or made inputs to begin with.

A target may raise :class:`ConfideError` and nothing else, and where something can be built again from what was read,
the same bytes must come out (or, for canonical documents, the same value again).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from confide.errors import ConfideError
from confide.seal.errors import BadJson
from confide.seal.events import EventReader
from confide.wire import (
    aci,
    eventlog,
    jcs,
    legacy,
    manifest,
    messages,
    nvgpu,
    receipt,
    responses,
    session,
    snp,
    tdx,
    texts,
    vectors,
)
from tests.vectors.loading import VECTORS, cases

EVIDENCE = VECTORS / "evidence"
Run = Callable[[bytes], object]


class Broken(AssertionError):
    """A property that does not hold."""


@dataclass(frozen=True)
class Target:
    """One function under fire. ``expected`` are the exceptions that it may raise."""

    name: str
    run: Run
    seeds: Callable[[], Iterable[bytes]]
    expected: tuple[type[BaseException], ...] = (ConfideError,)
    runs: int | None = None
    """How many damaged inputs the short run makes; None for its usual number."""

    def __call__(self, data: bytes) -> bool:
        """Run it once; whether the input was accepted."""
        try:
            self.run(data)
        except self.expected:
            return False
        return True


def _same(one: object, other: object) -> None:
    if one != other:
        raise Broken(f"{one!r} is not {other!r}")


def _quote(data: bytes) -> None:
    _same(tdx.build_quote(tdx.parse_quote(data)), data)


def _snp_report(data: bytes) -> None:
    _same(snp.build_report(snp.parse_report(data)), data)


def _snp_certificates(data: bytes) -> None:
    found = snp.parse_certificates(data)
    _same(snp.parse_certificates(snp.build_certificates(found)), found)


def _measurements(data: bytes) -> None:
    _same(nvgpu.build_measurements(nvgpu.parse_measurements(data)), data)


def _payload(data: bytes) -> None:
    found = nvgpu.parse_payload(data)
    _same(nvgpu.parse_payload(nvgpu.build_payload(found)).gpus, found.gpus)


def _events(data: bytes) -> None:
    events = eventlog.parse_events(data)
    _same(eventlog.replay(eventlog.parse_events(eventlog.build_events(events))), eventlog.replay(events))


def _canonical(data: bytes) -> None:
    value = jcs.parse(data)
    text = jcs.canonical(value)
    _same(jcs.canonical(jcs.parse(text)), text)


def _documents(parse: Callable[[bytes], Any]) -> Run:
    def run(data: bytes) -> None:
        document = parse(data)
        _same(parse(document.document()), document)

    return run


def _receipt(data: bytes) -> None:
    found = receipt.parse_receipt(data)
    _same(receipt.parse_receipt(receipt.signed(jcs.parse(found.signed_bytes), found.signature)), found)


def _session(data: bytes) -> None:
    found = session.parse_session(data)
    found.id()
    found.evidence_bytes()
    for name in session.CLAIMS:
        found.claim(name)
    _same(session.parse_session(found.document()), found)


def _flat(data: bytes) -> None:
    for report in legacy.parse_flat_report(data):
        for name in ("nvidia_payload", "event_log", "vm_config"):
            try:
                report.member(name)
            except legacy.InvalidLegacy:
                continue


def _text(data: bytes) -> None:
    text = data.decode(errors="replace")
    _same(str(legacy.parse_text(text)), text)


def _signature(data: bytes) -> None:
    text = data.decode(errors="replace")
    for algorithm in legacy.ALGORITHMS:
        for parse in (legacy.parse_signature, legacy.parse_address):
            try:
                parse(algorithm, text)
            except legacy.InvalidLegacy:
                continue


def _events_of_a_stream(data: bytes) -> None:
    """Whole and byte by byte give the same."""
    limit = 1 << 16
    whole = list(EventReader(limit).feed(data))
    reader = EventReader(limit)
    pieces = [event for byte in data for event in reader.feed(bytes([byte]))]
    _same(pieces, whole)


def _request(parse: Callable[[bytes], Any], check: Callable[[Any], None]) -> Run:
    return lambda data: check(parse(data))


def _engine_stream(kind: str) -> Run:
    """An engine's stream, whole and byte by byte: the same events, or the same refusal."""

    def run(data: bytes) -> None:
        from confide.engine.remote.dialect import VLLM
        from confide.engine.remote.engine import SERVICES
        from tests.engine.remote.test_remote_endpoints import TYPES, call

        one = call(kind, stream=True)
        outcomes = []
        for size in (len(data) or 1, 1):
            mender = SERVICES[TYPES[kind]].stream(one, VLLM)
            out: list[bytes] = []
            for start in range(0, len(data), size):
                out += mender.feed(data[start : start + size])
            mender.end()
            outcomes.append((out, mender.last))
        _same(*outcomes)

    return run


# Seeds ---------------------------------------------------------------------------------------------------------------


def _files(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(EVIDENCE / name).read_bytes() for name in names]


def _cases(name: str) -> Callable[[], list[bytes]]:
    return lambda: [case.data for case in cases(VECTORS / "wire" / f"{name}.json")]


def _exchanges() -> list[bytes]:
    names = ("hopper_580.hex", "blackwell_575.hex", "nvswitch.hex")
    return [bytes.fromhex((EVIDENCE / "nvidia" / name).read_text().strip()) for name in names]


def _payloads() -> list[bytes]:
    devices = json.loads((EVIDENCE / "nvidia" / "hopper_590.list.json").read_bytes())
    items = devices if isinstance(devices, list) else devices["evidence_list"]
    return [json.dumps({"nonce": "ab" * 32, "arch": "HOPPER", "evidence_list": items[:1]}).encode()]


def _logs() -> list[bytes]:
    found = []
    for name in ("getquote_0_5.json", "getquote_0_6.json"):
        answer = json.loads((EVIDENCE / "dstack" / name).read_bytes())
        log = answer["event_log"]
        found.append((log if isinstance(log, str) else json.dumps(log)).encode())
    return found


def _flat_reports() -> list[bytes]:
    member = {"signing_address": "0x" + "ab" * 20, "signing_algo": "ecdsa", "intel_quote": "00", "event_log": "[]"}
    return [json.dumps({**member, "all_attestations": [member]}).encode()]


def _manifests() -> list[bytes]:
    one = {
        "id": "m",
        "files": [{"name": "m.gguf", "role": "weights", "sha256": "ab" * 32, "size": 1}],
        "tokenizer": "sha256:" + "ab" * 32,
        "chat_template": None,
        "architecture": "llama",
        "quantisation": {"file_type": "Q8_0", "tensors": {"F32": 1}},
        "context_length": 2048,
        "engine": {"name": "llama.cpp", "version": "1", "arguments": {"n_ctx": 1}},
        "source": "somewhere",
        "licence": None,
        "aliases": [],
    }
    return [json.dumps({"manifest_version": "confide-manifest/1", "models": [one]}).encode()]


def _texts() -> list[bytes]:
    return [f"{'ab' * 32}:{'cd' * 32}".encode(), f"acme/model:7b:{'ab' * 32}:{'cd' * 32}".encode()]


def _signatures() -> list[bytes]:
    return [b"0x" + b"ab" * 64 + b"1b", b"ab" * 64, b"0x" + b"ab" * 20, b"ab" * 32]


def _streams() -> list[bytes]:
    return [b'data: {"id":"a"}\n\n: keep-alive\n\ndata: [DONE]\n\n', b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\n"]


def _of_engine(kind: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from tests.engine.remote.test_remote_endpoints import stream_of, written

        return [b"".join(map(written, stream_of(kind)))]

    return seeds


def _requests(**members: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps({"model": "m"} | members).encode()]


_TOOL = {"type": "function", "name": "f", "parameters": {}}
_INPUT = [
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "d"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "e"}]},
]
_SOURCE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
_BLOCKS = [{"type": "text", "text": "a"}, {"type": "image", "source": _SOURCE}]
_RESULT = [{"type": "tool_result", "tool_use_id": "t", "content": _BLOCKS}]

ENDPOINTS = (
    Target(
        "request-completions",
        _request(texts.parse_completion, texts.check_completion),
        _requests(prompt=["a", "b"], logprobs=2, stop=["c"], logit_bias={"1": 2}, stream=True, stream_options={}),
    ),
    Target(
        "request-embeddings",
        _request(vectors.parse_embedding, vectors.check_embedding),
        _requests(input=[[1, 2], [3]], encoding_format="base64", dimensions=3),
    ),
    Target(
        "request-responses",
        _request(responses.parse_response, responses.check_response),
        _requests(input=_INPUT, tools=[_TOOL], tool_choice={"type": "function", "name": "f"}, text={}, reasoning={}),
    ),
    Target(
        "request-messages",
        _request(messages.parse_message, messages.check_message),
        _requests(
            messages=[{"role": "user", "content": _BLOCKS}, {"role": "user", "content": _RESULT}],
            max_tokens=9,
            tools=[{"name": "f", "input_schema": {}}],
            tool_choice={"type": "tool", "name": "f"},
        ),
    ),
    *(
        Target(f"engine-{kind.rpartition('/')[2]}", _engine_stream(kind), _of_engine(kind), runs=300)
        for kind in ("/v1/completions", "/v1/responses", "/v1/messages")
    ),
)

WIRE = (
    Target("tdx-quote", _quote, _files("intel/tdx_v4.quote", "intel/tdx_v5.quote", "intel/tdx_v4_debug.quote")),
    Target("tdx-collateral", tdx.parse_collateral, _files("intel/tdx_v4.collateral.json")),
    Target("snp-report", _snp_report, _files("amd/milan_v2.report", "amd/vlek_v3.report")),
    Target("snp-certificates", _snp_certificates, lambda: [snp.build_certificates(snp.SnpCertificates(vcek=b"v" * 9))]),
    Target("gpu-measurements", _measurements, _exchanges),
    Target("gpu-payload", _payload, _payloads),
    Target("event-log", _events, _logs),
    Target("canonical-json", _canonical, _cases("jcs")),
    Target("keyset", _documents(aci.parse_keyset), _cases("keyset")),
    Target("report", _documents(aci.parse_report), _cases("report")),
    Target("receipt", _receipt, _cases("receipt")),
    Target("session", _session, _cases("session")),
    Target("manifest", _documents(manifest.parse_manifest), _manifests),
    Target("flat-report", _flat, _flat_reports),
    Target("signature-text", _text, _texts),
    Target("signature", _signature, _signatures),
    Target("event-stream", _events_of_a_stream, _streams, (ConfideError, BadJson, ValueError)),
)


@cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    from tests.fuzz.verifying import VERIFY

    return {target.name: target for target in (*WIRE, *ENDPOINTS, *VERIFY)}


def corpus(target: Target) -> list[bytes]:
    """The seeds of a target; none is an error."""
    seeds = [bytes(seed) for seed in target.seeds()]
    if not seeds:
        raise ValueError(f"no seeds for {target.name}")
    return seeds


def write_corpus(target: Target, folder: Path) -> None:
    """The seeds as files, as fuzzers want them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(corpus(target)):
        (folder / f"seed-{number}").write_bytes(seed)
