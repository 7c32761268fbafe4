from __future__ import annotations

import pytest
import torch
from genrec.backbones import ItemTable, SASRec
from genrec.losses import full_cross_entropy
from torch import Tensor, nn

NUM_ITEMS = 12


def model(**options) -> SASRec:
    torch.manual_seed(0)
    return SASRec(NUM_ITEMS, dim=16, history_length=8, **options).eval()


def padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [NUM_ITEMS] * (length - len(row)) for row in rows])


ROWS = [[3, 1, 4, 1, 5], [9, 2], [6], []]


@pytest.mark.parametrize("positions", ["oldest", "newest"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_padding_and_the_rest_of_the_batch_change_nothing(positions, num_layers, norm):
    sasrec = model(positions=positions, num_layers=num_layers, norm=norm)
    with torch.no_grad():
        together = sasrec(padded(ROWS, 8))
        last = sasrec.last_state(padded(ROWS, 8))
        scores = sasrec.score(padded(ROWS, 8))
        for row, states, state, score in zip(ROWS, together, last, scores, strict=True):
            alone = padded([row], max(len(row), 1))
            torch.testing.assert_close(sasrec(alone)[0, : len(row)], states[: len(row)])
            torch.testing.assert_close(sasrec.last_state(alone)[0], state)
            torch.testing.assert_close(sasrec.score(alone)[0], score)
            assert states[len(row) :].abs().sum() == 0
            assert state.isfinite().all()
            if row:
                torch.testing.assert_close(states[len(row) - 1], state)


def test_states_depend_on_nothing_after_them():
    sasrec = model()
    with torch.no_grad():
        before = sasrec(torch.tensor([[3, 1, 4, 1]]))
        after = sasrec(torch.tensor([[3, 1, 4, 7]]))
        torch.testing.assert_close(before[:, :3], after[:, :3])
        assert not torch.allclose(before[:, 3], after[:, 3])


@pytest.mark.parametrize("positions", ["oldest", "newest"])
def test_order_matters(positions):
    sasrec = model(positions=positions)
    with torch.no_grad():
        states = sasrec.last_state(torch.tensor([[1, 2, 3], [2, 1, 3]]))
    assert not torch.allclose(states[0], states[1])


def test_newest_positions_are_counted_from_the_end():
    sasrec = model(positions="newest", num_layers=1, dropout=0.0)
    with torch.no_grad():
        sasrec.position_vectors[1:] = 0.0
        sasrec.position_vectors[0] = torch.arange(16.0)
        inputs = []
        sasrec.input_norm.register_forward_hook(lambda _, __, normed: inputs.append(normed))
        sasrec(padded([[1, 2, 1], [2, 1]], 3))
    (x,) = inputs
    torch.testing.assert_close(x[0, 2], x[1, 1])  # item 1, newest
    assert not torch.allclose(x[0, 0], x[0, 2])  # item 1, not newest


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_one_batch_overfits(similarity):
    options = {"temperature": 0.1} if similarity == "cosine" else {}
    sasrec = model(dropout=0.0, similarity=similarity, **options).train()
    history, targets = padded(ROWS, 5), torch.tensor([1, 7, 3, 11])
    optimizer = torch.optim.Adam(sasrec.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        vectors = sasrec.item_vectors()
        state = sasrec.last_state(history, vectors)
        loss = full_cross_entropy(state, vectors, targets, similarity=similarity, **options)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(sasrec.eval().score(history).argmax(1), targets)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_every_parameter_learns_from_every_position(norm):
    sasrec = model(norm=norm).train()
    vectors = sasrec.item_vectors()
    states = sasrec(padded(ROWS[:3], 8), vectors)
    targets = padded([[1, 4, 1, 5, 0], [2, 2], [7]], 8)
    full_cross_entropy(states, vectors, targets).backward()
    for name, parameter in sasrec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


class TwoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = ItemTable(NUM_ITEMS, 16), ItemTable(NUM_ITEMS, 16)

    def forward(self) -> Tensor:
        return self.left() + self.right()


def test_any_module_can_give_the_item_vectors():
    encoder = TwoTables()
    sasrec = model(item_encoder=encoder)
    assert torch.equal(sasrec.item_vectors(), encoder.left.ids + encoder.right.ids)
    sasrec.score(padded(ROWS, 5)).sum().backward()
    assert encoder.left.ids.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 3}, "dim must be a positive multiple of num_heads, got 16 and 3"),
        ({"temperature": -1.0}, "temperature must be positive"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        model(**options)


def test_a_history_too_long_is_refused():
    with pytest.raises(ValueError, match="history must have at most 8 columns, got 9"):
        model()(torch.zeros(1, 9, dtype=torch.long))


def test_an_encoder_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"item_encoder must return \[12, 16\], got \[12, 4\]"):
        model(item_encoder=ItemTable(NUM_ITEMS, 4)).item_vectors()
