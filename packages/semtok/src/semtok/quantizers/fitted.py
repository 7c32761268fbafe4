"""The codes of the fitted vectors, for quantizers that do not keep these vectors themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64

from semtok.phrases import levels_of_codes
from semtok.quantizers.contract import Quantizer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedQuantizer:
    """Remembers the vectors it was fitted on, as long as it is in memory.

    Attributes:
        fitted_vectors: The array that was fitted, not a copy, so it must not be changed
            afterwards. None in a loaded quantizer, as it is not saved.
    """

    fitted_vectors: Float[np.ndarray, "items dim"] | None = field(default=None)

    @cached_property
    def codes(self: Quantizer) -> Int64[np.ndarray, "items levels"]:
        """The codes of the fitted vectors, in their order; computed at first use.

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
