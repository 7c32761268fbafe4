"""The stages in order: text, codes, the floors, the language model, its test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Report, evaluate, read_report
from genrec import Answers, Batch, PairBatches, Ranked, fit, query_batches
from jaxtyping import Float, Int
from semtok import (
    SemanticIds,
    Standardisation,
    Tokenizer,
    load_tokenizer,
    quantizer_kind,
    save_tokenizer,
)
from semtok.hf import code_vectors
from torch import Tensor, nn

from semrec.llm.config import Config, Model
from semrec.llm.models import LanguageModel, TrainedWeights
from semrec.shared.answering import AnsweringPipeline
from semrec.shared.errors import ExperimentError
from semrec.shared.exporting import ItemIndex
from semrec.shared.files import save_anew, save_tensors
from semrec.shared.screen import Bar
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors, embedding_stage
from semrec.shared.training import ndcg

MODEL = "LLM"
"""The model's row in tables."""

_TEXT = ("text.embedding", "text.fields")
_MODEL = tuple(f"model.{field.name}" for field in fields(Model))
_RANKED_AT_A_TIME = 256


class LlmPipeline(AnsweringPipeline[Config]):
    """The stages of a run."""

    title = MODEL
    reads_text_fields = ("text.fields",)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields that make an item's text."""
        return self.config.text.fields

    @property
    def model_stage(self) -> Stage[LanguageModel]:
        """The stage that trains the model."""
        return self.tuned

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run in order."""
        return (self.text, self.tokenizer, self.floors, self.tuned, self.test, self.answer)

    def systems(self) -> dict[str, Stage[Report]]:
        """The language model."""
        return {MODEL: self.test}

    def recommender_of(self, stage: Stage[Report]) -> LanguageRecommender:
        """The recommender by the language model, the only one of `systems`."""
        return LanguageRecommender(
            self.tuned.result(),
            self.item_ids,
            num_beams=self.config.evaluation.num_beams,
            popularity=self.item_counts,
        )

    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """The quantized embeddings of the texts, "items"."""
        return {"items": self.items_embedded}

    def item_index(self) -> ItemIndex:
        """Refused, because the model ranks items by their codes and has no item vectors.

        Raises:
            ExperimentError: Always.
        """
        raise ExperimentError(
            f"{self.run.path} cannot be exported: a language model has no vectors of items; its "
            f"folder {self.tuned.folder_name}/model is what transformers and peft read"
        )

    # The texts.

    @cached_property
    def text(self) -> Stage[Vectors]:
        """The stage "text": the embeddings before PCA."""
        text = self.config.text
        return embedding_stage(self, "text", text.embedding, text.fields, reads=_TEXT)

    @cached_property
    def items_embedded(self) -> Float[np.ndarray, "items dim"]:
        """The embeddings after PCA, with unit variance overall."""
        vectors = self.text.result()
        return Standardisation.fit(vectors, self.config.text.dim).transform(vectors)

    # The codes.

    @cached_property
    def tokenizer(self) -> Stage[Tokenizer]:
        """The stage "tokenizer": unique codes of the embeddings."""
        codes = self.config.codes

        def fill(folder: Path) -> Facts:
            with self.run.screen.bar("codes") as bar:
                tokenizer = Tokenizer.fit(
                    self.data.catalog,
                    embeddings=self.items_embedded,
                    quantizer=partial(
                        quantizer_kind(codes.quantizer, trust=self.run.trust).fit,
                        num_levels=codes.num_levels,
                        codebook_size=codes.codebook_size,
                        seed=self.config.seed,
                    ),
                    policy="suffix",
                    progress=lambda _, done, total: bar.update(done, total),
                )
            save_tokenizer(folder / "tokenizer", tokenizer, overwrite=True)
            return {"levels": tokenizer.semantic_ids.num_levels}

        return self.stage(
            "tokenizer",
            reads=("seed", "codes", "text.dim"),
            after=(self.text,),
            fill=fill,
            load=lambda folder: load_tokenizer(folder / "tokenizer", trust=self.run.trust),
        )

    def codes(self) -> SemanticIds:
        """The items' semantic IDs, row i for item i."""
        known = self.item_ids if self.inputs is None else self.data.catalog.item_ids
        return self.tokenizer.result().semantic_ids.take(known)

    # The language model.

    @cached_property
    def tuned(self) -> Stage[LanguageModel]:
        """The stage "tuned": trains the language model, which is stored in its folder "model"."""
        config = self.config.model

        def fill(folder: Path) -> Facts:
            torch.manual_seed(self.config.seed)
            ids = self.codes()
            vectors = code_vectors(self.tokenizer.result().quantizer, ids)
            model = LanguageModel.untrained(
                config, ids, vectors, self._titles, self.device, self.config.seed
            )
            weights = TrainedWeights(model)
            name = self.tuned.folder_name
            with self.run.screen.bar(name) as bar, self.run.curves.loggers(name) as loggers:
                result = fit(
                    weights,
                    self.prompts(model),
                    next_item_loss,
                    config.settings(self.config.seed, monitor="ndcg@10 filtered"),
                    validate=lambda _: self.validated(model),
                    folder=folder,
                    callback=bar.training,
                    loggers=loggers,
                )
            save_anew(folder / "model", model.save)
            return {
                "best_epoch": result.best_epoch,
                "validation": result.metrics,
                "trained": sum(weight.numel() for weight in weights.weights),
                "weights": sum(weight.numel() for weight in model.network.parameters()),
            }

        return self.stage(
            "tuned",
            reads=(
                *("seed", *_MODEL),
                *("evaluation.validation_users", "evaluation.validation_beams"),
            ),
            after=(self.tokenizer,),
            fill=fill,
            load=lambda folder: LanguageModel.load(
                folder / "model", config, self.codes(), self._titles, self.device
            ),
        )

    @property
    def _titles(self) -> list[str]:
        """The title of each item, row i for item i."""
        return list(self.titles.values()) if self.inputs is None else self.data.titles()

    def prompts(self, model: LanguageModel) -> PromptBatches:
        """The training batches: every prefix of a history with its next item."""
        config = self.config.model
        pairs = PairBatches(
            self.data.split.train,
            num_items=len(self.data.catalog),
            history_length=config.history_length,
            batch_size=config.batch_size,
            seed=self.config.seed,
            bucket=50,
        )
        return PromptBatches(pairs=pairs, model=model)

    def validated(self, model: LanguageModel) -> dict[str, float]:
        """The metrics of early stopping, by beam search for the validation users."""
        validation, num_beams = self.validation, self.config.evaluation.validation_beams
        ranked = rank_all(model, validation.histories, num_beams=num_beams)
        return ndcg(evaluate(validation, ranked.items, ks=(10,)))

    # The test.

    @cached_property
    def test(self) -> Stage[Report]:
        """The stage "test": beam search for every user."""
        evaluation = self.config.evaluation

        def fill(folder: Path) -> Facts:
            model, queries = self.tuned.result(), self.data.split.test
            with self.run.screen.bar(self.test.folder_name) as bar:
                ranked = rank_all(model, queries.histories, num_beams=evaluation.num_beams, bar=bar)
            lists = {"items": ranked.items, "log_probs": ranked.scores}
            save_tensors(folder / "lists.safetensors", lists)
            report = evaluate(queries, ranked.items, ks=evaluation.ks, name=MODEL)
            report.write_json(folder / "report.json")
            return {}

        return self.stage(
            "test",
            reads=("evaluation.ks", "evaluation.num_beams"),
            after=(self.tuned,),
            fill=fill,
            load=lambda folder: read_report(folder / "report.json"),
        )


