"""Tensors in one safetensors file a process: what `torch.distributed.checkpoint` writes and reads.

Its own format holds pickled metadata; that of `HuggingFaceStorageWriter` is safetensors, each file
with the offsets of its parts in its header. Any number of processes reads what any other wrote.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec.errors import ArtifactError


@dataclass(frozen=True)
class Shards:
    """A folder with the files.

    Attributes:
        folder: Where all processes see it.
    """

    folder: Path

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Writes tensors, sharded ones by parts; all processes call it, and none returns before.

        Args:
            tensors: By name; what is not sharded is taken to be the same in all processes.
        """
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        writer = HuggingFaceStorageWriter(str(self.folder), save_distributed=True)
        save(dict(tensors), storage_writer=writer)

    def read(self, like: Callable[[str, torch.Size, torch.dtype], Tensor]) -> dict[str, Tensor]:
        """Reads each tensor into one that lies as it is wanted; all processes call it.

        Args:
            like: Gives, by name, shape and dtype, what the tensor is read into.
        """
        return self._filled(like, alone=False)

    def whole(self) -> dict[str, Tensor]:
        """Reads the tensors whole, in one process."""
        return self._filled(lambda _, size, dtype: torch.empty(size, dtype=dtype), alone=True)

    def _filled(
        self, like: Callable[[str, torch.Size, torch.dtype], Tensor], *, alone: bool
    ) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = HuggingFaceStorageReader(str(self.folder))
        stored: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
        tensors = {}
        for name, about in stored.items():
            tensors[name] = like(name, about.size, about.properties.dtype)
            if tensors[name].shape != about.size:
                raise ArtifactError(
                    f"{self.folder} holds the weights of another model: {name} must have shape "
                    f"{tuple(tensors[name].shape)}, got {tuple(about.size)}"
                )
        with warnings.catch_warnings():
            if alone:  # torch warns of what is wanted here
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(tensors, storage_reader=reader, no_dist=alone)
        return tensors
