"""The HTTP engine against stand-ins: what each fault ends in. No clock is asserted on: a test that hangs has failed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.engine.remote.asking import ID, SECRET, WEATHER, assembled, chat_call, chunks
from tests.simulator.engine_dialects import CONTEXT, MODEL, TEXT, refusal
from tests.simulator.engines import StandIn, standing_in

from confide.engine.remote.address import parse_address
from confide.engine.remote.channel import Timeouts
from confide.engine.remote.dialect import DIALECTS
from confide.engine.remote.engine import RemoteEngine, RemoteModel, RemoteReply
from confide.errors import (
    ApiError,
    ConfigError,
    EngineFailed,
    InvalidRequest,
    OperatorError,
    TooManyRequests,
    Unavailable,
)
from confide.wire.answers import Usage

NAMES = pytest.mark.parametrize("name", DIALECTS)
BRIEF = Timeouts(connect=5, first=0.2, between=0.2, total=20)
SALT = bytes(range(32))
Work = Callable[[RemoteEngine], Awaitable[Any]]


def settings(stand_in: StandIn, **more: Any) -> RemoteModel:
    return RemoteModel(parse_address(stand_in.url), **({"dialect": stand_in.dialect, "context_length": CONTEXT} | more))


def using(stand_in: StandIn, work: Work, **more: Any) -> Any:
    """Run some work with an engine that is attached to a stand-in."""

    async def run() -> Any:
        async with asyncio.timeout(30):
            engine = await RemoteEngine.open(settings(stand_in, **more))
            try:
                return await work(engine)
            finally:
                await engine.close()
                assert engine.outstanding == 0

    return asyncio.run(run())


async def answered(engine: RemoteEngine, **members: Any) -> bytes:
    """The whole answer to one request."""
    async with aclosing(await engine.chat(chat_call(**members))) as reply:
        return b"".join([piece async for piece in reply])


async def events(reply: RemoteReply, into: list[bytes]) -> None:
    async with aclosing(reply):
        async for piece in reply:
            into.append(piece)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what happens in the stand-in's thread."""
    while not true():  # noqa: ASYNC110 - it is another loop's
        await asyncio.sleep(0.01)


def refused(stand_in: StandIn, kind: type[ApiError], **more: Any) -> ApiError:
    """The error with which the engine refuses a request, before any byte of an answer."""
    members = {"stream": True} | more.pop("members", {})

    async def work(engine: RemoteEngine) -> ApiError:
        with pytest.raises(kind) as caught:
            await engine.chat(chat_call(**members))
        assert SECRET not in str(caught.value)
        assert engine.outstanding == 0
        return caught.value

    error: ApiError = using(stand_in, work, **more)
    return error


def broken(stand_in: StandIn, **more: Any) -> tuple[list[bytes], EngineFailed]:
    """What came of a stream before it broke, and how."""

    async def work(engine: RemoteEngine) -> tuple[list[bytes], EngineFailed]:
        into: list[bytes] = []
        reply = await engine.chat(chat_call(stream=True))
        with pytest.raises(EngineFailed) as caught:
            await events(reply, into)
        assert SECRET not in str(caught.value)
        return into, caught.value

    found: tuple[list[bytes], EngineFailed] = using(stand_in, work, **more)
    return found


# Attaching -----------------------------------------------------------------------------------------------------------


@NAMES
def test_what_an_engine_says_of_itself(name: str) -> None:
    with standing_in(
        name, pages={"/openapi.json": {"paths": {"/load_model": {}}}} if name == "transformers" else {}
    ) as one:

        async def work(engine: RemoteEngine) -> None:
            assert engine.dialect is DIALECTS[name]
            assert engine.info.engine == DIALECTS[name].engine
            assert engine.info.context_length == engine.info.max_output_length == CONTEXT
            assert engine.info.parameters == DIALECTS[name].parameters
            assert engine.info.sees is (name in {"sglang", "llama-server", "ollama"})
            assert engine.info.created == 77
            assert await engine.healthy()

        told = None if name != "transformers" else CONTEXT
        using(one, work, dialect="auto", context_length=told, created=77)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("vllm", "0.32.0"),
        ("sglang", "0.5.23"),
        ("llama-server", "b11434-abcdef"),
        ("ollama", "0.21.0"),
        ("transformers", "unknown"),
        ("openai", "unknown"),
    ],
)
def test_versions(name: str, version: str) -> None:
    async def work(engine: RemoteEngine) -> str:
        return engine.info.version

    with standing_in(name) as one:
        assert using(one, work) == version


