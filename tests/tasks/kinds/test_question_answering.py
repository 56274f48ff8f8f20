"""Windows, spans and SQuAD's scores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axsearch.errors import UsageError
from axsearch.statistics import metrics
from axsearch.tasks.data import read_data
from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.kinds.question_answering import (
    ANSWER_TOKENS,
    FIRST,
    LAST,
    Question,
    QuestionAnswering,
    Span,
    Windows,
)
from axsearch.testing.samples import rows, write_rows
from axsearch.testing.text import tiny_tokenizer

KIND = QuestionAnswering()
WORDS = [f"word{i}" for i in range(40)] * 3


def context(count: int) -> str:
    return " ".join(WORDS[:count])


def about(word: int, count: int = 100, question: str = "good", words: int = 1) -> Question:
    """A question whose answer is these words of a context of so many."""
    text = context(count)
    start = len(" ".join([*WORDS[:word], ""])) if word else 0
    return Question(question, text, ((" ".join(WORDS[word : word + words]), start),))


def split_of(*questions: Question, length: int = 32) -> Windows:
    return KIND.split("search", questions, tiny_tokenizer(), length, Labels((), {}))


def texts_of(split: Windows, row: int, codes: int) -> list[str]:
    """What the tokens of a window with these targets say."""
    assert isinstance(split.targets, list)
    own = split.questions[split.owner[row]].context
    return [
        own[slice(*split.offsets[row][token])]
        for token, target in enumerate(split.targets[row])
        if target & codes
    ]


class TestWindows:
    def test_a_short_context_is_one_window(self) -> None:
        split = split_of(about(3, count=10), about(5, count=12, words=3))
        assert list(split.owner) == [0, 1]
        assert texts_of(split, 0, FIRST + LAST) == ["word3"]
        assert (texts_of(split, 1, FIRST), texts_of(split, 1, LAST)) == (["word5"], ["word7"])

    def test_a_long_context_is_read_in_windows_that_overlap(self) -> None:
        split = split_of(about(50), about(2, count=10))
        assert split.owner[-1] == 1
        assert len(split) - 1 == split.owner.count(0) > 3
        assert int(split.lengths.max()) == 32
        seen: list[set[int]] = [
            {start for start, end in split.offsets[row] if end > start} for row in range(len(split))
        ]
        starts = {i for i, (a, b) in enumerate(zip(" " + context(100), context(100), strict=False))
                  if a == " " and b != " "}  # fmt: skip
        assert set.union(*seen[:-1]) == starts
        for one, following in itertools.pairwise(seen[:-1]):
            assert len(one & following) >= 8

    def test_windows_without_the_whole_answer_have_none(self) -> None:
        split = split_of(about(50, words=6))
        whole = [row for row in range(len(split)) if texts_of(split, row, FIRST) == ["word10"]]
        assert whole
        for row in set(range(len(split))) - set(whole):
            assert isinstance(split.targets, list)
            assert split.targets[row][0] == FIRST + LAST  # the special token in front
            assert sum(split.targets[row]) == FIRST + LAST
        for row in whole:
            assert texts_of(split, row, LAST) == ["word15"]

    def test_the_question_is_no_part_of_the_answer(self) -> None:
        split = split_of(about(1, count=8, question="word1 word1"))
        assert isinstance(split.targets, list)
        assert split.targets[0].index(FIRST + LAST) == 5  # [CLS] word1 word1 [SEP] word0 word1

    def test_a_long_question_leaves_room(self) -> None:
        split = split_of(about(50, question="word7 " * 80))
        assert int(split.lengths.max()) <= 32
        assert any(texts_of(split, row, FIRST) == ["word10"] for row in range(len(split)))

    @pytest.mark.parametrize("length", [8, 9, 16])
    def test_short_inputs(self, length: int) -> None:
        split = split_of(about(50, question="word7 " * 80), length=length)
        assert int(split.lengths.max()) <= length
        assert any(texts_of(split, row, FIRST) == ["word10"] for row in range(len(split)))

    def test_fingerprint_holds_every_answer(self) -> None:
        one = about(3, count=10)
        two = one._replace(answers=(*one.answers, *about(5, count=10).answers))
        assert split_of(one).fingerprint != split_of(two).fingerprint


def logits(split: Windows, **peaks: float) -> torch.Tensor:
    """Scores for all windows, zero but at ``start<window>_<token>`` and ``end…``."""
    found = torch.zeros(len(split), int(split.lengths.max()), 2)
    for name, score in peaks.items():
        side = 0 if name.startswith("start") else 1
        window, token = map(int, name.removeprefix("start").removeprefix("end").split("_"))
        found[window, token, side] = score
    return found


def decoded(split: Windows, scores: torch.Tensor) -> list[Span]:
    return list(KIND.decode(scores, split, np.arange(len(split))))


class TestAnswers:
    # [CLS] good [SEP] word0 word1 … : word i is token 3 + i
    def said(self, split: Windows, **peaks: float) -> list[str]:
        return list(KIND.texts(split, decoded(split, logits(split, **peaks))))

    def test_best_span(self) -> None:
        split = split_of(about(0, count=10), length=40)
        assert self.said(split, start0_5=4, end0_7=3) == ["word2 word3 word4"]

    def test_an_end_before_its_start_is_no_span(self) -> None:
        split = split_of(about(0, count=10), length=40)
        assert self.said(split, start0_8=4, end0_5=3.5, end0_9=1) == ["word5 word6"]

    def test_question_and_special_tokens_are_no_answer(self) -> None:
        split = split_of(about(0, count=10), length=40)
        peaks = {"start0_0": 9.0, "end0_0": 9.0, "start0_1": 8.0, "end0_2": 8.0}
        assert self.said(split, start0_6=1, end0_6=1, **peaks) == ["word3"]

    def test_longest_answer(self) -> None:
        split = split_of(about(0, count=44), length=48)
        within, beyond = 3 + ANSWER_TOKENS - 1, 3 + ANSWER_TOKENS
        assert len(self.said(split, start0_3=5, **{f"end0_{within}": 5.0})[0].split()) == 30
        found = self.said(split, start0_3=5, **{f"end0_{beyond}": 5.1})[0]
        assert len(found.split()) <= 30

    def test_against_every_pair_of_tokens(self) -> None:
        split = split_of(about(0, count=44), about(9, count=20), length=48)
        scores = torch.randn(2, 48, 2, generator=torch.Generator().manual_seed(0))
        for row, span in enumerate(decoded(split, scores)):
            inside = [t for t, (a, b) in enumerate(split.offsets[row]) if b > a]
            best = max(
                (float(scores[row, s, 0] + scores[row, e, 1]), s, e)
                for s in inside for e in inside if s <= e < s + ANSWER_TOKENS
            )  # fmt: skip
            assert (span.score, span.start, span.end) == pytest.approx(best)
            assert span.none == pytest.approx(float(scores[row, 0].sum()))

    def test_the_best_window_answers(self) -> None:
        split = split_of(about(50))
        second = context(100)[split.offsets[1][5][0] :].split()[0]
        assert self.said(split, start0_5=2, end0_5=2, start1_5=3, end1_5=3) == [second]

    def test_no_answer_only_where_the_data_have_such_questions(self) -> None:
        asked = about(0, count=10)
        peaks = {"start0_0": 5.0, "end0_0": 5.0, "start0_4": 2.0, "end0_4": 2.0}
        assert self.said(split_of(asked, length=40), **peaks) == ["word1"]
        split = split_of(asked, asked._replace(answers=()), length=40)
        assert self.said(split, **peaks) == ["", "word0"]


class TestScores:
    @pytest.mark.parametrize(
        ("said", "known", "f1", "exact"),
        [
            ("brown fox", ["brown fox"], 1, 1),
            ("The Brown fox!", ["brown fox"], 1, 1),
            ("a brown fox", ["brown fox jumps"], 0.8, 0),
            ("brown", ["lazy dog"], 0, 0),
            ("brown fox", ["fox", "the brown, fox jumps high"], 2 / 3, 0),
            ("dog dog", ["dog"], 2 / 3, 0),
            ("", [], 1, 1),
            ("dog", [], 0, 0),
            ("", ["dog"], 0, 0),
        ],
    )
    def test_of_one_question(self, said: str, known: list[str], f1: float, exact: float) -> None:
        question = Question("who", said or "dog", tuple((text, 0) for text in known))
        span = Span(1.0, 0, 0, 0.0) if said else Span(-np.inf, 0, 0, np.inf)
        split = Windows(
            "search", [{"input_ids": [1]}], [[0]], 0,
            questions=[question], owner=[0], offsets=[[(0, len(said))]],
        )  # fmt: skip
        for metric, expected in (("f1", f1), ("exact_match", exact)):
            outcome = KIND.outcome(metric, split, [span])
            assert metrics.value(outcome) == pytest.approx(expected, abs=1e-6)
        assert KIND.outcome("exact_match", split, [span]).values.dtype == bool

    def test_no_answer_is_trivial(self) -> None:
        asked = about(0, count=10)
        split = split_of(asked, asked._replace(answers=()), asked, asked, length=40)
        assert KIND.trivial("f1", split, split) == 0.25
        assert KIND.trivial("exact_match", split_of(asked), split_of(asked)) == 0


class TestData:
    def refused(self, folder: Path, change: dict[str, Any], **arguments: Any) -> str:
        content = rows(KIND.name, 30, 0)
        content[4] = {name: value for name, value in {**content[4], **change}.items() if value != 0}
        if 0 in change.values():
            content = [{k: v for k, v in row.items() if k in content[4]} for row in content]
        write_rows(folder / "train.jsonl", content)
        with pytest.raises(UsageError) as caught:
            read_data(str(folder), **arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_answers_as_pairs(self, tmp_path: Path) -> None:
        content = rows(KIND.name, 40, 0)
        write_rows(tmp_path / "train.jsonl", content)
        expected = read_data(str(tmp_path)).train
        for row in content:
            texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
            row["answers"] = [
                {"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)
            ]
        write_rows(tmp_path / "train.jsonl", content)
        assert read_data(str(tmp_path)).train == expected

    def test_no_column_of_answers(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, {"answers": 0})
        assert "the train split has no column 'answers'; it has question, context" in message

    def test_no_answer_at_all(self, tmp_path: Path) -> None:
        empty = {"text": [], "answer_start": []}
        write_rows(
            tmp_path / "train.jsonl", [row | {"answers": empty} for row in rows(KIND.name, 30, 0)]
        )
        with pytest.raises(UsageError, match="train split has nothing in column 'answers'"):
            read_data(str(tmp_path))

    def test_hidden_answers_of_a_test_split(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train.jsonl", rows(KIND.name, 60, 0))
        empty = {"text": [], "answer_start": []}
        hidden = [row | {"answers": empty} for row in rows(KIND.name, 5, 1)]
        write_rows(tmp_path / "test.jsonl", hidden)
        assert "The test split has no labels and is left out." in read_data(str(tmp_path)).notes

    @pytest.mark.parametrize(
        "answers",
        [
            {"text": ["elephant"], "answer_start": [0]},
            {"text": ["good"], "answer_start": [-3]},
            {"text": [""], "answer_start": [0]},
        ],
        ids=str,
    )
    def test_answers_that_are_not_in_the_context(
        self, tmp_path: Path, answers: dict[str, Any]
    ) -> None:
        message = self.refused(tmp_path, {"answers": answers})
        assert "answers that are not in the context at their answer_start (1 of 30" in message
        assert "row 5" in message

    def test_answers_of_another_form(self, tmp_path: Path) -> None:
        content = [row | {"answers": "good"} for row in rows(KIND.name, 30, 0)]
        write_rows(tmp_path / "train.jsonl", content)
        with pytest.raises(UsageError, match="row 1 whose answers are not SQuAD's"):
            read_data(str(tmp_path))

    def test_true_is_no_position(self, tmp_path: Path) -> None:
        answer = {"text": ["ood"], "answer_start": [True]}
        content = [{"question": "a", "context": "good", "answers": answer}] * 30
        write_rows(tmp_path / "train.jsonl", content)
        with pytest.raises(UsageError, match="row 1 whose answers are not SQuAD's"):
            read_data(str(tmp_path))

    @pytest.mark.parametrize("context", [5, ["good"], {"a": "good"}], ids=str)
    def test_a_context_that_is_no_text(self, tmp_path: Path, context: Any) -> None:
        content = [{**row, "context": context} for row in rows(KIND.name, 30, 0)]
        write_rows(tmp_path / "train.jsonl", content)
        with pytest.raises(UsageError, match="has no text in column 'context' of row 1"):
            read_data(str(tmp_path))

    def test_missing_context(self, tmp_path: Path) -> None:
        assert "without a question or a context (1)" in self.refused(tmp_path, {"context": None})

    def test_one_text_column(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path, {}, text_columns=["context"])
        assert "takes two `text_columns`" in message
