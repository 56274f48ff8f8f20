"""Records that a database holds, which another version or a hand may have written."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from axsearch.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def read_record(model: type[M], data: Any, where: str) -> M:
    """What JSON ``data`` say, nothing left out or turned into another type.

    Raises UsageError naming ``where`` they are from if they are not a record of this kind.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise damaged(where, ": ".join([*map(str, first["loc"]), reason])) from None
    except RecursionError:
        raise damaged(where, "it is nested too deeply") from None


def damaged(where: str, reason: str) -> UsageError:
    """The error of a record that cannot be what axsearch wrote."""
    return UsageError(f"{where} is damaged or was written by another version: {reason}.")
