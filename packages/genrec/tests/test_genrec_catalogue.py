from __future__ import annotations

import math

import pytest
import torch
from genrec.backbones import SASRec
from genrec.catalogue import grown, with_catalogue
from genrec.decoding import beam_search, exact_scores
from genrec.item_graph import ItemGraph, ItemMatrix
from genrec.recommender import Recommender
from genrec.saved_seq2seq import load_model, save_model
from genrec.seq2seq import Seq2Seq
from genrec.seq2seq_config import Seq2SeqConfig
from genrec.trie import Trie

CODES = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2))[:22]
NUM_ITEMS = len(CODES)
NODES = {"output_vocabulary": "node", "scoring": "renormalized"}


def make(*, with_vectors: bool = False, **options: object) -> Seq2Seq:
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, **options)  # type: ignore[arg-type]
    vectors = torch.randn(NUM_ITEMS, 5) if with_vectors else None
    return Seq2Seq(config, Trie.build(CODES, (4, 3, 2)), item_vectors=vectors).eval()


def test_new_items_work_at_once_where_all_is_codes():
    """As if the model had been made with the new catalogue and given the trained weights."""
    model = make()
    codes = torch.cat([CODES[5:], torch.tensor([[3, 2, 0], [3, 2, 1]])])
    trie = Trie.build(codes, (4, 3, 2))
    old_rows = torch.tensor([*range(5, NUM_ITEMS), -1, -1])
    fresh = Seq2Seq(model.config, trie).eval()
    fresh.load_state_dict(model.state_dict())
    new = with_catalogue(model, trie, old_rows)
    history = torch.tensor([[3, 18, 17], [0, 19, 19]])
    scores = exact_scores(new, new.trie, history)
    torch.testing.assert_close(scores, exact_scores(fresh, trie, history))
    assert new.head.weight is model.head.weight
    assert model.trie.num_items == model.history.num_items == NUM_ITEMS
    expected = exact_scores(model, model.trie, torch.tensor([[8, 9]]))[:, 5:]
    torch.testing.assert_close(exact_scores(new, trie, torch.tensor([[3, 4]]))[:, :-2], expected)


@pytest.mark.parametrize("with_vectors", [False, True])
def test_items_can_be_removed_and_moved_where_rows_are_learned_node_by_node(with_vectors: bool):
    options = {"node_start": "vectors", "history_input": "both"} if with_vectors else {}
    model = make(with_vectors=with_vectors, **NODES, **options)
    kept = torch.randperm(NUM_ITEMS)
    trie = Trie.build(CODES[kept], (4, 3, 2))
    new = with_catalogue(model, trie, kept)
    history = torch.tensor([[3, 18, 17], [0, 19, 20]])
    expected = exact_scores(model, model.trie, kept[history])[:, kept]
    torch.testing.assert_close(exact_scores(new, trie, history), expected)
    fewer = Trie.build(CODES[kept[:9]], (4, 3, 2))
    small = with_catalogue(model, fewer, kept[:9])
    ranked = beam_search(small, fewer, torch.tensor([[1, 2]]), num_beams=9, top_k=9)
    assert sorted(ranked.items[0].tolist()) == list(range(9))


def test_an_item_graph_follows_its_items():
    """Removed and moved items keep their edges; an item that is new has none."""
    generator = torch.Generator().manual_seed(0)
    is_edge = torch.rand(NUM_ITEMS, NUM_ITEMS, generator=generator) < 0.4
    weights = torch.rand(NUM_ITEMS, NUM_ITEMS, generator=generator) * is_edge
    graph = ItemGraph.build(
        NUM_ITEMS,
        [
            ItemMatrix(
                offsets=torch.nn.functional.pad(is_edge.sum(dim=1).cumsum(0), (1, 0)),
                neighbours=is_edge.nonzero()[:, 1],
                weights=weights[is_edge],
                decay=0.5,
            )
        ],
    )
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, scoring="renormalized")
    counts = torch.randint(0, 99, (NUM_ITEMS,), generator=generator)
    model = Seq2Seq(config, Trie.build(CODES, (4, 3, 2)), item_graph=graph, item_counts=counts)
    model.eval()
    assert model.score_logits is not None
    assert model.score_logits.item_counts(model.trie).tolist() == counts.tolist()
    kept = torch.randperm(NUM_ITEMS, generator=generator)[:15]
    codes = torch.cat([CODES[kept], torch.tensor([[3, 2, 1]])])
    new = with_catalogue(
        model, Trie.build(codes, (4, 3, 2)), torch.cat([kept, -torch.ones(1).long()])
    )
    assert new.item_graph is not None
    new.item_graph.check()
    history = torch.tensor([[3, 14, 7], [15, 0, 16]])
    table = torch.zeros(16, 16)
    table[:15, :15] = weights[kept][:, kept]
    scores = new.item_graph(history).dense(2, 16)[0]
    torch.testing.assert_close(scores[0], table[7] + table[14] / 2 + table[3] / 4)
    torch.testing.assert_close(scores[1], table[0])
    assert torch.isfinite(exact_scores(new, new.trie, history)).all()
    assert new.score_logits is not None
    assert new.score_logits.item_counts(new.trie).tolist() == [*counts[kept].tolist(), 0]
    roots = new.score_logits.log_counts[: new.trie.level_sizes[0]].expm1().sum()
    assert float(roots) == pytest.approx(int(counts[kept].sum()), rel=1e-4)


