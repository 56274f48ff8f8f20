"""A study whose models have smaller vocabularies, from the command line to the exported model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from axsearch import Study, export_model, search, verify_export
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import EMBEDDINGS, OUTSIDE, SiteId, TokenUse
from axsearch.approximations.vocabulary.choice import KeptTokens, Vocabulary
from axsearch.calibration.costs import latency_cost
from axsearch.errors import UsageError
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.serving import served_accuracy
from axsearch.models.base_model import Base
from axsearch.models.exported import open_export
from axsearch.running.session import work
from axsearch.space.latency_table import LatencyTable
from axsearch.space.recipe import EXACT, Recipe
from axsearch.space.scenario import Scenario
from axsearch.store.database import open_database
from axsearch.store.studies import ask_for, asked_for
from axsearch.tasks.kinds import task_kinds
from axsearch.tasks.kinds.base import Answered
from axsearch.tasks.task import Task
from axsearch.testing.models import random_model
from axsearch.testing.text import BAD, GOOD, NEVER, PIECES, VOCABULARY, reviews

EMBEDDED = SiteId(OUTSIDE, EMBEDDINGS)


def keeping(*pieces: str) -> Recipe:
    """The recipe that keeps these pieces and all that are needed."""
    kept = {PIECES.index(one) for one in (*pieces, *VOCABULARY[:5])}
    kept |= {n for n, one in enumerate(PIECES) if len(one.removeprefix("##")) == 1}
    choice = KeptTokens(of=len(PIECES), kept=tuple(sorted(kept)))
    return Recipe.of({EMBEDDED: {Vocabulary.name: choice}})


@pytest.fixture(scope="module")
def task(spelling_dir: Path, data_dir: Path) -> Task:
    return Task.load(str(spelling_dir), str(data_dir))


def test_what_train_has_stays(task: Task) -> None:
    (site,) = [
        one for one in task.with_token_use([*task.base.sites.values()]) if one.id == EMBEDDED
    ]
    assert site.rows == len(PIECES)
    levels = Vocabulary().levels(site)
    assert levels[0] is None
    assert levels[1:] == (round((len(PIECES) * 129) ** 0.5), 129, *levels[3:])
    choice = Vocabulary().choice(site, levels[1], ())
    assert isinstance(choice, KeptTokens)
    assert {*VOCABULARY, *NEVER[:40]} <= {PIECES[token] for token in choice.kept}
    choice = Vocabulary().choice(site, levels[2], ())
    assert isinstance(choice, KeptTokens)
    assert choice == keeping(*VOCABULARY[5:]).at(*EMBEDDED)["vocabulary"]
    assert Vocabulary().misfit(site, choice) is None
    assert "this model has" in (Vocabulary().misfit(site, KeptTokens(of=9, kept=(1,))) or "")
    for kept in ((), (1, 2)):
        reason = Vocabulary().misfit(site, KeptTokens(of=len(PIECES), kept=kept))
        assert reason == "removes the token that pads"


def test_answers_are_those_of_the_model_that_is_exported(task: Task, tmp_path: Path) -> None:
    """Where no token of a text is removed they are the base's."""
    database = open_database(f"sqlite:///{tmp_path}/x.db", create=True)
    evaluator = Evaluator(task, database.engine, None)
    base = evaluator.baseline
    same = evaluator.measure(keeping(*VOCABULARY[5:]))
    assert same.accuracy == base.accuracy
    assert same.size_ratio < 0.95
    assert same.parameters == base.parameters - 99 * 32
    few = keeping(*GOOD)  # of which all other words are spelled, letter by letter
    read = task.read(task.search, few)
    assert read.lengths.sum() > 3 * task.search.lengths.sum()
    assert task.read(task.search, few) is read
    small, tokenizer = evaluator.weights.shrink(few), task.tokenizer_of(few)
    assert small.config.vocab_size == len(tokenizer) == len(few.vocabulary or ())
    right = 0
    for row, (text, label) in enumerate(reviews(80, 1)):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=48)
        assert inputs["input_ids"][0].tolist() == read.inputs[row]["input_ids"]
        with torch.no_grad():
            right += int(small(**inputs).logits.argmax()) == label
    assert evaluator.measure(few).accuracy == right / 80 < base.accuracy
    assert evaluator.measure(few).choices["embeddings"] == {"vocabulary": len(few.vocabulary or ())}


