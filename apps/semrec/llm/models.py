"""A language model with tokens for the codes: its prompts, ranking and weights."""

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
"""Most sequences (prompts times beams) that are decoded together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A language model that reads histories and generates items.

    Attributes:
        network: The model of transformers; for a pretrained model with LoRA's weights.
        tokenizer: Its tokenizer, with a token for each code.
        tokens: The tokens of the codes.
        trie: The codes of all items, on the model's device.
        template: Turns histories into prompts.
        titles: The title of each item, if prompts contain titles; else None.
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
        """The model before training; random weights are drawn from torch's generator.

        Args:
            config: The configuration of the model.
            semantic_ids: The items' codes.
            vectors: The codebooks, one array per level, which initialise the tokens' embeddings.
            titles: The title of each item.
            device: The device of the model.
            seed: The seed of drawn embeddings.

        Raises:
            ExperimentError: The model cannot be read.
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
            folder: The folder of the model.
            config: The configuration of the model.
            semantic_ids: The items' codes.
            titles: The title of each item.
            device: The device of the model.

        Raises:
            ExperimentError: The model cannot be read, or its pretrained model is missing.
        """
        from transformers import AutoTokenizer

        known = [_shortened(title, config.title_length) for title in titles]
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            tokens = ItemTokens.add_to(tokenizer, semantic_ids)
            network = read_network(str(folder) if config.is_tiny else config.model)
            if not config.is_tiny:
                from peft import PeftModel

                start_embeddings(network, tokens)  # adds rows, which the trained rows then replace
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

        # A model's own generation settings are for text, such as sampling.
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
        """Writes the trained weights and the tokenizer as safetensors and JSON of transformers.

        Args:
            folder: A new folder; for a pretrained model it holds only the adapter of peft.
        """
        folder.mkdir()
        show_no_bars()
        self.tokenizer.save_pretrained(folder)
        # The adapter holds the items' rows, not the whole embeddings.
        further = {"save_embedding_layers": False} if hasattr(self.network, "peft_config") else {}
        self.network.save_pretrained(folder, **further)

    def example(
        self, history: Sequence[int] | Int[Any, " items"], target: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """The prompt of a history of item rows, and the completion if there is a target."""
        return self.template.example(self.tokens, history, target, titles=self.titles)

    @property
    def collator(self) -> ItemCollator:
        """Makes batches of examples; refuses an example that is too long for the model."""
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
            num_beams: Beams of the search; at least two, since greedy search returns no scores.
            top_k: Items per history, at most as many as beams.
            exclude: Items to leave out for each history, padded likewise; None for none.
            allowed: The only items that may be returned for each history, padded likewise; or one
                mask of items for all histories; None for all items.
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
        """Each history's best items; all histories are decoded together."""
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
            length_penalty=0.0,  # scores are log-probabilities, without a length penalty
            eos_token_id=None,
            pad_token_id=0,  # all sequences end together, so nothing is padded
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = first_of_each(processor.items(answer.sequences).view(len(rows), top_k), -1)
        scores = answer.sequences_scores.view(len(rows), top_k)
        return Ranked(items=items, scores=scores.masked_fill(items < 0, -torch.inf))


class TrainedWeights(nn.Module):
    """The trained weights of a language model as a module for `genrec.fit`.

    A checkpoint holds only these weights; the language model is not a submodule.

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
        """Also sets the mode of the language model."""
        self.model.network.train(mode)
        super().train(mode)
        return self


def with_lora(network: Any, tokens: ItemTokens, config: Model) -> Any:
    """The frozen model with LoRA matrices at all linear layers and rows for the items' tokens.

    Args:
        network: The model, with embeddings for these tokens.
        tokens: The tokens of the items.
        config: The sizes of the matrices.
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
    """Hides the deprecation warnings that peft causes in transformers."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def _shortened(title: str, length: int) -> str:
    """A title on one line with at most `length` characters."""
    return " ".join(title.split())[:length]
