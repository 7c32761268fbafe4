"""Decoding in the trie, level by level: the part that all kinds of decoding share.

A subclass of `Walk` scores the children: the encoder-decoder in `genrec.model_walk`, any function
of the caller in `genrec.steps`. Its state for each prefix, such as keys and values, is reordered
with the prefixes that are kept.

If scores are renormalised over the children of a prefix, a prefix with a single item below it is
settled: all further codes have probability 1 and are not computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from genrec.children import Children
from genrec.masks import Mask
from genrec.trie import Trie

PastT = TypeVar("PastT", bound="Past")


class Past(ABC):
    """The state of a walk for each prefix, from which it continues."""

    @abstractmethod
    def of_beams(self: PastT, beams: Int[Tensor, "users beams"]) -> PastT:
        """Returns the state of some beams of each user, in this order."""


@dataclass(frozen=True)
class Prefixes(Generic[PastT]):
    """Prefixes of equal length, equally many per user: last nodes, scores, and state."""

    nodes: Int[Tensor, "users beams"]
    scores: Float[Tensor, "users beams"]
    past: PastT


@dataclass(frozen=True)
class Candidates(Generic[PastT]):
    """All children of some prefixes: one row per user, padded with minus infinity.

    `place` is the index of each candidate in `nodes` and `beams`, which hold its node and parent.
    """

    scores: Float[Tensor, "users candidates"]
    place: Int[Tensor, "users candidates"]
    nodes: Int[Tensor, " children"]
    beams: Int[Tensor, " children"]
    past: PastT

    def pick(self, columns: Int[Tensor, "users beams"]) -> Prefixes[PastT]:
        """Returns the candidates in these columns as prefixes."""
        place = self.place.gather(1, columns)  # [users, beams]
        beams = self.beams[place]  # [users, beams], the prefix that each is a child of
        return Prefixes(
            self.nodes[place],
            self.scores.gather(1, columns),
            self.past.of_beams(beams),
        )

    def best(self, count: int) -> Prefixes[PastT]:
        """Returns the `count` candidates with the highest scores, or all if there are fewer."""
        return self.pick(self.scores.topk(min(count, self.scores.shape[1]), dim=1).indices)


class Walk(ABC, Generic[PastT]):
    """Decoding of a batch of users in the trie.

    Args:
        trie: The catalogue.
        mask: Which items may be returned; None for all.
        settles: Whether scores are log-probabilities over the children of a prefix. Then an only
            child has probability 1 and is not scored.
    """

    def __init__(self, trie: Trie, *, mask: Mask | None, settles: bool) -> None:
        self.trie = trie
        self.mask = mask
        self.settles = settles

    @abstractmethod
    def start(self) -> Prefixes[PastT]:
        """Returns the root, once for each user."""

    @abstractmethod
    def log_probs(self, level: int, prefixes: Prefixes[PastT]) -> tuple[Tensor, Children, PastT]:
        """Returns the score of each child of the prefixes, the children, and the new state.

        Args:
            level: The children's level.
            prefixes: The children's parents.
        """

    def expand(self, level: int, prefixes: Prefixes[PastT]) -> Candidates[PastT]:
        """Returns all children of the prefixes, which are at `level`, with their scores."""
        num_beams = prefixes.nodes.shape[1]
        if not level or not self.settles:
            return self._decode(level, prefixes)
        # Open prefixes have more than one item below them; the others need no decoder. Users have
        # different numbers of open prefixes. For each user as many prefixes are decoded as the
        # largest of these numbers, so that the batch stays rectangular.
        is_open = (self.trie.items_below(level - 1, prefixes.nodes) > 1) & (
            prefixes.scores > -torch.inf
        )  # [users, beams]
        width = int(is_open.sum(dim=1).max())
        if width == num_beams:
            return self._decode(level, prefixes)
        # A stable sort brings the open ones to the front without changing their order.
        order = (~is_open).byte().argsort(dim=1, stable=True)  # [users, beams]
        settled = self._settle(level, prefixes, order[:, width:])
        if not width:
            return settled
        open_beams = order[:, :width]  # [users, width]
        past = prefixes.past.of_beams(open_beams)
        decoded = self._decode(
            level,
            Prefixes(
                prefixes.nodes.gather(1, open_beams), prefixes.scores.gather(1, open_beams), past
            ),
        )
        # Both kinds joined; the nodes of settled prefixes come after those of decoded ones.
        return Candidates(
            torch.cat([decoded.scores, settled.scores], dim=1),  # [users, candidates]
            torch.cat([decoded.place, settled.place + len(decoded.nodes)], dim=1),
            torch.cat([decoded.nodes, settled.nodes]),  # [children]
            torch.cat([decoded.beams, settled.beams]),
            decoded.past,
        )

    def subtrees(
        self, level: int, prefixes: Prefixes[PastT], at_once: int
    ) -> Iterator[Candidates[PastT]]:
        """Yields all items below the prefixes, decoding a bounded number of prefixes at a time."""
        candidates = self.expand(level, prefixes)
        if level == self.trie.num_levels - 1:
            yield candidates
            return
        # All users have the same nodes. Sorting puts settled nodes together: they need no decoder.
        nodes = candidates.nodes[candidates.place[0]]  # [candidates]
        below = self.trie.items_below(level, nodes)  # [candidates]
        for columns in torch.split(below.argsort(descending=True), at_once):
            chunk = candidates.pick(columns.expand(len(candidates.scores), -1))
            yield from self.subtrees(level + 1, chunk, at_once)

    def score(self, items: Int[Tensor, "users m"]) -> Float[Tensor, "users m"]:
        """Returns log p(item | history) of some items, as `score_paths` does."""
        return self.score_paths(items)[..., -1]

    def score_paths(self, items: Int[Tensor, "users m"]) -> Float[Tensor, "users m levels"]:
        """Returns log p(prefix | history) of every prefix of the codes of some items.

        Shared prefixes are computed once.

        Args:
            items: Item rows; a user's items may repeat.
        """
        if not items.numel():
            return torch.empty(*items.shape, self.trie.num_levels, device=items.device)
        paths, prefixes = self.trie.paths(items), self.start()  # [users, m, levels]
        scores_by_level = []
        beam = torch.zeros_like(items)  # [users, m], the prefix of each item
        user = torch.arange(len(items), device=items.device)[:, None]  # [users, 1]
        for level in range(self.trie.num_levels):
            log_probs, children, past = self.log_probs(level, prefixes)
            nodes, width = paths[..., level], prefixes.nodes.shape[1]  # [users, m]
            # Children of a parent follow one another, so a node's distance from its first sibling
            # is the distance of their positions among all children.
            first = self.trie.first_child(level, prefixes.nodes.gather(1, beam))  # [users, m]
            scores = log_probs[children.offsets[user * width + beam] + nodes - first]  # [users, m]
            scores_by_level.append(scores)
            # Items that share a node become one prefix of the next level: sorted, equal nodes are
            # neighbours, and counting the changes numbers the distinct ones from 0.
            nodes, order = nodes.sort(dim=1, stable=True)  # [users, m]
            rank = F.pad((nodes[:, 1:] != nodes[:, :-1]).long(), (1, 0)).cumsum(dim=1)
            width = int(rank[:, -1].max()) + 1
            # A user with fewer distinct nodes than others has unused places: node 0 with a score of
            # minus infinity.
            above = nodes.new_zeros(len(nodes), width).scatter_(1, rank, beam.gather(1, order))
            prefixes = Prefixes(
                nodes.new_zeros(len(nodes), width).scatter_(1, rank, nodes),
                scores.new_full((len(nodes), width), -torch.inf).scatter_(
                    1, rank, scores.gather(1, order)
                ),
                past.of_beams(above),
            )
            beam = torch.zeros_like(beam).scatter_(1, order, rank)  # [users, m], in items' order
        return torch.stack(scores_by_level, dim=-1)

    def _settle(self, level: int, prefixes: Prefixes[PastT], beams: Tensor) -> Candidates[PastT]:
        """Returns the only child of each of these prefixes, with the score of the prefix."""
        nodes = self.trie.first_child(level, prefixes.nodes.gather(1, beams)).flatten()
        # Each prefix has one child, so [users, beams] flattened is the list of children.
        place = torch.arange(len(nodes), device=nodes.device).view_as(beams)
        # Settled prefixes stay settled, so their cache entries are never read: any row will do.
        any_row = torch.zeros_like(nodes)
        scores = prefixes.scores.gather(1, beams)  # [users, beams]
        return Candidates(scores, place, nodes, any_row, prefixes.past)

    def _decode(self, level: int, prefixes: Prefixes[PastT]) -> Candidates[PastT]:
        """Decodes one position for each prefix and scores its children."""
        num_beams = prefixes.nodes.shape[1]
        scores, children, past = self.log_probs(level, prefixes)  # [children]
        if self.mask is not None:
            self.mask.strike(level, prefixes.nodes, children, scores)
        # Children are ordered by parent, so also by user: every `num_beams`-th offset is the start
        # of a user's children. Padded to the longest list, they are one row per user.
        bounds = children.offsets[::num_beams]  # [users + 1]
        columns = torch.arange(int(bounds.diff().max()), device=bounds.device)  # [candidates]
        place = bounds[:-1, None] + columns  # [users, candidates]
        missing = place >= bounds[1:, None]
        place = place.masked_fill(missing, 0)
        scores = scores[place].masked_fill(missing, -torch.inf)  # [users, candidates]
        return Candidates(scores, place, children.node, children.parent % num_beams, past)
