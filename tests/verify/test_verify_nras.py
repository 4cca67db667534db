"""Tokens of NVIDIA's service: a good answer passes, each step can be broken alone, no mutation passes.

No recorded answer has a licence under which it may lie here, so answers are made, in the structure of recorded ones;
that structure is compared with the local verifier's answer which dstack recorded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from confide.verify.context import Context
from confide.verify.material import Item, Material, Source
from confide.verify.nras import ISSUER, MOST_BYTES, NRAS, SKEW, verify_nras
from confide.verify.policy import GpuPolicy, Policy
from confide.verify.roots import Roots
from confide.verify.verdict import Ledger, Outcome
from confide.wire.binary import MalformedEvidence
from confide.wire.jwt import MOST_CHARACTERS, parse_jwt
from tests.verify.nvidia_maker import KID, NONCE, NOW, UEIDS, Service

SERVICE = Service()
OTHER = Service()
GOOD = SERVICE.answer()
KEYS = SERVICE.jwks()
LOCAL = Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia" / "nvattest_h100.json"


@dataclass(frozen=True)
class Case:
    """One answer, good unless changed."""

    token: bytes | None = GOOD
    keys: tuple[bytes, ...] = (KEYS,)
    source: Source = "network"
    nonce: bytes = NONCE
    now: int = NOW
    devices: int | None = 2
    ueids: Collection[str] | None = UEIDS
    demanded: bool = True

    def run(self) -> Ledger:
        ledger = Ledger()
        policy = Policy(roots=("nvidia",), gpu=GpuPolicy(nras=self.demanded))
        items = tuple(Item("jwks", ISSUER, data, self.source) for data in self.keys)
        context = Context(policy, Roots.of(["nvidia"]), self.now, Material(items))
        verify_nras(ledger, context, self.token, self.nonce, devices=self.devices, ueids=self.ueids)
        return ledger


def steps_of(ledger: Ledger, *outcomes: Outcome) -> list[str]:
    return [finding.step for finding in ledger.findings if finding.outcome in outcomes]


def test_good_answer_passes() -> None:
    ledger = Case().run()
    assert steps_of(ledger, Outcome.PASS) == [step.id for step in NRAS.steps]
    assert not ledger.anchors, "no pinned root stands behind these keys"
    facts = json.loads(json.dumps(ledger.facts["nras"]))
    assert [fact["ueid"] for fact in facts] == list(UEIDS)


def test_both_spellings_of_the_digest_and_a_key_without_hints_pass() -> None:
    gpu = SERVICE.gpu()
    digest = hashlib.sha256(gpu.encode()).hexdigest()
    answer = SERVICE.answer({"GPU-0": gpu}, submods={"GPU-0": ["DIGEST", ["SHA256", digest]]})
    key = {name: value for name, value in SERVICE.jwk().items() if name not in ("alg", "use")}
    ledger = Case(answer, (SERVICE.jwks({"kid": "x"}, key | {"x5c": ["AAAA"]}),), devices=1, ueids=UEIDS[:1]).run()
    assert ledger.passed(*(step.id for step in NRAS.steps))


def test_several_sets_of_keys_are_tried() -> None:
    keys = (OTHER.jwks(OTHER.jwk(kid="older")), KEYS)
    assert Case(keys=keys).run().passed("nras.2")


def test_answer_without_nbf_passes() -> None:
    def without(token: str) -> str:
        claims = {name: value for name, value in parse_jwt(token).claims.items() if name != "nbf"}
        return SERVICE.token(claims)

    gpus = {"GPU-0": without(SERVICE.gpu())}
    answer = json.dumps([["JWT", without(SERVICE.overall(gpus))], gpus]).encode()
    assert Case(answer, devices=1, ueids=None).run().passed("nras.4")


# What breaks each step -----------------------------------------------------------------------------------------------


def claims(**changes: Any) -> Case:
    """The first GPU's token says something else, everything signed."""
    return Case(SERVICE.answer({"GPU-0": SERVICE.gpu(0, **changes), "GPU-1": SERVICE.gpu(1)}))


def overall(**changes: Any) -> Case:
    return Case(SERVICE.answer(**changes))


def keyed(**changes: Any) -> Case:
    return Case(keys=(SERVICE.jwks(SERVICE.jwk(**changes)),))


