"""Claims of chapter 03_one_layer_skip_trigrams.

A head *serves* a rule (source, destination, out) when the destination is among the five per cent of frequent tokens
that want the source most, and the out among the five per cent that it raises most. By chance one of twelve heads
serves a rule in three cases of a hundred. The text *has* a rule that occurs ten times or more in its first eight
million tokens, with a lift of 2 or more: twice as likely after the source as anyway.
"""

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.circuits import W_QK, entry_places, ov_circuit, path_logits, paths, qk_circuit
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.measures import (
    SkipTrigramBug,
    all_patterns,
    attention_by_offset,
    losses_without,
    preference,
    split_words,
    standard_ranks,
)
from helpers.tokens import START, Tokenizer

TRICK = "The Path Expansion Trick"
CIRCUITS = "Splitting Attention Head Terms into Circuits"
SKIP = "Interpreting as Skip-Trigrams"
COPYING = "Copying / Primitive In-Context Learning"
BUGS = "Skip-Trigram Bugs"
TOP = 0.05  # of the frequent tokens


def short_text(book: Book) -> Int[Tensor, "2 48"]:
    return book.text[:2, :48]


# ---- the algebra -------------------------------------------------------------------------------------------------


@claim("S-1L", section="Summary of Results", chapter="03", paper="ensemble of bigram and skip-trigram models",
       value="log-probabilities from the tables alone: largest relative error", bar=EXACT)
def _readable_from_weights(book: Book) -> float:
    """A one-layer model is an ensemble of a bigram table and of one skip-trigram table for each head, which can be
    read from the weights: with these tables and those of the positions one predicts without running the model.
    """
    model, text = book.double("one_layer"), short_text(book)[0]
    positions, hidden = model.W_pos[: len(text)], model.future[: len(text), : len(text)]
    logits = model.W_E[text] @ model.W_U
    for head in model.heads:
        qk, ov, W = qk_circuit(model, head), ov_circuit(model, head), W_QK(model, head)
        asks, answers = model.W_E @ W @ positions.T, positions @ W @ model.W_E.T
        by_position = (positions @ W @ positions.T).dense()
        scores = qk.rows(text)[:, text] + asks.rows(text) + answers.columns(text) + by_position
        logits += scores.masked_fill(hidden, -torch.inf).softmax(-1) @ ov.rows(text)
    return book.error(logits.log_softmax(-1), model(text[None])[0].log_softmax(-1))


@claim("fig6-1L", section="One-Layer Attention-Only Transformers", chapter="03", paper="x₁ = x₀ + Σ h(x₀), T = W_U x₁",
       value="largest relative error", bar=EXACT)
def _one_layer(book: Book) -> float:
    """The stream after the layer is the embedding plus what every head adds by itself, and the logits are its image
    under the unembedding.
    """
    model, tokens = book.double("one_layer"), short_text(book)
    n = tokens.shape[1]
    x_0 = model.W_E[tokens]
    read, x_1 = x_0 + model.W_pos[:n], x_0
    for head in model.heads:
        scores = (read @ model.W_Q[head]) @ (read @ model.W_K[head]).mT / math.sqrt(model.config.d_head)
        pattern = scores.masked_fill(model.future[:n, :n], -torch.inf).softmax(-1)
        x_1 = x_1 + pattern @ x_0 @ model.W_V[head] @ model.W_O[head]
    return book.error(x_1 @ model.W_U, model(tokens))


@claim("fig7-product", section=TRICK, chapter="03", paper="T = (Id⊗W_U)·(Id + Σ Aʰ⊗W_OVʰ)·(Id⊗W_E)",
       value="largest relative error, with the Kronecker products multiplied out", bar=EXACT)
def _product_of_tensors(book: Book) -> float:
    """The model is a product of three tensors: embed, then the identity plus a Kronecker product for each head, then
    unembed.
    """
    model, tokens = book.double("one_layer"), book.text[:1, :4]
    logits, cache = model.run_with_cache(tokens)
    x = model.W_E[tokens[0]].flatten()
    layer = torch.eye(len(x), dtype=x.dtype)
    for _, h in model.heads:
        layer += torch.kron(cache.patterns[0][0, h], (model.W_V[0, h] @ model.W_O[0, h]).T.contiguous())
    return book.error((layer @ x).view(4, -1) @ model.W_U, logits[0])


