"""`generate` of a random tiny T5 and Llama under a trie, beside exhaustive scoring."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from genrec import Trie, first_of_each
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

transformers = pytest.importorskip("transformers")
from genrec.hf import TrieLogitsProcessor  # noqa: E402

SIZES = (3, 4, 2)
CODES = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))[::2].flip(0)
NUM_ITEMS = len(CODES)
TRIE = Trie.build(CODES, SIZES)
PAD, EOS, SEPARATOR, VOCABULARY = 0, 1, 2, 40
# No order in the ids, and text tokens between them.
TOKEN_IDS = [[30, 11, 25], [12, 31, 5, 17], [8, 21]]
ITEM_TOKENS = [[TOKEN_IDS[level][code] for level, code in enumerate(row)] for row in CODES.tolist()]
SIZE = {"num_heads": 2, "num_layers": 2}


class Llama:
    """A decoder-only model: prompts are padded on the left."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.5,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.model = transformers.LlamaForCausalLM(config).eval()

    def inputs(self, prompts: list[list[int]]) -> dict[str, Tensor]:
        width = max(map(len, prompts))
        rows = [[PAD] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}

    def prompt_length(self, prompts: list[list[int]]) -> int:
        return max(map(len, prompts))

    def log_probs(self, prompt: list[int], tokens: list[int]) -> Tensor:
        """Log-probabilities of every token after the prompt and each prefix of some tokens."""
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + tokens])).logits[0]
        return logits.log_softmax(dim=1)[len(prompt) - 1 :]


class T5:
    """An encoder-decoder: prompts go to the encoder, and the decoder begins with one token."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        config = transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            initializer_factor=3.0,
            pad_token_id=PAD,
            decoder_start_token_id=PAD,
            eos_token_id=None,
        )
        self.model = transformers.T5ForConditionalGeneration(config).eval()

    def inputs(self, prompts: list[list[int]]) -> dict[str, Tensor]:
        width = max(map(len, prompts))
        rows = [prompt + [PAD] * (width - len(prompt)) for prompt in prompts]
        mask = [[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}

    def prompt_length(self, prompts: list[list[int]]) -> int:
        return 1

    def log_probs(self, prompt: list[int], tokens: list[int]) -> Tensor:
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[PAD, *tokens]])
            ).logits[0]
        return logits.log_softmax(dim=1)


@pytest.fixture(scope="module", params=[Llama, T5])
def language_model(request: pytest.FixtureRequest) -> Llama | T5:
    model: Llama | T5 = request.param()
    model.model.generation_config.eos_token_id = None
    return model


def make_prompts(count: int) -> list[list[int]]:
    """Histories of one to three items in their tokens, and a text token in front."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 4, (count,), generator=generator).tolist()
    items = torch.randint(0, NUM_ITEMS, (count, 3), generator=generator).tolist()
    return [
        [33, *itertools.chain.from_iterable(ITEM_TOKENS[item] for item in row[:length])]
        for row, length in zip(items, lengths, strict=True)
    ]


def legal_after(lists: list[list[int]], tokens: list[int]) -> set[int]:
    """What follows some tokens in any of the lists."""
    depth = len(tokens)
    return {other[depth] for other in lists if other[:depth] == tokens and len(other) > depth}


def plain_score(
    model: Llama | T5, prompt: list[int], tokens: list[int], lists: list[list[int]] | None
) -> float:
    """The sum of log-probabilities; of legal tokens alone where the lists are handed in."""
    log_probs, total = model.log_probs(prompt, tokens), 0.0
    for place, token in enumerate(tokens):
        total += float(log_probs[place, token])
        if lists is not None:
            legal = sorted(legal_after(lists, tokens[:place]))
            total -= float(log_probs[place, legal].logsumexp(dim=0))
    return total


