"""The proofs of the endpoints beside chat completions: receipts of the bytes, no content left behind, sealing where the
specification has it and a refusal by name where it hasn't.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from confide.seal import aci_v2
from confide.seal.client import SealedCall
from confide.wire.aci import SECP256K1_SUITE, X25519_SUITE, Keyset
from tests.proof.talking import PATIENCE, Client, EchoServer, aborted, check_receipt, check_signature, echoing
from tests.proof.test_canary import EVERY_WHAT, Marks, found
from tests.rawhttp import Answer, Connection, request
from tests.simulator.echo_server import MODEL
from tests.simulator.engine_endpoints import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

PATHS: Final = (COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES)
STREAMED: Final = (COMPLETIONS, RESPONSES, MESSAGES)
SEALED: Final = (COMPLETIONS, EMBEDDINGS)
ENDS: Final = {
    COMPLETIONS: (b"data: [DONE]\n\n",),
    RESPONSES: (b"event: response.completed\ndata: ", b"event: response.incomplete\ndata: "),
    MESSAGES: (b"event: message_stop\ndata: ",),
}
"""A response is incomplete where the echo could not say all of an odd text."""
ALPHABET: Final = 'abc dé\n\t"\\/{}[]:,|\u2028\u0085ß漢字🦊\u200b'


def members(path: str, text: str, order: str = "", **more: Any) -> dict[str, Any]:
    """A request that says this, and tells the echo what to do."""
    said: dict[str, dict[str, Any]] = {
        COMPLETIONS: {"prompt": text, "user": order},
        EMBEDDINGS: {"input": text, "user": order},
        RESPONSES: {"input": text, "user": order},
        MESSAGES: {"messages": [{"role": "user", "content": text}], "max_tokens": 99, "metadata": {"user_id": order}},
    }
    return {"model": MODEL, **said[path], **more}


def text_in(path: str, answer: Answer) -> str:
    """All text of an answer that isn't streamed, or of its deltas."""
    out = ""
    for event in answer.body.split(b"\n\n") if answer.headers["content-type"].startswith("text/") else [answer.body]:
        data = event.partition(b"data: ")[2] or event
        if not data.startswith(b"{"):
            continue
        value = json.loads(data)
        if path == COMPLETIONS:
            out += "".join(choice["text"] for choice in value["choices"])
        elif path == RESPONSES:
            out += value.get("delta", "")
            out += "".join(part["text"] for item in value.get("output", ()) for part in item["content"])
        else:
            out += (value.get("delta") or {}).get("text", "")
            out += "".join(block["text"] for block in value.get("content", ()))
    return out


class Talk:
    """One client, and what it knows of the server."""

    def __init__(self, server: EchoServer) -> None:
        self.client = server.client()
        self.keyset: Keyset = self.client.report().keyset()
        self.flat = {
            algorithm: self.client.json(f"/v1/attestation/report?signing_algo={algorithm}")
            for algorithm in ("ecdsa", "ed25519")
        }

    def checked(self, path: str, asked: bytes, answer: Answer, hashed: bytes | None = None) -> str | None:
        """Check the receipt and the older signatures; gives how the answer was broken off."""
        name = answer.headers["x-receipt-id"]
        document = self.client.receipt(name).body
        read = asked if hashed is None else hashed
        receipt = check_receipt(document, self.keyset, asked=read, answered=answer.body, endpoint=path)
        assert receipt.facts.receipt_id == name
        if answer.status == 200 and not aborted(receipt):
            assert receipt.facts.chat_id is not None
            assert receipt.facts.chat_id.encode() in answer.body
            assert self.client.receipt(receipt.facts.chat_id).body == document
        for algorithm in ("ecdsa", "ed25519"):
            proof = self.client.signature(name, algorithm).json()
            check_signature(proof, self.flat[algorithm], asked=read, answered=answer.body)
        return aborted(receipt)


