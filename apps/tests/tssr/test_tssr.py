"""TSSR: its model against plain parts, and the app as its user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from evalrec import write_synthetic
from fusion import item_contrast, user_contrast
from genrec import Batch, full_cross_entropy
from semtok import CatalogError

from semrec.shared.configuration import load_config, set_keys
from semrec.shared.errors import ExperimentError
from semrec.tssr import app, studies, system
from semrec.tssr.config import Config, Content, Evaluation, Model
from semrec.tssr.model import TwoStream, tssr_loss

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def contents() -> list[torch.Tensor]:
    return list(torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def batch() -> Batch:
    return Batch(
        history=torch.tensor([[0, 3, 5], [4, 1, 9], [2, 9, 9]]),
        targets=torch.tensor([[3, 5, 7], [1, 8, 9], [6, 9, 9]]),
        users=torch.arange(3),
    )


def small(**options: object) -> Model:
    sizes = {"dim": 8, "num_heads": 2, "feedforward_dim": 16, "num_negatives": 0}
    return Model(**{**sizes, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["ids", "sum"])
def test_the_loss_is_equation_4(contents: list[torch.Tensor], batch: Batch, head: str) -> None:
    config = small(
        head=head,
        user_weight=0.5,
        item_weight=0.25,
        item_temperature=1.0,
        item_similarity="dot",
    )
    torch.manual_seed(0)
    model = TwoStream(config, contents).eval()
    losses = tssr_loss(config, model, batch)
    tables = [stream.item_vectors() for stream in model.streams]
    states = [stream(batch.history) for stream in model.streams]
    vectors = sum(tables[1:], tables[0]) if head == "sum" else tables[0]
    torch.testing.assert_close(vectors, model.item_vectors())
    joined = model(batch.history)
    torch.testing.assert_close(joined, model.gate(model.cross(states)))
    expected = full_cross_entropy(
        joined, vectors, batch.targets, similarity="cosine", temperature=0.07
    )
    torch.testing.assert_close(losses["next_item"], expected)
    valid = batch.targets < 9
    following = [torch.cat([table, table[:1]])[batch.targets] for table in tables]
    users = [user_contrast(states[0], other, valid, temperature=0.2) for other in states[1:]]
    torch.testing.assert_close(losses["user_contrast"], 0.5 * (users[0] + users[1]) / 2)
    items = [
        item_contrast(
            states[0],
            states[n],
            following[0],
            following[n],
            batch.targets,
            valid,
            temperature=1.0,
        )
        for n in (1, 2)
    ]
    torch.testing.assert_close(losses["item_contrast"], 0.25 * (items[0] + items[1]) / 2)


def test_only_the_items_of_a_batch_pass_the_content_projection(
    contents: list[torch.Tensor], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients as with all items, when negatives are drawn."""
    config = small(num_negatives=4)
    torch.manual_seed(0)
    model = TwoStream(config, contents).eval()
    rows = torch.tensor([0, 2, 5])
    for partial, whole in zip(model.tables(rows), model.tables(), strict=True):
        torch.testing.assert_close(partial[rows], whole[rows])
    torch.manual_seed(1)
    sum(tssr_loss(config, model, batch).values()).backward()  # type: ignore[union-attr]
    slopes = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tables = TwoStream.tables
    monkeypatch.setattr(TwoStream, "tables", lambda self, rows=None: tables(self))
    torch.manual_seed(1)
    sum(tssr_loss(config, model, batch).values()).backward()  # type: ignore[union-attr]
    assert len(slopes) > 20
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(slopes[name], parameter.grad)


def test_the_state_of_a_history_does_not_depend_on_its_padding(
    contents: list[torch.Tensor],
) -> None:
    model = TwoStream(small(), contents).eval()
    short = model.last_state(torch.tensor([[3, 1]]))
    torch.testing.assert_close(model.last_state(torch.tensor([[3, 1, 9, 9]])), short)
    assert model.score(torch.tensor([[9, 9]])).isfinite().all()


def test_ids_may_start_from_content(contents: list[torch.Tensor]) -> None:
    torch.manual_seed(0)
    random = TwoStream(small(id_start="random"), contents).streams[0].item_vectors()
    torch.manual_seed(0)
    started = TwoStream(small(id_start="content"), contents).streams[0].item_vectors()
    expected = 0.1 * sum(contents) / len(contents) ** 0.5
    torch.testing.assert_close(started[:, :6] - random[:, :6], expected)
    torch.testing.assert_close(started[:, 6:], random[:, 6:])