def generate(
    model: Llama | T5, prompts: list[list[int]], processor: TrieLogitsProcessor, **options: Any
) -> Any:
    with torch.inference_mode():
        return model.model.generate(  # type: ignore[attr-defined]
            **model.inputs(prompts),
            max_new_tokens=processor.max_new_tokens,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=processor.eos_token_id,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
            logits_processor=[processor],
            **options,
        )


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("count", [1, 7])
def test_lists_are_those_of_exhaustive_scoring(
    language_model: Llama | T5, count: int, eos: int | None, renormalize: bool
):
    prompts = make_prompts(count)
    processor = TrieLogitsProcessor(
        TRIE,
        np.array([[30, 11, 25, -1], [12, 31, 5, 17], [8, 21, -1, -1]]),
        prompt_length=language_model.prompt_length(prompts),
        eos_token_id=eos,
    )
    answer = generate(
        language_model,
        prompts,
        processor,
        num_beams=NUM_ITEMS,
        num_return_sequences=NUM_ITEMS,
        renormalize_logits=renormalize,
    )
    items = processor.items(answer.sequences).view(count, NUM_ITEMS)
    scores = answer.sequences_scores.view(count, NUM_ITEMS)
    lists = [tokens + [EOS] * (eos is not None) for tokens in ITEM_TOKENS]
    for user, prompt in enumerate(prompts):
        expected = torch.tensor(
            [
                plain_score(language_model, prompt, tokens, lists if renormalize else None)
                for tokens in lists
            ]
        )
        best = expected.sort(descending=True)
        assert items[user].tolist() == best.indices.tolist()
        torch.testing.assert_close(scores[user], best.values, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["exclude", "allow", "marks", "both"])
def test_lists_of_items_hold_and_leave_the_best_of_the_others(
    language_model: Llama | T5, kind: str
):
    prompts = make_prompts(7)
    generator = torch.Generator().manual_seed(0)
    exclude = torch.randint(0, NUM_ITEMS + 1, (7, 6), generator=generator)
    allow = torch.randint(0, NUM_ITEMS + 1, (7, 8), generator=generator)
    marks = torch.arange(NUM_ITEMS) % 3 > 0
    options: dict[str, Tensor] = {
        "exclude": {"exclude": exclude},
        "allow": {"allow": allow},
        "marks": {"allow": marks},
        "both": {"exclude": exclude, "allow": marks},
    }[kind]
    processor = TrieLogitsProcessor(
        TRIE, TOKEN_IDS, prompt_length=language_model.prompt_length(prompts), **options
    )
    answer = generate(
        language_model, prompts, processor, num_beams=NUM_ITEMS, num_return_sequences=NUM_ITEMS
    )
    items = first_of_each(processor.items(answer.sequences).view(7, NUM_ITEMS), -1)
    for user, prompt in enumerate(prompts):
        legal = set(range(NUM_ITEMS))
        if kind in ("exclude", "both"):
            legal -= set(exclude[user].tolist())
        if kind == "allow":
            legal &= set(allow[user].tolist())
        if kind in ("marks", "both"):
            legal &= set(marks.nonzero().flatten().tolist())
        scores = {i: plain_score(language_model, prompt, ITEM_TOKENS[i], None) for i in legal}
        best = sorted(legal, key=lambda item: -scores[item])
        assert [item for item in items[user].tolist() if item >= 0] == best


