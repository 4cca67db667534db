"""What the public test scripts of the older encryption do, done with our client over HTTP.

Source: Dstack-TEE/vllm-proxy, ``tests/app/verify_{nonstream,stream}_{ecdsa,ed25519}_e2ee.py``: fetch the service's key
from the flat report, seal a prompt by version 1 and by version 2 without an ``X-E2EE-Version``, and open the answer.
"""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from confide.seal.errors import CannotSeal
from confide.seal.legacy import Algo, seal_request
from confide.wire import legacy
from tests.proof.talking import EchoServer, text_of
from tests.simulator.echo_server import MODEL


@pytest.mark.parametrize("algorithm", ["ecdsa", "ed25519"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1", "2"])
def test_an_older_client_talks_with_the_server(echo: EchoServer, algorithm: Algo, stream: bool, version: str) -> None:
    with echo.client() as client:
        flat = client.json(f"/v1/attestation/report?signing_algo={algorithm}")
        assert len(flat["signing_public_key"]) == {"ecdsa": 128, "ed25519": 64}[algorithm]
        prompt = f"please only reply: E2EE_V{version}_OK"
        body = json.dumps(
            {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        ).encode()
        sealed = seal_request(
            body, algorithm, flat["signing_public_key"], time.time(), version="1" if version == "1" else "2"
        )
        assert b"please" not in sealed.body
        headers = {name: value for name, value in sealed.headers.items() if name != "X-E2EE-Version"}
        assert headers.keys() >= {"X-Signing-Algo", "X-Client-Pub-Key", "X-Model-Pub-Key"}
        answer = client.post(sealed.body, headers)
        assert answer.status == 200, answer
        assert answer.headers["x-e2ee-applied"] == "true"
        assert (answer.headers["x-e2ee-version"], answer.headers["x-e2ee-algo"]) == (version, algorithm)
        assert b"E2EE_V" not in answer.body
        if stream:
            assert answer.headers["content-type"].startswith("text/event-stream")
            opened = sealed.opener.feed(answer.body)
            sealed.opener.end()
        else:
            opened = sealed.opener.whole(answer.body)
        assert text_of(opened) == [prompt]


@pytest.mark.parametrize("algorithm", ["ecdsa", "ed25519"])
def test_lines_as_scripts_read_them_give_the_hash(echo: EchoServer, algorithm: str) -> None:
    """The public verifiers put a stream together again from its lines, each with one ``\\n``."""
    with echo.client() as client:
        asked, answer = client.ask(messages=[{"role": "user", "content": "a\u2028b\u0085c\r\n"}], stream=True)
        lines = answer.body.split(b"\n")
        assert b"".join(line + b"\n" for line in lines[:-1]) == answer.body
        assert b"\r" not in answer.body
        first = json.loads(answer.body.split(b"\n")[0].removeprefix(b"data: "))
        proof = client.signature(first["id"], algorithm).json()
        hashes = [hashlib.sha256(data).hexdigest() for data in (asked, answer.body)]
        assert proof["text"].rsplit(":", 2)[-2:] == hashes


def test_versions_can_be_named(echo: EchoServer) -> None:
    with echo.client() as client:
        key = client.json("/v1/attestation/report")["signing_public_key"]
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).encode()
        first = seal_request(body, "ecdsa", key, time.time(), version="1")
        assert client.post(first.body, first.headers | {"X-E2EE-Version": "1"}).status == 200
        for wrong in ("3", "0", "two", ""):
            refused = client.post(first.body, first.headers | {"X-E2EE-Version": wrong})
            assert (refused.status, refused.error()["type"]) == (400, "e2ee_invalid_version")
        half = first.headers | {"X-E2EE-Nonce": "n" * 20}
        assert client.post(first.body, half).error()["type"] == "e2ee_header_missing"


def test_messages_that_are_no_list_cannot_be_sealed(echo: EchoServer) -> None:
    with echo.client() as client:
        key = client.json("/v1/attestation/report")["signing_public_key"]
    for version in ("1", "2"):
        with pytest.raises(CannotSeal):
            seal_request(b'{"model":"m","messages":"hello"}', "ecdsa", key, 0, version="1" if version == "1" else "2")


def test_addresses_are_those_of_the_keys(echo: EchoServer) -> None:
    with echo.client() as client:
        flat = client.json("/v1/attestation/report?signing_algo=ecdsa")
        address = legacy.ethereum_address(bytes.fromhex(flat["signing_public_key"]))
        assert flat["signing_address"] == legacy.checksummed(address)
        flat = client.json("/v1/attestation/report?signing_algo=ed25519")
        assert flat["signing_address"] == flat["signing_public_key"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"])
def test_the_older_protocol_seals_no_other_endpoint(echo: EchoServer, path: str) -> None:
    with echo.client() as client:
        answer = client.post(b"{}", {"X-Signing-Algo": "ecdsa"}, path=path)
        assert (answer.status, answer.json()["error"]["type"]) == (400, "e2ee_unsupported_endpoint")
