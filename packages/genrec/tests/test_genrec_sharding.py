"""A training with strategy "fsdp", beside the same one of a process that has all weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genrec.backbones import SASRec
from genrec.checkpoint import load_checkpoint, save_checkpoint
from genrec.errors import ArtifactError
from genrec.losses import sampled_cross_entropy
from genrec.process import fabric_on
from genrec.sampling import sample_negatives
from genrec.sequences import Batch, PairBatches
from genrec.sharded_files import Shards
from genrec.training import Strategy, TrainingConfig, TrainingEvent, TrainingResult, fit
from safetensors.torch import load_file
from torch import Tensor, nn

NUM_ITEMS = 21  # no multiple of the number of processes
EPOCHS = 3


class Walker(SASRec):
    """A SASRec with a number that has no axis, a table of one row, and a frozen part."""

    def __init__(self) -> None:
        super().__init__(NUM_ITEMS, dim=8, num_layers=3, history_length=6, dropout=0.3)
        self.scale = nn.Parameter(torch.zeros(()))
        self.shift = nn.Parameter(torch.zeros(1, 8))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.register_buffer("places", torch.arange(5))


def loss(module: Walker, batch: Batch) -> dict[str, Tensor]:
    vectors = module.item_vectors()
    states = module.last_state(batch.history, vectors) * (1 + module.scale) + module.shift
    states = states + module(batch.history, vectors)[:, 0] * module.frozen  # its layers pass twice
    negatives = sample_negatives(NUM_ITEMS, 7)
    return {"next": sampled_cross_entropy(states, vectors, batch.targets, negatives)}


def figures(module: Walker) -> dict[str, float]:
    """Looks at the module as any validation may: no part of it may be sharded."""
    assert type(module) is Walker
    assert not any("fsdp" in name for part in module.modules() for name in vars(part))
    assert {type(p) for p in module.parameters()} == {nn.Parameter}
    assert module.item_encoder.ids.shape == (NUM_ITEMS, 8)
    with torch.inference_mode():
        scores = module.score(torch.tensor([[1, 2, 3, NUM_ITEMS, NUM_ITEMS, NUM_ITEMS]]))
    return {"score": float(scores[0, 4])}


def train(folder: Path, accumulate: int, stop_at: int, strategy: Strategy) -> TrainingResult:
    """Trains, with dropout and drawn negatives; sends itself a signal after step `stop_at`."""
    torch.manual_seed(0)
    module = Walker()
    weights = dict(module.named_parameters())
    walks = [(np.arange(6) + start) % NUM_ITEMS for start in range(25)]  # 125 pairs
    source = PairBatches(walks, num_items=NUM_ITEMS, batch_size=10)
    assert len(source) == 13

    def callback(event: TrainingEvent) -> None:
        if event.kind == "step" and event.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    config = TrainingConfig(
        epochs=EPOCHS,
        accumulate=accumulate,
        learning_rate=0.02,
        gradient_clip=0.3,
        ema_decay=0.8,
        monitor="score",
    )
    options = {"validate": figures, "folder": folder, "callback": callback, "strategy": strategy}
    result = None
    try:
        result = fit(module, source, loss, config, **options)
    finally:  # also where it was stopped, the module is whole, and its weights are the caller's
        figures(module)
        assert all(weights[name] is p for name, p in module.named_parameters())
    if os.environ.get("RANK", "0") != "0":  # the first process alone writes the file
        return result
    last = load_file(folder / "final.safetensors")
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(weight, last[f"module.{name}"], rtol=0, atol=0)
    assert last.keys() == {f"module.{name}" for name in module.state_dict()}
    return result


def on_processes(count: int, *arguments: object, fails: bool = False) -> str:
    """Runs this file on some processes; returns what they said."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(count), __file__, *map(str, arguments)),
        ],
        timeout=900,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


def assert_same(folder: Path, expected: Path) -> None:
    logs = [(place / "log.jsonl").read_text().splitlines() for place in (folder, expected)]
    assert len(logs[0]) == EPOCHS
    for line, expected_line in zip(*logs, strict=True):
        record, expected_record = json.loads(line), json.loads(expected_line)
        for part in ("losses", "metrics"):
            assert record[part] == pytest.approx(expected_record[part], rel=1e-4)
        for part in ("epoch", "step", "gradient_norm"):
            assert record[part] == pytest.approx(expected_record[part], rel=1e-4)
    weights, expected_weights = (load_file(p / "final.safetensors") for p in (folder, expected))
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        # A key's bias moves no softmax: its gradient is rounding alone, which Adam makes steps of.
        atol = 2e-3 if name.endswith("key_value.bias") else 1e-5
        torch.testing.assert_close(weight, expected_weights[name], rtol=1e-3, atol=atol)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training that was neither sharded nor stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, 2, 0, "ddp")
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded training of two processes that was stopped in its third epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    on_processes(2, "train", folder, 1, 17, "fsdp", fails=True)
    state = json.loads((folder / "checkpoint.json").read_text())
    assert (state["state"]["step"], state["state"]["epochs"]) == (20, 2)
    shards = [name for name in state["files"] if name.startswith("last-20.0/")]
    assert len(shards) == 2
    assert any(name.startswith("best-") for name in state["files"])
    for path in (folder / name for name in state["files"]):
        assert path.exists()
    return folder


