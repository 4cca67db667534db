"""Audits of whole bundles: the verdict, its exit code, every exchange under its own name; and the catalogue."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from confide.errors import ConfideError
from confide.verify import policy as policies
from confide.verify.audit import Auditor, _verify_exchange, audit, audit_parts, catalogue, check_report
from confide.verify.bundle import Bundle, Exchange, parse_bundle
from confide.verify.claims import CLAIMS
from confide.verify.material import Item, Material
from confide.verify.policy import GpuPolicy, Policy, PolicyError
from confide.verify.saved import Established
from confide.verify.services import named
from confide.verify.verdict import ExitCode, Ledger, Verdict
from tests.verify.making import (
    HOST,
    NOW,
    REQUEST,
    RESPONSE,
    Made,
    made_bundle,
    made_exchange,
    made_policy,
    made_receipt,
    made_report,
    made_session,
    made_upstream,
)

FIXED = made_report()
EXCHANGE = made_exchange()


def judged(bundle: Bundle, made: Made | None = None, policy: Policy | None = None, **given: Any) -> Verdict:
    made = made_report() if made is None else made
    whole = parse_bundle(bundle.encode())
    return audit(whole, policy or made_policy(), **({"now": NOW, "development": made.roots()} | given))


def problems(verdict: Verdict) -> set[tuple[str, str]]:
    return {(finding.subject, finding.step) for finding in verdict.problems()}


def test_a_good_bundle_is_consistent() -> None:
    made = made_report(gpus=1)
    verdict = judged(made_bundle(made, EXCHANGE, EXCHANGE), made)
    assert (verdict.exit_code, problems(verdict), verdict.hardware) == (ExitCode.DEVELOPMENT, set(), False)
    assert (verdict.subject, verdict.at, verdict.policy) == (f"https://{HOST}", NOW, made_policy().digest())
    assert {f.subject for f in verdict.findings if f.step == "receipt.2"} == {"exchange 1", "exchange 2"}
    assert verdict.claims["tee_attested"].status == "unknown"
    json.loads(verdict.as_json())


def test_only_the_exchange_that_is_wrong_is_named() -> None:
    exchanges = [EXCHANGE] * 4
    exchanges[2] = structs.replace(EXCHANGE, response=RESPONSE + b" ")
    verdict = judged(made_bundle(made_report(), *exchanges))
    assert (verdict.exit_code, problems(verdict)) == (ExitCode.FAILED, {("exchange 3", "receipt.5")})


def test_without_the_development_root_nothing_is_established() -> None:
    verdict = judged(made_bundle(made_report(), EXCHANGE), development=())
    assert verdict.exit_code == ExitCode.FAILED
    assert ("exchange 1", "receipt.1") in problems(verdict)
    assert verdict.roots == ()


MISSING: dict[str, tuple[Exchange, str]] = {
    "no receipt": (structs.replace(EXCHANGE, receipt=None), "receipt.1"),
    "no request": (structs.replace(EXCHANGE, request=None), "receipt.4"),
    "no response": (structs.replace(EXCHANGE, response=None), "receipt.5"),
}


@pytest.mark.parametrize("name", MISSING)
def test_an_exchange_that_lacks_something_is_not_enough(name: str) -> None:
    exchange, step = MISSING[name]
    verdict = judged(made_bundle(made_report(), exchange))
    assert verdict.exit_code == ExitCode.NOT_ENOUGH
    assert ("exchange 1", step) in problems(verdict)


def test_a_report_without_a_recorded_channel_or_nonce_is_not_enough() -> None:
    made = made_report()
    assert problems(judged(made_bundle(made, channel=None))) == {("", "report.10")}
    fresh = made_report(None)
    assert problems(judged(made_bundle(fresh))) == {("", "report.4")}


def test_sessions_come_from_the_bundle() -> None:
    session, made = made_session(), made_report(serving="aggregator")
    receipt = made_receipt(forwarded=REQUEST, upstreams=[made_upstream(session)])
    whole = structs.replace(EXCHANGE, receipt=receipt, sessions={session.id(): session.document()})
    verdict = judged(made_bundle(made, whole))
    assert (verdict.exit_code, problems(verdict)) == (ExitCode.DEVELOPMENT, set())
    verdict = judged(made_bundle(made, structs.replace(whole, sessions={})))
    assert problems(verdict) == {("exchange 1", "receipt.8")}


def test_material_comes_from_the_bundle_or_from_the_side() -> None:
    made = made_report()
    value = made.value
    item = Item("tdx-collateral", "", json.dumps(value["attestation"]["evidence"].pop("collateral")).encode())
    bare = made.but(value)
    assert judged(made_bundle(bare)).exit_code == ExitCode.NOT_ENOUGH
    assert judged(made_bundle(bare, material=(item,))).exit_code == ExitCode.DEVELOPMENT
    assert judged(made_bundle(bare), material=Material((item,))).exit_code == ExitCode.DEVELOPMENT


def test_time_and_age() -> None:
    week = judged(made_bundle(made_report()), now=NOW + 8 * 86400)
    assert ("", "report.5") in problems(week)
    policy = made_policy(age=policies.AgePolicy(report_days=1))
    assert problems(judged(made_bundle(made_report(), captured_at=NOW - 2 * 86400), policy=policy)) == {
        ("", "report.11")
    }


def test_a_policy_that_says_nothing_is_refused() -> None:
    for policy in (Policy(), Policy(roots=("intel",))):
        with pytest.raises(PolicyError):
            audit(made_bundle(made_report()), policy, now=NOW)
        with pytest.raises(PolicyError):
            check_report(made_report().saved(), named("aci"), replace(made_report().context(), policy=policy))


def test_demanded_claims_are_part_of_the_verdict() -> None:
    policy = made_policy(claims={"gpu_attested": ("hardware_proven",)})
    assert ("", "claims.2") in problems(judged(made_bundle(made_report()), policy=policy))
    made = made_report(gpus=1)
    assert judged(made_bundle(made), made, policy).exit_code == ExitCode.DEVELOPMENT


def test_the_report_alone() -> None:
    made = made_report()
    verdict, established = check_report(made.saved(), named("aci"), made.context())
    assert (verdict.exit_code, verdict.subject) == (ExitCode.DEVELOPMENT, HOST)
    assert established == made.established()
    assert {one.step for one in verdict.findings} >= {step.id for step in CLAIMS.steps}


def test_loose_files_are_a_bundle() -> None:
    made = made_report()
    parts = audit_parts(
        made.document,
        captured_at=NOW,
        nonce=made.nonce,
        channel=made.channel,
        manifest=made.manifest,
        exchange=EXCHANGE,
        url=f"https://{HOST}",
    )
    assert parts == made_bundle(made, EXCHANGE)
    assert judged(parts).exit_code == ExitCode.DEVELOPMENT
    assert audit_parts(made.document, captured_at=NOW).exchanges == ()


def test_reports_of_no_known_format() -> None:
    for bundle in (made_bundle(made_report(), report=b"{}"), made_bundle(made_report(), service="nobody")):
        with pytest.raises(ConfideError):
            judged(bundle)


def test_an_older_service_signs_and_gives_no_receipts() -> None:
    """A report of the other kind: what is missing is named as that kind's."""
    exchange = structs.replace(EXCHANGE, receipt=None, signature=b"{}")
    verdict = judged(made_bundle(made_report(), exchange))
    assert ("exchange 1", "receipt.1") in problems(verdict)
    assert any(step.startswith("signature.") for _, step in problems(verdict))


