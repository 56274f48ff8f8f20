"""``axsearch explain``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from axsearch.approximations import approximations
from axsearch.cli import options
from axsearch.recipe import Recipe, Setting
from axsearch.study import Study


def explain(storage: options.Storage, study: options.StudyName, trial: options.Trial) -> None:
    """Say what a trial's model gave up and what that was worth.

    Example: axsearch explain --storage sqlite:///studies.db --study reviews --trial 12
    """
    from axsearch.metrics import better_and_worse, paired_difference  # scipy takes a second

    opened = Study.open(storage, study)
    chosen, base = opened.trial(trial), opened.baseline
    console = Console(highlight=False)

    removed = base.parameters - chosen.parameters
    sentences = [
        f"Trial {trial} has {chosen.parameters:,} parameters, {removed:,} fewer than the base, "
        f"and {chosen.size_bytes:,} bytes ({chosen.size_ratio:.3f} of the base)."
    ]
    recipe = Recipe.from_dict(chosen.recipe)
    if recipe.compensation != "none":
        sentences.append(f"What is left was compensated for what is gone: {recipe.compensation}.")
    if any(isinstance(c, Setting) and c.mode == "hard" for _, _, c in recipe.choices()):
        sentences.append("Its top-k attention is hard: probabilities are not renormalised.")
    if chosen.latency_ratio is not None:
        sentences.append(
            f"It takes {chosen.latency_ratio:.3f} of the base's time "
            f"({1 / chosen.latency_ratio:.2f}x as fast), "
            f"{'measured' if chosen.latency_measured else 'predicted'}: {opened.scenario}."
        )
    sentences.append(
        f"Its {opened.spec.metric} is {chosen.accuracy:.4f} "
        f"({chosen.accuracy_low:.4f} to {chosen.accuracy_high:.4f}) on the search split, "
        f"the base's {base.accuracy:.4f}."
    )
    recipes = [recipe, Recipe.from_dict(base.recipe)]
    outcomes = opened.outcomes(recipes)
    if all(recipe.hash in outcomes for recipe in recipes):  # older versions kept less
        ours, theirs = (outcomes[recipe.hash].outcome for recipe in recipes)
        better, worse = better_and_worse(ours, theirs)
        change = paired_difference(ours, theirs, opened.spec.seed)
        sentences.append(
            f"Of {len(ours)} examples it answers {better} better than the base and {worse} worse: "
            f"{change.value:+.4f} ({change.low:+.4f} to {change.high:+.4f}) in "
            f"{opened.spec.metric}, pair by pair."
        )
    if chosen.holdout_accuracy is not None:
        sentences.append(f"On the holdout split it has {chosen.holdout_accuracy:.4f}.")
    for sentence in sentences:
        console.print(sentence, soft_wrap=True)

    table = Table()
    table.add_column("layer")
    names = [
        name
        for name in next(iter(base.choices.values()))
        if any(m.choices[layer][name] is not None for m in (chosen, base) for layer in m.choices)
    ]
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
