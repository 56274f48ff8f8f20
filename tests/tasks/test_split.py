"""Batches and fingerprints of tokenised examples."""

from __future__ import annotations

import numpy as np
import pytest

from axsearch.tasks.split import IGNORED, Split, most_rows


def split_of(*lengths: int, pad_id: int = 9) -> Split:
    """Examples of these lengths; the first token says which example it is."""
    inputs = [
        {"input_ids": [100 + i] * length, "attention_mask": [1] * length}
        for i, length in enumerate(lengths)
    ]
    return Split("search", inputs, np.arange(len(lengths)) % 2, pad_id)


class TestSplit:
    def test_batches_are_bucketed_by_length_and_cover_each_example_once(self) -> None:
        split = split_of(5, 2, 9, 2, 7, 1, 4)
        batches = list(split.batches(3))
        assert [rows.tolist() for rows, _ in batches] == [[5, 1, 3], [6, 0, 4], [2]]
        for rows, batch in batches:
            assert batch["input_ids"][:, 0].tolist() == [100 + row for row in rows]
            assert batch["attention_mask"].sum(1).tolist() == split.lengths[rows].tolist()

    def test_collate_pads_to_the_longest(self) -> None:
        batch = split_of(1, 3).collate([0, 1])
        assert batch["input_ids"].tolist() == [[100, 9, 9], [101, 101, 101]]
        assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]

    def test_fingerprint_is_stable(self) -> None:
        # Stored evaluations are found by it.
        assert (
            split_of(2, 1).fingerprint
            == "f724547fa5a5f85385f9e996a790b3d30d1364fbe08dc270ecb5d40e0d17dc17"
        )
        assert split_of(2, 1).fingerprint == split_of(2, 1).fingerprint

    def test_fingerprint_tells_data_apart(self) -> None:
        split = split_of(2, 1)
        others = [
            Split("search", split.inputs, 1 - split.targets, 9),
            Split("search", split.inputs[::-1], split.targets, 9),
            Split("search", split.inputs[:1], split.targets[:1], 9),
            split_of(2, 2),
        ]
        assert len({split.fingerprint, *(other.fingerprint for other in others)}) == 5

    def test_targets_of_a_batch(self) -> None:
        split = split_of(2, 1, 3)
        assert split.collate_targets([2, 1]).tolist() == [0, 1]
        numbers = Split("search", split.inputs, np.array([0.5, 4.75, 1.0]), 9)
        assert numbers.collate_targets(np.array([1, 2])).tolist() == [4.75, 1.0]
        assert str(numbers.collate_targets([0]).dtype) == "torch.float32"  # as the model's answers
        tagged = Split("search", split.inputs, [[0, 1], [2], [3, 4, 5]], 9)
        assert tagged.collate_targets([1, 0]).tolist() == [[2, IGNORED], [0, 1]]

    def test_fingerprint_of_any_targets(self) -> None:
        inputs = split_of(2, 1).inputs
        targets = [np.array([0.5, 1.0]), np.array([0.5, 1.5]), [[0, 1], [2]], [[0], [1, 2]]]
        splits = [Split("search", inputs, target, 9) for target in targets]
        assert len({split.fingerprint for split in splits}) == 4

    def test_long_inputs_come_in_fewer_rows(self) -> None:
        lengths = [3] * 70 + [512] * 70 + [600] * 50 + [1024] * 20 + [2048] * 5 + [8192] * 2
        split = split_of(*lengths)
        sizes = [(len(rows), batch["input_ids"].shape[1]) for rows, batch in split.batches(64)]
        assert sizes == [
            (64, 3), (64, 512), (46, 600), (16, 600), (16, 1024), (4, 1024), (4, 2048), (1, 2048),
            (1, 8192), (1, 8192),
        ]  # fmt: skip
        assert max(rows * length**2 for rows, length in sizes[:-2]) <= 64 * 512**2

    def test_batches_of_short_inputs_are_those_of_so_many_rows(self) -> None:
        lengths = np.random.default_rng(0).integers(1, 513, 300)
        split = split_of(*lengths)
        order = np.argsort(lengths, kind="stable")
        found = [rows.tolist() for rows, _ in split.batches(64)]
        assert found == [order[start : start + 64].tolist() for start in range(0, 300, 64)]


@pytest.mark.parametrize(
    ("length", "rows"), [(1, 32), (128, 32), (129, 31), (256, 8), (512, 2), (8192, 1)]
)
def test_rows_fall_with_the_square_of_the_length(length: int, rows: int) -> None:
    assert most_rows(32, length, 128) == rows
