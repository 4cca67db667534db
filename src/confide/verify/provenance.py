"""Where the code is said to come from, and what of that a measurement backs.

Source: Attested Confidential Inference, ``aci/1``, sections 4.1 and 9.1 (check 4): no quote binds the claim itself, so
it counts only where measured evidence corroborates it. Here that is the compose file that dstack measured: it must run
images by digest, and a person must have accepted what it runs. Nothing here rebuilds an image from its source.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

from confide.verify.dstack import DstackFacts
from confide.verify.policy import Policy, ProvenancePolicy
from confide.verify.verdict import CheckFailed, NotChecked
from confide.wire.aci import SourceProvenance

_MOST_IMAGES: Final = 64
_IMAGE: Final = re.compile(r"""(?<![\w.-])image["']?[ \t]*:[ \t]*["']?([^\s"',}#]*)""")
_HIDING: Final = re.compile(
    r"""(?m)^[ \t-]*\?|(?<![\w./-])(?:build|extends|include)(?:["'][ \t]*:|[ \t]*:(?=\s|$))|\\[xuU]"""
)
"""What would let a compose file run something that its ``image`` members don't name."""
_PINNED: Final = re.compile(r"[^\s@]+@(sha256:[0-9a-f]{64})")


def check(said: SourceProvenance, dstack: DstackFacts | None, policy: Policy) -> str:
    """Check the claim where the policy names any provenance.

    What the caller still owes: a compose file says more than which images run (commands, volumes, scripts), which only
    an accepted compose hash or somebody who reads it can judge.

    Raises:
        CheckFailed: it is another than the policy names, or images run that are not accepted.
        NotChecked: the policy names none, or nothing measured backs the claim.
    """
    wanted = policy.provenance
    if wanted == ProvenancePolicy():
        raise NotChecked("the policy demands no provenance", required=False)
    _check_words(said, wanted)
    compose = _measured_compose(dstack)
    running = images(compose)
    unknown = [digest for digest in running if wanted.images and digest not in wanted.images]
    if unknown:
        raise CheckFailed(f"the measured compose file runs {', '.join(unknown)}, which the policy does not accept")
    if said.image_digest is not None and said.image_digest not in running:
        raise CheckFailed(f"image_digest is {said.image_digest}, and the measured compose file runs {_listed(running)}")
    accepted = policy.dstack.compose_hashes
    if not wanted.images and hashlib.sha256(compose.encode()).hexdigest() not in accepted:
        raise NotChecked("no accepted image digest or compose hash stands behind the repository")
    return f"the measured compose file runs {_listed(running)}"


def images(compose: str) -> tuple[str, ...]:
    """The digests of the images that an app-compose document runs, each once.

    Raises:
        CheckFailed: it runs none, too many, or one that is not pinned by its digest.
    """
    text = _compose_file(compose)
    if (hiding := _HIDING.search(text)) is not None:
        raise CheckFailed(f"the measured compose file has {hiding[0].strip()!r}, so that its images can't be told")
    found = [match[1] for match in _IMAGE.finditer(text)]
    if not 1 <= len(found) <= _MOST_IMAGES:
        raise CheckFailed(f"the measured compose file names {len(found)} images; 1 to {_MOST_IMAGES} are read")
    digests = []
    for reference in found:
        pinned = _PINNED.fullmatch(reference)
        if pinned is None:
            raise CheckFailed(f"the measured compose file runs {reference!r}, which is not pinned by a digest")
        digests.append(pinned[1])
    return tuple(dict.fromkeys(digests))


def _check_words(said: SourceProvenance, wanted: ProvenancePolicy) -> None:
    """Every member that the policy names, with all that differ in one text."""
    members = (
        ("repo_url", said.repo_url, wanted.repositories),
        ("repo_commit", said.repo_commit, wanted.commits),
        ("image_digest", said.image_digest, wanted.images),
    )
    wrong = [
        f"found {name} {value!r}, expected {_listed(accepted)}"
        for name, value, accepted in members
        if accepted and value not in accepted
    ]
    if wrong:
        raise CheckFailed("; ".join(wrong))


def _measured_compose(dstack: DstackFacts | None) -> str:
    """The compose document, if its own hash is the measured one."""
    if dstack is None or dstack.app_compose is None or dstack.compose_hash is None:
        raise NotChecked("no measured compose file is at hand to back it")
    if hashlib.sha256(dstack.app_compose.encode()).hexdigest() != dstack.compose_hash:
        raise CheckFailed("the compose file at hand is not the measured one")
    return str(dstack.app_compose)


def _compose_file(compose: str) -> str:
    """The text for Docker inside the document, or the document where it has none."""
    try:
        value = json.loads(compose)
    except (ValueError, RecursionError):
        return compose
    text = value.get("docker_compose_file") if isinstance(value, dict) else None
    return text if isinstance(text, str) else compose


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(values[:8])