def test_a_weight_of_zero_leaves_its_term_out(contents: list[torch.Tensor], batch: Batch) -> None:
    config = small(user_weight=0.0, item_weight=0.0)
    assert list(tssr_loss(config, TwoStream(config, contents), batch)) == ["next_item"]


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="streams must name fields"):
        Content(streams=("title", " + "))
    with pytest.raises(ValueError, match="contrast_temperature must be positive, got 0"):
        Model(contrast_temperature=0.0)
    with pytest.raises(ValueError, match="user_weight must be at least 0, got -1"):
        Model(user_weight=-1.0)
    with pytest.raises(ValueError, match="multiple of num_heads, got 128 and 0"):
        Model(num_heads=0)


@pytest.fixture
def complete(completed: Callable[[str], Path]) -> Path:
    return completed("tssr")


@pytest.fixture
def config(small: Callable[[str], Path]) -> Path:
    return small("tssr")


def test_a_run_leaves_what_it_promises(complete: Path) -> None:
    document = json.loads((complete / "metrics.json").read_text())
    models = {"TSSR", "SASRec, ids", "SASRec, content", "SASRec, ids and content"}
    assert models | {"popularity", "graph + text"} <= set(document["test"])
    assert all(report["counts"]["users"] == 300 for report in document["test"].values())
    assert set(document["streams"]) == {"ids", "title", "brand+categories"}
    assert document["streams"]["ids"]["alignment"] == pytest.approx(0.0, abs=1e-6)
    page = (complete / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") >= 11


def test_studies_stand_in_the_report_and_share_what_they_train(
    complete: Path, data: Path, config: Path, launch: Launch
) -> None:
    same = ["--data", data, "--out", complete, "--config", config]
    done = launch("tssr", "study", "contrast", *same, "--seeds", "0,1")
    assert done.returncode == 0, done.stderr
    assert "tssr: complete, kept" in done.stderr  # seed 0 of the whole model is the run's own
    kept = {path.name for path in (complete / "variants").iterdir()}
    assert "tssr,model.user_weight=0.0,model.item_weight=0.0" in kept
    assert len(kept) == 7
    study = json.loads((complete / "studies/contrast.json").read_text())
    systems = study["comparison"]["systems"]
    assert [system["name"] for system in systems][::3] == ["TSSR", "without both"]
    assert all(system["seeds"] == 2 for system in systems)
    assert set(study["facts"]["TSSR"]) == {"alignment", "uniformity"}

    done = launch("tssr", "study", "tsne", *same)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (complete / "variants").iterdir()} == kept
    page = (complete / "report.html").read_text()
    assert "Study: hierarchical contrast" in page
    assert "Study: item embeddings with and without contrast" in page


def test_the_papers_other_models_stand_beside_it(
    complete: Path, data: Path, config: Path, launch: Launch
) -> None:
    done = launch("tssr", "study", "hybrid", "--data", data, "--out", complete, "--config", config)
    assert done.returncode == 0, done.stderr
    study = json.loads((complete / "studies/hybrid.json").read_text())
    assert [system["name"] for system in study["comparison"]["systems"]] == [
        *("TSSR", "SASRec, ids", "SASRec, content", "SASRec, ids and content"),
        *("GRU4Rec, ids", "MV-RNN: GRU4Rec, ids and content"),
        *("CL4SRec, ids", "FDSA, ids and content"),
    ]
    trained = {"gru4rec_ids", "gru4rec_both", "cl4srec_ids", "fdsa_both"}
    assert trained <= {path.name for path in complete.iterdir()}