@claim("fig8-expansion", section=TRICK, chapter="03", paper="T = Id⊗W_U W_E + Σ Aʰ⊗(W_U W_OVʰ W_E)",
       value="13 terms against the logits: largest relative error", bar=EXACT)
def _sum_of_paths(book: Book) -> float:
    """Multiplied out, the logits are a direct path and one path through each head: 13 terms."""
    model, tokens = book.double("one_layer"), short_text(book)
    logits, cache = model.run_with_cache(tokens)
    terms = [path_logits(model, tokens, cache.patterns, path) for path in paths(model)]
    return book.error(sum(terms), logits) if len(terms) == 13 else math.inf


@claim("fig9-QKOV", section=CIRCUITS, chapter="03", paper="W_Eᵀ W_QK W_E and W_U W_OV W_E",
       value="a head's scores and its logits from the two tables, and their rank beyond d_head: largest relative error",
       bar=EXACT)
def _two_circuits(book: Book) -> float:
    """Two tables over the vocabulary, of rank d_head at most, say all that a head does with tokens: QK where it
    looks, positions aside, and OV what that does to the logits.
    """
    model, tokens = book.double("one_layer"), short_text(book)
    model.W_pos.zero_()
    _, cache = model.run_with_cache(tokens)
    some, errors = torch.arange(1, model.config.d_vocab, 41), []
    for head in model.heads:
        qk, ov, h = qk_circuit(model, head), ov_circuit(model, head), head[1]
        seen = cache.scores[0][0, h].isfinite()
        errors.append(book.error(qk.rows(tokens[0])[:, tokens[0]][seen], cache.scores[0][0, h][seen]))
        errors.append(book.error(cache.patterns[0][0, h] @ ov.rows(tokens[0]), cache.head_outputs[0][0, h] @ model.W_U))
        for table in (model.W_E[some] @ model.W_Q[head] @ model.W_K[head].T @ model.W_E[some].T,
                      model.W_E[some] @ model.W_V[head] @ model.W_O[head] @ model.W_U[:, some]):
            sizes = torch.linalg.svdvals(table)
            errors.append((sizes[model.config.d_head] / sizes[0]).item())
    return max(errors)


@claim("cl-src-only-effect", section=CIRCUITS, chapter="03", paper="stated",
       value="effect on the logits at different destinations with equal attention: largest relative difference",
       bar=EXACT)
def _source_alone(book: Book) -> float:
    """Once the attention is fixed, what a head does to the logits depends on the source token alone: destinations
    that attend equally are moved equally.
    """
    model, tokens = book.double("one_layer"), short_text(book)
    attention = torch.zeros(2, model.config.n_heads, tokens.shape[1], tokens.shape[1], dtype=torch.double)
    attention[..., 7] = 0.6  # every head at every place: 60 % on the token at place 7, the rest on the first
    attention[..., 0] = 0.4
    moved = model(tokens, patterns=[attention]) - model.W_E[tokens] @ model.W_U
    return book.error(moved, moved[:, 20:21].expand_as(moved))


@claim("cl-freeze", section=CIRCUITS, chapter="03", paper="stated",
       value="superposition of two texts with frozen patterns: largest relative error", bar=EXACT)
def _linear_when_frozen(book: Book) -> float:
    """With the attention patterns of one run frozen, the logits are a linear function of the tokens."""
    model, tokens = book.double("one_layer"), short_text(book)
    _, cache = model.run_with_cache(tokens[:1])
    patterns = cache.patterns[0][0]
    d_vocab = model.config.d_vocab

    def frozen(one_hot: Float[Tensor, "pos token"]) -> Float[Tensor, "pos token"]:
        x = one_hot @ model.W_E
        return (x + sum(patterns[h] @ x @ model.W_V[0, h] @ model.W_O[0, h] for _, h in model.heads)) @ model.W_U

    one, other = (torch.nn.functional.one_hot(row, d_vocab).double() for row in tokens)
    is_model = book.error(frozen(other), model(tokens[1:], patterns=[patterns[None]])[0])
    return max(is_model, book.error(frozen(0.3 * one - 2 * other), 0.3 * frozen(one) - 2 * frozen(other)))


