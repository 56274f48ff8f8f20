"""Soups: the mean of the weights of several trainings of one model.

Greedy, as in Wortsman et al., Model soups (arXiv 2203.05482, section 2): the trainings are tried in
the order of their scores, and each stays in the mean if that does not lower the score. So a soup is
never worse than its best member where it was scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def greedy_soup(
    states: Sequence[State], score: Callable[[State], float]
) -> tuple[list[int], dict[str, Tensor]]:
    """The members of a soup, by their places, the best first, and its weights.

    Args:
        states: of trainings of one model: the same tensors, of the same shapes.
        score: of a state, more being better.

    Raises:
        ValueError: there are no states.
    """
    if not states:
        raise ValueError("A soup needs at least one training.")
    scores = [score(state) for state in states]
    order = sorted(range(len(states)), key=lambda place: -scores[place])
    members, best = order[:1], scores[order[0]]
    for place in order[1:]:
        tried = [*members, place]
        found = score(mean([states[one] for one in tried]))
        if found >= best:
            members, best = tried, found
    return members, mean([states[one] for one in members])


def mean(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of each tensor; of one state, itself."""
    if len(states) == 1:
        return dict(states[0])
    return {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
