"""The exercises and predictions of chapter 01, and the answers that lie near."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction


def _random(seed: int, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


# ---- the stream is a sum ------------------------------------------------------------------------------------------

who_can_differ = Value(
    number="01.1",
    title="Who can know that the name came before?",
    minutes=3,
    stub="answer = ...  # a list of three: of 1 embedding, of 12 heads in layer 0, of 12 in layer 1",
    right=[0, 12, 12],
    wrong={
        "Layer 0 has heads as well, and a head can attend to any earlier place. Is what stands before the second `_` "
        "the same as what stands before the first?": [0, 0, 12],
        "The embedding looks up the present token and nothing else, and that is `_` both times. Its place in the text "
        "does not matter: positions are added to what queries and keys read, never to the stream.": [1, 12, 12],
        "You let the embedding differ and layer 0 not. Check both: what is each of them computed from?": [1, 0, 12],
        "You leave out layer 1. But it reads the stream after layer 0, and can attend to earlier places itself.": [
            0,
            12,
            0,
        ],
        "You may be right about how many heads *will* change much. That takes a measurement. The question is how many "
        "*can* change if we know nothing about the weights.": [0, 0, 2],
        "You single out one head of layer 0. That would be a statement about its weights, which we do not know yet. "
        "Which heads *can* see something that was not there the first time?": [0, 1, 12],
        "If nothing could differ, the prediction could not differ either, and it does. What can a head see that the "
        "embedding cannot?": [0, 0, 0],
        "You leave out one head of layer 0, perhaps one that looks at the place before. But to which places a head "
        "attends depends on its weights, and we know nothing about them.": [0, 11, 12],
        "For layer 1 you count the heads that *will* differ much, perhaps. We ask which *can* differ, whatever the "
        "weights are.": [0, 12, 2],
        "For layer 1 you count pairs of heads. Each of its 12 heads has one output, however many heads it can hear.": (
            [0, 12, 144]
        ),
    },
    hints=(
        "A component's output can differ if anything that it is computed from differs.",
        "The embedding is computed from the present token. And what can a head of layer 0 attend to?",
    ),
    well_done="Only the embedding must say the same. Which of the 24 heads do speak up is a matter of measurement.",
)


# ---- virtual weights ----------------------------------------------------------------------------------------------


def weight_to_queries(
    W_V: Float[Tensor, "d_model early_head"],
    W_O: Float[Tensor, "early_head d_model"],
    W_Q: Float[Tensor, "d_model late_head"],
) -> Float[Tensor, "result query"]:
    """Takes the early head's result, A @ x @ W_V, to its part in the late head's queries."""
    return W_O @ W_Q


def _three_matrices() -> list[tuple[Tensor, ...]]:
    sizes = enumerate(((8, 3), (11, 4), (6, 5)))
    return [_random(seed, (width, head), (head, width), (width, head)) for seed, (width, head) in sizes]


virtual_weight_to_queries = Function(
    number="01.2",
    title="A wire to a query",
    minutes=4,
    stub='''
def weight_to_queries(
    W_V: Float[Tensor, "d_model early_head"],
    W_O: Float[Tensor, "early_head d_model"],
    W_Q: Float[Tensor, "d_model late_head"],
) -> Float[Tensor, "result query"]:
    """Takes the early head's result, A @ x @ W_V, to its part in the late head's queries."""
    ...
''',
    reference=weight_to_queries,
    cases=_three_matrices,
    wrong={
        "Your matrix has d_model rows and d_model columns: it reads the stream first and writes to it last. A result "
        "is written to the stream first, and then read from it.": lambda W_V, W_O, W_Q: W_Q @ W_O,
        "You begin one step too early, at the stream that the early head reads. Its result has been through W_V "
        "already.": lambda W_V, W_O, W_Q: W_V @ W_O @ W_Q,
        "You let the early head write with W_V. But W_V is what it *reads* its values with. Which matrix writes?": (
            lambda W_V, W_O, W_Q: W_V.T @ W_Q
        ),
        "You compare W_V and W_Q, two matrices that read. What the early head writes does not occur in it.": (
            lambda W_V, W_O, W_Q: W_V @ W_Q.T
        ),
        "Rows and columns are exchanged. The paper would write it so, for column vectors. Our vectors are rows: the "
        "result stands on the left, so the rows of your matrix must be its dimensions.": (
            lambda W_V, W_O, W_Q: (W_O @ W_Q).T
        ),
        "You divide by √d_head. That factor belongs to the score, which is a query times a key. A query by itself does "
        "not have it.": lambda W_V, W_O, W_Q: W_O @ W_Q / math.sqrt(W_Q.shape[1]),
        "You divide by √32, the √d_head of the book's models. That factor belongs to the score, a query times a key; a "
        "query by itself does not have it.": lambda W_V, W_O, W_Q: W_O @ W_Q / math.sqrt(32),
        "You divide by √d_model. No factor is needed: the result is multiplied by one matrix after the other.": (
            lambda W_V, W_O, W_Q: W_O @ W_Q / math.sqrt(W_O.shape[1])
        ),
        "You took orthonormal bases in place of the matrices. That compares directions; the queries need the numbers "
        "themselves.": lambda W_V, W_O, W_Q: torch.linalg.qr(W_O.T).Q.T @ torch.linalg.qr(W_Q).Q,
        "You sum over d_head, as if the two heads shared these dimensions. They meet in the stream, so the sum must "
        "run over d_model.": lambda W_V, W_O, W_Q: W_O.T @ W_Q.T,
        "You end in the values of a head that has this W_V. The question is about queries.": (
            lambda W_V, W_O, W_Q: W_O @ W_V
        ),
        "You multiply the two matrices of the early head. This is its W_OV, and the late head does not occur in it.": (
            lambda W_V, W_O, W_Q: W_V @ W_O
        ),
    },
    hints=(
        "Follow a row vector of d_head numbers, the result. Which matrix takes it to the stream? Which one reads it?",
        "The text does the same for a key, with W_K. What changes if the later head asks instead?",
    ),
    well_done="No token was needed to find it: the wire lies in the weights.",
)

small_overlap = Value(
    number="01.3",
    title="What does a small overlap say?",
    minutes=4,
    stub="answer = ...  # one of the four choices",
    right="further apart",
    choices=("silence", "four percent", "further apart", "nothing"),
    wrong={
        "The overlap is an average over all directions, and all count the same. If the head writes mostly along the "
        "few that the reader reads, a lot is still passed on.": "silence",
        "That would be true if the head wrote equally much along each of its 32 directions. Nobody has measured that: "
        "orthonormal bases show the directions and hide how much is sent along each.": "four percent",
        "You give up too early. An overlap is no proof, but in the trained model it did find wiring (Figure 1.3), "
        "which later chapters confirm. What does it compare?": "nothing",
    },
    hints=(
        "What is lost when both sides are given orthonormal bases?",
        "Think of a head whose outputs on real text lie nearly all along one of its 32 directions.",
    ),
    well_done="How much is passed on can only be seen from real outputs. An overlap is a hint.",
)


# ---- no basis is special ------------------------------------------------------------------------------------------

survives = Value(
    number="01.4",
    title="What survives a change of basis?",
    minutes=6,
    stub="""
