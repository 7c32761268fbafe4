"""Item-to-item scores inside an encoder-decoder: scores of next items without training.

An item-to-item matrix, such as a transition graph or the nearest neighbours in text, contains the
score that each item of a history adds to every other item. The sums of these scores below the nodes
of a trie are a distribution over codes. A model can use it in training and in decoding.

**No leak in training.** A matrix that was counted from the training histories also contains the
pair that a training example must predict. So the pairs between a history and its own future are
subtracted from the counts of this example, exactly. The rest is the matrix of all other users and
of this user's past, as it is when the history is a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """Scores of some items after each history; the score of an item is the sum of its entries.

    A sum is at least 0. A single entry may be below 0, since it may subtract a pair.

    Attributes:
        rows: The history that each entry belongs to.
        items: Item row of each entry.
        scores: One column for each kind of score.
    """

    rows: Int[Tensor, " entries"]
    items: Int[Tensor, " entries"]
    scores: Float[Tensor, "entries kinds"]

    def dense(self, num_rows: int, num_items: int) -> Float[Tensor, "kinds rows items"]:
        """Returns the sums as tables, at least 0."""
        kinds = self.scores.shape[1]
        flat = self.scores.new_zeros(num_rows * num_items, kinds)
        flat.index_add_(0, self.rows * num_items + self.items, self.scores)
        return flat.clamp(min=0).view(num_rows, num_items, kinds).permute(2, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ItemMatrix:
    """One kind of item-to-item score in compressed rows, and how it was counted.

    Attributes:
        offsets: Where each item's row starts in `neighbours` and `weights`, and the end.
        neighbours: Item rows.
        weights: The score, at least 0, that an item of the history adds to each neighbour.
        decay: Factor for each further step into the past, in (0, 1].
        forward: For d = 1, 2 and so on: the weight that two items of a training history, d steps
            apart, have added to the entry from the earlier to the later item. Empty if the matrix
            was not counted from the histories.
        backward: The same for the entry from the later to the earlier item.
    """

    offsets: Int[Tensor, " items_and_one"]
    neighbours: Int[Tensor, " edges"]
    weights: Float[Tensor, " edges"]
    decay: float
    forward: Sequence[float] = ()
    backward: Sequence[float] = ()


class ItemGraph(nn.Module):
    """Scores next items of a history by several item-to-item matrices; nothing is trained.

    The item that is a steps before the newest one has the weight `decay ** a`. The tensors are
    buffers, so they move and are saved with the model. Make a graph by `ItemGraph.build`; the
    constructor makes one whose edges are all zero, into which weights can be loaded.

    Args:
        num_items: Items of the catalogue.
        num_edges: Number of pairs of items with any score.
        num_kinds: Number of matrices.
        last_items: How many of the newest items of a history are used.
        window: Largest distance of two items that was counted; 0 if nothing was counted.

    Raises:
        ValueError: `last_items` is below 1.
    """

    offsets: Tensor
    neighbours: Tensor
    weights: Tensor
    decays: Tensor
    kernel: Tensor

    def __init__(
        self, num_items: int, *, num_edges: int, num_kinds: int, last_items: int, window: int
    ) -> None:
        super().__init__()
        if last_items < 1:
            raise ValueError(f"last_items must be at least 1, got {last_items}")
        self.num_items, self.last_items = num_items, last_items
        self.register_buffer("offsets", torch.zeros(num_items + 1, dtype=torch.long))
        self.register_buffer("neighbours", torch.zeros(num_edges, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(num_edges, num_kinds))
        self.register_buffer("decays", torch.ones(num_kinds))
        # The weight that a pair has added, by its distance from -window to window.
        self.register_buffer("kernel", torch.zeros(2 * window + 1, num_kinds))

    @classmethod
    def build(
        cls, num_items: int, matrices: Sequence[ItemMatrix], *, last_items: int = 20
    ) -> ItemGraph:
        """Joins matrices of the same catalogue; each edge has one weight per matrix.

        Args:
            num_items: Items of the catalogue.
            matrices: The kinds of scores.
            last_items: How many of the newest items of a history are used.

        Raises:
            ValueError: A matrix does not fit, or a number is out of range.
        """
        if not matrices:
            raise ValueError("matrices must be at least one, got none")
        for matrix in matrices:
            _check(num_items, matrix)
        kinds = len(matrices)
        keys, columns = [], []
        for kind, matrix in enumerate(matrices):
            sources = torch.repeat_interleave(matrix.offsets.diff())  # [edges of this kind]
            keys.append(sources * num_items + matrix.neighbours.long())
            column = torch.zeros(len(matrix.weights), kinds)
            column[:, kind] = matrix.weights
            columns.append(column)
        edges, place = torch.unique(torch.cat(keys), return_inverse=True)  # [edges], ascending
        window = max(max(len(matrix.forward), len(matrix.backward)) for matrix in matrices)
        graph = cls(
            num_items, num_edges=len(edges), num_kinds=kinds, last_items=last_items, window=window
        )
        starts = torch.arange(num_items + 1) * num_items
        graph.offsets.copy_(torch.searchsorted(edges, starts))
        graph.neighbours.copy_(edges % num_items)
        graph.weights.index_add_(0, place, torch.cat(columns))
        for kind, matrix in enumerate(matrices):
            graph.decays[kind] = matrix.decay
            for distance, share in enumerate(matrix.forward, start=1):
                graph.kernel[window + distance, kind] = share
            for distance, share in enumerate(matrix.backward, start=1):
                graph.kernel[window - distance, kind] = share
        return graph

    @property
    def settings(self) -> dict[str, int]:
        """The constructor's arguments without the number of items."""
        return {
            "num_edges": len(self.neighbours),
            "num_kinds": self.num_kinds,
            "last_items": self.last_items,
            "window": len(self.kernel) // 2,
        }

    def check(self) -> None:
        """Checks that the tensors are a graph, since a file may hold any numbers.

        Raises:
            ValueError: Offsets, neighbours, weights or decays are out of range.
        """
        starts, edges = self.offsets, len(self.neighbours)
        if int(starts[0]) or int(starts[-1]) != edges or bool((starts.diff() < 0).any()):
            raise ValueError(f"offsets must ascend from 0 to {edges}")
        if edges:
            least, most = self.neighbours.aminmax()
            if int(least) < 0 or int(most) >= self.num_items:
                raise ValueError(f"neighbours must be item rows from 0 to {self.num_items - 1}")
        if bool((self.weights < 0).any()):
            raise ValueError("weights must be at least 0")
        if not bool(((self.decays > 0) & (self.decays <= 1)).all()):
            raise ValueError("decays must be in (0, 1]")

    def with_items(self, num_items: int, old_rows: Int[Tensor, " items"]) -> ItemGraph:
        """Returns the graph for another catalogue: new items have no edges, others keep theirs.

        Args:
            num_items: Items of the other catalogue.
            old_rows: For each of its items the row in this catalogue; -1 for a new item.
        """
        new_rows = old_rows.new_full((self.num_items,), -1)
        is_old = old_rows >= 0
        new_rows[old_rows[is_old]] = is_old.nonzero().squeeze(1)
        sources = new_rows[torch.repeat_interleave(self.offsets.diff())]  # [edges]
        targets = new_rows[self.neighbours.long()]
        kept = (sources >= 0) & (targets >= 0)
        order = (sources[kept] * num_items + targets[kept]).argsort()
        sources, targets = sources[kept][order], targets[kept][order]
        graph = ItemGraph(num_items, **{**self.settings, "num_edges": len(order)})
        graph.to(self.weights.device)
        every_item = torch.arange(num_items + 1, device=sources.device)
        graph.offsets.copy_(torch.searchsorted(sources, every_item))
        graph.neighbours.copy_(targets)
        graph.weights.copy_(self.weights[kept][order])
        graph.decays.copy_(self.decays)
        graph.kernel.copy_(self.kernel)
        return graph

    @property
    def num_kinds(self) -> int:
        """How many kinds of scores there are."""
        return len(self.decays)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        future: Int[Tensor, "batch ahead"] | None = None,
    ) -> ItemScores:
        """Scores possible next items of each history.

        Args:
            history: Item rows, oldest first, padded with `num_items` on either side.
            future: For a training example, the items after the history, the target first, padded on
                the right; their pairs are subtracted from the counts. None for a query.

        Returns:
            The scores; items of the history are scored too.
        """
        is_item = history != self.num_items  # [batch, length]
        age = is_item.long().flip(1).cumsum(1).flip(1) - 1  # [batch, length], newest is 0
        row, place = (is_item & (age < self.last_items)).nonzero(as_tuple=True)  # [sources]
        source = history[row, place]
        faded = self.decays ** age[row, place][:, None]  # [sources, kinds]
        first = self.offsets[source]
        counts = self.offsets[source + 1] - first
        owner = torch.repeat_interleave(counts)  # [entries], position among the sources
        edge = torch.arange(owner.shape[0], device=owner.device)
        edge = edge + (first - counts.cumsum(0) + counts)[owner]
        rows, items = row[owner], self.neighbours[edge].long()
        scores = self.weights[edge] * faded[owner]  # [entries, kinds]
        if future is not None and len(self.kernel) > 1:
            users, later, shares = self._counted(history, future, row, source, faded)
            rows, items = torch.cat([rows, users]), torch.cat([items, later])
            scores = torch.cat([scores, -shares])
        return ItemScores(rows=rows, items=items, scores=scores)

    def _counted(
        self, history: Tensor, future: Tensor, row: Tensor, source: Tensor, faded: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weights that pairs with a user's future have added to the rows of history items."""
        window = len(self.kernel) // 2
        # Positions count only items, so padding on the left does not change them.
        length = (history != self.num_items).sum(dim=1)  # [batch]
        items = torch.cat([history, future], dim=1)  # [batch, both]
        is_item = items != self.num_items
        position = is_item.long().cumsum(1) - 1  # [batch, both]
        # The places of each history item in the whole sequence: several if the item is repeated.
        same = (items[row] == source[:, None]) & is_item[row]  # [sources, both]
        entry, here = same.nonzero(as_tuple=True)  # [matches]
        owner = row[entry]
        distance = position[owner] - position[owner, here][:, None]  # [matches, both]
        in_future = position[owner] >= length[owner][:, None]
        is_new = in_future | (position[owner, here] >= length[owner])[:, None]
        is_other = items[owner] != source[entry][:, None]
        wanted = is_new & is_other & is_item[owner] & (distance.abs() <= window) & (distance != 0)
        match, there = wanted.nonzero(as_tuple=True)  # [pairs]
        share = self.kernel[distance[match, there] + window]  # [pairs, kinds]
        return owner[match], items[owner[match], there], share * faded[entry[match]]


def _check(num_items: int, matrix: ItemMatrix) -> None:
    edges = len(matrix.neighbours)
    if len(matrix.offsets) != num_items + 1 or int(matrix.offsets[-1]) != edges:
        raise ValueError(
            f"offsets must be {num_items + 1} numbers that end with {edges}, the number of "
            f"neighbours, got {len(matrix.offsets)} that end with {int(matrix.offsets[-1])}"
        )
    if len(matrix.weights) != edges or not bool((matrix.weights >= 0).all()):
        raise ValueError("weights must be one number of at least 0 for each neighbour")
    if edges:
        least, most = int(matrix.neighbours.min()), int(matrix.neighbours.max())
        if least < 0 or most >= num_items:
            raise ValueError(f"neighbours must be item rows from 0 to {num_items - 1}")
    if not 0 < matrix.decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {matrix.decay}")
