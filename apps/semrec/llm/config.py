"""The configuration of the recipe for language models: text, codes, the model, its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genrec import TrainingRecipe
from semtok.hf import HistoryTemplate

from semrec.shared.configuration import check_at_least
from semrec.shared.data import Answering, AppConfig, Data, check_texts
from semrec.shared.files import input_files
from semrec.shared.plugins import check_part, part_field

TINY = ("tiny-llama", "tiny-qwen")
"""Models of two layers with random weights, which are made on the spot."""

_LORA = ("lora_rank", "lora_alpha", "lora_dropout")


@dataclass(frozen=True, kw_only=True)
class Text:
    """The embeddings of the items' texts, which are quantized into codes.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings.
        fields: The catalogue's fields that make an item's text; missing ones are skipped.
        dim: PCA dimensions.
    """

    embedding: str = "minilm"
    fields: tuple[str, ...] = ("title", "brand", "categories")
    dim: int = 128

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("fields must be at least one, got none")
        check_at_least(1, self, "dim")


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The semantic IDs, whose codes become tokens of the language model.

    A further code distinguishes items that would share all codes.

    Attributes:
        quantizer: "rq", "pq" or "rqvae"; or "package.module:Name", a `semtok.Quantizer` of another
            package.
        num_levels: Codes per item, without the further one.
        codebook_size: Codes per level.
    """

    quantizer: str = part_field("rq", ("rq", "pq", "rqvae"))
    num_levels: int = 3
    codebook_size: int = 256

    def __post_init__(self) -> None:
        check_part(self, "quantizer")
        check_at_least(1, self, "num_levels")
        check_at_least(2, self, "codebook_size")


@dataclass(frozen=True, kw_only=True)
class Model(TrainingRecipe):
    """The language model, its input, and its training.

    For a model from Hugging Face or a folder, the LoRA matrices of all linear layers and the rows
    of the items' tokens are trained; all other weights stay fixed. For a tiny model all weights are
    trained, since LoRA over random weights learns little.

    Attributes:
        model: A causal language model's Hugging Face name or folder, with its tokenizer; or
            "tiny-llama" or "tiny-qwen", with random weights and a tokenizer of the words in the
            data, for tests and `demo`.
        items: How a prompt describes each item of a history: by its codes, or by codes and title.
        title_length: Most characters of a title.
        prompt: The text of a prompt, with "{history}" in the place of the items.
        history_length: Most items of a history in a prompt; the newest are kept.
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: The LoRA matrices are scaled by `lora_alpha` / `lora_rank`.
        lora_dropout: Dropout of the input of the LoRA matrices.
        learning_rate: The rate after the warm-up.
        weight_decay: AdamW's.
        warmup_steps: Steps in which the rate rises linearly.
        batch_size: Prompts in a batch, each with the next item.
        epochs: Most passes over all prompts.
        patience: Epochs without an improvement before training stops.
    """

    model: str = "Qwen/Qwen3-0.6B-Base"
    items: Literal["ids", "ids and titles"] = "ids"
    title_length: int = 60
    prompt: str = HistoryTemplate.prompt
    history_length: int = 20
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    batch_size: int = 32
    epochs: int = 3
    patience: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("title_length", "history_length", "lora_rank", "lora_alpha")
        check_at_least(1, self, *names)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
        HistoryTemplate(prompt=self.prompt)  # refuses a prompt without a place for the history
        for name in _LORA if self.is_tiny else ():
            if getattr(self, name) != getattr(Model, name):
                raise ValueError(
                    f"{name} must be left out where model is {self.model!r}, whose weights are all "
                    f"trained, got {getattr(self, name)}"
                )
        if self.items == "ids" and self.title_length != Model.title_length:
            raise ValueError(
                "title_length must be left out where items are 'ids' and no title is shown, "
                f"got {self.title_length}"
            )

    @property
    def is_tiny(self) -> bool:
        """Whether the model is made with random weights."""
        return self.model in TINY


@dataclass(frozen=True, kw_only=True)
class Evaluation(Answering):
    """How the model is chosen and tested.

    Attributes:
        validation_users: The number of users drawn for early stopping; the test uses all users.
        validation_beams: Beams for early stopping.
        num_beams: Beams in the test and in `recommend`, which is also the length of a ranking.
    """

    validation_users: int = 500
    validation_beams: int = 20
    num_beams: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_beams < max(self.ks):
            raise ValueError(
                f"num_beams must be at least {max(self.ks)}, the largest of ks, "
                f"got {self.num_beams}"
            )
        check_at_least(10, self, "validation_beams")


@dataclass(frozen=True, kw_only=True)
class Config(AppConfig):
    """The whole configuration of a run."""

    text: Text = field(default_factory=Text)
    codes: Codes = field(default_factory=Codes)
    model: Model = field(default_factory=Model)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embedding of the texts."""
        return (self.text.embedding,)

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The quantizer of the codes."""
        return (self.codes.quantizer,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """The number of prompts: one for every prefix of a history and its next item."""
        return {"model": sum(max(len(history) - 1, 0) for history in data.split.train)}

    def check_items(self, data: Data) -> list[Path]:
        """Refuses missing texts and a model that cannot be read.

        Returns:
            The files of the model, if it is a folder.
        """
        check_texts(self.text.embedding, (self.text.fields,), data.catalog)
        from semrec.llm.networks import check_model

        check_model(self.model.model, is_tiny=self.model.is_tiny)
        return [] if self.model.is_tiny else input_files(self.model.model)
