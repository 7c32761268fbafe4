from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evalrec import (
    DataError,
    Interactions,
    Queries,
    check_interactions,
    check_split,
    find_interactions,
    find_items,
    leave_last_n,
    leave_one_out,
    read_interactions,
    read_item_ids,
    read_split,
    temporal_split,
    write_synthetic,
)

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def read_folder(folder: Path) -> Interactions:
    ids = read_item_ids(find_items(folder))
    return read_interactions(find_interactions(folder), item_ids=ids)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Interactions:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    return read_folder(write_synthetic(folder, num_items=200, num_users=400))


@pytest.fixture(scope="module", params=["amazon14_beauty", "amazon18_games"])
def real(request) -> Interactions:
    if not (DATA / request.param).is_dir():
        pytest.skip(f"{DATA / request.param} is absent")
    return read_folder(DATA / request.param)


@pytest.fixture(scope="module")
def beauty() -> Interactions:
    folder = DATA / "amazon14_beauty"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return read_folder(folder)


def retimed(table: Interactions, timestamps: np.ndarray, **changes) -> Interactions:
    return replace(table, **{"timestamps": timestamps, **changes})


def by_id(table: Interactions) -> np.ndarray:
    """The place of each interaction's item among the ids in order."""
    order = sorted(range(table.num_items), key=table.item_ids.__getitem__)
    ranks = np.empty(table.num_items, dtype=np.int64)
    ranks[order] = np.arange(table.num_items)
    return ranks[table.items]


def finding_of(findings, code: str):
    matching = [finding for finding in findings if finding.code == code]
    assert len(matching) == 1, [finding.code for finding in findings]
    return matching[0]


def codes(findings) -> set[str]:
    return {finding.code for finding in findings}


def test_real_data_is_no_false_alarm(real):
    findings = check_interactions(real)
    assert not any(finding.severity == "error" for finding in findings)
    assert codes(findings) <= {"order-leans-to-id", "no-times"}
    assert codes(check_split(leave_one_out(real), real)) == {"cold-targets"}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_copy_of_real_data_sorted_by_id_is_flagged(beauty, sign):
    finding = finding_of(check_interactions(retimed(beauty, sign * by_id(beauty))), "sorted-by-id")
    assert finding.severity == "error"
    assert ("ascend" if sign > 0 else "descend") in finding.message


def test_a_copy_sorted_by_row_is_flagged_whatever_the_ids(beauty):
    ids = np.random.default_rng(0).permutation(beauty.num_items)
    shuffled = replace(beauty, item_ids=tuple(f"{each:08x}" for each in ids))
    assert "sorted-by-id" not in codes(check_interactions(shuffled))
    finding = finding_of(check_interactions(retimed(shuffled, shuffled.items)), "sorted-by-id")
    assert "by item row" in finding.message


def test_numbers_are_compared_as_numbers(synthetic):
    ids = np.random.default_rng(0).permutation(synthetic.num_items) + 1  # "9" follows "10" as text
    numbered = replace(synthetic, item_ids=tuple(map(str, ids)))
    assert codes(check_interactions(numbered)) <= {"unused-items"}
    finding = finding_of(check_interactions(retimed(numbered, ids[numbered.items])), "sorted-by-id")
    assert finding.message.endswith("neighbours ascend by id as a number; by chance half would.")
    assert "100.0%" in finding.message


def test_ids_in_the_order_of_distinct_times_are_a_warning():
    """Articles are numbered as they come in, and bought soon: the order by id is the truth."""
    generator = np.random.default_rng(0)
    items = np.sort(generator.integers(0, 300, size=(200, 6)), axis=1).ravel()
    table = Interactions(
        users=np.repeat(np.arange(200), 6),
        items=items,
        timestamps=1_700_000_000 + 86_400 * items + generator.integers(0, 86_400, items.size),
        user_ids=tuple(map(str, range(200))),
        item_ids=tuple(f"{each:05d}" for each in range(300)),
    )
    finding = finding_of(check_interactions(table), "sorted-by-id")
    assert finding.severity == "warning"
    assert finding.message.startswith("Distinct times order the sequences, and by them 100.0%")
    positions = retimed(table, np.arange(len(table)))  # which are no times
    finding = finding_of(check_interactions(positions), "sorted-by-id")
    assert finding.severity == "error"
    assert "not by time" in finding.message


def test_rows_given_by_first_appearance_are_no_alarm():
    # Every user has items that nobody had before, but for one: rows ascend of themselves.
    users = np.repeat(np.arange(50), 6)
    items = np.arange(300)
    table = Interactions(
        users=users,
        items=items,
        timestamps=np.arange(300),
        user_ids=tuple(map(str, range(50))),
        item_ids=tuple(f"{each:x}" for each in np.random.default_rng(0).permutation(300) + 999),
    )
    assert "sorted-by-id" not in codes(check_interactions(table))


