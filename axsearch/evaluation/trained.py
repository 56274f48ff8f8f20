"""Weights that a recovery has trained, as the store of a study's database keeps them."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from sqlalchemy import Engine
from torch import Tensor

from axsearch.errors import UsageError
from axsearch.models.weights import Weights, WithTrained
from axsearch.store.trained_weights import weights_store


def with_trained(computed: Weights, engine: Engine) -> WithTrained:
    """Weights as they are computed, or as a database's recoveries have trained them.

    Args:
        computed: of recipes that were not trained.
        engine: an open database; nothing is looked up before a trained recipe is asked for.
    """

    return WithTrained(computed, partial(read_trained, engine))


class MissingWeightsError(UsageError):
    """Trained weights are not where they should be, or it is not known where that is."""


def read_trained(engine: Engine, key: str) -> dict[str, Tensor]:
    """The tensors that a training changed; raises MissingWeightsError where there is no file."""
    with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:
        path = Path(folder) / "weights.safetensors"
        try:
            weights_store(engine).fetch(key, path)
        except UsageError as error:
            raise MissingWeightsError(str(error)) from error
        tensors: dict[str, Tensor] = load_file(path)
    return tensors