# (1) the length of a stream vector, (2) the cosine of two stream vectors, (3) a key of 1:9,
# (4) the eigenvalues of its W_OV = W_V W_O, (5) an entry of W_E W_U
answer = ...  # a list of five, each "stays" or "changes"
""",
    right=["changes", "changes", "stays", "stays", "stays"],
    choices=("stays", "changes"),
    wrong={
        "You let the cosine stay. It does under a *rotation*. But M may stretch one axis, and what happens to angles "
        "then?": ["changes", "stays", "stays", "stays", "stays"],
        "All five stay under the rotation R. M may stretch and shear as well. Which of them still stay?": ["stays"] * 5,
        "A key is not a vector of the stream. What do x and W_K become, and what is their product?": (
            ["changes", "changes", "changes", "stays", "stays"]
        ),
        "W_OV reads from the stream and writes to it, so it becomes M⁻¹ W_OV M. Its entries do change. What does such "
        "a change do to eigenvalues?": ["changes", "changes", "stays", "changes", "stays"],
        "You let the inside of heads change. Look again at (3) and (4): a key becomes (x M)(M⁻¹ W_K), "
        "and W_OV becomes M⁻¹ W_OV M.": ["changes", "changes", "changes", "changes", "stays"],
        "You let W_E W_U change. It begins with a writer and ends with a reader: what is between W_E and W_U once both "
        "are changed?": ["changes", "changes", "stays", "stays", "changes"],
        "You let (3), (4) and (5) change. But W_E W_U becomes W_E M · M⁻¹ W_U. What is left of M? And in the "
        "other two?": ["changes"] * 5,
        "You treat lengths and cosines differently. Both are made of dot products of stream vectors. If M stretches an "
        "axis, does a dot product stay?": ["stays", "changes", "stays", "stays", "stays"],
        "Look again at (2) and (3). Angles survive a rotation but not every M. And what undoes M when a key is "
        "read from the stream?": ["changes", "stays", "changes", "stays", "stays"],
        "You have treated M as a rotation and forgotten that keys are read from the stream: what undoes M there?": (
            ["stays", "stays", "changes", "stays", "stays"]
        ),
        "You took geometry to survive and the inside of heads to change. Write down x M, (x M)(M⁻¹ W_K) and "
        "M⁻¹ W_OV M: it is nearly the other way round.": ["stays", "stays", "changes", "changes", "stays"],
    },
    hints=(
        "Writers are multiplied by M from the right, readers by M⁻¹ from the left. Write down what each of the five "
        "becomes.",
        "x M has another length than x. A key is (x M)(M⁻¹ W_K). What is left of M?",
        "If v W = λ v, then (v M)(M⁻¹ W M) = λ (v M).",
    ),
    well_done="Only what stays can have a meaning of its own. (A key stays, but depends on the basis inside its head.)",
)


# ---- two heads in a row -------------------------------------------------------------------------------------------


def virtual_head(
    x: Float[Tensor, "pos d_model"],
    A1: Float[Tensor, "dest src"],
    OV1: Float[Tensor, "d_model d_model"],
    A2: Float[Tensor, "dest src"],
    OV2: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What head 2 adds because its values read what head 1 wrote, which was made from x."""
    return A2 @ A1 @ x @ OV1 @ OV2