@claim("cl-QK-norm", section=SKIP, chapter="03", paper="“there isn't a clear right answer as to how to normalize”",
       value="share of a source's top four destinations that changes from one normalisation to another",
       bar=at_least(0.25, weaker=0.1))
def _rows_are_hard_to_compare(book: Book) -> float:
    """There is no one right way to normalise the rows of the QK circuit: two sensible ways give different lists of
    destinations.

    The two: each row less its mean, or less the log of the sum of its exponentials (over every eighth
    frequent source).
    """
    among, changed = book.frequent, []
    for head in book.one_layer.heads:
        qk = qk_circuit(book.one_layer, head).centred()
        log_sums = (qk.left[among] @ qk.right[:, among[::8]]).logsumexp(-1)
        for reading in (r for r in book.telling if r.head == head):
            other = among[(qk.columns(reading.source)[among] - log_sums).topk(4).indices]
            changed.append(1 - len(set(other.tolist()) & set(reading.destinations)) / 4)
    return sum(changed) / len(changed)


@claim("cl-fungible", section=SKIP, chapter="03", paper="stated",
       value="what the heads are worth removed one by one, as a share of what they are worth together",
       bar=at_most(0.5, weaker=0.9),
       why_not="It is about a half with every seed, and the line that we drew runs right through them.")
def _heads_do_each_others_work(book: Book) -> float | None:
    """Heads stand in for one another: one may seem to do nothing because another does the same job."""
    if book.seed is None:
        return None  # its heads are worth nothing, together or alone
    alone, together = heads_removed(book)
    return (alone.sum() / together).item()


def heads_removed(book: Book) -> tuple[Float[Tensor, " head"], Float[Tensor, ""]]:
    """By how many nats the loss on four texts rises without each head of the one-layer model, and without all."""
    heads = range(book.one_layer.config.n_heads)
    intact, bare, *without = losses_without(book.one_layer, book.text[:4], [[], heads, *([h] for h in heads)])
    return torch.stack(without) - intact, bare - intact


# ---- skip-trigrams ----------------------------------------------------------------------------------------------


def served(book: Book, rules: Int[Tensor, "rule 3"]) -> Bool[Tensor, " rule"]:
    """Whether some head serves each rule (source, destination, out)."""
    parts = rules.split(256)  # 30 MB each
    return torch.cat([(entry_places(book.one_layer, part, book.frequent) <= TOP).all(-1).any(-1) for part in parts])


@claim("links-headdump", section=SKIP, chapter="03", paper="lists for every head of two models",
       value="share of rows (12 heads, 8 sources each) with a rule that the text has", bar=at_least(0.5, weaker=0.25),
       why_not="About half of the rows on every seed; a large entry costs nothing where source and destination do not "
       "meet, so the strongest of all are often rules that nothing ever tested.")
def _lists_of_every_head(book: Book) -> float:
    """The recipe of the paper, applied to every head, gives lists of skip-trigrams that the text has."""
    return len({(r.head, r.source) for r, *_ in book.real_rules}) / len(book.telling)


@claim("tab-copying", section=COPYING, chapter="03", paper="5 of 6 sources raise themselves most",
       value="share of sources among their own four largest outs (three most copying heads, 8 sources each)",
       bar=at_least(0.5, weaker=0.25))
def _copying(book: Book) -> float:
    """The strongest skip-trigrams of copying heads say the source again."""
    best = [(0, h) for h in book.copying.topk(3).indices.tolist()]
    readings = [r for r in book.telling if r.head in best]
    return sum(r.source in r.outs for r in readings) / len(readings)


