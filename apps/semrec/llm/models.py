"""A language model with tokens for the codes: what it reads, writes and learns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from genrec import Ranked, Trie, first_of_each
from jaxtyping import Bool, Int
from semtok import SemanticIds
from semtok.hf import HistoryTemplate, ItemCollator, ItemTokens, start_embeddings
from torch import Tensor, nn

from semrec.llm.config import Model
from semrec.llm.networks import (
    read_model,
    read_network,
    show_no_bars,
    tiny_network,
    unreadable,
    word_tokenizer,
)

SEQUENCES_AT_A_TIME = 1024
"""Most beams of all prompts that are decoded together."""


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
            tokenizer, network = read_model(config.model)
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
            network = read_network(str(folder) if config.is_tiny else config.model)
            if not config.is_tiny:
                from peft import PeftModel

                start_embeddings(network, tokens)  # makes room; the trained rows take its place
                with _without_deprecations():
                    network = PeftModel.from_pretrained(network, folder)
        except (OSError, ValueError) as error:
            raise unreadable(config.model, error) from error
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
        plain = GenerationConfig()  # type: ignore[no-untyped-call]
        getattr(network, "base_model", network).generation_config = plain
        network.generation_config = plain
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
        show_no_bars()
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
            num_beams: Beams of the search; two at least, since a greedy search has no scores.
            top_k: Items a list, at most as many as beams.
            exclude: Each history's items to leave out, padded likewise; None for none.
            allowed: Each history's items that alone may be returned, padded likewise, or one mark
                an item that holds for all; None for all items.
        """
        num_beams = min(max(num_beams, 2), self.trie.num_items)
        top_k, size = min(top_k, num_beams), max(SEQUENCES_AT_A_TIME // num_beams, 1)
        parts = []
        for start in range(0, len(history), size):
            rows = slice(start, start + size)
            parts.append(
                self._rank(
                    history[rows],
                    num_beams,
                    top_k,
                    None if exclude is None else exclude[rows],
                    allowed if allowed is None or allowed.ndim == 1 else allowed[rows],
                )
            )
        return Ranked(
            items=torch.cat([part.items for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
        )

    def _rank(
        self,
        history: Int[Tensor, "batch length"],
        num_beams: int,
        top_k: int,
        exclude: Int[Tensor, "batch m"] | None,
        allowed: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None,
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
            exclude=None if exclude is None else exclude.to(device),
            allow=None if allowed is None else allowed.to(device),
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
            pad_token_id=0,  # all end together: nothing is filled up
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = first_of_each(processor.items(answer.sequences).view(len(rows), top_k), -1)
        scores = answer.sequences_scores.view(len(rows), top_k)
        return Ranked(items=items, scores=scores.masked_fill(items < 0, -torch.inf))


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


def _shortened(title: str, length: int) -> str:
    """A title in a line of at most so many characters."""
    return " ".join(title.split())[:length]
