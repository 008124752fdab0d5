"""What needs a forward pass: what heads attend to, what their attention is worth, and how losses fall.

Losses are in nats per token. Positions count from 0, ``<START>``; the loss "at position t" is that of predicting
the token at t from those before it.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.circuits import HeadReading, ov_circuit, qk_circuit
from helpers.model import AttentionOnlyTransformer, Cache, Head
from helpers.tokens import START, Bigrams, Tokenizer, contexts_at


def loss_per_token(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], **interventions
) -> Float[Tensor, "batch pos-1"]:
    """Cross-entropy of every token but the first, in nats; batches of 2 keep memory small.

    Takes the interventions of a forward pass; given ``patterns``, it makes one batch of all texts.
    """
    losses = []
    with torch.no_grad():
        for chunk in tokens.split(len(tokens) if "patterns" in interventions else 2):
            losses.append(_next_token_losses(model(chunk, **interventions)[:, :-1], chunk))
    return torch.cat(losses)


def _next_token_losses(
    logits: Float[Tensor, "batch pos-1 d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    return -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def random_repeats(
    d_vocab: int, length: int, n_copies: int = 2, n_samples: int = 16, seed: int = 0
) -> Int[Tensor, "sample 1+n_copies*length"]:
    """``<START>`` and then the same ``length`` different random tokens, ``n_copies`` times over."""
    generator = torch.Generator().manual_seed(seed)
    rows = [1 + torch.randperm(d_vocab - 1, generator=generator)[:length].repeat(n_copies) for _ in range(n_samples)]
    return torch.cat([torch.full((n_samples, 1), START), torch.stack(rows)], dim=1)


def induction_targets(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch dest src"]:
    """True where an induction head should look: at sources that stand right after an earlier copy of the destination.

    Source j is a target of destination t when ``tokens[j - 1] == tokens[t]`` and j ≤ t; with a repeat of N tokens
    that is t - (N - 1), not t - N.
    """
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], dim=1)
    return (before[:, None, :] == tokens[:, :, None]).tril()


def prefix_matching_score(
    pattern: Float[Tensor, "batch head dest src"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, " head"]:
    """Share of a head's attention that falls on induction targets, averaged over destinations that have one."""
    targets = induction_targets(tokens)
    on_target = (pattern * targets[:, None]).sum(-1)
    has_target = targets.any(-1)[:, None].expand_as(on_target)
    return torch.stack([on_target[:, h][has_target[:, h]].mean() for h in range(pattern.shape[1])])


def previous_token_score(pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, " head"]:
    """Average attention that a head pays to the token right before, over every destination but the first."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2))


def all_patterns(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> list[Float[Tensor, "batch head dest src"]]:
    """Every layer's attention pattern on ``tokens``; batches of 4 keep memory small."""
    chunks = []
    for chunk in tokens.split(4):
        cache = Cache()
        with torch.no_grad():
            model.residual_stream(chunk, cache=cache)
        chunks.append(cache.patterns)
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def prefix_matching_scores(
    model: AttentionOnlyTransformer, length: int, n_samples: int = 16, seed: int = 0
) -> Float[Tensor, "layer head"]:
    """Prefix-matching score of every head on random tokens repeated once at distance ``length``."""
    tokens = random_repeats(model.config.d_vocab, length, n_samples=n_samples, seed=seed)
    scores = [prefix_matching_score(pattern, tokens) for pattern in all_patterns(model, tokens)]
    return torch.stack(scores) if scores else torch.empty(0, model.config.n_heads)


