"""``confide.verified(url, policy)``: a service that proved itself, and HTTP clients that talk to nobody else."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from confide.client.address import Address, parse_address
from confide.client.errors import Misused
from confide.client.establish import Options, establish
from confide.client.keeping import BundleFolder
from confide.client.pinning import pinned_context, plain_context
from confide.client.transport import AsyncVerifiedTransport, VerifiedTransport
from confide.client.trust import Keep, OnReceipt, Standing, Trust
from confide.verify import policy as policies
from confide.verify.bundle import Bundle, Exchange
from confide.verify.fetch.base import Cache
from confide.verify.policy import Policy
from confide.verify.roots import Root
from confide.verify.saved import Established
from confide.verify.verdict import Verdict

LIMITS: Final = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
TIMEOUT: Final = httpx.Timeout(600.0, connect=15.0)
"""Seconds; a model may think for a while before its first word."""
_OURS: Final = frozenset({"transport", "mounts", "verify", "cert", "proxy", "trust_env", "http1", "http2", "app"})


def verified(
    url: str,
    policy: Policy | Path | str,
    *,
    api_key: str | None = None,
    seal: bool | None = True,
    development: Sequence[Root] = (),
    webpki: bool = True,
    ca_file: Path | None = None,
    network: bool = False,
    cache: Cache | Path | None = None,
    keep: Keep | Path | None = None,
    service: str | None = None,
    model: str | None = None,
    key_for_report: bool = False,
    clock: Callable[[], float] = time.time,
) -> VerifiedService:
    """Verify a service, and return only if it is what the policy accepts.

    Args:
        url: ``https://HOST[:PORT][/v1]``; ``http://`` for this machine, or with ``seal=True``, where prompts and
            answers are encrypted and everything else, the API key included, can be read on the way.
        policy: what is accepted; a :class:`Policy`, or the path of its TOML file.
        api_key: sent with every request that has no ``Authorization`` of its own, and only to the verified service.
        seal: encrypt requests to a key that only the workload has. None does so where the service can.
        development: roots of a development installation. Only with them is such a service accepted.
        webpki: also demand a certificate of a public authority. Without, the attested key alone decides.
        ca_file: a PEM file of authorities to trust in place of the public ones.
        network: whether collateral and reference values may be fetched from Intel, AMD and NVIDIA.
        cache: a folder that keeps them.
        keep: gets every checked exchange, prompts and answers included; a folder gets one bundle file for each.
        service: the kind of service (``aci``, ``vllm-proxy``, ...); found out where it isn't said.
        model: for services whose report depends on the model.
        key_for_report: show ``api_key`` to the service before it is verified; some hand out no report without.
        clock: Unix time.

    Raises:
        NotVerified: the verdict, with every step, is in the exception.
        PolicyError: the policy can't be used.
        Unreachable, Refused, NoReport, PinMismatch, Misused: there is nothing to judge, or no way to go on.
    """
    options = Options(
        seal=seal,
        development=tuple(development),
        webpki=webpki,
        ca_file=ca_file,
        network=network,
        cache=Cache(cache) if isinstance(cache, Path) else cache,
        service=service,
        model=model,
        report_key=api_key if key_for_report else None,
    )
    wanted = policies.check(policy) if isinstance(policy, Policy) else policies.read_policy(Path(policy))
    return VerifiedService(parse_address(url), wanted, options, api_key=api_key, keep=keep, clock=clock)


class VerifiedService:
    """A service that proved itself. Make it with :func:`verified`. One may serve several threads and event loops."""

    def __init__(
        self,
        address: Address,
        policy: Policy,
        options: Options,
        *,
        api_key: str | None,
        keep: Keep | Path | None,
        clock: Callable[[], float],
    ) -> None:
        self._address: Final = address
        self._policy: Final = policy
        self._options: Final = options
        self._api_key: Final = api_key
        self._clock: Final = clock
        self._verifying = threading.Lock()
        keeper = BundleFolder(keep, self.bundle) if isinstance(keep, Path) else keep
        self._trust: Final = Trust(establish(address, policy, options, clock), clock=clock, keep=keeper)

    def __repr__(self) -> str:
        return f"<VerifiedService {self._address.origin}: {self.verdict.verdict}>"

    # What was found --------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """What SDKs take as ``base_url``."""
        return self._address.base_url

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last verification."""
        return self._trust.latest.verdict

    @property
    def established(self) -> Established:
        """Whose signatures count."""
        return self._trust.latest.established

    @property
    def is_sealing(self) -> bool:
        """Whether requests are encrypted to the workload."""
        return self._trust.latest.seal_key is not None

    @property
    def api_key(self) -> str | None:
        """The key that is sent where a request brings none."""
        return self._api_key

    def check(self) -> None:
        """Ask whether requests can be made now.

        Raises:
            MustVerifyAgain: they would be refused.
        """
        self._trust.current()

    def bundle(self, exchanges: Iterable[Exchange] = ()) -> Bundle:
        """Everything that an auditor needs to repeat the verification offline, with these exchanges."""
        return bundle_of(self._trust.latest, tuple(exchanges))

    @property
    def on_receipt(self) -> OnReceipt | None:
        """Called with each answer whose proof was found good, before the answer's end is given on."""
        return self._trust.on_receipt

    @on_receipt.setter
    def on_receipt(self, call: OnReceipt | None) -> None:
        self._trust.on_receipt = call

    def verify_again(self) -> Verdict:
        """Do it all again, with a new nonce. If that fails, everything stays as it was: refused, if it was.

        Raises:
            Everything that :func:`verified` raises.
        """
        with self._verifying:
            self._trust.renew(establish(self._address, self._policy, self._options, self._clock))
            return self.verdict

    # Clients ---------------------------------------------------------------------------------------------------------

    def transport(self, limits: httpx.Limits = LIMITS) -> VerifiedTransport:
        """For an :class:`httpx.Client` of your own."""
        return VerifiedTransport(self._trust, self._context, limits)

    def async_transport(self, limits: httpx.Limits = LIMITS) -> AsyncVerifiedTransport:
        """For an :class:`httpx.AsyncClient` of your own."""
        return AsyncVerifiedTransport(self._trust, self._context, limits)

    def http_client(self, **options: Any) -> httpx.Client:
        """A client for ``openai.OpenAI(http_client=...)``, with :attr:`base_url` and the API key set.

        Raises:
            Misused: an option that would go around the verification.
        """
        return httpx.Client(transport=self.transport(_limits(options)), trust_env=False, **self._defaults(options))

    def async_http_client(self, **options: Any) -> httpx.AsyncClient:
        """The same for ``openai.AsyncOpenAI(http_client=...)``."""
        transport = self.async_transport(_limits(options))
        return httpx.AsyncClient(transport=transport, trust_env=False, **self._defaults(options))

    def _defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        if wrong := sorted(_OURS & options.keys()):
            raise Misused(f"a verified client takes no {', '.join(wrong)}")
        headers = httpx.Headers(options.pop("headers", None))
        if self._api_key is not None:
            headers.setdefault("Authorization", f"Bearer {self._api_key}")
        return (
            {"base_url": self.base_url, "timeout": TIMEOUT, "follow_redirects": False} | options | {"headers": headers}
        )

    def _context(self, standing: Standing) -> ssl.SSLContext:
        webpki, ca_file, keys = self._options.webpki, self._options.ca_file, standing.tls_keys
        if not keys:  # everything is sealed; see establish
            return plain_context(webpki=webpki, ca_file=ca_file)
        return pinned_context(lambda _: keys, webpki=webpki, ca_file=ca_file)


def _limits(options: dict[str, Any]) -> httpx.Limits:
    limits = options.pop("limits", LIMITS)
    assert isinstance(limits, httpx.Limits)
    return limits


def bundle_of(standing: Standing, exchanges: tuple[Exchange, ...]) -> Bundle:
    """A standing as a bundle."""
    saved = standing.saved
    return Bundle(
        captured_at=standing.verdict.at,
        url=standing.address.base_url,
        service=standing.service,
        report=saved.document,
        nonce=saved.nonce,
        channel=saved.channel,
        manifest=saved.manifest,
        material=standing.context.material.items,
        exchanges=exchanges,
    )
