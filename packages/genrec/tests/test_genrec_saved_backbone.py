"""Sequence models in folders: what comes back answers as what was saved."""

from __future__ import annotations

import inspect
import json
import resource
from pathlib import Path

import pytest
import torch
from genrec import (
    DIN,
    FDSA,
    HGN,
    HSTU,
    RPG,
    ArtifactError,
    Backbone,
    BERT4Rec,
    Caser,
    CL4SRec,
    CodeTable,
    ContentExperts,
    ContentTable,
    DenseRecommender,
    DuoRec,
    EnsRec,
    FeatureTables,
    FMLPRec,
    GRU4Rec,
    ItemTable,
    Recommender,
    S3Rec,
    SASRec,
    Seq2Seq,
    Seq2SeqConfig,
    TedRec,
    Trie,
    UniSRec,
    VQRec,
    item_table,
    load_backbone,
    save_backbone,
    save_model,
)
from genrec.reading import json_digest

NUM_ITEMS, DIM = 12, 8
IDS = [f"i{row}" for row in range(NUM_ITEMS)]
COUNTS = torch.tensor([0, 5, 1, 9, 0, 0, 2, 0, 0, 0, 0, 0])
HISTORIES = [["i1", "i4", "stranger"], ["i3"], []]
SASREC = {
    "num_layers": 1,
    "num_heads": 4,
    "history_length": 3,
    "dropout": 0.3,
    "feedforward_dim": 10,
    "positions": "newest",
    "norm": "post",
    "similarity": "cosine",
    "temperature": 0.2,
}
CONTRAST = {"contrast_weight": 0.2, "contrast_temperature": 0.3}
SHARES = {"crop_share": 0.5, "mask_share": 0.4, "reorder_share": 0.7}
TASKS = {
    "mask_share": 0.4,
    "masked_item_weight": 0.3,
    "masked_segment_weight": 0.6,
    "item_feature_weight": 0.9,
    "masked_feature_weight": 0.8,
}
PLAIN_SASREC = {name: SASREC[name] for name in SASREC if name not in ("positions", "norm")}
OTHER_THAN_DEFAULT = {
    SASRec: SASREC,
    FDSA: PLAIN_SASREC,
    TedRec: PLAIN_SASREC,
    EnsRec: PLAIN_SASREC,
    UniSRec: SASREC,
    VQRec: SASREC,
    RPG: SASREC,
    S3Rec: {**SASREC, **TASKS},
    DuoRec: {**SASREC, **CONTRAST},
    CL4SRec: {**SASREC, **CONTRAST, **SHARES},
    Caser: {
        "window": 3,
        "num_horizontal": 2,
        "num_vertical": 5,
        "dropout": 0.3,
        "similarity": "cosine",
        "temperature": 0.2,
    },
    HGN: {"window": 3, "dropout": 0.3, "similarity": "cosine", "temperature": 0.2},
    FMLPRec: {
        "num_layers": 1,
        "history_length": 3,
        "dropout": 0.3,
        "feedforward_dim": 10,
        "similarity": "cosine",
        "temperature": 0.2,
    },
    BERT4Rec: {
        "num_layers": 1,
        "num_heads": 4,
        "history_length": 3,
        "dropout": 0.3,
        "feedforward_dim": 10,
        "similarity": "cosine",
        "temperature": 0.2,
    },
    GRU4Rec: {
        "hidden_dim": 5,
        "num_layers": 2,
        "dropout": 0.3,
        "similarity": "cosine",
        "temperature": 0.2,
    },
    HSTU: {
        "num_layers": 1,
        "num_heads": 4,
        "history_length": 3,
        "dropout": 0.3,
        "similarity": "cosine",
        "temperature": 0.2,
    },
    DIN: {"attention_sizes": [6, 3], "output_sizes": [7], "recency": 3},
}
KINDS = list(OTHER_THAN_DEFAULT)


