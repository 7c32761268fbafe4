"""The tokenizer: views, a quantizer, a collision policy, and the codes that were given so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from semtok.catalog import Catalog
from semtok.coding import encoded, fitted_codes, stage
from semtok.collisions import Collisions, Policy, resolve_collisions
from semtok.drift import REFIT_ABOVE, Drift
from semtok.embedding.contract import EmbeddingSource
from semtok.progress import StageProgress
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.quantizers.views import ViewQuantizer
from semtok.reduction import Pca
from semtok.semantic_ids import SemanticIds
from semtok.storage import reserve
from semtok.vectors import LARGE_CHUNK
from semtok.views import View

_ONLY = "embedding"  # the name of the view if there is only one


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """The result of `Tokenizer.encode`.

    Attributes:
        semantic_ids: The semantic IDs of all items of the catalogue, in its order.
        collisions: The collisions of the new items with each other. The number of moved items
            also counts those whose codes a known item has. None without new items.
        drift: How far the new items are from the fitted ones. None without new items.
    """

    semantic_ids: SemanticIds
    collisions: Collisions | None = None
    drift: Drift | None = None

    def __repr__(self) -> str:
        new = 0 if self.drift is None else self.drift.num_new
        return f"Encoding({self.semantic_ids!r}, {new:,} of them new)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Turns items into semantic IDs, and remembers the IDs it has given.

    Attributes:
        quantizer: Fitted on the embeddings of all views, reduced and concatenated.
        semantic_ids: The semantic IDs given so far. They never change.
        views: Where the embeddings come from, in the order in which they are concatenated.
        policy: How collisions are resolved; see `semtok.collisions`.
        collisions: The collisions of the fitted items, and how they were resolved.
        distortion: The distortion of the fitted items after each level; None if not measured.
        neighbour_overlap: The overlap of the fitted items at 10 neighbours; None if not measured.
        info: Anything else to keep with the tokenizer, as JSON.
    """

    quantizer: Quantizer
    semantic_ids: SemanticIds
    views: tuple[View, ...] = (View(name=_ONLY),)
    policy: Policy = "reassign"
    collisions: Collisions | None = None
    distortion: tuple[float, ...] | None = None
    neighbour_overlap: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        views = ", ".join(view.name for view in self.views)
        quantizer = type(self.quantizer).__name__
        return f"Tokenizer({quantizer} of {views}, {self.semantic_ids!r})"

    def __post_init__(self) -> None:
        levels = self.quantizer.num_levels + (self.policy == "suffix")
        if self.semantic_ids.num_levels != levels:
            raise ValueError(
                f"semantic_ids must have {levels} levels, as the quantizer gives with policy "
                f"{self.policy!r}, got {self.semantic_ids.num_levels}"
            )
        sizes = self.semantic_ids.codebook_sizes[: self.quantizer.num_levels]
        if sizes != self.quantizer.codebook_sizes:
            raise ValueError(
                "semantic_ids must have the quantizer's codebook sizes "
                f"{self.quantizer.codebook_sizes}, got {sizes}"
            )
        if self.distortion is not None and len(self.distortion) != self.quantizer.num_levels:
            raise ValueError(
                f"distortion must be that of {self.quantizer.num_levels} levels, "
                f"got {len(self.distortion)}"
            )
        if self.semantic_ids.allow_collisions and self.policy != "allow":
            raise ValueError(f"semantic_ids must be unique with policy {self.policy!r}")
        names = [view.name for view in self.views]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"views must have names, no two equal, got {names}")

    @classmethod
    def fit(
        cls,
        catalog: Catalog,
        *,
        source: EmbeddingSource | Mapping[str, EmbeddingSource] | None = None,
        embeddings: np.ndarray | Mapping[str, np.ndarray] | None = None,
        fuse: bool = True,
        pca_dim: int | None = None,
        whiten: bool = False,
        quantizer: Callable[..., Quantizer] = HierarchicalKMeans.fit,
        policy: Policy = "reassign",
        info: Mapping[str, Any] | None = None,
        workspace: str | Path | None = None,
        progress: StageProgress | None = None,
    ) -> Tokenizer:
        """Fits reductions and quantizer on a catalogue, and gives its items their semantic IDs.

        Args:
            catalog: The items. Its fields are not read if embeddings are passed for all views.
            source: Makes the embeddings. For several views: a source for each view name.
            embeddings: Embeddings that exist already, possibly memory maps: row i for item i. For
                several views: an array for each view name. For a view that also has a source, they
                replace what the source would compute; a view without a source needs embeddings
                for new items, too. If all views have embeddings, this mapping sets the order of
                the views; otherwise those with a source come first.
            fuse: Whether the concatenated views are quantized as one vector (TIGER, PRORec), or
                each view alone, with the codes concatenated (CoCoRec).
            pca_dim: Dimensions of each view to keep by PCA; None keeps embeddings as they are.
            whiten: Whether PCA scales each dimension to unit variance.
            quantizer: A function of the vectors and `progress` that returns a fitted quantizer.
                Set options with a partial, as in `partial(HierarchicalKMeans.fit, seed=1)`.
            policy: How collisions are resolved.
            info: Kept with the tokenizer.
            workspace: An existing folder for large arrays of vectors; None keeps them in memory.
            progress: Called with the name of a stage, the work done and the total work.

        Returns:
            The fitted tokenizer.

        Raises:
            ValueError: If the embeddings do not fit the catalogue, or an option is out of range.
        """
        sources, arrays = _by_view(source), _by_view(embeddings)
        _check_fitting(sources, arrays, fuse=fuse, pca_dim=pca_dim, whiten=whiten)
        views = []
        names = list(arrays if sources.keys() <= arrays.keys() else {**sources, **arrays})
        for name in names:
            if name not in arrays:
                report_stage = stage(progress, _embedding(name))
                arrays[name] = sources[name].embed(catalog, progress=report_stage)
            _check_length(arrays[name], catalog)
            reduction = None
            if pca_dim is not None:
                reduction = _fit_pca(name, arrays[name], pca_dim, whiten)
            views.append(View(name=name, source=sources.get(name), reduction=reduction))
        x, dims = _side_by_side(views, arrays, workspace)
        report_stage = stage(progress, "quantizing")
        if fuse:
            fitted = quantizer(x, progress=report_stage)
        else:
            fitted = ViewQuantizer.fit(x, dims=dims, quantizer=quantizer, progress=report_stage)
        return cls._with_codes(
            fitted,
            x,
            catalog.item_ids,
            views=tuple(views),
            policy=policy,
            info=info or {},
            progress=progress,
        )

    @classmethod
    def _with_codes(
        cls,
        quantizer: Quantizer,
        x: Float[np.ndarray, "items dim"],
        item_ids: list[str],
        *,
        views: tuple[View, ...],
        policy: Policy,
        info: Mapping[str, Any],
        progress: StageProgress | None,
    ) -> Tokenizer:
        """Makes a tokenizer of a fitted quantizer and gives the fitted items semantic IDs."""
        coded = fitted_codes(quantizer, x, policy=policy, progress=progress)
        return cls(
            quantizer=quantizer,
            semantic_ids=SemanticIds(
                codes=coded.codes,
                codebook_sizes=coded.codebook_sizes,
                item_ids=item_ids,
                allow_collisions=policy == "allow",
            ),
            views=views,
            policy=policy,
            collisions=coded.collisions,
            distortion=coded.distortion,
            neighbour_overlap=coded.neighbour_overlap,
            info=info,
        )

    def encode(
        self,
        catalog: Catalog,
        *,
        embeddings: np.ndarray | Mapping[str, np.ndarray] | None = None,
        refit_above: float = REFIT_ABOVE,
        workspace: str | Path | None = None,
        progress: StageProgress | None = None,
    ) -> Encoding:
        """Gives all items of a catalogue their semantic IDs.

        Known items keep their IDs, even if the catalogue now describes them differently. New
        items are embedded and quantized, and get codes that no other item has (unless the policy
        is `allow`). The tokenizer itself does not change; see `extended`.

        Args:
            catalog: The items, known and new.
            embeddings: Embeddings as for `fit`, row i for item i: for views without a source, or
                where they exist already.
            refit_above: The drift above which refitting is advised.
            workspace: An existing folder for large arrays of vectors; None keeps them in memory.
            progress: Called with the name of a stage, the work done and the total work.

        Returns:
            The semantic IDs, the collisions and the drift.

        Raises:
            ValueError: If embeddings are missing or do not fit.
        """
        known, arrays = self.semantic_ids, _by_view(embeddings, self.views[0].name)
        self._check_embeddings(arrays, catalog)
        new = [row for row, name in enumerate(catalog.item_ids) if not known.has(name)]
        if not new:
            return Encoding(semantic_ids=known.take(catalog.item_ids))
        items = catalog if len(new) == len(catalog) else catalog.take(new)
        if items is not catalog:
            arrays = {name: array[new] for name, array in arrays.items()}
        for view in self.views:
            if view.name not in arrays:
                arrays[view.name] = _embedded(view, items, progress)
        x, _ = _side_by_side(self.views, arrays, workspace)
        codes, _, collisions = resolve_collisions(
            encoded(self.quantizer, x, stage(progress, "encoding")),
            self.quantizer.codebook_sizes,
            policy=self.policy,
            assigned=known,
            quantizer=self.quantizer,
            x=x,
            progress=progress and partial(progress, "resolving collisions"),
        )
        table = known.table_of(items.item_ids, codes)
        return Encoding(
            semantic_ids=self.extended(table).semantic_ids.take(catalog.item_ids),
            collisions=collisions,
            drift=self.drift(x, collisions.num_moved, refit_above),
        )

    def extended(self, semantic_ids: SemanticIds) -> Tokenizer:
        """Returns this tokenizer with the new items among `semantic_ids` added to its memory.

        Raises:
            ValueError: If a new item has the codes of a remembered one.
        """
        known = self.semantic_ids
        new = [row for row, name in enumerate(semantic_ids.item_ids) if not known.has(name)]
        table = known.table_of(
            known.item_ids + [semantic_ids.item_ids[row] for row in new],
            np.concatenate([known.codes, semantic_ids.codes[new]]),
        )
        return replace(self, semantic_ids=table)

    def _check_embeddings(self, arrays: Mapping[str, np.ndarray], catalog: Catalog) -> None:
        """Refuses embeddings of an unknown view, and arrays that do not fit the catalogue."""
        names = [view.name for view in self.views]
        unknown = next((name for name in arrays if name not in names), None)
        if unknown is not None:
            raise ValueError(f"embeddings must be of the views {', '.join(names)}, got {unknown!r}")
        for array in arrays.values():
            _check_length(array, catalog)

    def drift(self, x: Float[np.ndarray, "items dim"], num_moved: int, threshold: float) -> Drift:
        """Measures how far new items are from the fitted ones.

        Args:
            x: Vectors of the new items, as `quantizer` takes them.
            num_moved: How many new items got other codes than the quantizer chose.
            threshold: The drift above which refitting is advised.
        """
        level = 1 if _has_tree(self.quantizer) else self.quantizer.num_levels
        fitted = 0.0 if self.distortion is None else self.distortion[level - 1]
        ratio = self.quantizer.distortion(x)[level - 1] / fitted if fitted > 0 else None
        return Drift(
            num_new=len(x),
            num_moved=num_moved,
            ratio=ratio,
            level=level,
            threshold=threshold,
            in_tree=isinstance(self.quantizer, HierarchicalKMeans) and self.policy != "allow",
        )


