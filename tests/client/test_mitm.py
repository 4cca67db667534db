"""Somebody in between: what he can reach, he can break, and never unnoticed.

Two attackers. One has a certificate that the client trusts and a key of his own: he gets a handshake, and no byte of a
prompt. The other is given what no attacker has, the end of TLS with the attested key (or a channel without TLS where
all is sealed), and changes one thing about one answer. Each change ends in the error of its kind, before the answer's
end is given on, and no SDK sends the prompt again by itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
from openai import AsyncOpenAI, OpenAI

from confide.client.errors import (
    AnswerForged,
    AnswerTruncated,
    KeysetChanged,
    NotSealed,
    PinMismatch,
    ProofFailed,
    ReceiptFailed,
)
from confide.client.service import VerifiedService
from tests.client import world
from tests.client.interceptor import HOST, Interceptor
from tests.client.world import Between, Passing, Tamper, World, hello

SECRET = "the prompt that nobody else may read"

# Another key ---------------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """A verified service, and a man in the middle who has taken its address."""

    service: VerifiedService
    interceptor: Interceptor


@pytest.fixture(params=[True, False], ids=["sealed", "clear"])
def victim(request: pytest.FixtureRequest, own: World, tmp_path: Path) -> Iterator[Victim]:
    """The service was verified over an honest connection; then its name leads to the interceptor.

    The interceptor's certificate is issued by an authority that this client trusts.
    """
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    ca_file.write_bytes(authority.cert_pem.bytes() + _certificate(own).encode())
    service = own.verified(seal=request.param, webpki=True, ca_file=ca_file)
    with Interceptor(authority) as interceptor:
        with httpx.Client(verify=_trusting(ca_file), trust_env=False) as naive:
            assert (
                naive.get(f"https://{HOST}:{interceptor.port}/").status_code == 200
            )  # the public rules let him through
        assert interceptor.received
        interceptor.received.clear()
        yield Victim(service, interceptor)


def _certificate(world: World) -> str:
    return ssl.get_server_certificate((HOST, world.port))


def _trusting(ca_file: Path) -> Any:
    return ssl.create_default_context(cafile=ca_file)


@pytest.fixture
def led_astray(victim: Victim, own: World, monkeypatch: pytest.MonkeyPatch) -> Victim:
    """Every new connection to the service's port goes to the interceptor's, as after a forged DNS answer."""
    connect, connect_ex = socket.socket.connect, socket.create_connection

    def astray(self: socket.socket, address: Any) -> None:
        host, port, *rest = address
        connect(self, (host, victim.interceptor.port if port == own.port else port, *rest))

    def create(address: Any, *arguments: Any, **options: Any) -> socket.socket:
        host, port = address
        return connect_ex((host, victim.interceptor.port if port == own.port else port), *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", create)
    monkeypatch.setattr(socket.socket, "connect", astray, raising=False)
    return victim


def test_a_valid_certificate_over_another_key_gets_no_byte(led_astray: Victim) -> None:
    service, interceptor = led_astray.service, led_astray.interceptor
    llm = OpenAI(api_key="sk-secret", base_url=service.base_url, http_client=service.http_client())
    with llm, pytest.raises(PinMismatch, match="attested keyset lists"):
        llm.chat.completions.create(**hello(SECRET))
    assert interceptor.connections == 2  # the naive client's, and one of ours: nobody tried again
    assert bytes(interceptor.received) == b""


def test_nor_with_asyncio(led_astray: Victim, monkeypatch: pytest.MonkeyPatch, own: World) -> None:
    service, interceptor = led_astray.service, led_astray.interceptor
    real = asyncio.base_events.BaseEventLoop.create_connection

    async def astray(self: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await real(self, factory, host, interceptor.port if port == own.port else port, **options)

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "create_connection", astray)

    async def ask() -> None:
        http = service.async_http_client()
        async with AsyncOpenAI(api_key="sk-secret", base_url=service.base_url, http_client=http) as llm:
            await llm.chat.completions.create(**hello(SECRET))

    with pytest.raises(PinMismatch):
        asyncio.run(ask())
    assert interceptor.connections == 2
    assert bytes(interceptor.received) == b""


# Lies about one answer -----------------------------------------------------------------------------------------------


def on_answers(change: Callable[[Passing], None]) -> Tamper:
    """Change answers to prompts only."""

    def tamper(passing: Passing) -> None:
        if passing.is_answer:
            change(passing)

    return tamper


def on_receipts(change: Callable[[Passing], None]) -> Tamper:
    """Change receipts only."""

    def tamper(passing: Passing) -> None:
        if passing.is_receipt:
            change(passing)

    return tamper


def flip(passing: Passing) -> None:
    """One bit of the text in the middle: still good JSON, still good hexadecimal digits."""
    mark, body = b'"content":"', passing.body
    places = [at for at in range(len(body)) if body.startswith(mark, at)]
    place = places[len(places) // 2] + len(mark)
    passing.body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def without_last_frame(passing: Passing) -> None:
    frames = passing.body.split(b"\n\n")
    assert frames[-2:] == [b"data: [DONE]", b""]
    passing.body = b"\n\n".join([*frames[:-2], b""])


def _middle(frames: list[bytes]) -> int:
    """The place of a frame with text."""
    places = [place for place, frame in enumerate(frames) if b'"content":"' in frame]
    return places[len(places) // 2]


def without_middle_frame(passing: Passing) -> None:
    frames = passing.body.split(b"\n\n")
    del frames[_middle(frames)]
    passing.body = b"\n\n".join(frames)


def twice_the_same_frame(passing: Passing) -> None:
    frames = passing.body.split(b"\n\n")
    frames.insert(_middle(frames), frames[_middle(frames)])
    passing.body = b"\n\n".join(frames)


def one_space_more(passing: Passing) -> None:
    """Means the same to everybody but a hash."""
    passing.body = passing.body.replace(b'"object":', b'"object": ', 1)


def an_event_more(passing: Passing) -> None:
    passing.body = passing.body.replace(b"data: [DONE]", b": nothing\n\ndata: [DONE]")


def half(passing: Passing) -> None:
    passing.body = passing.body[: len(passing.body) // 2]


def in_clear(passing: Passing) -> None:
    """A server that gives up on encryption, as some do."""
    passing.headers["x-e2ee-applied"] = "false"


def silently_in_clear(passing: Passing) -> None:
    """The same, without saying so."""
    for name in [name for name in passing.headers if name.startswith("x-e2ee")]:
        del passing.headers[name]


def no_receipt_id(passing: Passing) -> None:
    del passing.headers["x-receipt-id"]


def another_keyset(passing: Passing) -> None:
    passing.headers["x-aci-keyset-digest"] = "sha256:" + "00" * 32


def receipt_missing(passing: Passing) -> None:
    passing.status, passing.body = 404, b"{}"


def receipt_endless(passing: Passing) -> None:
    passing.body += b" " * (5 << 20)


def receipt_cut(passing: Passing) -> None:
    passing.cut = True


def receipt_is_no_receipt(passing: Passing) -> None:
    passing.body = b'{"hello": "world"}'


def receipt_with_another_hash(passing: Passing) -> None:
    value = json.loads(passing.body)
    value["event_log"][-1]["body_hash"] = "sha256:" + "00" * 32
    passing.body = json.dumps(value).encode()


def receipt_with_another_model(passing: Passing) -> None:
    passing.body = passing.body.replace(b'"model":"acme/echo-1"', b'"model":"acme/echo-9"')


def receipt_of_another_key(passing: Passing) -> None:
    value = json.loads(passing.body)
    value["signature"] = "00" * 64
    passing.body = json.dumps(value).encode()


BOTH = ("sealed", "clear")
STREAMS = (True,)
WHOLE = (False,)
ALL = (True, False)
R = ReceiptFailed

LIES: dict[str, tuple[Tamper, dict[str, tuple[type[Exception], str]], tuple[bool, ...]]] = {
    "a bit in a stream": (
        on_answers(flip),
        {"sealed": (AnswerForged, "isn't what the service encrypted"), "clear": (R, r"receipt\.5")},
        STREAMS,
    ),
    "a bit in a whole answer": (
        on_answers(flip),
        {"sealed": (AnswerForged, "isn't what the service encrypted"), "clear": (R, r"receipt\.5")},
        WHOLE,
    ),
    "the last frame": (on_answers(without_last_frame), dict.fromkeys(BOTH, (AnswerTruncated, "end")), STREAMS),
    "a frame in the middle": (on_answers(without_middle_frame), dict.fromkeys(BOTH, (R, r"receipt\.5")), STREAMS),
    "a frame twice": (
        on_answers(twice_the_same_frame),
        {"sealed": (AnswerForged, "repeats a field"), "clear": (R, r"receipt\.5")},
        STREAMS,
    ),
    "a space": (on_answers(one_space_more), dict.fromkeys(BOTH, (R, r"receipt\.5")), ALL),
    "a comment": (on_answers(an_event_more), dict.fromkeys(BOTH, (R, r"receipt\.5")), STREAMS),
    "half a stream": (on_answers(half), dict.fromkeys(BOTH, (AnswerTruncated, "end")), STREAMS),
    "half an answer": (
        on_answers(half),
        {"sealed": (AnswerForged, "well-formed"), "clear": (R, r"receipt\.5")},
        WHOLE,
    ),
    "no encryption": (on_answers(in_clear), {"sealed": (NotSealed, "in clear")}, ALL),
    "no word of encryption": (on_answers(silently_in_clear), {"sealed": (NotSealed, "in clear")}, ALL),
    "no receipt's name": (on_answers(no_receipt_id), dict.fromkeys(BOTH, (R, "has no receipt")), ALL),
    "another keyset": (on_answers(another_keyset), dict.fromkeys(BOTH, (KeysetChanged, "names the keyset")), ALL),
    "no receipt": (on_receipts(receipt_missing), dict.fromkeys(BOTH, (R, "answered 404")), ALL),
    "a receipt without end": (on_receipts(receipt_endless), dict.fromkeys(BOTH, (R, "answered nothing")), WHOLE),
    "half a receipt": (on_receipts(receipt_cut), dict.fromkeys(BOTH, (R, "answered nothing")), ALL),
    "no receipt but JSON": (on_receipts(receipt_is_no_receipt), dict.fromkeys(BOTH, (R, r"receipt\.1")), ALL),
    "a hash in the receipt": (on_receipts(receipt_with_another_hash), dict.fromkeys(BOTH, (R, r"receipt\.2")), ALL),
    "a model in the receipt": (on_receipts(receipt_with_another_model), dict.fromkeys(BOTH, (R, r"receipt\.2")), ALL),
    "a signature": (on_receipts(receipt_of_another_key), dict.fromkeys(BOTH, (R, r"receipt\.2")), ALL),
}
CASES = [
    pytest.param(
        tamper, seal == "sealed", stream, *expected[seal], id=f"{name}, {seal}, {'stream' if stream else 'whole'}"
    )
    for name, (tamper, expected, streams) in LIES.items()
    for seal in expected
    for stream in streams
]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.client.exchange._WAITS", (0.0, 0.0))


@pytest.mark.parametrize(("tamper", "seal", "stream", "error", "match"), CASES)
def test_a_lie_is_found(
    secure: World, inside: Between, tamper: Tamper, seal: bool, stream: bool, error: type[Exception], match: str
) -> None:
    """Through OpenAI's SDK, which would try twice again after anything that looks like the network."""
    service = secure.verified(inside.url, seal=seal)
    inside.relay.tamper = tamper
    llm = OpenAI(api_key=secure.key, base_url=service.base_url, http_client=service.http_client())

    def ask() -> list[Any]:
        return list(llm.chat.completions.create(**hello("Some words to change. " * 3, stream=stream)))

    with llm, pytest.raises(error, match=match):
        ask()
    assert len(inside.relay.posts) == 1


