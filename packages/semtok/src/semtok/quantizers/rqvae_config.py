"""The configuration of an RQ-VAE and its training."""

from __future__ import annotations

from dataclasses import dataclass

from semtok.vectors import check_options


@dataclass(frozen=True, kw_only=True)
class RqVaeConfig:
    """The configuration of an RQ-VAE and its training.

    Attributes:
        num_levels: Codes per item.
        codebook_size: The number of codes at each level.
        latent_dim: Dimensions that are quantized. Fewer dimensions mean fewer collisions at the
            same distortion, and a longer training to reach it.
        hidden_dims: Widths of the encoder's hidden layers; the decoder has them in reverse order.
        epochs: Passes over the training vectors.
        batch_size: Vectors per step.
        learning_rate: Peak learning rate of AdamW; it falls to 0 along a cosine.
        weight_decay: Weight decay of AdamW.
        commitment_weight: Weight of the loss that draws the encoder to its codes (TIGER's beta).
        codebook_decay: Codebooks are moving averages that keep this share at each step.
        dead_code_share: A code that has less than this share of the mean use is set to a vector of
            the batch, except in the last tenth of the epochs; 0 revives none.
        sinkhorn: Temperature, as a share of the mean squared distance, at which training spreads
            codes evenly within a batch; 0 takes the nearest code.
        max_training_items: How many vectors, drawn at random, are used for fitting.
        seed: The same seed and vectors on the same machine give the same quantizer.
    """

    num_levels: int = 3
    codebook_size: int = 256
    latent_dim: int = 8
    hidden_dims: tuple[int, ...] = (512, 256)
    epochs: int = 60
    batch_size: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    commitment_weight: float = 0.25
    codebook_decay: float = 0.95
    dead_code_share: float = 0.5
    sinkhorn: float = 0.0
    max_training_items: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(
            ("num_levels", self.num_levels, 1),
            ("codebook_size", self.codebook_size, 2),
            ("latent_dim", self.latent_dim, 1),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
            ("weight_decay", self.weight_decay, 0),
            ("commitment_weight", self.commitment_weight, 0),
            ("dead_code_share", self.dead_code_share, 0),
            ("sinkhorn", self.sinkhorn, 0),
            ("max_training_items", self.max_training_items, 1),
            ("seed", self.seed, 0),
        )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must be within [0, 1), got {self.codebook_decay}")
        if any(width < 1 for width in self.hidden_dims):
            raise ValueError(f"hidden_dims must be at least 1 each, got {self.hidden_dims}")
