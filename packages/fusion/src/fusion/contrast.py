"""InfoNCE, and the contrastive losses of CoCoRec and TSSR, which are InfoNCE over other pairs."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Similarity = Literal["cosine", "dot"]


def info_nce(
    anchors: Float[Tensor, "*groups batch dim"],
    positives: Float[Tensor, "*groups batch dim"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    symmetric: bool = False,
    include_positive: bool = True,
    ids: Int[Tensor, "*groups batch"] | None = None,
    valid: Bool[Tensor, "*groups batch"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE with in-batch negatives, averaged over the anchors that have a negative.

    Row ``i`` of ``positives`` is the positive of row ``i`` of ``anchors``; the other rows of the
    same group are its negatives. The leading axes are groups: a row has no negatives from another
    group (for example another position of a sequence). An anchor without any negative is left out
    of the mean. If no anchor has one (a last batch of one row), the loss and its gradients are 0.

    Args:
        anchors: The rows that are pulled towards their positives.
        positives: One positive for each anchor.
        temperature: Divides the similarities; 1 leaves them as they are.
        similarity: ``cosine`` or raw ``dot`` product.
        symmetric: Average with the loss in the other direction, positives as anchors.
        include_positive: Keep the positive in the denominator, as InfoNCE does. Without it the
            loss can be negative; only the range of the similarity bounds it from below.
        ids: An id for each row, such as its item; rows with the same id are never each other's
            negatives.
        valid: False for padding, which is neither anchor nor positive nor negative.

    Returns:
        The mean loss, in nats.

    Raises:
        ValueError: ``temperature`` is not positive or ``similarity`` is unknown.
    """
    terms, counted = contrast_terms(
        anchors,
        positives,
        temperature=temperature,
        similarity=similarity,
        include_positive=include_positive,
        ids=ids,
        valid=valid,
    )
    loss = terms.sum() / counted.sum().clamp(min=1)
    if not symmetric:
        return loss
    other = info_nce(
        positives,
        anchors,
        temperature=temperature,
        similarity=similarity,
        include_positive=include_positive,
        ids=ids,
        valid=valid,
    )
    return (loss + other) / 2


