"""A sequence model and its training in one configuration: what it draws, learns and refuses."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from genrec import (
    BACKBONE_TITLES,
    ITEM_INPUTS,
    BackboneName,
    Batch,
    ItemInput,
    MaskedBatches,
    NextItemLoss,
    NextItemRecipe,
    PairBatches,
    SequenceBatches,
    SequenceModelConfig,
    SequenceRecipe,
    StateBackbone,
    TrainingConfig,
    TrainingRecipe,
    TwinBatches,
    fit,
)
from torch.nn import functional as F

NUM_ITEMS = 20
WALKS = [[(start + step) % NUM_ITEMS for step in range(6)] for start in range(NUM_ITEMS)]
SMALL = {"dim": 16, "num_heads": 2, "dropout": 0.0, "temperature": 0.2, "num_negatives": 0}
FAST = {"learning_rate": 0.01, "warmup_steps": 5, "epochs": 80}
BACKBONES = get_args(BackboneName)
BY_PAIR = {"fmlprec": PairBatches, "duorec": TwinBatches, "tedrec": PairBatches}
CONTENTS = [torch.randn(NUM_ITEMS, 8, generator=torch.Generator().manual_seed(0))]
CODES = torch.tensor([[row // 5, row % 5] for row in range(NUM_ITEMS)])
FURTHER = {
    "cl4srec": {"contrast"},
    "duorec": {"contrast"},
    "s3rec": {"masked_item", "masked_segment"},
}
"""Loss terms beside the next item's."""
WITHOUT = {
    "gru4rec": {"num_heads", "history_length"},
    "fmlprec": {"num_heads"},
    "caser": {"num_layers", "num_heads", "history_length"},
    "hgn": {"num_layers", "num_heads", "history_length"},
}
"""Sizes that a backbone does not have."""


def config_of(backbone: BackboneName, **options: Any) -> SequenceModelConfig:
    """A model on ids, or on content beside them where it cannot do without."""
    items: ItemInput = ITEM_INPUTS.get(backbone, ("ids",))[0]
    return SequenceModelConfig(backbone=backbone, items=items, **options)


def model_and_batch(config: SequenceModelConfig) -> tuple[StateBackbone, Batch]:
    torch.manual_seed(0)
    model = config.model(NUM_ITEMS, CONTENTS, codes=CODES).eval()
    return model, next(iter(config.batches(WALKS, NUM_ITEMS, 0)(0)))


def states_of(model: StateBackbone, batch: Batch) -> torch.Tensor:
    """A state for each target."""
    return (model.last_state if batch.targets.ndim == 1 else model)(batch.history)


def test_a_recipe_is_what_its_names_mean_in_fit():
    recipe = TrainingRecipe(weight_decay=0.1, schedule="cosine", epochs=7, patience=2)
    assert recipe.settings(5, monitor="ndcg") == TrainingConfig(
        epochs=7,
        learning_rate=1e-3,
        weight_decay=0.1,
        optimizer="adamw",
        warmup_steps=200,
        schedule="cosine",
        gradient_clip=1.0,
        monitor="ndcg",
        patience=2,
        seed=5,
    )
    assert TrainingRecipe().settings(0, monitor="ndcg").optimizer == "adam"
    assert TrainingRecipe(gradient_clip=0.0).settings(0, monitor="ndcg").gradient_clip is None


def test_without_a_monitor_all_epochs_are_gone_through():
    settings = TrainingRecipe(epochs=7, patience=2).settings(0, monitor=None)
    assert (settings.epochs, settings.patience, settings.monitor) == (7, None, None)


def test_the_order_and_the_defaults_of_fields_are_those_of_the_tables():
    fields = {field.name: field.default for field in dataclasses.fields(SequenceModelConfig)}
    assert list(fields.items()) == [
        ("learning_rate", 1e-3),
        ("weight_decay", 0.0),
        ("warmup_steps", 200),
        ("schedule", "linear"),
        ("gradient_clip", 1.0),
        ("batch_size", 96),
        ("epochs", 12),
        ("patience", 3),
        ("similarity", "cosine"),
        ("temperature", 0.07),
        ("num_negatives", 2048),
        ("dim", 128),
        ("num_layers", 2),
        ("num_heads", 4),
        ("dropout", 0.4),
        ("history_length", 20),
        ("data_share", 1.0),
        ("backbone", "sasrec"),
        ("items", "ids"),
    ]


