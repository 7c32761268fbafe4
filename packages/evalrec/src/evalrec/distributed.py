"""Sharing an evaluation among the processes of torch.distributed, where there is a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
import torch.distributed as dist

_is_alone = ContextVar("is_alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """A part of the work that this process does for itself, whatever group it is in."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def shard() -> tuple[int, int]:
    """This process's number, and how many there are; (0, 1) without a process group, or alone."""
    if _is_alone.get():
        return 0, 1
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def together() -> Iterator[None]:
    """A part of the work that every process does for itself; if one fails, all do.

    Without this, the others would wait for ever for what the failed one has to add.

    Raises:
        RuntimeError: If it failed in another process, where the message is.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        (failures,) = add_up([np.array([int(failed)])])
    if failures[0]:
        raise RuntimeError("the evaluation failed in another process, which says why")


def add_up(shares: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The sums of every process's arrays; the arrays themselves without a process group."""
    if shard()[1] == 1:
        return list(shares)
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    sums = []
    for share in shares:
        tensor = torch.from_numpy(share).to(device)
        dist.all_reduce(tensor)
        sums.append(tensor.cpu().numpy())
    return sums


def of_everyone(share: np.ndarray) -> np.ndarray:
    """Every process's array, of one shape, in the order of the processes: [processes, ...]."""
    number, of = shard()
    every = np.zeros((of, *share.shape), dtype=share.dtype)
    every[number] = share
    return add_up([every])[0]
