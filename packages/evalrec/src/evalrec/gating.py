"""gate(): may a new system replace an old one? A yes or no for pipelines.

The rule is non-inferiority: the whole paired 95 % interval of NEW - OLD must be above minus the
tolerance. So NEW has to show that it loses no more than allowed. Two other rules are worse with few
users: whether the means differ by more than the tolerance is then decided by luck, and whether NEW
is significantly worse is then never shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalrec.comparison import compare
from evalrec.metrics import is_less_better
from evalrec.report import MODES, Estimate, Report

__all__ = ["Gate", "gate"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A new system compared with the old one, and how much it may lose.

    Attributes:
        metric: Such as "ndcg@10".
        mode: "unfiltered" or "filtered".
        users: The number of users.
        new: The mean of the new system, with its interval.
        old: The mean of the old system, with its interval.
        difference: NEW - OLD, with the paired 95 % bootstrap interval over users.
        allowed: By how much NEW may be worse, in the unit of the metric, 0 or more.
        tolerance: The same as the user stated it, such as "0.5%".
    """

    metric: str
    mode: str
    users: int
    new: Estimate
    old: Estimate
    difference: Estimate
    allowed: float
    tolerance: str

    @property
    def worst(self) -> float:
        """The end of the interval at which NEW is worst, as a gain: below 0 is a loss."""
        return -self.difference.high if is_less_better(self.metric) else self.difference.low

    @property
    def passed(self) -> bool:
        """Whether NEW loses no more than allowed anywhere in the interval."""
        return self.worst >= -self.allowed

    @property
    def undecided(self) -> bool:
        """Whether NEW fails only by the width of the interval: its mean loses no more."""
        gain = -self.difference.mean if is_less_better(self.metric) else self.difference.mean
        return not self.passed and gain >= -self.allowed

    def to_json(self) -> dict[str, Any]:
        """A dict that `json.dumps` takes."""
        return {
            "format": _FORMAT,
            "passed": self.passed,
            "undecided": self.undecided,
            "metric": self.metric,
            "mode": self.mode,
            "users": self.users,
            "new": self.new._asdict(),
            "old": self.old._asdict(),
            "difference": self.difference._asdict(),
            "tolerance": self.tolerance,
            "allowed": self.allowed,
        }


def gate(
    new: Sequence[Report],
    old: Sequence[Report],
    *,
    metric: str = "ndcg@10",
    mode: str = "filtered",
    tolerance: str = "0%",
    num_samples: int = 5000,
    seed: int = 0,
) -> Gate:
    """Whether a new system is no worse than an old one, up to a tolerance, on the same queries.

    Args:
        new: The reports of the new system, one per seed.
        old: The reports of the old system.
        metric: The metric to compare.
        mode: "unfiltered" or "filtered".
        tolerance: By how much NEW may be worse: a share of OLD's mean, as "0.5%", or a number in
            the unit of the metric, as "0.002".
        num_samples: Bootstrap resamples.
        seed: The seed of the bootstrap.

    Returns:
        The comparison; `passed` is the answer.

    Raises:
        ValueError: If the tolerance is not a tolerance, or is all of OLD's mean; if a system has no
            report, the reports have different queries, or they lack the metric or the mode.
    """
    size, is_share = parse_tolerance(tolerance)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    comparison = compare(
        {"OLD": old, "NEW": new}, metrics=[metric], num_samples=num_samples, seed=seed
    )
    by_name = {system.name: system.figures[mode, metric] for system in comparison.systems}
    mean = by_name["OLD"].mean
    if not is_share and 0 < mean <= size:
        raise ValueError(
            f"tolerance must be less than OLD's mean of {mean:.5f}, or anything passes, got "
            f"{tolerance}: a share has the sign %, as {tolerance}%"
        )
    (difference,) = (each for each in comparison.differences if each.mode == mode)
    return Gate(
        metric=metric,
        mode=mode,
        users=comparison.counts["users"],
        new=by_name["NEW"],
        old=by_name["OLD"],
        difference=difference.estimate,
        allowed=size * mean if is_share else size,
        tolerance=tolerance,
    )


def parse_tolerance(text: str) -> tuple[float, bool]:
    """A tolerance, and whether it is a share: "0.5%" is (0.005, True).

    Raises:
        ValueError: If it is not a number from 0 on, or is a share of 100 % or more.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(%?)", text.strip())
    size = float(match[1]) if match else math.inf
    is_share = bool(match and match[2])
    if not math.isfinite(size) or (is_share and size >= 100):
        raise ValueError(
            "tolerance must be a share below 100 % such as 0.5%, or a number from 0 on such as "
            f"0.002, got {text!r}"
        )
    return (size / 100, True) if is_share else (size, False)
