"""Finds the class of a sequence model of another package by its name."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from genrec.backbones import Backbone, StateBackbone
from genrec.errors import ArtifactError
from genrec.plugins import imported

_NEEDED: dict[type[Backbone], str] = {Backbone: "score", StateBackbone: "forward"}
"""The method that a subclass must define, by its base class."""

BackboneT = TypeVar("BackboneT", bound=Backbone)


def plugin_backbone(
    name: str, trust: Collection[str], *, kind: type[BackboneT], where: str = ""
) -> type[BackboneT]:
    """Returns the class of a name.

    Args:
        name: As "package.module:Name".
        trust: The packages whose code may run.
        kind: Its base class: `Backbone`, or `StateBackbone` if its training needs states.
        where: The folder that contains the name; empty if the user wrote it.

    Raises:
        ArtifactError: The package is not trusted, or has no such sequence model.
    """
    value = imported(name, trust, where=where)
    begin = f"{where}: " if where else ""
    if not (isinstance(value, type) and issubclass(value, kind)):
        raise ArtifactError(
            f"{begin}{name} cannot be a sequence model: it must be a class below "
            f"genrec.{kind.__name__}"
        )
    method = _NEEDED[kind]
    if getattr(value, method) is getattr(kind, method):
        raise ArtifactError(f"{begin}{name} cannot be a sequence model: it lacks {method}")
    return value
