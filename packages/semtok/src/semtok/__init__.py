"""Item attributes to embeddings, and embeddings to semantic IDs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semtok.artifact import load_tokenizer, save_tokenizer
    from semtok.catalog import Catalog, CatalogError, find_catalog, read_catalog
    from semtok.collisions import Collisions, measure_collisions, resolve_collisions
    from semtok.embedding.contract import EmbeddingSource
    from semtok.embedding.lsa import LsaEmbedding
    from semtok.embedding.stored import read_embeddings
    from semtok.embedding.text import TextEmbedding
    from semtok.health import CodeHealth, LevelHealth, measure_health
    from semtok.quantizers.contract import Quantizer
    from semtok.quantizers.hierarchical import HierarchicalKMeans
    from semtok.quantizers.random import random_codes
    from semtok.reduction import Pca
    from semtok.semantic_ids import SemanticIds
    from semtok.tokenizer import Tokenizer

__all__ = [
    "Catalog",
    "CatalogError",
    "CodeHealth",
    "Collisions",
    "EmbeddingSource",
    "HierarchicalKMeans",
    "LevelHealth",
    "LsaEmbedding",
    "Pca",
    "Quantizer",
    "SemanticIds",
    "TextEmbedding",
    "Tokenizer",
    "find_catalog",
    "load_tokenizer",
    "measure_collisions",
    "measure_health",
    "random_codes",
    "read_catalog",
    "read_embeddings",
    "resolve_collisions",
    "save_tokenizer",
]

# Modules are loaded on first use of a name of theirs, so that `semtok --help` answers at once.
_MODULES = {
    "artifact": ("load_tokenizer", "save_tokenizer"),
    "catalog": ("Catalog", "CatalogError", "find_catalog", "read_catalog"),
    "collisions": ("Collisions", "measure_collisions", "resolve_collisions"),
    "embedding.contract": ("EmbeddingSource",),
    "embedding.lsa": ("LsaEmbedding",),
    "embedding.stored": ("read_embeddings",),
    "embedding.text": ("TextEmbedding",),
    "health": ("CodeHealth", "LevelHealth", "measure_health"),
    "quantizers.contract": ("Quantizer",),
    "quantizers.hierarchical": ("HierarchicalKMeans",),
    "quantizers.random": ("random_codes",),
    "reduction": ("Pca",),
    "semantic_ids": ("SemanticIds",),
    "tokenizer": ("Tokenizer",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
