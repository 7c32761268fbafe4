"""Embedding of item histories as the encoder's input."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.seq2seq_config import HistoryInput
from genrec.trie import Trie
from genrec.vocabulary import Vocabulary


class HistoryEmbedding(nn.Module):
    """Histories as input vectors: from item vectors, codes or both, with learned positions.

    Positions count from the newest item, so they change neither with padding nor when old items are
    cut off.

    Args:
        trie: The items' codes.
        dim: Width of the input vectors.
        history_length: How many of the newest items are read.
        history_input: What represents an item: "codes", "vectors" or "both".
        item_vectors: One vector per item, unless the input is "codes". None: the vectors start at
            random and are trained.
        train_item_vectors: Whether `item_vectors` are trained too.
    """

    item_vectors: Tensor | None

    def __init__(
        self,
        trie: Trie,
        dim: int,
        *,
        history_length: int,
        history_input: HistoryInput,
        item_vectors: Float[Tensor, "items vector_dim"] | None,
        train_item_vectors: bool,
    ) -> None:
        super().__init__()
        self.num_items = trie.num_items
        self.history_length = history_length
        self.positions = nn.Embedding(history_length, dim)
        nn.init.normal_(self.positions.weight, std=dim**-0.5)
        self.split_codes = history_input == "codes"
        self.codes: nn.Embedding | None = None
        if history_input != "vectors":
            vocabulary = Vocabulary(level_sizes=trie.codebook_sizes)
            self.codes = nn.Embedding(vocabulary.bos, dim)
            nn.init.normal_(self.codes.weight, std=dim**-0.5)
            self.register_buffer(
                "item_codes", vocabulary.encode(trie.codes).int(), persistent=False
            )
        self.projection: nn.Linear | None = None
        if self.split_codes:
            self.item_vectors = None
        elif item_vectors is None:
            self.item_vectors = nn.Parameter(torch.randn(trie.num_items, dim) * dim**-0.5)
        else:
            self.projection = nn.Linear(item_vectors.shape[1], dim)
            if train_item_vectors:
                self.item_vectors = nn.Parameter(item_vectors.clone())
            else:
                self.register_buffer("item_vectors", item_vectors.clone())

    def forward(
        self, history: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "batch positions dim"], Bool[Tensor, "batch positions"]]:
        """Returns one vector per position, and True where a position is padding.

        There is one position for each column of `newest_items`; with codes, one for each code.
        """
        history = newest_items(history, self.num_items, self.history_length)
        length = history.shape[1]
        padding = history == self.num_items
        items = history.masked_fill(padding, 0)
        ages = torch.arange(length, device=history.device).flip(0)
        x = self.positions(ages).expand(history.shape[0], -1, -1)
        if self.codes is not None:
            # `F.embedding` refuses rows below 0; an index would count them from the end.
            codes = self.codes(F.embedding(items, self.get_buffer("item_codes")))
            if self.split_codes:
                levels = codes.shape[2]
                return (codes + x[:, :, None]).flatten(1, 2), padding.repeat_interleave(levels, 1)
            x = x + codes.mean(dim=2)
        assert self.item_vectors is not None
        vectors = F.embedding(items, self.item_vectors)
        return x + (vectors if self.projection is None else self.projection(vectors)), padding


def newest_items(
    history: Int[Tensor, "batch length"], num_items: int, count: int
) -> Int[Tensor, "batch newest"]:
    """Returns the newest items of each history, the newest in the last column.

    There are as many columns as in `history`, at least one and at most `count`. A batch costs the
    least if it is only as wide as its longest history, as `query_batches` makes it.
    """
    if not history.shape[1]:
        history = F.pad(history, (1, 0), value=num_items)
    is_item = history != num_items  # [batch, length]
    newer = is_item.long().flip(1).cumsum(1).flip(1)  # [batch, length], 1 for the newest item
    # An item moves to this distance from the end; padding moves to an extra column, cut off below.
    place = (history.shape[1] - newer).masked_fill(~is_item, history.shape[1])
    moved = F.pad(torch.full_like(history, num_items), (0, 1)).scatter(1, place, history)
    return moved[:, :-1][:, -count:]
