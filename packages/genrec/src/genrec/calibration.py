"""Calibration: the weights of a network and of its item graph are fitted again on held-out pairs.

A network is more certain of its training pairs than of other pairs, but the graph does not contain
the training pairs. So training gives the graph too little weight. Here the network stays fixed, and
a few numbers per level are fitted by maximum likelihood: the scale of the network's logits and the
weights and floors of the graph's scores. The next items of the histories used must not be in the
training. (The weight of popularity is not fitted: the likelihood would use it to compensate for the
scale, since the network has learned popularity too, and the ranking would be worse.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.children import Children
from genrec.seq2seq import Seq2Seq
from genrec.sequences import query_batches
from genrec.windows import Histories

_HISTORIES_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The loss before and after a calibration.

    Attributes:
        before: Mean of -log p(target | history) before, in nats.
        after: The same mean afterwards.
    """

    before: float
    after: float


@dataclass(frozen=True)
class _Step:
    """One level of a batch: the tensors that stay fixed during a calibration."""

    level: int
    children: Children
    logits: Float[Tensor, " children"]
    had: Int[Tensor, " places"] | None
    sums: Float[Tensor, "children kinds"]
    targets: Int[Tensor, " batch"]


def calibrate(
    model: Seq2Seq,
    histories: Histories,
    targets: Sequence[int] | NDArray[np.integer],
    *,
    steps: int = 60,
) -> Calibration:
    """Fits the scale of the network's logits, the graph's weights and floors, the history's bias.

    Nothing else in the model changes. The numbers are few, so L-BFGS fits them on all pairs at
    once, without random numbers.

    Args:
        model: A model with an item graph; in eval mode afterwards.
        histories: Item rows, oldest first, of users whose next items are not in the training.
        targets: The next item of each history.
        steps: Largest number of iterations.

    Returns:
        The mean loss before and after. If the fit finds no better numbers, both are the same and
        the model is unchanged.

    Raises:
        ValueError: The model has no item graph, or there is not one target per history.
    """
    numbers = _numbers(model)
    if len(histories) != len(targets) or not len(targets):
        raise ValueError(
            f"targets must be one for each of {len(histories)} histories, got {len(targets)}"
        )
    model.eval()
    levels = _levels(model, histories, torch.as_tensor(np.asarray(targets), dtype=torch.long))
    trained = {parameter: parameter.requires_grad for parameter in numbers}
    optimizer = torch.optim.LBFGS(
        numbers, max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def loss() -> Tensor:
        total = torch.zeros((), device=model.trie.device)
        for step in levels:
            logits = model.biased(step.level, step.logits, step.children, step.had, step.sums)
            total = total - step.children.log_softmax(logits)[step.targets].sum()
        return total / len(targets)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    kept = [number.detach().clone() for number in numbers]
    try:
        for parameter in numbers:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            before = float(loss().detach())
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            after = float(loss().detach())
        is_finite = all(bool(number.isfinite().all()) for number in numbers)
        if not is_finite or not after <= before:
            # If the numbers hardly change the loss (few pairs, or scores that reach no target), a
            # line search can leave their range. Then the old numbers stay.
            after = before
            _put_back(numbers, kept)
    finally:
        for parameter, is_trained in trained.items():
            parameter.requires_grad_(is_trained)
            parameter.grad = None
    return Calibration(before=before, after=after)


@contextmanager
def calibrated(
    model: Seq2Seq, histories: Histories, targets: Sequence[int] | NDArray[np.integer]
) -> Iterator[Calibration]:
    """Calibrates the model within the block, and restores its numbers at the end.

    So a training can validate the calibrated model and then continue without any effect of the
    calibration. Arguments and errors are those of `calibrate`.
    """
    numbers = _numbers(model)
    before = [number.detach().clone() for number in numbers]
    try:
        yield calibrate(model, histories, targets)
    finally:
        _put_back(numbers, before)


def _numbers(model: Seq2Seq) -> list[nn.Parameter]:
    """The parameters that a calibration fits.

    Raises:
        ValueError: The model has no item graph.
    """
    if model.score_logits is None:
        raise ValueError("model must have an item graph to be calibrated, got a model without")
    logits = model.score_logits
    numbers = [logits.weight, logits.log_floor, logits.scale]
    return numbers if model.history_bias is None else [*numbers, model.history_bias]


@torch.no_grad()
def _put_back(numbers: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for number, value in zip(numbers, values, strict=True):
        number.copy_(value)


@torch.no_grad()
def _levels(model: Seq2Seq, histories: Histories, targets: Tensor) -> list[_Step]:
    """Computes the network's logits once, along the targets' paths."""
    trie, steps = model.trie, []
    for rows, history in query_batches(
        histories,
        num_items=trie.num_items,
        history_length=model.config.history_length,
        batch_size=_HISTORIES_AT_A_TIME,
        by_length=True,
    ):
        memory = model.encode(history.to(trie.device))
        paths = trie.paths(targets[rows].to(trie.device))  # [batch, levels]
        states = model.path_states(memory, paths)  # [batch, levels, dim]
        parents = F.pad(paths[:, :-1], (1, 0))
        for level in range(trie.num_levels):
            above = parents[:, level]
            children = trie.expand(level, above)
            had, sums = model.told(trie, level, above[:, None], children, memory)
            assert sums is not None
            logits = model.child_logits(level, states[:, level], children)
            place = trie.child_places(level, above, children, paths[:, level])
            steps.append(_Step(level, children, logits, had, sums, place))
    return steps
