"""``/v1/completions`` with an engine: the request in its dialect, and its answer as OpenAI has it.

Sources as in :mod:`confide.engine.remote.offers`. vLLM and SGLang write OpenAI's form, llama.cpp the log probabilities
of chat completions; the tokens of usage come in a chunk of their own or beside the last choice.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from confide.engine.base import COMPLETIONS, Call
from confide.engine.remote.dialect import Dialect
from confide.engine.remote.events import EventsMender, framed
from confide.engine.remote.offers import offer
from confide.engine.remote.passing import read_whole
from confide.engine.remote.pruning import ANYTHING, NUMBER, Each, Json, Shape, each, prune, read
from confide.engine.remote.request import add_ids, mend_llama_sampling, mend_names
from confide.engine.remote.rules import broken
from confide.engine.remote.service import Service
from confide.engine.remote.shapes import Spent
from confide.errors import InvalidRequest
from confide.seal.events import Event
from confide.wire import texts
from confide.wire.answers import Usage
from confide.wire.sse import event
from confide.wire.texts import CompletionRequest

_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_FINISHED: Final = frozenset({"stop", "length", "content_filter"})
_HEAD: Final[Shape] = {
    "id": str,
    "object": str,
    "created": NUMBER,
    "model": str,
    "system_fingerprint": str,
    "service_tier": str,
    "usage": dict,
}
_CHOICE: Final[Shape] = {
    "index": int,
    "text": str,
    "finish_reason": str,
    "stop_reason": (int, str),
    "matched_stop": (int, str),
    "logprobs": {
        "text_offset": Each(int),
        "token_logprobs": Each((int, float, type(None))),
        "tokens": Each(str),
        "top_logprobs": Each((dict, type(None))),
        "content": Each({"token": str, "logprob": NUMBER, "bytes": list, "top_logprobs": ANYTHING}),
    },
}
_ANSWER: Final[Shape] = {**_HEAD, "choices": Each(_CHOICE)}


def prepare(call: Call[CompletionRequest], dialect: Dialect, *, model: str, salt: str | None) -> bytes:
    """The body for the engine. See :class:`~confide.engine.remote.service.Prepare`."""
    request, taken = call.request, offer(dialect, COMPLETIONS)
    written = _decoder.decode(call.body)
    members: dict[str, Any] = {
        name: value for name, value in written.items() if name in taken.members and bytes(value) != b"null"
    }
    members |= {"model": model, "prompt": written["prompt"], "max_tokens": request.limit}
    _refuse_prompts(request, several=taken.several, tokens=taken.tokens)
    if not taken.several:
        members["prompt"] = request.prompts[0]
    if request.stream:
        members |= {"stream": True, "stream_options": {"include_usage": True}}  # the server meters by it
    if (request.n or 1) == 1:
        members.pop("n", None)
    mend_llama_sampling(members, request, dialect)
    mend_names(members, dialect)
    add_ids(members, call.id, dialect, salt, prefix="cmpl-", choices=request.choices)
    return msgspec.json.encode(members)


def _refuse_prompts(request: CompletionRequest, *, several: bool, tokens: bool) -> None:
    if not several and request.choices > 1:
        raise InvalidRequest(
            f"Invalid 'prompt': the engine of the model '{request.model}' takes one prompt at a time.",
            param="prompt",
            code="unsupported_value",
        )
    if not tokens and not isinstance(request.prompts[0], str):
        raise InvalidRequest(
            f"Invalid 'prompt': the engine of the model '{request.model}' takes text, not tokens.",
            param="prompt",
            code="unsupported_value",
        )


class _Choices:
    """What was seen of the choices, and how one reads that an engine wrote."""

    def __init__(self, request: CompletionRequest) -> None:
        self._wanted = request.logprobs is not None
        self._logprobs = [texts.Logprobs(request.logprobs or 0) for _ in range(request.choices)]
        self._finished: set[int] = set()

    @property
    def complete(self) -> bool:
        return len(self._finished) == len(self._logprobs)

    def mend(self, choice: Json) -> bool:
        """Mend one in its place; says whether something was changed.

        Raises:
            EngineFailed: it is none.
        """
        index, text = choice.get("index"), choice.get("text")
        if not isinstance(index, int) or not 0 <= index < len(self._logprobs) or text is None:
            raise broken("a choice that is none")
        if index in self._finished:
            raise broken("more of a choice that it had ended")
        finish = choice.get("finish_reason")
        if finish is not None:
            if finish not in _FINISHED:
                raise broken("a choice that it did not complete")
            self._finished.add(index)
        return self._mend_logprobs(choice, self._logprobs[index])

    def _mend_logprobs(self, choice: Json, form: texts.Logprobs) -> bool:
        given = choice.get("logprobs")
        if given is None:
            return False
        if not self._wanted:
            choice["logprobs"] = None
        elif given.get("content") is not None:
            choice["logprobs"] = form.write(given["content"])
        else:
            return False
        return True


class TextMender(EventsMender):
    """Mends one stream."""

    def __init__(self, call: Call[CompletionRequest], dialect: Dialect) -> None:
        super().__init__(dialect)
        self._call = call
        self._choices = _Choices(call.request)
        self._created: int | None = None
        self._usage_due = call.request.wants_usage
        self._counted = False

    @property
    def _complete(self) -> bool:
        return self._choices.complete

    def _event(self, found: Event, data: bytes, out: list[bytes]) -> bool:
        if found.is_done:
            return True
        chunk = read(data)
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise self._told(data)
        changed = prune(chunk, _ANSWER)
        choices: list[Json] = chunk.get("choices") or []
        changed |= each(self._choices.mend, choices)
        changed |= self._own_head(chunk)
        if chunk.get("usage") is not None:
            self._spent, self._counted, changed = _spent(chunk["usage"]), True, True
        if choices:
            raw = found.raw if not changed and framed(found, data) else None
            out.append(raw or event(texts.answer(chunk, choices, None)))
        if self._usage_due and self._counted and self._choices.complete:
            self._usage_due = False
            out.append(event(texts.answer(chunk, [], self.usage)))
        return False

    def _own_head(self, chunk: Json) -> bool:
        """The id, time and model that all chunks share."""
        given = (chunk.get("id"), chunk.get("created"), chunk.get("model"), chunk.get("object"))
        if self._created is None:
            self._created = int(chunk.get("created") or self._call.created)
        own = (self._call.id, self._created, self._call.model, "text_completion")
        chunk.update(zip(("id", "created", "model", "object"), own, strict=True))
        return given != own


def mend_whole(call: Call[CompletionRequest], dialect: Dialect, body: bytes) -> tuple[bytes, Usage]:
    """The answer for the client, and its tokens. One that is right already is returned as it is.

    Raises:
        ApiError: the engine tells of an error under the status 200; EngineFailed: it gave no complete answer.
    """
    answer = read_whole(body, dialect)
    changed = prune(answer, _ANSWER)
    seen = _Choices(call.request)
    choices: list[Json] = answer.get("choices") or []
    changed |= each(seen.mend, choices)
    if not seen.complete:
        raise broken("other choices than were asked for")
    head = {"id": call.id, "model": call.model, "object": "text_completion"}
    usage = _spent(answer.get("usage") or {})
    in_order = [choice["index"] for choice in choices] == list(range(len(choices)))
    if not changed and in_order and head.items() <= answer.items() and answer.get("created") and answer.get("usage"):
        return body, usage
    answer |= head | {"created": int(answer.get("created") or call.created)}
    return texts.answer(answer, sorted(choices, key=lambda choice: choice["index"]), usage), usage


def _spent(usage: Json) -> Usage:
    try:
        return msgspec.convert(usage, Spent).value
    except msgspec.ValidationError:
        raise broken("a count of tokens that is none") from None


TEXTS: Final = Service("/completions", prepare, TextMender, mend_whole, "prompt")
"""How completions of texts are asked for."""
