"""Search by a step function of one's own, beside plain Python over all items."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from genrec import Trie, step_beam_search, step_exact_scores, step_score_items
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SIZES = (4, 3, 5)
CODES = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))[::3].flip(0)
NUM_ITEMS = len(CODES)
TRIE = Trie.build(CODES, SIZES)
START = SIZES[0]  # what a row's newest code is before there is any


class Recurrent(torch.nn.Module):
    """A small recurrent model whose state is a dict with a tuple and tensors of several shapes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.GRUCell(6, 8)
        self.tokens = torch.nn.Embedding(16, 6)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(8, size) for size in SIZES)

    def forward(self, state: Any, codes: Tensor) -> tuple[Tensor, Any]:
        hidden, (history, total) = state["hidden"], state["parts"]
        depth = codes.shape[1]
        newest = codes[:, -1] if depth else torch.full((len(codes),), START)
        hidden = self.cell(self.tokens(newest), hidden)
        log_probs = self.heads[depth](hidden + history[:, 0]).log_softmax(dim=1)
        # A row whose state is that of other codes has scores that no test takes for right.
        total = total + newest
        log_probs = log_probs - 100.0 * (total != START + codes.sum(dim=1))[:, None]
        return log_probs, {"hidden": hidden, "parts": (history, total)}


STEP = Recurrent().eval()


def first_state(num_users: int) -> Any:
    generator = torch.Generator().manual_seed(num_users)
    history = torch.randn(num_users, 2, 8, generator=generator)
    zeros = torch.zeros(num_users, dtype=torch.long)
    return {"hidden": torch.zeros(num_users, 8), "parts": (history, zeros)}


def plain_scores(num_users: int, *, renormalize: bool) -> list[list[float]]:
    """Every item's score for every user, one item and one code at a time."""
    rows = [tuple(row) for row in CODES.tolist()]
    users = []
    for user in range(num_users):
        state = first_state(num_users)
        history, _ = state["parts"]
        scores = []
        for row in rows:
            here = {
                "hidden": torch.zeros(1, 8),
                "parts": (history[user : user + 1], torch.zeros(1, dtype=torch.long)),
            }
            total = 0.0
            for depth, code in enumerate(row):
                log_probs, here = STEP(here, torch.tensor([row[:depth]], dtype=torch.long))
                legal = {other[depth] for other in rows if other[:depth] == row[:depth]}
                values = log_probs[0].tolist()
                total += values[code]
                if renormalize:
                    total -= math.log(sum(math.exp(values[other]) for other in legal))
            scores.append(total)
        users.append(scores)
    return users


