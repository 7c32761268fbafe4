"""The losses of sequence models: cross-entropy over the catalogue, and distillation.

Scores are dot products of states and item vectors, or their cosines, divided by `temperature`.
Targets equal to the number of items are padding; they and their states are left out. All losses are
in nats.

Random numbers come from `generator`, or from torch's default generator if it is None. Inside
`genrec.training.fit` the default generator is seeded from `(seed, step)`, so a resumed training
draws the same numbers as one without interruption.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from genrec.config_checks import Similarity
from genrec.full_softmax import FullCrossEntropy
from genrec.fused_softmax import fused_kernel
from genrec.sampling import sample_negatives
from genrec.similarity import comparable

Reduction = Literal["mean", "sum"]

# Logits held at a time: on a CPU as many as fit in its caches (8 MiB in fp32, about 170 rows of a
# catalogue of 12,000 items), elsewhere enough to keep the device busy; but at least 16 rows, since
# products of fewer rows are slow.
_LOGITS_AT_A_TIME = {"cpu": 2**21}
_LOGITS_ELSEWHERE = 2**27
_FEWEST_ROWS = 16


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

    Equal to `F.cross_entropy` on all logits, gradients included, but the logits and their gradients
    are held for only `chunk_size` rows at a time: the gradients of states and item vectors are
    summed in the forward pass. Under autocast the products use its dtype, sums and exponentials
    fp32. On a GPU, in bf16 and from 32,768 items on, the kernel of the extra `genrec[fused]` is
    used if it is installed; it holds no logits.

    Args:
        states: The model's state for each history, or for each position of it.
        item_vectors: One vector per item, to score all items.
        targets: Row of the next item; `items` (the number of items) for padding.
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        label_smoothing: Share of the target's probability that is spread over all items.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.
        chunk_size: Rows at a time; by default as many as keep the logits near 8 MiB on a CPU and
            512 MiB elsewhere, at least 16. With a million items on a CPU the logits take 64 MiB.

    Raises:
        ValueError: An option is out of range.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    states, item_vectors = comparable(states, item_vectors, similarity, temperature)
    states, targets = _without_padding(states, targets, len(item_vectors))
    if chunk_size is None:
        logits = _LOGITS_AT_A_TIME.get(states.device.type, _LOGITS_ELSEWHERE)
        chunk_size = max(logits // len(item_vectors), _FEWEST_ROWS)
        chunk_size = -(-len(states) // max(-(-len(states) // chunk_size), 1)) or 1  # even chunks
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    kernel = fused_kernel(states.device, dtype, len(item_vectors), label_smoothing)
    if kernel is not None and len(states):
        return _reduced(kernel(states, item_vectors, targets), len(targets), reduction)
    total: Tensor = FullCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, item_vectors, targets, label_smoothing, chunk_size, dtype
    )
    return _reduced(total, len(targets), reduction)


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

    If a negative is the row's own target (an accidental hit), it is left out of this row.

    Args:
        states: The model's state for each history, or for each position of it.
        item_vectors: One vector per item, to score the target and the negatives.
        targets: Row of the next item; `items` (the number of items) for padding.
        negatives: Rows of the negative items, for example from `sample_negatives`.
        log_q: Logarithm of the probability with which each item is drawn. With it, the weight of a
            negative is the inverse of its expected number of draws (the logQ correction), and the
            loss estimates the full softmax. The target is always present and is not corrected.
            None makes no correction.
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        label_smoothing: Share of the target's probability that is spread over the candidates.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.

    Raises:
        ValueError: An option is out of range.
    """
    states, item_vectors = comparable(states, item_vectors, similarity, temperature)
    states, targets = _without_padding(states, targets, len(item_vectors))
    positive = (states * F.embedding(targets, item_vectors)).sum(-1, keepdim=True)
    others = states @ F.embedding(negatives, item_vectors).T
    if log_q is not None:
        others = others - (log_q[negatives] + math.log(len(negatives)))
    hits = targets[:, None] == negatives
    return _candidate_softmax(positive, others, hits, label_smoothing, reduction)


