"""Cases of AMD's reports, NVIDIA's devices and their manifests, as ``cases.py`` has those of everything else.

Recorded hardware in its time; Python's tables that break each step alone; single bits, bytes and members changed.
"""

from __future__ import annotations

import base64
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from confide.verify.audit import check_report
from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.nvidia import verify_gpus
from confide.verify.nvidia_device import rim_ids
from confide.verify.policy import DstackPolicy, GpuPolicy
from confide.verify.rim import verify_rim
from confide.verify.services import named
from confide.verify.snp import verify_snp
from confide.verify.verdict import Ledger
from confide.wire.nvgpu import GpuEvidence
from tests.verify import snp_maker, test_verify_nvidia, test_verify_rim, test_verify_snp
from tests.verify.making import made_policy, made_report
from tests.verify.nvidia_maker import Signer
from tests.web.cases import SEED, Json, Recorder, b64, judged_by, saved_json, told
from tests.wire import test_rim

T = TypeVar("T")


def at_hand(context: Context) -> Json:
    """A context whose roots and material are given as such."""
    return {
        "policy": msgspec.to_builtins(context.policy),
        "roots": [
            {
                "name": one.name,
                "vendor": one.vendor,
                "use": one.use,
                "development": one.development,
                "der": b64(one.der),
            }
            for one in context.roots.accepted
        ],
        "material": [{"kind": one.kind, "key": one.key, "data": b64(one.data)} for one in context.material.items],
        "now": context.now,
    }


class Devices:
    """Writes down each call of a verifier of devices."""

    def __init__(self, recorder: Recorder) -> None:
        self._add = recorder.add
        self.run = recorder.run

    def snp(self, ledger: Ledger, context: Context, raw: bytes) -> Any:
        """In place of :func:`verify_snp`."""
        evidence = verify_snp(ledger, context, raw)
        expected = told(ledger) | {"proven": evidence is not None, "facts": dict(ledger.facts)}
        self._add("snp", expected, raw=b64(raw), **at_hand(context))
        return evidence

    def gpus(self, ledger: Ledger, context: Context, gpus: Sequence[GpuEvidence], nonce: bytes, **more: Any) -> Any:
        """In place of :func:`verify_gpus`; a page has one machine, which has no name."""
        result = verify_gpus(ledger, context, gpus, nonce, **more)
        if not more.get("subject"):
            self._add(
                "gpus",
                told(ledger) | {"facts": dict(ledger.facts)},
                gpus=[_device(one) for one in gpus],
                switches=[_device(one) for one in more.get("switches", ())],
                nonce=nonce.hex(),
                unavailable=more.get("unavailable"),
                **at_hand(context),
            )
        return result

    def rim(self, ledger: Ledger, context: Context, data: bytes, wanted: Any) -> Any:
        """In place of :func:`verify_rim`."""
        rim = verify_rim(ledger, context, data, wanted)
        expected = told(ledger) | {"proven": rim is not None}
        about = {"id": wanted.id, "version": wanted.version, "products": wanted.products, "edition": wanted.edition}
        self._add("rim", expected, data=b64(data), wanted=about, **at_hand(context))
        return rim


def _device(evidence: GpuEvidence) -> Json:
    return {"arch": evidence.arch, "certificate": b64(evidence.certificate), "evidence": b64(evidence.evidence)}


def some(of: Iterable[T], count: int) -> list[T]:
    """So many of them, at places that a fixed seed chooses."""
    every = list(of)
    return random.Random(SEED).sample(every, min(count, len(every)))


