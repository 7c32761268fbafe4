"""Devices, random numbers, signals and memory of the process in which a training runs."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

if sys.platform != "win32":  # Windows has no such module
    import resource


def fabric_on(device: torch.device, precision: Literal["32", "bf16"], strategy: str) -> Any:
    """Returns a launched Fabric on `device`, or on all that `torchrun` started this process for.

    Raises:
        ValueError: `strategy` is none of "ddp" and "fsdp", or "fsdp" and `torchrun` started no
            processes.
    """
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"strategy must be 'ddp' or 'fsdp', got {strategy!r}")
    if strategy == "fsdp" and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "strategy must be 'ddp' where there is no process group, got 'fsdp': start the script "
            "by torchrun"
        )
    # It takes seconds, and only training needs it.
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // processes
    devices: Any = processes
    if processes * nodes == 1 and device.index is not None:
        devices = [device.index]
    is_group = processes * nodes > 1 or strategy == "fsdp"
    # Buffers are the same in all processes and stay as they are: gloo sends no small integers.
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {"init_sync": False, buffers: False}
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(**settings) if is_group else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


@contextmanager
def isolated_randomness(device: torch.device) -> Iterator[None]:
    """Restores the state of torch's default generators after the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_default_generators(device: torch.device, *entropy: int) -> None:
    """Seeds torch's default generators, the CPU's and `device`'s, from several numbers.

    Not by `torch.manual_seed`: it stores a stack trace for each unused device, which would slow
    down every step of a training on a CPU.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class Interrupts:
    """In the block, a first SIGINT or SIGTERM only sets `received`; a second SIGINT interrupts.

    Python passes signals to the main thread, so in other threads this does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt("interrupted twice; only the last checkpoint is saved")
        self.received = signal.Signals(number)


def peak_memory_mib(device: torch.device) -> float:
    """Returns the peak of memory so far, in MiB: torch's on a GPU, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
