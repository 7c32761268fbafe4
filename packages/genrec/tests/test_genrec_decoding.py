from __future__ import annotations

import pytest
import torch
from genrec.backbones import SASRec
from genrec.decoding import Ranked, beam_search, exact_scores
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.padded import PaddedBeamSearch
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def item_graph(num_items: int, *, num_kinds: int) -> ItemGraph:
    """Item-to-item scores drawn from torch's generator, half of them absent."""
    matrices = []
    for kind in range(num_kinds):
        is_edge = torch.rand(num_items, num_items) < 0.5
        matrices.append(
            ItemMatrix(
                offsets=torch.nn.functional.pad(is_edge.sum(dim=1).cumsum(0), (1, 0)),
                neighbours=is_edge.nonzero()[:, 1],
                weights=torch.rand(int(is_edge.sum())) * 9,
                decay=(0.4, 0.9)[kind],
            )
        )
    return ItemGraph.build(num_items, matrices, last_items=3)


@st.composite
def models(draw: st.DrawFn) -> Seq2Seq:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    # Codes of variable depth: from some level on, all zeros.
    row = st.tuples(*(st.one_of(st.just(0), st.integers(0, size - 1)) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=25, unique=True))
    vocabulary = draw(st.sampled_from(["level", "node"]))
    scoring = "renormalized" if vocabulary == "node" else None
    scoring = scoring or draw(st.sampled_from(["masked", "renormalized"]))
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 1000)))
        config = Seq2SeqConfig(
            dim=8,
            num_decoder_layers=2,
            num_heads=2,
            feedforward_dim=8,
            history_input=draw(st.sampled_from(["codes", "both", "backbone"])),
            output_vocabulary=vocabulary,
            scoring=scoring,
            temperature=0.3,
            history_bias=scoring == "renormalized" and draw(st.booleans()),
            direct_path=draw(st.booleans()),
        )
        graph = None
        if scoring == "renormalized" and draw(st.booleans()):
            graph = item_graph(len(rows), num_kinds=draw(st.integers(1, 2)))
        backbone = None
        if config.history_input == "backbone":
            backbone = SASRec(len(rows), dim=8, num_layers=2, history_length=20)
        trie = Trie.build(torch.tensor(rows), sizes)
        model = Seq2Seq(config, trie, item_graph=graph, backbone=backbone)
    if model.history_bias is not None:
        model.history_bias.data.fill_(draw(st.sampled_from([-0.3, 0.2])))
    return model.eval()


@st.composite
def histories(draw: st.DrawFn, num_items: int) -> Tensor:
    length = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, num_items), min_size=length, max_size=length)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=3)))


def teacher_forced(model: Seq2Seq, history: Tensor) -> Tensor:
    """Every item's score without any cache: one full pass an item."""
    items = torch.arange(model.trie.num_items)
    with torch.no_grad():
        return torch.stack(
            [model(row.expand(len(items), -1), items).log_prob.sum(dim=1) for row in history]
        )


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_exact_scores_equal_recomputation_without_a_cache(data: st.DataObject):
    model = data.draw(models())
    history = data.draw(histories(model.trie.num_items))
    expected = teacher_forced(model, history)
    at_once = data.draw(st.integers(1, 40))
    scores = exact_scores(model, model.trie, history, prefixes_at_once=at_once)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    if model.config.scoring == "renormalized":
        torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(len(history)))


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_beam_as_wide_as_the_catalogue_equals_exact_scoring(data: st.DataObject):
    model = data.draw(models())
    num_items = model.trie.num_items
    history = data.draw(histories(num_items))
    expected = teacher_forced(model, history)
    row = st.lists(st.integers(0, num_items), min_size=3, max_size=3)
    exclude = data.draw(st.lists(row, min_size=len(history), max_size=len(history)))
    for excluded in (None, torch.tensor(exclude)):
        if excluded is not None:
            for user, items in enumerate(exclude):
                expected[user, [item for item in items if item < num_items]] = -torch.inf
        ranked = beam_search(
            model, model.trie, history, num_beams=num_items, top_k=num_items, exclude=excluded
        )
        best = expected.sort(dim=1, descending=True).values
        torch.testing.assert_close(ranked.scores, best, atol=1e-4, rtol=1e-4)
        for user, items in enumerate(ranked.items.tolist()):
            returned = [item for item in items if item >= 0]
            assert len(set(returned)) == len(returned) == int((best[user] > -torch.inf).sum())
            scores = expected[user, returned]
            torch.testing.assert_close(
                ranked.scores[user, : len(returned)], scores, atol=1e-4, rtol=0
            )


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_padded_search_answers_as_beam_search_does(data: st.DataObject):
    model = data.draw(models())
    history = data.draw(histories(model.trie.num_items))
    num_beams = data.draw(st.integers(1, model.trie.num_items + 2))
    sizes = {"num_beams": num_beams, "top_k": data.draw(st.integers(1, num_beams))}
    ranked = beam_search(model, model.trie, history, **sizes)
    items, scores = PaddedBeamSearch(model, **sizes)(history)
    torch.testing.assert_close(scores, ranked.scores, atol=1e-4, rtol=1e-4)
    assert items.tolist() == ranked.items.tolist()


