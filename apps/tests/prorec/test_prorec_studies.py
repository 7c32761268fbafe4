"""PRORec's studies, in one process on a tiny run: shared stages, interruption, the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from evalrec import cooccurrences, evaluate, write_synthetic
from evalrec.page import Section
from genrec import BACKBONE_TITLES, LIGER, Batch, Recommender, dense_scorer, rank_histories
from semtok import CatalogError

from semrec.prorec.app import APP as PRORec
from semrec.prorec.config import PLAIN_STAGE_TWO, Codes, Config, Joining, StageTwo, Text
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.model import concatenated, integrated, item_graph
from semrec.prorec.recommender import JoinedRecommender
from semrec.prorec.report import modality_spaces
from semrec.prorec.studies import newer, rivals
from semrec.prorec.studies.beyond import joining
from semrec.prorec.studies.newer import liger, with_rpg_codes
from semrec.prorec.studies.rivals import GENERATOR_TRIALS, prorec, recforest, searched, tiger
from semrec.prorec.studies.speed import timed
from semrec.prorec.studies.tables import STUDIES, encoders
from semrec.prorec.studies.two_codes import load_two_codes, two_codes, two_codes_loss
from semrec.shared import findings as findings_module
from semrec.shared.configuration import build_config
from semrec.shared.data import Data
from semrec.shared.files import files_digest
from semrec.shared.stages import kept_floors
from semrec.shared.studies import run_study
from semrec.shared.study_options import with_values

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 items, 120 users."""
    folder = tmp_path_factory.mktemp("data") / "data"
    return write_synthetic(folder, num_items=60, num_users=120, seed=3)


