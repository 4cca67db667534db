"""How the page looks, and whether everybody can use it: every state, dark and light, on a phone and at a desk.

Screenshots are kept in :data:`tests.page.browsing.ARTEFACTS`, to be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.clients.environments import node_environment
from tests.page.browsing import ARTEFACTS, SIZES, Scheme, Size, Visit
from tests.page.conftest import Open
from tests.page.meddler import Meddler, meddling
from tests.page.test_proof import REPORT, change_key, on
from tests.proof.talking import EchoServer

NODE = Path(__file__).parent / "node"
RICH = """Light scatters. **Short waves** scatter more than long ones, by the fourth power of their frequency:

| colour | wavelength | scattered |
|:--|--:|--:|
| blue | 450 nm | 4.4 |
| red | 650 nm | 1 |

1. Sunlight enters the air.
2. Molecules, *much smaller* than a wave, send it everywhere.

```python
def rayleigh(wavelength: float) -> float:
    return wavelength**-4
```

> What is left at sunset is red."""
WEATHER = [{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, which knows what assistive technology needs."""
    return (node_environment(NODE).folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture
def meddler(echo: EchoServer) -> Iterator[Meddler]:
    with meddling(echo.port) as meddler:
        yield meddler


# States --------------------------------------------------------------------------------------------------------------


def empty(visit: Visit) -> None:
    visit.settled("development")


def conversation(visit: Visit) -> None:
    visit.settled("development")
    visit.answered("Why is the sky blue?")
    visit.answered(RICH)


def receipt(visit: Visit) -> None:
    visit.settled("development")
    visit.answered("Why is the sky blue?").locator(".badge").click()


def proof(visit: Visit) -> None:
    visit.settled("development")
    visit.open_proof()
    for fold in visit.page.locator("#proof details:not([open])").all()[:2]:
        fold.locator("summary").first.click()


def tools(visit: Visit) -> None:
    visit.settled("development")
    visit.page.click("#options")
    visit.page.fill("#option-tools", json.dumps(WEATHER))
    visit.page.get_by_role("button", name="Done").click()
    visit.answered("What is the weather in Paris?")


def settings(visit: Visit) -> None:
    visit.settled("development")
    visit.page.click("#options")
    visit.page.fill("#option-schema", "{")


def lock(visit: Visit) -> None:
    visit.settled("development")
    visit.page.click("#lock")


def broken(visit: Visit) -> None:
    visit.settled("bad")


def broken_proof(visit: Visit) -> None:
    visit.settled("bad")
    visit.open_proof()


def overriding(visit: Visit) -> None:
    visit.settled("bad")
    visit.page.get_by_role("button", name="Send anyway").click()


def tampered(visit: Visit) -> None:
    visit.settled("development")
    expect(visit.answered("Why is the sky blue?").locator(".receipt")).to_be_visible()


State = Callable[[Visit], None]
HONEST: tuple[State, ...] = (empty, conversation, receipt, proof, tools, settings, lock)
DISHONEST: dict[State, tuple[str, Callable[[bytes], bytes]]] = {
    broken: (REPORT, on(change_key)),
    broken_proof: (REPORT, on(change_key)),
    overriding: (REPORT, on(change_key)),
    tampered: ("/v1/aci/receipts/", on(lambda receipt: receipt.update(model="acme/another"))),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", [*HONEST, *DISHONEST], ids=lambda state: state.__name__)
def test_every_state(opened: Open, meddler: Meddler, axe: str, state: State, size: Size, scheme: Scheme) -> None:
    if state in DISHONEST:
        meddler.changing(*DISHONEST[state])
    with opened(origin=meddler.origin, size=size, scheme=scheme) as visit:
        state(visit)
        visit.page.wait_for_timeout(150)
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        shot = ARTEFACTS / f"{state.__name__}-{size}-{scheme}.png"
        visit.page.screenshot(path=shot)
        print(f"screenshot: {shot}")
        assert overflowing(visit) == []
        assert serious(visit, axe) == []


def overflowing(visit: Visit) -> list[str]:
    """What sticks out of the window to the side."""
    return list(
        visit.page.evaluate(
            """() => [...document.querySelectorAll("body *")]
              .filter((one) => one.checkVisibility() && !one.closest("pre, .scroll, .unseen, .skip, .log"))
              .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
              .map((one) => one.outerHTML.slice(0, 120))"""
        )
    )


def serious(visit: Visit, axe: str) -> list[str]:
    """What axe calls a serious or critical issue."""
    visit.page.evaluate(axe)
    found: list[dict[str, Any]] = visit.page.evaluate("axe.run().then((results) => results.violations)")
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


# How it moves, and what is said --------------------------------------------------------------------------------------


def test_everything_can_be_reached_by_keyboard(opened: Open) -> None:
    with opened() as visit:
        visit.settled()
        visit.answered("hello")
        visit.page.locator("body").press("Tab")
        reached = set()
        for _ in range(60):
            visit.page.keyboard.press("Tab")
            reached.add(visit.page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert {"prompt", "model", "lock", "options", "chip", "clear", "theme", "badge"} <= reached


def test_the_panel_opens_and_closes_on_a_phone(opened: Open) -> None:
    with opened(size="phone") as visit:
        visit.settled()
        panel = visit.page.locator("#proof")
        expect(panel).to_be_hidden()
        expect(visit.page.locator("#chip")).to_have_attribute("aria-expanded", "false")
        visit.page.click("#chip")
        expect(panel).to_be_visible()
        expect(panel).to_be_focused()
        expect(visit.page.locator("#chip")).to_have_attribute("aria-expanded", "true")
        visit.page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        expect(visit.page.locator("#chip")).to_be_focused()


def test_looking_again_leaves_the_panel_as_it_was(opened: Open) -> None:
    """What was opened stays open, and the focus stays, when the server is checked again or an answer comes."""
    with opened() as visit:
        visit.settled()
        group = visit.page.locator("#proof details.steps").first
        group.locator("summary").click()
        again = visit.page.get_by_role("button", name="Check again")
        again.click()
        visit.page.wait_for_timeout(100)
        visit.settled("development")
        expect(group).to_have_attribute("open", "")
        expect(again).to_be_focused()
        visit.answered("hello")
        expect(group).to_have_attribute("open", "")
        expect(visit.page.locator("#proof .chain li").last).to_contain_text("1 answer checked")


def test_what_happens_is_said(opened: Open) -> None:
    with opened() as visit:
        visit.settled()
        answer = visit.say("hello")
        visit.badge(answer)
        expect(visit.page.locator("#said")).to_contain_text("Receipt matches, development root")
        expect(visit.page.locator("#said")).to_have_attribute("aria-live", "polite")
        expect(visit.page.get_by_role("log", name="Conversation")).to_contain_text("hello")


def test_nothing_moves_where_that_is_not_wanted(opened: Open) -> None:
    with opened(reduced_motion="reduce") as visit:
        visit.settled()
        visit.answered("hello")
        running = visit.page.evaluate("document.getAnimations().filter((one) => one.playState === 'running').length")
        assert running == 0


def test_the_scheme_of_the_system_is_followed(opened: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = set()
    for scheme in ("light", "dark"):
        with opened(scheme=scheme) as visit:
            colours.add(visit.page.evaluate(ground))
    assert len(colours) == 2
