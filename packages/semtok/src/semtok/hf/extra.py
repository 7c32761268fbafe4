"""The error if the extra is not installed."""

from __future__ import annotations


def extra_is_needed(what: str, error: ModuleNotFoundError) -> ImportError:
    """The error of functions that need `semtok[hf]`, in one line."""
    return ImportError(f"{what} need an extra (no module {error.name}): pip install 'semtok[hf]'")
