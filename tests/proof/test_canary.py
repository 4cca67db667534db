"""No content gets out: marked requests go through every path, and the marks are looked for in all that is left behind.

Looked through: everything that the process writes to its standard output and error (at debug level, tracebacks
included), its data folder with the database and its log, its metrics, and its temporary folder, both while it runs and
after.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from confide.engine.pull import LocalModel
from confide.identity.custodian import DEFAULT_PERIOD
from confide.identity.roles import EphemeralKeys, Role
from tests.proof.talking import CHAT, Client, echoing
from tests.proof.test_bytes import PICTURE, SEALS, Known
from tests.rawhttp import Connection, request
from tests.serving import serving, stop
from tests.simulator.echo_server import MODEL

EVERY_WHAT: Final = ("refuse", "busy", "down", "bug", "fail:0", "fail:3", "crash:0", "crash:3", "badend")


# Looking ------------------------------------------------------------------------------------------------------------


def spellings(secret: bytes) -> Iterator[bytes]:
    """How bytes may stand in a file: as they are, in hex, in base64 at any offset, in UTF-16, in a ``repr``."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield secret.decode("latin-1").encode("utf-16-le")
    yield repr(secret)[2:-1].encode()
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(offset) + secret)[4 if offset else 0 : -4]


def found(secrets_: Sequence[bytes], places: Sequence[Path], but: Sequence[Path] = ()) -> list[str]:
    """Files under the places that hold one of the secrets."""
    wanted = re.compile(b"|".join(re.escape(one) for secret in secrets_ for one in set(spellings(secret))))
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert files
    return [f"{file}: {hit[0]!r}" for file in files if file not in but and (hit := wanted.search(file.read_bytes()))]


@pytest.mark.parametrize("spell", range(11))
def test_the_search_finds_each_spelling(tmp_path: Path, spell: int) -> None:
    secret = b"mark-" + secrets.token_hex(8).encode()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\0before" + list(spellings(secret))[spell] + b"after")
    assert len(found([secret], [tmp_path])) == 1
    assert found([b"mark-" + bytes(8)], [tmp_path]) == []


# Marking ------------------------------------------------------------------------------------------------------------


