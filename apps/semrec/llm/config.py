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
"""Models of two layers with random weights, which are made where they are named."""

_LORA = ("lora_rank", "lora_alpha", "lora_dropout")


@dataclass(frozen=True, kw_only=True)
class Text:
    """The embeddings of the items' texts, which become codes.

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings.
        fields: The catalogue's fields that make an item's text; absent ones are passed over.
        dim: Dimensions kept by PCA.
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
    """The semantic IDs, each code of which becomes a token of the language model.

    Items that would share all codes are told apart by one code more.

    Attributes:
        quantizer: "rq", "pq" or "rqvae"; or "package.module:Name", a `semtok.Quantizer` of another
            package.
        num_levels: Codes an item, without the one that tells items apart.
        codebook_size: Codes to choose from at each level.
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
    """The language model, what it reads, and its training.

    Of a model that is named or lies in a folder, LoRA's matrices at all linear layers and the rows
    of the items' tokens are trained; all else stays as it is. Of a tiny model all weights are
    trained, since LoRA over random weights learns little.

    Attributes:
        model: A causal language model's Hugging Face name or folder, with its tokenizer; or
            "tiny-llama" or "tiny-qwen", of random weights and with a tokenizer of the words that
            are there, for tests and `demo`.
        items: What a prompt says of each item of a history: its codes, or these and its title.
        title_length: Most characters of a title.
        prompt: The text of a prompt, with "{history}" where the items stand.
        history_length: Most items of a history that are shown, the newest ones.
        lora_rank: Rank of LoRA's matrices.
        lora_alpha: What these are multiplied by is `lora_alpha` / `lora_rank`.
        lora_dropout: Dropout of what goes into them.
        learning_rate: The rate after the warm-up.
        weight_decay: AdamW's.
        warmup_steps: Steps in which the rate climbs linearly.
        batch_size: Prompts in a batch, each with the item that came next.
        epochs: Most passes over all prompts.
        patience: Epochs without a better figure before training stops.
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
        HistoryTemplate(prompt=self.prompt)  # refuses one without a place for the history
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
        """Whether the model is made here, with random weights."""
        return self.model in TINY


@dataclass(frozen=True, kw_only=True)
class Evaluation(Answering):
    """How the model is chosen and tested.

    Attributes:
        validation_users: Users drawn for early stopping; the test takes all.
        validation_beams: Beams of the search for these.
        num_beams: Beams of the search in the test and in `recommend`, and items a list.
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
    """Everything that makes a run what it is."""

    text: Text = field(default_factory=Text)
    codes: Codes = field(default_factory=Codes)
    model: Model = field(default_factory=Model)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """What embeds the texts."""
        return (self.text.embedding,)

    @property
    def quantizers(self) -> tuple[str, ...]:
        """What the codes are made by."""
        return (self.codes.quantizer,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """Prompts: every prefix of a history, with the item that came next."""
        return {"model": sum(max(len(history) - 1, 0) for history in data.split.train)}

    def check_items(self, data: Data) -> list[Path]:
        """Refuses texts that are not there, and a model that cannot be read.

        Returns:
            The files of the model, where it lies in a folder.
        """
        check_texts(self.text.embedding, (self.text.fields,), data.catalog)
        from semrec.llm.networks import check_model

        check_model(self.model.model, is_tiny=self.model.is_tiny)
        return [] if self.model.is_tiny else input_files(self.model.model)