class LanguageRecommender(Answers):
    """Answers histories by a language model that is restricted to the catalogue's items.

    Args:
        model: The language model, in eval mode.
        item_ids: Id of each item row.
        num_beams: Beams of the search; at least as many as the answer has items.
        popularity: The number of interactions of each item.
    """

    num_beams: int

    def __init__(
        self,
        model: LanguageModel,
        item_ids: Sequence[str],
        *,
        num_beams: int,
        popularity: Int[Tensor, " items"] | None,
    ) -> None:
        super().__init__(
            item_ids,
            num_items=model.trie.num_items,
            history_length=model.template.max_items or 1,
            device=model.trie.device,
            popularity=popularity,
        )
        self.model, self.num_beams = model, num_beams

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by log p(item | history)."""
        return self.model.rank(
            history,
            num_beams=max(self.num_beams, top_k),
            top_k=top_k,
            exclude=exclude,
            allowed=allowed,
        )


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts with their completions, as tokens.

    Attributes:
        inputs: `input_ids`, `attention_mask` and `labels`, each [prompts, length].
    """

    inputs: Mapping[str, Int[Tensor, "prompts length"]]

    def __len__(self) -> int:
        return len(self.inputs["labels"])

    def to(self, device: torch.device | str) -> PromptBatch:
        """Returns the batch on `device`."""
        return PromptBatch(inputs={name: part.to(device) for name, part in self.inputs.items()})


