"""Real clients against the running server: what is asserted stands in the scripts, one scenario a test."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Outcomes
from tests.clients.environments import scenario_names

# The first test of each script runs it; the first of each environment waits for its installation, too.
pytestmark = pytest.mark.timeout(1200)

SCRIPTS = [
    ("clients-openai", "openai_sdk.py"),
    ("clients-openai", "langchain_client.py"),
    ("clients-openai", "pydantic_ai_client.py"),
    ("clients-litellm", "litellm_client.py"),
    ("clients-instructor", "instructor_client.py"),
    ("node", "openai_sdk.mjs"),
    ("node", "ai_sdk.mjs"),
]


@pytest.mark.parametrize(
    ("environment", "script", "scenario"),
    [
        pytest.param(environment, script, name, id=f"{script}-{name}")
        for environment, script in SCRIPTS
        for name in scenario_names(script)
    ],
)
def test_client(outcomes: Outcomes, environment: str, script: str, scenario: str) -> None:
    done = outcomes(environment, script)
    assert scenario in done, f"{script} did not report on {scenario}"
    assert done[scenario] is None, done[scenario]


@pytest.mark.parametrize("script", [script for _, script in SCRIPTS])
def test_no_scenario_is_unknown(outcomes: Outcomes, script: str) -> None:
    environment = next(environment for environment, other in SCRIPTS if other == script)
    assert list(outcomes(environment, script)) == scenario_names(script)