def test_a_version_is_only_taken_if_it_looks_like_one() -> None:
    async def work(engine: RemoteEngine) -> str:
        return engine.info.version

    with standing_in("vllm", pages={"/version": {"version": "1.0\n<script>"}}) as one:
        assert using(one, work) == "unknown"


def test_settings_win() -> None:
    async def work(engine: RemoteEngine) -> tuple[int, bool]:
        return engine.info.context_length, engine.info.sees

    with standing_in("sglang") as one:
        assert using(one, work, context_length=99, vision=False) == (99, False)
    with standing_in("vllm") as one:
        assert using(one, work, context_length=99, vision=True) == (99, True)


def test_ollama_says_what_a_loaded_model_really_gets() -> None:
    async def work(engine: RemoteEngine) -> int:
        return engine.info.context_length

    loaded = {"models": [{"name": "another", "context_length": 1}, {"name": MODEL, "context_length": 2048}]}
    with standing_in("ollama", pages={"/api/ps": loaded}) as one:
        assert using(one, work, context_length=None) == 2048


def test_slots_of_llama_server_are_choices() -> None:
    async def work(engine: RemoteEngine) -> int:
        return engine.info.max_choices

    with standing_in("llama-server") as one:
        assert using(one, work) == 2


@pytest.mark.parametrize(
    ("name", "pages"),
    [
        ("llama-server", {"/props": {"chat_template_caps": {"supports_tools": False}}}),
        ("ollama", {"/api/show": {"capabilities": ["completion"]}}),
    ],
)
def test_tools_that_the_chat_template_would_drop_are_not_honoured(name: str, pages: dict[str, Any]) -> None:
    async def work(engine: RemoteEngine) -> frozenset[str]:
        return engine.info.parameters

    with standing_in(name, pages=pages) as one:
        found = using(one, work)
    assert DIALECTS[name].parameters - found == {
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
    }


def test_llama_server_answers_to_any_name() -> None:
    async def work(engine: RemoteEngine) -> None:
        assert engine.dialect is DIALECTS["llama-server"]
        await answered(engine)

    with standing_in("llama-server") as one:
        using(one, work, dialect="auto", model="whatever")
        using(one, work, model="whatever")
        assert {request.json["model"] for request in one.chats} == {"whatever"}


@pytest.mark.parametrize("dialect", ["auto", "transformers"])
@pytest.mark.parametrize("models", [500, {"data": [{"id": "another", "owned_by": "somebody"}]}], ids=["none", "others"])
def test_transformers_lists_what_is_in_the_hubs_cache_alone(models: Any, dialect: str) -> None:
    """And fails where there is none. It serves the path of a folder all the same."""
    pages = {"/openapi.json": {"paths": {"/load_model": {}}}, "/v1/models": models}

    async def work(engine: RemoteEngine) -> None:
        assert engine.dialect is DIALECTS["transformers"]
        assert json.loads(await answered(engine))["choices"]

    with standing_in("transformers", pages=pages, known_models=False) as one:
        using(one, work, dialect=dialect, model="/srv/weights", context_length=CONTEXT)
        assert one.chats[-1].json["model"] == "/srv/weights"


def test_an_engine_that_says_little_is_a_general_one() -> None:
    async def work(engine: RemoteEngine) -> None:
        assert engine.dialect is DIALECTS["openai"]
        await answered(engine)

    broken_pages = {"/api/version": b"[]", "/openapi.json": b" " * (5 << 20)}
    with standing_in("openai", pages=broken_pages) as one:
        using(one, work, dialect="auto")