@pytest.mark.parametrize("signature", [b"{}", None])
def test_an_exchange_of_a_service_without_keysets_needs_a_signature(signature: bytes | None) -> None:
    ledger, exchange = Ledger(), structs.replace(EXCHANGE, receipt=None, signature=signature)
    _verify_exchange(ledger, FIXED.context(), Established(), exchange, "exchange 1")
    assert {finding.step.partition(".")[0] for finding in ledger.findings} == {"signature"}
    assert ledger.findings[0].outcome != "pass"
    assert not ledger.passed("signature.3")


# Many bundles --------------------------------------------------------------------------------------------------------


def different() -> list[Bundle]:
    """Bundles that share a report with the first, or nearly: each is to be judged by what it says itself."""
    first = made_bundle(FIXED, EXCHANGE)
    assert FIXED.channel is not None
    broken = structs.replace(EXCHANGE, response=RESPONSE + b" ")
    item = Item("tdx-collateral", "", b"{}")
    session = made_session()
    aggregator = made_report(serving="aggregator")
    receipt = made_receipt(forwarded=REQUEST, upstreams=[made_upstream(session)])
    routed = structs.replace(EXCHANGE, receipt=receipt, sessions={session.id(): session.document()})
    return [
        first,
        made_bundle(FIXED, broken, EXCHANGE),
        made_bundle(FIXED, EXCHANGE, nonce="ab" * 32),
        made_bundle(FIXED, EXCHANGE, nonce=None),
        made_bundle(FIXED, EXCHANGE, channel=None),
        made_bundle(FIXED, EXCHANGE, channel=replace(FIXED.channel, host="other.example")),
        made_bundle(FIXED, EXCHANGE, manifest=None),
        made_bundle(FIXED, EXCHANGE, report=FIXED.document + b" "),
        made_bundle(FIXED, EXCHANGE, report=FIXED.document[:-1], service="aci"),
        made_bundle(FIXED, EXCHANGE, captured_at=NOW - 90 * 86400),
        made_bundle(FIXED, EXCHANGE, service="vllm-proxy"),
        made_bundle(FIXED, EXCHANGE, material=(item,)),
        made_bundle(FIXED, EXCHANGE, url="https://another.example"),
        made_bundle(aggregator, routed),
        made_bundle(aggregator),
        first,
    ]