def _two_heads() -> list[tuple[Tensor, ...]]:
    """Random streams and W_OV, patterns whose rows are random distributions over the places so far."""
    cases = []
    for seed, (n, width) in enumerate(((4, 3), (5, 7))):
        x, scores1, OV1, scores2, OV2 = _random(seed, (n, width), (n, n), (width, width), (n, n), (width, width))
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        A1, A2 = ((2 * s).masked_fill(future, -torch.inf).softmax(-1) for s in (scores1, scores2))
        cases.append((x, A1, OV1, A2, OV2))
    return cases


two_in_a_row = Function(
    number="01.5",
    title="Two heads in a row",
    minutes=5,
    stub='''
def virtual_head(
    x: Float[Tensor, "pos d_model"],
    A1: Float[Tensor, "dest src"],
    OV1: Float[Tensor, "d_model d_model"],
    A2: Float[Tensor, "dest src"],
    OV2: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What head 2 adds because its values read what head 1 wrote, which was made from x."""
    ...
''',
    reference=virtual_head,
    cases=_two_heads,
    wrong={
        "The patterns are in the wrong order. They act from the left, so the one next to x acts first.": (
            lambda x, A1, OV1, A2, OV2: A1 @ A2 @ x @ OV1 @ OV2
        ),
        "The matrices are in the wrong order. They act from the right, so the one next to x acts first.": (
            lambda x, A1, OV1, A2, OV2: A2 @ A1 @ x @ OV2 @ OV1
        ),
        "You let head 2 act first, in patterns and in matrices. It is the later head: it reads what head 1 wrote.": (
            lambda x, A1, OV1, A2, OV2: A1 @ A2 @ x @ OV2 @ OV1
        ),
        "This is all that head 2 writes, and it reads x directly as well. We want only the part that came through "
        "head 1.": lambda x, A1, OV1, A2, OV2: A2 @ (x + A1 @ x @ OV1) @ OV2,
        "This is the whole stream after both heads, with x itself and with each head alone. We want one path, the one "
        "through both.": lambda x, A1, OV1, A2, OV2: x + A1 @ x @ OV1 + A2 @ (x + A1 @ x @ OV1) @ OV2,
        "You add two heads that both read x, side by side. In a row, the second reads what the first wrote.": (
            lambda x, A1, OV1, A2, OV2: A1 @ x @ OV1 + A2 @ x @ OV2
        ),
        "You multiplied the patterns entry by entry. But head 2 may look at a place from which head 1 looks somewhere "
        "else, so every place in between must be summed over.": (lambda x, A1, OV1, A2, OV2: (A2 * A1) @ x @ OV1 @ OV2),
        "You transposed the matrices. That is for columns, as in the paper; our stream has a row for each position.": (
            lambda x, A1, OV1, A2, OV2: A2 @ A1 @ x @ OV1.T @ OV2.T
        ),
        "Head 1's pattern is missing: what it wrote at a place, it had fetched from other places.": (
            lambda x, A1, OV1, A2, OV2: A2 @ x @ OV1 @ OV2
        ),
        "Head 2's pattern is missing: it, too, fetches what it reads from other places.": (
            lambda x, A1, OV1, A2, OV2: A1 @ x @ OV1 @ OV2
        ),
        "You add x. The stream does that; but the question is what the pair writes, one path, without x.": (
            lambda x, A1, OV1, A2, OV2: x + A2 @ A1 @ x @ OV1 @ OV2
        ),
        "This is all that both heads write, each of them alone as well. We want the one path through both.": (
            lambda x, A1, OV1, A2, OV2: A1 @ x @ OV1 + A2 @ (x + A1 @ x @ OV1) @ OV2
        ),
        "You add what head 1 writes by itself, which goes past head 2 on the stream. We want only what head 2 adds.": (
            lambda x, A1, OV1, A2, OV2: A1 @ x @ OV1 + A2 @ A1 @ x @ OV1 @ OV2
        ),
        "You transposed the patterns. Their rows are destinations and their columns sources, as they are.": (
            lambda x, A1, OV1, A2, OV2: A2.T @ A1.T @ x @ OV1 @ OV2
        ),
        "Head 2 only moves here: its matrix, which reads and writes, is missing.": (
            lambda x, A1, OV1, A2, OV2: A2 @ A1 @ x @ OV1
        ),
        "You added the patterns. That is two heads side by side; in a row, head 2 looks at what head 1 has already "
        "moved.": lambda x, A1, OV1, A2, OV2: (A1 + A2) @ x @ OV1 @ OV2,
    },
    hints=(
        "First write down what head 1 writes, and call it y.",
        "Then let head 2 read y in place of x.",
        "What acts on positions stands left of x, what acts on dimensions right of it. What stands nearest acts first.",
    ),
    well_done="The product has the form of a head again: a pattern on the left, a matrix of rank d_head on the right.",
)

