"""The report's words, tables and commands against the study; tests/browser opens it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
from pathlib import Path

import pytest
from plotly import offline
from sqlalchemy import text

from axsearch import Study, UsageError, write_report
from axsearch.cli import main
from axsearch.reporting.figures import study_figures
from axsearch.reporting.gallery import study_data
from axsearch.reporting.report import Report, search_command
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import Recipe
from axsearch.study.comparison import against_base
from tests.common_fixtures import copied


def written(study: tuple[str, str], out: Path, **given: object) -> str:
    return write_report(Study.open(*study), str(out), **given).read_text()  # type: ignore[arg-type]


def test_the_errors_of_the_latency_table_are_said(
    opened_study: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LatencyTable(0.1, {}, error=0.031, error_of_one_size=0.047)
    monkeypatch.setattr("axsearch.reporting.report.Tables.latency", table)
    page = written(opened_study, tmp_path / "new.html")
    assert (
        "off by 3.1% on average over random whole models, and by 4.7% over models with one size"
    ) in page
    # As for a study that began before tables were measured in the way of this version.
    monkeypatch.setattr("axsearch.reporting.report.LATENCY_TABLES", 3)
    page = written(opened_study, tmp_path / "earlier.html")
    assert "over random whole models (it was measured by axsearch 0.1, which could" in page
    assert "4.7%" not in page


def test_the_page_is_one_small_file_that_loads_nothing(
    opened_study: tuple[str, str], tmp_path: Path
) -> None:
    page = written(opened_study, tmp_path / "report.html")
    assert len(page.encode()) < 5_000_000
    assert not re.search(r"<(script|img|iframe|link|source)\b[^>]*\b(src|href)=", page)
    shown = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.DOTALL)
    assert not re.search(r"url\(|@import|\bfetch\(|https?://", shown)


def test_the_page_has_plotly_and_every_figure_of_the_study(
    opened_study: tuple[str, str], tmp_path: Path
) -> None:
    page = written(opened_study, tmp_path / "report.html")
    packed = re.search(r'<script type="text/plain" id="plotly">(.*?)</script>', page, re.DOTALL)
    assert packed is not None
    assert gzip.decompress(base64.b64decode(packed[1])).decode() == offline.get_plotlyjs()
    found = dict(re.findall(r'data-figure="([\w-]+)">(.*?)</script>', page, re.DOTALL))
    expected = study_figures(study_data(Study.open(*opened_study)))
    assert set(found) == {
        f"{name}-{n}" for name, figures in expected.items() for n in range(1, len(figures) + 1)
    }
    for name, own_text in found.items():
        own = expected[name.rpartition("-")[0]][int(name.rpartition("-")[2]) - 1]
        assert json.loads(own_text) == json.loads(own.to_json())
        assert f'<div class="figure" id="{name}">' in page


def test_the_table_has_base_and_front(opened_study: tuple[str, str], tmp_path: Path) -> None:
    page = written(opened_study, tmp_path / "report.html")
    study = Study.open(*opened_study)
    body = re.search(r'id="models">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body is not None
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body[1].split("</tr>")[:-1]]
    models = [study.baseline, *study.front()]
    assert [row[0] for row in rows] == ["base", *(str(m.trial) for m in models[1:])]
    holdout = study.holdout(models)
    held = against_base(study, models, "holdout")
    for row, m in zip(rows, models, strict=True):
        own = held.get(m.trial or 0)
        assert row[1:5] == [
            f"{m.accuracy:.4f}{'*' if own and own.differs else ''}",
            f"{m.accuracy_low:.4f} to {m.accuracy_high:.4f}",
            f"{study.expected[m.trial or 0].drop:z.4f}",
            "" if own is None else f"{own.drop.value:z.4f}",
        ]
        assert f"{holdout[m.trial or 0].value:.4f}" in row
        assert row[-3:] == [f"{m.latency_ratio:.3f}", f"{m.size_ratio:.3f}", f"{m.parameters:,}"]


def test_three_sentences_sum_it_up(
    tiny_study: tuple[str, str], opened_study: tuple[str, str]
) -> None:
    for where, split in ((tiny_study, "search"), (opened_study, "holdout")):
        report = Report(Study.open(*where))
        study = report.study
        first, second, third = report.summary
        assert first.startswith(f'Of {study.count} models, the base "{study.model_name}" and')
        assert f"{len(study.front())} make up the Pareto front" in first
        assert report.chosen is not None
        member = report.chosen.member
        chosen = study.pick(max_drop=0.01, by="latency")
        assert member == chosen
        assert f"Trial {member.trial}, the fastest with an expected drop of at most 0.01" in second
        assert f"{member.latency_ratio:.3f} of the base's time" in second
        assert f"on the {split} split, where the base has" in second
        own = (
            member.accuracy if split == "search" else study.holdout([member])[member.trial or 0][0]
        )
        assert f"accuracy {own:.4f}" in second
        assert ("has not been opened" in third) == (split == "search")
        assert ("Selection bias" in third) == (split == "holdout")


def test_where_the_holdout_split_was_opened_for_some(
    opened_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(copied(opened_study[0], tmp_path), opened_study[1])
    others = [m for m in study.front() if m.recipe != study.baseline.recipe]
    with study.database.engine.begin() as connection:
        connection.execute(
            text("DELETE FROM ax_evaluations WHERE split_name = 'holdout' AND recipe = :recipe"),
            {"recipe": Recipe.from_dict(others[0].recipe).hash},
        )
    study.refresh()
    third = list(Report(study).summary)[2]
    assert f"was opened for {len(others) - 1} of the {len(others)} models" in third
    assert "not been opened" not in third


def test_what_is_not_known_is_not_said(tiny_study: tuple[str, str], tmp_path: Path) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    with study.database.engine.begin() as connection:  # as of a version that kept less
        connection.execute(text("DELETE FROM ax_evaluations"))
        connection.execute(text("DELETE FROM ax_calibrations"))
    report = Report(study)
    first, _, third = report.summary
    assert "no difference" not in first
    said = " ".join(report.measured)
    assert "not corrected for the choice: an older axsearch made this study" in said
    assert report.chosen is not None
    assert any("not corrected for the choice" in one for one in report.chosen.sentences)
    assert "with a drop on the search split of at most" in report.why or "nearest" in report.why
    assert "has not been opened" in third
    assert next(iter(report.measured)).startswith(
        "Each trial builds the smaller model and measures that. Intervals"
    )
    written = write_report(study, str(tmp_path / "report.md")).read_text()
    assert "| cut | kept |\n|---|---|\n" in written
    page = write_report(study, str(tmp_path / "report.html")).read_text()
    assert "damage, nats" not in page.partition("<figure>")[0]


def test_only_the_base_on_the_front(
    tiny_study: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.open(*tiny_study)
    monkeypatch.setattr(Study, "front", lambda self: [self.baseline])
    assert list(Report(study).summary)[2] == "Only the base is on the front."


def test_a_model_off_the_front_has_no_row_to_mark(
    tiny_study: tuple[str, str], tmp_path: Path
) -> None:
    study = Study.open(*tiny_study)
    on = {m.trial for m in (study.baseline, *study.front())}
    off = next(m.trial for m in study.measurements if m.trial not in on)
    for trial, marked in ((off, False), (study.front()[0].trial, True)):
        page = written(tiny_study, tmp_path / "report.html", trial=trial)
        assert ('<tr class="chosen">' in page) == marked
        assert ("The marked row is" in page) == marked


def test_where_no_model_is_within_a_point_the_knee_is_explained(
    tiny_study: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axsearch.reporting.report.DROP", -1.0)
    study = Study.open(*tiny_study)
    report = Report(study)
    assert report.why == "the one nearest to the best of every objective"
    assert report.chosen is not None
    assert report.chosen.member == study.pick(knee=True)


def test_markdown_says_the_same(opened_study: tuple[str, str], tmp_path: Path) -> None:
    said = written(opened_study, tmp_path / "report.md", trial=3)
    study = Study.open(*opened_study)
    lines = said.splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len({line.count("|") for line in lines[4 : 7 + len(study.front())]}) == 1  # one table
    assert any(line.startswith("| base | ") for line in table)
    for member in study.front():
        assert any(line.startswith(f"| {member.trial} | {member.accuracy:.4f}") for line in table)
    assert "### Trial 3, as asked for" in said
    assert "<" not in said
    assert "{" not in said
    page = tmp_path / "page.txt"
    assert written(opened_study, page, trial=3, format="md") == said
    assert written(opened_study, page, trial=3).startswith("<!doctype html>")


def test_names_cannot_break_out(tiny_study: tuple[str, str], tmp_path: Path) -> None:
    study = Study.open(*tiny_study)
    _ = study.id  # by its real name
    study.name = "</script><script>alert(1)</script>"
    page = write_report(study, str(tmp_path / "report.html")).read_text()
    assert "<script>alert(1)" not in page
    study.name = "a|b `c` # d"
    lines = write_report(study, str(tmp_path / "report.md")).read_text().splitlines()
    assert lines[0] == r"## a\|b \`c\` \# d"


def test_the_search_command_makes_the_same_study(
    tiny_study: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.open(copied(tiny_study[0], tmp_path), tiny_study[1])
    command = search_command(study)
    assert study.spec.model not in command  # where a folder lies is nobody's business
    given = shlex.split(command)
    for option in ("model", "data"):
        given[given.index(f"--{option}") + 1] = getattr(study.spec, option)
    given[given.index("--storage") + 1] = str(study.database.engine.url)
    monkeypatch.setattr("sys.argv", given)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    study.refresh()
    assert study.count == 14  # it is resumed, since nothing differs, and has all its trials


@pytest.mark.parametrize(
    ("out", "given", "words"),
    [
        ("no/where.html", {}, "name a file in a folder"),
        (".", {}, "name a file in a folder"),
        ("x.html", {"format": "pdf"}, "`format` must be one of html, md, not 'pdf'"),
        ("x.html", {"trial": 999}, "no finished trial 999"),
    ],
)
def test_what_cannot_be_written(
    tiny_study: tuple[str, str], tmp_path: Path, out: str, given: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        written(tiny_study, tmp_path / out, **given)
    assert not (tmp_path / "x.html").exists()
