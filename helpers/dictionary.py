"""A dictionary of the stream between two layers: a sparse autoencoder, and what each of its features does.

The stream after layer 0 has 384 directions, and more to say than that. A dictionary writes it as a sum of a few of many
features, ``b_dec + Σ value · W_dec[feature]``, of which only the ``k`` largest count at any place (Gao et al., 2024). A
feature that stands for one thing can be named; and because all but attention is linear, what it does is read off the
weights.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.circuits import W_QK, LowRank
from helpers.files import DATA, book_folder, how_to_restore, write_or_explain
from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer, Head
from helpers.tokens import contexts_at, load_encoded
from helpers.weights import from_8_bits, in_8_bits, load_model

AT_ONCE = 8  # contexts
Stream = Float[Tensor, "batch pos d_model"]
Active = tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]  # values of the active features, and which they are


class Dictionary(nn.Module):
    """A top-k autoencoder: ``values, features = encode(x)``, ``decode(values, features) ≈ x``.

    The rows of ``W_dec`` are the features' directions, each of length 1, so values are in units of the stream.

    Raises:
        ReaderError: a size below 1, or more active features than there are.
    """

    def __init__(self, d_model: int, n_features: int, k: int):
        super().__init__()
        if min(d_model, k) < 1 or n_features < k:
            raise ReaderError(
                f"No dictionary has {n_features} features of which {k} are active: choose 1 ≤ k ≤ features."
            )
        self.k = k
        self.W_enc = nn.Parameter(torch.zeros(d_model, n_features))
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(torch.zeros(n_features, d_model))
        self.b_dec = nn.Parameter(torch.zeros(d_model))

    @property
    def n_features(self) -> int:
        return len(self.W_dec)

    def readings(self, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... feature"]:
        """What every feature reads of the stream, before the largest are chosen."""
        return stream @ self.W_enc + self.b_enc

    def encode(self, stream: Float[Tensor, "... d_model"]) -> Active:
        """The values of the ``k`` largest features, the largest first, and which they are. A value of 0 is none."""
        values, features = self.readings(stream).topk(self.k, dim=-1)
        return values.relu(), features

    def decode(self, values: Float[Tensor, "... k"], features: Int[Tensor, "... k"]) -> Float[Tensor, "... d_model"]:
        """The stream that these features make."""
        flat = (t.reshape(-1, t.shape[-1]) for t in (features, values))
        written = _weighted_sums(self.W_dec, *flat)
        return written.view(*values.shape[:-1], -1) + self.b_dec

    def forward(self, stream: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return self.decode(*self.encode(stream))


def _weighted_sums(
    rows: Float[Tensor, "feature d_model"], features: Int[Tensor, "place k"], values: Float[Tensor, "place k"]
) -> Float[Tensor, "place d_model"]:
    return F.embedding_bag(features, rows, per_sample_weights=values, mode="sum")


# ---- the model, cut in two --------------------------------------------------------------------------------------


@torch.no_grad()
def stream_between(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> Stream:
    """The stream after layer 0, as ``model.cache(tokens).residual[1]``, without running the rest."""
    embedded = model.W_E[tokens]
    return _after(model, embedded, 0)


@torch.no_grad()
def losses_from(model: AttentionOnlyTransformer, stream: Stream, tokens: Int[Tensor, "batch pos"]) -> float:
    """Mean loss, in nats a token, if the layers after the first read ``stream``."""
    for layer in range(1, model.config.n_layers):
        stream = _after(model, stream, layer)
    return next_token_losses(model.unembed(stream[:, :-1]), tokens).mean().item()


def _after(model: AttentionOnlyTransformer, stream: Stream, layer: int) -> Stream:
    return stream + model.attn_out(stream, layer, pattern=None, replace=None, cache=None)


def loss_recovered(
    model: AttentionOnlyTransformer, reconstruct: Callable[[Stream], Stream], tokens: Int[Tensor, "batch pos"]
) -> float:
    """How much of what the stream is good for survives ``reconstruct``, such as a dictionary: 1 is all, 0 none.

    The loss is 0 of the way down if each place has the stream's mean over ``tokens``, 1 if it has its own.
    """
    stream = stream_between(model, tokens)
    with torch.no_grad():
        streams = stream.mean((0, 1)).expand_as(stream), reconstruct(stream), stream
    ablated, rebuilt, intact = (
        sum(
            losses_from(model, *part) * len(part[1])
            for part in zip(s.split(AT_ONCE), tokens.split(AT_ONCE), strict=True)
        )
        for s in streams
    )
    return (ablated - rebuilt) / (ablated - intact)


@torch.no_grad()
def active_features(
    model: AttentionOnlyTransformer, dictionary: Dictionary, tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos k"], Int[Tensor, "batch pos k"]]:
    """``encode`` of the stream of ``tokens``, some contexts at a time."""
    parts = [dictionary.encode(stream_between(model, part)) for part in tokens.split(AT_ONCE)]
    values, features = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(features)


def is_live(active: Active, n_features: int) -> Bool[Tensor, " feature"]:
    """Whether each feature is active anywhere."""
    values, features = active
    return torch.bincount(features[values > 0], minlength=n_features) > 0


# ---- training ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DictionaryConfig:
    """How a dictionary is trained; as the book's own by default: a minute or two on two cores."""

    n_features: int = 4096
    k: int = 32
    n_steps: int = 600
    batch_size: int = 8  # contexts a step
    learning_rate: float = 3e-3
    start: Literal["tokens", "random"] = "tokens"
    seed: int = 0


