"""Reference measurements: real manifests pass in their time, each step can be broken alone, no mutation passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from confide.verify.context import Context
from confide.verify.material import Item, Material
from confide.verify.policy import GpuPolicy, Policy
from confide.verify.rim import RIM, Wanted, check_measurements, find_rim, verify_rim
from confide.verify.roots import Roots
from confide.verify.verdict import CheckFailed, Ledger, Outcome
from confide.wire.rim import Rim, parse_rim
from tests.verify import nvidia_maker as maker
from tests.verify.nvidia_maker import DRIVER, DRIVER_RIM, NOW, Publisher, measurement, rim_text

VECTORS = Path(__file__).parent.parent / "vectors" / "evidence" / "nvidia" / "rims"
PUBLISHER = Publisher()
OWN = Wanted(DRIVER_RIM, DRIVER, ("GH100",), "GPU")
VENDOR = Roots.of(["nvidia"])


def _at(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


REAL = {
    "driver_550.144.03": (_at(2025, 6), Wanted("a", "550.144.03", ("GH100",), "GPU")),
    "driver_545.00": (_at(2024, 6), Wanted("b", "545.00", ("GH100",), "GPU")),
    "vbios_96.00.5E.00.01": (_at(2024, 6), Wanted("c", "96.00.5e.00.01", ("GH100",), "GPU")),
    "vbios_96.00.74.00.20": (_at(2024, 6), Wanted("d", "96.00.74.00.20", ("GH100",), "GPU")),
    "switch_96.10.55.00.01": (_at(2026, 9), Wanted("e", "96.10.55.00.01", ("LS10",), "SWITCH")),
}


@dataclass(frozen=True)
class Case:
    """One manifest below our own root, good unless changed."""

    data: bytes
    wanted: Wanted = OWN
    now: int = NOW
    roots: Roots | None = None
    demanded: bool = False

    def run(self) -> tuple[Ledger, Rim | None]:
        ledger = Ledger()
        return ledger, verify_rim(ledger, self.context(), self.data, self.wanted)

    def context(self, *items: Item) -> Context:
        policy = Policy(roots=("nvidia",), gpu=GpuPolicy(measurements=self.demanded))
        own = Roots.of([], [PUBLISHER.trusted])
        return Context(policy, self.roots or own, self.now, Material(items))


def steps_of(ledger: Ledger, *outcomes: Outcome) -> list[str]:
    return [finding.step for finding in ledger.findings if finding.outcome in outcomes]


def real(name: str, **changes: Any) -> Case:
    now, wanted = REAL.get(name, (_at(2025, 6), OWN))
    return replace(Case((VECTORS / f"{name}.xml").read_bytes(), wanted, now, VENDOR), **changes)


@pytest.mark.parametrize("name", REAL)
def test_real_manifest_passes(name: str) -> None:
    ledger, rim = real(name).run()
    assert rim is not None
    assert ledger.passed(*(step.id for step in RIM.steps))
    assert [root.name for root in ledger.anchors] == ["NVIDIA CoRIM signing Root CA"]


# What breaks each step -----------------------------------------------------------------------------------------------


def _wrong_root() -> Case:
    return Case(Publisher().rim())


def _signer_is_no_signer() -> Case:
    """The middle certificate's key signs, and its own certificate is shown twice."""
    other = Publisher()
    return Case(other.sign(rim_text(), (PUBLISHER.signer, PUBLISHER.middle, PUBLISHER.root)))


def _p256() -> Case:
    small = maker.issue("L4", PUBLISHER.middle, ca=False, curve=maker.ec.SECP256R1())
    return Case(PUBLISHER.sign(rim_text(), (small, PUBLISHER.middle, PUBLISHER.root)))


def _below_a_signer() -> Case:
    """A signer is no CA: what it certifies is not NVIDIA's."""
    other = Publisher()
    leaf = replace_signer(other, maker.issue("L5", PUBLISHER.signer, ca=False))
    chain = (leaf.signer, PUBLISHER.signer, PUBLISHER.middle, PUBLISHER.root)
    return Case(leaf.sign(rim_text(), chain))


def replace_signer(publisher: Publisher, signer: maker.Signer) -> Publisher:
    publisher.signer = signer
    return publisher


