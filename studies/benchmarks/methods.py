"""Pruning without training, side by side: holdout accuracy at equal measured latency.

Contenders: the front of a search with default options; Kwon et al. 2022 with their own mask tuning
(kwon.py); K-prune (k_prune.py), of whose balances the one counts that comes nearest to the base on
examples that nothing was tuned on; AxFormer's greedy search with several epsilons; and every second
layer, every third and so on, as DistilBERT is initialised. For the demo's model:

    make demo
    python studies/benchmarks/methods.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes methods_NAME.json, and keeps studies and evaluations in a database: what is there is not
computed again. No contender may be slower than a target by more than 0.01 of the base's time. A
front counts by the member that the search split shows as the best among those; the others aim at
the target, are timed, and aim again. All but AxFormer's models have `one_token`, which loses
nothing, so that what is compared is the pruning. For classification and regression.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fronts import Point, measured
from k_prune import GRAIN, Balance, Tuning, allocate, weighted
from kwon import NAMES, UnitScales, fisher_blocks
from kwon import allocate as kwon
from numpy.typing import NDArray

from axsearch import Evaluator, Recipe, Study, Task, search
from axsearch.approximations import recorded
from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.importance import gate_slopes
from axsearch.evaluation.accuracy import predict
from axsearch.models.base_model import Base
from axsearch.models.refit.sample import SampleSize, measure_sample
from axsearch.models.refit.sequential import SequentialRefit
from axsearch.models.weights import ClosedForm
from axsearch.statistics.metrics import value
from axsearch.study.tables import Tables
from axsearch.tasks.split import Split

TARGETS = (0.5, 0.33, 0.25, 0.15)
SLACK = 0.01
"""By how much a measured latency may exceed a target, as a share of the base's."""

TRIES = 3
BALANCES = tuple(Balance(energy, heads) for energy in (0.1, 1.0) for heads in (1.0, 8.0))
EPSILONS = (0.2, 0.4, 0.6, 0.8)
TOKENS = 100_000
HELD = 200
KINDS = ("text-classification", "regression")
Make = Callable[[float], Recipe | None]


class Bench:
    """A task, the study that every contender takes its latency table from, and known rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.study = self.searched(options.study, options.trials)
        self.task = Task.load(options.model, options.data)
        self.base, self.kind = self.task.base, self.task.kind
        if self.kind.name not in KINDS:
            raise SystemExit(f"{self.kind.name} is not compared here; {' and '.join(KINDS)} are.")
        database = self.study.database
        self.evaluator = Evaluator(self.task, database.engine, self.study.spec.scenario)
        table = Tables(self.study).latency
        assert table is not None
        self.table = table
        self.lossless = lossless(self.base)
        self.facts = {
            "model": self.task.model_fingerprint, "metric": self.task.metric,
            "holdout": len(self.task.holdout), "threads": options.threads,
        }  # fmt: skip
        self.target = options.out / f"methods_{options.name}.json"
        found = json.loads(self.target.read_text()) if self.target.exists() else {}
        self.rows: list[dict[str, Any]] = found["rows"] if found.get("facts") == self.facts else []
        train = self.task.training
        order = np.random.default_rng(1).permutation(len(train))
        held = min(HELD, len(train) // 4)
        self.held = train.take(np.sort(order[:held]))
        self.train = train.take(np.sort(order[held:]))
        self.sample = train.take(np.sort(order[held : held + options.examples]))

    def searched(self, name: str, trials: int, **settings: Any) -> Study:
        """A study of the model, to its end."""
        options = self.options
        return search(
            options.model, options.data, storage=f"sqlite:///{options.cache}", study=name,
            trials=trials, threads=options.threads, **settings,
        )  # fmt: skip

    def latency(self, recipe: Recipe) -> float:
        """What the table says of a recipe whose last layer computes no more than it has to."""
        return self.table.ratio(recipe.with_lossless(self.lossless))

    def accuracy(self, model: Any, split: Split) -> float:
        """The task's metric."""
        answers = predict(model, split, self.kind)
        return value(self.kind.outcome(self.task.metric, split, answers))

    def divergence(self, model: Any) -> float:
        """The mean divergence from the base's answers on examples that nothing was tuned on."""
        found = 0.0
        with torch.inference_mode():
            for rows in self.held.groups(np.arange(len(self.held)), 32):
                batch, targets = self.held.collate(rows), self.held.collate_targets(rows)
                ours, theirs = (one(**batch).logits for one in (model, self.base.model))
                found += float(self.kind.divergence(ours, theirs, targets).sum())
        return found / len(self.held)

    def add(self, method: str, target: float, latency: float | None, holdout: float | None) -> None:
        """Keep a row; latency and accuracy are None where a method has no model that is as fast."""
        own = {"latency": latency and round(latency, 4), "holdout": holdout and round(holdout, 4)}
        self.rows.append({"method": method, "target": target, **own})
        print(self.rows[-1], flush=True)
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        self.target.write_text(f'{{"facts": {json.dumps(self.facts)},\n"rows": [\n{lines}\n]}}\n')

    def model(self, method: str, target: float, make: Make, weights: ClosedForm) -> None:
        """Make a model for a target, time it, and make it again where the table was wrong of it."""
        evaluator = Evaluator(
            self.task, self.evaluator.engine, self.evaluator.scenario, weights=weights
        )
        budget, best = target, None
        for _ in range(TRIES):
            recipe = make(budget)
            if recipe is None:
                break
            small = weights.shrink(recipe := recipe.with_lossless(self.lossless))
            timed = evaluator.latency(recipe, lambda small=small: small)
            assert timed is not None
            if timed.ratio <= target + SLACK and (best is None or timed.ratio > best[0]):
                best = (timed.ratio, small)
            if abs(timed.ratio - target) <= SLACK:
                break
            budget *= target / timed.ratio
        if best is None:
            self.add(method, target, None, None)
        else:
            self.add(method, target, best[0], self.accuracy(best[1], self.task.holdout))

    def front(self, method: str, points: Sequence[Point]) -> None:
        """Keep what a front is at each target."""
        for target in self.options.targets:
            fast = [point for point in points if point.latency <= target + SLACK]
            best = max(fast, key=lambda one: one.seen, default=None)
            self.add(method, target, best and best.latency, best and best.holdout)


