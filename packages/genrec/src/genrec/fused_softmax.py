"""The softmax over a large catalogue by a kernel that holds no logits, where a GPU has one.

`cut_cross_entropy` (Wijmans et al., 2025, "Cut Your Losses in Large-Vocabulary Language Models")
computes logits block by block in the GPU's fast memory, and again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

FUSED_ITEMS = 2**15
"""Items of a catalogue from which on the kernel is taken. Reasoned, not measured."""

_KERNEL = "cut_cross_entropy"
_DTYPES = (torch.bfloat16, torch.float16)  # of which its backward pass can be

Kernel = Callable[
    [Float[Tensor, "rows dim"], Float[Tensor, "items dim"], Int[Tensor, " rows"]], Tensor
]


def fused_kernel(
    device: torch.device, dtype: torch.dtype, num_items: int, label_smoothing: float
) -> Kernel | None:
    """Returns a function from states, item vectors and targets to the sum of cross-entropies.

    Args:
        device: Where the vectors are.
        dtype: In which products are made: autocast's, or that of the vectors.
        num_items: Size of the catalogue.
        label_smoothing: Which the kernel knows nothing of.

    Returns:
        None where the softmax of `genrec.full_softmax` is to be taken: on a CPU, in fp32, for less
        than `FUSED_ITEMS`, with label smoothing, or without the extra `genrec[fused]`.
    """
    is_fit = device.type == "cuda" and dtype in _DTYPES and num_items >= FUSED_ITEMS
    if not is_fit or label_smoothing or find_spec(_KERNEL) is None:
        return None
    linear_cross_entropy = import_module(_KERNEL).linear_cross_entropy

    def total(states: Tensor, item_vectors: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = linear_cross_entropy(
            states.to(dtype), item_vectors.to(dtype), targets, reduction="sum"
        )
        return loss.float()

    return total
