"""The forward pass of a training step, as Fabric sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Sealed:
    """A batch that precision plugins and DDP do not look into: neither casts nor copies it."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class Objective(nn.Module):
    """Calls the loss inside a forward pass, where precision and DDP see everything it does."""

    def __init__(
        self, module: nn.Module, loss: Callable[[nn.Module, Any], Mapping[str, Tensor]]
    ) -> None:
        super().__init__()
        self.module = module
        self.loss = loss
        self.names: tuple[str, ...] = ()

    def forward(self, sealed: Sealed) -> Tensor:
        """Returns the loss terms side by side."""
        terms = self.loss(self.module, sealed.batch)
        self.names = tuple(terms)
        return torch.stack([term.float() for term in terms.values()])
