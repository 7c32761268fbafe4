"""Decoding of the encoder-decoder in the trie, with a key/value cache.

The encoder's keys and values are projected once per call and shared by all prefixes of a user,
which are its queries. Each decoding step adds one entry of keys and values per prefix, and only the
entries of kept prefixes are copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from genrec.cached import CachedDecoder, beam_rows
from genrec.children import Children
from genrec.masks import Mask
from genrec.seq2seq import Memory, Seq2Seq, Tables
from genrec.trie import Trie
from genrec.walk import Past, Prefixes, Walk


@dataclass(frozen=True)
class Positions(Past):
    """The keys and values of the prefixes' positions, oldest first."""

    entries: tuple[Tensor, ...] = ()  # one per level, each [layers, users, beams or 1, 2 * dim]

    def of_beams(self, beams: Int[Tensor, "users beams"]) -> Positions:
        """Returns the keys and values of some beams, in this order."""
        return Positions(tuple(beam_rows(entry, beams) for entry in self.entries))


class ModelWalk(Walk[Positions]):
    """Decoding of a batch of histories in the trie of a `Seq2Seq`.

    Args:
        model: The model, in eval mode.
        trie: The trie of its catalogue, or of another one over the same codebooks.
        memory: The encoded histories.
        tables: `model.tables()`; computed here if None.
        mask: The items that may be returned; None allows all.

    Raises:
        ValueError: The trie does not fit the model.
    """

    def __init__(
        self,
        model: Seq2Seq,
        trie: Trie,
        memory: Memory,
        *,
        tables: Tables | None = None,
        mask: Mask | None = None,
    ) -> None:
        sizes = "level_sizes" if model.config.output_vocabulary == "node" else "codebook_sizes"
        if getattr(trie, sizes) != model.vocabulary.level_sizes:
            raise ValueError(
                f"trie must have the model's {sizes} {model.vocabulary.level_sizes}, "
                f"got {getattr(trie, sizes)}"
            )
        tells = model.history_bias is not None or model.item_graph is not None
        if tells and trie is not model.trie:
            raise ValueError(
                "trie must be model.trie if the config has history_bias or the model has an item "
                "graph, got another trie: the history's items are rows of the model's catalogue; "
                "use with_catalogue(...) and its trie"
            )
        super().__init__(trie, mask=mask, settles=model.config.scoring == "renormalized")
        self.model = model
        self.tables = model.tables() if tables is None else tables
        self.memory = memory
        self.decoder = CachedDecoder(
            self.tables.layers, model.decoder_norm, model.project_memory(memory), self._padding()
        )

    def start(self) -> Prefixes[Positions]:
        """Returns the root, once for each user."""
        padding = self.memory.padding
        nodes = torch.zeros(padding.shape[0], 1, dtype=torch.long, device=padding.device)
        return Prefixes(nodes, torch.zeros_like(nodes, dtype=torch.float32), Positions())

    def _padding(self) -> Bool[Tensor, "users positions"] | None:
        """Returns True where the encoder's positions are padding; None if there is none."""
        padding = self.memory.padding
        return padding if bool(padding.any()) else None

    def log_probs(
        self, level: int, prefixes: Prefixes[Positions]
    ) -> tuple[Tensor, Children, Positions]:
        """Returns the score of each child of the prefixes, the children, and the cache."""
        states, past = self._step(level, prefixes)  # [users, beams, dim]
        children = self._children(level, prefixes.nodes.flatten())
        had, sums = self.model.told(self.trie, level, prefixes.nodes, children, self.memory)
        scores = self.model.child_log_probs(
            level, states.flatten(0, 1), children, head=self.tables.head, had=had, sums=sums
        )
        before = prefixes.scores.flatten()[children.parent]  # [children], the prefixes' scores
        return scores + before, children, past

    def _children(self, level: int, nodes: Int[Tensor, " parents"]) -> Children:
        """Returns the children of these nodes of the level above."""
        return self.trie.expand(level, nodes)

    def _step(self, level: int, prefixes: Prefixes[Positions]) -> tuple[Tensor, Positions]:
        """Runs the decoder on the prefixes' last tokens; returns its states and the cache."""
        model = self.model
        if level:
            nodes = prefixes.nodes
            if model.config.output_vocabulary == "level":
                nodes = self.trie.node_codes(level - 1, nodes)
            tokens = nodes + model.vocabulary.level_offsets[level - 1]  # [users, beams]
        else:
            tokens = torch.full_like(prefixes.nodes, model.vocabulary.bos)
        x = self.tables.tokens[tokens]  # [users, beams, dim]
        if not level and model.config.direct_path:
            x = x + self.memory.newest[:, None]
        states, new = self.decoder.step(x, prefixes.past.entries)
        return states, Positions((*prefixes.past.entries, new))
