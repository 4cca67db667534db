"""``confide.verified``: nothing is returned, and nothing sent, before the verdict is good; and what ends it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import confide
from confide.client.address import parse_address
from confide.client.errors import KeysetChanged, Lapsed, Misused, NoReport, NotVerified, PinMismatch
from confide.client.trust import Checked
from confide.errors import OperatorError
from confide.identity.custodian import DEFAULT_PERIOD
from confide.tls import ServerTls, server_context
from confide.verify.audit import audit
from confide.verify.bundle import Exchange, parse_bundle
from confide.verify.fetch.base import Refused, Unreachable
from confide.verify.policy import ChannelPolicy, ModelsPolicy, Policy, PolicyError
from confide.verify.verdict import ExitCode
from tests.client.world import MANIFEST, POLICY, Between, Relay, Threaded, World, free_port, hello, world
from tests.simulator.echo_server import MODEL

OTHER = Policy(roots=("intel", "nvidia"), models=ModelsPolicy(manifests=("sha256:" + "00" * 32,)))

# The import ----------------------------------------------------------------------------------------------------------


def loaded(code: str) -> set[str]:
    """The modules of this package, and big ones, that a program has loaded in the end."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing() -> None:
    modules = loaded("import confide")
    assert {name for name in modules if name.startswith("confide")} == {"confide"}
    assert not modules & {"httpx", "msgspec", "cryptography"}


def test_the_client_loads_no_room_of_the_server() -> None:
    modules = loaded("import confide; confide.verified; import confide.client.proxy")
    rooms = {name.split(".")[1] for name in modules if name.startswith("confide.")}
    assert rooms == {"client", "verify", "seal", "wire", "errors"}
    assert not modules & {"starlette", "uvicorn", "coincurve", "openai"}


def test_names_are_where_they_are_said_to_be() -> None:
    for name in confide.__all__:
        assert getattr(confide, name) is not None
    assert set(confide.__all__) <= set(dir(confide))
    with pytest.raises(AttributeError, match="no attribute 'unheard'"):
        _ = confide.unheard  # type: ignore[attr-defined]


# The URL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://api.example", "https://api.example"),
        ("https://API.Example/v1/", "https://api.example"),
        ("https://api.example:8443/v1", "https://api.example:8443"),
        ("https://api.example:443", "https://api.example"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_urls(text: str, origin: str) -> None:
    address = parse_address(text)
    assert (address.origin, address.base_url) == (origin, origin + "/v1")
    assert address.holds(httpx.URL(origin + "/v1/models"))
    assert not address.holds(httpx.URL(origin.replace("://", "://somebody@") + "/v1/models"))
    assert not address.holds(httpx.URL("https://elsewhere.example/v1/models"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "api.example", "ftp://api.example", "https://", "https://api.example/v2", "https://api.example/v1?x=1"),
        *("https://user@api.example", "https://api.example/#x", "https://api.example:port", "https://" + "a" * 3000),
    ],
)
def test_what_is_no_url_of_a_service(text: str) -> None:
    with pytest.raises(Misused):
        parse_address(text)


def test_without_tls_only_here_or_sealed() -> None:
    with pytest.raises(Misused, match="has no TLS"):
        confide.verified("http://api.example", POLICY, seal=None)


# Verifying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [True, None, False])
def test_a_good_service(secure: World, seal: bool | None) -> None:
    service = secure.verified(seal=seal)
    assert service.verdict.exit_code == ExitCode.DEVELOPMENT
    assert service.established.keyset_digest == secure.identity.digest
    assert service.is_sealing is (seal is not False)
    assert service.base_url == secure.url + "/v1"
    assert "consistent, development root" in repr(service)


def test_a_policy_from_a_file(secure: World, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'roots = ["intel", "nvidia"]\nmodels.manifests = ["{MANIFEST.digest()}"]\n')
    assert secure.verified(policy=path).verdict.policy == POLICY.digest()
    assert secure.verified(policy=str(path)).verdict.policy == POLICY.digest()
    with pytest.raises(PolicyError, match="can't be read"):
        secure.verified(policy=tmp_path / "missing.toml")


def test_a_policy_that_accepts_anything_is_none(secure: World) -> None:
    with pytest.raises(PolicyError, match="which workload"):
        secure.verified(policy=Policy(roots=("intel",)))


