"""Large arrays in files, so that all processes of a machine share one copy in memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from genrec.reading import refusing
from genrec.storage import naming, put_file, working_beside

MAPPED_ABOVE = 2**25
"""An array of at most this many bytes stays in memory."""

Scalar = TypeVar("Scalar", bound=np.generic)


def shared_in(folder: Path | str | None, array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Returns an array unchanged or, if it is large, mapped from a file.

    The name of the file is a digest of its contents. So all processes with the same array use the
    same file, and so does a later training.

    Args:
        folder: The folder of the file, made if it does not exist; None keeps any array in memory.
        array: An array of one dimension.

    Raises:
        ArtifactError: The file is damaged.
        OSError: The system reports an error, such as a full disk.
    """
    if folder is None or array.nbytes <= MAPPED_ABOVE:
        return array
    digest = hashlib.blake2b(array.data, digest_size=16).hexdigest()
    path = Path(folder) / f"histories-{array.dtype.name}-{digest}.npy"
    with naming(path):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with working_beside(path) as work, (work / "new").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                put_file(work, path)
    with refusing(f"{path} is damaged"):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.shape != array.shape or mapped.dtype != array.dtype:
            raise ValueError(
                f"it must hold {array.dtype} {array.shape}, got {mapped.dtype} {mapped.shape}"
            )
    plain: NDArray[Scalar] = np.asarray(mapped)  # indexing a memmap is slower
    return plain
