"""PRORec's studies, in one process on a tiny run: shared stages, interruption, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from evalrec import evaluate, write_synthetic
from genrec import Batch, Recommender
from semtok import CatalogError

from semrec.prorec.app import APP as PRORec
from semrec.prorec.app_run import run_stages
from semrec.prorec.config import Codes, Config, Joining, StageTwo, Text
from semrec.prorec.joined import joined, joined_stage
from semrec.prorec.model import concatenated, integrated
from semrec.prorec.recommender import JoinedRecommender, load_recommender
from semrec.prorec.report import modality_spaces
from semrec.prorec.studies import rivals
from semrec.prorec.studies.beyond import joining
from semrec.prorec.studies.rivals import GENERATOR_TRIALS, prorec, searched, tiger
from semrec.prorec.studies.speed import timed
from semrec.prorec.studies.tables import STUDIES, encoders
from semrec.prorec.studies.two_codes import load_two_codes, two_codes, two_codes_loss
from semrec.prorec.system import Pipeline
from semrec.shared.data import Data, fit_and_test_floors, load_graph_floors
from semrec.shared.report import sections
from semrec.shared.report.page import Section
from semrec.shared.studies import run_study, with_values

SMALL: dict[str, dict[str, object]] = {
    "text": {"embedding": "lsa", "dim": 8},
    "stage_one": {"dim": 8, "num_heads": 2, "num_layers": 1, "epochs": 1, "batch_size": 64},
    "codes": {"codebook_size": 8},
    "stage_two": {
        "dim": 8,
        "num_heads": 2,
        "feedforward_dim": 16,
        "num_decoder_layers": 1,
        "epochs": 1,
        "warmup_steps": 5,
    },
    "evaluation": {"num_beams": 20, "validation_users": 50, "validation_beams": 10},
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("studies")
    write_synthetic(folder / "data", num_items=60, num_users=120, seed=3)
    defaults = PRORec.open(folder / "data", folder / "defaults", Config(), "cpu")
    found = PRORec.open(
        folder / "data", folder / "run", defaults.varied(seed=None, **SMALL).config, "cpu"
    )
    run_stages(found)
    return found


def study(pipeline: Pipeline, name: str, values: str | None = None) -> dict[str, object]:
    chosen = with_values(STUDIES, name, values)
    run_study(name, chosen, pipeline, [0], run_stages)
    found: dict[str, object] = json.loads(
        (pipeline.run.path / f"studies/{name}.json").read_text(encoding="utf-8")
    )
    return found


def complete(pipeline: Pipeline) -> dict[str, int]:
    """When each complete stage was finished."""
    root = pipeline.run.path
    return {
        str(path.parent.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("stage.json")
    }


def names(found: dict[str, object]) -> list[str]:
    return [system["name"] for system in found["comparison"]["systems"]]  # type: ignore[index]


def test_an_interrupted_study_goes_on_and_reuses_what_is_there(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = complete(pipeline)
    test, calls = Pipeline.test, []

    def stopped(self: Pipeline) -> object:
        calls.append(self.config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return test(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "test", stopped)
        with pytest.raises(KeyboardInterrupt):
            study(pipeline, "ablation")
    there = complete(pipeline)
    undistilled = "stage_two.beta=0.0"
    assert set(there) - set(before) == {
        f"variants/stage_two,{undistilled}",
        f"variants/test,{undistilled}",
    }
    found = study(pipeline, "ablation")
    after = complete(pipeline)
    assert {name: after[name] for name in there} == there
    unaligned = "stage_one.alpha=0.0"
    assert set(after) - set(there) == {
        *(f"variants/{s},{unaligned}" for s in ("stage_one", "tokenizer", "stage_two", "test")),
        *(f"variants/{s},{unaligned},{undistilled}" for s in ("stage_two", "test")),
        "variants/tokenizer,codes.source=concatenated",
        *(f"variants/{s},codes.source=concatenated,{undistilled}" for s in ("stage_two", "test")),
    }
    assert names(found) == [
        "PRORec",
        "without distillation",
        "without alignment",
        "without both",
        "concatenated, without both",
    ]
    assert "Study: alignment and distillation" in (pipeline.run.path / "report.html").read_text()


def test_a_run_does_not_show_what_a_study_has_trained_or_begun(pipeline: Pipeline) -> None:
    plain = pipeline.varied(evaluation={"reference": False})
    run_stages(plain)
    before = (pipeline.run.path / "metrics.json").read_text(encoding="utf-8")
    assert '"reference"' not in before
    marker = pipeline.run.path / "reference/stage.json"
    hidden = marker.rename(marker.with_name("hidden.json"))
    try:  # as a study that was stopped in its training leaves it
        run_stages(plain)
        assert plain.run.complete(["reference", "test"]).keys() == {"test"}
    finally:
        hidden.rename(marker)
    assert (pipeline.run.path / "metrics.json").read_text(encoding="utf-8") == before


def test_codes_do_not_retrain_stage_one(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    before = complete(pipeline)
    found = study(pipeline, "clusters", "4,8")
    assert names(found) == ["K = 8", "K = 4"]
    said = capsys.readouterr().err
    assert said.index("-- K = 8 (1 of 2)") < said.index("-- K = 4 (2 of 2)")
    added = set(complete(pipeline)) - set(before)
    assert added == {
        f"variants/{stage},codes.codebook_size=4" for stage in ("tokenizer", "stage_two", "test")
    }


def test_domination_shows_what_each_space_keeps(pipeline: Pipeline) -> None:
    found = study(pipeline, "domination")
    shares = {name: facts["semantic share"] for name, facts in found["facts"].items()}  # type: ignore[attr-defined]
    assert shares["semantic only"] == "100.0%"
    assert shares["collaborative only"] == "0.0%"
    page = (pipeline.run.path / "report.html").read_text()
    assert "Study: domination of one modality" in page
    stages = [name for name in complete(pipeline) if "codes.source=semantic" in name]
    assert sorted(name.split(",")[0] for name in stages) == [
        "variants/stage_two",
        "variants/test",
        "variants/tokenizer",
    ]


def test_one_code_is_timed_beside_two(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("semrec.prorec.studies.speed.AT_ONCE", (1, 4)),
        ("semrec.prorec.studies.speed.ROUNDS", 2),
    ):
        monkeypatch.setattr(name, value)
    monkeypatch.setattr("semrec.prorec.studies.tables.AT_ONCE", (1, 4))
    found = study(pipeline, "speed")
    assert names(found) == ["PRORec", "two codes"]
    facts = found["facts"]
    assert all(float(value) > 0 for row in facts.values() for value in row.values())  # type: ignore[attr-defined]
    model = load_two_codes(pipeline)
    assert len(model.streams) == 2
    semantic = pipeline.varied(codes={"source": "semantic"}).tokenizer.semantic_ids.codes
    assert model.streams[0].trie.codes.tolist() == semantic.tolist()
    assert two_codes(pipeline).counts["users"] == 120


def test_two_codes_lose_what_each_stream_loses(pipeline: Pipeline) -> None:
    two_codes(pipeline)  # trained, unless it is there
    model = load_two_codes(pipeline)
    batch = Batch(
        history=torch.tensor([[1, 2], [3, 60]]),
        targets=torch.tensor([4, 5]),
        users=torch.arange(2),
    )
    spaces = [torch.randn(60, 8, generator=torch.Generator().manual_seed(0))] * 2
    config = StageTwo(distillation_negatives=60, beta=0.5)
    losses = two_codes_loss(config, spaces, model, batch)
    one, two = model(batch.history, batch.targets)
    torch.testing.assert_close(losses["generation"], one.loss + two.loss)
    expected = torch.zeros(())
    for output in (one, two):
        unit = torch.nn.functional.normalize
        logits = unit(output.distillation, dim=1) @ unit(spaces[0], dim=1).T / 0.07
        expected = expected + 0.5 * torch.nn.functional.cross_entropy(logits, batch.targets)
    torch.testing.assert_close(losses["distillation"], expected)


def test_scaling_has_hstu_beside(pipeline: Pipeline) -> None:
    found = study(pipeline, "scaling", "1,2")
    assert names(found) == [f"{m}, depth {n}" for m in ("PRORec", "HSTU") for n in (1, 2)]
    added = {name for name in complete(pipeline) if "num_decoder_layers=2" in name}
    assert {name.split(",")[0] for name in added} == {"variants/stage_two", "variants/test"}


def test_quantizers_and_encoders(pipeline: Pipeline, tmp_path: Path) -> None:
    found = study(pipeline, "quantizers")
    assert len(names(found)) == 6
    facts: dict[str, dict[str, object]] = found["facts"]  # type: ignore[assignment]
    assert facts["RQ-VAE with suffix"]["levels"] == 4
    assert facts["RQ"]["levels"] == facts["PQ"]["levels"] == facts["random"]["levels"] == 3
    found = study(pipeline, "encoders", "lsa")
    assert found["facts"]["lsa"]["dimensions"] > 0  # type: ignore[index]
    files = [tmp_path / folder / "vectors.npy" for folder in ("one", "two")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        vectors = np.random.default_rng(seed).normal(size=(len(pipeline.data.catalog), 8))
        np.save(file, vectors.astype(np.float32))
    found = study(pipeline, "encoders", f"{files[0]}")
    assert names(found) == ["lsa", "vectors.npy"]
    found = study(pipeline, "encoders", f"{files[0]},{files[1]}")
    assert names(found) == ["lsa", str(files[0]), str(files[1])]


def test_an_encoder_that_is_not_there_is_refused_before_anything_is_trained(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    there, absent = tmp_path / "there.npy", tmp_path / "absent.npy"
    np.save(there, np.random.default_rng(0).normal(size=(len(pipeline.data.catalog), 8)))
    before = complete(pipeline)
    with pytest.raises(CatalogError, match=r"absent\.npy"):
        study(pipeline, "encoders", f"{there},{absent}")
    (new,) = set(complete(pipeline)) - set(before)
    assert new.startswith("variants/text,")


def test_encoders_of_several_views(pipeline: Pipeline) -> None:
    several = pipeline.varied(text={"by_field": True})
    (facts,) = encoders(several, [0], values=["lsa"]).facts.values()
    assert len(several.views()) == 3
    assert facts["dimensions"] == sum(view.text().shape[1] for view in several.views())


def test_rivals_have_as_many_trials_each(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {"num_encoder_layers": 1, "num_decoder_layers": 1, "feedforward_dim": 16}
    monkeypatch.setattr(rivals, "_TIGER", {**rivals._TIGER, **tiny})
    codes = {**rivals._TIGER_CODES, "codebook_size": 8, "epochs": 2}
    monkeypatch.setattr(rivals, "_TIGER_CODES", codes)
    found = study(pipeline, "rivals", "1")
    assert names(found)[:2] == ["PRORec", "SASRec, ids, full softmax"]
    assert {"TIGER", "EAGER's two codes", "BERT4Rec, ids", "graph + text"} <= set(names(found))
    one = tiger(pipeline).pipeline
    assert one.tokenizer.semantic_ids.num_levels == 4
    assert one.generator().config.output_vocabulary == "level"


def test_the_best_trial_on_validation_is_tested(pipeline: Pipeline) -> None:
    contestant = prorec(pipeline)
    found = searched(contestant, 2, [0])
    values = {}
    for changes in GENERATOR_TRIALS[:2]:
        one = pipeline.varied(stage_two=changes)
        words = ", ".join(f"{name} {value}" for name, value in changes.items()) or "the run's own"
        facts = pipeline.run.facts(one.generator_stage)
        values[words] = facts["validation"]["ndcg@10 filtered"]
    assert found.chosen == max(values, key=lambda words: values[words])
    assert found.validation == values[found.chosen]


@pytest.mark.parametrize("count", [0, len(GENERATOR_TRIALS) + 1])
def test_trials_are_counted_before_any(pipeline: Pipeline, count: int) -> None:
    before = complete(pipeline)
    with pytest.raises(ValueError, match=rf"num_trials must be in \[1, 8\], got {count}"):
        searched(prorec(pipeline), count, [0])
    with pytest.raises(typer.BadParameter, match=rf"--values must be one number.*got {count}"):
        STUDIES["rivals"](pipeline, [0], values=[count])  # type: ignore[call-arg]
    assert complete(pipeline) == before


def test_tiger_is_what_it_is_whatever_the_run(pipeline: Pipeline) -> None:
    changes = {"distillation_state": "first", "train_item_vectors": True}
    assert (
        tiger(pipeline.varied(stage_two=changes)).pipeline.config == tiger(pipeline).pipeline.config
    )


def test_what_is_joined_is_weighed_on_validation(pipeline: Pipeline) -> None:
    found = study(pipeline, "joining")
    facts: dict[str, dict[str, str]] = found["facts"]  # type: ignore[assignment]
    for name in ("stage I", "transition prior", "popularity corrected", "graph + text"):
        assert float(facts[name]["on validation"]) >= 0  # a weight of 0 is always tried
    assert "stage_one" not in facts["all joined, without generation"]["weights"]
    stages = complete(pipeline)
    assert "candidates_test" in stages  # shared by all that is joined to the run's own lists
    lists = [name for name in stages if "candidates_test" in name]
    assert len(lists) == 3, lists


def test_what_has_no_texts_is_joined_without_them(pipeline: Pipeline) -> None:
    catalog = dataclasses.replace(pipeline.data.catalog, fields={})
    data = dataclasses.replace(pipeline.data, catalog=catalog)
    found = joining(dataclasses.replace(pipeline, data=data), [0])
    assert not any("graph + text" in name for name in found.systems)
    assert set(str(found.facts["all joined"]["weights"]).split(", ")) == {
        f"{name} {weight}"
        for name, weight in pipeline.run.facts(
            joined_stage(pipeline.varied(joining={"graph_text": False}))
        )["weights"].items()
    }


def test_what_lies_beyond_is_trained_anew(pipeline: Pipeline) -> None:
    found = study(pipeline, "beyond")
    assert names(found)[0] == "PRORec"
    facts: dict[str, dict[str, str]] = found["facts"]  # type: ignore[assignment]
    assert float(facts["dense item head, joined"]["on validation"]) >= 0
    assert "c_dis" in facts["dense item head, all joined"]["weights"]


def test_a_run_may_join(pipeline: Pipeline) -> None:
    reports = run_stages(pipeline)
    assert list(reports)[:2] == ["PRORec", "PRORec, joined"]
    semantic = pipeline.varied(codes={"source": "semantic"})
    joined(semantic)
    weights = pipeline.run.facts(joined_stage(semantic))["weights"]
    assert set(weights) == {"stage_one", "graph_text", "popularity", "seen"}


def test_the_examples_of_a_run_that_joins_are_what_it_recommends(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run = [[pipeline.data.catalog.item_ids[row] for row in (1, 2, 3)]], pipeline.run.path
    shown = []
    section = sections.examples_section

    def examples(data: Data, recommend: Any, seed: int) -> Section:
        shown.extend(recommend(asked))
        return section(data, recommend, seed)

    monkeypatch.setattr(sections, "examples_section", examples)
    run_stages(pipeline)
    recommender = load_recommender(run, pipeline.config, torch.device("cpu"))
    assert isinstance(recommender, JoinedRecommender)
    assert shown == recommender.recommend(asked)
    assert shown != Recommender.load(run / "stage_two/model").recommend(asked)


@pytest.mark.parametrize("source", ["integrated", "semantic", "concatenated"])
def test_spaces_are_named_after_what_became_codes(source: str) -> None:
    semantic, own, final = torch.randn(3, 40, 4, generator=torch.Generator().manual_seed(0))
    spaces = modality_spaces(semantic, own, final, source, 0)
    assert list(spaces) == list(dict.fromkeys([source, "concatenated"]))
    assert spaces[source][0] is final


def test_kept_graphs_score_as_the_floors_did(pipeline: Pipeline) -> None:
    data, config = pipeline.data, pipeline.config
    reports = fit_and_test_floors(pipeline.run, data, config.text.fields, config.evaluation.ks)
    graphs = load_graph_floors(pipeline.run.path)
    assert list(graphs) == ["graph", "graph + text"]
    for name, floor in graphs.items():
        again = evaluate(data.split.test, floor.score, ks=config.evaluation.ks)
        assert again.metrics == reports[name].metrics


def test_timing_goes_round_all_systems() -> None:
    calls: list[str] = []

    class Found:
        items = torch.zeros(1)

    def system(name: str) -> object:
        return lambda history: calls.append(name) or Found()

    found = timed(
        {"one": system("one"), "two": system("two")},  # type: ignore[dict-item]
        {1: [torch.zeros(1, 1, dtype=torch.long)] * 2},
        2,
        lambda done, total: None,
    )
    assert calls[:4] == ["one", "one", "two", "two"]
    assert set(found) == {"one", "two"}
    assert all(low <= median <= high for median, low, high in (r["1"] for r in found.values()))


def test_spaces_are_what_they_are_called() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {name: torch.randn(5, 3, generator=generator) for name in ("collaborative", "adapted")}
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(
        integrated(tables, "sum"), unit(tables["collaborative"] + tables["adapted"], dim=1)
    )
    both = integrated(tables, "concatenated")
    assert both.shape == (5, 6)
    torch.testing.assert_close(both[:, :3] * 2**0.5, unit(tables["collaborative"], dim=1))
    semantic = torch.randn(20, 7, generator=generator)
    own = torch.randn(20, 3, generator=generator)
    plain = concatenated(semantic, own, unit=False)
    assert plain.shape == (20, 6)
    assert plain[:, 3:].equal(own)
    assert float(plain[:, :3].std(correction=0)) == pytest.approx(1, abs=1e-4)
    lengths = concatenated(semantic, own, unit=True)[:, 3:].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(20))


def test_settings_without_effect_are_refused(pipeline: Pipeline) -> None:
    for options, words in (
        ({"quantizer": "pq", "balanced": True}, "balanced must be unset where quantizer is 'pq'"),
        ({"num_levels": 3}, "num_levels must be unset where quantizer is 'hierarchical'"),
        ({"quantizer": "rq", "epochs": 3}, "epochs must be unset where quantizer is 'rq'"),
        ({"quantizer": "rq", "num_levels": 0}, "num_levels must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Codes(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="further must be embeddings not named yet"):
        Text(embedding="lsa", further=("lsa",))
    with pytest.raises(ValueError, match=r"joining\.c_dis needs stage_two\.distillation_state"):
        Config(joining=Joining(c_dis=True))
    din, before = pipeline.varied(stage_one={"backbone": "din"}), complete(pipeline)
    for begin in (STUDIES["rivals"], STUDIES["scaling"], lambda one, _: one.rival("hstu", "ids")):
        with pytest.raises(ValueError, match=r"stage_one\.backbone must be 'sasrec'"):
            begin(din, [0])
    assert complete(pipeline) == before


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("ablation", "1", "--values must be unset for ablation: encoders, clusters, scaling"),
        ("scaling", "1,two", "--values must be whole numbers"),
        ("clusters", "4,4", "--values must be different"),
    ],
)
def test_wrong_values_of_a_study_are_refused(name: str, values: str, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        with_values(STUDIES, name, values)


def test_views_are_shared_with_the_encoders_study(pipeline: Pipeline) -> None:
    views = pipeline.varied(text={"by_field": True}).views()
    assert [view.config.text.fields for view in views] == [
        (field,) for field in pipeline.config.text.fields if field in pipeline.data.catalog.fields
    ]
    further = pipeline.varied(text={"further": ("minilm",)})
    (own, other), alone = further.views(), pipeline.varied(text={"embedding": "minilm"})
    assert (own.text_stage, other.text_stage) == ("text", alone.text_stage)
    assert other.text_stage == "variants/text,text.embedding=minilm"
