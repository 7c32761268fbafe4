"""LIGER: items that one model generates, ranked by another (Yang et al., 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from genrec.backbones import Backbone
from genrec.decoding import Ranked, beam_search, check_top_k
from genrec.item_checks import check_rows, first_of_each
from genrec.seq2seq import Seq2Seq, Tables


class LIGER(nn.Module):
    """A generator that finds candidates by their codes, and a sequence model that ranks them.

    The beam search of the generator keeps as many items as it has beams; items that it cannot know,
    new ones, stand beside them; the dense scores of the ranker, and they alone, say in which order
    all of these come. With as many beams as items it is the ranker by itself.

    Differs: generator and ranker are two models, each trained by itself, where the paper's are one
    encoder with two heads and the sum of both losses. So whatever is trained already can be
    composed, and `save_model` and `save_backbone` keep the two. Dense scores are those of the whole
    catalogue, of which the candidates' are taken.

    Args:
        generator: Writes codes.
        ranker: Scores all items, those of the same rows.

    Raises:
        ValueError: They have different numbers of items.
    """

    def __init__(self, generator: Seq2Seq, ranker: Backbone) -> None:
        super().__init__()
        if generator.trie.num_items != ranker.num_items:
            raise ValueError(
                "generator and ranker must be of as many items, got "
                f"{generator.trie.num_items} and {ranker.num_items}"
            )
        self.generator = generator
        self.ranker = ranker

    @torch.inference_mode()
    def rank(
        self,
        history: Int[Tensor, "batch length"],
        *,
        num_beams: int = 20,
        top_k: int = 10,
        new_items: Int[Tensor, " new"] | None = None,
        exclude: Int[Tensor, "batch m"] | None = None,
        tables: Tables | None = None,
    ) -> Ranked:
        """Returns each history's best items among those that are generated, and the new ones.

        Args:
            history: Item rows, oldest first, padded on the right with the number of items.
            num_beams: Candidates that are generated: K in the paper.
            top_k: Items returned, at most `num_beams`.
            new_items: Rows that are candidates of every history: the paper's cold-start items.
            exclude: Each user's items that must not be returned, padded with the number of items.
            tables: `generator.tables()`, where many calls are made with the same weights.

        Returns:
            The ranked items; scores are the ranker's.

        Raises:
            ValueError: A model is in training mode, a number is out of range, or a list holds what
                is no item row.
        """
        if self.ranker.training:
            raise ValueError("ranker must be in eval mode, got training mode: call model.eval()")
        check_top_k(num_beams, top_k)
        num_items = self.ranker.num_items
        generated = beam_search(
            self.generator,
            self.generator.trie,
            history,
            num_beams=num_beams,
            top_k=num_beams,
            exclude=exclude,
            tables=tables,
        )
        candidates = generated.items  # [batch, beams], -1 where there is none
        if new_items is not None:
            check_rows("new_items", new_items, num_items)
            new = new_items.expand(len(history), -1)  # [batch, new]
            if exclude is not None:
                is_excluded = (new[:, :, None] == exclude[:, None, :]).any(dim=2)
                new = new.masked_fill(is_excluded, -1)
            candidates = first_of_each(torch.cat([candidates, new], dim=1), -1)
        missing = (candidates < 0) | (candidates == num_items)
        scores = self.ranker.score(history).float().gather(1, candidates.masked_fill(missing, 0))
        return Ranked.best(scores.masked_fill(missing, -torch.inf), top_k, items=candidates)
