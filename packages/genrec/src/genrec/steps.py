"""Beam search and exact scoring with any model that returns probabilities of the next code.

The model only needs a step function. It takes the state of each row and the codes of each row so
far, and returns the log-probability of every code of the next level, and the next state. The search
is that of `genrec.beam_search`: it chooses, masks and reorders the beams, and the state with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from genrec.children import Children
from genrec.decoding import Ranked, all_scores, check_top_k, search
from genrec.item_checks import check_rows
from genrec.masks import Mask
from genrec.trie import Trie
from genrec.walk import Past, Prefixes, Walk


@runtime_checkable
class StepFunction(Protocol):
    """Your own model, as a function of a state and the codes so far."""

    def __call__(
        self, state: Any, codes: Int[Tensor, "rows depth"]
    ) -> tuple[Float[Tensor, "rows codes"], Any]:
        """Scores every code of level `depth` after each row's codes.

        Args:
            state: A tensor, or lists, tuples and dicts of tensors, whose first axis is the rows. In
                the first call it is the state passed to the search; later it is the state that the
                last call returned, with the rows of the kept beams.
            codes: The codes of each row so far, levels 0 to `depth` - 1. A model with a cache reads
                only the last column; a model without a cache reads all columns.

        Returns:
            The log-probability of each code of the level, whether it continues an item or not, and
            the next state. The tensors of the next state may differ from those of `state`.
        """


@torch.inference_mode()
def step_beam_search(
    step: StepFunction,
    state: Any,
    trie: Trie,
    *,
    num_beams: int = 100,
    top_k: int = 10,
    renormalize: bool = False,
    exclude: Int[Tensor, "users m"] | None = None,
    allow: Int[Tensor, "users n"] | Bool[Tensor, " items"] | None = None,
) -> Ranked:
    """Returns each user's best items by a step function, found by beam search over the trie.

    All items exist and none is repeated. With as many beams as items in the catalogue, the ranking
    is that of `step_exact_scores`.

    Args:
        step: The model.
        state: The first state for `step`, one row per user, on the trie's device.
        trie: The catalogue.
        num_beams: Prefixes kept at each level.
        top_k: Items returned, at most `num_beams`.
        renormalize: Whether log-probabilities are renormalised over the codes that continue an
            item. Otherwise they are summed as `step` returns them: probability of other codes is
            then lost, and the probabilities of all items do not sum to 1.
        exclude: For each user the items that must not be returned, padded with the number of items,
            as in `genrec.beam_search`.
        allow: For each user the only items that may be returned, padded in the same way; or one
            truth value per item for all users.

    Returns:
        The ranked items.

    Raises:
        TypeError: The state, or one that `step` returns, has a leaf that is no tensor.
        ValueError: A number is out of range, a list holds a number that is no item row, the state's
            tensors have different numbers of rows, or `step` does not return one log-probability
            for each row and code.
    """
    check_top_k(num_beams, top_k)
    num_users = _num_rows(state)
    mask = Mask.of(trie, num_users, exclude, allow)
    walk = StepWalk(step, state, trie, renormalize=renormalize, mask=mask)
    return search(walk, num_beams=num_beams, top_k=top_k)


@torch.inference_mode()
def step_exact_scores(
    step: StepFunction,
    state: Any,
    trie: Trie,
    *,
    renormalize: bool = False,
    prefixes_at_once: int = 16384,
) -> Float[Tensor, "users items"]:
    """Returns log p(item | user) of every item by a step function, in nats.

    Shared prefixes are computed once, and subtrees one after the other, so only the result grows
    with the catalogue, not the other memory.

    Args:
        step: As in `step_beam_search`.
        state: As in `step_beam_search`.
        trie: The catalogue.
        renormalize: As in `step_beam_search`.
        prefixes_at_once: Number of prefixes, times users, in one call of `step`.

    Raises:
        TypeError: As in `step_beam_search`.
        ValueError: As in `step_beam_search`, or `prefixes_at_once` is below 1.
    """
    walk = StepWalk(step, state, trie, renormalize=renormalize)
    return all_scores(walk, prefixes_at_once)


@torch.inference_mode()
def step_score_items(
    step: StepFunction,
    state: Any,
    trie: Trie,
    items: Int[Tensor, "users m"],
    *,
    renormalize: bool = False,
) -> Float[Tensor, "users m"]:
    """Returns log p(item | user) of some items, such as another system's, by a step function.

    Args:
        step: As in `step_beam_search`.
        state: As in `step_beam_search`.
        trie: The catalogue.
        items: Item rows, padded with the number of items; a user's items may repeat.
        renormalize: As in `step_beam_search`.

    Returns:
        The log-probabilities, in nats; minus infinity where there is no item.

    Raises:
        TypeError: As in `step_beam_search`.
        ValueError: As in `step_beam_search`, or there is not one row of `items` per user.
    """
    check_rows("items", items, trie.num_items)
    if len(items) != _num_rows(state):
        raise ValueError(
            f"items must have one row for each of {_num_rows(state)} users, got {len(items)}"
        )
    missing = items == trie.num_items
    walk = StepWalk(step, state, trie, renormalize=renormalize)
    return walk.score(items.masked_fill(missing, 0)).masked_fill(missing, -torch.inf)


@dataclass(frozen=True)
class Rows(Past):
    """A caller's state, one row for each beam of each user."""

    state: Any
    width: int  # beams per user

    def of_beams(self, beams: Int[Tensor, "users beams"]) -> Rows:
        """Returns the rows of some beams, in this order."""
        first = torch.arange(len(beams), device=beams.device)[:, None] * self.width  # [users, 1]
        rows = (first + beams).flatten()
        state = pytree.tree_map(lambda tensor: tensor.index_select(0, rows), self.state)
        return Rows(state, beams.shape[1])


