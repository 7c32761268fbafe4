"""The stages that the apps have in common: reading the data, text embeddings, floors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import (
    Interactions,
    ItemToItemFloor,
    Queries,
    Report,
    Split,
    evaluate,
    find_interactions,
    fit_floors,
    leave_one_out,
    read_interactions,
    read_report,
)
from jaxtyping import Float, Int
from safetensors.torch import save_file
from scipy import sparse
from semtok import (
    Catalog,
    EmbeddingSource,
    LsaEmbedding,
    Pca,
    TextEmbedding,
    find_catalog,
    read_catalog,
    read_embeddings,
)
from torch import Tensor

from semrec.shared.configuration import check_at_least
from semrec.shared.run import (
    ExperimentError,
    Run,
    left_by_a_stage,
    load_array,
    load_tensors,
    read_json,
)
from semrec.shared.screen import Bar, Screen

STORED = (".npy", ".safetensors", ".parquet")

_GRAPHS = ("graph", "graph + text")
_SPARSE = ("data", "indices", "indptr")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of the two files are called; item ids are joined by value."""

    catalog_item: str = "item_id"
    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How models are chosen and tested, whatever the app.

    Attributes:
        ks: Cut-offs.
        validation_users: Users drawn for early stopping; the test takes all.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    validation_users: int = 5000

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be cut-offs of at least 1, got {self.ks}")
        check_at_least(1, self, "validation_users")


