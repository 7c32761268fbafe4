"""All formats by name; sorting files by their role, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

from evalrec.cells import Column
from evalrec.interactions import DataError
from evalrec.plugins import imported, is_plugin
from evalrec.readers.amazon import AMAZON_2014, AMAZON_2018, AMAZON_2023
from evalrec.readers.batches import Batch
from evalrec.readers.blocks import Advance
from evalrec.readers.collect import Read, collect
from evalrec.readers.contract import Format, with_rating
from evalrec.readers.hm import HM
from evalrec.readers.mind import MIND
from evalrec.readers.movielens import MOVIELENS
from evalrec.readers.native import ITEM_SUFFIXES, SUFFIXES, read_items, read_native
from evalrec.readers.yelp import YELP

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a stage, the work done and the total work."""

_PARTS = (".train", ".valid", ".test")
_NATIVE_COLUMNS = {
    "user_id": Column(source="user_id", kind="key"),
    "item_id": Column(source="item_id", kind="key"),
    "timestamp": Column(source="timestamp", kind="whole"),
}


def _read_native(paths: Sequence[Path], *, rated: bool, advance: Advance | None) -> Iterator[Batch]:
    for path in paths:
        yield from read_native(path, with_rating(_NATIVE_COLUMNS, "rating", rated), advance=advance)


NATIVE = Format(
    name="native",
    title="the native folder",
    interaction_files=tuple(f"interactions{suffix}" for suffix in SUFFIXES),
    item_files=tuple(f"items{suffix}" for suffix in ITEM_SUFFIXES),
    time_unit="any",
    has_ratings=True,
    unique_items=True,
    read_interactions=_read_native,
    read_items=read_items,
)

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (NATIVE, AMAZON_2014, AMAZON_2018, AMAZON_2023, MOVIELENS, MIND, HM, YELP)
}
"""The formats that `read_raw` and `evalrec prepare` know, by name."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a format, by what they hold."""

    interactions: tuple[Path, ...]
    items: tuple[Path, ...]
    images: tuple[Path, ...] = ()


def get_format(name: str, trust: Collection[str] = ()) -> Format:
    """The format with a name.

    Args:
        name: One of `FORMATS`, or "package.module:NAME" of a `Format` of another package.
        trust: The packages whose code may run.

    Raises:
        DataError: If the package is not trusted, or the name stands for something else.
        ValueError: If there is no such format; the message names all formats.
    """
    if name in FORMATS:
        return FORMATS[name]
    if not is_plugin(name):
        raise ValueError(
            f"format must be one of {', '.join(FORMATS)}, or package.module:NAME of another "
            f"package, got {name!r}"
        )
    form = imported(name, trust)
    if not isinstance(form, Format):
        raise DataError(f"{name} must be an evalrec.Format, got {type(form).__name__}")
    return form


def sort_files(form: Format, paths: Sequence[str | Path]) -> Files:
    """Which of the files hold interactions, which items and which images, by their names.

    A folder stands for those of its files whose names the format knows.

    Raises:
        DataError: If a path is missing, a name is unknown, no file holds interactions, or, by their
            names, two files of a folder hold the same interactions.
    """
    named: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            named.append(path)
            continue
        inside = sorted(each for each in path.iterdir() if each.is_file() and _role(form, each))
        if not inside:
            raise DataError(f"{path} holds no file of {form.title}: {_wanted(form)}")
        named.extend(inside)
    roles: dict[str, list[Path]] = {"items": [], "interactions": [], "images": []}
    for path in named:
        if not path.exists():
            raise DataError(f"{path} is missing")
        role = _role(form, path)
        if role is None:
            raise DataError(f"{path} is not a file of {form.title} by its name: {_wanted(form)}")
        if path in roles[role]:
            raise DataError(f"{path} is given twice")
        roles[role].append(path)
    if not roles["interactions"]:
        raise DataError(
            f"no file of interactions is given: {form.title} calls them "
            f"{' or '.join(form.interaction_files)}"
        )
    _refuse_doubles(roles["interactions"])
    return Files(**{role: tuple(files) for role, files in roles.items()})


def read_raw(
    name: str,
    files: Sequence[str | Path],
    *,
    min_rating: float | None = None,
    trust: Collection[str] = (),
    progress: Progress | None = None,
) -> Read:
    """Read the interactions of a public raw format, as a stream of blocks.

    Args:
        name: One of `FORMATS`, or "package.module:NAME" of another package.
        files: Its files, or folders of them; several files of interactions are one table.
        min_rating: Interactions with a lower rating are left out, and counted.
        trust: The packages whose code may run.
        progress: Called with "reading", the bytes read and the bytes in all.

    Raises:
        DataError: If a file is missing, empty or malformed; the message names file and line.
        ValueError: If the format is unknown, or `min_rating` is set and it has no ratings.
    """
    form = get_format(name, trust)
    if min_rating is not None and not form.has_ratings:
        raise ValueError(f"min_rating must not be given: {form.title} has no ratings")
    paths = sort_files(form, files).interactions
    batches = form.read_interactions(
        paths, rated=min_rating is not None, advance=byte_counter("reading", paths, progress)
    )
    return collect(batches, ", ".join(map(str, paths)), min_rating=min_rating)


