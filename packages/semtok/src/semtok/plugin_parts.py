"""Quantizers and embedding sources of other packages: what they must have, and their folders.

Such a part writes its files into a folder of its own, `part`; `config.json` beside it has the name
by which its class is imported, the version of its package, and a digest of each of its files.
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
    """A quantizer or an embedding source, as far as it is saved."""

    def save(self, folder: str | Path) -> None:
        """Writes itself into a new folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a class of another package must have to be used as a part.

    Attributes:
        what: The part in words.
        of_class: Methods and class methods.
        of_instance: What an instance must have beside them.
    """

    what: str
    of_class: tuple[str, ...]
    of_instance: tuple[str, ...]

    def imported(self, name: str, trust: Collection[str], *, where: str = "") -> type[Any]:
        """The class of a name.

        Raises:
            CatalogError: Its package is not trusted, or it is no class that can be such a part.
        """
        kind = imported(name, trust, where=where)
        begin = f"{where}: " if where else ""
        if not isinstance(kind, type):
            raise CatalogError(f"{begin}{name} must be a class, to be {self.what}")
        missing = [method for method in self.of_class if not callable(getattr(kind, method, None))]
        self._refuse(f"{begin}{name}", missing)
        return kind

    def check(self, name: str, part: object) -> None:
        """Raises CatalogError unless an instance has all that such a part has."""
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
"""As `semtok.Quantizer` has it."""

SOURCE = Contract(
    what="an embedding source",
    of_class=("fit", "load", "save", "contents", "embed"),
    of_instance=("fingerprint", "dim"),
)
"""As `semtok.EmbeddingSource` has it; `fit` makes it of items, `load` of what `save` wrote."""


def save_part(folder: str | Path, part: Saved) -> None:
    """Writes a quantizer or an embedding source into a new folder, as the loaders read it.

    One of another package writes its files into a folder within, and its class's name is kept.

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
        folder: What `save_part` wrote.
        name: What its config.json says.
        trust: The packages whose code may run.
        contract: What it must have.

    Raises:
        CatalogError: If the name is none, its package is not trusted, it is no such part, or a
            file is damaged.
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
