"""Beam search whose shapes depend only on the model and the batch, so that it can be traced.

In the search of `genrec.decoding`, shapes depend on the data: each prefix has as many children as
in the catalogue, and prefixes that lead to one item are not decoded. A traced program can do
neither. Here every prefix has as many places for children as the largest node of its level; the
unused places score minus infinity, and every prefix is decoded. The results are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.children import Children
from genrec.decoding import check_beams, search
from genrec.model_walk import ModelWalk, Positions
from genrec.seq2seq import Memory, Seq2Seq, Tables
from genrec.trie import Trie
from genrec.walk import Candidates, Prefixes


@dataclass(frozen=True, kw_only=True)
class PaddedChildren(Children):
    """The children of several nodes, with equally many places for each node.

    Unused places repeat the last child.

    Attributes:
        missing: True at unused places.
    """

    missing: Bool[Tensor, "parents places"]

    @classmethod
    def expand(
        cls, trie: Trie, level: int, parents: Int[Tensor, " parents"], places: int
    ) -> PaddedChildren:
        """Lists the children of several nodes, as `trie.expand` does.

        Args:
            trie: The trie.
            level: The children's level.
            parents: Nodes of the level above; at level 0 the root, node 0.
            places: Places for the children of each parent; no parent has more children.
        """
        first = trie.first_child(level, parents)[:, None]  # [parents, 1]
        end = trie.first_child(level, parents + 1)[:, None]
        column = torch.arange(places, device=parents.device)
        node = first + column  # [parents, places]
        parent = torch.arange(parents.shape[0], device=parents.device)[:, None]
        return cls(
            node=torch.minimum(node, end - 1).flatten(),
            parent=parent.expand(-1, places).flatten(),
            offsets=torch.arange(parents.shape[0] + 1, device=parents.device) * places,
            level_codes=trie.get_buffer(f"codes_{level}"),
            missing=node >= end,
        )

    def log_softmax(self, logits: Float[Tensor, " children"]) -> Float[Tensor, " children"]:
        """Returns a log-softmax over each parent's children; minus infinity in unused places."""
        table = logits.view(self.missing.shape).masked_fill(self.missing, -torch.inf)
        return table.log_softmax(dim=1).flatten()

    def products(
        self,
        states: Float[Tensor, "parents dim"],
        rows: Float[Tensor, "rows dim"],
        row: Int[Tensor, " children"],
    ) -> Float[Tensor, " children"]:
        """Returns the dot product of each child's row with its parent's state."""
        table = rows[row.view(self.missing.shape)]  # [parents, places, dim]
        return (table @ states[:, :, None]).flatten()


class PaddedWalk(ModelWalk):
    """Decoding of a batch of histories in the trie, with shapes that do not depend on the data.

    Args:
        model: The model; its own trie is used.
        memory: The encoded histories.
        tables: `model.tables()`.
        places: The largest number of children of a node, level by level.
    """

    def __init__(
        self, model: Seq2Seq, memory: Memory, *, tables: Tables, places: Sequence[int]
    ) -> None:
        super().__init__(model, model.trie, memory, tables=tables)
        self.places = places

    def expand(self, level: int, prefixes: Prefixes[Positions]) -> Candidates[Positions]:
        """Returns the prefixes' children, which are at `level`, and unused places."""
        users, num_beams = prefixes.nodes.shape
        scores, children, past = self.log_probs(level, prefixes)
        assert isinstance(children, PaddedChildren)
        scores = scores.masked_fill(children.missing.flatten(), -torch.inf)
        place = torch.arange(scores.shape[0], device=scores.device).view(users, -1)
        beams = children.parent % num_beams
        return Candidates(scores.view(users, -1), place, children.node, beams, past)

    def _padding(self) -> Bool[Tensor, "users positions"]:
        return self.memory.padding

    def _children(self, level: int, nodes: Int[Tensor, " parents"]) -> PaddedChildren:
        return PaddedChildren.expand(self.trie, level, nodes, self.places[level])


class PaddedBeamSearch(nn.Module):
    """`beam_search` as a module that `torch.export` can trace, with a batch of any size.

    Its results are those of `beam_search`. Each level costs `num_beams` times the largest number of
    children of a node above it. So `beam_search` is several times faster if some nodes have many
    children, or if most prefixes lead to one item. This module does not check its input.

    Args:
        model: The model, in eval mode, on its final device; the tables for decoding are computed
            once, in this constructor.
        num_beams: Prefixes kept at each level.
        top_k: Items returned, at most `num_beams`.

    Raises:
        ValueError: The model is in training mode, or a number is out of range.
    """

    def __init__(self, model: Seq2Seq, *, num_beams: int = 100, top_k: int = 10) -> None:
        super().__init__()
        check_beams(model, num_beams, top_k)
        self.model = model
        self.num_beams, self.top_k = num_beams, top_k
        self.tables = model.tables()
        self.places = [model.trie.most_children(level) for level in range(model.trie.num_levels)]
        for level in range(model.trie.num_levels):
            model.trie.item_nodes(level)  # cached here, since a trace must not cache its tensors
        self.eval()

    @torch.no_grad()
    def forward(
        self, history: Int[Tensor, "batch length"]
    ) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
        """Returns the items and the scores of `beam_search`.

        Args:
            history: Item rows, oldest first, padded with the number of items on either side.
        """
        memory = self.model.encode(history)
        walk = PaddedWalk(self.model, memory, tables=self.tables, places=self.places)
        ranked = search(walk, num_beams=self.num_beams, top_k=self.top_k)
        return ranked.items, ranked.scores