def field_groups(texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The catalogue's fields that each text is made of: "title+brand" is of two."""
    return tuple(tuple(name.strip() for name in text.split("+") if name.strip()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A catalogue, its interactions and their leave-one-out split; row i is item i everywhere."""

    catalog: Catalog
    interactions: Interactions
    split: Split
    files: tuple[Path, ...]

    @property
    def counts(self) -> dict[str, int]:
        """What was read."""
        return {
            "items": len(self.catalog),
            "users": len(self.split.users),
            "users dropped (fewer than 3 interactions)": self.split.num_dropped,
            "interactions": len(self.interactions),
            "cold test targets": int(self.split.test.cold.sum()),
        }

    def popularity(self) -> Int[np.ndarray, " items"]:
        """How often each item was had in training."""
        return np.bincount(np.concatenate(self.split.train), minlength=len(self.catalog))

    def texts(self, fields: Sequence[str]) -> list[str] | None:
        """One text an item, of those fields that there are; None where no item has any."""
        known = [field for field in fields if field in self.catalog.fields]
        texts = self.catalog.texts(known) if known else []
        return texts if any(texts) else None

    def titles(self) -> list[str]:
        """A name to show for each item: its title, or its id where it has none."""
        if "title" not in self.catalog.fields:
            return self.catalog.item_ids
        pairs = zip(self.catalog.texts(("title",)), self.catalog.item_ids, strict=True)
        return [title or item_id for title, item_id in pairs]


def read_data(folder: Path, columns: Columns, screen: Screen) -> Data:
    """Reads and checks a native folder; nothing is written.

    Args:
        folder: Holds one items file and one interactions file.
        columns: Their names for what is read.
        screen: Told what was read.

    Raises:
        CatalogError: The items cannot be read.
        DataError: The interactions cannot be read, or name an item that the catalogue lacks.
    """
    items, interactions = find_catalog(folder), find_interactions(folder)
    catalog = read_catalog(items, id_column=columns.catalog_item)
    table = read_interactions(
        interactions,
        user_column=columns.user,
        item_column=columns.item,
        timestamp_column=columns.timestamp,
        item_ids=catalog.item_ids,
    )
    split = leave_one_out(table)
    data = Data(
        catalog=catalog,
        interactions=table,
        split=split,
        files=(items, interactions),
    )
    screen.say("data: " + ", ".join(f"{count:,} {name}" for name, count in data.counts.items()))
    return data


def keep_items(run: Run, data: Data) -> None:
    """The stage "data": what `recommend` shows of each item, so that it needs the run alone."""

    def build(folder: Path) -> Mapping[str, Any]:
        counts = data.popularity().tolist()
        rows = zip(data.catalog.item_ids, data.titles(), counts, strict=True)
        with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
            for item_id, title, count in rows:
                line = {"item_id": item_id, "title": title, "count": count}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return data.counts

    run.stage("data", build)


def check_complete(run: Path) -> None:
    """Raises ExperimentError if `run` is not the folder of a complete run."""
    read_json(run / "run.json")
    if not (run / "metrics.json").exists():
        raise ExperimentError(f"{run}: the run is not complete; the command that began it goes on")


def read_items(run: Path) -> list[dict[str, Any]]:
    """Returns each item's "item_id", "title" and "count" as `keep_items` left them.

    Raises:
        ExperimentError: The file is missing or damaged.
    """
    with left_by_a_stage(run / "data/items.jsonl") as path:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        expected = read_json(run / "data/stage.json")["items"]
        if len(items) != expected:
            raise ValueError(f"{len(items):,} of {expected:,} items")
    return items


def check_embeddings(embeddings: Sequence[str], data: Data) -> list[Path]:
    """Reads the files of stored embeddings, so that a wrong one is refused before a run begins.

    Returns:
        Those of `embeddings` that are files.

    Raises:
        CatalogError: A file does not fit the catalogue.
    """
    stored = [embedding for embedding in embeddings if embedding.endswith(STORED)]
    for embedding in stored:
        read_embeddings(embedding, data.catalog.item_ids)
    return [Path(embedding) for embedding in stored]


def embed_texts(
    run: Run,
    data: Data,
    embedding: str,
    fields: tuple[str, ...],
    *,
    device: str,
    seed: int,
    stage: str = "text",
) -> Float[np.ndarray, "items dim"]:
    """The stage "text": one embedding an item, kept in the run.

    Args:
        run: The run.
        data: The data.
        embedding: "lsa"; "minilm"; a sentence-transformers name or folder; or a file of stored
            embeddings (.npy, .safetensors, .parquet).
        fields: The catalogue's fields that make an item's text.
        device: Where a sentence-transformers model runs.
        seed: Of LSA's decomposition.
        stage: The stage's name, where there are several.

    Raises:
        CatalogError: A stored file does not fit the catalogue.
    """

    def embed(bar: Bar) -> Float[np.ndarray, "items dim"]:
        if embedding.endswith(STORED):
            return read_embeddings(embedding, data.catalog.item_ids)
        return _embed(data.catalog, embedding, fields, device, seed, bar)

    return embedding_stage(run, stage, embed, embedding)


def embedding_stage(
    run: Run, stage: str, embed: Callable[[Bar], Float[np.ndarray, "items dim"]], name: str
) -> Float[np.ndarray, "items dim"]:
    """A stage that leaves one embedding an item.

    Args:
        run: The run.
        stage: Its name.
        embed: Makes the embeddings.
        name: What makes them, for the record.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        with run.screen.bar(f"{stage} embeddings") as bar:
            vectors = embed(bar)
        np.save(folder / "embeddings.npy", vectors)
        return {"embedding": name, "dim": vectors.shape[1]}

    run.stage(stage, build)
    return read_embedded(run.path, stage)


def read_embedded(run: Path, stage: str = "text") -> Float[np.ndarray, "items dim"]:
    """The embeddings that `embed_texts` left in a run."""
    return load_array(run / stage / "embeddings.npy")


def standardised(vectors: Float[np.ndarray, "items _"], dim: int) -> Float[Tensor, "items dim"]:
    """The embeddings reduced by PCA, of mean 0 and of unit variance overall."""
    if dim < min(vectors.shape):
        vectors = Pca.fit(vectors, dim=dim).transform(vectors)
    vectors = vectors - vectors.mean(axis=0)
    return torch.from_numpy(vectors / vectors.std().clip(1e-6)).float()


def _embed(
    catalog: Catalog, embedding: str, fields: tuple[str, ...], device: str, seed: int, bar: Bar
) -> Float[np.ndarray, "items dim"]:
    known = tuple(field for field in fields if field in catalog.fields)
    catalog.require_fields(known or fields)
    source: EmbeddingSource
    if embedding == "lsa":
        source = LsaEmbedding.fit(catalog, fields=known, seed=seed)
    else:
        source = TextEmbedding(model=embedding, fields=known, device=device)
    return source.embed(catalog, progress=bar.update)


def fit_and_test_floors(
    run: Run, data: Data, fields: tuple[str, ...], ks: tuple[int, ...]
) -> dict[str, Report]:
    """The stage "floors": what any model must beat, parameters picked on validation.

    Returns:
        Test reports by the floors' names.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        with run.screen.bar("floors") as bar:
            floors = fit_floors(data.split, data.texts(fields), progress=bar.update)
        parameters = {}
        with run.screen.bar("floors, test") as bar:
            for number, (name, floor) in enumerate(floors.items()):
                report = evaluate(data.split.test, floor.score, ks=ks, name=name)
                report.write_json(folder / f"{number}.json")
                parameters[name] = dict(floor.parameters)
                bar.update(number + 1, len(floors), name)
        entries = {
            f"{name}.{part}": torch.from_numpy(getattr(floor.matrix, part))
            for name, floor in floors.items()
            if name in _GRAPHS and isinstance(floor, ItemToItemFloor)
            for part in _SPARSE
        }
        save_file(entries, folder / "graphs.safetensors")
        return {"parameters": parameters}

    names = run.stage("floors", build)["parameters"]
    return {
        name: read_report(run.path / "floors" / f"{number}.json")
        for number, name in enumerate(names)
    }


def load_graph_floors(run: Path) -> dict[str, ItemToItemFloor]:
    """The floors "graph" and, where items have texts, "graph + text" of a run."""
    parameters = read_json(run / "floors/stage.json")["parameters"]
    entries = load_tensors(run / "floors/graphs.safetensors")
    found = {}
    for name in _GRAPHS:
        if name not in parameters:
            continue
        arrays = tuple(entries[f"{name}.{part}"].numpy() for part in _SPARSE)
        num_items = len(arrays[-1]) - 1
        found[name] = ItemToItemFloor(
            matrix=sparse.csr_array(arrays, shape=(num_items, num_items)),
            last_items=int(parameters[name]["last_items"]),
            decay=parameters[name]["decay"],
            parameters=parameters[name],
        )
    return found


def sample_queries(queries: Queries, count: int, seed: int) -> Queries:
    """Returns the queries of `count` users drawn without repetition, or all of them."""
    if count >= len(queries):
        return queries
    users = np.sort(np.random.default_rng(seed).choice(len(queries), size=count, replace=False))
    return Queries(
        histories=[queries.histories[user] for user in users],
        targets=queries.targets[users],
        num_items=queries.num_items,
        cold=queries.cold[users],
    )
