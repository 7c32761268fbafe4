from __future__ import annotations

import math

import pytest
import torch
from genrec.decoding import beam_search, exact_scores, score_items
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie
from genrec.vocabulary import node_means
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

CODES = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0], [2, 2, 1]])
SIZES = (3, 3, 2)
SMALL = {"dim": 16, "num_decoder_layers": 2, "num_heads": 2, "feedforward_dim": 32}
KINDS = [
    {"history_input": "codes", "output_vocabulary": "level", "scoring": "masked"},
    {"history_input": "vectors", "output_vocabulary": "level", "scoring": "renormalized"},
    {"history_input": "both", "output_vocabulary": "node", "scoring": "renormalized"},
    {
        "history_input": "vectors",
        "output_vocabulary": "node",
        "scoring": "renormalized",
        "node_start": "vectors",
        "similarity": "cosine",
        "temperature": 0.2,
        "distillation_dim": 5,
        "train_item_vectors": True,
    },
]


def make(seed: int = 0, **options: object) -> Seq2Seq:
    torch.manual_seed(seed)
    config = Seq2SeqConfig(**{**SMALL, **options})  # type: ignore[arg-type]
    trie = Trie.build(CODES, SIZES)
    reads = config.history_input != "codes" or config.node_start == "vectors"
    model = Seq2Seq(config, trie, item_vectors=torch.randn(7, 6) if reads else None)
    for parameter in model.parameters():  # zeros and ones, too, must leave where they start
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def plain_log_prob(model: Seq2Seq, states: Tensor, target: int) -> list[float]:
    """The definition, in loops: a softmax at each level over what the config says."""
    config, codes = model.config, [tuple(row) for row in CODES.tolist()]
    goal = codes[target]
    result = []
    for level in range(3):
        siblings = sorted({c[: level + 1] for c in codes if c[:level] == goal[:level]})
        if config.output_vocabulary == "level":
            rows = {code: sum(SIZES[:level]) + code for code in range(SIZES[level])}
            legal = [prefix[-1] for prefix in siblings]
        else:
            prefixes = sorted({c[: level + 1] for c in codes})
            first = sum(len({c[: k + 1] for c in codes}) for k in range(level))
            rows = {p[-1]: first + prefixes.index(p) for p in siblings}
            legal = list(rows)
        if config.scoring == "masked":
            legal = list(range(SIZES[level]))
        logits = {}
        for code in legal:
            row = model.head.weight[rows[code]]
            if model.node_vectors is not None:
                row = row + model.head.projection(model.node_vectors[rows[code]])
            state = states[level]
            if config.similarity == "cosine":
                row, state = row / row.norm(), state / state.norm()
            logits[code] = float((row @ state).detach()) / config.temperature
        total = sum(math.exp(value) for value in logits.values())
        result.append(logits[goal[level]] - math.log(total))
    return result


@pytest.mark.parametrize("options", KINDS)
def test_forward_equals_the_definition_in_loops(options: dict[str, object]):
    model = make(**options)
    history, targets = torch.tensor([[3, 1, 0], [6, 7, 7]]), torch.tensor([1, 5])
    output = model(history, targets)
    memory = model.encode(history)
    paths = model.trie.paths(targets)
    tokens = F.pad(model.path_tokens(paths), (1, 0), value=model.vocabulary.bos)[:, :3]
    x = model.tokens(tokens, model.node_vectors)
    for layer in model.decoder_layers:
        projected = layer.cross_attention.project(memory.states)
        x = layer(x, projected, memory_padding=memory.padding)
    states = model.decoder_norm(x)
    for row in range(2):
        expected = torch.tensor(plain_log_prob(model, states[row], int(targets[row])))
        torch.testing.assert_close(output.log_prob[row], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, -output.log_prob.sum(dim=1).mean())


@pytest.mark.parametrize("options", KINDS)
def test_padding_side_and_batch_do_not_change_a_users_answer(options: dict[str, object]):
    model = make(**options)
    target = torch.tensor([4])
    alone = model(torch.tensor([[2, 5]]), target).log_prob
    for other in ([7, 7, 7, 2, 5], [2, 5, 7, 7, 7], [7, 2, 7, 7, 5]):
        batch = torch.tensor([other, [1, 2, 3, 4, 5], [7] * 5])
        together = model(batch, target.expand(3)).log_prob
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(torch.tensor([[5, 2]]), target).log_prob, alone)


