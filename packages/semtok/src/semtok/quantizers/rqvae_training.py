"""The training of an RQ-VAE (needs `semtok[neural]`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional
from vector_quantize_pytorch import ResidualVQ

from semtok.progress import Progress, report
from semtok.quantizers.kmeans import SAMPLE_PER_CODE, kmeans
from semtok.quantizers.nearest import nearest
from semtok.quantizers.rqvae_config import RqVaeConfig

_LOGGER = logging.getLogger("semtok.quantizers.rqvae")
_BATCH = 4096  # vectors per batch of the encoder outside of training
_SINKHORN_ROUNDS = 20

Layers = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
"""The weights and the biases of an MLP."""


def train(
    x: Float32[np.ndarray, "items dim"],
    mean: Float32[np.ndarray, " dim"],
    scale: float,
    config: RqVaeConfig,
    *,
    device: str,
    progress: Progress | None,
    log: Callable[[dict[str, Any]], None] | None,
) -> tuple[Layers, Float32[np.ndarray, "levels codes latent"], Layers, dict[str, Any]]:
    """Trains encoder, codebooks and decoder on the standardised vectors.

    Returns:
        The encoder, the codebooks, the decoder, and a record of the training.

    Raises:
        ValueError: If the loss does not stay finite.
    """
    with _seeded(config.seed, device):
        sizes = [x.shape[1], *config.hidden_dims, config.latent_dim]
        encoder, decoder = _mlp(sizes).to(device), _mlp(sizes[::-1]).to(device)
        batches = _Batches(x, mean, scale, config, device)
        codebooks = _residual_vq(config, min(config.batch_size, len(x))).to(device)
        _start_codebooks(codebooks, encoder, batches, config)
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *decoder.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
        health: dict[str, Any] = {}
        for epoch in range(1, config.epochs + 1):
            if epoch > config.epochs * 0.9:
                for level in codebooks.layers:
                    level._codebook.has_dead_code_replacement = False
            health = _epoch(encoder, codebooks, decoder, batches, optimizer, epoch)
            schedule.step()
            _tell(health, config.epochs)
            if log is not None:
                log(health)
            report(progress, epoch, config.epochs)
        trained = torch.stack([level._codebook.embed[0] for level in codebooks.layers])
        table = trained.detach().cpu().numpy().astype(np.float32)
        used = _used_codes(encoder, table, batches)
    _warn_of_collapse(used, min(config.codebook_size, len(x)))
    info = {**asdict(config), "hidden_dims": list(config.hidden_dims)}
    info["final"] = {**health, "used": used}
    return _layers(encoder), table, _layers(decoder), info


class _Batches:
    """Standardised vectors on the device."""

    def __init__(
        self,
        x: Float32[np.ndarray, "items dim"],
        mean: Float32[np.ndarray, " dim"],
        scale: float,
        config: RqVaeConfig,
        device: str,
    ) -> None:
        self._x, self._mean, self._scale, self._device = x, mean, np.float32(scale), device
        self._size = min(config.batch_size, len(x))
        self._generator = np.random.default_rng(config.seed)

    def epoch(self) -> Iterator[Float[Tensor, "batch dim"]]:
        """All vectors except a last few, in a new order, in batches of equal size."""
        order = self._generator.permutation(len(self._x))
        for start in range(0, len(order) - self._size + 1, self._size):
            yield self._take(order[start : start + self._size])

    def sample(self, most: int) -> Iterator[Float[Tensor, "rows dim"]]:
        """At most `most` vectors, in large batches."""
        rows = np.arange(len(self._x))
        if len(rows) > most:
            rows = np.sort(self._generator.choice(rows, most, replace=False))
        for start in range(0, len(rows), _BATCH):
            yield self._take(rows[start : start + _BATCH])

    def __len__(self) -> int:
        return len(self._x)

    def _take(self, rows: Int64[np.ndarray, " rows"]) -> Float[Tensor, "rows dim"]:
        return torch.from_numpy((self._x[rows] - self._mean) / self._scale).to(self._device)


def _epoch(
    encoder: nn.Module,
    codebooks: Any,
    decoder: nn.Module,
    batches: _Batches,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> dict[str, Any]:
    """One pass over the vectors; returns its health."""
    losses = []
    counts = torch.zeros(codebooks.num_quantizers, codebooks.codebook_size, dtype=torch.int64)
    codebooks.train()
    for batch in batches.epoch():
        quantized, codes, commitment = codebooks(encoder(batch))
        reconstruction = functional.mse_loss(decoder(quantized), batch)
        loss = reconstruction + commitment.sum()
        if not torch.isfinite(loss):
            raise ValueError(
                f"learning_rate must be lower: the loss became {loss.item()} in epoch {epoch}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(torch.stack([reconstruction.detach(), commitment.detach().sum()]))
        counts += functional.one_hot(codes, codebooks.codebook_size).sum(dim=0).cpu()
    shares = counts / counts.sum(dim=1, keepdim=True)
    entropy = -(shares * torch.log2(shares.clamp(min=1e-12))).sum(dim=1)
    mean_losses = torch.stack(losses).mean(dim=0).tolist()
    return {
        "epoch": epoch,
        "reconstruction": mean_losses[0],
        "commitment": mean_losses[1],
        "used": (counts > 0).sum(dim=1).tolist(),
        "perplexity": (2**entropy).tolist(),
    }


def _residual_vq(config: RqVaeConfig, batch_size: int) -> Any:
    """The codebooks, as moving averages, with revival of codes and Sinkhorn as configured."""
    codebooks = ResidualVQ(
        dim=config.latent_dim,
        num_quantizers=config.num_levels,
        codebook_size=config.codebook_size,
        decay=config.codebook_decay,
        commitment_weight=config.commitment_weight,
        threshold_ema_dead_code=config.dead_code_share * batch_size / config.codebook_size,
        rotation_trick=False,
    )
    if config.sinkhorn > 0:
        for level in codebooks.layers:
            level._codebook.gumbel_sample = sinkhorn_choice(config.sinkhorn)
    return codebooks


def _start_codebooks(
    codebooks: Any, encoder: nn.Module, batches: _Batches, config: RqVaeConfig
) -> None:
    """Sets each level's codebook by a k-means of the untrained encoder's output."""
    with torch.no_grad():
        parts = [encoder(part).cpu() for part in batches.sample(SAMPLE_PER_CODE * 256)]
    residual = torch.cat(parts).numpy()
    share = min(config.batch_size, len(batches)) / len(residual)
    for number, level in enumerate(codebooks.layers):
        centroids = kmeans(residual, config.codebook_size, seed=(config.seed, number))
        labels = nearest(residual, centroids)
        residual = residual - centroids[labels]
        counts = np.bincount(labels, minlength=len(centroids))
        sizes = counts.astype(np.float32) * np.float32(share)
        codebook = level._codebook
        codebook.embed.copy_(torch.from_numpy(centroids)[None])
        codebook.cluster_size.copy_(torch.from_numpy(sizes)[None])
        codebook.embed_avg.copy_(torch.from_numpy(centroids * sizes[:, None])[None])


def sinkhorn_choice(temperature: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """Chooses codes evenly within a batch during training, and the nearest code otherwise."""

    def choose(
        distances: Tensor, *, training: bool = True, **_: Any
    ) -> tuple[Int64[Tensor, "heads batch"], Float[Tensor, "heads batch codes"]]:
        scores = distances  # negative, as vector-quantize-pytorch has them
        if training:
            squares = distances.square()
            scores = -squares / (temperature * squares.mean()).clamp(min=1e-30)
            for _round in range(_SINKHORN_ROUNDS):
                scores = scores - scores.logsumexp(dim=1, keepdim=True)
                scores = scores - scores.logsumexp(dim=2, keepdim=True)
        codes = scores.argmax(dim=-1)
        return codes, functional.one_hot(codes, distances.shape[-1]).to(distances.dtype)

    return choose


def _used_codes(
    encoder: nn.Module, codebooks: Float32[np.ndarray, "levels codes latent"], batches: _Batches
) -> list[int]:
    """How many codes of each level are used by some of the vectors."""
    used = np.zeros(codebooks.shape[:2], dtype=bool)
    for part in batches.sample(SAMPLE_PER_CODE * codebooks.shape[1]):
        with torch.no_grad():
            residual = encoder(part).cpu().numpy()
        for level, codebook in enumerate(codebooks):
            codes = nearest(residual, codebook)
            residual = residual - codebook[codes]
            used[level, codes] = True
    return [int(count) for count in used.sum(axis=1)]


def _warn_of_collapse(used: list[int], possible: int) -> None:
    for level, count in enumerate(used, start=1):
        if possible > 1 and count < possible / 2:
            _LOGGER.warning(
                "level %d collapsed: it uses %d of the %d codes that it could use; a smaller "
                "learning_rate, a larger dead_code_share or sinkhorn above 0 may help",
                level,
                count,
                possible,
            )


def _tell(health: dict[str, Any], epochs: int) -> None:
    _LOGGER.info(
        "epoch %d of %d: reconstruction %.4f, commitment %.4f, codes used %s, perplexity %s",
        health["epoch"],
        epochs,
        health["reconstruction"],
        health["commitment"],
        " ".join(map(str, health["used"])),
        " ".join(f"{value:.0f}" for value in health["perplexity"]),
    )


def _mlp(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers(mlp: nn.Sequential) -> Layers:
    linear = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    return (
        tuple(layer.weight.detach().cpu().numpy() for layer in linear),
        tuple(layer.bias.detach().cpu().numpy() for layer in linear),
    )


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seeds torch within the block, as vector-quantize-pytorch draws from its global generator."""
    devices = [] if torch.device(device).type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
