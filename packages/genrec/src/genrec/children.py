"""The children of several nodes of a trie, one parent after the other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Children:
    """The children of several nodes, one after the other.

    Attributes:
        node: The children, those of the first parent first.
        parent: For each child the position of its parent among all parents.
        offsets: Where each parent's children start and end in `node`.
        level_codes: The code of every node of the children's level.
    """

    node: Int[Tensor, " children"]
    parent: Int[Tensor, " children"]
    offsets: Int[Tensor, " parents_and_one"]
    level_codes: Int[Tensor, " nodes"]

    @property
    def codes(self) -> Int[Tensor, " children"]:
        """The last code of each child."""
        return self.level_codes[self.node].long()

    @property
    def counts(self) -> Int[Tensor, " parents"]:
        """Number of children of each parent."""
        return self.offsets.diff()

    def totals(self, values: Float[Tensor, " children"]) -> Float[Tensor, " parents"]:
        """Returns the sum over each parent's children."""
        return values.new_zeros(len(self.offsets) - 1).index_add(0, self.parent, values)

    def shares(self, values: Float[Tensor, " children"]) -> Float[Tensor, " children"]:
        """Returns each child's share of its parent's total; equal shares if the total is 0.

        Args:
            values: Numbers of at least 0.
        """
        totals = self.totals(values)  # [parents]
        equal = 1 / self.counts[self.parent].to(values.dtype)  # [children]
        total = totals[self.parent]
        return torch.where(
            total > 0, values / total.clamp(min=torch.finfo(total.dtype).tiny), equal
        )

    def log_softmax(self, logits: Float[Tensor, " children"]) -> Float[Tensor, " children"]:
        """Returns a log-softmax over each parent's children; exactly 0 for an only child."""
        parents = len(self.offsets) - 1
        # The largest logit of each parent is subtracted first, so that no exponential overflows. It
        # cancels out, so its gradient is not needed.
        top = logits.detach().new_full((parents,), -torch.inf)
        top = top.scatter_reduce(0, self.parent, logits.detach(), "amax")  # [parents]
        shifted = logits - top[self.parent]  # [children]
        total = logits.new_zeros(parents).index_add(0, self.parent, shifted.exp())  # [parents]
        return shifted - total.log()[self.parent]

    def products(
        self,
        states: Float[Tensor, "parents dim"],
        rows: Float[Tensor, "rows dim"],
        row: Int[Tensor, " children"],
    ) -> Float[Tensor, " children"]:
        """Returns the dot product of each child's row with its parent's state.

        It is a sampled matrix product: it holds neither all pairs nor a copy of the rows.

        Args:
            states: One fp32 vector per parent.
            rows: A table of fp32 vectors.
            row: The row of each child, ascending within a parent.
        """
        # The wanted pairs of (parent, row) are a sparse matrix in CSR form: `offsets` has the start
        # of each parent's children, like the start of each row in CSR.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
            pattern = torch.sparse_csr_tensor(
                self.offsets,
                row,
                states.new_zeros(len(row)),
                size=(len(states), len(rows)),
                check_invariants=False,
            )
        out: Tensor = torch.sparse.sampled_addmm(pattern, states, rows.T, beta=0.0).values()
        return out