PREVIOUS = torch.eye(6).roll(1, 0)  # each place attends to the one before, and place 0 to itself
PREVIOUS[0] = torch.eye(6)[0]


def late_pattern() -> Float[Tensor, "dest src"]:
    """A late head's pattern, so that after the early head the pair looks from place 5 at 2."""
    pattern = torch.eye(6)
    pattern[5] = torch.tensor([0, 0, 0, 1, 0, 0])
    return pattern


def _looks(pattern: Tensor) -> bool:
    return pattern[5, 2].item() > 0.99


aim = Built(
    number="01.6",
    title="Aim a virtual head",
    minutes=5,
    stub='''
def late_pattern() -> Float[Tensor, "dest src"]:
    """A late head's pattern, so that after the early head the pair looks from place 5 at 2."""
    return ...
''',
    shape=(6, 6),
    conditions={
        "Some entry is negative. Attention never is.": lambda late: late.min() >= 0,
        "This looks into the future: rows are destinations and columns are sources, so nothing may stand to the right "
        "of the diagonal.": lambda late: not late.triu(1).any(),
        "Some row does not sum to 1. Each place spends all of its attention; a place without a task may look at "
        "itself.": lambda late: bool((late.sum(1) - 1).abs().max() < 1e-4),
        "Your late head itself looks at place 2. What the early head has written there comes from one place further "
        "back, so the pair looks at 1.": lambda late: late[5, 2] < 0.9,
        "You took the early head's step the other way round: it goes one place *further* back from where the late head "
        "looks, so the pair looks at 0.": lambda late: late[5, 1] < 0.9,
        "Your late head looks at place 4, and the early head goes one step back from there. So the pair looks at 3, "
        "which is not far enough back.": lambda late: late[5, 4] < 0.9,
        "This would be right for early @ late, as if the late head came first. The late head acts last, so its pattern "
        "is the left factor: late @ early. (Or do you count from 1? The first place is 0.)": lambda late: (
            _looks(late @ PREVIOUS.double()) or not _looks(PREVIOUS.double() @ late)
        ),
        "Row 5 of late @ early has less than 0.99 at place 2. Which row of `early` has its 1 there?": lambda late: (
            _looks(late @ PREVIOUS.double())
        ),
    },
    wrong={
        "A late head that looks at its own place adds no step: the pair looks one place back, as the early one does.": (
            torch.eye(6)
        ),
        "Two previous-token heads in a row look two places back, from 5 at 3. Three places are wanted.": PREVIOUS,
    },
    example=late_pattern,
    hints=(
        "The early head has written at each place what it found one place before. At which place did it write what "
        "stood at place 2?",
        "Row 5 of late @ early is the mixture of the rows of `early` that row 5 of `late` asks for.",
    ),
    well_done="The steps add up: the late head looks two places back, the early one goes one further.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

thick_wires = Prediction(
    number="01.A",
    question="Some overlaps between layer 0 and layer 1 are more than twice what chance gives. Which?",
    choices={
        "Some of each kind: queries, keys and values all read the same stream.": (
            "All three kinds can hear layer 0, but a reader need not use what it can hear. No overlap of queries or "
            "values reaches twice the chance level."
        ),
        "Only some read by values, which carry the information.": (
            "It is natural to think that only what is moved counts as communication. But a head must also find out "
            "where to look, and that can be communicated, too. No value overlap reaches twice the chance level."
        ),
        "Only some read by queries, which say what a head looks for.": (
            "What a head looks for may also depend on what layer 0 wrote at the head's own position. But a score needs "
            "two sides, and here it is the other one that stands out. No query overlap reaches twice the chance level."
        ),
        "Only some read by keys, which say what is to be found at a position.": (
            "Only keys have overlaps above twice the chance level, 14 of 144. It looks as if some heads of layer 1 "
            "find their place by what heads of layer 0 have written there; chapters 05 and 06 test that."
        ),
    },
    right="Only some read by keys, which say what is to be found at a position.",
)

where_the_pair_looks = Prediction(
    number="01.B",
    question="Head 0:6 looks at the token before. Head 1:9, at the second _, looks at the first qu. Where does the "
    "virtual head, 1:9 after 0:6, look from the second _?",
    choices={
        "At x, the token before the second _.": (
            "This takes the step of 0:6 at the place where we stand. But 1:9 reads what 0:6 has written at the place "
            "where 1:9 looks."
        ),
        "At both qu and x.": (
            "This adds the two patterns. Different paths do add up, but along one path the patterns are multiplied."
        ),
        "At the first _.": (
            "1:9 reads at qu what 0:6 has written there, and 0:6 fetched that from the token before qu."
        ),
    },
    right="At the first _.",
)