def test_a_development_root_counts_only_where_it_is_named(secure: World) -> None:
    with pytest.raises(NotVerified) as refused:
        secure.verified(development=())
    assert refused.value.exit_code in (ExitCode.FAILED, ExitCode.NOT_ENOUGH)


def test_another_workload_is_refused_with_every_step(secure: World) -> None:
    with pytest.raises(NotVerified, match=r"report\.8") as refused:
        secure.verified(policy=OTHER)
    assert refused.value.exit_code == ExitCode.FAILED
    assert [finding.step for finding in refused.value.verdict.problems()] == ["report.8"]


def test_a_channel_that_the_policy_does_not_accept(plain: World, secure: World) -> None:
    demanding = Policy(roots=POLICY.roots, models=POLICY.models, channel=ChannelPolicy(require="both"))
    assert secure.verified(policy=demanding).is_sealing
    with pytest.raises(NotVerified, match=r"report\.10"):
        plain.verified(policy=demanding)
    with pytest.raises(NotVerified, match=r"report\.10"):
        secure.verified(policy=demanding, seal=False)
    with pytest.raises(NotVerified, match=r"report\.10"):
        plain.verified(seal=False)


def test_a_report_that_was_made_for_somebody_else(secure: World, inside: Between) -> None:
    """A replayed report has a good signature, and another nonce."""
    old = httpx.get(f"{secure.url}/v1/aci/attestation", params={"nonce": "11" * 32}, verify=False).content

    def replay(passing: Any) -> None:
        if passing.path.startswith("/v1/aci/attestation"):
            passing.body = old

    inside.relay.tamper = replay
    with pytest.raises(NotVerified) as refused:
        secure.verified(inside.url)
    assert {"report.3", "gpu.4"} <= {finding.step for finding in refused.value.verdict.problems()}


def test_a_manifest_that_is_another_one(secure: World, inside: Between) -> None:
    def swap(passing: Any) -> None:
        if passing.path == "/v1/aci/manifest":
            passing.body = passing.body.replace(b'"echo.gguf"', b'"evil.gguf"')

    inside.relay.tamper = swap
    with pytest.raises(NotVerified, match=r"report\.8"):
        secure.verified(inside.url)


def test_no_secret_leaves_before_the_verdict(secure: World, inside: Between) -> None:
    """Not even the API key: a service that is not verified gets questions for its report only."""
    heads: list[str] = []

    def look(passing: Any) -> None:
        heads.append(passing.path)

    inside.relay.tamper = look
    with pytest.raises(NotVerified):
        secure.verified(inside.url, policy=OTHER)
    assert {path.partition("?")[0] for path in heads} == {"/v1/aci/attestation", "/v1/aci/manifest"}
    assert not inside.relay.posts
    assert not inside.relay.keys
    secure.verified(inside.url, key_for_report=True)
    assert inside.relay.keys == {f"Bearer {secure.key}"}


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match="can't be reached") as refused:
        confide.verified(f"http://127.0.0.1:{free_port()}", POLICY)
    assert refused.value.exit_code == ExitCode.UNREACHABLE


def test_a_server_of_another_kind(plain: World, on_wire: Between) -> None:
    def change(passing: Any) -> None:
        passing.status = 404

    on_wire.relay.tamper = change
    with pytest.raises(Refused, match="answered 404 to GET /v1/aci/attestation"):
        plain.verified(on_wire.url)

    def other(passing: Any) -> None:
        passing.status, passing.body = 200, b'{"hello": "world"}'

    on_wire.relay.tamper = other
    with pytest.raises((NoReport, Misused), match=r"report|encryption"):
        plain.verified(on_wire.url)


def test_a_service_that_is_named_is_not_guessed(plain: World) -> None:
    assert plain.verified(service="aci").bundle().service == "aci"
    with pytest.raises(OperatorError, match="no service is called"):
        plain.verified(service="unheard")


def test_a_report_without_end(plain: World, on_wire: Between) -> None:
    def grow(passing: Any) -> None:
        passing.body += b" " * (9 << 20)

    on_wire.relay.tamper = grow
    with pytest.raises(Refused, match="more than"):
        plain.verified(on_wire.url)