@claim("cl-split-tokens", section=COPYING, chapter="03", paper="stated",
       value="share of the words that split without their space that a head serves", bar=at_least(0.25, weaker=0.1),
       why_not="Many of these words are rarely divided. With seed 0 a head serves 32 % of those whose rule the text "
       "has, and 5 % of the others.")
def _split_words_are_served(book: Book) -> float:
    """Heads are partly specialised in words that are one token with a leading space and two without it."""
    return served(book, split_words(book.corpus.tokenizer, book.frequent)).double().mean().item()


@claim("tab-split", section=COPYING, chapter="03", paper="five rows, such as “ Ralph … R → alph”",
       value="share of the ten strongest split words whose rule the text has", bar=at_least(0.75, weaker=0.5))
def _split_words_are_rules(book: Book) -> float:
    """The strongest entries for words that are cut in two are rules of the text."""
    words = split_words(book.corpus.tokenizer, book.frequent)
    whole, first, rest = words.T
    entries = torch.zeros(len(words))
    for head in book.one_layer.heads:
        qk, ov = qk_circuit(book.one_layer, head).centred(), ov_circuit(book.one_layer, head).centred()
        both = torch.stack([(qk.left[first] * qk.right.T[whole]).sum(1), (ov.left[whole] * ov.right.T[rest]).sum(1)])
        entries = entries.maximum(both.amin(0))
    return sum(text_has(book, *rule) for rule in words[entries.topk(10).indices].tolist()) / 10


def text_has(book: Book, source: int, destination: int, out: int) -> bool:
    """Whether the text has a rule: ten times or more, with a lift of 2 or more."""
    if book.places.outs(source, destination, book.reach)[out] < 10:
        return False
    return book.places.count(source, destination, out, book.reach).lift >= 2


@claim("tab-patterns", section=COPYING, chapter="03", paper="4 patterns",
       value="patterns with at least five rules that a head serves and the text has", bar=at_least(4, weaker=3),
       digits=0, why_not="The two kinds with a relative in place of the token itself are rare in the text already: we "
       "know relatives by their spelling only, and few of 4,096 tokens have one.")
def _four_patterns(book: Book) -> float:
    """Heads learn four simple patterns of learning in context: they say a token again, or a relative of it, also
    where it is cut in two the second time.
    """
    return sum(len(rules) >= 5 for rules in patterns_found(book).values())


def patterns_found(book: Book) -> dict[str, list[tuple[int, int, int]]]:
    """The rules (source, destination, out) of each of the paper's patterns that a head serves and the text has."""
    candidates = pattern_candidates(book)
    is_served = iter(served(book, torch.tensor([rule for rules in candidates.values() for rule in rules])).tolist())
    kept = {name: [rule for rule in rules if next(is_served)] for name, rules in candidates.items()}
    return {name: [rule for rule in rules if text_has(book, *rule)] for name, rules in kept.items()}


def pattern_candidates(book: Book) -> dict[str, list[tuple[int, int, int]]]:
    """For each pattern, rules of that form: of the strong sources for copying, of all split words for the others."""
    tokenizer, relatives = book.corpus.tokenizer, spelling_relatives(book.corpus.tokenizer, book.frequent)
    strong = sorted({(r.source, d) for r in book.telling for d in r.destinations})
    split = split_words(tokenizer, book.frequent).tolist()
    return {
        "[b] … [a] → [b]": [(b, a, b) for b, a in strong],
        "[b] … [a] → [b′]": [(b, a, c) for b, a in strong for c in relatives.get(b, ())],
        "[ab] … [a] → [b]": [(ab, a, b) for ab, a, b in split],
        "[ab] … [a] → [b′]": [(ab, a, c) for ab, a, b in split for c in relatives.get(b, ())],
    }


