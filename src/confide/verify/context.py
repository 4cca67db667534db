"""What every check may use: the policy, the roots, the time, and what is at hand. No check reads anything else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from confide.verify.material import Material
from confide.verify.policy import Policy
from confide.verify.roots import Roots


@dataclass(frozen=True, slots=True)
class Context:
    """``now`` is in Unix seconds; dates in certificates and collateral are compared with it."""

    policy: Policy
    roots: Roots
    now: int
    material: Material = field(default_factory=Material)

    @property
    def time(self) -> datetime:
        """``now`` as certificates know it."""
        return datetime.fromtimestamp(self.now, UTC)

    def with_material(self, material: Material) -> Context:
        """The same with other material."""
        return replace(self, material=material)
