"""The scripts of real clients, written for the embedded engine, unchanged against every engine."""

from __future__ import annotations

from collections.abc import Mapping

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
    """All pass, but for those that ask for what the engine can't do: these are refused by name."""
    made = node_environment() if environment == "node" else python_environment(environment)

    def check() -> str | None:
        done = made.scenarios(script, stage.server, SECONDS)
        failed = {name: error for name, error in done.items() if error is not None}
        why = {name: _refused(stage.kind.refusals, error) for name, error in failed.items()}
        notes = {name: why[name] or error.strip().splitlines()[-1] for name, error in failed.items()}
        stage.ledger.note(stage.kind.name, ROWS[script], notes)
        surprises = {name: error for name, error in failed.items() if why[name] is None}
        told = f"{len(surprises)} of {len(done)} scenarios: {', '.join(surprises)}"
        assert not surprises, "\n".join([told, *surprises.values()])
        return (
            f"{len(done) - len(failed)} of {len(done)}, the rest refused by name" if failed else f"yes, all {len(done)}"
        )

    stage.ledger.judge(stage.kind.name, ROWS[script], {}, check, any_cell=True)


def _refused(refusals: Mapping[str, str], error: str) -> str | None:
    return next((told for sentence, told in refusals.items() if sentence in error), None)
