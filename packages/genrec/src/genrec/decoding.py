"""From a model and histories to items: beam search, and the exact score of every item.

Both walk the trie level by level with a key/value cache. The encoder's keys and values are
projected once a call and shared by all prefixes of a user, which lie side by side as queries. Each
decoding step leaves one entry of keys and values a layer; prefixes find their own by row number, so
nothing is copied but the rows of prefixes that live on.

Where scores are renormalised over the children of a prefix, a prefix with a single item below it
is settled: whatever follows has probability 1 and is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrec.layers import DecoderLayer, KeysValues
from genrec.seq2seq import Seq2Seq, Tables
from genrec.trie import Trie, distinct


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Items and their log-probabilities, best first.

    Attributes:
        items: Item rows; -1 where there was nothing more to return.
        scores: log p(item | history), PRORec, eq. 1; minus infinity where `items` is -1.
    """

    items: Int[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]


@dataclass(frozen=True)
class _Prefixes:
    """Prefixes of one length, as many a user: their last nodes, scores, and cached positions."""

    nodes: Int[Tensor, "users beams"]
    scores: Float[Tensor, "users beams"]
    past: list[list[Tensor]]  # [level][layer], each [users, beams or 1, 2 * dim]


@dataclass(frozen=True)
class _Candidates:
    """All children of some prefixes: one row a user, padded with minus infinity.

    `place` says where in `nodes` and `beams` each candidate's node and parent stand.
    """

    scores: Float[Tensor, "users candidates"]
    place: Int[Tensor, "users candidates"]
    nodes: Int[Tensor, " children"]
    beams: Int[Tensor, " children"]
    past: list[list[Tensor]]

    def pick(self, columns: Int[Tensor, "users beams"]) -> _Prefixes:
        """Returns the candidates in these columns as prefixes."""
        place = self.place.gather(1, columns)
        beams = self.beams[place]
        return _Prefixes(
            self.nodes[place],
            self.scores.gather(1, columns),
            [[_rows(entry, beams) for entry in layers] for layers in self.past],
        )


@torch.inference_mode()
def beam_search(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    *,
    num_beams: int = 100,
    top_k: int = 10,
    exclude: Int[Tensor, "batch m"] | None = None,
    tables: Tables | None = None,
) -> Ranked:
    """Returns each history's best items, found by beam search over the trie.

    Every item returned exists and none comes twice. With as many beams as the catalogue has items
    the answer is that of `exact_scores`.

    Args:
        model: The model, in eval mode.
        trie: The catalogue's code sequences: `model.trie`, or, where the output vocabulary is by
            level, any other trie over the same codebooks.
        history: Item rows, oldest first, padded with the number of items.
        num_beams: Prefixes kept at each level.
        top_k: Items returned, at most `num_beams`.
        exclude: Item rows that must not be returned, padded with the number of items. They are
            struck out, and so is every prefix that leads to nothing else, before beams are chosen:
            each beam that is kept leads to an item that may be returned, hence `top_k` are found
            wherever that many remain. Scores stay as they are, not renormalised.
        tables: `model.tables()`, to be passed in where many calls are made with the same weights.

    Returns:
        The ranked items.

    Raises:
        ValueError: The model is in training mode, the trie is not its, or a number is out of range.
    """
    if top_k < 1 or num_beams < top_k:
        raise ValueError(
            f"top_k must be at least 1 and at most num_beams, got {top_k} and {num_beams}"
        )
    if exclude is not None:
        exclude = distinct(exclude, trie.num_items)
    walk = _Walk(model, trie, history, tables)
    prefixes = walk.start()
    for level in range(trie.num_levels):
        candidates = walk.expand(level, prefixes, exclude)
        width = top_k if level == trie.num_levels - 1 else num_beams
        best = candidates.scores.topk(min(width, candidates.scores.shape[1]), dim=1)
        if level < trie.num_levels - 1:
            prefixes = candidates.pick(best.indices)
    items = trie.leaf_items[candidates.nodes[candidates.place.gather(1, best.indices)]]
    items = items.masked_fill(best.values == -torch.inf, -1)
    missing = (0, top_k - items.shape[1])
    return Ranked(
        items=torch.nn.functional.pad(items, missing, value=-1),
        scores=torch.nn.functional.pad(best.values, missing, value=-torch.inf),
    )


