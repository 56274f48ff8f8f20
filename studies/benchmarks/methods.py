"""Pruning without training, side by side: holdout accuracy at equal measured latency.

Contenders: the front of a search with default options; Kwon et al. 2022 with their own mask tuning
(kwon.py); K-prune (k_prune.py), each of its balances, of which the one with the least divergence
from the base on examples of train counts; AxFormer's greedy search with several epsilons; and every
second layer, every third and so on, as DistilBERT is initialised. For the demo's model:

    make demo
    python studies/benchmarks/methods.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes methods_NAME.json, and keeps studies and evaluations in a database: what is there is not
computed again. A front counts at a latency by the member that the search split shows as the best
among those that are at most as slow.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Point, measured
from k_prune import Balance, allocate, energies
from kwon import UnitScales, fisher_blocks
from kwon import allocate as kwon

from axsearch import Evaluator, Recipe, Study, Task, search
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.importance import gate_slopes
from axsearch.evaluation.accuracy import predict
from axsearch.models.refit.sample import SampleSize, measure_sample
from axsearch.models.refit.sequential import SequentialRefit
from axsearch.models.weights import ClosedForm
from axsearch.statistics.metrics import value
from axsearch.study.tables import Tables
from axsearch.tasks.split import Split

TARGETS = (0.5, 0.33, 0.25, 0.15)
SLACK = 0.01
"""By how much a measured latency may exceed a target, as a share of the base's."""

BALANCES = tuple(Balance(energy, heads) for energy in (0.1, 1.0) for heads in (1.0, 8.0))
EPSILONS = (0.3, 3.0, 30.0)
TOKENS = 100_000
HELD = 200


class Bench:
    """A task, the study that every contender takes its latency table from, and known rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.study = self.searched(options.study, options.trials)
        self.task = Task.load(options.model, options.data)
        self.base, self.kind = self.task.base, self.task.kind
        database = self.study.database
        self.evaluator = Evaluator(self.task, database.engine, self.study.spec.scenario)
        table = Tables(self.study).latency
        assert table is not None
        self.latency: Callable[[Recipe], float] = table.ratio
        self.target = options.out / f"methods_{options.name}.json"
        self.rows: list[dict[str, Any]] = []
        if self.target.exists():
            self.rows = json.loads(self.target.read_text())["rows"]
        train = self.task.training
        order = np.random.default_rng(0).permutation(len(train))
        self.sample = self.answered(train.take(np.sort(order[: options.examples])))
        self.held = train.take(np.sort(order[options.examples : options.examples + HELD]))

    def searched(self, name: str, trials: int, **settings: Any) -> Study:
        """A study of the model, to its end."""
        options = self.options
        return search(
            options.model, options.data, storage=f"sqlite:///{options.cache}", study=name,
            trials=trials, threads=options.threads, **settings,
        )  # fmt: skip

    def answered(self, split: Split) -> Split:
        """A split whose targets are drawn from what the base answers."""
        rng, targets = np.random.default_rng(0), np.asarray(split.targets)
        drawn = targets.copy()
        with torch.inference_mode():
            for rows in split.groups(np.arange(len(split)), 32):
                logits = self.base.model(**split.collate(rows)).logits.double()
                if np.issubdtype(targets.dtype, np.integer):
                    shares = logits.softmax(-1).cumsum(-1).numpy()
                    drawn[rows] = (rng.random((len(rows), 1)) > shares[:, :-1]).sum(1)
                else:
                    drawn[rows] = logits[:, 0].numpy() + rng.standard_normal(len(rows))
        return replace(split, targets=drawn)

    def accuracy(self, model: Any, split: Split) -> float:
        """The task's metric."""
        answers = predict(model, split, self.kind)
        return value(self.kind.outcome(self.task.metric, split, answers))

    def divergence(self, model: Any) -> float:
        """The mean divergence from the base's answers on held-out examples of train."""
        found = 0.0
        with torch.inference_mode():
            for rows in self.held.groups(np.arange(len(self.held)), 32):
                batch, targets = self.held.collate(rows), self.held.collate_targets(rows)
                ours, theirs = (one(**batch).logits for one in (model, self.base.model))
                found += float(self.kind.divergence(ours, theirs, targets).sum())
        return found / len(self.held)

    def add(self, **row: Any) -> None:
        """Keep a row."""
        self.rows.append(row)
        print(row, flush=True)
        facts = {
            "model": self.task.model_fingerprint, "metric": self.task.metric,
            "holdout": len(self.task.holdout), "threads": self.options.threads,
        }  # fmt: skip
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        self.target.write_text(f'{{"facts": {json.dumps(facts)},\n"rows": [\n{lines}\n]}}\n')

    def model(self, method: str, target: float, recipe: Recipe, weights: ClosedForm) -> None:
        """Measure one model, and keep it."""
        small = weights.shrink(recipe)
        evaluator = Evaluator(
            self.task, self.evaluator.engine, self.evaluator.scenario, weights=weights
        )
        timed = evaluator.latency(recipe, lambda: small)
        assert timed is not None
        self.add(
            method=method, target=target, latency=round(timed.ratio, 4),
            holdout=round(self.accuracy(small, self.task.holdout), 4),
        )  # fmt: skip

    def front(self, method: str, points: Sequence[Point]) -> None:
        """Keep what a front is at each target."""
        for target in self.options.targets:
            fast = [point for point in points if point.latency <= target + SLACK]
            best = max(fast, key=lambda one: one.seen, default=None)
            self.add(
                method=method, target=target, latency=best and round(best.latency, 4),
                holdout=best and round(best.holdout, 4),
            )  # fmt: skip


