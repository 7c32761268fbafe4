from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from semtok import RqVae, RqVaeConfig
from semtok.quantizers.rqvae import Mlp
from semtok.quantizers.rqvae_training import sinkhorn_choice

SMALL: dict[str, Any] = {
    "num_levels": 2,
    "codebook_size": 16,
    "latent_dim": 4,
    "hidden_dims": (32,),
    "batch_size": 64,
}


def clusters(num_items: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, 12))
    x = centres[generator.integers(40, size=num_items)] + 0.1 * generator.normal(
        size=(num_items, 12)
    )
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> tuple[RqVae, list[dict[str, Any]]]:
    log: list[dict[str, Any]] = []
    return RqVae.fit(clusters(600), RqVaeConfig(**SMALL, epochs=40), log=log.append), log


def test_training_learns(fitted: tuple[RqVae, list[dict[str, Any]]]) -> None:
    quantizer, log = fitted
    assert [entry["epoch"] for entry in log] == list(range(1, 41))
    assert log[-1]["reconstruction"] < 0.5 * log[0]["reconstruction"]
    new = clusters(300, seed=1)
    distortion = quantizer.distortion(new)
    assert distortion[1] < distortion[0] < new.var(axis=0).sum()
    assert distortion[1] < 0.5 * new.var(axis=0).sum()
    codes = quantizer.encode(new)
    assert all(len(np.unique(codes[:, level])) > 12 for level in range(2))
    assert all(len(entry["used"]) == len(entry["perplexity"]) == 2 for entry in log)
    assert max(log[-1]["perplexity"]) <= 16 + 1e-3


def test_encode_and_decode_agree_with_plain_python(
    fitted: tuple[RqVae, list[dict[str, Any]]],
) -> None:
    quantizer, _ = fitted

    def layers(mlp: Mlp, row: list[float]) -> list[float]:
        for number, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
            if number:
                row = [max(value, 0.0) for value in row]
            row = [
                sum(a * b for a, b in zip(row, line, strict=True)) + float(shift)
                for line, shift in zip(weight.tolist(), bias, strict=True)
            ]
        return row

    x = clusters(20, seed=2)
    codes = quantizer.encode(x)
    for row, path, decoded in zip(x, codes, quantizer.decode(codes), strict=True):
        left = layers(quantizer.encoder, ((row - quantizer.mean) / quantizer.scale).tolist())
        latent = [0.0] * 4
        for level, codebook in enumerate(quantizer.latent.codebooks.tolist()):
            costs = [sum((a - b) ** 2 for a, b in zip(left, c, strict=True)) for c in codebook]
            best = costs.index(min(costs))
            assert path[level] == best
            left = [a - b for a, b in zip(left, codebook[best], strict=True)]
            latent = [a + b for a, b in zip(latent, codebook[best], strict=True)]
        expected = np.array(layers(quantizer.decoder, latent)) * quantizer.scale + quantizer.mean
        np.testing.assert_allclose(decoded, expected, atol=1e-4)


def test_weights_are_reproducible_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    x = clusters(200)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = RqVae.fit(x, RqVaeConfig(**SMALL, epochs=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    RqVae.fit(x, RqVaeConfig(**SMALL, epochs=3)).save(tmp_path / "b")
    first.save(tmp_path / "a")
    for name in ("config.json", "tensors.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = RqVae.load(tmp_path / "a")
    assert loaded.info == first.info
    assert loaded.info["final"]["epoch"] == 3


def test_each_epoch_says_how_the_codebooks_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "semtok.quantizers.rqvae"):
        RqVae.fit(clusters(200), RqVaeConfig(**SMALL, epochs=2))
    lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2 of 2: reconstruction ")
    assert "codes used " in lines[1]
    assert "perplexity " in lines[1]


def test_a_collapsed_level_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    x = clusters(400)
    with caplog.at_level(logging.WARNING, "semtok.quantizers.rqvae"):
        RqVae.fit(x, RqVaeConfig(**SMALL, epochs=2))
    assert not caplog.records
    same = np.repeat(x[:2], 200, axis=0)  # two vectors cannot use half of 16 codes
    with caplog.at_level(logging.WARNING, "semtok.quantizers.rqvae"):
        RqVae.fit(same, RqVaeConfig(**SMALL, epochs=2))
    assert "level 1 collapsed: it uses 2 of the 16 codes that it could" in caplog.text


def test_sinkhorn_shares_out_the_codes_of_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    centroids = torch.randn(8, 3, generator=generator) + torch.tensor([3.0, 0.0, 0.0])
    distances = -torch.cdist(x, centroids)[None]
    choose = sinkhorn_choice(0.02)
    nearest, _ = choose(distances, training=False)
    even, one_hot = choose(distances, training=True)
    assert torch.equal(nearest, distances.argmax(dim=-1))
    assert torch.bincount(nearest[0], minlength=8).max() > 100
    assert torch.bincount(even[0], minlength=8).max() < 75
    assert torch.equal(one_hot.argmax(dim=-1), even)
    quantizer = RqVae.fit(clusters(300), RqVaeConfig(**SMALL, epochs=3, sinkhorn=0.02))
    assert quantizer.info["sinkhorn"] == 0.02


def test_a_loss_that_is_not_finite_stops_training() -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be lower: the loss became"):
        RqVae.fit(clusters(200), RqVaeConfig(**SMALL, epochs=30, learning_rate=1e18))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "semtok.quantizers.rqvae_training")
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'semtok\[neural\]'"):
        RqVae.fit(clusters(50), RqVaeConfig(**SMALL, epochs=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"codebook_decay": 1.0}, r"codebook_decay must be within \[0, 1\), got 1.0"),
        ({"hidden_dims": (8, 0)}, r"hidden_dims must be at least 1 each, got \(8, 0\)"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"sinkhorn": -1.0}, "sinkhorn must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RqVaeConfig(**options)
