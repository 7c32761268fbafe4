"""A trained model over another catalogue: items added, removed or renumbered, without training."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import ItemTable, StateBackbone
from genrec.history import HistoryEmbedding
from genrec.seq2seq import ScoreLogits, Seq2Seq
from genrec.trie import Trie
from genrec.vocabulary import TokenTable, Vocabulary

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_catalogue(
    model: Seq2Seq,
    trie: Trie,
    old_rows: Int[Tensor, " items"],
    *,
    item_vectors: Float[Tensor, "items vector_dim"] | None = None,
) -> Seq2Seq:
    """Returns the model over another catalogue; the old one stays as it is.

    What does not depend on the items is shared between the two, not copied. Where the output
    vocabulary is by level and the history is read by codes, new items work at once, since all that
    the model knows of an item is its codes. Where the history reads vectors, new items need theirs.
    Rows of nodes are learned prefix by prefix: items can be removed, but an item with new codes has
    rows that no training ever saw, and is refused. In an item graph new items have no edges.

    Args:
        model: The trained model.
        trie: The new catalogue over the same codebooks, on the model's device.
        old_rows: For each item of the new catalogue its row in the old one, -1 where it is new.
        item_vectors: One vector an item, as those that the model was made with; read for new items
            only, and needed only where there are some and the history reads vectors.

    Raises:
        ValueError: The codebooks differ, or the model knows nothing of some new items.
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
    new = _shallow(model)
    new.trie = trie
    if model.backbone is None:
        new.history = _history(model.history, trie, old_rows, item_vectors)
    else:
        new.backbone = _backbone(model.backbone, old_rows)
    if model.item_graph is not None:
        new.item_graph = model.item_graph.with_items(trie.num_items, old_rows)
        assert model.score_logits is not None
        new.score_logits = _score_logits(model.score_logits, model.trie, trie, old_rows)
    if model.config.output_vocabulary == "node":
        new.vocabulary = Vocabulary(level_sizes=trie.level_sizes)
        nodes = _old_nodes(model, trie)
        special = torch.arange(model.vocabulary.bos, model.vocabulary.size, device=nodes.device)
        new.tokens = _rows(model.tokens, torch.cat([nodes, special]))
        new.head = _rows(model.head, nodes)
        if model.node_vectors is not None:
            new.node_vectors = model.node_vectors[nodes]
    return new


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
                f"-1 for item {int(is_new.nonzero()[0])}: no training ever saw it"
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


def _score_logits(old: ScoreLogits, old_trie: Trie, trie: Trie, old_rows: Tensor) -> ScoreLogits:
    new = ScoreLogits(trie.level_sizes, old.weight.shape[1]).to(old.weight.device)
    for name, parameter in old.named_parameters():
        setattr(new, name, parameter)
    counts = old.item_counts(old_trie)[old_rows.clamp(min=0)]
    new.count(trie, counts.masked_fill(old_rows < 0, 0))
    return new


def _backbone(old: StateBackbone, old_rows: Tensor) -> StateBackbone:
    is_new = old_rows < 0
    if bool(is_new.any()):
        raise ValueError(
            "old_rows must not be -1 where a backbone reads the history, got -1 for item "
            f"{int(is_new.nonzero()[0])}: no training ever saw it"
        )
    table = ItemTable(len(old_rows), old.dim).to(old_rows.device)
    with torch.no_grad():
        table.ids.copy_(old.item_vectors()[old_rows])
    new = _shallow(old)
    new.num_items, new.item_encoder = len(old_rows), table
    return new


def _old_nodes(model: Seq2Seq, trie: Trie) -> Int[Tensor, " nodes"]:
    """Returns the model's token of each node of another trie, level by level."""
    old, tokens = model.trie, []
    above = torch.zeros(1, dtype=torch.long, device=trie.device)  # the old node of each new parent
    parents, old_parents = above, above
    for level, size in enumerate(trie.codebook_sizes):
        children, known = trie.expand(level, parents), old.expand(level, old_parents)
        key = above[children.parent] * size + children.codes
        keys = known.parent * size + known.codes
        place = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        missing = keys[place] != key
        if bool(missing.any()):
            leaf = trie.first_leaf(level, children.node[missing][0])
            item = trie.leaf_items[leaf].long()
            codes = trie.codes_on(trie.paths(item))[: level + 1].tolist()
            raise ValueError(
                f'codes must be known where output_vocabulary is "node", got {codes} for item '
                f"{int(item)}: no training ever saw a row for them"
            )
        tokens.append(place + model.vocabulary.level_offsets[level])
        above, parents, old_parents = place, children.node, known.node
    return torch.cat(tokens)


def _rows(table: TokenTable, rows: Tensor) -> TokenTable:
    new = _shallow(table)
    new.weight = nn.Parameter(table.weight.detach()[rows])
    return new


def _shallow(module: ModuleT) -> ModuleT:
    """Copies a module but nothing in it; what it holds can then be replaced one by one."""
    new = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(new, name, copy.copy(getattr(module, name)))
    return new
