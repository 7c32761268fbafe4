from __future__ import annotations

import pytest
import torch
from genrec.item_checks import first_of_each
from genrec.trie import Trie
from genrec.vocabulary import Vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def code_tables(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=30, unique=True))
    return torch.tensor(rows), sizes


@settings(deadline=None)
@given(code_tables())
def test_trie_equals_a_tree_of_dicts(table: tuple[Tensor, list[int]]):
    codes, sizes = table
    trie = Trie.build(codes, sizes)
    rows = [tuple(row) for row in codes.tolist()]
    assert torch.equal(trie.codes, codes)
    assert trie.num_items == len(rows)
    for level in range(len(sizes)):
        prefixes = sorted({row[: level + 1] for row in rows})
        assert trie.level_sizes[level] == len(prefixes)
        nodes = torch.arange(len(prefixes))
        assert trie.node_codes(level, nodes).tolist() == [prefix[-1] for prefix in prefixes]
        assert trie.items_below(level, nodes).tolist() == [
            sum(row[: level + 1] == prefix for row in rows) for prefix in prefixes
        ]
        paths = trie.paths(torch.arange(len(rows)))
        assert paths[:, level].tolist() == [prefixes.index(row[: level + 1]) for row in rows]
        parents = sorted({row[:level] for row in rows})
        reverse = list(range(len(parents)))[::-1]
        children = trie.expand(level, torch.tensor(reverse))
        expected = [
            (position, prefixes.index(prefix))
            for position, node in enumerate(reverse)
            for prefix in prefixes
            if prefix[:-1] == parents[node]
        ]
        pairs = list(zip(children.parent.tolist(), children.node.tolist(), strict=True))
        assert pairs == expected
        assert children.counts.tolist() == [
            sum(position == owner for owner, _ in expected) for position in range(len(reverse))
        ]
    assert [rows[item] for item in trie.leaf_items.tolist()] == sorted(rows)


@settings(deadline=None)
@given(code_tables(), st.data())
def test_look_ups_equal_a_plain_search(table: tuple[Tensor, list[int]], data: st.DataObject):
    codes, sizes = table
    trie = Trie.build(codes, sizes)
    rows = [tuple(row) for row in codes.tolist()]
    any_code = st.integers(-2, 70_000) if data.draw(st.booleans()) else st.integers(0, 4)
    depth = data.draw(st.integers(0, len(sizes)))
    known = st.sampled_from(rows).map(lambda row: row[:depth])
    prefix = st.one_of(known, st.tuples(*[any_code] * depth))
    prefixes = data.draw(st.lists(prefix, min_size=1, max_size=6))
    queries = torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), depth)
    nodes = sorted({row[:depth] for row in rows})
    positions = [nodes.index(prefix) if prefix in nodes else -1 for prefix in prefixes]
    assert trie.nodes(queries).tolist() == positions
    if depth:
        every = torch.arange(trie.level_sizes[depth - 1])
        assert [tuple(row) for row in trie.prefixes(depth - 1, every).tolist()] == nodes
    if depth == len(sizes):
        items = [rows.index(prefix) if prefix in rows else -1 for prefix in prefixes]
        assert trie.items(queries).tolist() == items
        assert trie.items(queries[0]).tolist() == items[0]
        return
    marks = trie.allowed(queries)
    assert marks.shape == (len(prefixes), sizes[depth])
    for prefix, row in zip(prefixes, marks, strict=True):
        following = {other[depth] for other in rows if other[:depth] == prefix}
        assert set(row.nonzero().flatten().tolist()) == following
        assert torch.equal(trie.allowed(torch.tensor(prefix, dtype=torch.long)), row)


