"""Heads made by hand do what their rooms say; both induction circuits work; the chapter goes on with right answers."""

import math

import pytest
import torch

from helpers.by_hand import (
    ANSWER,
    NOTED,
    PLACE,
    ROOM,
    TOKEN,
    PlacesInStream,
    empty_model,
    frequencies,
    token_vectors,
    wire,
)
from helpers.circuits import composition_score, copying_score, qk_eigenvalue_score
from helpers.exercises import exercise
from helpers.exercises.chapter_09 import elsewhere, gain, go_on_with, second_values, turn
from helpers.heads import prefix_matching_scores, previous_token_scores, random_repeats, repeated_random_loss
from helpers.model import AttentionOnlyTransformer, ModelConfig, sinusoids
from tests.examples import close, random_model, random_tokens

SIZES = {"n_heads": 2, "d_model": 4 * ROOM, "d_head": 64, "d_vocab": 100, "n_ctx": 64}
EARLY, LATE = (0, 0), (1, 0)
BY_NAME = {"token": TOKEN, "noted": NOTED, "answer": ANSWER, "place": PLACE}


def furnished(**sizes) -> AttentionOnlyTransformer:
    model = empty_model(ModelConfig(**(SIZES | sizes)))
    vectors = token_vectors(100)
    model.W_E[:, TOKEN], model.W_U[ANSWER] = vectors, 8 * vectors.T
    model.W_pos[:, PLACE] = sinusoids(64, ROOM)
    return model


def k_composition(rooms=("token", "noted", "token", "answer")) -> AttentionOnlyTransformer:
    model = furnished()
    wire(model, EARLY, query=PLACE, key=PLACE, value=TOKEN, output=NOTED, gain=7.3, turn=turn(frequencies(64), -1))
    query, key, value, output = (BY_NAME[room] for room in rooms)
    wire(model, LATE, query=query, key=key, value=value, output=output, gain=12.0)
    return model


def pointer() -> PlacesInStream:
    model, forward = furnished(n_heads=1, d_head=2 * ROOM), turn(frequencies(64), 1)
    wire(model, EARLY, query=TOKEN, key=TOKEN, value=PLACE, output=NOTED)
    model.W_Q[EARLY] = elsewhere()
    model.W_K[EARLY][PLACE, ROOM:] = torch.eye(ROOM)
    wire(model, LATE, query=NOTED, key=PLACE, value=TOKEN, output=ANSWER, gain=8.0, turn=forward)
    return PlacesInStream(model)


def test_frequencies_are_those_of_the_positions():
    angles = torch.arange(64)[:, None] * frequencies(64)
    assert torch.allclose(torch.cat([angles.sin(), angles.cos()], dim=1), sinusoids(64, ROOM))


def test_token_vectors_have_length_one_and_are_nearly_orthogonal():
    vectors = token_vectors(512)
    cosines = vectors @ vectors.T
    assert torch.allclose(cosines.diagonal(), torch.ones(512))
    assert cosines.fill_diagonal_(0).abs().max() < 0.75 and abs(cosines.std() - ROOM**-0.5) < 0.01


def test_an_empty_model_writes_nothing_and_its_spare_heads_read():
    model, untrained = (kind(ModelConfig(**SIZES), 3) for kind in (empty_model, AttentionOnlyTransformer))
    model.W_E.normal_()
    assert torch.equal(model.residual_stream(torch.arange(10)[None])[0], model.W_E[:10])
    assert torch.equal(model.W_Q[:, 1], untrained.W_Q[:, 1]) and not model.W_Q[:, 0].any()


def test_a_wired_head_reads_rooms_and_writes_one():
    model = furnished()
    wire(model, EARLY, query=TOKEN, key=PLACE, value=PLACE, output=NOTED, gain=3.0)
    stream = torch.randn(1, 5, 4 * ROOM, generator=torch.Generator().manual_seed(0))
    model.W_pos.zero_()
    scores, _ = model.attention(stream, 0)
    expected = 9 / math.sqrt(64) * stream[0, :, TOKEN] @ stream[0, :, PLACE].T
    assert torch.allclose(scores[0, 0].tril(), expected.tril(), atol=1e-4)
    moved = stream @ model.W_V[EARLY] @ model.W_O[EARLY]
    assert torch.equal(moved[..., NOTED], stream[..., PLACE]) and torch.equal(moved.norm(), moved[..., NOTED].norm())


