"""The commands of docs/verify.md, as a person would paste them, against a server that runs."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.proof.talking import EchoServer, echoing

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "verify.md").read_text().partition("## By hand")[2], re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    """A development server."""
    with echoing(tmp_path_factory.mktemp("by-hand")) as running:
        yield running


def _paste(server: EchoServer, folder: Path, blocks: list[str]) -> subprocess.CompletedProcess[str]:
    pem = (server.data / "dev-pki" / "development-roots.pem").read_text()
    root = folder / "root.pem"
    root.write_text(pem[: pem.index("-----END CERTIFICATE-----") + 26])
    env = {"URL": f"http://127.0.0.1:{server.port}", "KEY": server.keys[0], "ROOT": str(root)}
    script = "set -euo pipefail\n" + "\n".join(blocks)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_every_block_works(server: EchoServer, tmp_path: Path) -> None:
    assert len(BLOCKS) == 5
    done = _paste(server, tmp_path, BLOCKS)
    assert done.returncode == 0, done.stderr
    assert "The quote holds the keyset and the nonce." in done.stdout
    assert done.stdout.count("Verified OK") == 2
    assert "chain.pem: OK" in done.stdout
    assert "Signature Verified Successfully" in done.stdout
    for name in ("request.json", "response.json"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert f"sha256:{digest}  " in done.stdout
        assert f"{digest}  {name}" in done.stdout


def test_a_changed_quote_is_noticed(server: EchoServer, tmp_path: Path) -> None:
    fetch, look, *_ = BLOCKS
    sign = BLOCKS[2]
    flip = "printf '\\001' | dd of=quote.bin bs=1 seek=100 conv=notrunc status=none\n"
    done = _paste(server, tmp_path, [fetch, look, flip, sign])
    assert done.returncode != 0
    assert "Verified OK" not in done.stdout
