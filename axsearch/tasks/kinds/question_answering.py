"""Extractive question answering in SQuAD's form (Rajpurkar et al. 2016, arXiv 1606.05250).

Long contexts are read in overlapping windows; the best span of all windows is the answer. As in
SQuAD 2.0 (arXiv 1806.03822) a question may have no answer, if the data contain such questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, PreTrainedConfig, PreTrainedTokenizerBase

from axsearch.errors import UsageError
from axsearch.statistics.outcome import Outcome
from axsearch.tasks.kinds.base import Columns, TaskKind, feature_list, require_texts
from axsearch.tasks.kinds.labels import LabelHints, Labels, no_labels
from axsearch.tasks.split import IGNORED, Split

ANSWER_TOKENS = 30
"""The longest answer that is considered, as in BERT's own evaluation on SQuAD."""

QUESTION_TOKENS = 64
OVERLAP = 128
"""Tokens of a question that are read, and tokens that windows share, as in BERT's evaluation too;
fewer if the windows are short."""


NO_TOKEN = 0
"""The special token that means no answer."""

FIRST, LAST = 1, 2
"""The targets of the answer's first and last token; their sum if it has one token; others are 0."""


class Question(NamedTuple):
    """A question about a context; answers are (text, first character), empty if it has none."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


class Span(NamedTuple):
    """The best span of a window by its tokens, its score, and the score of no answer."""

    score: float
    start: int
    end: int
    none: float


NOWHERE = Span(-np.inf, 0, 0, np.inf)
"""The span that means no answer."""


@dataclass(frozen=True)
class Windows(Split):
    """Questions with windows of their contexts; targets are :data:`FIRST` and :data:`LAST`.

    Attributes:
        questions: the examples.
        owner: the example of each window, (windows,), in the examples' order.
        offsets: the characters (start, end) of each token of a window; (-1, -1) for a token
            outside the context.
        shortened: the number of questions, of those that the split was made of, that are cut.
    """

    questions: Sequence[Question] = ()
    owner: Sequence[int] = ()
    offsets: Sequence[Sequence[tuple[int, int]]] = ()
    shortened: int = 0

    def references(self) -> Sequence[Any]:
        """The questions with all their answers, and the question of each window."""
        return (self.questions, self.owner)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The question of each window."""
        return np.asarray(self.owner)

    def take(self, examples: NDArray[np.int64]) -> Split:
        """The windows of these questions."""
        number = {int(example): new for new, example in enumerate(sorted(examples))}
        rows = [int(row) for row in np.flatnonzero(np.isin(self.owners, examples))]
        return self._features(
            rows,
            questions=[self.questions[example] for example in number],
            owner=[number[self.owner[row]] for row in rows],
            offsets=[self.offsets[row] for row in rows],
        )


