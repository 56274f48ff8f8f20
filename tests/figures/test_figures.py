"""Figures are tested on the data in them."""

from __future__ import annotations

from typing import Any

from axsearch.figures.front import front_figure
from axsearch.figures.layer_map import layer_map
from axsearch.measurement import Measurement


def measurement(trial: int, **changed: Any) -> Measurement:
    given: dict[str, Any] = {
        "trial": trial,
        "recipe": {"version": 1, "sites": {}},
        "accuracy": 0.9,
        "accuracy_low": 0.88,
        "accuracy_high": 0.91,
        "latency_ms": 10.0,
        "latency_ratio": 1.0,
        "latency_measured": True,
        "size_bytes": 100,
        "size_ratio": 1.0,
        "parameters": 25,
        "choices": {"layer00": {"heads": 4, "topk": None, "ffn": 64}},
    }
    return Measurement(**{**given, **changed})


BASE = measurement(0)
SMALL = measurement(
    1, latency_ratio=0.5, accuracy=0.8, accuracy_low=0.75, accuracy_high=0.84,
    choices={"layer00": {"heads": 2, "topk": 8, "ffn": 0}},
)  # fmt: skip
OTHER = measurement(2, latency_ratio=0.9, accuracy=0.5)


def test_front_figure_parts_front_and_others_and_draws_the_intervals() -> None:
    figure = front_figure(
        [BASE, SMALL, OTHER], [SMALL], BASE, cost="latency_ratio", metric="accuracy"
    )
    others, front, base = figure.data
    assert list(others.x) == [1.0, 0.9]
    assert (list(front.x), list(front.y), list(front.text)) == ([0.5], [0.8], ["1"])
    assert abs(front.error_y.array[0] - 0.04) < 1e-12
    assert abs(front.error_y.arrayminus[0] - 0.05) < 1e-12
    assert list(base.x) == [1.0]
    assert "relative to the base" in figure.layout.xaxis.title.text


def test_front_figure_of_an_empty_front() -> None:
    figure = front_figure([], [], BASE, cost="size_ratio", metric="f1")
    assert [len(trace.x) for trace in figure.data] == [0, 0, 1]


def test_layer_map_shows_shares_and_units() -> None:
    (heat,) = layer_map([BASE, SMALL], BASE).data
    assert list(heat.x) == ["layer00.heads", "layer00.topk", "layer00.ffn"]
    assert list(heat.y) == ["trial 0", "trial 1"]
    assert [list(row) for row in heat.z] == [[1.0, None, 1.0], [0.5, None, 0.0]]
    assert [list(row) for row in heat.text] == [["4", "all", "64"], ["2", "8", "0"]]


def test_layer_map_leaves_out_settings_that_nobody_uses() -> None:
    (heat,) = layer_map([BASE], BASE).data
    assert list(heat.x) == ["layer00.heads", "layer00.ffn"]
