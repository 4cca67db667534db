"""From a URL to a standing: look at the report, judge it, and bind everything that follows to what it attests.

In this order, and nothing of an application is sent before the last step is done:

1. The report for a fresh nonce, the channel that it came over, and what its evidence needs.
2. All checks, and the verdict of the policy.
3. The channel for what follows: pinned, sealed, or both.
"""

from __future__ import annotations

from collections.abc import Callable

from confide.client.address import Address
from confide.client.capture import Options, look
from confide.client.errors import Misused, NotVerified, PinMismatch
from confide.client.trust import Standing
from confide.verify.audit import check_report
from confide.verify.context import Context
from confide.verify.policy import Policy
from confide.verify.roots import Roots
from confide.verify.verdict import ExitCode

__all__ = ["Options", "establish"]


def establish(address: Address, policy: Policy, options: Options, clock: Callable[[], float]) -> Standing:
    """Verify a service.

    Raises:
        Unreachable, Refused, NoReport, Misused: see :func:`confide.client.capture.look`.
        NotVerified: the verdict is not good.
        PinMismatch: it is good, and the connection ended somewhere else.
        Misused: nothing would bind what follows to what was verified.
    """
    seen = look(address, options)  # 1
    context = Context(policy, Roots.of(policy.roots, options.development), int(clock()), seen.material)
    verdict, established = check_report(seen.saved, seen.adapter, context)  # 2
    accepted = {ExitCode.VERIFIED, ExitCode.DEVELOPMENT} if options.development else {ExitCode.VERIFIED}
    if verdict.exit_code not in accepted or established is None:
        raise NotVerified(verdict)
    standing = Standing(address, seen.adapter.name, seen.saved, context, verdict, established, seen.seal_key)
    _check_channel(standing, options)  # 3
    return standing


def _check_channel(standing: Standing, options: Options) -> None:
    """Every later byte goes to a key that was attested, or is encrypted to one."""
    expected, address = standing.tls_keys, standing.address
    channel = standing.saved.channel
    found = None if channel is None else channel.tls_spki_sha256
    if expected and found is not None and found not in expected:
        raise PinMismatch(address.host, found, expected)
    if expected and address.is_tls:
        return
    if standing.seal_key is None:
        raise Misused(f"nothing binds {address.origin} to the verified workload: no attested TLS key, and no sealing")
    if address.is_tls and not options.webpki:
        raise Misused("webpki=False needs a TLS key in the attested keyset, and it lists none for this host")
