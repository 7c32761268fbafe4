"""What torch.export makes of models, with a batch of any size: the same answers."""

from __future__ import annotations

import pytest
import torch
from genrec.backbones import SASRec
from genrec.decoding import beam_search
from genrec.exporting import DecoderStep, HistoryEncoder, QueryState
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.padded import PaddedBeamSearch
from genrec.seq2seq import Memory, Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie
from torch import Tensor, nn
from torch.export import Dim, export

NUM_ITEMS, LENGTH = 40, 5
BATCHES = (1, 3, 7)


def sasrec(**options: object) -> SASRec:
    torch.manual_seed(0)
    return SASRec(NUM_ITEMS, dim=16, num_heads=2, history_length=LENGTH, **options).eval()  # type: ignore[arg-type]


def generator(*, with_graph: bool = False, **options: object) -> Seq2Seq:
    torch.manual_seed(0)
    codes = torch.unique(torch.randint(0, 6, (200, 3)), dim=0)
    codes = codes[torch.randperm(len(codes))[:NUM_ITEMS]]
    graph, backbone = None, None
    if with_graph:
        is_edge = torch.rand(NUM_ITEMS, NUM_ITEMS) < 0.3
        matrix = ItemMatrix(
            offsets=nn.functional.pad(is_edge.sum(dim=1).cumsum(0), (1, 0)),
            neighbours=is_edge.nonzero()[:, 1],
            weights=torch.rand(int(is_edge.sum())),
            decay=0.6,
        )
        graph = ItemGraph.build(NUM_ITEMS, [matrix], last_items=3)
    if options.get("history_input") == "backbone":
        backbone = sasrec()
    sizes = {"dim": 16, "num_heads": 2, "feedforward_dim": 32, "history_length": LENGTH}
    config = Seq2SeqConfig(**{"num_decoder_layers": 1, **sizes, **options}, temperature=0.3)  # type: ignore[arg-type]
    trie = Trie.build(codes, (6, 6, 6))
    return Seq2Seq(config, trie, item_graph=graph, backbone=backbone).eval()


def default() -> Seq2Seq:
    """All that PRORec's default has: nodes of their own, stage I, the graph, the bias."""
    model = generator(
        with_graph=True,
        history_input="backbone",
        output_vocabulary="node",
        scoring="renormalized",
        history_bias=True,
        direct_path=True,
    )
    assert model.history_bias is not None
    model.history_bias.data.fill_(0.2)
    return model


GENERATORS = {
    "default": default,
    "codes": lambda: generator(
        history_input="codes", num_encoder_layers=1, num_decoder_layers=2, similarity="cosine"
    ),
}


def histories(count: int) -> Tensor:
    """Of different lengths, the second of them empty."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, NUM_ITEMS, (count, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
    lengths[1:2] = 0
    return rows.masked_fill(torch.arange(LENGTH) >= lengths, NUM_ITEMS)


class Method(nn.Module):
    """A method of a model, as torch.export wants it: the forward of a module."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, history: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = getattr(self.model, self.name)(history)
        return (result.states, result.padding, result.items) if self.name == "encode" else result


@torch.no_grad()
def exported(module: nn.Module) -> nn.Module:
    """A module exported from a batch of two, for batches of any size."""
    program = export(module.eval(), (histories(2),), dynamic_shapes=({0: Dim("batch", min=1)},))
    return program.module()


@torch.no_grad()
def check_same(module: nn.Module) -> None:
    """Compares what a module and its export return, whatever the size of the batch."""
    program = exported(module)
    for count in BATCHES:
        torch.testing.assert_close(program(histories(count)), module(histories(count)))


@pytest.mark.parametrize("options", [{}, {"positions": "newest", "similarity": "cosine"}])
def test_scores_of_all_items_are_exported(options: dict[str, object]) -> None:
    check_same(Method(sasrec(**options), "score"))


@pytest.mark.parametrize("name", GENERATORS)
def test_encoding_is_exported(name: str) -> None:
    check_same(Method(GENERATORS[name](), "encode"))


