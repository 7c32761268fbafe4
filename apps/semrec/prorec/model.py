"""PRORec's item embeddings, models and losses (sections 3.3, 3.4 and 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from evalrec import ItemToItemFloor, pair_shares
from fusion import ModalityAdaptionLayer, alignment_loss
from genrec import (
    DIN,
    Batch,
    ItemGraph,
    ItemMatrix,
    ItemTable,
    StateBackbone,
    candidate_cross_entropy,
    distillation_loss,
    make_backbone,
    sample_candidates,
)
from jaxtyping import Float, Int
from semtok import standardised
from torch import Tensor, nn

from semrec.prorec.config import StageOne, StageTwo

Tables = Mapping[str, Float[Tensor, "items dim"]]
"""Item embeddings by name: "collaborative" is E_C, "adapted" is E_T."""


class ItemEncoder(nn.Module):
    """The item embeddings of stage I: E_C, a table, and E_T = MAL(E_S) (eq. 2).

    Args:
        semantic: E_S, standardised.
        config: Its `item_input` says which of E_C and E_T the sequence model reads.
    """

    semantic: Tensor

    def __init__(self, semantic: Float[Tensor, "items semantic_dim"], config: StageOne) -> None:
        super().__init__()
        self.config = config
        self.collaborative = nn.Parameter(torch.randn(len(semantic), config.dim) * 0.02)
        self.adaption = ModalityAdaptionLayer(semantic.shape[1], config.dim)
        self.register_buffer("semantic", semantic, persistent=False)

    def adapted(self, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """E_T of some or all items, scaled to the size of E_C."""
        semantic = self.semantic if rows is None else self.semantic[rows]
        adapted: Tensor = self.config.adapted_weight * self.adaption(semantic)
        return adapted

    def tables(self) -> Tables:
        """E_C and E_T of all items."""
        return {"collaborative": self.collaborative.clone(), "adapted": self.adapted()}

    def forward(self) -> Float[Tensor, "items dim"]:
        """The item vectors that the sequence model reads and ranks."""
        if self.config.item_input == "collaborative":
            return self.collaborative
        return self.collaborative + self.adapted()


def integrated(
    tables: Tables,
    which: Literal["collaborative", "adapted", "sum", "concatenated"],
    length: Literal["unit", "raw"] = "unit",
) -> Float[Tensor, "items integrated_dim"]:
    """The integrated embeddings, which the paper does not define.

    Args:
        tables: E_C and E_T.
        which: Their definition.
        length: "unit" scales their rows, or the parts of concatenated rows, to length 1.
    """
    collaborative, adapted = tables["collaborative"], tables["adapted"]
    unit = partial(nn.functional.normalize, dim=-1) if length == "unit" else nn.Identity()
    options = {"collaborative": collaborative, "adapted": adapted, "sum": collaborative + adapted}
    if which == "concatenated":
        options[which] = torch.cat([unit(collaborative), unit(adapted)], dim=1)
    vectors: Tensor = unit(options[which])
    return vectors


def concatenated(
    semantic: Float[Tensor, "items semantic_dim"],
    collaborative: Float[Tensor, "items dim"],
    *,
    unit: bool,
) -> Float[Tensor, "items both"]:
    """E_S, reduced by PCA to the width of E_C, concatenated with E_C (section 4.4).

    Args:
        semantic: E_S.
        collaborative: E_C of a model trained on ids alone.
        unit: Whether the rows of both are scaled to length 1 first.
    """
    reduced = torch.from_numpy(standardised(semantic.cpu().numpy(), collaborative.shape[1]))
    parts = [reduced.to(collaborative), collaborative]
    if unit:
        parts = [nn.functional.normalize(part, dim=1) for part in parts]
    return torch.cat(parts, dim=1)


def stage_one_model(
    config: StageOne, items: ItemEncoder | ItemTable, trust: Collection[str] = ()
) -> StateBackbone | DIN:
    """The sequential recommendation model of section 3.3, with text or on ids alone.

    Args:
        config: The configuration of stage I.
        items: The module of the item vectors.
        trust: The packages whose code may run, if the backbone is from another package.
    """
    num_items = len(items())
    if config.backbone == "din":
        recency = config.history_length if config.recency else None
        return DIN(num_items, dim=config.dim, recency=recency, item_encoder=items)
    return make_backbone(config.backbone, num_items, config, item_encoder=items, trust=trust)


def stage_one_loss(config: StageOne, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """L_seq and alpha L_align (eq. 3-5), on the embeddings of the items that the batch needs."""
    assert isinstance(model, StateBackbone | DIN)
    encoder = model.item_encoder
    assert isinstance(encoder, ItemEncoder | ItemTable)
    num_items, device = model.num_items, batch.history.device
    if isinstance(model, DIN):
        negatives = sample_candidates(batch.targets, num_items, config.num_negatives)
    else:
        negatives = config.loss.draw(num_items, device)
    rows = config.loss.rows(num_items, batch.history, batch.targets, negatives)
    vectors: Tensor = encoder.collaborative if isinstance(encoder, ItemEncoder) else encoder()
    collaborative, adapted = vectors[rows], None
    if isinstance(encoder, ItemEncoder) and (config.alpha or config.item_input == "sum"):
        adapted = encoder.adapted(rows)
    if adapted is not None and config.item_input == "sum":
        vectors = torch.zeros_like(vectors).index_copy(0, rows, collaborative + adapted)

    if isinstance(model, DIN):
        scores = model(batch.history, negatives, vectors)
        losses = {"next_item": candidate_cross_entropy(scores, negatives)}
    else:
        states = model(batch.history, vectors)
        losses = {"next_item": config.loss(states, vectors, batch.targets, negatives)}
    if adapted is not None and config.alpha:
        aligned = rows
        if config.alignment_among == "batch":
            aligned = config.loss.rows(num_items, batch.history, batch.targets)
        drawn = torch.randperm(len(aligned), device=device)[: config.alignment_items]
        places = torch.searchsorted(rows, aligned[drawn])
        losses["alignment"] = config.alpha * alignment_loss(
            collaborative[places],
            adapted[places],
            temperature=config.alignment_temperature,
            similarity=config.alignment_similarity,
            include_positive=config.alignment_formula == "infonce",
            sum_inside_log=config.alignment_formula == "printed",
        )
    return losses


def item_graph(floors: Mapping[str, ItemToItemFloor], num_items: int) -> ItemGraph:
    """The floors whose scores the tree uses; pairs of training histories can be subtracted.

    Args:
        floors: "graph", which was counted from the training histories, and "text", which was not.
        num_items: Items of the catalogue.
    """
    matrices = []
    (last_items,) = {floor.last_items for floor in floors.values()}
    assert last_items is not None  # these floors have a fixed number
    for name, floor in floors.items():
        forward, backward = pair_shares() if name == "graph" else ((), ())
        rows = floor.matrix
        matrices.append(
            ItemMatrix(
                offsets=torch.from_numpy(rows.indptr).long(),
                neighbours=torch.from_numpy(rows.indices).long(),
                weights=torch.from_numpy(rows.data).float(),
                decay=floor.decay,
                forward=forward,
                backward=backward,
            )
        )
    return ItemGraph.build(num_items, matrices, last_items=last_items)


Teacher = Callable[[Batch], Float[Tensor, "batch items"]]
"""A function from a batch to the teacher's scores of all items."""