@torch.inference_mode()
def exact_scores(
    model: Seq2Seq,
    trie: Trie,
    history: Int[Tensor, "batch length"],
    *,
    tables: Tables | None = None,
    prefixes_at_once: int = 16384,
) -> Float[Tensor, "batch items"]:
    """Returns log p(item | history) of every item (PRORec, eq. 1).

    Prefixes that items share are computed once. Subtrees are walked one after the other, so that
    memory beyond the result does not grow with the catalogue.

    Args:
        model: The model, in eval mode.
        trie: As in `beam_search`.
        history: Item rows, oldest first, padded with the number of items.
        tables: `model.tables()`, to be passed in where many calls are made with the same weights.
        prefixes_at_once: Prefixes, times users, that are decoded together.

    Raises:
        ValueError: The model is in training mode, or the trie is not its.
    """
    if prefixes_at_once < 1:
        raise ValueError(f"prefixes_at_once must be at least 1, got {prefixes_at_once}")
    walk = _Walk(model, trie, history, tables)
    scores = torch.empty(len(history), trie.num_items, device=history.device)
    at_once = max(prefixes_at_once // max(len(history), 1), 1)
    for leaves in walk.subtrees(0, walk.start(), at_once):
        scores.scatter_(1, trie.leaf_items[leaves.nodes[leaves.place]], leaves.scores)
    return scores


class _Walk:
    """One batch of histories on their way down the trie."""

    def __init__(self, model: Seq2Seq, trie: Trie, history: Tensor, tables: Tables | None) -> None:
        if model.training:
            raise ValueError("model must be in eval mode, got training mode: call model.eval()")
        sizes = "level_sizes" if model.config.output_vocabulary == "node" else "codebook_sizes"
        if getattr(trie, sizes) != model.vocabulary.level_sizes:
            raise ValueError(
                f"trie must have the model's {sizes} {model.vocabulary.level_sizes}, "
                f"got {getattr(trie, sizes)}"
            )
        self.model = model
        self.trie = trie
        self.tables = model.tables() if tables is None else tables
        self.settles = model.config.scoring == "renormalized"
        memory = model.encode(history)
        self.padding = memory.padding
        self.had = memory.items
        self.memories: list[KeysValues] = model.project_memory(memory)

    def start(self) -> _Prefixes:
        """Returns the root, once a user."""
        nodes = torch.zeros(len(self.padding), 1, dtype=torch.long, device=self.padding.device)
        return _Prefixes(nodes, torch.zeros_like(nodes, dtype=torch.float32), [])

    def expand(self, level: int, prefixes: _Prefixes, exclude: Tensor | None = None) -> _Candidates:
        """Returns all children of the prefixes, those at `level`, with their scores."""
        beams = prefixes.nodes.shape[1]
        if not level or not self.settles:
            return self._decode(level, prefixes, exclude)
        is_open = (self.trie.items_below(level - 1)[prefixes.nodes] > 1) & (
            prefixes.scores > -torch.inf
        )
        width = int(is_open.sum(dim=1).max())
        if width == beams:
            return self._decode(level, prefixes, exclude)
        order = (~is_open).byte().argsort(dim=1, stable=True)
        settled = self._settle(level, prefixes, order[:, width:])
        if not width:
            return settled
        chosen = order[:, :width]
        past = [[_rows(entry, chosen) for entry in layers] for layers in prefixes.past]
        opened = self._decode(
            level,
            _Prefixes(prefixes.nodes.gather(1, chosen), prefixes.scores.gather(1, chosen), past),
            exclude,
        )
        return _Candidates(
            torch.cat([opened.scores, settled.scores], dim=1),
            torch.cat([opened.place, settled.place + len(opened.nodes)], dim=1),
            torch.cat([opened.nodes, settled.nodes]),
            torch.cat([opened.beams, settled.beams]),
            opened.past,
        )

    def subtrees(self, level: int, prefixes: _Prefixes, at_once: int) -> Iterator[_Candidates]:
        """Yields all items below the prefixes, decoding a bounded number of prefixes at a time."""
        candidates = self.expand(level, prefixes)
        if level == self.trie.num_levels - 1:
            yield candidates
            return
        # All users walk the same nodes. Settled ones go together: they need no decoding.
        below = self.trie.items_below(level)[candidates.nodes[candidates.place[0]]]
        for columns in torch.split(below.argsort(descending=True), at_once):
            chunk = candidates.pick(columns.expand(len(candidates.scores), -1))
            yield from self.subtrees(level + 1, chunk, at_once)

    def _settle(self, level: int, prefixes: _Prefixes, beams: Tensor) -> _Candidates:
        """Returns the only child of each of these prefixes, at no cost in score."""
        nodes = self.trie.first_children(level)[prefixes.nodes.gather(1, beams)].flatten()
        place = torch.arange(len(nodes), device=nodes.device).view_as(beams)
        # No cache entry of theirs is ever read again, so any row will do: settled stays settled.
        any_row = torch.zeros_like(nodes)
        scores = prefixes.scores.gather(1, beams)
        return _Candidates(scores, place, nodes, any_row, prefixes.past)

    def _decode(self, level: int, prefixes: _Prefixes, exclude: Tensor | None) -> _Candidates:
        """Decodes one position for each prefix and scores its children."""
        beams = prefixes.nodes.shape[1]
        states, past = self._step(level, prefixes)
        children = self.trie.expand(level, prefixes.nodes.flatten())
        had = None
        if self.model.history_bias is not None:
            had = self.trie.exhausted(level, prefixes.nodes, children, self.had)
        scores = self.model.child_log_probs(
            level, states.flatten(0, 1), children, head=self.tables.head, had=had
        )
        scores = scores + prefixes.scores.flatten()[children.parent]
        if exclude is not None:
            struck = self.trie.exhausted(level, prefixes.nodes, children, exclude)
            scores[struck] = -torch.inf
        bounds = children.offsets[::beams]
        columns = torch.arange(int(bounds.diff().max()), device=bounds.device)
        place = bounds[:-1, None] + columns
        missing = place >= bounds[1:, None]
        place = place.masked_fill(missing, 0)
        scores = scores[place].masked_fill(missing, -torch.inf)
        return _Candidates(scores, place, children.node, children.parent % beams, past)

    def _step(self, level: int, prefixes: _Prefixes) -> tuple[Tensor, list[list[Tensor]]]:
        """Runs the decoder on the prefixes' last tokens; returns its states and the cache."""
        model = self.model
        if level:
            nodes = prefixes.nodes
            if model.config.output_vocabulary == "level":
                nodes = self.trie.node_codes(level - 1)[nodes]
            tokens = nodes + model.vocabulary.level_offsets[level - 1]
        else:
            tokens = torch.full_like(prefixes.nodes, model.vocabulary.bos)
        x = self.tables.tokens[tokens]
        new: list[Tensor] = []
        for number, layer in enumerate(model.decoder_layers):
            past = [entry[number] for entry in prefixes.past]
            attention = _cached_attention(layer, past, new)
            x = layer(x, self.memories[number], memory_padding=self.padding, attention=attention)
        states: Tensor = model.decoder_norm(x)
        return states, [*prefixes.past, new]


def _cached_attention(
    layer: DecoderLayer, past: list[Tensor], new: list[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Returns a layer's self-attention over its past; it appends the new position to `new`."""

    def attention(normed: Tensor) -> Tensor:
        out, entry = layer.attention.step(normed, past)
        new.append(entry)
        return out

    return attention


def _rows(entry: Tensor, beams: Int[Tensor, "users beams"]) -> Tensor:
    """Returns the rows of a cache entry that belong to these beams."""
    users, width, dim = entry.shape
    if width == 1:
        return entry
    first = torch.arange(0, users * width, width, device=beams.device)[:, None]
    return entry.flatten(0, 1)[(beams + first).flatten()].view(users, -1, dim)