@pytest.mark.parametrize("name", GENERATORS)
def test_beam_search_is_exported_whole(name: str) -> None:
    model = GENERATORS[name]()
    program = exported(PaddedBeamSearch(model, num_beams=6, top_k=4))
    for count in BATCHES:
        with torch.no_grad():
            items, scores = program(histories(count))
        ranked = beam_search(model, model.trie, histories(count), num_beams=6, top_k=4)
        assert items.tolist() == ranked.items.tolist()
        torch.testing.assert_close(scores, ranked.scores)


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_steps_of_the_exported_decoder_are_the_states_of_a_whole_pass(name: str) -> None:
    model = GENERATORS[name]()
    encoder = exported(HistoryEncoder(model))
    step = exported_step(model)
    for count in BATCHES:
        memory = encoder(histories(count))
        items = torch.arange(count * 4).view(count, 4) % NUM_ITEMS  # [batch, beams]
        paths = model.trie.paths(items)  # [batch, beams, levels]
        tokens = nn.functional.pad(model.path_tokens(paths), (1, 0), value=model.vocabulary.bos)
        past = empty_past(model, *items.shape)
        queries = []
        for level in range(model.trie.num_levels):
            query, past = step(tokens[..., level], torch.tensor(level), *memory, past)
            queries.append(query)
        # The model's own way, all positions at once: each beam a history of its own.
        encoded = model.encode(histories(count).repeat_interleave(4, dim=0))
        states = model.path_states(encoded, paths.flatten(0, 1))  # [batch * beams, levels, dim]
        expected = model.compared(states).view(count, 4, -1, states.shape[2])
        torch.testing.assert_close(torch.stack(queries, dim=2), expected)


def empty_past(model: Seq2Seq, batch: int, beams: int) -> Tensor:
    config, levels = model.config, model.trie.num_levels
    head_dim = config.dim // config.num_heads
    return torch.zeros(
        batch, beams, config.num_decoder_layers, 2, config.num_heads, levels, head_dim
    )


@torch.no_grad()
def exported_step(model: Seq2Seq) -> nn.Module:
    """A step exported from two histories and three beams, for any numbers of both."""
    memory = HistoryEncoder(model)(histories(2))
    arguments = (torch.zeros(2, 3).long(), torch.tensor(0), *memory, empty_past(model, 2, 3))
    shapes = DecoderStep.dynamic_shapes()
    return export(DecoderStep(model), arguments, dynamic_shapes=shapes).module()


@torch.no_grad()
def test_a_decoder_overwrites_what_an_unused_place_of_its_past_holds() -> None:
    model = default()
    memory, step = HistoryEncoder(model)(histories(3)), DecoderStep(model)
    tokens, past = torch.full((3, 2), model.vocabulary.bos), empty_past(model, 3, 2)
    expected, _ = step(tokens, torch.tensor(0), *memory, past)
    query, filled = step(tokens, torch.tensor(0), *memory, past + 9)
    torch.testing.assert_close(query, expected)
    assert (filled[..., 1:, :] == 9).all()


@pytest.mark.parametrize("options", [{}, {"similarity": "cosine", "temperature": 0.1}])
@torch.no_grad()
def test_dot_products_of_exported_queries_are_the_scores(options: dict[str, object]) -> None:
    model = sasrec(**options)
    query = QueryState(model)
    program = exported(query)
    rows = query.rows(model.item_vectors())
    for count in BATCHES:
        scores = program(histories(count)) @ rows.T
        torch.testing.assert_close(scores, model.score(histories(count)), atol=1e-5, rtol=1e-5)


def test_a_memory_without_items_has_a_newest_state() -> None:
    states, padding = default().states(histories(2))
    memory = Memory(states=states, padding=padding, items=histories(2))
    assert memory.newest[1].tolist() == [0.0] * 16
    assert memory.newest[0].any()


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be in eval mode"):
        PaddedBeamSearch(default().train())
