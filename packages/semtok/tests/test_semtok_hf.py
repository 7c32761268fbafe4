"""Tokens, texts, embeddings, prompts and batches, with tiny tokenizers and tiny random models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from semtok import Catalog, SemanticIds, Tokenizer
from semtok.hf import (
    HistoryTemplate,
    ItemCollator,
    ItemTokens,
    code_vectors,
    item_token_names,
    start_embeddings,
)

torch = pytest.importorskip("torch", exc_type=ImportError)
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

LINES = ["a customer chose, oldest first:", "next: red soap and blue cream", "user assistant"]
SIZES = (4, 30, 3)
IDS = SemanticIds(
    codes=np.array([[0, 0, 0], [1, 29, 2], [3, 5, 1], [1, 28, 0]]),
    codebook_sizes=SIZES,
    item_ids=["w", "x", "y", "z"],
)
CHAT = (
    "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant :{% endif %}"
)


def language_tokenizer(kind: str, *, lower: bool = False, ends: bool = False) -> Any:
    """A tokenizer of words or of byte pairs, trained on a few lines."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    if kind == "words":
        inner = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=special)
    elif kind == "bytes":
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        inner = tokenizers.Tokenizer(models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=special, unk_token="<unk>")
    if lower:
        inner.normalizer = normalizers.Lowercase()
    inner.train_from_iterator(LINES, trainer)
    template = "$A </s>" if ends else "<s> $A"
    inner.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=CHAT, **names)


def llama(vocabulary: int, *, tied: bool, width: int = 16) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def t5(vocabulary: int, *, tied: bool, width: int = 16) -> Any:
    config = transformers.T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=3,
        pad_token_id=3,
    )
    config.tie_word_embeddings = tied  # which its constructor would not take
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize("kind", ["words", "bytes", "unigram"])
@pytest.mark.parametrize("lower", [False, True])
def test_each_code_is_one_token_that_is_added_once(kind: str, lower: bool) -> None:
    tokenizer = language_tokenizer(kind, lower=lower)
    before = len(tokenizer)
    tokens = ItemTokens.add_to(tokenizer, IDS)
    assert len(tokenizer) == before + sum(SIZES)
    for level, (size, letter) in enumerate(zip(SIZES, "abc", strict=True)):
        expected = [tokenizer.convert_tokens_to_ids(f"<{letter}_{code}>") for code in range(size)]
        assert tokens.token_ids[level].tolist() == expected + [-1] * (30 - size)
    again = ItemTokens.add_to(tokenizer, IDS)
    assert len(tokenizer) == before + sum(SIZES)
    np.testing.assert_array_equal(again.token_ids, tokens.token_ids)
    text = f"next: {tokens.text([1, 2])} and {tokens.text([0])}"
    numbers = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    in_text = numbers[np.isin(numbers, tokens.token_ids)].reshape(-1, 3)
    np.testing.assert_array_equal(in_text, tokens.tokens_of(IDS.codes[[1, 2, 0]]))
    np.testing.assert_array_equal(tokens.codes_of(in_text), IDS.codes[[1, 2, 0]])
    answer = tokenizer.decode(numbers, skip_special_tokens=True)
    assert tokens.rows_in(answer).tolist() == [1, 2, 0]


def test_tokens_survive_the_saving_of_the_tokenizer(tmp_path: Any) -> None:
    tokenizer = language_tokenizer("bytes")
    tokens = ItemTokens.add_to(tokenizer, IDS)
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = ItemTokens.add_to(loaded, IDS)
    assert len(loaded) == len(tokenizer)
    np.testing.assert_array_equal(again.token_ids, tokens.token_ids)


def test_levels_beyond_z_have_two_letters() -> None:
    names = item_token_names([1] * 53)
    assert [names[level][0] for level in (0, 25, 26, 27, 51, 52)] == [
        "<a_0>", "<z_0>", "<aa_0>", "<ab_0>", "<az_0>", "<ba_0>",
    ]  # fmt: skip
    assert len({level[0] for level in names}) == 53


@pytest.fixture(scope="module")
def tokens() -> ItemTokens:
    return ItemTokens.add_to(language_tokenizer("bytes"), IDS)