@dataclass(frozen=True, kw_only=True)
class PromptBatches:
    """Batches of prompts, a `genrec.Batches`, in the order of the pairs.

    Attributes:
        pairs: Histories, each with its next item.
        model: The model that reads them.
    """

    pairs: PairBatches
    model: LanguageModel

    def __len__(self) -> int:
        return len(self.pairs)

    def __call__(
        self, epoch: int, *, shard: int = 0, shards: int = 1, start: int = 0
    ) -> Iterator[PromptBatch]:
        """Yields the batches of `epoch`, or a share of them."""
        for batch in self.pairs(epoch, shard=shard, shards=shards, start=start):
            yield PromptBatch(inputs=self.model.collator(self._examples(batch)))

    def _examples(self, batch: Batch) -> list[dict[str, Any]]:
        histories = (row[row < self.pairs.num_items].tolist() for row in batch.history)
        return [
            self.model.example(history, [target])
            for history, target in zip(histories, batch.targets.tolist(), strict=True)
        ]


def next_item_loss(weights: nn.Module, batch: PromptBatch) -> dict[str, Tensor]:
    """Cross-entropy of the completions: the tokens of the next item, and the end of the text."""
    assert isinstance(weights, TrainedWeights)
    return {"next_item": weights.model.network(**batch.inputs, use_cache=False).loss}


def rank_all(
    model: LanguageModel,
    histories: Sequence[Int[np.ndarray, " items"]],
    *,
    num_beams: int,
    bar: Bar | None = None,
) -> Ranked:
    """Each history's best items, as many as beams, for any number of histories.

    Args:
        model: The language model.
        histories: Item rows, oldest first.
        num_beams: Beams of the search, which is also the number of items per history; at most all
            items.
        bar: Shows the progress.

    Returns:
        The ranked items of every history, on the CPU.
    """
    num_items, done = model.trie.num_items, 0
    top_k = min(num_beams, num_items)
    items = torch.full((len(histories), top_k), -1)
    scores = torch.full((len(histories), top_k), -torch.inf)
    for rows, history in query_batches(
        histories,
        num_items=num_items,
        history_length=model.template.max_items or 1,
        batch_size=_RANKED_AT_A_TIME,
        by_length=True,
    ):
        ranked = model.rank(history, num_beams=num_beams, top_k=top_k)
        items[rows], scores[rows] = ranked.items.cpu(), ranked.scores.cpu()
        done += len(rows)
        if bar is not None:
            bar.update(done, len(histories))
    return Ranked(items=items, scores=scores)