@dataclass
class Marks:
    """Marks that all begin alike, so that one search finds any, and that stay names of tools and schemas."""

    start: str = field(default_factory=lambda: "zq" + secrets.token_hex(8))
    _count: Iterator[int] = field(default_factory=itertools.count)

    def __call__(self) -> str:
        return f"{self.start}_{next(self._count)}"

    def bodies(self) -> Iterator[dict[str, Any]]:
        """Requests with marks wherever a client may write something."""
        mark = self
        user = {"role": "user", "content": mark()}
        call = {
            "id": mark(),
            "type": "function",
            "function": {"name": mark(), "arguments": json.dumps({mark(): mark()})},
        }
        schema = {"type": "object", "properties": {mark(): {"enum": [mark()]}}, "description": mark()}
        function = {"name": mark(), "description": mark(), "parameters": schema}
        tool = {"type": "function", "function": function}
        answered = [user, {"role": "assistant", "tool_calls": [call]}]
        answered += [{"role": "tool", "tool_call_id": call["id"], "content": mark()}, user]
        form = {"type": "json_schema", "json_schema": {"name": mark(), "schema": schema}}
        yield {"messages": [user]}
        yield {"messages": [{"role": "system", "content": mark(), "name": mark()}, {**user, "name": mark()}]}
        yield {"messages": [{"role": "user", "content": [{"type": "text", "text": mark()}]}]}
        yield {"messages": answered, "tools": [tool]}
        yield {"messages": [user], "tools": [tool], "tool_choice": {"type": "function", "function": {"name": mark()}}}
        yield {"messages": [user], "functions": [function]}
        yield {"messages": [user], "response_format": form}
        yield {"messages": [user], "stop": [mark(), mark()]}
        yield {
            "messages": [user],
            "metadata": {mark(): mark()},
            "safety_identifier": mark(),
            "prompt_cache_key": mark(),
        }
        yield {"messages": [user], mark(): mark(), "prediction": {"content": mark()}}
        yield {"messages": [{"role": "user", "content": [{"type": "text", "text": mark()}, PICTURE]}]}
        far = {"type": "image_url", "image_url": {"url": f"https://{mark()}.example/{mark()}"}}
        yield {"messages": [{"role": "user", "content": [far]}]}
        yield {"messages": [user], "provider": {mark(): mark()}}
        yield {"messages": [user], "guided_regex": mark(), "regex": "(" + mark()}
        yield {"messages": [user], "temperature": mark()}
        yield {"messages": [{"role": mark(), "content": mark()}]}
        yield {"messages": mark()}
        yield {"messages": [user], "n": 77}
        yield {"messages": [{"role": "user", "content": mark() * 200}], "max_tokens": 1}

    def garbage(self) -> Iterator[bytes]:
        """Bodies that can't be parsed."""
        mark = self().encode()
        yield b'{"messages": "' + mark
        yield mark
        yield b'"' + mark + b'"'
        yield b'{"model":"x","messages":[{"role":"user","content":"' + mark + b'\xff"}]}'
        yield b'{"a":' * 3000 + b'"' + mark + b'"'
        yield b'{"model":"' + mark * 30 + b'"}'

    def wire(self) -> Iterator[bytes]:
        """What isn't a request for an answer, or isn't HTTP."""
        mark = self()
        yield request("GET", f"/{mark}?{mark}={mark}", {mark: mark})
        yield request("GET", f"/v1/models/{mark}", {"Authorization": f"Bearer {mark}"})
        yield request("GET", f"/v1/aci/receipts/{mark}", {"Authorization": f"Bearer {mark}"})
        yield request("GET", f"/v1/aci/keysets/{mark}", {"Cookie": mark, "User-Agent": mark, "Referer": mark})
        yield request("GET", f"/v1/aci/attestation?nonce={mark}", {"Origin": f"https://{mark}"})
        yield request("GET", f"/v1/attestation/report?nonce={mark}&signing_address={mark}&signing_algo={mark}", {})
        yield request(mark, "/health", {})
        yield mark.encode() + b"\r\n\r\n"
        yield b"GET /health HTTP/1.1\r\n" + mark.encode() + b"\r\n\r\n"
        yield b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: " + mark.encode() + b"\r\n\r\n" + mark.encode()
        yield request("POST", CHAT, {"Transfer-Encoding": "chunked"}) + b"zz" + mark.encode() + b"\r\n"
        yield request("POST", CHAT, {"Content-Type": mark, "Content-Encoding": mark}, mark.encode())


def send_everything(client: Client, marks: Marks, model: str, known: Known, *, whats: Sequence[str], seals: Any) -> int:
    """Every marked request in every form; returns how many were answered with 200."""
    well = 0
    for number, body in enumerate(marks.bodies()):
        orders = [*whats] if number == 0 else [""]
        for what, stream in itertools.product(orders, (False, True)):
            text = json.dumps({"model": model, "user": f"echo:{what} {marks()}", "stream": stream, **body}).encode()
            well += client.post(text).status == 200
            for how in seals if isinstance(body["messages"], list) else ():
                sealed = known.seal(how, text)
                well += client.post(sealed.body, sealed.headers).status == 200
                client.post(sealed.restored, sealed.headers)  # sealed by its headers only
    for rubbish in marks.garbage():
        client.post(rubbish)
        client.post(rubbish, {"X-E2EE-Version": "2", "X-E2EE-Nonce": marks(), "X-Client-Pub-Key": marks()})
    for wire in marks.wire():
        with suppress(OSError, AssertionError), Connection(client.port, 1) as connection:
            connection.send(wire)
            connection.answer()
    return well


def leave(client: Client, marks: Marks, members: dict[str, Any]) -> None:
    """Clients that go away: while they send, before the head, in the middle."""
    said = [{"role": "user", "content": marks() * 20}]
    for stream, pause in itertools.product((False, True), (0.0, 0.1)):
        body = json.dumps({**members, "messages": said, "stream": stream}).encode()
        fields = {"Content-Type": "application/json", **client.headers}
        whole = request("POST", CHAT, fields, body)
        for part in (whole, whole[:-20]):
            with Connection(client.port) as connection:
                connection.send(part)
                time.sleep(pause)


