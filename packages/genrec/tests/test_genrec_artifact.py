from __future__ import annotations

import hashlib
import json
import resource
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from genrec.artifact import load_weights, save_weights
from genrec.backbones import ContentTable, SASRec
from genrec.decoding import exact_scores
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.reading import ArtifactError
from genrec.recommender import Recommender
from genrec.saved_seq2seq import load_model, save_model
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

CODES = torch.tensor([[2, 0], [0, 1], [0, 0], [1, 1], [2, 1]])
IDS = ["a", "b", "ü/c", "d", "e"]
NODES = {"output_vocabulary": "node", "scoring": "renormalized"}


def make(**options: object) -> Seq2Seq:
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, **options)  # type: ignore[arg-type]
    reads = config.history_input != "codes" or config.node_start == "vectors"
    vectors = torch.randn(5, 3) if reads else None
    return Seq2Seq(config, Trie.build(CODES, (3, 2)), item_vectors=vectors).eval()


def write_config(path: Path, config: dict[str, object]) -> None:
    """Writes a configuration with the digest that its contents ask for."""
    rest = {name: value for name, value in config.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    path.write_text(json.dumps(rest | {"digest": hashlib.sha256(text.encode()).hexdigest()}))


@pytest.mark.parametrize("version", [1, 2])
def test_folders_of_earlier_formats_load(tmp_path: Path, version: int):
    """Format 2 named no class, format 1 had no digest of the configuration either."""
    model = make()
    save_model(tmp_path / "m", model, IDS, info={"k": 0.5})
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    assert (config.pop("format"), config.pop("class")) == (4, "Seq2Seq")
    if version == 2:
        write_config(path, config | {"format": version})
    else:
        del config["digest"]
        path.write_text(json.dumps(config | {"format": version}))
    saved = load_model(tmp_path / "m")
    history = torch.tensor([[0, 3], [5, 5]])
    expected = exact_scores(model, model.trie, history)
    assert torch.equal(exact_scores(saved.model, saved.model.trie, history), expected)
    assert (saved.item_ids, saved.info) == (IDS, {"k": 0.5})


@pytest.mark.parametrize(
    "options",
    [
        {"distillation_dim": 3},
        {"history_input": "vectors", "train_item_vectors": True},
        {"history_input": "both", "node_start": "vectors", **NODES},
        {"node_start": "vectors", **NODES},
    ],
)
def test_round_trip(tmp_path: Path, options: dict[str, object]):
    model = make(**options)
    popularity = torch.tensor([3, 0, 2, 1, 1])
    save_model(tmp_path / "m", model, IDS, popularity=popularity, info={"ndcg@10": 0.5})
    state = torch.get_rng_state()
    saved = load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    history = torch.tensor([[0, 3], [5, 5]])
    expected = exact_scores(model, model.trie, history)
    assert torch.equal(exact_scores(saved.model, saved.model.trie, history), expected)
    assert (saved.item_ids, saved.info) == (IDS, {"ndcg@10": 0.5})
    assert torch.equal(saved.popularity, popularity)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_round_trip_of_a_backbone_that_reads_the_history(tmp_path: Path):
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, history_input="backbone", **NODES)  # type: ignore[arg-type]
    backbone = SASRec(5, dim=8, num_layers=1, item_encoder=ContentTable(torch.randn(5, 3), 8))
    model = Seq2Seq(config, Trie.build(CODES, (3, 2)), backbone=backbone).eval()
    save_model(tmp_path / "m", model, IDS)
    saved = load_model(tmp_path / "m")
    history = torch.tensor([[0, 3], [5, 5]])
    expected = exact_scores(model, model.trie, history)
    assert torch.equal(exact_scores(saved.model, saved.model.trie, history), expected)
    path = tmp_path / "m" / "config.json"
    config_file = json.loads(path.read_text())
    for change, words in (
        ({"class": "Mamba"}, "holds a Mamba, which this version of genrec does not know"),
        ({"model": {"num_layers": 10**9}}, "num_layers must be at most"),
        ({"items": 7}, "do not fit together"),
    ):
        changed = config_file | {"backbone": config_file["backbone"] | change}
        write_config(path, changed)
        with pytest.raises(ArtifactError, match=words):
            load_model(tmp_path / "m")


def graphed() -> Seq2Seq:
    """A model with an item graph: a ring forward, its weights counted within one step."""
    ring = ItemMatrix(
        offsets=torch.arange(6),
        neighbours=torch.tensor([1, 2, 3, 4, 0]),
        weights=torch.tensor([2.0, 1.0, 4.0, 0.5, 3.0]),
        decay=0.5,
        forward=[1.0],
    )
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, direct_path=True, **NODES)  # type: ignore[arg-type]
    graph = ItemGraph.build(5, [ring, ring], last_items=3)
    return Seq2Seq(config, Trie.build(CODES, (3, 2)), item_graph=graph).eval()


