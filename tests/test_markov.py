"""Markov chains learned in context: exact small cases, and a short training."""

import itertools
import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from helpers import ReaderError, markov
from helpers.files import book_folder
from helpers.heads import induction_targets
from helpers.history import load_card
from helpers.markov import (
    SIZES,
    TRAINING,
    bayes_optimal,
    divergence,
    literal_optimal,
    losses,
    on_successors,
    sample_chains,
    unigram_optimal,
)
from helpers.weights import load_book_model, load_model

PREDICTORS = {"Bayes": bayes_optimal, "unigrams": unigram_optimal, "literal": literal_optimal}


def drawn(n: int, n_states: int, length: int, seed: int = 0):
    return sample_chains(n, n_states, length, torch.Generator().manual_seed(seed))


def all_chains(n_states: int, length: int) -> torch.Tensor:
    return torch.tensor([*itertools.product(range(n_states), repeat=length)])


def probability(chain: tuple[int, ...], n_states: int) -> float:
    """Of a chain over all tables, by integrals of products over a flat Dirichlet (beta functions)."""
    found = 1 / n_states
    for state in range(n_states):
        counts = [sum(pair == (state, after) for pair in itertools.pairwise(chain)) for after in range(n_states)]
        ways = math.factorial(n_states - 1) * math.prod(map(math.factorial, counts))
        found *= ways / math.factorial(sum(counts) + n_states - 1)
    return found


# ---- chains -------------------------------------------------------------------------------------------------------


def test_rows_of_the_tables_are_distributions_and_flat():
    _, tables = drawn(40_000, 2, 1)
    torch.testing.assert_close(tables.sum(-1), torch.ones(40_000, 2))
    first = tables[:, 0, 0]
    quarters = torch.histc(first, 4, 0, 1) / len(first)
    assert (quarters - 0.25).abs().max() < 0.01  # for two states a flat row is one even number
    assert torch.corrcoef(tables[:, :, 0].T)[0, 1].abs() < 0.02  # rows know nothing of one another


def test_chains_follow_their_tables():
    chains, tables = drawn(3, 3, 60_000)
    for chain, table in zip(chains, tables, strict=True):
        counts = torch.zeros(3, 3).index_put((chain[:-1], chain[1:]), torch.ones(1), accumulate=True)
        torch.testing.assert_close(counts / counts.sum(1, keepdim=True), table, atol=0.02, rtol=0)


def test_first_states_are_even_and_chains_are_their_seed_s():
    chains, _ = drawn(30_000, 3, 1)
    assert (torch.bincount(chains[:, 0]) / 30_000 - 1 / 3).abs().max() < 0.01
    assert torch.equal(drawn(4, 3, 9, seed=5)[0], drawn(4, 3, 9, seed=5)[0])
    assert not torch.equal(drawn(4, 3, 9, seed=5)[0], drawn(4, 3, 9, seed=6)[0])


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 1, 4), (2, 3, 0)])
def test_no_chains_of_impossible_sizes(sizes):
    with pytest.raises(ReaderError, match="two states and one place or more"):
        drawn(*sizes)


# ---- predictors ---------------------------------------------------------------------------------------------------


def test_a_chain_counted_by_hand():
    chain = torch.tensor([[0, 1, 0, 0, 2, 0]])
    thirds = [1 / 3] * 3
    by_hand = {  # after each place
        "Bayes": [thirds, thirds, [1 / 4, 2 / 4, 1 / 4], [2 / 5, 2 / 5, 1 / 5], thirds, [2 / 6, 2 / 6, 2 / 6]],
        "unigrams": [[2 / 4, 1 / 4, 1 / 4], [2 / 5, 2 / 5, 1 / 5], [3 / 6, 2 / 6, 1 / 6], [4 / 7, 2 / 7, 1 / 7],
                     [4 / 8, 2 / 8, 2 / 8], [5 / 9, 2 / 9, 2 / 9]],
        "literal": [thirds, thirds, [1 / 4, 2 / 4, 1 / 4], [2 / 4, 1 / 4, 1 / 4], thirds, [1 / 4, 1 / 4, 2 / 4]],
    }  # fmt: skip
    for name, predictor in PREDICTORS.items():
        torch.testing.assert_close(predictor(chain, 3), torch.tensor([by_hand[name]]), msg=name)


