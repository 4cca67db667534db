"""``confide probe cache-isolation`` against engines that really reuse prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.engines.ledger import NotOffered, capability
from tests.engines.stage import Stage

pytestmark = pytest.mark.timeout(1200)


@capability("prompt caches of tenants kept apart, as `confide probe cache-isolation` measures")
def test_isolation(stage: Stage) -> None:
    folder = stage.server.log.parent
    env = os.environ | {"CONFIDE_DATA_DIR": str(folder / "data")}
    made = subprocess.run(
        [sys.executable, "-m", "confide", "keys", "create", "another"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert stage.server.key is not None
    keys = {"a": stage.server.key, "b": next(word for word in made.stdout.split() if word.startswith("sk-"))}
    options = []
    for name, key in keys.items():
        (folder / name).write_text(key)
        options += [f"--key-{name}-file", str(folder / name)]
    probe = [sys.executable, "-m", "confide", "probe", "cache-isolation", stage.server.url.removesuffix("/v1")]
    done = subprocess.run(
        [*probe, *options, "--rounds", "4", "--words", "100", "--json", "--timeout", "300"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    found = json.loads(done.stdout)
    cached = {kind: [one["cached"] for one in samples] for kind, samples in found["requests"].items()}
    assert found["outcome"] != "not isolated", found
    if found["outcome"] == "inconclusive":
        assert not any(any(counts) for counts in cached.values()), found
        raise NotOffered("nothing is reused, not even for the same tenant")
    assert (found["outcome"], found["by"], done.returncode) == ("isolated", "counts", 0)
    assert min(cached["same"]) > 0
    assert max(cached["other"]) <= max(cached["new"])
