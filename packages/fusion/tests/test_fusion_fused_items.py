"""Fused items against plain loops over occurrences, in portions and at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fusion import FusedItems, MaskedCodes, SemanticFusion, fused_items, mask_codes
from torch import Tensor, nn

SIZES, NUM_ITEMS, DIM = (5, 3, 4), 9, 8
OCCURRENCES = torch.tensor([4, 0, 3, 3, 7, 4, 4])  # what a batch of histories holds, repeats too


def catalogue(num_items: int = NUM_ITEMS) -> tuple[Tensor, Tensor]:
    """Codes [items, 3] and views [items, 2, dim] of random items."""
    generator = torch.Generator().manual_seed(1)
    columns = [torch.randint(size, (num_items,), generator=generator) for size in SIZES]
    return torch.stack(columns, dim=1), torch.randn(num_items, 2, DIM, generator=generator)


def build(num_items: int = NUM_ITEMS, **options: Any) -> FusedItems:
    torch.manual_seed(0)
    codes, views = catalogue(num_items)
    options = {"feedforward_dim": 12, "dropout": 0.0, **options}
    items = FusedItems(codes, SIZES, views, **options)
    for parameter in items.parameters():  # the paper's small weights hide mistakes
        nn.init.normal_(parameter, std=0.4)
    return items.double()


def gradients(items: FusedItems, *results: Tensor) -> dict[str, Tensor]:
    """Of a sum of the results in which every value has a slope of its own."""
    items.zero_grad()
    slopes = [torch.linspace(1, 2, result.numel()).view_as(result) for result in results]
    torch.autograd.backward(results, slopes)
    return {n: p.grad.clone() for n, p in items.named_parameters() if p.grad is not None}


def pass_alone(
    items: FusedItems, item: int, codes: Tensor, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """H [codes, dim], Pool(H) and Pool(H) + Pool(Z^c), both [dim], of one occurrence of an item."""
    queries = items.fusion.embed(codes[None], None if hidden is None else hidden[None])
    memory = items.views[item][None] if items.read_views else queries
    states = items.fusion(queries, memory)[0]
    return states, states.mean(0), states.mean(0) + queries[0].mean(0)


WAYS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "code"},
        {"read_views": False},
        {"checkpoint_items": 2},
        {"pooling": "code", "checkpoint_items": 3},
    ],
    ids=str,
)


@WAYS
def test_each_distinct_item_once_is_every_occurrence_on_its_own(options: dict[str, Any]) -> None:
    items = build(**options)
    rows, where = OCCURRENCES.unique(return_inverse=True)
    inputs, outputs = (table[where] for table in items(rows))
    slopes = gradients(items, inputs, outputs)

    passes = [pass_alone(items, item, items.codes[item]) for item in OCCURRENCES.tolist()]
    read = 2 if items.pooling == "paper" else 1
    expected = [torch.stack([vectors[column] for vectors in passes]) for column in (read, 2)]
    torch.testing.assert_close([inputs, outputs], expected)
    torch.testing.assert_close(slopes, gradients(items, *expected))
    assert len(slopes) > 30


@WAYS
def test_masked_items_once_are_every_occurrence_on_its_own(options: dict[str, Any]) -> None:
    items = build(**options)
    rows, where = OCCURRENCES.unique(return_inverse=True)
    masked = items.mask(rows)
    assert 0 < int(masked.hidden.sum()) <= int(masked.chosen.sum()) < masked.chosen.numel()
    guesses = items.guess(rows, masked)
    # Every occurrence of an item repeats its guesses.
    order = torch.cat([(guesses.items == row).nonzero()[:, 0] for row in where])
    inputs, states = guesses.inputs[where], guesses.states[order]
    slopes = gradients(items, inputs, states)

    vectors, wanted_states, wanted_targets = [], [], []
    starts = (0, SIZES[0], SIZES[0] + SIZES[1])
    for item, row in zip(OCCURRENCES.tolist(), where.tolist(), strict=True):
        fused, *pooled = pass_alone(items, item, masked.codes[row], masked.hidden[row])
        vectors.append(pooled[items.pooling == "paper"])
        for position in masked.chosen[row].nonzero()[:, 0].tolist():
            wanted_states.append(fused[position])
            wanted_targets.append(starts[position] + int(items.codes[item, position]))
    expected = torch.stack(vectors), torch.stack(wanted_states)
    torch.testing.assert_close((inputs, states), expected)
    assert guesses.targets[order].tolist() == wanted_targets
    torch.testing.assert_close(slopes, gradients(items, *expected))
    assert "fusion.mask_vector" in slopes


def test_portions_computed_again_are_those_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same numbers, dropout included."""
    items = build(checkpoint_items=2, dropout=0.2).train()
    rows = torch.arange(NUM_ITEMS)
    results = []
    for recompute in (True, False):
        if not recompute:
            plain = lambda function, *rest, use_reentrant: function(*rest)  # noqa: E731
            monkeypatch.setattr(fused_items, "checkpoint", plain)
        torch.manual_seed(1)
        inputs, _ = items()
        guesses = items.guess(rows, items.mask(rows))
        parts = [inputs, guesses.inputs, guesses.states]
        results.append((dict(enumerate(parts)), gradients(items, *parts)))
    for recomputed, kept in zip(*results, strict=True):
        assert recomputed.keys() == kept.keys()
        assert all(recomputed[name].equal(kept[name]) for name in kept)


