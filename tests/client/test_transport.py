"""What applications get through a verified client: the same answers as without it, in the same pieces, checked."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from confide.client import exchange
from confide.client.errors import AnswerForged, Misused, ReceiptFailed
from confide.client.tail import Tail, answer_id
from confide.client.trust import Checked
from confide.wire.receipt import Receipt
from tests.client.world import Between, World, hello
from tests.simulator.echo_server import MODEL

SEALING = pytest.mark.parametrize("seal", [True, False], ids=["sealed", "clear"])
TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object", "properties": {}}}}


def sdk(world: World, **options: Any) -> tuple[OpenAI, list[Checked]]:
    """OpenAI's client, and what was checked."""
    told: list[Checked] = []
    service = world.verified(**options)
    service.on_receipt = told.append
    return OpenAI(api_key=world.key, base_url=service.base_url, http_client=service.http_client()), told


# OpenAI's SDK --------------------------------------------------------------------------------------------------------


@SEALING
def test_a_whole_answer(secure: World, seal: bool) -> None:
    client, told = sdk(secure, seal=seal)
    with client:
        answer = client.chat.completions.create(**hello("Grüße, 世界!"))
    assert answer.choices[0].message.content == "Grüße, 世界!"
    assert answer.usage is not None
    assert [checked.sealed for checked in told] == [seal]


@SEALING
def test_a_stream(secure: World, seal: bool) -> None:
    client, told = sdk(secure, seal=seal)
    with client:
        stream = client.chat.completions.create(
            **hello("piece by piece", stream=True, stream_options={"include_usage": True}, user="echo:by:1")
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "piece by piece"
    assert chunks[-1].usage is not None
    assert len(chunks) > len("piece by piece")
    assert len(told) == 1


@SEALING
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_tools(secure: World, seal: bool, stream: bool) -> None:
    client, told = sdk(secure, seal=seal)
    with client:
        answer: Any = client.chat.completions.create(**hello("call me", tools=[TOOL], stream=stream))
        if stream:
            deltas = [chunk.choices[0].delta for chunk in answer if chunk.choices]
            calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
        else:
            calls = [call.function for call in answer.choices[0].message.tool_calls]
    assert next(call.name for call in calls if call.name) == "say"
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"said": "call me"}
    assert len(told) == 1


@SEALING
def test_asyncio(secure: World, seal: bool) -> None:
    told: list[Checked] = []
    service = secure.verified(seal=seal)
    service.on_receipt = told.append

    async def talk() -> tuple[str | None, str]:
        http = service.async_http_client()
        async with AsyncOpenAI(api_key=secure.key, base_url=service.base_url, http_client=http) as client:
            whole = await client.chat.completions.create(**hello("one"))
            stream = await client.chat.completions.create(**hello("two two two", stream=True))
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert [model.id async for model in client.models.list()] == [MODEL]
            return whole.choices[0].message.content, said

    assert asyncio.run(talk()) == ("one", "two two two")
    assert len(told) == 2


def test_other_calls_go_through(secure: World) -> None:
    client, told = sdk(secure)
    with client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
        raw = client.chat.completions.with_raw_response.create(**hello())
    assert raw.headers["x-receipt-id"] == told[0].id


@SEALING
def test_refusals_of_the_service_stay_what_they_are(secure: World, seal: bool) -> None:
    client, told = sdk(secure, seal=seal)
    with client:
        with pytest.raises(openai.NotFoundError, match="unheard"):
            client.chat.completions.create(**{**hello(), "model": "unheard"})
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(**hello(temperature=9))
        with pytest.raises(openai.RateLimitError, match="busy"):
            client.with_options(max_retries=0).chat.completions.create(**hello(user="echo:busy"))
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").chat.completions.create(**hello())
    assert not told


@SEALING
def test_a_stream_that_breaks_off_has_a_receipt_too(secure: World, seal: bool) -> None:
    """The service says itself that its engine broke; that is its honest answer, and signed."""
    body = hello("breaking off " * 9, stream=True, user="echo:fail:3")
    client, told = sdk(secure, seal=seal)
    with client, pytest.raises(openai.APIError, match="The engine broke"):
        list(client.chat.completions.create(**body))
    assert not told  # the SDK stops at the error
    service = secure.verified(seal=seal)
    service.on_receipt = told.append
    with service.http_client() as http:
        assert http.post("chat/completions", json=body).text.endswith("data: [DONE]\n\n")
    assert [finding.detail for finding in told[0].findings if finding.step == "receipt.5"] == [
        "the answer ended early (engine_failed); these are the bytes until then"
    ]


# Pieces --------------------------------------------------------------------------------------------------------------