@pytest.mark.slow
def test_two_sharded_processes_equal_one_that_accumulates_two_batches(tmp_path, whole):
    on_processes(2, "train", tmp_path, 1, 0, "fsdp")
    assert_same(tmp_path, whole)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint.json", "final.safetensors", "log.jsonl"} <= names
    assert not [name for name in names if name.startswith(("last", "best", ".shards", ".part"))]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_goes_on_with_a_sharded_training(
    tmp_path, whole, stopped, processes
):
    folder = shutil.copytree(stopped, tmp_path / "run")
    on_processes(processes, "train", folder, 1, 0, "fsdp")
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_process_with_all_weights_goes_on_with_a_sharded_training(tmp_path, whole, stopped):
    folder = shutil.copytree(stopped, tmp_path / "run")
    train(folder, 1, 0, "ddp")
    assert_same(folder, whole)


@pytest.mark.slow
def test_sharded_processes_go_on_with_the_training_of_one_with_all_weights(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 2, 9, "ddp")
    on_processes(2, "train", tmp_path, 2, 0, "fsdp")
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_what_cannot_be_sharded_is_said_in_one_sentence():
    said = on_processes(1, "refuse")
    assert "ValueError: module must be one that can be sharded: " in said
    assert "ValueError: module must use the weights of each of its shard_units through" in said
    assert "mixed: whole again" in said


def refuse() -> None:
    """Says how two modules are refused."""
    source = PairBatches([np.arange(6)], num_items=NUM_ITEMS, batch_size=2)
    mixed = Walker()
    mixed.last_layer.to(torch.float64)

    class Wrong(Walker):
        def shard_units(self) -> list[nn.Module]:
            return [self.last_layer]  # whose weights `last_state` uses by `at`

    for name, module in (("mixed", mixed), ("wrong", Wrong())):
        kind = type(module)
        with pytest.raises(ValueError) as caught:
            fit(module, source, loss, TrainingConfig(epochs=1), strategy="fsdp")
        print(f"ValueError: {caught.value}", file=sys.stderr)
        if type(module) is kind and {type(p) for p in module.parameters()} == {nn.Parameter}:
            print(f"{name}: whole again", file=sys.stderr)


def test_without_processes_of_torchrun_fsdp_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    source = PairBatches([np.arange(6)], num_items=NUM_ITEMS, batch_size=2)
    with pytest.raises(ValueError, match="where there is no process group, got 'fsdp'"):
        fit(Walker(), source, loss, TrainingConfig(epochs=1), strategy="fsdp")
    with pytest.raises(ValueError, match="strategy must be 'ddp' or 'fsdp', got 'zero'"):
        fabric_on(torch.device("cpu"), "32", "zero")


def write_shards(folder: Path, value: float, name: str = "last-4") -> Shards:
    shards = Shards(folder / ".shards" / name)
    shards.write({"module.weight": torch.full((5, 2), value), "module.scale": torch.tensor(value)})
    return shards


def save(folder: Path, contents: dict, kept: dict[str, str]) -> dict[str, str]:
    about = {"config": {}, "steps_per_epoch": 1, "state": {}}
    return save_checkpoint(folder, about, contents, kept=kept, log_bytes=0)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_take_their_place_without_touching_those_of_the_same_step(tmp_path):
    (tmp_path / "log.jsonl").touch()
    kept = save(tmp_path, {"last-4": write_shards(tmp_path, 1.0)}, {})
    assert {name.partition("/")[0] for name in kept} == {"log.jsonl", "last-4.0"}
    later = save(tmp_path, {"last-4": write_shards(tmp_path, 2.0)}, kept)
    assert {name.partition("/")[0] for name in later} == {"log.jsonl", "last-4.1"}
    assert not (tmp_path / "last-4.0").exists()
    assert not (tmp_path / ".shards").exists()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    tensors = loaded[1]["last-4"].whole()
    assert torch.equal(tensors["module.weight"], torch.full((5, 2), 2.0))
    assert torch.equal(tensors["module.scale"], torch.tensor(2.0))
    last = save(tmp_path, {"last-5": write_shards(tmp_path, 3.0, "last-5"), "last-4": None}, later)
    assert {name.partition("/")[0] for name in last} == {"log.jsonl", "last-4.1", "last-5.0"}
    assert set(load_checkpoint(tmp_path)[1]) == {"last-4", "last-5"}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_damaged_shards_and_strangers_beside_them_are_refused(tmp_path):
    (tmp_path / "log.jsonl").touch()
    save(tmp_path, {"last-4": write_shards(tmp_path, 1.0)}, {})
    (shard,) = (tmp_path / "last-4.0").iterdir()
    stranger = shard.with_name("shard-9.safetensors")
    shutil.copy(shard, stranger)
    with pytest.raises(ArtifactError, match="is no file of the checkpoint; to train anew"):
        load_checkpoint(tmp_path)
    stranger.unlink()
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is damaged or of another training"):
        load_checkpoint(tmp_path)
    shard.unlink()
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_of_another_model_are_refused_by_the_name_of_the_weight(tmp_path):
    shards = write_shards(tmp_path, 1.0)
    with pytest.raises(ArtifactError, match=r"module.weight must have shape \(4, 2\), got \(5, 2"):
        shards.read(lambda name, size, dtype: torch.zeros((4, 2) if len(size) else ()))


if __name__ == "__main__":  # what the tests start
    if sys.argv[1] == "refuse":
        refuse()
    else:
        train(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])  # type: ignore[arg-type]
