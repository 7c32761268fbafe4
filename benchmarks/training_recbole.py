"""RecBole's SASRec as the peer of `training.py`; it runs in its own environment.

Reads one JSON line of settings. Each further line is a number of batches: it trains on so many and
prints seconds, CPU seconds, samples and the loss. Waiting for a line uses no CPU, so the peers can
take turns.

    python -m venv ENV
    ENV/bin/pip install "torch==2.13.0" "numpy<2" "pandas<2.3" "scipy<1.14" "setuptools<81" recbole
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
warnings.simplefilter("ignore")

import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402

# RecBole switches it on for the whole process when it is imported: 1.6 to 1.8 times slower.
torch.autograd.set_detect_anomaly(False)


def write_interactions(folder: Path, histories: list[list[int]]) -> None:
    """Writes RecBole's atomic file."""
    target = folder / "bench"
    target.mkdir()
    with (target / "bench.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, history in enumerate(histories):
            file.writelines(f"u{user}\ti{item}\t{time}\n" for time, item in enumerate(history))


def prepare(settings: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Returns the training batches and the model."""
    write_interactions(folder, settings["histories"])
    config = Config(
        model="SASRec",
        dataset="bench",
        config_dict={
            "data_path": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": settings["history_length"],
            "train_batch_size": settings["batch_size"],
            # All of each history trains: every prefix with its next item, as our pairs.
            "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "n_layers": settings["num_layers"],
            "n_heads": settings["num_heads"],
            "hidden_size": settings["dim"],
            "inner_size": settings["feedforward_dim"],
            "hidden_dropout_prob": settings["dropout"],
            "attn_dropout_prob": settings["dropout"],
            "use_gpu": False,
            "show_progress": False,
            "checkpoint_dir": str(folder),
            "state": "ERROR",
        },
    )
    torch.manual_seed(0)
    train, _, _ = data_preparation(config, create_dataset(config))
    return train, SASRec(config, train.dataset)


def main() -> None:
    """Reads a line, trains and prints a line, until the input ends."""
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever RecBole prints
    settings = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # RecBole writes logs where it stands
        train, model = prepare(settings, Path(name))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        about = {"samples": len(train.dataset), "items": train.dataset.item_num - 1}
        print(json.dumps(about | {"threads": torch.get_num_threads()}), file=answers, flush=True)
        model.train()
        batches: Iterator[Any] = iter(train)
        for line in sys.stdin:
            samples, loss = 0, torch.zeros(())
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                batch = next(batches, None)
                if batch is None:
                    batches = iter(train)
                    batch = next(batches)
                optimizer.zero_grad()
                loss = model.calculate_loss(batch)
                loss.backward()
                optimizer.step()
                samples += len(batch)
            took = {
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": time.process_time() - cpu,
                "samples": samples,
                "loss": loss.item(),
            }
            print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