@SEALING
def test_a_stream_stays_a_stream(secure: World, seal: bool) -> None:
    """Pieces come while the service is still thinking, and the receipt before the end."""
    order: list[str] = []
    service = secure.verified(seal=seal)
    service.on_receipt = lambda _: order.append("receipt")
    with service.http_client() as client:
        body = hello("abcdef", stream=True, user="echo:slow:60", seed=3)
        began = time.monotonic()
        with client.stream("POST", "chat/completions", json=body) as answer:
            for piece in answer.iter_raw():
                order.append("end" if b"[DONE]" in piece else f"{time.monotonic() - began:.2f}")
    assert order[-2:] == ["receipt", "end"]
    times = [float(at) for at in order[:-2]]
    assert len(times) >= 3
    assert times[-1] - times[0] > 0.1


@SEALING
def test_the_bytes_of_a_clear_answer_are_the_wire_s(secure: World, seal: bool) -> None:
    receipts: list[Receipt | None] = []
    service = secure.verified(seal=seal)
    service.on_receipt = lambda checked: receipts.append(checked.receipt)
    with service.http_client() as client:
        answers = [client.post("chat/completions", json=hello(stream=stream)) for stream in (True, False)]
    for answer, receipt in zip(answers, receipts, strict=True):
        assert receipt is not None
        same = receipt.response_hash() == "sha256:" + hashlib.sha256(answer.content).hexdigest()
        assert same is not seal
        if seal:
            assert "content-length" not in answer.headers


