"""What the rivals that read texts or codes compute, against plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from genrec import (
    RPG,
    Batch,
    CodeTable,
    ContentExperts,
    ContentTable,
    EnsRec,
    FeatureTables,
    ItemTable,
    S3Rec,
    SequenceModelConfig,
    TedRec,
    TrainingConfig,
    full_cross_entropy,
)
from genrec.training import fit
from torch import Tensor, nn
from torch.nn import functional as F

NUM_ITEMS, DIM, LEVELS = 12, 6, 4
HISTORY = torch.tensor([[3, 1, 4, 1, 5], [9, 2, NUM_ITEMS, NUM_ITEMS, NUM_ITEMS]])
CODES = torch.randint(3, (NUM_ITEMS, LEVELS), generator=torch.Generator().manual_seed(0))
SIZES = (3, 4, 3, 5)


def perturbed(model: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def features(count: int = 1) -> FeatureTables:
    tables = [ContentTable(torch.randn(NUM_ITEMS, 4), DIM) for _ in range(count)]
    return FeatureTables(ItemTable(NUM_ITEMS, DIM), tables)


def batch_of(history: Tensor) -> Batch:
    return Batch(history=history, targets=history, users=torch.arange(len(history)))


# S3-Rec


def s3rec(**options: Any) -> S3Rec:
    torch.manual_seed(0)
    return perturbed(S3Rec(NUM_ITEMS, dim=DIM, **{"history_length": 5, **options}))


@torch.no_grad()
def test_states_both_ways_see_both_sides_and_no_padding():
    model = s3rec()
    vectors = model.item_vectors()
    first, other = HISTORY.clone(), HISTORY.clone()
    other[0, 4] = 7
    states = model.states_both_ways(first, vectors)
    assert not torch.allclose(states[0, 0], model.states_both_ways(other, vectors)[0, 0])
    torch.testing.assert_close(states[1, :2], model.states_both_ways(HISTORY[1:, :2], vectors)[0])


@torch.no_grad()
def test_masked_stretches_are_what_is_left_and_what_was_taken(monkeypatch):
    model = s3rec()
    read = []

    def reading(history: Tensor, _: Tensor) -> Tensor:
        read.append(history)
        return torch.zeros(*history.shape, DIM)

    monkeypatch.setattr(model, "states_both_ways", reading)
    history = torch.tensor([[3, 1, 4, 5, 9], [6, *[NUM_ITEMS] * 4], [9, 2, *[NUM_ITEMS] * 3]])
    places, sizes = set(), set()
    for _ in range(60):
        model.masked_stretches(history, model.item_vectors())
        *_, left, taken = read
        assert len(left) == 2  # a history of one item has no stretch beside others
        for row, items in enumerate(([3, 1, 4, 5, 9], [9, 2])):
            segment = [item for item in taken[row].tolist() if item < NUM_ITEMS]
            start, size = items.index(segment[0]), len(segment)
            assert taken[row].tolist() == segment + [NUM_ITEMS] * (5 - size)
            masked = [*items[:start], *[model.mask_item] * size, *items[start + size :]]
            assert left[row].tolist() == masked + [NUM_ITEMS] * (5 - len(items))
            assert 1 <= size <= len(items) // 2
            if row == 0:
                places.add(start)
                sizes.add(size)
    assert (places, sizes) == ({0, 1, 2, 3, 4}, {1, 2})


@torch.no_grad()
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_tasks_of_s3rec_choose_among_what_the_batch_asks(similarity):
    model = s3rec(
        item_encoder=features(2),
        similarity=similarity,
        temperature=0.5,
        masked_item_weight=0.2,
        item_feature_weight=3.0,
        masked_feature_weight=0.7,
    )
    vectors, tables = model.item_vectors(), model.item_encoder.features().unbind(1)

    def chosen(task: str, x: Tensor, candidates: Tensor, rows: list[int]) -> float:
        """Mean cost of telling each row among the different rows that are asked."""
        left = x @ model.meet[task].weight.T
        if similarity == "cosine":
            left, candidates = F.normalize(left, dim=-1), F.normalize(candidates, dim=-1)
        total = 0.0
        for query, row in zip(left, rows, strict=True):
            scores = [float(query @ candidates[other]) / 0.5 for other in rows if other != row]
            right = float(query @ candidates[row]) / 0.5
            total += math.log(sum(map(math.exp, [right, *scores]))) - right
        return total / len(rows)

    torch.manual_seed(5)
    losses = model.further_losses(batch_of(HISTORY), vectors)
    torch.manual_seed(5)
    is_masked = (torch.rand(HISTORY.shape) < 0.2) & (HISTORY < NUM_ITEMS)
    assert is_masked.any()
    states = model.states_both_ways(HISTORY.masked_fill(is_masked, NUM_ITEMS + 1), vectors)
    context, segment = model.masked_stretches(HISTORY, vectors)
    hidden, places = HISTORY[is_masked].tolist(), states[is_masked]
    items = sorted({*HISTORY.flatten().tolist()} - {NUM_ITEMS})
    expected = {
        "masked_item": 0.2 * chosen("masked_item", places, vectors, hidden),
        "masked_segment": 0.5 * chosen("masked_segment", context, segment, [0, 1]),
        "item_feature": 3.0
        * sum(chosen("item_feature", vectors[items], table, items) for table in tables)
        / 2,
        "masked_feature": 0.7
        * sum(chosen("masked_feature", places, table, hidden) for table in tables)
        / 2,
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_s3rec_without_features_has_the_tasks_of_items_alone_and_is_pretrained_by_them():
    torch.manual_seed(0)
    compared = {"similarity": "cosine", "temperature": 0.2}
    model = S3Rec(NUM_ITEMS, dim=16, history_length=6, dropout=0.0, **compared)
    walks = torch.tensor([[(s + step) % NUM_ITEMS for step in range(6)] for s in range(NUM_ITEMS)])

    def pretraining(model: S3Rec, batch: Batch) -> dict[str, Tensor]:
        return model.further_losses(batch, model.item_vectors())

    def mean_losses() -> dict[str, float]:
        torch.manual_seed(1)
        with torch.no_grad():
            runs = [pretraining(model, batch_of(walks)) for _ in range(20)]
        return {name: float(sum(run[name] for run in runs)) / 20 for name in runs[0]}

    def batches(epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0) -> list[Batch]:
        return [batch_of(walks)][start:]

    before = mean_losses()
    assert before.keys() == {"masked_item", "masked_segment"}
    source = type("Walks", (), {"__len__": lambda _: 1, "__call__": staticmethod(batches)})()
    fit(model, source, pretraining, TrainingConfig(epochs=150, learning_rate=0.01))
    after = mean_losses()
    assert all(after[name] < 0.5 * before[name] for name in before)


# TedRec


@torch.no_grad()
@pytest.mark.parametrize("window", [4, 5])
def test_ids_and_texts_are_convolved_around_the_window(window):
    torch.manual_seed(0)
    model = perturbed(TedRec(NUM_ITEMS, dim=DIM, history_length=window))
    ids, texts = torch.randn(2, 2, window, DIM)
    kernel = torch.fft.irfft(torch.view_as_complex(model.filter), n=window, dim=0)
    expected = torch.zeros_like(ids)
    for place in range(window):
        filtered, fused = torch.zeros(2, 2, DIM)
        for other in range(window):
            filtered += kernel[(place - other) % window] * ids[:, other]
            fused += ids[:, other] * texts[:, (place - other) % window] / window**0.5
        for part, gate in ((filtered, model.id_gate), (fused, model.fusion_gate)):
            expected[:, place] += (
                2 * part * torch.sigmoid(part @ gate.weight[0] + gate.bias)[:, None]
            )
    torch.testing.assert_close(model.joined(ids, texts), expected)


@torch.no_grad()
def test_tedrec_before_training_is_sasrec_of_half_its_ids_where_texts_say_nothing():
    torch.manual_seed(0)
    table = ItemTable(NUM_ITEMS, DIM)
    nothing = ItemTable(NUM_ITEMS, DIM)
    nothing.ids.zero_()
    model = TedRec(
        NUM_ITEMS, dim=DIM, history_length=5, item_encoder=FeatureTables(table, [nothing])
    ).eval()
    model.id_gate.weight.zero_()
    model.id_gate.bias.zero_()
    joined, padding = model.look_up(HISTORY, None)
    torch.testing.assert_close(joined[~padding], table.ids[HISTORY[~padding]])
    assert joined[padding].abs().sum() == 0


def test_texts_of_tedrec_come_through_experts():
    config = SequenceModelConfig(backbone="tedrec", items="both", dim=8, num_heads=2)
    model = config.model(NUM_ITEMS, [torch.randn(NUM_ITEMS, 3), torch.randn(NUM_ITEMS, 2)])
    _, texts = model.item_encoder.tables
    assert isinstance(texts, ContentExperts)
    assert texts.features.shape == (NUM_ITEMS, 5)


# Codes: VQ-Rec, RPG


@torch.no_grad()
def test_an_item_is_the_sum_of_its_codes():
    torch.manual_seed(0)
    table = CodeTable(CODES, SIZES, DIM)
    assert [len(codebook) for codebook in table.codebooks()] == list(SIZES)
    for vector, codes in zip(table(), CODES.tolist(), strict=True):
        parts = [book[code] for book, code in zip(table.codebooks(), codes, strict=True)]
        torch.testing.assert_close(vector, sum(parts))
    assert table().std() == pytest.approx(0.02, rel=0.3)


def test_codes_that_are_none_are_refused():
    for codes, sizes, words in (
        (CODES, (3, 4), r"got shape \(12, 4\) and sizes \(3, 4\)"),
        (
            CODES,
            (2, 4, 3, 5),
            r"from 0 up to codebook_sizes \(2, 4, 3, 5\), got from",
        ),
        (CODES - 1, SIZES, "codes must be from 0 up to"),
        (CODES[:0], SIZES, "at least one item"),
    ):
        with pytest.raises(ValueError, match=words):
            CodeTable(codes, sizes, DIM)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        CodeTable(CODES, SIZES, 0)
    config = SequenceModelConfig(backbone="vqrec", items="content")
    with pytest.raises(ValueError, match="codes must be given where backbone is 'vqrec'"):
        config.model(NUM_ITEMS, [torch.randn(NUM_ITEMS, 3)])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_rpg_scores_are_the_probabilities_of_all_code_sequences(similarity):
    torch.manual_seed(0)
    table = CodeTable(CODES, SIZES, DIM)
    model = perturbed(
        RPG(NUM_ITEMS, dim=DIM, item_encoder=table, similarity=similarity, temperature=0.5)
    )
    with torch.no_grad():
        states = model.last_state(HISTORY)
        scores = model.score(HISTORY)
        # Over all sequences of codes, of items or not, the probabilities add up to one.
        every = torch.tensor(list(itertools.product(*map(range, SIZES))))
        log_probs = model.code_log_probs(states)
        sums = sum(table[:, every[:, level]] for level, table in enumerate(log_probs))
        torch.testing.assert_close(sums.exp().sum(dim=1), torch.ones(2))
        for row, state in enumerate(states):
            for item, codes in enumerate(CODES.tolist()):
                total = 0.0
                for level, book in enumerate(table.codebooks()):
                    query = state + F.silu(
                        model.head_weights[level] @ state + model.head_biases[level]
                    )
                    if similarity == "cosine":
                        query, book = F.normalize(query, dim=0), F.normalize(book, dim=1)
                    total += float((book @ query / 0.5).log_softmax(0)[codes[level]])
                assert float(scores[row, item]) == pytest.approx(total, rel=1e-4)
        targets = torch.tensor([7, 3])
        loss = model.next_item_loss(states, model.item_vectors(), targets, full_cross_entropy)
        torch.testing.assert_close(loss, -scores[[0, 1], targets].mean() / LEVELS)
    with pytest.raises(TypeError, match="item_encoder must be a CodeTable, got ItemTable"):
        RPG(NUM_ITEMS, dim=DIM, item_encoder=ItemTable(NUM_ITEMS, DIM))
    with pytest.raises(TypeError, match="item_encoder must be a CodeTable, got NoneType"):
        RPG(NUM_ITEMS, dim=DIM)


# EnsRec


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_ensrec_is_two_models_whose_scores_are_summed(similarity):
    torch.manual_seed(0)
    options = {"similarity": similarity, "temperature": 0.5}
    model = perturbed(EnsRec(NUM_ITEMS, dim=DIM, item_encoder=features(), **options))
    with torch.no_grad():
        expected = torch.zeros(2, NUM_ITEMS)
        for part, table in zip(model.models, model.item_encoder.tables, strict=True):
            state, vectors = part.last_state(HISTORY, table()), table()
            if similarity == "cosine":
                state, vectors = F.normalize(state, dim=1), F.normalize(vectors, dim=1)
            expected += state @ vectors.T / 0.5
        torch.testing.assert_close(model.score(HISTORY), expected)


def test_the_models_of_ensrec_learn_nothing_of_each_other():
    torch.manual_seed(0)
    model = EnsRec(NUM_ITEMS, dim=DIM, item_encoder=features(), similarity="cosine", dropout=0.0)
    targets = torch.tensor([7, 3])

    def gradients(side: int) -> list[Tensor]:
        model.zero_grad()
        vectors = model.item_vectors()
        states = model.last_state(HISTORY, vectors)
        model.next_item_loss(states, vectors, targets, full_cross_entropy).backward()
        return [p.grad.clone() for p in model.models[side].parameters()]

    before = gradients(1)
    with torch.no_grad():
        for parameter in (
            *model.models[0].parameters(),
            *model.item_encoder.tables[0].parameters(),
        ):
            parameter.add_(torch.randn_like(parameter))
    assert all(map(torch.equal, before, gradients(1)))


@pytest.mark.parametrize("kind", [TedRec, EnsRec])
def test_what_joins_ids_and_texts_needs_both(kind):
    with pytest.raises(TypeError, match="item_encoder must be FeatureTables, got ItemTable"):
        kind(NUM_ITEMS, dim=DIM, item_encoder=ItemTable(NUM_ITEMS, DIM))


def test_ensrec_sums_two_models_and_no_more():
    with pytest.raises(ValueError, match="item_encoder must have one feature, got 2"):
        EnsRec(NUM_ITEMS, dim=DIM, item_encoder=features(2))
