"""``axsearch explain``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from axsearch.approximations import approximations
from axsearch.cli import options
from axsearch.recipe import Recipe
from axsearch.study import Study


def explain(storage: options.Storage, study: options.StudyName, trial: options.Trial) -> None:
    """Say what a trial's model gave up and what that was worth.

    Example: axsearch explain --storage sqlite:///studies.db --study reviews --trial 12
    """
    from axsearch.metrics import paired_difference  # scipy takes a second to import

    opened = Study.open(storage, study)
    chosen, base = opened.trial(trial), opened.baseline
    console = Console(highlight=False)

    removed = base.parameters - chosen.parameters
    sentences = [
        f"Trial {trial} has {chosen.parameters:,} parameters, {removed:,} fewer than the base, "
        f"and {chosen.size_bytes:,} bytes ({chosen.size_ratio:.3f} of the base)."
    ]
    if chosen.latency_ratio is not None:
        sentences.append(
            f"It takes {chosen.latency_ratio:.3f} of the base's time "
            f"({1 / chosen.latency_ratio:.2f}x as fast), measured: {opened.scenario}."
        )
    sentences.append(
        f"Its {opened.spec.metric} is {chosen.accuracy:.4f} "
        f"({chosen.accuracy_low:.4f} to {chosen.accuracy_high:.4f}) on the search split, "
        f"the base's {base.accuracy:.4f}."
    )
    recipes = [Recipe.from_dict(m.recipe) for m in (chosen, base)]
    outcomes = opened.outcomes(recipes)
    right, base_right = (outcomes[recipe.hash].right for recipe in recipes)
    difference = paired_difference(right, base_right, opened.spec.seed)
    sentences.append(
        f"Example by example it is right where the base is wrong {(right & ~base_right).sum()} "
        f"times and wrong where the base is right {(~right & base_right).sum()} times: "
        f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}) in accuracy."
    )
    if chosen.holdout_accuracy is not None:
        sentences.append(f"On the holdout split it has {chosen.holdout_accuracy:.4f}.")
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)

    table = Table()
    table.add_column("layer")
    names = list(next(iter(base.choices.values())))
    for name in names:
        table.add_column(approximations()[name].summary, justify="right")
    for layer, choices in chosen.choices.items():
        cells = [_cell(choices[name], base.choices[layer][name]) for name in names]
        gone = choices.get("heads") == 0 and choices.get("ffn") == 0
        table.add_row(f"{layer} (removed)" if gone else layer, *cells)
    console.print(table)


def _cell(kept: int | None, full: int | None) -> str:
    if kept is None:
        return "all"
    return str(kept) if full is None else f"{kept} of {full}"
