"""Where the weights of a training lie, and what depends on it: here each process has all of them.

`genrec.sharding` has the other way, in which each process has a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genrec.checkpoint import optimizer_tensors, restore_optimizer
from genrec.compiling import compiled_loss
from genrec.objective import Objective, Sealed
from genrec.optimization import WeightAverage, build_optimizer
from genrec.reading import restore_module
from genrec.sharded_files import Shards
from genrec.training_config import TrainingConfig

Strategy = Literal["ddp", "fsdp"]
Loss = Callable[[nn.Module, Any], Mapping[str, Tensor]]


class Replicated:
    """A module, its optimizer and the average of its weights, whole in each process (DDP).

    Args:
        fabric: A launched Fabric.
        module: What is trained.
        loss: Named terms of a batch.
        config: How is trained.

    Attributes:
        parameters: What is trained of the module.
        average: The moving average of these; None without one.
    """

    def __init__(self, fabric: Any, module: nn.Module, loss: Loss, config: TrainingConfig) -> None:
        self.fabric, self.module, self.config = fabric, module, config
        if fabric.world_size > 1:
            for parameter in module.parameters():  # all begin with the weights of the first
                torch.distributed.broadcast(parameter.data, 0)
        self.objective = Objective(module, compiled_loss(loss) if config.compile else loss)
        self.forward = self._placed(self.objective)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, config)
        self.average: WeightAverage | None = None
        if config.ema_decay is not None:
            self.average = WeightAverage(self.parameters, config.ema_decay)

    def _placed(self, objective: Objective) -> Callable[[Sealed], Tensor]:
        """Spreads the module over the processes; returns what computes the loss terms then."""
        forward: Callable[[Sealed], Tensor] = self.fabric.setup_module(objective)
        return forward

    def gradients_stay(self, enabled: bool) -> AbstractContextManager[None]:
        """Within it, where `enabled`, no backward pass exchanges gradients with other processes."""
        context: AbstractContextManager[None] = self.fabric.no_backward_sync(
            self.forward, enabled=enabled
        )
        return context

    def gradient_norm(self, clip: float | None) -> Tensor:
        """Returns the norm of all gradients, which are clipped to `clip` unless that is None."""
        norm: Tensor
        if clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        else:
            norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
            norm = torch.stack(norms).norm()
        return norm

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it, the module is the caller's own, with all weights."""
        yield

    def keep_whole(self) -> None:
        """Makes the module the caller's own for good, with all weights."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that a training needs to go on, by names; of this process where sharded."""
        averages = [] if self.average is None else self.average.averages
        return {
            **{f"module.{name}": weight for name, weight in self.module.state_dict().items()},
            **{f"average.{i}": average for i, average in enumerate(averages)},
            **optimizer_tensors(self.optimizer),
        }

    def content(self, tensors: dict[str, Tensor], place: Path) -> dict[str, Tensor] | Shards:
        """Returns what a checkpoint keeps of tensors: themselves, or files in the folder `place`.

        All processes call it, where the tensors are sharded.
        """
        return tensors

    def received(self, content: dict[str, Tensor] | Shards, prefix: str = "") -> dict[str, Tensor]:
        """Returns the tensors of a checkpoint as they lie in this process.

        Args:
            content: What the checkpoint kept.
            prefix: What stands before the names of the module's weights.
        """
        return content.whole() if isinstance(content, Shards) else content

    def restore_weights(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """Undoes `tensors` for the module's weights.

        Raises:
            ArtifactError: They are those of another module.
        """
        prefix = "module."
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        restore_module(self.module, weights, source)

    def restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        """Undoes `tensors` for the optimizer and the average.

        Raises:
            ValueError: They are those of another module.
        """
        restore_optimizer(self.optimizer, tensors)
        if self.average is not None:
            for i, average in enumerate(self.average.averages):
                average.copy_(tensors[f"average.{i}"])