def test_ollama_that_does_not_show_its_model() -> None:
    with standing_in("ollama", pages={"/api/show": b" " * (5 << 20)}) as one:
        using(one, _nothing)
        with pytest.raises(ConfigError, match="context length"):
            using(one, _nothing, context_length=None)


async def _nothing(engine: RemoteEngine) -> None: ...


@pytest.mark.parametrize(
    ("pages", "more", "kind"),
    [
        ({}, {"model": "secret/other"}, ConfigError),
        ({"/v1/models": {"data": []}}, {}, ConfigError),
        ({"/v1/models": {"data": [{"id": "secret-a"}, {"id": "secret-b"}]}}, {}, ConfigError),
        ({"/v1/models": {"data": [{"id": 7}]}}, {}, ConfigError),
        ({"/v1/models": {"data": [{"id": "a"}]}}, {"context_length": None, "dialect": "vllm"}, ConfigError),
        ({"/v1/models": {"data": "secret"}}, {}, OperatorError),
        ({"/v1/models": b"<html>secret</html>"}, {}, OperatorError),
        ({"/v1/models": [1]}, {}, OperatorError),
        ({"/v1/models": 500}, {}, OperatorError),
        ({"/v1/models": b" " * (5 << 20)}, {}, OperatorError),
        ({}, {"dialect": "gpt"}, ConfigError),
    ],
)
def test_what_can_not_be_attached_to(pages: dict[str, Any], more: dict[str, Any], kind: type[OperatorError]) -> None:
    with standing_in("vllm", pages=pages) as one, pytest.raises(kind) as caught:
        using(one, _nothing, **more)
    assert "secret" not in str(caught.value)
    assert str(one.url.split(":")[2].split("/")[0]) not in str(caught.value)