def spelling_relatives(tokenizer: Tokenizer, among: Int[Tensor, " token"]) -> dict[int, list[int]]:
    """For each token, the others that differ from it in case, a leading space or underscore, or a final s only."""
    families: dict[str, list[int]] = {}
    for token in among.tolist():
        stem = tokenizer.decode([token]).strip(" _").lower().removesuffix("s")
        if len(stem) >= 2 and stem.isalpha():
            families.setdefault(stem, []).append(token)
    return {token: [other for other in family if other != token] for family in families.values() for token in family}


PAPER_RULES = {  # the rules that the paper prints, by kind: (source, destination, outs)
    "Python": [
        ("\n           ", "\n       ", [" else", " elif", " except"]), (" open", ",", [" rb", " wb", " r", " w"]),
        (" def", "(", ["self"]), (" super", "self", [")."]),
        ("upper", ".", ["upper", "lower", "capitalize", "isdigit"]),
        (" tf", ".", ["dtype", "shape", "initializer"]), (" datetime", ".", ["date", "time", "strftime", "isoformat"]),
        ("QtWidgets", ".", ["QtCore", "setGeometry", "QtGui"]), ("pygame", ".", ["display", "rect", "tick"]),
        (" for", " in", [" range", " enumerate", " sorted", " zip", " tqdm"]),
    ],
    "HTML and LaTeX": [
        ("nbsp", "&", ["nbsp", "gt"]), ("tbody", "<", ["td"]), ("lambda", " $\\", ["lambda", "operator"]),
        ("left", " \\", ["right"]),
    ],
    "English": [
        (" perfect", " are", [" perfect"]), (" perfect", " looks", [" super"]), (" large", " using", [" large"]),
        (" large", " contains", [" small"]), (" two", " One", [" two"]), (" two", " has", [" three"]),
        ("Great", " the", [" great"]), (" keep", " in", [" mind"]), (" keep", " at", [" bay"]),
        (" keep", " under", [" wraps"]), (" difficult", " not", [" impossible"]), (" back", " and", [" forth"]),
        (" day", " and", [" night"]), (" forward", " and", [" backward"]), (" past", " and", [" present"]),
    ],
    "web addresses": [
        ("twitter", "/", ["status"]), ("github", "/", ["issues", "blob", "pull", "master"]), ("gmail", ".", ["com"]),
        ("http", "://", ["www", "google", "localhost"]), ("http", ":", ["8080", "8000"]),
        ("www", ".", ["org", "com", "net"]),
    ],
    "names": [
        (" Ralph", "R", ["alph"]), (" Pike", "P", ["ike"]), (" Lloyd", "L", ["loyd"]), (" Pixmap", "P", ["ixmap"]),
        (" Israel", " K", ["nes"]), ("Anne", " by", [" Anne"]), ("Canada", " from", [" Canada"]),
    ],
}


def paper_rules(
    tokenizer: Tokenizer,
) -> dict[str, list[tuple[tuple[str, str, str], tuple[int, int, int] | None]]]:
    """The paper's rules by kind: each as three texts, and as three tokens, or None where one is no token here."""
    return {kind: [(rule, _as_tokens(tokenizer, rule)) for source, destination, outs in families
                   for rule in itertools.product([source], [destination], outs)]
            for kind, families in PAPER_RULES.items()}


def _as_tokens(tokenizer: Tokenizer, texts: tuple[str, str, str]) -> tuple[int, int, int] | None:
    encoded = [tokenizer.encode(text) for text in texts]
    return tuple(ids[0] for ids in encoded) if all(len(ids) == 1 for ids in encoded) else None


@claim("list-other", section=SKIP, chapter="03", paper="a long list",
       value="share of those that can be asked here and that the text has, that a head serves",
       bar=at_least(0.5, weaker=0.25))
def _the_papers_rules(book: Book) -> float:
    """Of the skip-trigrams that the paper prints, heads hold most of those that can be asked here: eight of Python, one
    of LaTeX, one of a web address.

    Asked: a rule of three single tokens that the text has 20 times or more, with a lift of 1.5 or more.
    """
    asked = []
    for rules in paper_rules(book.corpus.tokenizer).values():
        for ids in (ids for _, ids in rules if ids):
            count = book.places.count(*ids, book.reach)
            if count.n_out_after_source >= 20 and count.lift >= 1.5:
                asked.append(ids)
    return served(book, torch.tensor(asked)).double().mean().item()


