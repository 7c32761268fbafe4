"""A trained model for another catalogue, in which items were added, removed or renumbered.

`with_catalogue` returns a model for inference; `grown` returns one with room for new codes, for
further training.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import ItemTable, StateBackbone
from genrec.history import HistoryEmbedding
from genrec.item_graph import ItemGraph
from genrec.seq2seq import ScoreLogits, Seq2Seq
from genrec.trie import Trie
from genrec.vocabulary import TokenTable, Vocabulary, level_means

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_catalogue(
    model: Seq2Seq,
    trie: Trie,
    old_rows: Int[Tensor, " items"],
    *,
    item_vectors: Float[Tensor, "items vector_dim"] | None = None,
) -> Seq2Seq:
    """Returns the model for another catalogue; the old model does not change.

    The two models share all weights that do not depend on the items. With an output vocabulary of
    levels and a history of codes, new items work at once, since the model uses only their codes. If
    the history reads vectors, new items need vectors. If the output vocabulary has nodes, each
    prefix has its own learned row: items can be removed, but an item with a new prefix is an error,
    since its row was never trained. In an item graph new items have no edges.

    Args:
        model: The trained model.
        trie: The new catalogue over the same codebooks, on the model's device.
        old_rows: For each item of the new catalogue its row in the old one; -1 for a new item.
        item_vectors: One vector per item, of the same kind as in the model. They are used only for
            new items, if the history reads vectors.

    Raises:
        ValueError: The codebooks differ, or the model has learned nothing about some new items.
    """
    _check_catalogue(model, trie, old_rows)
    new = _shallow(model)
    new.trie = trie
    if model.backbone is None:
        new.history = _history(model.history, trie, old_rows, item_vectors)
    else:
        new.backbone = _backbone(model.backbone, old_rows, None)
    if model.item_graph is not None:
        new.item_graph = model.item_graph.with_items(trie.num_items, old_rows)
        assert model.score_logits is not None
        counts = _old_counts(model.score_logits, model.trie, old_rows)
        new.score_logits = _score_logits(model.score_logits, trie, counts)
    if model.config.output_vocabulary == "node":
        nodes = _old_nodes(model, trie)
        _check_known(trie, nodes)
        _put_nodes(new, model, trie, nodes)
        if model.node_vectors is not None:
            new.node_vectors = model.node_vectors[nodes]
    return new


def grown(
    model: Seq2Seq,
    trie: Trie,
    old_rows: Int[Tensor, " items"],
    *,
    item_vectors: Float[Tensor, "items vector_dim"] | None = None,
    backbone_vectors: Float[Tensor, "items dim"] | None = None,
    item_graph: ItemGraph | None = None,
    item_counts: Int[Tensor, " items"] | None = None,
) -> Seq2Seq:
    """Returns a copy of the model for a catalogue with new items, to train further.

    All weights of old items are copied exactly. So below each node the old items keep their order,
    until the model is trained or its graph changes. New parts start as in an untrained model: with
    `node_start="vectors"`, a new node starts at the projection of its mean vector, standardised
    like the old nodes of its level; a new item of the backbone starts at its vector.

    Args:
        model: The trained model; the copy shares no weight with it.
        trie: The new catalogue over the same codebooks, on the model's device.
        old_rows: For each item of the new catalogue its row in the old one; -1 for a new item.
        item_vectors: One vector per item, of the same kind as in the model. A history of vectors
            uses those of new items; nodes that start from vectors use those of all items.
        backbone_vectors: One vector per item; a backbone uses those of new items.
        item_graph: Replaces the model's graph, with the same kinds of scores; None keeps the
            model's graph, in which new items have no edges.
        item_counts: Number of interactions of each item; None keeps the model's counts, with 0 for
            new items.

    Raises:
        ValueError: The codebooks differ, an argument does not fit, vectors of new items are
            missing, or there are new codes but nodes start at random.
    """
    _check_catalogue(model, trie, old_rows)
    new = _shallow(model)
    new.trie = trie
    if model.backbone is None:
        new.history = _history(model.history, trie, old_rows, item_vectors)
    else:
        new.backbone = _backbone(model.backbone, old_rows, backbone_vectors)
    if model.item_graph is not None:
        assert model.score_logits is not None
        if item_counts is None:
            item_counts = _old_counts(model.score_logits, model.trie, old_rows)
        new.item_graph = _graph(model.item_graph, old_rows, item_graph)
        new.score_logits = _score_logits(model.score_logits, trie, item_counts)
    if model.config.output_vocabulary == "node":
        nodes = _old_nodes(model, trie)
        if model.node_vectors is None:
            _check_known(trie, nodes)
        _put_nodes(new, model, trie, nodes)
        if model.node_vectors is not None:
            new.node_vectors = _grown_vectors(model.node_vectors, trie, nodes, item_vectors)
    return copy.deepcopy(new, {id(trie): trie})


def _check_catalogue(model: Seq2Seq, trie: Trie, old_rows: Tensor) -> None:
    """Checks that a catalogue has the model's codebooks, and that there is one row per item.

    Raises:
        ValueError: It has other codebooks, or there are too many or too few rows.
    """
    if trie.codebook_sizes != model.trie.codebook_sizes:
        raise ValueError(
            f"trie must have the model's codebook_sizes {model.trie.codebook_sizes}, got "
            f"{trie.codebook_sizes}"
        )
    if old_rows.shape != (trie.num_items,):
        raise ValueError(
            f"old_rows must hold one row for each of {trie.num_items} items, got shape "
            f"{tuple(old_rows.shape)}"
        )


def _history(
    old: HistoryEmbedding, trie: Trie, old_rows: Tensor, item_vectors: Tensor | None
) -> HistoryEmbedding:
    new = _shallow(old)
    new.num_items = trie.num_items
    if old.codes is not None:
        codes = Vocabulary(level_sizes=trie.codebook_sizes).encode(trie.codes)
        new.register_buffer("item_codes", codes.int(), persistent=False)
    if old.item_vectors is None:
        return new
    vectors = old.item_vectors.detach()[old_rows.clamp(min=0)]
    is_new = old_rows < 0
    if bool(is_new.any()):
        if old.projection is None:
            raise ValueError(
                "old_rows must not be -1 where the history reads vectors learned item by item, got "
                f"-1 for item {int(is_new.nonzero()[0])}: it was not in the training"
            )
        if item_vectors is None or item_vectors.shape != vectors.shape:
            got = None if item_vectors is None else tuple(item_vectors.shape)
            raise ValueError(
                f"item_vectors must be given for new items where the history reads vectors, shape "
                f"{tuple(vectors.shape)}, got {got}"
            )
        vectors[is_new] = item_vectors.to(vectors)[is_new]
    if isinstance(old.item_vectors, nn.Parameter):
        new.item_vectors = nn.Parameter(vectors)
    else:
        new.item_vectors = vectors
    return new


def _old_counts(old: ScoreLogits, old_trie: Trie, old_rows: Tensor) -> Int[Tensor, " items"]:
    """Returns the interactions of each item of the new catalogue; a new item has none."""
    counts = old.item_counts(old_trie)[old_rows.clamp(min=0)]
    return counts.masked_fill(old_rows < 0, 0)


def _score_logits(old: ScoreLogits, trie: Trie, item_counts: Tensor) -> ScoreLogits:
    new = ScoreLogits(trie.level_sizes, old.weight.shape[1]).to(old.weight.device)
    for name, parameter in old.named_parameters():
        setattr(new, name, parameter)
    new.count(trie, item_counts.to(old.weight.device))
    return new


def _graph(old: ItemGraph, old_rows: Tensor, new: ItemGraph | None) -> ItemGraph:
    if new is None:
        return old.with_items(len(old_rows), old_rows)
    if new.num_items != len(old_rows) or new.num_kinds != old.num_kinds:
        raise ValueError(
            f"item_graph must be of {len(old_rows)} items and {old.num_kinds} kinds of scores, got "
            f"{new.num_items} and {new.num_kinds}"
        )
    return new.to(old.weights.device)


def _backbone(
    old: StateBackbone, old_rows: Tensor, vectors: Float[Tensor, "items dim"] | None
) -> StateBackbone:
    """Returns a backbone for the new catalogue; new items get their rows of `vectors`."""
    is_new = old_rows < 0
    rows = old.item_vectors().detach()[old_rows.clamp(min=0)]  # [items, dim]
    if bool(is_new.any()):
        if vectors is None:
            raise ValueError(
                "old_rows must not be -1 where a backbone reads the history, got -1 for item "
                f"{int(is_new.nonzero()[0])}: it was not in the training"
            )
        if vectors.shape != rows.shape:
            raise ValueError(
                f"backbone_vectors must have shape {tuple(rows.shape)}, got {tuple(vectors.shape)}"
            )
        rows = torch.where(is_new[:, None], vectors.to(rows), rows)
    table = ItemTable(len(old_rows), old.dim).to(old_rows.device)
    with torch.no_grad():
        table.ids.copy_(rows)
    new = _shallow(old)
    new.num_items, new.item_encoder = len(old_rows), table
    return new


def _old_nodes(model: Seq2Seq, trie: Trie) -> Int[Tensor, " nodes"]:
    """Returns the model's token of each node of another trie, level by level; -1 for new nodes."""
    old, tokens = model.trie, []
    above = torch.zeros(1, dtype=torch.long, device=trie.device)  # the old node of each new parent
    parents, old_parents = above, above
    for level, size in enumerate(trie.codebook_sizes):
        children, known = trie.expand(level, parents), old.expand(level, old_parents)
        key = above[children.parent] * size + children.codes  # [children], below 0 under new nodes
        keys = known.parent * size + known.codes
        place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        above = place.masked_fill(keys[place] != key, -1)
        first = model.vocabulary.level_offsets[level]
        tokens.append(torch.where(above < 0, above, above + first))
        parents, old_parents = children.node, known.node
    return torch.cat(tokens)


