"""Language models over few items: their lists, what of them is trained, and their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from genrec import TrainingConfig, fit
from semtok import SemanticIds
from semtok.hf import code_vectors
from torch import Tensor

from semrec.llm.config import Model
from semrec.llm.models import LanguageModel, TrainedWeights
from semrec.llm.networks import tiny_network, word_tokenizer
from semrec.llm.system import PromptBatch, next_item_loss

NUM_ITEMS = 15
TITLES = [f"soap number {row}" for row in range(NUM_ITEMS)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ids() -> Any:
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype("float32")
    return SemanticIds.fit(vectors, quantizer="rq", num_levels=2, codebook_size=4)


@pytest.fixture(params=["tiny-llama", "tiny-qwen"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of a model, whose output embeddings are its input embeddings or are not."""
    tokenizer = word_tokenizer([Model.prompt])
    torch.manual_seed(0)
    tokenizer.save_pretrained(tmp_path / "base")
    tiny_network(request.param, len(tokenizer)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def untrained(config: Model, ids: Any) -> LanguageModel:
    torch.manual_seed(1)
    vectors = code_vectors(ids.quantizer, ids)
    return LanguageModel.untrained(config, ids, vectors, TITLES, CPU, 0)


@torch.no_grad()
def exhaustive(model: LanguageModel, history: list[int]) -> Tensor:
    """log p of each item's tokens after a prompt, a forward pass an item."""
    prompt = model.tokenizer(model.example(history)["prompt"])["input_ids"]
    tokens = model.tokens.tokens_of(model.tokens.semantic_ids.codes)
    scores = []
    for item in tokens.tolist():
        logits = model.network(input_ids=torch.tensor([[*prompt, *item]])).logits[0]
        log_probs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
        scores.append(log_probs[range(len(item)), item].sum())
    return torch.stack(scores)


@pytest.mark.parametrize("items", ["ids", "ids and titles"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen"])
def test_lists_are_those_of_exhaustive_scoring(name: str, items: Any, ids: Any) -> None:
    model = untrained(Model(model=name, items=items, history_length=4), ids)
    with torch.no_grad():  # so that scores lie well apart
        for weight in model.network.parameters():
            weight.mul_(3)
    histories = [[0, 1, 2, 3, 4, 5], [7], [9, 9, 3]]
    table = torch.full((3, 6), NUM_ITEMS)
    for row, history in enumerate(histories):
        table[row, : len(history)] = torch.tensor(history)
    ranked = model.rank(table, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)
    exclude = torch.tensor([[0, 1], [7, NUM_ITEMS], [9, 3]])
    allowed = torch.arange(NUM_ITEMS) % 2 == 1
    filtered = model.rank(
        table, num_beams=NUM_ITEMS, top_k=NUM_ITEMS, exclude=exclude, allowed=allowed
    )
    for row, history in enumerate(histories):
        scores = exhaustive(model, history[-4:])
        assert sorted(ranked.items[row].tolist()) == list(range(NUM_ITEMS))
        torch.testing.assert_close(
            ranked.scores[row], scores[ranked.items[row]], atol=1e-4, rtol=1e-5
        )
        assert (ranked.scores[row].diff() <= 0).all()
        legal = [item for item in range(1, NUM_ITEMS, 2) if item not in exclude[row].tolist()]
        expected = sorted(legal, key=lambda item: -float(scores[item]))
        assert filtered.items[row].tolist() == expected + [-1] * (NUM_ITEMS - len(expected))
        assert (filtered.scores[row, len(expected) :] == -torch.inf).all()


def test_more_prompts_than_are_decoded_together_have_the_same_lists(
    ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untrained(Model(model="tiny-llama"), ids)
    table = torch.randint(NUM_ITEMS, (5, 3))
    lists = {"exclude": table[:, :1], "allowed": table.flip(1).repeat(1, 2)}
    together = model.rank(table, num_beams=4, top_k=3, **lists)  # type: ignore[arg-type]
    monkeypatch.setattr("semrec.llm.models.SEQUENCES_AT_A_TIME", 8)
    apart = model.rank(table, num_beams=4, top_k=3, **lists)  # type: ignore[arg-type]
    assert torch.equal(together.items, apart.items)
    torch.testing.assert_close(together.scores, apart.scores)
    first = model.rank(table, num_beams=1, top_k=1)
    two = model.rank(table, num_beams=2, top_k=2)
    assert torch.equal(first.items[:, 0], two.items[:, 0])
    torch.testing.assert_close(first.scores[:, 0], two.scores[:, 0])


def test_a_model_has_its_embeddings_from_the_codebooks(ids: Any) -> None:
    model = untrained(Model(model="tiny-llama"), ids)
    rows = model.network.get_input_embeddings().weight[torch.from_numpy(model.tokens.token_ids[0])]
    (vectors, *_) = code_vectors(ids.quantizer, ids)
    centred = torch.from_numpy(vectors - vectors.mean(axis=0))
    between = torch.cdist(centred, centred)
    assert (
        torch.corrcoef(torch.stack([between.flatten(), torch.cdist(rows, rows).flatten()]))[0, 1]
        > 0.99
    )


def test_lora_trains_matrices_and_rows_of_items_alone_and_comes_back(
    base: Path, ids: Any, tmp_path: Path
) -> None:
    config = Model(model=str(base), lora_rank=2, lora_alpha=4, lora_dropout=0.0)
    model = untrained(config, ids)
    weights = TrainedWeights(model)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    batch = PromptBatch(
        inputs=model.collator([model.example([1, 2], [3]), model.example([4], [5])])
    )
    prompt = torch.tensor([[1, 2, 3], [4, NUM_ITEMS, NUM_ITEMS]])
    start = model.rank(prompt, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)

    class Same:
        def __len__(self) -> int:
            return 4

        def __call__(self, epoch: int, **share: int) -> list[PromptBatch]:
            return [batch] * (4 - share["start"])

    settings = TrainingConfig(epochs=2, learning_rate=0.02, seed=0)
    result = fit(weights, Same(), next_item_loss, settings, folder=tmp_path / "training")
    assert result.log[-1]["losses"]["next_item"] < result.log[0]["losses"]["next_item"]
    changed = {
        name
        for name, value in model.network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in changed)
    tied = model.network.config.tie_word_embeddings
    assert sum(
        name.count("trainable_tokens_delta") for name in dict(model.network.named_parameters())
    ) == (1 if tied else 2)
    # The checkpoint holds no frozen weight.
    frozen = sum(p.numel() for p in model.network.parameters() if not p.requires_grad)
    assert sum(value.numel() for value in weights.state_dict().values()) < frozen
    ranked = model.rank(prompt, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)
    assert not torch.allclose(ranked.scores, start.scores)
    model.save(tmp_path / "model")
    loaded = LanguageModel.load(tmp_path / "model", config, ids, TITLES, CPU)
    again = loaded.rank(prompt, num_beams=NUM_ITEMS, top_k=NUM_ITEMS)
    assert torch.equal(again.items, ranked.items)
    torch.testing.assert_close(again.scores, ranked.scores)


def test_a_history_too_long_for_the_model_is_refused(ids: Any) -> None:
    model = untrained(Model(model="tiny-llama", history_length=2000), ids)
    with pytest.raises(ValueError, match=r"at most max_length \(2048\) tokens, got one of"):
        model.rank(torch.ones(1, 1500, dtype=torch.long), num_beams=2, top_k=2)