def test_a_text_and_its_items(tokens: ItemTokens) -> None:
    text = tokens.interleaved(["try ", 1, " with <b> ", 2, " or <x_1> ", 1, "!"])
    assert text == "try <a_1><b_29><c_2> with <b> <a_3><b_5><c_1> or <x_1> <a_1><b_29><c_2>!"
    assert tokens.rows_in(text).tolist() == [1, 2, 1]
    assert tokens.codes_in(text).tolist() == IDS.codes[[1, 2, 1]].tolist()
    assert tokens.rows_in("<a_1> <b_29>\n<c_2><a_0><b_0><c_0>").tolist() == [1, 0]
    assert tokens.rows_in("no item").tolist() == []
    assert tokens.codes_in("").shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("<a_1><b_29>", [-1]),
        ("<a_1><c_2>", [-1]),
        ("<b_29><c_2>", [-1]),
        ("<a_1><b_29><c_2><c_2>", [-1]),
        ("<a_1><b_30><c_2>", [-1]),
        ("<a_1><b_29> and <c_2>", [-1, -1]),
        ("<a_1><a_1><b_29><c_2>", [-1, 1]),
        ("<a_0><b_0><c_1>", [-1]),
        ("<a_1><b_29><c_02>", [-1]),
        ("<a_1><b_29><c_2><a_99999999999>", [1]),
    ],
)
def test_what_is_no_item_is_refused_or_marked(
    tokens: ItemTokens, text: str, rows: list[int]
) -> None:
    assert tokens.rows_in(text, invalid="mark").tolist() == rows
    if -1 in rows:
        with pytest.raises(ValueError, match="text must name"):
            tokens.rows_in(text)


def test_wrong_codes_tokens_and_rows_are_refused(tokens: ItemTokens, unchecked: None) -> None:
    with pytest.raises(ValueError, match="codes must be within"):
        tokens.tokens_of(np.array([[0, 30, 0]]))
    with pytest.raises(ValueError, match="token_ids must be 3 per item"):
        tokens.codes_of(np.array([[1, 2]]))
    ids: Any = ["item-1"]
    with pytest.raises(ValueError, match=r"rows must be whole numbers, .* got 'item-1'"):
        tokens.text(ids)
    for row in (-1, 4):
        with pytest.raises(ValueError, match=r"rows must be within \[0, 4\)"):
            tokens.text([row])
    huge = np.array([[0, 10**9, -5]])
    assert tokens.codes_of(huge).tolist() == [[-1, -1, -1]]
    swapped = tokens.tokens_of(IDS.codes[1:2])[:, ::-1].copy()
    assert tokens.codes_of(swapped).tolist() == [[-1, 29, -1]]
    for table, words in (
        (tokens.token_ids[:2], "shape"),
        (np.where(tokens.token_ids == -1, 5, tokens.token_ids), "-1 where"),
        (np.where(tokens.token_ids == -1, -1, 7), "another one"),
    ):
        with pytest.raises(ValueError, match=words):
            ItemTokens(semantic_ids=IDS, token_ids=table)


def fitted(quantizer: str, **options: Any) -> Any:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    return SemanticIds.fit(x, quantizer=quantizer, **options)


def test_code_vectors_of_residual_codes_are_the_codebooks() -> None:
    ids = fitted("rq", num_levels=2, codebook_size=8)
    for level, vectors in enumerate(code_vectors(ids.quantizer, ids)):
        used = np.unique(ids.codes[:, level])
        np.testing.assert_allclose(vectors[used], ids.quantizer.codebooks[level][used], atol=1e-5)
        unused = np.setdiff1d(np.arange(8), used)
        assert not vectors[unused].any()


def test_code_vectors_of_a_tree_are_ways_to_the_clusters_within() -> None:
    ids = fitted("hierarchical", codebook_size=8)
    vectors = code_vectors(ids.quantizer, ids)
    assert [len(level) for level in vectors] == list(ids.codebook_sizes)
    for level in (0, 1):
        for code in range(ids.codebook_sizes[level]):
            ways = []
            for path in ids.codes[ids.codes[:, level] == code]:
                after = ids.quantizer.decode(path[None, : level + 1])[0]
                before = ids.quantizer.decode(path[None, :level])[0] if level else 0
                ways.append(after - before)
            expected = np.mean(ways, axis=0) if ways else np.zeros(8)
            np.testing.assert_allclose(vectors[level][code], expected, atol=1e-5)