def test_leaving_early_is_no_failure(secure: World) -> None:
    """Whoever doesn't read to the end has no proof, and the connections are free again."""
    told: list[Checked] = []
    service = secure.verified()
    service.on_receipt = told.append
    with service.http_client(limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            with client.stream("POST", "chat/completions", json=hello("x" * 500, stream=True)) as answer:
                next(answer.iter_raw())
        assert client.post("chat/completions", json=hello()).status_code == 200
    assert len(told) == 1


def test_leaving_early_with_asyncio(secure: World) -> None:
    service = secure.verified()

    async def talk() -> int:
        async with service.async_http_client(limits=httpx.Limits(max_connections=1)) as client:
            for _ in range(3):
                async with client.stream("POST", "chat/completions", json=hello("x" * 500, stream=True)) as answer:
                    await anext(answer.aiter_raw())
            return (await client.post("chat/completions", json=hello())).status_code

    assert asyncio.run(talk()) == 200


def test_bodies_in_pieces(secure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that the application makes as it goes is read whole before it is sent, up to the limit."""
    body = json.dumps(hello("in pieces")).encode()

    def pieces() -> Iterator[bytes]:
        for begin in range(0, len(body), 7):
            yield body[begin : begin + 7]

    async def apieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    service = secure.verified()

    async def apost() -> str:
        async with service.async_http_client() as client:
            answer = await client.post(
                "chat/completions", content=apieces(), headers={"Content-Type": "application/json"}
            )
            return str(answer.json()["choices"][0]["message"]["content"])

    def post() -> str:
        with service.http_client() as client:
            answer = client.post("chat/completions", content=pieces(), headers={"Content-Type": "application/json"})
            return str(answer.json()["choices"][0]["message"]["content"])

    assert [post(), asyncio.run(apost())] == ["in pieces", "in pieces"]
    monkeypatch.setattr("confide.client.transport.MOST_REQUEST", 50)
    with pytest.raises(Misused, match="more than 50 bytes"):
        post()
    with pytest.raises(Misused, match="more than 50 bytes"):
        asyncio.run(apost())


# What isn't sent -----------------------------------------------------------------------------------------------------


def test_other_origins_are_refused(secure: World) -> None:
    service = secure.verified()
    with service.http_client() as client:
        for url in ("https://api.openai.com/v1/models", f"http://127.0.0.1:{secure.port}/v1/models"):
            with pytest.raises(Misused, match="talks only to"):
                client.get(url)
    llm = OpenAI(api_key="sk", base_url="https://api.openai.com/v1", http_client=service.http_client())
    with llm, pytest.raises(Misused, match="talks only to"):
        llm.chat.completions.create(**hello())


def test_what_can_not_be_sealed_is_not_sent(plain: World, on_wire: Between) -> None:
    service = plain.verified(on_wire.url)
    with service.http_client() as client:
        with pytest.raises(Misused, match="not defined for /v1/responses"):
            client.post("responses", json={"model": MODEL, "input": "secret"})
        with pytest.raises(Misused, match="isn't a JSON object"):
            client.post("chat/completions", content=b"secret")
        with pytest.raises(Misused, match="no messages"):
            client.post("chat/completions", json={"model": MODEL, "messages": []})
        with pytest.raises(Misused, match="PUT"):
            client.put("chat/completions", content=b"secret")
        with pytest.raises(Misused, match="brings its own x-client-pub-key"):
            client.post("chat/completions", json=hello(), headers={"X-Client-Pub-Key": "00"})
    assert not on_wire.relay.posts
    assert not [method for method, _, _ in on_wire.relay.seen if method == "PUT"]


def test_a_sealed_prompt_is_not_on_the_wire(plain: World, on_wire: Between) -> None:
    with plain.verified(on_wire.url).http_client() as client:
        said: list[bytes] = []
        on_wire.relay.tamper = lambda passing: said.append(passing.body)
        for stream in (True, False):
            answer = client.post("chat/completions", json=hello("the secret of the sea", stream=stream))
            assert b"the secret" in answer.content or b"sea" in answer.content
    seen = b"".join([*on_wire.relay.posts, *said])
    assert len(on_wire.relay.posts) == 2
    assert b"secret" not in seen


# The end of a stream -------------------------------------------------------------------------------------------------

STREAM = b': hello\n\ndata: {"id":"a","choices":[]}\n\ndata: {"id":"b"}\r\n\r\ndata: [DONE]\n\n: after\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_the_end_is_held_back(size: int) -> None:
    tail, given = Tail(), b""
    for begin in range(0, len(STREAM), size):
        given += tail.push(STREAM[begin : begin + size])
        assert b"[DONE]" not in given
    assert given + tail.release() == STREAM
    assert given == STREAM[: STREAM.index(b"data: [DONE]")]
    assert (tail.is_done, tail.is_torn, tail.first_id) == (True, False, "a")


def test_whole_events_are_not_held_back() -> None:
    tail = Tail()
    given = [tail.push(event + b"\n\n") for event in STREAM.split(b"\n\n")[:2]]
    assert b"".join(given) == STREAM[: len(b"".join(given))]
    assert all(given)


def test_a_torn_event_is_no_end() -> None:
    tail = Tail()
    assert tail.push(b"data: {}\n\ndata: [DO") == b"data: {}\n\n"
    assert (tail.is_done, tail.is_torn) == (False, True)


def test_an_event_or_an_end_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confide.client.tail._LONGEST", 100)
    for data in (b"data: " + b"x" * 200, b"data: [DONE]\n\n" + b": after\n\n" * 20):
        with pytest.raises(ValueError, match="end"):
            Tail().push(data)


@pytest.mark.parametrize(
    ("text", "found"),
    [(b'{"id":"a"}', "a"), (b'{"id":1}', None), (b"[]", None), (b"{", None), (b"[" * 100_000, None), (b"", None)],
)
def test_ids_of_answers(text: bytes, found: str | None) -> None:
    assert answer_id(text) == found


# Bounds --------------------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_a_limit(secure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MOST_ANSWER", 100)
    with secure.verified().http_client() as client, pytest.raises(exchange.ReceiptFailed, match="more than 100 bytes"):
        client.post("chat/completions", json=hello())


def test_compression_is_refused(secure: World, inside: Between) -> None:
    heads: list[dict[str, str]] = []

    def compress(passing: Any) -> None:
        if passing.is_answer:
            heads.append(passing.headers)
            passing.headers["content-encoding"] = "gzip"

    inside.relay.tamper = compress
    with secure.verified(inside.url).http_client() as client, pytest.raises(AnswerForged, match="compressed"):
        client.post("chat/completions", json=hello())
    assert len(heads) == 1


def test_redirects_lead_nowhere(secure: World, inside: Between) -> None:
    def redirect(passing: Any) -> None:
        if passing.is_answer:
            passing.status, passing.headers["location"] = 307, "https://elsewhere.example/v1/chat/completions"

    inside.relay.tamper = redirect
    service = secure.verified(inside.url)
    for follow in (True, False):
        with service.http_client(follow_redirects=follow) as client, pytest.raises(AnswerForged, match="307"):
            client.post("chat/completions", json=hello())
    assert len(inside.relay.posts) == 2


def test_random_sizes_of_pieces_make_no_difference(secure: World, inside: Between) -> None:
    """The same stream in the relay's odd pieces gives the same text, sealed and clear."""
    said = []
    for seal, seed in itertools.product((True, False), range(3)):
        with secure.verified(inside.url, seal=seal).http_client() as client:
            answer = client.post("chat/completions", json=hello("odd " * 40, stream=True, seed=seed)).text
        lines = [line.removeprefix("data: ") for line in answer.split("\n") if line.startswith("data: {")]
        deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
        said.append("".join(delta.get("content") or "" for delta in deltas))
    assert said == ["odd " * 40] * 6


# Streams of other endpoints ------------------------------------------------------------------------------------------

RESPONSE = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"\\"response.completed\\""}\n\n'
    b'data: {"type":"response.output_text.delta","delta":"response.completed"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'
)
MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start"}\n\nevent: ping\ndata: {"type":"ping"}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


