"""Verifying a service again when it changed: once for each change, by one at a time, and never by lowering demands."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from confide.client.errors import ClientError, MustVerifyAgain
from confide.client.service import VerifiedService
from confide.errors import OperatorError
from confide.verify.fetch.base import Refused, Unreachable

log = logging.getLogger("confide.client.renewal")

PAUSE: Final = 5.0
"""Seconds between attempts to reach a service that gave no answer; a verdict that isn't good is final."""


class Renewal:
    """Brings a service back that must be verified again."""

    def __init__(self, service: VerifiedService) -> None:
        self._service = service
        self._task: asyncio.Task[None] | None = None
        self._final = False
        self._not_before = 0.0

    def begin(self, changed: MustVerifyAgain) -> None:
        """Start to verify again, unless that is being done, or was done and gave a verdict that isn't good."""
        if self._is_good():  # an answer of before the last verification says nothing about now
            return
        if self._final or (self._task is not None and not self._task.done()) or time.monotonic() < self._not_before:
            return
        log.warning("verifying the service again", extra={"reason": changed.reason})
        self._task = asyncio.create_task(self._verify())

    async def ready(self) -> None:
        """Return when requests can be made.

        Raises:
            MustVerifyAgain: they can't; what was tried did not help.
        """
        try:
            self._service.check()
        except MustVerifyAgain as changed:
            self.begin(changed)
            if self._task is not None:
                await asyncio.shield(self._task)
            self._service.check()

    def _is_good(self) -> bool:
        try:
            self._service.check()
        except MustVerifyAgain:
            return False
        return True

    async def _verify(self) -> None:
        try:
            await asyncio.to_thread(self._service.verify_again)
            log.warning("the service was verified again")
        except (Unreachable, Refused) as failed:
            self._not_before = time.monotonic() + PAUSE
            log.warning("the service can't be asked for its report", extra={"error": type(failed).__name__})
        except OperatorError as failed:
            self._final = True
            reason = failed.reason if isinstance(failed, ClientError) else ""
            facts = {"error": type(failed).__name__, "reason": reason}
            log.error("the service is not verified any more; it stays refused", extra=facts)  # noqa: TRY400
