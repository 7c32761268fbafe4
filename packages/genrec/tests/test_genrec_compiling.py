"""A compiled loss beside the same one as it is."""

from __future__ import annotations

import pytest
import torch
from genrec.compiling import compiled_loss
from genrec.sequences import Batch, PairBatches
from genrec.training import TrainingConfig, fit
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

NUM_ITEMS = 12


class Sum(nn.Module):
    """Scores items by the sum of a history's vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(NUM_ITEMS + 1, 6)
        self.linear = nn.Linear(6, NUM_ITEMS)

    def forward(self, history: Tensor) -> Tensor:
        return self.linear(functional.gelu(self.table(history).sum(1)))


def loss(module: Sum, batch: Batch) -> dict[str, Tensor]:
    return {"next": functional.cross_entropy(module(batch.history), batch.targets)}


def batch_of(rows: int, length: int) -> Batch:
    generator = torch.Generator().manual_seed(rows * length)
    history = torch.randint(NUM_ITEMS, (rows, length), generator=generator)
    return Batch(history=history, targets=history[:, 0], users=torch.arange(rows))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_a_compiled_loss_has_the_same_gradients_and_is_compiled_once_for_all_lengths(tmp_path):
    compiled, graphs = compiled_loss(loss), []
    for rows, length in ((4, 5), (6, 3), (9, 7), (5, 4)):
        results = []
        for call in (loss, compiled):
            module = Sum()
            value = call(module, batch_of(rows, length))["next"]
            value.backward()
            results.append([value.detach(), *(p.grad for p in module.parameters())])
        for plain, other in zip(*results, strict=True):
            torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] >= 1
    assert graphs == [graphs[0]] * 4
    walks = [torch.arange(6).numpy() + start for start in range(6)]
    finals = []
    for compile_ in (False, True):
        source = PairBatches(walks, num_items=NUM_ITEMS, batch_size=8)
        module, folder = Sum(), tmp_path / str(compile_)
        fit(module, source, loss, TrainingConfig(epochs=2, compile=compile_), folder=folder)
        finals.append(load_file(folder / "final.safetensors"))
    assert finals[0].keys() == finals[1].keys()
    assert finals[1].keys() == {f"module.{name}" for name in Sum().state_dict()}
    for name, weight in finals[0].items():
        torch.testing.assert_close(finals[1][name], weight, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    source = PairBatches([torch.arange(6).numpy()], num_items=NUM_ITEMS, batch_size=2)
    with pytest.raises(ValueError, match="where there is no C\\+\\+ compiler: 'no-such-compiler'"):
        fit(Sum(), source, loss, TrainingConfig(epochs=1, compile=True))
