"""CoCoRec's losses against plain loops, and what is deployed against the model it comes from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from fusion import mask_codes
from genrec import (
    Batch,
    DenseRecommender,
    PairBatches,
    SASRec,
    SequenceBatches,
    fit,
    save_weights,
)
from torch import Tensor, nn

from semrec.cocorec.config import Codes, Config, ItemIds, Model, Views
from semrec.cocorec.deployed import (
    Deployed,
    StoredItems,
    deployed,
    item_id_loss,
    load_deployed,
    with_item_ids,
)
from semrec.cocorec.model import CoCoRec, cocorec_loss
from semrec.shared.errors import ExperimentError

SIZES, NUM_ITEMS, DIM = (5, 3, 4), 9, 8
PAIRS = Batch(
    history=torch.tensor([[0, 3, 3, 7], [4, 1, 9, 9], [0, 9, 9, 9], [4, 9, 9, 9]]),
    targets=torch.tensor([5, 8, 3, 1]),
    users=torch.tensor([0, 1, 2, 1]),
)
SEQUENCES = Batch(
    history=torch.tensor([[0, 3, 5, 0], [4, 1, 9, 9], [2, 9, 9, 9]]),
    targets=torch.tensor([[9, 5, 0, 7], [1, 8, 9, 9], [6, 9, 9, 9]]),
    users=torch.arange(3),
)
BATCHES = pytest.mark.parametrize("batch", [PAIRS, SEQUENCES], ids=["pairs", "sequences"])


def small(**options: object) -> Model:
    sizes = {"dim": DIM, "feedforward_dim": 12, "history_length": 4, "temperature": 0.2}
    dropout = {"dropout": 0.0, "fusion_dropout": 0.0, "num_negatives": 0}
    return Model(**{**sizes, **dropout, **options})  # type: ignore[arg-type]


def build(config: Model, num_items: int = NUM_ITEMS) -> CoCoRec:
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(size, (num_items,)) for size in SIZES], dim=1)
    model = CoCoRec(config, codes, SIZES, torch.randn(num_items, 2, DIM))
    for parameter in model.parameters():  # small weights hide mistakes
        nn.init.normal_(parameter, std=0.4)
    return model.double()


def gradients(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(losses.values(), torch.tensor(0.0)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def portions(model: CoCoRec) -> list[int]:
    """How many items pass the semantic-fusion module at a time, from now on."""
    sizes: list[int] = []
    fusion = model.item_encoder.fusion
    fusion.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.norm() * y.norm())


def log_share(first: Tensor, *others: Tensor) -> Tensor:
    """The logarithm of a number's share of the sum of exponentials."""
    return first - torch.stack([first, *others]).logsumexp(0)


