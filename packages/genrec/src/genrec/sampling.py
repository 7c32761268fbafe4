"""Sampling of negative items, with a given generator or torch's default one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample_negatives(
    num_items: int,
    num_negatives: int | tuple[int, ...],
    *,
    weights: Float[Tensor, " items"] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Int[Tensor, "*shape"]:
    """Draws item rows at random.

    Args:
        num_items: Size of the catalogue.
        num_negatives: How many. A number gives a list, without repetition unless there are
            weights. A shape, such as (batch, 60), draws each row independently, with repetition.
        weights: Relative probability of each item; the draw is then always with repetition. Their
            logarithm is the `log_q` of `sampled_cross_entropy`.
        generator: Random generator; None is torch's default one.
        device: Device of the result, and of the generator if there is one.

    Raises:
        ValueError: `num_negatives` is below 1 or, without repetition, above `num_items`; or there
            is not one weight per item.
    """
    shape = (num_negatives,) if isinstance(num_negatives, int) else num_negatives
    if min(shape) < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    if weights is not None:
        if weights.shape != (num_items,):
            raise ValueError(
                f"weights must be one for each of {num_items} items, got shape "
                f"{tuple(weights.shape)}"
            )
        drawn = torch.multinomial(weights, math.prod(shape), replacement=True, generator=generator)
        return drawn.view(shape).to(device)
    if isinstance(num_negatives, int):
        if num_negatives > num_items:
            raise ValueError(
                f"num_negatives must be at most num_items ({num_items}), got {num_negatives}"
            )
        return torch.randperm(num_items, generator=generator, device=device)[:num_negatives]
    return torch.randint(num_items, shape, generator=generator, device=device)


def sample_candidates(
    targets: Int[Tensor, " batch"],
    num_items: int,
    num_negatives: int = 60,
    *,
    weights: Float[Tensor, " items"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch candidates"]:
    """Returns each target followed by its own negatives, for `candidate_cross_entropy`.

    Args:
        targets: The positives.
        num_items: Size of the catalogue.
        num_negatives: Negatives per row, drawn with repetition. They may contain the target, which
            the loss masks.
        weights: Relative probability of each item; None is uniform.
        generator: Random generator for the negatives; None is torch's default one.

    Raises:
        ValueError: `num_negatives` is below 1, or there is not one weight per item.
    """
    negatives = sample_negatives(
        num_items,
        (len(targets), num_negatives),
        weights=weights,
        generator=generator,
        device=targets.device,
    )
    return torch.cat([targets[:, None], negatives], dim=1)
