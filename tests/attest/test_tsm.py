"""configfs-tsm against a kernel that races, fails, is slow and loses writes; the entry is removed every time."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from confide.attest import dev_sign
from confide.attest.base import Evidence, EvidenceFailed, TeeType
from confide.attest.dev_pki import Pki
from confide.attest.shared import SharedEvidence
from confide.attest.tsm import OsFiles, Patience, Report, TsmSource, find_provider, take_report
from confide.wire import snp, tdx
from tests.simulator.kernel import ROOT, Kernel

from .conftest import REPORT_DATA

SNP = (Path(__file__).parent.parent / "vectors" / "evidence" / "amd" / "vlek_v3.report").read_bytes()


@dataclass
class Time:
    """A clock that only sleeping moves."""

    now: float = 0.0
    pauses: int = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


@pytest.fixture
def time() -> Time:
    return Time()


def patience(time: Time) -> Patience:
    return Patience(5.0, time.clock, time.sleep)


def tdx_maker(pki: Pki) -> Callable[[bytes], bytes]:
    """What a TDX guest's kernel returns; hosts pad it with zeros."""
    return lambda inblob: dev_sign.sign_quote(pki, dev_sign.td_report(inblob, (bytes(48),) * 4)).ljust(8000, b"\0")


def snp_maker(inblob: bytes) -> bytes:
    return snp.build_report(replace(snp.parse_report(SNP), report_data=inblob))


def echo(inblob: bytes) -> bytes:
    return b"report over " + inblob


def take(kernel: Kernel, time: Time) -> Report:
    return take_report(REPORT_DATA, ROOT, kernel, patience(time))


def test_a_report(time: Time) -> None:
    kernel = Kernel(echo)
    assert take(kernel, time) == Report("tdx_guest", echo(REPORT_DATA))
    assert (kernel.made, kernel.served, kernel.entries, time.pauses) == (1, 1, {}, 0)


@pytest.mark.parametrize(
    "trouble",
    [
        {"faults": [errno.EBUSY]},
        {"faults": [errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.EAGAIN]},
        {"lost_writes": 1},
        {"races": 1},
        {"late_races": 2},
        {"races": 1, "late_races": 1, "faults": [errno.EBUSY], "lost_writes": 1},
    ],
    ids=str,
)
def test_what_can_pass_is_tried_again_with_a_new_entry(trouble: dict[str, object], time: Time) -> None:
    kernel = Kernel(echo, **trouble)  # type: ignore[arg-type]
    assert take(kernel, time).outblob == echo(REPORT_DATA)
    assert kernel.made == time.pauses + 1 > 1
    assert kernel.entries == {}


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ({"faults": [errno.EBUSY] * 100}, "busy with another quote, for 5 seconds"),
        ({"faults": [errno.ETIMEDOUT] * 100}, "did not answer, for 5 seconds"),
        ({"races": 100}, "another process wrote to our entry, for 5 seconds"),
        ({"late_races": 100}, "another process wrote"),
        ({"lost_writes": 100}, "our write was lost"),
        ({"faults": [errno.ENXIO]}, "no provider"),
        ({"faults": [errno.EINVAL]}, "refused the request"),
        ({"faults": [errno.EIO]}, "Input/output error"),
        ({"provider": None}, "no provider"),
        ({"mkdir_fault": errno.EACCES}, "may not write"),
        ({"mkdir_fault": errno.EPERM}, "may not write"),
        ({"mounted": False}, "no such directory"),
        ({"generation_text": "many"}, "'many'"),
        ({"generation_text": "-1"}, "'-1'"),
    ],
    ids=str,
)
def test_what_can_not_pass_says_why(trouble: dict[str, object], text: str, time: Time) -> None:
    kernel = Kernel(echo, **trouble)  # type: ignore[arg-type]
    with pytest.raises(EvidenceFailed, match=text):
        take(kernel, time)
    assert kernel.entries == {}
    assert time.now <= 5.0


def test_a_race_is_never_answered(time: Time) -> None:
    """The other process's bytes must not come back as ours, however the two interleave."""
    for races in range(3):
        for late in range(3):
            assert take(Kernel(echo, races=races, late_races=late), time).outblob == echo(REPORT_DATA)


def test_an_entry_that_can_not_be_removed_does_not_hide_the_report(time: Time) -> None:
    assert take(Kernel(echo, rmdir_fault=errno.EBUSY), time).outblob == echo(REPORT_DATA)


def test_an_entry_is_removed_when_the_provider_can_not_be_read(time: Time) -> None:
    class Unreadable(Kernel):
        def read(self, path: Path) -> bytes:
            raise OSError(errno.EIO, "broken")

    unreadable = Unreadable(echo)
    with pytest.raises(EvidenceFailed, match="broken"):
        take(unreadable, time)
    assert (unreadable.made, unreadable.entries) == (1, {})


@pytest.mark.parametrize("provider", ["tdx_guest", "sev_guest", "arm_cca_guest"])
def test_the_provider_is_found(provider: str) -> None:
    kernel = Kernel(echo, provider)
    assert find_provider(ROOT, kernel) == provider
    assert kernel.entries == {}


