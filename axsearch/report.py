"""The HTML report: one file that opens offline."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from plotly import offline

from axsearch.errors import UsageError
from axsearch.figures.front import front_figure
from axsearch.figures.layer_map import layer_map
from axsearch.study import Study


def write_report(study: Study, out: str) -> Path:
    """Write the front in two projections, what it keeps of each layer, and its numbers.

    Raises UsageError where ``out`` cannot be written.
    """
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"The report cannot be written to {path}; name a file in a folder.")
    baseline, front, trials = study.baseline, study.front(), study.measurements
    figures = [
        front_figure(trials, front, baseline, cost=cost, metric=study.spec.metric)
        for cost in ("latency_ratio", "size_ratio")
        if getattr(baseline, cost) is not None
    ]
    figures.append(layer_map(front, baseline))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(
        Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    )
    html = template.render(
        study=study,
        spec=study.spec,
        baseline=baseline,
        front=front,
        count=len(trials),
        plotly=offline.get_plotlyjs(),
        figures=[figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures],
    )
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The report cannot be written to {path}: {error.strerror}.") from None
    return path
