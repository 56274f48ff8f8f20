"""Weights that a recovery has trained, as the store of a study's database keeps them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file
from sqlalchemy import Engine
from torch import Tensor

from axsearch.models.weights import Weights, WithTrained
from axsearch.store.trained_weights import weights_store


def with_trained(computed: Weights, engine: Engine) -> WithTrained:
    """Weights as they are computed, or as a database's recoveries have trained them.

    Args:
        computed: of recipes that were not trained.
        engine: an open database; nothing is looked up before a trained recipe is asked for.
    """

    def read(key: str) -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory(prefix="axsearch-") as folder:
            path = Path(folder) / "weights.safetensors"
            weights_store(engine).fetch(key, path)
            tensors: dict[str, Tensor] = load_file(path)
        return tensors

    return WithTrained(computed, read)
