"""Weights on disk, and the model folder: safetensors, JSON, and nothing that runs code.

A model folder holds

- `config.json`: the format, the model's class and its settings, a SHA-256 of each other file, and
  a SHA-256 of all that (format 1 lacked the last, and formats 1 and 2 had no class: they are those
  of `Seq2Seq`)
- `weights.safetensors`: parameters and buffers
- `catalogue.safetensors`: what is known of the items, row by row: codes or content, and how often
  each was had, where known
- `item_ids.json`: the items' ids, row by row

What of this is a model's own is in `genrec.saved_seq2seq` and `genrec.saved_backbone`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT = 3
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
CATALOGUE_FILE = "catalogue.safetensors"
IDS_FILE = "item_ids.json"
FILES = (WEIGHTS_FILE, CATALOGUE_FILE, IDS_FILE)


class ArtifactError(Exception):
    """A file or folder that cannot be used: damaged, incomplete, newer, or of something else."""


def save_weights(path: str | Path, module: nn.Module) -> None:
    """Writes a module's parameters and buffers to a safetensors file.

    It is written beside first, then renamed, so that it is whole or absent.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(unshared(module.state_dict()), beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_weights(path: str | Path, module: nn.Module) -> None:
    """Gives a module the weights that `save_weights` wrote.

    Raises:
        ArtifactError: The file is missing or damaged, or holds the weights of another module.
    """
    path = Path(path)
    restore_module(module, read_tensors(path), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def restore_module(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights into a module.

    Raises:
        ArtifactError: They are those of another module.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{source} holds the weights of another model: {reason}") from error


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous tensors on the CPU; those that share memory, as tied weights, are copied.

    A safetensors file holds each tensor by itself and refuses two that share memory.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


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

    @contextmanager
    def fitting_together(self) -> Iterator[None]:
        """Tells whatever goes wrong while the model is made as files that do not fit together.

        Raises:
            ArtifactError: Something went wrong within the block.
        """
        try:
            yield
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(
                f"{self.path} holds files that do not fit together: {reason}"
            ) from error


def write_folder(
    folder: str | Path,
    module: nn.Module,
    *,
    settings: Mapping[str, Any],
    catalogue: Mapping[str, Tensor],
    item_ids: Sequence[str],
    info: Mapping[str, Any],
) -> None:
    """Writes a model folder: beside first, then renamed, so that it is whole or absent.

    Args:
        folder: Where it goes; a model folder that is there is replaced.
        module: Whose weights are written; its class is named.
        settings: What `config.json` is to hold beside format, class, `info` and digests.
        catalogue: What is known of the items, row by row.
        item_ids: Id of each item row.
        info: Whatever else JSON can hold.

    Raises:
        FileExistsError: The folder holds something else than a model.
        TypeError: `info` is not what JSON can hold.
    """
    folder = Path(folder)
    if folder.exists() and not _holds_model(folder):
        raise FileExistsError(f"{folder} exists and is no model folder, so it is not replaced")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        save_file(unshared(module.state_dict()), beside / WEIGHTS_FILE)
        save_file(unshared(catalogue), beside / CATALOGUE_FILE)
        _write_json(beside / IDS_FILE, list(item_ids))
        config = {
            "format": FORMAT,
            "class": type(module).__name__,
            **settings,
            "info": _as_json(info),
            "files": {name: _digest(beside / name) for name in FILES},
        }
        config["digest"] = _config_digest(config)
        _write_json(beside / CONFIG_FILE, config)
        for name in (WEIGHTS_FILE, CATALOGUE_FILE):  # safetensors makes its files private
            (beside / name).chmod((beside / CONFIG_FILE).stat().st_mode)
        _put_in_place(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_folder(folder: str | Path) -> ModelFolder:
    """Reads what `write_folder` wrote, after checking every file against its digest.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete.
    """
    folder = Path(folder)
    config = _read_config(folder)
    config.setdefault("class", "Seq2Seq")  # formats 1 and 2 knew no other
    with reading_config(folder):
        expected = {name: config["files"][name] for name in FILES}
        config["info"] = dict(config["info"])
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing")
        if _digest(path) != digest:
            raise ArtifactError(f"{path} is damaged or of another model: {CONFIG_FILE} disagrees")
    try:
        item_ids = json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / IDS_FILE} cannot be read: {error}") from error
    return ModelFolder(
        path=folder,
        config=config,
        weights=read_tensors(folder / WEIGHTS_FILE),
        catalogue=read_tensors(folder / CATALOGUE_FILE),
        item_ids=item_ids,
    )


@contextmanager
def reading_config(folder: Path) -> Iterator[None]:
    """Tells whatever goes wrong while entries of `config.json` are read as damage of that file.

    Raises:
        ArtifactError: Something went wrong within the block.
    """
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} is damaged: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} is damaged: {error}") from error


def _holds_model(folder: Path) -> bool:
    """Returns whether a folder is one of ours; a `config.json` alone is many a library's."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"format", "model", "files"} <= config.keys()


def _as_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what JSON makes of it, as which the digest is taken: keys become strings."""
    try:
        return dict(json.loads(json.dumps(dict(info))))
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be what JSON can hold: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{folder} is no model folder: {CONFIG_FILE} cannot be read") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise ArtifactError(f"{path} is no configuration of a model: it names no format")
    if version < 1:
        raise ArtifactError(f"{path} is damaged: no model was ever saved in format {version}")
    if version > FORMAT:
        raise ArtifactError(
            f"{folder} has format {version}, newer than format {FORMAT} that this version of "
            "genrec reads: install a newer genrec"
        )
    assert isinstance(config, dict)
    if version > 1 and config.pop("digest", None) != _config_digest(config):
        raise ArtifactError(f"{path} is damaged: its digest disagrees with the rest of it")
    return config


def _put_in_place(beside: Path, folder: Path) -> None:
    """Renames `beside` to `folder`; what was there before is moved away first, then deleted."""
    if not folder.exists():
        os.rename(beside, folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.rename(folder, old)
    try:
        os.rename(beside, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    shutil.rmtree(old)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _config_digest(config: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a configuration, whatever its order and white space."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