def test_round_trip_of_an_item_graph(tmp_path: Path):
    model = graphed()
    save_model(tmp_path / "m", model, IDS)
    saved = load_model(tmp_path / "m")
    assert saved.model.item_graph is not None
    assert saved.model.item_graph.settings == {
        "num_edges": 5,
        "num_kinds": 2,
        "last_items": 3,
        "window": 1,
    }
    history = torch.tensor([[0, 3], [5, 5]])
    expected = exact_scores(model, model.trie, history)
    assert torch.equal(exact_scores(saved.model, saved.model.trie, history), expected)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_edges": 10**12}, r"item_graph.weights must be of shape \(1000000000000, 2\)"),
        ({"window": 2}, r"item_graph.kernel must be of shape \(5, 2\) among the weights"),
        ({"num_kinds": 2.0}, "config.json is damaged: num_kinds must be int, got 2.0"),
        ({"last_items": 0}, "last_items must be at least 1, got 0"),
    ],
)
def test_sizes_of_a_graph_that_do_not_fit_are_refused(
    tmp_path: Path, sizes: dict[str, object], words: str
):
    save_model(tmp_path / "m", graphed(), IDS)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["item_graph"] |= sizes
    write_config(path, config)
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("neighbours", 0, 5, "neighbours must be item rows from 0 to 4"),
        ("offsets", 1, 4, "offsets must ascend from 0 to 5"),
        ("weights", (0, 0), -1.0, "weights must be at least 0"),
        ("decays", 0, 0.0, r"decays must be in \(0, 1\]"),
    ],
)
def test_a_graph_that_is_none_is_refused(
    tmp_path: Path, name: str, place: object, value: float, words: str
):
    model = graphed()
    assert model.item_graph is not None
    model.item_graph.get_buffer(name)[place] = value  # type: ignore[index]
    save_model(tmp_path / "m", model, IDS)
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "x"),
        ("config.json", '{"architectures": ["T5"]}'),  # a Hugging Face model
        ("config.json", '{"format": 1, "views": []}'),  # a tokenizer
        ("config.json", "half"),
    ],
)
def test_a_model_folder_is_replaced_and_another_folder_is_not(
    tmp_path: Path, name: str, content: str
):
    save_model(tmp_path / "m", make(), IDS)
    save_model(tmp_path / "m", make(), IDS[::-1])
    assert load_model(tmp_path / "m").item_ids == IDS[::-1]
    assert load_model(tmp_path / "m").popularity is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    with pytest.raises(FileExistsError, match="is no model folder, so it is not replaced"):
        save_model(tmp_path / "mine", make(), IDS)
    assert (tmp_path / "mine" / name).read_text() == content


def test_info_comes_back_as_json_has_it(tmp_path: Path):
    save_model(tmp_path / "m", make(), IDS, info={"recall": {5: 0.1, 10: 0.2}, "ks": (5, 10)})
    assert load_model(tmp_path / "m").info == {"recall": {"5": 0.1, "10": 0.2}, "ks": [5, 10]}


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path):
    save_model(tmp_path / "m", make(), IDS)
    with pytest.raises(TypeError, match=r"info must be what JSON can hold: .* not JSON ser"):
        save_model(tmp_path / "m", make(), IDS[::-1], info={"bad": object()})
    assert load_model(tmp_path / "m").item_ids == IDS
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (IDS[:4], "one id for each of 5 items, got 4"),
        (["a", "b", "a", "d", "e"], "got 'a' twice, again in row 2"),
    ],
)
def test_ids_are_checked(tmp_path: Path, ids: list[str], words: str):
    with pytest.raises(ValueError, match=words):
        save_model(tmp_path / "m", make(), ids)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("popularity", "words"),
    [
        (torch.arange(4), r"whole number, 0 or more, for each of 5 items, got shape \(4,\)"),
        (torch.full((5,), 0.5), "got torch.float32"),
        (torch.tensor([1, 2, -3, 0, 0]), "got -3"),
    ],
)
def test_popularity_is_checked(tmp_path: Path, popularity: torch.Tensor, words: str):
    for use in (partial(save_model, tmp_path / "m"), Recommender):
        with pytest.raises(ValueError, match=words):
            use(make(), IDS, popularity=popularity)


