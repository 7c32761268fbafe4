"""What Ray runs elsewhere: a task that reads a file, and an actor that embeds and encodes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semtok.catalog import Catalog, CatalogError, stream_catalog
from semtok.embedding.kinds import load_source
from semtok.plugin_parts import save_part
from semtok.quantizers.contract import Quantizer
from semtok.quantizers.kinds import load_quantizer
from semtok.quantizers.views import ViewQuantizer
from semtok.reduction import Pca
from semtok.views import View


def read_chunks(
    batch: Mapping[str, np.ndarray], id_column: str, size: int, wanted: list[list[str]]
) -> Iterator[dict[str, np.ndarray]]:
    """The chunks of a file, as JSON, with the fields that are wanted."""
    path = Path(str(batch["path"][0]))
    names = dict.fromkeys(name for fields in wanted for name in fields)
    seen: set[str] = set()
    row = 0
    for catalog in stream_catalog(path, id_column=id_column, chunk_size=size):
        seen |= catalog.fields.keys()
        absent = [None] * len(catalog)
        fields = {name: list(catalog.fields.get(name, absent)) for name in names}
        chunk = {
            "item_ids": catalog.item_ids,
            "fields": fields,
            "folder": str(catalog.folder),
        }
        text = json.dumps(chunk, default=_as_text)
        yield {
            "number": batch["number"],
            "row": np.array([row]),
            "chunk": np.array([text], dtype=object),
        }
        row += len(catalog)
    for fields_of_view in wanted:
        if fields_of_view and seen.isdisjoint(fields_of_view):
            raise CatalogError(
                f"{path}: has none of the fields {', '.join(fields_of_view)} "
                f"(fields: {', '.join(sorted(seen)) or 'none'})"
            )


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        raise ValueError("fields must hold text, numbers or lists of them, got bytes")
    return str(value)


class Worker:
    """An actor: the models, loaded once, and what they make of a chunk."""

    def __init__(self, packed: Any, device: str, trust: Collection[str] = ()) -> None:
        import ray

        parts: dict[str, bytes] = ray.get(packed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for inner, data in parts.items():
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                (folder / inner).write_bytes(data)
            views = sorted(folder.glob("view-*"))
            self._views = [_load_view(path, device, trust) for path in views]
            quantizer = folder / "quantizer"
            self._quantizer = load_quantizer(quantizer, trust=trust) if quantizer.exists() else None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The items of a chunk: where they are, their ids, vectors and codes."""
        chunk = json.loads(str(batch["chunk"][0]))
        catalog = Catalog(
            item_ids=chunk["item_ids"], fields=chunk["fields"], folder=Path(chunk["folder"])
        )
        parts = []
        for view in self._views:
            assert view.source is not None
            part = view.source.embed(catalog)
            parts.append(part if view.reduction is None else view.reduction.transform(part))
        x = np.concatenate(parts, axis=1, dtype=np.float32)
        result = {
            "number": np.repeat(batch["number"], len(catalog)),
            "row": batch["row"] + np.arange(len(catalog)),
            "item_id": np.array(catalog.item_ids, dtype=object),
            "x": x,
        }
        if self._quantizer is not None:
            result["codes"] = self._quantizer.encode(x)
        return result


def packed(views: Sequence[View], quantizer: Quantizer | None) -> dict[str, bytes]:
    """The files that an actor needs, by path: no object crosses to it but plain bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, view in enumerate(views):
            assert view.source is not None
            part = folder / f"view-{number:04d}"
            part.mkdir()
            save_part(part / "source", view.source)
            if view.reduction is not None:
                view.reduction.save(part / "reduction")
        if quantizer is not None:
            save_part(folder / "quantizer", quantizer)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def packages(views: Sequence[View], quantizer: Quantizer | None) -> tuple[str, ...]:
    """The packages whose code runs here already, which an actor may thus run as well."""
    parts: list[object] = [*(view.source for view in views), quantizer]
    if isinstance(quantizer, ViewQuantizer):
        parts += quantizer.parts
    return tuple({type(part).__module__.partition(".")[0]: None for part in parts})


def _load_view(folder: Path, device: str, trust: Collection[str]) -> View:
    reduction = folder / "reduction"
    return View(
        name=folder.name,
        source=load_source(folder / "source", device=device, trust=trust),
        reduction=Pca.load(reduction) if reduction.exists() else None,
    )
