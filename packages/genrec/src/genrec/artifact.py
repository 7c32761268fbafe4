"""The model folder: configuration, weights, codes and item ids, and nothing that runs code.

- `config.json`: format, the model's config, sizes, a SHA-256 of each other file, and one of all
  that (format 1 lacked the last)
- `weights.safetensors`: parameters and buffers
- `catalogue.safetensors`: the items' codes, row by row; how often each was had, where known
- `item_ids.json`: the items' ids, row by row
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.item_checks import check_item_ids, check_popularity
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

FORMAT = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
CATALOGUE_FILE = "catalogue.safetensors"
IDS_FILE = "item_ids.json"
_FILES = (WEIGHTS_FILE, CATALOGUE_FILE, IDS_FILE)


class ArtifactError(Exception):
    """A file or folder that cannot be used: damaged, incomplete, newer, or of something else."""


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """What a model folder holds.

    Attributes:
        model: In eval mode, on the CPU.
        item_ids: Id of each item row.
        popularity: How often each item was had in training; None where nobody said.
        info: What was given to `save_model`.
    """

    model: Seq2Seq
    item_ids: list[str]
    popularity: Int[Tensor, " items"] | None
    info: dict[str, Any]


def save_model(
    folder: str | Path,
    model: Seq2Seq,
    item_ids: Sequence[str],
    *,
    popularity: Int[Tensor, " items"] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model folder: beside first, then renamed, so that it is whole or absent.

    Args:
        folder: Where it goes; a model folder that is there is replaced.
        model: The model; its trie's codes go with it.
        item_ids: Id of each item row, no two alike.
        popularity: How often each item was had in training, for users without a history.
        info: Whatever else JSON can hold: where the model comes from, how well it does; keys
            become strings.

    Raises:
        FileExistsError: The folder holds something else than a model.
        TypeError: `info` is not what JSON can hold, or an id is no string.
        ValueError: `item_ids` or `popularity` does not fit the model.
    """
    folder = Path(folder)
    if folder.exists() and not _holds_model(folder):
        raise FileExistsError(f"{folder} exists and is no model folder, so it is not replaced")
    check_item_ids(item_ids, model.trie.num_items)
    catalogue = {"codes": model.trie.codes.cpu().contiguous()}
    if popularity is not None:
        check_popularity(popularity, model.trie.num_items)
        catalogue["popularity"] = popularity.long().cpu().contiguous()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        save_file(weights, beside / WEIGHTS_FILE)
        save_file(catalogue, beside / CATALOGUE_FILE)
        _write_json(beside / IDS_FILE, list(item_ids))
        config = {
            "format": FORMAT,
            "model": asdict(model.config),
            "codebook_sizes": model.trie.codebook_sizes,
            "vector_dim": _vector_dim(model),
            "info": _as_json(info or {}),
            "files": {name: _digest(beside / name) for name in _FILES},
        }
        config["digest"] = _config_digest(config)
        _write_json(beside / CONFIG_FILE, config)
        for name in (WEIGHTS_FILE, CATALOGUE_FILE):  # safetensors makes its files private
            (beside / name).chmod((beside / CONFIG_FILE).stat().st_mode)
        _put_in_place(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_model(
    folder: str | Path, *, codes: Int[Tensor, "items levels"] | None = None
) -> SavedModel:
    """Loads what `save_model` wrote, after checking every file against its digest.

    Args:
        folder: The model folder.
        codes: The catalogue's codes, row by row, to make sure that the model is one of theirs.

    Raises:
        ArtifactError: The folder is no model folder, of a newer format, damaged or incomplete, or
            its files do not belong together; or its codes are not those given.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        expected = {name: config["files"][name] for name in _FILES}
        model_config = Seq2SeqConfig(**config["model"])
        codebook_sizes = [int(size) for size in config["codebook_sizes"]]
        vector_dim, info = config["vector_dim"], dict(config["info"])
    except KeyError as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} is damaged: it lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing")
        if _digest(path) != digest:
            raise ArtifactError(f"{path} is damaged or of another model: {CONFIG_FILE} disagrees")
    try:
        catalogue = load_file(folder / CATALOGUE_FILE)
        if codes is not None:
            _compare(folder, catalogue["codes"], codes.cpu().long())
        weights = load_file(folder / WEIGHTS_FILE)
        item_ids = json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
        trie = Trie.build(catalogue["codes"], codebook_sizes)
        check_item_ids(item_ids, trie.num_items)
        vectors = None if vector_dim is None else torch.zeros(trie.num_items, int(vector_dim))
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten below
            model = Seq2Seq(model_config, trie, item_vectors=vectors)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{folder} holds files that do not fit together: {reason}") from error
    return SavedModel(
        model=model.eval(), item_ids=item_ids, popularity=catalogue.get("popularity"), info=info
    )


def _compare(folder: Path, found: Tensor, given: Tensor) -> None:
    """Refuses a model whose items have other codes than those given."""
    if found.shape != given.shape:
        raise ArtifactError(
            f"{folder} is a model of another catalogue: it has {len(found)} items with codes of "
            f"{found.shape[1]} levels, given are {len(given)} with {given.shape[1]}"
        )
    if not torch.equal(found, given):
        row = int((found != given).any(dim=1).nonzero()[0])
        raise ArtifactError(
            f"{folder} is a model of another catalogue: the codes of item {row} are "
            f"{found[row].tolist()}, given are {given[row].tolist()}"
        )


def _vector_dim(model: Seq2Seq) -> int | None:
    """Returns the width of the item vectors that the model was made with."""
    for projection in (model.history.projection, model.head.projection):
        if projection is not None:
            return projection.in_features
    return None


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
    found = config.get("format") if isinstance(config, dict) else None
    if not isinstance(found, int):
        raise ArtifactError(f"{path} is no configuration of a model: it names no format")
    if found < 1:
        raise ArtifactError(f"{path} is damaged: no model was ever saved in format {found}")
    if found > FORMAT:
        raise ArtifactError(
            f"{folder} has format {found}, newer than format {FORMAT} that this version of genrec "
            "reads: install a newer genrec"
        )
    assert isinstance(config, dict)
    if found > 1 and config.pop("digest", None) != _config_digest(config):
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
