"""The embedded engine: a model in this process, so that no plaintext crosses a socket.

A request becomes a plan (:mod:`confide.engine.prompt`), each choice of it takes a slot and generates, and what is
generated becomes deltas: text, or calls read back from the constrained text. What was decoded under a constraint is
checked again when it is complete: the promise doesn't rest on one library alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final

from confide.engine import gguf, grammar, translate
from confide.engine.base import COMPLETIONS, Call, ChatCall, EngineInfo, Reply
from confide.engine.embeddedmodel import EmbeddedModel
from confide.engine.llama import Event, LlamaServer
from confide.engine.prompt import Plan, plan
from confide.engine.reading import Reading
from confide.engine.reading import reading as new_reading
from confide.engine.running import Run, merged, summed
from confide.engine.slots import SlotPool
from confide.engine.textreply import TEXT_PARAMETERS, Runner, TextReply
from confide.errors import EngineFailed, InvalidRequest, ModelFileError
from confide.wire.answers import (
    AnswerHead,
    ChunkWriter,
    Collector,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    Usage,
)
from confide.wire.openai import ChatRequest
from confide.wire.texts import CompletionRequest

PARAMETERS: Final = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "response_format"),
        *(
            "top_k",
            "min_p",
            "typical_p",
            "repetition_penalty",
            "repeat_penalty",
            "ignore_eos",
            "chat_template_kwargs",
        ),
        "modalities",
    }
)
"""What this engine honours."""

_DEFAULT_CONTEXT: Final = 8192


class EmbeddedEngine:
    """:class:`~confide.engine.base.Engine` over llama.cpp."""

    def __init__(self, model: EmbeddedModel) -> None:
        """Load the model; takes seconds.

        Raises:
            ModelFileError: the file is not one that can be served.
        """
        described = gguf.read(model.path)
        if not described.has_chat_template:
            raise ModelFileError(
                f"{model.path}: the model has no chat template, so it can't chat. Use an instruction-tuned model."
            )
        trained = described.context_length or _DEFAULT_CONTEXT
        context = min(model.context_length or _DEFAULT_CONTEXT, trained)
        self._vocabulary = described.vocabulary
        self._most_bytes = context * described.longest_token if described.longest_token else None
        self._closed = False
        self._llama = LlamaServer(
            model.path,
            projector=model.projector,
            slots=model.slots,
            context_length=context,
            threads=model.threads,
        )
        self._pool = SlotPool(model.slots, max_queue=model.max_queue, queue_timeout=model.queue_timeout)
        self._under_way: set[Run] = set()
        self._info = EngineInfo(
            engine="llama.cpp (xllamacpp)",
            version=self._llama.version,
            context_length=context,
            max_output_length=context,
            parameters=PARAMETERS,
            input_modalities=("text", "image") if model.projector else ("text",),
            max_choices=model.slots,
            created=model.created,
            also={COMPLETIONS: TEXT_PARAMETERS},
        )

    @property
    def info(self) -> EngineInfo:
        """What this engine has."""
        return self._info

    @property
    def outstanding(self) -> int:
        """How many choices are being made."""
        return self._pool.busy

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return self._pool.waiting

    async def chat(self, call: ChatCall) -> Reply:
        """Plan, compile, take a slot and wait until the model has begun with the prompt."""
        self._check_bias(call.request)
        # Preparing and compiling a schema is bounded, but may take a good part of a second.
        planned = await asyncio.to_thread(_plan, call.request) if _is_constrained(call.request) else plan(call.request)
        self._check_length(planned)
        choices = [self._choice(call, planned, index) for index in range(call.request.n or 1)]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(choices[0].aclose)
            await choices[0].start()
            undo.pop_all()
        return EmbeddedReply(call, self._info, choices)

    def _check_bias(self, request: ChatRequest | CompletionRequest) -> None:
        for key in request.logit_bias or ():
            if self._vocabulary is not None and int(key) >= self._vocabulary:
                raise InvalidRequest(
                    f"Invalid key in 'logit_bias': the model's token ids end at {self._vocabulary - 1}.",
                    param="logit_bias",
                    code="invalid_value",
                )

    def _check_length(self, planned: Plan) -> None:
        """Refuse what can't fit whatever its tokens are: to count the tokens of megabytes would take seconds."""
        self._check_size(sum(_size(message["content"]) for message in planned.messages), "messages")

    def _check_size(self, size: int, param: str) -> None:
        if self._most_bytes is not None and size > self._most_bytes:
            context = self._info.context_length
            raise translate.too_long(context, f"at least {size * context // self._most_bytes + 1}", param=param)

    def _choice(self, call: ChatCall, planned: Plan, index: int) -> _Choice:
        run = Run(
            generate=lambda lease: self._llama.generate(translate.payload(call.request, planned, lease, index)),
            pool=self._pool,
            under_way=self._under_way,
            tenant=call.tenant,
            hashes=[hash(str(message)) for message in planned.messages],
            refused=_template_refused(),
            admitted=index > 0,
        )
        return _Choice(run, call, planned, index)

    async def infer(self, call: Call[CompletionRequest]) -> Reply:
        """The same for a request for completions of texts."""
        self._check_bias(call.request)
        for prompt in call.request.prompts:
            self._check_size(len(prompt.encode("utf-8", "surrogatepass")) if isinstance(prompt, str) else 0, "prompt")
        runner = Runner(self._llama, self._pool, self._under_way)
        reply = TextReply(call, self._info, runner)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(reply.aclose)
            await reply.start()
            undo.pop_all()
        return reply

    async def close(self) -> None:
        """Turn away who waits, end what is under way with an error, and unload the model. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._pool.close()
        for run in list(self._under_way):
            await run.aclose()
        await asyncio.to_thread(self._llama.close)


def _template_refused() -> InvalidRequest:
    return InvalidRequest(
        "The model's chat template or engine refused this conversation; check the order and the roles of the "
        "messages, and 'chat_template_kwargs'.",
        param="messages",
    )


def _size(content: Any) -> int:
    """The bytes of a message's text; of images nothing, they are bounded elsewhere."""
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def _is_constrained(request: ChatRequest) -> bool:
    return request.response_format is not None or request.tools is not None or request.functions is not None


