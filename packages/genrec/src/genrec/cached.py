"""The decoder for one position at a time, for all beams of a batch together.

The layers are those of training, prepared for decoding: weights with the same input are joined; a
matrix product adds a layer's output in place; the encoder's keys and values are projected once per
batch and shared by all beams of a user; and each position's keys and values, of all layers, are
written into one tensor that is allocated before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.layers import DecoderLayer, KeysValues, MultiHeadAttention


class Attending(NamedTuple):
    """The weights of one attention, transposed; the queries' weights include the scale."""

    query: Float[Tensor, "dim dim"]
    query_bias: Float[Tensor, " dim"]
    key_value: Float[Tensor, "dim two_dim"]
    key_value_bias: Float[Tensor, " two_dim"]
    output: Float[Tensor, "dim dim"]
    output_bias: Float[Tensor, " dim"]


class CachedLayer(NamedTuple):
    """One decoder layer for decoding."""

    layer: DecoderLayer
    self_attention: Attending
    cross_attention: Attending


def cached_layers(layers: Sequence[DecoderLayer]) -> list[CachedLayer]:
    """Prepares the weights of layers for decoding; the result is valid until they change."""
    return [
        CachedLayer(layer, _attending(layer.attention), _attending(layer.cross_attention))
        for layer in layers
    ]


class CachedDecoder:
    """A decoder for one batch of encoded histories.

    Args:
        layers: The decoder's layers, from `cached_layers`.
        norm: The norm after the last layer.
        memories: The encoder's keys and values for each layer.
        padding: True where the encoder's positions are padding; None if there is no padding.
    """

    def __init__(
        self,
        layers: Sequence[CachedLayer],
        norm: nn.LayerNorm,
        memories: Sequence[KeysValues],
        padding: Bool[Tensor, "users positions"] | None,
    ) -> None:
        self.layers = layers
        self.norm = norm
        self.memories = memories
        self.mask: Tensor | None = None
        if padding is not None:
            # A softmax over no keys is NaN: so users without any history attend to their padding,
            # whose values are set to zero.
            blind = padding.all(dim=1)[:, None]  # [users, 1]
            hidden = padding & ~blind  # [users, positions]
            mask = torch.zeros_like(hidden, dtype=memories[0][0].dtype)
            self.mask = mask.masked_fill(hidden, -torch.inf)[:, None, None, :]
            self.memories = [
                (keys, values.masked_fill(blind[:, :, None, None], 0.0))
                for keys, values in memories
            ]

    def step(
        self, x: Float[Tensor, "users beams dim"], past: Sequence[Float[Tensor, "layers users _ d"]]
    ) -> tuple[Float[Tensor, "users beams dim"], Float[Tensor, "layers users beams d"]]:
        """Decodes one position of each beam.

        Args:
            x: The position's input vectors; they are overwritten.
            past: Keys and values of each earlier position, as returned by this method, one entry
                per beam; or a single entry that all beams of a user share.

        Returns:
            The states after the last norm, and the position's keys and values.
        """
        users, beams, dim = x.shape
        new = x.new_empty(len(self.layers), users, beams, 2 * dim)
        x = x.view(users * beams, dim)
        inner = x.new_empty(x.shape[0], _linear(self.layers[0].layer.feedforward[0]).out_features)
        for number, (layer, self_attention, cross_attention) in enumerate(self.layers):
            heads = layer.attention.num_heads
            shape = (users, beams, heads, dim // heads)
            # Each beam attends to its own past: the entries of earlier positions and this one's.
            normed = layer.attention_residual.norm(x)  # [users * beams, dim]
            query = torch.addmm(self_attention.query_bias, normed, self_attention.query)
            entry = new[number]  # [users, beams, 2 * dim], written in place below
            torch.addmm(
                self_attention.key_value_bias,
                normed,
                self_attention.key_value,
                out=entry.view(-1, 2 * dim),
            )
            entries = [*(position[number] for position in past), entry]
            _add(x, _over_beam_past(query.view(shape), entries), self_attention)
            # The beams of a user are queries over the same keys: the user's encoded history.
            normed = layer.cross_residual.norm(x)
            query = torch.addmm(cross_attention.query_bias, normed, cross_attention.query)
            read = F.scaled_dot_product_attention(
                query.view(shape).transpose(1, 2), *self.memories[number], self.mask, scale=1.0
            )  # [users, heads, beams, head_dim]
            _add(x, read.transpose(1, 2), cross_attention)
            normed = layer.feedforward_residual.norm(x)
            first, second = _linear(layer.feedforward[0]), _linear(layer.feedforward[-1])
            torch.addmm(first.bias, normed, first.weight.T, out=inner)  # [users * beams, inner]
            torch.ops.aten.gelu_(inner)
            x.add_(second.bias).addmm_(inner, second.weight.T)
        return self.norm(x).view(users, beams, dim), new


def beam_rows(
    entry: Float[Tensor, "layers users _ d"], beams: Int[Tensor, "users beams"]
) -> Float[Tensor, "layers users _ d"]:
    """Returns the keys and values of these beams; shared ones stay shared."""
    layers, users, width, dim = entry.shape
    if width == 1:
        return entry
    # With users and beams as one axis, index_select copies whole rows; a gather would need an index
    # as large as the result.
    first = torch.arange(0, users * width, width, device=beams.device)[:, None]
    rows = entry.view(layers, users * width, dim).index_select(1, (beams + first).flatten())
    return rows.view(layers, users, -1, dim)


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _attending(attention: MultiHeadAttention) -> Attending:
    query, key_value, output = attention.query, attention.key_value, attention.output
    # The query's weights include the scale of the dot products: one product instead of one a step.
    scale = (query.out_features // attention.num_heads) ** -0.5
    return Attending(
        (query.weight * scale).T.contiguous(),
        query.bias * scale,
        key_value.weight.detach().T,
        key_value.bias.detach(),
        output.weight.detach().T,
        output.bias.detach(),
    )


def _add(x: Tensor, read: Tensor, weights: Attending) -> None:
    """Adds the output projection of an attention to the stream, in place."""
    x.add_(weights.output_bias).addmm_(read.reshape(x.shape), weights.output)


def _over_beam_past(
    query: Float[Tensor, "users beams heads head_dim"], entries: Sequence[Tensor]
) -> Float[Tensor, "users beams heads head_dim"]:
    """Attends from each beam's newest position to all of its positions."""
    shape = (2, *query.shape[2:])  # keys, then values, of all heads
    pairs = [entry.view(*entry.shape[:2], *shape) for entry in entries]  # [users, beams, 2, ...]
    if len(pairs) == 1:  # a softmax over a single position is 1
        return pairs[0][:, :, 1]
    # There are only as many positions as levels. Products position by position need no copy of the
    # entries into one tensor, and a shared entry broadcasts over the beams.
    weights = torch.stack([(query * pair[:, :, 0]).sum(dim=-1) for pair in pairs]).softmax(dim=0)
    out: Tensor = weights[-1, ..., None] * pairs[-1][:, :, 1]  # [users, beams, heads, head_dim]
    for weight, pair in zip(weights[:-1], pairs[:-1], strict=True):
        out.addcmul_(weight[..., None], pair[:, :, 1])
    return out
