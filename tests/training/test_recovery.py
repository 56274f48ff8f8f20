"""Training what a cut has left, with the base as teacher."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from axsearch import Task, shrink
from axsearch.approximations import choice_types, recorded
from axsearch.approximations.choices import Kept, Setting
from axsearch.approximations.ffn.choice import FfnNeurons
from axsearch.errors import AxsearchError, UsageError
from axsearch.space.recipe import EXACT, Recipe
from axsearch.testing.models import random_model, recipe_of_any
from axsearch.testing.samples import KINDS, with_head, write_data
from axsearch.testing.text import reviews, tiny_bert, tiny_tokenizer, write_csv
from axsearch.training.checkpoints import Order
from axsearch.training.finetuning import LEARNING_RATE
from axsearch.training.learning_rate import ADAPTERS, RATES, SHORT, TRIED, choose_rate, recover
from axsearch.training.lesson import HELD_SHARE, Lesson, Teacher, _moved, read_token
from axsearch.training.recovery import (
    BATCH_SIZE,
    NotFiniteError,
    Pupil,
    Run,
    Trained,
    own_copy,
    train,
)

EPOCHS = 3
TEXTS = [text for text, _ in reviews(20, 9)]


@pytest.fixture(scope="module")
def task(base_dir: Path, data_dir: Path) -> Task:
    return Task.load(str(base_dir), str(data_dir))


@pytest.fixture(scope="module")
def teacher(task: Task) -> Teacher:
    return Teacher(task, "cpu")


@pytest.fixture(scope="module")
def half(task: Task) -> Recipe:
    return quarter(task)


def trained(
    task: Task,
    recipe: Recipe,
    lesson: Lesson,
    folder: Path,
    *,
    told: Callable[[int, int], None] = lambda done, planned: None,
    stopped: Callable[[], bool] = lambda: False,
    rate: float = 1e-3,
    seed: int = 0,
    label_weight: float = 1.0,
    adapters: int | None = None,
) -> dict[str, Tensor]:
    run = Run(
        folder, rate, EPOCHS, seed, told, stopped, label_weight=label_weight, adapters=adapters
    )
    return train(
        own_copy(shrink(task.model, recipe)), lesson, pupil(task, recipe), run, "cpu"
    ).state


def pupil(task: Task, recipe: Recipe) -> Pupil:
    return Pupil(task.kind, task.base, task.base.plan(recipe).layers)


def test_a_lesson_is_cut_from_train_alone_and_its_parts_are_apart(
    task: Task, teacher: Teacher
) -> None:
    lesson = teacher.lesson(EXACT)
    texts = [{str(one) for one in split.inputs} for split in (lesson.train, lesson.held)]
    assert len(lesson.train) + len(lesson.held) == len(task.source.labelled)
    assert len(lesson.held) >= HELD_SHARE * len(task.source.labelled)
    rows = [one["input_ids"] for split in (lesson.train, lesson.held) for one in split.inputs]
    whole = task.source.split("train", task.source.labelled, task.tokenizer)
    every = [one["input_ids"] for one in whole.inputs]
    assert sorted(rows) == sorted(every)
    assert texts[0] != texts[1]
    # The teacher's outputs are the base's own.
    for split, taught in (
        (lesson.train, lesson.taught(np.arange(5))["taught"]),
        (lesson.held, lesson.held_taught(np.arange(5), torch.device("cpu"))),
    ):
        with torch.inference_mode():
            own = task.model(**split.collate(np.arange(5))).logits
        torch.testing.assert_close(taught, own, atol=0.05, rtol=0.05)  # computed in bfloat16


def test_texts_without_labels_are_learnt_from_but_not_held(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "more.txt"
    kept = task.source.drawn["holdout"][0].texts[0]
    path.write_text("\n".join([*(text for text, _ in reviews(40, 9)), kept]))
    lesson, without = Teacher(task, "cpu", unlabelled=str(path)).lesson(EXACT), Teacher(task, "cpu")
    there = {str(one.texts) for one in task.source.train}
    new = {text for text, _ in reviews(40, 9) if str((text,)) not in there} - {kept}
    assert len(lesson.train) == len(without.lesson(EXACT).train) + len(new) > len(new) > 10
    assert lesson.held.fingerprint == without.lesson(EXACT).held.fingerprint
    rows = np.arange(len(lesson.train))[-3:]
    with torch.inference_mode():
        own = task.model(**lesson.train.collate(rows)).logits
    torch.testing.assert_close(lesson.taught(rows)["taught"], own, atol=0.05, rtol=0.05)


def test_the_model_comes_nearer_to_the_base_and_the_base_stays(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    small = own_copy(shrink(task.model, half))
    run = Run(tmp_path, 1e-3, EPOCHS, 0, label_weight=0)
    found = train(small, teacher.lesson(half), pupil(task, half), run, "cpu")
    assert found.loss < 0.9 * found.before
    assert (
        found.steps == found.planned == EPOCHS * -(-len(teacher.lesson(half).train) // BATCH_SIZE)
    )
    assert all((before[name] == own).all() for name, own in task.model.state_dict().items())
    word = task.model.get_input_embeddings().weight
    assert all(tensor.data_ptr() != word.data_ptr() for tensor in found.state.values())
    assert not any("word_embeddings" in name for name in found.state)


def test_adapters_bring_the_model_nearer_and_leave_what_was_refitted(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    given = dict(shrink(task.model, half).named_parameters())
    lesson, own = teacher.lesson(half), pupil(task, half)
    small = own_copy(shrink(task.model, half))
    found = train(
        small, lesson, own, Run(tmp_path, 1e-2, EPOCHS, 0, label_weight=0, adapters=4), "cpu"
    )
    assert found.loss < 0.9 * found.before
    assert found.state.keys() == trained(task, half, lesson, tmp_path / "whole").keys()
    moved = {name for name, tensor in found.state.items() if not tensor.equal(given[name])}
    outside = {name for name in found.state if ".layer." not in name}
    inside = {
        f"{name}.weight"
        for name, module in small.named_modules()
        if ".layer." in name and isinstance(module, nn.Linear)
    }
    assert moved == outside | inside
    assert len(inside) == 6 * len(task.base.layers(small))
    # The model itself is what its state says: the same loss, with nothing of the adapters left.
    again = own_copy(shrink(task.model, half))
    again.load_state_dict(found.state, strict=False)
    assert train(
        again, lesson, own, Run(tmp_path / "2", 1e-9, 1, 0, label_weight=0, most=1), "cpu"
    ).before == (pytest.approx(found.loss, rel=1e-4))


@pytest.mark.parametrize("look", [250, 2])
def test_a_training_killed_at_any_of_ten_moments_ends_with_the_same_weights(
    task: Task,
    teacher: Teacher,
    half: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    look: int,
) -> None:
    monkeypatch.setattr("axsearch.training.recovery.LOOK", look)  # steps between checkpoints
    lesson = teacher.lesson(half)
    whole = trained(task, half, lesson, tmp_path / "whole")
    per_epoch = -(-len(lesson.train) // BATCH_SIZE)
    steps, every = EPOCHS * per_epoch, -(-per_epoch // -(-per_epoch // look))

    class Killed(BaseException):
        """In place of a signal that nothing catches."""

    for moment in np.linspace(1, steps - 1, 10).round().astype(int):
        folder = tmp_path / str(moment)

        def kill(done: int, planned: int, moment: int = moment) -> None:
            assert planned == steps
            if done == moment:
                raise Killed

        with pytest.raises(Killed):
            trained(task, half, lesson, folder, told=kill)
        done: list[int] = []
        found = trained(task, half, lesson, folder, told=lambda n, _, done=done: done.append(n))
        assert all((found[name] == whole[name]).all() for name in whole), moment
        assert done[0] == (moment - 1) // every * every + 1  # the checkpoint before


def test_a_checkpoint_that_was_cut_off_is_not_read(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    lesson = teacher.lesson(half)
    whole = trained(task, half, lesson, tmp_path / "whole")
    broken = tmp_path / "cut" / "checkpoint-7"
    broken.mkdir(parents=True)
    (broken / "model.safetensors").write_bytes(b"half")
    found = trained(task, half, lesson, tmp_path / "cut")
    assert all((found[name] == whole[name]).all() for name in whole)


@pytest.mark.parametrize(("step", "adapters"), [(4, None), (12, None), (18, None), (12, 4)])
def test_a_stop_within_a_pass_loses_nothing(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path, step: int, adapters: int | None
) -> None:
    lesson = teacher.lesson(half)
    whole = trained(task, half, lesson, tmp_path / "whole", adapters=adapters)
    count, own = itertools.count(1), tmp_path / "own"
    trained(task, half, lesson, own, stopped=lambda: next(count) == step, adapters=adapters)
    done: list[int] = []
    found = trained(task, half, lesson, own, told=lambda n, _: done.append(n), adapters=adapters)
    assert done[0] == step + 1
    assert all((found[name] == whole[name]).all() for name in whole)


def test_each_pass_has_every_example_once_in_an_order_of_its_own() -> None:
    epoch = [0]
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    order = Order(lengths, BATCH_SIZE, 7, lambda: epoch[0])
    first, again = list(order), list(order)
    epoch[0] = 1
    second = list(order)
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second) == list(range(500))
    spread = [np.ptp(lengths[first[i : i + BATCH_SIZE]]) for i in range(0, 480, BATCH_SIZE)]
    assert np.mean(spread) < np.ptp(lengths) / 2  # batches of similar lengths


@pytest.mark.parametrize("name", ["topk", "topk_hard"])
def test_attention_to_few_keys_is_trained_as_it_is_measured(
    task: Task, teacher: Teacher, tmp_path: Path, name: str
) -> None:
    mode = recorded("attention")["topk"].modes[name == "topk_hard"]
    sites = [id for id in task.base.sites if id.kind == "attention"]
    recipe = Recipe.of({id: {"topk": Setting(value=1, mode=mode)} for id in sites})
    lesson = teacher.lesson(recipe)
    small = shrink(task.model, recipe)
    with torch.inference_mode():
        rows = np.arange(len(lesson.held))
        logits = small(**lesson.held.collate(rows)).logits
        taught = lesson.held_taught(rows, logits.device)
        apart = task.kind.divergence(logits, taught, lesson.held.collate_targets(rows)).mean()
    run = Run(tmp_path, 1e-4, 1, 0, most=1, label_weight=0)
    found = train(own_copy(small), lesson, pupil(task, recipe), run, "cpu")
    assert found.before == pytest.approx(float(apart), rel=0.02)
    assert found.before > 1e-3


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_what_counts_on_the_held_part_is_the_divergence_and_the_weighted_loss_by_labels(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path, weight: float
) -> None:
    lesson, small = teacher.lesson(half), own_copy(shrink(task.model, half))
    rows = np.arange(len(lesson.held))
    targets = lesson.held.collate_targets(rows)
    with torch.inference_mode():
        logits = small(**lesson.held.collate(rows)).logits
        apart = task.kind.divergence(logits, lesson.held_taught(rows, logits.device), targets)
        expected = apart.mean() + weight * task.kind.losses(logits, targets).mean()
    run = Run(tmp_path, 1e-4, 1, 0, most=1, label_weight=weight)
    found = train(small, lesson, pupil(task, half), run, "cpu")
    assert found.before == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


def test_labels_teach_by_their_weight_and_those_of_more_texts_do_not(
    task: Task, half: Recipe, tmp_path: Path
) -> None:
    path = tmp_path / "more.txt"
    path.write_text("\n".join(text for text, _ in reviews(40, 9)))
    lesson = Teacher(task, "cpu", unlabelled=str(path)).lesson(half)
    assert isinstance(lesson.train.targets, np.ndarray)
    assert 10 < int((~lesson.labelled).sum()) < int(lesson.labelled.sum())

    def with_other_labels(of: Tensor) -> Lesson:
        turned = np.where(of.numpy(), 1 - lesson.train.targets, lesson.train.targets)
        return replace(lesson, train=replace(lesson.train, targets=turned))

    cases = {
        "right": (lesson, 1.0),
        "others of more texts": (with_other_labels(~lesson.labelled), 1.0),
        "wrong": (with_other_labels(lesson.labelled), 1.0),
        "none": (lesson, 0.0),
        "wrong without weight": (with_other_labels(lesson.labelled), 0.0),
    }
    states = {
        name: trained(task, half, own, tmp_path / name, label_weight=weight)
        for name, (own, weight) in cases.items()
    }

    def same(first: str, second: str) -> bool:
        return all((states[first][name] == own).all() for name, own in states[second].items())

    assert same("right", "others of more texts")
    assert not same("right", "wrong")
    assert not same("right", "none")
    assert same("none", "wrong without weight")


def test_windows_of_more_questions_have_no_labels(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", with_head("question-answering", tiny_bert()))
    (tmp_path / "data").mkdir()
    data = write_data("question-answering", tmp_path / "data")
    task = Task.load(str(folder), str(data), task="question-answering")
    more = tmp_path / "more.jsonl"
    pairs = zip(TEXTS[::2], TEXTS[1::2], strict=True)
    rows = [{"question": q, "context": f"{c} " * 3} for q, c in pairs]
    more.write_text("\n".join(map(json.dumps, rows)))
    without = Teacher(task, "cpu").lesson(EXACT)
    lesson = Teacher(task, "cpu", unlabelled=str(more)).lesson(EXACT)
    assert without.labelled.all()
    assert len(without.labelled) == len(without.train)
    assert lesson.labelled.tolist() == [
        row < len(without.train) for row in range(len(lesson.train))
    ]
    assert len(lesson.train) > len(without.train)


def quarter(task: Task) -> Recipe:
    """A quarter of all neurons, the first ones."""
    sites = {
        id: {FfnNeurons.name: Kept(of=site.count, kept=tuple(range(site.count // 4)))}
        for id, site in task.base.sites.items()
        if id.kind == "ffn" and site.units is not None
    }
    return Recipe.of(sites)


def check_that_it_learns(task: Task, folder: Path) -> Lesson:
    recipe, teacher = quarter(task), Teacher(task, "cpu")
    lesson = teacher.lesson(recipe)
    small = own_copy(shrink(task.model, recipe))
    found = train(small, lesson, pupil(task, recipe), Run(folder, 2e-3, 4, 0), "cpu")
    assert found.loss < found.before
    assert all(tensor.isfinite().all() for tensor in found.state.values())
    return lesson


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_of_task_learn_from_their_base(kind: str, tmp_path: Path) -> None:
    model = with_head(kind, tiny_bert())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = write_base(tmp_path / "base", model)
    (tmp_path / "data").mkdir()
    data = write_data(kind, tmp_path / "data")
    lesson = check_that_it_learns(Task.load(str(folder), str(data), task=kind), tmp_path / "run")
    reads_one = type(model).__name__.endswith("SequenceClassification")
    assert (lesson.hidden is not None) == reads_one


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_pupil_learns_the_labels_and_its_last_step_counts(
    kind: str, tmp_path: Path
) -> None:
    model = with_head(kind, tiny_bert())
    folder = write_base(tmp_path / "base", model)
    (tmp_path / "data").mkdir()
    data = write_data(kind, tmp_path / "data")
    task = Task.load(str(folder), str(data), task=kind)
    lesson = Teacher(task, "cpu").lesson(EXACT)
    base = Pupil(task.kind, task.base, task.base.plan(EXACT).layers, plain=True)
    small = own_copy(task.model)
    found = recover(lambda: small, lesson, base, Run(tmp_path / "run", None, 1, 0), "cpu")
    assert found.rate == LEARNING_RATE
    assert found.steps == found.planned
    rows = np.arange(len(lesson.train))
    with torch.inference_mode():
        given, targets = lesson.train.collate(rows), lesson.train.collate_targets(rows)
        before, after = (
            float(task.kind.losses(task.kind.logits(one.eval()(**given)), targets).mean())
            for one in (task.model, small)
        )
    assert after < before
    assert all((small.state_dict()[name] == found.state[name]).all() for name in found.state)


@pytest.mark.parametrize("model_type", ["albert", "deberta-v2", "distilbert", "gpt2", "modernbert"])
def test_models_of_other_families_learn_from_their_base(
    model_type: str, data_dir: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    model = random_model(model_type, vocab_size=len(tokenizer))
    folder = write_base(tmp_path / "base", model)
    task = Task.load(str(folder), str(data_dir), max_length=48)
    lesson = check_that_it_learns(task, tmp_path / "run")
    assert (lesson.hidden is None) == task.base.repeats or model_type == "modernbert"


def write_base(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [n for n in choice_types() if n != "vocabulary"])
def test_models_of_every_approximation_can_be_trained(
    task: Task, teacher: Teacher, tmp_path: Path, name: str
) -> None:
    sites = task.base.sites.values()
    drawn = (recipe_of_any(sites, f"{name} {seed}", [name]) for seed in range(20))
    recipe = next(one for one in drawn if one.sites)
    run = Run(tmp_path, 3e-4, 1, 0, most=2)
    small = own_copy(shrink(task.model, recipe))
    before = {n: p.detach().clone() for n, p in small.named_parameters()}
    found = train(small, teacher.lesson(recipe), pupil(task, recipe), run, "cpu")
    assert found.steps == 2
    assert all(tensor.isfinite().all() for tensor in found.state.values())
    head = next(n for n in before if n.startswith("classifier"))
    assert (found.state[head] != before[head]).any()


def test_another_seed_is_another_training(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    lesson = teacher.lesson(half)
    first, other = (trained(task, half, lesson, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert not all((first[name] == other[name]).all() for name in first)


def test_numbers_that_overflow_are_named(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(AxsearchError, match="learning_rate"):
        trained(task, half, teacher.lesson(half), tmp_path, rate=1e38)


def test_the_rate_of_the_best_short_run_is_taken_and_kept(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = dict(zip(RATES, (0.3, 0.1, math.inf), strict=True))
    tried = []

    def short(_: object, lesson: Lesson, own: Pupil, run: Run, device: str) -> Trained:
        tried.append((run.rate, run.most))
        run.told(1, SHORT)
        assert run.rate is not None
        if apart[run.rate] == math.inf:
            raise NotFiniteError("overflow")
        return Trained({}, apart[run.rate], 0.5, SHORT, SHORT, run.rate)

    monkeypatch.setattr("axsearch.training.learning_rate.train", short)
    told = []
    run = Run(tmp_path, None, EPOCHS, 0, lambda *seen: told.append(seen))
    given = (lambda: task.model, teacher.lesson(half), pupil(task, half), run, "cpu")
    assert choose_rate(*given) == RATES[1]
    assert tried == [(rate, SHORT) for rate in RATES]
    assert choose_rate(*given) == RATES[1]
    assert len(tried) == len(RATES)
    del told[:]
    found = recover(*given)
    assert found.rate == RATES[1]
    assert tried[-1] == (RATES[1], None)
    (tmp_path / TRIED).unlink()
    recover(*given)
    # What short runs take is a part of the whole.
    steps = EPOCHS * -(-len(teacher.lesson(half).train) // BATCH_SIZE)
    assert steps < SHORT
    whole = [(number * steps + 1, 4 * steps) for number in range(4)]
    assert told == [whole[-1], *whole]
    # A run that was killed between two rates goes on with the next.
    del tried[:]
    (tmp_path / TRIED).write_text(json.dumps({str(RATES[0]): 0.05}))
    assert choose_rate(*given) == RATES[0]
    assert tried == [(rate, SHORT) for rate in RATES[1:]]


def test_adapters_have_rates_of_their_own(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def short(_: object, lesson: Lesson, own: Pupil, run: Run, device: str) -> Trained:
        tried.append(run.rate)
        assert run.rate is not None
        return Trained({}, run.rate, 0.5, 1, 1, run.rate)

    monkeypatch.setattr("axsearch.training.learning_rate.train", short)
    run = Run(tmp_path, None, EPOCHS, 0, adapters=4)
    own = pupil(task, half)
    for _ in range(2):
        found = recover(lambda: task.model, teacher.lesson(half), own, run, "cpu")
        assert found.rate == ADAPTERS * RATES[0]
    assert tried == [*(ADAPTERS * rate for rate in RATES), found.rate, found.rate]
    plain = replace(own, plain=True)
    found = recover(lambda: task.model, teacher.lesson(half), plain, run, "cpu")
    assert found.rate == ADAPTERS * LEARNING_RATE


def test_a_stop_while_the_rate_is_chosen_ends_at_once(
    task: Task, teacher: Teacher, half: Recipe, tmp_path: Path
) -> None:
    small = [own_copy(shrink(task.model, half))]
    run = Run(tmp_path, None, EPOCHS, 0, stopped=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        recover(small.pop, teacher.lesson(half), pupil(task, half), run, "cpu")
    assert not (tmp_path / TRIED).exists()


@pytest.mark.parametrize("name", ["first", "last", "one"])
def test_the_token_that_a_head_reads(name: str) -> None:
    states = torch.arange(24.0).reshape(2, 4, 3)
    lengths = torch.tensor([4, 2])
    if name == "first":
        assert (read_token(states, lengths, 0) == states[:, 0]).all()
    elif name == "last":
        assert (read_token(states, lengths, -1) == states[[0, 1], [3, 1]]).all()
    else:
        assert (read_token(states[:, :1], lengths, -1) == states[:, 0]).all()


def test_hidden_states_are_the_bases_and_of_the_layers_that_fit(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = Teacher(task, "cpu").lesson(EXACT)
    assert lesson.hidden is not None
    assert lesson.layers == tuple(range(len(task.base.layers(task.model))))
    rows = np.arange(4)
    with torch.inference_mode():
        own = task.model(**lesson.train.collate(rows), output_hidden_states=True).hidden_states
    taught = lesson.taught(rows)["hidden"]
    for place, layer in enumerate(lesson.layers):
        near = {"atol": 0.1, "rtol": 0.1}  # the teacher computes in bfloat16
        torch.testing.assert_close(taught[:, place].float(), own[layer + 1][:, 0], **near)
    one = len(lesson.train) * task.model.config.hidden_size * 2
    monkeypatch.setattr("axsearch.training.lesson.MOST_HIDDEN", one)
    assert Teacher(task, "cpu").lesson(EXACT).layers == lesson.layers[-1:]
    monkeypatch.setattr("axsearch.training.lesson.MOST_HIDDEN", one - 1)
    assert Teacher(task, "cpu").lesson(EXACT).hidden is None


def test_too_few_examples_are_refused(base_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    for split, count in (("train", 40), ("validation", 40), ("test", 40)):
        write_csv(tmp_path / f"{split}.csv", list(reviews(count, 0)), ("text", "label"))
    with pytest.raises(UsageError, match="too few to train on"):
        Teacher(Task.load(str(base_dir), str(tmp_path)), "cpu")


def test_outputs_go_to_the_words_of_another_tokenizer() -> None:
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    moved = _moved(output, [-100, 0, 1, -100], [-100, 0, -100, 1, -100])
    assert moved[1].tolist() == [3.0, 4.0]
    assert moved[3].tolist() == [5.0, 6.0]
    assert moved[[0, 2, 4]].abs().sum() == 0
    whole = torch.tensor([1.0, 2.0])
    assert _moved(whole, 1, 1) is whole
