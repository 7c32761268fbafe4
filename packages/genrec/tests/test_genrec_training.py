from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from genrec.backbones import SASRec
from genrec.losses import full_cross_entropy, sampled_cross_entropy
from genrec.reading import ArtifactError, file_digest, json_digest
from genrec.sampling import sample_negatives
from genrec.sequences import Batch, PairBatches, SequenceBatches
from genrec.training import TrainingConfig, TrainingEvent, TrainingResult, fit, rich_progress
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

NUM_ITEMS = 20
CONFIG = TrainingConfig(
    epochs=4,
    learning_rate=3e-3,
    optimizer="adamw",
    weight_decay=0.01,
    warmup_steps=3,
    schedule="cosine",
    gradient_clip=1.0,
    monitor="accuracy",
    ema_decay=0.9,
    seed=3,
)
CONFIG_PLAIN = TrainingConfig(epochs=1)
STEPS = 8  # an epoch
TIMINGS = {"seconds", "validation_seconds", "samples_per_second", "peak_memory_mib"}


class Crash(BaseException):
    """Stands for a kill: nothing of the library catches it."""


def model(seed: int = 0) -> SASRec:
    torch.manual_seed(seed)
    return SASRec(NUM_ITEMS, dim=8, num_layers=1, history_length=6, dropout=0.3)


def walks(num_users: int = 12) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [(generator.integers(NUM_ITEMS) + np.arange(6)) % NUM_ITEMS for _ in range(num_users)]


def batches() -> PairBatches:
    return PairBatches(walks(), num_items=NUM_ITEMS, history_length=6, batch_size=8)


def next_item(module: SASRec, batch: Batch) -> dict[str, Tensor]:
    vectors = module.item_vectors()
    states = module.last_state(batch.history, vectors)
    return {"next": full_cross_entropy(states, vectors, batch.targets)}


def loss(module: SASRec, batch: Batch) -> dict[str, Tensor]:
    vectors = module.item_vectors()
    states = module.last_state(batch.history, vectors)
    drawn = sample_negatives(NUM_ITEMS, 5)  # from the default generator
    return {
        "full": full_cross_entropy(states, vectors, batch.targets),
        "sampled": 0.5 * sampled_cross_entropy(states, vectors, batch.targets, drawn),
    }


def accuracy(module: SASRec) -> dict[str, float]:
    assert not module.training
    history = torch.arange(NUM_ITEMS)[:, None]
    hits = module.score(history).argmax(1) == (history[:, 0] + 1) % NUM_ITEMS
    return {"accuracy": hits.float().mean().item()}


def train(
    folder: Path | None = None, callback=None, config=CONFIG
) -> tuple[SASRec, TrainingResult]:
    module = model()
    result = fit(
        module, batches(), loss, config, validate=accuracy, folder=folder, callback=callback
    )
    return module, result


def untimed(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in log]


def assert_same(
    expected: tuple[SASRec, TrainingResult], result: tuple[SASRec, TrainingResult]
) -> None:
    for name, value in expected[0].state_dict().items():
        assert torch.equal(value, result[0].state_dict()[name]), name
    assert untimed(expected[1].log) == untimed(result[1].log)
    for name in ("epochs", "steps", "best_epoch", "metrics", "stopped_early"):
        assert getattr(expected[1], name) == getattr(result[1], name)


def at_step(step: int, act):
    def callback(event: TrainingEvent) -> None:
        if event.kind == "step" and event.step == step:
            act()

    return callback


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[SASRec, TrainingResult]:
    return train()


def crash() -> None:
    raise Crash


@settings(deadline=None, max_examples=6, database=None)
@given(
    steps=st.lists(st.integers(1, 4 * STEPS), min_size=1, max_size=2),
    by_signal=st.booleans(),
    checkpoint_every=st.integers(1, 3),
)
@example(steps=[16], by_signal=False, checkpoint_every=1)
@example(steps=[4 * STEPS], by_signal=False, checkpoint_every=1)
def test_a_run_killed_at_a_random_step_equals_the_uninterrupted_one(
    tmp_path_factory, uninterrupted, steps, by_signal, checkpoint_every
):
    folder = tmp_path_factory.mktemp("killed")
    config = TrainingConfig(**{**vars(CONFIG), "checkpoint_every": checkpoint_every})
    act = (lambda: os.kill(os.getpid(), signal.SIGTERM)) if by_signal else crash
    for step in sorted(set(steps)):
        with pytest.raises((Crash, KeyboardInterrupt)):
            train(folder, at_step(step, act), config)
    resumed = train(folder, config=config)
    assert_same(resumed, uninterrupted)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines == resumed[1].log


