"""Causal scrubbing: how much of what heads are worth does a story of what they read explain? (Chan et al., 2022)

A story names the paths that matter to the heads of layer 1. All that they read by other paths is replaced by what they
would read by these in other texts. Nothing is approximated: the stream is a sum over paths. A true story costs nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.model import AttentionOnlyTransformer, Cache, Head
from helpers.statistics import Estimate, ratio_of

TEXTS_AT_ONCE = 5  # that lend to one another: each borrows from four others


@dataclass(frozen=True)
class Reads:
    """What queries, keys or values read of their own text; all the rest comes from another one.

    The positions are always their own.
    """

    token: bool = True  # the embedding of the token itself
    heads: Collection[Head] = ()  # of layer 0: what these have moved here …
    back: Collection[int] = ()  # … from tokens so many places back; 0 is the token itself


@dataclass(frozen=True)
class Story:
    """What heads of layer 1 read with their queries, keys and values."""

    queries: Reads
    keys: Reads
    values: Reads


def induction_stories(
    model: AttentionOnlyTransformer, previous_token_head: Head, furthest: int = 3
) -> dict[str, Story]:
    """From the naive story of an induction head to a rich one, a step at a time; and a control.

    In the naive one, the query is the present token, the key what the previous-token head brought from one place back,
    and the value the token there. Then values, keys and at last queries read all that is near: the token itself, and
    whatever layer 0 has brought from up to ``furthest`` places back. In the control, "blind keys", only the keys do not
    read the token before them.
    """
    token, previous = Reads(), Reads(token=False, heads=[previous_token_head], back=[1])
    near = Reads(heads=model.layer_heads(0), back=range(furthest + 1))
    blind = replace(near, back=[distance for distance in near.back if distance != 1])
    return {
        "naive": Story(queries=token, keys=previous, values=token),
        "near values": Story(queries=token, keys=previous, values=near),
        "near keys": Story(queries=token, keys=near, values=near),
        "rich": Story(queries=near, keys=near, values=near),
        "blind keys": Story(queries=near, keys=blind, values=near),
    }


def loss_recovered(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    heads: Sequence[Head],
    stories: Mapping[str, Story],
    places: Bool[Tensor, "batch predicted"] | None = None,
) -> dict[str, Estimate]:
    """The share of what ``heads`` are worth that each story keeps: 1 if it costs nothing; with its interval over texts.

    What they are worth is the loss if all of their output comes from other texts, less that of the model.
    """
    of_stories, of_heads = scrubbing_costs(model, tokens, heads, stories, places)
    return {name: ratio_of(of_heads - cost, of_heads) for name, cost in of_stories.items()}


@torch.no_grad()
def scrubbing_costs(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    heads: Sequence[Head],
    stories: Mapping[str, Story],
    places: Bool[Tensor, "batch predicted"] | None = None,
) -> tuple[dict[str, Float[Tensor, " batch"]], Float[Tensor, " batch"]]:
    """Loss that each story adds in each text, in nats; and that which other texts' outputs of ``heads`` add.

    Summed over ``places``, those whose next token is predicted; over all of them if None.

    Raises:
        ReaderError: there are fewer than five texts, or one of ``heads`` is not in layer 1 of a two-layer model.
    """
    if len(tokens) < 5:
        raise ReaderError("Queries, keys, values and outputs come from four other texts: give five or more.")
    if model.config.n_layers != 2 or not {*heads} <= {*model.layer_heads(1)}:
        raise ReaderError("Name heads of layer 1 of a two-layer model: these are the ones that read earlier heads.")
    places = torch.ones_like(tokens[:, 1:], dtype=torch.bool) if places is None else places
    n_chunks = max(1, len(tokens) // TEXTS_AT_ONCE)
    chunks = zip(tokens.tensor_split(n_chunks), places.tensor_split(n_chunks), strict=True)
    costs = [_costs(model, texts, heads, stories.values(), at) for texts, at in chunks]
    *of_stories, of_heads = torch.cat(costs, dim=1)
    return dict(zip(stories, of_stories, strict=True)), of_heads


def _costs(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    heads: Sequence[Head],
    stories: Collection[Story],
    places: Bool[Tensor, "batch predicted"],
) -> Float[Tensor, "cost batch"]:
    """``scrubbing_costs`` of texts that lend to one another; that of other texts' outputs is last."""
    cache = model.cache(tokens)
    written = cache.head_outputs[1][:, [head for _, head in heads]].sum(1)
    scrubbed = [scrubbed_output(model, cache, heads, story) for story in stories]
    outputs = [*scrubbed, written.roll(4, 0), written]
    streams = (cache.residual[2] - written + output for output in outputs)
    *losses, intact = (_loss_at(model, stream, tokens, places) for stream in streams)
    return torch.stack(losses) - intact


