"""The page of ``confide serve`` itself, with the default model: from the link that is printed to a checked answer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest
from playwright.sync_api import Browser, expect

from confide.engine import catalogue
from confide.engine.pull import LocalModel
from tests.page.browsing import visiting
from tests.serving import RunningServer, serving


@pytest.fixture(scope="module")
def server(smollm2: LocalModel, model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """What make run starts."""
    args = ["--print-curl", "--cache-dir", str(model_cache)]
    with serving(tmp_path_factory.mktemp("real"), [], *args, model=catalogue.DEFAULT) as running:
        yield running


def test_the_link_that_is_printed_just_works(browser: Browser, server: RunningServer) -> None:
    link = re.search(r"In a browser: (http://127\.0\.0\.1:\d+)/#key=(sk-\S+)", server.log.read_text())
    assert link is not None
    with visiting(browser, link[1], link[2]) as visit:
        visit.settled("development")
        expect(visit.page.locator("#model")).to_have_value(catalogue.DEFAULT)
        visit.page.click("#options")
        visit.page.fill("#option-max_tokens", "20")
        visit.page.get_by_role("button", name="Done").click()
        answer = visit.answered("Say hello.")
        assert visit.badge(answer) == "development"
        assert answer.locator(".prose").inner_text().strip()
        shown = visit.page.locator("#proof").inner_text()
        assert "llama.cpp" in shown
        assert ".gguf" in shown


def test_tools_and_json_of_a_real_model(browser: Browser, server: RunningServer) -> None:
    """The examples of the empty page: what the model writes fits their schemas."""
    link = re.search(r"In a browser: (\S+)/#key=(\S+)", server.log.read_text())
    assert link is not None
    with visiting(browser, link[1], link[2]) as visit:
        visit.settled()
        visit.page.get_by_role("button", name="Answer as JSON").click()
        visit.page.press("#prompt", "Enter")
        assert visit.badge() == "development"
        expect(visit.answers.last.locator(".code-head")).to_contain_text("valid JSON")
        expect(visit.answers.last.locator(".j-name").first).to_have_text('"kind"')


def test_no_page_where_none_is_wanted(smollm2: LocalModel, tmp_path: Path) -> None:
    with (
        patch.dict(os.environ, {"CONFIDE_PAGE": "false"}),
        serving(tmp_path, [f"m={smollm2.path}"]) as server,
        httpx.Client(base_url=server.url.removesuffix("/v1")) as client,
    ):
        for path in ("/", "/page/development-roots.pem"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"Invalid URL (GET {path})"
        assert "In a browser" not in server.log.read_text()
