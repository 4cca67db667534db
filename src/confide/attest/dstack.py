"""Quotes and keys from dstack's guest agent, over its unix socket.

Source: the public dstack repository, ``guest-agent`` and its RPC definition, in the shapes of dstack OS 0.5 and 0.6:
JSON is posted to ``/<Method>``. 0.5 sends ``tcb_info`` as text or as an object, ``vm_config`` not always, and digests
for its own events; 0.6 leaves those digests empty. The agent is part of the measured image, but its answers are
bounded in size and time all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confide.attest.base import (
    Description,
    Evidence,
    EvidenceFailed,
    KeyAlgorithm,
    KeyCustody,
    KeyProof,
    ReleasedKey,
    check_report_data,
)
from confide.attest.shared import within
from confide.wire import eventlog, tdx
from confide.wire.binary import MalformedEvidence, from_hex

MOST_BYTES: Final = 8 << 20
_LONGEST_COMPLAINT: Final = 200
_KEY_SIZE: Final = 32

T = TypeVar("T")


class _Quote(msgspec.Struct):
    quote: str = ""
    event_log: str | list[dict[str, Any]] = ""
    report_data: str = ""
    vm_config: str | dict[str, Any] = ""


class _Key(msgspec.Struct):
    key: str
    signature_chain: list[str] = []


class _TcbInfo(msgspec.Struct):
    app_compose: str | None = None


class _Complaint(msgspec.Struct):
    error: str = ""


class Agent:
    """The agent's RPC."""

    def __init__(self, socket: Path, seconds: float = 15.0, most_bytes: int = MOST_BYTES) -> None:
        self.socket = socket
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0)),
            base_url="http://localhost",
            headers={"Accept-Encoding": "identity"},
            timeout=None,  # noqa: S113 - the limit is on the whole call
            trust_env=False,
        )

    async def call(self, method: str, arguments: Mapping[str, str], kind: type[T]) -> T:
        """The agent's answer to one method."""
        body = await self._post(method, arguments)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
            raise self._failed(method, f"an answer that can't be read: {failed}") from None

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def _post(self, method: str, arguments: Mapping[str, str]) -> bytes:
        try:
            async with (
                within(self._seconds, f"{method} of the dstack agent"),
                self._client.stream("POST", f"/{method}", json=dict(arguments)) as response,
            ):
                body = await self._read(method, response)
        except (httpx.HTTPError, httpx.InvalidURL) as failed:
            raise self._failed(method, str(failed) or type(failed).__name__) from failed
        if response.status_code != httpx.codes.OK:
            raise self._failed(method, f"status {response.status_code}{_complaint(body)}")
        return body

    async def _read(self, method: str, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._most_bytes:
                raise self._failed(method, f"more than {self._most_bytes} bytes")
        return bytes(body)

    def _failed(self, method: str, reason: str) -> EvidenceFailed:
        return EvidenceFailed(f"the dstack agent at {self.socket} answered {method} with {reason}")


class DstackSource:
    """Evidence and keys of a dstack CVM with TDX. Keys are the application's: the same after a restart."""

    lasting: Final = True

    def __init__(self, socket: Path, seconds: float = 15.0) -> None:
        self._agent = Agent(socket, seconds)
        self._released: dict[tuple[str, str, KeyAlgorithm], KeyProof] = {}

    async def quote(self, report_data: bytes) -> Evidence:
        """A quote over 64 bytes with the event log, and what the agent says about the application."""
        check_report_data(report_data)
        answer = await self._agent.call("GetQuote", {"report_data": report_data.hex()}, _Quote)
        info = await self._agent.call("Info", {}, dict[str, Any])
        try:
            return Evidence(
                "tdx",
                _checked_quote(answer, report_data),
                report_data,
                event_log=_checked_log(answer.event_log),
                vm_config=_text(answer.vm_config or info.get("vm_config")),
                app_compose=_app_compose(info),
                info=info,
                key_custody=self._custody(),
            )
        except MalformedEvidence as failed:
            raise EvidenceFailed(f"the dstack agent at {self._agent.socket}: {failed}") from failed

    async def key(self, path: str, purpose: str, algorithm: KeyAlgorithm = "secp256k1") -> ReleasedKey:
        """The key for this path. Its proof is in all later evidence."""
        arguments = {"path": path, "purpose": purpose, "algorithm": algorithm}
        answer = await self._agent.call("GetKey", arguments, _Key)
        try:
            secret = from_hex(answer.key, "the key")
            chain = tuple(from_hex(signature, "a signature") for signature in answer.signature_chain)
            proof = KeyProof(path, purpose, algorithm, _public_key(secret, algorithm), chain)
        except MalformedEvidence as failed:
            raise EvidenceFailed(f"the dstack agent at {self._agent.socket}, GetKey: {failed}") from None
        self._released[path, purpose, algorithm] = proof
        return ReleasedKey(secret, proof)

    def describe(self) -> Description:
        """What this source is."""
        return Description("tdx", "dstack", hardware=True, text=str(self._agent.socket))

    async def aclose(self) -> None:
        """Close the client."""
        await self._agent.aclose()

    def _custody(self) -> KeyCustody | None:
        proofs = tuple(proof for proof in self._released.values() if proof.signature_chain)
        return KeyCustody("dstack-kms", proofs) if proofs else None


def _checked_quote(answer: _Quote, report_data: bytes) -> bytes:
    if not answer.quote:
        raise EvidenceFailed("the dstack agent gave no TDX quote; other platforms of dstack are not supported")
    quote = from_hex(answer.quote, "the quote")
    if tdx.parse_quote(quote).report.report_data != report_data:
        raise EvidenceFailed("the dstack agent gave a quote over other bytes than the ones that were asked for")
    return quote


def _checked_log(log: str | list[dict[str, Any]]) -> str | None:
    text = _text(log)
    if text is not None:
        eventlog.parse_events(text)
    return text


def _app_compose(info: Mapping[str, Any]) -> str | None:
    """The application's description, which is public only where its owner made it so."""
    tcb_info = _text(info.get("tcb_info"))
    if tcb_info is None:
        return None
    try:
        return msgspec.json.decode(tcb_info, type=_TcbInfo).app_compose
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as failed:
        raise MalformedEvidence(f"tcb_info: {failed}") from None


def _text(value: object) -> str | None:
    """JSON that comes as text stays as it is; as a value it is written; nothing is None."""
    if not value:
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _public_key(secret: bytes, algorithm: KeyAlgorithm) -> bytes:
    if len(secret) != _KEY_SIZE:
        raise MalformedEvidence(f"the key is {len(secret)} bytes long, not {_KEY_SIZE}")
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    try:
        key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1())
    except ValueError:
        raise MalformedEvidence("the key is not a secp256k1 key") from None
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _complaint(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Complaint).error
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return f" ({error[:_LONGEST_COMPLAINT]!r})" if error else ""
