"""TSSR's configuration: content, the model and its training, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genrec import SequenceRecipe
from semtok import Catalog, image_paths, is_plugin, is_stored

from semrec.shared.configuration import check_at_least
from semrec.shared.data import Answering, AppConfig, Data, check_texts, field_groups
from semrec.shared.files import input_files

RANDOM = "random"
"""The name of random image weights, for a network without pretraining."""

Streams = tuple[str, ...]

ONLY_IDS = (
    "head must be 'ids', as in the paper, where content is encoded end to end, got {!r}: it would "
    "also encode the content of every negative"
)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How content encoders are trained within the model, and their cost in memory.

    They have the model's learning rate. The paper's 1e-4 also suits pretrained networks; the 1e-3
    for stored embeddings does not.

    Attributes:
        trained: "all" of the network; only its last "layers", with all layers before them frozen
            and without stored activations; or "lora", adapters in the attention of frozen layers.
        trained_layers: For "layers": how many layers of a transformer, or stages of a ResNet (4).
        lora_rank: For "lora": rank of the adapters.
        checkpointing: Whether a chunk's activations are recomputed in the backward pass: memory for
            one chunk instead of all, but a second forward pass.
        precision: "fp32", or "bf16" for autocast, which helps only if the hardware supports it.
        max_length: Most tokens of a text; longer texts are truncated.
        batch_items: Items of a chunk, which pass the network together.
        image_size: Height and width of the cropped images in pixels; open_clip's models have their
            own.
    """

    trained: Literal["all", "layers", "lora"] = "all"
    trained_layers: int = 2
    lora_rank: int = 8
    checkpointing: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    max_length: int = 64
    batch_items: int = 64
    image_size: int = 224

    def __post_init__(self) -> None:
        for name, known in (
            ("trained", ("all", "layers", "lora")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("trained_layers", "lora_rank", "batch_items", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length < 3:
            raise ValueError(f"max_length must be at least 3 tokens, got {self.max_length}")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `fusion.ContentEncoder`."""
        names = ("trained", "trained_layers", "lora_rank", "checkpointing", "precision")
        return {name: getattr(self, name) for name in (*names, "batch_items")}


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of items.

    Attributes:
        mode: "stored": stored embeddings with a trained projection; or "end-to-end": the network
            that makes the embeddings is trained with the model, as in the paper.
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings; end to end, a sentence-transformers one.
        streams: The catalogue's fields of each content stream, joined by "+". The paper has one
            stream; several remove its second limitation.
        dim: PCA dimensions of stored embeddings.
        image_field: The field with the path of an item's image; a stream of this field reads
            images.
        image_embedding: "resnet50", or a name of open_clip.
        image_weights: Weights as named by torchvision or open_clip, "" for the usual ones; a
            .safetensors file; or, end to end, "random".
        encoder: How networks are trained end to end.
    """

    mode: Literal["stored", "end-to-end"] = "stored"
    embedding: str = "minilm"
    streams: Streams = ("title+brand+categories",)
    dim: int = 128
    image_field: str = "image"
    image_embedding: str = "resnet50"
    image_weights: str = ""
    encoder: Encoder = field(default_factory=Encoder)

    def __post_init__(self) -> None:
        check_at_least(1, self, "dim")
        if self.mode not in ("stored", "end-to-end"):
            raise ValueError(f"mode must be 'stored' or 'end-to-end', got {self.mode!r}")
        if not self.streams or not all(self.fields):
            raise ValueError(f"streams must name fields, such as 'title+brand', got {self.streams}")
        for names in self.fields:
            if self.image_field in names and not self.is_image(names):
                raise ValueError(
                    f"streams must have {self.image_field!r}, the images, as a stream of its own, "
                    f"got {'+'.join(names)!r}"
                )
        if self.mode == "stored":
            if self.encoder != Encoder():
                raise ValueError("mode must be 'end-to-end' where [encoder] is set, got 'stored'")
            if self.image_weights == RANDOM:
                raise ValueError("image_weights must not be 'random' for stored embeddings")
        elif not all(map(self.is_image, self.fields)) and (
            self.embedding == "lsa" or is_stored(self.embedding) or is_plugin(self.embedding)
        ):
            raise ValueError(
                "embedding must be minilm, or the name or folder of a sentence-transformers model, "
                f"to be trained end to end, got {self.embedding!r}"
            )

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """The fields of each stream."""
        return field_groups(self.streams)

    def is_image(self, fields: Sequence[str]) -> bool:
        """Whether a stream of these fields reads images."""
        return tuple(fields) == (self.image_field,)

    @property
    def image_source(self) -> str:
        """The name of the image model with its weights in `semtok.embedding_source`."""
        at_weights = f"@{self.image_weights}" if self.image_weights else ""
        return f"{self.image_embedding}{at_weights}"

    def check(self, catalog: Catalog) -> list[Path]:
        """Refuses streams that a catalogue cannot fill, before anything is trained.

        Returns:
            The files of images, and the file of the image model's weights if there is one.

        Raises:
            CatalogError: An image is missing.
            ValueError: The catalogue has no field of a stream.
        """
        files: list[Path] = []
        for fields in self.fields:
            if self.is_image(fields):
                files += image_paths(catalog, self.image_field)
                files += input_files(self.image_weights)
            else:
                check_texts(self.embedding, [fields], catalog)
        return files


@dataclass(frozen=True, kw_only=True)
class Model(SequenceRecipe):
    """The two-stream model and its training (sections 3.2 to 3.5); the baselines share it.

    Differs: our defaults did better on the validation users of Amazon Beauty
    (docs/papers/tssr.md) than the paper's values, which are named below. Further defaults (the
    paper's values in brackets): histories of 20 items (10), a learning rate of 1e-3 that falls to 0
    (1e-4), batches of 96 (256), clipped gradients, cosine and sampled negatives (the inner product
    with all items), dropout .4 (the authors' .1). The mean of eq. 1 is over the positions with a
    next item to predict: it leaves out padding, which the authors' code counts, and the first items
    of a window that another window predicts. Layer norms of the unimodal encoders are before the
    sub-layers; in the authors' code they are after them. Epochs are chosen on validation; the
    paper's are chosen on the test. `paper.toml` has the paper's settings, except for the last three
    points.

    Attributes:
        head: The item vectors that states are compared with: the id embeddings, as in the paper, or
            their sum with the content's.
        id_start: The initial id embeddings: "random", as in the paper, or the first principal
            components of the content.
        num_layers: Layers of each unimodal encoder.
        num_cross_layers: Layers of the cross-modal encoder in each direction; the authors' code has
            4.
        feedforward_dim: Inner width of the feed-forward parts.
        user_weight: lambda_1 of eq. 4; 1 in the paper.
        item_weight: lambda_2 of eq. 4; 1 in the paper.
        contrast_temperature: tau of eq. 1; .2 in the authors' code.
        item_temperature: tau of eq. 2; the authors' code has none, which is 1.
        item_similarity: s of eq. 2; the paper's is the inner product, "dot".
        residual_start: The initial factor of each part of the cross-modal encoder; 1e-8 in the
            authors' code, 1 for none.
    """

    head: Literal["ids", "sum"] = "sum"
    id_start: Literal["random", "content"] = "content"
    num_layers: int = 1
    num_cross_layers: int = 1
    feedforward_dim: int = 256
    user_weight: float = 0.1
    item_weight: float = 0.1
    contrast_temperature: float = 0.2
    item_temperature: float = 0.1
    item_similarity: Literal["dot", "cosine"] = "cosine"
    residual_start: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "user_weight", "item_weight")
        for name in ("contrast_temperature", "item_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Answering):
    """How models are chosen and tested.

    Attributes:
        baselines: Whether SASRec on ids, on content and on both is also trained (table 1).
        baseline_layers: Layers of the baselines. The default is the sum of the unimodal and
            cross-modal layers; in the paper it is the number of unimodal layers alone.
    """

    baselines: bool = True
    baseline_layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline_layers is not None:
            check_at_least(1, self, "baseline_layers")


@dataclass(frozen=True, kw_only=True)
class Config(AppConfig):
    """The whole configuration of a TSSR run."""

    content: Content = field(default_factory=Content)
    model: Model = field(default_factory=Model)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.content.mode == "end-to-end" and self.model.head != "ids":
            raise ValueError(ONLY_IDS.format(self.model.head))
        if self.content.mode == "end-to-end" and self.model.id_start != "random":
            raise ValueError(
                "id_start must be 'random' where content is encoded end to end and not stored, "
                f"got {self.model.id_start!r}"
            )

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embeddings of the text streams."""
        return (self.content.embedding,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """The number of the model's samples, which the baselines share."""
        single = dataclasses.replace(self.model, batch_size=1)
        return {"model": len(single.sequences(data.split.train, len(data.catalog), self.seed))}

    def check_items(self, data: Data) -> list[Path]:
        """Refuses streams that the catalogue cannot fill; returns the image files."""
        return self.content.check(data.catalog)