def scrubbed_output(
    model: AttentionOnlyTransformer, cache: Cache, heads: Sequence[Head], story: Story
) -> Float[Tensor, "batch pos d_model"]:
    """What heads of layer 1 write together if the paths outside of a story are those of other texts.

    Queries, keys and values each have another text for that: the next one, the one after it, and so on in a circle.
    """
    reads = enumerate((story.queries, story.keys, story.values), 1)
    queries, keys, values = (scrubbed_stream(model, cache, of, n_away) for n_away, of in reads)
    _, pattern = model.attention(queries, 1, keys_read=keys)
    which = [head for _, head in heads]
    values = torch.einsum("bpd,hde->bhpe", values, model.W_V[1, which])
    return torch.einsum("bhpe,hed->bpd", pattern[:, which] @ values, model.W_O[1, which])


def scrubbed_stream(
    model: AttentionOnlyTransformer, cache: Cache, reads: Reads, n_away: int
) -> Float[Tensor, "batch pos d_model"]:
    """What layer 1 reads: ``reads`` from each text itself, all other paths from the text ``n_away`` before it."""
    own = brought(model, cache, reads.heads, reads.back) + reads.token * cache.residual[0]
    return own + (cache.residual[1] - own).roll(n_away, 0)


def brought(
    model: AttentionOnlyTransformer, cache: Cache, heads: Collection[Head], back: Collection[int]
) -> Float[Tensor, "batch pos d_model"]:
    """What heads of layer 0 bring to each place from the tokens that stand so many places before it.

    Over all ``back``, it is all that they write.
    """
    n, which = cache.residual[0].shape[1], [head for _, head in heads]
    distances = torch.arange(n)[:, None] - torch.arange(n)
    wanted = torch.isin(distances, torch.tensor([*back], dtype=torch.long))
    mixed = (cache.patterns[0][:, which] * wanted) @ cache.values[0][:, which]
    return torch.einsum("bhpe,hed->bpd", mixed, model.W_O[0, which])


def read_by_distance(model: AttentionOnlyTransformer, cache: Cache, n: int) -> Float[Tensor, "{n}+1 batch pos d_model"]:
    """What queries and keys of layer 1 read at each place, by how many places back the token stands that it comes from.

    The first part is the token itself and what layer 0 brought from it; the last is the position, and all that comes
    from ``n`` or more places back.
    """
    tokens, stream = cache.residual[:2]
    parts = torch.stack([brought(model, cache, model.layer_heads(0), [distance]) for distance in range(n)])
    parts[0] += tokens
    rest = stream + model.W_pos[: stream.shape[1]] - parts.sum(0)
    return torch.cat([parts, rest[None]])


def _loss_at(
    model: AttentionOnlyTransformer,
    stream: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    places: Bool[Tensor, "batch predicted"],
) -> Float[Tensor, " batch"]:
    """Cross-entropy of the tokens after ``places``, in nats, summed over each text."""
    losses = F.cross_entropy(stream[:, :-1][places] @ model.W_U, tokens[:, 1:][places], reduction="none")
    return torch.zeros(len(tokens)).to(losses).index_add(0, places.nonzero()[:, 0], losses)