@pytest.mark.parametrize("separator", [None, SEPARATOR])
@pytest.mark.parametrize("distinct", [False, True])
def test_several_items_in_a_row_are_those_of_all_lists(
    language_model: Llama | T5, separator: int | None, distinct: bool
):
    prompts = make_prompts(3)
    allow = torch.tensor([[0, 4, 9], [3, 5, NUM_ITEMS], [7, NUM_ITEMS, NUM_ITEMS]])
    processor = TrieLogitsProcessor(
        TRIE,
        TOKEN_IDS,
        prompt_length=language_model.prompt_length(prompts),
        eos_token_id=EOS,
        separator_token_id=separator,
        num_items=2,
        min_items=1,
        distinct=distinct,
        allow=allow,
    )
    answer = generate(language_model, prompts, processor, num_beams=12, num_return_sequences=12)
    items = processor.items(answer.sequences).view(3, 12, 2)
    between = [] if separator is None else [separator]
    for user, prompt in enumerate(prompts):
        legal = [item for item in allow[user].tolist() if item < NUM_ITEMS]
        lists = [(item, -1) for item in legal]
        lists += [pair for pair in itertools.product(legal, legal) if len(set(pair)) == 2]
        lists += [] if distinct else [(item, item) for item in legal]
        scores = {
            pair: plain_score(
                language_model,
                prompt,
                ITEM_TOKENS[pair[0]]
                + (between + ITEM_TOKENS[pair[1]] if pair[1] >= 0 else [])
                + [EOS],
                None,
            )
            for pair in lists
        }
        best = sorted(lists, key=lambda pair: -scores[pair])
        returned = [tuple(pair) for pair in items[user].tolist()]
        assert returned[: len(best)] == best
        assert set(returned) - {(-1, -1)} == set(best)  # what fills up is a repeat, or none


def test_a_prefix_function_gives_the_same_lists(language_model: Llama | T5):
    prompts = make_prompts(3)
    processor = TrieLogitsProcessor(
        TRIE,
        TOKEN_IDS,
        prompt_length=language_model.prompt_length(prompts),
        eos_token_id=EOS,
        exclude=torch.tensor([[0, 1, 2], [9, NUM_ITEMS, 3], [5, 6, 7]]),
    )
    options = {"num_beams": 4, "num_return_sequences": 4}
    answer = generate(language_model, prompts, processor, **options)
    with torch.inference_mode():
        sequences = language_model.model.generate(  # type: ignore[attr-defined]
            **language_model.inputs(prompts),
            max_new_tokens=processor.max_new_tokens,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=EOS,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=processor.prefix_allowed_tokens,
            **options,
        )
    assert torch.equal(sequences, answer.sequences)


def test_greedy_and_sampled_sequences_are_items_of_their_lists(language_model: Llama | T5):
    prompts = make_prompts(4)
    marks = torch.arange(NUM_ITEMS) < 5
    processor = TrieLogitsProcessor(
        TRIE,
        TOKEN_IDS,
        prompt_length=language_model.prompt_length(prompts),
        eos_token_id=EOS,
        num_items=3,
        min_items=1,
        allow=marks,
        exclude=torch.tensor([[0], [1], [2], [NUM_ITEMS]]),
    )
    torch.manual_seed(0)
    with torch.inference_mode():
        sequences = language_model.model.generate(  # type: ignore[attr-defined]
            **language_model.inputs(prompts),
            max_new_tokens=20,
            do_sample=True,
            num_return_sequences=10,
            pad_token_id=PAD,
            eos_token_id=EOS,
            logits_processor=[processor],
        )
    items = processor.items(sequences).view(4, 10, 3)
    assert ((items >= -1) & (items < 5)).all()
    assert (items[:, :, 0] >= 0).all()
    assert (items[:, :, 1] < 0).any()
    assert (items[:, :, 2] >= 0).any()
    for user, excluded in enumerate([0, 1, 2]):
        assert (items[user] != excluded).all()
    for row in items.view(-1, 3).tolist():
        returned = [item for item in row if item >= 0]
        assert len(set(returned)) == len(returned)
        assert row == returned + [-1] * (3 - len(returned))


@pytest.mark.parametrize("eos", [None, EOS])
def test_a_prompt_without_any_item_left_gets_none_and_harms_no_other(
    language_model: Llama | T5, eos: int | None
):
    prompts = make_prompts(2)
    allow = torch.tensor([[NUM_ITEMS, NUM_ITEMS], [4, 6]])
    processor = TrieLogitsProcessor(
        TRIE,
        TOKEN_IDS,
        prompt_length=language_model.prompt_length(prompts),
        eos_token_id=eos,
        allow=allow,
    )
    for renormalize in (False, True):
        answer = generate(
            language_model,
            prompts,
            processor,
            num_beams=3,
            num_return_sequences=3,
            renormalize_logits=renormalize,
        )
        items = processor.items(answer.sequences).view(2, 3)
        assert items[0].tolist() == [-1, -1, -1]
        assert set(items[1].tolist()) - {-1} == {4, 6}