def read_catalogue(
    name: str,
    files: Sequence[str | Path],
    keep: Collection[str],
    *,
    trust: Collection[str] = (),
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Read the items of a public raw format, their text cleaned of HTML.

    Args:
        name: As for `read_raw`.
        files: As for `read_raw`.
        keep: The ids of the wanted items; others are skipped.
        trust: The packages whose code may run.
        progress: Called with "reading items", the bytes read and the bytes in all.

    Returns:
        Id to record, for those of `keep` that the files hold: `item_id` and, if there are any,
        `title`, `brand`, `categories`, `features` and `description`.

    Raises:
        DataError: If a file is missing, empty or malformed, or an item occurs twice and the format
            has unique items; the message names file and line.
        ValueError: If the format is unknown.
    """
    form = get_format(name, trust)
    paths = sort_files(form, files).items
    advance = byte_counter("reading items", paths, progress)
    wanted = keep if isinstance(keep, set | frozenset | dict) else set(keep)
    records: dict[str, dict[str, Any]] = {}
    for path in paths:
        for line, record in form.read_items(path, wanted, advance=advance):
            item = record["item_id"]
            if item not in wanted:
                continue
            if item in records and form.unique_items:
                raise DataError(f"{path}, line {line}: item {item!r} occurs twice")
            records.setdefault(item, record)
    return records


def image_paths(form: Format, files: Files) -> tuple[Path, ...]:
    """The files that contain the images of items.

    Raises:
        DataError: If there is no such file.
        ValueError: If the format has no images of items.
    """
    if form.read_images is None:
        raise ValueError(f"keep_images must not be set: {form.title} has no images of items")
    paths = files.images if form.image_files else files.items
    if not paths:
        names = " or ".join(form.image_files or form.item_files)
        raise DataError(
            f"no file with images is given, but keep_images needs one: {form.title} calls "
            f"them {names}"
        )
    return paths


def read_images(
    form: Format, paths: Sequence[Path], keep: Collection[str], progress: Progress | None
) -> dict[str, str]:
    """The image of each item.

    Args:
        form: The format.
        paths: The result of `image_paths`.
        keep: The ids of the wanted items.
        progress: Called with "reading images", the bytes read and the bytes in all.

    Returns:
        Item id to a URL, or to a path relative to the working directory.

    Raises:
        DataError: If a file is malformed.
    """
    if form.read_images is None:
        return {}
    return form.read_images(paths, keep, advance=byte_counter("reading images", paths, progress))


def _refuse_doubles(paths: Sequence[Path]) -> None:
    """Refuses one table in two formats, and a whole table beside its parts."""
    tables: dict[Path, Path] = {}
    for path in paths:
        table = path.with_name(path.name.lower().removesuffix(".gz")).with_suffix("")
        _refuse_pair(tables.setdefault(table, path), path)
    for table, path in tables.items():
        if table.suffix in _PARTS:
            _refuse_pair(tables.get(table.with_suffix(""), path), path)


def _refuse_pair(first: Path, other: Path) -> None:
    if first != other:
        raise DataError(
            f"{first} and {other.name} hold the same interactions, by their names: give one alone"
        )


def _role(form: Format, path: Path) -> str | None:
    name = path.name.lower()
    if any(fnmatch(name, known) for known in form.item_files):
        return "items"
    if any(fnmatch(name, known) for known in form.interaction_files):
        return "interactions"
    if any(fnmatch(name, known) for known in form.image_files):
        return "images"
    return None


def _wanted(form: Format) -> str:
    images = f", images {' or '.join(form.image_files)}" if form.image_files else ""
    return (
        f"interactions are {' or '.join(form.interaction_files)}, "
        f"items {' or '.join(form.item_files)}{images}"
    )


def byte_counter(stage: str, paths: Sequence[Path], progress: Progress | None) -> Advance | None:
    """A function that adds up the bytes read and reports them, with the size of all files."""
    if progress is None or not paths:
        return None
    total = sum(path.stat().st_size for path in paths)
    done = 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done = min(done + num_bytes, total)
        progress(stage, done, total)

    progress(stage, 0, total)
    return advance
