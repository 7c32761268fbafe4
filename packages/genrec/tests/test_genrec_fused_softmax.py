"""When the fused softmax is taken, and what it is given: a fake kernel stands for the GPU's."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from genrec import fused_softmax, losses
from genrec.fused_softmax import FUSED_ITEMS, fused_kernel
from torch import Tensor
from torch.nn import functional

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, torch.dtype, str]]:
    """What the fake kernel has been given."""
    met: list[tuple[torch.dtype, torch.dtype, str]] = []

    def linear_cross_entropy(e: Tensor, c: Tensor, targets: Tensor, *, reduction: str) -> Tensor:
        met.append((e.dtype, c.dtype, reduction))
        return functional.cross_entropy((e @ c.T).float(), targets, reduction=reduction)

    fake = ModuleType("cut_cross_entropy")
    fake.__spec__ = ModuleSpec("cut_cross_entropy", None)
    fake.linear_cross_entropy = linear_cross_entropy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", fake)
    return met


def test_the_kernel_is_taken_where_it_can_be_and_pays(calls):
    assert fused_kernel(CUDA, BF16, FUSED_ITEMS, 0.0) is not None
    assert fused_kernel(CUDA, torch.float16, FUSED_ITEMS, 0.0) is not None
    assert fused_kernel(CUDA, torch.float32, FUSED_ITEMS, 0.0) is None
    assert fused_kernel(CUDA, BF16, FUSED_ITEMS - 1, 0.0) is None
    assert fused_kernel(CUDA, BF16, FUSED_ITEMS, 0.1) is None
    assert fused_kernel(torch.device("cpu"), BF16, FUSED_ITEMS, 0.0) is None


def test_without_the_extra_there_is_no_kernel(monkeypatch):
    monkeypatch.setattr(fused_softmax, "_KERNEL", "a_module_that_is_not_there")
    assert fused_kernel(CUDA, BF16, FUSED_ITEMS, 0.0) is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_by_the_kernel_is_that_of_the_plain_softmax(calls, monkeypatch, reduction):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(9, 8, generator=generator)
    vectors = torch.randn(30, 8, generator=generator)
    targets = torch.tensor([0, 29, 30, 4, 4, 30, 7, 11, 2])  # 30 is padding

    def loss_and_gradients() -> list[Tensor]:
        sides = [states.clone().requires_grad_(), vectors.clone().requires_grad_()]
        with torch.autocast("cpu", dtype=BF16):
            loss = losses.full_cross_entropy(*sides, targets, reduction=reduction)
        loss.backward()
        return [loss.detach(), *(side.grad for side in sides)]

    expected = loss_and_gradients()
    assert not calls
    monkeypatch.setattr(fused_softmax, "FUSED_ITEMS", 1)
    monkeypatch.setattr(losses, "fused_kernel", lambda _, *rest: fused_kernel(CUDA, *rest))
    for fused, plain in zip(loss_and_gradients(), expected, strict=True):
        assert fused.dtype == plain.dtype
        torch.testing.assert_close(fused, plain, rtol=0.02, atol=0.02)
    assert calls == [(BF16, BF16, "sum")]