ACCUMULATING = TrainingConfig(epochs=2, accumulate=3, learning_rate=0.05, gradient_clip=0.5)


@pytest.fixture(scope="module")
def accumulated() -> tuple[SASRec, TrainingResult]:
    return train_accumulating()


def train_accumulating(folder: Path | None = None, callback=None) -> tuple[SASRec, TrainingResult]:
    module = model()
    return module, fit(module, batches(), loss, ACCUMULATING, folder=folder, callback=callback)


@pytest.mark.parametrize("step", range(1, 7))
def test_a_resumed_run_with_accumulation_equals_the_uninterrupted_one(tmp_path, accumulated, step):
    assert accumulated[1].steps == 6  # 8 batches an epoch, in steps of 3, 3 and 2
    with pytest.raises(KeyboardInterrupt):
        train_accumulating(tmp_path, at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert_same(train_accumulating(tmp_path), accumulated)


@pytest.mark.parametrize("batch_size", [12, 25])  # 60 pairs: batches of 12, and of 20
def test_accumulated_batches_equal_the_large_batch(batch_size):
    def run(batch_size: int, accumulate: int) -> tuple[SASRec, TrainingResult]:
        torch.manual_seed(0)
        module = SASRec(NUM_ITEMS, dim=8, num_layers=1, history_length=6, dropout=0.0)
        source = PairBatches(walks(), num_items=NUM_ITEMS, batch_size=batch_size)
        config = TrainingConfig(
            epochs=3, accumulate=accumulate, learning_rate=0.02, gradient_clip=0.5
        )
        return module, fit(module, source, next_item, config)

    large, small = run(60, 1), run(batch_size, 5)
    assert small[1].steps == large[1].steps == 3
    # Not each weight: the keys' biases have no gradient, and Adam enlarges what rounding leaves.
    history = torch.arange(NUM_ITEMS)[:, None]
    torch.testing.assert_close(
        small[0].score(history), large[0].score(history), rtol=1e-3, atol=1e-4
    )
    for of_small, of_large in zip(small[1].log, large[1].log, strict=True):
        assert of_small["losses"]["next"] == pytest.approx(of_large["losses"]["next"], rel=1e-5)
        assert of_small["gradient_norm"] == pytest.approx(of_large["gradient_norm"], rel=1e-4)


def test_batches_weigh_as_many_samples_as_they_hold():
    module = Line()

    class Uneven(Numbers):
        def __call__(self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0):
            return iter([Number(1.0, size=3), Number(5.0, size=1)])

    result = fit(
        module,
        Uneven(2),
        lambda m, b: {"slope": b.value * m.weight[0] + b.value},
        TrainingConfig(epochs=1, accumulate=2),
    )
    assert result.steps == 1
    assert result.log[0]["losses"]["slope"] == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert result.log[0]["gradient_norm"] == pytest.approx(0.75 * 1 + 0.25 * 5)


def test_a_run_killed_by_the_system_resumes_as_if_nothing_had_been(tmp_path, uninterrupted):
    done = subprocess.run([sys.executable, __file__, str(tmp_path), "21"], timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint.json").exists()
    assert_same(train(tmp_path), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [5, 16])
def test_signals_save_first(tmp_path, uninterrupted, number, step):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=f"stopped by a signal in epoch .*, step {step}"):
        train(tmp_path, at_step(step, lambda: os.kill(os.getpid(), number)))
    assert signal.getsignal(number) is before
    assert json.loads((tmp_path / "checkpoint.json").read_text())["state"]["step"] == step
    steps: list[int] = []
    assert_same(
        train(tmp_path, lambda e: steps.append(e.step) if e.kind == "step" else None), uninterrupted
    )
    assert steps == list(range(step + 1, 4 * STEPS + 1))


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    outcome: list[TrainingResult] = []
    thread = threading.Thread(target=lambda: outcome.append(train()[1]))
    thread.start()
    thread.join()
    assert outcome[0].epochs == 4


def test_a_complete_run_gives_its_weights_at_once(tmp_path, uninterrupted):
    train(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint.json",
        "final.safetensors",
        "log.jsonl",
    }
    assert_same(train(tmp_path, crash), uninterrupted)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path, monkeypatch, uninterrupted
):
    def fail_at_json(source, target, replace=os.replace):
        if str(target).endswith("checkpoint.json") and (tmp_path / "checkpoint.json").exists():
            raise OSError("no space left")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("genrec.checkpoint.os.replace", fail_at_json)
        with pytest.raises(OSError, match="no space left"):
            train(tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["state"]["epochs"] == 1
    assert_same(train(tmp_path), uninterrupted)


def test_randomness_outside_is_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    module = model()
    torch.manual_seed(11)
    fit(module, batches(), loss, TrainingConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides():
    def final(seed: int) -> Tensor:
        module = model()
        fit(module, batches(), loss, TrainingConfig(epochs=1, seed=seed))
        return module.item_vectors().detach()

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


@pytest.mark.parametrize("source", [PairBatches, SequenceBatches])
def test_one_batch_overfits(source):
    torch.manual_seed(0)
    module = SASRec(NUM_ITEMS, dim=16, num_layers=1, history_length=6, dropout=0.0)
    histories = [[0, 1, 2, 3], [4, 3, 2, 1], [9, 9, 8]]
    one_batch = source(histories, num_items=NUM_ITEMS, history_length=6)
    assert len(one_batch) == 1

    def objective(module: SASRec, batch: Batch) -> dict[str, Tensor]:
        vectors = module.item_vectors()
        states = (
            module.last_state(batch.history, vectors)
            if batch.targets.dim() == 1
            else module(batch.history, vectors)
        )
        return {"next": full_cross_entropy(states, vectors, batch.targets)}

    result = fit(module, one_batch, objective, TrainingConfig(epochs=60, learning_rate=0.02))
    assert result.log[0]["losses"]["next"] > 2
    assert result.log[-1]["losses"]["next"] < 0.05
    scores = module.score(torch.tensor([[0, 1, 2], [4, 3, 2], [9, 9, NUM_ITEMS]]))
    assert scores.argmax(1).tolist() == [3, 1, 8]


def test_patience_stops_and_the_best_weights_come_back():
    figures = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    seen: list[Tensor] = []
    module = model()

    def validate(module: SASRec) -> dict[str, float]:
        seen.append(module.item_vectors().detach().clone())
        return {"figure": figures[len(seen) - 1]}

    config = TrainingConfig(epochs=6, monitor="figure", patience=3)
    result = fit(module, batches(), loss, config, validate=validate)
    assert (result.epochs, result.best_epoch, result.stopped_early) == (5, 2, True)
    assert result.metrics == {"figure": 0.5}
    assert torch.equal(module.item_vectors(), seen[1])
    assert not torch.equal(seen[1], seen[4])


def test_the_least_figure_can_be_the_best():
    figures = [0.5, 0.2, 0.3, 0.2]
    config = TrainingConfig(epochs=6, monitor="loss", monitor_mode="min", patience=2)
    seen: list[Tensor] = []
    module = model()

    def validate(module: SASRec) -> dict[str, float]:
        seen.append(module.item_vectors().detach().clone())
        return {"loss": figures[len(seen) - 1]}

    result = fit(module, batches(), loss, config, validate=validate)
    assert (result.epochs, result.best_epoch, result.metrics) == (4, 2, {"loss": 0.2})
    assert torch.equal(module.item_vectors(), seen[1])


def test_validation_keeps_its_pace_and_never_misses_the_end():
    validated: list[int] = []

    def note(event: TrainingEvent) -> None:
        if event.kind == "epoch" and event.metrics:
            validated.append(event.epoch)

    config = TrainingConfig(epochs=5, validate_every=2)
    fit(model(), batches(), loss, config, validate=accuracy, callback=note)
    assert validated == [2, 4, 5]


def test_the_log_says_what_happened():
    result = train()[1]
    assert [record["epoch"] for record in result.log] == [1, 2, 3, 4]
    assert [record["step"] for record in result.log] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    for record in result.log:
        assert set(record["losses"]) == {"full", "sampled"}
        assert set(record["metrics"]) == {"accuracy"}
        for name in ("gradient_norm", "learning_rate", *TIMINGS):
            assert record[name] >= 0


class Line(nn.Module):
    """One weight, whose gradient the loss chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


class Numbers:
    """Batches of one sample, numbered."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __call__(self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0):
        assert (shard, shards) == (0, 1)
        return (Number(i) for i in range(start, self.count))


class Number:
    def __init__(self, value: float, size: int = 1) -> None:
        self.value = value
        self.size = size

    def __len__(self) -> int:
        return self.size

    def to(self, device: torch.device) -> Number:
        return self


def test_steps_are_those_of_adam_with_clipping_and_schedule():
    slopes = [3.0, 0.1, -4.0, 0.2, 1.0]
    config = TrainingConfig(
        epochs=1, learning_rate=0.1, warmup_steps=2, schedule="linear", gradient_clip=0.5
    )
    module = Line()
    norms: list[float] = []
    result = fit(module, Numbers(5), lambda m, b: {"slope": slopes[b.value] * m.weight[0]}, config)
    weight, mean, square = 0.0, 0.0, 0.0
    for step, (slope, rate) in enumerate(
        zip(slopes, [0.05, 0.1, 0.1, 0.1 * 2 / 3, 0.1 / 3], strict=True), start=1
    ):
        norms.append(abs(slope))
        slope *= min(1.0, 0.5 / (abs(slope) + 1e-6))
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        unbiased = (square / (1 - 0.999**step)) ** 0.5
        weight -= rate * mean / (1 - 0.9**step) / (unbiased + 1e-8)
    assert module.weight[0].item() == pytest.approx(weight, rel=1e-5)
    assert result.log[0]["gradient_norm"] == pytest.approx(sum(norms) / 5, rel=1e-5)


def test_a_warm_up_that_outlasts_the_training_is_said(caplog: pytest.LogCaptureFixture):
    for warmup_steps, said in ((4, []), (5, ["warmup_steps are 5 of 4 steps in all"])):
        caplog.clear()
        config = TrainingConfig(epochs=2, warmup_steps=warmup_steps)
        fit(Line(), Numbers(2), lambda m, b: {"slope": m.weight[0]}, config)
        shown = [record.getMessage().partition(":")[0] for record in caplog.records]
        assert [line for line in shown if "warmup" in line] == said


def test_the_average_follows_the_weights():
    weights: list[float] = []
    module = Line()
    fit(
        module,
        Numbers(6),
        lambda m, b: {"slope": m.weight[0]},
        TrainingConfig(epochs=2, ema_decay=0.5, learning_rate=0.1),
        callback=lambda e: weights.append(module.weight[0].item()) if e.kind == "step" else None,
    )
    average = 0.0
    for steps, weight in enumerate(weights, start=1):
        decay = min(0.5, (1 + steps) / (10 + steps))
        average = decay * average + (1 - decay) * weight
    assert module.weight[0].item() == pytest.approx(average, rel=1e-5)
    assert module.weight[0].item() != pytest.approx(weights[-1], rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_it_is_in_the_weights():
    module = Line()

    def objective(module: Line, batch: Number) -> dict[str, Tensor]:
        fine = module.weight.sum()
        return {"fine": fine, "broken": fine * (float("nan") if batch.value == 2 else 1.0)}

    with pytest.raises(
        ValueError, match="loss term 'broken' must be finite, got nan in epoch 1, step 3"
    ):
        fit(module, Numbers(5), objective, TrainingConfig(epochs=1))
    assert module.weight.isfinite().all()


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (lambda w, b: w.sum(), "must return tensors by name, got Tensor"),
        (lambda w, b: {}, "must return tensors by name, got dict"),
        (lambda w, b: {"rows": w}, r"'rows' must be a tensor of one number, got shape \(2,\)"),
        (lambda w, b: {"fine": w.sum(), "zero": 0.0}, "'zero' must be a tensor .* got 0.0"),
        (lambda w, b: {"ab"[b.value % 2]: w.sum()}, r"for each batch, got \['b'\] after \['a'\]"),
    ],
)
def test_a_loss_that_is_no_named_scalars_is_refused(terms, words):
    config = TrainingConfig(epochs=1, accumulate=2)
    with pytest.raises(ValueError, match=words):
        fit(Line(), Numbers(4), lambda m, b: terms(m.weight, b), config)


def test_terms_may_come_in_any_order():
    def objective(module: Line, batch: Number) -> dict[str, Tensor]:
        unit, ten = module.weight[0] + 1, module.weight[1] + 10
        return {"one": unit, "ten": ten} if batch.value % 2 else {"ten": ten, "one": unit}

    config = TrainingConfig(epochs=1, accumulate=2)
    (record,) = fit(Line(), Numbers(2), objective, config).log
    assert record["losses"] == {"ten": 10.0, "one": 1.0}


def test_gradients_that_are_not_finite_stop_too():
    module = Line()
    with pytest.raises(
        ValueError, match=r"gradients' norm must be finite, got (nan|inf) in epoch 1, step 1"
    ):
        fit(module, Numbers(2), lambda m, b: {"root": m.weight.abs().sum().sqrt()}, CONFIG_PLAIN)
    assert module.weight.isfinite().all()


def test_bf16_trains_and_keeps_weights_in_fp32():
    module = model()
    dtypes: set[torch.dtype] = set()

    def objective(module: SASRec, batch: Batch) -> dict[str, Tensor]:
        dtypes.add((module.position_vectors @ module.position_vectors.T).dtype)
        return loss(module, batch)

    result = fit(module, batches(), objective, TrainingConfig(epochs=1, precision="bf16"))
    assert dtypes == {torch.bfloat16}
    assert module.item_vectors().dtype == torch.float32
    assert 0 < result.log[0]["losses"]["full"] < 5


@pytest.mark.parametrize("title", ["stage", "[red]d[/]", "[/x]"])
def test_the_bar_draws_its_title_as_it_is(capsys, title):
    with rich_progress(title) as callback:
        fit(model(), batches(), loss, TrainingConfig(epochs=1), callback=callback)
    assert f"{title} 1/1" in capsys.readouterr().out


def test_the_bar_shows_escapes_as_text(capsys):
    with rich_progress("a\x1b[2Jb\u202e") as callback:
        fit(model(), batches(), loss, TrainingConfig(epochs=1), callback=callback)
    assert r"a\x1b[2Jb\u202e 1/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"gradient_clip": 0.0}, "gradient_clip must be positive, got 0"),
        ({"patience": 0, "monitor": "ndcg"}, "patience must be at least 1, got 0"),
        ({"patience": 2}, "monitor must be named when patience is given, got None"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"monitor_mode": "min"}, "monitor must be named when monitor_mode is 'min', got None"),
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TrainingConfig(**options)


