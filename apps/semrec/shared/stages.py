"""The stages that the apps have in common: what is kept of the items, embeddings, the floors."""

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
    """A stage that leaves one embedding an item.

    It keeps what embeds as well, so that an update can embed items that are new or of another text.

    Args:
        setting: The run.
        name: Of the stage.
        embedding: What `semtok.embedding_source` takes: "lsa", "minilm", a model, or a file.
        fields: The catalogue's fields that are embedded.
        reads: What of the configuration all this is said by.
        image_field: Of the fields, the one that holds images.
        keep_scale: Called with the stage's folder and the embeddings, to keep there what brings
            these, and in an update those of new items, to one scale.
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
    """What brings the embeddings of a stage to scale: kept with them, or else fitted on them.

    Args:
        stage: Of the embeddings.
        dim: How many dimensions PCA keeps where it is fitted.

    Raises:
        CatalogError: What is kept is damaged.
    """
    kept = stage.file("standardisation")
    if kept.exists():
        return Standardisation.load(kept)
    return Standardisation.fit(stage.result(), dim)


def keep_source(folder: Path, source: EmbeddingSource, catalog: Catalog) -> None:
    """Keeps what embeds in "source", and in "contents.npy" a digest of what it read of each item.

    Args:
        folder: Of the stage; what an interrupted try left there is replaced.
        source: What embeds.
        catalog: The items.
    """
    save_anew(folder / "source", lambda place: save_part(place, source))
    save_array(folder / "contents.npy", content_digests(source, catalog))


def content_digests(source: EmbeddingSource, catalog: Catalog) -> Int[np.ndarray, " items"]:
    """What tells the contents of items from one another: 8 bytes of a digest an item."""
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
    """The stage "floors": what any model must beat, parameters picked on validation.

    Args:
        setting: The run.
        fields: The catalogue's fields that make an item's text.
        reads: What of the configuration says which these are.
        chosen: Gives the floors' parameters; None picks them on validation.
        kept: Gives floors of fewer items, the first ones, by name: what they say of pairs stays.

    Returns:
        A stage whose result is the test's report of each floor, by its name. It keeps the floors
        themselves, and their reports on all validation users, for `floor_ndcg`.
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
    """A floor that the stage "floors" fitted, by its name.

    Raises:
        ExperimentError: A file of it is damaged.
    """
    if name == "popularity":
        return PopularityFloor(counts=pipeline.item_counts.numpy().astype(np.float32))
    return ItemToItemFloor.load(pipeline.floors.file(name))


def floor_ndcg(pipeline: Pipeline[Any], mode: str) -> dict[str, float]:
    """NDCG@10 of each floor on the users on whom early stopping decides, by its name."""
    all_users, drawn = pipeline.data.split.validation.users, pipeline.validation.users
    assert all_users is not None  # leave-one-out knows them
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
    """Those of the floors that are named and that the stage has fitted; popularity is none of them.

    Items without texts have no "text" and no "graph + text".
    """
    fitted = floors.complete()["parameters"]
    return {name: ItemToItemFloor.load(floors.file(name)) for name in names if name in fitted}


def kept_floor_names(floors: Stage[dict[str, Report]]) -> list[str]:
    """The floors that `load_floor` loads; of an older version's run, the graphs and popularity."""
    names = floors.complete()["parameters"]
    return [name for name in names if name == "popularity" or floors.file(name).is_dir()]
