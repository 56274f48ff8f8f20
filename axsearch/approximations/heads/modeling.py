"""Attention heads: query, key and value rows and output columns are removed."""

from __future__ import annotations

from axsearch.approximations.modeling import UnitModeling


class HeadsModeling(UnitModeling):
    """Removes heads."""