def test_code_vectors_of_views_suffixes_and_later_items() -> None:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    catalog = Catalog(item_ids=[str(row) for row in range(60)], fields={})
    tokenizer = Tokenizer.fit(catalog, embeddings={"a": x, "b": x[:, :3]}, fuse=False)
    later = Catalog(item_ids=["new"], fields={})
    encoding = tokenizer.encode(later, embeddings={"a": x[:1], "b": x[:1, :3]})
    extended = tokenizer.extended(encoding.semantic_ids)
    vectors = code_vectors(tokenizer.quantizer, extended.semantic_ids)
    assert {level.shape[1] for level in vectors} == {8, 3}
    assert tuple(map(len, vectors)) == tokenizer.semantic_ids.codebook_sizes

    ids = fitted("pq", num_levels=2, codebook_size=4, policy="suffix")
    vectors = code_vectors(ids.quantizer, ids)
    assert tuple(map(len, vectors)) == ids.codebook_sizes
    assert not vectors[-1].any()


@pytest.mark.parametrize("make", [llama, t5])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [16, 8, 4])
def test_embeddings_start_from_the_codebooks(
    make: Callable[..., Any], tied: bool, width: int
) -> None:
    ids = fitted("rq", num_levels=2, codebook_size=8)
    vectors = code_vectors(ids.quantizer, ids)
    tokenizer = language_tokenizer("bytes")
    model = make(len(tokenizer), tied=tied, width=width)
    old = model.get_input_embeddings().weight.detach().clone()
    old_output = model.get_output_embeddings().weight.detach().clone()
    tokens = ItemTokens.add_to(tokenizer, ids)
    state = torch.get_rng_state()
    start_embeddings(model, tokens, vectors=vectors, seed=3)
    assert torch.equal(torch.get_rng_state(), state)

    table = model.get_input_embeddings().weight.detach()
    output = model.get_output_embeddings().weight.detach()
    assert len(table) == len(output) == len(tokenizer) == model.config.vocab_size
    assert torch.equal(table[: len(old)], old)
    assert torch.equal(output[: len(old)], old_output)
    assert (table.data_ptr() == output.data_ptr()) == tied
    for weights, others in ((table, old), (output, old_output)):
        mean = others.mean(dim=0).numpy()
        spread = np.sqrt(np.square(others.numpy() - mean).mean())
        for level in (0, 1):
            used = np.unique(ids.codes[:, level])
            started = weights[torch.from_numpy(tokens.token_ids[level, used])].numpy() - mean
            np.testing.assert_allclose(np.sqrt(np.square(started).mean()), spread, rtol=1e-3)
            centred = vectors[level][used] - vectors[level][used].mean(axis=0)
            if width >= 8:  # an orthonormal map keeps angles and distances
                ratio = np.linalg.norm(started, axis=1) / np.linalg.norm(centred, axis=1)
                np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
                np.testing.assert_allclose(
                    started @ started.T, ratio[0] ** 2 * centred @ centred.T, atol=1e-3
                )
            if width == 8:
                np.testing.assert_allclose(started, ratio[0] * centred, atol=1e-4)
    before = table.clone()
    start_embeddings(model, tokens, vectors=vectors, seed=3)
    assert torch.equal(model.get_input_embeddings().weight, before)
    start_embeddings(model, tokens, vectors=vectors, seed=4)
    assert torch.equal(model.get_input_embeddings().weight, before) == (width == 8)
    model(input_ids=torch.tensor([[1, len(tokenizer) - 1]]), labels=torch.tensor([[1, 2]]))


def test_embeddings_start_at_the_mean_without_vectors() -> None:
    ids = fitted("random", num_levels=2, codebook_size=8)
    tokenizer = language_tokenizer("words")
    model = llama(100, tied=True)  # larger than the vocabulary, as many models are
    tokens = ItemTokens.add_to(tokenizer, ids)
    rows = torch.from_numpy(tokens.token_ids.reshape(-1))
    others = np.setdiff1d(np.arange(100), rows.numpy())
    for vectors in (None, code_vectors(ids.quantizer, ids)):
        start_embeddings(model, tokens, vectors=vectors)
        table = model.get_input_embeddings().weight.detach().numpy()
        assert len(table) == 100
        mean = table[others].mean(axis=0)
        spread = np.sqrt(np.square(table[others] - mean).mean())
        distance = table[rows] - mean
        np.testing.assert_allclose(np.sqrt(np.square(distance).mean()), spread / 100, rtol=0.3)
        assert len(np.unique(table[rows], axis=0)) == len(rows)