def headed(**header: Any) -> Case:
    gpus = {"GPU-0": SERVICE.token(parse_jwt(SERVICE.gpu(0)).claims, **header), "GPU-1": SERVICE.gpu(1)}
    return Case(SERVICE.answer(gpus))


def signed(signature: bytes) -> Case:
    """The first GPU's token has another signature, everything else fits."""
    text = SERVICE.gpu(0).rsplit(".", 1)[0] + "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")
    return Case(SERVICE.answer({"GPU-0": text, "GPU-1": SERVICE.gpu(1)}))


def raw(value: Any) -> Case:
    return Case(json.dumps(value).encode())


def _left_out() -> Case:
    """The overall token is about two GPUs, and one of their tokens is not shown."""
    both = {"GPU-0": SERVICE.gpu(0), "GPU-1": SERVICE.gpu(1)}
    answer = json.dumps([["JWT", SERVICE.overall(both)], {"GPU-0": both["GPU-0"]}]).encode()
    return Case(answer, devices=1, ueids=UEIDS[:1])


def _added() -> Case:
    one = {"GPU-0": SERVICE.gpu(0)}
    return Case(json.dumps([["JWT", SERVICE.overall(one)], one | {"GPU-1": SERVICE.gpu(1)}]).encode())


def _swapped() -> Case:
    both = {"GPU-0": SERVICE.gpu(0), "GPU-1": SERVICE.gpu(1)}
    answer = [["JWT", SERVICE.overall(both)], {"GPU-0": both["GPU-1"], "GPU-1": both["GPU-0"]}]
    return Case(json.dumps(answer).encode())


GPU = SERVICE.gpu()
_URL = base64.urlsafe_b64encode(b"[]").decode().rstrip("=")

