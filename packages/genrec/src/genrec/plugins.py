"""Parts of other packages by name, "package.module:Name"; their code runs only if it is trusted.

semtok, genrec and evalrec each have this module, since none of them imports another. The copies
differ only in the error.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import import_module, metadata
from typing import Any

from genrec.errors import ArtifactError as RefusedError

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_plugin(name: str) -> bool:
    """Whether a name stands for a part of another package: "package.module:Name"."""
    return _NAME.fullmatch(name) is not None


def imported(name: str, trust: Collection[str], *, where: str = "") -> Any:
    """Imports what a name stands for, if its package is trusted.

    Args:
        name: A name of the form "package.module:Name".
        trust: The packages whose code may run; all modules of a package are trusted with it.
        where: The folder that holds the name; empty if the user wrote it.

    Raises:
        RefusedError: If the package is not trusted, cannot be imported, or has no such name.
        TypeError: If `trust` is a string.
    """
    if isinstance(trust, str):
        raise TypeError(f"trust must be a tuple of packages, such as ({trust!r},), got {trust!r}")
    path, _, attribute = name.partition(":")
    package, begin = path.partition(".")[0], f"{where}: " if where else ""
    if package not in trust:
        raise RefusedError(
            f"{begin}{name} is code of the package {package}, which runs only where you trust it: "
            f"add --trust {package}, in Python trust=({package!r},)"
        )
    try:
        module = import_module(path)
    except Exception as error:  # the code of others may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RefusedError(f"{begin}{name} cannot be imported ({reason})") from error
    if not hasattr(module, attribute):
        raise RefusedError(f"{begin}{name} cannot be imported: {path} has no {attribute}")
    return getattr(module, attribute)


def plugin_name(kind: type) -> str:
    """The name by which `imported` finds a class.

    Raises:
        TypeError: If there is none, as for a class within a function or of a script.
    """
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not is_plugin(name) or kind.__module__ == "__main__":
        raise TypeError(
            f"{kind.__qualname__} must be a class of a module that can be imported, to be saved "
            f"by its name, got {name}"
        )
    return name


def package_version(name: str) -> str | None:
    """The installed version of the package that a name begins with; None if it is not known."""
    package = re.split(r"[.:]", name)[0]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        distributions = metadata.packages_distributions().get(package, ())
    return metadata.version(distributions[0]) if distributions else None


def version_note(name: str, version: str | None, *, where: str) -> str | None:
    """A note if another version of a package wrote a folder than is installed, else None."""
    now = package_version(name)
    if version == now:
        return None
    return (
        f"{where}: {name} was saved by version {version or 'unknown'}, {now or 'unknown'} is here"
    )
