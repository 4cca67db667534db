"""The vectors of the project, run by the page's modules: whole, byte by byte and in odd pieces, in both places."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path

import msgspec
import pytest

from confide.seal.headers import Offer, negotiate
from confide.verify.policy import Policy, PolicyError, check
from tests.seal.helpers import Marks
from tests.seal.opinion import NOW
from tests.vectors.loading import VECTORS, cases, folder, load
from tests.web.cases import KINDS as VERDICTS
from tests.web.running import HERE, Run
from tests.web.vector_cases import (
    BODIES,
    FILES,
    GIVEN,
    OURS,
    PHALA,
    PUBLISHED,
    PUBLISHED_SEAL,
    SEAL,
    SIZES,
    UNSEALABLE,
    Json,
)
from tests.wire.test_jcs import NUMBERS


@cache
def _outcomes(run: Run, name: str) -> dict[str, Json]:
    given = GIVEN[name]()
    assert len({one["name"] for one in given}) == len(given) > 0
    return {one["name"]: one for one in run("outcomes", given)}


def outcomes(run: Run, name: str) -> list[tuple[Json, Json]]:
    """Each case of a group with what the modules made of it."""
    found = _outcomes(run, name)
    return [(one, found[one["name"]]) for one in GIVEN[name]()]


# Documents -----------------------------------------------------------------------------------------------------------


def test_every_vector_file_and_every_case_in_one_is_run() -> None:
    for name, files in FILES.items():
        assert {path.name for path in folder(name)} == files.keys()
        assert {group for groups in files.values() for group in groups} <= GIVEN.keys()
    evidence = {"evidence"}  # recorded by machines, and no JSON of ours: the cases of verdicts are made from it
    assert {path.name for path in VECTORS.iterdir() if path.is_dir() and path.name[0] != "_"} == FILES.keys() | evidence
    for path in folder("wire"):
        assert len(GIVEN[path.stem]()) == len(cases(path)), path
    for name, times in {"fields": 1, "requests": 1, "answers": len(SIZES)}.items():
        assert len(GIVEN[name]()) == times * len(load(SEAL / f"{name}.json")), name


def test_every_kind_of_case_is_run(tmp_path: Path) -> None:
    """Each one that ``judging.mjs`` knows: in a vector here, or in a recorded verdict."""
    program = f'import {{ KINDS }} from "{(HERE / "judging.mjs").as_uri()}"; console.log(Object.keys(KINDS).join());'
    file = tmp_path / "kinds.mjs"
    file.write_text(program)
    known = subprocess.run(["node", str(file)], capture_output=True, text=True, check=True).stdout.strip().split(",")
    vectors = {one["kind"] for make in GIVEN.values() for one in make()}
    assert vectors | VERDICTS | {"first_use", "first_use_of"} == set(known)


@pytest.mark.parametrize("file", [name.removesuffix(".json") for name in FILES["wire"]])
def test_documents_come_out_as_their_vectors_say(run: Run, file: str) -> None:
    for given, found in outcomes(run, file):
        expected = given["outcome"]
        if "ok" in expected:
            assert found.get("ok") == expected["ok"], (given["name"], found)
            continue
        steps = {"InvalidReceipt": "receipt.1", "BadSignature": "receipt.2", "InvalidKeyset": "receipt.2"}
        wanted = steps if file == "receipt" else {}
        assert found.get("error") == wanted.get(expected["error"], "CheckFailed"), (given["name"], found)
        if expected["error"] in ("MalformedEvidence", "InvalidLegacy"):
            assert found["message"] == expected["reason"], given["name"]


def test_any_numbers_come_out_as_in_libsecp256k1(run: Run) -> None:
    given = outcomes(run, "any numbers")
    for one, found in given:
        expected = one["outcome"]
        assert found.get("ok") == expected.get("ok"), one["name"]
        assert ("error" in found) == ("error" in expected), one["name"]
    refused = sum("error" in found for _, found in given)
    assert 0 < refused < len(given) / 2


def test_numbers_of_the_rfc(run: Run) -> None:
    for (given, found), (_, text) in zip(outcomes(run, "numbers"), NUMBERS, strict=True):
        assert found["ok"]["canonical"] == text, given["name"]


def test_the_published_statement(run: Run) -> None:
    (_, slot), (_, unchallenged) = outcomes(run, "statements")
    vector = PUBLISHED["statement"]
    assert slot["ok"] == {"slot": vector["slot"], "canonical": vector["bytes"]}
    assert unchallenged["ok"] == {"slot": vector["null_report_data"] + "00" * 32, "canonical": vector["null_bytes"]}


def test_the_published_documents(run: Run) -> None:
    found = {given["name"]: made["ok"] for given, made in outcomes(run, "documents")}
    session, receipt = PUBLISHED["session"], PUBLISHED["receipt"]
    assert found["keyset"]["digest"] == PUBLISHED["keyset"]["digest"]
    assert (found["session"]["id"], found["session"]["tee_attested"]) == (session["id"], "asserted")
    assert found["receipt"]["signed_sha256"] == receipt["signed_sha256"]
    assert found["receipt"]["request_hash"] == receipt["request_hash"] == found["request"]
    assert found["receipt"]["response_hash"] == receipt["response_hash"] == found["response"]
    assert found["proof"] == session["evidence_digest"]


def test_hashes_of_pieces(run: Run) -> None:
    for given, found in outcomes(run, "hashes"):
        assert found["ok"] == "sha256:" + hashlib.sha256(base64.b64decode(given["data"])).hexdigest(), given["name"]


# Sealing -------------------------------------------------------------------------------------------------------------


def test_sealed_answers_whole_and_in_pieces(run: Run) -> None:
    for given, found in outcomes(run, "answers"):
        if "opened" in given:
            assert found.get("ok") == given["opened"], (given["name"], found)
        else:
            assert found.get("error") == {"forged": "Forged", "truncated": "Truncated"}[given["error"]], (
                given["name"],
                found,
            )


def test_known_fields(run: Run) -> None:
    for given, found in outcomes(run, "fields"):
        assert found["ok"]["sealed"] == given["ciphertext"]
        assert found["ok"]["opened"] == given["plaintext"]
        assert found["ok"]["shared"] == given["shared_secret"]


def test_requests_are_restored_and_refused_as_in_python(run: Run) -> None:
    for given, found in outcomes(run, "requests"):
        vector = given["request"]
        if "restored" in vector:
            expected = json.dumps(vector["restored"], separators=(",", ":"), ensure_ascii=False)
            assert found.get("ok") == expected, (given["name"], found)
        else:
            assert found.get("error") == vector["error"], (given["name"], found)


def test_the_published_key_and_associated_data(run: Run) -> None:
    (_, published), (_, seed) = outcomes(run, "bindings")
    expected = [PUBLISHED_SEAL["request_aad"], PUBLISHED_SEAL["response_aad"]]
    assert published["ok"] == {"point": PUBLISHED_SEAL["service_public_key"], "aads": expected}
    assert seed["ok"]["point"] == PUBLISHED["e2ee_public_key"]


def test_the_server_restores_what_the_page_hashes(run: Run) -> None:
    refused = 0
    for given, found in outcomes(run, "bodies"):
        if "ok" not in found:
            refused += 1
            assert found["error"] == "CannotSeal", (given["name"], found)
            continue
        assert given["text"] in {*BODIES, "numbers, and members in an odd order"}
        made = found["ok"]
        session = negotiate(made["headers"].items(), Offer(aci=(OURS[given["algo"]],)), given["path"], NOW)
        assert session is not None
        assert session.open(made["body"].encode()).claim(Marks()).body.decode() == made["restored"], given["name"]
        assert "hello" not in made["body"]
    assert refused == len(OURS) * (len(UNSEALABLE) + 2)


# The older surface ---------------------------------------------------------------------------------------------------


def test_older_keys_report_data_and_signatures(run: Run) -> None:
    keys, bound = PHALA["keys"], PHALA["report_data"]
    known = {"key": keys["signing_public_key_ecdsa"], "address": keys["eth_address_checksummed"]}
    signatures = 0
    for given, found in outcomes(run, "older"):
        if given["kind"] == "older_key":
            assert found["ok"] == known
        elif given["kind"] == "older_report_data":
            assert found["ok"] == bound[given["name"]]
        else:
            signatures += 1
            passed = [step["step"] for step in found["findings"] if step["outcome"] == "pass"]
            assert passed == [f"signature.{number}" for number in range(1, 7 if given["model"] else 6)], given["name"]
    assert signatures == 2 * len(PHALA["signature"]["cases"])


# Policies ------------------------------------------------------------------------------------------------------------


def test_policies_are_taken_and_refused_as_in_python(run: Run) -> None:
    for given, found in outcomes(run, "policies"):
        try:
            expected = check(msgspec.convert(given["policy"], Policy)).digest()
        except (msgspec.ValidationError, PolicyError):
            assert found.get("error") == "PolicyError", (given["name"], found)
        else:
            assert found.get("ok") == expected, (given["name"], found)
