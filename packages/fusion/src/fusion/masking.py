"""Code masking and masked code modelling (CoCoRec, 2.4 and eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_SHOWN_AS_MASK, _SHOWN_AS_RANDOM = 0.8, 0.1

LOGITS_AT_A_TIME = 2**24
"""Number of logits that `masked_code_loss` holds at once."""


@dataclass(frozen=True, kw_only=True)
class MaskedCodes:
    """Codes in which some are masked and to be predicted.

    Attributes:
        codes: The codes, some replaced by random ones. Ignore the values where `hidden` is True.
        hidden: True where the mask is shown in place of a code.
        chosen: True where the true code is to be predicted: every hidden place, every random code,
            and some codes that are unchanged.
    """

    codes: Int[Tensor, "items codes"]
    hidden: Bool[Tensor, "items codes"]
    chosen: Bool[Tensor, "items codes"]


def mask_codes(
    codes: Int[Tensor, "items codes"],
    codebook_sizes: Sequence[int],
    *,
    ratio: float,
    generator: torch.Generator | None = None,
) -> MaskedCodes:
    """Choose each code with probability `ratio`: 80 % are masked, 10 % random, 10 % unchanged.

    CoCoRec, 2.4, with `ratio` as rho and the shares of BERT.

    Differs: a random code comes from the codebook of its own position; the authors' code draws
    from the codes of all positions, most of which are impossible at this one.

    Args:
        codes: One row per item.
        codebook_sizes: Number of codes at each position.
        ratio: Probability that a code is chosen.
        generator: Random generator on the device of `codes`; None is torch's default one.

    Raises:
        ValueError: `ratio` is not in (0, 1], or the sizes do not fit the codes. Codes beyond their
            codebook are detected on a CPU only: on a GPU the check would make the program wait.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    if len(codebook_sizes) != codes.shape[1]:
        raise ValueError(
            f"codebook_sizes must be one per position, {codes.shape[1]}, got {len(codebook_sizes)}"
        )
    sizes = codes.new_tensor(codebook_sizes)  # [codes]
    if codes.device.type == "cpu":
        wrong = (codes < 0) | (codes >= sizes)
        if bool(wrong.any()):
            position = int(wrong.any(dim=0).nonzero()[0])
            raise ValueError(
                f"codes must be from 0 to {codebook_sizes[position] - 1} at position {position}, "
                f"got {int(codes[wrong[:, position], position][0])}"
            )
    # Three random numbers for each code, all [items, codes]: whether the code is chosen, what is
    # then shown in its place, and which random code that would be.
    chance, fate, draw = torch.rand(3, *codes.shape, generator=generator, device=codes.device)
    chosen = chance < ratio
    hidden = chosen & (fate < _SHOWN_AS_MASK)
    random = chosen & ~hidden & (fate < _SHOWN_AS_MASK + _SHOWN_AS_RANDOM)
    # The product may round up to the size itself, which is no code.
    drawn = (draw * sizes).to(codes.dtype).minimum(sizes - 1)
    return MaskedCodes(codes=torch.where(random, drawn, codes), hidden=hidden, chosen=chosen)


def masked_code_loss(
    states: Float[Tensor, "masked dim"],
    targets: Int[Tensor, " masked"],
    code_vectors: Float[Tensor, "tokens dim"],
    *,
    temperature: float,
    weights: Float[Tensor, " masked"] | None = None,
) -> Float[Tensor, ""]:
    """Masked code modelling: predict each chosen code among all codes of all positions.

    CoCoRec, eq. 6: cross-entropy of cosine / `temperature`, with h-hat as `states`, z^c as
    `code_vectors` and C, "the set of all semantic codes", as its rows. At most 2**24 logits are
    held at a time, such as 4,096 predictions over 4,096 codes. If there are more, the backward pass
    computes them again.

    Args:
        states: The semantic-fusion module's output at each chosen code.
        targets: The row of `code_vectors` of each true code; see `SemanticFusion.tokens`.
        code_vectors: The embeddings of all codes, position after position.
        temperature: Divides the cosines.
        weights: Weight of each code in the mean, such as how often its item occurs in a batch that
            predicts each item once. Without weights every code counts 1.

    Returns:
        The mean over the chosen codes, in nats; 0 if no code was chosen.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not len(states):
        return states.sum()
    # In full precision even under autocast: a temperature magnifies bf16's rounding.
    with torch.autocast(device_type=states.device.type, enabled=False):
        dtype = torch.promote_types(states.dtype, torch.float32)
        guesses = F.normalize(states.to(dtype), dim=-1) / temperature  # [masked, dim]
        rows = F.normalize(code_vectors.to(dtype), dim=-1)  # [tokens, dim]
        shares = guesses.new_ones(len(guesses)) if weights is None else weights.to(dtype)
        return _in_pieces(rows, guesses, targets, shares / shares.sum())


def _in_pieces(rows: Tensor, *parts: Tensor) -> Tensor:
    """The sum of `_weighted_cross_entropy` over pieces of at most `LOGITS_AT_A_TIME` logits.

    Args:
        rows: [tokens, dim], all code embeddings.
        parts: Guesses [masked, dim], targets [masked] and weights [masked].
    """
    num_masked, size = len(parts[0]), max(LOGITS_AT_A_TIME // len(rows), 1)
    if num_masked <= size:
        return _weighted_cross_entropy(rows, *parts)
    pieces = (slice(start, start + size) for start in range(0, num_masked, size))
    terms = [
        checkpoint(
            _weighted_cross_entropy, rows, *(part[piece] for part in parts), use_reentrant=False
        )
        for piece in pieces
    ]
    return torch.stack(terms).sum()


def _weighted_cross_entropy(
    rows: Tensor, guesses: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    logits = guesses @ rows.T  # [masked, tokens]
    return F.cross_entropy(logits, targets, reduction="none") @ weights
