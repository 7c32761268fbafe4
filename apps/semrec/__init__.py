"""Three published recommenders, built from semtok, fusion, genrec and evalrec."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semrec.loading import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semrec import loading  # on first use: commands need nothing of it

    return getattr(loading, name)
