"""What a policy says, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from confide.verify.policy import Policy, vars_of

_CHANNELS = {
    "either": "the TLS key is in the attested keyset, or requests are sealed end to end",
    "tls": "the TLS key is in the attested keyset",
    "sealed": "requests are sealed end to end",
    "both": "the TLS key is in the attested keyset, and requests are sealed end to end",
}


def explain(policy: Policy) -> Iterator[tuple[str, str]]:
    """Pairs of a subject and what the policy says about it, in the order of its file."""
    yield "name", f"{policy.name} ({policy.digest()})"
    yield (
        "trust",
        "reviewed by a person, says the file"
        if policy.trust == "reviewed"
        else 'written on first use: look at each value, then write trust = "reviewed"',
    )
    yield "roots", f"hardware of {_listed(policy.roots)}"
    yield "workload", _workload(policy)
    yield from _tdx(policy)
    yield from _snp(policy)
    yield from _dstack(policy)
    yield "GPUs", _gpus(policy)
    yield from _origins(policy)
    yield "keys", _keys(policy)
    yield "channel", _CHANNELS[policy.channel.require]
    rewritten = "may be forwarded with other bytes than received" if policy.receipts.rewritten else "must be unchanged"
    yield "receipts", f"a request {rewritten}"
    yield "upstreams", _sessions(policy)
    if policy.age.report_days is not None:
        yield "age", f"a saved report counts for {policy.age.report_days} days"
    for name, sources in policy.claims.items():
        yield f"claim {name}", f"must be asserted ({' or '.join(sources)})"


def _workload(policy: Policy) -> str:
    if policy.unsafe_any_workload:
        return "ANY workload on genuine hardware is accepted (unsafe_any_workload)"
    counted = {
        "TD measurement": policy.tdx.measurements,
        "SNP measurement": policy.snp.measurements,
        "compose hash": policy.dstack.compose_hashes,
        "OS image": policy.dstack.os_images,
        "manifest": policy.models.manifests,
        "image digest": policy.provenance.images,
    }
    return "must match " + ", and ".join(_one_of(len(given), what) for what, given in counted.items() if given)


def _one_of(count: int, what: str) -> str:
    return f"the {what}" if count == 1 else f"one of {count} {what}s".replace("hashs", "hashes")


def _tdx(policy: Policy) -> Iterator[tuple[str, str]]:
    if "intel" not in policy.roots:
        return
    tdx = policy.tdx
    yield "TDX status", _listed(tdx.statuses) + (f", behind for at most {tdx.grace_days} days" * bool(tdx.grace_days))
    if tdx.advisories:
        yield "TDX advisories", f"tolerated: {_listed(tdx.advisories)}"
    allowed = {
        "dynamic platforms": tdx.dynamic_platform,
        "cached keys": tdx.cached_keys,
        "SMT": tdx.smt,
        "PERFMON": tdx.perfmon,
    }
    yield "TDX platform", _allowed(allowed)
    if tdx.minimum_evaluation_number:
        yield "TDX collateral", f"evaluation data number {tdx.minimum_evaluation_number} or later"
    for one in tdx.measurements:
        yield "TD", _members(one)


def _snp(policy: Policy) -> Iterator[tuple[str, str]]:
    if "amd" not in policy.roots:
        return
    snp = policy.snp
    allowed = {
        "keys of a cloud provider (VLEK)": snp.vlek,
        "SMT": snp.smt,
        "migration agents": snp.migration_agent,
        "less privileged guests (VMPL above 0)": not snp.most_privileged_only,
    }
    yield "SNP platform", _allowed(allowed)
    if least := vars_of(snp.minimum_tcb):
        yield "SNP TCB", "at least " + ", ".join(f"{name} {value}" for name, value in least.items())
    for one in snp.measurements:
        yield "SNP guest", _members(one)


def _dstack(policy: Policy) -> Iterator[tuple[str, str]]:
    named = {
        "compose hash": policy.dstack.compose_hashes,
        "OS image": policy.dstack.os_images,
        "app id": policy.dstack.app_ids,
        "key provider": policy.dstack.key_providers,
    }
    for what, values in named.items():
        for value in values:
            yield what, value


def _gpus(policy: Policy) -> str:
    gpu = policy.gpu
    if not gpu.required:
        return "not needed; what is there must be genuine"
    said = ["needed" if gpu.count is None else f"exactly {gpu.count}"]
    if gpu.switches is not None:
        said.append(f"{gpu.switches} switches")
    if gpu.architectures:
        said.append(f"of {_listed(gpu.architectures)}")
    if gpu.drivers:
        said.append(f"driver {_listed(gpu.drivers)}")
    said.append("measurements equal NVIDIA's" if gpu.measurements else "measurements are not compared")
    if gpu.nras:
        said.append("with a token of NVIDIA's service")
    return ", ".join(said)


def _origins(policy: Policy) -> Iterator[tuple[str, str]]:
    named = {
        "manifest": policy.models.manifests,
        "repository": policy.provenance.repositories,
        "commit": policy.provenance.commits,
        "image": policy.provenance.images,
    }
    for what, values in named.items():
        for value in values:
            yield what, value


def _keys(policy: Policy) -> str:
    keys = policy.keys
    said = [f"valid for at most {keys.longest_days} days"]
    if keys.custody:
        said.append("with proof of who released them")
    if keys.subjects:
        said.append(f"subject {_listed(keys.subjects)}")
    return ", ".join(said)


def _sessions(policy: Policy) -> str:
    if not policy.sessions.required:
        return "an answer need not name a verified upstream"
    claims = [f"{name} ({' or '.join(sources)})" for name, sources in policy.sessions.claims.items()]
    return "each answer of an aggregator names a verified upstream" + (f" with {', '.join(claims)}" if claims else "")


def _members(part: msgspec.Struct) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars_of(part).items())


def _allowed(features: dict[str, bool]) -> str:
    may = [name for name, on in features.items() if on]
    may_not = [name for name, on in features.items() if not on]
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in (("allowed", may), ("refused", may_not)) if names)


def _listed(values: Sequence[str]) -> str:
    return " or ".join(values) if values else "none"