def plain_legal(
    tokens: list[int], separator: int | None, num_items: int, min_items: int, excluded: set[int]
) -> set[int]:
    """What may follow some tokens, by every list of items; the end where nothing else may."""
    allowed = [item for item in range(NUM_ITEMS) if item not in excluded]
    between = [] if separator is None else [separator]
    sequences = []
    for length in range(1, num_items + 1):
        for row in itertools.permutations(allowed, length):
            parts = [ITEM_TOKENS[item] for item in row]
            joined = list(itertools.chain.from_iterable(part + between for part in parts))
            joined = joined[: len(joined) - len(between)]
            ends = length >= min_items or length == len(allowed)
            sequences.append(joined + [EOS] * ends)
    return legal_after(sequences, tokens) or {EOS}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_may_follow_is_what_lists_of_items_go_on_with(data: st.DataObject):
    separator = data.draw(st.sampled_from([None, SEPARATOR]))
    num_items = data.draw(st.integers(1, 2))
    min_items = data.draw(st.integers(1, num_items))
    kept = data.draw(st.sets(st.integers(0, NUM_ITEMS - 1), min_size=1, max_size=4))
    excluded = set(range(NUM_ITEMS)) - kept
    processor = TrieLogitsProcessor(
        TRIE,
        TOKEN_IDS,
        prompt_length=2,
        eos_token_id=EOS,
        separator_token_id=separator,
        num_items=num_items,
        min_items=min_items,
        exclude=torch.tensor([sorted(excluded)]),
    )
    between = [] if separator is None else [separator]
    row = data.draw(st.permutations(sorted(kept)))[:2]
    whole = list(itertools.chain.from_iterable(ITEM_TOKENS[item] + between for item in row))
    length = data.draw(st.integers(0, num_items * (3 + len(between)) - len(between)))
    legal_row = (whole + [PAD] * 10)[:length]
    wrong_row = data.draw(
        st.lists(st.sampled_from([PAD, EOS, 30, 8, 21, 39]), min_size=length, max_size=length)
    )
    input_ids = torch.tensor([[30, 5, *legal_row], [PAD, 33, *wrong_row]])
    scores = torch.randn(2, VOCABULARY)
    processor(input_ids[:, :2], scores)  # where generation begins
    masked = processor(input_ids, scores)
    for tokens, before, after in zip([legal_row, wrong_row], scores, masked, strict=True):
        # What went wrong in an earlier item has no score that anything could be added to.
        if tokens == legal_row or len(tokens) < 3:
            legal = plain_legal(tokens, separator, num_items, min_items, excluded)
            assert set((after > -torch.inf).nonzero().flatten().tolist()) == legal
            assert torch.equal(after[sorted(legal)], before[sorted(legal)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"token_ids": TOKEN_IDS[:2]},
            "token_ids must have one row per level, got 2 for a trie of 3",
        ),
        ({"token_ids": [[3, 4], *TOKEN_IDS[1:]]}, "each of the 3 codes of level 0, got none for"),
        ({"token_ids": [[3, -1, 4], *TOKEN_IDS[1:]]}, "codes of level 0, got none for code 1"),
        ({"token_ids": [[3, 4, 5, 6], *TOKEN_IDS[1:]]}, "-1 beyond the 3 codes of level 0, got 6"),
        (
            {"token_ids": [*TOKEN_IDS[:2], [8, 31]]},
            "token_ids must differ from code to code, got 31 for code 1 of level 1 and code 1 of",
        ),
        ({"eos_token_id": 31}, "eos_token_id must not be the token of a code, got 31"),
        ({"separator_token_id": 8}, "separator_token_id must not be the token of a code, got 8"),
        ({"separator_token_id": 1, "eos_token_id": 1}, "separator_token_id must differ from eos"),
        ({"prompt_length": -1}, "prompt_length must be at least 0, got -1"),
        ({"num_items": 0}, "at least min_items, and min_items at least 1, got 0 and"),
        ({"num_items": 2, "min_items": 1}, "min_items must be num_items where there is no eos"),
        ({"exclude": torch.tensor([[NUM_ITEMS + 1]])}, f"item rows from 0 to {NUM_ITEMS - 1}, or"),
        ({"allow": torch.ones(3, dtype=torch.bool)}, "allow must hold one value for each of 12"),
        (
            {"allow": torch.tensor([[1]]), "exclude": torch.tensor([[1], [2]])},
            "a list of items for each of",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(options: dict[str, Any], words: str):
    table = options.pop("token_ids", TOKEN_IDS)
    with pytest.raises(ValueError, match=words):
        TrieLogitsProcessor(TRIE, table, **{"prompt_length": 1, **options})


def test_tokens_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match=r"whole numbers, got torch.float32 at level 1"):
        TrieLogitsProcessor(TRIE, [TOKEN_IDS[0], [0.5] * 4, [1, 2]], prompt_length=1)


