"""How scores are cut into tiles."""

from __future__ import annotations

import itertools

import pytest
import torch

from axsearch.kernels.tiles import Tile, tiles

SIZES = list(itertools.product([1, 3, 8], [1, 16, 17, 50], [1, 20, 100]))


def cut(
    heads: int,
    queries: int,
    keys: int,
    causal: bool = False,
    chunk: int | None = None,
    budget: int = 1000,
) -> list[Tile]:
    return list(tiles(heads, queries, keys, causal=causal, chunk=chunk, budget=budget))


def scores_of(tile: Tile) -> int:
    return (
        (tile.heads.stop - tile.heads.start) * (tile.queries.stop - tile.queries.start) * tile.keys
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 7, 1000])
def test_every_query_of_every_head_is_in_one_tile(chunk: int | None, causal: bool) -> None:
    for (heads, queries, keys), budget in itertools.product(SIZES, (1, 100, 1000, 10**6)):
        seen = torch.zeros(heads, queries, dtype=torch.int64)
        for tile in cut(heads, queries, keys, causal, chunk, budget):
            seen[tile.heads, tile.queries] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize("budget", [100, 1000, 10**6])
def test_budget_is_kept_unless_tiles_would_be_thin(budget: int) -> None:
    for heads, queries, keys in SIZES:
        for tile in cut(heads, queries, keys, budget=budget):
            assert scores_of(tile) <= max(budget, 128 * keys)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_chunk_is_the_number_of_queries(chunk: int) -> None:
    lengths = {
        tile.queries.stop - tile.queries.start for tile in cut(2, 100, 50, chunk=chunk, budget=10)
    }
    assert max(lengths) == min(chunk, 100)
    assert lengths <= {min(chunk, 100), 100 % chunk}


def test_a_tile_may_hold_all_heads() -> None:
    assert cut(8, 10, 10, budget=800) == [Tile(slice(0, 8), slice(0, 10), 10)]


@pytest.mark.parametrize(("queries", "keys"), [(50, 50), (50, 20), (20, 50)])
def test_causal_tiles_end_at_their_last_query(queries: int, keys: int) -> None:
    for tile in cut(2, queries, keys, causal=True, chunk=7):
        assert tile.keys == min(keys, tile.queries.stop)


def test_tiles_that_are_not_causal_have_every_key() -> None:
    assert {tile.keys for tile in cut(2, 50, 20, chunk=7)} == {20}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("empty", ["heads", "queries"])
def test_nothing_to_cut(empty: str, causal: bool) -> None:
    sizes = {"heads": 2, "queries": 5, "keys": 7} | {empty: 0}
    assert cut(**sizes, causal=causal) == []


def test_no_keys() -> None:
    assert [tile.keys for tile in cut(2, 5, 0)] == [0]
