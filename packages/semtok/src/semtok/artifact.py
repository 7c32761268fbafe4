"""The tokenizer folder: config.json, codes.parquet, the quantizer, and a folder for each view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semtok.catalog import CatalogError
from semtok.collisions import Collisions
from semtok.embedding.contract import digest
from semtok.embedding.kinds import load_source
from semtok.quantizers.kinds import load_quantizer
from semtok.reduction import Pca
from semtok.semantic_ids import SemanticIds
from semtok.storage import read_part, refusing, replacing_folder, write_config
from semtok.tokenizer import Tokenizer
from semtok.views import View

_KIND = "tokenizer"
_CONTENTS = {"config.json", "codes.parquet", "quantizer", "views", "source", "reduction"}


def save_tokenizer(folder: str | Path, tokenizer: Tokenizer, *, overwrite: bool = False) -> None:
    """Writes a tokenizer into a folder, which appears complete or not at all.

    Args:
        folder: Where to.
        tokenizer: With or without embedding sources.
        overwrite: Whether a tokenizer that is there may be replaced.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set, or holds anything but a
            tokenizer.
    """
    folder = Path(folder)
    if folder.exists() and overwrite:
        check_replaceable(folder)
    with replacing_folder(folder, overwrite=overwrite) as beside:
        tokenizer.quantizer.save(beside / "quantizer")
        views = []
        for number, view in enumerate(tokenizer.views):
            place = beside / "views" / str(number)
            place.mkdir(parents=True)
            if view.source is not None:
                view.source.save(place / "source")
            if view.reduction is not None:
                view.reduction.save(place / "reduction")
            views.append(
                {
                    "name": view.name,
                    "has_source": view.source is not None,
                    "has_reduction": view.reduction is not None,
                }
            )
        tokenizer.semantic_ids.write(beside / "codes.parquet")
        collisions = tokenizer.collisions
        config = {
            "kind": _KIND,
            "views": views,
            "codebook_sizes": tokenizer.semantic_ids.codebook_sizes,
            "codes_digest": _codes_digest(tokenizer.semantic_ids),
            "policy": tokenizer.policy,
            "collisions": None if collisions is None else asdict(collisions),
            "distortion": tokenizer.distortion,
            "neighbour_overlap": tokenizer.neighbour_overlap,
            "info": dict(tokenizer.info),
        }
        write_config(beside, config)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Loads what `save_tokenizer` wrote.

    Raises:
        CatalogError: If the folder is absent, corrupt, of a newer format or no tokenizer.
    """
    folder = Path(folder)
    config, _ = read_part(folder, _KIND)
    with refusing(folder):
        collisions, distortion = config["collisions"], config["distortion"]
        overlap = config.get("neighbour_overlap")
        semantic_ids = SemanticIds.read(
            folder / "codes.parquet",
            codebook_sizes=config["codebook_sizes"],
            allow_collisions=config["policy"] == "allow",
        )
        expected = _codes_digest(semantic_ids)
        if config.get("codes_digest", expected) != expected:  # older folders have none
            raise ValueError("codes.parquet holds other codes than this tokenizer gave")
        return Tokenizer(
            quantizer=load_quantizer(folder / "quantizer"),
            semantic_ids=semantic_ids,
            views=_load_views(folder, config),
            policy=config["policy"],
            collisions=None if collisions is None else Collisions(**collisions),
            distortion=None if distortion is None else tuple(map(float, distortion)),
            neighbour_overlap=None if overlap is None else float(overlap),
            info=config["info"],
        )


def _codes_digest(semantic_ids: SemanticIds) -> str:
    """A name for items and codes: those of another tokenizer may fit this one by chance."""
    return digest(json.dumps(semantic_ids.item_ids), semantic_ids.codes)


def check_replaceable(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but a tokenizer.

    Raises:
        FileExistsError: If it is no tokenizer, or also holds what `save_tokenizer` does not write.
    """
    try:
        read_part(folder, _KIND)
    except CatalogError:
        raise FileExistsError(f"{folder}: is no tokenizer, so it is not replaced") from None
    others = sorted({path.name for path in folder.iterdir()} - _CONTENTS)
    if others:
        raise FileExistsError(
            f"{folder}: also holds {', '.join(others[:5])}, which would be lost, so it is not "
            "replaced"
        )


def _load_views(folder: Path, config: Mapping[str, Any]) -> tuple[View, ...]:
    if "views" not in config:  # as before there were views: one, beside the quantizer
        return (_load_view(folder, "embedding", config),)
    return tuple(
        _load_view(folder / "views" / str(number), str(view["name"]), view)
        for number, view in enumerate(config["views"])
    )


def _load_view(folder: Path, name: str, config: Mapping[str, Any]) -> View:
    return View(
        name=name,
        source=load_source(folder / "source") if config["has_source"] else None,
        reduction=Pca.load(folder / "reduction") if config["has_reduction"] else None,
    )