def big_model(**options: object) -> Seq2Seq:
    torch.manual_seed(0)
    codes = torch.unique(torch.randint(0, 12, (600, 3)), dim=0)
    codes = codes[torch.randperm(len(codes))]
    config = Seq2SeqConfig(dim=16, num_heads=2, feedforward_dim=32, temperature=0.3, **options)  # type: ignore[arg-type]
    return Seq2Seq(config, Trie.build(codes, (12, 12, 12))).eval()


@pytest.mark.parametrize("options", [{}, {"output_vocabulary": "node", "scoring": "renormalized"}])
def test_batch_composition_does_not_change_a_users_answer(options: dict[str, object]):
    model = big_model(**options)
    num_items = model.trie.num_items
    history = torch.randint(0, num_items, (9, 6))
    history[3, 2:] = num_items
    history[4] = num_items
    together = beam_search(model, model.trie, history, num_beams=20)
    for user in range(9):
        known = history[user][history[user] < num_items][None]
        alone = beam_search(model, model.trie, known, num_beams=20, tables=model.tables())
        assert alone.items.tolist() == together.items[user : user + 1].tolist()
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-5, rtol=1e-5)
    assert len({tuple(row) for row in together.items.tolist()}) > 1


def test_codes_by_level_can_be_searched_in_a_smaller_catalogue():
    model = big_model()
    half = Trie.build(model.trie.codes[:200], model.trie.codebook_sizes)
    history = torch.randint(0, 200, (2, 3))
    scores = exact_scores(model, half, history)
    torch.testing.assert_close(scores, exact_scores(model, model.trie, history)[:, :200])
    by_node = big_model(output_vocabulary="node", scoring="renormalized")
    with pytest.raises(ValueError, match="trie must have the model's level_sizes"):
        beam_search(by_node, half, history)
    biased = big_model(scoring="renormalized", history_bias=True)
    for trie in (half, Trie.build(biased.trie.codes.flip(0), biased.trie.codebook_sizes)):
        with pytest.raises(ValueError, match=r"trie must be model.trie if .* with_catalogue"):
            exact_scores(biased, trie, history)


@given(st.data())
def test_the_best_are_those_of_a_plain_sort(data: st.DataObject):
    size = data.draw(st.integers(1, 6))
    marks = st.lists(st.booleans(), min_size=size, max_size=size)
    present, permitted = data.draw(marks), data.draw(st.none() | marks)
    items = data.draw(st.none() | st.permutations(range(10)))
    count = data.draw(st.integers(1, 8))
    values = data.draw(st.permutations(range(size)))
    pairs = sorted(
        (
            (float(values[i]), items[i] if items else i)
            for i in range(size)
            if present[i] and (permitted is None or permitted[i])
        ),
        reverse=True,
    )
    scores = [float(v) if p else -torch.inf for v, p in zip(values, present, strict=True)]
    ranked = Ranked.best(
        torch.tensor([scores]),
        count,
        items=None if items is None else torch.tensor([items[:size]]),
        permitted=None if permitted is None else torch.tensor([permitted]),
    )
    expected = (pairs + [(-torch.inf, -1)] * size)[: min(count, size)]
    assert ranked.scores.tolist() == [[score for score, _ in expected]]
    assert ranked.items.tolist() == [[item for _, item in expected]]


def test_refusals():
    model = big_model()
    history = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="top_k must be at least 1 and at most num_beams, got 9 a"):
        beam_search(model, model.trie, history, num_beams=8, top_k=9)
    with pytest.raises(ValueError, match="prefixes_at_once must be at least 1, got 0"):
        exact_scores(model, model.trie, history, prefixes_at_once=0)
    with pytest.raises(ValueError, match="model must be in eval mode"):
        beam_search(model.train(), model.trie, history)


def test_a_backbone_reads_histories_as_it_does_alone():
    """Its states of each history, cut to the newest items, wherever the padding is."""
    torch.manual_seed(0)
    backbone = SASRec(9, dim=8, num_layers=2, history_length=4).eval()
    config = Seq2SeqConfig(
        dim=8, num_heads=2, feedforward_dim=8, history_length=3, history_input="backbone"
    )
    trie = Trie.build(torch.cartesian_prod(torch.arange(3), torch.arange(3)), (3, 3))
    model = Seq2Seq(config, trie, backbone=backbone).eval()
    history = torch.tensor([[9, 1, 2, 9, 9], [4, 5, 6, 7, 8], [9, 9, 9, 9, 9], [9, 9, 9, 9, 3]])
    memory = model.encode(history)
    assert memory.padding.tolist() == [
        [True, False, False],
        [False, False, False],
        [True, True, True],
        [True, True, False],
    ]
    for row, alone in enumerate(([1, 2], [6, 7, 8], [], [3])):
        states = memory.states[row][~memory.padding[row]]
        if alone:
            expected = backbone(torch.tensor([alone]))[0]
            torch.testing.assert_close(states, expected)
            torch.testing.assert_close(memory.newest[row], expected[-1])
            last = backbone.last_state(torch.tensor([alone]))[0]
            torch.testing.assert_close(memory.newest[row], last)
        else:
            assert memory.newest[row].tolist() == [0.0] * 8