@pytest.mark.parametrize("trouble", [{"mounted": False}, {"provider": None}], ids=str)
def test_there_is_no_provider(trouble: dict[str, object]) -> None:
    assert find_provider(ROOT, Kernel(echo, **trouble)) is None  # type: ignore[arg-type]


def test_a_provider_that_this_user_may_not_ask() -> None:
    with pytest.raises(EvidenceFailed, match="may not write"):
        find_provider(ROOT, Kernel(echo, mkdir_fault=errno.EACCES))


def quote(kernel: Kernel, tee_type: TeeType, time: Time, report_data: bytes = REPORT_DATA) -> Evidence:
    async def main() -> Evidence:
        source = TsmSource(tee_type, ROOT, kernel, patience(time))
        try:
            return await source.quote(report_data)
        finally:
            await source.aclose()

    return asyncio.run(main())


def test_a_tdx_quote(pki: Pki, time: Time) -> None:
    evidence = quote(Kernel(tdx_maker(pki)), "tdx", time)
    assert evidence == Evidence("tdx", evidence.quote, REPORT_DATA)
    assert tdx.parse_quote(evidence.quote).report.report_data == REPORT_DATA
    assert len(evidence.quote) == 8000


@pytest.mark.parametrize(
    ("auxblob", "vcek"),
    [
        (None, None),
        (b"", None),
        (snp.build_certificates(snp.SnpCertificates(vcek=b"der")), b"der"),
        (b"\x01" * 30, None),
    ],
)
def test_an_snp_report_with_the_certificates_of_the_host(auxblob: bytes | None, vcek: bytes | None, time: Time) -> None:
    evidence = quote(Kernel(snp_maker, "sev_guest", auxblob), "sev_snp", time)
    assert evidence.tee_type == "sev_snp"
    assert getattr(evidence.collateral, "vcek", None) == vcek


@pytest.mark.parametrize(
    ("kernel", "tee_type", "text"),
    [
        (Kernel(snp_maker, "sev_guest"), "tdx", "the provider is sev_guest, which is not tdx"),
        (Kernel(echo, "arm_cca_guest"), "sev_snp", "arm_cca_guest"),
        (Kernel(lambda _: b""), "tdx", "malformed report"),
        (Kernel(lambda _: b"\x84" * 9000), "tdx", "malformed report"),
        (Kernel(snp_maker), "tdx", "malformed report"),
        (Kernel(lambda _: SNP[:-1], "sev_guest"), "sev_snp", "malformed report"),
        (Kernel(lambda _: SNP, "sev_guest"), "sev_snp", "other bytes"),
    ],
)
def test_reports_that_are_no_evidence(kernel: Kernel, tee_type: TeeType, text: str, time: Time) -> None:
    with pytest.raises(EvidenceFailed, match=text):
        quote(kernel, tee_type, time)
    assert kernel.entries == {}


def test_a_quote_over_other_bytes(pki: Pki, time: Time) -> None:
    other = tdx_maker(pki)(bytes(64))
    with pytest.raises(EvidenceFailed, match="other bytes"):
        quote(Kernel(lambda _: other), "tdx", time)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_one_size(size: int, time: Time) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        quote(Kernel(echo), "tdx", time, bytes(size))


def test_a_slow_host_is_left_behind_and_its_entry_is_still_removed(pki: Pki) -> None:
    async def main() -> None:
        gate = threading.Event()
        kernel = Kernel(tdx_maker(pki), gate=gate)
        source = TsmSource("tdx", ROOT, kernel)
        with pytest.raises(EvidenceFailed, match="took longer"):
            await SharedEvidence(source, 0.05).quote(REPORT_DATA)
        assert len(kernel.entries) == 1
        gate.set()
        evidence = await SharedEvidence(source, 20).quote(REPORT_DATA)
        assert evidence.report_data == REPORT_DATA
        assert (kernel.served, kernel.entries) == (2, {})
        await source.aclose()

    asyncio.run(main())


def test_many_requests_for_one_nonce_are_one_report(pki: Pki) -> None:
    async def main() -> None:
        kernel = Kernel(tdx_maker(pki))
        source = SharedEvidence(TsmSource("tdx", ROOT, kernel))
        await asyncio.gather(*(source.quote(REPORT_DATA) for _ in range(50)))
        assert kernel.served == 1
        await asyncio.gather(*(source.quote(bytes([i]) * 64) for i in range(10)))
        assert (kernel.served, kernel.entries) == (11, {})
        assert source.describe().hardware
        await source.aclose()

    asyncio.run(main())


def test_the_real_file_operations(tmp_path: Path) -> None:
    files = OsFiles()
    entry = tmp_path / "entry"
    files.mkdir(entry)
    assert files.exists(entry)
    (entry / "inblob").touch()
    files.write(entry / "inblob", b"x" * 100_000)
    assert files.read(entry / "inblob") == b"x" * 100_000
    with pytest.raises(OSError, match="not empty"):
        files.rmdir(entry)
    (entry / "inblob").unlink()
    files.rmdir(entry)
    assert not files.exists(entry)


def test_an_attribute_without_end() -> None:
    with pytest.raises(OSError, match="too large"):
        OsFiles().read(Path("/dev/zero"))


def test_this_machine_has_none_or_says_which(tmp_path: Path) -> None:
    assert find_provider(tmp_path / "nothing") is None
