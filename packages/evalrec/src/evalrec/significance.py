"""Is a difference between two systems more than chance would give on other users?

All tests are paired: both systems have the same queries of the same users. The tests are about
users drawn again, not about models trained again, for which several seeds are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_CHUNK = 64  # resamples at once
LEVEL = 95.0


def bootstrap_means(
    values: Float[np.ndarray, "users columns"], *, num_samples: int = 5000, seed: int = 0
) -> Float[np.ndarray, "samples columns"]:
    """The means of every column for samples of users, drawn with replacement.

    Each sample has as many users as there are, and all columns of a user are drawn together, so
    that differences of columns are paired.

    Args:
        values: The value of every user in every column.
        num_samples: The number of samples.
        seed: The seed of the draws.

    Raises:
        ValueError: If there is no user, or `num_samples` is not at least 1.
    """
    if len(values) == 0 or num_samples < 1:
        raise ValueError(
            "values must have users and num_samples be at least 1, "
            f"got {len(values)} users and {num_samples}"
        )
    rng = np.random.default_rng(seed)
    num_users = len(values)
    means = np.empty((num_samples, values.shape[1]))
    weights = np.empty((_CHUNK, num_users), dtype=np.float64)
    for start in range(0, num_samples, _CHUNK):
        part = weights[: min(_CHUNK, num_samples - start)]
        for row in part:
            row[:] = np.bincount(rng.integers(num_users, size=num_users), minlength=num_users)
        means[start : start + len(part)] = part @ values / num_users
    return means


def interval(means: Float[np.ndarray, " samples"]) -> tuple[float, float]:
    """The 95 % percentile interval of resampled means."""
    low, high = np.percentile(means, (50 - LEVEL / 2, 50 + LEVEL / 2))
    return float(low), float(high)


def bootstrap_p_value(mean_differences: Float[np.ndarray, " samples"]) -> float:
    """Two-sided: how often the resampled mean difference reaches zero or the other side.

    It is 2 (1 + times) / (1 + samples), with the smaller count of the two sides; so never 0.
    """
    samples = len(mean_differences)
    slack = 1e-12  # equal systems differ only by rounding errors
    times = min((mean_differences <= slack).sum(), (mean_differences >= -slack).sum())
    return float(min(1.0, 2 * (1 + times) / (1 + samples)))


def paired_t_test(differences: Float[np.ndarray, " users"]) -> float:
    """The two-sided p-value of Student's t-test that the mean difference is zero.

    1 where no user differs, 0 where all differ alike.
    """
    mean = float(differences.mean())
    if len(differences) < 2:
        return 1.0
    spread = float(differences.std(ddof=1))
    if spread <= 1e-12 * abs(mean) or spread == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy import stats  # takes half a second, so only comparisons import it

    t = mean / (spread / np.sqrt(len(differences)))
    return float(2 * stats.t.sf(abs(t), df=len(differences) - 1))


def wilcoxon_test(differences: Float[np.ndarray, " users"]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test that differences are even around zero.

    Users who do not differ are left out (Wilcoxon, 1945); for hits these are most users. The result
    is 1 if no user differs. The test is about how many users gain, and in which order of size, not
    about how much they gain.
    """
    rounded = np.round(differences, 12)  # so that rounding errors do not break ties
    if not rounded.any():
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(rounded[rounded != 0]).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm (1979) for multiple tests, in the order of the input."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
