"""The options of `export` and their checks before a model is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from semrec.shared.errors import ExperimentError
from semrec.shared.files import check_place

EXPORT_FILE = "export.json"
"""The file that marks a folder as an export."""

ExportOption = Annotated[Path, typer.Option("--out", help="Folder of the export, which is made")]
ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace --out if it is an export")]

_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def check_export(out: Path, *, run: Path, force: bool) -> None:
    """Refuses an export that cannot be written.

    Args:
        out: The folder of the export.
        run: The folder of the run.
        force: Whether an existing export may be replaced.

    Raises:
        ExperimentError: `out` holds something else, or an export that may not be replaced; `out` is
            the run or in it; or nothing can be written there.
        ImportError: The extra is missing; the message names it.
    """
    for module in _EXTRA:
        if find_spec(module) is None:
            raise ImportError(
                f"export needs an extra (no module {module}): pip install 'semrec[export]'"
            )
    check_place(out, "--out", parents=True)
    if run.resolve() in (out.resolve(), *out.resolve().parents):
        raise ExperimentError(f"--out must not be the run or a folder of it, got {out}")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / EXPORT_FILE).is_file():
        raise ExperimentError(f"{out} holds something else than an export: choose another --out")
    if not force:
        raise ExperimentError(f"{out} exists: choose another --out, or --force")
