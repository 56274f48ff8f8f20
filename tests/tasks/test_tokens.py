"""What is said of tokens that are unknown or cut off."""

from __future__ import annotations

from axsearch.tasks.kinds.labels import Labels
from axsearch.tasks.kinds.sequences import TextExample
from axsearch.tasks.kinds.text_classification import TextClassification
from axsearch.tasks.tokens import tokens_read, unknown_share
from axsearch.testing.text import tiny_tokenizer

KIND, LABELS = TextClassification(), Labels.of(["0"])


def said(*texts: str, length: int = 8) -> str:
    tokenizer = tiny_tokenizer()
    examples = [TextExample((text,), "0") for text in texts]
    split = KIND.split("search", examples, tokenizer, length, LABELS)
    return tokens_read(KIND, tokenizer, length, [(split, examples)])


def test_nothing_unknown_and_nothing_cut() -> None:
    assert said("good", "word1 " * 6) == (
        "2 examples of at most 8 tokens; none is cut; 0.0% of the tokens are unknown."
    )


def test_how_many_are_cut_and_by_how_much() -> None:
    # 20 and 12 tokens with those of the ends, of which 8 stay.
    assert said("good", "word1 " * 18, "word1 " * 10) == (
        "3 examples of at most 8 tokens; 2 are longer and cut, by 50% on average; 0.0% of the "
        "tokens are unknown."
    )


def test_unknown_words_are_a_share_of_words() -> None:
    assert said("good strange", "word1 good") == (
        "2 examples of at most 8 tokens; none is cut; 25.0% of the tokens are unknown."
    )
    assert "under 0.1% of the tokens" in said(*["good " * 6] * 500, "strange")


def test_a_tokenizer_that_knows_every_byte() -> None:
    tokenizer = tiny_tokenizer()
    examples = [TextExample(("strange",), "0")]
    split = KIND.split("search", examples, tokenizer, 8, LABELS)
    tokenizer.unk_token = None
    assert unknown_share(tokenizer, [split]) == 0
