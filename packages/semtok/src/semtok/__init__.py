"""Item attributes to embeddings, and embeddings to semantic IDs."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semtok.artifact import load_tokenizer, save_tokenizer
    from semtok.catalog import Catalog, CatalogError, find_catalog, read_catalog, stream_catalog
    from semtok.code_shards import write_shards
    from semtok.collisions import Collisions, measure_collisions, resolve_collisions
    from semtok.drift import Drift
    from semtok.embedding.cache import EmbeddingCache
    from semtok.embedding.chunks import embed_chunks
    from semtok.embedding.contract import EmbeddingSource
    from semtok.embedding.image import ImageEmbedding
    from semtok.embedding.image_files import image_paths, read_image
    from semtok.embedding.image_networks import ImageNetwork, image_network
    from semtok.embedding.kinds import check_source, embedding_source, is_stored, load_source
    from semtok.embedding.lsa import LsaEmbedding
    from semtok.embedding.stored import StoredEmbedding, read_embeddings
    from semtok.embedding.text import TextEmbedding, text_network
    from semtok.health import CodeHealth, LevelHealth, measure_health
    from semtok.neighbours import neighbour_overlap
    from semtok.page import write_page
    from semtok.plugin_parts import save_part
    from semtok.plugins import is_plugin
    from semtok.quantizers.contract import Quantizer
    from semtok.quantizers.hierarchical import HierarchicalKMeans
    from semtok.quantizers.kinds import (
        QUANTIZERS,
        QuantizerKind,
        load_quantizer,
        quantizer_kind,
    )
    from semtok.quantizers.product import OptimizedProductQuantizer, ProductQuantizer
    from semtok.quantizers.random import RandomCodes, random_codes
    from semtok.quantizers.residual import ResidualQuantizer
    from semtok.quantizers.rqvae import RqVae
    from semtok.quantizers.rqvae_config import RqVaeConfig
    from semtok.quantizers.views import ViewQuantizer
    from semtok.ray_engine import RayOptions, embed_files, encode_files
    from semtok.reduction import Pca, Standardisation, standardised
    from semtok.semantic_ids import FittedSemanticIds, SemanticIds
    from semtok.sequences import read_sequences
    from semtok.tokenizer import Encoding, Tokenizer
    from semtok.views import View

    __version__: str

__all__ = [
    "QUANTIZERS",
    "Catalog",
    "CatalogError",
    "CodeHealth",
    "Collisions",
    "Drift",
    "EmbeddingCache",
    "EmbeddingSource",
    "Encoding",
    "FittedSemanticIds",
    "HierarchicalKMeans",
    "ImageEmbedding",
    "ImageNetwork",
    "LevelHealth",
    "LsaEmbedding",
    "OptimizedProductQuantizer",
    "Pca",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerKind",
    "RandomCodes",
    "RayOptions",
    "ResidualQuantizer",
    "RqVae",
    "RqVaeConfig",
    "SemanticIds",
    "Standardisation",
    "StoredEmbedding",
    "TextEmbedding",
    "Tokenizer",
    "View",
    "ViewQuantizer",
    "check_source",
    "embed_chunks",
    "embed_files",
    "embedding_source",
    "encode_files",
    "find_catalog",
    "image_network",
    "image_paths",
    "is_plugin",
    "is_stored",
    "load_quantizer",
    "load_source",
    "load_tokenizer",
    "measure_collisions",
    "measure_health",
    "neighbour_overlap",
    "quantizer_kind",
    "random_codes",
    "read_catalog",
    "read_embeddings",
    "read_image",
    "read_sequences",
    "resolve_collisions",
    "save_part",
    "save_tokenizer",
    "standardised",
    "stream_catalog",
    "text_network",
    "write_page",
    "write_shards",
]

# Modules are loaded on first use of a name of theirs, so that `semtok --help` answers at once.
_MODULES = {
    "artifact": ("load_tokenizer", "save_tokenizer"),
    "catalog": ("Catalog", "CatalogError", "find_catalog", "read_catalog", "stream_catalog"),
    "code_shards": ("write_shards",),
    "collisions": ("Collisions", "measure_collisions", "resolve_collisions"),
    "drift": ("Drift",),
    "embedding.cache": ("EmbeddingCache",),
    "embedding.chunks": ("embed_chunks",),
    "embedding.contract": ("EmbeddingSource",),
    "embedding.image": ("ImageEmbedding",),
    "embedding.image_files": ("image_paths", "read_image"),
    "embedding.image_networks": ("ImageNetwork", "image_network"),
    "embedding.kinds": ("check_source", "embedding_source", "is_stored", "load_source"),
    "embedding.lsa": ("LsaEmbedding",),
    "embedding.stored": ("StoredEmbedding", "read_embeddings"),
    "embedding.text": ("TextEmbedding", "text_network"),
    "health": ("CodeHealth", "LevelHealth", "measure_health"),
    "neighbours": ("neighbour_overlap",),
    "page": ("write_page",),
    "plugin_parts": ("save_part",),
    "plugins": ("is_plugin",),
    "quantizers.contract": ("Quantizer",),
    "quantizers.hierarchical": ("HierarchicalKMeans",),
    "quantizers.kinds": ("QUANTIZERS", "QuantizerKind", "load_quantizer", "quantizer_kind"),
    "quantizers.product": ("OptimizedProductQuantizer", "ProductQuantizer"),
    "quantizers.random": ("RandomCodes", "random_codes"),
    "quantizers.residual": ("ResidualQuantizer",),
    "quantizers.rqvae": ("RqVae",),
    "quantizers.rqvae_config": ("RqVaeConfig",),
    "quantizers.views": ("ViewQuantizer",),
    "ray_engine": ("RayOptions", "embed_files", "encode_files"),
    "reduction": ("Pca", "Standardisation", "standardised"),
    "semantic_ids": ("FittedSemanticIds", "SemanticIds"),
    "sequences": ("read_sequences",),
    "tokenizer": ("Encoding", "Tokenizer"),
    "views": ("View",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return metadata.version(__name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