@pytest.fixture(scope="module")
def plain() -> dict[tuple[int, bool], Tensor]:
    with torch.no_grad():
        return {
            (users, renormalize): torch.tensor(plain_scores(users, renormalize=renormalize))
            for users in (1, 3)
            for renormalize in (False, True)
        }


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("users", [1, 3])
def test_scores_are_those_of_items_one_by_one(
    plain: dict[tuple[int, bool], Tensor], users: int, renormalize: bool
):
    state, expected = first_state(users), plain[users, renormalize]
    options = {"renormalize": renormalize}
    for at_once in (1, 7, 16384):
        scores = step_exact_scores(STEP, state, TRIE, prefixes_at_once=at_once, **options)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    ranked = step_beam_search(STEP, state, TRIE, num_beams=NUM_ITEMS, top_k=NUM_ITEMS, **options)
    order = expected.argsort(dim=1, descending=True)
    assert ranked.items.tolist() == order.tolist()
    torch.testing.assert_close(ranked.scores, expected.gather(1, order), atol=1e-5, rtol=1e-5)
    items = torch.tensor([[5, NUM_ITEMS, 0, 5]]).expand(users, -1)
    some = step_score_items(STEP, state, TRIE, items, **options)
    assert some[:, 1].tolist() == [-torch.inf] * users
    torch.testing.assert_close(some[:, [0, 2, 3]], expected[:, [5, 0, 5]], atol=1e-5, rtol=1e-5)
    if renormalize:
        torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(users))


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_a_narrow_beam_and_lists_are_those_of_a_plain_search(data: st.DataObject):
    lists = st.lists(
        st.lists(st.integers(0, NUM_ITEMS), min_size=6, max_size=6), min_size=2, max_size=2
    )
    exclude = data.draw(lists)
    allow = data.draw(st.none() | lists)
    num_beams = data.draw(st.integers(1, NUM_ITEMS))
    ranked = step_beam_search(
        STEP,
        first_state(2),
        TRIE,
        num_beams=num_beams,
        top_k=1,
        exclude=torch.tensor(exclude),
        allow=None if allow is None else torch.tensor(allow),
    )
    scores = step_exact_scores(STEP, first_state(2), TRIE)
    rows = [tuple(row) for row in CODES.tolist()]
    for user in range(2):
        legal = set(range(NUM_ITEMS)) - set(exclude[user])
        if allow is not None:
            legal &= set(allow[user])
        prefixes: list[tuple[int, ...]] = [()]
        for depth in range(3):
            longer = {rows[item][: depth + 1] for item in legal}
            kept = [prefix for prefix in longer if prefix[:-1] in prefixes]
            history, _ = first_state(2)["parts"]
            prefixes = sorted(kept, key=lambda p: -prefix_score(p, history[user]))[:num_beams]
        expected = rows.index(prefixes[0]) if prefixes else -1
        assert ranked.items[user].tolist() == [expected]
        if prefixes:
            torch.testing.assert_close(ranked.scores[user, 0], scores[user, expected])


def prefix_score(prefix: tuple[int, ...], history: Tensor) -> float:
    state: Any = {
        "hidden": torch.zeros(1, 8),
        "parts": (history[None], torch.zeros(1, dtype=torch.long)),
    }
    total = 0.0
    with torch.no_grad():
        for depth, code in enumerate(prefix):
            log_probs, state = STEP(state, torch.tensor([prefix[:depth]], dtype=torch.long))
            total += float(log_probs[0, code])
    return total


def test_no_users_have_no_items():
    ranked = step_beam_search(STEP, first_state(0), TRIE, top_k=3)
    assert ranked.items.shape == ranked.scores.shape == (0, 3)
    assert step_exact_scores(STEP, first_state(0), TRIE).shape == (0, NUM_ITEMS)


def test_refusals():
    def uniform(state: Any, codes: Tensor) -> tuple[Tensor, Any]:
        return torch.zeros(len(codes), 4), state

    with pytest.raises(ValueError, match=r"of shape \(8, 3\) at level 1, got \(8, 4\)"):
        step_beam_search(uniform, torch.zeros(2, 1), TRIE, top_k=1)
    with pytest.raises(ValueError, match=r"step must return a state of 2 rows, .* got 1"):
        step_beam_search(lambda s, c: (torch.zeros(2, 4), s[:1]), torch.zeros(2, 1), TRIE)
    with pytest.raises(TypeError, match=r"state must be a tensor, .* got str"):
        step_exact_scores(uniform, {"a": torch.zeros(2), "b": "text"}, TRIE)
    with pytest.raises(TypeError, match="got no tensor at all"):
        step_exact_scores(uniform, [], TRIE)
    with pytest.raises(ValueError, match=r"user and beam, got numbers of rows \[2, 3\]"):
        step_exact_scores(uniform, [torch.zeros(2), torch.zeros(3, 1)], TRIE)
    with pytest.raises(ValueError, match="items must have one row for each of 2 users, got 1"):
        step_score_items(uniform, torch.zeros(2), TRIE, torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="top_k must be at least 1 and at most num_beams"):
        step_beam_search(uniform, torch.zeros(2), TRIE, num_beams=2, top_k=3)
    with pytest.raises(ValueError, match="exclude must hold a list of items for each of 2"):
        step_beam_search(uniform, torch.zeros(2), TRIE, exclude=torch.zeros(1, 1).long())
