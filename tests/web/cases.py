"""Cases for the page's modules: what Python's verifier was given, and what it found.

The tables that break each step of Python's verifier are run again, and each call of a verifier is written down with its
inputs and findings; to these come mutations. ``tests/web/judging.mjs`` runs the same inputs in JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.dev_pki import Identity, pem
from confide.errors import ConfideError
from confide.verify.audit import check_report
from confide.verify.context import Context
from confide.verify.firstuse import accepting_anything
from confide.verify.receipt import verify_receipt
from confide.verify.report import verify_report
from confide.verify.saved import Established, SavedReport
from confide.verify.services import named
from confide.verify.session import verify_session
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import Ledger
from confide.wire import jcs
from confide.wire.tdx import parse_quote
from tests.verify import tdx_maker, test_verify_dstack, test_verify_receipt, test_verify_report, test_verify_session
from tests.verify import test_verify_tdx as tdx_tests
from tests.verify.dstack_maker import Guest
from tests.verify.making import made_policy, made_receipt, made_report

Json = dict[str, Any]
SEED = 20261127
KINDS = {"report", "quote", "snp", "gpus", "rim", "dstack", "custody", "receipt", "session", "signature", "saved"}
"""What is recorded here."""


def b64(data: bytes | None) -> str | None:
    """Bytes as cases hold them."""
    return None if data is None else base64.b64encode(data).decode()


def told(ledger: Ledger) -> Json:
    """What a case expects: every finding, the roots that were reached."""
    return {"findings": msgspec.to_builtins(ledger.findings), "roots": [root.name for root in ledger.anchors]}


def judged_by(context: Context) -> Json:
    """A context: the policy as JSON, the development roots as PEM."""
    roots = [
        root.certificate.public_bytes(Encoding.PEM).decode() for root in context.roots.accepted if root.development
    ]
    return {"policy": msgspec.to_builtins(context.policy), "pem": "".join(roots) or None, "now": context.now}


def channel_of(saved: SavedReport) -> Json | None:
    """The channel that a client saw."""
    return None if saved.channel is None else msgspec.to_builtins(saved.channel)


def saved_json(saved: SavedReport) -> Json:
    """What a client held."""
    return {
        "document": b64(saved.document),
        "nonce": saved.nonce,
        "channel": channel_of(saved),
        "manifest": b64(saved.manifest),
        "captured_at": saved.captured_at,
    }


def established_json(established: Established) -> Json:
    """Whose receipts count."""
    return {
        "keyset": msgspec.to_builtins(established.keyset),
        "keyset_digest": established.keyset_digest,
        "manifest": None if established.manifest is None else msgspec.to_builtins(established.manifest),
        "serving": established.serving,
    }


class Recorder:
    """Runs something that verifies, and writes down each call of a verifier in it."""

    def __init__(self) -> None:
        self.cases: list[Json] = []
        self._name = ""

    def add(self, kind: str, expected: Json, **given: Any) -> None:
        """One case."""
        self.cases.append(
            {"name": f"{kind} {len(self.cases)}: {self._name}", "kind": kind, "expected": expected, **given}
        )

    def run(self, name: str, call: Callable[[], Any]) -> None:
        """Something to watch, by a name."""
        self._name = name
        call()

    def report(self, ledger: Ledger, context: Context, saved: SavedReport) -> Established | None:
        """In place of :func:`verify_report`."""
        established = verify_report(ledger, context, saved)
        expected = told(ledger) | {"established": established is not None}
        self.add("report", expected, saved=saved_json(saved), **judged_by(context))
        return established

    def quote(self, ledger: Ledger, context: Context, raw: bytes, **more: Any) -> Any:
        """In place of :func:`verify_tdx`."""
        evidence = verify_tdx(ledger, context, raw, **more)
        items = [_json(item.data) for item in context.material.of("tdx-collateral")]
        if len(items) < 2 and not more.get("subject"):
            expected = told(ledger) | {"proven": evidence is not None}
            self.add("quote", expected, raw=b64(raw), collateral=items, **judged_by(context))
        return evidence

    def receipt(self, ledger: Ledger, context: Context, established: Established, receipt: bytes, **about: Any) -> Any:
        """In place of :func:`verify_receipt`."""
        read = verify_receipt(ledger, context, established, receipt, **about)
        if established.keyset is not None:
            self.add(
                "receipt",
                told(ledger) | {"good": read is not None},
                established=established_json(established),
                document=b64(receipt),
                asked=about["request_digest"],
                answered=about["response_digest"],
                model=about.get("model"),
                sessions={name: b64(one) for name, one in (about.get("sessions") or {}).items()},
                subject=about.get("subject", ""),
                **judged_by(context),
            )
        return read

    def session(self, ledger: Ledger, context: Context, session_id: str, document: bytes, **about: Any) -> Any:
        """In place of :func:`verify_session`."""
        session = verify_session(ledger, context, session_id, document, **about)
        expected = told(ledger)
        self.add("session", expected, id=session_id, document=b64(document), at=about["at"], **judged_by(context))
        return session

    def guest(self, guest: Guest) -> None:
        """A dstack guest; what its agent repeats comes in no report of aci/1, nor do bytes and values beyond depth."""
        if isinstance(guest.event_log, bytes) or guest is test_verify_dstack.BREAKS["a deep image hash"][1]:
            return
        _, ledger = guest.changed(info=None).verify()
        registers = {name: value.hex() for name in guest.td.__slots__ if (value := getattr(guest.td, name)) is not None}
        evidence = {"event_log": guest.event_log, "app_compose": guest.app_compose, "vm_config": guest.vm_config}
        self.add("dstack", told(ledger), td=registers, evidence=evidence, **judged_by(guest.context()))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


# Python's own tables -------------------------------------------------------------------------------------------------


def reports(recorder: Recorder) -> None:
    """Reports, each with one thing broken."""
    tests = test_verify_report
    with mock.patch.object(tests, "verify_report", recorder.report):
        for name, (_, run) in tests.BREAKS.items():
            recorder.run(name, run)
        recorder.run("good", lambda: tests.check(made_report()))
        recorder.run("good, with GPUs", lambda: tests.check(made_report(gpus=2)))
        recorder.run("aggregator", lambda: tests.check(made_report(serving="aggregator")))
        recorder.run("sealed", lambda: tests.check(made_report(channel=tests.SEALED)))
        recorder.run("no collateral", lambda: tests.check(made_report(evidence={"collateral": None})))
        recorder.run("no log", lambda: tests.check(made_report(evidence={"event_log": None, "app_compose": None})))
        recorder.run("out of date", lambda: tests.check(made_report(collateral={"status": "OutOfDate"})))
        recorder.run("no policy", lambda: tests.check(made_report(), accepting_anything()))


def quotes(recorder: Recorder) -> None:
    """Quotes: recorded ones of hardware, and development ones with something broken."""
    with mock.patch.object(tdx_maker, "verify_tdx", recorder.quote):
        for name in ("tdx_v4", "tdx_v4_near", "tdx_v5"):
            recorder.run(name, lambda name=name: tdx_maker.Tried(tdx_maker.recorded(name), tdx_maker.at_capture(name)))
        for name in ("tdx_v4_debug", "tdx_v5_service", "sgx_v3"):
            context = tdx_maker.at_capture("tdx_v5")
            recorder.run(name, lambda name=name, context=context: tdx_maker.Tried(tdx_maker.recorded(name), context))
        for name, run in tdx_tests.BREAKS.items():
            recorder.run(name, run)
        for name, wrong in tdx_tests.WRONG.items():
            context = tdx_maker.context(wrong.collateral(), now=wrong.now, **wrong.policy)
            recorder.run(name, lambda wrong=wrong, context=context: tdx_maker.Tried(wrong.raw(), context))
        for extra in (b"\n", b"\x0b \n", b"\0\0", b"\0\n", b"\xa0", b"\x85", b"\x1c", b"\n-----END CERTIFICATE-----"):
            raw, context = _with_text(extra), tdx_maker.context(tdx_maker.collateral())
            recorder.run(f"after the chain {extra!r}", lambda raw=raw, context=context: tdx_maker.Tried(raw, context))
        for name, raw in {
            "a CA that is none": _under("tcb_signing"),
            "short data, rightly hashed": _short_data(),
        }.items():
            context = tdx_maker.context(tdx_maker.collateral())
            recorder.run(name, lambda raw=raw, context=context: tdx_maker.Tried(raw, context))
        masked = tdx_maker.resigned(lambda value: value["tdxModuleIdentities"][0].update(attributesMask="00" * 8))
        for seam in (bytes(8), b"\x01" + bytes(7)):
            raw, context = tdx_maker.quote(seam_attributes=seam), tdx_maker.context(masked)
            recorder.run(
                f"a module behind a mask {seam!r}", lambda raw=raw, context=context: tdx_maker.Tried(raw, context)
            )
        for number, (raw, collateral, policy) in enumerate(_allowed()):
            context = tdx_maker.context(collateral(), **policy)
            recorder.run(f"allowed {number}", lambda raw=raw, context=context: tdx_maker.Tried(raw(), context))


def _under(issuer: str) -> bytes:
    """A quote of a platform whose certificate is like the machine's own, and issued by somebody who is no CA."""
    pki, key = tdx_maker.pki(), ec.generate_private_key(ec.SECP256R1())
    good, above = pki.pck.certificate, getattr(pki, issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(above.certificate.subject)
        .serial_number(7)
        .public_key(key.public_key())
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    leaf = builder.sign(above.key, hashes.SHA256())
    chain = pem([leaf, above.certificate, pki.tdx_root.certificate])
    signed = tdx_maker.enclave(tdx_maker.quote(), Identity(key, leaf))
    return tdx_maker.spliced(signed, certification=chain)


def _short_data() -> bytes:
    """A quote whose enclave vouches for its key with 31 bytes of data."""
    short = tdx_maker.spliced(tdx_maker.quote(), qe_auth_data=bytes(31))
    key = parse_quote(short).signature.attestation_key
    return tdx_maker.enclave(short, report_data=hashlib.sha256(key + bytes(31)).digest() + bytes(32))


def _with_text(extra: bytes) -> bytes:
    """A quote whose PCK chain has more text after it, and in front."""
    chain = parse_quote(tdx_maker.quote()).signature.certification.rstrip(b"\0")
    front = extra if extra.isspace() else b""
    return tdx_maker.spliced(tdx_maker.quote(), certification=front + chain + extra)


def _allowed() -> Any:
    (mark,) = tdx_tests.test_what_the_policy_allows.pytestmark  # type: ignore[attr-defined]
    return mark.args[1]


def guests(recorder: Recorder) -> None:
    """dstack guests."""
    tests = test_verify_dstack
    for name, (_, guest) in tests.BREAKS.items():
        recorder.run(name, lambda guest=guest: recorder.guest(guest))
    recorder.run("good", lambda: recorder.guest(tests.GOOD))
    for name in ("getquote_0_5", "getquote_0_6", "simulator"):
        recorder.run(name, lambda name=name: recorder.guest(tests.recorded(name)))


def answers(recorder: Recorder) -> None:
    """Receipts and sessions."""
    tests = test_verify_receipt
    with mock.patch.object(tests, "verify_receipt", recorder.receipt):
        for name, (_, run) in tests.BREAKS.items():
            recorder.run(name, run)
        for broken in ("session.1", "session.2", "session.3", "session.4"):
            recorder.run(
                broken, lambda broken=broken: tests.test_a_session_that_does_not_verify_fails_the_receipt_too(broken)
            )
        for test in (
            tests.test_receipt_3_of_another_keyset_with_the_same_key,
            tests.test_a_good_receipt_passes_every_step_but_the_upstream,
            tests.test_any_spelling_of_the_receipt_is_the_receipt,
            tests.test_an_answer_that_ended_early_is_told,
            tests.test_a_rewrite_that_the_policy_tolerates,
            tests.test_a_receipt_without_the_manifest_that_the_keyset_names,
            tests.test_a_manifest_that_the_keyset_does_not_name_is_no_manifest,
            tests.test_a_session_that_verifies_satisfies_the_step,
            tests.test_an_attempt_that_failed_before_the_one_that_served_is_fine,
            tests.test_a_session_that_says_too_little_leaves_the_receipt_unproven,
            tests.test_a_session_that_is_not_at_hand_is_missing,
            tests.test_serving_unverified_may_be_tolerated,
            tests.test_a_refusal_has_no_upstream_that_could_be_verified,
            tests.test_the_published_vector,
        ):
            recorder.run(test.__name__, test)
    sessions = test_verify_session
    with mock.patch.object(sessions, "verify_session", recorder.session):
        for name, (_, run) in sessions.BREAKS.items():
            recorder.run(name, run)
        recorder.run("good", sessions.test_a_good_session_passes_and_its_evidence_is_not_called_verified_session_5)


# Mutations -----------------------------------------------------------------------------------------------------------


def mutations(recorder: Recorder, count: int) -> None:
    """One byte of a quote, a receipt, a session or a report changed, at places that a fixed seed chooses."""
    chosen = random.Random(SEED)
    contexts = {
        "tdx_v4": (tdx_maker.recorded("tdx_v4"), tdx_maker.at_capture("tdx_v4")),
        "tdx_v5": (tdx_maker.recorded("tdx_v5"), tdx_maker.at_capture("tdx_v5")),
        "made": (tdx_maker.quote(), tdx_maker.context(tdx_maker.collateral())),
    }
    for name, (raw, context) in contexts.items():
        for place in sorted(chosen.sample(range(len(raw)), count)):
            changed = _flipped(raw, place, chosen)
            recorder.run(
                f"{name}, byte {place}", lambda raw=changed, context=context: recorder.quote(Ledger(), context, raw)
            )
    _mutated_receipts(recorder, chosen, count)
    _mutated_reports(recorder, chosen, count)


def _flipped(data: bytes, place: int, chosen: random.Random) -> bytes:
    return data[:place] + bytes([data[place] ^ chosen.choice((0x01, 0x20, 0x80))]) + data[place + 1 :]


def _mutated_receipts(recorder: Recorder, chosen: random.Random, count: int) -> None:
    tests = test_verify_receipt
    document = made_receipt(forwarded=tests.REQUEST)
    with mock.patch.object(tests, "verify_receipt", recorder.receipt):
        for place in sorted(chosen.sample(range(len(document)), min(count, len(document)))):
            changed = _flipped(document, place, chosen)
            recorder.run(f"byte {place}", lambda changed=changed: tests.check(changed))


def _mutated_reports(recorder: Recorder, chosen: random.Random, count: int) -> None:
    """The report is not signed as a whole: many changes are noticed by something inside, and some change nothing."""
    made = made_report()
    context = made.context()
    for number in range(count):
        value = made.value
        where = _mutate(value, chosen)
        saved = made.but(value).saved() if _writable(value) else None
        if saved is not None:
            recorder.run(f"mutation {number} at {where}", lambda saved=saved: recorder.report(Ledger(), context, saved))


def _writable(value: Any) -> bool:
    try:
        jcs.canonical(value)
    except ConfideError:
        return False
    return True


def _mutate(value: Any, chosen: random.Random) -> str:
    """Change one thing somewhere in a JSON value; where, in words."""
    path: list[str] = []
    while True:
        key = chosen.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path.append(str(key))
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and chosen.random() < 0.9:
            value = inner
            continue
        value[key] = _other(inner, chosen)
        if chosen.random() < 0.1 and isinstance(value, dict):
            del value[key]
        return ".".join(path)


def _other(value: Any, chosen: random.Random) -> Any:
    """Another value: of another type, or the same with one character changed, cut, or doubled."""
    if not isinstance(value, str) or not value or chosen.random() < 0.2:
        return chosen.choice([None, 0, "", [], {}, True, 1.5, "0", [value], {"a": value}])
    place = chosen.randrange(len(value))
    letter = chosen.choice('0123456789abcdefABCDEFxyz+/= \n"{}[]')
    return chosen.choice(
        [
            value[:place] + letter + value[place + 1 :],
            value[:place],
            value + value[place],
            value[:place] + value[place + 1 :],
        ]
    )


# Whole verdicts ------------------------------------------------------------------------------------------------------


def verdicts(recorder: Recorder) -> None:
    """Verdicts over whole reports, with claims: words, exit codes, digests of policies."""
    policies = {
        "the made policy": made_policy(),
        "claims demanded": made_policy(
            claims={
                "tee_attested": ("hardware_proven",),
                "tcb_up_to_date": ("hardware_proven",),
                "serving_software_known_good": ("verifier_derived",),
                "model_weights_provenance": ("verifier_derived",),
            }
        ),
        "claims that nothing shows": made_policy(claims={"os_known_good": ("verifier_derived",)}),
    }
    made = {
        "good": made_report(),
        "sealed": made_report(channel=test_verify_report.SEALED),
        "out of date": made_report(collateral={"status": "OutOfDate"}),
        "no collateral": made_report(evidence={"collateral": None}),
        "other nonce": made_report(sent="00" * 32),
        "no log": made_report(evidence={"event_log": None, "app_compose": None}),
    }
    for policy_name, policy in policies.items():
        for name, one in made.items():
            recorder.run(f"{name}, {policy_name}", lambda one=one, policy=policy: _verdict(recorder, one, policy))


def _verdict(recorder: Recorder, made: Any, policy: Any) -> None:
    context = made.context(policy)
    verdict, _ = check_report(made.saved(), named("aci"), context)
    recorder.add("saved", msgspec.to_builtins(verdict), saved=saved_json(made.saved()), **judged_by(context))


def recorded(mutated: int) -> list[Json]:
    """All of them."""
    recorder = Recorder()
    for table in (reports, quotes, guests, answers, verdicts):
        table(recorder)
    mutations(recorder, mutated)
    return recorder.cases
