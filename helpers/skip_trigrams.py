"""Skip-trigrams, "source … destination → out": read from the weights of a one-layer model, and held against a text.

A model *supports* a rule (source, destination, out) if in some head the destination is among the five per cent of
frequent tokens that attend to the source most, and the out among the five per cent that the source raises most. By
chance one of twelve heads supports a rule in three cases of a hundred. A text *has* a rule that it repeats ten times or
more with a lift of 2 or more (``TokenPositions.rules``).
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.circuits import LowRank, ov_circuit, qk_circuit
from helpers.files import DATA
from helpers.model import AttentionOnlyTransformer, Head
from helpers.text import LEAST_LIFT, LEAST_RULE, Text, TokenPositions
from helpers.tokens import Tokenizer, contexts_at

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


def read_strongest_sources(
    model: AttentionOnlyTransformer, head: Head, among: Int[Tensor, " token"], n: int = 8
) -> list[HeadReading]:
    """The paper's recipe for its tables, for the ``n`` sources with a head's strongest skip-trigrams, strongest first.

    Fix a source, take the largest QK and the largest OV entries, both among the tokens of ``among``: the embeddings of
    rare tokens are left-over noise. The strength of a source is its largest QK entry times its largest OV entry.
    """
    qk, ov = _centred_circuits(model, head)
    asks, raises = qk.left[among], ov.right[:, among]
    largest_qk = torch.cat([(qk.right.T[chunk] @ asks.T).amax(1) for chunk in among.split(512)])
    largest_ov = torch.cat([(ov.left[chunk] @ raises).amax(1) for chunk in among.split(512)])
    sources = among[(largest_qk * largest_ov).topk(n).indices].tolist()
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


def supported(
    model: AttentionOnlyTransformer, rules: Int[Tensor, "rule 3"], among: Int[Tensor, " token"]
) -> Bool[Tensor, " rule"]:
    """Whether some head of layer 0 supports each rule (source, destination, out)."""
    sources, destinations, outs = rules.T
    by_some_head = torch.zeros(len(rules), dtype=torch.bool)
    for head in model.layer_heads(0):
        qk, ov = _centred_circuits(model, head)
        by_some_head |= _at_top(qk.T, sources, destinations, among) & _at_top(ov, sources, outs, among)
    return by_some_head


def _at_top(
    table: LowRank, rows: Int[Tensor, " entry"], columns: Int[Tensor, " entry"], among: Int[Tensor, " token"]
) -> Bool[Tensor, " entry"]:
    """Whether each entry is larger than all but five per cent of those that its row has in the columns ``among``."""
    different, place = rows.unique(return_inverse=True)
    least_of_top, found = -1 - int(TOP * len(among)), torch.zeros(len(rows), dtype=torch.bool)
    for start in range(0, len(different), 256):
        entries = table.rows(different[start : start + 256])
        least = torch.from_numpy(np.partition(entries[:, among].numpy(), least_of_top)[:, least_of_top])
        here = (start <= place) & (place < start + 256)
        found[here] = entries[place[here] - start, columns[here]] >= least[place[here] - start]
    return found


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
    among, found, follows = text.frequent, [], cache(lambda destination: followers(text, destination).double())
    for head in model.layer_heads(0):
        qk = qk_circuit(model, head).centred()
        asks = qk.left[among].T
        top = among[torch.cat([(qk.right.T[part] @ asks).argmax(1) for part in among.split(512)])]
        for destination in top.unique().tolist():
            sources = among[here := top == destination]
            if len(sources) >= 10:
                found.append((head, destination, sources, follows(destination)[here].mean().item()))
    return found


# ---- bugs ("Skip-Trigram Bugs") ---------------------------------------------------------------------------------

HELD = 0.01  # of the frequent tokens: how far from the top of a head's entries a rule counts as held


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

    @property
    def crossed(self) -> tuple[int, int]:
        return self.first[0], self.second[1]


def skip_trigram_bugs(reading: HeadReading, text: Text, max_gap: int) -> list[SkipTrigramBug]:
    """The bugs of a head for one source token, strongest first: of all rules of the text among those of ``reading``.

    Two rules with the same source, other destinations and other outs; the crossed pair is at most a hundredth as
    frequent as either.
    """
    times = np.stack([text.positions.outs(reading.source, d, max_gap) for d in reading.destinations])
    shown = times[:, reading.outs]
    row, column = _rules_shown(reading, text, times)
    n, crossed = shown[row, column], shown[row[:, None], column]
    apart = (row[:, None] != row) & (column[:, None] != column)
    found = np.argwhere(apart & (crossed <= 0.01 * np.minimum(n[:, None], n)))
    pairs = [(reading.destinations[i], reading.outs[j]) for i, j in zip(row, column, strict=True)]
    bugs = [
        SkipTrigramBug(
            source=reading.source,
            first=pairs[one],
            second=pairs[other],
            n_first=int(n[one]),
            n_second=int(n[other]),
            n_crossed=int(crossed[one, other]),
            effect=min(reading.qk[row[one]], reading.ov[column[other]]),
        )
        for one, other in found
    ]
    return sorted(bugs, key=lambda bug: bug.effect, reverse=True)


def _rules_shown(reading: HeadReading, text: Text, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of a reading's destinations and outs are rules of the text, given how often what follows the former."""
    shares = times[:, reading.outs] / np.maximum(1, times.sum(1, keepdims=True))
    anyway = np.stack([text.positions.following(d) for d in reading.destinations])
    usual = anyway[:, reading.outs] / np.maximum(1, anyway.sum(1, keepdims=True))
    return np.nonzero((times[:, reading.outs] >= LEAST_RULE) & (shares >= LEAST_LIFT * usual))