class Plain:
    """The paper's losses, every occurrence of an item passing the semantic fusion on its own."""

    def __init__(self, config: Model, model: CoCoRec, batch: Batch) -> None:
        self.config, self.model, self.batch = config, model, batch
        self.items = model.item_encoder
        self.histories = [
            [item for item in row if item < NUM_ITEMS] for row in batch.history.tolist()
        ]

    def pass_one(self, item: int, codes: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """H, Pool(H) and Pool(H) + Pool(Z^c) of one item."""
        fusion, views = self.items.fusion, self.items.views[item]
        queries = fusion.embed(codes[None], None if hidden is None else hidden[None])
        states = fusion(queries, views[None] if self.config.read_views else queries)[0]
        return [states, states.mean(0), states.mean(0) + queries[0].mean(0)]

    def output(self, item: int) -> Tensor:
        return self.pass_one(item, self.items.codes[item])[2]

    def read(self, item: int) -> Tensor:
        return self.pass_one(item, self.items.codes[item])[1 + (self.config.pooling == "paper")]

    def states(self, vectors: list[Tensor]) -> Tensor:
        """The backbone on one history without padding."""
        return self.model(torch.arange(len(vectors))[None], torch.stack(vectors))[0]

    def losses(self) -> dict[str, Tensor]:
        config, tau = self.config, self.config.temperature
        negatives = config.loss.draw(NUM_ITEMS, torch.device("cpu")).tolist()
        weight = math.log(NUM_ITEMS / len(negatives))
        distinct = sorted({item for history in self.histories for item in history})
        masked = mask_codes(self.items.codes[distinct], SIZES, ratio=config.mask_ratio)
        every, originals, augmented, guesses = [], [], [], []
        starts = torch.tensor([0, *SIZES]).cumsum(0)
        for history, targets in zip(self.histories, self.batch.targets, strict=True):
            states = self.states([self.read(item) for item in history])
            states_with_target = states[-1:] if targets.ndim == 0 else states
            pairs = zip(states_with_target, targets.reshape(-1).tolist(), strict=False)
            for state, target in pairs:
                if target < NUM_ITEMS:
                    others = [
                        cosine(state, self.output(item)) / tau + weight
                        for item in negatives
                        if item != target
                    ]
                    every.append(-log_share(cosine(state, self.output(target)) / tau, *others))
            originals.append(states[-1])
            vectors = []
            for item in history:
                row = distinct.index(item)
                passed = self.pass_one(item, masked.codes[row], masked.hidden[row])
                vectors.append(passed[1 + (config.pooling == "paper")])
                for place in masked.chosen[row].nonzero()[:, 0].tolist():
                    true = int(starts[place] + self.items.codes[item, place])
                    table = self.items.fusion.code_vectors.weight
                    logits = [cosine(passed[0][place], row) / tau for row in table]
                    guesses.append(-log_share(logits[true], *logits[:true], *logits[true + 1 :]))
            augmented.append(self.states(vectors)[-1])
        losses = {"next_item": torch.stack(every).mean()}
        if config.alpha:
            losses["masked_codes"] = config.alpha * torch.stack(guesses).mean()
        if config.beta:
            both = [self.contrast(augmented, originals), self.contrast(originals, augmented)]
            losses["alignment"] = config.beta * sum(both) / 2
        return losses

    def contrast(self, anchors: list[Tensor], others: list[Tensor]) -> Tensor:
        users, tau = self.batch.users.tolist(), self.config.temperature
        terms = []
        for row, anchor in enumerate(anchors):
            negatives = [
                cosine(anchor, other) / tau
                for user, other in zip(users, others, strict=True)
                if user != users[row]
            ]
            terms.append(-log_share(cosine(anchor, others[row]) / tau, *negatives))
        return torch.stack(terms).mean()


@BATCHES
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "code", "num_negatives": 5},
        {"num_negatives": 5, "alpha": 0.0},
        {"pooling": "code", "beta": 0.0},
        {"read_views": False, "checkpoint_items": 2},
    ],
    ids=str,
)
def test_each_distinct_item_once_is_every_occurrence_on_its_own(
    batch: Batch, options: dict[str, object]
) -> None:
    config = small(**options)
    model = build(config)
    torch.manual_seed(1)
    losses = cocorec_loss(config, model, batch)
    slopes = gradients(model, losses)
    torch.manual_seed(1)
    expected = Plain(config, model, batch).losses()
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(slopes, gradients(model, expected))
    assert len(slopes) > 40


@pytest.mark.parametrize(("negatives", "passed"), [(0, 30), (5, 8)])
def test_items_pass_in_portions_of_bounded_size(negatives: int, passed: int) -> None:
    config = small(num_negatives=negatives, checkpoint_items=4)
    model = build(config, 30)
    sizes = portions(model)
    history = torch.tensor([[1, 2, 1, 2], [2, 1, 30, 30]])
    batch = Batch(history=history, targets=torch.tensor([3, 3]), users=torch.arange(2))
    losses = cocorec_loss(config, model, batch)
    assert sum(sizes) <= passed + 2  # each once, and the two of the histories with masked codes
    assert negatives or sum(sizes) == passed + 2
    forward = len(sizes)
    gradients(model, losses)
    assert len(sizes) == 2 * forward - 1  # the two fit, and are not computed again
    assert max(sizes) == 4


