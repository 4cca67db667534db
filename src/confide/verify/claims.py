"""The typed claims that a verification supports: derived from its findings, never from what a service says of itself.

Source: Attested Confidential Inference, ``aci/1``, section 8.3. Missing evidence is "unknown": neither a pass nor a
refutation. Behind a development root stands no hardware, so that under one everything is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, get_args

from confide.verify.context import Context
from confide.verify.policy import ClaimName, ClaimSource
from confide.verify.roots import Use
from confide.verify.verdict import CheckFailed, ClaimMade, Ledger, NotChecked, Outcome, Steps

CLAIMS: Final = Steps.of(
    "claims",
    "Claims that the policy demands",
    "ACI aci/1, 8.3",
    ("tee_attested", "A genuine CPU TEE holds the identity that was established."),
    ("gpu_attested", "Genuine GPUs signed this verification's nonce. It does not bind them to the CPU."),
    ("tcb_up_to_date", "By the vendor's own word, the platform lacks no patch."),
    ("os_known_good", "The measured OS image is one that the policy accepts."),
    ("serving_software_known_good", "The measured software is what the policy accepts, on an OS that it accepts."),
    ("model_weights_provenance", "The keyset that the quote binds names a manifest of models that the policy accepts."),
)
NAMES: Final[tuple[ClaimName, ...]] = get_args(ClaimName)

_GENUINE: Final = {"tdx": (1, 2, 3, 4, 5, 8, 9), "snp": (1, 2, 3, 4, 5, 6, 7, 8)}
"""The steps by which a CPU's evidence is genuine and its guest can't be debugged; the others are for policies."""
_BINDINGS: Final = ("report.3", "legacy.3", "tinfoil.3")
_DEVICE: Final = ("gpu.1", "gpu.2", "gpu.3", "gpu.4", "gpus.1", "gpus.2")
_DEVICE_REFUTED: Final = (*_DEVICE[:4], "gpu.5", "gpu.6", "gpus.2")
_IMAGE: Final = ("dstack.6", "dstack.8")
_COMPOSE: Final = "dstack.9"
_LAUNCH: Final = ("tdx.7", "snp.11")


@dataclass(frozen=True, slots=True)
class _Made:
    """What became of each step, worst first: one that failed for one of several subjects failed."""

    ledger: Ledger
    outcomes: dict[str, Outcome]

    @classmethod
    def of(cls, ledger: Ledger) -> _Made:
        outcomes: dict[str, Outcome] = {}
        order = (Outcome.PASS, Outcome.NOT_CHECKED, Outcome.FAIL)
        for finding in ledger.findings:
            before = outcomes.setdefault(finding.step, finding.outcome)
            if before is not finding.outcome:
                outcomes[finding.step] = max(before, finding.outcome, key=order.index)
        return cls(ledger, outcomes)

    def failed(self, steps: Iterable[str]) -> str | None:
        """The first of these steps that failed."""
        return next((step for step in steps if self.outcomes.get(step) is Outcome.FAIL), None)

    def unmade(self, steps: Iterable[str]) -> str | None:
        """The first of these steps that did not pass."""
        return next((step for step in steps if self.outcomes.get(step) is not Outcome.PASS), None)

    def was_made(self, *steps: str) -> bool:
        return self.unmade(steps) is None

    def has(self, *groups: str) -> list[str]:
        """Which of these kinds of evidence were looked at."""
        return [group for group in groups if f"{group}.1" in self.outcomes]

    def development(self, *uses: Use) -> bool:
        return any(root.development for root in self.ledger.anchors if root.use in uses)


def claims_of(ledger: Ledger) -> dict[str, ClaimMade]:
    """The claims of ACI 8.3, as the findings in this ledger support them."""
    made = _Made.of(ledger)
    return _told(made, _claims(made))


def _told(made: _Made, claims: dict[str, ClaimMade]) -> dict[str, ClaimMade]:
    uses: dict[str, tuple[Use, ...]] = {"gpu_attested": ("gpu", "rim", "tdx", "snp")}
    return {
        name: _unknown("it rests on a development root, which is no hardware")
        if claim.status != "unknown" and made.development(*uses.get(name, ("tdx", "snp")))
        else claim
        for name, claim in claims.items()
    }


def verify_claims(ledger: Ledger, context: Context) -> None:
    """Check the claims that the policy demands, from the sources that it accepts.

    What rests on a development root counts here as it would on hardware: the verdict is never "verified" over it.
    """
    made, wanted = _Made.of(ledger), context.policy.claims
    claims = _claims(made)
    told = _told(made, claims)
    with ledger.group(CLAIMS) as checks:
        for number, name in enumerate(NAMES, 1):
            would = "" if told[name] == claims[name] else "rests on a development root; on hardware it would be "
            checks.check(number, _checking(name, claims[name], wanted.get(name), would))


def _checking(
    name: ClaimName, claim: ClaimMade, sources: tuple[ClaimSource, ...] | None, would: str
) -> Callable[[], str]:
    def check() -> str:
        said = " ".join(part for part in (claim.status, claim.source and f"({claim.source})") if part)
        if sources is None:
            raise NotChecked("the policy does not demand it", required=False)
        if claim.status == "unknown":
            raise NotChecked(claim.reason or "nothing in the evidence says so")
        if claim.status == "refuted" or claim.source not in sources:
            raise CheckFailed(f"found {name} {said}, expected asserted ({', '.join(sources)}): {claim.reason}")
        return f"{would}{said}: {claim.reason}"

    return check


# Each of them --------------------------------------------------------------------------------------------------------


def _claims(made: _Made) -> dict[str, ClaimMade]:
    tee = _tee(made)
    return {
        "tee_attested": tee,
        "gpu_attested": _gpu(made),
        "tcb_up_to_date": _on(tee, lambda: _tcb(made)),
        "os_known_good": _on(tee, lambda: _os(made)),
        "serving_software_known_good": _on(tee, lambda: _software(made)),
        "model_weights_provenance": _on(tee, lambda: _weights(made)),
    }


def _on(tee: ClaimMade, claim: Callable[[], ClaimMade]) -> ClaimMade:
    """What a TEE's evidence says is worth nothing where it is no TEE's."""
    return claim() if tee.status == "asserted" else _unknown("the TEE is not attested")


def _tee(made: _Made) -> ClaimMade:
    kinds = made.has(*_GENUINE)
    steps = [f"{kind}.{number}" for kind in kinds for number in _GENUINE[kind]]
    steps += [step for step in _BINDINGS if step in made.outcomes]
    if failed := made.failed(steps):
        return _refuted("hardware_proven", f"step {failed} failed")
    if not kinds:
        return _unknown("no evidence of a CPU was verified")
    if not made.has("report", "legacy", "tinfoil"):
        return _unknown("nothing binds an identity to the evidence")
    if unmade := made.unmade(steps):
        return _unknown(f"step {unmade} could not be made")
    return _asserted("hardware_proven", f"genuine {' and '.join(kinds)} evidence commits to the identity")


def _gpu(made: _Made) -> ClaimMade:
    if failed := made.failed(_DEVICE_REFUTED):
        return _refuted("hardware_proven", f"step {failed} failed")
    if unmade := made.unmade(_DEVICE):
        return _unknown(f"step {unmade} could not be made")
    if made.was_made("gpu.6"):
        return _asserted("hardware_proven", "genuine GPUs, with NVIDIA's reference measurements, signed the nonce")
    return _asserted("hardware_proven", "genuine GPUs signed the nonce; their measurements were not compared")


def _tcb(made: _Made) -> ClaimMade:
    told = [value for name, value in made.ledger.facts.items() if name == "tdx" or name.startswith("tdx:")]
    statuses = sorted({str(fact.get("status")) for fact in told if isinstance(fact, dict)})
    if not statuses or "None" in statuses:
        return _unknown("AMD names no current version" if made.has("snp") else "no collateral says how new it is")
    if statuses != ["UpToDate"]:
        return _refuted("hardware_proven", f"Intel's status is {', '.join(statuses)}")
    if made.has("snp"):
        return _unknown("AMD names no current version")
    return _asserted("hardware_proven", "Intel's status is UpToDate")


def _os(made: _Made) -> ClaimMade:
    if failed := made.failed(_IMAGE):
        return _refuted("verifier_derived", f"step {failed} failed")
    if unmade := made.unmade(_IMAGE):
        return _unknown(f"step {unmade} could not be made")
    return _asserted("verifier_derived", "the policy accepts the measured OS image")


def _software(made: _Made) -> ClaimMade:
    """A compose hash is the word of the OS that measured it, so it counts only on an OS that is accepted itself."""
    kinds = made.has(*_GENUINE)
    launch = [step for step in _LAUNCH if step.partition(".")[0] in kinds]
    if failed := made.failed([_COMPOSE, *launch]):
        return _refuted("verifier_derived", f"step {failed} failed")
    is_launched = made.was_made(*launch)
    if not made.has("dstack") or not made.was_made("dstack.1"):
        if is_launched:
            return _asserted("verifier_derived", "the policy accepts the measured guest")
        return _unknown("the policy names no measurement of it")
    if not made.was_made(_COMPOSE):
        return _unknown(f"step {_COMPOSE} could not be made")
    if is_launched or made.was_made(*_IMAGE):
        return _asserted("verifier_derived", "the policy accepts the measured deployment and what it runs on")
    return _unknown("the policy accepts the deployment, and nothing shows that its OS measured honestly")


def _weights(made: _Made) -> ClaimMade:
    report: Any = made.ledger.facts.get("report", {})
    accepted = report.get("manifest_accepted") if isinstance(report, dict) else None
    if accepted is False:
        return _refuted("verifier_derived", "the policy does not accept the manifest that the keyset names")
    if accepted is None or not made.was_made("report.3", "report.8"):
        return _unknown("no manifest of models was bound and accepted")
    return _asserted("verifier_derived", f"the quote binds the accepted manifest {report.get('manifest')}")


def _asserted(source: ClaimSource, reason: str) -> ClaimMade:
    return ClaimMade(status="asserted", source=source, reason=reason)


def _refuted(source: ClaimSource, reason: str) -> ClaimMade:
    return ClaimMade(status="refuted", source=source, reason=reason)


def _unknown(reason: str) -> ClaimMade:
    return ClaimMade(status="unknown", reason=reason)
