"""Embedding and encoding on all machines of a Ray cluster (needs `semtok[ray]`).

Ray Data reads, embeds and encodes the files. One task reads each shard (a part of a large file),
and a pool of actors holds the models. They exchange Arrow tables. Collisions depend on all items,
so the calling process resolves them, in the order of the files. The codes are the same as those of
the local engine, bit for bit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from semtok.catalog import CatalogError
from semtok.checkpoints import Checkpoint
from semtok.collisions import resolve_collisions
from semtok.drift import REFIT_ABOVE
from semtok.embedding.chunks import writing_npy
from semtok.embedding.contract import EmbeddingSource, first_line
from semtok.places import catalog_files, version_of
from semtok.progress import Progress
from semtok.quantizers.contract import Quantizer
from semtok.ray_tasks import Worker, packages, packed, read_chunks, rows_of_arrow
from semtok.shard_checks import FileChecks
from semtok.shards import SHARD_BYTES, Shard, shards_of
from semtok.tokenizer import Encoding, Tokenizer
from semtok.views import View

_BLOCK = 8 << 20  # bytes that a task outputs at a time: few, so that all actors get some


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How Ray runs.

    Attributes:
        batch_size: Items that an actor processes together. It does not change the codes.
        num_workers: Largest number of actors. None takes one per GPU for a cuda device, otherwise
            one per CPU, except one CPU.
        device: The device of the models, as torch names it.
        shard_bytes: Size of the part of a file that a task reads. Parquet is divided by row groups,
            JSON Lines by lines. Any other file is read by one task.
        checkpoint: A folder, or its URL, in which each finished shard is saved. A killed run
            continues from it, with the same results. Delete it after the run.
    """

    batch_size: int = 4096
    num_workers: int | None = None
    device: str = "cpu"
    shard_bytes: int = SHARD_BYTES
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, got {self.shard_bytes}")


def embed_files(
    source: EmbeddingSource,
    inputs: Sequence[str | Path],
    path: str | Path,
    *,
    id_column: str = "item_id",
    options: RayOptions | None = None,
    progress: Progress | None = None,
) -> tuple[list[str], Float32[np.ndarray, "items dim"]]:
    """The embeddings of the items of some files.

    Args:
        source: The embedding source.
        inputs: Files, folders and patterns, by their paths or by URLs such as s3://bucket/items/;
            see `semtok.places`.
        path: The .npy file to write.
        id_column: The column that holds the item's id.
        options: How Ray runs.
        progress: Called with the number of items done, and with the total, which is 0 until the
            end because it is unknown.

    Returns:
        The ids of the items, and their embeddings, memory-mapped from `path`.

    Raises:
        CatalogError: As for `stream_catalog`, and if two files have an item in common.
        ImportError: If `semtok[ray]` is not installed.
    """
    view = View(name="embedding", source=source)
    batches = _run((view,), None, inputs, id_column, options or RayOptions(), progress)
    item_ids: list[str] = []
    with writing_npy(Path(path)) as write:
        for batch in batches:
            item_ids += batch.column("item_id").to_pylist()
            write(rows_of_arrow(batch.column("x")))
    return item_ids, np.load(path, mmap_mode="r")


def encode_files(
    tokenizer: Tokenizer,
    inputs: Sequence[str | Path],
    *,
    workspace: str | Path,
    id_column: str = "item_id",
    refit_above: float = REFIT_ABOVE,
    options: RayOptions | None = None,
    progress: Progress | None = None,
) -> Encoding:
    """The semantic IDs of the items of some files, the same as from `Tokenizer.encode`.

    The calling process holds the ids and the codes of all items (about 300 bytes per item), and
    stores the vectors in a file of the workspace. All machines of the cluster must be able to read
    the catalogues and images.

    Args:
        tokenizer: A tokenizer with a source for each view.
        inputs: Files, folders and patterns, by their paths or by URLs such as s3://bucket/items/;
            see `semtok.places`.
        workspace: An existing folder for the vectors.
        id_column: The column that holds the item's id.
        refit_above: The drift above which refitting is advised.
        options: How Ray runs.
        progress: Called with the number of items done, and with the total, which is 0 until the
            end because it is unknown.

    Returns:
        The codes, in the order of the files and their rows.

    Raises:
        CatalogError: As for `stream_catalog`, and if two files have an item in common.
        ValueError: If a view of the tokenizer has no source.
        ImportError: If `semtok[ray]` is not installed.
    """
    for view in tokenizer.views:
        if view.source is None:
            raise ValueError(
                f"views must have a source to be embedded by Ray, got {view.name!r} without"
            )
    options = options or RayOptions()
    item_ids: list[str] = []
    codes: list[np.ndarray] = []
    path = Path(workspace) / "ray-vectors.npy"
    known = tokenizer.semantic_ids
    with writing_npy(path) as write:
        for batch in _run(
            tokenizer.views, tokenizer.quantizer, inputs, id_column, options, progress
        ):
            ids = batch.column("item_id").to_pylist()
            new = [row for row, item_id in enumerate(ids) if not known.has(item_id)]
            item_ids += ids
            codes.append(rows_of_arrow(batch.column("codes"))[new])
            write(rows_of_arrow(batch.column("x"))[new])
    raw = np.concatenate(codes)
    if len(raw) == 0:
        return Encoding(semantic_ids=known.take(item_ids))
    x = np.load(path, mmap_mode="r")
    resolved, _, collisions = resolve_collisions(
        raw,
        tokenizer.quantizer.codebook_sizes,
        policy=tokenizer.policy,
        assigned=known,
        quantizer=tokenizer.quantizer,
        x=x,
    )
    new_ids = [item_id for item_id in item_ids if not known.has(item_id)]
    table = known.table_of(new_ids, resolved)
    return Encoding(
        semantic_ids=tokenizer.extended(table).semantic_ids.take(item_ids),
        collisions=collisions,
        drift=tokenizer.drift(x, collisions.num_moved, refit_above),
    )


