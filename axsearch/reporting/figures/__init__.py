"""Plotly figures, one file each: every figure is a function of plain data.

A module that defines ``of_study`` and ``ORDER`` is a figure of every study: adding the file adds
the figure.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from axsearch import discovery

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from axsearch.reporting.figures.data import StudyData


def study_figures(data: StudyData) -> dict[str, list[go.Figure]]:
    """All figures of a study by the name of their module, in the order of a report.

    A figure for which the study has no data says what is missing and which command provides it.
    """
    found = [m for m in discovery.modules(sys.modules[__name__]) if hasattr(m, "of_study")]
    found.sort(key=lambda module: int(module.ORDER))
    return {module.__name__.rpartition(".")[2]: module.of_study(data) for module in found}
