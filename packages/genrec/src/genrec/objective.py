"""The forward pass of a training step, for Fabric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Sealed:
    """Wraps a batch, so that precision plugins do not cast it and DDP does not copy it."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class Objective(nn.Module):
    """Calls the loss inside a forward pass, so that precision and DDP apply to all of it."""

    def __init__(
        self, module: nn.Module, loss: Callable[[nn.Module, Any], Mapping[str, Tensor]]
    ) -> None:
        super().__init__()
        self.module = module
        self.loss = loss
        self.names: tuple[str, ...] = ()

    def forward(self, sealed: Sealed) -> Tensor:
        """Returns the loss terms in one tensor, in the order of `names`.

        Raises:
            ValueError: The terms are not scalar tensors by name, or their names have changed.
        """
        terms = self.loss(self.module, sealed.batch)
        if not isinstance(terms, Mapping) or not terms:
            raise ValueError(f"loss must return tensors by name, got {type(terms).__name__}")
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.ndim:
                got = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
                raise ValueError(f"loss term {name!r} must be a tensor of one number, got {got}")
        self.names = self.names or tuple(terms)
        if terms.keys() != set(self.names):
            raise ValueError(
                f"loss must return the same terms for each batch, got {sorted(terms)} after "
                f"{sorted(self.names)}"
            )
        return torch.stack([terms[name].float() for name in self.names])
