"""AMD's Key Distribution Service: what is asked, what is made of the answers, and that it is enough to verify."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from confide.verify.fetch import kds
from confide.verify.fetch.base import Refused, Unreachable
from confide.verify.snp import verify_snp
from confide.verify.verdict import Ledger
from confide.wire.binary import MalformedEvidence
from tests.verify import snp_maker as maker
from tests.verify.snp_maker import CHIP, Leaf, ask, crl

Answers = dict[str, bytes | int]


def pem(*ders: bytes) -> bytes:
    lines = ("\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) for der in ders)
    return "".join(f"-----BEGIN CERTIFICATE-----\n{one}\n-----END CERTIFICATE-----\n" for one in lines).encode()


def service(answers: Answers, asked: list[str] | None = None) -> httpx.Client:
    """A service that answers by path; a number is a status."""

    def handler(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(str(request.url))
        answer = answers.get(request.url.path, 404)
        return httpx.Response(answer) if isinstance(answer, int) else httpx.Response(200, content=answer)

    return httpx.Client(transport=httpx.MockTransport(handler))


def whole(product: str, chip: str, key: str = "vcek") -> Answers:
    return {
        f"/vcek/v1/{product}/{chip}": Leaf(product).der(),
        f"/{key}/v1/{product}/cert_chain": pem(ask(product, key), maker.ark(product)),
        f"/{key}/v1/{product}/crl": crl(product),
    }


MILAN = "https://kdsintf.amd.com/vcek/v1/Milan/" + CHIP.hex() + "?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"
TURIN = "https://kdsintf.amd.com/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=75"


@pytest.mark.parametrize(("product", "url"), [("Milan", MILAN), ("Turin", TURIN)])
def test_what_is_asked(product: str, url: str) -> None:
    asked: list[str] = []
    chip = url.partition("?")[0].rpartition("/")[2]
    with service(whole(product, chip), asked) as client:
        items = kds.certificates_for(client, maker.signed(maker.unsigned(product)))
    base = f"https://kdsintf.amd.com/vcek/v1/{product}"
    assert asked == [url, f"{base}/cert_chain", f"{base}/crl"]
    assert [(one.kind, one.key, one.source) for one in items] == [
        ("amd-certificate", "vcek", "network"),
        ("amd-certificate", "ask", "network"),
        ("amd-certificate", "ark", "network"),
        ("amd-crl", f"vcek/{product}", "network"),
    ]


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_the_answers_are_enough_to_verify(product: str) -> None:
    raw = maker.signed(maker.unsigned(product))
    chip = maker.TURIN_CHIP[:8] if product == "Turin" else CHIP
    with service(whole(product, chip.hex())) as client:
        items = kds.certificates_for(client, raw)
    ledger = Ledger()
    assert verify_snp(ledger, maker.context(*items, product=product), raw) is not None
    assert ledger.passed(*(f"snp.{number}" for number in range(1, 11)))


def test_vleks_are_not_asked_for() -> None:
    asked: list[str] = []
    with service(whole("Milan", "", "vlek"), asked) as client:
        items = kds.certificates_for(client, maker.signed(maker.unsigned(key="vlek")))
    assert asked == [f"https://kdsintf.amd.com/vlek/v1/Milan/{name}" for name in ("cert_chain", "crl")]
    assert [one.key for one in items] == ["ask", "ark", "vlek/Milan"]


@pytest.mark.parametrize(
    ("changes", "tried"),
    [
        ({"version": 2, "cpuid": bytes(3)}, ["Milan", "Genoa"]),
        ({"version": 2, "cpuid": bytes(3), "chip_id": maker.TURIN_CHIP}, ["Turin", "Milan", "Genoa"]),
        ({"cpuid": bytes([0x19, 0x41, 0])}, ["Turin", "Genoa", "Milan"]),
        ({"cpuid": bytes([0x19, 0xA1, 0])}, ["Genoa"]),
    ],
)
def test_products_are_tried_where_the_report_names_none(changes: dict[str, Any], tried: list[str]) -> None:
    asked: list[str] = []
    with service({}, asked) as client, pytest.raises(Refused, match="404"):
        kds.vcek_for(client, maker.unsigned(**changes))
    assert [url.split("/")[5] for url in asked] == tried


def test_the_product_that_has_the_chip_is_the_one() -> None:
    raw = maker.signed(maker.unsigned("Genoa", version=2, cpuid=bytes(3)))
    with service(whole("Genoa", CHIP.hex())) as client:
        items = kds.certificates_for(client, raw)
    assert items[-1].key == "vcek/Genoa"


def test_another_base() -> None:
    asked: list[str] = []
    with service({"/amd/vcek/v1/Milan/crl": b"crl"}, asked) as client:
        assert kds.crl_for(client, "Milan", "vcek", base="http://cache.internal/amd").data == b"crl"
    assert asked == ["http://cache.internal/amd/vcek/v1/Milan/crl"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no PEM",
        pem(b"one"),
        pem(b"one", b"two", b"three"),
        pem(b"12345", b"two").replace(b"=", b"=A="),
        b"\xff" * 99,
    ],
)
def test_chain_that_is_none_is_refused(text: bytes) -> None:
    with service({"/vcek/v1/Milan/cert_chain": text}) as client, pytest.raises(Refused, match="certificates for Milan"):
        kds.issuers_for(client, "Milan", "vcek")


Ask = Callable[[httpx.Client], object]


@pytest.mark.parametrize(
    ("call", "path", "most"),
    [
        (lambda client: kds.vcek_for(client, maker.unsigned()), f"/vcek/v1/Milan/{CHIP.hex()}", 8 * 1024),
        (lambda client: kds.issuers_for(client, "Milan", "vcek"), "/vcek/v1/Milan/cert_chain", 32 * 1024),
        (lambda client: kds.crl_for(client, "Milan", "vlek"), "/vlek/v1/Milan/crl", 1 << 20),
    ],
)
def test_answers_are_bounded(call: Ask, path: str, most: int) -> None:
    with service({path: bytes(most + 1)}) as client, pytest.raises(Unreachable, match=f"more than {most} bytes"):
        call(client)
    with service({path: 429}) as client, pytest.raises(Refused, match="429"):
        call(client)


def test_no_report_is_an_error() -> None:
    with service({}) as client, pytest.raises(MalformedEvidence):
        kds.certificates_for(client, bytes(1184))