@pytest.mark.parametrize(("most", "sizes"), [(9, [9]), (8, [5, 4]), (4, [3, 3, 3]), (1, [1] * 9)])
def test_portions_are_even_bounded_and_computed_again(most: int, sizes: list[int]) -> None:
    items = build(checkpoint_items=most)
    passes: list[int] = []
    items.fusion.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    inputs, outputs = items()
    assert passes == sizes
    gradients(items, inputs, outputs)
    again = sizes if len(sizes) > 1 else []  # what fits at once is kept
    assert sorted(passes) == sorted(sizes + again)
    passes.clear()
    with torch.no_grad():
        torch.testing.assert_close(items()[0], inputs)
    assert passes == sizes


def test_where_codes_are_added_everywhere_there_is_a_single_table() -> None:
    inputs, outputs = build()()
    assert inputs is outputs
    inputs, outputs = build(pooling="code")()
    assert not inputs.isclose(outputs).any()
    torch.testing.assert_close(outputs, build()()[1])
    assert [len(table) for table in build()(OCCURRENCES[:0])] == [0, 0]


def test_codes_take_the_place_of_views_and_a_hidden_one_stays_hidden() -> None:
    items = build(read_views=False)
    before, _ = items()
    items.views.zero_()
    assert items()[0].equal(before)
    rows, hidden = torch.tensor([0]), torch.tensor([[True, False, False]])
    other = items.codes[:1].clone()
    other[0, 0] = (other[0, 0] + 1) % SIZES[0]
    first, second = (
        items.guess(rows, MaskedCodes(codes=codes, hidden=hidden, chosen=~hidden))
        for codes in (items.codes[:1], other)
    )
    assert first.states.equal(second.states)
    assert first.inputs.equal(second.inputs)


def test_masks_are_those_of_mask_codes_at_the_ratio() -> None:
    items = build(mask_ratio=0.7)
    rows = torch.tensor([3, 8, 2])
    torch.manual_seed(5)
    masked = items.mask(rows)
    torch.manual_seed(5)
    expected = mask_codes(items.codes[rows], SIZES, ratio=0.7)
    again = items.mask(rows, generator=torch.Generator().manual_seed(5))
    for name, values in vars(masked).items():
        assert values.equal(getattr(expected, name))
        assert values.equal(getattr(again, name))
    assert build(mask_ratio=1.0).mask(rows).chosen.all()


def test_its_weights_and_their_draws_are_the_semantic_fusion_module_s() -> None:
    codes, views = catalogue()
    torch.manual_seed(3)
    items = FusedItems(codes, SIZES, views, num_layers=1, num_heads=4, feedforward_dim=12)
    torch.manual_seed(3)
    fusion = SemanticFusion(SIZES, DIM, num_layers=1, num_heads=4, feedforward_dim=12)
    weights = items.state_dict()
    assert list(weights) == [f"fusion.{name}" for name in fusion.state_dict()]
    assert all(weights[f"fusion.{name}"].equal(value) for name, value in fusion.named_parameters())
    assert items.double().views.dtype == torch.float64
    assert items.codes.dtype == torch.int64


@pytest.mark.usefixtures("unchecked")
def test_items_that_do_not_fit_are_refused() -> None:
    codes, views = torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, 2, DIM)
    for wrong, sizes, words in (
        (codes[:3], SIZES, "codes must have one row per item, 4, got 3"),
        (codes, SIZES[:2], r"codes must be within codebook_sizes, \(5, 3\)"),
        (codes + 3, SIZES, r"codes must be within codebook_sizes, \(5, 3, 4\)"),
        (codes - 1, SIZES, r"codes must be within codebook_sizes, \(5, 3, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            FusedItems(wrong, sizes, views)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "sum"}, r"pooling must be one of \('paper', 'code'\), got 'sum'"),
        ({"mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\], got 0.0"),
        ({"mask_ratio": 1.5}, r"mask_ratio must be in \(0, 1\], got 1.5"),
        ({"mask_ratio": float("nan")}, r"mask_ratio must be in \(0, 1\], got nan"),
        ({"checkpoint_items": 0}, "checkpoint_items must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 3}, "dim must be a positive multiple of num_heads, got 8 and 3"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    codes, views = catalogue()
    with pytest.raises(ValueError, match=words):
        FusedItems(codes, SIZES, views, **options)
