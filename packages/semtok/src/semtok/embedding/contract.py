"""The methods that every embedding source has."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from semtok.catalog import Catalog
from semtok.progress import Progress


@runtime_checkable
class EmbeddingSource(Protocol):
    """Computes one vector per item of a catalogue, row i for item i."""

    @property
    def fingerprint(self) -> str:
        """A name for all settings: equal names and equal contents mean equal vectors."""
        ...

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        ...

    def contents(self, catalog: Catalog) -> Sequence[str | bytes]:
        """All that the source reads of each item: a text, or the digest of a file."""
        ...

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the files that `load_source` needs into a new folder."""
        ...


def digest(*parts: str | bytes | np.ndarray) -> str:
    """A hexadecimal digest of a sequence of parts; other sequences have other digests."""
    state = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def check_device(device: str) -> None:
    """Raises ValueError unless torch can use this device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch can use here, got {device!r} ({first_line(error)})"
        ) from None


def first_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