@pytest.mark.parametrize("steps", [-1, 1, 5, 0])
def test_a_turn_takes_every_place_to_another(steps):
    places, to = sinusoids(64, ROOM), torch.arange(10, 50)
    assert torch.allclose(places[to] @ turn(frequencies(64), steps), places[to + steps], atol=1e-4)


def test_wiring_again_leaves_nothing_of_before():
    model = furnished()
    wire(model, EARLY, query=TOKEN, key=PLACE, value=PLACE, output=NOTED)
    wire(model, EARLY, query=PLACE, key=PLACE, value=TOKEN, output=ANSWER)
    assert not model.W_Q[EARLY][TOKEN].any() and not model.W_O[EARLY][:, NOTED].any()


def test_positions_in_the_stream_are_added_to_the_embedding_and_moved_by_values():
    plain = random_model(n_layers=1)
    placed, tokens = PlacesInStream(plain), random_tokens(plain)
    x = plain.W_E[tokens] + plain.W_pos[: tokens.shape[1]]
    scores = x @ plain.W_Q[0, :, None] @ (x @ plain.W_K[0, :, None]).mT / math.sqrt(plain.config.d_head)
    n = tokens.shape[1]
    pattern = scores.masked_fill(plain.future[:n, :n], -torch.inf).softmax(-1)
    written = (pattern @ (x @ plain.W_V[0, :, None]) @ plain.W_O[0, :, None]).sum(0)
    assert close(placed(tokens), (x + written) @ plain.W_U)


@pytest.mark.parametrize("build, kind", [(k_composition, "K"), (pointer, "Q")])
def test_both_circuits_do_induction_and_compose_in_their_own_way(build, kind):
    model = build()
    assert prefix_matching_scores(model, length=20)[LATE] > 0.98
    first, second = repeated_random_loss(model)
    assert second < 0.3 < math.log(100) < first
    assert [k for k in "QKV" if composition_score(model, EARLY, LATE, k) > 0.01] == [kind]


@pytest.mark.parametrize("build", [k_composition, pointer])
def test_neither_circuit_finds_anything_without_its_first_head(build):
    model = build()
    model.W_O[EARLY] = 0
    assert prefix_matching_scores(model, length=20)[LATE] < 0.2


@pytest.mark.parametrize("rooms", exercise("09.7").wrong.values(), ids="-".join)
def test_no_other_wiring_does_induction(rooms):
    first, second = repeated_random_loss(k_composition(rooms))
    assert second > 0.4 * first > 10 * repeated_random_loss(k_composition(exercise("09.7").right))[1]


def test_the_scores_of_the_circuit_by_k_composition_are_perfect():
    model = k_composition()
    assert previous_token_scores(model, random_repeats(100, 20))[EARLY] > 0.98
    assert min(copying_score(model, LATE), qk_eigenvalue_score(model, LATE, EARLY)) > 0.99


def test_the_gain_gives_the_share_that_was_asked_for():
    length, cosine, share, d_head = 3.0, 0.4, 0.9, 16
    scores = torch.tensor([1.0, *[cosine] * 9]) * (gain(share, 10, cosine, length, d_head) * length) ** 2
    assert abs((scores / math.sqrt(d_head)).softmax(0)[0] - share) < 1e-5


def two_heads() -> tuple[AttentionOnlyTransformer, torch.Tensor]:
    """The model of the exercises on virtual heads, with our answer, and both heads' W_V W_O."""
    model = empty_model(ModelConfig(n_heads=1, d_model=16, d_head=4, d_vocab=50, n_ctx=32))
    model.W_E[:, :8] = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    model.W_V[0, 0, [0, 1, 2, 3], [0, 1, 2, 3]] = model.W_O[0, 0, [0, 1, 2, 3], [8, 9, 10, 11]] = 1
    model.W_V[1, 0], model.W_O[1, 0, [0, 1, 2, 3], [12, 13, 14, 15]] = second_values(), 1
    return model, model.W_V[:, 0] @ model.W_O[:, 0]


