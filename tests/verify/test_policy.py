"""Policies: one that says nothing is an error, a member that is not known is one, and the digest says which it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from confide.errors import OperatorError
from confide.verify.policy import (
    MOST_BYTES,
    GpuPolicy,
    Policy,
    PolicyError,
    TdMeasurement,
    TdxPolicy,
    check,
    parse_policy,
    read_policy,
)

GOOD = """
roots = ["intel", "nvidia"]

[tdx]
statuses = ["UpToDate", "SWHardeningNeeded"]
advisories = ["INTEL-SA-00837"]
grace_days = 30

[[tdx.measurements]]
mr_td = "%s"
note = "release 1"

[gpu]
required = true
count = 8
""" % ("ab" * 48)
ANY = 'roots = ["intel"]\nunsafe_any_workload = true\n'


def test_a_policy_is_a_file_or_an_object() -> None:
    assert parse_policy(GOOD) == check(
        Policy(
            roots=("intel", "nvidia"),
            tdx=TdxPolicy(
                statuses=("UpToDate", "SWHardeningNeeded"),
                advisories=("INTEL-SA-00837",),
                grace_days=30,
                measurements=(TdMeasurement(mr_td="ab" * 48, note="release 1"),),
            ),
            gpu=GpuPolicy(required=True, count=8),
        )
    )
    assert parse_policy(GOOD.encode()) == parse_policy(GOOD)


def test_defaults_are_strict() -> None:
    policy = parse_policy(ANY)
    assert policy.tdx.statuses == ("UpToDate",)
    assert (policy.tdx.advisories, policy.tdx.grace_days, policy.tdx.perfmon) == ((), 0, False)
    assert not policy.snp.vlek
    assert policy.channel.require == "either"
    assert policy.sessions.required
    assert policy.trust == "reviewed"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "accepts no root"),
        ("unsafe_any_workload = true", "accepts no root"),
        ("roots = []\nunsafe_any_workload = true", "accepts no root"),
        ('roots = ["intel"]', "which workload it accepts"),
        ('roots = ["intel"]\n[gpu]\ndrivers = ["580"]', "which workload it accepts"),
        ('roots = ["intel"]\n[provenance]\nrepositories = ["https://git.example"]', "which workload it accepts"),
        ('roots = ["intel"]\n[[tdx.measurements]]\nnote = "any"', "names no register"),
        ('roots = ["intel"]\n[[tdx.measurements]]', "names no register"),
        (ANY + "[gpu]\nrequired = true", 'needs "nvidia"'),
        ('roots = ["nvidia"]\nunsafe_any_workload = true\n[gpu]\nrequired = true\ncount = 0', "contradict"),
        (ANY + "[claims]\ntee_attested = []", "accepts no source"),
        (ANY + "[sessions.claims]\ntee_attested = []", "accepts no source"),
    ],
)
def test_one_that_says_too_little_is_an_error(text: str, part: str) -> None:
    with pytest.raises(PolicyError, match=part):
        parse_policy(text)


@pytest.mark.parametrize(
    "text",
    [
        "roots = [",
        "\udcff",
        b"\xff",
        ANY + "unknown = 1",
        ANY + "[unknown]",
        ANY + "[tdx]\ndebug = true",
        ANY + "[tdx]\nstatuses = ['Revoked']",
        ANY + "[tdx]\nstatuses = 'UpToDate'",
        ANY + "[tdx]\ngrace_days = -1",
        ANY + "[tdx]\ngrace_days = 1.5",
        ANY + "[tdx]\nperfmon = 'yes'",
        ANY + "[tdx]\nminimum_evaluation_number = -1",
        ANY + "[[tdx.measurements]]\nmr_td = 'AB'",
        ANY + "[[tdx.measurements]]\nrtmr4 = '" + "00" * 48 + "'",
        ANY + "[[tdx.measurements]]\nmr_td = '" + "AB" * 48 + "'",
        ANY + "[[snp.measurements]]\nnote = 'none'",
        ANY + "[snp]\nfamily = 1",
        ANY + "[snp.minimum_tcb]\nsnp = 256",
        ANY + "[dstack]\ncompose_hashes = ['x']",
        ANY + "[dstack]\napp_ids = ['" + "00" * 32 + "']",
        ANY + "[dstack]\nkey_providers = ['0']",
        ANY + "[gpu]\ncount = 5000",
        ANY + "[models]\nmanifests = ['" + "00" * 32 + "']",
        ANY + "[channel]\nrequire = 'none'",
        ANY + "[claims]\nunknown = ['hardware_proven']",
        ANY + "[claims]\ntee_attested = ['itself']",
        ANY + "[keys]\nlongest_days = 40000",
        ANY + "[age]\nreport_days = -1",
        ANY.replace('"intel"', '"acme"'),
        ANY + "version = 2",
        ANY + "trust = 'blind'",
        ANY + "a." * 5000 + "b = 1",
        "a = " + "[" * 100_000,
    ],
)
def test_what_is_not_known_is_an_error_that_names_the_place(text: str | bytes) -> None:
    with pytest.raises(PolicyError, match=r"^here: ."):
        parse_policy(text, "here")


@pytest.mark.parametrize(
    "member",
    [
        'tdx.measurements = [{ mr_td = "%s" }]' % ("00" * 48),
        'snp.measurements = [{ measurement = "%s" }]' % ("00" * 48),
        'dstack.compose_hashes = ["%s"]' % ("00" * 32),
        'dstack.os_images = ["%s"]' % ("00" * 32),
        'models.manifests = ["sha256:%s"]' % ("00" * 32),
        'provenance.images = ["sha256:%s"]' % ("00" * 32),
    ],
)
def test_each_of_these_names_a_workload(member: str) -> None:
    policy = parse_policy(f'roots = ["intel"]\n{member}')
    assert policy.names_workload
    assert not policy.unsafe_any_workload


def test_the_error_is_one_of_the_operator_with_the_code_of_usage() -> None:
    assert issubclass(PolicyError, OperatorError)
    assert PolicyError.exit_code == 2


SPELLED_OUT = ANY + '[tdx]\nstatuses = ["UpToDate"]\nperfmon = false\n[gpu]\nrequired = false\n'


def test_the_digest_is_of_what_it_means() -> None:
    policy = parse_policy(ANY)
    assert len(policy.digest()) == 71
    assert policy.digest() == check(Policy(roots=("intel",), unsafe_any_workload=True)).digest()
    assert parse_policy('# a comment\nunsafe_any_workload = true\nroots = [ "intel" ]').digest() == policy.digest()
    for more in ("[tdx]\nperfmon = true", "[tdx]\nstatuses = []", "[age]\nreport_days = 1", "name = 'another'"):
        assert parse_policy(_with(more)).digest() != policy.digest()


def _with(more: str) -> str:
    """A table goes behind the members of the top, another member before them."""
    return f"{ANY}{more}" if more.startswith("[") else f"{more}\n{ANY}"


def test_the_digest_leaves_out_defaults_that_are_spelled_out() -> None:
    assert parse_policy(SPELLED_OUT) == parse_policy(ANY)
    assert parse_policy(SPELLED_OUT).digest() == parse_policy(ANY).digest()


def test_the_digest_is_stable() -> None:
    """A verdict that names a policy is read years later: if this fails, the digest of every policy has changed."""
    any_workload = "f01c92f27088297a462ff8529f68dcf8e067bedb2a6026b6dd7f985d411c1ef0"
    good = "be0a5ebf8e99e80400842f3edd4ec9aee43ec6b4859d859f65adbcc91b6c21ad"
    assert parse_policy(ANY).digest() == f"sha256:{any_workload}"
    assert parse_policy(GOOD).digest() == f"sha256:{good}"


def test_a_policy_can_be_written_and_read_again() -> None:
    policy = parse_policy(GOOD)
    assert msgspec.convert(msgspec.to_builtins(policy), Policy) == policy


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    assert read_policy(path) == parse_policy(GOOD)
    path.write_text("roots = 1")
    with pytest.raises(PolicyError, match=r"policy\.toml: "):
        read_policy(path)
    with pytest.raises(PolicyError, match="can't be read"):
        read_policy(tmp_path / "missing.toml")
    with pytest.raises(PolicyError, match="can't be read"):
        read_policy(tmp_path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(PolicyError, match="longer than"):
        read_policy(path)


def test_a_policy_does_not_change() -> None:
    with pytest.raises(AttributeError):
        parse_policy(ANY).roots = ()  # type: ignore[misc]