def test_vectors_of_other_codebooks_are_refused(tokens: ItemTokens) -> None:
    model = llama(100, tied=True)
    with pytest.raises(
        ValueError, match=r"an array per level, for the codebook sizes \(4, 30, 3\)"
    ):
        start_embeddings(model, tokens, vectors=[np.ones((4, 2))])
    assert len(model.get_input_embeddings().weight) == 100


def test_a_bias_and_a_half_precision_model_start_too() -> None:
    tokenizer = language_tokenizer("words")
    model = llama(len(tokenizer), tied=False).to(torch.bfloat16)
    layer = torch.nn.Linear(16, len(tokenizer), bias=True, dtype=torch.bfloat16)
    layer.bias.data = torch.arange(len(tokenizer), dtype=torch.bfloat16)
    model.set_output_embeddings(layer)
    expected = layer.bias.data.float().mean()
    tokens = ItemTokens.add_to(tokenizer, IDS)
    start_embeddings(model, tokens)
    bias = model.get_output_embeddings().bias.data
    items = torch.from_numpy(tokens.token_ids[tokens.token_ids >= 0])
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    torch.testing.assert_close(bias[items].float(), expected.expand(len(items)), rtol=1e-2, atol=0)


def learned_text(tokenizer: Any, labels: Any) -> str:
    text: str = tokenizer.decode(labels[labels != -100])
    return text


def test_a_prompt_says_the_titles_of_those_items_that_it_shows() -> None:
    tokens = ItemTokens.add_to(language_tokenizer("bytes"), IDS)
    template = HistoryTemplate(prompt="[{history}]", separator=", ", max_items=2)
    titles = [f"soap {row}" for row in range(len(IDS))]
    example = template.example(tokens, np.array([0, 3, 1]), [2], titles=titles)
    assert example["prompt"] == f"[{tokens.text([3])} soap 3, {tokens.text([1])} soap 1]"
    assert example["completion"] == tokens.text([2])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("is_chat", [False, True])
def test_the_prompt_is_not_learned(side: Any, is_chat: bool) -> None:
    tokenizer = language_tokenizer("bytes")
    tokens = ItemTokens.add_to(tokenizer, IDS)
    template = HistoryTemplate(
        prompt="oldest first: {history}\nnext:", is_chat=is_chat, max_items=2
    )
    examples = [
        template.example(tokens, [0, 1, 2], [3]),
        template.example(tokens, np.array([2]), [1, 0]),
    ]
    collator = ItemCollator(tokenizer=tokenizer, padding_side=side, multiple_of=8)
    batch = collator(examples)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert len({value.shape for value in batch.values()}) == 1
    assert batch["input_ids"].shape[1] % 8 == 0
    end = " </s>\n" if is_chat else "</s>"
    start = " " if is_chat else ""
    for row, (history, target) in enumerate((([1, 2], [3]), ([2], [1, 0]))):
        mask = batch["attention_mask"][row].bool()
        inputs, labels = batch["input_ids"][row], batch["labels"][row]
        assert learned_text(tokenizer, labels) == start + tokens.text(target, " ") + end
        assert (labels[~mask] == -100).all()
        assert ((labels == -100) | (labels == inputs)).all()
        whole = tokenizer.decode(inputs[mask])
        prompt = f"oldest first: {tokens.text(history, ' ')}\nnext:"
        if is_chat:
            prompt = f" user : {prompt} </s>\n<s> assistant :"
        assert whole == f"<s>{prompt}{start}{tokens.text(target, ' ')}{end}"
        padded = mask.logical_not().nonzero()
        if len(padded):
            assert (padded < mask.sum()).all() if side == "left" else (padded >= mask.sum()).all()
    loss = llama(len(tokenizer), tied=True)(**batch).loss
    assert torch.isfinite(loss)

    prompts = collator.prompts(examples)
    for row in (0, 1):
        mask = batch["labels"][row].eq(-100) & batch["attention_mask"][row].bool()
        expected = batch["input_ids"][row][mask].tolist()
        length = int(prompts["attention_mask"][row].sum())
        assert prompts["input_ids"][row, -length:].tolist() == expected