@pytest.mark.parametrize(("n_states", "length"), [(2, 7), (3, 5)])
def test_bayes_gives_every_chain_its_exact_probability(n_states, length):
    chains = all_chains(n_states, length)
    exact = torch.tensor([probability(chain, n_states) for chain in map(tuple, chains.tolist())])
    assert exact.sum() == pytest.approx(1)
    found = (-losses(bayes_optimal(chains, n_states), chains).sum(1)).exp() / n_states
    torch.testing.assert_close(found, exact)


def test_no_predictor_does_better_than_bayes():
    chains = all_chains(2, 9)
    exact = torch.tensor([probability(chain, 2) for chain in map(tuple, chains.tolist())])
    expected = {name: (exact @ losses(p(chains, 2), chains)).mean() for name, p in PREDICTORS.items()}
    assert expected["Bayes"] < min(expected["unigrams"], expected["literal"]) - 0.01
    sharper = bayes_optimal(chains, 2) ** 1.1
    assert expected["Bayes"] < (exact @ losses(sharper / sharper.sum(-1, keepdim=True), chains)).mean()


def test_no_predictor_sees_what_it_predicts():
    chains, _ = drawn(8, 3, 12)
    others = torch.cat([chains[:, :6], (chains[:, 6:] + 1) % 3], dim=1)
    for predictor in PREDICTORS.values():
        assert torch.equal(predictor(chains, 3)[:, :6], predictor(others, 3)[:, :6])
        assert not torch.equal(predictor(chains, 3)[:, 6:], predictor(others, 3)[:, 6:])


# ---- what heads do ------------------------------------------------------------------------------------------------


def test_statistical_and_literal_induction_are_told_apart():
    chains, _ = drawn(6, 3, 40)
    targets = induction_targets(chains).float()
    number = targets.sum(-1, keepdim=True).clamp_min(1)
    last = targets * (targets.flip(-1).cumsum(-1).flip(-1) == 1)
    elsewhere = torch.eye(40).expand(6, 40, 40)
    pattern = torch.stack([targets / number, last, (last + elsewhere) / 2], dim=1)
    found = on_successors(pattern, chains, 3, start=20)
    torch.testing.assert_close(found.mass[:2], torch.ones(2))
    assert found.mass[2] < 0.75  # half of it is on the present place, which may be a successor too
    torch.testing.assert_close(found.evenness[:2], torch.tensor([1, found.literal]))
    torch.testing.assert_close(found.latest[:2], torch.tensor([found.literal, 1]))
    assert found.distance[0] < 1e-6 < 0.2 < found.distance[1]


def test_successors_are_weighed_by_hand():
    chain = torch.tensor([[0, 1, 0, 1, 0, 2, 0]])  # at the end, 0 has had the successors 1, 1 and 2
    pattern = torch.zeros(1, 1, 7, 7)
    pattern[0, 0, -1] = torch.tensor([0.2, 0.4, 0, 0.2, 0, 0.2, 0])
    found = on_successors(pattern, chain, 3, start=6)
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert found.mass.item() == pytest.approx(0.8)
    assert found.evenness.item() == pytest.approx((-(shares * shares.log()).sum()).exp().item() / 3)
    assert found.latest.item() == pytest.approx(0.25)
    assert found.distance.item() == pytest.approx(abs(0.75 - 2 / 3))


def test_no_successors_to_look_at():
    with pytest.raises(ReaderError, match="two successors"):
        on_successors(torch.eye(3)[None, None], torch.tensor([[0, 1, 2]]), 3)


