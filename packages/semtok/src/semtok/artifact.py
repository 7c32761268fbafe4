"""The tokenizer folder: config.json, codes.parquet, the quantizer, and a folder for each view."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from semtok.catalog import CatalogError
from semtok.collisions import Collisions, Policy
from semtok.embedding.contract import digest
from semtok.embedding.kinds import load_source
from semtok.limits import MOST_CODES
from semtok.parts import (
    choice,
    flag,
    number,
    numbers,
    read_config,
    read_part,
    refusing,
    string,
    wholes,
    writing_part,
)
from semtok.plugin_parts import save_part
from semtok.quantizers.kinds import load_quantizer
from semtok.reduction import Pca
from semtok.semantic_ids import SemanticIds
from semtok.storage import recover
from semtok.tokenizer import Tokenizer
from semtok.views import View

_KIND = "tokenizer"
_CONTENTS = {"config.json", "codes.parquet", "quantizer", "views", "source", "reduction"}


def save_tokenizer(folder: str | Path, tokenizer: Tokenizer, *, overwrite: bool = False) -> None:
    """Writes a tokenizer into a folder, which appears complete or not at all.

    Args:
        folder: The target.
        tokenizer: With or without embedding sources.
        overwrite: Whether an existing tokenizer may be replaced.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set, or holds anything but a
            tokenizer.
    """
    folder = Path(folder)
    if folder.exists() and overwrite:
        check_replaceable(folder)
    collisions = tokenizer.collisions
    config = {
        "kind": _KIND,
        "views": [
            {
                "name": view.name,
                "has_source": view.source is not None,
                "has_reduction": view.reduction is not None,
            }
            for view in tokenizer.views
        ],
        "codebook_sizes": tokenizer.semantic_ids.codebook_sizes,
        "policy": tokenizer.policy,
        "collisions": None if collisions is None else asdict(collisions),
        "distortion": tokenizer.distortion,
        "neighbour_overlap": tokenizer.neighbour_overlap,
        "info": dict(tokenizer.info),
    }
    with writing_part(folder, config, overwrite=overwrite) as beside:
        save_part(beside / "quantizer", tokenizer.quantizer)
        for place, view in enumerate(tokenizer.views):
            parts = beside / "views" / str(place)
            parts.mkdir(parents=True)
            if view.source is not None:
                save_part(parts / "source", view.source)
            if view.reduction is not None:
                view.reduction.save(parts / "reduction")
        tokenizer.semantic_ids.write(beside / "codes.parquet")


def load_tokenizer(folder: str | Path, *, trust: Collection[str] = ()) -> Tokenizer:
    """Loads what `save_tokenizer` wrote, checking each file against its digest.

    If a killed run was replacing the folder, it is first restored. A folder of format 1 has no
    digests; like every folder, it is checked for types, ranges and numbers that are not finite.

    Args:
        folder: The tokenizer's folder.
        trust: The packages whose code may run, if parts of the tokenizer are from other packages.

    Raises:
        CatalogError: If the folder is absent, damaged, of a newer format or not a tokenizer, or
            needs the code of a package that is not trusted.
    """
    folder = Path(folder)
    recover(folder)
    config, _ = read_part(folder, _KIND)
    with refusing(folder):
        policy = choice(config, "policy", get_args(Policy))
        distortion, overlap = config["distortion"], config.get("neighbour_overlap")
        if not isinstance(config["info"], dict):
            raise ValueError("info must be an object")
        quantizer = load_quantizer(folder / "quantizer", trust=trust)
        semantic_ids = SemanticIds.read(
            folder / "codes.parquet",
            codebook_sizes=wholes(config, "codebook_sizes", 1, MOST_CODES),
            allow_collisions=policy == "allow",
        )
        # Folders of format 1 may have a digest of the codes, but have none of the files.
        if "codes_digest" in config and config["codes_digest"] != _codes_digest(semantic_ids):
            raise ValueError("codes.parquet holds other codes than this tokenizer gave")
        return Tokenizer(
            quantizer=quantizer,
            semantic_ids=semantic_ids,
            views=_load_views(folder, config, trust),
            policy=policy,
            collisions=_collisions(config["collisions"]),
            distortion=None if distortion is None else numbers(config, "distortion", 0, 1e38),
            neighbour_overlap=None
            if overlap is None
            else number(config, "neighbour_overlap", 0, 1),
            info=config["info"],
        )


def _collisions(values: Any) -> Collisions | None:
    if values is None:
        return None
    unknown = sorted(values.keys() - {field.name for field in fields(Collisions)})
    if unknown:
        raise ValueError(f"collisions must not hold {unknown[0]!r}")
    number(values, "rate", 0, 1)
    return Collisions(**values)


def _codes_digest(semantic_ids: SemanticIds) -> str:
    """A digest of items and codes: those of another tokenizer might fit by chance."""
    return digest(json.dumps(semantic_ids.item_ids), semantic_ids.codes)


def check_replaceable(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but a tokenizer.

    Raises:
        FileExistsError: If it is not a tokenizer, or also holds other files than a tokenizer's.
    """
    recover(folder)
    try:
        read_config(folder, _KIND)
    except CatalogError:
        raise FileExistsError(f"{folder}: is not a tokenizer, so it is not replaced") from None
    others = sorted({path.name for path in folder.iterdir()} - _CONTENTS)
    if others:
        raise FileExistsError(
            f"{folder}: also holds {', '.join(others[:5])}, which would be lost, so it is not "
            "replaced"
        )


def _load_views(
    folder: Path, config: Mapping[str, Any], trust: Collection[str]
) -> tuple[View, ...]:
    if "views" not in config:  # before there were views: a single one, beside the quantizer
        return (_load_view(folder, "embedding", config, trust),)
    return tuple(
        _load_view(folder / "views" / str(place), string(view, "name"), view, trust)
        for place, view in enumerate(config["views"])
    )


def _load_view(folder: Path, name: str, config: Mapping[str, Any], trust: Collection[str]) -> View:
    has_source = flag(config, "has_source")
    return View(
        name=name,
        source=load_source(folder / "source", trust=trust) if has_source else None,
        reduction=Pca.load(folder / "reduction") if flag(config, "has_reduction") else None,
    )
