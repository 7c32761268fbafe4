"""The encoder-decoder over semantic IDs (PRORec, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone
from genrec.cached import CachedLayer, cached_layers
from genrec.children import Children
from genrec.history import HistoryEmbedding, newest_items
from genrec.item_checks import first_of_each
from genrec.item_graph import ItemGraph, ItemScores
from genrec.layers import DecoderLayer, Dropout, EncoderLayer, KeysValues
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.shard_units import ShardUnits
from genrec.similarity import unit
from genrec.trie import Trie
from genrec.vocabulary import TokenTable, Vocabulary, node_means


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Encoded histories.

    Attributes:
        states: One state per position; an item has one position, or one for each level.
        padding: True at padded positions, whose states have no meaning.
        items: The items of each history without repeats, padded with `num_items`.
        scores: The item graph's scores of items; None if the model has no item graph.
    """

    states: Float[Tensor, "batch positions dim"]
    padding: Bool[Tensor, "batch positions"]
    items: Int[Tensor, "batch m"]
    scores: ItemScores | None = None

    @property
    def newest(self) -> Float[Tensor, "batch dim"]:
        """The state of the newest position; zeros for an empty history."""
        return self.states[:, -1].masked_fill(self.padding[:, -1:], 0.0)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOutput:
    """The outputs of a training step, in nats where they are losses or log-probabilities.

    Attributes:
        log_prob: Log-probability of each code of the target given the codes before it (the terms of
            PRORec, eq. 1 and 6); their sum is the log-probability of the item.
        loss: PRORec, eq. 6 with a minus sign: the mean over the batch of the sum over the levels,
            with label smoothing if the config has it.
        taught: Cross-entropy of the model's distribution with a teacher's, over the siblings of
            each node on the target's path, summed over the levels; the mean over the batch. None
            without a teacher.
        distillation: Final state of <c_dis> or of <BOS>, depending on `distillation_state`,
            projected to `distillation_dim` (PRORec, eq. 7); None if `distillation_dim` is None.
    """

    log_prob: Float[Tensor, "batch levels"]
    loss: Float[Tensor, ""]
    taught: Float[Tensor, ""] | None
    distillation: Float[Tensor, "batch distillation_dim"] | None


class Tables(NamedTuple):
    """The vectors of all tokens, and the decoder's weights, prepared for decoding.

    Attributes:
        tokens: The decoder's input vector for each token.
        head: The vector of each code that states are compared with, fp32; a unit vector if the
            similarity is cosine.
        layers: The decoder's weights.
    """

    tokens: Float[Tensor, "tokens dim"]
    head: Float[Tensor, "codes dim"]
    layers: list[CachedLayer]


