"""The app of language models, as its users run it, small."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from semtok.hf import ItemTokens
from transformers import LlamaConfig, LlamaForCausalLM

import semrec
from semrec.llm.config import Config, Model
from semrec.llm.networks import word_tokenizer
from semrec.shared.configuration import build_config, load_config
from semrec.shared.errors import ExperimentError

Launch = Callable[..., subprocess.CompletedProcess[str]]
OfApp = Callable[[str], Path]


@pytest.fixture(scope="module")
def run(completed: OfApp) -> semrec.LoadedRun:
    """A complete run, opened to be answered from."""
    return semrec.load_run(completed("llm"), device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights with its tokenizer, as a user has one in a folder."""
    folder = tmp_path_factory.mktemp("base") / "llama"
    tokenizer = word_tokenizer([Model.prompt, "red blue soap cream brush"])
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
        )
    )
    tokenizer.save_pretrained(folder)
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"prompt": "what next?"}}, "model.prompt must hold {history} once"),
        ({"model": {"items": "titles"}}, "model.items must be"),
        ({"model": {"history_length": 0}}, "model.history_length must be at least 1, got 0"),
        ({"model": {"lora_rank": 0}}, "model.lora_rank must be at least 1, got 0"),
        ({"model": {"lora_dropout": 1.0}}, "model.lora_dropout must be in [0, 1), got 1.0"),
        ({"model": {"title_length": 9}}, "model.title_length must be left out where items are"),
        (
            {"model": {"model": "tiny-qwen", "lora_rank": 4}},
            "model.lora_rank must be left out where model is 'tiny-qwen'",
        ),
        ({"codes": {"quantizer": "tree"}}, "codes.quantizer must be one of rq, pq, rqvae"),
        ({"codes": {"codebook_size": 1}}, "codes.codebook_size must be at least 2, got 1"),
        ({"text": {"fields": []}}, "text.fields must be at least one"),
        ({"evaluation": {"num_beams": 5}}, "evaluation.num_beams must be at least 20"),
        (
            {"evaluation": {"validation_beams": 9}},
            "evaluation.validation_beams must be at least 10",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError) as refusal:
        build_config(Config, values, "llm.toml")
    assert words in str(refusal.value)


def test_a_model_that_is_nowhere_is_refused_before_a_run_begins(
    launch: Launch, data: Path, tmp_path: Path
) -> None:
    config = tmp_path / "llm.toml"
    config.write_text('[text]\nembedding = "lsa"\n[model]\nmodel = "./nowhere/at-all"\n')
    out = tmp_path / "run"
    done = launch("llm", "run", "--data", data, "--out", out, "--config", config)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: model.model must be tiny-llama, tiny-qwen, or the name or ")
    assert "'./nowhere/at-all'" in last
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_what_a_language_model_cannot_do_is_not_offered(launch: Launch) -> None:
    shown = launch("llm", "--help").stdout
    for command in ("run", "demo", "recommend", "serve", "config"):
        assert f" {command} " in shown
    for command in ("update", "extend", "export", "study"):
        assert f" {command} " not in shown
        refused = launch("llm", command)
        assert refused.returncode == 2
        assert f"No such command '{command}'" in refused.stderr


def test_the_tiny_model_beats_popularity(run: semrec.LoadedRun) -> None:
    model, popularity = run.reports["LLM"], run.reports["popularity"]
    for mode in ("unfiltered", "filtered"):
        better = model.per_user("ndcg@10", mode) - popularity.per_user("ndcg@10", mode)
        error = better.std() / len(better) ** 0.5
        assert better.mean() > 2 * error > 0