@pytest.mark.parametrize(
    "name",
    ["a bit in a stream", "the last frame", "another keyset", "a signature", "half a receipt", "a receipt without end"],
)
@pytest.mark.parametrize("seal", BOTH)
def test_asyncio_finds_it_too(secure: World, inside: Between, name: str, seal: str) -> None:
    tamper, expected, _ = LIES[name]
    service = secure.verified(inside.url, seal=seal == "sealed")
    inside.relay.tamper = tamper

    async def ask() -> None:
        http = service.async_http_client()
        async with AsyncOpenAI(api_key=secure.key, base_url=service.base_url, http_client=http) as llm:
            async for _ in await llm.chat.completions.create(**hello("Some words to change. " * 3, stream=True)):
                pass

    with pytest.raises(expected[seal][0], match=expected[seal][1]):
        asyncio.run(ask())
    assert len(inside.relay.posts) == 1


def read(client: httpx.Client, given: bytearray, body: dict[str, Any]) -> None:
    """Take what comes of an answer, as far as it comes."""
    with client.stream("POST", "chat/completions", json=body) as answer:
        for piece in answer.iter_raw():
            given += piece


@pytest.mark.parametrize(("tamper", "seal", "stream", "error", "match"), CASES)
def test_the_end_is_not_given(
    secure: World, inside: Between, tamper: Tamper, seal: bool, stream: bool, error: type[Exception], match: str
) -> None:
    """Whatever came before, the mark of the end did not, and of an answer that isn't streamed nothing at all."""
    service = secure.verified(inside.url, seal=seal)
    inside.relay.tamper = tamper
    given = bytearray()
    with service.http_client() as client, pytest.raises(error, match=match):
        read(client, given, hello("Some words to change. " * 3, stream=stream))
    assert b"[DONE]" not in given
    assert stream or not given


