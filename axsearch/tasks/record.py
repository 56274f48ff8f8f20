"""The record that fine-tuning leaves beside a model: what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axsearch.tasks.spec import AS_BEFORE, LEFT_OUT, UNKNOWN

RECORD = "finetune.json"


def learnt_by(model: str) -> tuple[int, str | None]:
    """How the data of a model's fine-tuning were read, and a fingerprint of the training examples.

    Models that axsearch did not fine-tune have no record, and those of version 0.1 no fingerprint.
    """
    found = _record(model)
    if found is None:
        return UNKNOWN, None
    learnt = found.get("learnt")
    return (LEFT_OUT, learnt) if isinstance(learnt, str) else (AS_BEFORE, None)


def length_of(model: str) -> int | None:
    """The tokens to which inputs were cut when a model was fine-tuned; None if not by axsearch."""
    length = (_record(model) or {}).get("max_length")
    return length if type(length) is int and length > 0 else None


def _record(model: str) -> dict[str, Any] | None:
    path = Path(model).expanduser() / RECORD
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
