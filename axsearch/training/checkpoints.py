"""Checkpoints of a training that can be killed at any moment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from axsearch.system.cache import private_folder

COMPLETE = "complete"
"""The file that says that a checkpoint was written to its end."""


class Kept(TrainerCallback):
    """Tells how far training is, and keeps the best and the last checkpoint, whole ones only.

    Trainer would delete the last but one before the last is known to be whole.

    Args:
        folder: of checkpoints.
        told: called after each step with the steps made and planned.
        stopped: whether training is to end now, after a last look and checkpoint.
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
            control.should_evaluate = control.should_save = control.should_training_stop = True

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


@contextmanager
def run_folder(key: str, *, wait: bool) -> Iterator[Path]:
    """The folder of a training's checkpoints, in the user's cache; one process has it at a time.

    Raises Timeout where another one has it and this one is not to wait.
    """
    cache = private_folder("recovery")
    if cache is None:  # nothing can be gone on with
        with tempfile.TemporaryDirectory(prefix="axsearch-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    with FileLock(cache / f"{key}.lock", timeout=-1 if wait else 0):
        folder = cache / key
        folder.mkdir(exist_ok=True)
        yield folder