def test_look_ups_of_another_depth_are_refused():
    trie = Trie.build(torch.tensor([[0, 1], [1, 0]]), [2, 2])
    with pytest.raises(ValueError, match="prefixes must be of at most 2 codes, got 3"):
        trie.nodes(torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 1 codes, after which another may follow, got 2"):
        trie.allowed(torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="codes must be of 2 levels, got 1"):
        trie.items(torch.zeros(4, 1, dtype=torch.long))


def test_codes_that_do_not_fit_one_number_are_sorted_all_the_same():
    generator = torch.Generator().manual_seed(0)
    sizes = [256, 3, 70_000] * 4  # some 100 bits
    codes = torch.stack([torch.randint(0, size, (300,), generator=generator) for size in sizes], 1)
    codes[100:200, :7] = codes[:100, :7]
    codes[200:, :11] = codes[:100, :11]
    trie = Trie.build(codes, sizes)
    rows = [tuple(row) for row in codes.tolist()]
    assert [rows[item] for item in trie.leaf_items.tolist()] == sorted(rows)
    assert torch.equal(trie.codes, codes)


def test_the_bytes_of_a_trie_are_told():
    codes = torch.cartesian_prod(torch.arange(16), torch.arange(16), torch.arange(16))
    # Item of a leaf and leaf of an item, 4 bytes each; a code, 2 bytes; the rest is above.
    assert 4096 * 10 < Trie.build(codes, [16] * 3).num_bytes < 4096 * 11


@pytest.mark.parametrize(
    ("codes", "sizes", "words"),
    [
        ([[0, 1], [1, 1], [0, 1]], [2, 2], r"\[0, 1\] for both item 0 and item 2"),
        ([[0, 2]], [2, 2], r"size \(2 at level 1\), got 2 for item 0"),
        ([[0, -1]], [2, 2], "got -1 for item 0"),
        ([[0, 1]], [2], "one entry per level, got 1 for codes of 2 levels"),
    ],
)
def test_bad_codes_are_refused(codes: list[list[int]], sizes: list[int], words: str):
    with pytest.raises(ValueError, match=words):
        Trie.build(torch.tensor(codes), sizes)


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one item"):
        Trie.build(torch.empty(0, 2, dtype=torch.long), [2, 2])


def test_trie_moves_and_stays_out_of_the_state_dict():
    trie = Trie.build(torch.tensor([[0, 1], [1, 0]]), [2, 2])
    assert trie.to("meta").leaf_items.is_meta
    assert not trie.state_dict()


def test_tokens_of_codes_and_special_tokens():
    vocabulary = Vocabulary(level_sizes=(3, 1, 2))
    codes = torch.tensor([[2, 0, 1], [0, 0, 0]])
    tokens = vocabulary.encode(codes)
    assert tokens.tolist() == [[2, 3, 5], [0, 3, 4]]
    assert (vocabulary.bos, vocabulary.c_dis, vocabulary.size) == (6, 7, 8)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_exhausted_finds_the_children_that_lead_to_given_items_alone(data: st.DataObject):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = data.draw(st.lists(row, min_size=1, max_size=12, unique=True))
    trie = Trie.build(torch.tensor(rows), sizes)
    level = data.draw(st.integers(0, len(sizes) - 1))
    num_parents = trie.level_sizes[level - 1] if level else 1
    count = data.draw(st.integers(1, num_parents))
    users = [
        (
            data.draw(st.permutations(range(num_parents)))[:count],
            data.draw(st.lists(st.integers(0, len(rows)), min_size=4, max_size=4)),
        )
        for _ in range(2)
    ]
    parents = torch.tensor([user[0] for user in users])
    items = torch.tensor([user[1] for user in users])
    children = trie.expand(level, parents.flatten())
    exhausted = trie.exhausted(level, parents, children, first_of_each(items, len(rows)))
    paths = trie.paths(torch.arange(len(rows)))
    expected = set()
    for place, (node, parent) in enumerate(
        zip(children.node.tolist(), children.parent.tolist(), strict=True)
    ):
        below = {item for item in range(len(rows)) if paths[item, level] == node}
        if below <= set(users[parent // count][1]):
            expected.add(place)
    assert set(exhausted.tolist()) == expected


def test_the_arrays_are_those_of_the_picture():
    """The catalogue that the module's docstring draws."""
    codes = [[0, 0, 1], [1, 0, 1], [1, 2, 0], [0, 0, 0], [0, 1, 0]]
    trie = Trie.build(torch.tensor(codes), (2, 3, 2))
    expected = {
        "leaf_items": [3, 0, 4, 1, 2],
        "item_leaves": [1, 3, 4, 0, 2],
        "codes_0": [0, 1],
        "codes_1": [0, 1, 0, 2],
        "codes_2": [0, 1, 0, 1, 0],
        "child_0": [0, 2],
        "child_1": [0, 2, 4],
        "child_2": [0, 2, 3, 4, 5],
        "leaf_0": [0, 3, 5],
        "leaf_1": [0, 2, 3, 4, 5],
    }
    assert {
        name: array.tolist() for name, array in trie.named_buffers(remove_duplicate=False)
    } == expected


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_first_of_each_item_stays_in_its_place(rows: list[list[int]]):
    expected = [
        [item if item not in row[:place] else -1 for place, item in enumerate(row)] for row in rows
    ]
    assert first_of_each(torch.tensor(rows), -1).tolist() == expected
