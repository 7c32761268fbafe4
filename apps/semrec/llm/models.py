"""The language models: read from where they lie, or made small; with tokens for the codes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from genrec import Ranked, Trie, first_of_each
from jaxtyping import Bool, Float, Int
from semtok import SemanticIds
from semtok.hf import HistoryTemplate, ItemCollator, ItemTokens, start_embeddings
from torch import Tensor, nn

from semrec.llm.config import TINY, Model
from semrec.shared.errors import ExperimentError

SEQUENCES_AT_A_TIME = 1024
"""Most beams of all prompts that are decoded together."""

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_UNKNOWN, _END, _PADDING = "<unk>", "</s>", "<pad>"


def check_model(name: str) -> None:
    """Refuses a language model that cannot be read, before a run begins.

    Args:
        name: As `semrec.llm.config.Model.model`.

    Raises:
        ExperimentError: There is no such model, or it is none that this version can read.
        ImportError: What reads it is not installed.
    """
    try:
        import peft  # noqa: F401
        from transformers import AutoConfig
    except ModuleNotFoundError as error:
        raise ImportError(
            f"language models need an extra (no module {error.name}): pip install 'semrec[llm]'"
        ) from error
    if name in TINY:
        return
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> ExperimentError:
    reason = re.split(r"\.\s|\n", str(error).strip())[0]
    return ExperimentError(
        f"model.model must be tiny-llama, tiny-qwen, or the name or folder of a causal language "
        f"model with safetensors and a tokenizer, got {name!r}: {reason}"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A language model that reads histories and writes items.

    Attributes:
        network: The model, in the framework of transformers; of a named model, with LoRA's weights.
        tokenizer: Its tokenizer, with a token for each code.
        tokens: These tokens.
        trie: The items, on the model's device.
        template: What makes prompts of histories.
        titles: What each item is called, where prompts say it; None where they do not.
    """

    network: Any
    tokenizer: Any
    tokens: ItemTokens
    trie: Trie
    template: HistoryTemplate
    titles: Sequence[str] | None

    @classmethod
    def untrained(
        cls,
        config: Model,
        semantic_ids: SemanticIds,
        vectors: Sequence[Any],
        titles: Sequence[str],
        device: torch.device,
        seed: int,
    ) -> LanguageModel:
        """The model as it is before training; what is random is drawn from torch's generator.

        Args:
            config: Which it is.
            semantic_ids: The items' codes.
            vectors: What each code stands for, an array a level, from which embeddings start.
            titles: What each item is called.
            device: Where it is to be.
            seed: Of the embeddings, where these are drawn.

        Raises:
            ExperimentError: It cannot be read.
        """
        known = [_shortened(title, config.title_length) for title in titles]
        if config.is_tiny:
            texts = [config.prompt, *(known if config.items == "ids and titles" else [])]
            tokenizer = word_tokenizer(texts)
            tokens = ItemTokens.add_to(tokenizer, semantic_ids)
            network = tiny_network(config.model, len(tokenizer))
        else:
            tokenizer, network = _read(config.model)
            tokens = ItemTokens.add_to(tokenizer, semantic_ids)
        start_embeddings(network, tokens, vectors=vectors, seed=seed)
        if not config.is_tiny:
            network = with_lora(network, tokens, config)
        return cls._of(config, network, tokenizer, tokens, known, device)

    @classmethod
    def load(
        cls,
        folder: Path,
        config: Model,
        semantic_ids: SemanticIds,
        titles: Sequence[str],
        device: torch.device,
    ) -> LanguageModel:
        """The model that `save` wrote.

        Args:
            folder: Where it is.
            config: Which it is.
            semantic_ids: The items' codes.
            titles: What each item is called.
            device: Where it is to be.

        Raises:
            ExperimentError: It cannot be read, or the model that it was made of is not there.
        """
        from transformers import AutoTokenizer

        known = [_shortened(title, config.title_length) for title in titles]
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokens = ItemTokens.add_to(tokenizer, semantic_ids)
            network = _network(str(folder) if config.is_tiny else config.model)
            if not config.is_tiny:
                from peft import PeftModel

                start_embeddings(network, tokens)  # makes room; the trained rows take its place
                with _without_deprecations():
                    network = PeftModel.from_pretrained(network, folder)
        except (OSError, ValueError) as error:
            raise _unreadable(config.model, error) from error
        return cls._of(config, network, tokenizer, tokens, known, device)

    @classmethod
    def _of(
        cls,
        config: Model,
        network: Any,
        tokenizer: Any,
        tokens: ItemTokens,
        titles: Sequence[str],
        device: torch.device,
    ) -> LanguageModel:
        from transformers import GenerationConfig

        # The settings that come with a model are for writing text, such as sampling.
        getattr(network, "base_model", network).generation_config = GenerationConfig()
        network.generation_config = GenerationConfig()
        ids, shows_titles = tokens.semantic_ids, config.items == "ids and titles"
        return cls(
            network=network.to(device).eval(),
            tokenizer=tokenizer,
            tokens=tokens,
            trie=Trie.build(torch.from_numpy(ids.codes), ids.codebook_sizes).to(device),
            template=HistoryTemplate(
                prompt=config.prompt,
                separator=", " if shows_titles else " ",
                max_items=config.history_length,
            ),
            titles=titles if shows_titles else None,
        )

    def save(self, folder: Path) -> None:
        """Writes what was trained, and the tokenizer: safetensors and JSON, as transformers has it.

        Args:
            folder: New; of a named model it holds the adapter alone, as peft has it.
        """
        folder.mkdir()
        _show_no_bars()
        self.tokenizer.save_pretrained(folder)
        # The items' rows are the adapter's own; whole embeddings are no part of it.
        further = {"save_embedding_layers": False} if hasattr(self.network, "peft_config") else {}
        self.network.save_pretrained(folder, **further)

    def example(
        self, history: Sequence[int] | Int[Any, " items"], target: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """The prompt of a history of item rows, and the completion where there is a target."""
        return self.template.example(self.tokens, history, target, titles=self.titles)

    @property
    def collator(self) -> ItemCollator:
        """What makes batches of examples; one too long for the model is refused."""
        longest = getattr(self.network.config, "max_position_embeddings", None)
        return ItemCollator(tokenizer=self.tokenizer, padding_side="right", max_length=longest)

    @torch.inference_mode()
    def rank(
        self,
        history: Int[Tensor, "batch length"],
        *,
        num_beams: int,
        top_k: int,
        exclude: Int[Tensor, "batch m"] | None = None,
        allowed: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None = None,
    ) -> Ranked:
        """Each history's best items by log p(item | history), found by constrained beam search.

        Args:
            history: Item rows, oldest first, padded with the number of items.
            num_beams: Beams of the search.
            top_k: Items a list, at most as many as beams.
            exclude: Each history's items to leave out, padded likewise; None for none.
            allowed: Each history's items that alone may be returned, padded likewise, or one mark
                an item that holds for all; None for all items.
        """
        num_beams = min(num_beams, self.trie.num_items)
        top_k, size = min(top_k, num_beams), max(SEQUENCES_AT_A_TIME // num_beams, 1)
        parts = []
        for start in range(0, len(history), size):
            rows = slice(start, start + size)
            is_shared = allowed is None or allowed.ndim == 1
            lists = {
                "exclude": None if exclude is None else exclude[rows],
                "allow": allowed if is_shared else allowed[rows],  # type: ignore[index]
            }
            parts.append(self._rank(history[rows], num_beams, top_k, lists))
        return Ranked(
            items=torch.cat([part.items for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
        )

    def _rank(
        self,
        history: Int[Tensor, "batch length"],
        num_beams: int,
        top_k: int,
        lists: Mapping[str, Tensor | None],
    ) -> Ranked:
        """Each history's best items, all of which are decoded together."""
        from genrec.hf import TrieLogitsProcessor

        num_items, device = self.trie.num_items, self.trie.device
        rows = [row[row < num_items].tolist() for row in history.cpu()]
        prompts = self.collator.prompts([self.example(row) for row in rows])
        processor = TrieLogitsProcessor(
            self.trie,
            self.tokens.token_ids,
            prompt_length=prompts["input_ids"].shape[1],
            **{name: None if mask is None else mask.to(device) for name, mask in lists.items()},
        )
        answer = self.network.generate(
            **{name: tensor.to(device) for name, tensor in prompts.items()},
            logits_processor=[processor],
            max_new_tokens=processor.max_new_tokens,
            num_beams=num_beams,
            num_return_sequences=top_k,
            do_sample=False,
            length_penalty=0.0,  # scores are log-probabilities, whatever the length
            eos_token_id=None,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = first_of_each(processor.items(answer.sequences).view(len(rows), top_k), -1)
        if num_beams == 1:  # a greedy search has no scores of sequences
            scores = self.network.compute_transition_scores(answer.sequences, answer.scores)
            totals: Float[Tensor, "batch k"] = scores.sum(dim=1, keepdim=True)
        else:
            totals = answer.sequences_scores.view(len(rows), top_k)
        return Ranked(items=items, scores=totals.masked_fill(items < 0, -torch.inf))


class TrainedWeights(nn.Module):
    """Those weights of a language model that are trained, as `genrec.fit` sees the model.

    So a checkpoint holds these alone; the model itself is no part of the module.

    Args:
        model: The language model.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            weight for weight in model.network.parameters() if weight.requires_grad
        )
        self.models = (model,)

    @property
    def model(self) -> LanguageModel:
        """The language model."""
        return self.models[0]

    def train(self, mode: bool = True) -> TrainedWeights:
        """Sets the language model's mode, too."""
        self.model.network.train(mode)
        super().train(mode)
        return self


def with_lora(network: Any, tokens: ItemTokens, config: Model) -> Any:
    """The model, frozen, with LoRA's matrices at all linear layers and rows for the items' tokens.

    Args:
        network: With embeddings for these tokens.
        tokens: Those of the items.
        config: The matrices' sizes.
    """
    from peft import LoraConfig, get_peft_model

    tables = {id(network.get_input_embeddings()), id(network.get_output_embeddings())}
    if network.config.get_text_config().tie_word_embeddings:  # peft ties the trained rows itself
        tables = {id(network.get_input_embeddings())}
    rows = sorted(int(number) for number in tokens.token_ids[tokens.token_ids >= 0])
    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        trainable_token_indices={
            name: rows for name, part in network.named_modules() if id(part) in tables
        },
    )
    with _without_deprecations():
        return get_peft_model(network, adapter)


def _without_deprecations() -> Any:
    """Keeps from users what peft does that transformers will not let it do in later versions."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def word_tokenizer(texts: Sequence[str]) -> Any:
    """A tokenizer of the words of some texts; all others are one unknown word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = pre_tokenizers.Whitespace()
    known = sorted({word for text in texts for word, _ in words.pre_tokenize_str(text)})
    vocabulary = dict.fromkeys([_PADDING, _END, _UNKNOWN, *known])
    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = words
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PADDING, eos_token=_END, unk_token=_UNKNOWN
    )


def tiny_network(name: str, num_tokens: int) -> Any:
    """A causal language model of two layers with random weights.

    Args:
        name: "tiny-llama", whose output embeddings are its own, or "tiny-qwen", whose are not.
        num_tokens: Of its tokenizer.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name == "tiny-llama":
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=num_tokens, tie_word_embeddings=False, **_SIZES)
        )
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=num_tokens, tie_word_embeddings=True, **_SIZES))


def _read(name: str) -> tuple[Any, Any]:
    """The tokenizer and the weights of a model that is named, or lies in a folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name), _network(name)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _network(name: str) -> Any:
    """A causal language model's weights, which must be safetensors, as 32-bit floats."""
    from transformers import AutoModelForCausalLM

    _show_no_bars()
    return AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, dtype=torch.float32)


def _show_no_bars() -> None:
    """Has transformers show no progress of files: a run shows what it is at itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _shortened(title: str, length: int) -> str:
    """A title in a line of at most so many characters."""
    return " ".join(title.split())[:length]