@pytest.mark.parametrize(
    ("path", "stream", "end"),
    [
        ("/v1/responses", RESPONSE, b"event: response.completed"),
        ("/v1/responses", RESPONSE.replace(b"event: response.completed\n", b""), b'data: {"type":"response.completed"'),
        (
            "/v1/responses",
            RESPONSE.replace(b"response.completed\nd", b"response.incomplete\nd"),
            b"event: response.inc",
        ),
        ("/v1/messages", MESSAGE, b"event: message_stop"),
        ("/v1/messages", MESSAGE.replace(b"event: message_stop\n", b""), b'data: {"type":"message_stop"'),
        ("/v1/messages", MESSAGE[:50].rpartition(b"\n\n")[0] + b"event: error\ndata: {}\n\n", b"event: error"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_the_end_is_the_endpoints_own(path: str, stream: bytes, end: bytes, size: int) -> None:
    """By the event's name or by its type, as clients look at the one or at the other."""
    tail, given = Tail(path), b""
    for begin in range(0, len(stream), size):
        given += tail.push(stream[begin : begin + size])
    assert given == stream[: stream.index(end)]
    assert given + tail.release() == stream
    assert tail.is_done


def test_a_response_without_its_end_is_not_done() -> None:
    tail = Tail("/v1/responses")
    tail.push(RESPONSE[: RESPONSE.index(b"event: response.completed")])
    assert not tail.is_done
    other = Tail("/v1/messages")
    other.push(RESPONSE)
    assert not other.is_done, "another endpoint's end is none"


def asking(path: str, stream: bool) -> dict[str, Any]:
    said: dict[str, dict[str, Any]] = {
        "completions": {"prompt": "the deep sea"},
        "embeddings": {"input": "the deep sea"},
        "responses": {"input": "the deep sea"},
        "messages": {"messages": [{"role": "user", "content": "the deep sea"}], "max_tokens": 9},
    }
    return {"model": MODEL, **said[path], **({"stream": True} if stream else {})}


EVERY = [("completions", False), ("completions", True), ("embeddings", False), ("responses", False)]
EVERY += [("responses", True), ("messages", False), ("messages", True)]


@pytest.mark.parametrize(("path", "stream"), EVERY)
def test_every_endpoint_is_checked(secure: World, path: str, stream: bool) -> None:
    service = secure.verified(seal=False)
    told: list[Checked] = []
    service.on_receipt = told.append
    with service.http_client() as client:
        answer = client.post(path, json=asking(path, stream))
    assert answer.status_code == 200, answer.text
    assert b"sea" in answer.content or path == "embeddings"
    (checked,) = told
    assert checked.receipt is not None
    assert checked.receipt.facts.endpoint == f"/v1/{path}"
    assert checked.receipt.response_hash() == "sha256:" + hashlib.sha256(answer.content).hexdigest()


@pytest.mark.parametrize(("path", "stream"), EVERY)
def test_what_can_be_sealed_is_and_nothing_else_is_sent(
    plain: World, on_wire: Between, path: str, stream: bool
) -> None:
    with plain.verified(on_wire.url).http_client() as client:
        if path in ("responses", "messages"):
            with pytest.raises(Misused, match="can't be encrypted, so it isn't sent"):
                client.post(path, json=asking(path, stream))
            assert on_wire.relay.posts == []
            return
        answer = client.post(path, json=asking(path, stream))
    assert answer.status_code == 200, answer.text
    assert b"sea" in answer.content or path == "embeddings"
    assert b"deep" not in b"".join(on_wire.relay.posts)


@pytest.mark.parametrize(("path", "stream"), EVERY)
def test_a_changed_answer_is_never_given_on(secure: World, inside: Between, path: str, stream: bool) -> None:
    def change(passing: Any) -> None:
        if passing.is_answer and passing.path.endswith(path):
            passing.body = passing.body.replace(b"0.5", b"0.7").replace(b"deep", b"calm")

    inside.relay.tamper = change
    with secure.verified(inside.url, seal=False).http_client() as client, pytest.raises(ReceiptFailed):
        client.post(path, json=asking(path, stream))


def test_a_receipt_of_another_endpoint_is_none(secure: World, inside: Between) -> None:
    """A body that is good for two endpoints, and was given to the other one."""
    body = {"model": MODEL, "input": "the deep sea"}
    inside.relay.reroute = {"/v1/responses": "/v1/embeddings"}
    with (
        secure.verified(inside.url, seal=False).http_client() as client,
        pytest.raises(ReceiptFailed, match="the receipt is for /v1/embeddings"),
    ):
        client.post("responses", json=body)


def test_anthropics_header_fetches_the_receipt(secure: World) -> None:
    with secure.verified(seal=False, api_key=None).http_client() as client:
        answer = client.post("messages", json=asking("messages", False), headers={"x-api-key": secure.key})
        assert answer.status_code == 200, answer.text
