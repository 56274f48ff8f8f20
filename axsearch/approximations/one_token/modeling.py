"""One token in the last layer: what is installed in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axsearch.approximations.modeling import Modeling, Target


class OneTokenModeling(Modeling):
    """Lets the family narrow its last layer."""

    @classmethod
    def install(cls, target: Target, choice: Mapping[str, Any]) -> None:
        """Called after all layers have their final modules."""
        assert target.block.narrow is not None
        target.block.narrow(target.model)