@pytest.mark.parametrize("seal", BOTH)
def test_the_receipt_of_another_answer(secure: World, inside: Between, seal: str) -> None:
    """Good receipts, of the same service, for the same words, and swapped."""
    receipts: list[bytes] = []

    def swap(passing: Passing) -> None:
        receipts.append(passing.body)
        passing.body = receipts[0]

    inside.relay.tamper = on_receipts(swap)
    service = secure.verified(inside.url, seal=seal == "sealed")
    with service.http_client() as client:
        assert client.post("chat/completions", json=hello()).status_code == 200
        with pytest.raises(ReceiptFailed, match=r"receipt\.[45]"):
            client.post("chat/completions", json=hello())


def test_an_older_receipt_by_its_own_name(secure: World, inside: Between) -> None:
    """The head of the answer names a receipt that is good, and was good for another answer."""
    names: list[str] = []

    def rename(passing: Passing) -> None:
        names.append(passing.headers["x-receipt-id"])
        passing.headers["x-receipt-id"] = names[0]

    inside.relay.tamper = on_answers(rename)
    with secure.verified(inside.url).http_client() as client:
        assert client.post("chat/completions", json=hello()).status_code == 200
        with pytest.raises(ReceiptFailed, match=r"receipt\.4"):
            client.post("chat/completions", json=hello("Something else"))


