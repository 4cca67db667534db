"""What is looked up for a report: only what it does not bring, from the cache where that is young enough."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.verify.fetch.base import Cache
from confide.verify.fetch.complete import Completed, Services, complete, completed
from confide.verify.fetch.pcs import platform_in
from confide.verify.fetch.wanted import MOST_QUOTES, evidence_in
from confide.verify.material import Item
from confide.verify.nvidia_device import rim_ids
from confide.verify.snp import verify_snp
from confide.verify.verdict import Ledger
from confide.wire.nvgpu import GpuEvidence
from tests.verify import snp_maker as maker
from tests.verify.snp_maker import CHIP, Leaf, ask, crl
from tests.verify.test_fetch_kds import pem

EVIDENCE: Final = Path(__file__).parents[1] / "vectors" / "evidence"
NOW: Final = 1_790_000_000
DAY: Final = 86400
TDX: Final = (EVIDENCE / "intel" / "tdx_v4.quote").read_bytes()
TDX_COLLATERAL: Final = json.loads((EVIDENCE / "intel" / "tdx_v4.collateral.json").read_bytes())


def gpu() -> GpuEvidence:
    chain = (EVIDENCE / "nvidia" / "hopper_580.pem").read_bytes()
    return GpuEvidence("HOPPER", chain, bytes.fromhex((EVIDENCE / "nvidia" / "hopper_580.hex").read_text().strip()))


def device(one: GpuEvidence) -> dict[str, str]:
    return {
        "arch": one.arch,
        "certificate": base64.b64encode(one.certificate).decode(),
        "evidence": base64.b64encode(one.evidence).decode(),
    }


def aci(evidence: bytes, collateral: Any = None, gpus: list[GpuEvidence] | None = None, tee: str = "tdx") -> bytes:
    members: dict[str, Any] = {"quote": evidence.hex(), "gpu": {"devices": [device(one) for one in gpus or []]}}
    if collateral is not None:
        members["collateral"] = collateral
    return json.dumps({"api_version": "aci/1", "attestation": {"tee_type": tee, "evidence": members}}).encode()


class Vendors:
    """Intel's, AMD's and NVIDIA's services; ``asked`` is every path, ``down`` and ``empty`` break them."""

    def __init__(self, product: str = "Milan", key: str = "vcek") -> None:
        self.asked: list[str] = []
        self.down = False
        self.statuses: dict[str, int] = {}
        chain = pem(ask(product, key), maker.ark(product))
        self.answers: dict[str, bytes | tuple[bytes, dict[str, str]]] = {
            f"/vcek/v1/{product}/{CHIP.hex()}": Leaf(product).der(),
            f"/{key}/v1/{product}/cert_chain": chain,
            f"/{key}/v1/{product}/crl": crl(product),
            "/.well-known/jwks.json": b'{"keys":[]}',
        }
        for name in rim_ids(gpu()):
            self.answers[f"/v1/rim/{name}"] = json.dumps({"rim": base64.b64encode(name.encode()).decode()}).encode()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.down:
            raise httpx.ConnectError("down")
        answer = self.answers.get(request.url.path)
        if answer is None or request.url.path in self.statuses:
            return httpx.Response(self.statuses.get(request.url.path, 404))
        body, headers = (answer, {}) if isinstance(answer, bytes) else answer
        return httpx.Response(200, content=body, headers=headers)

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self))


def found(result: Completed) -> list[tuple[str, str, str]]:
    return [(item.kind, item.key, item.source) for item in result.material.items]


def ask_all(vendors: Vendors | None, cache: Cache | None, document: bytes, now: int = NOW, **more: Any) -> Completed:
    if vendors is None:
        return completed(None, cache, document, now=now, **more)
    with vendors.client() as client:
        return completed(client, cache, document, now=now, **more)


SNP: Final = [("amd-certificate", "vcek"), ("amd-certificate", "ask"), ("amd-crl", "vcek/Milan")]


def snp_report(product: str = "Milan", key: str = "vcek", **changes: Any) -> bytes:
    return maker.signed(maker.unsigned(product, key, **changes))


# SEV-SNP -------------------------------------------------------------------------------------------------------------


def test_snp_without_certificates_is_completed_and_verifies() -> None:
    raw = snp_report()
    result = ask_all(Vendors(), None, aci(raw, tee="sev_snp"))
    assert found(result) == [(*one, "network") for one in SNP]
    assert result.complaints == ()
    ledger = Ledger()
    assert verify_snp(ledger, maker.context(*result.material.items), raw) is not None
    assert ledger.passed("snp.7")


