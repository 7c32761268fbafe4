"""The parts of a model for other runtimes, as modules that `torch.export` can trace.

A generator is exported in two parts, because the search in the trie between them depends on the
catalogue and not on the weights: `HistoryEncoder` reads a history once, and `DecoderStep` is called
for each level with the newest token of every beam. A dense model needs only `QueryState`, whose
result is compared with the rows of a table. Batches, beams and lengths may have any size in all of
them. (`PaddedBeamSearch` is the whole search in one module, for torch itself.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone
from genrec.seq2seq import Memory, Seq2Seq
from genrec.similarity import unit


class HistoryEncoder(nn.Module):
    """A generator's encoder, with the decoder's keys and values of its states.

    Args:
        model: The generator, in eval mode.
    """

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(
        self, history: Int[Tensor, "batch length"]
    ) -> tuple[
        Float[Tensor, "batch layers 2 heads positions head_dim"],
        Bool[Tensor, "batch positions"],
        Float[Tensor, "batch dim"],
    ]:
        """Encodes histories.

        Args:
            history: Item rows, oldest first, padded with the number of items on either side.

        Returns:
            Keys and values of each position for each decoder layer; True where positions are
            padding; and the newest position's state.
        """
        states, padding = self.model.states(history)
        memory = Memory(states=states, padding=padding, items=history)
        pairs = [torch.stack(pair, dim=1) for pair in self.model.project_memory(memory)]
        return torch.stack(pairs, dim=1), padding, memory.newest


class DecoderStep(nn.Module):
    """A generator's decoder for one more token of each beam.

    `past` holds the keys and values of a beam's tokens, with one place for each level. A step reads
    the places before its level and fills its own place. A search starts with zeros, and after each
    level it selects the rows of the beams that it keeps.

    Args:
        model: The generator, in eval mode.
    """

    tokens: Tensor

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("tokens", model.tables().tokens, persistent=False)
        self.eval()

    def forward(
        self,
        tokens: Int[Tensor, "batch beams"],
        level: Int[Tensor, ""],
        memory: Float[Tensor, "batch layers 2 heads positions head_dim"],
        padding: Bool[Tensor, "batch positions"],
        newest: Float[Tensor, "batch dim"],
        past: Float[Tensor, "batch beams layers 2 heads levels head_dim"],
    ) -> tuple[
        Float[Tensor, "batch beams dim"],
        Float[Tensor, "batch beams layers 2 heads levels head_dim"],
    ]:
        """Decodes one position of each beam.

        Args:
            tokens: The newest token of each beam: <BOS>, or the token of its node.
            level: The level of the next nodes, from 0.
            memory: From `HistoryEncoder`, like the next two arguments.
            padding: True where the encoder's positions are padding.
            newest: The newest position's state.
            past: The beams' keys and values.

        Returns:
            States whose dot products with the rows of the head are the logits, similarity and
            temperature included; and `past` with this position's keys and values.
        """
        batch, beams = tokens.shape
        x = F.embedding(tokens, self.tokens)  # [batch, beams, dim]
        if self.model.config.direct_path:
            x = x + torch.where(level == 0, newest, torch.zeros_like(newest))[:, None]
        slots = torch.arange(past.shape[5], device=tokens.device)  # [levels]
        is_later = (slots > level).expand(batch * beams, -1)
        entries = []
        for number, layer in enumerate(self.model.decoder_layers):
            attention = layer.attention
            normed = layer.attention_residual.norm(x).reshape(batch * beams, 1, -1)
            pair = torch.stack(attention.project(normed), dim=1)  # [rows, 2, heads, 1, head_dim]
            kept = past[:, :, number].flatten(0, 1)  # [rows, 2, heads, levels, head_dim]
            entry = torch.where((slots == level)[:, None], pair, kept)
            read = attention(normed, keys_values=(entry[:, 0], entry[:, 1]), padding=is_later)
            x = x + read.view(batch, beams, -1)
            entries.append(entry.view(batch, beams, *entry.shape[1:]))
            x = layer.cross_residual(x, self._reading(number, memory, padding))
            x = layer.feedforward_residual(x, layer.feedforward)
        states = self.model.decoder_norm(x)
        return self.model.compared(states), torch.stack(entries, dim=2)

    @staticmethod
    def dynamic_shapes() -> tuple[dict[int, Dim], ...]:
        """Returns the open sizes for `torch.export`: batch, beams, and the history's length."""
        batch, beams = Dim("batch", min=1), Dim("beams", min=1)
        history = {0: batch}
        positions = Dim("positions", min=1)
        return (
            {0: batch, 1: beams},
            {},
            {0: batch, 4: positions},
            {0: batch, 1: positions},
            history,
            {0: batch, 1: beams},
        )

    def _reading(self, number: int, memory: Tensor, padding: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns a layer's attention over the encoded history, as a function of normed states."""
        attention = self.model.decoder_layers[number].cross_attention
        keys, values = memory[:, number, 0], memory[:, number, 1]
        return lambda normed: attention(normed, keys_values=(keys, values), padding=padding)


class QueryState(nn.Module):
    """Computes a dense model's query for a history: its dot product with a row is the score.

    Args:
        model: A model that compares one state with the items' vectors, in eval mode.
        inputs: The item vectors that the model reads, if they differ from the vectors that its
            state is compared with.
    """

    inputs: Tensor

    def __init__(
        self, model: StateBackbone, *, inputs: Float[Tensor, "items dim"] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            read = model.item_vectors() if inputs is None else inputs
        self.register_buffer("inputs", read.detach().clone(), persistent=False)
        self.eval()

    def forward(self, history: Int[Tensor, "batch length"]) -> Float[Tensor, "batch dim"]:
        """Returns the queries.

        Args:
            history: Item rows, oldest first from column 0, padded with the number of items on the
                right; at most as many columns as the model reads.
        """
        state = self.model.last_state(history, self.inputs)
        if self.model.similarity == "cosine":
            state = unit(state)
        return state / self.model.temperature

    def rows(self, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items dim"]:
        """Returns the model's item vectors as the rows that queries are compared with."""
        return unit(vectors) if self.model.similarity == "cosine" else vectors