def test_a_wrong_study_is_refused_before_anything_is_done(
    data: Path, launch: Launch, tmp_path: Path
) -> None:
    done = launch("tssr", "study", "everything", "--data", data, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "NAME must be one of hybrid, contrast" in " ".join(done.stderr.split())
    done = launch(
        "tssr", "study", "contrast", "--data", data, "--out", tmp_path / "run", "--seeds", "0,0"
    )
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()


def test_streams_that_no_field_fills_are_refused_before_a_run_begins(
    data: Path, launch: Launch, tmp_path: Path
) -> None:
    config, out = tmp_path / "config.toml", tmp_path / "run"
    config.write_text('[content]\nembedding = "lsa"\nstreams = ["title", "colour"]\n')
    done = launch("tssr", "run", "--data", data, "--out", out, "--config", config)
    assert done.returncode == 1
    assert "got colour" in " ".join(done.stderr.split())
    assert not out.exists()


def test_studies_name_what_they_vary(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(studies, "tested", lambda variants, *_: variants)
    config = load_config(app.APP.config, None)
    pipeline = app.APP.open(data, tmp_path / "run", config, "cpu")
    shares: Any = studies.data_share(pipeline, [0], [0.125, 0.12]).systems
    assert {name: variant.config.model.data_share for name, variant in shares.items()} == {
        f"{model}, {share}": value
        for model in ("TSSR", "SASRec, ids")
        for share, value in (("100%", 1.0), ("12.5%", 0.125), ("12%", 0.12))
    }
    for streams, expected in (
        (("title", "brand+image_text"), [("title+brand+image_text",), 3, 1]),
        (("title+brand", "image"), [("title+brand", "image"), 3, 1]),
        (("title", "image"), [("title",), 2, 1]),
    ):
        variant = pipeline.varied(content={"streams": streams})
        systems: Any = studies.modalities(variant, [0]).systems
        chosen = [system.config.content.streams for system in systems.values()]
        first, most, least = expected
        assert chosen[0] == first
        assert (len(chosen[-1]), len(chosen[-2])) == (most, least)
        assert len(set(chosen)) == len(chosen)


def test_images_and_their_weights_are_inputs_of_a_run(tmp_path: Path) -> None:
    """Nothing is trained, or even decoded: that the files are others is seen before."""
    data = write_synthetic(tmp_path / "data", num_items=60, num_users=80, seed=3)
    items = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    for number, item in enumerate(items):
        item["image"] = f"{number}.png"
        (data / item["image"]).write_bytes(f"image {number}".encode())
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    weights, out = tmp_path / "weights.safetensors", tmp_path / "run"
    weights.write_bytes(b"first")
    config = Config(
        content=Content(
            embedding="lsa", streams=("title", "image"), dim=8, image_weights=str(weights)
        ),
        evaluation=Evaluation(validation_users=50),
    )

    def begin() -> None:
        app.APP.open(data, out, config, "cpu")

    image = data / "59.png"
    image.rename(data / "elsewhere.png")
    with pytest.raises(CatalogError, match=f"item '{items[59]['item_id']}': image must be a local"):
        begin()
    assert not out.exists()
    (data / "elsewhere.png").rename(image)
    begin()
    begin()
    for path in (image, weights):
        content = path.read_bytes()
        path.write_bytes(b"other")
        with pytest.raises(ExperimentError, match="its input files had other contents"):
            begin()
        path.write_bytes(content)
        begin()
    assert {path.name for path in out.iterdir()} == {"run.json", "environment.json"}


END_TO_END = """
[content]
mode = "end-to-end"
streams = ["title"]
[content.encoder]
trained = "lora"
[model]
head = "ids"
id_start = "random"
dim = 16
num_heads = 2
feedforward_dim = 32
epochs = 1
warmup_steps = 10
learning_rate = 1e-4
[evaluation]
validation_users = 50
baselines = false
"""


def drawn(data: Path, out: Path, config: Path, state: int) -> float:
    """What a run's model starts from, whatever was drawn before."""
    loaded = load_config(app.APP.config, config)
    pipeline = app.APP.open(data, out, loaded, "cpu", set_keys(config))
    torch.manual_seed(state)
    with mock.patch.object(system, "dense_stage") as dense_stage:
        _ = pipeline.tssr
    plan = dense_stage.call_args.args[2]()
    torch.manual_seed(0)
    model: TwoStream = plan.model()
    return sum(float(value.detach().double().sum()) for value in model.parameters())


def test_content_trained_along_is_stored_in_the_end(launch: Launch, tmp_path: Path) -> None:
    """Adapters of a MiniLM; what is kept answers without it."""
    data = write_synthetic(tmp_path / "data", num_items=60, num_users=80, seed=3)
    (tmp_path / "config.toml").write_text(END_TO_END)
    out = tmp_path / "run"
    done = launch("tssr", "run", "--data", data, "--out", out, "--config", tmp_path / "config.toml")
    assert done.returncode == 0, done.stderr
    first, second = (drawn(data, out, tmp_path / "config.toml", state) for state in (1, 2))
    assert first == second
    counts = json.loads((out / "tssr/stage.json").read_text())["encoder_parameters"]
    assert 0 < counts["trained"] < counts["frozen"] / 100
    assert (out / "tssr/weights.safetensors").stat().st_size < 200_000
    assert json.loads((out / "metrics.json").read_text())["streams"]["title"]["alignment"] > 0
    done = launch("tssr", "recommend", "--run", out, "--history", "item-00000", "--top-k", 3)
    assert done.returncode == 0, done.stderr
