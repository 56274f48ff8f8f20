"""A worker with an objective that costs nothing, as a process that faults are injected into.

What is real: the loop, the storage, the claims, the signals. Only the model is not.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna

sys.path.insert(0, str(Path(__file__).parents[2]))

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.errors import AxsearchError
from axsearch.running.trial_loop import End, TrialLoop
from axsearch.space.recipe import Recipe
from axsearch.store import work_storage
from axsearch.store.database import Database, open_database
from axsearch.system.liveness import is_alive, is_dead, worker_name

NAME = "cheap"
DIRECTIONS = ["maximize", "minimize"]
LAYERS, HEADS = 6, 12


def recipe_of(params: dict[str, int]) -> Recipe:
    """So many heads fewer in each layer."""
    return Recipe.of(
        {
            SiteId(layer, "attention"): {
                "heads": Kept(
                    of=HEADS, kept=tuple(range(HEADS - params[f"layer{layer:02d}.heads"]))
                )
            }
            for layer in range(LAYERS)
        }
    )


def values_of(recipe: Recipe) -> tuple[float, float]:
    """Accuracy and size: of nothing but the recipe."""
    left = [len(choice.kept) for _, _, choice in recipe.choices() if isinstance(choice, Kept)]
    size = (sum(left) + HEADS * (LAYERS - len(left))) / (HEADS * LAYERS)
    return 0.5 + 0.4 * size**0.5 + int(recipe.hash[:4], 16) / 2**16 * 0.02, size


class Cheap:
    """The objective; ``before_end`` is called when a recipe is evaluated but not told."""

    def __init__(self, seconds: float, within: Callable[[], None], before_end: Callable[[], None]):
        self.seconds = seconds
        self.within = within
        self.before_end = before_end

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """Suggest heads to remove."""
        names = [f"layer{layer:02d}.heads" for layer in range(LAYERS)]
        return recipe_of({name: trial.suggest_int(name, 0, HEADS - 1) for name in names})

    def evaluate(self, trial: optuna.Trial, recipe: Recipe) -> End:
        """Wait, and give the values."""
        self.within()
        time.sleep(self.seconds)
        accuracy, size = values_of(recipe)
        trial.set_user_attr("measurement", {"accuracy": accuracy, "size_ratio": size})
        columns = {
            "accuracy": accuracy,
            "size": size,
            "size_ratio": size,
            "feasible": True,
            "seconds": self.seconds,
        }
        self.before_end()
        return End((accuracy, size), columns, {"recipe.json": recipe.to_json().encode()})


def a_study(database: Database) -> optuna.Study:
    """The study, made if it is not there."""
    return optuna.create_study(
        study_name=NAME,
        storage=database.storage,
        directions=DIRECTIONS,
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def a_loop(database: Database, objective: Cheap, wanted: int) -> TrialLoop:
    """The loop of a worker."""
    return TrialLoop(
        a_study(database),
        database.storage,
        objective,
        worker=worker_name(),
        wanted=wanted,
        is_dead=is_dead,
        is_alive=is_alive,
        on_trial=lambda count: print(f"finished {count}", flush=True),
    )


def at(count: int, act: Callable[[], None]) -> Callable[[], None]:
    """A hook that acts at its ``count``-th call."""
    calls = 0

    def hook() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            act()

    return hook


def kill() -> None:
    """End as if the power failed."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until enough is finished; the fault comes with the third trial."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--wanted", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--fault", default="none")
    parser.add_argument("--hang", type=float, help="seconds, with the second trial")
    parser.add_argument("--group", type=Path, help="a control group to run in")
    given = parser.parse_args()
    if given.group is not None:
        given.group.write_text(str(os.getpid()))

    def nothing() -> None:
        return

    def hungry() -> None:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 64)

    def hang() -> None:
        print("hangs", flush=True)
        time.sleep(given.hang)

    within = {
        "kill within": at(3, kill),
        "memory": at(3, hungry),
        "always memory": hungry,
        "hang": at(2, hang),
    }
    before_end = {"kill measured": at(3, kill)}
    if given.fault == "kill artifact":  # the artifact is written, the transaction is not
        attach, die = work_storage.attach, at(3, kill)

        def attach_and_die(*args: object) -> None:
            attach(*args)  # type: ignore[arg-type]
            die()

        work_storage.attach = attach_and_die  # type: ignore[assignment]
    objective = Cheap(
        given.seconds,
        within.get(given.fault, nothing),
        before_end.get(given.fault, nothing),
    )
    database = open_database(given.url, create=True)
    try:
        a_loop(database, objective, given.wanted).run()
    except KeyboardInterrupt:
        sys.exit(130)
    except AxsearchError as error:
        sys.exit(str(error))
    finally:
        database.close()


if __name__ == "__main__":
    main()