def make(kind: type[Backbone], item_input: str = "ids", **options: object) -> Backbone:
    torch.manual_seed(0)
    contents = [torch.randn(NUM_ITEMS, 3), torch.randn(NUM_ITEMS, 5)]
    table = item_table(item_input, contents, DIM)
    if kind is FDSA or (kind is S3Rec and item_input == "both"):
        tables = [ContentTable(content, DIM) for content in contents]
        table = FeatureTables(ItemTable(NUM_ITEMS, DIM), tables)
    if kind is TedRec:
        table = FeatureTables(ItemTable(NUM_ITEMS, DIM), [ContentExperts(contents[0], DIM)])
    if kind is EnsRec:
        table = FeatureTables(ItemTable(NUM_ITEMS, DIM), [item_table("content", contents, DIM)])
    if kind in (VQRec, RPG):
        table = CodeTable(torch.randint(4, (NUM_ITEMS, 3)), (4, 4, 5), DIM)
    if kind is UniSRec and item_input != "ids":
        with_ids = item_input == "both"
        table = ContentExperts(contents[0], DIM, num_experts=3, with_ids=with_ids)
    model = kind(NUM_ITEMS, dim=DIM, item_encoder=table, **options).eval()
    for parameter in model.parameters():  # away from where training starts, zeros among them
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item_input", ["ids", "content", "both"])
def test_a_recommender_comes_back_as_it_was(tmp_path: Path, kind: type[Backbone], item_input: str):
    model = make(kind, item_input, **OTHER_THAN_DEFAULT[kind])
    recommender = DenseRecommender(model, IDS, history_length=3, popularity=COUNTS)
    recommender.save(tmp_path / "m", info={"ndcg@10": 0.5})
    state = torch.get_rng_state()
    loaded = DenseRecommender.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.recommend(HISTORIES, top_k=12) == recommender.recommend(HISTORIES, top_k=12)
    saved = load_backbone(tmp_path / "m")
    assert type(saved.model) is kind
    assert not saved.model.training
    assert saved.model.settings == model.settings
    assert saved.model.settings == {"dim": DIM, **OTHER_THAN_DEFAULT[kind]}
    assert (saved.item_ids, saved.history_length, saved.info) == (IDS, 3, {"ndcg@10": 0.5})
    assert torch.equal(saved.popularity, COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_all_arguments_but_the_items(kind: type[Backbone]):
    names = set(inspect.signature(kind.__init__).parameters) - {"self", "num_items", "item_encoder"}
    assert make(kind).settings.keys() == names
    assert set(OTHER_THAN_DEFAULT[kind]) == names - {"dim"}


def test_without_popularity(tmp_path: Path):
    save_backbone(tmp_path / "m", make(GRU4Rec), IDS, history_length=3)
    assert load_backbone(tmp_path / "m").popularity is None
    assert not DenseRecommender.load(tmp_path / "m").recommend([[]])[0].popular


class Sum(torch.nn.Module):
    def forward(self) -> torch.Tensor:
        return torch.ones(NUM_ITEMS, DIM)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_saved_is_refused(tmp_path: Path):
    class Doubled(SASRec):
        """Within a function, where no name leads to it."""

    folder = tmp_path / "m"
    with pytest.raises(TypeError, match=r"Doubled must be a class of a module that can be impor"):
        save_backbone(folder, make(Doubled), IDS, history_length=3)
    model = make(SASRec)
    model.item_encoder = Sum()
    with pytest.raises(TypeError, match=r"item_encoder must be an ItemTable, .* got Sum: copy its"):
        save_backbone(folder, model, IDS, history_length=3)
    model.item_encoder = ItemTable(NUM_ITEMS, DIM)
    with pytest.raises(ValueError, match="history_length must be at least 1, got 0"):
        save_backbone(folder, model, IDS, history_length=0)
    with pytest.raises(ValueError, match="one id for each of 12 items, got 3"):
        save_backbone(folder, model, IDS[:3], history_length=3)
    with pytest.raises(ValueError, match="popularity must be one whole number"):
        save_backbone(folder, model, IDS, history_length=3, popularity=COUNTS[1:])
    with pytest.raises(TypeError, match="info must be what JSON can hold"):
        save_backbone(folder, model, IDS, history_length=3, info={"bad": object()})
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="is no model folder, so it is not replaced"):
        save_backbone(folder, model, IDS, history_length=3)


