"""Weights on disk, and the model folder: safetensors and JSON; loading runs no code from it.

A model folder contains

- `config.json`: the format, the model's class and its settings, a SHA-256 of each other file, and
  a SHA-256 of all of this (format 1 lacks the last; formats 1 and 2 have no class and are always a
  `Seq2Seq`; formats 1 to 3 have no item graph)
- `weights.safetensors`: parameters and buffers
- `catalogue.safetensors`: data of the items, row by row: codes or content, and the number of
  interactions, if known
- `item_ids.json`: the items' ids, row by row

The parts that depend on the kind of model are in `genrec.saved_seq2seq` and
`genrec.saved_backbone`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from genrec.errors import ArtifactError
from genrec.reading import (
    check_types,
    file_digest,
    json_digest,
    read_json,
    read_tensors,
    refusing,
    restore_module,
)
from genrec.storage import (
    naming,
    put_file,
    put_folder,
    recover,
    working_beside,
    write_json,
    write_tensors,
)

FORMAT = 4
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
CATALOGUE_FILE = "catalogue.safetensors"
IDS_FILE = "item_ids.json"
FILES = (WEIGHTS_FILE, CATALOGUE_FILE, IDS_FILE)

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def save_weights(path: str | Path, module: nn.Module) -> None:
    """Writes a module's parameters and buffers to a safetensors file.

    The file appears in one step, complete or not at all. If the path is a link, its target is
    replaced.

    Raises:
        FileExistsError: The path exists and is no regular file; it is not replaced.
        OSError: The system reports an error, such as a full disk.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise FileExistsError(f"{path} is no regular file, so it is not replaced")
    with naming(path), working_beside(real) as work:
        write_tensors(work / "new", module.state_dict())
        put_file(work, real)


def load_weights(path: str | Path, module: nn.Module) -> None:
    """Loads weights of `save_weights` into a module.

    Raises:
        ArtifactError: The file is missing or damaged, or holds the weights of another module.
    """
    path = Path(path)
    restore_module(module, read_tensors(path), path)


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """The contents of a model folder, read and checked, before the model is made.

    Attributes:
        path: The folder.
        config: The contents of `config.json`, without its digest.
        weights: Parameters and buffers by name.
        catalogue: Data of the items, by name.
        item_ids: Id of each item row.
    """

    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    catalogue: Mapping[str, Tensor]
    item_ids: list[str]

    def fitting_together(self) -> AbstractContextManager[None]:
        """Turns errors in making the model into one: that the files do not fit together.

        Raises:
            ArtifactError: There was an error within the block.
        """
        return refusing(f"{self.path} holds files that do not fit together")

    def check_count(self, **counts: int) -> None:
        """Checks counts of layers or other parts: each part has at least one of the tensors.

        Raises:
            ValueError: There are more parts than tensors.
        """
        for name, count in counts.items():
            if count > len(self.weights):
                raise ValueError(
                    f"{name} must be at most {len(self.weights)}, the number of tensors in "
                    f"{WEIGHTS_FILE}, got {count}"
                )

    def restored(self, make: Callable[[], ModuleT]) -> ModuleT:
        """Returns the module of `make` with the weights of this folder, in eval mode.

        It is first made without memory (on torch's meta device), so wrong sizes are an error before
        anything is allocated. Check the numbers of parts before, by `check_count`.

        Raises:
            RuntimeError: The weights are of another model.
        """
        with torch.device("meta"):
            make().load_state_dict(self.weights, assign=True)
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten below
            model = make()
        model.load_state_dict(self.weights)
        return model.eval()


