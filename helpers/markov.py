"""Markov chains learned in context: every context has a transition table of its own, drawn afresh.

After "The Evolution of Statistical Induction Heads" (Edelman et al., 2024). Nothing can be learned of the next table
from the last one, so a model must count in the context that it sees. What the best of all predictors would say is known
exactly, and so is what one would say that counts states alone. A model of two layers becomes the first by way of the
second.

States are tokens. There is no ``<START>``: the first state is drawn evenly.

    python -m helpers.markov data/models/markov_seed1 --seed 1                          # as those of the book were made
    python -m helpers.markov data/models/markov_one_layer_seed1 --seed 1 --layers 1

A training writes the model and its history: the held-out loss, in nats, at some of its steps.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.files import write_or_explain
from helpers.heads import induction_targets, next_token_losses
from helpers.history import refuse_divergence
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.training.config import TrainingConfig, measurement_steps, set_learning_rate
from helpers.training.machine import tuned_process
from helpers.training.optimizers import new_optimizers
from helpers.training.recipes import Recipe
from helpers.weights import save_model

Chains = Int[Tensor, "chain pos"]
Predictions = Float[Tensor, "chain pos state"]

SIZES = ModelConfig(n_layers=2, n_heads=4, d_model=64, d_head=16, d_vocab=3, n_ctx=64, positional_amplitude=0.4)
TRAINING = TrainingConfig(
    2_400_000, batch_size=32, learning_rate=5e-3, warmup_steps=50, final_learning_rate=0.05, weight_decay=0.0,
    n_measurements=90,
)  # fmt: skip
RECIPES = {"markov": Recipe(SIZES, TRAINING), "markov_one_layer": Recipe(replace(SIZES, n_layers=1), TRAINING)}
N_HELD_OUT = 256
STEPS_AT_ONCE = 16  # whose chains are drawn together, which is faster


# ---- chains -------------------------------------------------------------------------------------------------------


def sample_chains(
    n: int, n_states: int, length: int, generator: torch.Generator
) -> tuple[Chains, Float[Tensor, "chain state next"]]:
    """``n`` chains and the table of each, whose rows are drawn from all distributions alike (a flat Dirichlet).

    Raises:
        ReaderError: there are no chains, fewer than two states or no length.
    """
    if n < 1 or n_states < 2 or length < 1:
        raise ReaderError(
            f"No chains have {n_states} states, {length} places: choose two states and one place or more."
        )
    waits = -torch.rand(n, n_states, n_states, generator=generator).clamp_min(1e-12).log()
    tables = waits / waits.sum(-1, keepdim=True)
    draws, edges = torch.rand(n, length, generator=generator), tables.cumsum(-1)[..., :-1]
    states = [(draws[:, 0] * n_states).long()]
    for draw in draws[:, 1:].unbind(1):
        states.append((draw[:, None] > edges[torch.arange(n), states[-1]]).sum(-1))
    return torch.stack(states, dim=1), tables


# ---- predictors ---------------------------------------------------------------------------------------------------


def bayes_optimal(chains: Chains, n_states: int) -> Predictions:
    """What to expect after each place, knowing how tables are drawn: ``(counts + 1) / (n + n_states)``.

    Counted are the successors that the present state has had so far. No predictor has a lower expected loss.
    """
    successors = induction_targets(chains).float() @ F.one_hot(chains, n_states).float()
    return _with_one_more(successors)


def unigram_optimal(chains: Chains, n_states: int) -> Predictions:
    """The same of a predictor that takes all states so far, the present one too, for independent draws."""
    return _with_one_more(F.one_hot(chains, n_states).float().cumsum(1))


def literal_optimal(chains: Chains, n_states: int) -> Predictions:
    """The same of a predictor that knows only what followed the present state the last time."""
    targets = induction_targets(chains)
    last = targets & (targets.flip(-1).cumsum(-1).flip(-1) == 1)
    return _with_one_more(last.float() @ F.one_hot(chains, n_states).float())


def _with_one_more(counts: Predictions) -> Predictions:
    return (counts + 1) / (counts.sum(-1, keepdim=True) + counts.shape[-1])


def losses(predictions: Predictions, chains: Chains) -> Float[Tensor, "chain pos-1"]:
    """Cross-entropy of every state but the first, in nats."""
    return next_token_losses(predictions[:, :-1].log(), chains)


@torch.no_grad()
def predicted_by(model: AttentionOnlyTransformer, chains: Chains) -> Predictions:
    """What a model expects after each place."""
    return model(chains).softmax(-1)


# ---- training -----------------------------------------------------------------------------------------------------


@dataclass
class Learning:
    """Where a training stands. ``history`` has the step and the held-out loss, in nats, of every measurement."""

    model: AttentionOnlyTransformer
    n_steps: int
    step: int = 0
    loss: float = math.nan  # of the last step
    history: list[tuple[int, float]] = field(default_factory=list)


def train(
    sizes: ModelConfig = SIZES, training: TrainingConfig = TRAINING, held_out: Chains | None = None
) -> Iterator[Learning]:
    """Train a model on chains that it sees once, yielding at the start and after every step.

    Held-out loss, on ``held_out_chains`` by default, is measured at the start and at steps that are evenly spaced in
    their logarithm, the last one among them.

    Raises:
        ReaderError: the loss is no longer a number or above that of guessing.
    """
    held_out = held_out_chains(sizes) if held_out is None else held_out
    state = Learning(sizes.build(training.seed), training.n_steps(sizes.n_ctx))
    optimizers, due = new_optimizers(state.model, training), measurement_steps(state.n_steps, training.n_measurements)
    with tuned_process():
        for chains in training_chains(sizes, training):
            if state.step in due:
                state.history.append((state.step, held_out_loss(state.model, held_out)))
            yield state
            for optimizer in optimizers:
                set_learning_rate(optimizer, state.step, state.n_steps, training)
                optimizer.zero_grad()
            state.loss = _gradients(state.model, chains, training.clip)
            for optimizer in optimizers:
                optimizer.step()
            state.step += 1
        state.history.append((state.step, held_out_loss(state.model, held_out)))
        yield state


def training_chains(sizes: ModelConfig, training: TrainingConfig) -> Iterator[Chains]:
    """The chains of every step, a function of the seed alone."""
    generator, n_steps = torch.Generator().manual_seed(training.seed), training.n_steps(sizes.n_ctx)
    for start in range(0, n_steps, STEPS_AT_ONCE):
        n = min(STEPS_AT_ONCE, n_steps - start) * training.batch_size
        yield from sample_chains(n, sizes.d_vocab, sizes.n_ctx, generator)[0].split(training.batch_size)


def held_out_chains(sizes: ModelConfig = SIZES, n: int = N_HELD_OUT) -> Chains:
    """Chains that no training sees."""
    return sample_chains(n, sizes.d_vocab, sizes.n_ctx, torch.Generator().manual_seed(2**31))[0]


@torch.no_grad()
def held_out_loss(model: AttentionOnlyTransformer, chains: Chains) -> float:
    """Mean loss over every state but the first, in nats."""
    return next_token_losses(model(chains)[:, :-1], chains).mean().item()


def _gradients(model: AttentionOnlyTransformer, chains: Chains, clip: float) -> float:
    """Mean loss over the batch, in nats; its clipped gradients are left in the weights' ``grad``."""
    loss = F.cross_entropy(model(chains[:, :-1]).flatten(0, 1), chains[:, 1:].flatten())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    refuse_divergence(loss.item(), model.config.d_vocab, norm)
    return loss.item()