@pytest.mark.parametrize("options", [{"monitor": "ndcg"}, {"validate_every": 2}])
def test_settings_without_effect_are_refused(options):
    with pytest.raises(ValueError, match="validate must be given when"):
        fit(model(), batches(), loss, TrainingConfig(**options))


def test_a_figure_that_is_missing_is_refused():
    config = TrainingConfig(epochs=1, monitor="ndcg")
    with pytest.raises(ValueError, match=r"validate must give a finite 'ndcg', got .'accuracy'"):
        fit(model(), batches(), loss, config, validate=accuracy)


def test_a_source_that_runs_dry_is_refused():
    source = Numbers(3)
    source.__class__ = type("Dry", (Numbers,), {"__len__": lambda self: 4})
    with pytest.raises(ValueError, match="give 4 batches in each epoch, got 3 in epoch 1"):
        fit(Line(), source, lambda m, b: {"slope": m.weight.sum()}, TrainingConfig(epochs=1))


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    train(tmp_path)
    other = TrainingConfig(**{**vars(CONFIG), "learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"with learning_rate 0.003, not 0.5"):
        train(tmp_path, config=other)


def test_a_setting_that_an_older_version_did_not_have_was_at_its_default(tmp_path, uninterrupted):
    train(tmp_path)
    config = json.loads((tmp_path / "checkpoint.json").read_text())["config"]
    del config["accumulate"]
    edit(tmp_path, config=config)
    assert_same(train(tmp_path), uninterrupted)
    other = TrainingConfig(**{**vars(CONFIG), "accumulate": 2})
    with pytest.raises(ValueError, match="with accumulate 1, not 2"):
        train(tmp_path, config=other)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A training that a signal stopped, with best weights and a log."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        train(folder, at_step(13, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    return folder


def break_weights(folder: Path) -> None:
    path = folder / "last-13.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def lose_weights(folder: Path) -> None:
    (folder / "last-13.safetensors").unlink()


def edit(folder: Path, **changes: object) -> None:
    """Changes entries of the checkpoint and gives it the digest that it then asks for."""
    path = folder / "checkpoint.json"
    about = {**json.loads(path.read_text()), **changes}
    del about["digest"]
    path.write_text(json.dumps({**about, "digest": json_digest(about)}))


def edit_state(folder: Path, **changes: object) -> None:
    state = json.loads((folder / "checkpoint.json").read_text())["state"]
    edit(folder, state=state | changes)


def empty(folder: Path) -> None:
    about = {"format": 2}
    (folder / "checkpoint.json").write_text(json.dumps({**about, "digest": json_digest(about)}))


def write(content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "checkpoint.json").write_bytes(content.encode("latin-1"))


def break_log(folder: Path) -> None:
    path = folder / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"epoch", b"stage"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (write("{"), r"checkpoint.json is damaged: Expecting .*; to train anew, move .* away$"),
        (write("[" * 100_000), "checkpoint.json is damaged: maximum recursion depth"),
        (write('{"format": 1e400}'), "checkpoint.json is no checkpoint: it names no format"),
        (write('{"format": true}'), "checkpoint.json is no checkpoint: it names no format"),
        (write("[2]"), "checkpoint.json is no checkpoint: it names no format"),
        (write("\xff"), "checkpoint.json is damaged: 'utf-8' codec can't decode"),
        (break_weights, "last-13.safetensors is damaged or of another training: checkpoint.json"),
        (lose_weights, "last-13.safetensors cannot be read: No such file"),
        (
            partial(edit, format=99),
            "has format 99, this version of genrec reads format 2; to train",
        ),
        (partial(edit, format=-1), "has format -1, this version of genrec reads format 2"),
        (partial(edit, state={"pace": 1}), "checkpoint.json is damaged: .*'pace'"),
        (partial(edit_state, step=13.0), "damaged: step must be int, got 13.0"),
        (partial(edit_state, step=True), "damaged: step must be int, got True"),
        (partial(edit_state, step=14), r"files must be \['best-1', 'last-14'\], got"),
        (
            partial(edit_state, step=3),
            "step and epochs must be within 32 steps and 4 epochs, got 3",
        ),
        (partial(edit_state, epochs=7), "step and epochs must be within 32 steps and 4 epochs"),
        (partial(edit_state, best_epoch=3), "damaged: files must be"),
        (partial(edit_state, metrics=[0.5]), "metrics must be dict"),
        (partial(edit_state, log_bytes=-1), "log_bytes must be at least 0, got -1"),
        (partial(edit, steps_per_epoch="8"), "steps_per_epoch must be int, got '8'"),
        (empty, "checkpoint.json is damaged: it lacks config, steps_per_epoch, state, files"),
        (partial(edit, files="last-13"), "checkpoint.json is damaged: files must be dict"),
        (partial(edit, files={"../x": "y"}), "damaged: files must be those of a checkpoint, got"),
        (lambda folder: (folder / "log.jsonl").unlink(), "log.jsonl is damaged: it has 0 bytes"),
        (lambda folder: (folder / "log.jsonl").write_text("{}"), "damaged: it has 2 bytes"),
        (break_log, "log.jsonl is damaged or of another training: checkpoint.json disagrees"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, stopped, damage, words):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    damage(folder)
    before = contents(folder)
    with pytest.raises(ArtifactError, match=words):
        train(folder)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_digit_of_a_checkpoint_that_is_flipped_is_refused(tmp_path, stopped):
    """What JSON holds, the losses of the log and the tensors: none goes on with another number."""
    refused = 0
    for path in sorted(stopped.iterdir()):
        content = path.read_bytes()
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58]
        for place in digits[:: max(len(digits) // 40, 1)]:
            folder = tmp_path / f"{path.name}-{place}"
            shutil.copytree(stopped, folder)
            damaged = bytearray(content)
            damaged[place] ^= 1
            if path.suffix == ".json":
                with contextlib.suppress(ValueError):
                    if json.loads(damaged) == json.loads(content):
                        continue  # a last digit more than the number needs
            (folder / path.name).write_bytes(damaged)
            with pytest.raises(ArtifactError, match=r"^[^\n]*; to train anew, move .* away$"):
                train(folder)
            refused += 1
    assert refused > 120


def test_two_trainings_in_one_folder_never_mix(tmp_path, uninterrupted):
    """The second is refused while the first goes on, from another thread or another program."""
    refusals: list[str] = []

    def start_another() -> None:
        with pytest.raises(BlockingIOError) as caught:
            train(tmp_path)
        refusals.append(str(caught.value))

    assert_same(train(tmp_path, at_step(13, start_another)), uninterrupted)
    assert refusals == [
        f"{tmp_path} is in use by another training: wait until it has ended, or name another folder"
    ]
    assert not (tmp_path / ".lock").exists()


def test_what_a_killed_training_left_is_swept(tmp_path, uninterrupted):
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part" / ".tmpX9dj1").write_bytes(b"half of a safetensors file")
    (tmp_path / ".lock").touch()
    assert_same(train(tmp_path), uninterrupted)
    names = {"checkpoint.json", "final.safetensors", "log.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("torn", ['{"ep', '{"epoch": 1, "step": 8, "los'])
def test_a_log_that_was_cut_off_before_the_first_checkpoint_starts_anew(
    tmp_path, uninterrupted, torn
):
    """By a full disk or a kill, in the midst of a line."""
    (tmp_path / "log.jsonl").write_text(torn)
    assert_same(train(tmp_path), uninterrupted)


def test_a_full_disk_is_told_with_the_path_and_the_last_checkpoint_stays(tmp_path, uninterrupted):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large") as caught:
            train(tmp_path, at_step(STEPS + 3, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"[Errno 27] File too large: '{tmp_path}'"
    assert json.loads((tmp_path / "checkpoint.json").read_text())["state"]["epochs"] == 1
    assert_same(train(tmp_path), uninterrupted)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("average.0"), "is that of another model: it lacks 'average.0'"),
        (lambda t: t.update({"optimizer.x.step": torch.ones(1)}), "that of another model: invalid"),
        (lambda t: t.update({"optimizer.99.step": torch.ones(1)}), "that of another model: list"),
        (
            lambda t: t.update({"optimizer.0.exp_avg": torch.ones(2, 3)}),
            r"optimizer.0.exp_avg must have shape .*, got \(2, 3\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, stopped, change, words):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    path = folder / "last-13.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    files = json.loads((folder / "checkpoint.json").read_text())["files"]
    edit(folder, files=files | {path.name: file_digest(path)})
    with pytest.raises(ArtifactError, match=words):
        train(folder)


def test_files_of_others_stay_in_the_folder(tmp_path):
    others = ["embeddings.safetensors", "final.npy", "best-model.safetensors", "thesis.part"]
    for name in others:
        (tmp_path / name).write_text("precious")
    train(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *others,
        "checkpoint.json",
        "final.safetensors",
        "log.jsonl",
    }


def test_the_log_of_something_else_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"message": "started"}\n')
    with pytest.raises(ArtifactError, match="not the log of a training: move it away"):
        train(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == '{"message": "started"}\n'


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path, uninterrupted):
    config = TrainingConfig(**{**vars(CONFIG), "checkpoint_every": 3})
    with pytest.raises(Crash):
        train(tmp_path, at_step(STEPS + 1, crash), config)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert_same(train(tmp_path, config=config), uninterrupted)


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    train(tmp_path)
    other = SASRec(NUM_ITEMS, dim=4, num_layers=1, history_length=6)
    with pytest.raises(ArtifactError, match=r"weights of another model.*size mismatch"):
        fit(other, batches(), loss, CONFIG, validate=accuracy, folder=tmp_path)


if __name__ == "__main__":  # what a test starts, to be killed
    train(
        Path(sys.argv[1]),
        at_step(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)),
    )