def _no_overlap() -> Case:
    """A signer whose time ends before that of its issuer begins."""
    other = Publisher()
    other.signer = maker.issue("L4", PUBLISHER.middle, ca=False, days=-29)
    late = replace_signer(other, other.signer)
    return Case(late.sign(rim_text(), (late.signer, PUBLISHER.middle, maker.issue("other root"))))


BREAKS: dict[str, list[Callable[[], Case]]] = {
    "rim.1": [
        lambda: Case(b""),
        lambda: Case(PUBLISHER.rim().replace(b'URI=""', b'URI="#a"')),
        lambda: Case(PUBLISHER.rim(indices=[7, 7])),
    ],
    "rim.2": [
        lambda: Case(PUBLISHER.rim().replace(measurement(8).hex().encode(), bytes(48).hex().encode())),
        lambda: Case(PUBLISHER.rim().replace(b"Entity name=", b"Entity  role2='a' name=")),
        lambda: Case(PUBLISHER.rim().replace(b"<Payload>", b"<Payload>\n")),
        lambda: real("driver_535_altered"),
    ],
    "rim.3": [
        _signer_is_no_signer,
        _p256,
        lambda: real("driver_550_bad_signature"),
        lambda: Case(PUBLISHER.sign(rim_text(), (PUBLISHER.middle, PUBLISHER.root))),
    ],
    "rim.4": [
        _wrong_root,
        _below_a_signer,
        _no_overlap,
        lambda: real("gb100_debug_root"),
        lambda: real("driver_550.144.03", roots=Roots.of(["intel"])),
        lambda: Case(PUBLISHER.rim(), roots=VENDOR),
        lambda: Case(PUBLISHER.sign(rim_text(), (PUBLISHER.signer, PUBLISHER.root))),
    ],
    "rim.6": [
        lambda: Case(PUBLISHER.rim(version="580.95.06")),
        lambda: Case(PUBLISHER.rim(product="GB100")),
        lambda: Case(PUBLISHER.rim(edition="SWITCH")),
        lambda: real("driver_550.144.03", wanted=OWN),
    ],
}
TABLE = [pytest.param(step, make, id=f"{step}-{n}") for step, makes in BREAKS.items() for n, make in enumerate(makes)]


def test_every_step_has_a_break() -> None:
    assert {*BREAKS, "rim.5"} == {step.id for step in RIM.steps}


@pytest.mark.parametrize(("step", "make"), TABLE)
def test_break_is_seen_at_its_step(step: str, make: Callable[[], Case]) -> None:
    ledger, rim = make().run()
    assert rim is None
    assert steps_of(ledger, Outcome.FAIL) == [step]
    assert not (ledger.anchors and step != "rim.6")


@pytest.mark.parametrize("demanded", [False, True])
@pytest.mark.parametrize("days", [-40, 800])
def test_manifest_out_of_its_time_is_not_checked_rim_5(days: int, demanded: bool) -> None:
    now = NOW + int(timedelta(days=days).total_seconds())
    ledger, rim = Case(PUBLISHER.rim(), now=now, demanded=demanded).run()
    assert rim is None
    assert not ledger.anchors
    assert steps_of(ledger, Outcome.NOT_CHECKED) == ["rim.5", "rim.6"]
    assert {finding.required for finding in ledger.findings[4:]} == {demanded}
    assert "no longer" in ledger.findings[4].detail


def test_real_manifest_out_of_its_time() -> None:
    ledger, rim = real("vbios_96.00.5E.00.01", now=_at(2026, 9)).run()
    assert rim is None
    assert steps_of(ledger, Outcome.NOT_CHECKED) == ["rim.5", "rim.6"]


def test_root_may_be_left_out() -> None:
    _, rim = Case(PUBLISHER.sign(rim_text(), (PUBLISHER.signer, PUBLISHER.middle))).run()
    assert rim is not None


# Which of several ----------------------------------------------------------------------------------------------------


def test_first_good_one_of_several_is_used() -> None:
    items = [Item("nvidia-rim", OWN.id, data) for data in (b"", Publisher().rim(), PUBLISHER.rim())]
    ledger = Ledger()
    assert find_rim(ledger, Case(b"").context(*items), OWN) is not None
    assert not steps_of(ledger, Outcome.FAIL)
    assert len(ledger.anchors) == 1


