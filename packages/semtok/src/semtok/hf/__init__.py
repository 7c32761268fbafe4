"""Semantic IDs in Hugging Face models: tokens, embeddings, prompts, batches and the hub.

Needs `semtok[hf]`. Which codes are items (the trie, constrained decoding) is a matter of genrec,
which takes `ItemTokens.token_ids` and `SemanticIds.codes` as arrays.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semtok.hf.collator import ItemCollator
    from semtok.hf.embeddings import code_vectors, start_embeddings
    from semtok.hf.hub import HubTokenizer
    from semtok.hf.templates import HistoryTemplate
    from semtok.hf.tokens import ItemTokens, item_token_names

__all__ = [
    "HistoryTemplate",
    "HubTokenizer",
    "ItemCollator",
    "ItemTokens",
    "code_vectors",
    "item_token_names",
    "start_embeddings",
]

# Only the hub's module needs the extra when it is imported; the others need it when they are used.
_MODULES = {
    "collator": ("ItemCollator",),
    "embeddings": ("code_vectors", "start_embeddings"),
    "hub": ("HubTokenizer",),
    "templates": ("HistoryTemplate",),
    "tokens": ("ItemTokens", "item_token_names"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
