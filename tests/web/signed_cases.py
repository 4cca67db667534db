"""Cases of what is signed on secp256k1: proofs of custody, and signatures of the older surface.

As in :mod:`tests.web.cases`: Python's own tables and mutations, with what Python found.
"""

from __future__ import annotations

import random
from typing import Any
from unittest import mock

import msgspec

from confide.verify.custody import verify_custody
from confide.verify.dstack import DstackFacts
from confide.verify.legacy import verify_signature
from confide.verify.policy import DstackPolicy, KeysPolicy, Policy
from confide.verify.verdict import Finding, Ledger, Outcome
from confide.wire.legacy import ALGORITHMS
from tests.verify import test_verify_custody as custody
from tests.verify import test_verify_legacy as older
from tests.verify import test_verify_report as report_tests
from tests.verify.making import made_identity, made_machine, made_policy
from tests.web.cases import SEED, Json, Recorder, b64, judged_by, told


class Signed(Recorder):
    """Writes down calls of the verifiers of custody and of older signatures."""

    def custody(self, ledger: Ledger, context: Any, shown: Any, *, keyset_keys: Any, dstack: Any) -> None:
        """In place of :func:`verify_custody`."""
        verify_custody(ledger, context, shown, keyset_keys=keyset_keys, dstack=dstack)
        self.add(
            "custody",
            told(ledger) | {"facts": ledger.facts},
            shown=shown,
            keys=[key.hex() for key in keyset_keys],
            measured=_measured(dstack),
            **judged_by(context),
        )

    def signature(self, ledger: Ledger, context: Any, established: Any, answer: bytes, **about: Any) -> None:
        """In place of :func:`verify_signature`."""
        verify_signature(ledger, context, established, answer, **about)
        self.add(
            "signature",
            told(ledger) | {"good": not any(_counts(one) for one in ledger.findings)},
            document=b64(answer),
            signers=[{"algorithm": one.algorithm, "address": one.address.hex()} for one in established.signers],
            asked=about["request_digest"],
            answered=about["response_digest"],
            model=about.get("model"),
            subject=about.get("subject", ""),
        )


def _counts(finding: Finding) -> bool:
    return finding.outcome is Outcome.FAIL or (finding.outcome is Outcome.NOT_CHECKED and finding.required)


def _measured(dstack: DstackFacts | None) -> Json | None:
    if dstack is None:
        return None
    return {"app_id": dstack.app_id, "key_provider": msgspec.to_builtins(dstack.key_provider)}


# Python's own tables -------------------------------------------------------------------------------------------------


def custodies(recorder: Signed) -> None:
    """Proofs of released keys, each with one thing broken, and what a policy may want of them."""
    good = custody.GOOD
    with mock.patch.object(custody, "verify_custody", recorder.custody):
        for name, (_, case) in custody.BREAKS.items():
            recorder.run(name, case.verify)
        for test in (
            custody.test_every_step_passes_where_all_keys_are_released_ones,
            custody.test_the_recorded_signature_of_a_kms_verifies_with_the_recorded_guest,
            custody.test_a_key_that_no_proof_covers_is_named_custody_5,
            custody.test_proofs_of_another_server_say_less,
            custody.test_a_named_root_wants_proofs_and_the_key_of_a_ca_does_not,
            custody.test_any_signatures_give_findings_and_no_exception,
        ):
            recorder.run(test.__name__, test)
        for name, policy in {"nothing": custody.NOT_NEEDED, "custody": custody.policy()}.items():
            for what, members in {
                "no proofs": {"shown": None},
                "no guest": {"facts": None},
                "no application": {"facts": DstackFacts()},
                "no root": {},
            }.items():
                case = good.changed(policy=policy, **members)
                recorder.run(f"{what}, wanted: {name}", case.verify)


def signatures(recorder: Signed) -> None:
    """Answers with signatures, each with one thing broken."""
    with mock.patch.object(older, "verify_signature", recorder.signature):
        for name, run in older.SIGNATURE_BREAKS.items():
            recorder.run(name, run)
        recorder.run("not at hand", older.test_what_is_not_at_hand_is_missing)
        recorder.run("injected", older.test_a_header_that_writes_into_the_text_names_a_model_and_no_other_request)
        for algorithm in ALGORITHMS:
            recorder.run("good", lambda algorithm=algorithm: older.test_signatures_of_our_server_pass(algorithm, "a:b"))
            for case in older.PUBLISHED["signature"]["cases"]:
                recorder.run(
                    "published",
                    lambda case=case, algorithm=algorithm: older.test_published_signatures_pass(case, algorithm),
                )


def reports(recorder: Recorder) -> None:
    """Whole reports with proofs of custody."""
    key = bytes.fromhex(made_identity().keyset.receipt_signing_keys[0].public_key)
    app_id = made_machine().app_id.hex()
    named = made_policy(
        dstack=DstackPolicy(compose_hashes=made_policy().dstack.compose_hashes, key_providers=(custody.root(),)),
    )
    wanted: dict[str, Policy] = {"nothing": made_policy(), "custody": made_policy(keys=KeysPolicy(custody=True))}
    with mock.patch.object(report_tests, "verify_report", recorder.report):
        for name, policy in {**wanted, "a root": named}.items():
            for what, proofs in {
                "ours": custody.custody(custody.proof(key, app_id=app_id)),
                "another's": custody.custody(custody.proof(custody.RECEIPT, app_id=app_id)),
                "none": custody.custody(),
                "null": None,
            }.items():
                made = report_tests.shown(key_custody=proofs)
                recorder.run(
                    f"custody, {what}, wanted: {name}",
                    lambda made=made, policy=policy: report_tests.check(made, policy),
                )


# Mutations -----------------------------------------------------------------------------------------------------------


def mutations(recorder: Signed, count: int) -> None:
    """Bytes of proofs and answers changed, at places that a fixed seed chooses."""
    chosen = random.Random(SEED)
    with mock.patch.object(custody, "verify_custody", recorder.custody):
        for made in (custody._made, custody._single, custody._recorded):
            for number, case in enumerate(chosen.sample(list(made()), count)):
                recorder.run(f"mutation {number}", case.verify)
    with mock.patch.object(older, "verify_signature", recorder.signature):
        for algorithm in ALGORITHMS:
            good = older.answer("m:" + older.HASHES, algorithm)
            places = [(path, leaf, seed) for path, leaf in older.leaves(good) for seed in range(len(leaf))]
            for path, leaf, seed in chosen.sample(places, count):
                value = older.put(good, path, older.changed(leaf, seed))
                recorder.run(f"{path} {seed}", lambda value=value: older.signature(value, model="m"))


def recorded(mutated: int) -> list[Json]:
    """All of them."""
    recorder = Signed()
    for table in (custodies, signatures, reports):
        table(recorder)
    mutations(recorder, mutated)
    return recorder.cases
