"""All quantizers, by the names that command lines and folders use."""

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
        module: The module of the class, below `semtok.quantizers`.
        class_name: The name of the class in that module.
        kind: The value of "kind" in its config.json.
        options: Options of `fit` that the name sets.
        config: Module, below `semtok.quantizers`, and name of the configuration that `fit` takes
            after the vectors; None where `fit` takes all options by name.
        holds_others: Whether its folder holds folders of other quantizers.
        plugin: The class, if it is from another package.
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
        """The options of `fit`, or of its configuration, with their defaults."""
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
        """Fits the class with the options of the name and further ones.

        Args:
            x: Vectors.
            **options: Options by the names in `defaults`.

        Raises:
            ValueError: For the same reasons as `fit` of the class.
            TypeError: If there is no such option.
            CatalogError: If a class of another package returns something else than a quantizer.
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
"""Every quantizer by name. "views" fits a quantizer per view, by default hierarchical k-means."""


def quantizer_kind(name: str, *, trust: Collection[str] = ()) -> QuantizerKind:
    """The quantizer with a name.

    Args:
        name: One of `QUANTIZERS`, or "package.module:Name" of a class of another package.
        trust: The packages whose code may run.

    Raises:
        ValueError: If no quantizer has that name.
        CatalogError: If its package is not trusted, or it is not a quantizer.
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
    """Loads the quantizer in a folder, of whatever kind.

    Args:
        folder: A folder that `save_part`, or the quantizer's `save`, wrote.
        trust: The packages whose code may run, if the quantizer is from another package.

    Raises:
        CatalogError: If the folder holds no quantizer that this version knows, or one of a package
            that is not trusted.
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