def test_the_same_receipt_under_another_name(secure: World, inside: Between) -> None:
    inside.relay.tamper = on_answers(lambda passing: passing.headers.update({"x-receipt-id": "rcpt-other"}))
    found: dict[str, bytes] = {}

    def answer(passing: Passing) -> None:
        if passing.is_answer:
            found["name"] = passing.headers["x-receipt-id"].encode()
            passing.headers["x-receipt-id"] = "rcpt-other"
        if passing.is_receipt:
            real = httpx.get(
                f"{secure.url}/v1/aci/receipts/{found['name'].decode()}",
                headers={"Authorization": f"Bearer {secure.key}"},
                verify=False,
            )
            passing.status, passing.body = real.status_code, real.content

    inside.relay.tamper = answer
    with (
        secure.verified(inside.url).http_client() as client,
        pytest.raises(ReceiptFailed, match="another receipt than the one"),
    ):
        client.post("chat/completions", json=hello())


def test_a_whole_answer_of_before(secure: World, inside: Between) -> None:
    """Answer and receipt of an earlier question, together: the receipt is about another question."""
    kept: list[Passing] = []

    def replay(passing: Passing) -> None:
        if passing.is_answer:
            kept.append(passing)
            passing.headers, passing.body = dict(kept[0].headers), kept[0].body

    inside.relay.tamper = replay
    with secure.verified(inside.url, seal=False).http_client() as client:
        assert client.post("chat/completions", json=hello("What is 1 + 1?")).status_code == 200
        with pytest.raises(ReceiptFailed, match=r"receipt\.4"):
            client.post("chat/completions", json=hello("What is 1 + 2?"))


