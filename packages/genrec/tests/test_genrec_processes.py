"""A training on several processes, which `torchrun` starts, beside the same one on one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genrec.backbones import SASRec
from genrec.losses import sampled_cross_entropy
from genrec.sampling import sample_negatives
from genrec.sequences import Batch, PairBatches
from genrec.training import TrainingConfig, TrainingEvent, TrainingResult, fit
from safetensors.torch import load_file
from torch import Tensor

NUM_ITEMS = 20
BATCHES = 13  # an epoch: no multiple of 2 or 3
EPOCHS = 3

pytestmark = pytest.mark.slow


def loss(module: SASRec, batch: Batch) -> dict[str, Tensor]:
    vectors = module.item_vectors()
    states = module.last_state(batch.history, vectors)
    negatives = sample_negatives(NUM_ITEMS, 7)
    return {"next": sampled_cross_entropy(states, vectors, batch.targets, negatives)}


def train(folder: Path, accumulate: int, stop_at: int = 0) -> TrainingResult:
    """Trains, with dropout and drawn negatives; sends itself a signal after step `stop_at`."""
    torch.manual_seed(0)
    module = SASRec(NUM_ITEMS, dim=8, num_layers=1, history_length=6, dropout=0.3)
    walks = [(np.arange(6) + start) % NUM_ITEMS for start in range(25)]  # 125 pairs
    source = PairBatches(walks, num_items=NUM_ITEMS, batch_size=10)
    assert len(source) == BATCHES

    def callback(event: TrainingEvent) -> None:
        if event.kind == "step" and event.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    config = TrainingConfig(epochs=EPOCHS, accumulate=accumulate, learning_rate=0.02)
    return fit(module, source, loss, config, folder=folder, callback=callback)


def train_on_two(folder: Path, accumulate: int, stop_at: int = 0) -> None:
    """The same on two processes."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", __file__, str(folder), str(accumulate), str(stop_at)),
        ],
        timeout=600,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert (done.returncode == 0) == (stop_at == 0), done.stderr


def outcome(folder: Path) -> tuple[list[dict], Tensor]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    log = [
        {key: record[key] for key in ("epoch", "step", "gradient_norm")} | record["losses"]
        for record in map(json.loads, lines)
    ]
    return log, load_file(folder / "final.safetensors")["module.item_encoder.ids"]


def assert_same(folder: Path, expected: Path) -> None:
    (log, weights), (expected_log, expected_weights) = outcome(folder), outcome(expected)
    assert len(log) == EPOCHS
    for record, expected_record in zip(log, expected_log, strict=True):
        assert record == pytest.approx(expected_record, rel=1e-5)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-6)


def test_two_processes_equal_one_that_accumulates_two_batches(tmp_path):
    train_on_two(tmp_path / "two", accumulate=1)
    result = train(tmp_path / "one", accumulate=2)
    assert result.steps == EPOCHS * 7  # the last one of an epoch has one batch
    assert_same(tmp_path / "two", tmp_path / "one")


def test_one_process_goes_on_with_the_training_of_two_at_the_same_example(tmp_path):
    # Processes ask one another every 20 steps; step 21 ends the third epoch.
    train_on_two(tmp_path / "parted", accumulate=1, stop_at=17)
    checkpoint = json.loads((tmp_path / "parted" / "checkpoint.json").read_text())
    assert (checkpoint["state"]["step"], checkpoint["state"]["epochs"]) == (20, 2)
    result = train(tmp_path / "parted", accumulate=1)
    assert result.steps == EPOCHS * 7
    train(tmp_path / "whole", accumulate=2)
    assert_same(tmp_path / "parted", tmp_path / "whole")


def test_two_processes_go_on_with_the_training_of_one_at_the_same_example(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parted", accumulate=3, stop_at=4)
    train_on_two(tmp_path / "parted", accumulate=3)
    train(tmp_path / "whole", accumulate=3)
    assert_same(tmp_path / "parted", tmp_path / "whole")


if __name__ == "__main__":  # what the tests start
    train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
