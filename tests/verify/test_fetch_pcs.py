"""Collateral from Intel's service: recorded answers, served again; and everything that may come in their place."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote as url_encoded

import httpx
import pytest

from confide.verify.fetch.base import Refused, Unreachable
from confide.verify.fetch.pcs import PCS, collateral_for, platform_in
from confide.verify.material import Material
from confide.verify.tdx_collateral import MOST_BYTES
from confide.verify.verdict import CheckFailed
from confide.wire.tdx import parse_collateral

from . import tdx_maker as make
from .tdx_maker import Tried

PCCS = "https://pccs.example"
Answer = tuple[bytes, dict[str, str]]


def answers(name: str = "tdx_v4", *, fmspc: str = "B0C06F000000", hexadecimal: bool = False) -> dict[str, Answer]:
    """What the services answered, by path and query, built from the recorded collateral."""
    text = json.loads(make.recorded_collateral(name))

    def signed(member: str, name: str, header: str) -> Answer:
        body = f'{{"{name}":{text[member]},"signature":"{text[member + "_signature"]}"}}'
        return body.encode(), {header: url_encoded(text[member + "_issuer_chain"], safe="")}

    def crl(member: str) -> bytes:
        return text[member].encode() if hexadecimal else bytes.fromhex(text[member])

    chain = {"SGX-PCK-CRL-Issuer-Chain": url_encoded(text["pck_crl_issuer_chain"], safe="")}
    return {
        f"/tdx/certification/v4/tcb?fmspc={fmspc}": signed("tcb_info", "tcbInfo", "TCB-Info-Issuer-Chain"),
        "/tdx/certification/v4/qe/identity": signed(
            "qe_identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"
        ),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der": (crl("pck_crl"), chain),
        "/IntelSGXRootCA.der": (crl("root_ca_crl"), {}),
        "/sgx/certification/v4/rootcacrl": (crl("root_ca_crl"), {}),
    }


class Service:
    """The services, in memory. ``asked`` is what was asked of which host."""

    def __init__(self, known: dict[str, Answer]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        found = self.known.get(request.url.raw_path.decode())
        return httpx.Response(404) if found is None else httpx.Response(200, content=found[0], headers=found[1])

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self))


@pytest.mark.parametrize(("name", "fmspc"), [("tdx_v4", "B0C06F000000"), ("tdx_v4_near", "20A06F000000")])
def test_what_is_fetched_is_what_was_recorded(name: str, fmspc: str) -> None:
    service = Service(answers(name, fmspc=fmspc))
    item = collateral_for(service.client(), make.recorded(name))
    assert (item.kind, item.key, item.source) == ("tdx-collateral", fmspc, "network")
    assert parse_collateral(item.data) == parse_collateral(make.recorded_collateral(name))
    assert service.asked == [
        f"{PCS}/tdx/certification/v4/tcb?fmspc={fmspc}",
        f"{PCS}/tdx/certification/v4/qe/identity",
        f"{PCS}/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
    ]
    context = make.at_capture(name).with_material(Material((item,)))
    tried = Tried(make.recorded(name), context)
    assert (tried.failing(), tried.missing()) == ([], [])
    assert tried.detail("tdx.8").startswith("network")


def test_a_pccs_serves_all_of_it_and_crls_in_hex() -> None:
    service = Service(answers(hexadecimal=True))
    item = collateral_for(service.client(), make.recorded("tdx_v4"), base=PCCS + "/")
    assert parse_collateral(item.data) == parse_collateral(make.recorded_collateral("tdx_v4"))
    assert {httpx.URL(url).host for url in service.asked} == {"pccs.example"}


def test_the_older_name_of_a_header() -> None:
    known = answers()
    path = next(iter(known))
    body, headers = known[path]
    known[path] = body, {f"SGX-{name}": value for name, value in headers.items()}
    assert collateral_for(Service(known).client(), make.recorded("tdx_v4")).data


def test_platforms_of_the_other_ca_have_another_list() -> None:
    raw = make.recorded("tdx_v4")
    assert platform_in(raw).is_of_platform_ca
    assert platform_in(make.quote()).is_of_platform_ca


def _changed(part: str, change: Callable[[bytes, dict[str, str]], Answer]) -> dict[str, Answer]:
    known = answers()
    (path,) = [path for path in known if part in path]
    known[path] = change(*known[path])
    return known


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("tcb?", lambda body, headers: (b"[]", headers), "sent no TcbInfo"),
        ("tcb?", lambda body, headers: (body.replace(b'"signature"', b'"Signature"'), headers), "sent no TcbInfo"),
        ("tcb?", lambda body, headers: (body[:-1], headers), "sent no TcbInfo"),
        ("tcb?", lambda body, headers: (b"[" * 100_000, headers), "sent no TcbInfo"),
        ("tcb?", lambda body, headers: (b'{"tcbInfo":"\xff","signature":""}', headers), "sent no TcbInfo"),
        ("qe/identity", lambda body, headers: (b"", headers), "sent no QeIdentity"),
        ("tcb?", lambda body, headers: (body, {}), "no certificates in the header tcb-info-issuer-chain"),
        ("qe/identity", lambda body, headers: (body, {}), "header sgx-enclave-identity-issuer-chain"),
        ("pckcrl", lambda body, headers: (body, {}), "header sgx-pck-crl-issuer-chain"),
        ("pckcrl", lambda body, headers: (body, {"sgx-pck-crl-issuer-chain": "%ff%fe"}), "header sgx-pck-crl"),
    ],
)
def test_an_answer_that_is_none(part: str, change: Callable[[bytes, dict[str, str]], Answer], text: str) -> None:
    with pytest.raises(Refused, match=text):
        collateral_for(Service(_changed(part, change)).client(), make.recorded("tdx_v4"))


@pytest.mark.parametrize("part", ["tcb?", "qe/identity", "pckcrl", "/IntelSGXRootCA.der"])
def test_each_answer_is_needed(part: str) -> None:
    known = {path: answer for path, answer in answers().items() if part not in path}
    with pytest.raises(Refused, match="answered 404"):
        collateral_for(Service(known).client(), make.recorded("tdx_v4"))


def test_an_answer_without_end() -> None:
    known = _changed("pckcrl", lambda body, headers: (bytes(MOST_BYTES + 1), headers))
    with pytest.raises(Unreachable, match="more than"):
        collateral_for(Service(known).client(), make.recorded("tdx_v4"))


def test_a_service_that_is_not_there() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(refuse)) as client,
        pytest.raises(Unreachable, match=r"api\.trustedservices\.intel\.com"),
    ):
        collateral_for(client, make.recorded("tdx_v4"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        make.recorded("sgx_v3"),
        make.spliced(make.recorded("tdx_v4"), certification=b""),
        make.spliced(make.recorded("tdx_v4"), certification_type=3),
        make.spliced(
            make.recorded("tdx_v4"),
            certification=b"".join(
                part + b"-----END CERTIFICATE-----\n"
                for part in parse_collateral(make.recorded_collateral("tdx_v4"))
                .tcb_info_issuer_chain.encode()
                .split(b"-----END CERTIFICATE-----\n")[:1]
            ),
        ),
    ],
)
def test_a_quote_that_names_no_platform_asks_nobody(raw: bytes) -> None:
    service = Service(answers())
    with pytest.raises(CheckFailed):
        collateral_for(service.client(), raw)
    assert service.asked == []


def test_nothing_fetched_is_believed() -> None:
    known = _changed("tcb?", lambda body, headers: (body.replace(b'"OutOfDate"', b'"UpToDate"'), headers))
    item = collateral_for(Service(known).client(), make.recorded("tdx_v4"))
    tried = Tried(make.recorded("tdx_v4"), make.at_capture("tdx_v4").with_material(Material((item,))))
    assert tried.failing() == ["tdx.8"]
