"""Weights on disk, and the model folder: safetensors, JSON, and nothing that runs code.

A model folder holds

- `config.json`: the format, the model's class and its settings, a SHA-256 of each other file, and
  a SHA-256 of all that (format 1 lacked the last, formats 1 and 2 had no class: they are those of
  `Seq2Seq`; formats 1 to 3 knew no item graph)
- `weights.safetensors`: parameters and buffers
- `catalogue.safetensors`: what is known of the items, row by row: codes or content, and how often
  each was had, where known
- `item_ids.json`: the items' ids, row by row

What of this is a model's own is in `genrec.saved_seq2seq` and `genrec.saved_backbone`.
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

    It is written beside first, brought to the disk, then renamed, so that it is whole or absent.
    A link stays, and what it leads to is replaced.

    Raises:
        FileExistsError: The path is that of a folder, a device or the like, which is not replaced.
        OSError: The system refuses, as a full disk does.
    """
    real = Path(os.path.realpath(path))
    if real.exists() and not real.is_file():
        raise FileExistsError(f"{path} is no regular file, so it is not replaced")
    with naming(path), working_beside(real) as work:
        write_tensors(work / "new", module.state_dict())
        put_file(work, real)


def load_weights(path: str | Path, module: nn.Module) -> None:
    """Gives a module the weights that `save_weights` wrote.

    Raises:
        ArtifactError: The file is missing or damaged, or holds the weights of another module.
    """
    path = Path(path)
    restore_module(module, read_tensors(path), path)


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a model folder holds, read and checked but not yet made into a model.

    Attributes:
        path: The folder.
        config: What `config.json` says, without its digest.
        weights: Parameters and buffers by name.
        catalogue: What is known of the items, by name.
        item_ids: Id of each item row.
    """

    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    catalogue: Mapping[str, Tensor]
    item_ids: list[str]

    def fitting_together(self) -> AbstractContextManager[None]:
        """Tells whatever goes wrong while the model is made as files that do not fit together.

        Raises:
            ArtifactError: Something went wrong within the block.
        """
        return refusing(f"{self.path} holds files that do not fit together")

    def check_count(self, **counts: int) -> None:
        """Refuses more layers, or other parts, than the weights can hold: each has a tensor.

        Raises:
            ValueError: There are more.
        """
        for name, count in counts.items():
            if count > len(self.weights):
                raise ValueError(
                    f"{name} must be at most {len(self.weights)}, as many as {WEIGHTS_FILE} has "
                    f"tensors, got {count}"
                )

    def restored(self, make: Callable[[], ModuleT]) -> ModuleT:
        """Returns what `make` makes, with the weights of this folder, in eval mode.

        It is made without memory first (on torch's meta device), so that sizes that the weights do
        not have are refused before anything is allocated. Numbers of parts are to be checked
        before that.

        Raises:
            RuntimeError: The weights are those of another model.
        """
        with torch.device("meta"):
            make().load_state_dict(self.weights, assign=True)
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten below
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
    """Writes a model folder: beside first, then in one step in its place, whole or not at all.

    Args:
        folder: Where it goes; a model folder that is there is replaced, and of two that are
            written at once the later one stays.
        module: Whose weights are written; its class is named.
        settings: What `config.json` is to hold beside format, class, `info` and digests.
        catalogue: What is known of the items, row by row.
        item_ids: Id of each item row.
        info: Whatever else JSON can hold.

    Raises:
        FileExistsError: The folder holds something else than a model.
        TypeError: `info` is not what JSON can hold.
        ValueError: A weight is not finite.
        OSError: The system refuses, as a full disk does.
    """
    weights = module.state_dict()
    name = _not_finite(weights)
    if name is not None:
        raise ValueError(f"model must have finite weights, got others in {name}")
    config = {
        "format": FORMAT,
        "class": type(module).__name__,
        **settings,
        "info": _as_json(info),
    }
    real = Path(os.path.realpath(folder))  # a link stays, and what it leads to is replaced
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
    """Reads what `write_folder` wrote, after checking every file against its digest.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete.
    """
    folder = Path(folder)
    recover(Path(os.path.realpath(folder)))
    config = _read_config(folder)
    config.setdefault("class", "Seq2Seq")  # formats 1 and 2 knew no other
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
    """Tells whatever goes wrong while entries of `config.json` are read as damage of that file.

    Raises:
        ArtifactError: Something went wrong within the block.
    """
    return refusing(f"{folder / CONFIG_FILE} is damaged")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with a number that is not finite, if there is one."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def _holds_model(folder: Path) -> bool:
    """Returns whether a folder is one of ours; a `config.json` alone is many a library's."""
    try:
        config = read_json(folder / CONFIG_FILE)
    except (OSError, ArtifactError):
        return False
    return isinstance(config, dict) and {"format", "model", "files"} <= config.keys()


def _as_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what JSON makes of it, as which the digest is taken: keys become strings."""
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
    # Format 1 had no digest: where there is one, the format is what is damaged.
    if (version > 1 or "digest" in config) and config.pop("digest", None) != json_digest(config):
        raise ArtifactError(f"{path} is damaged: its digest disagrees with the rest of it")
    return config
