"""Skip-trigrams, "source … destination → out": read from the weights of a one-layer model, and held against a text.

A model *supports* a rule (source, destination, out) if in some head the destination is among the five per cent of
frequent tokens that attend to the source most, and the out among the five per cent that the source raises most. By
chance one of twelve heads supports a rule in three cases of a hundred. A text *has* a rule that it repeats ten times or
more with a lift of 2 or more (``TokenPositions.rules``).
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import START
from helpers.circuits import LowRank, ov_circuit, qk_circuit
from helpers.files import DATA
from helpers.model import AttentionOnlyTransformer, Head
from helpers.text import LEAST_RULE, Text, bigrams_after, split_words
from helpers.tokens import Tokenizer

TOP = 0.05  # of the frequent tokens

Rule = tuple[int, int, int]  # source, destination, out


# ---- reading a head ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadReading:
    """What one head does with one source token: which destinations attend to it most, and what that makes likelier.

    ``qk[i]`` is the centred QK entry of ``destinations[i]`` (nats of attention score), ``ov[i]`` the centred OV entry
    of ``outs[i]`` (nats of logit, at full attention).
    """

    head: Head
    source: int
    destinations: list[int]
    qk: list[float]
    outs: list[int]
    ov: list[float]


def read_head(
    model: AttentionOnlyTransformer, head: Head, source: int, among: Int[Tensor, " token"], n: int = 4
) -> HeadReading:
    """The paper's recipe for its tables: fix a source token, take the largest QK and the largest OV entries.

    Only the tokens of ``among`` are considered: the embeddings of rare tokens are left-over noise.
    """
    return _reading(head, *_centred_circuits(model, head), source, among, n)


def read_strongest_sources(
    model: AttentionOnlyTransformer, head: Head, among: Int[Tensor, " token"]
) -> list[HeadReading]:
    """``read_head`` for the eight sources with the strongest skip-trigrams of a head, strongest first.

    The strength of a source is its largest QK entry times its largest OV entry.
    """
    qk, ov = _centred_circuits(model, head)
    asks, raises = qk.left[among], ov.right[:, among]
    largest_qk = torch.cat([(qk.right.T[chunk] @ asks.T).amax(1) for chunk in among.split(512)])
    largest_ov = torch.cat([(ov.left[chunk] @ raises).amax(1) for chunk in among.split(512)])
    sources = among[(largest_qk * largest_ov).topk(8).indices].tolist()
    return [_reading(head, qk, ov, source, among, 4) for source in sources]


def _centred_circuits(model: AttentionOnlyTransformer, head: Head) -> tuple[LowRank, LowRank]:
    return qk_circuit(model, head).centred(), ov_circuit(model, head).centred()


def _reading(head: Head, qk: LowRank, ov: LowRank, source: int, among: Int[Tensor, " token"], n: int) -> HeadReading:
    asks, raises = qk.columns(source)[among].topk(n), ov.rows(source)[among].topk(n)
    return HeadReading(
        head=tuple(head),
        source=source,
        destinations=among[asks.indices].tolist(),
        qk=asks.values.tolist(),
        outs=among[raises.indices].tolist(),
        ov=raises.values.tolist(),
    )


# ---- does a head support a rule? --------------------------------------------------------------------------------


def entry_quantiles(
    model: AttentionOnlyTransformer, rules: Int[Tensor, "rule 3"], among: Int[Tensor, " token"]
) -> Float[Tensor, "rule head 2"]:
    """How far from the top a rule's two entries stand in every head of layer 0, as shares of the tokens ``among``.

    A rule is (source, destination, out). The first share counts the destinations with a larger entry in the source's
    QK column than the rule's own, the second the outs with a larger entry in its OV row: 0 is the very top.
    """
    sources, destinations, outs = rules.T
    shares = []
    for head in model.layer_heads(0):
        qk, ov = _centred_circuits(model, head)
        larger = [
            (entries[:, among] > entries.gather(1, own[:, None])).double().mean(1)
            for entries, own in ((qk.columns(sources).T, destinations), (ov.rows(sources), outs))
        ]
        shares.append(torch.stack(larger, dim=1))
    return torch.stack(shares, dim=1)


def supported(
    model: AttentionOnlyTransformer, rules: Int[Tensor, "rule 3"], among: Int[Tensor, " token"]
) -> Bool[Tensor, " rule"]:
    """Whether some head of layer 0 supports each rule (source, destination, out)."""
    parts = rules.split(256)  # 30 MB each
    return torch.cat([(entry_quantiles(model, part, among) <= TOP).all(-1).any(-1) for part in parts])


def patterns_found(
    model: AttentionOnlyTransformer, text: Text, readings: Sequence[HeadReading]
) -> dict[str, list[Rule]]:
    """The rules of each of the paper's patterns that the model supports and the text has.

    ``readings`` name the strong sources among which copying is looked for.
    """
    max_gap, found = model.config.n_ctx - 1, {}
    for name, rules in _pattern_candidates(text, readings).items():
        keep = supported(model, torch.tensor(rules), text.frequent).tolist() if rules else []
        found[name] = [
            (source, destination, out)
            for source, destination, out in itertools.compress(rules, keep)
            if text.positions.rules(source, destination, [out], max_gap)
        ]
    return found


def _pattern_candidates(text: Text, readings: Sequence[HeadReading]) -> dict[str, list[Rule]]:
    """For each pattern, rules of that form: of the strong sources for copying, of all split words for the others."""
    relatives = spelling_relatives(text.tokenizer, text.frequent)
    strong = sorted({(reading.source, d) for reading in readings for d in reading.destinations})
    split = split_words(text.tokenizer, text.frequent).tolist()
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


def paper_rules(tokenizer: Tokenizer) -> dict[str, list[tuple[tuple[str, str, str], Rule | None]]]:
    """The skip-trigrams that the paper prints, by kind: each as three texts and as three tokens.

    The tokens are None where one of the texts is not a single token of this vocabulary.
    """
    families = json.loads((DATA / "paper_rules.json").read_text("utf8"))
    return {
        kind: [
            ((source, destination, out), _as_tokens(tokenizer, (source, destination, out)))
            for source, destination, outs in of_kind
            for out in outs
        ]
        for kind, of_kind in families.items()
    }


def _as_tokens(tokenizer: Tokenizer, texts: tuple[str, str, str]) -> Rule | None:
    encoded = [tokenizer.encode(text) for text in texts]
    return tuple(ids[0] for ids in encoded) if all(len(ids) == 1 for ids in encoded) else None


# ---- do heads look for what could come next? --------------------------------------------------------------------


def followers(text: Text, destination: int) -> Bool[Tensor, " token"]:
    """Which frequent tokens follow a token ten times or more in the text, and at twice their base rate."""
    row = text.bigrams.row(destination)
    times = row[text.frequent]
    return (times >= 10) & (times >= 2 * text.unigram_probs[text.frequent] * row.sum())


def clusters(model: AttentionOnlyTransformer, text: Text) -> list[tuple[Head, int, Int[Tensor, " source"], float]]:
    """Where ten sources or more share their top destination: (head, destination, sources, share that follow it)."""
    among, found = text.frequent, []
    for head in model.layer_heads(0):
        qk = qk_circuit(model, head).centred()
        asks = qk.left[among].T
        top = among[torch.cat([(qk.right.T[part] @ asks).argmax(1) for part in among.split(512)])]
        for destination, size in zip(*top.unique(return_counts=True), strict=True):
            if size >= 10:
                share = followers(text, int(destination))[top == destination].double().mean().item()
                found.append((head, int(destination), among[top == destination], share))
    return found


# ---- bugs ("Skip-Trigram Bugs") ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SkipTrigramBug:
    """Two skip-trigrams of the text, ``source … d1 out1`` and ``source … d2 out2``, that one head cannot have
    without ``source … d1 out2``, which the text does not have."""

    source: int
    first: tuple[int, int]  # (d1, out1)
    second: tuple[int, int]
    n_first: int
    n_second: int
    n_crossed: int  # how often the text has out2 after d1
    effect: float  # how far the head moves the crossed pair: the smaller of its QK and OV entries, nats


def skip_trigram_bugs(
    model: AttentionOnlyTransformer, head: Head, source: int, tokens: np.ndarray
) -> list[SkipTrigramBug]:
    """The three strongest bugs of a head for one source token, found by search.

    Both skip-trigrams occur ten times or more, the head attends from both destinations to the source more
    than on average (QK > 0) and raises both outs (OV > 0); the crossed pair is at most a hundredth as frequent.
    """
    counts = bigrams_after(tokens, source, model.config.n_ctx)
    qk, ov = _centred_circuits(model, head)
    asks, raises = qk.columns(source), ov.rows(source)
    often = [pair for pair, count in counts.items() if count >= LEAST_RULE]
    strength = {(d, out): min(asks[d].item(), raises[out].item()) for d, out in often}
    real = sorted((pair for pair, s in strength.items() if s > 0), key=strength.__getitem__, reverse=True)[:100]
    found = []
    for first, second in itertools.permutations(real, 2):
        crossed = counts.get((first[0], second[1]), 0)
        if first[0] != second[0] and crossed <= 0.01 * min(counts[first], counts[second]):
            effect = min(asks[first[0]].item(), raises[second[1]].item())
            found.append(SkipTrigramBug(source, first, second, counts[first], counts[second], crossed, effect))
    return sorted(found, key=lambda bug: bug.effect, reverse=True)[:3]


def crossed_effect(model: AttentionOnlyTransformer, bug: SkipTrigramBug, among: Int[Tensor, " token"]) -> float:
    """How far the source moves the log-probability of the crossed token after a text of three tokens, in nats.

    Compared with the mean of sixteen other sources, taken from ``among``.
    """
    destination, out = bug.first[0], bug.second[1]
    sources = [bug.source, *among[:: len(among) // 16][:16].tolist()]
    texts = torch.tensor([[START, source, destination] for source in sources])
    log_p = model(texts)[:, -1].log_softmax(-1)[:, out]
    return (log_p[0] - log_p[1:].mean()).item()
