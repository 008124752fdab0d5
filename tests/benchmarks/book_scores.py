"""The scores that the book's models were trained to reach, measured on every seed that is there.

python -m tests.benchmarks.book_scores            # the models in data/
python -m tests.benchmarks.book_scores runs       # the models that `python -m helpers.training --all` made
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.bigrams import bigram_log_probs, bigram_loss, count_bigrams, direct_path
from helpers.circuits import copying_score, qk_eigenvalue_score
from helpers.files import book_folder
from helpers.heads import loss_per_token, prefix_matching_scores, previous_token_scores, repeated_random_loss
from helpers.model import AttentionOnlyTransformer
from helpers.tokens import EncodedCorpus, load_encoded
from helpers.training import SEEDS
from helpers.training.recipes import BOOK
from helpers.weights import load_model

Scores = dict[str, str]


def validation_loss(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> float:
    return loss_per_token(model, corpus.contexts("validation", 256, model.config.n_ctx, seed=1)).mean().item()


def fall_on_random_tokens(model: AttentionOnlyTransformer) -> float:
    first, second = repeated_random_loss(model, n_samples=64)
    return first - second


def zero_layer(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> Scores:
    table, scores = direct_path(model), {}
    for name, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        bigrams = count_bigrams(tokens, corpus.tokenizer.d_vocab)
        scores[f"{name} loss"] = f"{bigram_loss(table[bigrams.pairs], bigrams):.3f}"
        if name == "training":
            scores["bigram entropy"] = f"{bigram_loss(bigram_log_probs(bigrams), bigrams):.3f}"
    return scores


def one_layer(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> Scores:
    copying = torch.tensor([copying_score(model, head) for head in model.heads])
    return {
        "validation loss": f"{validation_loss(model, corpus):.3f}",
        "copying > 0.8": f"{(copying > 0.8).sum()} of {len(copying)}",
        "the other heads": " ".join(f"{score:+.2f}" for score in copying[copying <= 0.8].sort().values),
        "prefix matching, at most": f"{prefix_matching_scores(model, 20).max():.3f}",
        "fall on random tokens": f"{fall_on_random_tokens(model):.2f}",
    }


def two_layer(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> Scores:
    previous = previous_token_scores(model, corpus.contexts("validation", 32, model.config.n_ctx))[0]
    matching = {length: prefix_matching_scores(model, length)[1] for length in (20, 50, 100)}
    early, late = (0, int(previous.argmax())), (1, int(matching[50].argmax()))
    return {
        "validation loss": f"{validation_loss(model, corpus):.3f}",
        "previous-token head": f"0:{early[1]}, {previous.max():.2f}",
        "induction head": f"1:{late[1]}",
        "its prefix matching at 20, 50, 100": ", ".join(f"{scores[late[1]]:.2f}" for scores in matching.values()),
        "heads above 0.3 at 50": str(int((matching[50] > 0.3).sum())),
        "its copying score": f"{copying_score(model, late):+.2f}",
        "its QK eigenvalue score": f"{qk_eigenvalue_score(model, late, early):+.2f}",
        "fall on random tokens": f"{fall_on_random_tokens(model):.2f}",
    }


def main() -> None:
    corpus = load_encoded()
    scores: dict[str, Callable] = {"zero_layer": zero_layer, "one_layer": one_layer, "two_layer": two_layer}
    for name in BOOK:
        for seed in SEEDS:
            folder = book_folder(name, seed)
            if sys.argv[1:]:
                folder = Path(sys.argv[1]) / folder.name
            if (folder / "model.safetensors").exists():
                found = scores[name](load_model(folder), corpus)
                print(f"{name}, seed {seed}: " + "; ".join(f"{what} {value}" for what, value in found.items()))


if __name__ == "__main__":
    main()