def base_alone(bench: Bench) -> None:
    """The base."""
    bench.add(method="base", target=1.0, latency=1.0,
              holdout=round(bench.accuracy(bench.base.model, bench.task.holdout), 4))  # fmt: skip


def of_search(bench: Bench) -> None:
    """The front of a default search."""
    bench.front("axsearch", measured(bench.study))


def of_kwon(bench: Bench) -> None:
    """Kwon et al. with their own mask tuning."""
    sites = {id: site for id, site in bench.base.sites.items() if site.units}
    train = bench.task.training
    order = np.random.default_rng(1).permutation(len(train))
    slopes = gate_slopes(bench.base, train.take(np.sort(order[:2048])), bench.kind)
    blocks, length = fisher_blocks(slopes), float(np.mean(train.lengths))
    weights = tuned(bench, UnitScales, "kwon")
    for target in bench.options.targets:
        least, most = 0.0, 1.0
        for _ in range(9):
            share = (least + most) / 2
            recipe = kwon(sites, slopes, share, length, "sequential", blocks=blocks)
            least, most = (share, most) if bench.latency(recipe) <= target else (least, share)
        recipe = kwon(sites, slopes, least, length, "sequential", blocks=blocks)
        bench.model("Kwon et al.", target, recipe, weights)


def of_k_prune(bench: Bench) -> None:
    """K-prune, with the balance that comes nearest to the base."""
    energy = energies(bench.base, bench.evaluator.moments)
    weights = tuned(bench, SequentialRefit, "k_prune", ridge=0.0)
    for target in bench.options.targets:
        began, tried = time.perf_counter(), []
        for balance in bench.options.balances:
            (recipe,) = allocate(
                bench.base, bench.kind, bench.sample, energy, weights.shrink, bench.latency,
                [target], balance,
            ).values()  # fmt: skip
            tried.append((bench.divergence(weights.shrink(recipe)), recipe))
        print(f"{time.perf_counter() - began:.0f} s", [round(found, 4) for found, _ in tried])
        bench.model("K-prune", target, min(tried, key=lambda one: one[0])[1], weights)


def of_axformer(bench: Bench) -> None:
    """AxFormer's greedy search, of all epsilons together."""
    points = []
    for epsilon in bench.options.epsilons:
        study = bench.searched(
            f"axformer {epsilon}", bench.options.greedy, sampler="axformer", epsilon=epsilon
        )
        points += measured(study)
        study.database.close()
    bench.front("AxFormer", points)


def of_layers(bench: Bench) -> None:
    """Layers spread evenly over the base's, as they are."""
    count = len(bench.base.layers(bench.base.model))
    kinds = [id.kind for id in bench.base.sites if id.layer == 0]
    units = {kind: bench.base.sites[SiteId(0, kind)].count for kind in kinds}
    names = {"attention": "heads", "ffn": "ffn"}

    def recipe(left: int) -> Recipe:
        stays = {round(float(layer)) for layer in np.linspace(0, count - 1, left)}
        return Recipe.of({
            SiteId(layer, kind): {names[kind]: Kept(of=units[kind], kept=())}
            for layer in range(count) if layer not in stays for kind in kinds
        })  # fmt: skip

    for target in bench.options.targets:
        left = [n for n in range(1, count) if bench.latency(recipe(n)) <= target + SLACK]
        if left:
            bench.model("every other layer", target, recipe(max(left)), ClosedForm(bench.base))
        else:
            bench.add(method="every other layer", target=target, latency=None, holdout=None)


def tuned(bench: Bench, refit: type[SequentialRefit], key: str, **more: float) -> ClosedForm:
    """Weights that a refit of its own makes, on 100,000 tokens of train that count alike."""
    sample = measure_sample(
        bench.base, bench.task.training, bench.kind,
        SampleSize(bench.options.most, TOKENS), sensitive=0.0,
    )  # fmt: skip
    weights = ClosedForm(bench.base, None, lambda: sample, key=key)
    weights._sequential = refit(bench.base, lambda: sample, **more)
    return weights


METHODS: dict[str, Callable[[Bench], None]] = {
    "base": base_alone,
    "axsearch": of_search,
    "every other layer": of_layers,
    "Kwon et al.": of_kwon,
    "K-prune": of_k_prune,
    "AxFormer": of_axformer,
}


def missing(bench: Bench) -> Iterator[str]:
    """Methods that have no row yet for every target."""
    for method in METHODS:
        rows = sum(row["method"] == method for row in bench.rows)
        if rows < (1 if method == "base" else len(bench.options.targets)):
            bench.rows = [row for row in bench.rows if row["method"] != method]
            yield method


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--cache", type=Path, default=Path(".cache/methods.db"))
    parser.add_argument("--study", default="auto", help="name of the default search")
    parser.add_argument("--name", default="movie_reviews")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--greedy", type=int, default=120, help="trials of AxFormer's search")
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--examples", type=int, default=128, help="for K-prune's knowledge")
    parser.add_argument("--balances", type=int, default=len(BALANCES), help="of K-prune, at most")
    parser.add_argument("--most", type=int, default=10**6, help="examples for tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.balances = BALANCES[: options.balances]
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.cache.parent):
        folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for method in missing(bench):
        METHODS[method](bench)


if __name__ == "__main__":
    main()