def masked_sequence_alignment(
    masked: Float[Tensor, "batch dim"],
    original: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    user_rows: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """A history with masked codes towards the same history without masks, in both directions.

    CoCoRec, eq. 7-8, with r-hat as `masked` and r as `original`: cosine, in-batch negatives, the
    mean of the two directions, in nats.

    Args:
        masked: The backbone's states for the histories in which codes are masked.
        original: The backbone's states for the same histories without masks.
        temperature: Divides the cosines.
        user_rows: The user of each row. With it, other prefixes of the same user's history are not
            negatives; the paper takes every other row of the batch as a negative.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    return info_nce(masked, original, temperature=temperature, symmetric=True, ids=user_rows)


def user_contrast(
    ids: Float[Tensor, "batch length dim"],
    content: Float[Tensor, "batch length dim"],
    valid: Bool[Tensor, "batch length"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """User-grained contrast: a user's two streams are two views of the same behaviour.

    TSSR, eq. 1, with F^id as ``ids`` and F^con as ``content``: cosine of the means over the
    sequence, the other users of the batch as negatives, the sum of both directions, in nats.

    Differs: the mean leaves out the padding, which the authors' code includes.

    Args:
        ids: States of the id stream.
        content: States of the content stream.
        valid: False at padding. A user without any valid step is left out.
        temperature: Divides the cosines.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    # A valid step's weight in the mean over the sequence; all zeros for a user without valid steps.
    weights = valid.to(ids.dtype) / valid.sum(dim=1, keepdim=True).clamp(min=1)  # [batch, length]
    first, second = (  # [batch, dim] each
        (states.masked_fill(~valid.unsqueeze(-1), 0) * weights.unsqueeze(-1)).sum(dim=1)
        for states in (ids, content)
    )
    present = valid.any(dim=1)  # [batch]
    # `symmetric` takes the mean of the two directions; the paper adds them.
    return 2 * info_nce(first, second, temperature=temperature, symmetric=True, valid=present)


def item_contrast(
    ids: Float[Tensor, "batch length dim"],
    content: Float[Tensor, "batch length dim"],
    next_ids: Float[Tensor, "batch length dim"],
    next_content: Float[Tensor, "batch length dim"],
    next_items: Int[Tensor, "batch length"],
    valid: Bool[Tensor, "batch length"],
    *,
    temperature: float,
    similarity: Similarity = "dot",
) -> Float[Tensor, ""]:
    """Item-grained contrast: each stream predicts the other stream's next item.

    TSSR, eq. 2: inner products, both directions summed, in nats. The negatives of a step are the
    other users' next items at the same step, but never the same item. With inner products this loss
    also trains the norms of the vectors; ``similarity="cosine"`` leaves these to the other losses.

    Differs: this is the mean over all steps that have a negative; the paper sums over the steps of
    a user. With a mean, long histories do not outweigh the other losses. The authors' code has no
    temperature; that is ``temperature=1``.

    Args:
        ids: States of the id stream, F^id.
        content: States of the content stream, F^con.
        next_ids: Id embeddings E^id of the item that follows each step.
        next_content: Content embeddings E^con of the same items.
        next_items: The row of this item in the catalogue.
        valid: False where no item follows.
        temperature: Divides the similarities.
        similarity: ``dot``, as in the paper, or ``cosine``.

    Raises:
        ValueError: ``temperature`` is not positive or ``similarity`` is unknown.
    """
    # Steps come first, as the groups of `info_nce`: users are compared at the same step only.
    rows, known = next_items.transpose(0, 1), valid.transpose(0, 1)  # [length, batch]

    def towards(
        states: Float[Tensor, "batch length dim"], following: Float[Tensor, "batch length dim"]
    ) -> Float[Tensor, ""]:
        return info_nce(
            states.transpose(0, 1),  # [length, batch, dim]
            following.transpose(0, 1),
            temperature=temperature,
            similarity=similarity,
            ids=rows,
            valid=known,
        )

    return towards(ids, next_content) + towards(content, next_ids)


def contrast_terms(
    anchors: Float[Tensor, "*groups batch dim"],
    positives: Float[Tensor, "*groups batch dim"],
    *,
    temperature: float,
    similarity: Similarity,
    include_positive: bool,
    ids: Int[Tensor, "*groups batch"] | None,
    valid: Bool[Tensor, "*groups batch"] | None,
) -> tuple[Float[Tensor, "*groups batch"], Bool[Tensor, "*groups batch"]]:
    """The loss of each anchor, and which anchors count; see `info_nce` for the arguments.

    Returns:
        The losses (0 where an anchor does not count), and the mask of the anchors that count.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity must be 'cosine' or 'dot', got {similarity!r}")

    batch = anchors.shape[-2]
    # Row i, column j: whether positive j belongs to anchor i, and whether it is a negative of i.
    is_self = torch.eye(batch, dtype=torch.bool, device=anchors.device)  # [batch, batch]
    negative = (~is_self).expand(*anchors.shape[:-1], batch)  # [*groups, batch, batch]
    if ids is not None:
        negative = negative & (ids.unsqueeze(-1) != ids.unsqueeze(-2))
    if valid is not None:
        negative = negative & valid.unsqueeze(-1) & valid.unsqueeze(-2)
        # Values in the padding, NaN included, must not reach a gradient.
        anchors = anchors.masked_fill(~valid.unsqueeze(-1), 0)
        positives = positives.masked_fill(~valid.unsqueeze(-1), 0)
    counted = negative.any(dim=-1)  # [*groups, batch]

    logits = _similarities(anchors, positives, similarity) / temperature  # as `negative`
    in_denominator = negative | is_self if include_positive else negative
    # A row that does not count keeps its diagonal, so that each logsumexp has at least one term.
    in_denominator = in_denominator | (is_self & ~counted.unsqueeze(-1))
    denominator = logits.masked_fill(~in_denominator, -torch.inf).logsumexp(dim=-1)
    terms = denominator - logits.diagonal(dim1=-2, dim2=-1)  # [*groups, batch]
    return terms.masked_fill(~counted, 0), counted


def _similarities(
    x: Float[Tensor, "*groups batch dim"],
    y: Float[Tensor, "*groups batch dim"],
    similarity: Similarity,
) -> Float[Tensor, "*groups batch batch"]:
    # In full precision even under autocast: a temperature magnifies bf16's rounding.
    with torch.autocast(device_type=x.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, y = x.to(dtype), y.to(dtype)
        if similarity == "cosine":
            x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        return x @ y.transpose(-1, -2)
