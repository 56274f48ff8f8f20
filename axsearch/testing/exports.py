"""Everything that goes into an export of a tiny model, with numbers made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from axsearch.evaluation.size import parameter_count, safetensors_bytes
from axsearch.export import Bundle, formats
from axsearch.export.manifest import Manifest
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments
from axsearch.models.weights import ClosedForm
from axsearch.space.recipe import Recipe
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Estimate, Outcome
from axsearch.store.queries import Evaluation
from axsearch.study.comparison import AgainstBase
from axsearch.testing.text import tiny_tokenizer

HOLDOUT = Evaluation(0.83, 0.79, 0.87, Outcome("mean", np.ones(10, bool)))


def measured(base: PreTrainedModel, recipe: Recipe) -> Measurement:
    """The size is the model's own; nothing else was measured."""
    state = Base(base).cut(recipe)
    return Measurement(
        trial=7,
        recipe=recipe.to_dict(),
        accuracy=0.91,
        accuracy_low=0.87,
        accuracy_high=0.94,
        latency_measured=False,
        size_bytes=safetensors_bytes(state),
        size_ratio=1.0,
        parameters=parameter_count(state),
        choices=Base(base).choices(recipe),
    )


def bundle_of(
    base: PreTrainedModel,
    recipe: Recipe,
    moments: Moments | None = None,
    task: str = "text-classification",
) -> Bundle:
    """As ``export_model`` makes it of a study."""
    whole = Base(base)
    return Bundle(
        base=whole,
        tokenizer=tiny_tokenizer(),
        recipe=recipe,
        weights=ClosedForm(whole, moments),
        dtype=torch.float32,
        measurement=measured(base, recipe),
        baseline=measured(base, Recipe.of({})),
        expected=Estimate(0.012, 0.004, 0.02),
        holdout=HOLDOUT,
        base_holdout=HOLDOUT,
        against_base=AgainstBase("holdout", 10, 0, 0, Estimate(0.0, 0.0, 0.0), differs=False),
        study="a study",
        task=task,
        model_name="a/model",
        data_name="a/dataset",
        metric="accuracy",
        scenario=None,
        runtime="PyTorch",
        machine="host, 2 cores",
    )


def write_export(bundle: Bundle, folder: Path, format: str = "hf") -> Path:
    """The folder with its manifest, complete."""
    folder.mkdir()
    formats()[format].write(bundle, folder)
    Manifest.of(folder, format).write(folder)
    return folder
