"""The config of an export: which entries of the base's it keeps, and whether one is as written.

Libraries read more of a config than the model's class does: transformers ``attn_implementation``
and ``quantization_config``, its pipelines ``custom_pipelines``, and each may have code fetched and
run. So an export has the entries of the class, and of others only those that hold plain data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from axsearch.errors import UsageError, cause

PRIVATE = ("_name_or_path", "auto_map", "axsearch")
"""Entries of a base's config that are no part of the model that it describes."""

STRUCTURED = ("adapters", "pruned_heads", "sentence_transformers", "task_specific_params")
"""Entries beside those of a class that may hold other entries: no library takes code from them, but
for the activation that sentence-transformers names by its place in torch."""

_WORDS = re.compile(r"[\w -]*|\d[\w.+]*|torch\.nn\.modules\.[a-z]+\.\w+")
"""Words and versions; a repository, a module and a path all have a slash, a dot or a colon."""


def kept_entries(config: PreTrainedConfig) -> dict[str, Any]:
    """The entries of a base's config that an export keeps."""
    data = {name: value for name, value in config.to_dict().items() if name not in PRIVATE}
    strange = set(_strange(data, type(config)))
    return {name: value for name, value in data.items() if name not in strange}


def check_entries(
    path: Path, data: Mapping[str, Any], config_class: type[PreTrainedConfig]
) -> None:
    """Raise UsageError for an entry of a config that no export of a model of this class has.

    Args:
        path: of the config, for the sentence.
        data: its entries, without those of axsearch.
        config_class: of the model.
    """
    try:
        strange = next(_strange(data, config_class), None)
    except Exception as error:  # the readers of configs have a kind each
        raise UsageError(f"{path} cannot be read: {cause(error)}; export it again.") from None
    if strange is not None:
        raise UsageError(
            f"{path} has the entry {strange!r}, which axsearch does not write because code to run "
            "can be named there; export the model again."
        )


def _strange(data: Mapping[str, Any], config_class: type[PreTrainedConfig]) -> Iterator[str]:
    own = config_class().to_dict()
    others = {name: value for name, value in data.items() if name not in own}
    plain = {name: value for name, value in others.items() if _is_plain(config_class, name, value)}
    yield from others.keys() - plain.keys()
    # What the class takes for its own use, as an implementation, does not come back.
    read = config_class.from_dict({n: v for n, v in data.items() if n in own or n in plain})
    back = read.to_dict()
    yield from (n for n, v in plain.items() if not _is_number(v) and n not in back)


def _is_plain(config_class: type[PreTrainedConfig], name: str, value: Any) -> bool:
    if hasattr(config_class, name):  # its methods and properties
        return False
    if isinstance(value, Mapping):
        return not value or (name in STRUCTURED and _is_data(value))
    return _is_data(value)


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(str(name)) and _is_data(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    return _is_number(value) or (isinstance(value, str) and _WORDS.fullmatch(value) is not None)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)
