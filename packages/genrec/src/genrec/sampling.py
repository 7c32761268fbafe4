"""Items drawn as negatives, from a generator or from torch's default one."""

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
    """Draws item rows.

    Args:
        num_items: Size of the catalogue.
        num_negatives: How many. A number gives a list without repetition when drawn uniformly;
            a shape, such as (batch, 60), draws each row on its own, repetition allowed.
        weights: How likely each item is to be drawn, in proportion; always with repetition.
            Their logarithm is the `log_q` of `sampled_cross_entropy`.
        generator: Draws; torch's default generator when None.
        device: Where the result lies (and the generator, if there is one).

    Raises:
        ValueError: More items asked for without repetition than there are, or fewer than 1; or not
            one weight an item.
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
    """Returns each target followed by negatives of its own, as `candidate_cross_entropy` wants.

    Args:
        targets: The positives.
        num_items: Size of the catalogue.
        num_negatives: Negatives a row, drawn with repetition; hits are the loss's to mask.
        weights: How likely each item is to be drawn, in proportion; uniform when None.
        generator: Draws the negatives; torch's default generator when None.

    Raises:
        ValueError: `num_negatives` is below 1, or there is not one weight an item.
    """
    negatives = sample_negatives(
        num_items,
        (len(targets), num_negatives),
        weights=weights,
        generator=generator,
        device=targets.device,
    )
    return torch.cat([targets[:, None], negatives], dim=1)
