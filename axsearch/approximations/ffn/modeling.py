"""FFN neurons: rows of the first projection and columns of the second are removed."""

from __future__ import annotations

from axsearch.approximations.modeling import UnitModeling


class NeuronsModeling(UnitModeling):
    """Removes neurons."""
