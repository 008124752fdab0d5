"""How the book's models are trained: sizes and settings by name, and the list of all trainings."""

from dataclasses import dataclass, replace

from helpers.files import book_folder
from helpers.model import ModelConfig
from helpers.standard import StandardConfig
from helpers.training.config import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """A model's sizes and how it is trained."""

    model: ModelConfig
    training: TrainingConfig

    @property
    def n_steps(self) -> int:
        return self.training.n_steps(self.model.n_ctx)


MUON = TrainingConfig(
    1_800_000,
    learning_rate=5e-3,
    muon_learning_rate=0.018,
    warmup_steps=50,
    final_learning_rate=0.05,
    weight_decay=0.5,
    n_checkpoints=45,  # every forty steps, for helpers.formation
)
ADAMW = TrainingConfig(6_000_000, batch_size=16, learning_rate=5e-3, warmup_steps=100, final_learning_rate=0.3)


def _laptop(n_layers: int, training: TrainingConfig = MUON, kind: type[ModelConfig] = ModelConfig, **parts) -> Recipe:
    """The recipe of chapter 08, which grows induction heads in less than a minute."""
    sizes = {"n_heads": 4, "d_model": 192, "d_head": 64, "d_vocab": 512, "n_ctx": 128}
    return Recipe(kind(n_layers=n_layers, **sizes, **parts), training)


RECIPES = {
    "zero_layer": Recipe(ModelConfig(n_layers=0), TrainingConfig(200_000_000, batch_size=256, learning_rate=1e-2)),
    "one_layer": Recipe(ModelConfig(n_layers=1), TrainingConfig()),
    "two_layer": Recipe(ModelConfig(n_layers=2), TrainingConfig()),
    "laptop": _laptop(n_layers=2),
    "laptop_adamw": _laptop(n_layers=2, training=ADAMW),  # the control: by AdamW alone, three times the tokens
    "laptop_one_layer": _laptop(n_layers=1),
    "laptop_smeared": _laptop(n_layers=1, smeared_keys=True),
    "laptop_two_layer_smeared": _laptop(n_layers=2, smeared_keys=True),
    "laptop_three_layers": _laptop(n_layers=3),
    "laptop_layer_norm": _laptop(n_layers=2, kind=StandardConfig, layer_norm=True),
    "laptop_biases": _laptop(n_layers=2, kind=StandardConfig, biases=True),
    "laptop_mlp": _laptop(n_layers=2, kind=StandardConfig, mlp=True),
    "laptop_standard": _laptop(n_layers=2, kind=StandardConfig, layer_norm=True, biases=True, mlp=True),
}
BOOK = ("zero_layer", "one_layer", "two_layer")
SEEDS = (0, 1, 2)  # of all of these


def book_trainings() -> dict[str, Recipe]:
    """Every training that data/ holds something of, by the name of its folder."""
    return {
        book_folder(name, seed).name: replace(recipe, training=replace(recipe.training, seed=seed))
        for name, recipe in RECIPES.items()
        for seed in SEEDS
    }
