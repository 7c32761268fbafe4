"""What quantizers that keep no vectors of their own share: the codes of the fitted ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64

from semtok.phrases import levels_of_codes
from semtok.quantizers.contract import Quantizer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedQuantizer:
    """Remembers which vectors it was fitted on, as long as it is in memory.

    Attributes:
        fitted_vectors: The very array that was fitted, not a copy, so it must not be changed
            afterwards; None in a quantizer that was loaded, as a folder does not keep it.
    """

    fitted_vectors: Float[np.ndarray, "items dim"] | None = field(default=None)

    @cached_property
    def codes(self: Quantizer) -> Int64[np.ndarray, "items levels"]:
        """The codes of the fitted vectors, in their order; they are made at first use.

        Raises:
            ValueError: If the quantizer was loaded.
        """
        vectors = getattr(self, "fitted_vectors", None)
        if vectors is None:
            raise ValueError(
                "codes are those of the fitted vectors, which a loaded quantizer does not keep: "
                "call encode with the vectors, or take a tokenizer's semantic_ids"
            )
        return self.encode(vectors)

    def __repr__(self: Quantizer) -> str:
        return quantizer_repr(self)


def quantizer_repr(quantizer: Quantizer, *more: str) -> str:
    """A quantizer in one line: its class, levels, codes and dim."""
    parts = [levels_of_codes(quantizer.codebook_sizes), f"dim {quantizer.dim}", *more]
    return f"{type(quantizer).__name__}({', '.join(parts)})"