def test_the_second_head_moves_what_the_exercise_asks_for():
    model, _ = two_heads()
    tokens, looks_back = torch.arange(20), torch.ones(19).diag(-1)[None, None]
    stream = model.residual_stream(tokens[None], patterns=[looks_back] * 2)[0]
    assert torch.equal(stream[2:, 12:15], model.W_E[tokens[1:-1], 4:7])
    assert torch.equal(stream[2:, 15], model.W_E[tokens[:-2], 0])


def test_the_ranks_are_those_of_the_exercise():
    _, (first, second) = two_heads()
    matrices = torch.stack([first, second, first @ second, second @ first, first + second])
    assert torch.linalg.matrix_rank(matrices).tolist() == exercise("09.2").right


def test_terms_with_places_in_the_stream_are_those_of_the_exercise():
    beginnings, n_heads = ["token", "place"], 12
    paths = [(), *((h,) for h in range(2 * n_heads)), *((h, k) for h in range(n_heads) for k in range(n_heads))]
    parts = [(begin, head) for begin in beginnings for head in (None, *range(n_heads))]
    assert len(paths) == 169
    assert exercise("09.6").right == [len(paths) * len(beginnings), len(beginnings) ** 2, len(parts) ** 2]


@pytest.mark.parametrize("token, place", [(2000, -50), (100, -3), (300, -20), (200, -2)])
def test_a_head_that_looks_elsewhere_may_be_louder_or_softer(token, place):
    W_Q = torch.zeros(4 * ROOM, 2 * ROOM)
    W_Q[TOKEN, :ROOM], W_Q[PLACE, ROOM:] = token * torch.eye(ROOM), place * torch.eye(ROOM)
    assert exercise("09.5").check(W_Q).is_right
    W_Q[:, [47, 95]], W_Q[NOTED] = 0, 7  # one dimension less of each, and a room that is empty
    assert exercise("09.5").check(W_Q).is_right


@pytest.mark.parametrize("back", [12, 20, 30])
def test_a_head_that_looks_a_fixed_way_back_compares_no_tokens(back):
    W_Q = torch.zeros(4 * ROOM, 2 * ROOM)
    W_Q[TOKEN, :ROOM], W_Q[PLACE, ROOM:] = 1e-3 * torch.eye(ROOM), 60 * turn(frequencies(128), -back)
    assert "several distances" in exercise("09.5").check(W_Q).text


def test_ours_is_called_ours_when_it_comes_back(capsys):
    assert go_on_with("09.3", turn) is turn
    assert "our answer" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [..., None, lambda: ..., torch.zeros(16, 4), 2 * second_values(), "words"])
def test_the_chapter_goes_on_with_ours_where_the_answer_is_not_right(answer, capsys):
    assert torch.equal(go_on_with("09.1", answer), second_values())
    assert "our answer" in capsys.readouterr().out


def test_the_chapter_goes_on_with_what_is_right(capsys):
    def louder():
        return 1.2 * elsewhere()

    assert torch.equal(go_on_with("09.5", louder), louder())
    assert torch.equal(go_on_with("09.5", louder().double()), louder())
    assert go_on_with("09.7", ["Token", "noted ", "token", "answer"]) == ["token", "noted", "token", "answer"]

    def mine(frequencies, steps):
        return turn(frequencies, steps)

    used = go_on_with("09.3", mine)
    assert go_on_with("09.3", used)(frequencies(64), -1).equal(mine(frequencies(64), -1))
    assert capsys.readouterr().out.count("your answer is right") == 5


def test_a_readers_function_may_have_other_names_and_return_other_kinds():
    def turned(f, n):
        return turn(f.double(), n).numpy()

    def louder(p, rivals_and_me, c, size, d):
        return torch.tensor(gain(p, rivals_and_me, c, size, d))

    used = go_on_with("09.3", turned)(frequencies=frequencies(64), steps=2)
    assert used.dtype == torch.float32 and torch.allclose(used, turn(frequencies(64), 2), atol=1e-5)
    loud = go_on_with("09.4", louder)(0.9, n=9, cosine=0.1, length=2.0, d_head=4)
    assert isinstance(loud, float) and loud == pytest.approx(gain(0.9, 9, 0.1, 2.0, 4))
