"""llama.cpp's server core inside this process, through xllamacpp: JSON in, JSON events out, on threads of their own.

What is specific to that library lives here and nowhere else. Measured traps that this module closes:

* OpenMP threads spin while they wait, and collapse as soon as anything else wants the cores: whoever starts the
  process sets ``OMP_WAIT_POLICY=passive`` before this module loads the library (``confide.config.prepare_for_engine``).
* The library opens an HTTP listener of its own: it gets a unix socket in a private folder and a random key, and the
  socket's name is removed at once, so that nothing can reach the model past this server.
* It replaces the process's SIGINT and SIGTERM handlers: they are put back.
* It keeps up to 8 GiB of prompts in memory, shared by all: off.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from confide.errors import ModelFileError

BATCH: Final = 128
"""Prompt tokens per step. A request that is given up stops at the next step, so this bounds how long that takes."""


class TopLogprob(msgspec.Struct):
    """One alternative token."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct):
    """One token that was chosen, and the alternatives."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Logprobs(msgspec.Struct):
    """Tokens of one event."""

    content: list[TokenLogprob] | None = None


class EventDelta(msgspec.Struct):
    """What an event adds."""

    content: str | None = None
    reasoning_content: str | None = None


class EventChoice(msgspec.Struct):
    """The one choice of an event; ``text`` is of completions of texts."""

    delta: EventDelta = msgspec.field(default_factory=EventDelta)
    text: str = ""
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct):
    """How many prompt tokens came from the slot's cache."""

    cached_tokens: int = 0


class EventUsage(msgspec.Struct):
    """Tokens, at the end."""

    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails | None = None


class EventError(msgspec.Struct):
    """A refusal or a failure."""

    message: str = ""
    type: str = ""
    code: int = 500
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Progress(msgspec.Struct):
    """How far the prompt has been read, in tokens."""

    total: int = 0
    cache: int = 0
    processed: int = 0


class Event(msgspec.Struct):
    """One event of a generation."""

    choices: list[EventChoice] = []
    usage: EventUsage | None = None
    error: EventError | None = None
    prompt_progress: Progress | None = None


_decode_event = msgspec.json.Decoder(Event).decode


class Generation:
    """One generation under way. Iterate over its events; :meth:`cancel` ends it at its next step."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._cancelled = False
        self.finished: asyncio.Event = asyncio.Event()

    def cancel(self) -> None:
        """Ask it to stop. The slot is free once :attr:`finished` is set."""
        self._cancelled = True

    def on_event(self, data: bytes) -> bool:
        """Called on the engine's thread; a true answer makes the engine stop."""
        if self._cancelled:
            return True
        self._put(data)
        return False

    def on_end(self, future: Future[None]) -> None:
        """Called on the engine's thread when it has returned."""
        error = future.exception()
        self._put(error if isinstance(error, Exception) else None)
        self._call(self.finished.set)

    def _put(self, item: bytes | Exception | None) -> None:
        self._call(self._events.put_nowait, item)

    def _call(self, function: Any, *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._cancelled = True

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events until the end.

        Raises:
            RuntimeError: what the library said when it refused the request.
        """
        while (item := await self._events.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield _decode_event(item)


class LlamaServer:
    """A loaded model."""

    def __init__(
        self, model: Path, *, projector: Path | None, slots: int, context_length: int, threads: int | None
    ) -> None:
        """Load a model; takes seconds, and must run on the main thread for the signal handlers' sake.

        Raises:
            ModelFileError: the library can't load it.
        """
        library = _library()
        params = library.CommonParams()
        params.model.path = str(model)
        if projector is not None:
            params.mmproj.path = str(projector)
        params.n_parallel = slots
        params.n_ctx = slots * context_length
        params.kv_unified = False
        params.n_batch = params.n_ubatch = BATCH
        params.cache_ram_mib = 0
        params.cache_idle_slots = False
        params.slot_prompt_similarity = 0.0
        params.prefill_assistant = False
        params.endpoint_slots = params.endpoint_metrics = params.endpoint_props = params.ui = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or os.cpu_count() or 1
        params.verbosity = -1
        params.api_keys = [secrets.token_urlsafe(32)]
        self.version = str(library.__version__)
        self._server = _start(library, params, model)
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="confide-llama")

    def generate(self, payload: dict[str, Any]) -> Generation:
        """Begin a generation. ``payload`` is the body of llama.cpp's chat-completions route, with ``stream`` true."""
        return self._begin(self._server.handle_chat_completions, payload)

    def complete(self, payload: dict[str, Any]) -> Generation:
        """The same with the body of its route for completions of texts."""
        return self._begin(self._server.handle_completions, payload)

    def _begin(self, handle: Callable[..., None], payload: dict[str, Any]) -> Generation:
        generation = Generation(asyncio.get_running_loop())
        body = msgspec.json.encode(payload)
        future = self._threads.submit(handle, body, generation.on_event)
        future.add_done_callback(generation.on_end)
        return generation

    def close(self) -> None:
        """Unload the model. Generations must have ended or been cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._server = None


def _library() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise ModelFileError(
            "The embedded engine is not installed. Install it with: pip install 'confide[local]'"
        ) from error
    return xllamacpp


def _start(library: Any, params: Any, model: Path) -> Any:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="confide-") as folder:
        params.hostnames = [str(Path(folder) / "engine.sock")]
        try:
            return library.Server(params)
        except RuntimeError as error:
            raise ModelFileError(f"{model}: llama.cpp can't load this model. Is it a complete GGUF file?") from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