def _run(
    views: Sequence[View],
    quantizer: Quantizer | None,
    inputs: Sequence[str | Path],
    id_column: str,
    options: RayOptions,
    progress: Progress | None,
) -> Iterator[Any]:
    """Arrow tables of `item_id`, `x` and, with a quantizer, `codes`, in the order of the files."""
    places = catalog_files(inputs)
    shards = shards_of(places, options.shard_bytes)
    parts = packed(views, quantizer)
    checkpoint, first = None, 0
    if options.checkpoint is not None:
        checkpoint = Checkpoint(
            options.checkpoint,
            inputs=_inputs(places, shards),
            settings=_settings(parts, id_column, options),
        )
        first = checkpoint.num_finished
    wanted = [list(getattr(view.source, "fields", ())) for view in views]
    check, done = FileChecks(shards, wanted), 0
    fresh = _fresh(views, quantizer, parts, shards, first, wanted, id_column, options)
    for number, table in _resumed(checkpoint, fresh):
        item_ids = table.column("item_id").to_pylist()
        check.table(number, item_ids, table.column("seen").to_pylist())
        done += len(item_ids)
        if progress is not None:
            progress(done, 0)
        yield table
    check.end()
    if progress is not None:
        progress(done, done)


def _inputs(places: Sequence[str], shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """For each shard, its file, its part of the file, and the version of the file."""
    versions = {place: version_of(place) for place in places}
    return [{**versions[shard.place], "start": shard.start, "stop": shard.stop} for shard in shards]


def _settings(parts: Mapping[str, bytes], id_column: str, options: RayOptions) -> dict[str, Any]:
    """The settings that decide the vectors and codes of an item."""
    models = sha256()
    for name, data in sorted(parts.items()):
        models.update(f"{name} {len(data)} ".encode() + data)
    return {
        "models": models.hexdigest(),
        "id_column": id_column,
        "batch_size": options.batch_size,
        "device": options.device,
    }


def _resumed(
    checkpoint: Checkpoint | None, fresh: Iterator[tuple[int, Any]]
) -> Iterator[tuple[int, Any]]:
    """The tables in a checkpoint, and then the new tables, which the checkpoint saves."""
    if checkpoint is None:
        yield from fresh
        return
    for number in range(checkpoint.num_finished):
        for table in checkpoint.read(number):
            yield number, table
    yield from checkpoint.recorded(fresh)


def _fresh(
    views: Sequence[View],
    quantizer: Quantizer | None,
    parts: Mapping[str, bytes],
    shards: Sequence[Shard],
    first: int,
    wanted: Sequence[Sequence[str]],
    id_column: str,
    options: RayOptions,
) -> Iterator[tuple[int, Any]]:
    """The tables of the shards from `first` on, each with its shard's number, from Ray Data."""
    if first == len(shards):
        return
    ray = _ray()
    dataset = (
        ray.data.from_items(
            [{"number": number} for number in range(first, len(shards))],
            override_num_blocks=len(shards) - first,
        )
        .map_batches(
            read_chunks,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0.5,  # unlike the actors, so that reading is not made a part of them
            fn_kwargs={
                "shards": shards,
                "id_column": id_column,
                "size": options.batch_size,
                "wanted": list(dict.fromkeys(name for fields in wanted for name in fields)),
            },
        )
        .map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(ray.put(parts), options.device, packages(views, quantizer)),
            **_actors(ray, options),
        )
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK
    last = (-1, -1)
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            if len(table) == 0:
                continue
            numbers = table.column("number").to_pylist()
            rows = list(zip(numbers, table.column("row").to_pylist(), strict=True))
            assert [last, *rows] == sorted({last, *rows}), "Ray keeps the order"
            last = rows[-1]
            for number in dict.fromkeys(numbers):
                start, count = numbers.index(number), numbers.count(number)
                yield number, table.slice(start, count)
    except ray.exceptions.RayError as error:
        raise _cause(error) from None


def _actors(ray: Any, options: RayOptions) -> dict[str, Any]:
    """The number of actors, and the resources of the cluster that each one uses."""
    kind = "GPU" if options.device.startswith("cuda") else "CPU"
    total = int(ray.cluster_resources().get(kind, 0))
    most = options.num_workers or max(1, total - (kind == "CPU"))  # the one that is left reads
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        "num_cpus": 1 if ray.cluster_resources().get("CPU", 0) > 1 else 0.5,
        "num_gpus": 1 if kind == "GPU" else 0,
    }


def _ray() -> Any:
    """Ray, connected to an existing cluster or started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the Ray engine needs an extra (no module {error.name}): pip install 'semtok[ray]'"
        ) from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _cause(error: BaseException) -> BaseException:
    """The original error of an actor or a task, without the lines that Ray adds."""
    cause: BaseException | None = error
    while cause is not None:
        # Ray's own errors are of the type of their cause, too.
        is_original = not hasattr(cause, "cause")
        for kind in (CatalogError, ValueError, ImportError, OSError):
            if is_original and isinstance(cause, kind):
                return kind(first_line(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error