@pytest.mark.parametrize("kept", [0, 1, 16])
def test_of_many_bundles_each_has_the_verdict_that_it_has_alone(kept: int) -> None:
    policy, roots = made_policy(age=policies.AgePolicy(report_days=1)), FIXED.roots()
    auditor = Auditor(policy, development=roots, most_kept=kept)
    bundles = different()
    assert len({bundle.encode() for bundle in bundles}) == len(bundles) - 1
    for at in (None, NOW + 86400):
        for bundle in [*bundles, *reversed(bundles)]:
            now = bundle.captured_at if at is None else at
            assert auditor.audit(bundle, now=now) == audit(bundle, policy, now=now, development=roots)


def test_a_report_is_verified_once_for_all_that_hold_exactly_it() -> None:
    auditor = Auditor(made_policy(), development=FIXED.roots())
    for exchange in (EXCHANGE, structs.replace(EXCHANGE, receipt=None), Exchange()):
        auditor.audit(made_bundle(FIXED, exchange), now=NOW)
    assert len(auditor._kept) == 1
    auditor.audit(made_bundle(FIXED, EXCHANGE), now=NOW + 1)
    assert len(auditor._kept) == 2
    for second in range(100):
        auditor.audit(made_bundle(FIXED), now=NOW + second)
    assert len(auditor._kept) == 16


def test_what_one_bundle_adds_is_not_seen_by_the_next() -> None:
    """Sessions are facts of an exchange; so is whatever else a verdict holds that its reader changes."""
    *_, routed, bare, _ = different()
    auditor = Auditor(made_policy(), development=FIXED.roots())
    first = auditor.audit(routed, now=NOW)
    assert first.facts["sessions"]
    first.facts["report"]["subject"] = "changed by a reader"
    second = auditor.audit(bare, now=NOW)
    assert "sessions" not in second.facts
    assert second.facts["report"]["subject"] != "changed by a reader"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_bytes_break_an_audit(data: st.DataObject) -> None:
    """Any of the texts in a bundle cut and spliced: the audit says no, and nothing else leaves it."""
    good = EXCHANGE

    def spliced(text: bytes) -> bytes:
        at = int(data.draw(st.floats(0, 1)) * len(text))
        return text[:at] + data.draw(st.binary(min_size=1, max_size=8)) + text[at + data.draw(st.integers(0, 8)) :]

    made, which = FIXED, data.draw(st.sampled_from(["report", "receipt", "manifest", "request"]))
    if which in ("report", "manifest"):
        bundle = made_bundle(made, good, **{which: spliced(getattr(made_bundle(made), which))}, service="aci")
    else:
        bundle = made_bundle(made, structs.replace(good, **{which: spliced(getattr(good, which))}))
    assert judged(bundle).exit_code in set(ExitCode)


# The catalogue -------------------------------------------------------------------------------------------------------


def test_the_catalogue_has_every_kind_once_and_numbers_from_one() -> None:
    kinds = catalogue()
    names = [kind.name for kind in kinds]
    assert len(set(names)) == len(names)
    assert {"report", "tdx", "snp", "dstack", "custody", "gpu", "gpus", "rim", "nras", "receipt", "session"} <= {*names}
    assert {"legacy", "signature", "near", "tinfoil", "claims"} <= {*names}
    for kind in kinds:
        assert kind.title
        assert kind.source
        assert [step.id for step in kind.steps] == [f"{kind.name}.{n}" for n in range(1, len(kind.steps) + 1)]
        assert all(step.title and step.proves.endswith(".") for step in kind.steps)


def test_every_finding_is_in_the_catalogue() -> None:
    made = made_report(gpus=1)
    known = {step.id: step.title for kind in catalogue() for step in kind.steps}
    for finding in judged(made_bundle(made, EXCHANGE), made, made_policy(gpu=GpuPolicy(required=True))).findings:
        assert known[finding.step] == finding.title


def test_eight_gpus() -> None:
    made = made_report(gpus=8)
    bundle, roots, policy = made_bundle(made), made.roots(), made_policy()
    verdict = audit(bundle, policy, now=NOW, development=roots)
    assert verdict.exit_code == ExitCode.DEVELOPMENT
    assert len({one.subject for one in verdict.findings if one.step == "gpu.3"}) == 8
