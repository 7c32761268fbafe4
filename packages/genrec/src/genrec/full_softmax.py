"""The softmax over a whole catalogue in chunks of rows, with gradients in the forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FullCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies; the forward pass computes both gradients too."""

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
        """Returns the sum over the rows, and saves the gradients of both sides."""
        need_states, need_items = ctx.needs_input_grad[:2]
        items = item_vectors.to(dtype)
        grad_states = torch.empty_like(states) if need_states else None
        grad_items = torch.zeros_like(item_vectors) if need_items else None
        wide = torch.promote_types(dtype, torch.float32)
        total = states.new_zeros((), dtype=wide)
        # One buffer for all chunks: new memory would take as much time as the exponentials.
        held = torch.empty(
            (min(chunk_size, len(states)), len(items)), dtype=dtype, device=states.device
        )
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), chunk_size):
                rows = slice(start, start + chunk_size)
                x, y = states[rows].to(dtype), targets[rows, None]
                logits = torch.mm(x, items.T, out=held[: len(x)]).to(wide)
                at_target = logits.gather(1, y).sum()
                mean = logits.mean(1).sum() if label_smoothing else at_target
                # One softmax, in place, gives both the loss and its gradient: `exp_` alone is four
                # times slower on a CPU. Its largest value is at least 1 / items, so the logarithm
                # is exact; the target's probability could underflow.
                top = logits.amax(1)
                grad = torch.softmax(logits, dim=1, out=logits)
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
        """Scales the saved gradients."""
        gradients = (g if g is None else g * grad_output.to(g.dtype) for g in ctx.saved_tensors)
        return (*gradients, None, None, None, None)


def _add_product(out: Tensor, grad: Tensor, x: Tensor) -> None:
    """Adds `grad.T @ x` to `out`, whose dtype may be wider."""
    if out.dtype == x.dtype:
        out.addmm_(grad.T, x)
    else:
        out += grad.T @ x