def test_the_loss_of_a_recipe_is_the_loss_of_next_items():
    recipe = NextItemRecipe(similarity="dot", temperature=0.5, num_negatives=3)
    assert recipe.loss == NextItemLoss(similarity="dot", temperature=0.5, num_negatives=3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_backbone_learns_one_batch(backbone: BackboneName):
    config = config_of(backbone, **SMALL, **FAST)
    model, batch = model_and_batch(config)
    with torch.no_grad():
        before = config.loss_terms(model, batch)["next_item"]
    # One batch again and again: for BERT4Rec the masks then stay where they are.
    fit(model, OneBatch(batch), config.loss_terms, config.settings(0, monitor=None))
    with torch.no_grad():
        assert config.loss_terms(model, batch)["next_item"] < 0.2 * before
        states = states_of(model, batch)
        ranked = model.compare(states.flatten(0, -2), model.item_vectors()).argmax(1)
    targets = batch.targets.flatten()
    counted = targets < NUM_ITEMS
    assert torch.equal(ranked[counted], targets[counted])


class OneBatch:
    """A source whose epochs are all the same batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> list[Batch]:
        return [self.batch][start:][shard::shards]


def test_the_whole_training_is_validated_and_stops():
    config = SequenceModelConfig(**SMALL, **FAST, patience=4)
    torch.manual_seed(0)
    model = config.model(NUM_ITEMS)
    walks = torch.tensor(WALKS)

    def validate(model: StateBackbone) -> dict[str, float]:
        best = model.score(walks[:, :5]).argmax(1)
        return {"hits": (best == walks[:, 5]).float().mean().item()}

    result = fit(
        model,
        config.batches(WALKS, NUM_ITEMS, 0),
        config.loss_terms,
        config.settings(0, monitor="hits"),
        validate=validate,
    )
    assert result.metrics["hits"] == 1.0
    assert result.stopped_early
    assert result.epochs == result.best_epoch + 4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_term_is_a_plain_cross_entropy(backbone: BackboneName):
    config = config_of(backbone, **SMALL)
    model, batch = model_and_batch(config)
    assert type(model).__name__ == BACKBONE_TITLES[backbone]
    with torch.no_grad():
        states, vectors = states_of(model, batch), model.item_vectors()
        counted = batch.targets < NUM_ITEMS
        if backbone == "bert4rec":  # is asked for masked items only
            assert torch.equal(counted, batch.history == NUM_ITEMS + 1)
        states, targets = states[counted], batch.targets[counted]
        terms = config.loss_terms(model, batch)
        if backbone == "rpg":  # log p of an item is the sum over its two codes
            expected = F.nll_loss(model.compare(states, vectors), targets) / 2
        else:
            sides = 2 if backbone == "ensrec" else 1  # a loss of ids, and one of content
            expected = sum(
                F.cross_entropy(F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / 0.2, targets)
                for x, y in zip(states.chunk(sides, 1), vectors.chunk(sides, 1), strict=True)
            )
        torch.testing.assert_close(terms["next_item"], expected)
        assert set(terms) - {"next_item"} == FURTHER.get(backbone, set())


def test_negatives_are_drawn_before_dropout():
    config = SequenceModelConfig(**{**SMALL, "dropout": 0.5, "num_negatives": 4})
    model, batch = model_and_batch(config)
    model.train()
    torch.manual_seed(3)
    term = config.loss_terms(model, batch)["next_item"]
    torch.manual_seed(3)
    negatives = config.loss.draw(NUM_ITEMS)
    vectors = model.item_vectors()
    expected = config.loss(model(batch.history, vectors), vectors, batch.targets, negatives)
    assert torch.equal(term, expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sizes_reach_the_model(backbone: BackboneName):
    config = config_of(backbone, **{**SMALL, "dropout": 0.3}, num_layers=3, history_length=7)
    expected = {
        "dim": 16,
        "num_layers": 3,
        "dropout": 0.3,
        "similarity": "cosine",
        "temperature": 0.2,
        "num_heads": 2,
        "history_length": 7,
    }
    for name in WITHOUT.get(backbone, ()):
        del expected[name]
    settings = config.model(NUM_ITEMS, CONTENTS, codes=CODES).settings
    assert not settings.keys() & WITHOUT.get(backbone, set())
    assert {name: settings[name] for name in expected} == expected


def test_items_are_read_by_ids_by_content_or_by_both():
    contents = [torch.randn(NUM_ITEMS, 8), torch.randn(NUM_ITEMS, 5)]
    encoders = {
        items: SequenceModelConfig(items=items, **SMALL).model(NUM_ITEMS, contents).item_encoder
        for items in ("ids", "content", "both")
    }
    assert type(encoders["ids"]).__name__ == "ItemTable"
    assert len(encoders["content"].tables) == 2
    assert len(encoders["both"].tables) == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_long_histories_are_windows_that_overlap_by_half(backbone: BackboneName):
    config = config_of(backbone, history_length=5, batch_size=4)
    batches = config.batches(WALKS, NUM_ITEMS, 9)
    kind = MaskedBatches if backbone == "bert4rec" else SequenceBatches
    if backbone in BY_PAIR:
        assert type(batches) is BY_PAIR[backbone]
        return
    assert type(batches) is kind
    expected = kind(
        WALKS, num_items=NUM_ITEMS, history_length=5, batch_size=4, stride=2, seed=9, bucket=20
    )
    for batch, other in zip(batches(3), expected(3), strict=True):
        assert torch.equal(batch.history, other.history)
        assert torch.equal(batch.targets, other.targets)


def test_pairs_are_of_the_same_users_and_sizes():
    config = SequenceModelConfig(history_length=5, batch_size=4, data_share=0.5)
    expected = PairBatches(
        config.training_histories(WALKS, 9),
        num_items=NUM_ITEMS,
        history_length=5,
        batch_size=4,
        seed=9,
        bucket=20,
    )
    for batch, other in zip(config.pairs(WALKS, NUM_ITEMS, 9)(3), expected(3), strict=True):
        assert torch.equal(batch.history, other.history)
        assert torch.equal(batch.targets, other.targets)


def test_a_share_of_the_users_is_drawn_by_the_seed():
    config = SequenceModelConfig(data_share=0.3)
    kept = config.training_histories(WALKS, 0)
    users = sorted(np.random.default_rng(0).choice(NUM_ITEMS, size=6, replace=False))
    assert kept == [WALKS[user] for user in users]
    assert config.training_histories(WALKS, 0) == kept
    assert config.training_histories(WALKS, 1) != kept
    assert len(SequenceModelConfig(data_share=1e-9).training_histories(WALKS, 0)) == 1
    assert SequenceModelConfig().training_histories(WALKS, 0) is WALKS
    firsts = {walk[0] for walk in kept}
    seen = {
        row[0].item() for batch in config.batches(WALKS, NUM_ITEMS, 0)(0) for row in batch.history
    }
    assert seen == firsts


def test_titles_are_those_of_tables():
    assert BACKBONE_TITLES == {
        "sasrec": "SASRec",
        "gru4rec": "GRU4Rec",
        "bert4rec": "BERT4Rec",
        "hstu": "HSTU",
        "caser": "Caser",
        "hgn": "HGN",
        "fmlprec": "FMLPRec",
        "cl4srec": "CL4SRec",
        "duorec": "DuoRec",
        "fdsa": "FDSA",
        "unisrec": "UniSRec",
        "s3rec": "S3Rec",
        "tedrec": "TedRec",
        "vqrec": "VQRec",
        "rpg": "RPG",
        "ensrec": "EnsRec",
    }
    assert SequenceModelConfig(backbone="gru4rec", items="content").title == "GRU4Rec, content"
    assert SequenceModelConfig(items="both").title == "SASRec, ids and content"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (TrainingRecipe, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (TrainingRecipe, {"epochs": 0}, "epochs must be at least 1, got 0"),
        (TrainingRecipe, {"patience": 0}, "patience must be at least 1, got 0"),
        (TrainingRecipe, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        (TrainingRecipe, {"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        (NextItemRecipe, {"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (NextItemRecipe, {"num_negatives": -1}, "num_negatives must be at least 0, got -1"),
        (NextItemRecipe, {"similarity": "l2"}, "similarity must be 'dot' or 'cosine', got 'l2'"),
        (SequenceRecipe, {"history_length": 0}, "history_length must be at least 1, got 0"),
        (SequenceRecipe, {"data_share": 0.0}, r"data_share must be in \(0, 1\], got 0.0"),
        (SequenceRecipe, {"data_share": 1.5}, r"data_share must be in \(0, 1\], got 1.5"),
        (SequenceRecipe, {"num_heads": 3}, "dim must be a multiple of num_heads, got 128 and 3"),
        (SequenceRecipe, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (
            SequenceModelConfig,
            {"backbone": "nextitnet"},
            r"backbone must be one of \('sasrec', 'gru4rec', .*'ensrec'\), got 'nextitnet'",
        ),
        (
            SequenceModelConfig,
            {"backbone": "fdsa"},
            r"items must be one of \('both',\) where backbone is 'fdsa', got 'ids'",
        ),
        (
            SequenceModelConfig,
            {"backbone": "unisrec"},
            r"items must be one of \('content', 'both'\) where backbone is 'unisrec', got 'ids'",
        ),
        (
            SequenceModelConfig,
            {"items": "images"},
            r"items must be one of \('ids', 'content', 'both'\), got 'images'",
        ),
    ],
)
def test_refusals(kind: type, options: dict[str, object], words: str):
    with pytest.raises(ValueError, match=f"^{words}$"):
        kind(**options)


def test_content_to_read_must_be_given():
    with pytest.raises(ValueError, match="contents must be given where items is 'both', got none"):
        SequenceModelConfig(items="both").model(NUM_ITEMS)