def _check_known(trie: Trie, nodes: Int[Tensor, " nodes"]) -> None:
    """Checks that the model has a row for each node.

    Raises:
        ValueError: A node has no row; the message names the first one of the highest level.
    """
    for level, of_level in enumerate(torch.split(nodes, list(trie.level_sizes))):
        (missing,) = (of_level < 0).nonzero(as_tuple=True)
        if len(missing):
            item = trie.leaf_items[trie.first_leaf(level, missing[0])].long()
            codes = trie.codes_on(trie.paths(item))[: level + 1].tolist()
            raise ValueError(
                f'codes must be known where output_vocabulary is "node", got {codes} for item '
                f"{int(item)}: their rows were never trained"
            )


def _put_nodes(new: Seq2Seq, old: Seq2Seq, trie: Trie, nodes: Int[Tensor, " nodes"]) -> None:
    """Puts the rows of another trie's nodes into a model; new nodes get the offset 0."""
    new.vocabulary = Vocabulary(level_sizes=trie.level_sizes)
    special = torch.arange(old.vocabulary.bos, old.vocabulary.size, device=nodes.device)
    new.tokens = _rows(old.tokens, torch.cat([nodes, special]))
    new.head = _rows(old.head, nodes)


def _rows(table: TokenTable, rows: Tensor) -> TokenTable:
    new = _shallow(table)
    weight = table.weight.detach()[rows.clamp(min=0)]
    new.weight = nn.Parameter(weight.masked_fill(rows[:, None] < 0, 0.0))
    return new


