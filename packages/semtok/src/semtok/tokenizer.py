"""The tokenizer: embedding source, optional PCA, quantizer and collision policy as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from semtok.catalog import Catalog
from semtok.collisions import Collisions, Policy, measure_collisions, resolve_collisions
from semtok.embedding.contract import EmbeddingSource, Progress
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.hierarchical import HierarchicalKMeans
from semtok.reduction import Pca
from semtok.semantic_ids import SemanticIds

StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, how many items are done, and of how many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """Turns items into semantic IDs, and remembers those that it has given.

    Attributes:
        quantizer: Fitted on the embeddings, after `reduction`.
        semantic_ids: The semantic IDs given so far: they never change.
        source: Makes embeddings of a catalogue; None if they come from elsewhere.
        reduction: What the embeddings pass before the quantizer.
        policy: How collisions are resolved; see `semtok.collisions`.
        collisions: Among the fitted items, before they were resolved.
        distortion: Of the fitted items after each level; None if not measured.
        info: Anything else worth keeping, as JSON.
    """

    quantizer: Quantizer
    semantic_ids: SemanticIds
    source: EmbeddingSource | None = None
    reduction: Pca | None = None
    policy: Policy = "reassign"
    collisions: Collisions | None = None
    distortion: tuple[float, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        levels = self.quantizer.num_levels + (self.policy == "suffix")
        if self.semantic_ids.num_levels != levels:
            raise ValueError(
                f"semantic_ids must have {levels} levels, as the quantizer gives with policy "
                f"{self.policy!r}, got {self.semantic_ids.num_levels}"
            )
        if self.semantic_ids.allow_collisions and self.policy != "allow":
            raise ValueError(f"semantic_ids must be unique with policy {self.policy!r}")

    @classmethod
    def fit(
        cls,
        catalog: Catalog,
        *,
        source: EmbeddingSource | None = None,
        embeddings: Float[np.ndarray, "items dim"] | None = None,
        pca_dim: int | None = None,
        whiten: bool = False,
        quantizer: Callable[..., Quantizer] = HierarchicalKMeans.fit,
        policy: Policy = "reassign",
        info: Mapping[str, Any] | None = None,
        progress: StageProgress | None = None,
    ) -> Tokenizer:
        """Fits reduction and quantizer on a catalogue, and gives its items their semantic IDs.

        Args:
            catalog: The items.
            source: Makes their embeddings; either this or `embeddings`.
            embeddings: Embeddings made elsewhere, row i for item i. The tokenizer then needs them
                for new items too.
            pca_dim: Dimensions to keep by PCA; None keeps the embeddings as they are.
            whiten: Whether PCA scales each dimension to unit variance.
            quantizer: Called with the embeddings, and with `progress`; gives a fitted quantizer.
                For options, wrap it in a partial, as `partial(HierarchicalKMeans.fit, seed=1)`.
            policy: How collisions are resolved.
            info: Kept with the tokenizer.
            progress: Called with a stage's name and how many items of how many are done.

        Raises:
            ValueError: If the embeddings do not fit the catalogue, or an option is out of range.
        """
        if (source is None) == (embeddings is None):
            raise ValueError("either source or embeddings must be given, and not both")
        if whiten and pca_dim is None:
            raise ValueError("whiten must be given with pca_dim, got whiten alone")
        if embeddings is None:
            assert source is not None
            embeddings = source.embed(catalog, progress=_stage(progress, "embedding"))
        _check_length(embeddings, catalog)
        reduction = None if pca_dim is None else Pca.fit(embeddings, dim=pca_dim, whiten=whiten)
        x = embeddings.astype(np.float32) if reduction is None else reduction.transform(embeddings)
        fitted = quantizer(x, progress=_stage(progress, "clustering"))
        # Identical vectors have codes of their own as fitted, but not as encoded.
        raw = fitted.codes if isinstance(fitted, HierarchicalKMeans) else fitted.encode(x)
        codes, sizes = resolve_collisions(raw, fitted.codebook_sizes, policy=policy)
        return cls(
            quantizer=fitted,
            semantic_ids=SemanticIds(
                codes=codes,
                codebook_sizes=sizes,
                item_ids=catalog.item_ids,
                allow_collisions=policy == "allow",
            ),
            source=source,
            reduction=reduction,
            policy=policy,
            collisions=measure_collisions(raw),
            distortion=fitted.distortion(x),
            info=info or {},
        )

    def encode(
        self,
        catalog: Catalog,
        *,
        embeddings: Float[np.ndarray, "items dim"] | None = None,
        progress: StageProgress | None = None,
    ) -> SemanticIds:
        """The semantic IDs of a catalogue's items, in its order.

        Items that have one keep it, whatever the catalogue now says of them. New items are
        embedded and quantized, and get none of the codes that are taken (unless the policy is
        `allow`). The tokenizer itself stays as it is; see `extended`.

        Args:
            catalog: The items, known and new.
            embeddings: Their embeddings, row i for item i, where the tokenizer has no source.
            progress: Called with a stage's name and how many new items of how many are done.

        Raises:
            ValueError: If embeddings are missing, or not wanted, or do not fit.
        """
        given = self.semantic_ids
        if self.source is None and embeddings is not None:
            _check_length(embeddings, catalog)
        elif self.source is not None and embeddings is not None:
            raise ValueError("embeddings must be left out: the tokenizer has its own source")
        is_new = np.array([not given.has(item_id) for item_id in catalog.item_ids])
        new, known = np.flatnonzero(is_new), np.flatnonzero(~is_new)
        codes = np.empty((len(catalog), given.num_levels), dtype=np.int64)
        codes[known] = given.codes[[given.row(catalog.item_ids[row]) for row in known]]
        if len(new):
            if embeddings is not None:
                x = embeddings[new]
            elif self.source is not None:
                x = self.source.embed(
                    catalog.take(new.tolist()), progress=_stage(progress, "embedding")
                )
            else:
                raise ValueError(
                    f"embeddings must be given for {len(new)} new items: the tokenizer was "
                    "fitted on embeddings made elsewhere"
                )
            codes[new] = self._encode_new(x)
        return SemanticIds(
            codes=codes,
            codebook_sizes=given.codebook_sizes,
            item_ids=catalog.item_ids,
            allow_collisions=self.policy == "allow",
        )

    def extended(self, semantic_ids: SemanticIds) -> Tokenizer:
        """This tokenizer, remembering also the new items among `semantic_ids`.

        Raises:
            ValueError: If a new item has the codes of a remembered one.
        """
        given = self.semantic_ids
        new = [row for row, name in enumerate(semantic_ids.item_ids) if not given.has(name)]
        table = replace(
            given,
            codes=np.concatenate([given.codes, semantic_ids.codes[new]]),
            item_ids=given.item_ids + [semantic_ids.item_ids[row] for row in new],
        )
        return replace(self, semantic_ids=table)

    def _encode_new(
        self, embeddings: Float[np.ndarray, "items dim"]
    ) -> Int64[np.ndarray, "items levels"]:
        x = embeddings if self.reduction is None else self.reduction.transform(embeddings)
        raw, sizes = self.quantizer.encode(x), self.quantizer.codebook_sizes
        return resolve_collisions(raw, sizes, policy=self.policy, given=self.semantic_ids)[0]


def _stage(progress: StageProgress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    progress(name, 0, 1)
    return partial(progress, name)


def _check_length(embeddings: Float[np.ndarray, "rows dim"], catalog: Catalog) -> None:
    if len(embeddings) != len(catalog):
        raise ValueError(
            f"embeddings must have one row an item ({len(catalog)}), got {len(embeddings)}"
        )
