"""Changes to JSON documents and to texts, as a slip of the hand, a bug or an enemy makes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

KEYS = st.text(max_size=10)
PIECES = ["", ",", ":", '"', "}", "]", "\n", "\0", "\\", "0", "'", "é"]
SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 3, 0.0, 1.0, 3.0, 0.5, 1e300, float("nan"), float("inf"),
    -float("inf"), 2**31, 2**63, -(2**63), 10**30, 10**4000, "", "3", "-1", "1e5", "007", "NaN",
    "null", "true", "..", "../../etc/passwd", "/etc/passwd", "a/b", "C:\\a", "\0", "a\nb",
    "\x1b[31m", "\u2028", "\ud800", "\ufeff", "日本", "x" * 5000,
]  # fmt: skip
NESTED = ["[]", "{}", "[null]", "[[]]", '{"":null}', "[" * 60 + "]" * 60, "[" * 600 + "]" * 600]
STRANGE: st.SearchStrategy[Any] = st.sampled_from(SCALARS) | st.sampled_from(NESTED).map(json.loads)
"""Values that readers get wrong, made anew each time."""


def positions(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something lies in a JSON document."""
    found = [path]
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            found += positions(value, (*path, key)) if len(path) < 50 else []
    return found


@st.composite
def changed(
    draw: st.DrawFn,
    documents: st.SearchStrategy[Any],
    values: st.SearchStrategy[Any] = STRANGE,
    names: st.SearchStrategy[str] = KEYS,
    most: int = 3,
) -> Any:
    """A document with up to ``most`` places replaced, deleted, renamed or added to."""
    data = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(1, most))):
        paths = [path for path in positions(data) if path]
        if not paths:
            break
        *way, key = draw(st.sampled_from(paths))
        parent = data
        for step in way:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "replace", "delete", "rename", "add"]))
        if change == "replace":
            parent[key] = draw(values)
        elif change == "delete":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, draw(values))
        else:
            name = draw(names)
            parent[name] = parent.pop(key) if change == "rename" else draw(values)
    return data


@st.composite
def doubled(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> str:
    """JSON text of a document in which one object has a key twice."""
    data = draw(documents)
    paths = [path for path in positions(data) if path and isinstance(path[-1], str)]
    twice = draw(st.sampled_from(paths)) if paths else ()
    other = json.dumps(draw(STRANGE | st.just(at(data, twice))))

    def text(value: Any, path: tuple[Any, ...]) -> str:
        if path != twice[: len(path)] or path == twice:
            return json.dumps(value)
        if isinstance(value, list):
            return f"[{','.join(text(item, (*path, i)) for i, item in enumerate(value))}]"
        pairs = [f"{json.dumps(key)}:{text(item, (*path, key))}" for key, item in value.items()]
        if path == twice[:-1]:
            pairs.insert(draw(st.integers(0, len(pairs))), f"{json.dumps(twice[-1])}:{other}")
        return "{" + ",".join(pairs) + "}"

    return text(data, ())


@st.composite
def spliced(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with some characters taken out, put in or moved."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 6)))
        piece = draw(
            st.sampled_from(["", ",", ":", '"', "}", "]", "\n", "\0", "\\", "0", "'", "é"])
        )
        text = text[:start] + piece + text[end:]
    return text


def parsed(text: str) -> Any:
    """A JSON document in which no object has a key twice; None for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None


def at(data: Any, path: Sequence[Any]) -> Any:
    """What lies at a position."""
    for step in path:
        data = data[step]
    return data
