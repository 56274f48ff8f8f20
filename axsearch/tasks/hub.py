"""Names that are neither a folder nor, after all, on the hub: said at once, with both."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import datasets
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from axsearch.errors import UsageError, cause

SECONDS = 10.0
"""How long the hub may take to say whether it has a name; its clients try for half a minute."""

Kind = Literal["model", "dataset"]


def is_path(name: str) -> bool:
    """Whether a name is that of something here, or written like a path: no hub name is."""
    path = Path(name).expanduser()
    return path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def check_on_hub(name: str, kind: Kind) -> None:
    """Raises UsageError for a name that is no folder here, if the hub does not have it either.

    What was downloaded before needs no hub.
    """
    if constants.is_offline_mode() or _is_cached(name, kind):
        return
    try:
        huggingface_hub.HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
    except GatedRepoError:  # the client says how to be let in
        return
    except (RepositoryNotFoundError, HFValidationError):
        raise UsageError(
            f"{name} is neither a folder here nor a {kind} on the hub{_hint(name)}."
        ) from None
    except HfHubHTTPError:  # it answers, but not this; the client may know more
        return
    except Exception as error:  # the client's own, by its version
        raise UsageError(
            f"{name} is no folder here{_hint(name)}, and the hub cannot be asked for it "
            f"({cause(error)})."
        ) from None


def _is_cached(name: str, kind: Kind) -> bool:
    there = huggingface_hub.try_to_load_from_cache
    files = ("config.json", "README.md")
    try:
        if any(isinstance(there(name, file, repo_type=kind), str) for file in files):
            return True
    except HFValidationError:
        return False
    prepared = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___").lower()
    return kind == "dataset" and prepared.is_dir()


def _hint(name: str) -> str:
    """What lies where the folder would be, if that is there."""
    path = Path(name)
    if not path.parent.is_dir() or path.parent == path:
        return ""
    folders = sorted(one.name for one in path.parent.iterdir() if one.is_dir())
    near = difflib.get_close_matches(path.name, folders, n=3, cutoff=0.3)
    if path.parent == Path() and not near:
        return ""
    where = "here" if path.parent == Path() else str(path.parent)
    return f" ({where} holds {', '.join(near or folders[:3]) or 'no folder'})"
