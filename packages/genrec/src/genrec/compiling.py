"""The loss of a training, compiled by `torch.compile`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def compiled_loss(
    loss: Callable[[nn.Module, Any], Mapping[str, Tensor]],
) -> Callable[[nn.Module, Any], Mapping[str, Tensor]]:
    """Returns the loss compiled, for batches of any sizes at once.

    The function is compiled and not the module, whose weights keep their names. Sizes are symbols
    from the first batch on, so that a batch of another length is no reason to compile again; a size
    of 1 is.

    Raises:
        ValueError: There is no C++ compiler.
    """
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compile must be False where there is no C++ compiler: {compiler!r} is not found; "
            "install one, or name it in the environment variable CXX"
        )
    compiled: Callable[[nn.Module, Any], Mapping[str, Tensor]] = torch.compile(loss, dynamic=True)
    return compiled