def _check_fitting(
    sources: Mapping[str, EmbeddingSource],
    arrays: Mapping[str, np.ndarray],
    *,
    fuse: bool,
    pca_dim: int | None,
    whiten: bool,
) -> None:
    """Refuses arguments with which `Tokenizer.fit` cannot begin."""
    if not sources and not arrays:
        raise ValueError("source or embeddings must be given, got neither")
    if whiten and pca_dim is None:
        raise ValueError("whiten must be given with pca_dim, got whiten alone")
    if len({*sources, *arrays}) == 1 and not fuse:
        raise ValueError("fuse must be left on for a single view")


def _embedded(
    view: View, items: Catalog, progress: StageProgress | None
) -> Float32[np.ndarray, "items dim"]:
    """The embeddings of new items in one view, computed by its source."""
    if view.source is None:
        raise ValueError(
            f"embeddings must be given for {len(items)} new items: the tokenizer was "
            "fitted on embeddings made elsewhere"
        )
    return view.source.embed(items, progress=stage(progress, _embedding(view.name)))


def _has_tree(quantizer: Quantizer) -> bool:
    """Whether fitted items are leaves, at distance 0: only their first clusters are comparable."""
    if isinstance(quantizer, ViewQuantizer):
        return any(map(_has_tree, quantizer.parts))
    return isinstance(quantizer, HierarchicalKMeans)