def test_sglangs_router_is_not_sglang() -> None:
    """It would drop the salt, and we would believe that tenants' caches are apart."""
    pages = {"/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "local"}]}}
    with standing_in("sglang", pages=pages) as one:
        with pytest.raises(ConfigError, match="router"):
            using(one, _nothing, dialect="sglang")
        using(one, _nothing, dialect="openai")


def test_an_adapter_is_not_the_model() -> None:
    entries = [{"id": MODEL, "max_model_len": 5, "parent": None}, {"id": "adapter", "parent": MODEL}]
    with standing_in("vllm", pages={"/v1/models": {"data": entries}}) as one:
        using(one, _nothing, context_length=None)


def test_nobody_listens() -> None:
    with standing_in("vllm") as one:
        pass
    with pytest.raises(OperatorError, match="can't be reached"):
        using(one, _nothing)


def test_the_engines_own_key() -> None:
    with standing_in("vllm", key="sk-engine") as one:
        assert b"[" not in using(one, answered, api_key="sk-engine")[:1]
        with pytest.raises(ConfigError, match="refuses the API key") as caught:
            using(one, _nothing, api_key="sk-wrong")
        assert "sk-wrong" not in str(caught.value)
        assert "sk-" not in repr(settings(one, api_key="sk-engine", salt_secret=SALT))


def test_who_can_not_keep_caches_apart_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with standing_in("ollama") as one, caplog.at_level(logging.WARNING):
        using(one, _nothing, salt_secret=SALT)
    assert "apart" in caplog.text


# Answers -------------------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("split", [0, 1, 7])
def test_a_stream(name: str, split: int) -> None:
    async def work(engine: RemoteEngine) -> None:
        into: list[bytes] = []
        call = chat_call(stream=True, stream_options={"include_usage": True})
        reply = await engine.chat(call)
        assert engine.outstanding == 1
        await events(reply, into)
        *answer, last = chunks(into)
        assert assembled(answer)[0]["content"] == TEXT
        assert last["usage"]["completion_tokens"] == reply.usage.completion == len(TEXT.split())
        assert engine.outstanding == 0

    with standing_in(name, split=split) as one:
        using(one, work)


@NAMES
def test_a_whole_answer(name: str) -> None:
    async def work(engine: RemoteEngine) -> None:
        async with aclosing(await engine.chat(chat_call())) as reply:
            (body,) = [piece async for piece in reply]
            assert reply.usage == Usage(9, len(TEXT.split()))
        found = json.loads(body)
        assert found["id"] == ID
        assert found["choices"][0]["message"]["content"] == TEXT

    with standing_in(name) as one:
        using(one, work)


def test_a_conforming_stream_leaves_the_engine_and_reaches_the_client_unchanged() -> None:
    async def work(engine: RemoteEngine) -> bytes:
        return await answered(engine, stream=True, stream_options={"include_usage": True})

    written: list[bytes] = []

    def remember(payloads: list[Any]) -> list[Any]:
        written.extend(
            b"data: " + json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
            for one in payloads
        )
        return payloads

    with standing_in("vllm", edit=remember, split=3) as one:
        assert using(one, work) == b"".join(written)


def test_llama_servers_choices_are_all_counted() -> None:
    async def work(engine: RemoteEngine) -> None:
        found = json.loads(await answered(engine, n=2))
        assert found["usage"]["completion_tokens"] == 2 * len(TEXT.split())
        assert [choice["message"]["content"] for choice in found["choices"]] == [TEXT, TEXT]

    with standing_in("llama-server") as one:
        using(one, work)
        assert one.chats[0].json["stream"] is True


def test_whole_answers_of_transformers_come_from_streams() -> None:
    """Those it stops when nobody waits for them any more."""

    async def work(engine: RemoteEngine) -> None:
        found = json.loads(await answered(engine))
        assert found["choices"][0]["message"]["content"] == TEXT
        assert found["usage"]["completion_tokens"] == len(TEXT.split())

    with standing_in("transformers") as one:
        using(one, work, dialect="transformers", model=MODEL, context_length=CONTEXT)
        assert one.chats[0].json["stream"] is True


def test_over_a_unix_socket(tmp_path: Path) -> None:
    with standing_in("vllm", uds=str(tmp_path / "engine.sock")) as one:
        assert json.loads(using(one, answered))["choices"]


def test_what_the_engine_gets() -> None:
    async def work(engine: RemoteEngine) -> str:
        async with aclosing(await engine.chat(chat_call(cache_salt="mine"))) as reply:
            return reply.forwarded

    with standing_in("vllm") as one:
        digest = using(one, work, salt_secret=SALT, api_key="sk-engine")
        (got,) = one.chats
    assert digest == f"sha256:{hashlib.sha256(got.body).hexdigest()}"
    assert got.headers["accept-encoding"] == "identity"
    assert got.headers["authorization"] == "Bearer sk-engine"
    assert got.headers["content-type"] == "application/json"
    assert re.fullmatch("[A-Za-z0-9_-]{43}", got.json["cache_salt"])


def test_tenants_have_salts_of_their_own() -> None:
    async def work(engine: RemoteEngine) -> None:
        for tenant in ("key_1", "key_2", "key_1"):
            async with aclosing(await engine.chat(chat_call(tenant=tenant))):
                pass

    with standing_in("vllm") as one:
        using(one, work, salt_secret=SALT)
        first, second, third = (request.json["cache_salt"] for request in one.chats)
    assert first == third != second


def test_nothing_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with standing_in("vllm") as one:
        using(one, answered)


def test_connections_serve_many_requests() -> None:
    async def work(engine: RemoteEngine) -> None:
        for stream in (True, False) * 5:
            await answered(engine, stream=stream)

    with standing_in("vllm") as one:
        using(one, work)
        assert len(one.chats) == 10
        assert one.connections == 1


def test_no_more_at_once_than_allowed() -> None:
    async def work(engine: RemoteEngine) -> None:
        first, second = [await engine.chat(chat_call(stream=True)) for _ in range(2)]
        with pytest.raises(TooManyRequests) as caught:
            await engine.chat(chat_call(stream=True))
        assert caught.value.headers == {"Retry-After": "1"}
        await first.aclose()
        await first.aclose()
        assert engine.outstanding == 1
        await answered(engine)
        await second.aclose()

    with standing_in("vllm", stall_after=2) as one:
        using(one, work, max_outstanding=2)


# The client leaves ---------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_ends_the_engines_work() -> None:
    async def work(engine: RemoteEngine) -> None:
        reply = await engine.chat(chat_call(stream=True))
        pieces = aiter(reply)
        await anext(pieces)
        assert not one.left.is_set()
        await reply.aclose()
        assert await asyncio.to_thread(one.left.wait, 10)
        with pytest.raises(EngineFailed):
            await anext(pieces)

    with standing_in("vllm", stall_after=3) as one:
        using(one, work)


@pytest.mark.parametrize("members", [{"stream": True}, {}])
def test_a_client_that_leaves_before_the_first_event(members: dict[str, Any]) -> None:
    async def work(engine: RemoteEngine) -> None:
        task = asyncio.create_task(engine.chat(chat_call(**members)))
        await until(lambda: bool(one.chats))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(one.left.wait, 10)
        assert engine.outstanding == 0

    with standing_in("vllm", silent=True) as one:
        using(one, work)


def test_a_task_cancelled_in_mid_stream() -> None:
    async def work(engine: RemoteEngine) -> None:
        into: list[bytes] = []
        task = asyncio.create_task(events(await engine.chat(chat_call(stream=True)), into))
        await until(lambda: len(into) > 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(one.left.wait, 10)

    with standing_in("vllm", stall_after=3) as one:
        using(one, work)


def test_closing_ends_what_is_under_way() -> None:
    async def work(engine: RemoteEngine) -> None:
        into: list[bytes] = []
        streaming = asyncio.create_task(events(await engine.chat(chat_call(stream=True)), into))
        one.now(silent=True)
        waiting = asyncio.create_task(engine.chat(chat_call()))
        await until(lambda: len(into) > 1 and len(one.chats) > 1)
        await engine.close()
        await engine.close()
        for task in (streaming, waiting):
            with pytest.raises(EngineFailed):
                await task

    with standing_in("vllm", stall_after=3) as one:
        using(one, work)


# Faults before the first byte ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [{"stream": True}, {"stream": False}])
def test_it_dies_before_the_first_byte(members: dict[str, Any]) -> None:
    """502, once it has done so on a new connection too: the first one had served the probe, and might be stale."""
    with standing_in("vllm", die_after=0) as one:

        async def work(engine: RemoteEngine) -> None:
            with pytest.raises(EngineFailed) as caught:
                await engine.chat(chat_call(**members))
            assert caught.value.status == 502

        using(one, work)
        assert one.died == 2
        assert one.connections == 2


def test_it_dies_once_on_a_connection_that_was_kept() -> None:
    """As a stale connection does: the request is sent again, on a new one."""
    with standing_in("vllm", die_after=0, deaths=1) as one:
        assert json.loads(using(one, answered))["choices"]
        assert (one.died, len(one.chats), one.connections) == (1, 2, 2)
        assert one.chats[0].body == one.chats[1].body


def test_it_dies_on_a_new_connection() -> None:
    async def work(engine: RemoteEngine) -> None:
        held = await engine.chat(chat_call(stream=True))  # keeps the connection that there is
        one.now(die_after=0)
        with pytest.raises(EngineFailed):
            await engine.chat(chat_call(stream=True))
        assert one.died == 1
        await held.aclose()

    with standing_in("vllm", stall_after=3) as one:
        using(one, work)


def test_connections_closed_at_random() -> None:
    async def work(engine: RemoteEngine) -> None:
        for stream in (True, False) * 20:
            await answered(engine, stream=stream)
        results = await asyncio.gather(*(answered(engine, stream=True) for _ in range(20)))
        assert len(set(results)) == 1

    with standing_in("vllm", hang_up=3) as one:
        using(one, work)
        assert one.connections > 10


def test_it_is_gone() -> None:
    async def work(engine: RemoteEngine) -> ApiError:
        one_up.__exit__(None, None, None)
        assert not await engine.healthy()
        with pytest.raises(EngineFailed, match="could not be reached") as caught:
            await engine.chat(chat_call(stream=True))
        return caught.value

    one_up = standing_in("vllm")
    one = one_up.__enter__()
    error: ApiError = using(one, work)
    assert error.status == 502


@pytest.mark.parametrize("members", [{"stream": True}, {"stream": False}])
def test_it_never_answers(members: dict[str, Any]) -> None:
    patience = BRIEF if members["stream"] else Timeouts(total=0.2)
    with standing_in("vllm", silent=True) as one:
        error = refused(one, EngineFailed, members=members, timeouts=patience)
        assert error.message == "The engine did not answer in time."
        assert one.left.wait(10)


def test_it_answers_with_headers_only() -> None:
    with standing_in("vllm", stall_after=0) as one:
        error = refused(one, EngineFailed, timeouts=BRIEF)
        assert error.message == "The engine did not answer in time."
        assert one.left.wait(10)


def test_keep_alive_comments_are_no_answer() -> None:
    with standing_in("vllm", events=(b": ping\n\n",) * 10_000, pace=0.02) as one:
        refused(one, EngineFailed, timeouts=BRIEF)


@pytest.mark.parametrize("members", [{"stream": True}, {"stream": False}])
def test_it_does_not_speak_http(members: dict[str, Any]) -> None:
    with standing_in("vllm", garbage="http") as one:
        refused(one, EngineFailed, members=members)


@pytest.mark.parametrize("members", [{"stream": True}, {"stream": False}])
def test_it_compresses(members: dict[str, Any]) -> None:
    with standing_in("vllm") as one:

        async def work(engine: RemoteEngine) -> None:
            one.now(compressed=True)
            with pytest.raises(EngineFailed, match="compressed"):
                await engine.chat(chat_call(**members))

        using(one, work)


def test_a_whole_answer_that_is_too_long() -> None:
    with standing_in("vllm", huge=70 << 20) as one:
        error = refused(one, EngineFailed, members={"stream": False})
        assert "too long" in error.message


def test_an_event_that_is_too_long() -> None:
    with standing_in("vllm", huge=16 << 20, events=()) as one:
        refused(one, EngineFailed)


@pytest.mark.parametrize("finish", ["abort", None])
def test_a_whole_answer_that_was_aborted(finish: Any) -> None:
    def abort(payloads: list[Any]) -> list[Any]:
        payloads[0]["choices"][0]["finish_reason"] = finish
        return payloads

    with standing_in("sglang", edit=abort) as one:
        refused(one, EngineFailed, members={"stream": False})


@NAMES
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, EngineFailed) for status in (204, 302, 401, 404, 500)),
        *((status, InvalidRequest) for status in (400, 422)),
        (429, TooManyRequests),
        (503, Unavailable),
    ],
)
def test_refusals_of_each_engine(name: str, status: int, kind: type[ApiError]) -> None:
    leak = f"{SECRET} in /models/secret-folder at 10.0.0.1:80"
    headers = {"Retry-After": "9", "Location": "http://127.0.0.1:9/"}
    with standing_in(name, status=status, refusal=leak, headers=headers) as one:
        error = refused(one, kind)
        assert len(one.chats) == 1, "no redirect, no second try"
    assert "secret" not in json.dumps(error.body())
    assert kind not in {TooManyRequests, Unavailable} or error.headers == {"Retry-After": "9"}