@pytest.mark.parametrize(
    ("collateral", "expected"),
    [
        ({"vcek": "AA==", "vlek": None, "ask": "AA==", "ark": None}, SNP[2:]),
        ({"vcek": "AA==", "vlek": None, "ask": None, "ark": "AA=="}, SNP[1:]),
        ({"vcek": None, "vlek": "AA==", "ask": "AA==", "ark": None}, [SNP[0], SNP[2]]),
        ({"vcek": None, "vlek": None, "ask": None, "ark": None}, SNP),
        ({}, SNP),
        ("nonsense", SNP),
    ],
)
def test_what_is_stapled_is_not_asked_for(collateral: Any, expected: list[tuple[str, str]]) -> None:
    result = ask_all(Vendors(), None, aci(snp_report(), collateral, tee="sev_snp"))
    assert [one[:2] for one in found(result)] == expected


def test_vlek_is_not_asked_for() -> None:
    vendors = Vendors(key="vlek")
    result = ask_all(vendors, None, aci(snp_report(key="vlek")))
    assert [one[:2] for one in found(result)] == [("amd-certificate", "ask"), ("amd-crl", "vlek/Milan")]
    assert result.complaints == ()


def test_product_of_an_older_report_is_that_of_the_certificate() -> None:
    report = snp_report("Genoa", version=2, cpuid=bytes(3))
    result = ask_all(Vendors("Genoa"), None, aci(report))
    assert found(result)[-1] == ("amd-crl", "vcek/Genoa", "network")
    assert result.complaints == ()


def test_garbage_instead_of_a_certificate_is_handed_on() -> None:
    vendors = Vendors()
    vendors.answers[f"/vcek/v1/Milan/{CHIP.hex()}"] = b"garbage"
    assert [one[:2] for one in found(ask_all(vendors, None, aci(snp_report())))] == SNP


# The cache -----------------------------------------------------------------------------------------------------------


def test_cache_saves_questions_until_it_is_old(tmp_path: Path) -> None:
    cache, vendors, document = Cache(tmp_path), Vendors(), aci(snp_report())
    ask_all(vendors, cache, document)
    assert len(vendors.asked) == 3
    again = ask_all(vendors, cache, document, NOW + DAY)
    assert len(vendors.asked) == 3
    assert found(again) == [(*one, "cache") for one in SNP]
    later = ask_all(vendors, cache, document, NOW + 2 * DAY)
    assert vendors.asked[3:] == ["/vcek/v1/Milan/crl"]
    assert [one[2] for one in found(later)] == ["cache", "cache", "network"]
    ask_all(vendors, cache, document, NOW + 40 * DAY)
    assert len(vendors.asked) == 7


def test_clock_that_went_back_asks_again(tmp_path: Path) -> None:
    cache, vendors, document = Cache(tmp_path), Vendors(), aci(snp_report())
    ask_all(vendors, cache, document)
    ask_all(vendors, cache, document, NOW - DAY)
    assert len(vendors.asked) == 6


def test_old_file_is_used_where_nothing_newer_is_to_be_had(tmp_path: Path) -> None:
    cache, vendors, document = Cache(tmp_path), Vendors(), aci(snp_report())
    ask_all(vendors, cache, document)
    offline = ask_all(None, cache, document, NOW + 400 * DAY)
    assert found(offline) == [(*one, "cache") for one in SNP]
    assert offline.complaints == ()
    vendors.down = True
    down = ask_all(vendors, cache, document, NOW + 400 * DAY)
    assert found(down) == [(*one, "cache") for one in SNP]
    assert down.complaints == ("kdsintf.amd.com can't be reached: down",)


@pytest.mark.parametrize("stamp", [b"", b"-1", b"soon", b"9" * 30, "٣".encode()])
def test_broken_stamp_asks_again(tmp_path: Path, stamp: bytes) -> None:
    cache, vendors = Cache(tmp_path), Vendors()
    ask_all(vendors, cache, aci(snp_report()))
    cache.keep(Item("amd-crl", "vcek/Milan#fetched", stamp))
    ask_all(vendors, cache, aci(snp_report()))
    assert vendors.asked[3:] == ["/vcek/v1/Milan/crl"]


def test_without_client_and_cache_there_is_nothing() -> None:
    assert ask_all(None, None, aci(snp_report(), gpus=[gpu()])) == Completed(complete(None, None, b""), ())


def test_network_that_is_down_yields_what_works_and_says_so() -> None:
    vendors = Vendors()
    vendors.statuses["/vcek/v1/Milan/cert_chain"] = 429
    result = ask_all(vendors, None, aci(snp_report(), gpus=[gpu()]))
    assert [one[1] for one in found(result)] == ["vcek", "vcek/Milan", *rim_ids(gpu())]
    assert result.complaints == ("kdsintf.amd.com answered 429 to GET /vcek/v1/Milan/cert_chain",)


