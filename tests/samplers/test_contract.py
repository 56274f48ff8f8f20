"""Every sampler there is keeps what samplers promise, by being there."""

from __future__ import annotations

import re
from typing import get_type_hints

import pytest

from axsearch.errors import UsageError
from axsearch.samplers import build_sampler, sampler_named, samplers
from axsearch.study.settings import SearchSettings
from axsearch.testing.samplers import SamplerContract, small_problem


@pytest.mark.parametrize("name", samplers())
class TestEverySampler(SamplerContract):
    """Those of axsearch."""


def test_the_help_of_search_names_all() -> None:
    (option,) = get_type_hints(SearchSettings, include_extras=True)["sampler"].__metadata__
    assert set(re.findall(r"\w+", option.help)) >= set(samplers())


def test_the_base_of_the_problem_costs_one() -> None:
    problem = small_problem()
    base = problem.array(problem.space.exact())[None, :]
    assert problem.cost("latency", base)[0] == pytest.approx(1)
    assert problem.cost("size", base)[0] == pytest.approx(1)
    assert set(problem.damage) == set(problem.space.exact())


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"axform'.*auto.*axformer.*tpe"):
        sampler_named("axform")
    with pytest.raises(UsageError, match=r"axform'.*auto.*axformer.*tpe"):
        build_sampler("axform", small_problem(), 0)