@dataclass
class DictionaryState:
    """Where a training stands."""

    dictionary: Dictionary
    variance: float  # of the stream, summed over its dimensions
    silent_for: Int[Tensor, " feature"]  # steps since each feature was active
    step: int = 0  # steps done
    loss: float = math.nan  # the share of the variance that the last step left unexplained


SILENT = 60  # steps without being active, after which a feature is taught to say what the others leave out
N_TAUGHT, TEACHING = 64, 1 / 32  # silent features that speak at a place, and how much that counts
TAKEN_OFF, TAKEN_OFF_START = 1 / 3, 3.0  # a feature's reading at first, in lengths of its vector: of <START>, so much
# that it is on there alone; or else it would learn of all other places, which are many more


def train_dictionary(
    model: AttentionOnlyTransformer,
    text: np.ndarray,
    config: DictionaryConfig = DictionaryConfig(),  # noqa: B008
    matmul: torch.dtype = torch.float32,
) -> Iterator[DictionaryState]:
    """Train a dictionary of the model's stream after layer 0, yielding the state after each step.

    Args:
        text: token ids, contexts of which are drawn at random.
        matmul: of the largest products; bfloat16 is faster where the processor has it in hardware.

    Raises:
        ReaderError: the model has fewer than two layers, the text is too short, or sizes that no dictionary has.
    """
    state, batches = _first_state(model, text, config)
    dictionary = state.dictionary
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=config.learning_rate, fused=True)
    while state.step < config.n_steps:
        optimizer.param_groups[0]["lr"] = config.learning_rate * _schedule(state.step / config.n_steps, state.step)
        optimizer.zero_grad()
        _loss(state, stream_between(model, next(batches)).flatten(0, 1), matmul).backward()
        optimizer.step()
        dictionary.W_dec.data = F.normalize(dictionary.W_dec.data)
        state.step += 1
        yield state


def _schedule(done: float, step: int) -> float:
    """The learning rate as a share of its largest: up within 20 steps, down in the second half."""
    return min(1.0, (step + 1) / 20) * (1.0 if done < 0.5 else 0.02 + 0.49 * (1 + math.cos(math.pi * (2 * done - 1))))


