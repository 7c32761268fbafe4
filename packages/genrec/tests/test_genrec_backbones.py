"""What all backbones promise, and what each of the newer ones computes."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
from genrec.backbones import (
    DIN,
    FDSA,
    HGN,
    HSTU,
    RPG,
    BERT4Rec,
    Caser,
    CL4SRec,
    CodeTable,
    DuoRec,
    EnsRec,
    FMLPRec,
    GRU4Rec,
    S3Rec,
    SASRec,
    StateBackbone,
    TedRec,
    UniSRec,
    VQRec,
)
from genrec.backbones.hstu import time_buckets
from genrec.cloze import MaskedBatches
from genrec.losses import full_cross_entropy
from genrec.scoring import dense_scorer
from genrec.sequences import Batch, PairBatches, SequenceBatches
from genrec.training import TrainingConfig, fit
from genrec.twins import TwinBatches
from torch import Tensor
from torch.nn import functional as F

NUM_ITEMS = 12
ROWS = [[3, 1, 4, 1, 5], [9, 2], [6], []]
OF_TEXTS = [FDSA, UniSRec, S3Rec, TedRec, VQRec, RPG, EnsRec]
CAUSAL = [SASRec, GRU4Rec, HSTU, Caser, HGN, FMLPRec, CL4SRec, DuoRec, *OF_TEXTS]
ALL = [*CAUSAL, BERT4Rec]
CODES = torch.tensor([[row // 4, row % 4] for row in range(NUM_ITEMS)])


def takes(kind: type[StateBackbone], name: str) -> bool:
    return name in inspect.signature(kind.__init__).parameters


def model(kind: type[StateBackbone], **options) -> StateBackbone:
    torch.manual_seed(0)
    if takes(kind, "history_length"):
        options = {"history_length": 8, **options}
    if kind is RPG:
        options = {"item_encoder": CodeTable(CODES, (3, 4), 16), **options}
    backbone = kind(NUM_ITEMS, dim=16, **options).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone


def padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [NUM_ITEMS] * (length - len(row)) for row in rows])


@pytest.mark.parametrize("kind", ALL)
def test_padding_and_the_rest_of_the_batch_change_nothing(kind):
    backbone = model(kind)
    with torch.no_grad():
        states, last = backbone(padded(ROWS, 8)), backbone.last_state(padded(ROWS, 8))
        scores = backbone.score(padded(ROWS, 8))
        assert scores.shape == (len(ROWS), NUM_ITEMS)
        for i, row in enumerate(ROWS):
            alone = padded([row], max(len(row), 1))
            torch.testing.assert_close(backbone(alone)[0, : len(row)], states[i, : len(row)])
            torch.testing.assert_close(backbone.last_state(alone)[0], last[i])
            torch.testing.assert_close(backbone.score(alone)[0], scores[i])
            assert states[i, len(row) :].abs().sum() == 0
            assert last[i].isfinite().all()
            if row and kind is not BERT4Rec:
                torch.testing.assert_close(states[i, len(row) - 1], last[i])


@pytest.mark.parametrize("kind", CAUSAL)
def test_states_depend_on_nothing_after_them(kind):
    backbone = model(kind)
    with torch.no_grad():
        before, after = (backbone(torch.tensor([[3, 1, 4, last]])) for last in (1, 7))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_bert4rec_sees_both_sides_of_a_mask():
    bert = model(BERT4Rec)
    with torch.no_grad():
        states = bert(torch.tensor([[3, bert.mask_item, 4], [3, bert.mask_item, 7]]))
        assert not torch.allclose(states[0, 1], states[1, 1])
        # The next item is asked for by a mask at the end.
        state = bert(torch.tensor([[3, 1, 4, bert.mask_item]]))[:, 3]
        torch.testing.assert_close(bert.last_state(torch.tensor([[3, 1, 4]])), state)
        full = bert.last_state(torch.arange(8)[None])
        assert full.isfinite().all()
    with pytest.raises(ValueError, match="at most 9 columns with its mask, got 10"):
        bert.last_state(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("kind", ALL)
def test_the_order_matters(kind):
    backbone = model(kind)
    with torch.no_grad():
        states = backbone.last_state(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert not torch.allclose(states[0], states[1])


@pytest.mark.parametrize("kind", ALL)
def test_every_parameter_learns(kind):
    options = {"mask_share": 0.5} if kind is S3Rec else {}
    backbone = model(kind, **options).train()
    history, targets = padded(ROWS[:3], 8), padded([[1, 4, 1, 5, 0], [2, 2], [7]], 8)
    if hasattr(kind, "mask_item") and kind is not S3Rec:  # its tasks mask items themselves
        history[0, 2] = history[1, 0] = NUM_ITEMS + 1
    vectors = backbone.item_vectors()
    options = {"timestamps": torch.arange(8).expand(3, -1)} if kind is HSTU else {}
    states = backbone(history, vectors, **options)
    loss = backbone.next_item_loss(states, vectors, targets, full_cross_entropy)
    batch = Batch(history=history, targets=targets, users=torch.arange(3))
    further = backbone.further_losses(batch, vectors) if kind is S3Rec else {}
    sum(further.values(), loss).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


WALKS = [[(start + step) % NUM_ITEMS for step in range(5)] for start in range(NUM_ITEMS)]


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (SASRec, SequenceBatches),
        (GRU4Rec, SequenceBatches),
        (HSTU, PairBatches),
        (Caser, SequenceBatches),
        (HGN, SequenceBatches),
        (FMLPRec, PairBatches),
        (CL4SRec, SequenceBatches),
        (DuoRec, TwinBatches),
        (FDSA, SequenceBatches),
        (S3Rec, SequenceBatches),
        (TedRec, PairBatches),
        (RPG, SequenceBatches),
        (EnsRec, SequenceBatches),
        (BERT4Rec, partial(MaskedBatches, last_share=0.5)),
    ],
)
def test_each_learns_a_walk(kind, source):
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "history_length": 6}
    options = {name: size for name, size in sizes.items() if takes(kind, name)}
    if kind is RPG:
        options["item_encoder"] = CodeTable(CODES, (3, 4), 16)
    backbone = kind(NUM_ITEMS, dim=16, dropout=0.0, **options)
    batches = source(WALKS, num_items=NUM_ITEMS, history_length=4, batch_size=NUM_ITEMS)

    def loss(backbone, batch) -> dict[str, Tensor]:
        vectors = backbone.item_vectors()
        by_pair = batch.targets.dim() == 1
        states = (backbone.last_state if by_pair else backbone)(batch.history, vectors)
        further = backbone.further_losses(batch, vectors)
        next_item = backbone.next_item_loss(states, vectors, batch.targets, full_cross_entropy)
        return {"next": next_item, **further}

    steps = 200 if kind is BERT4Rec else 80
    config = TrainingConfig(
        epochs=steps // len(batches),
        learning_rate=0.01 if kind is BERT4Rec else 0.03,
        schedule="linear",
    )
    fit(backbone, batches, loss, config)
    with torch.no_grad():
        best = backbone.score(torch.tensor([walk[:4] for walk in WALKS])).argmax(1)
    right = best == torch.tensor([walk[4] for walk in WALKS])
    assert right.sum() >= NUM_ITEMS - 1


def plain_hstu_layer(layer, x: Tensor, buckets: Tensor | None) -> Tensor:
    """Equations 1 to 3 of the paper, one pair of positions at a time."""
    length, dim = x.shape
    head_dim = dim // layer.num_heads
    u, v, q, k = F.silu(layer.input(layer.norm(x))).chunk(4, dim=-1)
    seen = torch.zeros(length, dim)
    for head in range(layer.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        for i in range(length):
            for j in range(i + 1):
                score = float(q[i, part] @ k[j, part]) + float(layer.position_bias[head, i - j])
                if buckets is not None:
                    score += float(layer.time_bias[head, buckets[i, j]])
                weight = score / (1 + math.exp(-score)) / layer.position_bias.shape[1]
                seen[i, part] += weight * v[j, part]
    return x + layer.output(layer.output_norm(seen) * u)


@pytest.mark.parametrize("timed", [False, True])
def test_hstu_layer_equals_a_plain_loop_over_pairs(timed):
    layer = model(HSTU).layers[0]
    x = torch.randn(2, 5, 16)
    times = torch.tensor([[0, 1, 100, 5000, 5000], [7, 8, 9, 10, 2**50]])
    buckets = time_buckets(times) if timed else None
    with torch.no_grad():
        out = layer(x, buckets)
        for row in range(2):
            of_row = None if buckets is None else buckets[row]
            torch.testing.assert_close(out[row], plain_hstu_layer(layer, x[row], of_row))


def test_time_falls_into_powers_of_two():
    buckets = time_buckets(torch.tensor([[0, 1, 2, 7, 8, 2**40]]))
    assert buckets[0, 0].tolist() == [0, 0, 1, 2, 3, 40]
    assert torch.equal(buckets, buckets.mT)


def test_hstu_tells_times_apart_and_does_not_need_them():
    hstu = model(HSTU)
    history = padded([[1, 2, 3]], 4)
    soon, late = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[0, 1, 90_000, 0]])
    with torch.no_grad():
        assert not torch.allclose(
            hstu.score(history, timestamps=soon), hstu.score(history, timestamps=late)
        )
        torch.testing.assert_close(
            hstu.score(history, timestamps=soon), hstu.score(history, timestamps=soon + 1000)
        )
        assert not torch.allclose(hstu.score(history), hstu.score(history, timestamps=soon))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (GRU4Rec, {"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        (GRU4Rec, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (BERT4Rec, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (BERT4Rec, {"history_length": 0}, "history_length must be at least 1, got 0"),
        (HSTU, {"history_length": 0}, "history_length must be at least 1, got 0"),
        (HSTU, {"num_heads": 3}, "dim must be a positive multiple of num_heads, got 16 and 3"),
        (HSTU, {"temperature": 0.0}, "temperature must be positive, got 0"),
        (Caser, {"window": 0}, "window must be at least 1, got 0"),
        (Caser, {"num_horizontal": 0}, "num_horizontal must be at least 1, got 0"),
        (HGN, {"window": 0}, "window must be at least 1, got 0"),
        (FMLPRec, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (CL4SRec, {"mask_share": 0.0}, r"mask_share must be in \(0, 1\], got 0.0"),
        (DuoRec, {"contrast_weight": 0.0}, "contrast_weight must be positive, got 0.0"),
        (DuoRec, {"contrast_temperature": 0.0}, "contrast_temperature must be positive, got 0.0"),
        (S3Rec, {"mask_share": 1.0}, "mask_share must be between 0 and 1, got 1.0"),
        (S3Rec, {"item_feature_weight": -1.0}, "item_feature_weight must be at least 0, got -1.0"),
        (TedRec, {"history_length": 0}, "history_length must be at least 1, got 0"),
        (EnsRec, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
    ],
)
def test_refusals(kind, options, words):
    with pytest.raises(ValueError, match=words):
        model(kind, **options)


@pytest.mark.parametrize("kind", [*ALL, DIN])
@pytest.mark.parametrize("row", [-1, NUM_ITEMS + 2])
def test_what_is_no_item_row_is_refused(kind, row):
    backbone = (DIN(NUM_ITEMS) if kind is DIN else model(kind)).eval()
    with pytest.raises(ValueError, match=f"rows from 0 to 11, got {row} in history 1"):
        dense_scorer(backbone, history_length=8)([[0], [1, row]])
    # The model itself waits for no check: torch's look-up refuses the row, and reads no other.
    with pytest.raises(IndexError):
        backbone.score(torch.tensor([[1, row]]))


@pytest.mark.parametrize("kind", [HSTU, FMLPRec, TedRec])
def test_a_history_too_long_is_refused(kind):
    with pytest.raises(ValueError, match="history must have at most 8 columns, got 9"):
        model(kind).score(torch.zeros(1, 9, dtype=torch.long))
