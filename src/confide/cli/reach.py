"""What the commands that check a service are told, read from files and ready for use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from confide.cli import files, verdicts
from confide.cli.verdicts import NO_POLICY
from confide.client.address import Address, parse_address
from confide.client.capture import capture
from confide.client.errors import Misused, NotVerified
from confide.client.establish import Options
from confide.client.service import VerifiedService, verified
from confide.verify.audit import check_report
from confide.verify.bundle import Bundle
from confide.verify.context import Context
from confide.verify.fetch.base import Cache, Refused, Unreachable
from confide.verify.firstuse import accepting_anything
from confide.verify.material import Material
from confide.verify.policy import Policy, read_policy
from confide.verify.roots import Root, Roots, read_development
from confide.verify.services import named
from confide.verify.verdict import Verdict

_FLAGS: Final = {"seal=False": "--no-seal", "seal=True": "sealing", "webpki=False": "--self-signed"}


@dataclass(frozen=True, slots=True)
class Reach:
    """One service, what is accepted of it, and how it is asked. ``policy`` is None where the person gave none."""

    address: Address
    policy: Policy | None
    options: Options
    api_key: str | None = None

    @property
    def judged_by(self) -> Policy:
        """The policy, or the one that accepts anything: its verdict is shown and never relied on."""
        return self.policy or accepting_anything()

    def demanded(self) -> Policy:
        """The policy.

        Raises:
            UsageError: none was given, and this command sends prompts.
        """
        if self.policy is None:
            raise files.UsageError(NO_POLICY)
        return self.policy


def reach(
    url: str,
    *,
    policy: Path | None = None,
    dev_root: Path | None = None,
    cache: Path | None = None,
    network: bool = False,
    self_signed: bool = False,
    service: str = "auto",
    model: str | None = None,
    seal: bool | None = None,
    key_file: Path | None = None,
    api_key: str | None = None,
) -> Reach:
    """Read every file that was named, before anything is asked.

    Raises:
        OperatorError: one can't be used, or the URL can't.
    """
    options = Options(
        seal=seal,
        development=read_roots(dev_root),
        webpki=not self_signed,
        network=network,
        cache=None if cache is None else Cache(cache),
        service=None if service == "auto" else service,
        model=model,
    )
    accepted = None if policy is None else read_policy(policy)
    return Reach(parse_address(url), accepted, options, files.api_key(key_file, api_key))


def read_roots(dev_root: Path | None) -> tuple[Root, ...]:
    """The development roots that a person named, if any."""
    return () if dev_root is None else read_development(dev_root)


def now() -> int:
    """Unix time, in seconds."""
    return int(time.time())


@contextmanager
def in_words_of_flags() -> Iterator[None]:
    """Errors that name the library's arguments name the flags instead, and those of the network say what to try."""
    try:
        yield
    except Misused as wrong:
        text = str(wrong)
        for name, flag in _FLAGS.items():
            text = text.replace(name, flag)
        raise files.UsageError(text) from None
    except (Unreachable, Refused) as failed:
        raise type(failed)(f"{failed}. {_what_to_try(str(failed))}") from None


def _what_to_try(text: str) -> str:
    if "certificate verify failed" in text.lower():
        return "With --self-signed the attested key alone decides."
    if " answered 401 " in text or " answered 403 " in text:
        return "Some services want an API key first: --api-key-file FILE --key-for-report."
    return "Look at the URL, and whether the service is up."


def open_service(where: Reach, *, policy: Policy | None = None, **options: Any) -> VerifiedService:
    """A service that proved itself.

    Raises:
        NotVerified: it did not; the verdict is in the exception.
        OperatorError: it can't be asked.
    """
    given = where.options
    with in_words_of_flags():
        return verified(
            where.address.base_url,
            policy or where.demanded(),
            api_key=where.api_key,
            seal=given.seal,
            development=given.development,
            webpki=given.webpki,
            network=given.network,
            cache=given.cache,
            service=given.service,
            model=given.model,
            **options,
        )


@contextmanager
def shown(where: Reach) -> Iterator[None]:
    """A service that did not prove itself is shown with the steps that did not pass, and ends the command."""
    try:
        yield
    except NotVerified as refused:
        verdicts.show_problems(refused.verdict, where.policy)
        raise typer.Exit(refused.exit_code) from None


def look(where: Reach, collateral: Sequence[Path] | None, *, key_for_report: bool, timeout: float) -> Bundle:
    """What the service shows now, with the vendors' material that a person gave.

    Raises:
        OperatorError: it can't be asked, or a file can't be read.
    """
    given = files.material(collateral or ())
    options = replace(where.options, report_key=where.api_key if key_for_report else None)
    with in_words_of_flags():
        bundle = capture(where.address, options, now, timeout)
    return msgspec.structs.replace(bundle, material=Material(bundle.material).plus(given).items)


def judge(where: Reach, bundle: Bundle, policy: Policy) -> Verdict:
    """The verdict over what was just looked at."""
    roots = Roots.of(policy.roots, where.options.development)
    context = Context(policy, roots, bundle.captured_at, Material(bundle.material))
    verdict, _ = check_report(bundle.saved(), named(bundle.service), context)
    return verdict