@pytest.mark.parametrize("pooling", ["paper", "code"])
def test_what_is_deployed_answers_as_the_model(pooling: str, tmp_path: Path) -> None:
    config = small(pooling=pooling)
    model = build(config).eval()
    history = torch.tensor([[0, 3, 5, 0], [4, 1, 9, 9], [9, 9, 9, 9]])
    lean = deployed(model)
    assert not any("fusion" in name for name, _ in lean.named_modules())
    torch.testing.assert_close(lean.score(history), model.score(history))
    inputs, outputs = lean.tables()
    assert (inputs is outputs) == (pooling == "paper")
    sasrec = SASRec(
        NUM_ITEMS, dim=DIM, num_layers=2, history_length=4, feedforward_dim=12, num_heads=2
    )
    assert sum(p.numel() for p in lean.parameters()) + NUM_ITEMS * DIM == sum(
        p.numel() for p in sasrec.parameters()
    )

    save_weights(tmp_path / "weights.safetensors", lean.float())
    loaded = load_deployed(tmp_path / "weights.safetensors", config)
    assert loaded.score(history).equal(lean.score(history))
    ids = [f"item {row}" for row in range(NUM_ITEMS)]
    answers = [
        DenseRecommender(scorer, ids, history_length=4).recommend([["item 3", "item 5"]], top_k=4)
        for scorer in (model.float(), loaded)
    ]
    first, second = ([item.item_id for item in answer[0].items] for answer in answers)
    assert first == second
    (tmp_path / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(ExperimentError, match="not a model's weights"):
        load_deployed(tmp_path / "weights.safetensors", config)


def test_scoring_passes_the_catalogue_once_and_again_for_new_weights() -> None:
    model = build(small()).float()
    batches = PairBatches([[0, 1, 2], [3, 4]], num_items=NUM_ITEMS, history_length=4)
    calls = portions(model)
    history = torch.tensor([[0, 3, 5, 0]])

    def scores() -> Tensor:
        with torch.inference_mode():
            return model.score(history)

    model.eval()
    before = scores()
    assert before.equal(scores())
    assert len(calls) == 1
    settings = dataclasses.replace(
        small(epochs=1, learning_rate=0.1, warmup_steps=0).settings(0, monitor="x"),
        monitor=None,
        patience=None,
    )
    fit(model, batches, lambda m, b: cocorec_loss(small(), m, b), settings)
    calls.clear()
    after = scores()
    assert len(calls) == 1
    assert not after.equal(before)
    assert after.equal(scores())
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})
    assert not scores().equal(after)
    with torch.no_grad():
        torch.testing.assert_close(deployed(model).score(history), scores().clone())


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("pooling", ["paper", "code"])
def test_item_ids_are_all_that_is_fine_tuned(pooling: str, targets: bool, tmp_path: Path) -> None:
    config = small(pooling=pooling)
    model = build(config).eval()
    before = deployed(model)
    tuned = with_item_ids(model, ItemIds(targets=targets, temperature=0.2))
    history = torch.tensor([[0, 3, 5, 0], [4, 1, 9, 9]])
    torch.testing.assert_close(tuned.score(history), before.score(history))
    trainable = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert trainable == ["item_encoder.ids"]
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for step in range(60):
        batch = SEQUENCES if step % 2 else PAIRS
        loss = item_id_loss(ItemIds(targets=targets, temperature=0.2), tuned, batch)["next_item"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])
    after = tuned.item_encoder
    assert after.inputs.equal(before.item_encoder.inputs)
    assert after.ids is not None
    assert after.ids.abs().sum() > 0
    moved = not tuned.item_vectors().equal(before.item_vectors())
    assert moved == targets
    torch.testing.assert_close(deployed(tuned).score(history), tuned.score(history))
    for name, kept in (("ids", tuned), ("summed", deployed(tuned))):
        save_weights(tmp_path / name, kept.float())
        loaded = load_deployed(tmp_path / name, config, id_targets=targets)
        assert loaded.score(history).equal(kept.score(history))


def test_a_history_is_read_without_its_padding() -> None:
    model = build(small()).eval()
    padded = model.last_state(torch.tensor([[3, 1, 9, 9]]))
    torch.testing.assert_close(padded, model.last_state(torch.tensor([[3, 1]])))
    inputs, _ = model.item_encoder(torch.tensor([1, 3]))
    torch.testing.assert_close(padded, model.last_state(torch.tensor([[1, 0, 2, 2]]), inputs))


