"""Drift: how far new items are from those that a tokenizer was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

REFIT_ABOVE = 1.5
"""The drift above which refitting is advised unless another threshold is given.

With 256 codes a level on nine in ten of 12,101 beauty products (LSA), the tenth held out came to
1.08 by hierarchical k-means, 1.10 by PQ (4 levels) and 1.29 by RQ (3 levels); with half of them
replaced by video games, to 3.1 to 7.4. The fewer items a code has, the higher the first figure.
"""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """New items beside the fitted ones.

    Attributes:
        num_new: Items that had no semantic ID yet.
        num_moved: How many of them got another code than the quantizer gave, or under `suffix`
            another last one than 0, as theirs was taken.
        ratio: Their distortion over that of the fitted items; None where the fitted one is 0 or
            not known. 1 says that they are no farther from what their codes stand for.
        level: The level, from 1, after which both were measured: the last; with hierarchical
            k-means, where every fitted item ends at itself, the first.
        threshold: The ratio above which refitting is advised.
        in_tree: Whether the codes are those of a tree whose leaves are the fitted items: there a
            new item always arrives at one, so that all are moved, as they should.
    """

    num_new: int
    num_moved: int
    ratio: float | None
    level: int
    threshold: float = REFIT_ABOVE
    in_tree: bool = False

    @property
    def refit(self) -> bool:
        """Whether new items are so far out that the tokenizer should be fitted anew."""
        return self.ratio is not None and self.ratio > self.threshold

    @property
    def placement(self) -> str:
        """What codes the new items got, in words; "" where they got those of the quantizer."""
        if self.in_tree:
            return "each beside the fitted item that is nearest to it, as far as there is room"
        if not self.num_moved:
            return ""
        return f"{self.num_moved:,} of which found their code taken and got another"

    def __str__(self) -> str:
        if self.ratio is None:
            return "drift: not measured, as fitted items had no distortion"
        advice = "fit anew" if self.refit else f"no need to refit up to {self.threshold:g}"
        if self.refit:
            advice += f", as it is above {self.threshold:g}"
        return (
            f"drift: {self.ratio:.2f} times the distortion of fitted items at level {self.level}: "
            f"{advice}"
        )