def _grown_vectors(
    old: Float[Tensor, "old_nodes vector_dim"],
    trie: Trie,
    nodes: Int[Tensor, " nodes"],
    item_vectors: Tensor | None,
) -> Float[Tensor, "nodes vector_dim"]:
    """Returns the fixed vector of each node; new nodes are standardised like their level's old."""
    is_new = nodes < 0
    vectors = old[nodes.clamp(min=0)]
    if not bool(is_new.any()):
        return vectors
    expected = (trie.num_items, old.shape[1])
    if item_vectors is None or item_vectors.shape != expected:
        got = None if item_vectors is None else tuple(item_vectors.shape)
        raise ValueError(
            f"item_vectors must be given where nodes start from vectors, shape {expected}, got "
            f"{got}"
        )
    means = level_means(trie, item_vectors.to(old))
    sizes = list(trie.level_sizes)
    levels = []
    for mean, missing in zip(means, torch.split(is_new, sizes), strict=True):
        known = mean[~missing] if bool((~missing).any()) else mean
        spread = known.std(dim=0, correction=0).clamp(min=1e-6)
        levels.append((mean - known.mean(dim=0)) / spread)
    return torch.where(is_new[:, None], torch.cat(levels), vectors)


def _shallow(module: ModuleT) -> ModuleT:
    """Copies a module but not its parts, which can then be replaced one by one."""
    new = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(new, name, copy.copy(getattr(module, name)))
    return new
