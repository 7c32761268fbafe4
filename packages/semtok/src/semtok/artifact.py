"""The tokenizer folder: config.json, codes.parquet, and a folder for each part."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from semtok.catalog import CatalogError
from semtok.collisions import Collisions
from semtok.embedding.contract import load_source
from semtok.quantizers.contract import load_quantizer
from semtok.reduction import Pca
from semtok.semantic_ids import SemanticIds
from semtok.storage import read_part, refusing, replacing_folder, write_config
from semtok.tokenizer import Tokenizer

_KIND = "tokenizer"


def save_tokenizer(folder: str | Path, tokenizer: Tokenizer, *, overwrite: bool = False) -> None:
    """Writes a tokenizer into a folder, which appears complete or not at all.

    Args:
        folder: Where to.
        tokenizer: With or without an embedding source.
        overwrite: Whether a tokenizer that is there may be replaced.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set, or holds anything but a
            tokenizer.
    """
    folder = Path(folder)
    if folder.exists() and overwrite and not is_tokenizer(folder):
        raise FileExistsError(f"{folder}: exists and is no tokenizer, so it is not overwritten")
    with replacing_folder(folder, overwrite=overwrite) as beside:
        tokenizer.quantizer.save(beside / "quantizer")
        if tokenizer.source is not None:
            tokenizer.source.save(beside / "source")
        if tokenizer.reduction is not None:
            tokenizer.reduction.save(beside / "reduction")
        tokenizer.semantic_ids.write(beside / "codes.parquet")
        collisions = tokenizer.collisions
        config = {
            "kind": _KIND,
            "codebook_sizes": tokenizer.semantic_ids.codebook_sizes,
            "policy": tokenizer.policy,
            "collisions": None if collisions is None else asdict(collisions),
            "distortion": tokenizer.distortion,
            "has_source": tokenizer.source is not None,
            "has_reduction": tokenizer.reduction is not None,
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
        return Tokenizer(
            quantizer=load_quantizer(folder / "quantizer"),
            semantic_ids=SemanticIds.read(
                folder / "codes.parquet",
                codebook_sizes=config["codebook_sizes"],
                allow_collisions=config["policy"] == "allow",
            ),
            source=load_source(folder / "source") if config["has_source"] else None,
            reduction=Pca.load(folder / "reduction") if config["has_reduction"] else None,
            policy=config["policy"],
            collisions=None if collisions is None else Collisions(**collisions),
            distortion=None if distortion is None else tuple(map(float, distortion)),
            info=config["info"],
        )


def is_tokenizer(folder: str | Path) -> bool:
    """Whether a folder's config.json says that it is a tokenizer that this version can read."""
    try:
        read_part(folder, _KIND)
    except CatalogError:
        return False
    return True