def lossless(base: Base) -> Recipe:
    """All that changes no answer of a base."""
    found: dict[SiteId, dict[str, Choice]] = {}
    for id, site in base.sites.items():
        for approximation in recorded(id.kind).values():
            if approximation.choice_type.lossless and not site.refusal(approximation.needs):
                level = approximation.levels(site)[-1]
                choice = approximation.choice(site, level, range(site.count))
                assert choice is not None
                found[id] = {approximation.name: choice}
    return Recipe.of(found)


def base_alone(bench: Bench) -> None:
    """The base."""
    bench.add("base", 1.0, 1.0, bench.accuracy(bench.base.model, bench.task.holdout))


def of_search(bench: Bench) -> None:
    """The front of a default search."""
    bench.front("axsearch", measured(bench.study))


def of_kwon(bench: Bench) -> None:
    """Kwon et al. with their own mask tuning."""
    sites = {id: site for id, site in bench.base.sites.items() if site.units}
    slopes = gate_slopes(bench.base, bench.train.take(np.arange(2048)), bench.kind)
    blocks, length = fisher_blocks(slopes), float(np.mean(bench.train.lengths))
    weights = tuned(bench, UnitScales, "kwon", answer=True)

    def of_share(share: float) -> Recipe:
        recipe = kwon(sites, slopes, share, length, "sequential", blocks=blocks)
        return in_grains(recipe, slopes)

    def make(budget: float) -> Recipe | None:
        least, most = 0.0, 1.0
        for _ in range(9):
            share = (least + most) / 2
            fits = bench.latency(of_share(share)) <= budget
            least, most = (share, most) if fits else (least, share)
        recipe = of_share(least)
        return recipe if bench.latency(recipe) <= budget else None

    for target in bench.options.targets:
        bench.model("Kwon et al.", target, make, weights)


def in_grains(recipe: Recipe, slopes: Mapping[SiteId, NDArray[Any]]) -> Recipe:
    """The recipe with numbers of neurons as a search's levels have them, the nearest ones."""
    sites: dict[SiteId, dict[str, Choice]] = {}
    for id, name, choice in recipe.choices():
        assert isinstance(choice, Kept)
        if name == "ffn" and choice.kept:
            order = np.argsort(-np.square(slopes[id], dtype=np.float64).sum(0), kind="stable")
            first = sorted(order, key=lambda unit, own={*choice.kept}: unit not in own)
            count = min(choice.of, max(1, round(len(choice.kept) / GRAIN)) * GRAIN)
            choice = Kept(of=choice.of, kept=tuple(sorted(int(unit) for unit in first[:count])))
        sites[id] = {name: choice}
    return Recipe.of(sites, recipe.compensation)


