"""Words and their variants, and what the claims on copying take them for."""

import pytest
import torch

from helpers.circuits import LowRank
from helpers.claims import copying
from helpers.measures import token_pairs
from helpers.tokens import Tokenizer


@pytest.mark.parametrize("change, word, changed", [
    (copying.plural, " name", " names"), (copying.past, " add", " added"), (copying.past, " use", " used"),
    (copying.capital, " none", " None"), (copying.spaced, "self", " self"),
])
def test_words_are_changed_and_other_tokens_left_alone(change, word, changed):
    assert change(word) == changed
    for other in (" it", "\n  ", " x1", "==", changed.upper(), "", " two words"):
        assert change(other) == other


def test_pairs_are_tokens_of_the_list_whose_changed_text_is_one_too():
    tokenizer = Tokenizer.load()
    name, names, self_, spaced = (tokenizer.token(text) for text in (" name", " names", "self", " self"))
    plain, changed = token_pairs(tokenizer, torch.tensor([name, names, self_, spaced]), copying.plural)
    assert (plain.tolist(), changed.tolist()) == ([name], [names])
    plain, changed = token_pairs(tokenizer, torch.tensor([names, self_, spaced]), copying.plural)
    assert plain.tolist() == changed.tolist() == [] and plain.dtype == torch.long
    plain, changed = token_pairs(tokenizer, torch.tensor([spaced, name, self_]), copying.spaced)
    assert (plain.tolist(), changed.tolist()) == ([self_], [spaced])


def test_the_order_of_the_scores():
    class Three:
        """A book whose summaries are known."""

    some = [copying.Copying(value, 0, 0, 0, 0) for value in (0.5, -1.0, 1.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "summaries", lambda book: some)
        assert copying.scores(Three()).tolist() == [-1.0, 0.5, 1.0]


class SmallBook:
    """Enough of a book to look for variants: every token is common."""

    class corpus:
        tokenizer = Tokenizer.load()

    class counts:
        opened = torch.full((4096,), copying.COMMON)


@pytest.mark.parametrize("alike", [True, False])
def test_variants_with_like_rows_are_found_and_others_by_chance_only(alike):
    left = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(4096)
    for change in (copying.spaced, copying.capital, copying.plural):
        plain, changed = token_pairs(SmallBook.corpus.tokenizer, tokens, change)
        if alike:
            left[changed] = 2 * left[plain]
    right = torch.randn(32, 4096, generator=torch.Generator().manual_seed(1))
    found, chance = copying.variants_nearby(SmallBook(), LowRank(left, right))
    assert chance == pytest.approx(10 / 4095)
    assert found > 0.9 if alike else found < 5 * chance
