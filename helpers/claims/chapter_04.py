"""Claims of chapter 04_copying_and_eigenvalues."""

from dataclasses import astuple

import torch

from helpers.circuits import copying_summary, feature_share, ov_circuit
from helpers.claims.ledger import EXACT, at_least, claim
from helpers.claims.models import Models
from helpers.copying import common_tokens, plural, variant_pairs, variants_nearby
from helpers.identities import ensemble_of_tables
from helpers.model import AttentionOnlyTransformer
from helpers.statistics import spearman
from helpers.text import shelf_text, token_pairs


@claim("cl-3reasons", at_least(3.0, weaker=2.0), digits=0)
def _three_reasons(models: Models) -> float:
    """OV matrices can be summarised because they are of low rank, because like tokens are treated alike, and because so
    many of them copy.
    """
    model, text = models.one_layer, shelf_text()
    circuits, some = [ov_circuit(model, head) for head in model.heads], torch.arange(2 * model.config.d_head)
    low_rank = all(torch.linalg.matrix_rank(ov.rows(some), rtol=1e-5) <= model.config.d_head for ov in circuits)
    among = common_tokens(text.bigrams)
    pairs = variant_pairs(text.tokenizer, among)
    found, chance = zip(*(variants_nearby(ov, among, pairs) for ov in circuits), strict=True)
    copying = (models.copying_scores > 0.5).float().mean() > 0.5
    return float(low_rank + (sum(found) >= 10 * sum(chance)) + copying)


@claim("fig15-eig-scatter", at_least(10.0, weaker=7.0), digits=0)
def _mostly_positive_eigenvalues(models: Models) -> float:
    """In most heads of a one-layer model most eigenvalues of the OV circuit have a positive real part."""
    model = models.one_layer
    shares = [(ov_circuit(model, head).eigenvalues().real > 0).float().mean() for head in model.heads]
    return float(sum(share >= 0.75 for share in shares))


@claim("fig16-eig-hist", at_least(0.4, weaker=0.25))
def _two_groups(models: Models) -> float:
    """The copying scores fall into two groups, a large one near 1 and a small one near 0, with nothing between."""
    return models.copying_scores.sort().values.diff().max().item()


@claim("cl-most-heads-copy", at_least(7.0, weaker=4.0), digits=0)
def _most_heads_copy(models: Models) -> float:
    """Most heads of a one-layer model copy: their eigenvalues lie, by size, almost wholly on the positive side."""
    return float((models.copying_scores > 0.8).sum())


@claim("cl-random-eig", at_least(0.45), also_untrained=True)
def _random_heads(models: Models) -> float:
    """The eigenvalues of a random head are as often positive as negative, and many of them are complex."""
    first = 100 * (1 + models.seed) if models.trained else 0
    random = [AttentionOnlyTransformer(models.one_layer.config, first + i).requires_grad_(False) for i in range(4)]
    values = torch.cat([ov_circuit(model, head).eigenvalues() for model in random for head in model.heads])
    shares = [(values.real > 0), (values.real < 0), (values.imag != 0)]
    return min(share.float().mean().item() for share in shares)


@claim("cl-copying-caveat", at_least(0.1), also_untrained=True, digits=1)
def _positive_eigenvalues_negative_diagonal(models: Models) -> float:
    """A head whose eigenvalues are nearly all positive may still lower some tokens that it attends to."""
    best = (0, int(models.copying_scores.argmax()))
    return 100 * (ov_circuit(models.one_layer, best).centred().diagonal() < 0).float().mean().item()


@claim("cl-copying-alternatives", at_least(0.7, weaker=0.4))
def _alternatives_agree(models: Models) -> float:
    """Other ways to say that a head copies, by its diagonal, put the heads in much the same order."""
    model = models.one_layer
    summaries = [copying_summary(ov_circuit(model, head)) for head in model.heads]
    by_eigenvalues, *others = torch.tensor([astuple(summary) for summary in summaries]).T
    return min(spearman(by_eigenvalues, other) for other in others)


@claim("cl-bigger-copy", at_least(0.7, weaker=0.6))
def _plurality_is_copied(models: Models) -> float:
    """Some heads copy a feature of words, such as being plural, and not only the words themselves."""
    text = shelf_text()
    pairs = token_pairs(text.tokenizer, common_tokens(text.bigrams), plural)
    return max(feature_share(ov_circuit(models.one_layer, head), *pairs) for head in models.one_layer.heads)


@claim("cl-understood", EXACT)
def _a_model_of_tables(models: Models) -> float:
    """A one-layer model is a set of tables: its logits are sums of their entries, weighted by attention that is itself
    looked up.
    """
    return ensemble_of_tables(*models.exact("one_layer", length=128))
