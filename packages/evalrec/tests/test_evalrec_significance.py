from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from evalrec.significance import (
    bootstrap_means,
    bootstrap_p_value,
    holm,
    interval,
    paired_t_test,
    wilcoxon_test,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats


def calmly(examples: int) -> settings:
    """No limits on time: a busy machine is no failure."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def plain_holm(p_values):
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = {}
    for place, index in enumerate(order):
        steps = [(len(p_values) - j) * p_values[order[j]] for j in range(place + 1)]
        corrected[index] = min(1.0, max(steps))
    return [corrected[index] for index in range(len(p_values))]


@given(st.lists(st.floats(0, 1), max_size=8))
@calmly(100)
def test_holm_is_the_plain_one(p_values):
    assert holm(p_values) == pytest.approx(plain_holm(p_values))


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20).filter(lambda d: len(set(d)) > 1))
@calmly(100)
def test_the_t_test_is_scipys(differences):
    array = np.array(differences, dtype=np.float64)
    expected = stats.ttest_1samp(array, 0.0).pvalue
    assert paired_t_test(array) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def plain_signed_ranks(differences):
    """Wilcoxon's p-value by all ways to deal out the signs, which are equally likely."""
    sizes = [abs(d) for d in differences if d]
    ranks = [sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    signs = [1 if d > 0 else -1 for d in differences if d]
    observed = abs(sum(rank * sign for rank, sign in zip(ranks, signs, strict=True)))
    sums = [
        abs(sum(rank * sign for rank, sign in zip(ranks, dealt, strict=True)))
        for dealt in itertools.product((1, -1), repeat=len(ranks))
    ]
    return sum(each >= observed - 1e-9 for each in sums) / len(sums)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7, unique=True).flatmap(
        lambda sizes: st.tuples(*(st.sampled_from([size, -size]) for size in sizes))
    ),
    st.integers(0, 3),
)
@calmly(50)
def test_the_signed_rank_test_is_the_plain_one(differences, zeros):
    array = np.array([*differences, *[0.0] * zeros]) / 10
    assert wilcoxon_test(array) == pytest.approx(plain_signed_ranks(differences), abs=1e-12)


def test_the_signed_rank_test_where_only_rounding_differs():
    assert wilcoxon_test(np.zeros(5)) == wilcoxon_test(np.full(5, 1e-16)) == 1.0
    tied = np.array([0.1, 0.3 - 0.2, -0.1, 0.1, 0.5, 0.4])
    assert wilcoxon_test(tied) == wilcoxon_test(np.round(tied, 3))


def test_the_t_test_of_differences_that_do_not_vary():
    assert paired_t_test(np.zeros(5)) == 1.0
    assert paired_t_test(np.full(5, 0.1)) == 0.0
    assert paired_t_test(np.array([0.3])) == 1.0


def test_bootstrap_means_spread_like_the_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 2))
    means = bootstrap_means(values, num_samples=3000)
    assert means.shape == (3000, 2)
    for column in range(2):
        error = values[:, column].std() / math.sqrt(400)
        assert means[:, column].mean() == pytest.approx(values[:, column].mean(), abs=0.1 * error)
        assert means[:, column].std() == pytest.approx(error, rel=0.07)
        low, high = interval(means[:, column])
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert bootstrap_means(values, num_samples=70, seed=3).tolist() == (
        bootstrap_means(values, num_samples=70, seed=3).tolist()
    )


def test_columns_are_drawn_together():
    values = np.random.default_rng(0).normal(size=(50, 1))
    means = bootstrap_means(np.concatenate([values, values + 1], axis=1), num_samples=100)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)


def test_bootstrap_p_values_find_differences_and_only_those():
    rng = np.random.default_rng(0)
    same, different = [], []
    for trial in range(200):
        noise = rng.normal(size=(60, 1))
        same.append(bootstrap_p_value(bootstrap_means(noise, num_samples=200, seed=trial)[:, 0]))
        shifted = bootstrap_means(noise + 0.6, num_samples=200, seed=trial)[:, 0]
        different.append(bootstrap_p_value(shifted))
    assert 0.01 < np.mean(np.array(same) < 0.05) < 0.12
    assert np.mean(np.array(different) < 0.05) > 0.95
    assert bootstrap_p_value(np.zeros(10)) == 1.0
    assert bootstrap_p_value(np.ones(999)) == pytest.approx(2 / 1000)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match=r"values must have users .* got 0 users and 5000"):
        bootstrap_means(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="num_samples be at least 1, got 3 users and 0"):
        bootstrap_means(np.zeros((3, 2)), num_samples=0)