def test_a_backbone_that_reads_the_history_keeps_the_items_that_stay():
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, history_input="backbone")
    model = Seq2Seq(config, Trie.build(CODES, (4, 3, 2)), backbone=SASRec(NUM_ITEMS, dim=8)).eval()
    kept = torch.randperm(NUM_ITEMS)
    trie = Trie.build(CODES[kept], (4, 3, 2))
    history = torch.tensor([[3, 18, 17], [0, 19, 20]])
    expected = exact_scores(model, model.trie, kept[history])[:, kept]
    torch.testing.assert_close(
        exact_scores(with_catalogue(model, trie, kept), trie, history), expected
    )
    kept[2] = -1
    with pytest.raises(ValueError, match=r"must not be -1 where a backbone .* got -1 for item 2"):
        with_catalogue(model, trie, kept)


def test_new_items_bring_their_vectors_where_histories_are_vectors():
    model = make(with_vectors=True, history_input="vectors")
    codes = torch.cat([CODES, torch.tensor([[3, 2, 0]])])
    trie = Trie.build(codes, (4, 3, 2))
    old_rows = torch.tensor([*range(NUM_ITEMS), -1])
    vectors = torch.randn(NUM_ITEMS + 1, 5)
    new = with_catalogue(model, trie, old_rows, item_vectors=vectors)
    assert torch.equal(new.history.item_vectors[-1], vectors[-1])
    assert torch.equal(new.history.item_vectors[:-1], model.history.item_vectors)
    assert exact_scores(new, trie, torch.tensor([[NUM_ITEMS]])).isfinite().all()
    with pytest.raises(ValueError, match=r"item_vectors must be given for new items.*got None"):
        with_catalogue(model, trie, old_rows)


@pytest.mark.usefixtures("unchecked")
def test_what_no_training_ever_saw_is_refused():
    trie = Trie.build(torch.cat([CODES, torch.tensor([[3, 2, 0]])]), (4, 3, 2))
    old_rows = torch.tensor([*range(NUM_ITEMS), -1])
    with pytest.raises(ValueError, match=r'known where .* "node", got \[3, 2\] for item 22'):
        with_catalogue(make(**NODES), trie, old_rows)
    with pytest.raises(ValueError, match="learned item by item, got -1 for item 22"):
        with_catalogue(make(history_input="vectors"), trie, old_rows)
    with pytest.raises(
        ValueError, match=r"the model's codebook_sizes \(4, 3, 2\), got \(4, 3, 3\)"
    ):
        with_catalogue(make(), Trie.build(CODES, (4, 3, 3)), old_rows[:-1])
    with pytest.raises(ValueError, match="one row for each of 23 items, got shape"):
        with_catalogue(make(), trie, old_rows[:-1])


def test_a_recommender_takes_a_new_catalogue_by_id():
    ids = [f"item-{row}" for row in range(NUM_ITEMS)]
    old = Recommender(make(), ids)
    codes = torch.cat([torch.tensor([[3, 2, 0]]), CODES[2:]])
    new = old.with_catalogue(codes, ["new", *ids[2:]], popularity=torch.ones(21, dtype=torch.long))
    (answer,) = new.recommend([["item-3", "item-0", "new"]], top_k=21)
    assert answer.unknown == 1
    assert sorted(item.item_id for item in answer.items) == sorted(["new", *ids[2:]])
    with pytest.raises(ValueError, match="one id for each of 21 items, got 20"):
        old.with_catalogue(codes, ids[:20])
    with pytest.raises(ValueError, match="got 'item-2' twice"):
        old.with_catalogue(codes, ["item-2", *ids[2:]])
    (before,) = old.recommend([["item-3"]], top_k=NUM_ITEMS)
    (after,) = new.recommend([["item-3"]], top_k=21)
    scores = {item.item_id: item.score for item in before.items}
    for item in after.items:
        if item.item_id != "new":
            assert item.score == pytest.approx(scores[item.item_id], abs=1e-5)


