"""Two servers that share a PostgreSQL database: what one has answered, the other knows."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from confide.engine.pull import LocalModel
from confide.store.keys import KeyStore
from confide.store.postgres import PostgresDatabase
from confide.store.watch import MOST_AGE
from confide.wire.receipt import parse_receipt
from tests.postgres import Postgres
from tests.proof.talking import EchoServer, check_receipt, echoing, two_keys
from tests.proof.test_bytes import Known
from tests.proof.test_canary import found
from tests.proof.test_crash import CLIENTS, PATIENCE, Load
from tests.proof.test_crash import check as check_receipts
from tests.serving import serving
from tests.simulator.echo_server import MODEL

KEY_MANAGER = ("--root", "5a" * 31 + "02")
"""As if a KMS released the same keys to both."""
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "once"}]}).encode()


@contextmanager
def replicas(folder: Path, url: str, *arguments: str) -> Iterator[tuple[EchoServer, EchoServer]]:
    """Two servers, each with a data folder of its own, on one database."""
    keys = two_keys(PostgresDatabase(url))
    with (
        echoing(folder / "one", "--database", url, *arguments, keys=keys) as one,
        echoing(folder / "other", "--database", url, *arguments, keys=keys) as other,
    ):
        yield one, other


def test_receipts_and_keysets_of_one_are_found_at_the_other(postgres: Postgres, tmp_path: Path) -> None:
    with replicas(tmp_path, postgres.fresh()) as (one, other):
        with one.client() as client, other.client() as there, other.client(1) as stranger:
            asked, answer = client.ask(messages=[{"role": "user", "content": "hello"}], stream=True)
            digest = client.report().workload_keyset_digest
            assert there.report().workload_keyset_digest != digest, "each has keys of its own"
            receipt = there.receipt(answer.headers["x-receipt-id"])
            check_receipt(receipt.body, there.keyset(digest), asked=asked, answered=answer.body)
            assert stranger.receipt(answer.headers["x-receipt-id"]).status == 404
        assert not list(one.data.glob("*.db*"))
        assert found([postgres.password.encode()], [tmp_path]) == []


def test_a_sealed_request_that_one_has_answered_is_a_replay_at_the_other(postgres: Postgres, tmp_path: Path) -> None:
    with (
        replicas(tmp_path, postgres.fresh(), *KEY_MANAGER) as (one, other),
        one.client() as client,
        other.client() as there,
    ):
        known = Known.of(client)
        assert there.report().workload_keyset_digest == known.keyset.digest(), "the same keys, so the same keyset"
        for how in (("aci", key.algo) for key in known.keyset.e2ee_public_keys):
            sealed = known.seal(how, BODY)
            assert client.post(sealed.body, sealed.headers).status == 200
            again = there.post(sealed.body, sealed.headers)
            assert (again.status, again.error()["type"]) == (400, "e2ee_replay_detected")


def test_of_many_copies_at_once_one_is_answered(postgres: Postgres, tmp_path: Path) -> None:
    with replicas(tmp_path, postgres.fresh(), *KEY_MANAGER) as servers:
        with servers[0].client() as client:
            sealed = Known.of(client).seal(("aci", "x25519-aes-256-gcm-hkdf-sha256"), BODY)
        gate, statuses = threading.Barrier(12), []

        def send(server: EchoServer) -> None:
            with server.client() as client:
                gate.wait(10)
                statuses.append(client.post(sealed.body, sealed.headers).status)

        threads = [threading.Thread(target=send, args=(servers[number % 2],)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(statuses) == [200] + [400] * 11


def test_what_is_sealed_for_one_is_refused_by_the_other_and_says_why(postgres: Postgres, tmp_path: Path) -> None:
    with replicas(tmp_path, postgres.fresh()) as (one, other), one.client() as client, other.client() as there:
        known = Known.of(client)
        for how in (("aci", key.algo) for key in known.keyset.e2ee_public_keys):
            sealed = known.seal(how, BODY)
            refused = there.post(sealed.body, sealed.headers)
            assert (refused.status, refused.error()["type"]) == (400, "e2ee_model_key_mismatch")
            assert client.post(sealed.body, sealed.headers).status == 200, "it was not claimed by the refusal"


def test_a_key_is_let_in_and_turned_away_by_both(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.fresh()
    with replicas(tmp_path, url) as servers, KeyStore(PostgresDatabase(url)) as operator:
        for change, wanted in (("create", 200), ("revoke", 401)):
            if change == "create":
                key = operator.create("new")
            else:
                operator.revoke("new")
            time.sleep(MOST_AGE)
            for server in servers:
                with server.client(None) as client:
                    assert client.get("/v1/models", {"Authorization": f"Bearer {key}"}).status == wanted


def test_a_database_that_is_away_closes_both_and_comes_back(postgres: Postgres, tmp_path: Path) -> None:
    with replicas(tmp_path, postgres.fresh()) as servers:
        postgres.stop()
        try:
            time.sleep(MOST_AGE + 0.5)
            for server in servers:
                with server.client() as client:
                    for answer in (client.post(BODY), client.get("/v1/models"), client.receipt("rcpt-1")):
                        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        finally:
            postgres.start()
        for server in servers:
            answers_again(server)


def answers_again(server: EchoServer) -> None:
    """Wait until it does; before, it says that its store is away."""
    until = time.monotonic() + PATIENCE
    with server.client() as client:
        while (status := client.post(BODY).status) != 200:
            assert status == 503
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.parametrize("what", ["server", "database"])
def test_no_complete_answer_loses_its_receipt(postgres: Postgres, tmp_path: Path, what: str) -> None:
    """Whoever has read all of an answer finds its receipt at the other server, whatever was killed meanwhile."""
    draw = random.Random(f"when to kill the {what}")
    finished = 0
    with replicas(tmp_path, postgres.fresh()) as (one, other):
        for kill in range(4):
            load = [Load(one, f"{what} {kill} {number}") for number in range(CLIENTS)]
            for client in load:
                client.start()
            time.sleep(draw.uniform(0.3, 1.2))
            if what == "database":
                postgres.restart("immediate")
                answers_again(other)
            one.kill()
            for client in load:
                client.join(PATIENCE)
                assert not client.is_alive()
                assert client.strange == []
            new = [answer for client in load for answer in client.finished]
            check_receipts(other, new)
            finished += len(new)
            one.start()
    assert finished > 80


def test_the_commands_take_the_database_of_the_settings(
    postgres: Postgres, smollm2: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``confide keys`` and ``confide serve``, on two machines that have nothing but the database in common."""
    secret = tmp_path / "database"
    secret.write_text(postgres.fresh() + "\n")
    monkeypatch.setenv("CONFIDE_DATABASE_FILE", str(secret))
    monkeypatch.setenv("CONFIDE_LOG_LEVEL", "debug")
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with serving(folders[0], [f"m={smollm2.path}"]) as one:
        body = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"{one.url}/chat/completions", json=body, headers=one.headers, timeout=120)
        assert answer.status_code == 200
        one.process.kill()
        one.process.wait()
    with serving(folders[1], [f"m={smollm2.path}"], auth=True, key_name="another") as other:
        receipt = httpx.get(f"{other.url}/aci/receipts/{answer.headers['x-receipt-id']}", headers=one.headers)
        assert receipt.status_code == 200
        digest = parse_receipt(receipt.content).workload_keyset_digest
        assert digest == answer.headers["x-aci-keyset-digest"]
        assert httpx.get(f"{other.url}/aci/keysets/{digest}").status_code == 200
    assert not list(tmp_path.rglob("confide.db*"))
    assert found([postgres.password.encode()], folders) == []