class StepWalk(Walk[Rows]):
    """Decoding of a batch of users in the trie by a step function.

    Args:
        step: The function.
        state: The first state, one row per user.
        trie: The catalogue.
        renormalize: Whether log-probabilities are renormalised over the children of each prefix.
        mask: Which items may be returned; None for all.
    """

    def __init__(
        self,
        step: StepFunction,
        state: Any,
        trie: Trie,
        *,
        renormalize: bool,
        mask: Mask | None = None,
    ) -> None:
        super().__init__(trie, mask=mask, settles=renormalize)
        self.step = step
        self.state = state

    def start(self) -> Prefixes[Rows]:
        """Returns the root, once for each user."""
        nodes = torch.zeros(_num_rows(self.state), 1, dtype=torch.long, device=self.trie.device)
        return Prefixes(nodes, torch.zeros_like(nodes, dtype=torch.float32), Rows(self.state, 1))

    def log_probs(self, level: int, prefixes: Prefixes[Rows]) -> tuple[Tensor, Children, Rows]:
        """Returns the score of each child of the prefixes, the children, and the state."""
        num_beams = prefixes.nodes.shape[1]
        nodes = prefixes.nodes.flatten()  # [rows]
        codes = nodes.new_empty(len(nodes), 0)
        if level:
            codes = self.trie.prefixes(level - 1, nodes)  # [rows, level]
        log_probs, state = self.step(prefixes.past.state, codes)
        expected = (len(nodes), self.trie.codebook_sizes[level])
        if log_probs.shape != expected:
            raise ValueError(
                "step must return one log-probability for each row and code, of shape "
                f"{expected} at level {level}, got {tuple(log_probs.shape)}"
            )
        if _num_rows(state) != len(nodes):
            raise ValueError(
                f"step must return a state of {len(nodes)} rows, as many as in its input, got "
                f"{_num_rows(state)}"
            )
        children = self.trie.expand(level, nodes)
        scores = log_probs[children.parent, children.codes].float()  # [children]
        if self.settles:
            scores = children.log_softmax(scores)
        scores = scores + prefixes.scores.flatten()[children.parent]
        return scores, children, Rows(state, num_beams)


def _num_rows(state: Any) -> int:
    """Returns the number of rows of a state.

    Raises:
        TypeError: The state has a leaf that is no tensor, or no tensor.
        ValueError: Its tensors have different numbers of rows.
    """
    tensors = pytree.tree_leaves(state)
    wrong = [type(leaf).__name__ for leaf in tensors if not isinstance(leaf, Tensor)]
    if wrong or not tensors:
        raise TypeError(
            "state must be a tensor, or lists, tuples and dicts of tensors, got "
            f"{wrong[0] if wrong else 'no tensor at all'}"
        )
    counts = sorted({len(tensor) if tensor.ndim else 0 for tensor in tensors})
    if len(counts) > 1 or any(not tensor.ndim for tensor in tensors):
        raise ValueError(
            "state must hold tensors with equally many rows, one for each user and beam, got "
            f"numbers of rows {counts}"
        )
    return counts[0]
