"""The stages that all apps share: the stored items, the embeddings, the floors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evalrec import (
    Floor,
    ItemToItemFloor,
    PopularityFloor,
    Report,
    evaluate,
    fit_floors,
    read_report,
    recount_floors,
)
from jaxtyping import Float, Int
from semtok import (
    Catalog,
    EmbeddingSource,
    Standardisation,
    embedding_source,
    is_stored,
    save_part,
)

from semrec.shared.files import (
    load_array,
    read_json,
    read_json_lines,
    reading,
    replacing,
    save_anew,
    save_array,
)
from semrec.shared.stage import Facts, Setting, Stage
from semrec.shared.training import ndcg

if TYPE_CHECKING:
    from semrec.shared.pipeline import Pipeline

Vectors = Float[np.ndarray, "items dim"]


def items_stage(setting: Setting[Any]) -> Stage[list[dict[str, Any]]]:
    """The stage "data": each item's "item_id", "title" and "count", so that a run can answer."""

    def fill(folder: Path) -> Facts:
        data = setting.data
        counts = data.split.item_counts.tolist()
        rows = zip(data.catalog.item_ids, data.titles(), counts, strict=True)
        with (
            replacing(folder / "items.jsonl") as beside,
            beside.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for item_id, title, count in rows:
                line = {"item_id": item_id, "title": title, "count": count}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return data.counts

    return setting.stage("data", reads=(), fill=fill, load=_read_items)


def _read_items(folder: Path) -> list[dict[str, Any]]:
    expected = read_json(folder / "stage.json")["items"]
    with reading(folder / "items.jsonl") as path:
        items = read_json_lines(path)
        if len(items) != expected:
            raise ValueError(f"{len(items):,} of {expected:,} items")
    return items


def embedding_stage(
    setting: Setting[Any],
    name: str,
    embedding: str,
    fields: Sequence[str],
    *,
    reads: tuple[str, ...],
    image_field: str = "image",
    keep_scale: Callable[[Path, Vectors], None] = lambda folder, vectors: None,
) -> Stage[Vectors]:
    """A stage with one embedding for each item.

    It also stores the embedding source, so that an update can embed new items and changed texts.

    Args:
        setting: The run.
        name: The name of the stage.
        embedding: An argument of `semtok.embedding_source`: "lsa", "minilm", a model, or a file.
        fields: The catalogue's fields to embed.
        reads: The configuration keys that determine the arguments.
        image_field: The one of the fields that holds images.
        keep_scale: Called with the stage's folder and the embeddings; stores their scale, which an
            update applies to new items.
    """

    def fill(folder: Path) -> Facts:
        catalog = setting.data.catalog
        if not is_stored(embedding):
            catalog.require_fields([name for name in fields if name in catalog.fields] or fields)
        source = embedding_source(
            embedding,
            catalog=catalog,
            fields=fields,
            image_field=image_field,
            device=str(setting.device),
            seed=setting.run.config["seed"],
            trust=setting.run.trust,
        )
        with setting.run.screen.bar(f"{name} embeddings") as bar:
            vectors = source.embed(catalog, progress=bar.update)
        save_array(folder / "embeddings.npy", vectors)
        keep_scale(folder, vectors)
        if not is_stored(embedding):
            keep_source(folder, source, catalog)
        return {"embedding": embedding, "dim": vectors.shape[1]}

    return setting.stage(
        name, reads=reads, fill=fill, load=lambda folder: load_array(folder / "embeddings.npy")
    )


def kept_standardisation(stage: Stage[Vectors], dim: int) -> Standardisation:
    """The standardisation of a stage's embeddings: the stored one, or else fitted on them.

    Args:
        stage: The stage of the embeddings.
        dim: The number of PCA dimensions if it is fitted.

    Raises:
        CatalogError: The stored standardisation is damaged.
    """
    kept = stage.file("standardisation")
    if kept.exists():
        return Standardisation.load(kept)
    return Standardisation.fit(stage.result(), dim)


def keep_source(folder: Path, source: EmbeddingSource, catalog: Catalog) -> None:
    """Stores an embedding source as "source", and digests of the items' content as "contents.npy".

    Args:
        folder: The folder of the stage; remains of an interrupted attempt are replaced.
        source: The embedding source.
        catalog: The items.
    """
    save_anew(folder / "source", lambda place: save_part(place, source))
    save_array(folder / "contents.npy", content_digests(source, catalog))


def content_digests(source: EmbeddingSource, catalog: Catalog) -> Int[np.ndarray, " items"]:
    """The first 8 bytes of a digest of each item's embedded content."""
    digests = [
        hashlib.blake2b(
            content if isinstance(content, bytes) else content.encode(errors="surrogatepass"),
            digest_size=8,
        ).digest()
        for content in source.contents(catalog)
    ]
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def floors_stage(
    setting: Setting[Any],
    fields: Sequence[str],
    *,
    reads: tuple[str, ...],
    chosen: Callable[[], Mapping[str, Mapping[str, float]]] | None = None,
    kept: Callable[[], Mapping[str, ItemToItemFloor]] = dict,
) -> Stage[dict[str, Report]]:
    """The stage "floors": simple methods that any model must beat.

    Args:
        setting: The run.
        fields: The catalogue's fields that make an item's text.
        reads: The configuration keys that determine these fields.
        chosen: Returns the floors' parameters; None chooses them on validation.
        kept: Returns older floors of the first items, by name; their scores of item pairs are kept.

    Returns:
        A stage whose result is the test report of each floor, by its name. It also stores the
        floors and their reports on all validation users, for `floor_ndcg`.
    """

    def fill(folder: Path) -> Facts:
        data, screen = setting.data, setting.run.screen
        with screen.bar("floors") as bar:
            if chosen is None:
                floors = fit_floors(data.split, data.texts(fields), progress=bar.update)
            else:
                floors = recount_floors(data.split, chosen(), data.texts(fields))
        parameters, validation, old = {}, {}, kept()
        with screen.bar("floors, test") as bar:
            for number, (name, floor) in enumerate(floors.items()):
                if isinstance(floor, ItemToItemFloor) and name in old:
                    floor = floor.keeping(old[name])
                report = evaluate(
                    data.split.test, floor.score, ks=setting.config.evaluation.ks, name=name
                )
                report.write_json(folder / f"{number}.json")
                parameters[name] = dict(floor.parameters)
                known = evaluate(data.split.validation, floor.score, ks=(10,), name=name)
                validation[name] = ndcg(known)
                known.write_json(folder / f"validation_{number}.json")
                if isinstance(floor, ItemToItemFloor):
                    floor.save(folder / name)
                bar.update(number + 1, len(floors), name)
        return {"parameters": parameters, "validation": validation}

    def load(folder: Path) -> dict[str, Report]:
        names = read_json(folder / "stage.json")["parameters"]
        return {name: read_report(folder / f"{number}.json") for number, name in enumerate(names)}

    return setting.stage(
        "floors", reads=(*reads, "evaluation.ks"), fill=fill, load=load, by_all=True
    )


def load_floor(pipeline: Pipeline[Any], name: str) -> Floor:
    """Loads a floor of the stage "floors" by its name.

    Raises:
        ExperimentError: A file of the floor is damaged.
    """
    if name == "popularity":
        return PopularityFloor(counts=pipeline.item_counts.numpy().astype(np.float32))
    return ItemToItemFloor.load(pipeline.floors.file(name))


def floor_ndcg(pipeline: Pipeline[Any], mode: str) -> dict[str, float]:
    """NDCG@10 of each floor on the users of early stopping, by its name."""
    all_users, drawn = pipeline.data.split.validation.users, pipeline.validation.users
    assert all_users is not None  # leave-one-out sets them
    assert drawn is not None
    is_drawn = np.isin(all_users, drawn)  # [validation users]
    names = pipeline.floors.complete()["parameters"]
    figures = {}
    for number, name in enumerate(names):
        report = read_report(pipeline.floors.file(f"validation_{number}.json"))
        figures[name] = float(report.per_user("ndcg@10", mode)[is_drawn].mean())
    return figures


def kept_floors(
    floors: Stage[dict[str, Report]], names: Sequence[str]
) -> dict[str, ItemToItemFloor]:
    """Loads the floors of these names that the stage has fitted; "popularity" is not allowed.

    Without texts of items there is no "text" and no "graph + text".
    """
    fitted = floors.complete()["parameters"]
    return {name: ItemToItemFloor.load(floors.file(name)) for name in names if name in fitted}


def kept_floor_names(floors: Stage[dict[str, Report]]) -> list[str]:
    """The floors that `load_floor` can load; runs of older versions have fewer."""
    names = floors.complete()["parameters"]
    return [name for name in names if name == "popularity" or floors.file(name).is_dir()]
