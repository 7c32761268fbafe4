"""What sequence models minimise: cross-entropy over the catalogue, and distillation.

Scores are dot products of states and item vectors, or their cosines, divided by `temperature`.
Targets equal to the number of items are padding and leave the loss, states and all.

Nothing here draws from a generator that was not passed, save torch's default one where `generator`
is None: inside `genrec.training.fit` that one is seeded from `(seed, step)`, so that a resumed run
draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Similarity = Literal["dot", "cosine"]
Reduction = Literal["mean", "sum"]

# Logits held at a time: 16 MiB in fp32, some 340 rows of a catalogue of 12,000 items.
_LOGITS_AT_A_TIME = 2**22
_FEWEST_ROWS = 64


def full_cross_entropy(
    states: Float[Tensor, "*batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    targets: Int[Tensor, "*batch"],
    *,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy over the whole catalogue (PRORec, eq. 4).

    Equal to `F.cross_entropy` on all the logits, gradients included, but the logits and their
    gradients are held for `chunk_size` rows at a time only: the gradients with respect to states
    and item vectors are summed up on the way forward. Under autocast the products run in its
    dtype, sums and exponentials in fp32.

    Args:
        states: What the model says of each history (or of each of its positions).
        item_vectors: The table that scores.
        targets: Row of the item that came next; `items` where there is none (padding).
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        label_smoothing: Share of the target's probability that is spread over all items.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.
        chunk_size: Rows at a time; by default as many as keep the logits near 16 MiB, at least 64.

    Raises:
        ValueError: An option is out of range.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    states, item_vectors = _comparable(states, item_vectors, similarity, temperature)
    states, targets = _without_padding(states, targets, len(item_vectors))
    if chunk_size is None:
        chunk_size = max(_LOGITS_AT_A_TIME // len(item_vectors), _FEWEST_ROWS)
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    total: Tensor = _FullCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, item_vectors, targets, label_smoothing, chunk_size, dtype
    )
    return _reduced(total, len(targets), reduction)


class _FullCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies; both gradients are ready when the forward pass is."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        item_vectors: Tensor,
        targets: Tensor,
        label_smoothing: float,
        chunk_size: int,
        dtype: torch.dtype,
    ) -> Tensor:
        need_states, need_items = ctx.needs_input_grad[:2]
        items = item_vectors.to(dtype)
        grad_states = torch.empty_like(states) if need_states else None
        grad_items = torch.zeros_like(item_vectors) if need_items else None
        wide = torch.promote_types(dtype, torch.float32)
        total = states.new_zeros((), dtype=wide)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), chunk_size):
                rows = slice(start, start + chunk_size)
                x, y = states[rows].to(dtype), targets[rows, None]
                logits = (x @ items.T).to(wide)
                at_target = logits.gather(1, y).sum()
                mean = logits.mean(1).sum() if label_smoothing else at_target
                # One softmax gives both the loss and its gradient: `exp_` on its own is four
                # times slower on a CPU. Its largest value is no smaller than 1 / items, so the
                # logarithm is exact where that of the target's probability would underflow.
                top = logits.amax(1)
                grad = torch.softmax(logits, dim=1)
                normaliser = top - grad.amax(1).log()
                total += normaliser.sum() - torch.lerp(at_target, mean, label_smoothing)
                if grad_states is None and grad_items is None:
                    continue
                # d loss / d logits: softmax minus the smoothed one-hot target.
                if label_smoothing:
                    grad -= label_smoothing / len(items)
                grad.scatter_add_(1, y, torch.full_like(y, label_smoothing - 1, dtype=grad.dtype))
                grad = grad.to(dtype)
                if grad_states is not None:
                    grad_states[rows] = grad @ items
                if grad_items is not None:
                    _add_product(grad_items, grad, x)
        ctx.save_for_backward(grad_states, grad_items)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (g if g is None else g * grad_output.to(g.dtype) for g in ctx.saved_tensors)
        return (*gradients, None, None, None, None)


def _add_product(out: Tensor, grad: Tensor, x: Tensor) -> None:
    """Adds `grad.T @ x` to `out`, whose dtype may be a wider one."""
    if out.dtype == x.dtype:
        out.addmm_(grad.T, x)
    else:
        out += grad.T @ x


def sampled_cross_entropy(
    states: Float[Tensor, "*batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    targets: Int[Tensor, "*batch"],
    negatives: Int[Tensor, " negatives"],
    *,
    log_q: Float[Tensor, " items"] | None = None,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Softmax cross-entropy over the target and negatives that all rows share.

    A negative that is the row's own target (an accidental hit) is left out of that row.

    Args:
        states: What the model says of each history (or of each of its positions).
        item_vectors: The table that scores.
        targets: Row of the item that came next; `items` where there is none (padding).
        negatives: Rows of the negative items, as from `sample_negatives`.
        log_q: Logarithm of the probability with which each item is drawn. With it, negatives stand
            for as many items as they are drawn too rarely (the logQ correction), and the loss
            estimates the full softmax. The target, which is always there, is not corrected. None
            takes the negatives as they are.
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        label_smoothing: Share of the target's probability that is spread over the candidates.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.

    Raises:
        ValueError: An option is out of range.
    """
    states, item_vectors = _comparable(states, item_vectors, similarity, temperature)
    states, targets = _without_padding(states, targets, len(item_vectors))
    positive = (states * F.embedding(targets, item_vectors)).sum(-1, keepdim=True)
    scores = torch.cat([positive, states @ F.embedding(negatives, item_vectors).T], dim=1)
    candidates = torch.cat([targets[:, None], negatives.expand(len(targets), -1)], dim=1)
    return candidate_cross_entropy(
        scores, candidates, log_q=log_q, label_smoothing=label_smoothing, reduction=reduction
    )