FULL = {"node_start": "vectors", "history_input": "backbone", **NODES}


def graph_of(num_items: int, seed: int = 0) -> ItemGraph:
    generator = torch.Generator().manual_seed(seed)
    is_edge = torch.rand(num_items, num_items, generator=generator) < 0.3
    matrix = ItemMatrix(
        offsets=torch.nn.functional.pad(is_edge.sum(dim=1).cumsum(0), (1, 0)),
        neighbours=is_edge.nonzero()[:, 1],
        weights=torch.rand(num_items, num_items, generator=generator)[is_edge],
        decay=0.5,
    )
    return ItemGraph.build(num_items, [matrix])


def trained(rows: torch.Tensor) -> Seq2Seq:
    """A model of some of the items whose every weight is as if it had been trained."""
    torch.manual_seed(0)
    config = Seq2SeqConfig(dim=8, num_heads=2, feedforward_dim=8, **FULL)  # type: ignore[arg-type]
    model = Seq2Seq(
        config,
        Trie.build(CODES[rows], (4, 3, 2)),
        item_vectors=torch.randn(len(rows), 5),
        item_graph=graph_of(len(rows)),
        item_counts=torch.arange(len(rows)),
        backbone=SASRec(len(rows), dim=8),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def sibling_log_probs(model: Seq2Seq, history: torch.Tensor) -> list[dict[tuple[int, ...], float]]:
    """Of each level, log p of each prefix of codes among its siblings, by the plain definition."""
    trie, levels = model.trie, []
    scores = exact_scores(model, trie, history)[0].double()
    for level in range(1, trie.num_levels + 1):
        mass: dict[tuple[int, ...], float] = {}
        for codes, score in zip(trie.codes.tolist(), scores.exp().tolist(), strict=True):
            prefix = tuple(codes[:level])
            mass[prefix] = mass.get(prefix, 0.0) + score
        parents: dict[tuple[int, ...], float] = {}
        for prefix, share in mass.items():
            parents[prefix[:-1]] = parents.get(prefix[:-1], 0.0) + share
        levels.append(
            {prefix: math.log(share / parents[prefix[:-1]]) for prefix, share in mass.items()}
        )
    return levels


def test_a_model_without_new_items_grows_into_itself():
    model = trained(torch.arange(NUM_ITEMS))
    kept = torch.randperm(NUM_ITEMS)
    trie = Trie.build(CODES[kept], (4, 3, 2))
    new = grown(model, trie, kept)
    history = torch.tensor([[3, 18, 17], [0, 19, 20]])
    expected = exact_scores(model, model.trie, kept[history])[:, kept]
    torch.testing.assert_close(exact_scores(new, trie, history), expected)
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in new.parameters()}
    assert not shared
    assert new.state_dict().keys() == model.state_dict().keys()
    assert [p.requires_grad for p in new.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


@pytest.mark.parametrize("seed", range(6))
def test_new_items_move_nothing_between_old_siblings(seed: int):
    """Children of a node that are all old keep their log-probabilities to one another."""
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(NUM_ITEMS, generator=drawn)
    old, all_rows = order[: 12 + seed], torch.randperm(NUM_ITEMS, generator=drawn)
    model = trained(old)
    old_rows = torch.tensor([old.tolist().index(r) if r in old else -1 for r in all_rows.tolist()])
    trie = Trie.build(CODES[all_rows], (4, 3, 2))
    is_new = (old_rows < 0)[:, None]
    vectors, backbone_vectors = torch.randn(NUM_ITEMS, 5), torch.randn(NUM_ITEMS, 8)
    new = grown(model, trie, old_rows, item_vectors=vectors, backbone_vectors=backbone_vectors)
    assert new.backbone is not None
    assert model.backbone is not None
    table = torch.where(is_new, backbone_vectors, model.backbone.item_vectors()[old_rows])
    assert torch.equal(new.backbone.item_vectors(), table)
    history = torch.tensor([[3, 1, 5]])
    now = torch.tensor([[old_rows.tolist().index(row) for row in history[0].tolist()]])
    before, after = sibling_log_probs(model, history), sibling_log_probs(new, now)
    for old_level, new_level in zip(before, after, strict=True):
        for prefix, log_prob in old_level.items():
            family = [p for p in old_level if p[:-1] == prefix[:-1]]
            for sibling in family:
                gap = new_level[prefix] - new_level[sibling]
                # popularity and the history's bias may have moved where new items came below
                below = {tuple(c[: len(prefix)]) for c in trie.codes[old_rows < 0].tolist()}
                if prefix not in below and sibling not in below:
                    assert gap == pytest.approx(log_prob - old_level[sibling], abs=2e-4)


def test_a_new_node_starts_where_its_vector_puts_it():
    """By a plain loop: the mean of its items' vectors at the scale of the level's old nodes."""
    old, model = torch.arange(16), trained(torch.arange(16))
    trie = Trie.build(CODES, (4, 3, 2))
    old_rows = torch.cat([old, -torch.ones(NUM_ITEMS - 16).long()])
    vectors = torch.randn(NUM_ITEMS, 5)
    new = grown(
        model, trie, old_rows, item_vectors=vectors, backbone_vectors=torch.randn(NUM_ITEMS, 8)
    )
    assert new.node_vectors is not None
    old_paths = {tuple(codes[:depth]) for codes in CODES[:16].tolist() for depth in range(1, 4)}
    row = 0
    for depth in range(1, 4):
        prefixes = sorted({tuple(codes[:depth]) for codes in CODES.tolist()})
        means = {
            prefix: vectors[
                [i for i, c in enumerate(CODES.tolist()) if tuple(c[:depth]) == prefix]
            ].mean(dim=0)
            for prefix in prefixes
        }
        known = torch.stack([means[prefix] for prefix in prefixes if prefix in old_paths])
        for prefix in prefixes:
            if prefix not in old_paths:
                start = (means[prefix] - known.mean(0)) / known.std(0, correction=0)
                torch.testing.assert_close(new.node_vectors[row], start)
                assert not new.tokens.weight[row].any()
                assert not new.head.weight[row].any()
            row += 1
    assert row == len(new.node_vectors)


def test_a_grown_model_is_trained_and_saved_like_any_other(tmp_path):
    model, trie = trained(torch.arange(16)), Trie.build(CODES, (4, 3, 2))
    old_rows = torch.cat([torch.arange(16), -torch.ones(NUM_ITEMS - 16).long()])
    graph, counts = graph_of(NUM_ITEMS, seed=1), torch.arange(NUM_ITEMS) + 1
    new = grown(
        model,
        trie,
        old_rows,
        item_vectors=torch.randn(NUM_ITEMS, 5),
        backbone_vectors=torch.randn(NUM_ITEMS, 8),
        item_graph=graph,
        item_counts=counts,
    )
    assert new.score_logits is not None
    assert new.score_logits.item_counts(trie).tolist() == counts.tolist()
    assert new.item_graph is graph or torch.equal(new.item_graph.weights, graph.weights)
    history, before = torch.tensor([[3, 18, 17]]), model.tokens.weight.clone()
    optimizer = torch.optim.Adam(new.parameters(), lr=0.05)
    first = new(history, torch.tensor([21])).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        new(history, torch.tensor([21])).loss.backward()
        optimizer.step()
    assert new(history, torch.tensor([21])).loss.item() < first
    assert torch.equal(model.tokens.weight, before)
    new.eval()
    save_model(tmp_path / "model", new, [f"item-{row}" for row in range(NUM_ITEMS)])
    loaded = load_model(tmp_path / "model").model
    torch.testing.assert_close(
        exact_scores(loaded, loaded.trie, history), exact_scores(new, trie, history)
    )


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_grow_is_refused():
    trie = Trie.build(torch.cat([CODES, torch.tensor([[3, 2, 0]])]), (4, 3, 2))
    old_rows = torch.tensor([*range(NUM_ITEMS), -1])
    with pytest.raises(ValueError, match=r'known where .* "node", got \[3, 2\] for item 22'):
        grown(make(**NODES), trie, old_rows)
    with pytest.raises(ValueError, match="where a backbone reads the history, got -1 for item 22"):
        grown(trained(torch.arange(NUM_ITEMS)), trie, old_rows)
    options = {"backbone_vectors": torch.randn(23, 8)}
    with pytest.raises(ValueError, match=r"item_vectors must be given where nodes .*\(23, 5\)"):
        grown(trained(torch.arange(NUM_ITEMS)), trie, old_rows, **options)
    with pytest.raises(ValueError, match=r"backbone_vectors must have shape \(23, 8\)"):
        grown(trained(torch.arange(NUM_ITEMS)), trie, old_rows, backbone_vectors=torch.randn(22, 8))
    options |= {"item_vectors": torch.randn(23, 5), "item_graph": graph_of(22)}
    with pytest.raises(ValueError, match="item_graph must be of 23 items and 1 kinds"):
        grown(trained(torch.arange(NUM_ITEMS)), trie, old_rows, **options)
