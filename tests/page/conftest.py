"""One browser and one echoing server for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.page.browsing import Visit, launched, visiting
from tests.proof.talking import EchoServer, echoing

Open = Callable[..., AbstractContextManager[Visit]]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """For this folder only: as long as it runs, no other test could run an event loop in this thread."""
    with sync_playwright() as playwright:
        launched_one = launched(playwright)
        yield launched_one
        launched_one.close()


@pytest.fixture(scope="package")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A server that says what it is told, with keys."""
    with echoing(tmp_path_factory.mktemp("echo"), "--sees") as server:
        yield server


@pytest.fixture
def opened(browser: Browser, echo: EchoServer) -> Open:
    """Opens the page of the echoing server with a key that works; ``origin`` for another one."""

    def open_(*, origin: str = "", key: str | None = None, **options: Any) -> AbstractContextManager[Visit]:
        return visiting(browser, origin or f"http://127.0.0.1:{echo.port}", key or echo.keys[0], **options)

    return open_
