"""A training run on disk: one JSON file that names the safetensors files that belong to it.

The tensors are written under new names, then the JSON is put in place by one rename, then what it
no longer names is deleted, as far as it bears a checkpoint's name. So a run that is killed at any
moment leaves a whole checkpoint, the old one or the new one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from genrec.artifact import ArtifactError, read_tensors, unshared

FORMAT = 1
STATE_FILE = "checkpoint.json"
LOG_FILE = "log.jsonl"
_TENSOR_FILE = re.compile(r"(last-\d+|best-\d+|final)\.safetensors(\.part)?")
_ENTRIES = {"config": dict, "steps_per_epoch": int, "state": dict, "files": list}
_RECORD = {"epoch", "step", "losses"}  # what each line of a log has, among others


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor] | None]
) -> None:
    """Writes a checkpoint beside the one that is there and then lets it take its place.

    Args:
        folder: Where it goes; made if need be.
        state: What JSON holds, floats exactly.
        tensors: What the files hold, by their stem: `last-12`, `best-3` or `final`; None where the
            present checkpoint's file of that name stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{stem}.safetensors" for stem in tensors]
    for name, content in zip(files, tensors.values(), strict=True):
        if content is not None:
            beside = folder / f"{name}.part"
            save_file(unshared(content), beside)
            os.replace(beside, folder / name)
    beside = folder / f"{STATE_FILE}.part"
    beside.write_text(json.dumps({"format": FORMAT, **state, "files": files}, indent=1) + "\n")
    os.replace(beside, folder / STATE_FILE)
    for path in list(folder.iterdir()):
        if _TENSOR_FILE.fullmatch(path.name) and path.name not in files:
            path.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """Reads what `save_checkpoint` wrote: the state, and the tensors by the stem of their file.

    Returns:
        None where there is no checkpoint.

    Raises:
        ArtifactError: The checkpoint is damaged, incomplete or of another format.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text())
        version = state["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no checkpoint: {error!r}") from error
    if version != FORMAT:
        raise ArtifactError(f"{path} has format {version}, this version reads format {FORMAT}")
    wrong = [name for name, kind in _ENTRIES.items() if not isinstance(state.get(name), kind)]
    if wrong:
        raise ArtifactError(f"{path} is damaged: it lacks {', '.join(wrong)}")
    tensors = {
        name.removesuffix(".safetensors"): read_tensors(folder / name) for name in state["files"]
    }
    return state, tensors


def resume_log(folder: Path, size: int | None) -> list[dict[str, Any]]:
    """Reads the log up to where its checkpoint was saved, and cuts off what was written later.

    Args:
        folder: Where it is; without a log there, an empty one is made.
        size: Bytes that the log had then; None without a checkpoint, where all of it is cut off:
            the log of a run that was killed before its first one.

    Raises:
        ArtifactError: The log is damaged or of something else, and is left as it is.
    """
    path = folder / LOG_FILE
    content = path.read_bytes() if path.exists() else b""
    if size is not None and len(content) < size:
        raise ArtifactError(
            f"{path} is damaged: it has {len(content)} bytes, {STATE_FILE} was saved at {size}"
        )
    try:
        records = [json.loads(line) for line in content[:size].splitlines()]
        is_ours = all(record.keys() >= _RECORD for record in records)
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise ArtifactError(f"{path} is damaged or not the log of a training: move it away")
    with path.open("ab") as file:
        file.truncate(size or 0)
    return records if size else []


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the state of an optimizer such as Adam as tensors: `optimizer.<index>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undoes `optimizer_tensors`; names that are not an optimizer's are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