def _plan(request: ChatRequest) -> Plan:
    planned = plan(request)
    if planned.grammar is not None and planned.form == "json":
        grammar.check(planned.grammar, param="response_format", code="invalid_json_schema")
    elif planned.grammar is not None:
        param = "tools" if request.functions is None else "functions"
        grammar.check(planned.grammar, param=param, code="invalid_function_parameters")
    return planned


class EmbeddedReply:
    """An answer being generated: :class:`~confide.engine.base.Reply`."""

    def __init__(self, call: ChatCall, info: EngineInfo, choices: list[_Choice]) -> None:
        self._choices = choices
        self._request = call.request
        self._head = AnswerHead(
            id=call.id,
            created=call.created,
            model=call.model,
            fingerprint=f"fp_{info.version}",
            legacy_functions=call.request.functions is not None,
        )

    @property
    def usage(self) -> Usage:
        """Tokens until now."""
        return summed([choice.run for choice in self._choices])

    def __aiter__(self) -> AsyncIterator[bytes]:
        """SSE events, or one body."""
        return self._stream() if self._request.stream else self._body()

    async def _stream(self) -> AsyncIterator[bytes]:
        writer = ChunkWriter(self._head)
        for choice in self._choices:
            yield writer.role(choice.index)
        async with aclosing(merged(self._choices)) as deltas:
            async for delta in deltas:
                yield writer.delta(delta)
        options = self._request.stream_options
        if options is not None and options.include_usage:
            yield writer.usage(self.usage)

    async def _body(self) -> AsyncIterator[bytes]:
        collector = Collector(self._head, len(self._choices))
        async with aclosing(merged(self._choices)) as deltas:
            async for delta in deltas:
                collector.add(delta)
        yield collector.body(self.usage)

    async def aclose(self) -> None:
        """Stop all choices."""
        for choice in self._choices:
            await choice.aclose()


@dataclass(eq=False, slots=True)
class _Choice:
    """One choice: what its events mean."""

    run: Run
    call: ChatCall
    plan: Plan
    index: int

    async def start(self) -> None:
        """Wait for a slot, and for the engine to begin; raises what the engine refuses."""
        await self.run.start()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What is generated, until the choice is finished."""
        reading = new_reading(self.plan, self.index, self.call.request.stops)
        reason: FinishReason | None = None
        try:
            async with aclosing(self.run.events()) as events:
                async for event in events:
                    for delta in self._read(event, reading):
                        yield delta
                    for choice in event.choices:
                        reason = translate.reason(choice.finish_reason) or reason
                    if reading.stopped:
                        reason = "stop"
                        break
            if reason is None:
                raise EngineFailed("The engine stopped before the answer was complete.")
            rest, reason = reading.finish(reason)
            for delta in rest:
                yield delta
            legacy = reason == "tool_calls" and self.call.request.functions is not None
            yield Finished(self.index, "function_call" if legacy else reason)
        finally:
            await self.aclose()

    def _read(self, event: Event, reading: Reading) -> list[Delta]:
        out: list[Delta] = []
        for choice in event.choices:
            reasoning, content = choice.delta.reasoning_content, choice.delta.content
            if reasoning or content:
                self.run.add_token(reasoning=bool(reasoning))
            if reasoning:
                out.append(ReasoningDelta(self.index, reasoning))
            if content:
                out.extend(reading.feed(content, translate.logprobs(choice.logprobs, self.call.request)))
        return out

    async def aclose(self) -> None:
        """Stop, and give the slot back."""
        await self.run.aclose()
