"""RQ-VAE: residual quantization of an encoder's latent vectors (TIGER, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from semtok.parts import floats, number, read_part, refusing, whole, write_part
from semtok.progress import Progress
from semtok.quantizers.fitted import FittedQuantizer
from semtok.quantizers.residual import ResidualQuantizer
from semtok.quantizers.rqvae_config import RqVaeConfig
from semtok.vectors import (
    check_codes,
    mean_vector,
    measured_distortion,
    stable_product,
    training_sample,
    vector_chunks,
)

_CHUNK = 2048  # rows encoded together: the hidden layers are wide, and in float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Mlp:
    """Linear layers with ReLU between them.

    Attributes:
        weights: The weights of each layer, [out, in].
        biases: The biases of each layer, [out].
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
        """The layers from tensors that `tensors` named."""
        return cls(
            weights=tuple(
                floats(tensors, f"{name}.{layer}.weight", 2) for layer in range(num_layers)
            ),
            biases=tuple(floats(tensors, f"{name}.{layer}.bias", 1) for layer in range(num_layers)),
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RqVae(FittedQuantizer):
    """A residual quantizer between the encoder and the decoder of an autoencoder.

    Fitting needs torch and vector-quantize-pytorch (`semtok[neural]`); all else is numpy.

    Attributes:
        mean: Subtracted from vectors first.
        scale: Divides the difference.
        encoder: Computes latent vectors from these standardised vectors.
        latent: Quantizes latent vectors.
        decoder: Computes standardised vectors from what the codes decode to.
        info: How the quantizer was trained, and which quality it reached.
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
        config: RqVaeConfig = RqVaeConfig(),
        *,
        device: str = "cpu",
        progress: Progress | None = None,
        log: Callable[[dict[str, Any]], None] | None = None,
    ) -> RqVae:
        """Trains an RQ-VAE.

        The health of each epoch goes to the logger `semtok.quantizers.rqvae` at level INFO; a level
        that uses less than half of the codes that it could use is a WARNING.

        Args:
            x: Vectors; may be a memory map.
            config: The configuration of the model and its training.
            device: Where to train, as torch names it.
            progress: Called with the number of epochs done and of all epochs.
            log: Called with the health of each epoch: `epoch`, `reconstruction` (mean squared error
                as a share of the variance), `commitment`, `used` and `perplexity` (a list with one
                value per level).

        Raises:
            ValueError: If `x` is empty or not finite, or training diverges.
            ImportError: If `semtok[neural]` is not installed.
        """
        train = _trainer()
        sample = training_sample(x, max_training_items=config.max_training_items, seed=config.seed)
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
            fitted_vectors=x,
        )

    @property
    def dim(self) -> int:
        """The length of the vectors."""
        return len(self.mean)

    @property
    def num_levels(self) -> int:
        """Codes per item."""
        return self.latent.num_levels

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The number of codes at each level."""
        return self.latent.codebook_sizes

    def encode(self, x: Float[np.ndarray, "items dim"]) -> Int64[np.ndarray, "items levels"]:
        """The nearest codes, level by level, of the latent vectors.

        Raises:
            ValueError: If `x` is not finite or has another dim than the fitted vectors.
        """
        codes = np.empty((len(x), self.num_levels), dtype=np.int64)
        for rows, latent in self._latent_chunks(x):
            codes[rows] = self.latent.encode(latent)
        return codes

    def decode(self, codes: Int64[np.ndarray, "items levels"]) -> Float32[np.ndarray, "items dim"]:
        """The decoder's output for the latent vectors of codes, or of their first few levels.

        Raises:
            ValueError: If a code is outside its codebook.
        """
        check_codes(codes, self.codebook_sizes)
        vectors = self.decoder(self.latent.decode(codes))
        vectors *= np.float32(self.scale)
        vectors += self.mean
        return vectors

    def distortion(self, x: Float[np.ndarray, "items dim"]) -> tuple[float, ...]:
        """Mean squared distance from vectors to the vectors of their first 1, 2, ... codes."""
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
                mean=floats(tensors, "mean", 1),
                scale=number(config, "scale", 0, 1e38),
                encoder=Mlp.from_tensors(
                    tensors, "encoder", whole(config, "encoder_layers", 1, len(tensors))
                ),
                latent=ResidualQuantizer(codebooks=floats(tensors, "codebooks", 3)),
                decoder=Mlp.from_tensors(
                    tensors, "decoder", whole(config, "decoder_layers", 1, len(tensors))
                ),
                info=dict(config["info"]),
            )

    def _latent_chunks(
        self, x: Float[np.ndarray, "items dim"]
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "rows latent"]]]:
        for rows, part in vector_chunks(x, dim=self.dim, size=_CHUNK):
            yield rows, self.encoder((part - self.mean) / np.float32(self.scale))


def _trainer() -> Callable[..., Any]:
    """The training loop; raises one sentence if the extra that it needs is missing."""
    try:
        from semtok.quantizers.rqvae_training import train
    except ModuleNotFoundError as error:
        raise ImportError(
            f"RQ-VAE needs an extra to be fitted (no module {error.name}): "
            "pip install 'semtok[neural]'"
        ) from None
    return train