def _first_state(
    model: AttentionOnlyTransformer, text: np.ndarray, config: DictionaryConfig
) -> tuple[DictionaryState, Iterator[Int[Tensor, "batch pos"]]]:
    if model.config.n_layers < 2:
        raise ReaderError("A dictionary is of the stream between layers: take a model of two layers or more.")
    if len(text) <= model.config.n_ctx:
        raise ReaderError(f"The text has {len(text):,} tokens: give more than the {model.config.n_ctx} of a context.")
    batches = _batches(text, config, model.config.n_ctx)
    tokens = torch.cat([next(batches) for _ in range(4)])
    dictionary = new_dictionary(model, tokens, config)
    variance = stream_between(model, tokens).flatten(0, 1).var(0, correction=0).sum().item()
    return DictionaryState(dictionary, variance, torch.zeros(config.n_features, dtype=torch.long)), batches


def _batches(text: np.ndarray, config: DictionaryConfig, n_ctx: int) -> Iterator[Int[Tensor, "batch pos"]]:
    draw = np.random.default_rng(config.seed)
    while True:
        yield contexts_at(text, draw.integers(0, len(text) - n_ctx, config.batch_size), n_ctx)


def new_dictionary(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], config: DictionaryConfig
) -> Dictionary:
    """A dictionary before its training; ``tokens`` are a sample of the text.

    From the start "tokens", four fifths of the features read and write the vectors of the commonest tokens, one each,
    one the stream at <START>, where heads of layer 1 look when they have nothing to look for, and the others what layer
    0 adds at places drawn at random. The reading of such a vector is its length, and 0 for a quarter of it or less (of
    <START>, three quarters). From "random" all directions are random, and nothing is taken off.
    """
    generator = torch.Generator().manual_seed(config.seed)
    stream, embedded = stream_between(model, tokens).flatten(0, 1), model.W_E[tokens].flatten(0, 1)
    dictionary = Dictionary(model.config.d_model, config.n_features, config.k)
    if config.start == "random":
        # not from torch's generator: with the same seed it drew the model's first weights
        vectors = torch.from_numpy(np.random.default_rng(config.seed).standard_normal(dictionary.W_dec.shape)).float()
        taken_off = torch.zeros(config.n_features)
    else:
        commonest = torch.bincount(tokens.flatten(), minlength=model.config.d_vocab).argsort(descending=True)
        of_tokens = (model.W_E - model.W_E.mean(0))[commonest[: config.n_features * 4 // 5]]
        added = stream - embedded - (stream - embedded).mean(0)
        places = torch.randint(len(added), (config.n_features - len(of_tokens) - 1,), generator=generator)
        vectors = torch.cat([of_tokens, (stream[0] - stream.mean(0))[None], added[places]])
        taken_off = torch.full((config.n_features,), TAKEN_OFF)
        taken_off[len(of_tokens)] = TAKEN_OFF_START
    with torch.no_grad():
        dictionary.W_dec.copy_(F.normalize(vectors))
        dictionary.W_enc.copy_((1 + taken_off) * dictionary.W_dec.T)
        dictionary.b_dec.copy_(stream.mean(0))
        dictionary.b_enc.copy_(-taken_off * vectors.norm(dim=1) - dictionary.b_dec @ dictionary.W_enc)
    return dictionary


def _loss(state: DictionaryState, stream: Float[Tensor, "place d_model"], matmul: torch.dtype) -> Float[Tensor, ""]:
    """What is left unexplained, and how badly the silent features explain that; notes who is active."""
    dictionary = state.dictionary
    with torch.autocast("cpu", matmul, enabled=matmul != torch.float32):
        readings = dictionary.readings(stream)
    values, features = readings.topk(dictionary.k)
    values = values.float().relu()
    error = stream - dictionary.decode(values, features)
    unexplained = error.square().sum(1).mean() / state.variance
    state.loss, state.silent_for = unexplained.item(), state.silent_for + 1
    state.silent_for[features[values > 0]] = 0
    silent = (state.silent_for > SILENT).nonzero()[:, 0]
    if not len(silent):
        return unexplained
    values, which = readings[:, silent].float().topk(min(N_TAUGHT, len(silent)))
    left = error.detach() - _weighted_sums(dictionary.W_dec, silent[which], values.relu())
    return unexplained + TEACHING * left.square().sum(1).mean() / state.variance


# ---- files ------------------------------------------------------------------------------------------------------


def save_dictionary(dictionary: Dictionary, file: Path | str) -> None:
    """Write a dictionary with 8 bits a weight, each feature in steps of its own; atomically.

    Raises:
        ReaderError: the disk is full, or the folder cannot be written to.
    """
    weights = {name: weight.detach() for name, weight in dictionary.named_parameters()}
    tensors = in_8_bits(weights | {"W_enc": weights["W_enc"].T.contiguous()})
    content = to_safetensors(tensors, metadata={"k": str(dictionary.k)})
    write_or_explain(Path(file), lambda f: f.write(content))


def load_dictionary(file: Path | str) -> Dictionary:
    """The dictionary that ``save_dictionary`` wrote.

    Raises:
        ReaderError: the file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as f:
            tensors, k = {name: f.get_tensor(name) for name in f.keys()}, int(f.metadata()["k"])  # noqa: SIM118
        weights = from_8_bits(tensors)
        dictionary = Dictionary(*weights["W_dec"].shape[::-1], k)
        dictionary.load_state_dict(weights | {"W_enc": weights["W_enc"].T})
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ReaderError(
            f"The dictionary {file} is missing or damaged ({type(error).__name__}): {how_to_restore(Path(file))}."
        ) from error
    return dictionary.requires_grad_(False)


def load_book_dictionary(seed: int = 0) -> Dictionary:
    """The dictionary of the book's two-layer model of this seed. Raises ReaderError if its file is missing."""
    return load_dictionary(DATA / "dictionaries" / f"{book_folder('two_layer', seed).name}.safetensors")


# ---- comparing dictionaries -------------------------------------------------------------------------------------


def best_matches(
    some: Float[Tensor, "feature d_model"], others: Float[Tensor, "other d_model"]
) -> Float[Tensor, " feature"]:
    """The largest cosine of each direction with any of the others."""
    return (F.normalize(some) @ F.normalize(others).T).amax(1)


# ---- what a feature does, from weights alone --------------------------------------------------------------------


def feature_qk(model: AttentionOnlyTransformer, dictionary: Dictionary, head: Head) -> LowRank:
    """``[destination feature, source feature]``: how much of a head's score one unit of both makes, in nats."""
    return dictionary.W_dec @ W_QK(model, head) @ dictionary.W_dec.T


# ---- the command ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Train a dictionary of a model's stream, as those of the book were.

    Raises:
        ReaderError: a file is missing or damaged, or cannot be written.
    """
    parser = argparse.ArgumentParser("python -m helpers.dictionary", description="Train a dictionary of features.")
    parser.add_argument("model", type=Path, help="folder of a model of two layers or more")
    parser.add_argument("out", type=Path, help="file for the dictionary")
    parser.add_argument("--seed", type=int, default=DictionaryConfig.seed)
    parser.add_argument("--bfloat16", action="store_true", help="as the book's: faster where the processor has it")
    a = parser.parse_args(arguments)
    model, config = load_model(a.model), DictionaryConfig(seed=a.seed)
    corpus = load_encoded(d_vocab=model.config.d_vocab)
    steps = train_dictionary(model, corpus.train, config, torch.bfloat16 if a.bfloat16 else torch.float32)
    *_, state = tqdm(steps, total=config.n_steps, desc="dictionary", unit=" steps")
    save_dictionary(state.dictionary, a.out)
    held_out = corpus.contexts("validation", n=24, n_ctx=model.config.n_ctx, seed=100)
    print(f"{a.out}: {loss_recovered(model, load_dictionary(a.out), held_out):.3f} of the loss recovered")


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
