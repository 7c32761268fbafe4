"""RQ-VAE: residual quantization of what an encoder makes of vectors (TIGER, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.quantizers.contract import Progress
from semtok.quantizers.residual import ResidualQuantizer
from semtok.quantizers.vectors import (
    check_codes,
    check_options,
    mean_vector,
    measured_distortion,
    stable_product,
    training_sample,
    vector_chunks,
)
from semtok.storage import read_part, refusing, write_part

_CHUNK = 2048  # rows encoded together: the hidden layers are wide, and in float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Mlp:
    """Linear layers with ReLU between them.

    Attributes:
        weights: Of each layer, [out, in].
        biases: Of each layer.
    """

    weights: tuple[Float32[np.ndarray, "_ _"], ...]
    biases: tuple[Float32[np.ndarray, " _"], ...]

    def __post_init__(self) -> None:
        sizes = [weight.shape[1] for weight in self.weights]
        outs = [weight.shape[0] for weight in self.weights]
        if not sizes or [len(bias) for bias in self.biases] != outs or sizes[1:] != outs[:-1]:
            raise ValueError("weights and biases must be those of layers one after another")

    def __call__(self, x: Float[np.ndarray, "items _"]) -> Float32[np.ndarray, "items _"]:
        """The output for each row, whatever the batch."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer > 0:
                x = np.maximum(x, 0)
            x = stable_product(x, weight.T) + bias
        return x.astype(np.float32)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights by names that begin with `name`."""
        named: dict[str, np.ndarray] = {}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named[f"{name}.{layer}.weight"] = weight
            named[f"{name}.{layer}.bias"] = bias
        return named

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], name: str, num_layers: int) -> Mlp:
        """What `tensors` named."""
        return cls(
            weights=tuple(tensors[f"{name}.{layer}.weight"] for layer in range(num_layers)),
            biases=tuple(tensors[f"{name}.{layer}.bias"] for layer in range(num_layers)),
        )


@dataclass(frozen=True, kw_only=True)
class RqVaeConfig:
    """How an RQ-VAE is built and trained.

    Attributes:
        num_levels: Codes an item.
        codebook_size: Codes to choose from at each level.
        latent_dim: Dimensions that are quantized. The fewer, the fewer collisions at the same
            distortion, and the longer the training that reaches it.
        hidden_dims: Widths of the encoder's hidden layers; the decoder's in reverse.
        epochs: Passes over the training vectors.
        batch_size: Vectors a step.
        learning_rate: Of AdamW, at its highest: it falls to 0 along a cosine.
        weight_decay: Of AdamW.
        commitment_weight: How strongly the encoder is drawn towards its codes (TIGER's beta).
        codebook_decay: Codebooks are moving averages that keep this share at each step.
        dead_code_share: A code that has less than this share of the mean use is set to a vector of
            the batch, except in the last tenth of the epochs; 0 revives none.
        sinkhorn: Temperature, as a share of the mean squared distance, at which codes are shared
            out evenly within a batch while training; 0 takes the nearest code.
        max_training_items: How many vectors, drawn at random, are learned from.
        seed: Same seed, same vectors, same machine: same quantizer.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class RqVae:
    """A residual quantizer between the encoder and the decoder of an autoencoder.

    Fitting needs torch and vector-quantize-pytorch (`semtok[neural]`); all else is numpy.

    Attributes:
        mean: What is subtracted from vectors first.
        scale: What they are divided by then.
        encoder: Makes latent vectors of these.
        latent: Quantizes latent vectors.
        decoder: Makes vectors of what the codes stand for.
        info: How it was trained, and what it reached.
    """

    kind: ClassVar[str] = "rqvae"

    mean: Float32[np.ndarray, " dim"]
    scale: float
    encoder: Mlp
    latent: ResidualQuantizer
    decoder: Mlp
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ins, outs = self.encoder.weights[0].shape[1], len(self.decoder.biases[-1])
        if not ins == outs == len(self.mean) or not self.scale > 0:
            raise ValueError("encoder, decoder and mean must have one dim, and scale be above 0")
        ins, outs = len(self.encoder.biases[-1]), self.decoder.weights[0].shape[1]
        if not ins == outs == self.latent.dim:
            raise ValueError("encoder, decoder and codebooks must have one latent dim")

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "items dim"],
        *,
        num_levels: int = RqVaeConfig.num_levels,
        codebook_size: int = RqVaeConfig.codebook_size,
        latent_dim: int = RqVaeConfig.latent_dim,
        hidden_dims: Sequence[int] = RqVaeConfig.hidden_dims,
        epochs: int = RqVaeConfig.epochs,
        batch_size: int = RqVaeConfig.batch_size,
        learning_rate: float = RqVaeConfig.learning_rate,
        weight_decay: float = RqVaeConfig.weight_decay,
        commitment_weight: float = RqVaeConfig.commitment_weight,
        codebook_decay: float = RqVaeConfig.codebook_decay,
        dead_code_share: float = RqVaeConfig.dead_code_share,
        sinkhorn: float = RqVaeConfig.sinkhorn,
        max_training_items: int = RqVaeConfig.max_training_items,
        seed: int = RqVaeConfig.seed,
        device: str = "cpu",
        progress: Progress | None = None,
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> RqVae:
        """Trains an RQ-VAE; the options are those of `RqVaeConfig`.

        Each epoch's health goes to the logger `semtok.quantizers.rqvae` at level INFO; a level
        that uses less than half of the codes that it could is a WARNING.

        Args:
            x: Vectors; may be a memory map.
            num_levels: See `RqVaeConfig`, as for all options up to `seed`.
            codebook_size: As above.
            latent_dim: As above.
            hidden_dims: As above.
            epochs: As above.
            batch_size: As above.
            learning_rate: As above.
            weight_decay: As above.
            commitment_weight: As above.
            codebook_decay: As above.
            dead_code_share: As above.
            sinkhorn: As above.
            max_training_items: As above.
            seed: As above.
            device: Where to train, as torch names it.
            progress: Called with the number of epochs done, and of all.
            log: Called with each epoch's health: `epoch`, `reconstruction` (mean squared error as
                a share of the variance), `commitment`, `used` and `perplexity` (both a level).

        Raises:
            ValueError: If `x` is empty or not finite, an option is out of range, or training
                diverges.
            ImportError: If `semtok[neural]` is not installed.
        """
        config = RqVaeConfig(
            num_levels=num_levels,
            codebook_size=codebook_size,
            latent_dim=latent_dim,
            hidden_dims=tuple(hidden_dims),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            commitment_weight=commitment_weight,
            codebook_decay=codebook_decay,
            dead_code_share=dead_code_share,
            sinkhorn=sinkhorn,
            max_training_items=max_training_items,
            seed=seed,
        )
        train = _trainer()
        sample = training_sample(x, max_training_items=max_training_items, seed=seed)
        mean = mean_vector(sample)
        squares = sum(float(np.square(part - mean).sum()) for _, part in vector_chunks(sample))
        scale = float(np.sqrt(squares / sample.size)) or 1.0
        encoder, codebooks, decoder, info = train(
            sample, mean, scale, config, device=device, progress=progress, log=log
        )
        return cls(
            mean=mean,
            scale=scale,
            encoder=Mlp(weights=encoder[0], biases=encoder[1]),
            latent=ResidualQuantizer(codebooks=codebooks),
            decoder=Mlp(weights=decoder[0], biases=decoder[1]),
            info=info,
        )

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return len(self.mean)

    @property
    def num_levels(self) -> int:
        """Codes an item."""
        return self.latent.num_levels

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes to choose from at each level."""
        return self.latent.codebook_sizes

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The nearest codes, level by level, of the latent vectors.

        Raises:
            ValueError: If `x` is not finite or its dim is not that of the fitted vectors.
        """
        codes = np.empty((len(x), self.num_levels), dtype=np.int64)
        for rows, latent in self._latent_chunks(x):
            codes[rows] = self.latent.encode(latent)
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The decoder's output for what codes, or their first few levels, stand for.

        Raises:
            ValueError: If a code is out of its codebook.
        """
        check_codes(codes, self.codebook_sizes)
        vectors = self.decoder(self.latent.decode(codes))
        vectors *= np.float32(self.scale)
        vectors += self.mean
        return vectors

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance from vectors to what their first 1, 2, ... codes stand for."""
        return measured_distortion(self, x)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and tensors.safetensors into a new folder.

        Raises:
            FileExistsError: If the folder exists already.
        """
        config = {
            "kind": self.kind,
            "scale": self.scale,
            "encoder_layers": len(self.encoder.weights),
            "decoder_layers": len(self.decoder.weights),
            "info": self.info,
        }
        tensors = {"mean": self.mean, "codebooks": self.latent.codebooks}
        tensors |= self.encoder.tensors("encoder") | self.decoder.tensors("decoder")
        write_part(folder, config, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> RqVae:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                mean=tensors["mean"],
                scale=float(config["scale"]),
                encoder=Mlp.from_tensors(tensors, "encoder", int(config["encoder_layers"])),
                latent=ResidualQuantizer(codebooks=tensors["codebooks"]),
                decoder=Mlp.from_tensors(tensors, "decoder", int(config["decoder_layers"])),
                info=dict(config["info"]),
            )

    def _latent_chunks(
        self, x: Float[np.ndarray, "items dim"]
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "rows latent"]]]:
        for rows, part in vector_chunks(x, dim=self.dim, size=_CHUNK):
            yield rows, self.encoder((part - self.mean) / np.float32(self.scale))


def _trainer() -> Callable[..., Any]:
    """The training loop, or one sentence about what it needs."""
    try:
        from semtok.quantizers.rqvae_training import train
    except ModuleNotFoundError as error:
        raise ImportError(
            f"RQ-VAE needs an extra to be fitted (no module {error.name}): "
            "pip install 'semtok[neural]'"
        ) from None
    return train