def vectors_teacher(integrated: Float[Tensor, "items dim"]) -> Teacher:
    """Teaches by the cosine of each item's embedding with the target's."""
    return lambda batch: integrated[batch.targets] @ integrated.T


def folds_teacher(
    scorers: Sequence[Callable[[Any], Float[Tensor, "batch items"]]],
    fold_of: Int[Tensor, " users"],
    num_items: int,
) -> Teacher:
    """Teaches each user by a model that was not trained on the user's history.

    Args:
        scorers: One per fold, trained on the users of all other folds.
        fold_of: The fold of each user.
        num_items: Items of the catalogue, which is also the padding row.
    """

    def teach(batch: Batch) -> Float[Tensor, "batch items"]:
        scores = torch.empty(len(batch), num_items, device=batch.history.device)
        folds = fold_of[batch.users.cpu()]
        for fold, scorer in enumerate(scorers):
            (rows,) = (folds == fold).nonzero(as_tuple=True)
            if len(rows):
                histories = [row[row < num_items] for row in batch.history[rows].cpu().numpy()]
                scores[rows] = scorer(histories).to(scores)
        return scores

    return teach


def stage_two_loss(
    config: StageTwo, integrated: Tensor, teacher: Teacher | None, model: nn.Module, batch: Batch
) -> dict[str, Tensor]:
    """L_gen and beta L_distillation (eq. 6-8); a teacher adds a second target to L_gen."""
    taught = None
    if teacher is not None:
        taught = (teacher(batch) / config.teacher_temperature).softmax(dim=1)
    output = model(batch.history, batch.targets, future=batch.future, teacher=taught)
    losses = {"generation": output.loss}
    if teacher is not None:
        weight = config.teacher_weight
        losses = {"generation": (1 - weight) * output.loss, "taught": weight * output.taught}
    if config.beta:
        distilled = distillation(config, output.distillation, integrated, batch.targets)
        losses["distillation"] = config.beta * distilled
    return losses


def distillation(
    config: StageTwo,
    states: Float[Tensor, "batch integrated_dim"],
    integrated: Float[Tensor, "items integrated_dim"],
    targets: Int[Tensor, " batch"],
) -> Tensor:
    """L_distillation (eq. 7): distilled states compared with the embeddings of their targets."""
    return distillation_loss(
        states,
        integrated,
        targets,
        num_negatives=min(config.distillation_negatives, len(integrated)),
        similarity=config.distillation_similarity,
        temperature=config.distillation_temperature,
    )
