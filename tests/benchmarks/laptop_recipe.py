"""The laptop's recipe on seeds that it was not tuned on: its scores and its time.

python -m tests.benchmarks.laptop_recipe 10 11 12                # on all cores
python -m tests.benchmarks.laptop_recipe 10 --precision float32  # as on a processor without bfloat16
"""

import argparse
import time
from dataclasses import replace

from helpers.heads import prefix_matching_scores, repeated_random_loss
from helpers.tokens import load_encoded
from helpers.training import RECIPES, run


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.laptop_recipe")
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--recipe", default="laptop")
    parser.add_argument("--precision", default="auto")
    a = parser.parse_args()
    recipe = RECIPES[a.recipe]
    corpus = load_encoded(d_vocab=recipe.model.d_vocab)
    for seed in a.seeds:
        start = time.perf_counter()
        state = run(recipe.model, replace(recipe.training, seed=seed, precision=a.precision), corpus)
        seconds = time.perf_counter() - start
        first, second = repeated_random_loss(state.model, n_samples=64)
        print(
            f"seed {seed}: prefix matching {prefix_matching_scores(state.model, 20).max():.2f}, fall "
            f"{first - second:.2f} nats, validation loss {state.history[-1]['validation_loss']:.2f}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
