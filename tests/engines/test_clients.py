"""The scripts of real clients, written for the embedded engine, unchanged against every engine."""

from __future__ import annotations

import pytest

from tests.clients.environments import node_environment, python_environment
from tests.clients.test_clients import SCRIPTS
from tests.engines.ledger import CAPABILITIES
from tests.engines.stage import Stage

SECONDS = 1500

pytestmark = pytest.mark.timeout(SECONDS + 300)
ROWS = {script: f"client script `{script}`" for _, script in SCRIPTS}
CAPABILITIES.extend(ROWS.values())


@pytest.mark.parametrize(("environment", "script"), SCRIPTS, ids=list(ROWS))
def test_scenarios(stage: Stage, environment: str, script: str) -> None:
    """All pass, but for those that ask for what the engine can't do: refused by name, or known to lack it."""
    made = node_environment() if environment == "node" else python_environment(environment)

    def check() -> str | None:
        done = made.scenarios(script, stage.server, timeout=SECONDS)
        failed = {name: error for name, error in done.items() if error is not None}
        why = {name: stage.kind.why(name, error) for name, error in failed.items()}
        notes = {name: why[name] or error.strip().splitlines()[-1] for name, error in failed.items()}
        stage.ledger.note(stage.kind.name, ROWS[script], notes)
        surprises = {name: error for name, error in failed.items() if why[name] is None}
        told = f"{len(surprises)} of {len(done)} scenarios: {', '.join(surprises)}"
        assert not surprises, "\n".join([told, *surprises.values()])
        refused = sum(why[name] in stage.kind.refusals.values() for name in failed)
        others = "the rest" if refused == len(failed) else str(refused)
        lacking = "" if refused == len(failed) else f", {len(failed) - refused} not offered by the engine"
        passed = f"{len(done) - len(failed)} of {len(done)}"
        return f"{passed}, {others} refused by name{lacking}" if failed else f"yes, all {len(done)}"

    stage.ledger.judge(stage.kind.name, ROWS[script], {}, check, any_cell=True)