# The channel ---------------------------------------------------------------------------------------------------------


def test_a_good_report_over_another_connection(secure: World, tmp_path: Path) -> None:
    """Whoever passes a good report on is not the service: its TLS key is another."""
    other_root = b"\x07\x08" * 16
    with world(tmp_path, tls=True, root=other_root) as other:
        with _relayed(secure, other) as url, pytest.raises(PinMismatch) as refused:
            secure.verified(url)
        assert refused.value.expected == frozenset({secure.identity.keyset.tls_public_keys[0].spki_sha256})  # type: ignore[index]
        with _relayed(secure, other) as url, pytest.raises(NotVerified, match=r"report\.10"):
            secure.verified(url, seal=False)


@contextmanager
def _relayed(target: World, key_of: World) -> Iterator[str]:
    """A relay to one server that ends TLS with the key of another."""
    context = server_context()
    ServerTls(context, key_of.identity.tls)
    with Threaded(Relay(target), tls=context) as served:
        yield f"https://127.0.0.1:{served.port}"


def test_sealing_alone_can_be_the_channel(tmp_path: Path) -> None:
    """TLS ends before the workload: its key isn't attested, so the public rules decide, and all is sealed."""
    with world(tmp_path, tls=True, listed=False) as outside:
        with pytest.raises(Misused, match="webpki=False needs a TLS key"):
            outside.verified()
        ca_file = tmp_path / "server.pem"
        _save_certificate(outside, ca_file)
        service = outside.verified(webpki=True, ca_file=ca_file)
        with service.http_client() as client:
            assert client.post("chat/completions", json=hello()).json()["choices"][0]["message"]["content"]
        with pytest.raises(NotVerified, match=r"report\.10"):
            outside.verified(webpki=True, ca_file=ca_file, seal=False)


def _save_certificate(world: World, path: Path) -> None:
    path.write_text(ssl.get_server_certificate(("127.0.0.1", world.port)))


def test_no_sealing_on_offer(secure: World, inside: Between) -> None:
    def strip(passing: Any) -> None:
        if passing.path.startswith("/v1/aci/attestation"):
            passing.body = passing.body.replace(b'"supported_e2ee_versions":["2"]', b'"supported_e2ee_versions":[]')

    inside.relay.tamper = strip
    with pytest.raises(Misused, match="no end-to-end encryption"):
        secure.verified(inside.url)
    assert not secure.verified(inside.url, seal=None).is_sealing


# Later ---------------------------------------------------------------------------------------------------------------


def test_another_keyset_ends_it_until_it_is_verified_again(own: World) -> None:
    service = own.verified(clock=own.clock)
    with service.http_client() as client:
        assert client.post("chat/completions", json=hello()).status_code == 200
        own.rotate()
        with pytest.raises(KeysetChanged, match="verify it again"):
            client.post("chat/completions", json=hello())
        with pytest.raises(KeysetChanged):
            client.get("models")
        with pytest.raises(KeysetChanged), service.http_client() as other:
            other.get("models")
        service.verify_again()
        assert service.established.keyset_digest == own.identity.digest
        assert client.post("chat/completions", json=hello()).status_code == 200


def test_a_get_notices_it_too(own: World) -> None:
    service = own.verified()
    own.rotate()
    with service.http_client() as client, pytest.raises(KeysetChanged):
        client.get("models")
    with pytest.raises(KeysetChanged):
        service.check()


def test_verifying_again_does_not_lower_the_demands(own: World, monkeypatch: pytest.MonkeyPatch) -> None:
    service = own.verified(clock=own.clock)
    own.rotate()
    with service.http_client() as client:
        with pytest.raises(KeysetChanged):
            client.get("models")
        monkeypatch.setattr(own.custodian, "_terms", own.custodian._terms.__class__(subject="other", tls=True))
        own.rotate()
        with pytest.raises(NotVerified, match=r"report\.8"):
            service.verify_again()
        with pytest.raises(KeysetChanged):
            client.get("models")


