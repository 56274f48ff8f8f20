"""The contract of runtimes: the tests that each of them passes in each precision."""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from axsearch.errors import UsageError
from axsearch.export import formats
from axsearch.models.weights import shrink
from axsearch.runtimes import Runtime, Session, check, open_session, runtimes
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.testing.exports import bundle_of, write_export
from axsearch.testing.models import random_model, random_recipe, short_batch

LAYERS = 4
BATCHES: list[dict[str, Tensor]] = [
    short_batch("bert"),
    {name: tensor[:2, :17] for name, tensor in short_batch("bert").items()},
]


def runtime_of(scenario: Scenario) -> Runtime:
    """The runtime that a scenario names."""
    return runtimes()[scenario.runtime]


def answers(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """The logits of a model in PyTorch, (rows, labels)."""
    with torch.inference_mode():
        return model(**batch).logits  # type: ignore[no-any-return]


def check_outputs(session: Session, model: PreTrainedModel, tolerance: float) -> None:
    """A session's logits have the shapes of the model's, and its values but for a tolerance."""
    for batch in BATCHES:
        found, expected = session.run(session.prepare(batch))["logits"], answers(model, batch)
        assert found.shape == expected.shape
        assert not found.requires_grad
        assert (found.cpu().float() - expected).abs().max() <= tolerance


def timed(session: Session) -> None:
    """A pass, layer by layer where the session can do that."""
    try:
        assert (session.layer_times(BATCHES) >= 0).all()
    except NotImplementedError:
        for batch in BATCHES:
            assert session.run(session.prepare(batch))


def hooks_of(model: PreTrainedModel) -> int:
    """The number of forward hooks in a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class RuntimeContract:
    """The tests of one runtime in one precision.

    A subclass sets a ``scenario`` that names both, by a parameter or a fixture.
    """

    tolerances: ClassVar[Mapping[str, float]] = {
        "float32": 1e-5,
        "float16": 0.01,
        "bfloat16": 0.05,
        "int8": 0.3,
    }
    """How far logits, of which the largest here are about 1, may be from the model's, for each
    precision; one that is not named is held to the largest of these."""
    threads_of_torch: ClassVar[Collection[str]] = ()
    """The runtimes whose number of threads is the one that PyTorch has in this process."""

    @pytest.fixture
    def tolerance(self, scenario: Scenario) -> float:
        return self.tolerances.get(scenario.precision, max(self.tolerances.values()))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> PreTrainedModel:
        """Of some size, so that its layers take longer than what is around them."""
        return random_model(
            "bert", hidden_size=128, intermediate_size=512, num_hidden_layers=LAYERS
        )

    def test_it_says_what_it_is(self, scenario: Scenario) -> None:
        runtime = runtime_of(scenario)
        assert runtime.name == scenario.runtime
        assert runtime.__doc__
        assert len(set(runtime.precisions)) == len(runtime.precisions) > 0
        assert runtime.export_format in formats()
        check(scenario.runtime, scenario.precision)

    def test_outputs_are_the_models(
        self, scenario: Scenario, model: PreTrainedModel, tolerance: float
    ) -> None:
        with open_session(model, scenario) as session:
            check_outputs(session, model, tolerance)

    def test_smaller_models_are_opened(self, scenario: Scenario, tolerance: float) -> None:
        base = random_model("bert")
        for seed in range(3):
            small = shrink(base, random_recipe("bert", seed))
            with open_session(small, scenario) as session:
                check_outputs(session, small, tolerance)

    @pytest.mark.parametrize(
        "recipe", [Recipe.of({}), random_recipe("bert", 0)], ids=["whole", "cut"]
    )
    def test_the_folder_of_an_export_is_opened(
        self, scenario: Scenario, tolerance: float, recipe: Recipe, tmp_path: Path
    ) -> None:
        bundle = bundle_of(random_model("bert"), recipe)
        folder = write_export(bundle, tmp_path / "out", runtime_of(scenario).export_format)
        with open_session(folder, scenario) as session:
            check_outputs(session, bundle.small, tolerance)
            timed(session)

    def test_another_folder_is_refused(self, scenario: Scenario, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=tmp_path.name):
            open_session(tmp_path, scenario)

    def test_layers_take_time_and_no_more_than_the_pass(
        self, scenario: Scenario, model: PreTrainedModel
    ) -> None:
        if runtime_of(scenario).converts:
            pytest.skip("its models are timed as wholes")
        with open_session(model, scenario) as session, session.quiet():
            session.layer_times(BATCHES)  # warm-up
            times = [session.layer_times(BATCHES) for _ in range(5)]
        assert all(one.shape == (LAYERS + 1,) for one in times)
        assert all(one.dtype == np.float64 for one in times)
        assert all((one > 0).all() for one in times)
        shares = [one[:-1].sum() / one[-1] for one in times]  # of one pass, or noise would decide
        assert max(shares) <= 1
        assert np.median(shares) > 1 / 4

    def test_layers_that_run_several_times_count_each_time(self, scenario: Scenario) -> None:
        if runtime_of(scenario).converts:
            pytest.skip("its models are timed as wholes")
        # One group of parameters, which a pass runs as often as there are layers.
        sizes: dict[str, Any] = {
            "num_hidden_groups": 1,
            "hidden_size": 128,
            "intermediate_size": 512,
        }
        model = random_model("albert", num_hidden_layers=12, **sizes)
        with open_session(model, scenario) as session, session.quiet():
            times = [session.layer_times(BATCHES) for _ in range(3)]
        assert all(one.shape == (2,) for one in times)
        shares = [layers / whole for layers, whole in times]
        assert max(shares) <= 1
        assert np.median(shares) > 1 / 2

    def test_the_process_is_as_it_was(self, scenario: Scenario, model: PreTrainedModel) -> None:
        before = torch.get_num_threads()
        threads = before + 1
        with runtime_of(scenario).open(
            model, precision=scenario.precision, threads=threads, device="cpu"
        ) as session:
            with session.quiet():
                assert not gc.isenabled()
                if scenario.runtime in self.threads_of_torch:
                    assert torch.get_num_threads() == threads
                else:  # one that has not been named may have them, too
                    assert torch.get_num_threads() in (before, threads)
                session.run(session.prepare(BATCHES[0]))
                with session.quiet():  # the base's and the model's, one within the other
                    timed(session)
                assert not gc.isenabled()
            assert (torch.get_num_threads(), gc.isenabled()) == (before, True)
            with pytest.raises(ZeroDivisionError), session.quiet():
                1 / 0  # noqa: B018
            assert (torch.get_num_threads(), gc.isenabled()) == (before, True)
        assert not torch.is_inference_mode_enabled()

    def test_the_model_is_left_as_it_is(self, scenario: Scenario, model: PreTrainedModel) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        hooks = hooks_of(model)
        with open_session(model, scenario) as session:
            timed(session)
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
        assert model.device.type == "cpu"
        assert not model.training
        assert hooks == hooks_of(model)
