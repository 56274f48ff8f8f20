"""The order of units against what least squares itself leaves lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from axsearch.approximations.site import SiteId
from axsearch.calibration.order import orders_after_refit, surgeon
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments
from axsearch.testing.models import random_model


def problem(units: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    size = units * width
    mixed = torch.randn(size, size, generator=draw, dtype=torch.float64)
    second = mixed @ mixed.T / size + 0.1 * torch.eye(size, dtype=torch.float64)
    return torch.randn(5, size, generator=draw, dtype=torch.float64), second


def left_lost(weight: torch.Tensor, second: torch.Tensor, gone: list[int], width: int) -> float:
    """The mean squared error of the outputs after the columns left were refitted."""
    stays = torch.tensor([c for c in range(weight.shape[1]) if c // width not in gone])
    whole = torch.trace(weight @ second @ weight.T)
    if not len(stays):
        return float(whole)
    across = weight @ second[:, stays]
    explained = torch.trace(across @ torch.linalg.solve(second[stays][:, stays], across.T))
    return float(whole - explained)


@pytest.mark.parametrize(("units", "width"), [(9, 1), (5, 3)])
def test_each_step_removes_what_costs_least_after_the_refit(units: int, width: int) -> None:
    weight, second = problem(units, width)
    order = surgeon(weight, torch.linalg.inv(second), width)
    assert sorted(order) == list(range(units))
    for step, unit in enumerate(order):
        before = list(order[:step])
        losses = {
            other: left_lost(weight, second, [*before, other], width)
            for other in range(units)
            if other not in before
        }
        assert unit == min(losses, key=losses.__getitem__)
    by_size = [float(x) for x in weight.square().sum(0).unflatten(0, (units, width)).sum(1)]
    assert list(order) != list(np.argsort(by_size))  # which the refit does change


def test_several_at_once_are_those_with_the_least_loss() -> None:
    weight, second = problem(9, 1)
    inverse = torch.linalg.inv(second)
    losses = [left_lost(weight, second, [unit], 1) for unit in range(9)]
    order = surgeon(weight, inverse, 1, at_once=3)
    assert list(order[:3]) == list(np.argsort(losses)[:3])
    assert sorted(order) == list(range(9))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "modernbert"])
def test_a_unit_that_others_compute_goes_first(model_type: str) -> None:
    """Whatever its weights are: the others make up for it."""
    base = Base(random_model(model_type))
    sites = [site for site in base.sites.values() if site.units is not None]
    draw = torch.Generator().manual_seed(1)
    mean, covariance, sensitivity = {}, {}, {}
    for site in sites:
        size = site.units.count * site.units.width
        x = torch.randn(4 * size, size, generator=draw)
        width = site.units.width
        x[:, width : 2 * width] = x[:, :width]  # the unit 1 is the unit 0 again
        mean[site.id] = torch.zeros(size, dtype=torch.float64)
        covariance[site.id] = x.T @ x / len(x)
        g = torch.randn(50, 32, generator=draw)
        sensitivity[site.id] = g.T @ g
    found = orders_after_refit(base, Moments(mean, covariance, sensitivity))
    assert found.keys() == {site.id for site in sites}
    for site in sites:
        assert found[site.id][0] in (0, 1)
        assert sorted(found[site.id]) == list(range(site.units.count))


def test_outputs_that_the_loss_does_not_feel_do_not_count() -> None:
    base = Base(random_model("bert"))
    site = base.sites[SiteId(0, "ffn")]
    assert site.units is not None
    weight = base.state[site.units.output.tensor]
    with torch.no_grad():
        weight[0, :] = 0.0
        weight[0, 7] = 1e-3  # of all units only this one writes what is felt
    size = site.units.count
    felt = torch.zeros(32, 32)
    felt[0, 0] = 1.0
    moments = Moments(
        {site.id: torch.zeros(size, dtype=torch.float64)},
        {site.id: torch.eye(size)},
        {site.id: felt},
    )
    assert orders_after_refit(base, moments)[site.id][-1] == 7
