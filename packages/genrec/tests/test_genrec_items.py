"""Item tables: ids, stored content, and both."""

from __future__ import annotations

import pytest
import torch
from genrec.backbones import ConcatenatedTables, ContentTable, ItemTable, item_table

NUM_ITEMS, DIM = 12, 4


def features(dim: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dim)
    return scale * torch.randn(NUM_ITEMS, dim, generator=generator)


def test_content_goes_through_a_linear_layer():
    content = features(3)
    table = ContentTable(content, DIM)
    expected = torch.stack(
        [table.projection.weight @ row + table.projection.bias for row in content]
    )
    torch.testing.assert_close(table(), expected)
    rows = torch.tensor([7, 7, 0])
    torch.testing.assert_close(table(rows), expected[rows])
    assert dict(table.named_parameters()).keys() == table.state_dict().keys()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_content_of_any_scale_starts_as_wide_as_ids_do(scale: float):
    torch.manual_seed(0)
    vectors = ContentTable(torch.randn(4000, 64) * scale, 64)()
    assert vectors.std().item() == pytest.approx(0.02 * 64**0.5, rel=0.05)


def test_tables_side_by_side():
    parts = [ItemTable(NUM_ITEMS, DIM), ContentTable(features(3), DIM)]
    table = ConcatenatedTables(parts, DIM)
    joined = torch.cat([parts[0].ids, parts[1]()], dim=1)
    expected = joined @ table.projection.weight.T + table.projection.bias
    torch.testing.assert_close(table(), expected)


@pytest.mark.parametrize(
    ("item_input", "contents", "kinds"),
    [
        ("ids", [3], [ItemTable]),
        ("content", [3], [ContentTable]),
        ("content", [3, 5], [ContentTable, ContentTable]),
        ("both", [3], [ItemTable, ContentTable]),
        ("both", [3, 5], [ItemTable, ContentTable, ContentTable]),
    ],
)
def test_the_table_that_was_named(item_input: str, contents: list[int], kinds: list[type]):
    table = item_table(item_input, [features(dim) for dim in contents], DIM)
    parts = list(table.tables) if isinstance(table, ConcatenatedTables) else [table]
    assert [type(part) for part in parts] == kinds
    assert table().shape == (NUM_ITEMS, DIM)


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    with pytest.raises(ValueError, match=r"item_input must be one of .*, got 'text'"):
        item_table("text", [features(3)], DIM)
    with pytest.raises(ValueError, match=r"at least one array, .* got numbers of rows \[\]"):
        item_table("both", [], DIM)
    with pytest.raises(ValueError, match=r"got numbers of rows \[12, 11\]"):
        item_table("content", [features(3), features(3)[1:]], DIM)
    with pytest.raises(ValueError, match="num_items and dim must be at least 1, got 0 and 4"):
        ItemTable(0, DIM)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        ContentTable(features(3), 0)
    with pytest.raises(ValueError, match=r"finite and not all alike, got standard deviation 0\.0"):
        ContentTable(torch.ones(NUM_ITEMS, 3), DIM)
    with pytest.raises(ValueError, match="finite and not all alike, got standard deviation nan"):
        ContentTable(features(3) / 0, DIM)
    with pytest.raises(ValueError, match="tables must be at least one and dim at least 1, got 0"):
        ConcatenatedTables([], DIM)