def test_a_prompt_that_is_too_long() -> None:
    message = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens"
    with standing_in("vllm", status=400, refusal=message) as one:
        error = refused(one, InvalidRequest)
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize("status", [400, 500])
def test_a_huge_error(status: int) -> None:
    body = json.dumps(refusal("vllm", status, SECRET)).encode() + b" " * (8 << 20)
    with standing_in("vllm", status=status, refusal=json.loads(body)) as one:
        one.now(huge=8 << 20)
        refused(one, ApiError)


def test_an_error_event_comes_first() -> None:
    said = {"error": {"message": SECRET, "type": "BadRequestError", "param": None, "code": 400}}
    with standing_in("vllm", events=(said,)) as one:
        assert refused(one, InvalidRequest).status == 400


def test_what_can_not_be_honoured_is_not_sent() -> None:
    with standing_in("llama-server") as one:
        error = refused(one, InvalidRequest, members={"tools": [WEATHER], "tool_choice": "required"})
        assert error.param == "tool_choice"
        assert not one.chats


# Faults in mid-stream ------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("after", [1, 4])
def test_it_dies_in_mid_stream(name: str, after: int) -> None:
    with standing_in(name, die_after=after) as one:
        came, error = broken(one)
        assert error.status == 502
        assert len(chunks(came)) == after
        assert len(one.chats) == 1, "never twice: the client has seen the beginning"


