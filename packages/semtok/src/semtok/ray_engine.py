"""Embedding and encoding on all machines of a Ray cluster (needs `semtok[ray]`).

Files are read, embedded and encoded by Ray Data: a task a file, and a pool of actors that hold the
models. What must see all items, the collisions, is done in the calling process, in the order of the
files, so that the codes are those of the local engine, bit for bit.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from semtok.catalog import CATALOG_SUFFIXES, CatalogError, id_hashes
from semtok.collisions import resolve_collisions
from semtok.drift import REFIT_ABOVE
from semtok.embedding.chunks import writing_npy
from semtok.embedding.contract import EmbeddingSource, first_line
from semtok.progress import Progress
from semtok.quantizers.contract import Quantizer
from semtok.ray_tasks import Worker, packages, packed, read_chunks
from semtok.runs import KeyRuns
from semtok.semantic_ids import SemanticIds
from semtok.storage import replacing_folder
from semtok.tokenizer import Encoding, Tokenizer
from semtok.views import View

_SHARD = re.compile(r"part-\d{5,}\.parquet")
_BLOCK = 8 << 20  # bytes that a task hands on at a time: small, so that all actors have some


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How Ray runs.

    Attributes:
        batch_size: Items that pass an actor together. It does not change the codes.
        num_workers: Actors at most; None takes one a CPU but one, or one a GPU for a cuda device.
        device: Where models run, as torch names it.
    """

    batch_size: int = 4096
    num_workers: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


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
        source: Makes them.
        inputs: Files, patterns or folders; see `catalog_files`.
        path: The .npy file to write.
        id_column: The column that holds the item's id.
        options: How Ray runs.
        progress: Called with the items done, and 0 until all are: of how many is not known.

    Returns:
        The items' ids, and their embeddings, mapped from `path`.

    Raises:
        CatalogError: As `stream_catalog`, and if two files have an item in common.
        ImportError: If `semtok[ray]` is not installed.
    """
    view = View(name="embedding", source=source)
    batches = _run((view,), None, inputs, id_column, options or RayOptions(), progress)
    item_ids: list[str] = []
    with writing_npy(Path(path)) as write:
        for batch in batches:
            item_ids += batch["item_id"].tolist()
            write(batch["x"])
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
    """The semantic IDs of the items of some files, as `Tokenizer.encode` gives them.

    The calling process holds the ids and the codes of all items (about 300 bytes an item), and
    keeps the vectors in a file of the workspace. What a cluster is to read (catalogues, images)
    must lie where all of its machines find it.

    Args:
        tokenizer: With a source for each of its views.
        inputs: Files, patterns or folders; see `catalog_files`.
        workspace: An existing folder for the vectors.
        id_column: The column that holds the item's id.
        refit_above: The drift above which refitting is advised.
        options: How Ray runs.
        progress: Called with the items done, and 0 until all are: of how many is not known.

    Returns:
        The codes, in the order of the files and their rows.

    Raises:
        CatalogError: As `stream_catalog`, and if two files have an item in common.
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
            ids = batch["item_id"].tolist()
            new = [row for row, item_id in enumerate(ids) if not known.has(item_id)]
            item_ids += ids
            codes.append(batch["codes"][new])
            write(batch["x"][new])
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


def write_shards(
    semantic_ids: SemanticIds,
    folder: str | Path,
    *,
    shard_size: int = 1_000_000,
    overwrite: bool = False,
) -> None:
    """Writes a code table as a folder of parquet files, part-00000.parquet and so on, in order.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is not set, or holds anything but
            such files.
    """
    folder = Path(folder)
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if not _SHARD.fullmatch(path.name))
        if others:
            raise FileExistsError(
                f"{folder}: also holds {', '.join(others[:5])}, which would be lost, so it is not "
                "replaced"
            )
    with replacing_folder(folder, overwrite=overwrite) as beside:
        for number, start in enumerate(range(0, len(semantic_ids), shard_size)):
            stop = start + shard_size
            part = replace(
                semantic_ids,
                codes=semantic_ids.codes[start:stop],
                item_ids=semantic_ids.item_ids[start:stop],
            )
            part.write(beside / f"part-{number:05d}.parquet")


