"""A soup keeps what does not lower the score."""

from __future__ import annotations

import pytest
import torch

from axsearch.training.soup import State, greedy_soup

STATES = [{"w": torch.tensor([v])} for v in (4.0, 1.0, 2.0, 9.0)]


def near(target: float) -> object:
    """A score that is best where the weight is this."""

    def score(state: State) -> float:
        return -abs(float(state["w"]) - target)

    return score


@pytest.mark.parametrize(
    ("target", "members"),
    [
        (4.0, [0]),  # every mean is further away
        (3.0, [0, 2]),  # 4 first, then 2: their mean is 3; 1 and 9 would lower it
        (1.5, [1, 2]),
    ],
)
def test_members_are_tried_from_the_best_down(target: float, members: list[int]) -> None:
    found, state = greedy_soup(STATES, near(target))  # type: ignore[arg-type]
    assert sorted(found) == members
    mean = sum(float(STATES[place]["w"]) for place in members) / len(members)
    assert float(state["w"]) == pytest.approx(mean)
    best = max(near(target)(state) for state in STATES)  # type: ignore[operator]
    assert near(target)(state) >= best  # type: ignore[operator]


def test_a_tie_stays() -> None:
    found, _ = greedy_soup(STATES[:3], lambda _: 0.5)
    assert found == [0, 1, 2]


def test_nothing_is_no_soup() -> None:
    with pytest.raises(ValueError, match="at least one"):
        greedy_soup([], lambda _: 0.0)