BREAKS: dict[str, list[Callable[[], Case]]] = {
    "nras.1": [
        lambda: Case(b""),
        lambda: Case(b"[" * 100_000),
        lambda: Case(b" " * (MOST_BYTES + 1)),
        lambda: Case(GOOD[:-1]),
        lambda: raw([]),
        lambda: raw({"JWT": GPU}),
        lambda: raw([["JWT", GPU]]),
        lambda: raw([["JWT", GPU], {}]),
        lambda: raw([["JWT", GPU], {"GPU-0": GPU}, {}]),
        lambda: raw([["CWT", GPU], {"GPU-0": GPU}]),
        lambda: raw([["JWT", 1], {"GPU-0": GPU}]),
        lambda: raw([["JWT", GPU], {"GPU-0": None}]),
        lambda: raw([["JWT", GPU], {"SWITCH-0": GPU}]),
        lambda: raw([["JWT", GPU], {"GPU-0 ": GPU}]),
        lambda: raw([["JWT", GPU], {f"GPU-{n}": GPU for n in range(200)}]),
        lambda: raw([["JWT", "a.b"], {"GPU-0": GPU}]),
        lambda: raw([["JWT", GPU + "="], {"GPU-0": GPU}]),
        lambda: raw([["JWT", GPU], {"GPU-0": "A" * (MOST_CHARACTERS + 1)}]),
        lambda: raw([["JWT", GPU], {"GPU-0": f"{_URL}.{_URL}.AAAA"}]),
        lambda: raw([["JWT", GPU], {"GPU-0": "AAAA.AAAA.AAAA"}]),
        lambda: Case(b'[["JWT", "a"], {"GPU-0": "a", "GPU-0": "a"}]'),
    ],
    "nras.2": [
        lambda: Case(OTHER.answer()),
        lambda: Case(SERVICE.answer({"GPU-0": OTHER.gpu(0), "GPU-1": SERVICE.gpu(1)})),
        lambda: headed(alg="none"),
        lambda: headed(alg="ES256"),
        lambda: headed(alg="HS384"),
        lambda: headed(alg=None),
        lambda: headed(kid=None),
        lambda: headed(kid=7),
        lambda: headed(crit=["exp"]),
        lambda: Case(keys=(SERVICE.jwks(SERVICE.jwk(), SERVICE.jwk()),)),
        lambda: Case(keys=(SERVICE.jwks(SERVICE.jwk(), OTHER.jwk()),)),
        lambda: Case(keys=(b"", KEYS)),
        lambda: Case(keys=(b'{"keys": 1}',)),
        lambda: Case(keys=(b"[]",)),
        lambda: Case(keys=(SERVICE.jwks(*[{}] * 1000),)),
        lambda: keyed(kty="RSA"),
        lambda: keyed(crv="P-256"),
        lambda: keyed(alg="ES256"),
        lambda: keyed(use="enc"),
        lambda: keyed(x=SERVICE.jwk()["y"]),
        lambda: keyed(x="AAAA"),
        lambda: keyed(x="*"),
        lambda: keyed(y=None),
        lambda: signed(bytes(96)),
        lambda: signed(b""),
        lambda: signed(b"\xff" * 97),
    ],
    "nras.3": [
        lambda: overall(iss="NVAT-LOCAL-VERIFIER"),
        lambda: overall(iss=ISSUER + "/"),
        lambda: claims(iss="https://nras.attestation.nvidia.com.example"),
        lambda: claims(iss=None),
    ],
    "nras.4": [
        lambda: Case(now=NOW + 3590),
        lambda: Case(now=NOW - 11 - SKEW),
        lambda: overall(exp=NOW),
        lambda: claims(exp=NOW),
        lambda: overall(nbf=NOW + SKEW + 1),
        lambda: claims(iat=NOW + SKEW + 1),
        lambda: claims(exp=None),
        lambda: claims(exp=True),
        lambda: claims(exp="9999999999"),
        lambda: claims(iat=None),
        lambda: claims(nbf="0"),
        lambda: claims(exp=1.0e15 + 0.5),
    ],
    "nras.5": [
        lambda: Case(nonce=bytes(32)),
        lambda: Case(nonce=b""),
        lambda: overall(eat_nonce="00" * 32),
        lambda: claims(eat_nonce="00" * 32),
        lambda: claims(eat_nonce=None),
        lambda: claims(eat_nonce=[NONCE.hex()]),
    ],
    "nras.6": [
        _left_out,
        _added,
        _swapped,
        lambda: overall(submods=None),
        lambda: overall(submods={}),
        lambda: overall(submods={"GPU-0": ["DIGEST", ["SHA-256", "00" * 32]], "GPU-1": 1}),
        lambda: overall(submods={"GPU-0": "DIGEST", "GPU-1": []}),
        lambda: overall(submods={name: ["DIGEST", ["SHA-1", "00" * 20]] for name in ("GPU-0", "GPU-1")}),
    ],
    "nras.7": [
        lambda: overall(**{"x-nvidia-overall-att-result": False}),
        lambda: overall(**{"x-nvidia-overall-att-result": None}),
        lambda: overall(**{"x-nvidia-overall-att-result": 1}),
        lambda: overall(**{"x-nvidia-overall-att-result": "true"}),
        lambda: claims(measres="fail"),
        lambda: claims(measres="absent"),
        lambda: claims(measres=None),
        lambda: claims(secboot=False),
        lambda: claims(secboot=None),
        lambda: claims(secboot=1),
        lambda: claims(secboot="true"),
        lambda: claims(dbgstat="enabled"),
        lambda: claims(dbgstat=None),
    ],
    "nras.8": [
        lambda: Case(devices=8, ueids=None),
        lambda: Case(devices=1, ueids=None),
        lambda: Case(devices=None, ueids=UEIDS[:1]),
        lambda: Case(ueids=("1", "2")),
        lambda: claims(ueid=UEIDS[1]),
        lambda: claims(ueid=None),
        lambda: claims(ueid=1),
    ],
}
TABLE = [pytest.param(step, make, id=f"{step}-{n}") for step, makes in BREAKS.items() for n, make in enumerate(makes)]


def test_every_step_has_a_break() -> None:
    assert set(BREAKS) == {step.id for step in NRAS.steps}


@pytest.mark.parametrize(("step", "make"), TABLE)
def test_break_is_seen_at_its_step(step: str, make: Callable[[], Case]) -> None:
    ledger = make().run()
    assert steps_of(ledger, Outcome.FAIL) == [step]
    assert len(ledger.findings) == len(NRAS.steps)


# What can't be checked -----------------------------------------------------------------------------------------------