def test_a_study_from_search_to_export(
    spelling_dir: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.txt").write_text(" ".join(f"never{n}" for n in range(30)) + "\n")
    url = f"sqlite:///{tmp_path}/study.db"

    def run(trials: int, texts: str = "more.txt") -> Study:
        return search(
            str(spelling_dir), str(data_dir), storage=url, study="small", trials=trials,
            approximations=("heads", "ffn", "layer", "vocabulary"), batch_size=4, threads=1,
            vocabulary_from=str(tmp_path / texts),
        )  # fmt: skip

    study = run(14)
    study = run(15)  # which goes on with the same space
    levels = study.spec.levels["embeddings.vocabulary"]
    assert levels[2] == len(PIECES) - 69  # without those that no text has
    found = [m for m in study.measurements if m.choices["embeddings"]["vocabulary"] is not None]
    assert found
    member = min(found, key=lambda m: m.size_ratio)
    assert member.trial is not None
    for format in ("hf", "onnx"):
        out = export_model(study, member.trial, str(tmp_path / format), format=format, force=True)
        assert verify_export(str(out)).difference < 1e-3
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert len(tokenizer) == member.choices["embeddings"]["vocabulary"]
        assert json.loads((out / "config.json").read_text())["vocab_size"] == len(tokenizer)
    assert (tmp_path / "hf" / "model.safetensors").stat().st_size == member.size_bytes
    opened = open_export(tmp_path / "hf")
    small = Task.load(str(tmp_path / "hf"), str(data_dir))
    inputs = small.search.collate(range(8))
    with torch.no_grad():
        again = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "hf", trust_remote_code=True
        )(**inputs)
        assert torch.allclose(opened.eval()(**inputs).logits, again.logits, atol=1e-5)
    site = small.base.sites[EMBEDDED]
    assert site.made == {"vocabulary": len(tokenizer)}
    assert site.rows == len(tokenizer)
    (tmp_path / "other.txt").write_text("never98\n")
    with pytest.raises(UsageError, match="exists with another search space"):
        run(15, "other.txt")


def test_whole_layers_and_a_vocabulary_leave_a_plain_checkpoint(task: Task) -> None:
    base = Base(task.model)
    assert base.plan(keeping(*GOOD)).plain
    small = base.shrink(keeping(*BAD), base.cut(keeping(*BAD)))
    assert type(small) is type(task.model)
    again = Base(small)  # of which fewer tokens stay
    kept = tuple(range(0, again.sites[EMBEDDED].rows, 2))
    choice = KeptTokens(of=again.sites[EMBEDDED].rows, kept=kept)
    twice = Recipe.of({EMBEDDED: {"vocabulary": choice}})
    first = keeping(*BAD).vocabulary or ()
    assert again.plan(twice).after.recipe.vocabulary == tuple(first[one] for one in kept)


def test_in_a_runtime_it_is_timed_and_evaluated_with_its_own_tokens(
    task: Task, tmp_path: Path
) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/x.db", create=True).engine
    scenario = Scenario(batch_size=4, threads=1, runtime="onnxruntime", precision="int8")
    evaluator = Evaluator(task, engine, scenario)
    few = keeping(*GOOD)
    assert all(int(b["input_ids"].max()) < len(few.vocabulary or ()) for b in
               evaluator._workload(task.search, 3, few))  # fmt: skip
    measured = evaluator.measure(few)
    assert measured.latency_ratio is not None
    served = served_accuracy(engine, task, scenario, few, task.search, evaluator.weights)
    assert abs(served.value - measured.accuracy) < 0.1


def test_a_vocabulary_alone_is_no_compensated_recipe() -> None:
    few = keeping(*GOOD)
    assert Recipe.of({site: dict(own) for site, own in few.sites}, "sequential") == few
    heads = {SiteId(0, "attention"): {"heads": Kept(of=4, kept=(0,))}}
    both = Recipe.of({**heads, EMBEDDED: few.at(*EMBEDDED)}, "sequential")
    assert both.refitted == Recipe.of(heads, "sequential")
    assert few.refitted == EXACT


