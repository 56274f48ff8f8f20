"""What it costs that glibc returns the memory of activations to the system, pass after pass.

The same passes of a model, in turn with glibc's own thresholds, with what they become once blocks
of 32 MB were freed, and with those that axsearch sets (axsearch/system/allocator.py):

    make demo
    python studies/benchmarks/allocator.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes allocator.json, with the median ratio of a pass to the one with glibc's own thresholds in
the same round, and the page faults of a pass.
"""

import argparse
import ctypes
import json
import resource
from pathlib import Path

import numpy as np
from rich.progress import track

from axsearch import Task
from axsearch.evaluation.latency import workload
from axsearch.runtimes import open_session
from axsearch.space.scenario import Scenario
from axsearch.system.allocator import (
    LARGEST_KEPT,
    MMAP_THRESHOLD,
    MOST_KEPT,
    TRIM_THRESHOLD,
)

THRESHOLDS = {
    "glibc's own": (128 << 10, 128 << 10),
    "after 32 MB": (32 << 20, 64 << 20),
    "axsearch's": (LARGEST_KEPT, MOST_KEPT),
}
"""From how many bytes a block is mapped, and how many at the heap's end are returned."""


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", nargs="+", default=["32", "8x128", "32x128", "1x32"],
                        help="examples, and the length where it is not their own")  # fmt: skip
    options = parser.parse_args()
    task = Task.load(options.model, options.data)
    found = {}
    for asked in options.batches:
        size, *length = map(int, asked.split("x"))
        scenario = Scenario(size, length[0] if length else None, options.threads)
        found[asked] = timed(task, scenario, options.rounds)
        print(asked, json.dumps(found[asked]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "allocator.json").write_text(json.dumps(found, indent=1) + "\n")


def timed(task, scenario, rounds):
    """Milliseconds, ratios and page faults of a pass by the thresholds."""
    libc = ctypes.CDLL(None)
    batches = workload(task.search, scenario, task.model.config.vocab_size)
    seconds = {name: [] for name in THRESHOLDS}
    faults = {name: [] for name in THRESHOLDS}
    with open_session(task.model, scenario) as session, session.quiet():
        for _ in track(range(rounds)):
            for name, (mapped, returned) in THRESHOLDS.items():
                libc.mallopt(MMAP_THRESHOLD, mapped)
                libc.mallopt(TRIM_THRESHOLD, returned)
                libc.malloc_trim(0)
                session.layer_times(batches)  # warm-up, as passes before it would have been
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                seconds[name].append(float(session.layer_times(batches)[-1]))
                faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    first = np.array(next(iter(seconds.values())))
    return {
        name: {
            "ms": float(np.median(own)) * 1e3,
            "ratio": float(np.median(np.array(own) / first)),
            "faults": float(np.median(faults[name])),
        }
        for name, own in seconds.items()
    }


if __name__ == "__main__":
    main()
