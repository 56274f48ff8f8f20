"""The common look."""

from __future__ import annotations

import plotly.graph_objects as go
import pytest

from axsearch.reporting.figures import style


def test_numbers_have_five_digits() -> None:
    assert style.all_rounded([0.123456789, 123456.7, None, float("nan"), float("inf")]) == [
        0.12346,
        123460.0,
        None,
        None,
        None,
    ]


def test_even_samples_have_both_ends() -> None:
    assert style.evenly(3, 5) == [0, 1, 2]
    assert style.evenly(9, 5) == [0, 2, 4, 6, 8]
    sample = style.evenly(10_000, 2000)
    assert (len(set(sample)), sample[0], sample[-1]) == (2000, 0, 9999)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0], [-2.0, -2.0], [0.0, 1.0]])
def test_axes_have_room_around_all_values(values: list[float]) -> None:
    low, high = style.padded(values)
    assert low < min(values) <= max(values) < high


def test_long_titles_are_wrapped_and_make_room() -> None:
    short = style.lay_out(go.Figure(), "short")
    long = style.lay_out(go.Figure(), "word " * 20, subtitle="more " * 30)
    lines = long.layout.title.text.split("<br>")
    assert max(len(line) for line in lines if "span" not in line) <= 56
    assert len(lines) == 3 + 3
    assert long.layout.margin.t > short.layout.margin.t + 5 * 15


def test_nothing_says_so_in_the_middle() -> None:
    figure = style.nothing("Title", "What is missing; `axsearch search` brings it.")
    (said,) = figure.layout.annotations
    assert (said.x, said.y, said.xref, said.yref) == (0.5, 0.5, "paper", "paper")
    assert said.text == "What is missing; `axsearch search` brings it."
    assert figure.layout.title.text == "Title"


def test_colour_bars_lie_under_the_plot_and_inside_the_figure() -> None:
    figure = style.with_colour_bar(style.lay_out(go.Figure(), "t", height=500), "share", below=60)
    layout = figure.layout
    plot = 500 - layout.margin.t - layout.margin.b
    assert layout.coloraxis.colorbar.y * plot == pytest.approx(-60)
    assert layout.margin.b >= 60 + 60


def test_names() -> None:
    assert style.layer_number("layer03") == "3"
    assert style.layer_number("layer00") == "0"
    assert style.in_words("matthews_correlation") == "matthews correlation"
    assert style.in_words("ffn") == "neurons"
    assert style.capitalised("f1 of spans") == "F1 of spans"


def test_a_figure_fitted_into_a_box_keeps_its_colour_bar_as_far_below_the_plot() -> None:
    figure = style.with_colour_bar(style.lay_out(go.Figure(), "Title", height=620), "share")
    margin = figure.layout.margin
    before = figure.layout.coloraxis.colorbar.y * (620 - margin.t - margin.b)
    fitted = style.fitted(figure, 450)
    assert fitted.layout.height == 450
    after = fitted.layout.coloraxis.colorbar.y * (450 - margin.t - margin.b)
    assert after == pytest.approx(before)
    plain = style.fitted(style.lay_out(go.Figure(), "Title"), 300)
    assert plain.layout.height == 300