class QuestionAnswering(TaskKind[Question, Windows]):
    """The answer is a span of the context. F1 is the overlap of words, averaged over questions."""

    name = "question-answering"
    head = "ForQuestionAnswering"
    auto_class = AutoModelForQuestionAnswering
    metrics = ("f1", "exact_match")
    trivial_answer = "no answer"
    windows = True

    def recognises(self, table: datasets.Dataset, label_column: str | None) -> bool:
        """Whether there are answers, or questions with contexts, and no labels."""
        names = set(table.column_names)
        if label_column not in (None, "answers") or "label" in names:
            return False
        return "answers" in names or {"question", "context"} <= names

    def columns(
        self,
        source: str,
        table: datasets.Dataset,
        text_columns: Sequence[str] | None,
        label_column: str | None,
    ) -> Columns:
        """``question``, ``context`` and ``answers``, unless others are named."""
        texts = tuple(text_columns or ("question", "context"))
        if len(texts) != 2:
            raise UsageError(
                "Question answering takes two `text_columns`, the question's and the context's, "
                f"not {len(texts)}."
            )
        return Columns(texts, label_column or "answers")

    def examples(
        self, source: str, name: str, table: datasets.Dataset, columns: Columns
    ) -> list[Question] | None:
        """Questions with their answers; None if no question has one, as in hidden test splits."""
        texts = [table[column][:] for column in (*columns.texts, columns.label)]
        for column, values in zip(columns.texts, texts, strict=False):
            require_texts(source, name, column, values)
        rows = list(zip(*texts, strict=True))
        where = f"{source}: the {name} split has"
        missing = sum(not (q and q.strip() and c) for q, c, _ in rows)
        if missing:
            raise UsageError(f"{where} rows without a question or a context ({missing}).")
        found = [
            Question(q, c, _answers(f"{where} a row {number}", answers))
            for number, (q, c, answers) in enumerate(rows, 1)
        ]
        strays = [
            number
            for number, example in enumerate(found, 1)
            if any(
                not text or start < 0 or not example.context.startswith(text, start)
                for text, start in example.answers
            )
        ]
        if strays:
            raise UsageError(
                f"{where} answers that are not in the context at their answer_start "
                f"({len(strays)} of {len(rows)}, first in row {strays[0]}); correct or remove them."
            )
        return found if any(example.answers for example in found) else None

    def unanswered(
        self, source: str, table: datasets.Dataset, columns: Columns, like: Question
    ) -> list[Question]:
        """Questions with contexts, neither of them empty."""
        texts = [table[column][:] for column in columns.texts]
        for column, values in zip(columns.texts, texts, strict=True):
            require_texts(source, "unlabelled", column, values)
        rows = zip(*texts, strict=True)
        return [Question(q, c, ()) for q, c in rows if q and q.strip() and c]

    def learnable(self, examples: Sequence[Question]) -> bool:
        """Always true: data without any answer have been refused."""
        return True

    def new_labels(
        self,
        train: Sequence[Question],
        others: Sequence[Question],
        hints: LabelHints | None = None,
    ) -> Labels:
        """No labels: the head predicts where an answer starts and ends."""
        return no_labels(self.name, hints)

    def head_config(self, labels: Labels) -> dict[str, Any]:
        """A head with two outputs per token."""
        return {"problem_type": None, "num_labels": 2}

    def labels(
        self,
        config: PreTrainedConfig,
        examples: Sequence[Question],
        hints: LabelHints | None = None,
    ) -> Labels:
        """None."""
        return no_labels(self.name, hints)

    def split(
        self,
        name: str,
        examples: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        labels: Labels,
    ) -> Windows:
        """Windows of ``length`` tokens; the target of one without the answer is no answer."""
        if not tokenizer.is_fast:
            raise UsageError(f"{self.name} needs a tokenizer with a tokenizer.json.")
        asked = _question_tokens(length)
        room = length - asked - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 2:
            raise UsageError(f"Inputs of {length} tokens are too short for {self.name}.")
        keys = [key for key in tokenizer.model_input_names if key != "offset_mapping"]
        questions = [example.question for example in examples]
        short = _shortened(tokenizer, questions, asked)
        encoded = tokenizer(
            short,
            [example.context for example in examples],
            truncation="only_second",
            max_length=length,
            stride=min(OVERLAP, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owner: list[int] = encoded["overflow_to_sample_mapping"]
        offsets, targets = [], []
        for window, example in enumerate(owner):
            parts = encoded.sequence_ids(window)
            characters = [
                (int(span[0]), int(span[1])) if part == 1 else (-1, -1)
                for span, part in zip(encoded["offset_mapping"][window], parts, strict=True)
            ]
            first, last = _find(characters, examples[example].answers)
            own = [0] * len(characters)
            own[first] += FIRST
            own[last] += LAST
            offsets.append(characters)
            targets.append(own)
        return Windows(
            name,
            feature_list(encoded, [key for key in keys if key in encoded]),
            targets,
            tokenizer.pad_token_id or 0,
            questions=examples,
            owner=owner,
            offsets=offsets,
            shortened=sum(ours != own for ours, own in zip(short, questions, strict=True)),
        )

    def also_cut(self, splits: Sequence[Windows], length: int) -> str:
        """How many questions are cut; contexts are read in windows."""
        count = sum(split.shortened for split in splits)
        if not count:
            return ""
        return (
            f"{count:,} of {sum(len(split.questions) for split in splits):,} questions are longer "
            f"than {_question_tokens(length)} tokens and are cut."
        )

    def logits(self, outputs: Any) -> torch.Tensor:
        """For each token, the logits of being the first and the last: (windows, tokens, 2)."""
        return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean of the cross entropies of first and last token, over all but padding."""
        padding = (targets == IGNORED)[..., None]
        ends = torch.stack([(targets.clamp(min=0) & end) > 0 for end in (FIRST, LAST)], dim=-1)
        return torch.nn.functional.cross_entropy(
            logits.masked_fill(padding, -torch.inf), ends.int().argmax(dim=1), reduction="none"
        ).mean(1)

    def divergence(
        self, logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """The mean of the divergences of first and last token, over all but padding."""
        padding = (targets == IGNORED)[..., None]
        ours, theirs = (x.masked_fill(padding, -torch.inf).log_softmax(1) for x in (logits, base))
        each = theirs.exp() * (theirs - ours)
        return each.masked_fill(padding, 0.0).sum(1).mean(1)

    def decode(self, logits: torch.Tensor, split: Windows, rows: NDArray[Any]) -> Sequence[Span]:
        """The best span within the context, of at most :data:`ANSWER_TOKENS` tokens."""
        windows, tokens, _ = logits.shape
        inside = torch.zeros(windows, tokens, dtype=torch.bool)
        for window, row in enumerate(rows):
            for token, (start, end) in enumerate(split.offsets[row]):
                inside[window, token] = end > start
        scores = logits.float().cpu()
        none = scores[:, NO_TOKEN].sum(-1)
        start, end = scores.masked_fill(~inside[..., None], -torch.inf).unbind(-1)
        best = torch.full((windows,), -torch.inf)
        first, last = torch.zeros(2, windows, dtype=torch.long)
        for longer in range(min(ANSWER_TOKENS, tokens)):
            score, at = (start[:, : tokens - longer] + end[:, longer:]).max(dim=1)
            better = score > best
            best = torch.where(better, score, best)
            first, last = torch.where(better, at, first), torch.where(better, at + longer, last)
        columns = (best.tolist(), first.tolist(), last.tolist(), none.tolist())
        return [Span(*span) for span in zip(*columns, strict=True)]

    def outcome(self, metric: str, split: Windows, answers: Sequence[Span]) -> Outcome:
        """The score of each question."""
        from torchmetrics.functional.text import squad  # torchmetrics takes seconds to import

        scores = []
        for (_, _, known), said in zip(split.questions, self.texts(split, answers), strict=True):
            texts: list[str] | list[int] = [text for text, _ in known] or [""]
            truth: dict[str, str | dict[str, list[str] | list[int]]]
            truth = {"id": "0", "answers": {"text": texts}}
            found = squad([{"id": "0", "prediction_text": said}], [truth])
            scores.append(float(found[metric]) / 100)
        values = np.array(scores)
        return Outcome("mean", values == 1 if metric == "exact_match" else values)

    def texts(self, split: Windows, answers: Sequence[Span]) -> Iterator[str]:
        """The answer to each question, from all its windows; empty for no answer.

        No answer is considered only if the split contains such questions.
        """
        may_be_none = any(not question.answers for question in split.questions)
        windows: list[list[int]] = [[] for _ in split.questions]
        for window, example in enumerate(split.owner):
            windows[example].append(window)
        for question, own in zip(split.questions, windows, strict=True):
            best = max(own, key=lambda window: answers[window].score)
            score, start, end, _ = answers[best]
            none = min(answers[window].none for window in own)
            if score == -np.inf or (may_be_none and none > score):
                yield ""
            else:
                yield question.context[split.offsets[best][start][0] : split.offsets[best][end][1]]

    def trivial_answers(self, train: Windows, split: Windows) -> Iterable[Sequence[Span]]:
        """No answer."""
        return [[NOWHERE] * len(split)]


def _answers(where: str, given: Any) -> tuple[tuple[str, int], ...]:
    """Read answers in SQuAD's form, {text: […], answer_start: […]}, or as a list of such pairs."""
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
    elif isinstance(given, list) and all(isinstance(one, dict) for one in given):
        texts = [one.get("text") for one in given]
        starts = [one.get("answer_start") for one in given]
    else:
        texts = starts = None
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        or not all(type(start) is int for start in starts)  # true is not a number
    ):
        raise UsageError(
            f"{where} whose answers are not SQuAD's "
            '{"text": ["…"], "answer_start": [0]}, but '
            f"{str(given)[:60]!r}."
        )
    return tuple(dict.fromkeys(zip(texts, starts, strict=True)))


def _question_tokens(length: int) -> int:
    """The tokens of a question that are read in windows of this length."""
    return min(QUESTION_TOKENS, length // 3)


def _shortened(tokenizer: PreTrainedTokenizerBase, questions: list[str], most: int) -> list[str]:
    """Questions cut to this many tokens; a long one would leave no room for its context."""
    encoded = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
    return [
        question if len(spans) <= most else question[: spans[most - 1][1]]
        for question, spans in zip(questions, encoded["offset_mapping"], strict=True)
    ]


def _find(
    characters: list[tuple[int, int]], answers: tuple[tuple[str, int], ...]
) -> tuple[int, int]:
    """First and last token of the first answer, if the window contains all of it."""
    if not answers:
        return NO_TOKEN, NO_TOKEN
    text, begin = answers[0]
    finish = begin + len(text)
    own = [token for token, (start, end) in enumerate(characters) if end > start]
    if not own or characters[own[0]][0] > begin or characters[own[-1]][1] < finish:
        return NO_TOKEN, NO_TOKEN
    touched = [t for t in own if characters[t][0] < finish and characters[t][1] > begin]
    return (touched[0], touched[-1]) if touched else (NO_TOKEN, NO_TOKEN)