def catalog_files(inputs: Sequence[str | Path]) -> list[Path]:
    """The files that are meant: files as they are, the catalogues in folders, what patterns match.

    Raises:
        CatalogError: If an input stands for no file, or two for the same one.
    """
    files: list[Path] = []
    for name in inputs:
        meant = [Path(name)]
        if Path(name).is_dir():
            meant = [path for path in sorted(Path(name).iterdir()) if _is_catalog(path)]
        elif not Path(name).exists():
            meant = [Path(path) for path in sorted(glob(str(name)))]
        if not meant:
            raise CatalogError(f"{name}: no catalogue there")
        files += meant
    for number, path in enumerate(sorted_files := sorted(files)):
        if path in sorted_files[number + 1 : number + 2]:
            raise CatalogError(f"{path}: is given twice")
    return files


def _is_catalog(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(CATALOG_SUFFIXES)


def _run(
    views: Sequence[View],
    quantizer: Quantizer | None,
    inputs: Sequence[str | Path],
    id_column: str,
    options: RayOptions,
    progress: Progress | None,
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of `item_id`, `x` and, with a quantizer, `codes`, in the order of the files."""
    files = [path.absolute() for path in catalog_files(inputs)]
    ray = _ray()
    dataset = _dataset(ray, views, quantizer, files, id_column, options)
    seen, done, last = KeyRuns(), 0, (0, -1)
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            ids, number = batch["item_id"].tolist(), int(batch["number"][0])
            places = list(zip(batch["number"].tolist(), batch["row"].tolist(), strict=True))
            assert places == sorted(places), "Ray keeps the order"
            assert last < places[0] <= places[-1] < (number + 1, 0), "Ray keeps the order"
            last = places[-1]
            _refuse_repeated(seen, ids, files, number)
            done += len(ids)
            if progress is not None:
                progress(done, 0)
            yield batch
    except ray.exceptions.RayError as error:
        raise _cause(error) from None
    if progress is not None:
        progress(done, done)


def _dataset(
    ray: Any,
    views: Sequence[View],
    quantizer: Quantizer | None,
    files: Sequence[Path],
    id_column: str,
    options: RayOptions,
) -> Any:
    """The tasks that read the files and the actors that embed and encode, as Ray Data has them."""
    kind = "GPU" if options.device.startswith("cuda") else "CPU"
    total = int(ray.cluster_resources().get(kind, 0))
    most = options.num_workers or max(1, total - (kind == "CPU"))  # one reads
    wanted = [list(getattr(view.source, "fields", ())) for view in views]
    dataset = (
        ray.data.from_items(
            [{"number": number, "path": str(path)} for number, path in enumerate(files)],
            override_num_blocks=len(files),
        )
        .map_batches(
            read_chunks,
            batch_size=1,
            batch_format="numpy",
            num_cpus=0.5,  # unlike the actors, so that reading is not made a part of them
            fn_kwargs={"id_column": id_column, "size": options.batch_size, "wanted": wanted},
        )
        .map_batches(
            Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            fn_constructor_args=(
                ray.put(packed(views, quantizer)),
                options.device,
                packages(views, quantizer),
            ),
            num_cpus=1 if ray.cluster_resources().get("CPU", 0) > 1 else 0.5,
            num_gpus=1 if kind == "GPU" else 0,
        )
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK
    return dataset


def _ray() -> Any:
    """Ray, connected to the cluster that it finds, or started on this machine."""
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


def _refuse_repeated(seen: KeyRuns, item_ids: list[str], files: list[Path], number: int) -> None:
    """Raises CatalogError if an item came before, in another file."""
    keys = id_hashes(item_ids)
    before = seen.find(keys)
    if before.max() >= 0:
        row = int((before >= 0).argmax())
        raise CatalogError(
            f"{files[number]}: item id {item_ids[row]!r} is already in {files[int(before[row])]}"
        )
    seen.add(keys, np.full(len(keys), number, dtype=np.int64))


def _cause(error: BaseException) -> BaseException:
    """What went wrong in an actor or a task, without the lines that Ray adds to it."""
    cause: BaseException | None = error
    while cause is not None:
        # Ray's own errors are of the type of their cause, too.
        is_original = not hasattr(cause, "cause")
        for kind in (CatalogError, ValueError, ImportError, OSError):
            if is_original and isinstance(cause, kind):
                return kind(first_line(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error