def test_few_neighbours_prove_nothing():
    table = Interactions(
        users=np.repeat(np.arange(3), 4),
        items=np.tile(np.arange(4), 3),
        timestamps=np.tile(np.arange(4) * 7, 3),
        user_ids=("a", "b", "c"),
        item_ids=("p", "q", "r", "s"),
    )
    assert codes(check_interactions(table)) == set()  # nine of nine ascend: 2 ** -9


def test_ties_broken_by_id_are_told(synthetic):
    weeks = synthetic.timestamps // 10_000_000
    order = np.lexsort((by_id(synthetic), weeks, synthetic.users))
    table = Interactions(
        users=synthetic.users[order],
        items=synthetic.items[order],
        timestamps=weeks[order],
        user_ids=synthetic.user_ids,
        item_ids=synthetic.item_ids,
    )
    findings = check_interactions(table)
    ties = finding_of(findings, "equal-timestamps")
    same = (table.users[1:] == table.users[:-1]) & (table.timestamps[1:] == table.timestamps[:-1])
    assert ties.count == same.sum() > 0
    assert ties.severity == "warning"
    assert "by chance half would" in " ".join(finding.message for finding in findings)


def test_repeats_positions_and_unused_items_are_counted(synthetic):
    starts = np.concatenate([np.arange(len(each)) for each in synthetic.histories()])
    items = np.array(synthetic.items)
    items[1], items[4] = items[0], items[3]
    table = replace(
        synthetic, items=items, timestamps=starts, item_ids=(*synthetic.item_ids, "unused")
    )
    findings = check_interactions(table)
    assert finding_of(findings, "repeated-pairs").count == 2
    assert finding_of(findings, "no-times").count == len(table)
    assert finding_of(findings, "unused-items").count == table.num_items - len(np.unique(items))
    ranks = [("error", "warning", "info").index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)


def test_sound_splits_have_no_errors(synthetic):
    middle, late = np.quantile(synthetic.timestamps, [0.6, 0.8]).astype(int).tolist()
    for split in (
        leave_one_out(synthetic),
        leave_one_out(synthetic, max_history=2),
        leave_last_n(synthetic, n=2),
        temporal_split(synthetic, validation_time=middle, test_time=late),
    ):
        for table in (None, synthetic):
            findings = check_split(split, table)
            assert not any(finding.severity == "error" for finding in findings)


def test_cold_targets_are_counted(synthetic):
    split = leave_one_out(synthetic)
    trained = {int(item) for history in split.train for item in history}
    cold = sum(int(target) not in trained for target in split.test.targets)
    lone = replace(split, train=[history[:1] for history in split.train])
    trained = {int(history[0]) for history in split.train}
    expected = sum(int(target) not in trained for target in split.test.targets)
    messages = [each.message for each in check_split(lone) if each.code == "cold-targets"]
    assert expected > cold
    assert any(message.startswith(f"{expected:,} of 400 test targets") for message in messages)


@pytest.mark.parametrize("with_table", [True, False])
def test_a_target_planted_in_its_history_is_finding_of(synthetic, with_table):
    split = leave_one_out(synthetic)
    histories = list(split.test.histories)
    for query in (3, 5):
        histories[query] = np.append(histories[query], split.test.targets[query])
    leaky = replace(split, test=replace(split.test, histories=histories))
    finding = finding_of(check_split(leaky, synthetic if with_table else None), "target-in-history")
    assert (finding.severity, finding.count) == ("error", 2)


@pytest.mark.parametrize("with_table", [True, False])
def test_a_test_item_planted_in_the_training_pairs_is_finding_of(synthetic, with_table):
    split = leave_one_out(synthetic)
    train = list(split.train)
    for query in (0, 7, 9):
        train[query] = np.append(split.test.targets[query], train[query])
    leaky = replace(split, train=train)
    finding = finding_of(
        check_split(leaky, synthetic if with_table else None), "target-in-training"
    )
    assert (finding.severity, finding.count) == ("error", 3)
    assert "3 of 400 test targets" in finding.message


def test_a_history_from_the_future_is_finding_of(synthetic):
    split = leave_one_out(synthetic)
    full = synthetic.histories()
    histories = list(split.validation.histories)
    histories[4] = np.append(histories[4], full[4][-1])
    leaky = replace(split, validation=replace(split.validation, histories=histories))
    assert finding_of(check_split(leaky, synthetic), "history-from-future").count == 1
    assert "history-from-future" not in codes(check_split(split, synthetic))


def test_targets_shared_by_validation_and_test_are_finding_of(synthetic):
    split = leave_one_out(synthetic)
    targets = np.array(split.validation.targets)
    targets[:4] = split.test.targets[:4]
    leaky = replace(split, validation=replace(split.validation, targets=targets))
    assert finding_of(check_split(leaky), "shared-targets").count == 4