def _fit_pca(name: str, x: Float[np.ndarray, "items dim"], dim: int, whiten: bool) -> Pca:
    try:
        return Pca.fit(x, dim=dim, whiten=whiten)
    except ValueError as error:
        raise ValueError(f"view {name!r}: pca_{error}") from None


def _side_by_side(
    views: Sequence[View], arrays: Mapping[str, np.ndarray], workspace: str | Path | None
) -> tuple[Float[np.ndarray, "items dim"], list[int]]:
    """The reduced views concatenated into one array, and how many columns each view has."""
    if len(views) == 1 and views[0].reduction is None:
        x = arrays[views[0].name]
        return (x if x.dtype == np.float32 else x.astype(np.float32)), [x.shape[1]]
    dims = [
        arrays[view.name].shape[1] if view.reduction is None else len(view.reduction.components)
        for view in views
    ]
    shape = (len(arrays[views[0].name]), sum(dims))
    x = np.empty(shape, dtype=np.float32) if workspace is None else _mapped(workspace, shape)
    column = 0
    for view, dim in zip(views, dims, strict=True):
        for start in range(0, len(x), LARGE_CHUNK):
            part = np.asarray(arrays[view.name][start : start + LARGE_CHUNK])
            reduced = part if view.reduction is None else view.reduction.transform(part)
            x[start : start + LARGE_CHUNK, column : column + dim] = reduced
        column += dim
    return x, dims


def _mapped(folder: str | Path, shape: tuple[int, int]) -> Float32[np.ndarray, "items dim"]:
    path = Path(folder) / "vectors.npy"
    reserve(path, 4 * shape[0] * shape[1] + 4096)
    mapped: np.ndarray = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    return mapped


def _by_view(value: Any, name: str = _ONLY) -> dict[str, Any]:
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {name: value}


def _embedding(view: str) -> str:
    """The name of the stage that embeds a view."""
    return view if view == _ONLY else f"embedding {view}"


def _check_length(embeddings: Float[np.ndarray, "rows dim"], catalog: Catalog) -> None:
    if len(embeddings) != len(catalog):
        raise ValueError(
            f"embeddings must have one row per item ({len(catalog)}), got {len(embeddings)}"
        )