@claim("cl-QK-plausible", section=COPYING, chapter="03", paper="stated",
       value="rank correlation of QK[dest, src] with log P(src | dest), beyond that with another destination's P; mean "
       "of the heads with a copying score above 0.8 (untrained: of all)", bar=at_least(0.2, weaker=0.05),
       why_not="Of 3,600 frequent tokens only some 45 really follow a given one, and the correlation is over all "
       "pairs, nearly all of which never occur. Chapter 03 shows a weak preference for those that do.")
def _sources_would_fit(book: Book) -> float:
    """Copying heads attend to tokens that could plausibly come next."""
    heads = [h for h in range(12) if book.copying[h] > 0.8] or range(12)
    found = [plausibility(book, h) for h in heads]
    return sum(own - other for own, other in found) / len(found)


def plausibility(book: Book, head: int) -> tuple[float, float]:
    """Mean rank correlation, over every twentieth frequent destination, of a head's QK row with log P(source | that
    destination), and with log P(source | the next destination of the list).
    """
    among = book.frequent
    wanted = standard_ranks(qk_circuit(book.one_layer, (0, head)).rows(among[::20])[:, among])
    fits = book.next_token_ranks
    return (wanted * fits).sum(1).mean().item(), (wanted * fits.roll(1, 0)).sum(1).mean().item()


def follower_preference(book: Book, head: int) -> tuple[float, float]:
    """How far a head's QK rows prefer sources that follow the destination in text: for every twentieth destination,
    and for the next destination of the list in its place (``preference``).
    """
    among = book.frequent
    wanted = qk_circuit(book.one_layer, (0, head)).rows(among[::20])[:, among]
    follows = torch.stack([followers(book, destination) for destination in among[::20].tolist()])
    return preference(wanted, follows), preference(wanted, follows.roll(1, 0))


def followers(book: Book, destination: int) -> Bool[Tensor, " token"]:
    """Which frequent tokens follow a token ten times or more in the training text, and twice as often as anyway."""
    times, by_chance = book.counts.row(destination)[book.frequent], book.often[book.frequent]
    return (times >= 10) & (times >= 2 * by_chance * book.counts.row(destination).sum())


@claim("cl-by-from", section=COPYING, chapter="03", paper="names have top query “ by”, places “ from”",
       value="largest share, in any cluster of ten or more sources with the same top destination, that follow it in "
       "the text twice as often as they do anyway", bar=at_least(0.8, weaker=0.5))
def _clusters_of_sources(book: Book) -> float:
    """In some head ten sources or more share the destination that wants them most, and most of them follow it."""
    return max((share for *_, share in clusters(book)), default=0.0)


def clusters(book: Book, least: int = 10) -> list[tuple[int, int, Int[Tensor, " source"], float]]:
    """Sources that share their top destination in a head: (head, destination, sources, share that follow it)."""
    among, found = book.frequent, []
    for head in range(book.one_layer.config.n_heads):
        qk = qk_circuit(book.one_layer, (0, head)).centred()
        wishes = qk.left[among].T
        top = among[torch.cat([(qk.right.T[part] @ wishes).argmax(1) for part in among.split(512)])]
        for destination, size in zip(*top.unique(return_counts=True), strict=True):
            if size >= least:
                share = followers(book, int(destination))[top == destination].double().mean().item()
                found.append((head, int(destination), among[top == destination], share))
    return found


@claim("cl-positional", section=SKIP, chapter="03", paper="a small number of heads",
       value="largest share of a head's attention on the present and the previous token", bar=at_least(0.6, weaker=0.4))
def _a_positional_head(book: Book) -> float:
    """Some head is mainly local: on text, most of its attention goes to the present and the previous token."""
    chunks = book.text.split(2)  # of equal size, and no patterns are kept
    near = [attention_by_offset(all_patterns(book.one_layer, chunk)[0], max_offset=1).sum(1) for chunk in chunks]
    return torch.stack(near).mean(0).max().item()


