"""The model families, one file each. A file added to this folder is registered by itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MappingProxyType

from axsearch import discovery
from axsearch.errors import UsageError
from axsearch.models.architectures.base import Architecture

__all__ = ["Architecture", "architecture_of", "architectures"]


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """Every family by transformers' ``model_type``."""
    found: dict[str, Architecture] = {}
    for member in discovery.classes(sys.modules[__name__], Architecture):
        found |= dict.fromkeys(member.model_types, member())
    return MappingProxyType(dict(sorted(found.items())))


def architecture_of(model_type: str) -> Architecture:
    """The family of a model type; raises UsageError that lists the families there are."""
    family = architectures().get(model_type)
    if family is None:
        raise UsageError(
            f"Models of type {model_type!r} are not supported; "
            f"axsearch supports {', '.join(architectures())}."
        )
    return family