def test_a_study_of_vocabularies_alone_goes_on_without_their_texts(
    spelling_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """With the default compensation; a worker, and a search that names nothing again."""
    texts = tmp_path / "texts.txt"
    texts.write_text("never1\n")
    url = f"sqlite:///{tmp_path}/x.db"

    def run(trials: int, **more: Any) -> Study:
        return search(
            str(spelling_dir), str(data_dir), storage=url, study="x", trials=trials, batch_size=4,
            threads=1, staged=False, **more,
        )  # fmt: skip

    study = run(3, approximations=("vocabulary",), vocabulary_from=str(texts))
    assert study.count == 3
    assert run(3).count == 3
    small = min(study.measurements, key=lambda m: m.size_ratio)
    level = small.choices["embeddings"]["vocabulary"] or 0
    assert level < len(PIECES)
    texts.unlink()
    database = open_database(url)
    found = asked_for(database.engine, "x")
    assert found is not None
    ask_for(database.engine, "x", 4, found[1])
    work(database, "x", threads=1)
    assert Study.open(url, "x").count == 4


def test_words_that_are_spelled_take_time(task: Task, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/x.db", create=True)
    evaluator = Evaluator(task, database.engine, Scenario(batch_size=4, threads=1))
    few = keeping(*GOOD)
    assert evaluator.lengthening(few) > 2
    assert evaluator.lengthening(keeping(*VOCABULARY[5:])) == 1
    evaluator.table = LatencyTable(1.0, {}, {}, outside=("embeddings",))
    evaluator.table = replace(evaluator.table, blocks={"embeddings": 0.0})
    assert evaluator.predicted_ratio(few) == pytest.approx(evaluator.lengthening(few))
    cost = latency_cost(evaluator.table, evaluator.lengthening)
    assert cost.layer(few, OUTSIDE) == pytest.approx(evaluator.lengthening(few) - 1)
    fixed = Evaluator(task, database.engine, Scenario(4, 16, 1))
    assert fixed.lengthening(few) == 1


def test_long_texts_in_windows_are_refused() -> None:
    assert [kind.name for kind in task_kinds().values() if kind.windows] == ["question-answering"]


def test_tags_are_compared_word_by_word(spelling_dir: Path) -> None:
    kind: Any = task_kinds()["token-classification"]
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    skipped = -100
    base = Answered(logits[0, :4], torch.tensor([skipped, 1, 2, skipped]))
    ours = Answered(
        logits[0, [0, 1, 5, 5, 2, 0]], torch.tensor([skipped, 1, skipped, skipped, 2, 0])
    )
    assert float(kind.divergence_apart(ours, base)) == pytest.approx(0, abs=1e-6)
    other = Answered(logits[1, :4], base.targets)
    expected = kind.divergence(other.logits[None], base.logits[None], base.targets[None])
    assert float(kind.divergence_apart(other, base)) == pytest.approx(float(expected))


def test_a_tokenizer_that_cannot_spell_is_refused(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"'vocabulary' is not supported .*cannot spell a word"):
        search(
            str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path}/x.db", study="x", trials=1,
            approximations=("vocabulary",),
        )  # fmt: skip


def test_texts_for_a_vocabulary_that_is_not_searched_are_refused(
    base_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a text\n")
    with pytest.raises(UsageError, match=r"`vocabulary_from` .* `approximations=vocabulary`"):
        search(
            str(base_dir), str(data_dir), storage=f"sqlite:///{tmp_path}/x.db", study="x", trials=1,
            vocabulary_from=str(texts),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "most"),
    [
        ({"hidden_size": 384, "num_hidden_layers": 12, "intermediate_size": 1536}, 0.25),
        ({"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}, 0.35),
    ],
    ids=["multilingual MiniLM", "XLM-R base"],
)
def test_the_bytes_of_multilingual_models_by_the_vocabulary_alone(
    layout: dict[str, int], most: float
) -> None:
    """On paper: with 12,000 of their 250,002 tokens, which English texts have at most."""
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1,
        num_attention_heads=12, pad_token_id=1, **layout,
    )  # fmt: skip
    with torch.device("meta"):
        base = Base(AutoModelForSequenceClassification.from_config(config).eval())
    kept = KeptTokens(of=250_002, kept=tuple(range(12_000)))
    state = base.cut(Recipe.of({EMBEDDED: {"vocabulary": kept}}))
    left, whole = (sum(t.nbytes for t in one.values()) for one in (state, base.state))
    assert left / whole < most


def test_a_multilingual_model_has_a_quarter_of_its_bytes(tmp_path: Path) -> None:
    """Of Unigram's kind; with texts of one language, of which none becomes unknown."""
    from tests.tasks.test_vocabulary import counted, texts, unigram

    tokenizer = unigram()
    use = counted(tokenizer, texts(300, 0))
    model = random_model("xlm-roberta", vocab_size=9000, pad_token_id=1)
    rows = TokenUse((*use.counts, *[0] * (9000 - len(use.counts))), use.needed)
    (site,) = [one for one in Base(model).sites.values() if one.id == EMBEDDED]
    site = replace(site, token_use=rows)
    choice = Vocabulary().choice(site, Vocabulary().levels(site)[2], ())
    assert choice is not None
    recipe = Recipe.of({EMBEDDED: {"vocabulary": choice}})
    base = Base(model)
    small = base.shrink(recipe, base.cut(recipe))
    left, whole = (sum(p.nbytes for p in one.parameters()) for one in (small, model))
    assert left <= whole / 4
    assert small.config.pad_token_id == 1
