"""A training whose weights, gradients and optimizer lie in shares over the processes (FSDP2)."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genrec.objective import Objective, Sealed
from genrec.placement import Replicated
from genrec.shard_units import ShardUnits
from genrec.sharded_files import Shards

# What makes a module what it is when it is called: parameters and hooks.
_TABLES = tuple(
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, dict) and name not in ("_buffers", "_modules")
)


class Sharded(Replicated):
    """A module of which each process keeps a share: an n-th of each weight's first axis.

    A step gathers weights where they are used, and each process gets its share of the gradients'
    means. Numbers without an axis stay whole. The caller's module is put back for each validation
    and at the end, as what it was, so that nothing else knows of shares. Until then its weights are
    empty outside of the loss.

    Raises:
        ValueError: The module cannot be sharded.
    """

    def _placed(self, objective: Objective) -> Callable[[Sealed], Tensor]:
        if self.config.compile:
            raise ValueError("compile must be False with strategy 'fsdp', got True")
        try:
            from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter  # noqa: F401
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
        except ImportError as error:
            raise ValueError(
                f"strategy must be 'ddp' with torch {torch.__version__}, got 'fsdp': it needs "
                "torch.distributed.fsdp.fully_shard and safetensors checkpoints"
            ) from error
        self._plain = _appearance(self.module)
        self._weights = dict(self.module.named_parameters())
        self._scalars = {p for p in self._weights.values() if p.ndim == 0}
        dtypes = {p.dtype for p in self._weights.values() if p.ndim}
        if len(dtypes) > 1:
            names = ", ".join(sorted(map(str, dtypes)))
            raise ValueError(
                f"module must be one that can be sharded: weights of one dtype, got {names}"
            )
        device = self.fabric.device.type
        mesh = init_device_mesh(device, (self.fabric.world_size,))
        units = self.module.shard_units() if isinstance(self.module, ShardUnits) else []
        try:
            for unit in units:
                fully_shard(unit, mesh=mesh, ignored_params=self._scalars)
            fully_shard(objective, mesh=mesh, ignored_params=self._scalars)
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            _show(self.module, self._plain)
            reason = " ".join(str(error).split())
            raise ValueError(f"module must be one that can be sharded: {reason}") from error
        self._forget_weights()

        def forward(sealed: Sealed) -> Tensor:
            with self.fabric.autocast():
                try:
                    terms: Tensor = objective(sealed)
                except RuntimeError as error:
                    if "DTensor" not in str(error):
                        raise
                    raise ValueError(
                        "module must use the weights of each of its shard_units through that "
                        "part's forward alone, to be trained with strategy 'fsdp'"
                    ) from error
            return terms

        self._root: Any = objective
        return forward

    def gradients_stay(self, enabled: bool) -> AbstractContextManager[None]:
        """As for `Replicated`."""
        self._root.set_requires_gradient_sync(not enabled)
        return nullcontext()

    def gradient_norm(self, clip: float | None) -> Tensor:
        """As for `Replicated`; gradients of numbers without an axis are averaged here."""
        for parameter in self._scalars:
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.fabric.world_size
        norm: Any = super().gradient_norm(clip)
        whole: Tensor = norm.full_tensor() if _is_sharded(norm) else norm
        return whole

    @contextmanager
    def whole(self) -> Iterator[None]:
        """As for `Replicated`: all weights are gathered in each process, within the block."""
        sharded = _appearance(self.module)
        self.keep_whole()
        try:
            yield
        finally:
            _show(self.module, sharded)
            self._forget_weights()

    def keep_whole(self) -> None:
        """As for `Replicated`: all weights are gathered in each process."""
        sharded = dict(self.module.named_parameters())
        _show(self.module, self._plain)
        for name, weight in self._weights.items():
            if weight not in self._scalars:
                weight.data = sharded[name].detach().full_tensor()  # type: ignore[attr-defined]

    def _forget_weights(self) -> None:
        for weight in self._weights.values():
            if weight not in self._scalars:
                weight.data = weight.data.new_empty(0)

    def content(self, tensors: dict[str, Tensor], place: Path) -> Shards:
        """As for `Replicated`: each process writes its share."""
        shards = Shards(place)
        if self.fabric.is_global_zero:  # what a killed save has left
            shutil.rmtree(place, ignore_errors=True)
        self.fabric.barrier()
        shards.write(tensors)
        return shards

    def received(self, content: dict[str, Tensor] | Shards, prefix: str = "") -> dict[str, Tensor]:
        """As for `Replicated`: each process reads its share, or cuts it out of whole tensors."""
        weights = {prefix + name: value for name, value in self.module.state_dict().items()}

        def model_of(name: str, size: torch.Size) -> Tensor | None:
            """Returns the tensor that lies as the one of a name should."""
            if name in weights:
                weight: Tensor = weights[name]
                return weight
            number = name.split(".")[1]
            if not name.startswith(("optimizer.", "average.")) or not number.isdecimal():
                return None
            if int(number) >= len(self.parameters):
                return None
            parameter: Tensor = self.parameters[int(number)].detach()
            return parameter if parameter.shape == size else None

        def like(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
            model = model_of(name, size)
            if model is None:
                return torch.zeros(size, dtype=dtype)
            return torch.zeros_like(model, dtype=dtype)

        if isinstance(content, Shards):
            return content.read(like)
        return {name: _cut(value, model_of(name, value.shape)) for name, value in content.items()}


def _is_sharded(tensor: Tensor | None) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _cut(tensor: Tensor, model: Any) -> Tensor:
    """Returns this process's share of a whole tensor, where `model` is sharded."""
    from torch.distributed.tensor import distribute_tensor

    if not _is_sharded(model) or tensor.shape != model.shape:
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)


_Appearance = Mapping[nn.Module, tuple[type[nn.Module], dict[str, Any]]]


def _appearance(module: nn.Module) -> _Appearance:
    """Returns of each part its class, parameters and hooks, and what else bears FSDP's names."""
    return {
        part: (
            type(part),
            {
                name: copy.copy(value) if name in _TABLES else value
                for name, value in vars(part).items()
                if name in _TABLES or _is_of_fsdp(name)
            },
        )
        for part in module.modules()
    }


def _show(module: nn.Module, appearance: _Appearance) -> None:
    """Gives the parts of a module their classes, parameters and hooks of another time back."""
    for part, (kind, values) in appearance.items():
        part.__class__ = kind
        for name in [name for name in vars(part) if _is_of_fsdp(name)]:
            del vars(part)[name]
        vars(part).update(values)


def _is_of_fsdp(name: str) -> bool:
    return "fsdp" in name or name.startswith("__composable_api")
