"""The valid code sequences of a catalogue, as tensors.

The root stands above level 0. A node at level l is one distinct prefix of l + 1 codes; the nodes of
a level are numbered from 0 in the order of their codes, so that the children of a node are
neighbours, and one table of offsets a level says where they start. The nodes of the last level are
the items.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Children:
    """The children of several nodes, one after the other.

    Attributes:
        node: The children, those of the first parent first.
        parent: For each child the position of its parent among those asked for.
        offsets: Where each parent's children start and end in `node`.
        level_codes: The code of every node of the children's level.
    """

    node: Int[Tensor, " children"]
    parent: Int[Tensor, " children"]
    offsets: Int[Tensor, " parents_and_one"]
    level_codes: Int[Tensor, " nodes"]

    @property
    def codes(self) -> Int[Tensor, " children"]:
        """The code that each child ends with."""
        return self.level_codes[self.node]

    @property
    def counts(self) -> Int[Tensor, " parents"]:
        """Number of children of each parent."""
        return self.offsets.diff()

    def log_softmax(self, logits: Float[Tensor, " children"]) -> Float[Tensor, " children"]:
        """Returns a log-softmax over each parent's children; exactly 0 for an only child."""
        parents = len(self.offsets) - 1
        top = logits.detach().new_full((parents,), -torch.inf)
        top = top.scatter_reduce(0, self.parent, logits.detach(), "amax")
        shifted = logits - top[self.parent]
        total = logits.new_zeros(parents).index_add(0, self.parent, shifted.exp())
        return shifted - total.log()[self.parent]

    def products(
        self,
        states: Float[Tensor, "parents dim"],
        rows: Float[Tensor, "rows dim"],
        row: Int[Tensor, " children"],
    ) -> Float[Tensor, " children"]:
        """Returns the dot product of each child's row with its parent's state.

        It is a sampled matrix product: neither all pairs nor a copy of the rows is ever held.

        Args:
            states: One fp32 vector a parent.
            rows: A table of fp32 vectors.
            row: The row of each child, ascending within a parent.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            pattern = torch.sparse_csr_tensor(
                self.offsets,
                row,
                states.new_zeros(len(row)),
                size=(len(states), len(rows)),
                check_invariants=False,
            )
        out: Tensor = torch.sparse.sampled_addmm(pattern, states, rows.T, beta=0.0).values()
        return out


class Trie(nn.Module):
    """A prefix tree over the items' codes; made by `Trie.build`.

    It is a module without parameters, so that `.to(device)` moves it, alone or within a model; its
    tensors are no part of a model's `state_dict`, since the codes are a file of their own.

    Attributes:
        codebook_sizes: Number of codes that each level may use.
        level_sizes: Number of nodes of each level; the last is the number of items.
        paths: Node of each item (row) at each level.
        leaf_items: Item row of each node of the last level.
    """

    paths: Int[Tensor, "items levels"]
    leaf_items: Int[Tensor, " items"]

    def __init__(
        self,
        codebook_sizes: tuple[int, ...],
        paths: Int[Tensor, "items levels"],
        leaf_items: Int[Tensor, " items"],
        node_codes: Sequence[Int[Tensor, " _"]],
        first_children: Sequence[Int[Tensor, " _"]],
        items_below: Sequence[Int[Tensor, " _"]],
    ) -> None:
        super().__init__()
        self.codebook_sizes = codebook_sizes
        self.level_sizes = tuple(len(codes) for codes in node_codes)
        self.register_buffer("paths", paths, persistent=False)
        self.register_buffer("leaf_items", leaf_items, persistent=False)
        for level in range(len(codebook_sizes)):
            self.register_buffer(f"codes_{level}", node_codes[level], persistent=False)
            self.register_buffer(f"first_{level}", first_children[level], persistent=False)
            self.register_buffer(f"below_{level}", items_below[level], persistent=False)

    @classmethod
    def build(cls, codes: Int[Tensor, "items levels"], codebook_sizes: Sequence[int]) -> Trie:
        """Builds the trie of a code table.

        Args:
            codes: One row an item; no two rows alike. Codes of variable depth are padded to the
                same number of levels by any fixed code: a node with a single child costs nothing.
            codebook_sizes: Number of codes of each level.

        Returns:
            The trie, on the device of `codes`.

        Raises:
            ValueError: The table is empty, a code lies outside its codebook, or two items share
                the same codes.
        """
        sizes = tuple(int(size) for size in codebook_sizes)
        codes = _checked(codes, sizes)
        num_items, num_levels = codes.shape
        order = torch.arange(num_items, device=codes.device)
        for level in reversed(range(num_levels)):
            order = order[codes[order, level].argsort(stable=True)]
        ordered = codes[order]
        starts = torch.ones_like(ordered, dtype=torch.bool)  # does a new node start at this row?
        starts[1:] = (ordered[1:] != ordered[:-1]).cummax(dim=1).values
        if not bool(starts[:, -1].all()):
            row = int((~starts[:, -1]).nonzero()[0, 0])
            raise ValueError(
                f"codes must differ between items, got {ordered[row].tolist()} for both item "
                f"{int(order[row - 1])} and item {int(order[row])}"
            )
        nodes = starts.cumsum(dim=0) - 1
        paths = torch.empty_like(nodes)
        paths[order] = nodes
        rows = [starts[:, level].nonzero().squeeze(1) for level in range(num_levels)]
        end = order.new_tensor([num_items])
        firsts = [order.new_tensor([0, len(rows[0])])]
        for level in range(1, num_levels):
            bounds = order.new_tensor([len(rows[level])])
            firsts.append(torch.cat([nodes[rows[level - 1], level], bounds]))
        return cls(
            sizes,
            paths,
            order,
            [ordered[row, level] for level, row in enumerate(rows)],
            firsts,
            [torch.cat([row, end]).diff() for row in rows],
        )

    @property
    def num_items(self) -> int:
        """Number of items."""
        return self.level_sizes[-1]

    @property
    def num_levels(self) -> int:
        """Number of codes of an item."""
        return len(self.level_sizes)

    @property
    def codes(self) -> Int[Tensor, "items levels"]:
        """The code table that the trie was built from."""
        columns = [self.node_codes(level)[path] for level, path in enumerate(self.paths.unbind(1))]
        return torch.stack(columns, dim=1)

    def node_codes(self, level: int) -> Int[Tensor, " nodes"]:
        """Returns the code that each node of a level ends with."""
        return self.get_buffer(f"codes_{level}")

    def items_below(self, level: int) -> Int[Tensor, " nodes"]:
        """Returns the number of items under each node of a level."""
        return self.get_buffer(f"below_{level}")

    def first_children(self, level: int) -> Int[Tensor, " parents_and_one"]:
        """Returns where the children of each node above `level` start among that level's nodes."""
        return self.get_buffer(f"first_{level}")

    def expand(self, level: int, parents: Int[Tensor, " parents"]) -> Children:
        """Lists the children of several nodes.

        Args:
            level: The children's level.
            parents: Nodes of the level above; at level 0 the root, node 0.

        Returns:
            The children, parent by parent, in the order of their codes.
        """
        table = self.first_children(level)
        first = table[parents]
        counts = table[parents + 1] - first
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])
        owner = torch.repeat_interleave(counts)
        node = torch.arange(len(owner), device=owner.device) + (first - offsets[:-1])[owner]
        return Children(
            node=node, parent=owner, offsets=offsets, level_codes=self.node_codes(level)
        )

    def exhausted(
        self,
        level: int,
        parents: Int[Tensor, "users beams"],
        children: Children,
        items: Int[Tensor, "users m"],
    ) -> Int[Tensor, " places"]:
        """Finds the children under which there are no items but those given.

        Args:
            level: The children's level.
            parents: Each user's nodes of the level above, no two alike.
            children: `expand(level, parents.flatten())`.
            items: Each user's items, no two alike, padded with `num_items`.

        Returns:
            Their positions in `children`; one may come several times.
        """
        known = items < self.num_items
        paths = self.paths[items.masked_fill(~known, 0)]
        nodes = paths[..., level]
        same = (nodes[:, :, None] == nodes[:, None, :]) & known[:, None, :]
        found = known & (same.sum(dim=2) == self.items_below(level)[nodes])
        above = paths[..., level - 1] if level else torch.zeros_like(nodes)
        here = parents[:, :, None] == above[:, None, :]
        found &= here.any(dim=1)
        beam = here.byte().argmax(dim=1)
        user = torch.arange(len(beam), device=beam.device)[:, None]
        place = children.offsets[user * parents.shape[1] + beam] + nodes
        return (place - self.first_children(level)[above])[found]


def distinct(items: Int[Tensor, "users m"], num_items: int) -> Int[Tensor, "users m"]:
    """Returns each row's items sorted, each once, the rest `num_items`."""
    items = items.sort(dim=1).values
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = items[:, 1:] == items[:, :-1]
    return items.masked_fill(again, num_items)


def _checked(codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Returns `codes` as int64, or says what is wrong with them."""
    if codes.ndim != 2 or not codes.numel():
        raise ValueError(
            f"codes must be a table of at least one item and one level, got shape "
            f"{tuple(codes.shape)}"
        )
    if codes.shape[1] != len(sizes):
        raise ValueError(
            f"codebook_sizes must have one entry a level, got {len(sizes)} for codes of "
            f"{codes.shape[1]} levels"
        )
    codes = codes.long()
    wrong = (codes < 0) | (codes >= codes.new_tensor(sizes))
    if bool(wrong.any()):
        item, level = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"codes must be at least 0 and below their codebook's size ({sizes[level]} at level "
            f"{level}), got {int(codes[item, level])} for item {item}"
        )
    return codes