def test_an_empty_history_is_finite_and_does_not_depend_on_its_padding():
    model = make(**KINDS[3])
    targets = torch.tensor([0])
    expected = model(torch.empty(1, 0, dtype=torch.long), targets)
    for length in (1, 4):
        output = model(torch.full((1, length), 7), targets)
        torch.testing.assert_close(output.log_prob, expected.log_prob)
        assert bool(output.distillation.isfinite().all())
    model(torch.full((1, 2), 7), targets).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_only_the_newest_items_are_read():
    model = make(history_length=2)
    targets = torch.tensor([3])
    expected = model(torch.tensor([[4, 5]]), targets).log_prob
    torch.testing.assert_close(model(torch.tensor([[0, 6, 4, 5]]), targets).log_prob, expected)
    assert model.encode(torch.tensor([[0, 6, 4, 5]])).states.shape == (1, 2 * 3, 16)
    # Padding comes first, whichever side it stood on; no data decide how much of it is kept.
    padded = model.encode(torch.tensor([[4, 7, 7, 7], [7, 7, 4, 7]]))
    assert padded.padding.tolist() == [[True] * 3 + [False] * 3] * 2
    torch.testing.assert_close(padded.states[0, 3:], model.encode(torch.tensor([[4]])).states[0])
    assert model.encode(torch.empty(1, 0, dtype=torch.long)).padding.tolist() == [[True] * 3]


def test_label_smoothing_spreads_over_the_children_of_the_parent():
    options = {"output_vocabulary": "node", "scoring": "renormalized", "label_smoothing": 0.3}
    model = make(**options)
    history, item = torch.tensor([[3, 1]]), 2  # codes 0 2 0: three siblings, then two, then itself
    log_probs = {i: model(history, torch.tensor([i])).log_prob[0] for i in range(7)}
    siblings = [[0, 3, 4], [0, 2], [2]]
    expected = sum(
        0.7 * log_probs[item][level] + 0.3 * sum(log_probs[i][level] for i in group) / len(group)
        for level, group in enumerate(siblings)
    )
    torch.testing.assert_close(model(history, torch.tensor([item])).loss, -expected)


def test_node_means_are_standardised_means_of_the_items_below():
    vectors = torch.randn(7, 4)
    rows = node_means(Trie.build(CODES, SIZES), vectors)
    means = torch.stack([vectors[[0, 1, 2]].mean(0), vectors[3], vectors[4:].mean(0)])
    expected = (means - means.mean(0)) / means.std(0, correction=0)
    torch.testing.assert_close(rows[:3], expected)
    assert rows.shape == (3 + 6 + 7, 4)


def test_nodes_start_where_their_vectors_put_them():
    torch.manual_seed(0)
    config = Seq2SeqConfig(
        **SMALL, output_vocabulary="node", scoring="renormalized", node_start="vectors"
    )
    vectors = torch.randn(7, 6)
    vectors[6] = vectors[5]
    model = Seq2Seq(config, Trie.build(CODES, SIZES), item_vectors=vectors)
    tables = model.tables()
    last = model.vocabulary.encode(model.trie.paths(torch.arange(7)))[:, 2]
    torch.testing.assert_close(tables.head[last[5]], tables.head[last[6]])
    torch.testing.assert_close(tables.tokens[last[5]], tables.tokens[last[6]])
    assert not torch.allclose(tables.head[last[4]], tables.head[last[6]])


def test_distillation_state_sees_all_codes_and_leaves_the_rest_alone():
    model = make(distillation_dim=5)
    history = torch.tensor([[3, 1]])
    first, other = (model(history, torch.tensor([item])) for item in (0, 1))
    assert first.distillation.shape == (1, 5)
    assert not torch.allclose(first.distillation, other.distillation)
    torch.testing.assert_close(first.log_prob[:, :2], other.log_prob[:, :2])


def test_the_first_state_is_distilled_from_the_history_alone():
    model = make(distillation_dim=5, distillation_state="first")
    history = torch.tensor([[3, 1]])
    first, other = (model(history, torch.tensor([item])) for item in (0, 6))
    torch.testing.assert_close(first.distillation, other.distillation)
    assert not torch.equal(first.log_prob, other.log_prob)
    state = model.dense_state(model.encode(history))
    torch.testing.assert_close(state, first.distillation)
    assert not torch.allclose(state, model.dense_state(model.encode(torch.tensor([[2, 4]]))))
    paper = make(distillation_dim=5)
    torch.testing.assert_close(paper(history, torch.tensor([0])).log_prob, first.log_prob)
    with pytest.raises(ValueError, match='distillation_state must be "first"'):
        paper.dense_state(paper.encode(history))
    with pytest.raises(ValueError, match='must be "last" when distillation_dim is None'):
        make(distillation_state="first")