def candidate_cross_entropy(
    scores: Float[Tensor, "batch candidates"],
    candidates: Int[Tensor, "batch candidates"],
    *,
    log_q: Float[Tensor, " items"] | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Softmax cross-entropy over candidates of each row's own, the target in column 0.

    Args:
        scores: One a candidate.
        candidates: Item rows, to find accidental hits: candidates after the first that are the
            target again leave the softmax.
        log_q: Corrects the negatives for how they were drawn: see `sampled_cross_entropy`.
        label_smoothing: Share of the target's probability that is spread over the candidates.
        reduction: Mean or sum over the rows; the mean of none is 0.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    hits = candidates == candidates[:, :1]
    hits[:, 0] = False
    if log_q is not None:
        expected_count = log_q[candidates] + math.log(max(candidates.shape[1] - 1, 1))
        expected_count[:, 0] = 0.0
        scores = scores - expected_count
    log_p = (
        scores.to(torch.promote_types(scores.dtype, torch.float32))
        .masked_fill(hits, -math.inf)
        .log_softmax(1)
    )
    loss = -log_p[:, 0]
    if label_smoothing:
        mean = log_p.masked_fill(hits, 0.0).sum(1) / (~hits).sum(1)
        loss = (1 - label_smoothing) * loss - label_smoothing * mean
    return _reduced(loss.sum(), len(loss), reduction)


def distillation_loss(
    states: Float[Tensor, "batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    targets: Int[Tensor, " batch"],
    *,
    num_negatives: int | None = None,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Intra-modality knowledge distillation (PRORec, eq. 7), the mean over the batch.

    The paper's choice is the raw dot product; EAGER's is `similarity="cosine", temperature=0.3,
    num_negatives=2048`.

    Args:
        states: c_dis, the decoder's last state at the special token.
        item_vectors: E, the integrated embeddings of the first stage.
        targets: Row of the target item; its embedding is E_t, the positive.
        num_negatives: How many of the other items are drawn as E_neg, shared by the batch; None
            takes all other items.
        similarity: Dot product, or cosine.
        temperature: Divides the similarities.
        generator: Draws the negatives.

    Raises:
        ValueError: An option is out of range.
    """
    if num_negatives is None:
        return full_cross_entropy(
            states, item_vectors, targets, similarity=similarity, temperature=temperature
        )
    negatives = sample_negatives(
        len(item_vectors), num_negatives, generator=generator, device=targets.device
    )
    return sampled_cross_entropy(
        states, item_vectors, targets, negatives, similarity=similarity, temperature=temperature
    )


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
        ValueError: More items asked for without repetition than there are, or fewer than 1.
    """
    shape = (num_negatives,) if isinstance(num_negatives, int) else num_negatives
    if min(shape) < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    if weights is not None:
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
        ValueError: `num_negatives` is below 1.
    """
    negatives = sample_negatives(
        num_items,
        (len(targets), num_negatives),
        weights=weights,
        generator=generator,
        device=targets.device,
    )
    return torch.cat([targets[:, None], negatives], dim=1)


def item_scores(
    states: Float[Tensor, "batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    *,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
) -> Float[Tensor, "batch items"]:
    """Returns the scores that the losses compare: what a trained model ranks by."""
    states, item_vectors = _comparable(states, item_vectors, similarity, temperature)
    return states @ item_vectors.T


def check_similarity(similarity: Similarity, temperature: float) -> None:
    """Refuses a similarity that is none, or a temperature that is not positive.

    Raises:
        ValueError: One of them is out of range.
    """
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _comparable(
    states: Tensor, item_vectors: Tensor, similarity: Similarity, temperature: float
) -> tuple[Tensor, Tensor]:
    """Prepares both sides so that their dot products are the scores."""
    check_similarity(similarity, temperature)
    if similarity == "cosine":
        states, item_vectors = F.normalize(states, dim=-1), F.normalize(item_vectors, dim=-1)
    return (states if temperature == 1 else states / temperature), item_vectors


def _without_padding(states: Tensor, targets: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Flattens, and drops the rows whose target is padding."""
    kept = targets.flatten() != num_items
    return states.reshape(-1, states.shape[-1])[kept], targets.flatten()[kept]


def _reduced(total: Tensor, count: int, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    return total / max(count, 1) if reduction == "mean" else total