def test_divergence_is_none_from_itself_and_the_extra_loss_otherwise():
    one, other = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.25, 0.75]]])
    assert divergence(one, one).item() == 0
    assert divergence(one, other).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


# ---- training -----------------------------------------------------------------------------------------------------

SMALL = replace(SIZES, n_ctx=16, d_model=16, d_head=8)
SHORT = replace(TRAINING, n_tokens=60 * 16 * 32, learning_rate=5e-3, warmup_steps=5, n_measurements=5)


def test_training_yields_every_step_and_is_a_function_of_its_seed():
    steps, losses_of = [], []
    for state in markov.train(SMALL, SHORT):
        steps.append(state.step)
    for seed in (0, 0, 1):
        *_, last = markov.train(SMALL, replace(SHORT, seed=seed, n_tokens=5 * 16 * 32))
        losses_of.append(last.history[-1][1])
    assert steps == [*range(61)]
    assert [step for step, _ in state.history] == [0, 1, 3, 8, 22, 60]
    assert losses_of[0] == losses_of[1] != losses_of[2]


def test_a_model_first_learns_to_count_states():
    held_out = markov.held_out_chains(SMALL)
    *_, last = markov.train(SMALL, SHORT, held_out)
    bounds = {name: losses(p(held_out, 3), held_out).mean() for name, p in PREDICTORS.items()}
    assert bounds["Bayes"] < last.history[-1][1] < last.history[0][1] - 0.02
    assert abs(last.history[-1][1] - bounds["unigrams"]) < 0.03
    own = losses(markov.predicted_by(last.model, held_out), held_out).mean().item()
    assert own == pytest.approx(markov.held_out_loss(last.model, held_out), abs=1e-5)


def test_held_out_chains_are_no_training_s():
    first = next(markov.training_chains(SIZES, TRAINING))
    held_out = {tuple(chain) for chain in markov.held_out_chains(SIZES).tolist()}
    assert not held_out & {tuple(chain) for chain in first.tolist()}


def test_a_training_that_diverges_says_so():
    with pytest.raises(ReaderError, match="lower learning rate"):
        [*markov.train(SMALL, replace(SHORT, learning_rate=1e4, warmup_steps=0))]


# ---- the book's models --------------------------------------------------------------------------------------------


def test_the_command_writes_a_model_and_its_history(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(markov, "SIZES", SMALL)
    monkeypatch.setattr(markov, "TRAINING", SHORT)
    markov.main([str(tmp_path / "one"), "--seed", "3", "--layers", "1"])
    card, model = load_card(tmp_path / "one"), load_model(tmp_path / "one")
    *_, last = markov.train(replace(SMALL, n_layers=1), replace(SHORT, seed=3), markov.held_out_chains(SMALL))
    assert model.config == replace(SMALL, n_layers=1) and card["training"]["seed"] == 3
    assert card["steps"] == 60 and card["history"][-1] == {"step": 60, "held_out_loss": round(last.history[-1][1], 4)}
    torch.testing.assert_close(model.W_E, last.model.W_E.detach(), atol=1e-2, rtol=1e-2)  # in 16 bits
    assert f"{last.history[-1][1]:.4f} nats" in capsys.readouterr().out


@pytest.mark.parametrize("name", markov.RECIPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_book_has_these_models_and_each_took_all_its_steps(name, seed):
    recipe, folder = markov.RECIPES[name], book_folder(name, seed)
    card, model = load_card(folder), load_book_model(name, seed)
    assert model.config == recipe.model and card["steps"] == recipe.training.n_steps(model.config.n_ctx)
    asked = json.loads(json.dumps(asdict(replace(recipe.training, seed=seed))))
    assert card["training"] == asked
    found = markov.held_out_loss(model, markov.held_out_chains())
    assert found == pytest.approx(card["history"][-1]["held_out_loss"], abs=1e-3)
