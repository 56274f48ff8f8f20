"""How scores are cut into tiles, so that nothing of size length x length is ever kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """Some queries of some heads, and the keys from the first on that they may attend to."""

    heads: slice
    queries: slice
    keys: int


def tiles(
    heads: int, queries: int, keys: int, *, causal: bool, chunk: int | None, budget: int
) -> Iterator[Tile]:
    """Cut scores of (heads, queries, keys) into tiles of at most ``budget`` scores.

    ``chunk`` is the number of queries per tile, whatever the budget; None takes as many as fit, but
    at least 128, since thinner matrix products run slower (by a third for 32 queries).
    """
    chunk = min(queries, chunk or max(128, budget // max(1, keys)))
    together = max(1, min(heads, budget // max(1, chunk * keys)))
    for head in range(0, heads, together):
        for query in range(0, queries, max(1, chunk)):
            end = min(queries, query + chunk)
            yield Tile(
                slice(head, min(heads, head + together)),
                slice(query, end),
                min(keys, end) if causal else keys,
            )