@pytest.mark.parametrize("garbage", ["event", "line"])
def test_garbage_in_mid_stream(garbage: str) -> None:
    with standing_in("vllm", garbage=garbage) as one:
        came, _ = broken(one)
        assert len(came) == 2


def test_it_stalls_between_events() -> None:
    with standing_in("vllm", stall_after=3) as one:
        came, error = broken(one, timeouts=Timeouts(between=0.2))
        assert error.message == "The engine stopped in the middle of its answer."
        assert len(came) == 3
        assert one.left.wait(10)


def test_it_is_too_slow_in_total() -> None:
    with standing_in("vllm", text="word " * 1000, pace=0.02) as one:
        _, error = broken(one, timeouts=Timeouts(total=0.5))
        assert error.message == "The engine stopped in the middle of its answer."
        assert one.left.wait(10)


def test_it_ends_without_an_end() -> None:
    def cut(payloads: list[Any]) -> list[Any]:
        return payloads[:4]

    with standing_in("vllm", edit=cut) as one:
        came, error = broken(one)
        assert len(came) == 4
        assert error.message == "The engine stopped before the answer was complete."


@pytest.mark.parametrize("reason", ["abort", None])
def test_it_aborts(reason: str | None) -> None:
    def abort(payloads: list[Any]) -> list[Any]:
        for one in payloads:
            for choice in one["choices"]:
                choice["finish_reason"] = reason if choice["finish_reason"] else None
        return payloads

    with standing_in("sglang", edit=abort) as one:
        broken(one)