class ScoreLogits(nn.Module):
    """Turns scores of items into logits of codes: the sum over kinds of w log(sum + floor).

    Each level and kind has its own w and floor; both are learned. By the floor, nodes without any
    score keep a probability above 0. The network's own logits are multiplied by a scale per level,
    which training leaves at 1: see `genrec.calibration`. The logits also get the logarithm of the
    number of interactions below a node, times the weight `popularity`. The user of the model can
    set this weight: 0 is the default, and a value below 0 makes the ranking less popular.

    Args:
        level_sizes: Number of nodes of each level.
        num_kinds: Number of kinds of scores.
    """

    log_counts: Tensor

    def __init__(self, level_sizes: Sequence[int], num_kinds: int) -> None:
        super().__init__()
        levels = len(level_sizes)
        # Parameters are a tenth of the values used, so they learn faster.
        self.weight = nn.Parameter(torch.full((levels, num_kinds), 0.05))
        self.log_floor = nn.Parameter(torch.full((levels, num_kinds), -0.3))
        self.scale = nn.Parameter(torch.ones(levels), requires_grad=False)
        self.popularity = nn.Parameter(torch.zeros(()), requires_grad=False)
        # One number per node, level by level; all 0 if the interaction counts are not known.
        self.register_buffer("log_counts", torch.zeros(sum(level_sizes)))
        self.first_nodes = [sum(level_sizes[:level]) for level in range(levels)]

    def count(self, trie: Trie, item_counts: Int[Tensor, " items"]) -> None:
        """Sets the number of interactions of each item."""
        paths = trie.paths(torch.arange(trie.num_items, device=trie.device))  # [items, levels]
        first = torch.tensor(self.first_nodes, device=paths.device)
        counts = torch.zeros_like(self.log_counts)
        counts.index_add_(0, (paths + first).T.flatten(), item_counts.float().repeat(len(first)))
        self.log_counts.copy_(counts.log1p())

    def item_counts(self, trie: Trie) -> Int[Tensor, " items"]:
        """Returns the number of interactions of each item, as set by `count`."""
        leaves = self.log_counts[self.first_nodes[-1] :]  # [leaves]
        return leaves[trie.item_leaves.long()].expm1().round().long()

    def forward(
        self,
        level: int,
        logits: Float[Tensor, " children"],
        sums: Float[Tensor, "children kinds"],
        nodes: Int[Tensor, " children"],
    ) -> Float[Tensor, " children"]:
        """Returns the network's logits of these nodes plus the logits from the scores."""
        floor = (10 * self.log_floor[level]).exp()
        told: Tensor = (sums.clamp(min=0) + floor).log() @ (10 * self.weight[level])
        counts = self.log_counts[self.first_nodes[level] + nodes]
        return self.scale[level] * logits + told + self.popularity * counts