@claim("cl-tokenisation", section=COPYING, chapter="03", paper="stated",
       value="share of the rules found in text that lie within a word", bar=at_least(0.1, weaker=0.03))
def _tokens_are_cut_arbitrarily(book: Book) -> float | None:
    """Skip-trigrams depend on how the tokenizer cuts: many are rules about the pieces of a word."""
    if len(book.real_rules) < 3:
        return None
    return sum(within_word(book.corpus.tokenizer, d, out) for _, d, out, _ in book.real_rules) / len(book.real_rules)


def within_word(tokenizer: Tokenizer, destination: int, out: int) -> bool:
    """Whether two tokens in a row are pieces of one word: a letter on each side of the seam."""
    return tokenizer.decode([destination])[-1:].isalpha() and tokenizer.decode([out])[:1].isalpha()


@claim("cl-Knesset", section=SKIP, chapter="03", paper="Israel… K → nes", digits=0,
       value="rules found in text where one word finishes another", bar=at_least(3, weaker=1),
       why_not="Our sources are the eight strongest of each head, and few of them are whole words.")
def _another_word_is_finished(book: Book) -> float:
    """A head can finish a word that is cut in two by the mention of a related, but different word."""
    rules = {(reading.source, destination, out) for reading, destination, out, _ in book.real_rules}
    return sum(finishes_another_word(book, *rule) for rule in rules)


def finishes_another_word(book: Book, source: int, destination: int, out: int) -> bool:
    """Whether destination and out are pieces of one word, and the source is another whole word, not its beginning.

    Whole: it opens with a space. Another: neither contains the other or shares its first three letters, and the
    source does not mostly stand right before the destination.
    """
    tokenizer = book.corpus.tokenizer
    other, word = (tokenizer.decode(ids) for ids in ([source], [destination, out]))
    whole = other[:1] == " " and len(other) > 3 and other[1:].isalpha()
    other, word = (text.strip(" _").lower() for text in (other, word))
    alike = other in word or word in other or other[:3] == word[:3]
    right_before, anywhere = (book.places.outs(source, destination, gap)[out] for gap in (1, book.reach))
    return within_word(tokenizer, destination, out) and whole and not alike and 2 * right_before < anywhere


@claim("tab-bugs", section=BUGS, chapter="03", paper="“we frequently observe these”",
       value="share of the strongest sources (12 heads, 2 each) with a bug of one nat or more",
       bar=at_least(0.5, weaker=0.2))
def _bugs_are_frequent(book: Book) -> float:
    """Heads often support two pairs of tokens that the text has after a source, and with them a crossed pair that it
    does not have.
    """
    return sum(any(bug.effect >= 1 for bug in bugs) for bugs in book.bugs) / len(book.bugs)


@claim("cl-bugs", section=BUGS, chapter="03", paper="stated",
       value="share of these bugs where the source makes the wrong token likelier in the whole model, in a text of "
       "three tokens",
       bar=at_least(0.5, weaker=0.2))
def _bugs_show(book: Book) -> float | None:
    """A head's product form f₁(source, destination) f₂(source, out) forces the crossed rules on the model."""
    bugs = [bug for found in book.bugs for bug in found if bug.effect >= 1]
    if not bugs:
        return None
    return sum(crossed_effect(book, bug) > 0 for bug in bugs) / len(bugs)


def crossed_effect(book: Book, bug: SkipTrigramBug) -> float:
    """How far the source moves the log-probability of the crossed token after three tokens of text, in nats, compared
    with the mean of sixteen other sources.
    """
    destination, out = bug.first[0], bug.second[1]
    sources = [bug.source, *book.frequent[:: len(book.frequent) // 16][:16].tolist()]
    texts = torch.tensor([[START, source, destination] for source in sources])
    log_p = book.one_layer(texts)[:, -1].log_softmax(-1)[:, out]
    return (log_p[0] - log_p[1:].mean()).item()