# TDX -----------------------------------------------------------------------------------------------------------------


def test_stapled_tdx_collateral_is_enough() -> None:
    vendors = Vendors()
    result = ask_all(vendors, None, aci(TDX, TDX_COLLATERAL))
    assert result == Completed(complete(None, None, b""), ())
    assert vendors.asked == []


def intel() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The answers that give the collateral of the vector, by path."""
    texts = TDX_COLLATERAL

    def signed(member: str, text: str) -> bytes:
        return f'{{"{member}":{texts[text]},"signature":"{texts[text + "_signature"]}"}}'.encode()

    def chain(header: str, text: str) -> dict[str, str]:
        return {header: quote(texts[text + "_issuer_chain"])}

    return {
        "/tdx/certification/v4/tcb": (signed("tcbInfo", "tcb_info"), chain("TCB-Info-Issuer-Chain", "tcb_info")),
        "/tdx/certification/v4/qe/identity": (
            signed("enclaveIdentity", "qe_identity"),
            chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity"),
        ),
        "/sgx/certification/v4/pckcrl": (
            bytes.fromhex(texts["pck_crl"]),
            chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl"),
        ),
        "/IntelSGXRootCA.der": (bytes.fromhex(texts["root_ca_crl"]), {}),
    }


def test_tdx_collateral_is_fetched_and_kept(tmp_path: Path) -> None:
    cache, vendors = Cache(tmp_path), Vendors()
    vendors.answers |= intel()
    partly = dict.fromkeys(list(TDX_COLLATERAL)[1:], "")
    for now, source, asked in ((NOW, "network", 4), (NOW + DAY, "cache", 4), (NOW + 2 * DAY, "network", 8)):
        result = ask_all(vendors, cache, aci(TDX, partly), now)
        assert found(result) == [("tdx-collateral", platform_in(TDX).fmspc, source)]
        assert json.loads(result.material.items[0].data) == TDX_COLLATERAL
        assert len(vendors.asked) == asked


def test_tdx_services_that_do_not_answer_are_told(tmp_path: Path) -> None:
    vendors = Vendors()
    result = ask_all(vendors, Cache(tmp_path), aci(TDX), services=Services(pcs="https://pccs.internal"))
    assert result.material.items == ()
    assert result.complaints == ("pccs.internal answered 404 to GET /tdx/certification/v4/tcb",)


# GPUs ----------------------------------------------------------------------------------------------------------------


def test_rims_are_asked_for_once_and_kept(tmp_path: Path) -> None:
    cache, vendors = Cache(tmp_path), Vendors()
    document = aci(TDX, TDX_COLLATERAL, [gpu(), gpu()])
    result = ask_all(vendors, cache, document)
    assert found(result) == [("nvidia-rim", name, "network") for name in rim_ids(gpu())]
    assert len(vendors.asked) == len(rim_ids(gpu())) == 2
    assert [one[2] for one in found(ask_all(vendors, cache, document, NOW + 30 * DAY))] == ["cache", "cache"]
    ask_all(vendors, cache, document, NOW + 31 * DAY)
    assert len(vendors.asked) == 4


def test_rim_that_nvidia_lacks_is_left_out() -> None:
    vendors = Vendors()
    vendors.statuses[f"/v1/rim/{rim_ids(gpu())[0]}"] = 404
    assert [one[1] for one in found(ask_all(vendors, None, aci(b"", gpus=[gpu()])))] == list(rim_ids(gpu())[1:])


def test_keys_of_the_attestation_service_on_demand() -> None:
    vendors = Vendors()
    assert found(ask_all(vendors, None, b"{}")) == []
    (one,) = found(ask_all(vendors, None, b"{}", nras=True))
    assert one[0] == "jwks"
    assert vendors.asked == ["/.well-known/jwks.json"]


# Formats -------------------------------------------------------------------------------------------------------------


def payload(*gpus: GpuEvidence) -> dict[str, Any]:
    return {"nonce": "00" * 32, "evidence_list": [device(one) for one in gpus], "arch": "HOPPER"}


FLAT: Final = {"signing_address": "0x00", "intel_quote": TDX.hex(), "quote": TDX.hex()}
SHAPES: Final[dict[str, Any]] = {
    "aci": json.loads(aci(TDX, None, [gpu()])),
    "flat, payload as text": FLAT | {"nvidia_payload": json.dumps(payload(gpu()))},
    "flat, payload as object": FLAT | {"nvidia_payload": payload(gpu())},
    "flat, 0x": {"intel_quote": "0x" + TDX.hex(), "nvidia_payload": payload(gpu())},
    "list": {"all_attestations": [FLAT, FLAT | {"nvidia_payload": payload(gpu())}]},
    "gateway": {"gateway_attestation": FLAT, "model_attestations": [{"nvidia_payload": payload(gpu(), gpu())}]},
}


@pytest.mark.parametrize("name", SHAPES)
def test_evidence_is_found_in_every_shape_once(name: str) -> None:
    evidence = evidence_in(json.dumps(SHAPES[name]).encode())
    assert [(one.quote, one.tee, one.stapled) for one in evidence.quotes] == [(TDX, "tdx", frozenset())]
    assert evidence.devices == (gpu(),)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"7",
        b'{"quote":7,"nvidia_payload":7,"collateral":[]}',
        b'{"quote":"zz","intel_quote":"0x","nvidia_payload":"{"}',
        b'{"quote":"' + b"00" * 70_000 + b'"}',
        b'{"certificate":"!","evidence":"!"}',
        b'{"format":"https://tinfoil.sh/predicate/attestation/v3"}',
        b'{"format":7}',
        b"[" * 5000,
        b"[" * 500 + b"]" * 500,
        b" " * (9 << 20),
        aci(TDX[:200]),
        aci(TDX[:48] + bytes(600)),
        aci(snp_report()[:1183]),
        aci(bytes(4) + snp_report()[4:]),
    ],
    ids=lambda document: document[:12].decode("latin-1") + f" {len(document)}",
)
def test_malformed_documents_ask_for_nothing(document: bytes) -> None:
    vendors = Vendors()
    assert ask_all(vendors, None, document) == Completed(complete(None, None, b""), ())
    assert vendors.asked == []


def test_counts_are_bounded() -> None:
    quotes = [{"quote": snp_report(guest_svn=number).hex()} for number in range(MOST_QUOTES + 5)]
    evidence = evidence_in(json.dumps(quotes).encode())
    assert len(evidence.quotes) == MOST_QUOTES
    assert evidence_in(msgspec.json.encode([{"a": 1}] * 30_000 + quotes)).quotes == ()


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.text(max_size=8) | st.integers(0, 9) | st.sampled_from([TDX.hex(), TDX[:1184].hex()]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["quote", "intel_quote", "collateral", "nvidia_payload", "certificate", "evidence", "format"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_completing_is_total(value: Any) -> None:
    vendors = Vendors()
    vendors.down = True
    result = ask_all(vendors, None, json.dumps(value).encode())
    assert result.material.items == ()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def tinfoil(report: bytes, collateral: list[dict[str, Any]]) -> bytes:
    """A document of Tinfoil's, of the layout that has collateral."""

    def section(name: str, *items: dict[str, Any]) -> str:
        return b64(json.dumps({"format": f"https://tinfoil.sh/{name}/v1", "items": items}).encode())

    tls = {"id": "tls", "format": "https://tinfoil.sh/key/spki-fp-sha256/v1", "data": "11" * 32}
    entries = [
        {"id": str(number), "role": "endorsement", "subjects": ["cpu"]}
        | entry
        | {"format": "https://tinfoil.sh/collateral/" + entry["format"]}
        for number, entry in enumerate(collateral)
    ]
    document = {
        "format": "https://tinfoil.sh/predicate/attestation/v3",
        "challenge": {
            "nonce": "5a" * 32,
            "report_data": "00" * 64,
            "report_data_algorithm": "https://tinfoil.sh/report-data/v1",
        },
        "cpu_evidence": {
            "format": "https://tinfoil.sh/format/sev-snp-report/v1",
            "report_base64": b64(report),
            "endorsed": {"crypto_material_hash": "00" * 32, "device_evidence_hash": "00" * 32},
        },
        "crypto_material": section("crypto-material", tls),
        "device_evidence": section("device-evidence"),
        "collateral": entries,
    }
    return json.dumps(document).encode()


def test_documents_of_tinfoil_and_what_is_stapled_to_them() -> None:
    raw, chain = snp_report(), pem(ask(), maker.ark()).decode()
    vcek = {"format": "amd-vcek/v1", "data": {"vcek_der_base64": b64(Leaf().der()), "cert_chain_pem": chain}}
    revocations = {"format": "amd-crl/v1", "data": {"crl_der_base64": b64(crl())}}
    for collateral, expected in (
        ([], SNP),
        ([vcek], SNP[1:]),
        ([vcek, revocations], SNP[1:2]),
        ([revocations], SNP[:2]),
    ):
        result = ask_all(Vendors(), None, tinfoil(raw, collateral))
        assert [one[:2] for one in found(result)] == expected
    assert found(ask_all(Vendors(), None, tinfoil(raw[:100], []))) == []