def test_each_kind_of_folder_names_who_loads_it(tmp_path: Path):
    save_backbone(tmp_path / "m", make(HSTU), IDS, history_length=3)
    with pytest.raises(
        ArtifactError, match=r"holds a HSTU, no Seq2Seq: load it with genrec\.load_b"
    ):
        Recommender.load(tmp_path / "m")
    codes = torch.arange(NUM_ITEMS)[:, None]
    model = Seq2Seq(
        Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8), Trie.build(codes, (NUM_ITEMS,))
    )
    save_model(tmp_path / "m", model, IDS)
    with pytest.raises(ArtifactError, match="holds a Seq2Seq, no sequence model: load it with"):
        DenseRecommender.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["weights.safetensors", "catalogue.safetensors", "item_ids.json"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, name: str):
    save_backbone(tmp_path / "m", make(SASRec, "both"), IDS, history_length=3)
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=f"{name} is damaged or of another model"):
        load_backbone(tmp_path / "m")
    path.unlink()
    with pytest.raises(ArtifactError, match=f"is incomplete: {name} is missing"):
        load_backbone(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 5}, "has format 5, newer than format 4"),
        ({"class": "NextItNet"}, "holds a NextItNet, which this version of genrec does not know"),
        ({"class": ["SASRec"]}, "config.json is damaged"),
        ({"num_items": "many"}, "config.json is damaged: num_items must be int, got 'many'"),
        ({"num_items": 12.0}, "config.json is damaged: num_items must be int, got 12.0"),
        ({"history_length": float("inf")}, "config.json is damaged: history_length must be int"),
        ({"history_length": 0}, "config.json is damaged: history_length must be at least 1"),
        ({"model": 7}, "config.json is damaged"),
        ({"model": {"dim": "8"}}, "config.json is damaged: dim must be int, got '8'"),
        ({"model": {"similarity": ["dot"]}}, "config.json is damaged: similarity must be"),
        ({"model": {"num_items": 12}}, "do not fit together: .*multiple values"),
        ({"items": 7}, "do not fit together"),
        ({"items": {"class": "ItemTable", "dim": 2**50}}, "do not fit together"),
        ({"items": {"class": "ConcatenatedTables", "dim": 8, "tables": 5}}, "tables must be list"),
        ({"num_items": 11}, "do not fit together: item_ids must be one id for each of 11 items"),
        ({"model": {"dim": 8, "width": 1}}, "do not fit together: .*width"),
        ({"model": {"dim": 16}}, "do not fit together: Error.* in loading state_dict"),
        ({"items": {"class": "Hashed", "dim": 8}}, "items must be made of tables that genrec kn"),
        (
            {"items": {"class": "ContentTable", "dim": 8}},
            "do not fit together: it lacks 'content.0'",
        ),
        (
            {"items": {"class": "CodeTable", "dim": 8, "codebook_sizes": "many"}},
            "codebook_sizes must be list",
        ),
        ({"items": {}}, "do not fit together: it lacks 'class'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
):
    save_backbone(tmp_path / "m", make(SASRec), IDS, history_length=3)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text()) | change
    del config["digest"]
    path.write_text(json.dumps(config | {"digest": json_digest(config)}))
    with pytest.raises(ArtifactError, match=words):
        load_backbone(tmp_path / "m")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        *(
            (kind, {"num_layers": 10**7}, "num_layers must be at most .* got 10000000")
            for kind in (SASRec, BERT4Rec, GRU4Rec, HSTU, EnsRec)
        ),
        *(
            (kind, {name: 2**40}, "in loading state_dict|size|overflow|memory")
            for kind in KINDS
            for name in OTHER_THAN_DEFAULT[kind].keys() & {"feedforward_dim", "hidden_dim"}
        ),
        *((kind, {"dim": 2**40}, "in loading state_dict|size|overflow") for kind in KINDS),
        (SASRec, {"history_length": 2**40}, "in loading state_dict"),
        (BERT4Rec, {"history_length": 2**40}, "in loading state_dict"),
        (HSTU, {"history_length": 2**40}, "in loading state_dict"),
        (DIN, {"recency": 2**40}, "in loading state_dict"),
        (DIN, {"attention_sizes": [2**40, 3]}, "in loading state_dict|overflow"),
        (DIN, {"output_sizes": [1] * 1000}, "output_sizes must be at most .* got 1000"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_made(
    tmp_path: Path, kind: type[Backbone], change: dict[str, object], words: str
):
    save_backbone(tmp_path / "m", make(kind, **OTHER_THAN_DEFAULT[kind]), IDS, history_length=3)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    del config["digest"]
    config["model"] |= change
    path.write_text(json.dumps(config | {"digest": json_digest(config)}))
    with pytest.raises(ArtifactError, match=f"files that do not fit together: .*({words})"):
        load_backbone(tmp_path / "m")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB


def test_a_changed_configuration_is_refused(tmp_path: Path):
    save_backbone(tmp_path / "m", make(SASRec), IDS, history_length=3)
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"history_length": 4}))
    with pytest.raises(ArtifactError, match="its digest disagrees with the rest of it"):
        load_backbone(tmp_path / "m")