@pytest.mark.parametrize("options", KINDS)
def test_one_batch_overfits(options: dict[str, object]):
    model = make(**options, dropout=0.0).train()
    history = torch.tensor([[0, 1], [2, 7], [3, 4], [5, 6]])
    targets = torch.tensor([6, 1, 0, 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = float(model(history, targets).loss.detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(history, targets).loss
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * before


def test_bf16_autocast_keeps_log_probs_in_fp32():
    model = make(**KINDS[3]).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.tensor([[3, 1, 0]]), torch.tensor([1]))
    assert output.log_prob.dtype == torch.float32
    output.loss.backward()
    assert bool(model.head.weight.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_vocabulary": "node"}, 'scoring must be "renormalized"'),
        ({"node_start": "vectors"}, 'node_start must be "random"'),
        ({"train_item_vectors": True}, "train_item_vectors must be false"),
        (
            {"history_input": "ids"},
            "history_input must be one of vectors, codes, both, backbone, got 'ids'",
        ),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"dim": 130}, "dim must be a multiple of num_heads, got 130 and 4"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_config_refuses(options: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        Seq2SeqConfig(**options)  # type: ignore[arg-type]


def test_tiger_is_four_layers_over_codes_without_a_distillation_state():
    config = Seq2SeqConfig.tiger(dropout=0.0)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (4, 4)
    assert (config.history_input, config.output_vocabulary) == ("codes", "level")
    assert config.dropout == 0.0
    model = Seq2Seq(config, Trie.build(CODES, SIZES))
    assert model(torch.tensor([[1, 2]]), torch.tensor([3])).distillation is None


@pytest.mark.parametrize("history_input", ["codes", "vectors"])
def test_what_is_no_item_row_is_refused(history_input: str):
    model = make(history_input=history_input).eval()
    trie, size, items = model.trie, model.trie.num_items, torch.tensor([[0]])
    for row in (-1, size + 1):
        history, words = torch.tensor([[1, row]]), f"history .* {size} as padding, got {row}"
        for refuse in (
            lambda history: beam_search(model, trie, history, top_k=1),
            lambda history: exact_scores(model, trie, history),
            lambda history: score_items(model, trie, history, items),
        ):
            with pytest.raises(ValueError, match=words):
                refuse(history)
        # The model itself waits for no check: torch's look-ups refuse the row, and read no other.
        with pytest.raises(IndexError):
            model(history, torch.tensor([0]))
    for row in (-1, size):
        with pytest.raises(IndexError):
            model(torch.tensor([[1], [size]]), torch.tensor([0, row]))


def test_item_vectors_are_checked():
    trie = Trie.build(CODES, SIZES)
    reads = Seq2SeqConfig(**SMALL, history_input="vectors")
    with pytest.raises(ValueError, match="one row for each of 7 items, got shape"):
        Seq2Seq(reads, trie, item_vectors=torch.zeros(6, 4))
    vectors = torch.zeros(7, 4)
    vectors[3, 1] = torch.nan
    with pytest.raises(ValueError, match="got NaN or infinity in row 3"):
        Seq2Seq(reads, trie, item_vectors=vectors)
    with pytest.raises(ValueError, match="item_vectors must be None when neither"):
        Seq2Seq(Seq2SeqConfig(**SMALL), trie, item_vectors=torch.zeros(7, 4))
    config = Seq2SeqConfig(
        **SMALL, output_vocabulary="node", scoring="renormalized", node_start="vectors"
    )
    with pytest.raises(ValueError, match="item_vectors must be given when node_start is vectors"):
        Seq2Seq(config, trie)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500))
def test_a_teacher_is_followed_among_the_siblings_of_the_targets_path(seed: int):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.cartesian_prod(*[torch.arange(3)] * 3)
    codes = codes[torch.randperm(27, generator=generator)[:11]]
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, scoring="renormalized")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Seq2Seq(config, Trie.build(codes, (3, 3, 3))).eval()
    history = torch.randint(0, 11, (4, 3), generator=generator)
    targets = torch.randint(0, 11, (4,), generator=generator)
    teacher = torch.rand(4, 11, generator=generator)
    teacher[0] = 0.0  # knows nothing: every sibling alike
    output = model(history, targets, teacher=teacher)
    log_p = exact_scores(model, model.trie, history).exp()
    expected = 0.0
    for row, target in enumerate(targets.tolist()):
        for level in range(3):
            siblings = (codes[:, :level] == codes[target, :level]).all(dim=1)
            names = sorted(set(codes[siblings, level].tolist()))
            below = [siblings & (codes[:, level] == name) for name in names]
            says = torch.tensor([float(teacher[row, mask].sum()) for mask in below])
            says = says / says.sum() if says.sum() else torch.full((len(names),), 1 / len(names))
            model_says = torch.tensor([float(log_p[row, mask].sum()) for mask in below])
            expected -= float((says * (model_says / model_says.sum()).log()).sum())
    assert output.taught is not None
    assert float(output.taught.detach()) == pytest.approx(expected / 4, abs=1e-4)
    assert model(history, targets).taught is None
