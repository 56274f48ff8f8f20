"""What a model was trained on: the record that fine-tuning leaves, which its exports keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axsearch.models.origin import ENTRY
from axsearch.tasks.spec import AS_BEFORE, LEFT_OUT, UNKNOWN

RECORD = "finetune.json"


def learnt_by(model: str) -> tuple[int, str | None]:
    """How the data of a model's fine-tuning were read, and a fingerprint of the training examples.

    Models that axsearch did not fine-tune have no record, and those of version 0.1 no fingerprint.
    An export has its base's fingerprint, if that has one, in its config.
    """
    folder = Path(model).expanduser()
    found = _object(folder / RECORD)
    if found is None:
        ours = (_object(folder / "config.json") or {}).get(ENTRY)
        learnt = ours.get("learnt") if isinstance(ours, dict) else None
        return (LEFT_OUT, learnt) if isinstance(learnt, str) else (UNKNOWN, None)
    learnt = found.get("learnt")
    return (LEFT_OUT, learnt) if isinstance(learnt, str) else (AS_BEFORE, None)


def length_of(model: str) -> int | None:
    """The tokens to which inputs were cut when a model was fine-tuned; None if not by axsearch."""
    length = (_object(Path(model).expanduser() / RECORD) or {}).get("max_length")
    return length if type(length) is int and length > 0 else None


def _object(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where it holds no object, or is not there."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
