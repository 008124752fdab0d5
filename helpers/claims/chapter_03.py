"""Claims of chapter 03_one_layer_skip_trigrams.

What it means that a model supports a rule, and that a text has one, is said in ``helpers.skip_trigrams``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import ov_circuit, qk_circuit
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import all_patterns, attention_by_offset, losses_without_heads
from helpers.identities import (
    ensemble_of_tables,
    forward_by_hand,
    information_movement,
    linear_when_frozen,
    low_rank_heads,
    sum_of_paths,
    tensor_products,
)
from helpers.skip_trigrams import clusters, crossed_effect, paper_rules, patterns_found, supported
from helpers.statistics import standard_ranks
from helpers.stream import with_weights
from helpers.text import Text, shelf_text, split_words
from helpers.tokens import Tokenizer

# ---- the algebra -------------------------------------------------------------------------------------------------


@claim("S-1L", EXACT)
def _readable_from_weights(models: Models) -> float:
    """A one-layer model is an ensemble of a bigram table and of one skip-trigram table for each head, which can be read
    from the weights: with these tables and those of the positions one predicts without running the model.
    """
    return ensemble_of_tables(*models.exact("one_layer", length=48))


@claim("fig6-1L", EXACT)
def _one_layer(models: Models) -> float:
    """The stream after the layer is the embedding plus what every head adds by itself, and the logits are its image
    under the unembedding.
    """
    return forward_by_hand(*models.exact("one_layer", length=48))


@claim("fig7-product", EXACT)
def _product_of_tensors(models: Models) -> float:
    """The model is a product of three tensors: embed, then the identity plus a Kronecker product for each head, then
    unembed.
    """
    return tensor_products(*models.exact("one_layer"))


@claim("fig8-expansion", EXACT)
def _sum_of_paths(models: Models) -> float:
    """Multiplied out, the logits are a direct path and one path through each head: 13 terms."""
    return sum_of_paths(*models.exact("one_layer", length=48))


@claim("fig9-QKOV", EXACT)
def _two_circuits(models: Models) -> float:
    """Two tables over the vocabulary, of rank d_head at most, say all that a head does with tokens: QK where it looks,
    positions aside, and OV what that does to the logits.
    """
    model, tokens = models.exact("one_layer", length=48)
    blind = with_weights(model, W_pos=torch.zeros_like(model.W_pos))
    return max(ensemble_of_tables(blind, tokens), low_rank_heads(model, tokens))


@claim("cl-src-only-effect", EXACT)
def _source_alone(models: Models) -> float:
    """Once the attention is fixed, what a head does to the logits depends on the source token alone: destinations that
    attend equally are moved equally.
    """
    return information_movement(*models.exact("one_layer"))


@claim("cl-freeze", EXACT)
def _linear_when_frozen(models: Models) -> float:
    """With the attention patterns of one run frozen, the logits are a linear function of the tokens."""
    return linear_when_frozen(*models.exact("one_layer", length=48))


@claim("cl-QK-norm", at_least(0.25, weaker=0.1))
def _rows_are_hard_to_compare(models: Models) -> float:
    """There is no one right way to normalise the rows of the QK circuit: two sensible ways give different lists of
    destinations.

    The two: each row less its mean, or less the log of the sum of its exponentials (over every eighth
    frequent source).
    """
    among, changed = shelf_text().frequent, []
    for head in models.one_layer.heads:
        qk = qk_circuit(models.one_layer, head).centred()
        log_sums = (qk.left[among] @ qk.right[:, among[::8]]).logsumexp(-1)
        for reading in (reading for reading in models.readings if reading.head == head):
            other = among[(qk.columns(reading.source)[among] - log_sums).topk(4).indices]
            changed.append(1 - len(set(other.tolist()) & set(reading.destinations)) / 4)
    return sum(changed) / len(changed)


@claim("cl-fungible", at_most(0.5, weaker=0.9), needs="trained")  # untrained heads are worth nothing, however removed
def _heads_do_each_others_work(models: Models) -> float:
    """Heads stand in for one another: one may seem to do nothing because another does the same job."""
    heads = models.one_layer.heads
    groups = [[], heads, *([head] for head in heads)]
    intact, bare, *without = losses_without_heads(models.one_layer, models.contexts[:4], groups)
    return ((torch.stack(without) - intact).sum() / (bare - intact)).item()


# ---- skip-trigrams ----------------------------------------------------------------------------------------------


@claim("links-headdump", at_least(0.5, weaker=0.25))
def _lists_of_every_head(models: Models) -> float:
    """The recipe of the paper, applied to every head, gives lists of skip-trigrams that the text has."""
    return len({(reading.head, reading.source) for reading, *_ in models.text_rules}) / len(models.readings)


@claim("tab-copying", at_least(0.5, weaker=0.25))
def _copying(models: Models) -> float:
    """The strongest skip-trigrams of copying heads say the source again."""
    best = [(0, h) for h in models.copying_scores.topk(3).indices.tolist()]
    readings = [reading for reading in models.readings if reading.head in best]
    return sum(reading.source in reading.outs for reading in readings) / len(readings)


@claim("cl-split-tokens", at_least(0.25, weaker=0.1))
def _split_words_are_supported(models: Models) -> float:
    """Heads are partly specialised in words that are one token with a leading space and two without it."""
    text = shelf_text()
    return supported(models.one_layer, split_words(text.tokenizer, text.frequent), text.frequent).double().mean().item()


@claim("tab-split", at_least(0.75, weaker=0.5))
def _split_words_are_rules(models: Models) -> float:
    """The strongest entries for words that are cut in two are rules of the text."""
    text = shelf_text()
    words = split_words(text.tokenizer, text.frequent)
    whole, first, rest = words.T
    entries = torch.zeros(len(words))
    for head in models.one_layer.heads:
        qk, ov = qk_circuit(models.one_layer, head).centred(), ov_circuit(models.one_layer, head).centred()
        both = torch.stack([(qk.left[first] * qk.right.T[whole]).sum(1), (ov.left[whole] * ov.right.T[rest]).sum(1)])
        entries = entries.maximum(both.amin(0))
    strongest = words[entries.topk(10).indices].tolist()
    return sum(bool(text.positions.rules(ab, a, [b], models.max_gap)) for ab, a, b in strongest) / 10


@claim("tab-patterns", at_least(4.0, weaker=3.0), digits=0)
def _four_patterns(models: Models) -> float:
    """Heads learn four simple patterns of learning in context: they say a token again, or a relative of it, also where
    it is cut in two the second time.
    """
    found = patterns_found(models.one_layer, shelf_text(), models.readings)
    return float(sum(len(rules) >= 5 for rules in found.values()))


@claim("list-other", at_least(0.5, weaker=0.25))
def _the_papers_rules(models: Models) -> float:
    """Of the skip-trigrams that the paper prints, heads hold most of those that can be asked here: eight of Python, one
    of LaTeX, one of a web address.

    Asked: a rule of three single tokens that the text has 20 times or more, with a lift of 1.5 or more.
    """
    text, asked = shelf_text(), []
    for tokens in (tokens for rules in paper_rules(text.tokenizer).values() for _, tokens in rules if tokens):
        count = text.positions.count(*tokens, models.max_gap)
        if count.n_out_after_source >= 20 and count.lift >= 1.5:
            asked.append(tokens)
    return supported(models.one_layer, torch.tensor(asked), text.frequent).double().mean().item()


@claim("cl-QK-plausible", at_least(0.2, weaker=0.05))
def _sources_would_fit(models: Models) -> float:
    """Copying heads attend to tokens that could plausibly come next."""
    heads = (models.copying_scores > 0.8).nonzero().flatten().tolist() or range(models.one_layer.config.n_heads)
    among, ranks, beyond = shelf_text().frequent, _next_token_ranks(shelf_text()), []
    for h in heads:
        asked = standard_ranks(qk_circuit(models.one_layer, (0, h)).rows(among[::20])[:, among])
        beyond.append((asked * ranks).sum(1).mean() - (asked * ranks.roll(1, 0)).sum(1).mean())
    return torch.stack(beyond).mean().item()


def _next_token_ranks(text: Text) -> Float[Tensor, "dest src"]:
    """How the frequent tokens rank as what comes after every twentieth of them."""
    prior = 10 * text.unigram_probs[text.frequent]  # as if ten tokens more, of the usual kinds, had followed each
    rows = [text.bigrams.row(destination)[text.frequent] + prior for destination in text.frequent[::20].tolist()]
    return standard_ranks(torch.stack(rows))


@claim("cl-by-from", at_least(0.8, weaker=0.5))
def _clusters_of_sources(models: Models) -> float:
    """In some head ten sources or more share the destination that wants them most, and most of them follow it."""
    return max((share for *_, share in clusters(models.one_layer, shelf_text())), default=0.0)


@claim("cl-positional", at_least(0.6, weaker=0.4))
def _a_positional_head(models: Models) -> float:
    """Some head is mainly local: on text, most of its attention goes to the present and the previous token."""
    chunks = models.contexts.split(2)  # of equal size, and no patterns are kept
    near = [attention_by_offset(all_patterns(models.one_layer, chunk)[0], max_offset=1).sum(1) for chunk in chunks]
    return torch.stack(near).mean(0).max().item()


@claim("cl-tokenisation", at_least(0.1, weaker=0.03), needs="trained")
def _tokens_are_cut_arbitrarily(models: Models) -> float:
    """Skip-trigrams depend on how the tokenizer cuts: many are rules about the pieces of a word."""
    tokenizer, rules = shelf_text().tokenizer, models.text_rules
    return sum(within_word(tokenizer, destination, out) for _, destination, out, _ in rules) / len(rules)


def within_word(tokenizer: Tokenizer, destination: int, out: int) -> bool:
    """Whether two tokens in a row are pieces of one word: a letter on each side of the seam."""
    return tokenizer.decode([destination])[-1:].isalpha() and tokenizer.decode([out])[:1].isalpha()


@claim("cl-Knesset", at_least(3.0, weaker=1.0), digits=0)
def _another_word_is_finished(models: Models) -> float:
    """A head can finish a word that is cut in two by the mention of a related, but different word."""
    rules = {(reading.source, destination, out) for reading, destination, out, _ in models.text_rules}
    return float(sum(finishes_another_word(shelf_text(), *rule, models.max_gap) for rule in rules))


def finishes_another_word(text: Text, source: int, destination: int, out: int, max_gap: int) -> bool:
    """Whether destination and out are pieces of one word, and the source is another whole word, not its beginning.

    Whole: it opens with a space. Another: neither contains the other or shares its first three letters, and the
    source does not mostly stand right before the destination.
    """
    other, word = (text.tokenizer.decode(ids) for ids in ([source], [destination, out]))
    whole = other[:1] == " " and len(other) > 3 and other[1:].isalpha()
    other, word = (part.strip(" _").lower() for part in (other, word))
    alike = other in word or word in other or other[:3] == word[:3]
    right_before, anywhere = (text.positions.outs(source, destination, gap)[out] for gap in (1, max_gap))
    one_word = within_word(text.tokenizer, destination, out)
    return bool(one_word and whole and not alike and 2 * right_before < anywhere)


@claim("tab-bugs", at_least(0.5, weaker=0.2))
def _bugs_are_frequent(models: Models) -> float:
    """Heads often support two pairs of tokens that the text has after a source, and with them a crossed pair that it
    does not have.
    """
    return sum(any(bug.effect >= 1 for bug in bugs) for bugs in models.bugs) / len(models.bugs)


@claim("cl-bugs", at_least(0.5, weaker=0.2), needs="large_bugs")
def _bugs_show(models: Models) -> float:
    """A head's product form f₁(source, destination) f₂(source, out) forces the crossed rules on the model."""
    effects = [crossed_effect(models.one_layer, bug, shelf_text().frequent) for bug in models.large_bugs]
    return sum(effect > 0 for effect in effects) / len(effects)
