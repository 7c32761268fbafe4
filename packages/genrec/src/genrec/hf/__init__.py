"""Generation with Hugging Face's models, and recommenders on its hub (needs `genrec[hf]`).

`TrieLogitsProcessor` restricts `generate` of any language model to the items of a `Trie`.
`HubRecommender` adds `save_pretrained`, `from_pretrained` and `push_to_hub` to recommenders.
"""

from __future__ import annotations

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"genrec.hf needs an extra (no module {error.name}): pip install 'genrec[hf]'"
    ) from error

from genrec.hf.generation import TrieLogitsProcessor
from genrec.hf.hub import HubRecommender, model_card
from genrec.hf.tokens import CodeTokens

__all__ = ["CodeTokens", "HubRecommender", "TrieLogitsProcessor", "model_card"]
