"""Quantizers and embedding sources of other packages: their required members, and their folders.

Such a part writes its files into an inner folder, `part`. The `config.json` beside it holds the
name by which its class is imported, the version of its package, and a digest of each file.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from semtok.catalog import CatalogError
from semtok.parts import read_part, refusing, string, writing_part
from semtok.plugins import imported, is_plugin, package_version, plugin_name, version_note

_LOG = logging.getLogger(__name__)
_FILES = "part"


@runtime_checkable
class Saved(Protocol):
    """A quantizer or an embedding source that can be saved."""

    def save(self, folder: str | Path) -> None:
        """Writes itself into a new folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The members that a class of another package must have to be used as a part.

    Attributes:
        what: The kind of part in words.
        of_class: Methods and class methods.
        of_instance: Further members of an instance.
    """

    what: str
    of_class: tuple[str, ...]
    of_instance: tuple[str, ...]

    def imported(self, name: str, trust: Collection[str], *, where: str = "") -> type[Any]:
        """Imports the class with a name.

        Raises:
            CatalogError: If its package is not trusted, or it is not a class that can be such a
                part.
        """
        kind = imported(name, trust, where=where)
        begin = f"{where}: " if where else ""
        if not isinstance(kind, type):
            raise CatalogError(f"{begin}{name} must be a class, to be {self.what}")
        missing = [method for method in self.of_class if not callable(getattr(kind, method, None))]
        self._refuse(f"{begin}{name}", missing)
        return kind

    def check(self, name: str, part: object) -> None:
        """Raises CatalogError unless an instance has all members of such a part."""
        names = (*self.of_class, *self.of_instance)
        self._refuse(name, [each for each in names if not hasattr(part, each)])

    def _refuse(self, name: str, missing: Sequence[str]) -> None:
        if missing:
            raise CatalogError(f"{name} cannot be {self.what}: it lacks {', '.join(missing)}")


QUANTIZER = Contract(
    what="a quantizer",
    of_class=("fit", "load", "save", "encode", "decode", "distortion"),
    of_instance=("dim", "num_levels", "codebook_sizes"),
)
"""The members of `semtok.Quantizer`."""

SOURCE = Contract(
    what="an embedding source",
    of_class=("fit", "load", "save", "contents", "embed"),
    of_instance=("fingerprint", "dim"),
)
"""The members of `semtok.EmbeddingSource`; `fit` takes items, `load` the folder of `save`."""


def save_part(folder: str | Path, part: Saved) -> None:
    """Writes a quantizer or an embedding source into a new folder, as the loaders read it.

    A part of another package writes its files into an inner folder; the name of its class is kept.

    Raises:
        FileExistsError: If the folder exists already.
        TypeError: If the part's class cannot be imported by a name.
    """
    kind = type(part)
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        part.save(folder)
        return
    name = plugin_name(kind)
    config = {"kind": name, "version": package_version(name)}
    with writing_part(folder, config, every_file=True) as beside:
        part.save(beside / _FILES)


def load_part(folder: Path, name: object, trust: Collection[str], contract: Contract) -> Any:
    """Loads a part of another package.

    Args:
        folder: A folder that `save_part` wrote.
        name: The name in its config.json.
        trust: The packages whose code may run.
        contract: The members that the class must have.

    Raises:
        CatalogError: If the name is not one of a class, its package is not trusted, the class is
            not such a part, or a file is damaged.
    """
    if not isinstance(name, str) or not is_plugin(name):
        raise CatalogError(f"{folder}: unknown kind of {contract.what.split(' ', 1)[1]} {name!r}")
    config, _ = read_part(folder, name)
    kind = contract.imported(name, trust, where=str(folder))
    with refusing(folder):
        version = None if config["version"] is None else string(config, "version")
        part = kind.load(folder / _FILES)
    note = version_note(name, version, where=str(folder))
    if note is not None:
        _LOG.warning(note)
    contract.check(f"{folder}: {name}", part)
    return part
