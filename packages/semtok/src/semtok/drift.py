"""Drift: how far new items are from those that a tokenizer was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

REFIT_ABOVE = 1.5
"""The drift above which refitting is advised unless another threshold is set.

Example: 256 codes per level, fitted on 90% of 12,101 beauty products (LSA). The other 10% had a
drift of 1.08 with hierarchical k-means, 1.10 with PQ (4 levels) and 1.29 with RQ (3 levels); with
half of them replaced by video games, 3.1 to 7.4. With fewer items per code, the drift of items of
the same kind is higher.
"""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """New items compared with the fitted ones.

    Attributes:
        num_new: Items that had no semantic ID yet.
        num_moved: How many of them got another code than the quantizer chose because that code was
            taken. Under `suffix`: how many got another last code than 0.
        ratio: The distortion of new items divided by that of fitted items. 1 means that new items
            are as near to what their codes decode to. None where the distortion of fitted items
            is 0 or not known.
        level: The level, counted from 1, after which both distortions were measured: the last; for
            hierarchical k-means the first, as the last distortion of its fitted items is 0.
        threshold: The ratio above which refitting is advised.
        in_tree: Whether the codes are paths in a tree whose leaves are the fitted items. A new
            item then always arrives at a fitted one, so all new items are moved, as intended.
    """

    num_new: int
    num_moved: int
    ratio: float | None
    level: int
    threshold: float = REFIT_ABOVE
    in_tree: bool = False

    @property
    def refit(self) -> bool:
        """Whether new items are so different that the tokenizer should be fitted again."""
        return self.ratio is not None and self.ratio > self.threshold

    @property
    def placement(self) -> str:
        """Which codes the new items got, in words; "" where they got those of the quantizer."""
        if self.in_tree:
            return "each beside its nearest fitted item, if there is room"
        if not self.num_moved:
            return ""
        return f"{self.num_moved:,} of which got another code, as theirs was taken"

    def __str__(self) -> str:
        if self.ratio is None:
            return "drift: not measured, as fitted items had no distortion"
        advice = "fit again" if self.refit else f"no need to refit up to {self.threshold:g}"
        if self.refit:
            advice += f", as it is above {self.threshold:g}"
        return (
            f"drift: {self.ratio:.2f} times the distortion of fitted items at level {self.level}: "
            f"{advice}"
        )