def bugs_of_heads(
    model: AttentionOnlyTransformer,
    readings: Sequence[HeadReading],
    text: Text,
    read_as: Mapping[int, int] | None = None,
) -> list[list[SkipTrigramBug]]:
    """``skip_trigram_bugs`` of all that the heads hold for the sources of ``readings``: a list for each of these.

    A head holds the skip-trigrams among the one per cent of frequent tokens that attend to the source most and the one
    per cent that it raises most. ``read_as`` has them read for another token in place of each source: a control, which
    keeps the size of all entries and not what they have to do with the text.
    """
    n, found = max(1, round(HELD * len(text.frequent))), []
    for head, of_head in itertools.groupby(readings, key=lambda reading: reading.head):
        qk, ov = _centred_circuits(model, head)
        for source in (reading.source for reading in of_head):
            held = _reading(head, qk, ov, read_as[source] if read_as else source, text.frequent, n)
            found.append(skip_trigram_bugs(replace(held, source=source), text, model.config.n_ctx - 1))
    return found


@torch.no_grad()
def source_effects(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"], source: int
) -> Float[Tensor, "context d_vocab"]:
    """How a source token moves what a one-layer model predicts after each context, by all heads together.

    The log-probabilities after the last token, in nats, less those of a model whose heads cannot see ``source`` at
    earlier places. The rest of the attention is as large as a softmax without these places makes it.
    """
    stream, n = model.W_E[tokens], tokens.shape[1]
    read = stream + model.W_pos[:n]
    queries = torch.einsum("cd,hde,hfe->chf", read[:, -1], model.W_Q[0] / model.config.d_head**0.5, model.W_K[0])
    scores = torch.einsum("chf,cpf->chp", queries, read)
    there = (tokens == source) & (torch.arange(n) < n - 1)
    log_probs = []
    for seen in (scores, scores.masked_fill(there[:, None], -torch.inf)):
        mixed = torch.einsum("chp,cpd->chd", seen.softmax(-1), stream)
        moved = torch.einsum("chd,hde,hef->cf", mixed, model.W_V[0], model.W_O[0])
        log_probs.append(((stream[:, -1] + moved) @ model.W_U).log_softmax(-1))
    return log_probs[0] - log_probs[1]


def contexts_after(
    tokens: TokenPositions, source: int, destination: int, n_ctx: int, n: int
) -> Int[Tensor, "context {n_ctx}"]:
    """Up to ``n`` contexts that end with ``destination`` and have ``source`` before it, evenly from all of a text."""
    width = n_ctx - 1  # <START> comes first
    ends = tokens.after(source, destination, width - 1)
    ends = ends[ends >= width - 1]
    chosen = ends[np.linspace(0, len(ends) - 1, min(n, len(ends))).astype(int)]
    return contexts_at(tokens.tokens, chosen - (width - 1), n_ctx) if len(chosen) else torch.empty(0, n_ctx).long()
