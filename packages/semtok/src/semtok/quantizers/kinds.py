"""Which quantizers there are, by the names that command lines and folders have for them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from semtok.parts import read_config
from semtok.plugin_parts import QUANTIZER, load_part
from semtok.plugins import is_plugin
from semtok.quantizers.contract import Quantizer


@dataclass(frozen=True, kw_only=True)
class QuantizerKind:
    """A quantizer by name; its module is imported on first use.

    Attributes:
        module: Where the class is, below `semtok.quantizers`.
        class_name: Its name there.
        kind: What its config.json says.
        options: Of its `fit`, set by the name.
        config: Module, below `semtok.quantizers`, and name of the configuration that its `fit`
            takes after the vectors; None where `fit` takes all options by name.
        holds_others: Whether its folder holds those of other quantizers.
        plugin: The class, where it is of another package.
    """

    module: str
    class_name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    config: tuple[str, str] | None = None
    holds_others: bool = False
    plugin: type[Any] | None = None

    @property
    def quantizer_class(self) -> type[Any]:
        """The class, which follows `Quantizer`."""
        return self.plugin or _imported(self.module, self.class_name)

    @property
    def config_class(self) -> type[Any] | None:
        """The class of the configuration, if there is one."""
        return None if self.config is None else _imported(*self.config)

    @property
    def defaults(self) -> dict[str, Any]:
        """What `fit` takes by name, with the defaults: of the class, and of its configuration."""
        parameters = inspect.signature(self.quantizer_class.fit).parameters.values()
        defaults = {
            parameter.name: parameter.default
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        if self.config_class is not None:
            fields = dataclasses.fields(self.config_class)
            defaults |= {option.name: option.default for option in fields}
        return {**defaults, **self.options}

    def fit(self, x: Float[np.ndarray, "items dim"], **options: Any) -> Quantizer:
        """Fits the class with the name's options and any others that it, or its config, has.

        Args:
            x: Vectors.
            **options: By the names of `defaults`.

        Raises:
            ValueError: As the class's `fit`.
            TypeError: If it has no such option.
            CatalogError: If a class of another package gives what is no quantizer.
        """
        options = {**self.options, **options}
        arguments = []
        if self.config_class is not None:
            names = [option.name for option in dataclasses.fields(self.config_class)]
            configured = {name: options.pop(name) for name in names if name in options}
            arguments = [self.config_class(**configured)]
        fitted: Quantizer = self.quantizer_class.fit(x, *arguments, **options)
        if self.plugin is not None:
            QUANTIZER.check(self.kind, fitted)
        return fitted


QUANTIZERS: Mapping[str, QuantizerKind] = {
    "hierarchical": QuantizerKind(
        module="hierarchical", class_name="HierarchicalKMeans", kind="hierarchical_kmeans"
    ),
    "pq": QuantizerKind(module="product", class_name="ProductQuantizer", kind="product"),
    "opq": QuantizerKind(module="product", class_name="OptimizedProductQuantizer", kind="product"),
    "rq": QuantizerKind(module="residual", class_name="ResidualQuantizer", kind="residual"),
    "rqvae": QuantizerKind(
        module="rqvae",
        class_name="RqVae",
        kind="rqvae",
        config=("rqvae_config", "RqVaeConfig"),
    ),
    "random": QuantizerKind(module="random", class_name="RandomCodes", kind="random"),
    "views": QuantizerKind(
        module="views", class_name="ViewQuantizer", kind="views", holds_others=True
    ),
}
"""Every quantizer by name. "views" fits another one, hierarchical k-means by default, a view."""


def quantizer_kind(name: str, *, trust: Collection[str] = ()) -> QuantizerKind:
    """The quantizer of a name.

    Args:
        name: One of `QUANTIZERS`, or "package.module:Name" of a class of another package.
        trust: The packages whose code may run.

    Raises:
        ValueError: If there is none of that name.
        CatalogError: If its package is not trusted, or it is no quantizer.
    """
    if name in QUANTIZERS:
        return QUANTIZERS[name]
    if not is_plugin(name):
        raise ValueError(
            f"quantizer must be one of {', '.join(QUANTIZERS)}, or package.module:Name of another "
            f"package, got {name!r}"
        )
    module, _, class_name = name.partition(":")
    plugin = QUANTIZER.imported(name, trust)
    return QuantizerKind(module=module, class_name=class_name, kind=name, plugin=plugin)


def load_quantizer(folder: str | Path, *, trust: Collection[str] = ()) -> Quantizer:
    """Loads whichever quantizer a folder holds.

    Args:
        folder: What `save_part` wrote, or the quantizer's `save`.
        trust: The packages whose code may run, where it is a quantizer of another package.

    Raises:
        CatalogError: If it holds none that this version knows, or one of a package that is not
            trusted.
    """
    kind = read_config(Path(folder)).get("kind")
    for known in QUANTIZERS.values():
        if known.kind == kind:
            options = {"trust": trust} if known.holds_others else {}
            loaded: Quantizer = known.quantizer_class.load(folder, **options)
            return loaded
    plugin: Quantizer = load_part(Path(folder), kind, trust, QUANTIZER)
    return plugin


def _imported(module: str, name: str) -> type[Any]:
    imported: type[Any] = getattr(import_module(f"semtok.quantizers.{module}"), name)
    return imported