def test_of_several_bad_ones_the_first_is_told() -> None:
    items = [Item("nvidia-rim", OWN.id, data) for data in (Publisher().rim(), b"")]
    ledger = Ledger()
    assert find_rim(ledger, Case(b"").context(*items), OWN) is None
    assert steps_of(ledger, Outcome.FAIL) == ["rim.4"]


def test_none_at_hand_says_nothing() -> None:
    ledger = Ledger()
    assert find_rim(ledger, Case(b"").context(Item("nvidia-rim", "another", PUBLISHER.rim())), OWN) is None
    assert not ledger.findings


# Comparison ----------------------------------------------------------------------------------------------------------


def _rim(*indices: int, **values: Any) -> Rim:
    return parse_rim(PUBLISHER.rim(indices=indices, **values))


RUNTIME = {index: measurement(index) for index in range(1, 65)}


def test_any_alternative_counts() -> None:
    rim = _rim(3, values={3: [bytes(48), measurement(4)]})
    assert check_measurements(RUNTIME, [rim], nvdec0_off=False) == 1


@pytest.mark.parametrize("index", [0, 3, 35, 62])
def test_each_measurement_counts(index: int) -> None:
    rim = _rim(0, 3, 35, 62)
    assert check_measurements(RUNTIME, [rim], nvdec0_off=False) == 4
    for value in ({}, {index + 1: bytes(48)}):
        runtime = {k: v for k, v in RUNTIME.items() if k != index + 1} | value
        with pytest.raises(CheckFailed, match=rf"1 of 4 .*index {index}\)"):
            check_measurements(runtime, [rim], nvdec0_off=False)


def test_one_measurement_in_two_manifests_fails() -> None:
    with pytest.raises(CheckFailed, match="both"):
        check_measurements(RUNTIME, [_rim(3, 4), _rim(4, 5)], nvdec0_off=False)


def test_nothing_to_compare_is_no_agreement() -> None:
    for rims in ([], [_rim()], [_rim(35)]):
        with pytest.raises(CheckFailed, match="no active"):
            check_measurements(RUNTIME, rims, nvdec0_off=True)


# Mutations -----------------------------------------------------------------------------------------------------------


def mutations(data: bytes) -> Iterable[bytes]:
    """Each attribute, each text, each element: changed, or gone, or there twice."""
    count = sum(1 for _ in etree.fromstring(data).iter())
    for place in range(count):
        yield from _changed(data, place)


def _changed(data: bytes, place: int) -> Iterable[bytes]:
    def at() -> tuple[Any, Any]:
        root = etree.fromstring(data)
        return root, list(root.iter())[place]

    _, here = at()
    for name in here.attrib:
        root, element = at()
        value = element.get(name)
        element.set(name, value[:-1] + ("1" if value[-1:] != "1" else "2"))
        yield etree.tostring(root)
        root, element = at()
        del element.attrib[name]
        yield etree.tostring(root)
    if (here.text or "").strip():
        for where in (0, len(here.text) // 2):
            root, element = at()
            flipped = "A" if element.text[where] != "A" else "B"
            element.text = element.text[:where] + flipped + element.text[where + 1 :]
            yield etree.tostring(root)
    if here.getparent() is not None:
        root, element = at()
        element.getparent().remove(element)
        if "X509Certificate" not in element.tag or here.getnext() is not None:  # the root may be left out
            yield etree.tostring(root)
        root, element = at()
        element.addnext(etree.fromstring(etree.tostring(element, with_tail=False)))
        yield etree.tostring(root)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", ["driver_550.144.03", "switch_96.10.55.00.01"])
def test_no_mutation_of_a_real_manifest_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = real(name)
    tried = accepted = 0
    for changed in mutations(case.data):
        ledger, rim = replace(case, data=changed).run()
        tried += 1
        if rim is not None or not steps_of(ledger, Outcome.FAIL):
            accepted += 1
    with capsys.disabled():
        print(f"\n{name}: {tried} mutations tried, {accepted} accepted")
    assert tried > 700
    assert accepted == 0
