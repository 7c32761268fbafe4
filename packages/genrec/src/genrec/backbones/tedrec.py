"""TedRec: ids and texts of a history, joined in the frequency domain (Xu et al., CIKM 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import FeatureTables, ItemTable
from genrec.backbones.sasrec import SASRec
from genrec.backbones.whole_window import WholeWindow
from genrec.config_checks import Similarity


class TedRec(WholeWindow, SASRec):
    """SASRec over a history whose ids and texts are joined in the frequency domain.

    The elementwise product of both spectra is a circular convolution of the ids with the texts. A
    learned filter is applied to the ids. The input of the layers is the sum of both, each weighted
    by its own gate (the paper's text-ID mutual filtering). The text vectors come from
    `ContentExperts` (its MoE modulation). Items are ranked by the vectors of their ids.

    The convolution covers the whole window, so each place sees later places. The model is therefore
    trained on pairs, as by its authors (`WholeWindow`).

    Differs: the experts of `ContentExperts` subtract the same vector at all positions and have no
    dropout. Layers are those of this library's `SASRec`. The learned filter starts as the identity.
    If it starts near zero, the id vectors are very small compared with the position vectors: twelve
    epochs on walks over 60 items then ended at a cross-entropy of 3.97 instead of .72.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        num_layers: Self-attention layers.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history, and the length of the window.
        dropout: As in `SASRec`.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
        item_encoder: The items' ids and texts, as `FeatureTables`; several features are added up.
            By default both tables are learned.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        TypeError: `item_encoder` is no `FeatureTables`.
        ValueError: An option is out of range.
    """

    item_encoder: FeatureTables

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        history_length: int = 50,
        dropout: float = 0.2,
        feedforward_dim: int | None = None,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        if item_encoder is None:
            item_encoder = FeatureTables(ItemTable(num_items, dim), [ItemTable(num_items, dim)])
        if not isinstance(item_encoder, FeatureTables):
            raise TypeError(
                f"item_encoder must be FeatureTables, got {type(item_encoder).__name__}"
            )
        super().__init__(
            num_items,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            history_length=history_length,
            dropout=dropout,
            feedforward_dim=feedforward_dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        del self.settings["positions"], self.settings["norm"]
        # Real and imaginary part of each frequency of the lower half; the upper half mirrors it.
        self.filter = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(history_length // 2 + 1, dim, 1))
        self.id_gate = nn.Linear(dim, 1)
        self.fusion_gate = nn.Linear(dim, 1)

    def look_up(
        self, history: Int[Tensor, "batch length"], item_vectors: Float[Tensor, "items dim"] | None
    ) -> tuple[Float[Tensor, "batch length dim"], Bool[Tensor, "batch length"]]:
        """Returns the joined vector of each place, zero at padding, and True at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        length, window = history.shape[1], len(self.position_vectors)
        if length > window:
            raise ValueError(f"history must have at most {window} columns, got {length}")
        # The convolution depends on the length of the window, so it is the same for all batches.
        history = F.pad(history, (0, window - length), value=self.num_items)
        ids, padding = super().look_up(history, item_vectors)
        texts, _ = super().look_up(history, self.item_encoder.features().sum(dim=1))
        joined = self.joined(ids, texts).masked_fill(padding[..., None], 0.0)
        return joined[:, :length], padding[:, :length]

    def joined(
        self, ids: Float[Tensor, "batch window dim"], texts: Float[Tensor, "batch window dim"]
    ) -> Float[Tensor, "batch window dim"]:
        """Returns the gated sum of the filtered ids and of their convolution with the texts."""
        # torch has no transform in half precision.
        id_spectrum, text_spectrum = (
            torch.fft.rfft(x.float(), dim=1, norm="ortho") for x in (ids, texts)
        )  # [batch, frequencies, dim]
        weights = torch.view_as_complex(self.filter.float())
        filtered, fused = (
            torch.fft.irfft(spectrum, n=ids.shape[1], dim=1, norm="ortho").to(ids.dtype)
            for spectrum in (id_spectrum * weights, id_spectrum * text_spectrum)
        )
        gated: Tensor = 2 * (
            filtered * self.id_gate(filtered).sigmoid() + fused * self.fusion_gate(fused).sigmoid()
        )
        return gated
