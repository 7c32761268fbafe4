"""The valid code sequences of a catalogue, as tensors.

The root is above level 0. A node at level l is one distinct prefix of l + 1 codes. The nodes of a
level are numbered from 0 in the order of their codes, so the children of a node are neighbours, and
so are the leaves below it. Each level has one table with the start of each node's children and one
with the start of its leaves, so going down needs neither a search nor a dense table. The nodes of
the last level, the leaves, are the items.

Five items with codes of three levels, and all arrays of their trie:

    root                .              child_0 = 0 2
                   ┌────┴─────┐
    level 0        0          1        codes_0 = 0 1          child_1 = 0 2 4    leaf_0 = 0 3 5
                ┌──┴─┐      ┌─┴─┐
    level 1     0    1      2   3      codes_1 = 0 1 0 2      child_2 = leaf_1 = 0 2 3 4 5
               ┌┴┐   │      │   │
    level 2    0 1   2      3   4      codes_2 = 0 1 0 1 0
    item row   3 0   4      1   2      leaf_items = 3 0 4 1 2    item_leaves = 1 3 4 0 2

Node n of level l has the children child_{l+1}[n] to child_{l+1}[n + 1] - 1 and the leaves leaf_l[n]
to leaf_l[n + 1] - 1; the last entry of each table is the end of the last node. `item_leaves` is the
inverse of `leaf_items`.

Numbers are stored in 32 bits, codes in 16 if they fit, and look-ups return int64. A catalogue of
10 million items and three levels of 256 codes takes about 100 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.children import Children
from genrec.code_order import check_table, code_dtype, code_order
from genrec.item_graph import ItemScores


class Trie(nn.Module):
    """A prefix tree over the items' codes; made by `Trie.build`.

    It is a module without parameters, so `.to(device)` moves it, alone or within a model. Its
    tensors are not in a model's `state_dict`, since the codes have their own file.

    Attributes:
        codebook_sizes: Number of codes that each level may use.
        level_sizes: Number of nodes of each level; the last is the number of items.
        leaf_items: Item row of each leaf.
        item_leaves: Leaf of each item row.
    """

    leaf_items: Int[Tensor, " items"]
    item_leaves: Int[Tensor, " items"]

    def __init__(
        self,
        codebook_sizes: tuple[int, ...],
        leaf_items: Int[Tensor, " items"],
        node_codes: Sequence[Int[Tensor, " _"]],
        first_leaves: Sequence[Int[Tensor, " _"]],
    ) -> None:
        super().__init__()
        self.codebook_sizes = codebook_sizes
        self.level_sizes = tuple(len(codes) for codes in node_codes)
        leaves = torch.arange(len(leaf_items), dtype=leaf_items.dtype, device=leaf_items.device)
        self.register_buffer("leaf_items", leaf_items, persistent=False)
        item_leaves = torch.empty_like(leaf_items).index_copy_(0, leaf_items.long(), leaves)
        self.register_buffer("item_leaves", item_leaves, persistent=False)
        above = leaf_items.new_tensor([0, len(leaf_items)])  # the root's first leaf, and the end
        for level, codes in enumerate(node_codes):
            self.register_buffer(f"codes_{level}", codes, persistent=False)  # [nodes]
            if level < len(node_codes) - 1:
                # The first child of a node is the node of this level with the same first leaf.
                first = torch.searchsorted(first_leaves[level], above, out_int32=True)
                above = first_leaves[level]
                self.register_buffer(f"leaf_{level}", above, persistent=False)
            else:
                first = above  # each leaf is one item
            self.register_buffer(f"child_{level}", first, persistent=False)

    @classmethod
    def build(cls, codes: Int[Tensor, "items levels"], codebook_sizes: Sequence[int]) -> Trie:
        """Builds the trie of a code table.

        Args:
            codes: One row per item; all rows differ. Pad codes of variable depth to the same number
                of levels by any fixed code: a node with a single child costs nothing.
            codebook_sizes: Number of codes of each level.

        Returns:
            The trie, on the device of `codes`.

        Raises:
            ValueError: The table is empty, a code lies outside its codebook, or two items share
                the same codes.
        """
        sizes = tuple(int(size) for size in codebook_sizes)
        check_table(codes, sizes)
        num_items, num_levels = codes.shape
        order = code_order(codes, sizes)  # [leaves], the item of each leaf
        # A new node starts at a leaf if its prefix differs from that of the leaf before. Prefixes
        # that differ at one level differ at all later levels, so the marks accumulate.
        starts = torch.zeros(num_items, dtype=torch.bool, device=codes.device)  # [leaves]
        starts[0] = True
        end = torch.tensor([num_items], device=codes.device)
        node_codes, first_leaves = [], []
        for level in range(num_levels):
            column = codes[:, level].to(code_dtype(sizes[level]))[order]  # [leaves]
            starts[1:] |= column[1:] != column[:-1]
            if level < num_levels - 1:
                first = starts.nonzero().squeeze(1)  # [nodes]
                first_leaves.append(torch.cat([first, end]).int())
                column = column[first]
            node_codes.append(column)
        if not bool(starts.all()):
            leaf = int((~starts).nonzero()[0, 0])
            raise ValueError(
                f"codes must differ between items, got {codes[order[leaf]].tolist()} for both item "
                f"{int(order[leaf - 1])} and item {int(order[leaf])}"
            )
        return cls(sizes, order.int(), node_codes, first_leaves)

    @property
    def num_items(self) -> int:
        """Number of items."""
        return self.level_sizes[-1]

    @property
    def num_levels(self) -> int:
        """Number of codes of an item."""
        return len(self.level_sizes)

    @property
    def num_bytes(self) -> int:
        """Size of the trie's tensors, in bytes."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    @property
    def codes(self) -> Int[Tensor, "items levels"]:
        """The code table that the trie was built from."""
        return self.codes_on(self.paths(torch.arange(self.num_items, device=self.device)))

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.leaf_items.device

    def paths(self, items: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch levels"]:
        """Returns the node of each item at each level."""
        # `embedding` refuses rows below 0; an index would count them from the end.
        leaves = torch.nn.functional.embedding(items, self.item_leaves[:, None]).squeeze(-1)
        return torch.stack([self._node(k, leaves) for k in range(self.num_levels)], dim=-1)

    def nodes(self, prefixes: Int[Tensor, "*batch depth"]) -> Int[Tensor, "*batch"]:
        """Returns the node of each prefix of codes.

        Args:
            prefixes: The first codes of items, equally many for each; numbers that are no code are
                allowed.

        Returns:
            Nodes of level `depth` - 1, or the root, node 0, if `depth` is 0; -1 where no item
            starts with these codes.

        Raises:
            ValueError: The prefixes are longer than the items' codes.
        """
        depth = prefixes.shape[-1]
        if depth > self.num_levels:
            raise ValueError(f"prefixes must be of at most {self.num_levels} codes, got {depth}")
        nodes = torch.zeros(prefixes.shape[:-1], dtype=torch.long, device=self.device)
        for level, codes in enumerate(prefixes.unbind(-1)):
            nodes = self._child(level, nodes, codes)
        return nodes

    def items(self, codes: Int[Tensor, "*batch levels"]) -> Int[Tensor, "*batch"]:
        """Returns the item row of each sequence of codes; -1 where no item has these codes.

        Args:
            codes: One code per level; numbers that are no code are allowed.

        Raises:
            ValueError: There is not one code per level.
        """
        if codes.shape[-1] != self.num_levels:
            raise ValueError(f"codes must be of {self.num_levels} levels, got {codes.shape[-1]}")
        leaves = self.nodes(codes)
        return self.leaf_items[leaves.clamp(min=0)].long().masked_fill(leaves < 0, -1)

    def allowed(self, prefixes: Int[Tensor, "*batch depth"]) -> Bool[Tensor, "*batch codes"]:
        """Returns which codes may follow each prefix, that is, continue an item.

        Args:
            prefixes: As in `nodes`, with fewer codes than an item has; 0 codes for the first level.

        Returns:
            One truth value per code of the next level; all are False if no item has the prefix.

        Raises:
            ValueError: The prefixes are as long as the items' codes, or longer.
        """
        depth = prefixes.shape[-1]
        if depth >= self.num_levels:
            raise ValueError(
                f"prefixes must be of at most {self.num_levels - 1} codes, after which another "
                f"may follow, got {depth}"
            )
        nodes = self.nodes(prefixes).flatten()  # [rows]
        children = self.expand(depth, nodes.clamp(min=0))
        marks = torch.zeros(
            len(nodes), self.codebook_sizes[depth], dtype=torch.bool, device=self.device
        )
        marks[children.parent, children.codes] = True
        marks &= (nodes >= 0)[:, None]
        return marks.view(*prefixes.shape[:-1], -1)

    def prefixes(self, level: int, nodes: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch depth"]:
        """Returns the codes from level 0 down to these nodes of a level, `level` + 1 of them."""
        leaves = self.first_leaf(level, nodes)
        paths = [self._node(above, leaves) for above in range(level + 1)]
        return self.codes_on(torch.stack(paths, dim=-1))

    def codes_on(self, paths: Int[Tensor, "*batch levels"]) -> Int[Tensor, "*batch levels"]:
        """Returns the code of each node of paths that start at level 0."""
        columns = [self.node_codes(level, path) for level, path in enumerate(paths.unbind(-1))]
        return torch.stack(columns, dim=-1)

    def node_codes(self, level: int, nodes: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns the last code of each of these nodes of a level."""
        return self.get_buffer(f"codes_{level}")[nodes].long()

    def items_below(self, level: int, nodes: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns the number of items under each of these nodes of a level."""
        return self.first_leaf(level, nodes + 1) - self.first_leaf(level, nodes)

    def first_leaf(self, level: int, nodes: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns the first leaf under each node; for the node after the last one, the end."""
        if level == self.num_levels - 1:
            return nodes
        return self.get_buffer(f"leaf_{level}")[nodes].long()

    def first_child(self, level: int, parents: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns the first node of `level` under each of these nodes of the level above."""
        return self.get_buffer(f"child_{level}")[parents].long()

    def most_children(self, level: int) -> int:
        """Returns the largest number of children at this level that a node above has."""
        return int(self.get_buffer(f"child_{level}").diff().max())

    def expand(self, level: int, parents: Int[Tensor, " parents"]) -> Children:
        """Lists the children of several nodes.

        Args:
            level: The children's level.
            parents: Nodes of the level above; at level 0 the root, node 0.

        Returns:
            The children, parent by parent, in the order of their codes.
        """
        first = self.first_child(level, parents)  # [parents]
        counts = self.first_child(level, parents + 1) - first  # [parents]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])  # [parents + 1]
        owner = torch.repeat_interleave(counts)  # [children], the parent's position
        # Children of a parent are neighbours, here and in their level, so the difference of the two
        # positions is the same for all of them: that of the first.
        node = torch.arange(len(owner), device=owner.device) + (first - offsets[:-1])[owner]
        return Children(
            node=node,
            parent=owner,
            offsets=offsets,
            level_codes=self.get_buffer(f"codes_{level}"),
        )

    def child_places(
        self,
        level: int,
        parents: Int[Tensor, " parents"],
        children: Children,
        nodes: Int[Tensor, " parents"],
    ) -> Int[Tensor, " parents"]:
        """Returns the position in `children` of one child of each parent.

        Args:
            level: The children's level.
            parents: Nodes of the level above.
            children: `expand(level, parents)`.
            nodes: The child of each parent.
        """
        # Children of a parent are neighbours here as in their level.
        return children.offsets[:-1] + nodes - self.first_child(level, parents)

    def exhausted(
        self,
        level: int,
        parents: Int[Tensor, "users beams"],
        children: Children,
        items: Int[Tensor, "users m"],
        *,
        allowed_before: Int[Tensor, " leaves_and_one"] | None = None,
    ) -> Int[Tensor, " places"]:
        """Returns the children under which there are only items of the lists.

        Args:
            level: The children's level.
            parents: Each user's nodes of the level above, all different.
            children: `expand(level, parents.flatten())`.
            items: Each user's list of items, all different, padded with `num_items`.
            allowed_before: Number of items that count before each leaf, and of all that count; None
                if all items count. All of `items` must count.

        Returns:
            Positions in `children`; a position may be repeated.
        """
        is_item = items < self.num_items  # [users, m], False at padding
        leaves = self.item_leaves[items.masked_fill(~is_item, 0)]  # [users, m]
        nodes = self._node(level, leaves)  # [users, m], the node above each listed item
        first, end = self.first_leaf(level, nodes), self.first_leaf(level, nodes + 1)
        # The leaves of a node are neighbours, so two binary searches in the sorted list count the
        # listed ones, without a pass over the catalogue.
        listed = leaves.long().masked_fill(~is_item, self.num_items).sort(dim=1).values
        count = torch.searchsorted(listed, end) - torch.searchsorted(listed, first)  # [users, m]
        if allowed_before is not None:
            first, end = allowed_before[first], allowed_before[end]
        return self._places(level, parents, children, leaves, is_item & (count == end - first))

    def holding(
        self,
        level: int,
        parents: Int[Tensor, "users beams"],
        children: Children,
        items: Int[Tensor, "users m"],
    ) -> Int[Tensor, " places"]:
        """Returns the children under which there is at least one item of the lists.

        Arguments and result are those of `exhausted`.
        """
        is_item = items < self.num_items  # [users, m], False at padding
        leaves = self.item_leaves[items.masked_fill(~is_item, 0)]  # [users, m]
        return self._places(level, parents, children, leaves, is_item)

    def sums_below(
        self,
        level: int,
        parents: Int[Tensor, "users beams"],
        children: Children,
        scores: ItemScores,
    ) -> Float[Tensor, "children kinds"]:
        """Returns the sum of each user's scores of the items under each child.

        Args:
            level: The children's level.
            parents: Each user's nodes of the level above, all different.
            children: `expand(level, parents.flatten())`.
            scores: Scores of each user's items.
        """
        num_beams = parents.shape[1]
        rows, items, values = scores.rows, scores.items, scores.scores
        beam = rows * num_beams  # [entries], the only one at level 0
        if level:
            above = self.item_nodes(level - 1)[items]  # [entries]
            if num_beams == 1:  # as in training
                is_below = (above == parents[:, 0][rows]).nonzero().squeeze(1)  # [entries below]
                beam = rows[is_below]
            else:
                # Nodes of all users in one sorted list: one binary search finds the beam of each
                # entry, if its user has a beam above it.
                size = self.level_sizes[level - 1]
                user = torch.arange(parents.shape[0], device=parents.device)[:, None]  # [users, 1]
                keys, order = (user * size + parents).flatten().sort(stable=True)
                key = rows * size + above  # [entries]
                place = torch.searchsorted(keys, key).clamp(max=keys.shape[0] - 1)
                is_below = (keys[place] == key).nonzero().squeeze(1)
                beam = order[place[is_below]]
            items, values = items[is_below], values[is_below]
        first = children.offsets[:-1] - self.first_child(level, parents.flatten())  # [parents]
        child = first[beam] + self.item_nodes(level)[items]
        sums = values.new_zeros(children.node.shape[0], values.shape[1])
        return sums.index_add_(0, child, values)

    def item_nodes(self, level: int) -> Int[Tensor, " items"]:
        """Returns the node above each item row; the first call makes this table and caches it."""
        if level == self.num_levels - 1:
            return self.item_leaves
        name = f"item_nodes_{level}"
        if name not in self._buffers:
            nodes = self._node(level, self.item_leaves).int()
            self.register_buffer(name, nodes, persistent=False)
        return self.get_buffer(name)

    def sums_before_leaves(
        self, values: Float[Tensor, "rows items"]
    ) -> Float[Tensor, "rows leaves_and_one"]:
        """Returns the sum of the items' values before each leaf, and of all, in fp64."""
        ordered = values.double()[:, self.leaf_items.long()]  # [rows, leaves]
        return torch.nn.functional.pad(ordered.cumsum(dim=1), (1, 0))

    def sums_under(
        self, level: int, children: Children, before: Float[Tensor, "rows leaves_and_one"]
    ) -> Float[Tensor, " children"]:
        """Returns the sum of the values of the items under each child.

        Args:
            level: The children's level.
            children: The children of one parent per row.
            before: `sums_before_leaves` of each row's values.
        """
        row, node = children.parent, children.node
        end, first = self.first_leaf(level, node + 1), self.first_leaf(level, node)
        return (before[row, end] - before[row, first]).clamp(min=0).float()

    def _places(
        self, level: int, parents: Tensor, children: Children, leaves: Tensor, wanted: Tensor
    ) -> Tensor:
        """Returns the positions in `children` of the nodes above the wanted leaves, if present."""
        num_beams = parents.shape[1]
        nodes = self._node(level, leaves)  # [users, m]
        above = self._node(level - 1, leaves) if level else torch.zeros_like(nodes)  # [users, m]
        # A binary search in the sorted parents finds the user's beam that is at the node above.
        sorted_parents, beams = parents.sort(dim=1, stable=True)  # [users, beams]
        place = torch.searchsorted(sorted_parents, above).clamp(max=num_beams - 1)  # [users, m]
        is_parent = sorted_parents.gather(1, place) == above  # [users, m]
        user = torch.arange(parents.shape[0], device=parents.device)[:, None]  # [users, 1]
        first = children.offsets[user * num_beams + beams.gather(1, place)]  # [users, m]
        positions = first + nodes - self.first_child(level, above)  # [users, m]
        return positions[wanted & is_parent]

    def _child(
        self, level: int, parents: Int[Tensor, "*batch"], codes: Int[Tensor, "*batch"]
    ) -> Int[Tensor, "*batch"]:
        """Returns the child of each parent by its code; -1 if there is no child or no parent."""
        has_parent = parents >= 0
        first = self.first_child(level, parents.clamp(min=0))  # [*batch]
        end = self.first_child(level, parents.clamp(min=0) + 1)
        last, level_codes = end - 1, self.get_buffer(f"codes_{level}")
        # A binary search among the children of each parent, which are in the order of their codes.
        # A parent has at most as many as the codebook, so the number of steps is known.
        for _ in range(self.codebook_sizes[level].bit_length()):
            middle = (first + last) // 2
            is_before = level_codes[middle] < codes
            first = torch.where(is_before, torch.minimum(middle + 1, end - 1), first)
            last = torch.where(is_before, last, middle)
        return first.masked_fill((level_codes[first] != codes) | ~has_parent, -1)

    def _node(self, level: int, leaves: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """Returns the node of a level above each leaf."""
        if level == self.num_levels - 1:
            return leaves.long()
        return torch.searchsorted(self.get_buffer(f"leaf_{level}"), leaves, right=True) - 1