# The tests ------------------------------------------------------------------------------------------------------------


def private_keys(root: bytes) -> list[bytes]:
    """The private keys of the epochs around now, and what they come from."""
    source, epoch = EphemeralKeys(root), int(time.time() // DEFAULT_PERIOD)

    async def all_of() -> list[bytes]:
        return [
            (await source.key(role.path(e), role, role.algorithm)).secret for role in Role for e in (epoch, epoch + 1)
        ]

    return [root, *asyncio.run(all_of())]


def test_no_mark_is_left_behind_by_any_path(tmp_path: Path) -> None:
    root, marks = secrets.token_bytes(32), Marks()
    with echoing(tmp_path, "--root", root.hex(), "--keep-alive", "0.05", "--metrics") as server:
        with server.client() as client:
            known = Known.of(client)
            well = send_everything(client, marks, MODEL, known, whats=("", *EVERY_WHAT), seals=SEALS)
            assert well > 100
            leave(client, marks, {"model": MODEL, "user": "echo:hang:3"})
            time.sleep(0.3)
            reports = b"".join(
                client.get(path).body
                for path in ("/v1/aci/attestation", "/v1/attestation/report", "/v1/aci/manifest", "/v1/models")
            )
            (tmp_path / "reports").write_bytes(reports)
        metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics")
        assert 'outcome="answered"' in metrics.text
        (tmp_path / "metrics").write_bytes(metrics.content)
        places = [server.data, tmp_path / "tmp", *server.logs, tmp_path / "reports", tmp_path / "metrics"]
        assert found([marks.start.encode()], places) == []
        assert (server.data / "confide.db-wal").stat().st_size > 0
        server.end()
        assert found([marks.start.encode()], places) == []
        assert found([key.encode() for key in server.keys], places) == []
        assert found(private_keys(root), places) == []
        assert not list((tmp_path / "tmp").iterdir())
        (log,) = server.logs
        said = log.read_text()
        assert "RuntimeError" in said, "the bugs of the engine are told, without what they say"
        assert "DEBUG:echo:" in said


def test_no_mark_is_left_behind_by_the_real_server(
    smollm2: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    marks = Marks()
    settings = tmp_path / "confide.toml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings.write_text(
        f'metrics = "{address}"\n[[model]]\nid = "m"\nsource = {json.dumps(str(smollm2.path))}\n'
        "slots = 2\ncontext_length = 1024\n"
    )
    with (
        serving(tmp_path, [], "--config", str(settings), model="m") as server,
        Client(server.port, server.key) as client,
    ):
        known = Known.of(client)
        short = {"model": "m", "max_tokens": 3}
        well = send_shortened(client, marks, short, known)
        assert well > 15
        leave(client, marks, {"model": "m", "max_tokens": 400})
        time.sleep(0.3)
        metrics = httpx.get(f"http://{address}/metrics")
        assert 'outcome="answered"' in metrics.text
        (tmp_path / "metrics").write_bytes(metrics.content)
        places = [tmp_path / "data", temporary, server.log, tmp_path / "metrics"]
        assert found([marks.start.encode()], places) == []
        assert server.key is not None
        assert found([server.key.encode()], places) == []
        assert stop(server.process) == 0
        assert found([marks.start.encode()], places) == []
        assert not list(temporary.iterdir())


def send_shortened(client: Client, marks: Marks, short: dict[str, Any], known: Known) -> int:
    """Every marked request once, few tokens long; every third also sealed."""
    well = 0
    for number, body in enumerate(marks.bodies()):
        text = json.dumps({**short, "stream": number % 2 == 0, **body}).encode()
        well += client.post(text).status == 200
        if isinstance(body["messages"], list):
            sealed = known.seal(SEALS[number % len(SEALS)], text)
            well += client.post(sealed.body, sealed.headers).status == 200
    for rubbish in marks.garbage():
        client.post(rubbish)
    for wire in marks.wire():
        with suppress(OSError, AssertionError), Connection(client.port, 1) as connection:
            connection.send(wire)
            connection.answer()
    return well
