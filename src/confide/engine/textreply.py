"""Completions of texts by the embedded engine: each prompt is continued as often as asked, in slots as chats are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from confide.engine import translate
from confide.engine.base import Call, EngineInfo
from confide.engine.llama import LlamaServer
from confide.engine.running import Run, merged, summed
from confide.engine.slots import SlotPool
from confide.errors import EngineFailed, InvalidRequest
from confide.wire import texts
from confide.wire.answers import Delta, Finished, FinishReason, TextDelta, Usage
from confide.wire.openai import Json
from confide.wire.sse import event
from confide.wire.texts import CompletionRequest, Logprobs

TEXT_PARAMETERS: Final = frozenset(
    {"max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"}
    | {"echo", "logprobs", "top_k", "min_p", "typical_p", "repetition_penalty", "repeat_penalty", "ignore_eos"}
)
"""What this engine honours."""


@dataclass(frozen=True, slots=True)
class Runner:
    """What generations need of the engine."""

    llama: LlamaServer
    pool: SlotPool
    under_way: set[Run]


class TextReply:
    """An answer being generated: :class:`~confide.engine.base.Reply`."""

    def __init__(self, call: Call[CompletionRequest], info: EngineInfo, runner: Runner) -> None:
        """Plan it.

        Raises:
            InvalidRequest: the text of the prompt is asked for where this engine doesn't have it.
        """
        request = call.request
        _refuse(request)
        self._request = request
        self._head: Json = {
            "id": call.id,
            "created": call.created,
            "model": call.model,
            "system_fingerprint": f"fp_{info.version}",
        }
        times = request.n or 1
        self._choices = [
            _Choice(_run(call, prompt, index, runner), request, prompt, index)
            for index, prompt in enumerate(prompt for prompt in request.prompts for _ in range(times))
        ]

    async def start(self) -> None:
        """Wait for a slot, and for the engine to begin with the first prompt; raises what it refuses."""
        await self._choices[0].start()

    @property
    def usage(self) -> Usage:
        """Tokens until now. Each prompt counts once."""
        spent = summed([choice.run for choice in self._choices])
        prompts = [choice.run.usage.prompt for choice in self._choices[:: self._request.n or 1]]
        return Usage(sum(prompts), spent.completion, spent.cached)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """SSE events, or one body."""
        return self._stream() if self._request.stream else self._body()

    async def _stream(self) -> AsyncIterator[bytes]:
        forms = [Logprobs(self._request.logprobs or 0) for _ in self._choices]
        async with aclosing(merged(self._choices)) as deltas:
            async for delta in deltas:
                yield event(texts.answer(self._head, [_choice(delta, forms)], None))
        if self._request.wants_usage:
            yield event(texts.answer(self._head, [], self.usage))

    async def _body(self) -> AsyncIterator[bytes]:
        pieces: list[list[TextDelta]] = [[] for _ in self._choices]
        ends: list[str] = ["stop"] * len(pieces)
        async with aclosing(merged(self._choices)) as deltas:
            async for delta in deltas:
                if isinstance(delta, TextDelta):
                    pieces[delta.index].append(delta)
                elif isinstance(delta, Finished):
                    ends[delta.index] = delta.reason
        choices = [self._whole(index, pieces[index], end) for index, end in enumerate(ends)]
        yield texts.answer(self._head, choices, self.usage)

    def _whole(self, index: int, pieces: list[TextDelta], end: str) -> Json:
        tokens = [token for piece in pieces for token in piece.logprobs or ()]
        wanted = self._request.logprobs
        logprobs = None if wanted is None else Logprobs(wanted).write(tokens)
        return texts.choice(index, "".join(piece.text for piece in pieces), logprobs=logprobs, finish=end)

    async def aclose(self) -> None:
        """Stop all choices."""
        for choice in self._choices:
            await choice.run.aclose()


@dataclass(eq=False, slots=True)
class _Choice:
    """One continuation of one prompt."""

    run: Run
    request: CompletionRequest
    prompt: str | list[int]
    index: int

    async def start(self) -> None:
        await self.run.start()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What is generated, until the choice is finished; before it the prompt, where it was asked for."""
        reason: FinishReason | None = None
        try:
            if self.request.echo and isinstance(self.prompt, str):
                yield TextDelta(self.index, self.prompt)
            async with aclosing(self.run.events()) as events:
                async for found in events:
                    for choice in found.choices:
                        if choice.text:
                            self.run.add_token()
                            top = self.request.logprobs
                            logprobs = None if top is None else translate.tokens_of(choice.logprobs, top)
                            yield TextDelta(self.index, choice.text, logprobs)
                        reason = translate.reason(choice.finish_reason) or reason
            if reason is None:
                raise EngineFailed("The engine stopped before the answer was complete.")
            yield Finished(self.index, reason)
        finally:
            await self.run.aclose()


def _choice(delta: Delta, forms: list[Logprobs]) -> Json:
    if isinstance(delta, Finished):
        return texts.choice(delta.index, "", finish=delta.reason)
    assert isinstance(delta, TextDelta)
    logprobs = None if delta.logprobs is None else forms[delta.index].write(delta.logprobs)
    return texts.choice(delta.index, delta.text, logprobs=logprobs)


def _run(call: Call[CompletionRequest], prompt: str | list[int], index: int, runner: Runner) -> Run:
    request = call.request
    return Run(
        generate=lambda lease: runner.llama.complete(translate.text_payload(request, prompt, lease, index)),
        pool=runner.pool,
        under_way=runner.under_way,
        tenant=call.tenant,
        hashes=[hash(str(prompt))],
        refused=InvalidRequest("The engine refused this prompt.", param="prompt"),
        admitted=index > 0,
    )


def _refuse(request: CompletionRequest) -> None:
    if request.limit == 0:
        raise InvalidRequest(
            f"Invalid 'max_tokens': integer below minimum value. The model '{request.model}' generates at least one.",
            param="max_tokens",
            code="integer_below_min_value",
        )
    if request.echo and request.logprobs is not None:
        raise InvalidRequest(
            f"Invalid 'logprobs': the model '{request.model}' has none for the prompt; leave out 'echo'.",
            param="logprobs",
            code="unsupported_value",
        )
    if request.echo and not isinstance(request.prompts[0], str):
        raise InvalidRequest(
            f"Invalid 'echo': the model '{request.model}' has no text for a prompt of tokens.",
            param="echo",
            code="unsupported_value",
        )
