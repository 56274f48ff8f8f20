"""Every sampler there is, by being there."""

from __future__ import annotations

import optuna
import pytest

from axsearch.errors import UsageError
from axsearch.samplers import build_sampler, sampler_names

LEVELS = {"layer00.heads": 4, "layer00.ffn": 6, "layer01.heads": 4, "layer01.ffn": 6}


def _run(name: str, seed: int, trials: int = 14) -> list[dict[str, int]]:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=build_sampler(name, seed)
    )
    study.enqueue_trial(dict.fromkeys(LEVELS, 0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        genome = {name: trial.suggest_int(name, 0, high) for name, high in LEVELS.items()}
        trial.set_constraint("limit", genome["layer00.heads"] - 3)
        return -float(sum(v * v for v in genome.values())), -float(sum(genome.values()))

    study.optimize(objective, n_trials=trials)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", sampler_names())
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestSampler:
    def test_levels_are_in_range_after_an_enqueued_start(self, name: str) -> None:
        genomes = _run(name, seed=0)
        assert genomes[0] == dict.fromkeys(LEVELS, 0)
        assert all(0 <= g[key] <= high for g in genomes for key, high in LEVELS.items())
        assert len({tuple(g.values()) for g in genomes}) > 5

    def test_one_seed_gives_the_same_trials(self, name: str) -> None:
        assert _run(name, seed=3) == _run(name, seed=3)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"axform.*auto.*tpe"):
        build_sampler("axform", 0)
