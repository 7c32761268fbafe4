"""What is said where the extra is not installed."""

from __future__ import annotations


def extra_is_needed(what: str, error: ModuleNotFoundError) -> ImportError:
    """The error for what needs `semtok[hf]`, in one line."""
    return ImportError(f"{what} need an extra (no module {error.name}): pip install 'semtok[hf]'")
