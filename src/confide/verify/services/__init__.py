"""Other people's services, and ours: one adapter for each format of reports."""

from __future__ import annotations

from typing import Final

from confide.verify.services.aci import Aci
from confide.verify.services.base import Adapter, UnknownService
from confide.verify.services.near import NEAR, Near
from confide.verify.services.tinfoil import TINFOIL, Tinfoil
from confide.verify.services.vllm_proxy import VllmProxy
from confide.verify.verdict import Steps

ADAPTERS: Final[tuple[Adapter, ...]] = (Aci(), VllmProxy(), Near(), Tinfoil())
STEPS: Final[tuple[Steps, ...]] = (NEAR, TINFOIL)
"""The steps that only these formats have."""


def detect(document: bytes) -> Adapter:
    """The adapter that recognises a report. It decides how the report is read, and not whether it is good.

    Raises:
        UnknownService: none does.
    """
    for adapter in ADAPTERS:
        if adapter.recognises(document):
            return adapter
    known = ", ".join(adapter.name for adapter in ADAPTERS)
    raise UnknownService(f"this is a report in no format that is known here ({known})")


def named(name: str) -> Adapter:
    """The adapter of this name.

    Raises:
        UnknownService: there is none.
    """
    for adapter in ADAPTERS:
        if adapter.name == name:
            return adapter
    known = ", ".join(adapter.name for adapter in ADAPTERS)
    raise UnknownService(f"no service is called {name!r}; known are {known}")