def test_repeats_are_no_leak_where_the_table_has_them():
    # User a had x twice: training x, asked for x again. User b had y once, and it leaked.
    table = Interactions(
        users=np.array([0, 0, 0, 1, 1, 1]),
        items=np.array([0, 1, 0, 1, 0, 2]),
        timestamps=np.array([1, 2, 3, 1, 2, 3]),
        user_ids=("a", "b"),
        item_ids=("x", "y", "z"),
    )
    split = leave_one_out(table)
    findings = check_split(split, table)
    repeated = finding_of(findings, "repeated-targets")
    assert (repeated.severity, repeated.count) == ("warning", 1)
    assert not any(finding.severity == "error" for finding in findings)
    assert finding_of(check_split(split), "target-in-history").severity == "error"  # who can tell
    leaky = replace(split, train=[split.train[0], np.array([1, 2])])
    assert finding_of(check_split(leaky, table), "target-in-training").count == 1


def test_users_of_the_parts_are_compared(synthetic):
    split = leave_last_n(synthetic, n=2)
    assert counts_of(split, "several-queries-a-user") == [400, 400]
    fewer = replace(split, users=split.users[:-3], train=split.train[:-3])
    assert counts_of(fewer, "users-without-training") == [6, 6]
    dropped = leave_one_out(synthetic, min_interactions=10)
    assert finding_of(check_split(dropped), "dropped-users").count == dropped.num_dropped > 0


def counts_of(split, code):
    return [finding.count for finding in check_split(split) if finding.code == code]


def test_queries_without_users_are_checked_as_far_as_they_can_be():
    queries = Queries(
        histories=[np.array([0, 1])],
        targets=np.array([1]),
        num_items=3,
        cold=np.array([False]),
    )
    split = replace(
        leave_one_out(
            Interactions(
                users=np.zeros(3, dtype=np.int64),
                items=np.arange(3),
                timestamps=np.arange(3),
                user_ids=("u",),
                item_ids=("a", "b", "c"),
            )
        ),
        test=queries,
    )
    assert finding_of(check_split(split), "target-in-history").count == 1


def test_a_table_of_other_items_is_refused(synthetic):
    more = replace(synthetic, item_ids=(*synthetic.item_ids, "more"))
    with pytest.raises(ValueError, match="interactions must be of the split's 200 items, got 201"):
        check_split(leave_one_out(synthetic), more)


def write_parts(folder: Path, table: Interactions, parts: dict[str, np.ndarray]) -> list[Path]:
    paths = []
    for part, rows in parts.items():
        lines = ["user_id,item_id,timestamp"]
        lines += [
            f"{table.user_ids[table.users[row]]},{table.item_ids[table.items[row]]},"
            f"{table.timestamps[row]}"
            for row in rows
        ]
        paths.append(folder / f"mine.{part}.csv")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def leave_one_out_rows(table: Interactions) -> dict[str, np.ndarray]:
    ends = np.cumsum(np.bincount(table.users)) - 1
    train = np.setdiff1d(np.arange(len(table)), np.concatenate([ends, ends - 1]))
    return {"train": train, "valid": ends - 1, "test": ends}


def test_a_split_in_files_is_the_one_that_was_written(synthetic, tmp_path):
    split = read_split(write_parts(tmp_path, synthetic, leave_one_out_rows(synthetic)), synthetic)
    expected = leave_one_out(synthetic)
    assert split.counts == expected.counts
    for name in ("validation", "test"):
        got, want = getattr(split, name), getattr(expected, name)
        assert np.array_equal(got.targets, want.targets)
        assert np.array_equal(got.cold, want.cold)
        for history, expected_history in zip(got.histories, want.histories, strict=True):
            assert np.array_equal(history, expected_history)
    assert not any(each.severity == "error" for each in check_split(split, synthetic))


def test_leaks_in_files_are_finding_of(synthetic, tmp_path):
    rows = leave_one_out_rows(synthetic)
    rows["train"] = np.concatenate([rows["train"], rows["test"][:2]])
    split = read_split(write_parts(tmp_path, synthetic, rows), synthetic)
    findings = check_split(split, synthetic)
    assert finding_of(findings, "target-in-training").count == 2
    assert {"target-in-history", "history-from-future"} <= codes(findings)


def test_files_of_no_split_are_refused(synthetic, tmp_path):
    paths = write_parts(tmp_path, synthetic, leave_one_out_rows(synthetic))
    with pytest.raises(DataError, match="no file of test is given"):
        read_split(paths[:2], synthetic)
    with pytest.raises(DataError, match=r"is a second file of train, beside"):
        read_split([*paths, paths[0]], synthetic)
    (tmp_path / "other.csv").write_text("x")
    with pytest.raises(DataError, match=r"other\.csv must say its part in its name"):
        read_split([tmp_path / "other.csv"], synthetic)
    text = paths[2].read_text()
    paths[2].write_text(text.replace("user-00003", "stranger"))
    with pytest.raises(DataError, match=r"test\.csv, line 5: user 'stranger' is not in the data"):
        read_split(paths, synthetic)
    paths[2].write_text(text.replace("item-", "thing-", 1))
    with pytest.raises(DataError, match=r"test\.csv, line 2: item 'thing-.*not in the catalogue"):
        read_split(paths, synthetic)
