"""A quantizer of several views: each view's part of the vector has its own codes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.parts import floats, read_part, refusing, whole, write_tensors, writing_part
from semtok.plugin_parts import save_part
from semtok.progress import Progress
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.fitted import FittedQuantizer, quantizer_repr
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.quantizers.kinds import load_quantizer
from semtok.vectors import LARGE_CHUNK, check_shape


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ViewQuantizer(FittedQuantizer):
    """Quantizes each view's part of a vector separately, and concatenates the codes.

    With product quantizers of k codes per view, these are CoCoRec's codes (section 4.1); with
    residual quantizers, its RQ variant.

    Attributes:
        parts: One quantizer per view.
        means: The mean of the fitted vectors: decodes a view as long as none of its codes is
            known.
    """

    kind: ClassVar[str] = "views"

    parts: tuple[Quantizer, ...]
    means: Float32[np.ndarray, " dim"]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must hold at least one quantizer, got none")
        if sum(self.dims) != len(self.means):
            raise ValueError(
                f"means must be as long as the parts' dims ({sum(self.dims)}), "
                f"got {len(self.means)}"
            )

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        dims: Sequence[int] = (),
        quantizer: Callable[..., Quantizer] = HierarchicalKMeans.fit,
        progress: Progress | None = None,
        **options: Any,
    ) -> ViewQuantizer:
        """Fits one quantizer per view.

        Args:
            x: The vectors of the views, concatenated.
            dims: How many columns each view has; by default all columns are one view.
            quantizer: Called with the columns of each view and `progress`; hierarchical k-means
                by default.
            progress: Called with the work done and the total work over all views.
            options: Passed on to `quantizer`.

        Raises:
            ValueError: If `dims` do not add up to the columns, or a quantizer refuses its view.
        """
        dims = tuple(dims) or (x.shape[1],)
        if sum(dims) != x.shape[1] or min(dims) < 1:
            raise ValueError(f"dims must add up to {x.shape[1]}, the columns of x, got {dims}")
        parts = []
        for number, (start, stop) in enumerate(pairwise(_borders(dims))):

            def share(done: int, of: int, number: int = number) -> None:
                if progress is not None:
                    progress(number * of + done, len(dims) * of)

            parts.append(quantizer(x[:, start:stop], progress=share, **options))
        means = np.zeros(x.shape[1])
        for first in range(0, len(x), LARGE_CHUNK):
            means += np.asarray(x[first : first + LARGE_CHUNK]).sum(axis=0, dtype=np.float64)
        means = (means / len(x)).astype(np.float32)
        return cls(parts=tuple(parts), means=means, fitted_vectors=x)

    @property
    def dims(self) -> tuple[int, ...]:
        """How many columns each view has."""
        return tuple(part.dim for part in self.parts)

    @property
    def dim(self) -> int:
        """The length of the vectors, over all views."""
        return sum(self.dims)

    @property
    def num_levels(self) -> int:
        """Codes per item, over all views."""
        return sum(part.num_levels for part in self.parts)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The number of codes at each level, view after view."""
        return tuple(size for part in self.parts for size in part.codebook_sizes)

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The codes of each view, view after view.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        check_shape(x, self.dim)
        encoded = [part.encode(columns) for part, columns in self._split(x)]
        codes: Int64[np.ndarray, "items levels"] = np.concatenate(encoded, axis=1)
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes, or their first few levels, decode to.

        Raises:
            ValueError: If the codes are not codes of this quantizer.
        """
        if not 1 <= codes.shape[1] <= self.num_levels:
            raise ValueError(f"codes must have 1 to {self.num_levels} levels, got {codes.shape[1]}")
        x = np.tile(self.means, (len(codes), 1))
        level, column = 0, 0
        for part in self.parts:
            part_codes = codes[:, level : level + part.num_levels]
            if part_codes.shape[1]:
                x[:, column : column + part.dim] = part.decode(part_codes)
            level, column = level + part.num_levels, column + part.dim
        return x

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance to the vectors that the first 1, 2, ... levels decode to."""
        # View by view: while the codes of one view are added, the error of the others is constant.
        known = [part.distortion(columns) for part, columns in self._split(x)]
        unknown = []  # for each view, its distortion while none of its codes is known
        for (_, columns), mean in zip(self._split(x), self._split_means, strict=True):
            total = 0.0
            for first in range(0, len(x), LARGE_CHUNK):
                gaps = columns[first : first + LARGE_CHUNK] - mean
                total += float(np.einsum("nd,nd->", gaps, gaps, dtype=np.float64))
            unknown.append(total / len(x))
        totals, before = [], 0.0
        for view, levels in enumerate(known):
            totals += [before + level + sum(unknown[view + 1 :]) for level in levels]
            before += levels[-1]
        return tuple(totals)

    def save(self, folder: str | Path) -> None:
        """Writes config.json, tensors.safetensors and a folder for each view's quantizer.

        Raises:
            FileExistsError: If the folder exists already.
        """
        with writing_part(folder, {"kind": self.kind, "parts": len(self.parts)}) as beside:
            write_tensors(beside / "tensors.safetensors", {"means": self.means})
            for number, part in enumerate(self.parts):
                save_part(beside / str(number), part)

    @classmethod
    def load(cls, folder: str | Path, *, trust: Collection[str] = ()) -> ViewQuantizer:
        """Reads what `save` wrote.

        Args:
            folder: The folder.
            trust: The packages whose code may run, if a view's quantizer is from one.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format, or holds the
                quantizer of a package that is not trusted.
        """
        folder = Path(folder)
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            numbers = range(whole(config, "parts", 1, 2**31))
            return cls(
                parts=tuple(
                    load_quantizer(folder / str(number), trust=trust) for number in numbers
                ),
                means=floats(tensors, "means", 1),
            )

    def _split(
        self, x: Float[np.ndarray, "items dim"]
    ) -> Iterator[tuple[Quantizer, Float[np.ndarray, "items _"]]]:
        for part, (start, stop) in zip(self.parts, pairwise(_borders(self.dims)), strict=True):
            yield part, x[:, start:stop]

    def __repr__(self) -> str:
        kinds = " + ".join(type(part).__name__ for part in self.parts)
        return quantizer_repr(self, f"views {kinds}")

    @property
    def _split_means(self) -> list[Float32[np.ndarray, " _"]]:
        return np.split(self.means, _borders(self.dims)[1:-1])


def _borders(dims: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(dims).tolist()]
