"""The formats of two corpora that many others follow: SQuAD's JSON and CoNLL's columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from axsearch.errors import UsageError

DOCUMENT = "-DOCSTART-"
"""The word of a line that begins a document in CoNLL's files of 2003."""

COMMENT = re.compile(r"#\s")

IDENTITY = re.compile(r"#\s*(id|sent_id|text|newdoc|newpar|global\.columns)\b")
"""Comments that many corpora put before a sentence, whatever the number of their words."""


def squad_rows(path: Path, articles: list[Any]) -> list[dict[str, Any]]:
    """The questions of SQuAD's own files (arXiv 1606.05250, 1806.03822), one a row.

    Args:
        path: of the file, for errors.
        articles: its ``data``: objects with paragraphs of a context and its questions.

    Raises:
        UsageError: something is not where it has to be.
    """
    rows: list[dict[str, Any]] = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [] if question.get("is_impossible") else question.get("answers", [])
                    rows.append(
                        {
                            "id": str(question.get("id", len(rows))),
                            "title": str(article.get("title", "")),
                            "question": question["question"],
                            "context": paragraph["context"],
                            "answers": {
                                "text": [answer["text"] for answer in answers],
                                "answer_start": [answer["answer_start"] for answer in answers],
                            },
                        }
                    )
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path} cannot be read: it is not in SQuAD's form, data, paragraphs and qas with "
            f"question and answers (question {len(rows) + 1})."
        ) from None
    return rows


def read_conll(path: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    """Sentences of lines that hold a word first and its tag last, with blank lines between.

    That is the format of CoNLL's shared tasks of 2002 and 2003 and of most corpora of entities
    since. Columns are separated by tabs, or by blanks where the file has no tabs. Lines that begin
    a document and comments (``# …``, with another number of columns than words have) are left out.

    Args:
        path: of the file, for errors.
        lines: of the file.

    Raises:
        UsageError: lines have different numbers of columns, or only one.
    """
    text = [line.rstrip("\r\n") for line in lines]
    first = [True, *(not line.strip() for line in text)]
    text = [
        "" if begins and IDENTITY.match(line) else line
        for begins, line in zip(first, text, strict=False)
    ]
    separator = "\t" if any("\t" in line for line in text) else None
    cells = [line.split(separator) if line.strip() else [] for line in text]
    counts = Counter(len(row) for row in cells if row)
    width = max(counts, key=lambda n: (counts[n], n), default=0)
    rows: list[dict[str, Any]] = [_sentence()]
    for number, (line, row) in enumerate(zip(text, cells, strict=True), 1):
        if not row:
            rows.append(_sentence())
        elif row[0] == DOCUMENT or (len(row) != width and COMMENT.match(line)):
            continue
        elif len(row) != width or width < 2:
            raise UsageError(
                f"{path} cannot be read: line {number} has {len(row)} columns, not a word, its tag "
                f"and what may stand between them{f' ({width} columns)' if width > 1 else ''}."
            )
        else:
            rows[-1]["tokens"].append(row[0].strip())
            rows[-1]["ner_tags"].append(row[-1].strip())
    return [row for row in rows if row["tokens"]]


def _sentence() -> dict[str, Any]:
    return {"tokens": [], "ner_tags": []}
