"""One server after the other, each with a real engine; skipped unless the engines are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from confide.engine.pull import LocalModel
from tests.engines import environment
from tests.engines.kinds import KINDS
from tests.engines.ledger import FILE, Ledger
from tests.engines.stage import Stage, staged

REASON = "real engines: `make test-engines` installs them (3 GB) and runs this"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them loudly unless ``-m engines`` asks for them."""
    asked = "engines" in config.getoption("-m")
    for item in items:
        if item.path.is_relative_to(environment.HERE):
            item.add_marker("engines")
            if not asked:
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def models(smollm2: LocalModel, model_cache: environment.Path) -> environment.Models:
    """What the engines serve."""
    return environment.models(smollm2, model_cache)


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """The results of this run."""
    return Ledger(FILE)


@pytest.fixture(scope="session", params=KINDS)
def stage(
    request: pytest.FixtureRequest,
    models: environment.Models,
    ledger: Ledger,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """``confide serve`` with an engine that it started. One engine runs at a time."""
    kind = KINDS[request.param]
    with staged(tmp_path_factory.mktemp(kind.name), kind, kind.table(models), ledger) as made:
        engine = made.model.engine
        ledger.open(kind.name, kind.title, kind.version(engine.version), kind.how)
        yield made
