"""What the rivals compute, against plain loops: filters, gates, frequencies, copies, twins."""

from __future__ import annotations

import math

import pytest
import torch
from genrec import (
    FDSA,
    HGN,
    Batch,
    Caser,
    CL4SRec,
    ContentExperts,
    DuoRec,
    FeatureTables,
    FMLPRec,
    ItemTable,
    PairBatches,
    SequenceModelConfig,
    TwinBatches,
)
from genrec.backbones.cl4srec import cropped, masked, reordered
from genrec.contrast import contrast_of_copies
from torch import Tensor
from torch.nn import functional as F

NUM_ITEMS, DIM, WINDOW = 12, 6, 3
HISTORY = torch.tensor([[3, 1, 4, 1, 5], [9, 2, NUM_ITEMS, NUM_ITEMS, NUM_ITEMS]])


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def window_of(vectors: Tensor, items: list[int]) -> Tensor:
    """The last rows of a history, zeros before its first."""
    rows = [vectors[item] for item in items[-WINDOW:]]
    return torch.stack([torch.zeros(DIM)] * (WINDOW - len(rows)) + rows)


@torch.no_grad()
def test_caser_equals_filters_moved_by_hand():
    torch.manual_seed(0)
    caser = perturbed(Caser(NUM_ITEMS, dim=DIM, window=WINDOW, num_horizontal=4, num_vertical=2))
    states = caser(HISTORY)
    for row, length in ((0, 1), (0, 2), (0, 5), (1, 2)):
        image = window_of(caser.item_vectors(), HISTORY[row, :length].tolist())
        values = []
        for height, filters in enumerate(caser.horizontal, start=1):
            for weight, bias in zip(filters.weight, filters.bias, strict=True):
                places = [
                    F.relu((image[top : top + height] * weight.T).sum() + bias)
                    for top in range(WINDOW - height + 1)
                ]
                values.append(max(places))
        columns = [
            sum(caser.vertical.weight[number, place] * image[place, d] for place in range(WINDOW))
            + caser.vertical.bias[number]
            for d in range(DIM)
            for number in range(2)
        ]
        hidden = F.relu(caser.hidden(torch.stack([*values, *columns])))
        torch.testing.assert_close(states[row, length - 1], caser.output(hidden))


@torch.no_grad()
def test_hgn_equals_gates_one_item_after_the_other():
    torch.manual_seed(0)
    hgn = perturbed(HGN(NUM_ITEMS, dim=DIM, window=WINDOW))
    states = hgn(HISTORY)
    for row, length in ((0, 1), (0, 2), (0, 5), (1, 2)):
        items = [hgn.item_vectors()[item] for item in HISTORY[row, :length].tolist()][-WINDOW:]
        passed = torch.zeros(DIM)
        for place, item in enumerate(items, start=WINDOW - len(items)):
            gated = item * torch.sigmoid(hgn.feature_gate(item))
            passed += gated * torch.sigmoid(hgn.item_gate(gated) + hgn.place_bias[place])
        expected = hgn.output(passed / len(items) + sum(items))
        torch.testing.assert_close(states[row, length - 1], expected)


@torch.no_grad()
@pytest.mark.parametrize("length", [4, 5])
def test_a_filter_of_frequencies_is_a_circular_convolution(length):
    torch.manual_seed(0)
    layer = perturbed(FMLPRec(NUM_ITEMS, dim=DIM, history_length=length)).layers[0]
    x = torch.randn(2, length, DIM)
    kernel = torch.fft.irfft(torch.view_as_complex(layer.filter), n=length, dim=0)
    expected = torch.zeros_like(x)
    for place in range(length):
        for other in range(length):
            expected[:, place] += kernel[(place - other) % length] * x[:, other]
    torch.testing.assert_close(layer.filtered(x), expected)