@pytest.mark.usefixtures("unchecked")
def test_lists_that_are_no_tensors_are_refused():
    lists: Any = [[1, 2, 3], [5]]
    with pytest.raises(TypeError, match=r"allow must be a tensor of item rows, .* got list"):
        TrieLogitsProcessor(TRIE, TOKEN_IDS, prompt_length=1, allow=lists)
    with pytest.raises(ValueError, match=r"exclude must hold a list .* got shape \(3,\)"):
        TrieLogitsProcessor(TRIE, TOKEN_IDS, prompt_length=1, exclude=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("prompt_length", [0, 2])
def test_generation_begins_where_the_prompts_end(prompt_length: int):
    processor = TrieLogitsProcessor(TRIE, TOKEN_IDS, prompt_length=prompt_length)
    with pytest.raises(ValueError, match=f"the width of the prompts, 5 .* got {prompt_length}"):
        processor(torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, VOCABULARY))


def test_calls_that_do_not_fit_are_refused():
    processor = TrieLogitsProcessor(
        TRIE, TOKEN_IDS, prompt_length=2, exclude=torch.tensor([[1], [2]])
    )
    ids, scores = torch.zeros(4, 2, dtype=torch.long), torch.zeros(4, VOCABULARY)
    assert processor(ids, scores).shape == scores.shape
    with pytest.raises(ValueError, match="vocabulary of 31 tokens, got 31: resize"):
        processor(ids, scores[:, :31])
    with pytest.raises(ValueError, match="a list for each prompt, got 2 for 3 rows"):
        processor(ids[:3], scores[:3])
    with pytest.raises(ValueError, match="the prompt of 2 tokens, got 1"):
        processor(ids[:, :1], scores)
    with pytest.raises(ValueError, match="the prompt of 2 tokens, got 0"):
        processor.items(ids[:, :0])
    with pytest.raises(ValueError, match="max_new_tokens must be at most 3, the codes of 1 items"):
        processor(torch.zeros(4, 5, dtype=torch.long), scores)
    with pytest.raises(ValueError, match=r"on the model's device meta, got cpu: call trie.to"):
        processor(ids.to("meta"), scores.to("meta"))
    with pytest.raises(ValueError, match="prompts that have lists, 2, got 2"):
        processor.prefix_allowed_tokens(2, ids[0])


def test_genrec_imports_no_transformers_and_names_the_extra():
    code = (
        "import sys, genrec\n"
        "genrec.Trie, genrec.beam_search, genrec.step_beam_search\n"
        "print('transformers' in sys.modules)\n"
        "sys.modules['transformers'] = None\n"
        "try:\n"
        "    import genrec.hf\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "False",
        "genrec.hf needs an extra (no module transformers): pip install 'genrec[hf]'",
    ]
