"""Checkpoints of a training that can be killed at any moment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from axsearch.system.cache import private_folder

COMPLETE = "complete"
"""The file that says that a checkpoint was written to its end."""


class Kept(TrainerCallback):
    """Tells how far training is, and keeps the best and the last checkpoint, whole ones only.

    Trainer would delete the last but one before the last is known to be whole.

    Args:
        folder: of checkpoints.
        told: called after each step with the steps made and planned.
        stopped: whether training is to end now, after a last checkpoint.
    """

    def __init__(
        self, folder: Path, told: Callable[[int, int], None], stopped: Callable[[], bool]
    ) -> None:
        self._folder, self._told, self._stopped = folder, told, stopped

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called by Trainer."""
        self._told(state.global_step, state.max_steps)
        if self._stopped():
            # No look: one more than an undisturbed training has could become its best.
            control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called by Trainer."""
        last = self._folder / f"checkpoint-{state.global_step}"
        (last / COMPLETE).touch()
        kept = {last.name, Path(state.best_model_checkpoint or "").name}
        for old in self._folder.glob("checkpoint-*"):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written to its end; others are deleted."""
    whole = []
    for one in folder.glob("checkpoint-*"):
        if (one / COMPLETE).is_file():
            whole.append(one)
        else:
            shutil.rmtree(one, ignore_errors=True)
    found = max(whole, key=lambda one: int(one.name.partition("-")[2]), default=None)
    return None if found is None else str(found)


class Order(Sampler[int]):
    """The order of examples in each pass, which follows from the seed and the pass alone.

    Trainer's own sampler draws from the process's random numbers, which are other ones where a
    training is resumed within a pass.

    Args:
        lengths: of the examples, in tokens; those of similar length come together.
        size: of a batch.
        seed: of the training.
        epoch: the number of the pass that is about to begin, or to be resumed.
    """

    def __init__(
        self, lengths: NDArray[np.int64], size: int, seed: int, epoch: Callable[[], int]
    ) -> None:
        self._lengths, self._size, self._seed, self._epoch = lengths.tolist(), size, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        drawn = np.random.SeedSequence((self._seed, self._epoch())).generate_state(1)
        generator = torch.Generator().manual_seed(int(drawn[0]))
        return iter(get_length_grouped_indices(self._lengths, self._size, generator=generator))


@contextmanager
def run_folder(key: str, *, wait: bool, check: Callable[[], None]) -> Iterator[Path]:
    """The folder of a training's checkpoints, in the user's cache; one process has it at a time.

    Args:
        key: of the training.
        wait: for another process that has it; if false, Timeout is raised.
        check: called every second of waiting, to raise where that is to end.
    """
    cache = private_folder("recovery")
    if cache is None:  # it cannot be resumed
        with tempfile.TemporaryDirectory(prefix="axsearch-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    lock = FileLock(cache / f"{key}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1 if wait else 0)
        except Timeout:
            if not wait:
                raise
            check()
    try:
        folder = cache / key
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        lock.release()