@pytest.fixture(scope="module")
def talk(echo: EchoServer) -> Iterator[Talk]:
    made = Talk(echo)
    yield made
    made.client.close()


# Receipts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_receipts_are_of_the_bytes(talk: Talk, path: str) -> None:
    """Random texts in random spellings, in pieces of odd sizes."""
    draw = random.Random(path)
    for number in range(40):
        text = "a" + "".join(draw.choices(ALPHABET, k=draw.choice((1, 7, 40, 300))))
        stream = path != EMBEDDINGS and draw.random() < 0.6
        value = members(path, text, **({"stream": True} if stream else {}))
        body = json.dumps(value, ensure_ascii=draw.random() < 0.5, indent=draw.choice((None, 1))).encode()
        fields: dict[str, str | None] = {"Content-Type": "application/json", **talk.client.headers}
        head = request("POST", path, {**fields, "Content-Length": str(len(body))})
        step = draw.choice((1, 7, 113, 4096))
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        answer = talk.client.exchange(head, *pieces)
        assert answer.status == 200, (number, answer)
        assert talk.checked(path, body, answer) is None
        if path != EMBEDDINGS:
            assert text_in(path, answer).split() == text.split()
        if stream:
            last = answer.body.split(b"\n\n")[-2] + b"\n\n"
            assert any(end in last for end in ENDS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("what", EVERY_WHAT)
def test_whatever_goes_wrong_ends_in_a_receipt(talk: Talk, path: str, what: str) -> None:
    for stream in (False, True) if path in STREAMED else (False,):
        body = json.dumps(members(path, "the deep blue sea", f"echo:{what}", stream=stream)).encode()
        answer = talk.client.post(body, path=path)
        told = talk.checked(path, body, answer)
        if answer.status != 200:
            error = answer.json()
            assert error["error"]["message"]
            assert (error.get("type") == "error") == (path == MESSAGES)
            assert told is None
        elif stream and what.startswith(("fail", "crash")):
            last = answer.body.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")[-2]
            assert json.loads(last.partition(b"data: ")[2])["error"]["message"]
            assert last.startswith(b"event: error\n") == (path != COMPLETIONS)
            assert told == "engine_failed"


@pytest.mark.parametrize("path", PATHS)
def test_what_is_refused_has_a_receipt_and_what_is_not_parsed_has_none(talk: Talk, path: str) -> None:
    for change in ({"model": "no/such"}, {"provider": {"aci_session_ids": []}}):
        body = json.dumps(members(path, "a", **change)).encode()
        answer = talk.client.post(body, path=path)
        assert answer.status in (404, 412)
        assert talk.checked(path, body, answer) is None
    for garbage in (b"", b"[]", b"{}", b'{"model":', b"\xff", b'{"model":"x"}'):
        answer = talk.client.post(garbage, path=path)
        assert answer.status == 400
        assert "x-receipt-id" not in answer.headers


@pytest.mark.parametrize("path", STREAMED)
def test_a_client_that_leaves_has_a_receipt(echo: EchoServer, talk: Talk, path: str) -> None:
    body = json.dumps(members(path, "a b c d e f g h i", "echo:hang:5", stream=True)).encode()
    with Connection(echo.port) as leaving:
        leaving.send(request("POST", path, {"Content-Type": "application/json", **talk.client.headers}, body))
        named = leaving.head()[1]["x-receipt-id"]
        received = b""
        leaving.socket.settimeout(0.5)
        with suppress(TimeoutError):
            while True:
                received += leaving.chunk()
    until = time.monotonic() + PATIENCE  # the server notices some moments later
    while (fetched := talk.client.receipt(named)).status == 404 and time.monotonic() < until:
        time.sleep(0.05)
    document = fetched.body
    receipt = check_receipt(document, talk.keyset, asked=body, answered=received, endpoint=path)
    assert aborted(receipt) == "client_closed"


@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_for_an_old_client_comes_in_one_piece(talk: Talk, path: str) -> None:
    body = json.dumps(members(path, "the sea", stream=True)).encode()
    fields = {"Content-Type": "application/json", **talk.client.headers, "Content-Length": str(len(body))}
    answer = talk.client.exchange(request("POST", path, fields, version="1.0"), body)
    assert (answer.status, text_in(path, answer)) == (200, "the sea")
    assert any(end in answer.body for end in ENDS[path])
    assert talk.checked(path, body, answer) is None


def test_an_anthropic_client_shows_its_key_in_its_own_header(echo: EchoServer, talk: Talk) -> None:
    body = json.dumps(members(MESSAGES, "a")).encode()
    with echo.client(None) as nobody:
        assert nobody.post(body, {"X-Api-Key": echo.keys[0]}, path=MESSAGES).status == 200
        for key in ("", "x", echo.keys[0][:-1], "Bearer " + echo.keys[0]):
            answer = nobody.post(body, {"X-Api-Key": key}, path=MESSAGES)
            assert (answer.status, answer.json()["error"]["type"]) == (401, "authentication_error")
        answer = nobody.post(body, {"X-Api-Key": echo.keys[0], "Authorization": "Bearer x"}, path=MESSAGES)
        assert answer.status == 401, "two keys are no choice"
        assert nobody.post(body, {"X-Api-Key": echo.keys[0]}, path=RESPONSES).status == 401


# Sealing -------------------------------------------------------------------------------------------------------------


def sealed(talk: Talk, path: str, body: bytes, algo: str = X25519_SUITE) -> SealedCall:
    (key,) = (key for key in talk.keyset.e2ee_public_keys if key.algo == algo)
    return aci_v2.seal_request(body, path, algo, key.public_key, time.time())


@pytest.mark.parametrize("algo", [X25519_SUITE, SECP256K1_SUITE])
@pytest.mark.parametrize(("path", "stream"), [(COMPLETIONS, False), (COMPLETIONS, True), (EMBEDDINGS, False)])
def test_what_is_sealed_is_answered_sealed(talk: Talk, path: str, stream: bool, algo: str) -> None:
    text = "the secret of the deep sea"
    body = json.dumps(members(path, text, **({"stream": True} if stream else {}))).encode()
    call = sealed(talk, path, body, algo)
    answer = talk.client.post(call.body, call.headers, path=path)
    assert (answer.status, answer.headers["x-e2ee-applied"]) == (200, "true")
    assert b"secret" not in call.body + answer.body
    assert talk.checked(path, body, answer, hashed=call.restored) is None
    if stream:
        opened = call.opener.feed(answer.body)
        call.opener.end()
    else:
        opened = call.opener.whole(answer.body)
    if path == EMBEDDINGS:
        assert isinstance(json.loads(opened)["data"][0]["embedding"], list)
    else:
        assert text_in(path, Answer(200, answer.headers, opened)) == text
    again = talk.client.post(call.body, call.headers, path=path)
    assert (again.status, again.error()["type"]) == (400, "e2ee_replay_detected")


@pytest.mark.parametrize("prompt", [["one", "two"], "one"])
def test_each_prompt_is_sealed_at_its_place(talk: Talk, prompt: Any) -> None:
    body = json.dumps({"model": MODEL, "prompt": prompt}).encode()
    call = sealed(talk, COMPLETIONS, body)
    answer = talk.client.post(call.body, call.headers, path=COMPLETIONS)
    assert answer.status == 200, answer
    if isinstance(prompt, list):
        value = json.loads(call.body)
        value["prompt"].reverse()
        call = sealed(talk, COMPLETIONS, body)
        value = json.loads(call.body)
        value["prompt"].reverse()
        moved = talk.client.post(json.dumps(value).encode(), call.headers, path=COMPLETIONS)
        assert (moved.status, moved.error()["type"]) == (400, "e2ee_decryption_failed")


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_sealing_is_refused_where_it_is_not_defined(talk: Talk, path: str) -> None:
    headers = sealed(talk, COMPLETIONS, json.dumps(members(COMPLETIONS, "a")).encode()).headers
    answer = talk.client.post(json.dumps(members(path, "a")).encode(), headers, path=path)
    assert (answer.status, answer.json()["error"]["type"]) == (400, "e2ee_unsupported_endpoint")
    assert "x-receipt-id" not in answer.headers


# Nothing is left behind ----------------------------------------------------------------------------------------------


def marked(mark: Marks) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests with marks wherever a client may write something."""
    tool = {"type": "function", "name": mark(), "description": mark(), "parameters": {"properties": {mark(): {}}}}
    picture = f"data:image/png;base64,{mark()}"
    yield COMPLETIONS, {"prompt": [mark(), mark()], "suffix": mark(), "stop": [mark()], mark(): mark()}
    yield COMPLETIONS, {"prompt": mark(), "user": mark(), "metadata": {mark(): mark()}, "logit_bias": {mark(): 1}}
    yield COMPLETIONS, {"prompt": {mark(): mark()}}
    yield COMPLETIONS, {"prompt": mark(), "guided_regex": mark()}
    yield EMBEDDINGS, {"input": [mark(), mark()], "encoding_format": mark()}
    yield EMBEDDINGS, {"input": mark(), "task": mark()}
    yield (
        RESPONSES,
        {"input": mark(), "instructions": mark(), "metadata": {mark(): mark()}, "previous_response_id": mark()},
    )
    yield RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": mark()}]}], "tools": [tool]}
    yield RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": picture}]}]}
    yield RESPONSES, {"input": [{"type": mark(), "content": mark()}]}
    yield RESPONSES, {"input": [{"type": "function_call", "call_id": mark(), "name": mark(), "arguments": mark()}]}
    yield RESPONSES, {"input": mark(), "tools": [{"type": mark(), "server_url": mark()}], "tool_choice": mark()}
    blocks = [
        {"type": "text", "text": mark()},
        {"type": "tool_use", "id": mark(), "name": mark(), "input": {mark(): 1}},
    ]
    yield MESSAGES, {"messages": [{"role": "user", "content": blocks}], "max_tokens": 9, "system": mark()}
    source = {"type": "base64", "media_type": "image/png", "data": mark()}
    yield MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}], "max_tokens": 9}
    yield (
        MESSAGES,
        {"messages": [{"role": "user", "content": mark()}], "max_tokens": mark(), "stop_sequences": [mark()]},
    )
    yield MESSAGES, {"messages": [{"role": mark(), "content": mark()}], "max_tokens": 9, "mcp_servers": [mark()]}
    for path in PATHS:
        yield path, {**members(path, mark()), mark(): mark()}


def send_marked(client: Client, marks: Marks) -> int:
    """All of them, and the echo's ways to go wrong; how many were answered with 200."""
    well = 0
    for (path, body), stream in itertools.product(list(marked(marks)), (False, True)):
        text = json.dumps({"model": MODEL, "stream": stream, **body}).encode()
        well += client.post(text, path=path).status == 200
    for path, what, stream in itertools.product(PATHS, EVERY_WHAT, (False, True)):
        client.post(json.dumps(members(path, marks(), f"echo:{what} {marks()}", stream=stream)).encode(), path=path)
    for path, garbage in itertools.product(PATHS, marks.garbage()):
        client.post(garbage, {"X-Api-Key": marks(), "Anthropic-Version": marks()}, path=path)
    return well


def test_no_mark_is_left_behind(tmp_path: Path) -> None:
    marks = Marks()
    with echoing(tmp_path, "--root", secrets.token_hex(32), "--keep-alive", "0.05") as server:
        with server.client() as client:
            assert send_marked(client, marks) > 10
        places = [server.data, tmp_path / "tmp", *server.logs]
        assert found([marks.start.encode()], places) == []
        server.end()
        assert found([marks.start.encode()], places) == []
        assert "RuntimeError" in server.logs[0].read_text()
