"""A conversation with a verified service: questions, answers as they come, and the proof of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx
import msgspec

from confide.cli import console, files
from confide.client.errors import MustVerifyAgain, ProofFailed, ReceiptFailed
from confide.client.service import VerifiedService
from confide.client.trust import Checked
from confide.errors import ConfideError
from confide.seal.events import EventReader
from confide.verify.bundle import Exchange
from confide.verify.verdict import ExitCode, Outcome, bounded

_MOST_ERROR: Final = 64 * 1024
_LONGEST_EVENT: Final = 1 << 20


class _Refused(Exception):
    """The service answered with an error; the text is for the person."""


class Talk:
    """One conversation. ``codes`` has the exit code of the verdict and of everything that went wrong since."""

    def __init__(self, open_service: Callable[[Callable[[Exchange], None]], VerifiedService]) -> None:
        self._kept: list[Exchange] = []
        self.service: Final = open_service(self._kept.append)
        self.service.on_receipt = self._proven
        self._client: Final = self.service.http_client()
        self._last: Checked | None = None
        self._messages: list[dict[str, str]] = []
        self._line: Final = _Line()
        self.codes: Final[list[int]] = [self.service.verdict.exit_code]
        self.model = ""

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def _proven(self, checked: Checked) -> None:
        self._last = checked

    # The model -------------------------------------------------------------------------------------------------------

    def choose(self, wanted: str | None) -> None:
        """Take a model: the one that was asked for, else the first of the attested manifest, else of the list.

        Raises:
            UsageError: nothing says which.
        """
        self.model = wanted or next(self._offered(), "")
        if not self.model:
            raise files.UsageError("the service names no model: say which with --model")

    def _offered(self) -> Iterator[str]:
        manifest = self.service.established.manifest
        if manifest is not None:
            yield from (model.id for model in manifest.models)
            return
        try:
            listed = msgspec.json.decode(self._client.get("/models").content[: 1 << 22])
        except (httpx.HTTPError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        entries = listed.get("data") if isinstance(listed, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                yield entry["id"]

    # Questions -------------------------------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Ask, print the answer as it comes, check its proof and say what came of it. A question whose answer has no
        good proof is not part of the conversation."""
        self._messages.append({"role": "user", "content": text})
        answer = self._answered()
        if answer is None:
            self._messages.pop()
        else:
            self._messages.append({"role": "assistant", "content": answer})

    def forget(self) -> None:
        """Begin anew."""
        self._messages.clear()

    def _answered(self) -> str | None:
        self._last = None
        try:
            answer = self._told_by_whoever_it_is_now()
            self._say_proof()
        except KeyboardInterrupt:
            self._went_wrong("stopped; what came was not checked", ExitCode.NOT_ENOUGH)
        except httpx.HTTPError as failed:
            self._went_wrong(f"no whole answer: {failed or type(failed).__name__}", ExitCode.UNREACHABLE)
        except _Refused as refused:
            self._went_wrong(str(refused), ExitCode.UNREACHABLE)
        except ConfideError as wrong:
            believe = "Do not believe what came: " if isinstance(wrong, ProofFailed) else ""
            self._went_wrong(f"{believe}{wrong}", getattr(wrong, "exit_code", ExitCode.FAILED))
        else:
            return answer
        return None

    def _went_wrong(self, why: str, code: int) -> None:
        self.codes.append(code)
        self._line.end()
        console.note(f"✗ {bounded(why)}", "bold red" if code == ExitCode.FAILED else "yellow")

    def _told_by_whoever_it_is_now(self) -> str:
        """The answer; a service that changed its keys is verified again first, and asked again."""
        try:
            return self._told()
        except MustVerifyAgain as changed:
            console.note(f"{changed}. Verifying it again …", "yellow")
            self.service.verify_again()
            return self._told()

    def _told(self) -> str:
        """The answer, printed while it comes. Its last bytes come only when its proof is good."""
        body = {"model": self.model, "messages": self._messages, "stream": True}
        said: list[str] = []
        with self._client.stream("POST", "/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise _Refused(f"the service answered {response.status_code}: {_complaint(response)}")
            for text in _texts(response):
                said.append(text)
                self._line.write(text)
        self._line.end()
        return "".join(said)

    # Proofs ----------------------------------------------------------------------------------------------------------

    def _say_proof(self) -> None:
        if self._last is None:
            raise ReceiptFailed("the answer came without a proof")
        passed = sum(finding.outcome is Outcome.PASS for finding in self._last.findings)
        what = "signature" if self._last.receipt is None else "receipt"
        sealed = "sealed, " if self._last.sealed else ""
        console.note(f"✓ {what} {bounded(self._last.id)} ({sealed}{passed} steps passed)", "green")

    def show_proof(self) -> None:
        """The steps of the last answer's proof, and the events that its receipt lists, on stderr."""
        if self._last is None:
            console.note("There is no answer with a proof yet.")
            return
        for finding in self._last.findings:
            console.note(f"{finding.step} {finding.title}: {finding.outcome.value} {finding.detail}".rstrip(), "")
        if self._last.receipt is not None:
            document: Any = msgspec.json.decode(self._last.receipt.signed_bytes)
            for event in document["event_log"]:
                said = (f"{name}={value}" for name, value in event.items() if name != "type")
                console.note(bounded(" ".join([str(event["type"]), *said])), "")

    def save(self, path: Path) -> None:
        """Write everything so far as a bundle.

        Raises:
            UsageError: it can't be written.
        """
        files.write(path, self.service.bundle(self._kept).encode())
        console.note(f"Wrote {path}: {len(self._kept)} answers with their proofs, prompts included.")


def _texts(response: httpx.Response) -> Iterator[str]:
    """The pieces of text in a stream of chunks. The transport has checked that it is well-formed where it could."""
    reader = EventReader(_LONGEST_EVENT)
    for data in response.iter_raw():
        try:
            for event in reader.feed(data):
                if event.data is not None and not event.is_done:
                    yield from _pieces(msgspec.json.decode(event.data))
        except (ValueError, msgspec.MsgspecError, RecursionError) as wrong:
            raise _Refused(f"the stream can't be read: {wrong}") from None


def _pieces(chunk: Any) -> Iterator[str]:
    if not isinstance(chunk, dict):
        return
    if "error" in chunk:
        raise _Refused(f"the answer broke off: {_message(chunk)}")
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        content = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(content, str):
            yield content


def _complaint(response: httpx.Response) -> str:
    body = bytearray()
    for data in response.iter_raw():
        body += data
        if len(body) > _MOST_ERROR:
            break
    try:
        return _message(msgspec.json.decode(bytes(body)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "it gave no reason"


def _message(value: Any) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return bounded(message) if isinstance(message, str) else "it gave no reason"


# The terminal --------------------------------------------------------------------------------------------------------


class _Line:
    """Where an answer is printed: as it is into files and pipes, and without control characters onto a terminal."""

    def __init__(self) -> None:
        self._is_open = False

    def write(self, text: str) -> None:
        """A piece of it."""
        if text:
            self._put(console.clean(text) if sys.stdout.isatty() else text.encode(errors="replace").decode())
            self._is_open = True

    def end(self) -> None:
        """A line end, if anything was written since the last."""
        if self._is_open:
            self._put("\n")
        self._is_open = False

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
