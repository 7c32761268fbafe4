"""LIGER: one model generates candidate items, and another ranks them (Yang et al., 2024)."""

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

    The beam search of the generator finds one candidate per beam. New items, which the generator
    was not trained on, can be added to the candidates. Only the ranker's dense scores decide the
    order of the candidates. With as many beams as items, the result is the ranking of the ranker.

    Differs: generator and ranker are two models, and each is trained alone. The paper has one
    encoder with two heads, trained on the sum of both losses. Here two trained models can be
    combined, and `save_model` and `save_backbone` save them. The ranker scores the whole catalogue,
    and the scores of the candidates are selected from it.

    Args:
        generator: The model that generates codes.
        ranker: The model that scores all items, in the same row order.

    Raises:
        ValueError: The models have different numbers of items.
    """

    def __init__(self, generator: Seq2Seq, ranker: Backbone) -> None:
        super().__init__()
        if generator.trie.num_items != ranker.num_items:
            raise ValueError(
                "generator and ranker must have the same number of items, got "
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
        """Returns each history's best items among the generated candidates and the new items.

        Args:
            history: Item rows, oldest first, padded on the right with the number of items.
            num_beams: Number of candidates that are generated: K in the paper.
            top_k: Number of items returned, at most `num_beams`.
            new_items: Item rows that are candidates for every history (the paper's cold-start
                items).
            exclude: Each user's items that must not be returned, padded with the number of items.
            tables: `generator.tables()`, to save time if many calls use the same weights.

        Returns:
            The ranked items, with the ranker's scores.

        Raises:
            ValueError: A model is in training mode, a number is out of range, or a list contains a
                number that is no item row.
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
        candidates = generated.items  # [batch, beams], -1 if there is none
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