def test_texts_are_learned_whole_and_an_encoder_decoder_has_two_sides() -> None:
    tokenizer = language_tokenizer("bytes", ends=True)
    tokenizer.pad_token = None
    tokens = ItemTokens.add_to(tokenizer, IDS)
    batch = ItemCollator(tokenizer=tokenizer)([{"text": tokens.interleaved(["red ", 1])}])
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert tokenizer.decode(batch["labels"][0]) == "red <a_1><b_29><c_2></s>"

    template = HistoryTemplate()
    examples = [template.example(tokens, rows, [2]) for rows in ([0, 1], [3])]
    collator = ItemCollator(tokenizer=tokenizer, is_encoder_decoder=True, padding_side="left")
    batch = collator(examples)
    mask = batch["attention_mask"][1].bool()
    assert tokenizer.decode(batch["input_ids"][1][mask]) == examples[1]["prompt"] + "</s>"
    assert not mask[0]
    assert torch.equal(batch["input_ids"], collator.prompts(examples)["input_ids"])
    for labels in batch["labels"]:
        assert tokenizer.decode(labels) == "<a_3><b_5><c_1></s>"
    assert torch.isfinite(t5(len(tokenizer), tied=True)(**batch).loss)


def test_a_system_message_stands_first() -> None:
    tokens = ItemTokens.add_to(language_tokenizer("bytes"), IDS)
    template = HistoryTemplate(prompt="{history}", is_chat=True, system="be brief")
    assert template.example(tokens, []) == {
        "prompt": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": ""},
        ]
    }


@pytest.mark.parametrize(
    ("options", "examples", "words"),
    [
        ({}, [], "examples must hold at least one"),
        ({}, [{"prompt": "x"}], "a prompt and a completion, got prompt"),
        ({}, [{"x": 1}], "got x"),
        ({}, [{"prompt": "x", "completion": []}], "both texts, or both lists"),
        ({"max_length": 3}, [{"text": "red soap"}], r"at most max_length \(3\) tokens"),
        ({"is_encoder_decoder": True}, [{"text": "red"}], "for an encoder-decoder"),
    ],
)
def test_examples_that_cannot_be_learned_are_refused(
    options: dict[str, Any], examples: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        ItemCollator(tokenizer=language_tokenizer("words"), **options)(examples)


def test_a_chat_template_that_hides_where_the_answer_begins_is_refused() -> None:
    tokenizer = language_tokenizer("bytes")
    tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    message = {"role": "user", "content": "red"}
    with pytest.raises(ValueError, match="chat template must write a prompt as the beginning"):
        ItemCollator(tokenizer=tokenizer)([{"prompt": [message], "completion": [message]}])
    for prompt in ("no place", "{history} {history}"):
        with pytest.raises(ValueError, match=r"prompt must hold \{history\} once"):
            HistoryTemplate(prompt=prompt)
    with pytest.raises(ValueError, match="system has no effect"):
        HistoryTemplate(system="x")


def test_a_tiny_model_learns_to_answer_with_items() -> None:
    tokenizer = language_tokenizer("words")
    tokens = ItemTokens.add_to(tokenizer, IDS)
    model = llama(len(tokenizer), tied=True, width=32)
    start_embeddings(model, tokens)
    template = HistoryTemplate()
    examples = [template.example(tokens, [row], [(row + 1) % 4]) for row in range(4)]
    collator = ItemCollator(tokenizer=tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        loss = model(**collator(examples)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prompts = collator.prompts(examples)
    answers = model.generate(**prompts, max_new_tokens=3, do_sample=False, pad_token_id=3)
    codes = tokens.codes_of(answers[:, prompts["input_ids"].shape[1] :].numpy())
    assert IDS.rows(codes).tolist() == [1, 2, 3, 0]


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, semtok, semtok.hf\n"
        "from semtok.hf import ItemTokens, ItemCollator, start_embeddings, HistoryTemplate\n"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'huggingface_hub') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_hf_is_there() -> None:
    from semtok import hf

    assert dir(hf) == sorted(hf.__all__)
    assert all(getattr(hf, name).__name__ == name for name in hf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        hf.absent  # noqa: B018


def test_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch, tokens: ItemTokens) -> None:
    tokenizer, model = language_tokenizer("words"), llama(100, tied=True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"no module transformers\): pip install 'semtok\[hf\]'"):
        ItemTokens.add_to(tokenizer, IDS)
    with pytest.raises(ImportError, match=r"no module torch\): pip install 'semtok\[hf\]'"):
        start_embeddings(model, tokens)