def of_k_prune(bench: Bench) -> None:
    """K-prune, with the balance that comes nearest to the base."""
    labelled = weighted(bench.base, bench.sample)
    weights = tuned(bench, Tuning, "k_prune", ridge=0.0)

    def all_of(budget: float, balances: Sequence[Balance]) -> list[Recipe | None]:
        return allocate(
            bench.base, bench.kind, labelled, weights.shrink, bench.latency, budget, balances
        )

    for target in bench.options.targets:
        balances = bench.options.balances
        tried = [
            (bench.divergence(weights.shrink(recipe)), number, recipe)
            for number, recipe in enumerate(all_of(target, balances))
            if recipe is not None
        ]
        best = min(tried, default=None, key=lambda one: one[0])

        def make(budget: float, best: Any = best, target: float = target) -> Recipe | None:
            if best is None or budget == target:
                return best and best[2]
            return all_of(budget, [bench.options.balances[best[1]]])[0]

        bench.model("K-prune", target, make, weights)


def of_axformer(bench: Bench) -> None:
    """AxFormer's greedy search, of all epsilons together."""
    points = []
    for epsilon in bench.options.epsilons:
        study = bench.searched(
            f"axformer {epsilon}", bench.options.greedy, sampler="axformer", epsilon=epsilon
        )
        if study.count >= bench.options.greedy:
            print(f"AxFormer with epsilon {epsilon} ended before its last step; raise --greedy.")
        points += measured(study)
        study.database.close()
    bench.front("AxFormer", points)


def of_layers(bench: Bench) -> None:
    """Layers spread evenly over the base's, as they are."""
    count = len(bench.base.layers(bench.base.model))
    kinds = [id.kind for id in bench.base.sites if id.layer == 0]
    units = {kind: bench.base.sites[SiteId(0, kind)].count for kind in kinds}

    def recipe(left: int) -> Recipe:
        stays = {round(float(layer)) for layer in np.linspace(0, count - 1, left)}
        return Recipe.of({
            SiteId(layer, kind): {NAMES[kind]: Kept(of=units[kind], kept=())}
            for layer in range(count) if layer not in stays for kind in kinds
        })  # fmt: skip

    def make(budget: float) -> Recipe | None:
        left = [n for n in range(1, count) if bench.latency(recipe(n)) <= budget + SLACK]
        return recipe(max(left)) if left else None

    for target in bench.options.targets:
        bench.model("every other layer", target, make, ClosedForm(bench.base))


def tuned(
    bench: Bench, refit: type[SequentialRefit], key: str, *, answer: bool = False, **more: float
) -> ClosedForm:
    """Weights that a refit of its own makes, on 100,000 tokens of train that count alike.

    With ``answer`` only the first token counts in the last FFN, as only that one is read.
    """
    size = SampleSize(bench.options.most, TOKENS)
    sample = measure_sample(bench.base, bench.train, bench.kind, size)
    alike = [torch.ones(int(mask.sum())) for mask in sample.masks]
    weights = dict.fromkeys(sample.weights, alike)
    if answer and bench.lossless.sites:
        firsts = [torch.zeros(mask.shape) for mask in sample.masks]
        for one in firsts:
            one[:, 0] = 1.0
        last = max(site for site in sample.weights if site.kind == "ffn")
        weights[last] = [one[mask] for one, mask in zip(firsts, sample.masks, strict=True)]
    sample = replace(sample, weights=weights)
    made = ClosedForm(bench.base, None, lambda: sample, key=key)
    made._sequential = refit(bench.base, lambda: sample, **more)
    return made


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
        wanted = {1.0} if method == "base" else {*bench.options.targets}
        if not wanted <= {row["target"] for row in bench.rows if row["method"] == method}:
            bench.rows = [row for row in bench.rows if row["method"] != method]
            yield method


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--cache", type=Path, help="database; .cache/methods_NAME.db by default")
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
    options.cache = options.cache or Path(f".cache/methods_{options.name}.db")
    for folder in (options.out, options.cache.parent):
        folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for method in missing(bench):
        METHODS[method](bench)


if __name__ == "__main__":
    main()
