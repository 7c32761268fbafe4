from __future__ import annotations

import pytest
import torch
from genrec.decoding import beam_recall, beam_search, exact_scores, score_items
from genrec.masks import Mask
from genrec.paths import kept_levels, path_log_probs
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie
from hypothesis import given, settings
from hypothesis import strategies as st

CODES = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(3))[::2].flip(0)
NUM_ITEMS = len(CODES)
KINDS = [
    {},
    {"output_vocabulary": "node", "scoring": "renormalized", "history_bias": True},
]


def make(options: dict[str, object]) -> Seq2Seq:
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, num_decoder_layers=2, feedforward_dim=8, **options)  # type: ignore[arg-type]
    model = Seq2Seq(config, Trie.build(CODES, (4, 3, 3)))
    if model.history_bias is not None:
        model.history_bias.data.fill_(0.2)
    return model.eval()


MODELS = [make(options) for options in KINDS]
rows = st.lists(st.integers(0, NUM_ITEMS), min_size=5, max_size=5)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_masks_hold_and_leave_as_many_items_as_there_are(data: st.DataObject):
    model = data.draw(st.sampled_from(MODELS))
    history = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=3)))
    users = len(history)
    allow = exclude = None
    allowed = [set(range(NUM_ITEMS)) for _ in range(users)]
    if data.draw(st.booleans()):
        lists = data.draw(st.lists(rows, min_size=users, max_size=users))
        exclude = torch.tensor(lists)
        allowed = [kept - set(row) for kept, row in zip(allowed, lists, strict=True)]
    kind = data.draw(st.sampled_from(["none", "lists", "marks"]))
    if kind == "lists":
        lists = data.draw(st.lists(rows, min_size=users, max_size=users))
        allow = torch.tensor(lists)
        allowed = [kept & set(row) for kept, row in zip(allowed, lists, strict=True)]
    if kind == "marks":
        marks = data.draw(st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
        allow = torch.tensor(marks)
        allowed = [{item for item in kept if marks[item]} for kept in allowed]
    top_k = data.draw(st.integers(1, 4))
    beams = data.draw(st.sampled_from([top_k, top_k + 2, NUM_ITEMS]))
    ranked = beam_search(
        model, model.trie, history, num_beams=beams, top_k=top_k, exclude=exclude, allow=allow
    )
    truth = exact_scores(model, model.trie, history)
    for user, kept in enumerate(allowed):
        returned = [item for item in ranked.items[user].tolist() if item >= 0]
        assert len(set(returned)) == len(returned) == min(top_k, len(kept))
        assert set(returned) <= kept
        scores = ranked.scores[user, : len(returned)]
        torch.testing.assert_close(scores, truth[user, returned], atol=1e-4, rtol=1e-4)
        if beams == NUM_ITEMS and kept:
            best = truth[user, sorted(kept)].sort(descending=True).values[:top_k]
            torch.testing.assert_close(scores, best, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_scores_of_given_items_are_those_of_exact_scoring(model: Seq2Seq):
    history = torch.randint(0, NUM_ITEMS, (4, 5))
    items = torch.randint(0, NUM_ITEMS, (4, 9))
    items[1, 3:] = NUM_ITEMS
    truth = torch.nn.functional.pad(
        exact_scores(model, model.trie, history), (0, 1), value=-torch.inf
    )
    scores = score_items(model, model.trie, history, items)
    torch.testing.assert_close(scores, truth.gather(1, items), atol=1e-5, rtol=1e-5)
    assert score_items(model, model.trie, history, items[:, :0]).shape == (4, 0)


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_of_a_path_are_those_of_teacher_forcing_and_add_up_to_the_score(model: Seq2Seq):
    history = torch.randint(0, NUM_ITEMS, (4, 5))
    items = torch.randint(0, NUM_ITEMS, (4, 9))
    items[1, 3:] = NUM_ITEMS
    steps = path_log_probs(model, model.trie, history, items)
    assert (steps <= 1e-6).all()
    scores = score_items(model, model.trie, history, items)
    torch.testing.assert_close(steps.sum(dim=2), scores, atol=1e-5, rtol=1e-5)
    for column, targets in enumerate(items.T):
        missing = targets == NUM_ITEMS
        with torch.no_grad():
            forced = model(history, targets.masked_fill(missing, 0)).log_prob  # [users, levels]
        forced = forced.masked_fill(missing[:, None], -torch.inf)
        torch.testing.assert_close(steps[:, column], forced, atol=1e-5, rtol=1e-5)


def kept_plainly(
    steps: torch.Tensor, permitted: set[int], num_beams: int, codes: list[list[int]]
) -> list[int]:
    """Levels that a search keeps of each item of a user, by lists of prefixes."""
    kept, beams = [0] * len(codes), [()]
    for level in range(len(codes[0])):
        scores = {}
        for item in permitted:
            prefix = tuple(codes[item][: level + 1])
            if prefix[:-1] in beams:
                scores[prefix] = float(steps[item, : level + 1].sum())
        beams = sorted(scores, key=lambda prefix: -scores[prefix])[:num_beams]
        for item, row in enumerate(codes):
            kept[item] += tuple(row[: level + 1]) in beams
    return kept


@pytest.mark.parametrize("num_beams", [1, 3, NUM_ITEMS])
@pytest.mark.parametrize("model", MODELS)
def test_levels_are_kept_as_by_a_search_of_lists(model: Seq2Seq, num_beams: int):
    history = torch.randint(0, NUM_ITEMS, (6, 5))
    items = torch.arange(NUM_ITEMS + 1).expand(6, -1)
    exclude = torch.randint(0, NUM_ITEMS, (6, 7))
    allow = torch.arange(NUM_ITEMS) % 5 != 2
    steps = path_log_probs(model, model.trie, history, items)
    for masks in ({}, {"exclude": exclude}, {"exclude": exclude, "allow": allow}):
        kept = kept_levels(model, model.trie, history, items, num_beams=num_beams, **masks)  # type: ignore[arg-type]
        ranked = beam_search(
            model,
            model.trie,
            history,
            num_beams=num_beams,
            top_k=num_beams,
            **masks,  # type: ignore[arg-type]
        )
        for user in range(6):
            permitted = set(allow.nonzero()[:, 0].tolist()) if "allow" in masks else {*range(18)}
            permitted -= set(exclude[user].tolist()) if "exclude" in masks else set()
            expected = kept_plainly(steps[user], permitted, num_beams, CODES.tolist())
            assert kept[user].tolist() == [*expected, 0]
            whole = [item for item, levels in enumerate(expected) if levels == 3]
            assert whole == sorted(item for item in ranked.items[user].tolist() if item >= 0)


def test_recall_of_a_beam_is_its_share_of_the_exact_list():
    model = MODELS[0]
    history = torch.randint(0, NUM_ITEMS, (40, 5))
    wide = beam_recall(model, model.trie, history, num_beams=NUM_ITEMS, top_k=5)
    assert wide.tolist() == [1.0] * 40
    narrow = beam_recall(model, model.trie, history, num_beams=5, top_k=5)
    best = exact_scores(model, model.trie, history).topk(5, dim=1).indices.tolist()
    beam = beam_search(model, model.trie, history, num_beams=5, top_k=5).items.tolist()
    expected = [len({*a} & {*b}) / 5 for a, b in zip(best, beam, strict=True)]
    assert narrow.tolist() == pytest.approx(expected)
    assert min(expected) < 1


def test_the_rows_of_items_do_not_change_a_users_answer():
    model = MODELS[0]
    order = torch.randperm(NUM_ITEMS)
    shuffled = Seq2Seq(model.config, Trie.build(CODES[order], (4, 3, 3))).eval()
    shuffled.load_state_dict(model.state_dict())
    history = torch.randint(0, NUM_ITEMS, (5, 4))
    moved = beam_search(shuffled, shuffled.trie, order.argsort()[history], num_beams=6, top_k=6)
    plain = beam_search(model, model.trie, history, num_beams=6, top_k=6)
    assert torch.equal(order[moved.items], plain.items)
    torch.testing.assert_close(moved.scores, plain.scores)


def test_exact_scoring_decodes_a_bounded_number_of_prefixes(monkeypatch: pytest.MonkeyPatch):
    from genrec.cached import CachedDecoder

    step, sizes = CachedDecoder.step, []

    def counted(self: CachedDecoder, x: torch.Tensor, past: list[torch.Tensor]):
        sizes.append(x.shape[0] * x.shape[1])
        return step(self, x, past)

    monkeypatch.setattr(CachedDecoder, "step", counted)
    model = MODELS[0]
    exact_scores(model, model.trie, torch.zeros(2, 3, dtype=torch.long), prefixes_at_once=6)
    assert max(sizes) == 6
    assert sum(sizes) == 2 * (1 + sum(model.trie.level_sizes[:-1]))


@pytest.mark.usefixtures("unchecked")
def test_bad_masks_are_refused():
    trie = MODELS[0].trie
    with pytest.raises(ValueError, match=r"exclude must hold item rows from 0 to 17.*, got 19"):
        Mask(trie, 1, exclude=torch.tensor([[0, 19]]))
    with pytest.raises(ValueError, match="allow must hold item rows from 0 to 17"):
        Mask(trie, 1, allow=torch.tensor([[-1]]))
    with pytest.raises(ValueError, match=r"one value for each of 18 items, got shape \(3,\)"):
        Mask(trie, 1, allow=torch.ones(3, dtype=torch.bool))
    for name in ("exclude", "allow"):
        with pytest.raises(ValueError, match=rf"{name} .* each of 2 histories, got shape \(1, 1\)"):
            Mask(trie, 2, **{name: torch.tensor([[3]])})


@pytest.mark.parametrize("model", MODELS)
def test_no_lists_and_no_users_give_nothing(model: Seq2Seq):
    none = torch.empty(1, 0, dtype=torch.long)
    history, allow = torch.tensor([[1]]), torch.tensor([[4, 2]])
    masked = {"num_beams": NUM_ITEMS, "top_k": 3, "exclude": none}
    items = beam_search(model, model.trie, history, allow=allow, **masked).items  # type: ignore[arg-type]
    assert sorted(items[0].tolist()) == [-1, 2, 4]
    items = beam_search(model, model.trie, history, allow=none, **masked).items  # type: ignore[arg-type]
    assert items.tolist() == [[-1, -1, -1]]
    nobody = torch.empty(0, 3, dtype=torch.long)
    ranked = beam_search(model, model.trie, nobody, num_beams=5, top_k=4, exclude=nobody)
    assert ranked.items.shape == ranked.scores.shape == (0, 4)
    assert exact_scores(model, model.trie, nobody).shape == (0, NUM_ITEMS)
    assert score_items(model, model.trie, nobody, nobody).shape == (0, 3)
    assert path_log_probs(model, model.trie, nobody, nobody).shape == (0, 3, 3)
    assert kept_levels(model, model.trie, nobody, nobody).shape == (0, 3)
    assert beam_recall(model, model.trie, nobody).shape == (0,)
    with pytest.raises(ValueError, match=r"items must hold item rows from 0 to 17.*, got -1"):
        score_items(model, model.trie, history, torch.tensor([[-1]]))
    with pytest.raises(ValueError, match=r"items must hold item rows from 0 to 17.*, got 19"):
        path_log_probs(model, model.trie, history, torch.tensor([[19]]))
    with pytest.raises(ValueError, match="num_beams must be at least 1, got 0"):
        kept_levels(model, model.trie, history, allow, num_beams=0)