def test_a_question_that_was_changed_on_the_way(
    secure: World, inside: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world._body

    async def changed(receive: Any) -> bytes:
        return (await real(receive)).replace(b"1 + 1", b"2 + 2")

    monkeypatch.setattr(world, "_body", changed)
    with (
        secure.verified(inside.url, seal=False).http_client() as client,
        pytest.raises(ReceiptFailed, match=r"receipt\.4"),
    ):
        client.post("chat/completions", json=hello("What is 1 + 1?"))


@pytest.mark.parametrize("seal", BOTH)
@pytest.mark.parametrize("stream", [True, False])
def test_a_connection_that_is_cut_is_no_end(secure: World, inside: Between, seal: str, stream: bool) -> None:
    """The network's own failure: it stays an error of the network, and never a clean end."""
    inside.relay.tamper = on_answers(lambda passing: setattr(passing, "cut", True))
    service = secure.verified(inside.url, seal=seal == "sealed")
    given = bytearray()
    with service.http_client() as client, pytest.raises(httpx.RemoteProtocolError):
        read(client, given, hello(stream=stream))
    assert b"[DONE]" not in given


def test_what_was_found_is_told(secure: World, inside: Between) -> None:
    service = secure.verified(inside.url)
    inside.relay.tamper = on_receipts(receipt_with_another_hash)
    with service.http_client() as client, pytest.raises(ReceiptFailed) as failed:
        client.post("chat/completions", json=hello())
    assert {finding.step for finding in failed.value.findings} == {"receipt.2", "receipt.5"}
    assert failed.value.reason == "receipt.2, receipt.5"
    assert failed.value.exit_code == 1


def test_receipts_that_come_a_little_late(secure: World, inside: Between) -> None:
    """Some services store them when the answer has left; those are asked again, and then believed."""
    asked: list[str] = []

    def late(passing: Passing) -> None:
        asked.append(passing.path)
        if len(asked) < 3:
            passing.status = 404

    inside.relay.tamper = on_receipts(late)
    with secure.verified(inside.url).http_client() as client:
        assert client.post("chat/completions", json=hello()).status_code == 200
    assert len(asked) == 3


# Retries -------------------------------------------------------------------------------------------------------------


def test_an_sdk_that_retries_everything_sends_no_prompt_again(secure: World, inside: Between) -> None:
    """OpenAI's SDKs before version 3 take every exception for a lost connection. They number their attempts."""
    service = secure.verified(inside.url)
    inside.relay.tamper = on_receipts(receipt_with_another_hash)
    with service.http_client() as client:
        for attempt in range(3):
            with pytest.raises(ReceiptFailed, match=r"receipt\.2"):
                client.post("chat/completions", json=hello(), headers={"x-stainless-retry-count": str(attempt)})
        assert len(inside.relay.posts) == 1
        inside.relay.tamper = lambda _: None
        assert client.post("chat/completions", json=hello()).status_code == 200  # a person asks again
        other = client.post("chat/completions", json=hello("new"), headers={"x-stainless-retry-count": "1"})
        assert other.status_code == 200  # a retry after trouble with the network


def test_failures_are_no_trouble_with_the_network() -> None:
    """What SDKs look for before they try again."""
    for error in (ProofFailed, PinMismatch, KeysetChanged):
        assert not issubclass(error, httpx.HTTPError | openai.OpenAIError | OSError)
