"""What is said of columns, and pairs of texts that are recognised."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from axsearch.tasks.columns import unread_columns


def table(**columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict({name: [value] * 9 for name, value in columns.items()})


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({}, None),
        ({"idx": 3, "id": "a1", "split": "train"}, None),
        ({"title": "so it is"}, "Not read: title (looks like a text); `text_columns` would"),
        ({"notes": "some words that nobody asked for"}, "notes (looks like a text)"),
        ({"label_text": "good"}, "label_text (looks like a label); `label_column` would"),
        (
            {"body": "so it is", "stars": 4},
            "body (looks like a text), stars (looks like a label); `text_columns` and "
            "`label_column` would name other columns.",
        ),
        ({"title": ""}, None),
    ],
)
def test_columns_that_look_as_if_they_should_be_read(
    others: dict[str, Any], said: str | None
) -> None:
    found = unread_columns(table(text="a b", label=1, **others), ("text", "label"))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