def save(state: Learning, training: TrainingConfig, folder: Path) -> None:
    """Write the model and its history into ``folder``. Raises ReaderError if it cannot be written to."""
    history = [{"step": step, "held_out_loss": round(loss, 4)} for step, loss in state.history]
    card = {"training": asdict(training), "steps": state.step, "history": history}
    save_model(state.model, folder)
    write_or_explain(folder / "history.json", lambda f: f.write(json.dumps(card).encode()))


# ---- what heads do ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnSuccessors:
    """How the attention of each head is spread over the successors that the present state has had.

    Statistical induction weighs all alike, literal induction looks at the last one alone.
    """

    mass: Float[Tensor, " head"]  # the share of all attention that is on them
    evenness: Float[Tensor, " head"]  # over how many of them it is spread, as a share of them: exp(entropy) / number
    literal: float  # the evenness of literal induction: the mean of 1 / number
    latest: Float[Tensor, " head"]  # the share of the mass that is on the last of them
    distance: Float[Tensor, " head"]  # total variation between the mass on each state and its share of the successors


def on_successors(
    pattern: Float[Tensor, "chain head dest src"], chains: Chains, n_states: int, start: int = 0
) -> OnSuccessors:
    """Where heads look among successors, averaged over destinations from ``start`` on that have two or more of them.

    Raises:
        ReaderError: there is no such destination.
    """
    targets = induction_targets(chains)
    number = targets.sum(-1)
    chosen = (number > 1) & (torch.arange(chains.shape[1]) >= start)
    if not chosen.any():
        raise ReaderError("No state has two successors here: take longer chains, or an earlier start.")
    pattern, targets, number = pattern.transpose(1, 2)[chosen], targets[chosen][:, None].float(), number[chosen, None]
    states = F.one_hot(chains, n_states).to(pattern)[chosen.nonzero()[:, 0]]
    mass = (pattern * targets).sum(-1)
    shares = pattern * targets / mass.clamp_min(1e-12)[..., None]
    last = targets.squeeze(1).shape[-1] - 1 - targets.squeeze(1).flip(-1).argmax(-1)
    entropy = torch.special.entr(shares).sum(-1)
    distance = (shares - targets / number[..., None]) @ states
    return OnSuccessors(
        mass.mean(0),
        (entropy.exp() / number).mean(0),
        (1 / number).mean().item(),
        shares.gather(-1, last[:, None, None].expand(-1, shares.shape[1], 1)).squeeze(-1).mean(0),
        distance.abs().sum(-1).mean(0) / 2,
    )


def divergence(of: Predictions, from_: Predictions) -> Float[Tensor, "chain pos"]:
    """Kullback–Leibler divergence of a predictor from the true distribution or from another predictor, in nats."""
    return (of * (of.log() - from_.log())).sum(-1)


# ---- the command line ---------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Train one of the book's models of Markov chains, or one with other layers or another seed.

    Raises:
        ReaderError: the folder cannot be written to.
    """
    parser = argparse.ArgumentParser("python -m helpers.markov", description="Learn Markov chains in their context.")
    parser.add_argument("out", type=Path, help="folder for the model and its history")
    parser.add_argument("--seed", type=int, default=TRAINING.seed)
    parser.add_argument("--layers", type=int, default=SIZES.n_layers)
    a = parser.parse_args(arguments)
    training = replace(TRAINING, seed=a.seed)
    *_, state = train(replace(SIZES, n_layers=a.layers), training)
    save(state, training, a.out)
    print(f"{a.out}: {state.history[-1][1]:.4f} nats on chains that no training sees")


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
