"""Encoders against plain passes of their networks, what is trained, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fusion import Adapted, ContentEncoder, VectorTable, encoder_counts, precomputed, restrict
from torch import Tensor, nn

DIM = 16
NUM_WORDS = 40


class Attention(nn.Module):
    """Attention of one head whose matrices bear the names that BERT gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(DIM, DIM) for _ in range(3))
        self.dropout = nn.Dropout(0.1)

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        scores = self.query(states) @ self.key(states).transpose(1, 2) / DIM**0.5
        weights = scores.masked_fill(~present[:, None], -torch.inf).softmax(dim=-1)
        return self.dropout(weights) @ self.value(states)


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.feedforward = nn.Sequential(
            nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM)
        )

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        states = states + self.attention(states, present)
        return states + self.feedforward(states)


class TextNetwork(nn.Module):
    """Two layers over word embeddings, and the mean over the words; a pooler that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_WORDS, DIM)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.pooler = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        states = self.words(tokens)
        for layer in self.layers:
            states = layer(states, present)
        return (states * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)


class Texts(ContentEncoder):
    """Token ids, padded to the longest of the items that pass together."""

    tokens: Tensor

    def __init__(self, tokens: Tensor, lengths: Tensor, **options: Any) -> None:
        network = TextNetwork()
        super().__init__(network, list(network.layers), lengths, **options)
        self.register_buffer("tokens", tokens, persistent=False)
        self.encoded: list[int] = []
        self.add_projection(8)
        self.encoded.clear()

    def inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        self.encoded.extend(rows.tolist())
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()))
        return self.tokens[rows, : len(places)], places < lengths[:, None]

    def embed(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


class Images(ContentEncoder):
    """Two stages of a convolution with batch normalisation."""

    pixels: Tensor

    def __init__(self, **options: Any) -> None:
        stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width))
                for width in (3, 6)
            )
        )
        super().__init__(stages, list(stages), torch.ones(6).long(), **options)
        self.register_buffer("pixels", torch.randn(6, 3, 16, 16), persistent=False)
        self.add_projection(8)

    def inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (self.pixels[rows],)

    def embed(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs).mean(dim=(2, 3))


def texts(**options: Any) -> Texts:
    """An encoder of thirty texts of 1 to 9 words; the same weights at every call."""
    torch.manual_seed(1)
    tokens, lengths = torch.randint(NUM_WORDS, (30, 9)), torch.randint(1, 10, (30,))
    return Texts(tokens, lengths, **options)


def gradients(module: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(2)
    module.zero_grad()
    (module(rows) * torch.randn(len(rows), 8)).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=2e-5, rtol=1e-4)


def test_chunks_by_length_give_what_each_text_alone_gives() -> None:
    encoder = texts(batch_items=4).eval()
    rows = torch.tensor([29, 3, 17, 4, 28, 0, 11, 5, 9])
    alone = [
        encoder.network(encoder.tokens[row, None, :length], torch.ones(1, length, dtype=torch.bool))
        for row, length in zip(rows, encoder.lengths[rows].tolist(), strict=True)
    ]
    torch.testing.assert_close(encoder.features(rows), torch.cat(alone))
    whole = encoder()
    assert whole.shape == (30, 8)
    torch.testing.assert_close(encoder(rows), whole[rows])
    features = encoder.features(torch.arange(30))
    centred = features - features.mean(0)
    expected = encoder.projection(centred / centred.square().mean().sqrt())
    torch.testing.assert_close(whole, expected)


def test_an_item_passes_the_network_once_for_each_time_it_is_asked_for() -> None:
    encoder = texts(batch_items=3)
    encoder(torch.tensor([7, 1, 7, 29]))
    assert sorted(encoder.encoded) == [1, 7, 7, 29]


@pytest.mark.parametrize("trained", ["all", "layers", "lora"])
def test_checkpointing_changes_no_gradient(trained: str) -> None:
    """Dropout included: a second pass through a chunk draws what the first drew."""
    rows = torch.tensor([7, 1, 12, 29, 20, 3, 5])
    options = {"trained": trained, "trained_layers": 1, "batch_items": 3}
    kept = gradients(texts(checkpointing=False, **options), rows)
    again = gradients(texts(checkpointing=True, **options), rows)
    same(kept, again)
    assert len(kept) > 2
    whole = texts(checkpointing=False, **{**options, "batch_items": 100})
    same(gradients(whole.eval(), rows), gradients(texts(**options).eval(), rows))


def test_checkpointing_keeps_less_for_the_way_back() -> None:
    kept = {}
    for checkpointing in (False, True):
        sizes = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            texts(checkpointing=checkpointing)(torch.arange(30))
        kept[checkpointing] = sum(sizes)
    assert kept[True] < kept[False] / 10


def test_adapters_start_as_nothing_and_are_all_that_is_trained() -> None:
    rows = torch.arange(10)
    plain, adapted = texts().eval(), texts(trained="lora", lora_rank=3).eval()
    adapters = [module for module in adapted.modules() if isinstance(module, Adapted)]
    assert len(adapters) == 4  # queries and values of two layers
    torch.testing.assert_close(adapted.features(rows), plain.features(rows), atol=0, rtol=0)
    with_gradient = gradients(adapted, rows)
    parts = {name.rpartition(".")[2] for name in with_gradient if name.startswith("network")}
    assert parts == {"down", "up"}
    assert {name for name in with_gradient if not name.startswith("network")} == {
        "projection.weight",
        "projection.bias",
    }
    projection = 8 * (DIM + 1)
    assert adapted.counts["trained"] == 4 * 2 * 3 * DIM + projection
    assert adapted.counts["frozen"] == sum(plain.counts.values()) - projection
    with torch.no_grad():
        for adapter in adapters:
            adapter.up.normal_()
    assert (adapted.features(rows) - plain.features(rows)).abs().max() > 1e-2


def test_an_adapter_adds_the_product_of_its_matrices() -> None:
    adapter = Adapted(5, 4, 2)
    weight = torch.randn(5, 4)
    assert torch.equal(adapter(weight), weight)
    with torch.no_grad():
        adapter.up.normal_()
    up, down = adapter.up.tolist(), adapter.down.tolist()
    added = [[sum(up[i][r] * down[r][j] for r in range(2)) for j in range(4)] for i in range(5)]
    torch.testing.assert_close(adapter(weight) - weight, torch.tensor(added))


def test_frozen_layers_get_no_gradient_keep_nothing_and_drop_nothing() -> None:
    encoder = texts(trained="layers", trained_layers=1, checkpointing=False)
    first, last = encoder.network.layers
    graphs: list[bool] = []
    last.register_forward_pre_hook(lambda _, states: graphs.append(states[0].requires_grad))
    with_gradient = gradients(encoder, torch.arange(6))
    assert graphs == [False]  # no graph behind the first trained layer
    trained = {name for name in with_gradient if name.startswith("network")}
    assert {name.split(".")[2] for name in trained} == {"1"}
    assert not first.attention.dropout.training
    assert last.attention.dropout.training
    assert not encoder.eval().train().network.pooler.weight.requires_grad
    assert encoder_counts(nn.ModuleList([encoder, nn.Linear(2, 2)])) == encoder.counts
    assert encoder_counts(nn.Linear(2, 2)) == {"trained": 0, "frozen": 0}


def test_the_matrix_of_queries_keys_and_values_is_adapted_whole() -> None:
    layer = nn.TransformerEncoderLayer(DIM, 2, 2 * DIM, batch_first=True).eval()
    states = torch.randn(2, 3, DIM)
    before = layer(states)
    restrict(layer, [layer], trained="lora", lora_rank=2)
    trained = {name: p.shape for name, p in layer.named_parameters() if p.requires_grad}
    assert sorted(shape for shape in trained.values()) == [(2, DIM), (3 * DIM, 2)]
    torch.testing.assert_close(layer(states), before)


def test_bf16_is_close_to_fp32() -> None:
    exact, rough = texts().eval()().detach(), texts(precision="bf16").eval()().detach()
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_images_are_encoded_apart_from_one_another() -> None:
    encoder = Images(batch_items=2)
    assert encoder.training
    rows = torch.tensor([4, 1, 3, 5])
    alone = torch.cat([encoder(row[None]) for row in rows])
    torch.testing.assert_close(encoder(rows), alone)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(not norm.running_mean.any() for norm in norms)  # statistics stay as they were
    with_gradient = gradients(encoder, rows)
    assert {"network.0.1.weight", "network.1.1.bias"} <= with_gradient.keys()


class Model(nn.Module):
    """Scores of all items: of two encoders, and of a table beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.text, self.again = texts(trained="layers"), texts(trained="lora")

    def forward(self, rows: Tensor) -> Tensor:
        return self.table(rows) @ (self.text() + self.again()).T


