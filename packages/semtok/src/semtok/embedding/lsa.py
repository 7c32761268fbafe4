"""Latent semantic analysis: TF-IDF and truncated SVD. Needs no download."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from semtok.catalog import TEXT_FIELDS, Catalog
from semtok.embedding.contract import digest
from semtok.parts import flag, floats, read_part, refusing, strings, write_part
from semtok.phrases import counted
from semtok.progress import Progress
from semtok.scripts import WORD
from semtok.threads import one_thread

_CHUNK = 16_384
_WORD_OF_OLD = r"(?u)\b\w+\b"  # for embeddings that were fitted before characters were split


@dataclass(frozen=True, kw_only=True, eq=False)
class LsaEmbedding:
    """Embeds texts by the words and word pairs that they share with the fitted texts.

    In scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese),
    each character counts as a word.

    Attributes:
        fields: The fields of a catalogue that make an item's text.
        vocabulary: Words and pairs of neighbouring words, sorted.
        idf: The inverse document frequency of each word and pair.
        components: The directions of the truncated SVD.
        splits_characters: Whether characters of those scripts are words. False in folders of older
            versions, which took all text between two spaces for one word: they embed as fitted.
        fix_text: Whether wrongly decoded texts are repaired first; see `Catalog.texts`.
    """

    kind: ClassVar[str] = "lsa"

    fields: tuple[str, ...]
    vocabulary: list[str]
    idf: Float32[np.ndarray, " terms"]
    components: Float32[np.ndarray, "dim terms"]
    splits_characters: bool = True
    fix_text: bool = False

    def __post_init__(self) -> None:
        shapes = {(len(self.vocabulary),), self.idf.shape, self.components.shape[1:]}
        if len(shapes) > 1 or not self.vocabulary:
            raise ValueError("vocabulary, idf and components must have the same number of terms")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("vocabulary must name each term once")

    @classmethod
    def fit(
        cls,
        catalog: Catalog | Iterable[Catalog],
        *,
        fields: Sequence[str] = TEXT_FIELDS,
        dim: int = 128,
        max_terms: int = 50_000,
        sample_size: int = 100_000,
        seed: int = 0,
        fix_text: bool = False,
    ) -> LsaEmbedding:
        """Fits the vocabulary and the directions; the number of threads does not change them.

        Args:
            catalog: The items to fit on, or chunks of them, as from `stream_catalog`.
            fields: The fields that make an item's text; those that the catalogue lacks are skipped.
            dim: Length of the embeddings; fewer if there are fewer items or terms.
            max_terms: Maximal size of the vocabulary; the most frequent terms are kept.
            sample_size: Maximal number of items to fit on. If there are more, a sample is drawn,
                which also bounds the memory. The sample does not depend on the chunks.
            seed: Draws the sample and the start of the randomized SVD.
            fix_text: Whether wrongly decoded texts are repaired first, here and whenever this
                embeds a catalogue; see `Catalog.texts`.

        Raises:
            ImportError: If `fix_text` is set and `semtok[ftfy]` is not installed.
            ValueError: If no item has a word in any of the fields, or an option is out of range.
        """
        from sklearn.utils.extmath import randomized_svd

        for name, value in (("dim", dim), ("max_terms", max_terms), ("sample_size", sample_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        chunks = [catalog] if isinstance(catalog, Catalog) else catalog
        texts = _sample(
            (chunk.texts(fields, fix_text=fix_text) for chunk in chunks), sample_size, seed
        )
        vectorizer = _vectorizer(WORD, max_features=max_terms)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError:  # scikit-learn: "empty vocabulary"
            raise ValueError(
                f"fields must hold words for at least one item, got none in {', '.join(fields)}"
            ) from None
        with one_thread():
            _, _, components = randomized_svd(
                counts, n_components=min(dim, *counts.shape), random_state=seed
            )
        return cls(
            fields=tuple(fields),
            vocabulary=vectorizer.get_feature_names_out().tolist(),
            idf=vectorizer.idf_.astype(np.float32),
            components=components.astype(np.float32),
            fix_text=fix_text,
        )

    def __repr__(self) -> str:
        terms = counted(len(self.vocabulary), "term")
        return f"LsaEmbedding({', '.join(self.fields)}, {terms}, dim {self.dim})"

    @cached_property
    def fingerprint(self) -> str:
        """Names the vocabulary, its weights and the directions."""
        words = "\n".join(self.vocabulary)
        rule = ["characters"] if self.splits_characters else []
        return f"{self.kind}-{digest(words, self.idf, self.components, *rule)}"

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return len(self.components)

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
        """The embeddings of texts, each of length 1, or 0 for a text without known words."""
        embeddings = np.zeros((len(texts), len(self.components)), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK):
            counts = self._vectorizer.transform(texts[start : start + _CHUNK])
            part = np.asarray(counts @ self.components.T)
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            embeddings[start : start + _CHUNK] = part / np.where(norms > 0, norms, 1)
            if progress is not None:
                progress(min(start + _CHUNK, len(texts)), len(texts))
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Writes config.json (with the vocabulary) and tensors.safetensors into a new folder."""
        config = {
            "kind": self.kind,
            "fields": self.fields,
            "vocabulary": self.vocabulary,
            "splits_characters": self.splits_characters,
            "fix_text": self.fix_text,
        }
        write_part(folder, config, {"idf": self.idf, "components": self.components})

    @classmethod
    def load(cls, folder: str | Path) -> LsaEmbedding:
        """Reads what `save` wrote.

        Raises:
            CatalogError: If the folder is absent, corrupt or of a newer format.
        """
        config, tensors = read_part(folder, cls.kind)
        with refusing(folder):
            return cls(
                fields=tuple(strings(config, "fields")),
                vocabulary=strings(config, "vocabulary"),
                idf=floats(tensors, "idf", 1),
                components=floats(tensors, "components", 2),
                splits_characters=(
                    flag(config, "splits_characters") if "splits_characters" in config else False
                ),
                fix_text=flag({"fix_text": False, **config}, "fix_text"),
            )

    @cached_property
    def _vectorizer(self) -> Any:
        word = WORD if self.splits_characters else _WORD_OF_OLD
        vectorizer = _vectorizer(word, vocabulary=self.vocabulary)
        vectorizer.idf_ = self.idf
        return vectorizer


def _sample(chunks: Iterable[list[str]], size: int, seed: int) -> list[str]:
    """The texts of a uniform sample, in their order; all texts if there are no more than `size`."""
    generator = np.random.default_rng(seed)
    texts: list[str] = []
    draws = np.empty(0)
    for chunk in chunks:
        texts += chunk
        draws = np.concatenate([draws, generator.random(len(chunk))])
        if len(texts) > size:
            kept = np.sort(np.argpartition(draws, size - 1)[:size])
            texts, draws = [texts[row] for row in kept], draws[kept]
    return texts


def _vectorizer(word: str, **options: object) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        token_pattern=word,
        dtype=np.float32,
        **options,
    )