def test_an_error_event_in_mid_stream() -> None:
    def fail(payloads: list[Any]) -> list[Any]:
        return [*payloads[:3], {"error": {"object": "error", "message": SECRET, "code": 400}}]

    with standing_in("sglang", edit=fail) as one:
        came, error = broken(one)
        assert len(came) == 3
        assert error.message == "The engine failed while it answered."


def test_without_done() -> None:
    with standing_in("vllm", done=False) as one:

        async def work(engine: RemoteEngine) -> None:
            assert (await answered(engine, stream=True)).endswith(b"}\n\n")

        using(one, work)


def test_health() -> None:
    async def work(engine: RemoteEngine) -> None:
        assert await engine.healthy()
        one.now(sick=True)
        assert not await engine.healthy()
        one.now(sick=False)
        assert await engine.healthy()

    with standing_in("vllm") as one:
        using(one, work)


def test_no_content_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for faults in ({}, {"die_after": 2}, {"garbage": "event"}, {"status": 400, "refusal": SECRET}):
        with standing_in("vllm", **faults) as one:

            async def work(engine: RemoteEngine) -> None:
                try:
                    await answered(engine, stream=True)
                except ApiError as error:
                    logging.getLogger("test").error("%r", error)

            using(one, work, api_key="sk-engine", salt_secret=SALT)
            assert one.url not in caplog.text
    assert SECRET not in caplog.text
    assert "sk-engine" not in caplog.text
