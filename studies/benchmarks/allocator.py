"""The cost of glibc's returning the memory of activations to the system, pass after pass.

Two processes hold the same model: one as glibc and PyTorch leave it, one with the memory kept that
tensors free (axsearch/system/allocator.py). Their passes are timed in turn:

    make demo
    python studies/benchmarks/allocator.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes allocator.json, with the median ratio of a pass where memory is kept to the one before it
where it is not, the quartiles of the ratios, and the page faults of a pass.
"""

import argparse
import json
import multiprocessing
import resource
from pathlib import Path

import numpy as np
from rich.progress import track

from axsearch import Task
from axsearch.evaluation.latency import workload
from axsearch.runtimes import open_session
from axsearch.runtimes import torch as torch_runtime
from axsearch.space.scenario import Scenario
from axsearch.tasks import pretrained

WARM_UP = 3


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", nargs="+", default=["32", "8x128", "32x128", "1x32"],
                        help="examples, and the length where it is not their own")  # fmt: skip
    options = parser.parse_args()
    found = {}
    for asked in options.batches:
        found[asked] = in_turn(options, asked)
        print(asked, json.dumps(found[asked]), flush=True)
    facts = {"threads": options.threads, "rounds": options.rounds}
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"facts": facts, "batches": found}, indent=1) + "\n"
    (options.out / "allocator.json").write_text(text)


def in_turn(options, asked):
    """Milliseconds, page faults and ratios of passes over one kind of batch."""
    context = multiprocessing.get_context("spawn")
    ends, processes = [], []
    for kept in (False, True):
        ours, theirs = context.Pipe()
        given = (theirs, options.model, options.data, asked, options.threads, kept)
        processes.append(context.Process(target=passes, args=given, daemon=True))
        processes[-1].start()
        ends.append(ours)
    for end in ends:
        end.recv()  # ready
    measured = []
    for _ in track(range(options.rounds), description=asked):
        for end in ends:
            end.send(True)
            measured.append(end.recv())
    for end, process in zip(ends, processes, strict=True):
        end.send(False)
        process.join()
    seconds, faults = np.array(measured).reshape(-1, 2, 2).transpose(2, 0, 1)
    low, ratio, high = np.quantile(seconds[:, 1] / seconds[:, 0], (0.25, 0.5, 0.75))
    return {
        "ms": dict(zip(("returned", "kept"), np.median(seconds, axis=0) * 1e3, strict=True)),
        "faults": dict(zip(("returned", "kept"), np.median(faults, axis=0), strict=True)),
        "ratio": {"median": ratio, "low": low, "high": high},
    }


def passes(end, model, data, asked, threads, kept):
    """In a process of its own: a pass whenever it is asked for."""
    if not kept:
        for module in (torch_runtime, pretrained):
            module.keep_freed_memory = bool
    size, *length = map(int, asked.split("x"))
    scenario = Scenario(size, length[0] if length else None, threads)
    task = Task.load(model, data)
    batches = workload(task.search, scenario, task.model.config.vocab_size)
    with open_session(task.model, scenario) as session, session.quiet():
        for _ in range(WARM_UP):
            session.layer_times(batches)
        end.send("ready")
        while end.recv():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            seconds = float(session.layer_times(batches)[-1])
            end.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))


if __name__ == "__main__":
    main()