@torch.no_grad()
def test_fmlp_sees_the_whole_window_from_its_end():
    torch.manual_seed(0)
    model = perturbed(FMLPRec(NUM_ITEMS, dim=DIM, history_length=5, num_layers=1))
    rows = [torch.zeros(DIM)] * 3 + [model.item_vectors()[item] for item in (9, 2)]
    x = model.input_norm(torch.stack(rows) + model.position_vectors)[None]
    torch.testing.assert_close(model.last_state(HISTORY[1:])[0], model.layers[0](x)[0, -1])


@torch.no_grad()
def test_fdsa_weighs_features_number_by_number_and_joins_both_stacks():
    torch.manual_seed(0)
    fdsa = perturbed(FDSA(NUM_ITEMS, dim=DIM, num_layers=1))
    _, *tables = (table.ids for table in fdsa.item_encoder.tables)
    expected = torch.zeros(NUM_ITEMS, DIM)
    for item in range(NUM_ITEMS):
        scores = torch.stack([fdsa.weigh(table[item]) for table in tables]).exp()
        for table, score in zip(tables, scores, strict=True):
            expected[item] += score / scores.sum(dim=0) * table[item]
    torch.testing.assert_close(fdsa.feature_vectors(), expected)
    states = torch.cat(
        [fdsa.items(HISTORY, fdsa.item_vectors()), fdsa.features(HISTORY, expected)], dim=2
    )
    torch.testing.assert_close(fdsa(HISTORY)[0], fdsa.output(states)[0])


@pytest.mark.parametrize("with_ids", [False, True])
def test_experts_shift_multiply_and_are_weighed_by_the_content(with_ids):
    torch.manual_seed(0)
    features = torch.randn(NUM_ITEMS, 5)
    table = perturbed(ContentExperts(features, DIM, num_experts=3, with_ids=with_ids))
    with torch.no_grad():
        vectors = table()
        for x, vector, item in zip(features, vectors, range(NUM_ITEMS), strict=True):
            weights = [math.exp(float(x @ table.gate[:, expert])) for expert in range(3)]
            expected = torch.zeros(DIM)
            for weight, shift, matrix in zip(weights, table.shifts, table.experts, strict=True):
                expected += weight / sum(weights) * ((x - shift) @ matrix)
            if with_ids:
                expected += table.ids[item]
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(table.train()(), vectors)  # the gate is noisy
    table().square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in table.parameters())


def test_experts_refuse_what_they_cannot_read():
    with pytest.raises(ValueError, match="num_experts must be at least 1, got 0"):
        ContentExperts(torch.randn(4, 3), DIM, num_experts=0)
    with pytest.raises(ValueError, match="features must be finite and not all alike"):
        ContentExperts(torch.ones(4, 3), DIM)


def test_fdsa_needs_features():
    with pytest.raises(TypeError, match="item_encoder must be FeatureTables, got ItemTable"):
        FDSA(NUM_ITEMS, dim=DIM, item_encoder=ItemTable(NUM_ITEMS, DIM))
    with pytest.raises(ValueError, match="features must be at least one table, got none"):
        FeatureTables(ItemTable(NUM_ITEMS, DIM), [])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("with_targets", [False, True])
def test_copies_are_told_from_those_of_others(similarity, with_targets):
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, DIM)
    targets = torch.tensor([5, 7, 5, 8]) if with_targets else None
    copies = torch.cat([first, second])
    if similarity == "cosine":
        copies = copies / copies.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(8):
        positive = (i + 4) % 8
        terms = []
        for j in range(8):
            is_same = with_targets and targets[i % 4] == targets[j % 4]
            if j == positive or (j % 4 != i % 4 and not is_same):
                terms.append(float(copies[i] @ copies[j]) / 0.5)
        total += math.log(sum(map(math.exp, terms))) - float(copies[i] @ copies[positive]) / 0.5
    loss = contrast_of_copies(
        first, second, similarity=similarity, temperature=0.5, targets=targets
    )
    assert float(loss) == pytest.approx(total / 8, rel=1e-4)