MISSING: dict[str, Callable[[], Case]] = {
    "no answer": lambda: Case(None),
    "no keys": lambda: Case(keys=()),
    "keys that came with the evidence": lambda: Case(source="stapled"),
    "keys from the bundle": lambda: Case(source="bundle"),
    "another key": lambda: Case(keys=(OTHER.jwks(OTHER.jwk(kid="older")),)),
    "an unknown key": lambda: headed(kid="another"),
}


@pytest.mark.parametrize("demanded", [False, True])
@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_not_checked(name: str, demanded: bool) -> None:
    ledger = replace(MISSING[name](), demanded=demanded).run()
    assert not steps_of(ledger, Outcome.FAIL)
    assert "nras.2" in steps_of(ledger, Outcome.NOT_CHECKED)
    assert {one.required for one in ledger.findings if one.outcome is Outcome.NOT_CHECKED} == {demanded}


def test_unknown_number_of_devices_is_not_checked() -> None:
    ledger = Case(devices=None, ueids=None).run()
    assert steps_of(ledger, Outcome.NOT_CHECKED) == ["nras.8"]


def test_local_verifier_in_the_same_structure_is_not_the_service() -> None:
    """nvattest writes answers of this form itself, with ``alg`` none. Our own tokens make no claim it does not make."""
    recorded = json.loads(LOCAL.read_text())["detached_eat"]
    ledger = raw(recorded).run()
    assert steps_of(ledger, Outcome.PASS) == ["nras.1"]
    assert steps_of(ledger, Outcome.FAIL) == ["nras.2"]
    for ours, theirs in ((SERVICE.gpu(), recorded[1]["GPU-0"]), (json.loads(GOOD)[0][1], recorded[0][1])):
        assert set(parse_jwt(ours).claims) <= {*parse_jwt(theirs).claims, "nbf", "sub"}


# Mutations -----------------------------------------------------------------------------------------------------------


def mutations() -> Iterable[Case]:
    """Every third byte of the answer; every claim and header member, signed; each member of the key; nonce and time."""
    for at in range(0, len(GOOD), 3):
        for other in (b"A", b'"'):
            if GOOD[at : at + 1] not in (other, b" "):
                yield Case(GOOD[:at] + other + GOOD[at + 1 :])
    for name in ("iss", "iat", "exp", "eat_nonce", "ueid", "measres", "secboot", "dbgstat"):
        for value in (None, "", 0, [], {}, "x", -1, False):
            if name == "iat" and value in (0, -1) and value is not False:
                continue  # earlier is no lie that matters: what counts is when it ends
            yield claims(**{name: value})
            if name not in ("ueid", "measres", "secboot", "dbgstat"):
                yield overall(**{name: value})
    for value in (None, "", 0, [], "x", False):
        yield overall(submods=value)
        yield overall(**{"x-nvidia-overall-att-result": value})
    for name in ("kid", "alg"):
        for value in (None, "", 0, [], "x", "none"):
            yield headed(**{name: value})
    for name in ("kty", "crv", "alg", "use", "kid", "x", "y"):
        for value in (None, "", 0, [], "x", SERVICE.jwk()["y" if name == "x" else "x"]):
            yield keyed(**{name: value})
    for at in range(32):
        yield Case(nonce=NONCE[:at] + bytes([NONCE[at] ^ 1]) + NONCE[at + 1 :])
    for now in (0, NOW - 10_000, NOW + 10_000, 2**40):
        yield Case(now=now)


def test_no_mutation_passes(capsys: pytest.CaptureFixture[str]) -> None:
    tried = accepted = 0
    for case in mutations():
        ledger = case.run()
        tried += 1
        accepted += ledger.passed(*(step.id for step in NRAS.steps))
    with capsys.disabled():
        print(f"\nNRAS: {tried} mutations tried, {accepted} accepted")
    assert tried > 1800
    assert accepted == 0


@given(st.text(max_size=300))
def test_every_text_is_a_token_or_one_exception(text: str) -> None:
    with pytest.raises(MalformedEvidence):
        parse_jwt(text)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_input_gives_a_surprise(token: bytes, keys: bytes) -> None:
    assert not Case(token).run().passed("nras.1")
    assert not Case(keys=(keys,)).run().passed("nras.2")


def test_other_curve_is_refused() -> None:
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).decode().rstrip("=") for n in (numbers.x, numbers.y))
    assert steps_of(keyed(x=x, y=y).run(), Outcome.FAIL) == ["nras.2"]
    assert KID in KEYS.decode()
