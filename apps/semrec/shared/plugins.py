"""Parts of other packages in a configuration: their code runs only if the package is trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any

import typer
from genrec import ArtifactError
from semtok import CatalogError, check_source, is_plugin, quantizer_kind

from semrec.shared.data import AppConfig
from semrec.shared.errors import ExperimentError

TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE",
        help="Allow the code of this package to run, for parts named package.module:Name; repeat "
        "the option for each package",
    ),
]

PLUGIN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
"""The pattern of a part's name in another package, for editors."""

QUANTIZER_OPTIONS = ("num_levels", "codebook_size", "seed")
"""The arguments that an app passes to the `fit` of a quantizer by name."""


def check_plugins(config: AppConfig, trust: Collection[str], where: str = "") -> None:
    """Refuses parts of packages that are not trusted, and parts of the wrong kind.

    Args:
        config: The configuration; parts of this toolkit are not checked.
        trust: The packages whose code may run.
        where: The folder that holds the configuration; empty if the user wrote it.

    Raises:
        ExperimentError: A package is not trusted, or has no such part.
    """
    begin = f"{where}: " if where else ""
    try:
        for embedding in config.embeddings:
            check_source(embedding, trust=trust)
        for quantizer in filter(is_plugin, config.quantizers):
            options = quantizer_kind(quantizer, trust=trust).defaults
            missing = [name for name in QUANTIZER_OPTIONS if name not in options]
            if missing:
                raise ExperimentError(
                    f"{begin}{quantizer} cannot be used here: its fit does not take "
                    f"{', '.join(missing)} by name"
                )
        for backbone in filter(is_plugin, config.backbones):
            from genrec import backbone_class  # imports torch

            backbone_class(backbone, trust=trust)
    except (CatalogError, ArtifactError) as error:
        raise ExperimentError(f"{begin}{error}") from error


def part_field(default: str, known: Collection[str]) -> Any:
    """A configuration field that names a part of this toolkit or of another package.

    Args:
        default: Its default.
        known: The names of this toolkit's parts.
    """
    return dataclasses.field(default=default, metadata={"known": tuple(known)})


def check_part(config: Any, field: str) -> None:
    """Refuses a name that is neither known nor a part of another package.

    Args:
        config: A configuration.
        field: One of its fields, made by `part_field`.

    Raises:
        ValueError: The name is neither of the two.
    """
    (known,) = (f.metadata["known"] for f in dataclasses.fields(config) if f.name == field)
    name = getattr(config, field)
    if name not in known and not is_plugin(name):
        raise ValueError(
            f"{field} must be one of {', '.join(known)}, or package.module:Name of another "
            f"package, got {name!r}"
        )