def test_copies_are_cropped_masked_or_reordered():
    torch.manual_seed(0)
    num_items = 100
    history = torch.full((60, 12), num_items)
    lengths = torch.randint(1, 11, (60, 1))
    for row, length in zip(history, lengths.flatten().tolist(), strict=True):
        row[:length] = torch.randperm(num_items)[:length]
    kept = cropped(history, lengths, 0.6, padding=num_items).tolist()
    hidden = masked(history, lengths, 0.3, mask=num_items + 1).tolist()
    moved = reordered(history, lengths, 0.6).tolist()
    changed, starts = 0, set()
    for row, length in enumerate(lengths.flatten().tolist()):
        items = history[row, :length].tolist()
        crop = [item for item in kept[row] if item < num_items]
        start = items.index(crop[0])
        starts.add(start)
        assert crop == items[start : start + max(int(0.6 * length), 1)]
        assert kept[row] == crop + [num_items] * (12 - len(crop))
        wrong = [place for place in range(12) if hidden[row][place] != history[row, place]]
        assert len(wrong) == int(0.3 * length)
        assert all(hidden[row][place] == num_items + 1 and place < length for place in wrong)
        assert sorted(moved[row][:length]) == sorted(items)
        assert moved[row][length:] == [num_items] * (12 - length)
        other = [place for place in range(length) if moved[row][place] != items[place]]
        changed += bool(other)
        assert not other or other[-1] - other[0] < int(0.6 * length)
    assert changed > 20
    assert len(starts) > 3


def test_a_twin_is_another_history_before_the_same_item():
    histories = [[1, 2, 3], [4, 5, 3], [6, 3], [7, 8]]
    batches = TwinBatches(histories, num_items=NUM_ITEMS, batch_size=3, seed=4)
    before = {3: [[1, 2], [4, 5], [6]], 2: [[1]], 5: [[4]], 8: [[7]]}
    seen = set()
    for epoch in range(20):
        plain = PairBatches(histories, num_items=NUM_ITEMS, batch_size=3, seed=4)(epoch)
        for batch, pairs in zip(batches(epoch), plain, strict=True):
            assert torch.equal(batch.history, pairs.history)
            assert torch.equal(batch.targets, pairs.targets)
            moved = batch.to("cpu")
            for row, target in enumerate(batch.targets.tolist()):
                itself, twin = (
                    [item for item in part[row].tolist() if item < NUM_ITEMS]
                    for part in (batch.history, moved.twins)
                )
                assert twin in before[target]
                assert (twin == itself) == (len(before[target]) == 1)
                seen.add((tuple(itself), tuple(twin)))
    assert sum(itself != twin for itself, twin in seen) == 6  # each of three beside either other
    again = [batch.twins for batch in batches(0)]
    assert all(
        torch.equal(*pair) for pair in zip(again, (b.twins for b in batches(0)), strict=True)
    )


@pytest.mark.parametrize("backbone", ["cl4srec", "duorec"])
def test_the_contrast_trains_beside_the_next_item(backbone):
    config = SequenceModelConfig(
        backbone=backbone, dim=8, num_heads=2, dropout=0.2, history_length=6, num_negatives=0
    )
    torch.manual_seed(0)
    model = config.model(NUM_ITEMS)
    walks = [[(start + step) % NUM_ITEMS for step in range(6)] for start in range(NUM_ITEMS)]
    batch = next(iter(config.batches(walks, NUM_ITEMS, 0)(0)))
    config.loss_terms(model, batch)["contrast"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if backbone == "cl4srec":
        assert isinstance(model, CL4SRec)
        assert model.mask_vector.grad.abs().sum() > 0


def test_duorec_needs_twins():
    batch = Batch(history=HISTORY, targets=torch.tensor([1, 2]), users=torch.arange(2))
    model = DuoRec(NUM_ITEMS, dim=DIM)
    with pytest.raises(ValueError, match="batch must have twins, as from TwinBatches, got non"):
        model.further_losses(batch, model.item_vectors())
