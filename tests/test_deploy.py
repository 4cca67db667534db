"""The configurations in ``deploy/``: they parse, they keep what the documents promise of them, and they are current.

No container engine is needed, and none runs: what was tried beyond this stands in ``docs/how-to/scale.md``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from confide import config
from confide.verify import provenance

DEPLOY = Path(__file__).parent.parent / "deploy"
SETTINGS = sorted(DEPLOY.rglob("confide.toml"))
COMPOSE = sorted(DEPLOY.rglob("docker-compose.yaml"))
SERVER = "registry.example.com/confide@"


def named(path: Path) -> str:
    """The id of a test."""
    return str(path.parent.relative_to(DEPLOY))


def services(path: Path) -> dict[str, dict[str, Any]]:
    """The services of a compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def test_there_is_something_to_check() -> None:
    assert len(COMPOSE) >= 6
    assert len(SETTINGS) > len(COMPOSE)


def test_the_compose_files_are_current() -> None:
    """Else: ``python deploy/dstack/write.py``."""
    done = subprocess.run([sys.executable, DEPLOY / "dstack" / "write.py", "--check"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("path", SETTINGS, ids=named)
def test_settings_are_what_the_server_takes(path: Path) -> None:
    settings = config.load({}, environ={}, config_file=path)
    assert settings.tls, "TLS must end in the server, not before it"
    assert settings.tee != "dev"
    assert settings.auth
    assert settings.models


@pytest.mark.parametrize("path", COMPOSE, ids=named)
def test_the_settings_are_inside_what_is_measured(path: Path) -> None:
    inside = yaml.safe_load(path.read_text())["configs"]["settings"]["content"]
    assert tomllib.loads(inside) == tomllib.loads((path.parent / "confide.toml").read_text())


@pytest.mark.parametrize("path", COMPOSE, ids=named)
def test_only_tls_is_published(path: Path) -> None:
    port = config.load({}, environ={}, config_file=path.parent / "confide.toml").port
    published = [one for service in services(path).values() for one in service.get("ports", ())]
    assert published == [f"{port}:{port}"]


@pytest.mark.parametrize("path", COMPOSE, ids=named)
def test_engines_reach_nobody_and_nobody_reaches_engines(path: Path) -> None:
    for name, service in services(path).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        if service["image"].startswith(SERVER) or name == "fetch":
            continue
        assert service["network_mode"] in ("none", "service:loopback"), name
        assert service["logging"] == {"driver": "none"}, name
        assert not any("dstack.sock" in volume for volume in service["volumes"]), name
        assert service["depends_on"] == {"weights": {"condition": "service_completed_successfully"}}, name


@pytest.mark.parametrize("path", COMPOSE, ids=named)
def test_the_server_is_nobody_on_a_read_only_system(path: Path) -> None:
    server = services(path)["confide"]
    assert server["user"] == "10001:10001"
    assert server["read_only"] is True
    assert "/var/run/dstack.sock:/var/run/dstack.sock" in server["volumes"]


@pytest.mark.parametrize("path", COMPOSE, ids=named)
def test_the_verifier_can_tell_which_images_run(path: Path) -> None:
    """As the demand ``provenance.images`` of a policy reads the file; the digests are placeholders."""
    assert provenance.images(path.read_text()) == ("sha256:" + "0" * 64,)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*Containerfile")), ids=lambda path: path.name)
def test_images_begin_at_a_digest(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}


def test_the_server_is_not_root_in_its_image() -> None:
    text = (DEPLOY / "image" / "Containerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert text.count("--require-hashes") == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_the_unit_is_one(tmp_path: Path) -> None:
    """With its drop-in for the database."""
    unit = tmp_path / "confide.service"
    unit.with_suffix(".service.d").mkdir()
    shutil.copy(DEPLOY / "postgres" / "database.conf", unit.with_suffix(".service.d"))
    unit.write_text(
        (DEPLOY / "systemd" / "confide.service").read_text().replace("/opt/confide/bin/confide", "/bin/true")
    )
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not on this machine")
def test_the_balancer_is_one() -> None:
    command = ["haproxy", "-c", "-f", DEPLOY / "postgres" / "haproxy.cfg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_balancer_reads_nothing() -> None:
    """It passes TCP on: it has no certificate, and adds nothing."""
    text = (DEPLOY / "postgres" / "haproxy.cfg").read_text()
    settings = [line.split("#")[0].split() for line in text.splitlines()]
    assert [words for words in settings if words[:1] == ["mode"]] == [["mode", "tcp"]]
    assert not any("crt" in words or ("option" in words[:1] and "forwardfor" in words) for words in settings)
