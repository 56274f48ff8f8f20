"""Every runtime there is keeps what runtimes promise, in each of its precisions."""

from __future__ import annotations

import re
from typing import get_type_hints

import pytest
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.runtimes import check, open_session, runtimes
from axsearch.space.scenario import PRECISION, RUNTIME, Scenario
from axsearch.study.settings import Load
from axsearch.testing.models import random_model
from axsearch.testing.runtimes import RuntimeContract

EVERY = [(name, precision) for name, one in runtimes().items() for precision in one.precisions]


class TestEveryRuntime(RuntimeContract):
    """Those of axsearch."""

    threads_of_torch = ("torch",)

    @pytest.fixture(params=EVERY, ids=" ".join)
    def scenario(self, request: pytest.FixtureRequest) -> Scenario:
        runtime, precision = request.param
        return Scenario(threads=1, runtime=runtime, precision=precision)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model("bert")


def test_the_default_of_a_scenario_is_there() -> None:
    assert (RUNTIME, PRECISION) in EVERY
    assert runtimes()[RUNTIME].precisions[0] == PRECISION


def test_the_help_of_search_names_all() -> None:
    hints = get_type_hints(Load, include_extras=True)
    for name, members in zip(("runtime", "precision"), zip(*EVERY, strict=True), strict=True):
        (option,) = hints[name].__metadata__
        assert set(re.findall(r"\w+", option.help)) >= set(members)


def test_an_unknown_runtime_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UsageError, match=rf"Runtime 'tvm' .* choose .*{RUNTIME}"):
        check("tvm", PRECISION)
    with pytest.raises(UsageError, match="Runtime 'tvm'"):
        open_session(model, Scenario(runtime="tvm"))


@pytest.mark.parametrize("name", [*runtimes()])
def test_an_unknown_precision_is_refused(name: str, model: PreTrainedModel) -> None:
    first = runtimes()[name].precisions[0]
    with pytest.raises(UsageError, match=rf"Runtime {name} .* 'int3'; choose {first}"):
        check(name, "int3")
    with pytest.raises(UsageError, match="'int3'"):
        open_session(model, Scenario(runtime=name, precision="int3"))