def test_precomputed_is_a_copy_that_says_what_the_encoders_say() -> None:
    model = Model()
    tables = precomputed(model)
    assert model.training
    assert model.text.training
    assert not tables.training
    assert isinstance(tables.text, VectorTable)
    assert tables.text.num_items == 30
    assert sorted(model.text.encoded) == list(range(30))
    rows = torch.tensor([3, 4])
    scores = tables(rows)
    assert not tables.text(rows).requires_grad
    assert len(model.text.encoded) == 30  # and not again at each call
    torch.testing.assert_close(scores, model.eval()(rows))
    model.table.weight.data.zero_()
    torch.testing.assert_close(tables(rows), scores)
    assert precomputed(tables) is tables
    assert set(tables.state_dict()) == {"table.weight", "text.vectors", "again.vectors"}


def test_a_table_gives_its_rows() -> None:
    vectors = torch.randn(5, 3)
    table = VectorTable(vectors)
    assert torch.equal(table(), vectors)
    assert torch.equal(table(torch.tensor([4, 0, 4])), vectors[[4, 0, 4]])
    assert not list(table.parameters())


@pytest.mark.parametrize("trained", ["all", "layers", "lora"])
def test_a_training_brings_the_vectors_to_their_targets(trained: str) -> None:
    encoder = texts(trained=trained, trained_layers=1, batch_items=30)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    targets = F.normalize(torch.randn(30, 8), dim=-1)
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(40):
        loss = 1 - F.cosine_similarity(encoder(), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    changed = {n for n, value in encoder.state_dict().items() if (value != before[n]).any()}
    in_network = {name for name in changed if name.startswith("network")}
    parts: dict[str, Callable[[str], bool]] = {
        "all": lambda name: "pooler" not in name,
        "layers": lambda name: name.startswith("network.layers.1"),
        "lora": lambda name: name.rpartition(".")[2] in ("down", "up"),
    }
    assert in_network
    assert all(parts[trained](name) for name in in_network)


def test_wrong_values_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"trained must be one of .* got 'none'"):
        texts(trained="none")
    with pytest.raises(ValueError, match="trained_layers must be at least 1, got 0"):
        texts(trained_layers=0)
    with pytest.raises(ValueError, match="trained_layers must be at most 2, the layers of this"):
        texts(trained="layers", trained_layers=3)
    with pytest.raises(ValueError, match="lora_rank must be at least 1, got 0"):
        texts(lora_rank=0)
    with pytest.raises(ValueError, match=r"trained must be 'all' or 'layers' .* got 'lora'"):
        Images(trained="lora")
    with pytest.raises(ValueError, match=r"precision must be one of .* got 'fp16'"):
        texts(precision="fp16")
    with pytest.raises(ValueError, match="batch_items must be at least 1, got 0"):
        texts(batch_items=0)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        Adapted(4, 4, 0)
    with pytest.raises(ValueError, match="lengths must have at least 1 item, got 0"):
        Texts(torch.zeros(0, 1).long(), torch.zeros(0).long())
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        Images().add_projection(0)
