"""The divergence that follows from losses, against that of whole outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axsearch.statistics.divergence import (
    divergence_of_losses,
    divergence_of_predictions,
    divergence_with_error,
)
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds import task_kinds

KIND = task_kinds()["text-classification"]


def test_it_is_that_of_all_answers_where_there_are_two() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = (torch.tensor(draw.normal(0, 1, (50, 2))) for _ in range(2))
    labels = torch.tensor(draw.integers(0, 2, 50))
    expected = float(KIND.divergence(ours, theirs, labels).mean())
    losses = [KIND.losses(x, labels).float().numpy() for x in (ours, theirs)]
    assert divergence_of_losses(*losses) == pytest.approx(expected, rel=1e-4)


def test_it_is_no_more_where_there_are_several() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = (torch.tensor(draw.normal(0, 1, (50, 5))) for _ in range(2))
    labels = torch.tensor(draw.integers(0, 5, 50))
    losses = [KIND.losses(x, labels).float().numpy() for x in (ours, theirs)]
    assert 0 < divergence_of_losses(*losses) < float(KIND.divergence(ours, theirs, labels).mean())


def test_that_of_the_base_itself_is_0_and_extremes_are_finite() -> None:
    losses = np.array([0.0, 1e-9, 0.7, 200.0], np.float32)
    assert divergence_of_losses(losses, losses) == 0
    assert 1 < divergence_of_losses(losses, losses[::-1].copy()) < 20


def test_its_error_is_how_far_it_is_off_with_so_many_examples() -> None:
    draw = np.random.default_rng(2)
    base = draw.exponential(0.3, 40_000).astype(np.float32)
    losses = (base * draw.lognormal(0, 0.5, len(base))).astype(np.float32)
    truth, _ = divergence_with_error(losses, base)
    found = [
        divergence_with_error(losses[rows], base[rows])
        for rows in np.array_split(draw.permutation(len(base)), 100)
    ]
    off = np.array([(value - truth) / error for value, error in found])
    assert np.sqrt(np.square(off).mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("statistic", ["pearson", "spearman"])
def test_that_of_predictions_does_not_see_what_a_correlation_does_not(statistic: str) -> None:
    draw = np.random.default_rng(3)
    gold, noise = draw.normal(size=(2, 20_000))
    theirs = gold + 0.5 * noise

    def outcome(predictions: np.ndarray, rows: slice = slice(None)) -> Outcome:
        return Outcome(statistic, np.stack((gold, predictions), axis=1)[rows])

    base = outcome(theirs)
    assert divergence_of_predictions(base, base)[0] == pytest.approx(0, abs=1e-9)
    assert divergence_of_predictions(outcome(0.1 * theirs - 3), base)[0] == pytest.approx(
        0, abs=1e-9
    )
    ours = theirs + 0.3 * draw.normal(size=len(gold))
    truth, _ = divergence_of_predictions(outcome(ours), base)
    assert truth == pytest.approx(1 - 1.25 / (1.25 + 0.09), abs=0.01)
    found = [
        divergence_of_predictions(outcome(ours, rows), outcome(theirs, rows))
        for rows in (slice(start, start + 200) for start in range(0, 20_000, 200))
    ]
    off = np.array([(value - truth) / error for value, error in found])
    assert np.sqrt(np.square(off).mean()) == pytest.approx(1, abs=0.25)
