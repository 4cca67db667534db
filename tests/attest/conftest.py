"""A development PKI for the whole session, and what it issues."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from confide.attest import dev_sign
from confide.attest.dev import DevMachine
from confide.attest.dev_pki import Pki, create_pki

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))


@pytest.fixture(scope="session")
def pki() -> Pki:
    """One PKI, made at a fixed time."""
    return create_pki(NOW)


@pytest.fixture
def machine(pki: Pki) -> DevMachine:
    """A development machine that nobody else measures into."""
    return DevMachine(pki)


@pytest.fixture
def quote(pki: Pki) -> bytes:
    """A quote over :data:`REPORT_DATA`."""
    return dev_sign.sign_quote(pki, dev_sign.td_report(REPORT_DATA, (bytes(48),) * 4))