def previous_token_scores(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer head"]:
    """Previous-token score of every head on the given text."""
    scores = [previous_token_score(pattern) for pattern in all_patterns(model, tokens)]
    return torch.stack(scores) if scores else torch.empty(0, model.config.n_heads)


def repeated_random_loss(
    model: AttentionOnlyTransformer, length: int = 20, n_samples: int = 16, seed: int = 0, **interventions
) -> tuple[float, float]:
    """Mean loss on the first and on the second copy of random tokens.

    The first token of the second copy is left out: nothing says that the sequence starts again there.
    """
    tokens = random_repeats(model.config.d_vocab, length, n_samples=n_samples, seed=seed)
    losses = loss_per_token(model, tokens, **interventions)
    return losses[:, :length].mean().item(), losses[:, length + 1 :].mean().item()


def in_context_learning_score(losses: Float[Tensor, "batch pos-1"], early: int = 50, width: int = 16) -> float:
    """Loss late in the context minus loss around position ``early``, in nats; negative when context helps.

    The follow-up paper (Olsson et al., 2022) takes tokens 500 and 50; here the last ``width`` positions and the
    ``width`` positions around ``early``, each averaged, since the book's contexts are shorter.
    """
    near = losses[:, early - width // 2 - 1 : early + width // 2 - 1]
    return (losses[:, -width:].mean() - near.mean()).item()


def attention_by_offset(
    pattern: Float[Tensor, "batch head dest src"], max_offset: int
) -> Float[Tensor, "head max_offset+1"]:
    """Average attention to the token 0, 1, … ``max_offset`` places back, over destinations that have such a token."""
    return torch.stack(
        [pattern.diagonal(offset=-offset, dim1=-2, dim2=-1).mean(dim=(0, 2)) for offset in range(max_offset + 1)], dim=1
    )


def losses_without(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], groups: Iterable[Sequence[int]]
) -> Float[Tensor, " group"]:
    """Mean loss, in nats, without each group of heads of the last layer.

    Nothing reads what these heads write but the unembedding, so one forward pass serves for all groups.
    """
    cache, losses = Cache(), []
    model.residual_stream(tokens, cache=cache)
    for group in groups:
        stream = cache.residual[-1] - cache.head_outputs[-1][:, list(group)].sum(1)
        losses.append(F.cross_entropy((stream[:, :-1] @ model.W_U).flatten(0, 1), tokens[:, 1:].flatten()))
    return torch.stack(losses)


def value_weighted(
    pattern: Float[Tensor, "batch head dest src"], values: Float[Tensor, "batch head src d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "batch head dest src"]:
    """Attention times the length of what it moves, ``A_ij ‖v_j W_O‖``: how much of each source arrives at all.

    The paper weights by ``‖v_j‖``. The length after W_O does not depend on the basis in which values are written.
    """
    return pattern * torch.einsum("bhke,hed->bhkd", values, W_O).norm(dim=-1)[:, :, None, :]


def logit_effect(
    model: AttentionOnlyTransformer, head_output: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """How much a head raises the logit of the token that really comes next, above its average over the vocabulary."""
    centred = model.W_U - model.W_U.mean(1, keepdim=True)
    return (head_output[:, :-1] * centred.T[tokens[:, 1:]]).sum(-1)


def mean_outputs(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> dict[Head, Float[Tensor, " d_model"]]:
    """Each head's average output over ``tokens``: what to put in its place for a mean ablation."""
    cache = Cache()
    with torch.no_grad():
        model.residual_stream(tokens, cache=cache)
    return {(layer, head): cache.head_outputs[layer][:, head].mean(dim=(0, 1)) for layer, head in model.heads}


# ---- what each order of terms is worth ("Term Importance Analysis") --------------------------------------------


def term_importance(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> list[float]:
    """Mean loss, in nats, with all terms up to each order: the direct path alone, plus heads, plus pairs of heads, …

    The paper's algorithm. All runs use the attention of the intact model. Each run saves what the heads would write
    and puts what was saved in the run before into the residual stream; so in run n the stream holds exactly the
    terms of order n or less. With as many orders as layers nothing is left out.
    """
    losses = []
    for chunk in tokens.split(2):
        _, cache = model.run_with_cache(chunk)
        saved = [torch.zeros_like(cache.residual[0])] * model.config.n_layers
        of_chunk = []
        for _ in range(model.config.n_layers + 1):
            stream, fresh = cache.residual[0], []
            for layer, pattern in enumerate(cache.patterns):
                fresh.append(_written(model, layer, pattern, stream))
                stream = stream + saved[layer]
            saved = fresh
            of_chunk.append(_loss_of_stream(model, stream, chunk))
        losses.append(torch.stack(of_chunk) * len(chunk) / len(tokens))
    return torch.stack(losses).sum(0).tolist()


def layer_importance(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> dict[tuple[int, ...], float]:
    """Mean loss, in nats, of the direct path and the single heads of some layers, for every choice of layers.

    Each head reads the embeddings alone, under the attention of the intact model.
    """
    layers = range(model.config.n_layers)
    choices = [choice for n in range(len(layers) + 1) for choice in itertools.combinations(layers, n)]
    losses = dict.fromkeys(choices, 0.0)
    for chunk in tokens.split(2):
        _, cache = model.run_with_cache(chunk)
        embedded = cache.residual[0]
        written = [_written(model, layer, pattern, embedded) for layer, pattern in enumerate(cache.patterns)]
        for choice in choices:
            stream = embedded + sum(written[layer] for layer in choice)
            losses[choice] += _loss_of_stream(model, stream, chunk).item() * len(chunk) / len(tokens)
    return losses


def _written(
    model: AttentionOnlyTransformer, layer: int, pattern: Float[Tensor, "batch head dest src"],
    stream: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """What a layer's heads write together, if they read ``stream`` with the given attention."""
    values = torch.einsum("bpd,hde->bhpe", stream, model.W_V[layer])
    return torch.einsum("bhqk,bhke,hed->bqd", pattern, values, model.W_O[layer])


def _loss_of_stream(
    model: AttentionOnlyTransformer, stream: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    return _next_token_losses(stream[:, :-1] @ model.W_U, tokens).mean()


def losses_without_composition(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], sides: str
) -> Float[Tensor, "batch pos-1"]:
    """Loss of every token but the first when some sides of every head ("Q", "K", "V" or several) read embeddings only.

    Attention is computed anew. So ``"K"`` is a model without K-composition, and ``"QKV"`` one whose heads all read
    what the first layer reads.
    """
    losses = []
    for chunk in tokens.split(2):
        embedded = stream = model.W_E[chunk]
        for layer in range(model.config.n_layers):
            queries, keys, values = (embedded if side in sides else stream for side in "QKV")
            _, pattern = model.attention(queries, layer, keys_read=keys)
            stream = stream + _written(model, layer, pattern, values)
        losses.append(_next_token_losses(stream[:, :-1] @ model.W_U, chunk))
    return torch.cat(losses)


def path_effects(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> dict[tuple[Head, ...], float]:
    """How far each path raises the logit of the next token above the vocabulary's mean, in nats, on average."""
    _, cache = model.run_with_cache(tokens)
    wanted = (model.W_U - model.W_U.mean(1, keepdim=True)).T[tokens[:, 1:]]

    def effect(moved: Float[Tensor, "batch pos d_model"]) -> float:
        return (moved[:, :-1] * wanted).sum(-1).mean().item()

    moved = {(): cache.residual[0]}
    for layer, pattern in enumerate(cache.patterns):
        for path, stream in list(moved.items()):
            for head in range(model.config.n_heads):
                values = stream @ model.W_V[layer, head]
                moved[path + ((layer, head),)] = pattern[:, head] @ values @ model.W_O[layer, head]
    return {path: effect(stream) for path, stream in sorted(moved.items(), key=lambda item: len(item[0]))}


def virtual_pattern(
    cache: Cache, path: tuple[Head, Head], batch: int | slice = slice(None)
) -> Float[Tensor, "... dest src"]:
    """The attention of a virtual head, ``A^late A^early``: from where information comes that two heads move on."""
    (early_layer, early), (late_layer, late) = path
    return cache.patterns[late_layer][batch, late] @ cache.patterns[early_layer][batch, early]


# ---- in-context learning, in pairs ----------------------------------------------------------------------------

Pairs = tuple[Int[Tensor, "pair n_ctx"], Int[Tensor, "pair short"]]


def pairs_of_contexts(stream: np.ndarray, n: int, n_ctx: int, early: int = 50, width: int = 16, seed: int = 0) -> Pairs:
    """``n`` contexts, and as many short ones that end in the same ``width`` tokens, there around position ``early``."""
    short = early + width // 2
    ends = np.random.default_rng(seed).integers(n_ctx, len(stream), n)
    return contexts_at(stream, ends - n_ctx + 1, n_ctx), contexts_at(stream, ends - short + 1, short)


def paired_icl_scores(
    model: AttentionOnlyTransformer, pairs: Pairs, removed: Mapping[Hashable, Sequence[Head]] | None = None,
    width: int = 16,
) -> dict[Hashable, float]:
    """In-context-learning score, nats, on the same tokens late in a context and early in a shorter one.

    ``in_context_learning_score`` compares the losses of different tokens, and some tokens are harder than others.
    In pairs that cancels, so that far fewer texts give the same certainty; the expected value is the same.

    Without each of several groups of heads, if ``removed`` names some: what they write is taken away, but where all
    others look stays (the "pattern-preserving ablation" of Olsson et al., 2022). Else the one entry is "none".
    """
    removed = removed or {"none": ()}
    late, early = (_losses_at_the_end(model, tokens, removed, width) for tokens in pairs)
    return {name: late[name] - early[name] for name in removed}


def _losses_at_the_end(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], removed: Mapping[Hashable, Sequence[Head]],
    width: int,
) -> dict[Hashable, float]:
    """Mean loss of the last ``width`` tokens without each group of heads; 2 texts at a time keep memory small."""
    total = dict.fromkeys(removed, 0.0)
    places = slice(-1 - width, -1)
    for chunk in tokens.split(2):
        cache = Cache()
        with torch.no_grad():
            residual = model.residual_stream(chunk, cache=cache)[:, places]
            for name, heads in removed.items():
                logits = (residual - frozen_contribution(model, cache, heads, places)) @ model.W_U
                losses = -logits.log_softmax(-1).gather(-1, chunk[:, -width:, None])
                total[name] += losses.sum().item() / (len(tokens) * width)
    return total


def frozen_contribution(
    model: AttentionOnlyTransformer, cache: Cache, heads: Sequence[Head], places: slice = slice(None)
) -> Float[Tensor, "batch place d_model"]:
    """What the last residual stream would lose without ``heads`` if every attention pattern stayed as it is.

    That is what they write, and what later heads, other than ``heads``, move of it: V-composition, but not Q or K.
    """
    lost = torch.zeros_like(cache.residual[0])
    for layer in range(model.config.n_layers):
        at = places if layer == model.config.n_layers - 1 else slice(None)
        gone = [head for at_layer, head in heads if at_layer == layer]
        kept = [head for head in range(model.config.n_heads) if head not in gone]
        written = cache.head_outputs[layer][:, gone, at].sum(1)
        if lost.any():
            attention = cache.patterns[layer][:, kept, at]
            moved = (attention.flatten(1, 2) @ lost).unflatten(1, attention.shape[1:3])
            values = torch.einsum("bhqd,hde->bhqe", moved, model.W_V[layer, kept])
            written = written + torch.einsum("bhqe,hed->bqd", values, model.W_O[layer, kept])
        lost = lost[:, at] + written
    return lost if model.config.n_layers else lost[:, places]


# ---- skip-trigrams in text ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SkipTrigramCount:
    """How often a text has ``destination out`` at all, and how often after ``source`` within some tokens."""

    n_destination: int
    n_out: int  # of those, followed by out
    n_destination_after_source: int
    n_out_after_source: int  # of those, followed by out

    @property
    def probability(self) -> float:
        """P(out | destination, source before it)."""
        return self.n_out_after_source / max(1, self.n_destination_after_source)

    @property
    def lift(self) -> float:
        """How many times likelier ``out`` is after ``destination`` when ``source`` came before; 1 means no relation."""
        return self.probability / max(1e-9, self.n_out / max(1, self.n_destination))


def destinations_after(stream: np.ndarray, source: int, destination: int, max_gap: int) -> Int[np.ndarray, " n"]:
    """Where ``destination`` stands (and a token follows) with a ``source`` 1 to ``max_gap`` tokens before it."""
    return _after_one_of(np.flatnonzero(stream == source), np.flatnonzero(stream[:-1] == destination), max_gap)


def _after_one_of(
    sources: Int[np.ndarray, " source"], destinations: Int[np.ndarray, " dest"], max_gap: int
) -> Int[np.ndarray, " n"]:
    """The destinations with a source 1 to ``max_gap`` places before them; both sorted."""
    sources = np.append(-max_gap - 1, sources)  # the first is too far from any destination
    latest = sources[np.searchsorted(sources, destinations) - 1]
    return destinations[destinations - latest <= max_gap]


def frequent_tokens(stream: np.ndarray, d_vocab: int, least: int = 1000) -> Int[Tensor, " token"]:
    """The tokens that occur at least ``least`` times in a row of ids, in order of their id."""
    counts = sum(np.bincount(part, minlength=d_vocab) for part in np.array_split(stream, 1 + len(stream) // 1_000_000))
    return torch.from_numpy(np.flatnonzero(counts >= least))


def token_pairs(
    tokenizer: Tokenizer, among: Int[Tensor, " token"], change: Callable[[str], str]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The tokens of ``among`` whose changed text is another token of ``among``, and those others.

    ``change`` makes " words" of " word", say, or returns its argument for a text that it has nothing to do with.
    """
    ids = {tokenizer.decode([token]): token for token in among.tolist()}
    found = [(token, ids[change(text)]) for text, token in ids.items() if ids.get(change(text), token) != token]
    plain, changed = zip(*found, strict=True) if found else ((), ())
    return torch.tensor(plain, dtype=torch.long), torch.tensor(changed, dtype=torch.long)


@dataclass(frozen=True)
class Places:
    """Where each token stands in a row of ids, sorted once, so that very many skip-trigrams can be counted."""

    stream: np.ndarray
    order: Int[np.ndarray, " place"]  # every place, by its token and then by its position
    first: Int[np.ndarray, " token"]  # where each token's places begin in ``order``; the end comes last

    @classmethod
    def of(cls, stream: np.ndarray, d_vocab: int) -> "Places":
        stream = np.asarray(stream)
        first = np.concatenate([[0], np.bincount(stream, minlength=d_vocab).cumsum()])
        return cls(stream, stream.argsort(kind="stable").astype(np.int32), first)

    def __getitem__(self, token: int) -> Int[np.ndarray, " n"]:
        return self.order[self.first[token] : self.first[token + 1]]

    def _with_next(self, token: int) -> Int[np.ndarray, " n"]:
        """Its places but for the last of all, which no token follows."""
        places = self[token]
        return places[places < len(self.stream) - 1]

    def after(self, source: int, destination: int, max_gap: int) -> Int[np.ndarray, " n"]:
        """As ``destinations_after``, from the sorted places."""
        return _after_one_of(self[source], self._with_next(destination), max_gap)

    def outs(self, source: int, destination: int, max_gap: int) -> Int[np.ndarray, " token"]:
        """How often each token follows ``destination`` with ``source`` 1 to ``max_gap`` tokens before it."""
        return np.bincount(self.stream[self.after(source, destination, max_gap) + 1], minlength=len(self.first) - 1)

    def times(self, ids: Sequence[int]) -> int:
        """How often some tokens stand in a row."""
        places = self[ids[0]]
        places = places[places <= len(self.stream) - len(ids)]
        return int(np.all([self.stream[places + i] == token for i, token in enumerate(ids)], axis=0).sum())

    def count(self, source: int, destination: int, out: int, max_gap: int) -> SkipTrigramCount:
        """Count ``source … destination out``, the source 1 to ``max_gap`` tokens before the destination."""
        follows = self.stream[self._with_next(destination) + 1]
        after = self.stream[self.after(source, destination, max_gap) + 1]
        return SkipTrigramCount(len(follows), int((follows == out).sum()), len(after), int((after == out).sum()))


def most_frequent_rule(places: Places, reading: HeadReading, max_gap: int) -> tuple[int, int, SkipTrigramCount]:
    """Of a reading's destinations and outs, the pair that the text has most often after the source, with its count."""
    times = {d: places.outs(reading.source, d, max_gap) for d in reading.destinations}
    destination, out = max(itertools.product(times, reading.outs), key=lambda pair: times[pair[0]][pair[1]])
    return destination, out, places.count(reading.source, destination, out, max_gap)


def frequent_rules(
    places: Places, reading: HeadReading, max_gap: int, least: int = 10, lift: float = 2
) -> list[tuple[int, int, SkipTrigramCount]]:
    """The rules of a reading that the text has, ``least`` times or more and with ``lift``: (dest, out, count)."""
    rules = []
    for destination in reading.destinations:
        times = places.outs(reading.source, destination, max_gap)
        for out in (out for out in reading.outs if times[out] >= least):
            count = places.count(reading.source, destination, out, max_gap)
            if count.lift >= lift:
                rules.append((destination, out, count))
    return rules


def split_words(tokenizer: Tokenizer, among: Int[Tensor, " token"]) -> Int[Tensor, "word 3"]:
    """The words of ``among`` that are one token with a leading space and two without: (whole, first, rest)."""
    found = []
    for whole in among.tolist():
        word = tokenizer.decode([whole])
        pieces = tokenizer.encode(word[1:]) if word[:1] == " " and word[1:].isalpha() else []
        if len(pieces) == 2:
            found.append((whole, *pieces))
    return torch.tensor(found).reshape(-1, 3)


@dataclass(frozen=True)
class SkipTrigramBug:
    """Two skip-trigrams of the text, ``source … d1 out1`` and ``source … d2 out2``, that one head cannot have
    without ``source … d1 out2``, which the text does not have ("Skip-Trigram Bugs")."""

    source: int
    first: tuple[int, int]  # (d1, out1), with its count
    second: tuple[int, int]
    n_first: int
    n_second: int
    n_crossed: int  # how often the text has out2 after d1
    effect: float  # how far the head moves the crossed pair: the smaller of its QK and OV entries, nats


def bigrams_after(stream: np.ndarray, source: int, max_gap: int) -> dict[tuple[int, int], int]:
    """How often each pair of neighbours stands within ``max_gap`` tokens after ``source``."""
    sources = np.flatnonzero(stream == source)
    edges = np.zeros(len(stream) + max_gap + 1, dtype=np.int32)
    np.add.at(edges, sources + 1, 1)
    np.add.at(edges, sources + 1 + max_gap, -1)
    near = np.flatnonzero(edges.cumsum()[: len(stream) - 1] > 0)
    codes, counts = np.unique(stream[near].astype(np.int64) << 16 | stream[near + 1], return_counts=True)
    return {(int(c >> 16), int(c & 0xFFFF)): int(n) for c, n in zip(codes, counts, strict=True)}


def skip_trigram_bugs(
    model: AttentionOnlyTransformer, head: Head, source: int, stream: np.ndarray, least: int = 20, n: int = 3
) -> list[SkipTrigramBug]:
    """The strongest bugs of a head for one source token, found by search.

    Both skip-trigrams occur at least ``least`` times, the head attends from both destinations to the source more
    than on average (QK > 0) and raises both outs (OV > 0); the crossed pair is at most a hundredth as frequent.
    """
    counts = bigrams_after(stream, source, model.config.n_ctx)
    wanted = qk_circuit(model, head).centred().columns(source)
    raised = ov_circuit(model, head).centred().rows(source)
    strength = {(d, o): min(wanted[d].item(), raised[o].item()) for (d, o), count in counts.items() if count >= least}
    real = sorted((pair for pair, s in strength.items() if s > 0), key=strength.get, reverse=True)[:100]
    found = []
    for first, second in itertools.permutations(real, 2):
        crossed = counts.get((first[0], second[1]), 0)
        if first[0] != second[0] and crossed <= 0.01 * min(counts[first], counts[second]):
            effect = min(wanted[first[0]].item(), raised[second[1]].item())
            found.append(SkipTrigramBug(source, first, second, counts[first], counts[second], crossed, effect))
    return sorted(found, key=lambda bug: bug.effect, reverse=True)[:n]


def losses_with_unseen_boosts(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], seen: Bool[Tensor, "token next"],
    keep: Sequence[float],
) -> Float[Tensor, "keep batch pos-1"]:
    """Loss per token if only a part of some of the heads' boosts is kept: of those that no bigram of a text supports.

    What the heads add to the logits, all together and above its mean over the vocabulary, is scaled by ``keep``
    where it is positive and ``seen[present token, out]`` is false. With 1 the model stays as it is, with 0 a head
    cannot raise what has never followed the present token.
    """
    losses = []
    for chunk in tokens.split(1):
        logits, next_tokens = model(chunk)[:, :-1], chunk[:, 1:, None]
        boost = logits - model.W_E[chunk[:, :-1]] @ model.W_U
        unsupported = (boost - boost.mean(-1, keepdim=True)).clamp(min=0) * ~seen[chunk[:, :-1]]
        scaled = [(logits - (1 - part) * unsupported).log_softmax(-1) for part in keep]
        losses.append(torch.stack([-log_p.gather(-1, next_tokens)[..., 0] for log_p in scaled]))
    return torch.cat(losses, dim=1)


def probability_of_unseen(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], seen: Bool[Tensor, "token next"]
) -> Float[Tensor, "batch pos-1"]:
    """How much probability the model gives to tokens that never follow the present one: where ``seen`` is false."""
    parts = [(model(chunk)[:, :-1].softmax(-1) * ~seen[chunk[:, :-1]]).sum(-1) for chunk in tokens.split(1)]
    return torch.cat(parts)


# ---- bigrams ("Zero-Layer Transformers") -----------------------------------------------------------------------


def direct_path(model: AttentionOnlyTransformer) -> Float[Tensor, "token next"]:
    """The paper's ``W_U W_E`` read as a bigram model: each row of our ``W_E W_U`` through a log-softmax.

    67 MB at 4,096 tokens, made some rows at a time.
    """
    table = model.W_E.new_empty(model.config.d_vocab, model.config.d_vocab)
    with torch.no_grad():
        for rows, embedded in zip(table.split(512), model.W_E.split(512), strict=True):
            torch.log_softmax(embedded @ model.W_U, dim=-1, out=rows)
    return table


def bigram_log_probs(counts: Bigrams, at: Bigrams | None = None, prior: float = 0.0) -> Float[Tensor, " pair"]:
    """What a text's counts say of each pair of ``at``: ``log (count(a b) / count(a))``; by default of its own pairs.

    With a ``prior``, each token is taken to have been there that many times more, followed by whatever is frequent;
    without one, a pair that the text does not have gets minus infinity.
    """
    at = at or counts
    codes, wanted = (b.first * b.d_vocab + b.second for b in (counts, at))
    place = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
    times = torch.where(codes[place] == wanted, counts.times[place], 0)
    expected = prior * (counts.closed.double() / counts.n)[at.second]
    return ((times + expected) / (counts.opened.double()[at.first] + prior)).nan_to_num(0).log()


def bigram_losses(log_probs: Float[Tensor, " pair"], counts: Bigrams) -> Float[Tensor, " token"]:
    """Mean cross-entropy, in nats, of what comes after each token; 0 after a token that nothing follows.

    ``log_probs`` is what a model gives to each pair of ``counts``: ``table[counts.pairs]``. With the text's own
    ``bigram_log_probs(counts)`` it is the least possible, the entropy of what comes next.
    """
    nats = torch.zeros(counts.d_vocab, dtype=torch.double)
    nats.index_add_(0, counts.first, -counts.times * log_probs.double())
    return nats / counts.opened.clamp(min=1)


def bigram_loss(log_probs: Float[Tensor, " pair"], counts: Bigrams) -> float:
    """Mean cross-entropy of a bigram model on all bigrams of a text, nats; ``log_probs`` as for ``bigram_losses``."""
    return -(counts.times * log_probs.double()).sum().item() / counts.n


def bigram_lift(table: Float[Tensor, "token next"], counts: Bigrams) -> Float[Tensor, " pair"]:
    """How far a table of log-probabilities raises each pair's second token above the table's own average of it, nats.

    The average is over the first tokens of the text. For the text's own table this is the pointwise mutual
    information, ``log (p(a b) / p(a) p(b))``: 0 where the first token says nothing about the second.
    """
    weights = (counts.opened / counts.n).to(table.dtype)
    average = sum(w @ rows.exp() for w, rows in zip(weights.split(512), table.split(512), strict=True))
    return table[counts.pairs] - average.log()[counts.second]


def heads_lift(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"],
    pairs: tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]],
) -> Float[Tensor, " pair"]:
    """How far all heads together raise the logit of each pair's second token where its first one stands, nats.

    On average over ``tokens``, and above what they do on average at any place; logits are taken relative to their
    mean over the vocabulary. Not a number where the text does not have the first token.
    """
    written = torch.zeros_like(model.W_E)
    with torch.no_grad():
        for chunk in tokens.split(4):
            by_heads = model.residual_stream(chunk) - model.W_E[chunk]
            written.index_add_(0, chunk.flatten(), by_heads.flatten(0, 1))
    seen = torch.bincount(tokens.flatten(), minlength=model.config.d_vocab)
    above_average = written / seen[:, None] - written.sum(0) / seen.sum()
    centred = model.W_U - model.W_U.mean(1, keepdim=True)
    first, second = pairs
    return (above_average[first] * centred.T[second]).sum(1)


def pearson(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Linear correlation."""
    return torch.corrcoef(torch.stack([x, y]).double())[0, 1].item()


def spearman(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Correlation of ranks: 1 for any increasing relation. Equal values share the mean of their ranks."""
    return pearson(_ranks(x), _ranks(y))


def preference(values: Float[Tensor, "row n"], chosen: Bool[Tensor, "row n"]) -> float:
    """How often a chosen entry is larger than one that is not, of all such pairs within a row; 0.5 is chance.

    The mean over the rows that have entries of both kinds (the area under a ROC curve).
    """
    rows = chosen.any(1) & ~chosen.all(1)
    chosen, ranks = chosen[rows], values[rows].argsort(dim=1, stable=True).argsort(dim=1)
    n = chosen.sum(1).double()
    below = (ranks * chosen).sum(1) - n * (n - 1) / 2
    return (below / (n * (chosen.shape[1] - n))).mean().item()


def standard_ranks(rows: Float[Tensor, "row n"]) -> Float[Tensor, "row n"]:
    """The ranks within each row, centred and of length 1: the dot product of two rows is their rank correlation.

    Equal values are ranked in the order in which they stand, so rows should hardly have any.
    """
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).double()
    return F.normalize(ranks - ranks.mean(1, keepdim=True), dim=1)


def _ranks(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, place, ties = x.unique(return_inverse=True, return_counts=True)
    return (ties.cumsum(0) - (ties - 1) / 2)[place]