def in_batch_cross_entropy(
    states: Float[Tensor, "*batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    targets: Int[Tensor, "*batch"],
    *,
    log_q: Float[Tensor, " items"] | None = None,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Softmax cross-entropy over the batch's targets: targets of other rows are the negatives.

    If another row has the same target, it is left out of this row. Popular items are negatives more
    often than others; `log_q` corrects for this (Yi et al., RecSys 2019, eq. 5).

    Differs: only negatives are corrected, since the target is always present.

    Args:
        states: The model's state for each history, or for each position of it.
        item_vectors: One vector per item, to score the targets.
        targets: Row of the next item; `items` (the number of items) for padding.
        log_q: Logarithm of each item's share of all targets, that is, of its popularity.
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        label_smoothing: Share of the target's probability that is spread over the candidates.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.

    Raises:
        ValueError: An option is out of range.
    """
    states, item_vectors = comparable(states, item_vectors, similarity, temperature)
    states, targets = _without_padding(states, targets, len(item_vectors))
    scores = states @ F.embedding(targets, item_vectors).T
    positive = scores.diagonal()[:, None]
    if log_q is not None:
        scores = scores - (log_q[targets] + math.log(max(len(targets) - 1, 1)))
    hits = targets[:, None] == targets
    return _candidate_softmax(positive, scores, hits, label_smoothing, reduction)


def candidate_cross_entropy(
    scores: Float[Tensor, "batch candidates"],
    candidates: Int[Tensor, "batch candidates"],
    *,
    log_q: Float[Tensor, " items"] | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Softmax cross-entropy over candidates; each row has its own, with the target in column 0.

    Args:
        scores: One score per candidate.
        candidates: Item rows, to find accidental hits: if a later candidate is the target again, it
            is left out.
        log_q: Corrects the negatives for their sampling: see `sampled_cross_entropy`.
        label_smoothing: Share of the target's probability that is spread over the candidates.
        reduction: Mean or sum over the rows; the mean of none is 0.

    Raises:
        ValueError: An option is out of range.
    """
    positive, others = scores[:, :1], scores[:, 1:]
    if log_q is not None:
        others = others - (log_q[candidates[:, 1:]] + math.log(max(others.shape[1], 1)))
    hits = candidates[:, 1:] == candidates[:, :1]
    return _candidate_softmax(positive, others, hits, label_smoothing, reduction)


def binary_cross_entropy(
    states: Float[Tensor, "*batch dim"],
    item_vectors: Float[Tensor, "items dim"],
    targets: Int[Tensor, "*batch"],
    negatives: Int[Tensor, "*batch negatives"],
    *,
    similarity: Similarity = "dot",
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Logistic loss of each target against its own negatives (SASRec, eq. 6, with one negative).

    Args:
        states: The model's state for each history, or for each position of it.
        item_vectors: One vector per item, to score the targets and the negatives.
        targets: Row of the next item; `items` (the number of items) for padding.
        negatives: Item rows, for example from `sample_negatives(num_items, (*batch, 1))`. A
            negative that equals the row's target is left out.
        similarity: Dot product, or cosine.
        temperature: Divides the scores.
        reduction: Mean or sum over the targets that are not padding; the mean of none is 0.

    Raises:
        ValueError: An option is out of range.
    """
    states, item_vectors = comparable(states, item_vectors, similarity, temperature)
    kept = targets != len(item_vectors)
    states, candidates = states[kept], torch.cat([targets[..., None], negatives], dim=-1)[kept]
    scores = (F.embedding(candidates, item_vectors) @ states[..., None])[..., 0]
    return candidate_binary_cross_entropy(scores, candidates, reduction=reduction)


def candidate_binary_cross_entropy(
    scores: Float[Tensor, "batch candidates"],
    candidates: Int[Tensor, "batch candidates"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Logistic loss over candidates; each row has its own, the target in column 0 (DIN, eq. 2).

    Args:
        scores: One score per candidate.
        candidates: Item rows, to find accidental hits: if a later candidate is the target again, it
            is left out.
        reduction: Mean or sum over the rows; a row's loss is the sum over its candidates. The mean
            of no rows is 0.

    Raises:
        ValueError: `reduction` is unknown.
    """
    hits = candidates == candidates[:, :1]
    hits[:, 0] = False
    signs = torch.ones_like(scores)
    signs[:, 0] = -1.0
    losses = F.softplus(scores.to(_wide(scores)) * signs).masked_fill(hits, 0.0)
    return _reduced(losses.sum(), len(losses), reduction)


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

    The paper uses the raw dot product; EAGER uses `similarity="cosine", temperature=0.3,
    num_negatives=2048`.

    Args:
        states: c_dis, the decoder's last state at the special token.
        item_vectors: E, the integrated embeddings of the first stage.
        targets: Row of the target item; its embedding is E_t, the positive.
        num_negatives: How many items are drawn as E_neg, shared by the batch; None takes all other
            items.
        similarity: Dot product, or cosine.
        temperature: Divides the similarities.
        generator: Random generator for the negatives; None is torch's default one.

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


def _candidate_softmax(
    positive: Float[Tensor, "batch 1"],
    others: Float[Tensor, "batch others"],
    hits: Bool[Tensor, "batch others"],
    label_smoothing: float,
    reduction: Reduction,
) -> Float[Tensor, ""]:
    """Cross-entropy of the positive against the others, without accidental hits."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    scores = torch.cat([positive, others.masked_fill(hits, -math.inf)], dim=1)
    log_p = scores.to(_wide(scores)).log_softmax(1)
    loss = -log_p[:, 0]
    if label_smoothing:
        spread = log_p[:, 0] + log_p[:, 1:].masked_fill(hits, 0.0).sum(1)
        mean = spread / (1 + (~hits).sum(1))
        loss = (1 - label_smoothing) * loss - label_smoothing * mean
    return _reduced(loss.sum(), len(loss), reduction)


def _wide(scores: Tensor) -> torch.dtype:
    """Returns fp32, or the dtype of the scores if it is wider."""
    return torch.promote_types(scores.dtype, torch.float32)


def _without_padding(states: Tensor, targets: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Flattens states and targets, and drops the rows whose target is padding."""
    kept = targets.flatten() != num_items
    return states.reshape(-1, states.shape[-1])[kept], targets.flatten()[kept]


def _reduced(total: Tensor, count: int, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    return total / max(count, 1) if reduction == "mean" else total