def guests(devices: Devices, count: int) -> None:
    """SEV-SNP reports."""
    tests = test_verify_snp
    with mock.patch.object(tests, "verify_snp", devices.snp):
        for name, real in tests.REAL.items():
            devices.run(name, lambda real=real: tests.run(real.context(), real.report))
            devices.run(name, lambda name=name: tests.test_real_reports_match_their_measurement(name))
            devices.run(f"{name}, strict", lambda real=real: tests.run(replace(real, policy={}).context(), real.report))
        for name, case in tests.GOOD.items():
            devices.run(name, case.run)
        for name, (_, case) in tests.BREAKS.items():
            devices.run(name, case.run)
        for lists in _given(tests.test_no_current_list_is_said_and_not_required, "lists"):
            devices.run("lists", tests.Case(more=lists).run)
        for key in ("vcek", "vlek"):
            devices.run(key, lambda key=key: tests.test_missing_certificate_is_not_enough(key, ""))
        devices.run("a key that is on no curve", tests.Case(leaf=tests.Leaf(public_key=_off_curve())).run)
        for der in _given(tests.test_unreadable_certificate_fails, "der"):
            devices.run("unreadable", lambda der=der: tests.test_unreadable_certificate_fails(der))
        for test in (
            tests.test_forged_certificate_of_trustee,
            tests.test_every_complaint_about_the_guest_policy_is_told,
            tests.test_policy_failures_are_all_collected,
            tests.test_the_certificate_that_signed_is_found_among_others,
            tests.test_certificates_without_a_name_are_found,
        ):
            devices.run(test.__name__, test)
        for name, (make, _) in tests.MUTATIONS.items():
            for context, raw in some(make(), count):
                devices.run(f"{name} mutated", lambda context=context, raw=raw: tests.run(context, raw))
        _mutated_lists(devices, count // 2)


def _off_curve() -> bytes:
    """A key of P-384 whose coordinates no point has."""
    key = snp_maker.spki(snp_maker.report_key())
    return key[:-1] + bytes([key[-1] ^ 1])


def _mutated_lists(devices: Devices, count: int) -> None:
    tests = test_verify_snp
    raw = snp_maker.signed(snp_maker.unsigned())
    for der in some(tests.flips(snp_maker.crl(revoked=(5,))), count):
        context = snp_maker.context(*snp_maker.items(), Item("amd-crl", "", der))
        devices.run("list mutated", lambda context=context: tests.run(context, raw))


def _given(test: Callable[..., None], name: str) -> Any:
    """What a parameter of a test is given."""
    (values,) = [mark.args[1] for mark in test.pytestmark if mark.args[0] == name]  # type: ignore[attr-defined]
    return values


def machines(devices: Devices, count: int) -> None:
    """GPUs and switches."""
    tests = test_verify_nvidia
    with mock.patch.object(tests, "verify_gpus", devices.gpus):
        for name, real in tests.REAL.items():
            policy = GpuPolicy(required=True, count=1, architectures=(real.arch,), drivers=(real.driver,))
            devices.run(name, tests.real_case(real, policy=policy).run)
            devices.run(f"{name}, later", tests.real_case(real, now=real.at + 30 * 365 * 86400).run)
        for step, makes in tests.BREAKS.items():
            for make in makes:
                devices.run(step, lambda make=make: make().run())
        for policy in (GpuPolicy(), GpuPolicy(required=True), GpuPolicy(count=8), GpuPolicy(switches=4)):
            for reason in ("it is off", None):
                devices.run("no GPU", tests.Case([], policy=policy, unavailable=reason).run)
        for required in (False, True):
            devices.run("other vendor", lambda it=required: tests.test_policy_without_nvidia_does_not_look(it))
        for mode in (None, 0, 1, 2, 7):
            device = tests.FACTORY.device(mode=mode)
            devices.run(f"mode {mode}", tests.Case([device.evidence()]).run)
        for chip in _given(tests.test_blackwell_has_its_own_driver_manifest, "chip"):
            devices.run(chip, lambda chip=chip: tests.test_blackwell_has_its_own_driver_manifest(chip))
        for switches in (None, 4):
            devices.run("PCIe", lambda it=switches: tests.test_protected_pcie_without_switches_says_so(it))
        for test in (
            tests.test_real_vbios_measurements_agree,
            tests.test_real_switch_passes_and_is_measured,
            tests.test_expired_manifest_is_as_if_it_were_not_at_hand,
            tests.test_nvidias_own_bad_signature_sample,
            tests.test_development_evidence_is_consistent_with_its_root_only,
            tests.test_fully_measured_machine,
            tests.test_measurement_35_counts_while_nvdec0_is_on,
            tests.test_claimed_architecture_may_be_left_out,
            tests.test_hostile_text_of_a_device_names_no_manifest,
            tests.test_policy_failures_are_all_told,
            tests.test_policy_that_demands_measurements_needs_both_manifests,
            tests.test_forged_manifest_fails_and_nothing_is_measured,
            tests.test_good_manifest_behind_a_forged_one_counts,
        ):
            devices.run(test.__name__, test)
        for name, case in _strange_certificates():
            devices.run(name, case.run)
        for name in (*tests.REAL, "switch"):
            real, kind = (tests.SWITCH, "switch") if name == "switch" else (tests.REAL[name], "gpu")
            for case in some(tests.mutated(real, kind), count // 4):
                devices.run(f"{name} mutated", case.run)
            for case in _changed_texts(real, count // 4):
                devices.run(f"{name}, chain's text changed", case.run)


def _strange_certificates() -> Iterable[tuple[str, Any]]:
    """Devices whose attestation key's certificate has a strange extension, or whose chain lacks a certificate."""
    tests = test_verify_nvidia
    for arc in ("2.23.133.5.4.1", "2.23.133.5.4.1.1"):
        for value in _given(tests.test_strange_dice_extension_fails, "value"):
            extension = tests.x509.UnrecognizedExtension(tests.x509.ObjectIdentifier(arc), value)
            known = tests.FACTORY.device()
            leaf = tests.maker.issue("GH100 A01 GSP FMC LF", known.chain[1], ca=False, extension=extension)
            made = tests.maker.Device("GH100", leaf, (leaf, *known.chain[1:]), bytes(48))
            yield f"DICE {arc} {value.hex()}", tests.Case([made.evidence()])
    known = tests.FACTORY.device()
    yield "a key that is on no curve", tests.Case([_with_key(known.chain[0], known.chain[1], known.evidence())])
    for place in range(4):
        known = tests.FACTORY.device()
        rest = [one.certificate for one in known.chain]
        yield "a certificate left out", tests.Case([tests.chained(rest[:place] + rest[place + 1 :], known.evidence())])


def _with_key(leaf: Signer, issuer: Signer, evidence: GpuEvidence) -> GpuEvidence:
    """The first certificate with a key that is none, and its issuer's signature over that."""
    spki, tlv = snp_maker.spki(leaf.key), snp_maker.tlv
    tbs = leaf.certificate.tbs_certificate_bytes.replace(spki, spki[:-1] + bytes([spki[-1] ^ 1]))
    algorithm = tlv(0x30, snp_maker.oid("1.2.840.10045.4.3.3"))
    der = tlv(0x30, tbs, algorithm, tlv(3, b"\0", issuer.key.sign(tbs, ec.ECDSA(hashes.SHA384()))))
    first = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    end = b"-----END CERTIFICATE-----\n"
    return replace(evidence, certificate=first + evidence.certificate.split(end, 1)[1])


def _changed_texts(real: Any, count: int) -> Iterable[Any]:
    """One character of the PEM text changed, gone, or with something beside it."""
    tests, chosen = test_verify_nvidia, random.Random(SEED)
    text = real.evidence.certificate
    for place in sorted(chosen.sample(range(len(text)), count)):
        piece = chosen.choice((b"", b"A", b"/", b"=", b"\n", b" ", b"-", text[place : place + 1] + b"x", b"\xff"))
        changed = replace(real.evidence, certificate=text[:place] + piece + text[place + 1 :])
        case = tests.real_case(real)
        yield replace(case, gpus=[changed])


def manifests(devices: Devices, count: int) -> None:
    """Reference measurements."""
    tests = test_verify_rim
    with mock.patch.object(tests, "verify_rim", devices.rim):
        for name in tests.REAL:
            devices.run(name, lambda name=name: tests.real(name).run())
            devices.run(f"{name}, late", lambda name=name: tests.real(name, now=2_000_000_000, demanded=True).run())
        for step, makes in tests.BREAKS.items():
            for make in makes:
                devices.run(step, lambda make=make: make().run())
        for days in (-40, 800):
            for demanded in (False, True):
                devices.run(
                    f"{days} days",
                    lambda days=days, demanded=demanded: tests.test_manifest_out_of_its_time_is_not_checked_rim_5(
                        days, demanded
                    ),
                )
        devices.run("no root", tests.test_root_may_be_left_out)
        for name, data in {**test_rim.BAD, **test_rim.HOSTILE}.items():
            devices.run(name, lambda data=data: tests.Case(data).run())
        for name, data in _spellings().items():
            devices.run(name, lambda data=data: tests.Case(data).run())
        for name in ("driver_550.144.03", "switch_96.10.55.00.01"):
            case = tests.real(name)
            for data in some(tests.mutations(case.data), count):
                devices.run(f"{name} mutated", lambda case=case, data=data: replace(case, data=data).run())
            for data in _bytes_changed(case.data, count):
                devices.run(f"{name}, a byte changed", lambda case=case, data=data: replace(case, data=data).run())


def _bytes_changed(data: bytes, count: int) -> Iterable[bytes]:
    chosen = random.Random(SEED)
    for place in sorted(chosen.sample(range(len(data)), count)):
        piece = chosen.choice((b"", b"<", b"&", b">", b'"', b"\r", b"\0", b"\xff", b" ", b":", b"&#10;", b"\xc2\xa0"))
        yield data[:place] + piece + data[place + chosen.choice((0, 1)) :]


def _spellings() -> dict[str, bytes]:
    """Documents that say the same in other bytes, which their canonical form does not show, and some that it does."""
    good, swap = test_rim.GOOD, test_rim.swap
    empty = '<Entity name="test" role="tagCreator"/>'
    return {
        "an empty element in two tags": swap(empty, '<Entity name="test" role="tagCreator"></Entity>'),
        "attributes in another order": swap(empty, "<Entity   role='tagCreator'\n name='test' />"),
        "references": swap('name="test"', 'name="&#116;&#x65;st"'),
        "lines of another system": good.replace("\n", "\r\n").encode(),
        "a carriage return": swap("<Payload>", "<Payload>&#13;"),
        "a line in an attribute": swap('name="test"', 'name="te\nst"'),
        "a quote in an attribute": swap('name="test"', "name='t\"&gt;>&lt;'"),
        "a namespace that nothing uses": swap("<Payload>", '<Payload xmlns:z="urn:z">'),
        "a namespace declared again": swap("<Payload>", '<Payload xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384">'),
        "no default namespace": swap("<Meta ", '<Link xmlns=""><a/></Link><Meta '),
        "a namespace that is relative": swap("<Meta ", '<Link xmlns:a="b"/><Meta '),
        "a relative namespace of the root": swap("<SoftwareIdentity ", '<SoftwareIdentity xmlns:a="b" '),
        "a namespace that is no URI": swap("<Meta ", '<Link xmlns:a="urn:a b"/><Meta '),
        "nested as deep as can be": swap("<Payload>", "<Link>" * 255 + "</Link>" * 255 + "<Payload>"),
        "nested too deep": swap("<Payload>", "<Link>" * 255 + "<Link/>" + "</Link>" * 255 + "<Payload>"),
        "a prefix that is not declared": swap("<Meta ", "<a:Link/><Meta "),
        "an attribute's prefix that is not declared": swap('name="test"', 'a:name="test"'),
        "one attribute by two prefixes": swap("<Meta ", '<Link xmlns:a="urn:a" xmlns:b="urn:a" a:c="" b:c=""/><Meta '),
        "an attribute twice": swap('name="test"', 'name="test" name="test"'),
        "a prefix without a namespace": swap("<Meta ", '<Link xmlns:a=""/><Meta '),
        "the prefix xml for something else": swap("<Meta ", '<Link xmlns:xml="urn:a"/><Meta '),
        "the prefix xmlns": swap("<Meta ", '<Link xmlns:xmlns="urn:a"/><Meta '),
        "two colons": swap("<Meta ", '<Link xmlns:a="urn:a" a:b:c=""/><Meta '),
        "a name that begins with a digit": swap("<Meta ", "<1/><Meta "),
        "a name in other letters": swap("<Meta ", "<Größe é='ü'/><Meta "),
        "characters of another plane": swap('name="test"', 'name="\U0001f600"'),
        "a control character": swap('name="test"', 'name="\x01"'),
        "a reference to one": swap('name="test"', 'name="&#1;"'),
        "a reference to half a character": swap('name="test"', 'name="&#xd800;"'),
        "a reference that is too large": swap('name="test"', 'name="&#x110000;"'),
        "an end of CDATA": swap("<Payload>", "<Payload>]]>"),
        "an end of CDATA in an attribute": swap('name="test"', 'name="]]>"'),
        "a bare ampersand": swap("<Payload>", "<Payload>&"),
        "a space before the name": swap("<Payload>", "< Payload>"),
        "a byte order mark": ("\ufeff" + good).encode(),
        "space in front": ("\n " + good).encode(),
        "space behind": (good + "\n ").encode(),
        "text behind": (good + "x").encode(),
        "a reference behind": (good + "&#32;").encode(),
        "cut off": good[:-5].encode(),
        "no space between attributes": swap('name="test" role', 'name="test"role'),
        "an attribute without a value": swap('name="test"', "name"),
        "an end with an attribute": swap("</Payload>", "</Payload a=''>"),
        "an end with a space": swap("</Payload>", "</Payload >"),
    }  # fmt: skip


def verdicts(recorder: Recorder) -> None:
    """Whole verdicts over reports of SEV-SNP guests, and over reports with GPUs."""
    for gpus, members in (
        (1, {}),
        (2, {"count": 2, "required": True}),
        (1, {"count": 2}),
        (1, {"measurements": True}),
        (1, {"nras": True}),
        (0, {"required": True}),
    ):
        policy = made_policy(gpu=GpuPolicy(**members), claims={"gpu_attested": ("hardware_proven",)} if gpus else {})
        made = made_report(gpus=gpus)
        recorder.run(f"{gpus} GPUs, {members}", lambda made=made, policy=policy: saved(recorder, made, policy))
    stale = made_report(gpus=1, gpu_nonce=bytes(32))
    recorder.run("GPUs of another nonce", lambda: saved(recorder, stale, made_policy()))
    real = test_verify_snp.REAL["milan v3"]
    policy = made_policy(roots=("amd",), dstack=DstackPolicy())
    vcek = Item("amd-certificate", "vcek", real.certificate)
    for name, collateral in {
        "a real guest of another keyset": {"vcek": b64(real.certificate)},
        "a real guest without its certificate": None,
        "a certificate that is no base64": {"vcek": "*"},
    }.items():
        evidence = {"quote": real.report.hex(), "collateral": collateral, "event_log": None, "app_compose": None}
        made = made_report(tee_type="sev_snp", evidence=evidence)
        recorder.run(name, lambda made=made: saved(recorder, made, policy))
        recorder.run(f"{name}, one at hand", lambda made=made: saved(recorder, made, policy, vcek))
    with_gpu = made_report(gpus=1)
    (wanted, *_) = rim_ids(_evidence(with_gpu))
    for data in (b"", *test_rim.REAL.values()):
        manifest = Item("nvidia-rim", wanted, data)
        recorder.run("a manifest at hand", lambda it=manifest: saved(recorder, with_gpu, made_policy(), it))


def _evidence(made: Any) -> GpuEvidence:
    (device,) = made.value["attestation"]["evidence"]["gpu"]["devices"]
    return GpuEvidence(device["arch"], *(base64.b64decode(device[name]) for name in ("certificate", "evidence")))


def saved(recorder: Recorder, made: Any, policy: Any, *items: Item) -> None:
    """One verdict, with these at hand."""
    context = made.context(policy, material=Material(items))
    verdict, _ = check_report(made.saved(), named("aci"), context)
    given = judged_by(context) | {"material": at_hand(context)["material"]}
    recorder.add("saved", msgspec.to_builtins(verdict), saved=saved_json(made.saved()), **given)


def recorded_devices(mutated: int) -> list[Json]:
    """All of them. What cryptography warns of and still reads must not be the reason for a refusal."""
    recorder = Recorder()
    devices = Devices(recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for table in (guests, machines, manifests):
            table(devices, mutated)
    verdicts(recorder)
    return recorder.cases
