"""FMLP-Rec: learned filters in the frequency domain (Zhou et al., WWW 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import check_sizes
from genrec.backbones.whole_window import WholeWindow
from genrec.config_checks import Similarity
from genrec.layers import Dropout, FeedForward, Residual


class FMLPRec(WholeWindow):
    """An all-MLP model: each layer filters the sequence by its frequencies, then feeds forward.

    A filter is a circular convolution over the whole window, in which each place sees all others,
    also later ones. So only the state at the end of a history predicts, and the model is trained on
    pairs, one target per window, as by its authors (`PairBatches`, `last_state`). `forward` returns
    for each item the state of the history that ends with it, which costs one window per item. As in
    the authors' code, the newest item is at the window's end. The places before the first item have
    only their position vectors, which the filters see.

    Differs: any loss of `genrec.losses` replaces the pairwise one. GELU is between the linear
    layers, as in the authors' code; the paper writes ReLU.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        num_layers: Filter layers, each with a feed-forward part.
        history_length: Largest number of items in a history, and the length of the window.
        dropout: Probability for item vectors with their positions and for layer outputs.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        history_length: int = 50,
        dropout: float = 0.2,
        feedforward_dim: int | None = None,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        check_sizes(num_layers=num_layers, history_length=history_length)
        super().__init__(
            num_items,
            dim=dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings = {
            "dim": dim,
            "num_layers": num_layers,
            "history_length": history_length,
            "dropout": dropout,
            "feedforward_dim": feedforward_dim,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.position_vectors = nn.Parameter(torch.empty(history_length, dim))
        nn.init.normal_(self.position_vectors, std=0.02)
        self.input_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            FilterLayer(dim, history_length, feedforward_dim or 4 * dim, dropout=dropout)
            for _ in range(num_layers)
        )

    def shard_units(self) -> list[nn.Module]:
        """Returns the layers that a sharded training gathers one at a time."""
        return list(self.layers)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history, also for an empty history.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        window = len(self.position_vectors)
        if history.shape[1] > window:
            raise ValueError(f"history must have at most {window} columns, got {history.shape[1]}")
        lengths = (history != self.num_items).sum(1, keepdim=True)
        # Column c of the window is column c - (window - length) of the history.
        columns = torch.arange(window, device=history.device) - window + lengths
        shifted = history.gather(1, columns.clamp(0, history.shape[1] - 1))
        vectors, _ = self.look_up(shifted.masked_fill(columns < 0, self.num_items), item_vectors)
        x = self.dropout(self.input_norm(vectors + self.position_vectors))
        for layer in self.layers:
            x = layer(x)
        state: Tensor = x[:, -1]
        return state


class FilterLayer(nn.Module):
    """A learned filter of each feature's frequencies, then feed-forward, each post-LN.

    Args:
        dim: Width of the stream.
        length: Length of the window that is filtered.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for the outputs of the filter and of the feed-forward part.
    """

    def __init__(self, dim: int, length: int, feedforward_dim: int, *, dropout: float) -> None:
        super().__init__()
        # Real and imaginary part of each frequency of the lower half; the upper half mirrors it.
        self.filter = nn.Parameter(torch.empty(length // 2 + 1, dim, 2))
        nn.init.normal_(self.filter, std=0.02)
        self.feedforward = FeedForward(dim, feedforward_dim)
        self.filter_residual = Residual(dim, dropout=dropout, norm="post")
        self.feedforward_residual = Residual(dim, dropout=dropout, norm="post")

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Returns the layer's states."""
        x = self.filter_residual(x, self.filtered)
        out: Tensor = self.feedforward_residual(x, self.feedforward)
        return out

    def filtered(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Returns the circular convolution of each feature with its filter."""
        frequencies = torch.fft.rfft(x.float(), dim=1)  # torch has no transform in half precision
        weighed = frequencies * torch.view_as_complex(self.filter.float())
        filtered: Tensor = torch.fft.irfft(weighed, n=x.shape[1], dim=1)
        return filtered.to(x.dtype)
