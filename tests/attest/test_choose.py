"""What is chosen on which machine; above all that nothing leads to development but its own name."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from confide.attest.choose import Places, Sources, Tee, choose
from confide.attest.dev_pki import DIRECTORY
from confide.errors import OperatorError
from tests.simulator.kernel import ROOT, Kernel


@pytest.fixture
def agent_socket(tmp_path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "dstack.sock"))
        yield tmp_path / "dstack.sock"


def places(tmp_path: Path, *sockets: Path, provider: str | None = None, mounted: bool = True) -> Places:
    kernel = Kernel(lambda inblob: inblob, provider, mounted=mounted)
    return Places(tmp_path / "data", [tmp_path / "no.sock", *sockets], ROOT, kernel)


def described(sources: Sources) -> tuple[str, str, bool]:
    asyncio.run(sources.aclose())
    description = sources.evidence.describe()
    return description.source, description.tee_type, description.hardware


@pytest.mark.parametrize(
    ("tee", "provider", "expected"),
    [
        ("auto", "tdx_guest", ("configfs-tsm", "tdx", True)),
        ("auto", "sev_guest", ("configfs-tsm", "sev_snp", True)),
        ("tdx", "tdx_guest", ("configfs-tsm", "tdx", True)),
        ("sev-snp", "sev_guest", ("configfs-tsm", "sev_snp", True)),
        ("dev", None, ("development", "tdx", False)),
        ("dev", "tdx_guest", ("development", "tdx", False)),
    ],
)
def test_what_is_there_is_chosen(
    tmp_path: Path, tee: Tee, provider: str | None, expected: tuple[str, str, bool]
) -> None:
    sources = choose(tee, places(tmp_path, provider=provider))
    assert described(sources) == expected
    assert sources.keys is None
    assert (tmp_path / "data" / DIRECTORY).exists() == (tee == "dev")


@pytest.mark.parametrize("tee", ["auto", "dstack"])
def test_dstack_comes_first_and_releases_keys(tmp_path: Path, agent_socket: Path, tee: Tee) -> None:
    sources = choose(tee, places(tmp_path, agent_socket, provider="tdx_guest"))
    assert sources.keys is not None
    assert described(sources) == ("dstack", "tdx", True)


@pytest.mark.parametrize(
    ("tee", "provider", "mounted", "texts"),
    [
        ("auto", None, True, ["no TEE", "no.sock", str(ROOT), "--tee dev"]),
        ("auto", None, False, ["no TEE", "no.sock", str(ROOT)]),
        ("auto", "arm_cca_guest", True, ["no TEE"]),
        ("dstack", "tdx_guest", True, ["no dstack guest agent", "no.sock"]),
        ("tdx", "sev_guest", True, ["not a tdx guest", "a sev_snp guest"]),
        ("sev-snp", "tdx_guest", True, ["not a sev-snp guest", "a tdx guest"]),
        ("tdx", None, False, ["not a tdx guest", str(ROOT)]),
    ],
)
def test_nothing_else_is_fallen_back_to(
    tmp_path: Path, tee: Tee, provider: str | None, mounted: bool, texts: list[str]
) -> None:
    with pytest.raises(OperatorError) as failed:
        choose(tee, places(tmp_path, provider=provider, mounted=mounted))
    for text in texts:
        assert text in str(failed.value)
    assert not (tmp_path / "data").exists()


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "no.sock").write_text("")
    with pytest.raises(OperatorError, match="no dstack guest agent"):
        choose("dstack", places(tmp_path))


def test_a_kernel_that_does_not_let_us_says_so(tmp_path: Path) -> None:
    kernel = Kernel(lambda inblob: inblob, mkdir_fault=errno.EACCES)
    with pytest.raises(OperatorError, match="may not write"):
        choose("auto", Places(tmp_path / "data", [], ROOT, kernel))


def test_development_answers_through_the_same_interfaces(tmp_path: Path) -> None:
    async def main() -> None:
        sources = choose("dev", places(tmp_path))
        gpus = await sources.gpu.evidence(bytes(32))
        evidence = await sources.evidence.quote(bytes(64))
        assert not hasattr(gpus, "reason")
        assert evidence.report_data == bytes(64)
        await sources.aclose()

    asyncio.run(main())