def write_folder(
    folder: str | Path,
    module: nn.Module,
    *,
    settings: Mapping[str, Any],
    catalogue: Mapping[str, Tensor],
    item_ids: Sequence[str],
    info: Mapping[str, Any],
) -> None:
    """Writes a model folder; it appears in one step, complete or not at all.

    Args:
        folder: The folder; an existing model folder is replaced. If two programs write it at once,
            the later one wins.
        module: The module; its weights and the name of its class are written.
        settings: Further entries of `config.json`, beside format, class, `info` and digests.
        catalogue: Data of the items, row by row.
        item_ids: Id of each item row.
        info: Other values that JSON can hold.

    Raises:
        FileExistsError: The folder exists and is no model folder.
        TypeError: JSON cannot hold `info`.
        ValueError: A weight is not finite.
        OSError: The system reports an error, such as a full disk.
    """
    weights = module.state_dict()
    name = _not_finite(weights)
    if name is not None:
        raise ValueError(f"model must have finite weights, got NaN or infinity in {name}")
    config = {
        "format": FORMAT,
        "class": type(module).__name__,
        **settings,
        "info": _as_json(info),
    }
    real = Path(os.path.realpath(folder))  # the target of a link is replaced, not the link
    with naming(folder):
        real.parent.mkdir(parents=True, exist_ok=True)
        recover(real)
        if real.exists() and not _holds_model(real):
            raise FileExistsError(f"{folder} exists and is no model folder, so it is not replaced")
        with working_beside(real) as work:
            new = work / "new"
            new.mkdir()
            write_tensors(new / WEIGHTS_FILE, weights)
            write_tensors(new / CATALOGUE_FILE, catalogue)
            write_json(new / IDS_FILE, list(item_ids))
            config["files"] = {name: file_digest(new / name) for name in FILES}
            write_json(new / CONFIG_FILE, {**config, "digest": json_digest(config)})
            put_folder(work, real)


def read_folder(folder: str | Path) -> ModelFolder:
    """Reads a folder of `write_folder`, after checking every file against its digest.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete.
    """
    folder = Path(folder)
    recover(Path(os.path.realpath(folder)))
    config = _read_config(folder)
    config.setdefault("class", "Seq2Seq")  # the only class of formats 1 and 2
    with reading_config(folder):
        expected = {name: config["files"][name] for name in FILES}
        config["info"] = dict(config["info"])
        if not isinstance(config["class"], str):
            raise TypeError("class must be a name")
    for name, digest in expected.items():
        path = folder / name
        if not os.path.lexists(path):
            raise ArtifactError(f"{folder} is incomplete: {name} is missing")
        if file_digest(path) != digest:
            raise ArtifactError(f"{path} is damaged or of another model: {CONFIG_FILE} disagrees")
    item_ids = read_json(folder / IDS_FILE)
    with refusing(f"{folder / IDS_FILE} is damaged"):
        check_types({"item_ids": item_ids}, {"item_ids": list[str]})
    tensors = {name: read_tensors(folder / name) for name in (WEIGHTS_FILE, CATALOGUE_FILE)}
    for name, content in tensors.items():
        wrong = _not_finite(content)
        if wrong is not None:
            raise ArtifactError(f"{folder / name} is damaged: not all of {wrong} is finite")
    return ModelFolder(
        path=folder,
        config=config,
        weights=tensors[WEIGHTS_FILE],
        catalogue=tensors[CATALOGUE_FILE],
        item_ids=item_ids,
    )


def reading_config(folder: Path) -> AbstractContextManager[None]:
    """Turns errors in reading entries of `config.json` into one: that this file is damaged.

    Raises:
        ArtifactError: There was an error within the block.
    """
    return refusing(f"{folder / CONFIG_FILE} is damaged")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with a number that is not finite, if there is one."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def _holds_model(folder: Path) -> bool:
    """Returns whether a folder is a model folder; other libraries write a `config.json` too."""
    try:
        config = read_json(folder / CONFIG_FILE)
    except (OSError, ArtifactError):
        return False
    return isinstance(config, dict) and {"format", "model", "files"} <= config.keys()


def _as_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `info` as JSON stores it, for the digest: keys become strings."""
    try:
        return dict(json.loads(json.dumps(dict(info))))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"info must be what JSON can hold: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
    except OSError as error:
        raise ArtifactError(f"{folder} is no model folder: {CONFIG_FILE} cannot be read") from error
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int:
        raise ArtifactError(f"{path} is no configuration of a model: it names no format")
    if version < 1:
        raise ArtifactError(f"{path} is damaged: no model was ever saved in format {version}")
    if version > FORMAT:
        raise ArtifactError(
            f"{folder} has format {version}, newer than format {FORMAT} that this version of "
            "genrec reads: install a newer genrec"
        )
    assert isinstance(config, dict)
    # Format 1 had no digest: if there is one, the entry of the format is damaged.
    if (version > 1 or "digest" in config) and config.pop("digest", None) != json_digest(config):
        raise ArtifactError(f"{path} is damaged: its digest disagrees with the rest of it")
    return config
