"""Which items may be returned for each user: allow-lists, deny-lists, seen items."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from genrec.children import Children
from genrec.item_checks import check_rows, first_of_each
from genrec.trie import Trie


class Mask:
    """The items that may be returned, user by user.

    A child of a prefix is masked if it leads to no item that may be returned, so every kept beam
    leads to such an item. Lists of items are looked up in the trie, without a pass over the
    catalogue; only truth values for all items are counted in one pass.

    Args:
        trie: The catalogue.
        num_users: Number of users.
        exclude: For each user the items that must not be returned, padded with `num_items`.
        allow: For each user the only items that may be returned, padded with `num_items`; or one
            truth value per item for all users, True if it may be returned.

    Raises:
        ValueError: A list holds a number that is no item row, or there is not one list per user, or
            not one truth value per item.
    """

    def __init__(
        self,
        trie: Trie,
        num_users: int,
        *,
        exclude: Int[Tensor, "users m"] | None = None,
        allow: Int[Tensor, "users n"] | Bool[Tensor, " items"] | None = None,
    ) -> None:
        self.trie = trie
        self.exclude: Tensor | None = None
        if exclude is not None:
            self.exclude = _lists("exclude", exclude, trie, num_users)
        self.allow: Tensor | None = None
        self.allowed_before: Tensor | None = None
        if allow is None:
            return
        if allow.dtype != torch.bool:
            self.allow = _lists("allow", allow, trie, num_users)  # [users, n]
            if self.exclude is not None:
                self.allow = _without(self.allow, self.exclude, trie.num_items)
                self.exclude = None
            return
        if allow.shape != (trie.num_items,):
            raise ValueError(
                f"allow must hold one value for each of {trie.num_items} items, got shape "
                f"{tuple(allow.shape)}"
            )
        # Leaves below a node are neighbours, so the difference of two running counts over the
        # leaves is the number of items below a node that may be returned.
        count = torch.zeros(trie.num_items + 1, dtype=torch.int32, device=allow.device)
        torch.cumsum(allow[trie.leaf_items], dim=0, out=count[1:])  # [leaves + 1]
        self.allowed_before = count
        if self.exclude is not None:
            self.exclude = self._counted(self.exclude, count)

    @classmethod
    def of(
        cls, trie: Trie, num_users: int, exclude: Tensor | None, allow: Tensor | None
    ) -> Mask | None:
        """Returns the mask of these lists; None if all items may be returned."""
        if exclude is None and allow is None:
            return None
        return cls(trie, num_users, exclude=exclude, allow=allow)

    def of_rows(
        self, users: Int[Tensor, " rows"], *, exclude: Int[Tensor, "rows m"] | None = None
    ) -> Mask:
        """Returns the mask for rows, each of which belongs to a user, such as a beam.

        Args:
            users: The user of each row.
            exclude: For each row further items that must not be returned, padded with `num_items`.
        """
        mask = copy.copy(self)
        mask.exclude = None if self.exclude is None else self.exclude[users]
        mask.allow = None if self.allow is None else self.allow[users]
        if exclude is None:
            return mask
        num_items = self.trie.num_items
        if mask.allow is not None:
            mask.allow = _without(mask.allow, exclude, num_items)
            return mask
        if self.allowed_before is not None:
            exclude = self._counted(exclude, self.allowed_before)
        if mask.exclude is not None:
            exclude = torch.cat([mask.exclude, exclude], dim=1)
        mask.exclude = first_of_each(exclude, num_items)
        return mask

    def _counted(self, items: Tensor, allowed_before: Tensor) -> Tensor:
        """Replaces items that the truth values forbid by the padding.

        They must not be counted a second time as excluded.
        """
        is_item = items < self.trie.num_items
        leaves = self.trie.item_leaves[items.masked_fill(~is_item, 0)].long()
        is_allowed = allowed_before[leaves + 1] > allowed_before[leaves]
        return items.masked_fill(~(is_item & is_allowed), self.trie.num_items)

    def strike(
        self, level: int, parents: Int[Tensor, "users beams"], children: Children, scores: Tensor
    ) -> None:
        """Sets the scores of children that lead to no permitted item to minus infinity.

        Args:
            level: The children's level.
            parents: Each user's prefixes; all differ except those with a score of minus infinity.
            children: The children of all prefixes.
            scores: One score per child; changed in place.
        """
        if self.allowed_before is not None:
            first = self.trie.first_leaf(level, children.node)  # [children]
            end = self.trie.first_leaf(level, children.node + 1)
            is_empty = self.allowed_before[first] == self.allowed_before[end]
            scores.masked_fill_(is_empty, -torch.inf)
        if self.exclude is not None:
            exhausted = self.trie.exhausted(
                level, parents, children, self.exclude, allowed_before=self.allowed_before
            )  # positions among the children
            scores[exhausted] = -torch.inf
        if self.allow is not None:
            closed = torch.ones_like(scores, dtype=torch.bool)  # [children]
            closed[self.trie.holding(level, parents, children, self.allow)] = False
            scores.masked_fill_(closed, -torch.inf)


def _lists(name: str, items: Tensor, trie: Trie, num_users: int) -> Tensor:
    if items.ndim != 2 or len(items) != num_users:
        raise ValueError(
            f"{name} must hold a list of items for each of {num_users} histories, got shape "
            f"{tuple(items.shape)}"
        )
    check_rows(name, items, trie.num_items)
    return first_of_each(items, trie.num_items)


def _without(items: Tensor, banned: Tensor, num_items: int) -> Tensor:
    """Replaces each row's items that are banned in the same row by the padding."""
    if not banned.shape[1]:
        return items
    # A binary search in the sorted list needs no table of all pairs.
    banned = banned.sort(dim=1).values  # [users, m]
    place = torch.searchsorted(banned, items).clamp(max=banned.shape[1] - 1)  # [users, n]
    return items.masked_fill(banned.gather(1, place) == items, num_items)
