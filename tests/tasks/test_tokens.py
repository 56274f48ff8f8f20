"""To what length texts are cut, and what is said of tokens that are unknown or cut off."""

from __future__ import annotations

import pytest

from axsearch.tasks.kinds.labels import Labels, no_labels
from axsearch.tasks.kinds.question_answering import Question, QuestionAnswering
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.tasks.kinds.token_classification import Tagged, TokenClassification
from axsearch.tasks.tokens import Tokenised, tokenise, tokens_read, unknown_share
from axsearch.testing.text import tiny_tokenizer

KIND, LABELS = TextClassification(), Labels.of(["0"])


def read(*texts: str, asked: int | None = 8, limit: int = 8192) -> Tokenised:
    examples = {"search": [TextExample((text,), "0") for text in texts]}
    return tokenise(KIND, tiny_tokenizer(), examples, LABELS, limit=limit, asked=asked)


def of_tokens(*lengths: int) -> list[str]:
    """A text of so many tokens each, with those of its ends."""
    return ["word1 " * (length - 2) for length in lengths]


def said(*texts: str) -> str:
    return tokens_read(tiny_tokenizer(), read(*texts))


def test_nothing_unknown_and_nothing_cut() -> None:
    assert said("good", *of_tokens(8)) == (
        "2 examples of at most 8 tokens; none is cut; 0.0% of the tokens are unknown."
    )
    assert read("good", *of_tokens(8)).cut.sentence == ""


def test_how_many_are_cut_and_by_how_much() -> None:
    assert said("good", *of_tokens(9)) == (
        "2 examples of at most 8 tokens; 0.0% of the tokens are unknown."
    )
    cut = read("good", *of_tokens(20, 12)).cut
    assert cut.sentence == ("2 of 3 texts are longer than 8 tokens and are cut, by 50% on average.")
    assert cut.advice(8) == cut.advice(10) == cut.sentence


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (8192, "--max-length 2048 keeps them."),
        (2000, "--max-length 2000 keeps them."),
        (1500, "--max-length 1024 keeps 1 of them."),
        (600, "--max-length 600 keeps 1 of them."),
    ],
)
def test_the_length_that_keeps_them_is_named_where_the_model_allows_it(
    limit: int, advice: str
) -> None:
    cut = read(*of_tokens(20, 520, 1999), asked=512).cut
    assert cut.advice(limit).endswith(f"are cut, by 59% on average; {advice}")


def test_512_tokens_unless_more_than_a_tenth_is_cut() -> None:
    short = of_tokens(*[6] * 18)
    few = read(*short, *of_tokens(600, 700), asked=None)
    assert (few.length, few.note) == (512, "")
    assert few.splits["search"].lengths.max() == 512
    assert few.cut.whole == (600, 700)


@pytest.mark.parametrize(
    ("limit", "length"), [(8192, 2048), (2048, 2048), (1500, 1500), (512, 512), (48, 48)]
)
def test_the_next_length_that_cuts_at_most_a_tenth_and_the_model_reads(
    limit: int, length: int
) -> None:
    texts = [*of_tokens(*[6] * 16), *of_tokens(1025, 2048, 5000, 5000)]
    found = read(*texts, asked=None, limit=limit)
    assert found.length == length
    assert found.splits["search"].lengths.max() == length
    assert found.cut.whole == tuple(own for own in (1025, 2048, 5000, 5000) if own > length)
    if limit > 512:
        assert found.note == (
            f"More than 10% of the texts are longer than 512 tokens, so inputs are read up to "
            f"{length:,}; --max-length 512 takes less time and cuts them."
        )
    else:
        assert not found.note


def test_the_holdout_split_is_counted_and_decides_nothing() -> None:
    examples = {
        name: [TextExample((text,), "0") for text in of_tokens(length)]
        for name, length in (("search", 6), ("holdout", 900))
    }
    found = tokenise(KIND, tiny_tokenizer(), examples, LABELS, limit=8192)
    assert found.length == 512
    assert found.cut.sentence.startswith("1 of 2 texts are longer than 512 tokens")


def test_both_texts_count() -> None:
    examples = {"search": [TextExample(("word1 " * 300, "word2 " * 300), "0")]}
    found = tokenise(KIND, tiny_tokenizer(), examples, LABELS, limit=8192, asked=512)
    assert found.cut.whole == (603,)


def test_words_count_by_their_tokens() -> None:
    kind = TokenClassification()
    examples = {"search": [Tagged(("word1",) * 700, ("O",) * 700)]}
    found = tokenise(kind, tiny_tokenizer(), examples, Labels.of(["O"]), limit=8192)
    assert (found.length, found.cut.whole) == (1024, ())
    assert len(found.splits["search"].targets[0]) == 702


def test_contexts_are_read_in_windows_and_questions_that_are_cut_are_counted() -> None:
    kind = QuestionAnswering()
    context = "word1 " * 900
    examples = {
        "search": [
            Question("word2 " * 64, context, (("word1", 0),)),
            Question("word2 " * 65, context, (("word1", 0),)),
        ]
    }
    found = tokenise(kind, tiny_tokenizer(), examples, no_labels(kind.name, None), limit=8192)
    assert (found.length, found.note, found.cut.whole) == (512, "", ())
    assert (
        found.cut.sentence
        == found.cut.advice(8192)
        == ("1 of 2 questions are longer than 64 tokens and are cut.")
    )
    longer = tokenise(
        kind, tiny_tokenizer(), examples, no_labels(kind.name, None), limit=8192, asked=1024
    )
    assert len(longer.splits["search"]) < len(found.splits["search"])


def test_unknown_words_are_a_share_of_words() -> None:
    assert said("good strange", "word1 good") == (
        "2 examples of at most 8 tokens; none is cut; 25.0% of the tokens are unknown."
    )
    made = read(*["good " * 6] * 500, "strange")
    assert "under 0.1% of the tokens" in tokens_read(tiny_tokenizer(), made)


def test_a_tokenizer_that_knows_every_byte() -> None:
    tokenizer = tiny_tokenizer()
    split = read("strange").splits["search"]
    tokenizer.unk_token = None
    assert unknown_share(tokenizer, [split]) == 0
