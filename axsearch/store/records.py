"""Records in a database, which another version may have written or someone edited."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from axsearch.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def read_record(model: type[M], data: Any, where: str) -> M:
    """Read JSON ``data`` as a record, with nothing left out or converted to another type.

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
    """The error for a record that axsearch cannot have written."""
    return UsageError(f"{where} is damaged or was written by another version: {reason}.")