@BATCHES
def test_one_batch_is_learned(batch: Batch) -> None:
    config = small(num_negatives=0, alpha=0.1, beta=0.1)
    torch.manual_seed(0)
    model = build(config).float()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = last = 0.0
    for step in range(50):
        losses = cocorec_loss(config, model, batch)
        optimizer.zero_grad()
        sum(losses.values(), torch.tensor(0.0)).backward()
        optimizer.step()
        last = float(losses["next_item"].detach())
        first = first if step else last
    assert first > 1.5
    assert last < 0.4
    states = model.eval().score(batch.history)
    newest = (batch.history < NUM_ITEMS).sum(1) - 1
    wanted = batch.targets if batch.targets.ndim == 1 else batch.targets[range(3), newest]
    assert states.argmax(1).equal(wanted)


def test_both_kinds_of_samples_hold_the_same_targets() -> None:
    histories = [list(range(length)) for length in (2, 5, 9)]
    by_kind = []
    for samples in ("pairs", "sequences"):
        batches = small(samples=samples, batch_size=2).batches(histories, NUM_ITEMS, 0)
        assert isinstance(batches, PairBatches if samples == "pairs" else SequenceBatches)
        targets = torch.cat([batch.targets.flatten() for batch in batches(0)])
        by_kind.append(sorted(targets[targets < NUM_ITEMS].tolist()))
    assert by_kind[0] == by_kind[1]


def test_what_trains_it_is_adamw() -> None:
    for config in (small(weight_decay=0.25), ItemIds(weight_decay=0.25)):
        settings = config.settings(3, monitor="ndcg@10")
        assert (settings.optimizer, settings.weight_decay, settings.seed) == ("adamw", 0.25, 3)


def test_full_negatives_are_the_sampled_ones_when_all_are_drawn() -> None:
    model = build(small())
    full, drawn = (
        cocorec_loss(small(num_negatives=count), model, PAIRS)["next_item"] for count in (0, 99)
    )
    torch.testing.assert_close(full, drawn)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Views, {"views": ()}, "views must name fields"),
        (Views, {"views": ("title", "+")}, "views must name fields"),
        (Views, {"views": ("title", " title ")}, "views must be different ones"),
        (Views, {"dim": 0}, "dim must be at least 1, got 0"),
        (Codes, {"codes_per_view": 0}, "codes_per_view must be at least 1, got 0"),
        (Codes, {"codebook_size": 1}, "codebook_size must be at least 2, got 1"),
        (Codes, {"codes_per_view": 3, "source": "mixed"}, "codes_per_view must be even"),
        (Codes, {"quantizer": "rq", "source": "random"}, "quantizer must be left out"),
        (Model, {"alpha": -1.0}, "alpha must be at least 0"),
        (Model, {"beta": float("nan")}, "beta must be at least 0"),
        (Model, {"fusion_layers": 0}, "fusion_layers must be at least 1, got 0"),
        (Model, {"checkpoint_items": 0}, "checkpoint_items must be at least 1, got 0"),
        (Model, {"fusion_dropout": 1.0}, r"fusion_dropout must be in \[0, 1\), got 1.0"),
        (Model, {"mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\], got 0.0"),
        (Model, {"mask_ratio": 0.3, "alpha": 0.0, "beta": 0.0}, "mask_ratio must be left out"),
        (Model, {"similarity": "dot"}, "similarity must be 'cosine'"),
        (Config, {"views": Views(dim=64)}, "views.dim must be model.dim"),
        (Config, {"codes": Codes(codes_per_view=129)}, "codes_per_view must be at most views.dim"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: type, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**options)


def test_items_that_do_not_fit_are_refused() -> None:
    codes, views = torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, 2, DIM)
    with pytest.raises(ValueError, match="views must have width dim, 8, got 5"):
        CoCoRec(small(), codes, SIZES, views[..., :5])
    table = Deployed(small(), StoredItems(torch.zeros(4, DIM)))
    assert table.num_items == 4
