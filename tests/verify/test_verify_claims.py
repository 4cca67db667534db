"""Claims: what each rests on, what refutes it, what leaves it unknown, and what a policy demands of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest

from confide.verify.audit import catalogue
from confide.verify.claims import (
    _BINDINGS,
    _COMPOSE,
    _DEVICE_REFUTED,
    _IMAGE,
    _LAUNCH,
    CLAIMS,
    claims_of,
    verify_claims,
)
from confide.verify.policy import ClaimName, ModelsPolicy
from confide.verify.report import verify_report
from confide.verify.roots import Root, pinned
from confide.verify.verdict import CheckFailed, ClaimMade, Ledger, NotChecked
from confide.wire.session import CLAIMS as NAMES
from tests.verify.making import MANIFEST, failing, made_policy, made_report, missing

STEPS = {steps.name: steps for steps in catalogue()}
TDX, SNP, GPU, RIM = (next(root for root in pinned() if root.use == use) for use in ("tdx", "snp", "gpu", "rim"))
MEASURED = tuple(f"dstack.{number}" for number in range(1, 10))
FACTS: dict[str, Any] = {
    "tdx": {"status": "UpToDate"},
    "report": {"manifest": MANIFEST.digest(), "manifest_accepted": True},
}


def ledger_of(
    *groups: str,
    failed: Iterable[str] = (),
    unmade: Iterable[str] = (),
    roots: Iterable[Root] = (TDX, GPU, RIM),
    facts: dict[str, Any] = FACTS,
) -> Ledger:
    """A ledger in which every step of these kinds passed but those that are named."""
    ledger = Ledger()
    failed, unmade = set(failed), set(unmade)

    def step(id: str) -> None:
        if id in failed:
            raise CheckFailed("no")
        if id in unmade:
            raise NotChecked("not at hand", required=False)

    for name in groups:
        with ledger.group(STEPS[name]) as checks:
            for number, one in enumerate(STEPS[name].steps, 1):
                checks.check(number, partial(step, one.id))
    for root in roots:
        ledger.trusted(root)
    ledger.facts |= facts
    return ledger


def statuses(ledger: Ledger) -> dict[str, str]:
    return {name: claim.status for name, claim in claims_of(ledger).items()}


WHOLE = ("report", "tdx", "dstack", "gpu", "gpus")


def test_everything_that_passed_is_asserted() -> None:
    claims = claims_of(ledger_of(*WHOLE))
    assert tuple(claims) == NAMES == tuple(step.title for step in CLAIMS.steps)
    assert {claim.status for claim in claims.values()} == {"asserted"}
    sources = {name: claim.source for name, claim in claims.items()}
    assert sources == dict.fromkeys(NAMES[:3], "hardware_proven") | dict.fromkeys(NAMES[3:], "verifier_derived")


def test_nothing_is_known_of_nothing() -> None:
    assert set(statuses(Ledger()).values()) == {"unknown"}
    assert statuses(ledger_of("tdx"))["tee_attested"] == "unknown"  # nobody's identity is bound to it
    assert statuses(ledger_of("report"))["tee_attested"] == "unknown"


CASES: dict[str, tuple[ClaimName, str, Callable[[], Ledger]]] = {
    "forged": ("tee_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["tdx.4"])),
    "debug": ("tee_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["tdx.5"])),
    "not bound": ("tee_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["report.3"])),
    "no collateral": ("tee_attested", "unknown", lambda: ledger_of(*WHOLE, unmade=["tdx.8", "tdx.9"])),
    "old TCB, still a TEE": ("tee_attested", "asserted", lambda: ledger_of(*WHOLE, failed=["tdx.10", "report.2"])),
    "older surface": ("tee_attested", "asserted", lambda: ledger_of("legacy", "tdx")),
    "SNP": ("tee_attested", "asserted", lambda: ledger_of("report", "snp", roots=[SNP], facts={})),
    "GPU of nobody": ("gpu_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["gpu.2"])),
    "GPU twice": ("gpu_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["gpus.2"])),
    "other firmware": ("gpu_attested", "refuted", lambda: ledger_of(*WHOLE, failed=["gpu.6"])),
    "firmware not compared": ("gpu_attested", "asserted", lambda: ledger_of(*WHOLE, unmade=["gpu.6"])),
    "no GPU": ("gpu_attested", "unknown", lambda: ledger_of("report", "tdx", "gpus", unmade=["gpus.1", "gpus.2"])),
    "stale": ("tcb_up_to_date", "refuted", lambda: ledger_of(*WHOLE, facts={"tdx": {"status": "OutOfDate"}})),
    "status unknown": ("tcb_up_to_date", "unknown", lambda: ledger_of(*WHOLE, facts={"tdx": {}})),
    "Intel and AMD": ("tcb_up_to_date", "unknown", lambda: ledger_of(*WHOLE, "snp", roots=[TDX, SNP])),
    "TCB of AMD": ("tcb_up_to_date", "unknown", lambda: ledger_of("report", "snp", roots=[SNP], facts={})),
    "other image": ("os_known_good", "refuted", lambda: ledger_of(*WHOLE, failed=["dstack.8"])),
    "image not measured": ("os_known_good", "unknown", lambda: ledger_of(*WHOLE, unmade=["dstack.6"])),
    "no dstack": ("os_known_good", "unknown", lambda: ledger_of("report", "tdx")),
    "other compose": ("serving_software_known_good", "refuted", lambda: ledger_of(*WHOLE, failed=["dstack.9"])),
    "compose of any OS": (
        "serving_software_known_good",
        "unknown",
        lambda: ledger_of(*WHOLE, unmade=["tdx.7", "dstack.6"]),
    ),
    "compose not named": ("serving_software_known_good", "unknown", lambda: ledger_of(*WHOLE, unmade=["dstack.9"])),
    "TD alone": ("serving_software_known_good", "asserted", lambda: ledger_of("report", "tdx")),
    "TD not named": ("serving_software_known_good", "unknown", lambda: ledger_of("report", "tdx", unmade=["tdx.7"])),
    "other models": (
        "model_weights_provenance",
        "refuted",
        lambda: ledger_of(*WHOLE, facts=FACTS | {"report": {"manifest_accepted": False}}),
    ),
    "models not named": (
        "model_weights_provenance",
        "unknown",
        lambda: ledger_of(*WHOLE, facts=FACTS | {"report": {"manifest_accepted": None}}),
    ),
    "manifest not bound": ("model_weights_provenance", "unknown", lambda: ledger_of(*WHOLE, failed=["report.8"])),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_claim_rests_on(name: str) -> None:
    claim, status, make = CASES[name]
    assert statuses(make())[claim] == status


def test_without_a_tee_only_the_gpus_are_told() -> None:
    told = statuses(ledger_of(*WHOLE, failed=["tdx.4"]))
    assert told.pop("gpu_attested") == "asserted"
    assert told.pop("tee_attested") == "refuted"
    assert set(told.values()) == {"unknown"}


def test_a_development_root_proves_nothing() -> None:
    made = ledger_of(*WHOLE, roots=[replace(TDX, development=True), GPU])
    assert set(statuses(made).values()) == {"unknown"}
    assert "development root" in claims_of(made)["tee_attested"].reason
    made = ledger_of(*WHOLE, roots=[TDX, replace(GPU, development=True)])
    assert [name for name, status in statuses(made).items() if status == "unknown"] == ["gpu_attested"]


def test_steps_that_claims_rest_on_are_those_that_are_meant() -> None:
    titles = {step.id: step.title for steps in catalogue() for step in steps.steps}
    assert {titles[step] for step in _BINDINGS} == {"binding"}
    assert [titles[step] for step in (*_IMAGE, _COMPOSE)] == [
        "OS image measured",
        "OS image accepted",
        "compose hash accepted",
    ]
    assert [titles[step] for step in _LAUNCH] == ["measurements", "launch is an accepted one"]
    assert [titles[step] for step in _DEVICE_REFUTED] == [
        *(
            "format",
            "certificate chain",
            "signature",
            "nonce",
            "firmware identity",
            "reference measurements",
            "distinct",
        )
    ]
    assert [titles[f"tdx.{n}"] for n in (5, 9)] == ["TD attributes", "platform"]
    assert titles["snp.8"] == "guest policy is acceptable"
    assert titles["report.8"] == "subject and manifest"


# What a policy demands -----------------------------------------------------------------------------------------------


def demanded(ledger: Ledger, **claims: tuple[str, ...]) -> Ledger:
    verify_claims(ledger, made_report().context(made_policy(claims=claims)))
    return ledger


@pytest.mark.parametrize("name", get_args(ClaimName), ids=lambda name: f"claims.{NAMES.index(name) + 1} {name}")
def test_each_claim_that_is_demanded_from_elsewhere_fails_its_step(name: str) -> None:
    ledger = demanded(ledger_of(*WHOLE), **{name: ("provider_asserted",)})
    assert failing(ledger) == {f"claims.{NAMES.index(name) + 1}"}
    ledger = demanded(ledger_of(*WHOLE), **{name: ("hardware_proven", "verifier_derived")})
    assert not failing(ledger) | missing(ledger)


def test_a_claim_that_is_unknown_or_refuted() -> None:
    ledger = demanded(ledger_of("report", "tdx"), gpu_attested=("hardware_proven",))
    assert (failing(ledger), missing(ledger)) == (set(), {"claims.2"})
    stale = ledger_of(*WHOLE, facts={"tdx": {"status": "OutOfDate"}})
    assert failing(demanded(stale, tcb_up_to_date=("hardware_proven",))) == {"claims.3"}
    assert not failing(demanded(ledger_of(*WHOLE, facts={"tdx": {"status": "OutOfDate"}})))


def test_a_whole_development_report() -> None:
    made = made_report(gpus=1)
    policy = made_policy(claims={"tee_attested": ("hardware_proven",), "gpu_attested": ("hardware_proven",)})
    ledger, context = Ledger(), made.context(policy)
    verify_report(ledger, context, made.saved())
    verify_claims(ledger, context)
    assert not failing(ledger) | missing(ledger)  # consistent, and never verified: see judge()
    assert set(statuses(ledger).values()) == {"unknown"}
    ledger.anchors[:] = [replace(root, development=False) for root in ledger.anchors]
    claims = claims_of(ledger)
    asserted = {name for name, claim in claims.items() if claim.status == "asserted"}
    assert asserted == {*NAMES} - {"os_known_good"}
    assert isinstance(claims["os_known_good"], ClaimMade)


def test_models_that_the_policy_does_not_name_are_not_known() -> None:
    made, ledger = made_report(), Ledger()
    verify_report(ledger, made.context(made_policy(models=ModelsPolicy())), made.saved())
    ledger.anchors[:] = [replace(root, development=False) for root in ledger.anchors]
    assert statuses(ledger)["model_weights_provenance"] == "unknown"
