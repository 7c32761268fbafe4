from __future__ import annotations

import pytest
import torch
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.sequences import PairBatches
from genrec.trie import Trie
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

WINDOW = 4
FORWARD = [1 / distance for distance in range(1, WINDOW + 1)]
BACKWARD = [0.5 / distance for distance in range(1, WINDOW + 1)]


def counted(sequences: list[list[int]], num_items: int) -> Tensor:
    """The transition graph pair by pair: 1 / d forward, half of it backward, no diagonal."""
    graph = torch.zeros(num_items, num_items, dtype=torch.float64)
    for sequence in sequences:
        for place, earlier in enumerate(sequence):
            for distance in range(1, WINDOW + 1):
                if place + distance < len(sequence):
                    later = sequence[place + distance]
                    graph[earlier, later] += FORWARD[distance - 1]
                    graph[later, earlier] += BACKWARD[distance - 1]
    return graph.fill_diagonal_(0)


def compressed(table: Tensor, decay: float, *, has_counts: bool) -> ItemMatrix:
    is_edge = table > 0
    return ItemMatrix(
        offsets=torch.nn.functional.pad(is_edge.sum(dim=1).cumsum(0), (1, 0)),
        neighbours=is_edge.nonzero()[:, 1],
        weights=table[is_edge].float(),
        decay=decay,
        forward=FORWARD if has_counts else (),
        backward=BACKWARD if has_counts else (),
    )


def expected_scores(table: Tensor, history: list[int], decay: float, last_items: int) -> Tensor:
    total = torch.zeros(len(table), dtype=torch.float64)
    for age, item in enumerate(history[::-1][:last_items]):
        total += decay**age * table[item]
    return total


def padded(rows: list[list[int]], num_items: int, *, left: bool = False) -> Tensor:
    width = max(1, *map(len, rows))
    fill = [[num_items] * (width - len(row)) for row in rows]
    return torch.tensor(
        [pad + row if left else row + pad for pad, row in zip(fill, rows, strict=True)]
    )


@st.composite
def user_sequences(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    num_items = draw(st.integers(2, 7))
    item = st.integers(0, num_items - 1)
    return num_items, draw(st.lists(st.lists(item, max_size=9), min_size=2, max_size=5))


@settings(deadline=None)
@given(st.data())
def test_a_history_is_scored_as_if_its_future_had_never_been_counted(data: st.DataObject):
    num_items, sequences = data.draw(user_sequences())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    last_items = data.draw(st.integers(1, 9))
    text = torch.rand(num_items, num_items, generator=generator).double()
    text *= torch.rand(num_items, num_items, generator=generator) < 0.5
    matrices = [
        compressed(counted(sequences, num_items), 0.5, has_counts=True),
        compressed(text, 0.8, has_counts=False),
    ]
    graph = ItemGraph.build(num_items, matrices, last_items=last_items)
    cuts = [data.draw(st.integers(0, len(sequence))) for sequence in sequences]
    histories = [sequence[:cut] for sequence, cut in zip(sequences, cuts, strict=True)]
    futures = [sequence[cut:] for sequence, cut in zip(sequences, cuts, strict=True)]
    left = data.draw(st.booleans())
    scores = graph(padded(histories, num_items, left=left), padded(futures, num_items))
    dense = scores.dense(len(sequences), num_items)
    for user, history in enumerate(histories):
        others = [*sequences[:user], history, *sequences[user + 1 :]]
        of_graph = expected_scores(counted(others, num_items), history, 0.5, last_items)
        of_text = expected_scores(text, history, 0.8, last_items)
        torch.testing.assert_close(dense[0, user], of_graph.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dense[1, user], of_text.float(), atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(st.data())
def test_queries_are_scored_by_the_whole_matrix(data: st.DataObject):
    num_items, sequences = data.draw(user_sequences())
    table = counted(sequences, num_items)
    graph = ItemGraph.build(num_items, [compressed(table, 0.5, has_counts=True)])
    dense = graph(padded(sequences, num_items)).dense(len(sequences), num_items)[0]
    for user, history in enumerate(sequences):
        expected = expected_scores(table, history, 0.5, 20).float()
        torch.testing.assert_close(dense[user], expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(st.data())
def test_sums_below_equal_a_loop_over_items(data: st.DataObject):
    num_items, sequences = data.draw(user_sequences())
    width = data.draw(st.integers(2, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    codes = torch.cartesian_prod(*[torch.arange(width)] * 3)
    codes = codes[torch.randperm(len(codes), generator=generator)[:num_items]]
    trie = Trie.build(codes, (width,) * 3)
    graph = ItemGraph.build(
        num_items, [compressed(counted(sequences, num_items), 0.5, has_counts=True)] * 2
    )
    scores = graph(padded(sequences, num_items))
    dense = scores.dense(len(sequences), num_items)
    paths = trie.paths(torch.arange(num_items))
    for level in range(3):
        above = trie.level_sizes[level - 1] if level else 1
        beams = data.draw(st.integers(1, above))
        parents = torch.stack(
            [torch.randperm(above, generator=generator)[:beams] for _ in sequences]
        )
        children = trie.expand(level, parents.flatten())
        sums = trie.sums_below(level, parents, children, scores)
        for position, (node, parent) in enumerate(
            zip(children.node.tolist(), children.parent.tolist(), strict=True)
        ):
            expected = dense[:, parent // beams, paths[:, level] == node].sum(dim=1)
            torch.testing.assert_close(sums[position], expected, atol=1e-5, rtol=1e-5)


def test_batches_tell_the_future_from_the_target_on():
    histories = [[3, 1, 4, 0, 2], [2, 0], [1]]
    batches = PairBatches(histories, num_items=5, history_length=2, batch_size=9, future_length=3)
    (batch,) = batches(0)
    rows = {
        (tuple(h), target): future
        for h, target, future in zip(
            batch.history.tolist(),
            batch.targets.tolist(),
            batch.future.tolist(),
            strict=True,
        )
    }
    assert rows == {
        ((3, 5), 1): [1, 4, 0],
        ((3, 1), 4): [4, 0, 2],
        ((1, 4), 0): [0, 2, 5],
        ((4, 0), 2): [2, 5, 5],
        ((2, 5), 0): [0, 5, 5],
    }
    assert next(iter(PairBatches(histories, num_items=5)(0))).future is None
    with pytest.raises(ValueError, match="future_length must be at least 0, got -1"):
        PairBatches(histories, num_items=5, future_length=-1)