@pytest.fixture(scope="module")
def pipeline(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PRORecPipeline:
    config = build_config(Config, SMALL, "SMALL")
    pipeline = PRORec.open(folder, tmp_path_factory.mktemp("studies") / "run", config, "cpu")
    PRORec.complete(pipeline)
    return pipeline


def study(pipeline: PRORecPipeline, name: str, values: str | None = None) -> dict[str, object]:
    chosen = with_values(STUDIES, name, values)
    run_study(name, chosen, pipeline, [0], PRORec.complete)
    kept: dict[str, object] = json.loads(
        (pipeline.run.path / f"studies/{name}.json").read_text(encoding="utf-8")
    )
    return kept


def finished(pipeline: PRORecPipeline) -> dict[str, int]:
    """When each complete stage was finished."""
    root = pipeline.run.path
    return {
        str(path.parent.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("stage.json")
    }


def names(kept: dict[str, object]) -> list[str]:
    return [system["name"] for system in kept["comparison"]["systems"]]  # type: ignore[index]


def test_an_interrupted_study_goes_on_and_reuses_what_is_there(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = finished(pipeline)
    test, tested = PRORecPipeline.test, []

    def stopped(self: PRORecPipeline) -> object:
        if self.config not in tested:
            tested.append(self.config)
        if len(tested) == 3:
            raise KeyboardInterrupt
        return test.__get__(self)

    with monkeypatch.context() as patch:
        patch.setattr(PRORecPipeline, "test", property(stopped))
        with pytest.raises(KeyboardInterrupt):
            study(pipeline, "ablation")
    first = finished(pipeline)
    undistilled = "stage_two.beta=0.0"
    assert set(first) - set(before) == {
        f"variants/stage_two,{undistilled}",
        f"variants/test,{undistilled}",
    }
    kept = study(pipeline, "ablation")
    after = finished(pipeline)
    assert {name: after[name] for name in first} == first
    unaligned = "stage_one.alpha=0.0"
    assert set(after) - set(first) == {
        *(f"variants/{s},{unaligned}" for s in ("stage_one", "tokenizer", "stage_two", "test")),
        *(f"variants/{s},{unaligned},{undistilled}" for s in ("stage_two", "test")),
        "variants/tokenizer,codes.source=concatenated",
        *(f"variants/{s},codes.source=concatenated,{undistilled}" for s in ("stage_two", "test")),
    }
    assert names(kept) == [
        "PRORec",
        "without distillation",
        "without alignment",
        "without both",
        "concatenated, without both",
    ]
    assert "Study: alignment and distillation" in (pipeline.run.path / "report.html").read_text()


def test_a_run_does_not_show_what_a_study_has_trained_or_begun(pipeline: PRORecPipeline) -> None:
    plain = pipeline.varied(evaluation={"reference": False})
    PRORec.complete(plain)
    before = (pipeline.run.path / "metrics.json").read_text(encoding="utf-8")
    assert '"reference"' not in before
    marker = pipeline.run.path / "reference/stage.json"
    hidden = marker.rename(marker.with_name("hidden.json"))
    try:  # as a study that was stopped in its training leaves it
        PRORec.complete(plain)
        assert plain.test.is_complete
        assert not plain.reference.is_complete
    finally:
        hidden.rename(marker)
    assert (pipeline.run.path / "metrics.json").read_text(encoding="utf-8") == before


def test_codes_do_not_retrain_stage_one(
    pipeline: PRORecPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished(pipeline)
    kept = study(pipeline, "clusters", "4,8")
    assert names(kept) == ["K = 8", "K = 4"]
    said = capsys.readouterr().err
    assert said.index("-- K = 8 (1 of 2)") < said.index("-- K = 4 (2 of 2)")
    added = set(finished(pipeline)) - set(before)
    assert added == {
        f"variants/{stage},codes.codebook_size=4" for stage in ("tokenizer", "stage_two", "test")
    }


def test_domination_shows_what_each_space_keeps(pipeline: PRORecPipeline) -> None:
    kept = study(pipeline, "domination")
    shares = {name: facts["semantic share"] for name, facts in kept["facts"].items()}  # type: ignore[attr-defined]
    assert shares["semantic only"] == "100.0%"
    assert shares["collaborative only"] == "0.0%"
    page = (pipeline.run.path / "report.html").read_text()
    assert "Study: domination of one modality" in page
    stages = [name for name in finished(pipeline) if "codes.source=semantic" in name]
    assert sorted(name.split(",")[0] for name in stages) == [
        "variants/stage_two",
        "variants/test",
        "variants/tokenizer",
    ]


def test_one_code_is_timed_beside_two(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("semrec.prorec.studies.speed.AT_ONCE", (1, 4)),
        ("semrec.prorec.studies.speed.ROUNDS", 2),
    ):
        monkeypatch.setattr(name, value)
    monkeypatch.setattr("semrec.prorec.studies.tables.AT_ONCE", (1, 4))
    kept = study(pipeline, "speed")
    assert names(kept) == ["PRORec", "two codes"]
    facts = kept["facts"]
    assert all(float(value) > 0 for row in facts.values() for value in row.values())  # type: ignore[attr-defined]
    model = load_two_codes(pipeline)
    assert len(model.streams) == 2
    semantic = pipeline.varied(codes={"source": "semantic"}).tokenizer.result()
    assert model.streams[0].trie.codes.tolist() == semantic.semantic_ids.codes.tolist()
    assert two_codes(pipeline).result().counts["users"] == 120


def test_two_codes_lose_what_each_stream_loses(pipeline: PRORecPipeline) -> None:
    model = load_two_codes(pipeline)  # trained, unless that was done
    batch = Batch(
        history=torch.tensor([[1, 2], [3, 60]]),
        targets=torch.tensor([4, 5]),
        users=torch.arange(2),
    )
    spaces = [torch.randn(60, 8, generator=torch.Generator().manual_seed(0))] * 2
    config = StageTwo(distillation_negatives=60, beta=0.5)
    losses = two_codes_loss(config, spaces, model, batch)
    outputs = model(batch.history, batch.targets)
    assert len(outputs) == 2
    torch.testing.assert_close(losses["generation"], outputs[0].loss + outputs[1].loss)
    expected = torch.zeros(())
    for output in outputs:
        unit = torch.nn.functional.normalize
        logits = unit(output.distillation, dim=1) @ unit(spaces[0], dim=1).T / 0.07
        expected = expected + 0.5 * torch.nn.functional.cross_entropy(logits, batch.targets)
    torch.testing.assert_close(losses["distillation"], expected)


def test_scaling_has_hstu_beside(pipeline: PRORecPipeline) -> None:
    kept = study(pipeline, "scaling", "1,2")
    assert names(kept) == [f"{m}, depth {n}" for m in ("PRORec", "HSTU") for n in (1, 2)]
    added = {name for name in finished(pipeline) if "num_decoder_layers=2" in name}
    assert {name.split(",")[0] for name in added} == {"variants/stage_two", "variants/test"}


def test_quantizers_and_encoders(pipeline: PRORecPipeline, tmp_path: Path) -> None:
    kept = study(pipeline, "quantizers")
    assert len(names(kept)) == 6
    facts: dict[str, dict[str, object]] = kept["facts"]  # type: ignore[assignment]
    assert facts["RQ-VAE with suffix"]["levels"] == 4
    assert facts["RQ"]["levels"] == facts["PQ"]["levels"] == facts["random"]["levels"] == 3
    kept = study(pipeline, "encoders", "lsa")
    assert kept["facts"]["lsa"]["dimensions"] > 0  # type: ignore[index]
    files = [tmp_path / folder / "vectors.npy" for folder in ("first", "second")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        vectors = np.random.default_rng(seed).normal(size=(len(pipeline.data.catalog), 8))
        np.save(file, vectors.astype(np.float32))
    kept = study(pipeline, "encoders", f"{files[0]}")
    assert names(kept) == ["lsa", "vectors.npy"]
    kept = study(pipeline, "encoders", f"{files[0]},{files[1]}")
    assert names(kept) == ["lsa", str(files[0]), str(files[1])]


def test_an_encoder_that_is_not_there_is_refused_before_anything_is_trained(
    pipeline: PRORecPipeline, tmp_path: Path
) -> None:
    present, absent = tmp_path / "present.npy", tmp_path / "absent.npy"
    np.save(present, np.random.default_rng(0).normal(size=(len(pipeline.data.catalog), 8)))
    before = finished(pipeline)
    with pytest.raises(CatalogError, match=r"absent\.npy"):
        study(pipeline, "encoders", f"{present},{absent}")
    (new,) = set(finished(pipeline)) - set(before)
    assert new.startswith("variants/text,")


def test_encoders_of_several_views(pipeline: PRORecPipeline) -> None:
    several = pipeline.varied(text={"by_field": True})
    (facts,) = encoders(several, [0], values=["lsa"]).facts.values()
    assert len(several.texts) == 3
    assert facts["dimensions"] == sum(text.result().shape[1] for text in several.texts)


def test_rivals_have_as_many_trials_each(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"num_decoder_layers": 1, "epochs": 1, "warmup_steps": 5}
    monkeypatch.setattr(rivals, "PLAIN_STAGE_TWO", {**PLAIN_STAGE_TWO, **short})
    tiny = {**short, "num_encoder_layers": 1, "feedforward_dim": 16}
    monkeypatch.setattr(rivals, "TIGER", {**rivals.TIGER, **tiny})
    codes = {**rivals.TIGER_CODES, "codebook_size": 8, "epochs": 2}
    monkeypatch.setattr(rivals, "TIGER_CODES", codes)
    kept = study(pipeline, "rivals", "1")
    assert names(kept)[:2] == ["PRORec", "SASRec, ids, full softmax"]
    of_text = {"fdsa", "unisrec", "s3rec"}
    elsewhere = {"sasrec", "tedrec", "vqrec", "rpg", "ensrec"}
    classics = {
        f"{title}, {'ids and text' if backbone in of_text else 'ids'}"
        for backbone, title in BACKBONE_TITLES.items()
        if backbone not in elsewhere
    }
    generators = {"TIGER", "EAGER's two codes", "RecForest's two trees"}
    assert classics | generators | {"graph + text"} <= set(names(kept))
    forest = recforest(pipeline).pipeline.varied(seed=0)
    trees = [forest.varied(codes={"draw": draw}) for draw in (0, 1)]
    assert torch.equal(trees[0].embeddings, trees[1].embeddings)
    assert trees[0].codes().codes.tolist() != trees[1].codes().codes.tolist()
    variant = tiger(pipeline).pipeline
    assert variant.tokenizer.result().semantic_ids.num_levels == 4
    assert variant.stage_two.result().config.output_vocabulary == "level"


def test_newer_rivals_read_codes_of_the_text_and_rank_what_is_generated(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"num_decoder_layers": 1, "epochs": 1, "warmup_steps": 5}
    monkeypatch.setattr(newer, "PLAIN_STAGE_TWO", {**PLAIN_STAGE_TWO, **short})
    kept = study(pipeline, "newer", "1")
    ligers, rpg = "LIGER, ranked by stage I", "RPG, codes of the text"
    assert names(kept) == ["PRORec", rpg, "EnsRec, ids and text", ligers]
    ids = with_rpg_codes(pipeline).varied(seed=0).codes()
    assert ids.num_levels == 8  # as many as the text has dimensions, where 32 are too many
    variant = liger(pipeline).pipeline.varied(seed=0)
    generator = variant.stage_two.result().eval()
    ranker = variant.trained_backbone(variant.semantic).eval()
    histories = variant.data.split.test.histories[:5]
    ranked = rank_histories(LIGER(generator, ranker), histories, num_beams=6).items
    scores = dense_scorer(ranker, 20)(histories)
    for row, items in enumerate(ranked.tolist()):
        beam = rank_histories(generator, histories[row : row + 1], num_beams=6).items[0].tolist()
        assert items == sorted(beam, key=lambda item: -float(scores[row, item]))


def test_the_best_trial_on_validation_is_tested(pipeline: PRORecPipeline) -> None:
    contestant = prorec(pipeline)
    best = searched(contestant, 2, [0])
    values = {}
    for changes in GENERATOR_TRIALS[:2]:
        words = ", ".join(f"{name} {value}" for name, value in changes.items()) or "the run's own"
        facts = pipeline.varied(stage_two=changes).stage_two.complete()
        values[words] = facts["validation"]["ndcg@10 filtered"]
    assert best.chosen == max(values, key=lambda words: values[words])
    assert best.validation == values[best.chosen]


@pytest.mark.parametrize("count", [0, len(GENERATOR_TRIALS) + 1])
def test_trials_are_counted_before_any(pipeline: PRORecPipeline, count: int) -> None:
    before = finished(pipeline)
    with pytest.raises(ValueError, match=rf"num_trials must be in \[1, 8\], got {count}"):
        searched(prorec(pipeline), count, [0])
    with pytest.raises(typer.BadParameter, match=rf"--values must be one number.*got {count}"):
        STUDIES["rivals"](pipeline, [0], values=[count])  # type: ignore[call-arg]
    assert finished(pipeline) == before


def test_tiger_is_what_it_is_whatever_the_run(pipeline: PRORecPipeline) -> None:
    changes = {
        "distillation_state": "first",
        "history_input": "vectors",
        "train_item_vectors": True,
    }
    assert (
        tiger(pipeline.varied(stage_two=changes)).pipeline.config == tiger(pipeline).pipeline.config
    )


def test_what_is_joined_is_weighed_on_validation(pipeline: PRORecPipeline) -> None:
    kept = study(pipeline, "joining")
    facts: dict[str, dict[str, str]] = kept["facts"]  # type: ignore[assignment]
    for name in ("stage I", "transition prior", "popularity corrected", "graph + text"):
        assert float(facts[name]["on validation"]) >= 0  # a weight of 0 is always tried
    assert "stage_one" not in facts["all joined, without generation"]["weights"]
    stages = finished(pipeline)
    assert "candidates_test" in stages  # shared by all that is joined to the run's own lists
    lists = [name for name in stages if "candidates_test" in name]
    assert len(lists) == 3, lists


def test_what_has_no_texts_is_joined_without_them(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The texts are embedded already, as if the embeddings had been stored ones.
    monkeypatch.setattr(type(pipeline.config), "check", lambda *_: [])
    catalog = dataclasses.replace(pipeline.data.catalog, fields={})
    data = dataclasses.replace(pipeline.data, catalog=catalog)
    outcome = joining(dataclasses.replace(pipeline, inputs=data), [0])
    assert not any("graph + text" in name for name in outcome.systems)
    facts = pipeline.varied(joining={"graph_text": False}).joined.complete()
    assert set(str(outcome.facts["all joined"]["weights"]).split(", ")) == {
        f"{name} {weight}" for name, weight in facts["weights"].items()
    }


def test_what_lies_beyond_is_trained_anew(pipeline: PRORecPipeline) -> None:
    kept = study(pipeline, "beyond")
    assert names(kept)[0] == "PRORec"
    facts: dict[str, dict[str, str]] = kept["facts"]  # type: ignore[assignment]
    assert float(facts["dense item head, joined"]["on validation"]) >= 0
    assert "c_dis" in facts["dense item head, all joined"]["weights"]


def test_a_run_may_join(pipeline: PRORecPipeline) -> None:
    reports = PRORec.complete(pipeline)
    assert list(reports)[:2] == ["PRORec", "PRORec, joined"]
    facts = pipeline.varied(codes={"source": "semantic"}).joined.complete()
    assert set(facts["bases"]) == {"generation", "stage_one", "graph_text"}
    best = max(facts["bases"].values(), key=lambda choice: choice["validation"])
    assert facts["validation"] == best["validation"] == facts["bases"][facts["base"]]["validation"]
    assert set(facts["weights"]) | {facts["base"]} == {
        *("generation", "stage_one", "graph_text", "popularity", "seen"),
    } - ({"generation"} - {facts["base"]})


def test_the_examples_of_a_run_that_joins_are_what_it_recommends(
    pipeline: PRORecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pipeline.run.path
    histories = [[pipeline.data.catalog.item_ids[row] for row in (1, 2, 3)]]
    shown = []
    section = findings_module.examples_section

    def examples(data: Data, recommend: Any, seed: int) -> Section:
        shown.extend(recommend(histories))
        return section(data, recommend, seed)

    monkeypatch.setattr(findings_module, "examples_section", examples)
    PRORec.complete(pipeline)
    recommender = PRORec.reopen(run, "cpu").recommender()
    assert isinstance(recommender, JoinedRecommender)
    assert shown == recommender.recommend(histories)
    assert shown != Recommender.load(run / "stage_two/model").recommend(histories)


@pytest.mark.parametrize("source", ["integrated", "semantic", "concatenated"])
def test_spaces_are_named_after_what_became_codes(pipeline: PRORecPipeline, source: str) -> None:
    variant = pipeline.varied(codes={"source": source})
    spaces = modality_spaces(variant)
    assert list(spaces) == list(dict.fromkeys([source, "concatenated"]))
    assert spaces[source][0] is variant.embeddings


def test_a_run_without_a_reference_has_no_shares(pipeline: PRORecPipeline) -> None:
    assert modality_spaces(pipeline.varied(evaluation={"reference": False})) == {}


def test_what_generation_is_made_of_adds_up(pipeline: PRORecPipeline) -> None:
    kept = study(pipeline, "generation")
    rows = names(kept)
    assert rows[:3] == ["PRORec", "the paper's generator", "one decoder layer"]
    assert rows[-1] == "two trees"
    facts: dict[str, dict[str, str]] = kept["facts"]  # type: ignore[assignment]
    # The last of the rows that add up is the run's own generator, not another one.
    assert facts["text in the tree"] == facts["PRORec"]
    assert set(facts) == set(rows) - {"two trees"}


def test_the_tree_tells_no_target_of_training(pipeline: PRORecPipeline) -> None:
    """What a training example reads of the graph is what a graph without its future would say."""
    train, num_items = pipeline.data.split.train, len(pipeline.data.catalog)
    floor = kept_floors(pipeline.floors, ("graph",))["graph"]
    graph = item_graph({"graph": floor}, num_items)
    users = [user for user, history in enumerate(train) if len(history) > 3][:3]
    for user in users:
        history, future = train[user][:-2], train[user][-2:]
        scores = graph(torch.tensor(history)[None], torch.tensor(future)[None])
        others = [*train[:user], history, *train[user + 1 :]]
        without = dataclasses.replace(floor, matrix=cooccurrences(others, num_items))
        torch.testing.assert_close(
            scores.dense(1, num_items)[0], without.score([history]), atol=1e-4, rtol=1e-4
        )
        told = floor.score([history])
        assert float((told - without.score([history]))[0, future[0]]) > 0


def test_kept_graphs_score_as_the_floors_did(pipeline: PRORecPipeline) -> None:
    names = ("graph", "text", "graph + text")
    reports, graphs = pipeline.floors.result(), kept_floors(pipeline.floors, names)
    assert tuple(graphs) == names
    for name, floor in graphs.items():
        again = evaluate(pipeline.data.split.test, floor.score, ks=pipeline.config.evaluation.ks)
        assert again.metrics == reports[name].metrics


def test_timing_goes_round_all_systems() -> None:
    calls: list[str] = []

    class Answered:
        items = torch.zeros(1)

    def system(name: str) -> object:
        return lambda history: calls.append(name) or Answered()

    seconds = timed(
        {name: system(name) for name in ("first", "second")},  # type: ignore[misc]
        {1: [torch.zeros(1, 1, dtype=torch.long)] * 2},
        2,
        lambda done, total: None,
    )
    assert calls[:4] == ["first", "first", "second", "second"]
    assert set(seconds) == {"first", "second"}
    assert all(low <= median <= high for median, low, high in (r["1"] for r in seconds.values()))


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
    collaborative = torch.randn(20, 3, generator=generator)
    plain = concatenated(semantic, collaborative, unit=False)
    assert plain.shape == (20, 6)
    assert plain[:, 3:].equal(collaborative)
    assert float(plain[:, :3].std(correction=0)) == pytest.approx(1, abs=1e-4)
    lengths = concatenated(semantic, collaborative, unit=True)[:, 3:].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(20))


def test_settings_without_effect_are_refused(pipeline: PRORecPipeline) -> None:
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
    din = {"backbone": "din", "num_heads": 4, "num_layers": 2}  # as they are by default
    with pytest.raises(ValueError, match=r"stage_one\.backbone must be 'sasrec' where stage_two"):
        pipeline.varied(stage_one=din)
    reads_itself = {"history_input": "vectors"}
    variant = pipeline.varied(stage_one=din, stage_two=reads_itself)
    before = finished(pipeline)
    for begin in (STUDIES["rivals"], STUDIES["scaling"], lambda run, _: run.rival("hstu", "ids")):
        with pytest.raises(ValueError, match=r"stage_one\.backbone must be 'sasrec'"):
            begin(variant, [0])
    assert finished(pipeline) == before


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


def test_views_are_shared_with_the_encoders_study(pipeline: PRORecPipeline) -> None:
    views = pipeline.varied(text={"by_field": True}).texts
    assert [view.config.text.fields for view in views] == [  # type: ignore[attr-defined]
        (field,) for field in pipeline.config.text.fields if field in pipeline.data.catalog.fields
    ]
    text, further = pipeline.varied(text={"further": ("minilm",)}).texts
    (alone,) = pipeline.varied(text={"embedding": "minilm"}).texts
    assert (text.folder_name, further.folder_name) == ("text", alone.folder_name)
    assert alone.folder_name == "variants/text,text.embedding=minilm"


def test_a_file_of_other_contents_is_trained_anew(
    pipeline: PRORecPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, stages, digests = "changed.npy", [], []
    of_the_file = with_values(STUDIES, "encoders", file)
    for seed in (0, 1):
        vectors = np.random.default_rng(seed).normal(size=(len(pipeline.data.catalog), 8))
        np.save(file, vectors.astype(np.float32))
        digests.append(files_digest(file))
        before = finished(pipeline)
        assert list(of_the_file(pipeline, [0]).systems) == ["lsa", file]
        after = finished(pipeline)
        assert {name: after[name] for name in before} == before
        stages.append(set(after) - set(before))
        (text,) = pipeline.varied(text={"embedding": file}).texts
        assert text.folder_name in stages[-1]
        np.testing.assert_array_equal(text.result(), vectors.astype(np.float32))
    for trained, digest in zip(stages, digests, strict=True):
        assert sorted(name.split(",")[0] for name in trained) == [
            f"variants/{name}" for name in ("stage_one", "stage_two", "test", "text", "tokenizer")
        ]
        # A folder's name has no "@", which stands before the digest.
        assert all(f",text.embedding={file}_{digest[1:]}-" in name for name in trained)
    assert digests[0] != digests[1]
    before = finished(pipeline)
    of_the_file(pipeline, [0])
    assert finished(pipeline) == before


@pytest.mark.parametrize(
    ("name", "taken"),
    [("stage_one", "text"), ("tokenizer", "stage_one"), ("test", "stage_two")],
)
def test_a_stage_takes_no_result_that_it_does_not_name(
    pipeline: PRORecPipeline, name: str, taken: str
) -> None:
    stage = dataclasses.replace(getattr(pipeline.varied(seed=1), name), name="unnamed", after=())
    with pytest.raises(AssertionError, match=rf"uses (variants/)?{taken}.* naming it in `after`"):
        stage.complete()
    assert not stage.is_complete


def test_a_run_answers_without_its_data_and_its_texts(folder: Path, tmp_path: Path) -> None:
    values = {
        **SMALL,
        "text": {"embedding": "lsa", "dim": 8, "by_field": True},
        "codes": {"codebook_size": 8, "source": "concatenated"},
    }
    pipeline = PRORec.open(folder, tmp_path / "run", build_config(Config, values, "values"), "cpu")
    PRORec.complete(pipeline)
    histories = [[pipeline.data.catalog.item_ids[row] for row in (1, 2, 3)]]
    answers = pipeline.recommender().recommend(histories)
    for text in pipeline.texts:
        shutil.rmtree(pipeline.run.path / text.folder_name)
    shutil.rmtree(pipeline.run.path / pipeline.reference.folder_name)
    assert PRORec.reopen(tmp_path / "run", "cpu").recommender().recommend(histories) == answers
