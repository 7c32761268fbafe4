"""What a module says of itself to a sharded training."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class ShardUnits(Protocol):
    """What a module offers whose weights need not be gathered all at once."""

    def shard_units(self) -> list[nn.Module]:
        """Returns parts whose weights are used through the parts' own `forward` alone.

        The weights of each are gathered for its pass and given back after it. All other weights
        of the module are gathered together, for a whole step.
        """