def test_what_a_run_keeps_runs_no_code(completed: OfApp) -> None:
    out = completed("llm")
    kept = {path.name for path in (out / "tuned" / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= kept
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    metrics = json.loads((out / "metrics.json").read_text())
    facts = metrics["stages"]["tuned"]
    assert facts["trained"] == facts["weights"] > 0
    assert metrics["codes"]["codebook_sizes"][:2] == [8, 8]
    page = (out / "report.html").read_text()
    assert "&gt; next:" in page


def test_answers_are_items_and_obey_the_lists(run: semrec.LoadedRun) -> None:
    recommender, ids = run.recommender(), run.item_ids
    histories = [ids[:3], ids[5:6], ids[10:30]]
    for answer in recommender.recommend(histories, top_k=7):
        items = [item.item_id for item in answer.items]
        scores = [item.score for item in answer.items]
        assert len(set(items)) == 7
        assert set(items) <= set(ids)
        assert scores == sorted(scores, reverse=True)
        assert max(scores) < 0
    for history, answer in zip(
        histories, recommender.recommend(histories, top_k=30, exclude_seen=True), strict=True
    ):
        items = {item.item_id for item in answer.items}
        assert len(items) == 30  # more than the beams of the configuration
        assert not items & set(history)
    some = ids[40:44]
    (answer,) = recommender.recommend([ids[:3]], allow=some, deny=some[:1], top_k=10)
    assert {item.item_id for item in answer.items} == set(some[1:])


def test_the_command_answers_users_as_the_recommender_does(
    run: semrec.LoadedRun, launch: Launch, completed: OfApp, tmp_path: Path
) -> None:
    histories = dict(run.histories())
    users = sorted(histories)[:3]
    listed = tmp_path / "users.txt"
    listed.write_text("".join(f"{user}\n" for user in users))
    output = tmp_path / "answers.parquet"
    same = ("--run", completed("llm"), "--device", "cpu", "--top-k", 4)
    done = launch("llm", "recommend", *same, "--users", listed, "--output", output)
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(output)
    answers = run.recommender().recommend([histories[user] for user in users], top_k=4)
    for user, answer in zip(users, answers, strict=True):
        rows = table.filter(pl.col("user") == user)
        assert rows["item"].to_list() == [item.item_id for item in answer.items]
    history = ",".join(histories[users[0]])
    shown = launch("llm", "recommend", *same, "--history", history)
    assert shown.returncode == 0, shown.stderr
    assert all(item.item_id in shown.stdout for item in answers[0].items)


def test_lora_over_a_model_in_a_folder(
    launch: Launch,
    data: Path,
    base: Path,
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    before = digests(base)
    config, out = tmp_path / "llm.toml", tmp_path / "run"
    config.write_text(
        f"""
[text]
embedding = "lsa"
dim = 16
[codes]
num_levels = 2
codebook_size = 8
[model]
model = "{base}"
items = "ids and titles"
title_length = 30
history_length = 3
lora_rank = 2
epochs = 1
batch_size = 256
[evaluation]
ks = [5, 10]
validation_users = 20
validation_beams = 10
num_beams = 10
answer = "model"
"""
    )
    same = ("--data", data, "--out", out, "--config", config, "--device", "cpu")
    done = launch("llm", "run", *same)
    assert done.returncode == 0, done.stderr
    assert digests(base) == before
    kept = {path.name for path in (out / "tuned" / "model").iterdir()}
    assert "adapter_model.safetensors" in kept
    assert "model.safetensors" not in kept
    facts = json.loads((out / "metrics.json").read_text())["stages"]["tuned"]
    assert 0 < facts["trained"] < facts["weights"]
    run = semrec.load_run(out, device="cpu")
    model = run.pipeline.tuned.result()
    assert model.network.peft_config["default"].r == 2
    assert isinstance(model.tokens, ItemTokens)
    assert f"> {run.titles[run.item_ids[4]][:30]}" in model.example([4])["prompt"]
    lists = torch.tensor(
        [
            [run.item_ids.index(item.item_id) for item in answer.items]
            for answer in run.recommender().recommend(
                [[run.item_ids[row] for row in rows] for rows in ([1, 2, 3], [4])], top_k=10
            )
        ]
    )
    assert torch.equal(
        lists,
        model.rank(torch.tensor([[1, 2, 3], [4, 100, 100]]), num_beams=10, top_k=10).items,
    )


def test_the_default_is_a_model_that_a_user_has_to_have() -> None:
    config = load_config(Config, None)
    assert not config.model.is_tiny
    assert config.embeddings == ("minilm",)