def test_it_lapses_with_the_keyset(secure: World) -> None:
    moved = [0.0]

    def clock() -> float:
        return secure.clock() + moved[0]

    service = secure.verified(clock=clock)
    service.check()
    moved[0] = 2 * DEFAULT_PERIOD
    with service.http_client() as client, pytest.raises(Lapsed, match="counted until") as refused:
        client.get("models")
    assert refused.value.not_after == secure.identity.keyset.not_after
    with pytest.raises(
        NotVerified, match=r"report\.5"
    ):  # the clock is the client's, and the service shows no later one
        service.verify_again()


def test_options_that_go_around_it(secure: World) -> None:
    service = secure.verified()
    for option in ("transport", "verify", "proxy", "mounts", "trust_env", "cert"):
        with pytest.raises(Misused, match=option):
            service.http_client(**{option: None})
        with pytest.raises(Misused, match=option):
            service.async_http_client(**{option: None})


def test_clients_take_their_other_options(secure: World) -> None:
    limits = httpx.Limits(max_connections=1)
    with secure.verified().http_client(timeout=7, headers={"X-Own": "1"}, limits=limits) as client:
        assert client.timeout.read == 7
        assert client.headers["x-own"] == "1"
        assert client.headers["authorization"] == f"Bearer {secure.key}"
        assert not client.trust_env
        assert (
            client.post("chat/completions", json=hello()).status_code == 200
        )  # its receipt needs no second connection


def test_the_environment_names_no_proxy(secure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with secure.verified().http_client() as client:
        assert client.get("models").status_code == 200


# What is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [True, False])
def test_a_bundle_is_audited_without_the_service(secure: World, seal: bool) -> None:
    kept: list[Exchange] = []
    told: list[Checked] = []
    service = secure.verified(seal=seal, keep=kept.append)
    service.on_receipt = told.append
    assert service.on_receipt is not None
    with service.http_client() as client:
        client.post("chat/completions", json=hello())
        client.post("chat/completions", json=hello(stream=True))
    bundle = parse_bundle(service.bundle(kept).encode())
    verdict = audit(bundle, POLICY, now=service.verdict.at, development=secure.roots)
    assert [(f.step, f.detail) for f in verdict.problems()] == []
    assert verdict.exit_code == ExitCode.DEVELOPMENT
    assert [exchange.sealed for exchange in kept] == [seal, seal]
    assert [checked.id for checked in told] == [exchange.id for exchange in kept]
    assert {checked.model for checked in told} == {MODEL}
    assert all(checked.receipt is not None and checked.findings for checked in told)


def test_a_folder_gets_one_file_for_each_exchange(secure: World, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "here"
    with secure.verified(keep=folder).http_client() as client:
        client.post("chat/completions", json=hello())
        client.post("chat/completions", json=hello())
    files = sorted(folder.iterdir())
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    for file in files:
        bundle = parse_bundle(file.read_bytes())
        assert [exchange.id for exchange in bundle.exchanges] == [file.stem]
        assert audit(bundle, POLICY, now=bundle.captured_at, development=secure.roots).exit_code == 3


def test_a_folder_that_can_not_be(secure: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="can't be made"):
        secure.verified(keep=tmp_path / "file")


def test_what_can_not_be_kept_is_not_given_on(secure: World, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with secure.verified(keep=folder).http_client() as client:
        folder.rmdir()
        with pytest.raises(OperatorError, match="can't be written"):
            client.post("chat/completions", json=hello())


# Together ------------------------------------------------------------------------------------------------------------


def test_several_threads_share_one_service(secure: World) -> None:
    told: list[Checked] = []
    service = secure.verified()
    service.on_receipt = told.append
    said: dict[int, str | None] = {}

    def talk(number: int) -> None:
        with service.http_client() as client:
            llm = openai.OpenAI(api_key=secure.key, base_url=service.base_url, http_client=client)
            said[number] = llm.chat.completions.create(**hello(f"I am {number}.")).choices[0].message.content

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == {number: f"I am {number}." for number in range(8)}
    assert len({checked.id for checked in told}) == 8


def test_several_event_loops_share_one_service(secure: World) -> None:
    service = secure.verified()

    async def talk() -> list[int]:
        async with service.async_http_client() as client:
            answers = await asyncio.gather(*[client.post("chat/completions", json=hello()) for _ in range(4)])
            return [answer.status_code for answer in answers]

    assert [asyncio.run(talk()) for _ in range(2)] == [[200] * 4] * 2
