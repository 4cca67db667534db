"""What is fuzzed of the verifier: whole verifications of damaged evidence, each in a context that accepts the seed.

Here the question is only whether anything foreign gets out. That no change is accepted is asked by the mutations in
``tests/verify``, which know what they changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import cbor2

from confide.errors import ConfideError
from confide.verify import policy as policies
from confide.verify import snp_der
from confide.verify.audit import audit
from confide.verify.bundle import Bundle, Exchange, parse_bundle
from confide.verify.fetch.wanted import evidence_in
from confide.verify.legacy import verify_signature
from confide.verify.material import Item, Material
from confide.verify.nras import verify_nras
from confide.verify.nvidia import verify_gpus
from confide.verify.policy import GpuPolicy
from confide.verify.receipt import verify_receipt
from confide.verify.report import verify_report
from confide.verify.saved import Channel, Established, SavedReport, Signer
from confide.verify.services import detect
from confide.verify.session import verify_session
from confide.verify.snp import verify_snp
from confide.verify.tdx import verify_tdx
from confide.verify.verdict import Ledger
from confide.wire import jcs, osimage, rim
from confide.wire.nvgpu import GpuEvidence
from tests.fuzz.targets import EVIDENCE, Target
from tests.verify import dstack_maker, making, making_services, nvidia_maker, snp_maker, tdx_maker

FIXED = making.NOW


def _tdx(data: bytes) -> None:
    verify_tdx(Ledger(), _tdx_context(), data)


@cache
def _tdx_context() -> Any:
    return tdx_maker.at_capture("tdx_v4")


def _tdx_collateral(data: bytes) -> None:
    verify_tdx(Ledger(), tdx_maker.at_capture("tdx_v4", data), tdx_maker.recorded("tdx_v4"))


def _snp(data: bytes) -> None:
    verify_snp(Ledger(), _snp_context(), data)


@cache
def _snp_context() -> Any:
    return snp_maker.context(*snp_maker.items())


def _gpu_evidence(data: bytes) -> None:
    _gpus(GpuEvidence("HOPPER", _gpu_chain(), data))


def _gpu_certificates(data: bytes) -> None:
    exchange = bytes.fromhex((EVIDENCE / "nvidia" / "hopper_580.hex").read_text().strip())
    _gpus(GpuEvidence("HOPPER", data, exchange))


@cache
def _gpu_chain() -> bytes:
    return (EVIDENCE / "nvidia" / "hopper_580.pem").read_bytes()


def _gpus(gpu: GpuEvidence) -> None:
    exchange = bytes.fromhex((EVIDENCE / "nvidia" / "hopper_580.hex").read_text().strip())
    policy = making.made_policy(gpu=GpuPolicy(required=True))
    verify_gpus(Ledger(), making.made_report().context(policy, now=1_760_000_000), [gpu], exchange[4:36])


def _nras(data: bytes) -> None:
    context = making.made_report().context(now=nvidia_maker.NOW)
    items = Material((Item("jwks", "nras", _service().jwks(), "given"),))
    verify_nras(Ledger(), context.with_material(items), data, nvidia_maker.NONCE)


@cache
def _service() -> nvidia_maker.Service:
    return nvidia_maker.Service()


def _event_log(data: bytes) -> None:
    dstack_maker.Guest(event_log=data).verify()


def _cbor(data: bytes) -> None:
    osimage.parse_cbor(data)


@cache
def _made() -> making.Made:
    return making.made_report(gpus=1)


def _report(data: bytes) -> None:
    made = _made()
    saved = SavedReport(data, made.nonce, made.channel, made.manifest)
    verify_report(Ledger(), made.context(), saved)


def _receipt(data: bytes) -> None:
    asked, answered = jcs.sha256(making.REQUEST), jcs.sha256(making.RESPONSE)
    made = making.made_report()
    established = made.established()
    verify_receipt(
        Ledger(), made.context(), established, data, request_digest=asked, response_digest=answered, model=making.MODEL
    )


def _session(data: bytes) -> None:
    verify_session(Ledger(), making.made_report().context(), making.made_session().id(), data, at=FIXED)


def _signature(data: bytes) -> None:
    signer = making_services.SIGNER
    established = Established(signers=(Signer("ecdsa", signer.address_bytes("ecdsa")),))
    made = making.made_report()
    verify_signature(Ledger(), made.context(), established, data, request_digest=None, response_digest=None)


def _service_report(data: bytes) -> None:
    adapter = detect(data)
    context = making.made_report().context()
    adapter.verify(Ledger(), context, SavedReport(data, making.NONCE, Channel(making.HOST)))


def _bundle(data: bytes) -> None:
    audit(parse_bundle(data), making.made_policy(), now=FIXED, development=_made().roots())


def _evidence(data: bytes) -> None:
    evidence_in(data)


# Seeds ---------------------------------------------------------------------------------------------------------------


def _bundles() -> list[bytes]:
    made = _made()
    exchange = Exchange(
        id="chatcmpl-1",
        model=making.MODEL,
        request=making.REQUEST,
        response=making.RESPONSE,
        receipt=making.made_receipt(),
    )
    whole = Bundle(
        captured_at=FIXED,
        url=f"https://{making.HOST}",
        report=made.document,
        nonce=made.nonce,
        channel=made.channel,
        manifest=made.manifest,
        exchanges=(exchange,),
    )
    return [whole.encode()]


def _reports_of_services() -> list[bytes]:
    values = [making_services.flat(), making_services.near(), making_services.listed(making_services.flat())]
    return [json.dumps(value).encode() for value in values]


def _rims() -> list[bytes]:
    return [path.read_bytes() for path in sorted((EVIDENCE / "nvidia" / "rims").glob("*.xml"))]


def _policies() -> list[bytes]:
    return [
        b'roots = ["intel", "nvidia"]\n[tdx]\nstatuses = ["UpToDate"]\n[[tdx.measurements]]\nmr_td = "'
        + b"ab" * 48
        + b'"\n[gpu]\nrequired = true\ncount = 8\n'
    ]


def _certificates() -> list[bytes]:
    return [snp_maker.ask(), snp_maker.ark(), (EVIDENCE / "amd" / "vcek.der").read_bytes()]


def _target(name: str, run: Callable[[bytes], object], seeds: Callable[[], list[bytes]], runs: int) -> Target:
    return Target(name, run, seeds, (ConfideError,), runs)


VERIFY = (
    _target("verify-tdx", _tdx, lambda: [tdx_maker.recorded("tdx_v4"), tdx_maker.recorded("tdx_v5")], 300),
    _target("verify-tdx-collateral", _tdx_collateral, lambda: [tdx_maker.recorded_collateral("tdx_v4")], 300),
    _target("verify-snp", _snp, lambda: [snp_maker.signed(snp_maker.unsigned())], 300),
    _target("snp-certificate", lambda data: snp_der.parse_certificate(data, "it"), _certificates, 1500),
    _target("snp-crl", lambda data: snp_der.parse_crl(data, "it"), lambda: [snp_maker.crl()], 1500),
    _target(
        "verify-gpu",
        _gpu_evidence,
        lambda: [bytes.fromhex((EVIDENCE / "nvidia" / "hopper_580.hex").read_text().strip())],
        150,
    ),
    _target("verify-gpu-certificates", _gpu_certificates, lambda: [_gpu_chain()], 150),
    _target("rim", rim.parse_rim, _rims, 500),
    _target("verify-nras", _nras, lambda: [_service().answer()], 300),
    _target(
        "verify-event-log",
        _event_log,
        lambda: [text.encode() if isinstance(text := dstack_maker.Guest().event_log, str) else bytes(text or b"")],
        300,
    ),
    _target("cbor", _cbor, lambda: [cbor2.dumps({"tdvf": {"mrtd": b"m" * 48, "list": {"a": b"b"}}})], 1500),
    _target("verify-report", _report, lambda: [_made().document], 100),
    _target("verify-receipt", _receipt, lambda: [making.made_receipt()], 500),
    _target("verify-session", _session, lambda: [making.made_session().document()], 500),
    _target(
        "verify-signature",
        _signature,
        lambda: [json.dumps(making_services.answer(f"{'ab' * 32}:{'cd' * 32}")).encode()],
        300,
    ),
    _target("verify-service-report", _service_report, _reports_of_services, 150),
    _target("audit-bundle", _bundle, _bundles, 100),
    _target("policy", policies.parse_policy, _policies, 1500),
    _target("wanted-material", _evidence, lambda: [_made().document, *_reports_of_services()], 500),
)
