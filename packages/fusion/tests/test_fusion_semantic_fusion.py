"""The semantic-fusion module, code masking and masked code modelling, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from fusion import SemanticFusion, mask_codes, masked_code_loss, masking, pool_codes
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = (5, 3, 4)


@pytest.fixture
def sfm() -> SemanticFusion:
    torch.manual_seed(0)
    module = SemanticFusion(SIZES, 8, num_heads=2, feedforward_dim=12, dropout=0.3)
    for parameter in module.parameters():  # the paper's small weights hide mistakes
        nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


@pytest.fixture
def items() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(size, (6,), generator=generator) for size in SIZES], dim=1)
    return codes, torch.randn(6, 2, 8, generator=generator, dtype=torch.float64)


def attend(layer: nn.MultiheadAttention, queries: Tensor, memory: Tensor) -> Tensor:
    """Multi-head attention of one item, head by head and query by query."""
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    q, k, v = (
        x @ weight.T + bias
        for x, weight, bias in zip((queries, memory, memory), weights, biases, strict=True)
    )
    width = q.shape[1] // layer.num_heads
    rows = []
    for query in q:
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = [float(query[part] @ key[part]) / math.sqrt(width) for key in k]
            total = sum(math.exp(score) for score in scores)
            heads.append(
                sum(math.exp(score) / total * value[part] for score, value in zip(scores, v))  # noqa: B905
            )
        rows.append(torch.cat(heads) @ layer.out_proj.weight.T + layer.out_proj.bias)
    return torch.stack(rows)


def test_the_module_is_equations_1_and_2(sfm: SemanticFusion, items: tuple[Tensor, Tensor]) -> None:
    codes, views = items
    sfm.requires_grad_(False)
    vectors = sfm.represent(codes, views)
    for item in range(len(codes)):
        rows = [sum(SIZES[:level]) + int(code) for level, code in enumerate(codes[item])]
        queries = torch.stack([sfm.code_vectors.weight[row] for row in rows])
        states = queries
        for layer in sfm.layers:
            states = layer.norm1(states + attend(layer.self_attn, states, states))
            states = layer.norm2(states + attend(layer.multihead_attn, states, views[item]))
            inner = F.gelu(layer.linear1(states))
            states = layer.norm3(states + layer.linear2(inner))
        torch.testing.assert_close(vectors[item], states.mean(0) + queries.mean(0))


def test_pooling_without_the_codes_is_the_mean_of_the_states(
    sfm: SemanticFusion, items: tuple[Tensor, Tensor]
) -> None:
    codes, views = items
    queries = sfm.embed(codes)
    states = sfm(queries, views)
    torch.testing.assert_close(sfm.represent(codes, views, add_codes=False), states.mean(1))
    torch.testing.assert_close(pool_codes(states, queries), states.mean(1) + queries.mean(1))


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    sfm = SemanticFusion(SIZES, 8, dropout=0.3)
    parts = [part for part in sfm.layers[0].children() if isinstance(part, nn.Dropout)]
    assert len(parts) == 4
    x = torch.full((301, 333), 2.0)
    torch.manual_seed(0)
    for part in parts:
        dropped = part(x)
        assert abs((dropped == 0).double().mean() - 77 / 256) < 0.01
        assert abs(dropped.mean() - 2) < 0.02
        assert part.eval()(x) is x


def test_neither_codes_nor_views_have_an_order(
    sfm: SemanticFusion, items: tuple[Tensor, Tensor]
) -> None:
    codes, views = items
    queries = sfm.embed(codes)
    states = sfm(queries, views)
    torch.testing.assert_close(sfm(queries, views.flip(1)), states)
    torch.testing.assert_close(sfm(queries.flip(1), views), states.flip(1))


def test_a_hidden_code_is_not_seen(sfm: SemanticFusion, items: tuple[Tensor, Tensor]) -> None:
    codes, views = items
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[:, 1] = True
    other = codes.clone()
    other[:, 1] = (codes[:, 1] + 1) % SIZES[1]
    assert not torch.equal(sfm.represent(codes, views), sfm.represent(other, views))
    torch.testing.assert_close(
        sfm.represent(codes, views, hidden=hidden), sfm.represent(other, views, hidden=hidden)
    )
    sfm.represent(codes, views, hidden=hidden).sum().backward()
    assert sfm.mask_vector.grad is not None
    assert sfm.mask_vector.grad.abs().sum() > 0


def test_masking_has_the_shares_of_bert() -> None:
    sizes = (200, 300)
    codes = torch.randint(200, (40_000, 2), generator=torch.Generator().manual_seed(0))
    masked = mask_codes(codes, sizes, ratio=0.5, generator=torch.Generator().manual_seed(1))
    chosen, hidden = masked.chosen, masked.hidden
    replaced = chosen & ~hidden & (masked.codes != codes)
    assert abs(chosen.double().mean() - 0.5) < 0.01
    assert abs(hidden[chosen].double().mean() - 0.8) < 0.01
    assert abs(replaced[chosen].double().mean() - 0.1) < 0.01
    assert not (hidden & ~chosen).any()
    torch.testing.assert_close(masked.codes[~chosen], codes[~chosen])
    drawn = masked.codes[replaced.nonzero(as_tuple=True)]
    position = replaced.nonzero()[:, 1]
    assert drawn[position == 0].max() < 200 <= drawn[position == 1].max() < 300
    again = mask_codes(codes, sizes, ratio=0.5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.codes, masked.codes)


def test_every_code_is_chosen_at_ratio_one() -> None:
    assert mask_codes(torch.zeros(5, 2, dtype=torch.long), (3, 3), ratio=1.0).chosen.all()


def test_masked_code_loss_is_equation_6() -> None:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    table = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(9, (7,), generator=generator)

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / x.norm() / y.norm())

    terms = []
    for state, target in zip(states, targets.tolist(), strict=True):
        total = sum(math.exp(cosine(state, row) / 0.2) for row in table)
        terms.append(math.log(total) - cosine(state, table[target]) / 0.2)
    loss = masked_code_loss(states, targets, table, temperature=0.2)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), abs=1e-12)
    nothing = masked_code_loss(states[:0], targets[:0], table, temperature=0.2)
    assert float(nothing) == 0.0


def test_a_weight_stands_for_repeated_codes_and_pieces_for_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (7,), generator=generator)
    times = torch.tensor([1, 3, 0, 2, 1, 1, 5])
    every = torch.arange(7).repeat_interleave(times)
    plain = masked_code_loss(states[every], targets[every], table, temperature=0.2)
    expected = torch.autograd.grad(plain, (states, table))
    for logits in (masking.LOGITS_AT_A_TIME, 27):
        monkeypatch.setattr(masking, "LOGITS_AT_A_TIME", logits)
        loss = masked_code_loss(states, targets, table, temperature=0.2, weights=times.double())
        torch.testing.assert_close(loss, plain)
        torch.testing.assert_close(torch.autograd.grad(loss, (states, table)), expected)


def test_masked_codes_are_learned_from_the_views() -> None:
    """A code that is a function of the views can be guessed where it is hidden."""
    torch.manual_seed(0)
    views = torch.randn(40, 2, 16)
    codes = (views[:, :, 0] > 0).long() * 2 + (views[:, :, 1] > 0).long()
    sfm = SemanticFusion((4, 4), 16, num_layers=1, feedforward_dim=32, dropout=0.0)
    nn.init.normal_(sfm.code_vectors.weight)
    optimizer = torch.optim.Adam(sfm.parameters(), lr=0.01)
    hidden = torch.tensor([True, False]).expand_as(codes)
    losses = []
    for _ in range(100):
        states = sfm(sfm.embed(codes, hidden), views)
        loss = masked_code_loss(
            states[hidden], sfm.tokens(codes)[hidden], sfm.code_vectors.weight, temperature=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.5
    assert losses[-1] < 0.2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"codebook_sizes": ()}, "codebook_sizes must be"),
        ({"codebook_sizes": (3, 0)}, "codebook_sizes must be"),
        ({"dim": 9}, "dim must be a positive multiple of num_heads, got 9 and 2"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
    ],
)
def test_wrong_sizes_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SemanticFusion(**{"codebook_sizes": SIZES, "dim": 8, **arguments})  # type: ignore[arg-type]


def test_wrong_masking_is_refused() -> None:
    codes = torch.zeros(2, 3, dtype=torch.long)
    for ratio in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="ratio must be in"):
            mask_codes(codes, SIZES, ratio=ratio)
    with pytest.raises(ValueError, match="codebook_sizes must be one per position, 3, got 2"):
        mask_codes(codes, (5, 3), ratio=0.5)
    for code in (-1, 9):
        codes[1, 2] = code
        with pytest.raises(ValueError, match=f"from 0 to {SIZES[2] - 1} at position 2, got {code}"):
            mask_codes(codes, SIZES, ratio=0.5)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        masked_code_loss(torch.ones(1, 2), torch.tensor([0]), torch.ones(3, 2), temperature=0)