@pytest.mark.parametrize("name", ["weights.safetensors", "catalogue.safetensors", "item_ids.json"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, name: str):
    save_model(tmp_path / "m", make(), IDS)
    path = tmp_path / "m" / name
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(ArtifactError, match=f"{name} is damaged or of another model"):
        load_model(tmp_path / "m")
    save_model(tmp_path / "other", make(), IDS[::-1])
    if name != "catalogue.safetensors":  # both have the same codes
        path.write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(ArtifactError, match=f"{name} is damaged or of another model"):
            load_model(tmp_path / "m")
    path.unlink()
    with pytest.raises(ArtifactError, match=f"is incomplete: {name} is missing"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 5}, "has format 5, newer than format 4"),
        ({"class": "SASRec"}, "holds a SASRec, no Seq2Seq: load it with genrec.load_backbone"),
        ({"format": None}, "it names no format"),
        ({"format": 0}, "no model was ever saved in format 0"),
        ({"model": {"dim": 8, "width": 1}}, "config.json is damaged: .*width"),
        ({"model": {"dim": 16}}, "files that do not fit together: Error.* in loading state_dict"),
        ({"codebook_sizes": [3]}, "do not fit together: codebook_sizes must have one entry per"),
        ({"files": {}}, "config.json is damaged: it lacks 'weights.safetensors'"),
        ({"format": True}, "it names no format"),
        ({"format": -1}, "no model was ever saved in format -1"),
        ({"format": 3.0}, "it names no format"),
        ({"class": 7}, "config.json is damaged: class must be a name"),
        ({"class": "\x1b[31mred"}, r"holds a \\x1b\[31mred, no Seq2Seq"),
        ({"model": 7}, "config.json is damaged"),
        ({"model": {"\x1b[2J\u202e": 1}}, r"config.json is damaged: .*\\x1b\[2J\\u202e"),
        ({"model": {"dim": True}}, "config.json is damaged: dim must be int, got True"),
        ({"model": {"dim": 8.0}}, "config.json is damaged: dim must be int, got 8.0"),
        ({"model": {"temperature": float("inf")}}, "temperature must be positive and finite"),
        ({"model": {"temperature": float("nan")}}, "temperature must be positive and finite"),
        ({"model": {"dropout": "none"}}, "config.json is damaged: dropout must be float"),
        ({"model": {"history_bias": 1}}, "config.json is damaged: history_bias must be bool"),
        ({"codebook_sizes": 3}, "config.json is damaged: codebook_sizes must be list"),
        ({"codebook_sizes": [3, 2.5]}, "config.json is damaged: codebook_sizes must be list"),
        ({"codebook_sizes": [3, 10**400]}, "config.json is damaged: codebook_sizes must be list"),
        ({"model": {"dim": 10**30}}, "config.json is damaged: dim must be int, got 1000"),
        ({"codebook_sizes": [3, 10**12]}, "do not fit together: .*size mismatch"),
        ({"vector_dim": float("inf")}, "config.json is damaged: vector_dim must be"),
        ({"vector_dim": 10**12}, "vector_dim must be the width of vectors among the weights"),
        ({"info": 7}, "config.json is damaged"),
        ({"info": None}, "config.json is damaged"),
        ({"files": 7}, "config.json is damaged"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
):
    save_model(tmp_path / "m", make(), IDS)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text()) | change
    write_config(path, config)
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_decoder_layers": 10**7}, "num_decoder_layers must be at most .* got 10000000"),
        ({"num_encoder_layers": 10**7}, "num_encoder_layers must be at most .* got 10000000"),
        ({"num_decoder_layers": 5}, "in loading state_dict"),
        *(
            ({name: 2**40}, "in loading state_dict|size|overflow|memory")
            for name in ("dim", "feedforward_dim", "history_length", "distillation_dim")
        ),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_anything_is_made(
    tmp_path: Path, change: dict[str, int], words: str
):
    save_model(tmp_path / "m", make(), IDS)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    write_config(path, config | {"model": config["model"] | change})
    started = time.perf_counter()
    with pytest.raises(
        ArtifactError, match=f"files that do not fit together: .*({words})"
    ) as caught:
        load_model(tmp_path / "m")
    assert "Exception raised" not in str(caught.value)
    assert time.perf_counter() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Gives a file of a model folder other content, and the folder the digests that go with it."""
    (folder / name).write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    config["files"][name] = hashlib.sha256(content).hexdigest()
    write_config(folder / "config.json", config)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "item_ids.json is damaged: maximum recursion depth"),
        (b"7", "item_ids.json is damaged: item_ids must be list.str., got 7"),
        (b'{"a": 1}', "item_ids.json is damaged: item_ids must be list.str., got {"),
        (b"[1, 2, 3, 4, 5]", "damaged: item_ids must be list.str., got .1, 2"),
        (b"[Infinity, 2, 3, 4, 5]", "damaged: item_ids must be list.str., got .inf"),
        (b"\xff", "item_ids.json is damaged: 'utf-8' codec can't decode"),
        (b"1" * 5000, "item_ids.json is damaged: Exceeds the limit"),
        (rb'["\u001b[31m", "\u001b[31m", "c", "d", "e"]', r"got '\\x1b\[31m' twice"),
    ],
)
def test_ids_that_are_none_are_refused(tmp_path: Path, content: bytes, words: str):
    save_model(tmp_path / "m", make(), IDS)
    rewrite(tmp_path / "m", "item_ids.json", content)
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path / "m")


def test_a_format_flipped_to_the_one_without_digests_is_refused(tmp_path: Path):
    save_model(tmp_path / "m", make(), IDS)
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace('"format": 4', '"format": 1'))
    with pytest.raises(ArtifactError, match="its digest disagrees with the rest of it"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format": 1e999}', b"7", b'"x"', b"\xff"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes):
    save_model(tmp_path / "m", make(), IDS)
    (tmp_path / "m" / "config.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"config.json is (damaged: |no configuration of a)"):
        load_model(tmp_path / "m")
    with pytest.raises(FileExistsError, match="is no model folder, so it is not replaced"):
        save_model(tmp_path / "m", make(), IDS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"popularity": torch.tensor([1, 2, -3, 0, 0])}, "do not fit together: popularity .*-3"),
        ({"popularity": torch.rand(5)}, "do not fit together: popularity must be one whole"),
        ({"popularity": torch.full((5,), torch.nan)}, "not all of popularity is finite"),
        ({"codes": CODES.float()}, "codes must be a table of whole numbers, .* torch.float32"),
        ({"codes": CODES.bool()}, "codes must be a table of whole numbers, .* torch.bool"),
        ({"codes": CODES[:, 0].clone()}, "codes must be a table of whole numbers"),
        ({"codes": CODES - 1}, "do not fit together: codes"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor], words: str
):
    save_model(tmp_path / "m", make(), IDS)
    rewrite(tmp_path / "m", "catalogue.safetensors", save({"codes": CODES} | change))
    with pytest.raises(ArtifactError, match=words):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    model = make()
    save_model(tmp_path / "m", model, IDS)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights["head.weight"][1, 2] = value
    rewrite(tmp_path / "m", "weights.safetensors", save(weights))
    with pytest.raises(ArtifactError, match=r"safetensors is damaged: not all of head.weight is f"):
        load_model(tmp_path / "m")
    model.load_state_dict(weights)
    with pytest.raises(ValueError, match=r"must have finite weights, got NaN or infinity in head"):
        save_model(tmp_path / "other", model, IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "m"
    save_model(folder, make(), IDS, popularity=torch.tensor([3, 0, 2, 1, 1]), info={"k": 0.5})
    return folder


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_folder_broken_anywhere_is_refused_in_one_sentence(sound: Path, data: st.DataObject):
    """Cut or changed at any place; what still says the same, as other white space, may load."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "m"
        shutil.copytree(sound, folder)
        path = folder / data.draw(st.sampled_from(sorted(path.name for path in sound.iterdir())))
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[where:]
        else:
            content[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        message = None
        try:
            saved = load_model(folder)
        except ArtifactError as error:
            message = str(error)
        if message is not None:
            assert "\n" not in message
            return
        assert path.name == "config.json"
        expected = load_model(sound)
        assert (saved.info, saved.item_ids) == (expected.info, expected.item_ids)
        assert saved.model.config == expected.model.config
        weights = saved.model.state_dict()
        assert all(torch.equal(weights[k], v) for k, v in expected.model.state_dict().items())


def test_what_is_no_model_folder_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"is no model folder: config\.json cannot be read"):
        load_model(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ArtifactError, match="is no configuration of a model"):
        load_model(tmp_path)


def test_weights_come_back_in_a_file_of_their_own(tmp_path: Path):
    model, other = make(), make()
    save_weights(tmp_path / "weights.safetensors", model)
    load_weights(tmp_path / "weights.safetensors", other)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_weights_that_are_shared_are_written_each(tmp_path: Path):
    tied = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    save_weights(tmp_path / "tied.safetensors", tied)
    separate = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    load_weights(tmp_path / "tied.safetensors", separate)
    assert torch.equal(separate[1].weight, tied[0].weight)


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        load_weights(path, make())
    save_weights(path, torch.nn.Linear(2, 2))
    with pytest.raises(ArtifactError, match=r"holds the weights of another model: .* Missing"):
        load_weights(path, make())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=r"weights.safetensors cannot be read"):
        load_weights(path, torch.nn.Linear(2, 2))
