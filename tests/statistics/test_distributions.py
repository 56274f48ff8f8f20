from __future__ import annotations

import numpy as np
import pytest
from scipy.special import bdtr, ndtr

from axsearch.statistics.distributions import heads_cdf, normal_cdf


def test_the_normal_distribution_is_scipys_down_to_its_tail() -> None:
    values = np.concatenate([np.linspace(-37, 8, 500), [0.0]]).reshape(3, 167)
    np.testing.assert_allclose(normal_cdf(values), ndtr(values), rtol=1e-12, atol=0)
    assert normal_cdf(np.empty((0, 0))).shape == (0, 0)


@pytest.mark.parametrize("most", [1, 9, 300, 20_000])
def test_tosses_of_a_coin_are_scipys_down_to_their_tail(most: int) -> None:
    random = np.random.default_rng(0)
    tosses = random.integers(0, most + 1, (20, 3))
    heads = np.minimum(random.integers(0, most + 1, (20, 3)), tosses)
    found, expected = heads_cdf(heads, tosses), bdtr(heads, tosses, 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_tosses_of_a_coin_that_anybody_can_count() -> None:
    heads, tosses = np.array([[0, 0, 1], [0, 3, 2]]), np.array([[0, 1, 2], [3, 3, 4]])
    expected = [[1, 1 / 2, 3 / 4], [1 / 8, 1, 11 / 16]]
    np.testing.assert_allclose(heads_cdf(heads, tosses), expected, rtol=1e-14)
    assert heads_cdf(np.empty((0, 0), np.int64), np.empty((0, 0), np.int64)).shape == (0, 0)