class Seq2Seq(nn.Module):
    """Reads a history of items and generates the codes of the next one (PRORec, section 3.4).

    Initial weights come from torch's global generator, as in any torch module.

    Args:
        config: Sizes and choices.
        trie: The catalogue's codes.
        item_vectors: One finite vector per item, for a history of vectors and for
            `node_start="vectors"`. Without them, a history of vectors uses vectors of width `dim`
            that start at random and are trained.
        item_graph: Item-to-item scores that are added to the logits; needs "renormalized" scoring.
        item_counts: Number of interactions of each item; used only with an item graph.
        backbone: The model that reads histories if `history_input` is "backbone": a trained
            sequence model of width `dim`. It becomes a part of this model.

    Raises:
        ValueError: `item_vectors` are missing, of the wrong length, not finite, or without effect;
            or `item_graph` or `backbone` does not fit `config` or the catalogue.
    """

    node_vectors: Tensor | None

    def __init__(
        self,
        config: Seq2SeqConfig,
        trie: Trie,
        *,
        item_vectors: Float[Tensor, "items vector_dim"] | None = None,
        item_graph: ItemGraph | None = None,
        item_counts: Int[Tensor, " items"] | None = None,
        backbone: StateBackbone | None = None,
    ) -> None:
        super().__init__()
        _check_item_vectors(config, trie.num_items, item_vectors)
        _check_backbone(config, trie.num_items, backbone)
        if item_graph is not None:
            _check_item_graph(config, trie.num_items, item_graph)
        self.config = config
        self.trie = trie
        by_node = config.output_vocabulary == "node"
        self.vocabulary = Vocabulary(
            level_sizes=trie.level_sizes if by_node else trie.codebook_sizes
        )
        self.backbone = backbone
        if backbone is None:
            self.history = HistoryEmbedding(
                trie,
                config.dim,
                history_length=config.history_length,
                history_input=config.history_input,
                item_vectors=item_vectors,
                train_item_vectors=config.train_item_vectors,
            )
        node_vectors = None
        if config.node_start == "vectors":
            assert item_vectors is not None
            node_vectors = node_means(trie, item_vectors)
        self.register_buffer("node_vectors", node_vectors)
        num_codes = self.vocabulary.bos
        fixed_dim = None if node_vectors is None else node_vectors.shape[1]
        self.tokens = TokenTable(
            self.vocabulary.size, config.dim, num_fixed=num_codes, fixed_dim=fixed_dim
        )
        self.head = TokenTable(num_codes, config.dim, num_fixed=num_codes, fixed_dim=fixed_dim)
        sizes = (config.dim, config.num_heads, config.feedforward_dim)
        if backbone is None:
            self.encoder = nn.ModuleList(
                EncoderLayer(*sizes, dropout=config.dropout)
                for _ in range(config.num_encoder_layers)
            )
            self.encoder_norm = nn.LayerNorm(config.dim)
        self.decoder = nn.ModuleList(
            DecoderLayer(*sizes, dropout=config.dropout) for _ in range(config.num_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.history_bias: nn.Parameter | None = None
        if config.history_bias:
            self.history_bias = nn.Parameter(torch.zeros(()))
        self.item_graph = item_graph
        self.score_logits: ScoreLogits | None = None
        if item_graph is not None:
            self.score_logits = ScoreLogits(trie.level_sizes, item_graph.num_kinds)
            if item_counts is not None:
                self.score_logits.count(trie, item_counts)
        self.distillation: nn.Linear | None = None
        if config.distillation_dim is not None:
            self.distillation = nn.Linear(config.dim, config.distillation_dim)

    def shard_units(self) -> list[nn.Module]:
        """Returns the layers that a sharded training gathers one at a time: the encoder's.

        The decoder's are used outside of their `forward` too, where the memory is projected.
        """
        if isinstance(self.backbone, ShardUnits):
            return self.backbone.shard_units()
        return [] if self.backbone is not None else list(self.encoder)

    def encode(
        self,
        history: Int[Tensor, "batch length"],
        *,
        future: Int[Tensor, "batch ahead"] | None = None,
    ) -> Memory:
        """Encodes histories.

        It does not check the rows, since a check would wait for the device: check them before.

        Args:
            history: Item rows, oldest first, padded with `num_items` on either side; an empty
                history is all padding.
            future: As for `forward`.

        Returns:
            The encoder's states.
        """
        states, padding = self.states(history)
        items = first_of_each(history, self.trie.num_items)
        scores = None if self.item_graph is None else self.item_graph(history, future)
        return Memory(states=states, padding=padding, items=items, scores=scores)

    def states(
        self, history: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "batch positions dim"], Bool[Tensor, "batch positions"]]:
        """Returns the encoder's states, the newest last, and True where padding is."""
        if self.backbone is not None:
            return self._backbone_states(self.backbone, history)
        x, padding = self.history(history)
        x = self.dropout(x)
        for layer in self.encoder:
            x = layer(x, padding=padding)
        states: Tensor = self.encoder_norm(x)
        return states, padding

    def _backbone_states(
        self, backbone: StateBackbone, history: Tensor
    ) -> tuple[Float[Tensor, "batch positions dim"], Bool[Tensor, "batch positions"]]:
        """Returns a backbone's states with the newest last, and True where padding is."""
        history = newest_items(history, self.trie.num_items, self.config.history_length)
        padding = history == self.trie.num_items  # [batch, length], on the left
        columns = torch.arange(history.shape[1], device=history.device)
        shift = padding.sum(dim=1, keepdim=True)  # [batch, 1]
        # A backbone needs padding on the right: it is moved there, and then back to the left.
        to_left, to_right = columns + shift, columns - shift  # [batch, length], around the ends
        to_left = torch.where(to_left < history.shape[1], to_left, to_left - history.shape[1])
        to_right = torch.where(to_right < 0, to_right + history.shape[1], to_right)
        states = backbone(history.gather(1, to_left))  # [batch, length, dim]
        return states.gather(1, to_right[..., None].expand_as(states)), padding

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The decoder's layers, first to last."""
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def project_memory(self, memory: Memory) -> list[KeysValues]:
        """Returns the keys and values of the encoder's states for each decoder layer."""
        return [layer.cross_attention.project(memory.states) for layer in self.decoder_layers]

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        targets: Int[Tensor, " batch"],
        *,
        future: Int[Tensor, "batch ahead"] | None = None,
        teacher: Float[Tensor, "batch items"] | None = None,
    ) -> Seq2SeqOutput:
        """Scores the target of each history, with teacher forcing.

        Args:
            history: Item rows, oldest first, padded with `num_items` on either side.
            targets: Row of the next item.
            future: The target and the items after it, padded on the right. If the item graph was
                counted from these histories, it must not use these pairs. None otherwise.
            teacher: A distribution over items after each history: values of at least 0; a row need
                not sum to 1.

        Returns:
            Log-probabilities by level, the generation loss and the state of <c_dis>.
        """
        return self.decode(self.encode(history, future=future), targets, teacher=teacher)

    def decode(
        self,
        memory: Memory,
        targets: Int[Tensor, " batch"],
        *,
        teacher: Float[Tensor, "batch items"] | None = None,
    ) -> Seq2SeqOutput:
        """Scores the target of each encoded history, as `forward` does."""
        paths = self.trie.paths(targets)
        num_levels = paths.shape[1]
        inputs = F.pad(self.path_tokens(paths), (1, 0), value=self.vocabulary.bos)
        first = self.config.distillation_state == "first"
        if self.distillation is None or first:
            inputs = inputs[:, :-1]
        else:
            inputs = F.pad(inputs, (0, 1), value=self.vocabulary.c_dis)
        states = self._decoder_states(memory, inputs)
        parents = F.pad(paths[:, :-1], (1, 0))
        before = None if teacher is None else self.trie.sums_before_leaves(teacher)
        log_prob, smoothed, taught = [], [], []
        for level in range(num_levels):
            above = parents[:, level]
            children = self.trie.expand(level, above)
            had, sums = self.told(self.trie, level, above[:, None], children, memory)
            log_probs = self.child_log_probs(level, states[:, level], children, had=had, sums=sums)
            place = self.trie.child_places(level, above, children, paths[:, level])
            log_prob.append(log_probs[place])  # [batch]
            smoothed.append(self._smoothed(log_prob[-1], log_probs, children))
            if before is not None:
                shares = children.shares(self.trie.sums_under(level, children, before))
                taught.append(children.totals(shares * log_probs))
        return Seq2SeqOutput(
            log_prob=torch.stack(log_prob, dim=1),
            loss=-torch.stack(smoothed, dim=1).sum(dim=1).mean(),
            taught=-torch.stack(taught, dim=1).sum(dim=1).mean() if taught else None,
            distillation=None
            if self.distillation is None
            else self.distillation(states[:, 0 if first else -1]),
        )

    def path_states(
        self, memory: Memory, paths: Int[Tensor, "batch levels"]
    ) -> Float[Tensor, "batch levels dim"]:
        """Returns the decoder's states before each node of a path, one path per history."""
        inputs = F.pad(self.path_tokens(paths), (1, 0), value=self.vocabulary.bos)
        return self._decoder_states(memory, inputs[:, :-1])

    def dense_state(self, memory: Memory) -> Float[Tensor, "batch distillation_dim"]:
        """Returns the state that distillation trains, from encoded histories without targets.

        Raises:
            ValueError: `distillation_state` is not "first", so the state needs the target's codes.
        """
        if self.distillation is None or self.config.distillation_state != "first":
            raise ValueError(
                'distillation_state must be "first" for a state without codes, '
                f"got {self.config.distillation_state!r}"
            )
        start = memory.items.new_full((memory.items.shape[0], 1), self.vocabulary.bos)
        state: Tensor = self.distillation(self._decoder_states(memory, start)[:, 0])
        return state

    def _decoder_states(
        self, memory: Memory, inputs: Int[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch positions dim"]:
        """Returns the decoder's state after each of these tokens."""
        x = self.tokens(inputs, self.node_vectors)
        if self.config.direct_path:
            x = torch.cat([x[:, :1] + memory.newest[:, None], x[:, 1:]], dim=1)
        x = self.dropout(x)
        for layer, keys_values in zip(
            self.decoder_layers, self.project_memory(memory), strict=True
        ):
            x = layer(x, keys_values, memory_padding=memory.padding)
        states: Tensor = self.decoder_norm(x)
        return states

    def path_tokens(self, paths: Int[Tensor, "*batch levels"]) -> Int[Tensor, "*batch levels"]:
        """Returns the token of each node of paths that start at level 0."""
        if self.config.output_vocabulary == "node":
            return self.vocabulary.encode(paths)
        return self.vocabulary.encode(self.trie.codes_on(paths))

    def tables(self) -> Tables:
        """Returns the tables for decoding; they are valid until the weights change."""
        with torch.no_grad():
            everything = torch.arange(self.vocabulary.size, device=self.tokens.weight.device)
            head = self._head_rows(everything[: self.vocabulary.bos])
            tokens = self.tokens(everything, self.node_vectors)
            return Tables(tokens, head.float(), cached_layers(self.decoder_layers))

    def child_log_probs(
        self,
        level: int,
        states: Float[Tensor, "queries dim"],
        children: Children,
        *,
        head: Float[Tensor, "codes dim"] | None = None,
        had: Int[Tensor, " places"] | None = None,
        sums: Float[Tensor, "children kinds"] | None = None,
    ) -> Float[Tensor, " children"]:
        """Returns log p(child | history, prefix) in fp32, one factor of PRORec, eq. 1.

        Args:
            level: The children's level.
            states: The decoder's state after each prefix.
            children: The children of each prefix, in the same order.
            head: `tables().head`, if available; otherwise the required rows are computed here.
            had: Positions of the children that lead only to items of the history, from
                `trie.exhausted`; required if the config has `history_bias`.
            sums: The sum of the item graph's scores of the items under each child, from
                `trie.sums_below`; required if the model has an item graph.
        """
        with torch.autocast(states.device.type, enabled=False):
            if self.config.scoring == "masked":
                return self._masked_log_probs(level, states, children, head)
            logits = self.child_logits(level, states, children, head=head)
            return children.log_softmax(self.biased(level, logits, children, had, sums))

    def child_logits(
        self,
        level: int,
        states: Float[Tensor, "queries dim"],
        children: Children,
        *,
        head: Float[Tensor, "codes dim"] | None = None,
    ) -> Float[Tensor, " children"]:
        """Returns the network's own logits of children, before `biased` and the softmax.

        Arguments are those of `child_log_probs`.
        """
        states, first, size = self.compared(states), *self._level_rows(level)
        if self.config.output_vocabulary == "level":
            rows = self._head_slice(first, size, head)
            return (states @ rows.T)[children.parent, children.codes]
        if head is None:
            needed, column = torch.unique(children.node, return_inverse=True)
            return children.products(states, self._head_rows(needed + first), column)
        return children.products(states, head[first : first + size], children.node)

    def _masked_log_probs(
        self, level: int, states: Tensor, children: Children, head: Tensor | None
    ) -> Tensor:
        """Returns log p of children in a softmax over all codes of the level."""
        rows = self._head_slice(*self._level_rows(level), head)
        table = self.compared(states) @ rows.T  # [queries, codes]
        return table[children.parent, children.codes] - table.logsumexp(dim=-1)[children.parent]

    def compared(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns states in fp32, ready for products with rows of the head."""
        states = states.float()
        if self.config.similarity == "cosine":
            states = unit(states)
        return states / self.config.temperature

    def _level_rows(self, level: int) -> tuple[int, int]:
        """Returns the first row of a level's codes or nodes in the head, and how many there are."""
        return self.vocabulary.level_offsets[level], self.vocabulary.level_sizes[level]

    def _head_slice(self, first: int, size: int, head: Tensor | None) -> Tensor:
        if head is not None:
            return head[first : first + size]
        return self._head_rows(torch.arange(first, first + size, device=self.head.weight.device))

    def biased(
        self,
        level: int,
        logits: Tensor,
        children: Children,
        had: Tensor | None,
        sums: Tensor | None,
    ) -> Tensor:
        """Returns logits plus the item graph's logits and the history's bias.

        The parameter of the bias is a tenth of the bias, so it learns faster. Arguments are those
        of `child_log_probs`.
        """
        if self.score_logits is not None:
            assert sums is not None
            logits = self.score_logits(level, logits, sums, children.node)
        if self.history_bias is None:
            return logits
        assert had is not None
        mark = torch.zeros_like(logits)
        mark[had] = 10.0
        return logits + self.history_bias * mark

    def told(
        self, trie: Trie, level: int, parents: Tensor, children: Children, memory: Memory
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns `had` and `sums` of `child_log_probs`, which depend on the histories' items.

        Args:
            trie: The model's trie, or another catalogue's.
            level: The children's level.
            parents: Each history's nodes of the level above, [batch, beams].
            children: Their children.
            memory: The encoded histories.
        """
        had, sums = None, None
        if self.history_bias is not None:
            had = trie.exhausted(level, parents, children, memory.items)
        if memory.scores is not None:
            sums = trie.sums_below(level, parents, children, memory.scores)
        return had, sums

    def _smoothed(self, chosen: Tensor, log_probs: Tensor, children: Children) -> Tensor:
        """Returns the chosen children's log-probabilities with label smoothing over siblings."""
        smoothing = self.config.label_smoothing
        if not smoothing:
            return chosen
        return (1 - smoothing) * chosen + smoothing * children.totals(log_probs) / children.counts

    def _head_rows(self, codes: Int[Tensor, " codes"]) -> Float[Tensor, "codes dim"]:
        rows: Tensor = self.head(codes, self.node_vectors)
        if self.config.similarity == "cosine":
            rows = unit(rows)
        return rows


def _check_backbone(config: Seq2SeqConfig, num_items: int, backbone: StateBackbone | None) -> None:
    if (backbone is None) == (config.history_input == "backbone"):
        raise ValueError(
            f'backbone must be given when, and only when, history_input is "backbone", got '
            f"{type(backbone).__name__} and {config.history_input!r}"
        )
    if backbone is not None and (backbone.num_items, backbone.dim) != (num_items, config.dim):
        raise ValueError(
            f"backbone must be of {num_items} items and width {config.dim}, got "
            f"{backbone.num_items} and {backbone.dim}"
        )


def _check_item_graph(config: Seq2SeqConfig, num_items: int, item_graph: ItemGraph) -> None:
    if config.scoring == "masked":
        raise ValueError(
            'item_graph must be None when scoring is "masked", got one: its scores change a '
            "softmax over siblings only"
        )
    if item_graph.num_items != num_items:
        raise ValueError(
            f"item_graph must be of {num_items} items, got one of {item_graph.num_items}"
        )


def _check_item_vectors(config: Seq2SeqConfig, num_items: int, item_vectors: Tensor | None) -> None:
    if item_vectors is None:
        for name in ("train_item_vectors", "node_start"):
            if getattr(config, name) in (True, "vectors"):
                raise ValueError(
                    f"item_vectors must be given when {name} is {getattr(config, name)}, got None"
                )
        return
    if config.history_input in ("codes", "backbone") and config.node_start == "random":
        raise ValueError(
            "item_vectors must be None when neither the history nor the nodes read them, got a "
            'table: set history_input to "vectors" or "both", or node_start to "vectors"'
        )
    if item_vectors.ndim != 2 or len(item_vectors) != num_items:
        raise ValueError(
            f"item_vectors must have one row for each of {num_items} items, got shape "
            f"{tuple(item_vectors.shape)}"
        )
    if not bool(item_vectors.isfinite().all()):
        row = int((~item_vectors.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"item_vectors must be finite, got NaN or infinity in row {row}")
