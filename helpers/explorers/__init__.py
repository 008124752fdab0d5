"""Explorers: things of the book to try out with text and heads of one's own.

Each is two functions. ``explore_x`` is pure: it takes what the reader chose and returns what is shown, or raises a
ReaderError. ``x_explorer`` puts controls before it. A control answers within a tenth of a second: whatever takes longer
than the rest, such as running a model on a text, is a function of its own, whose last results are remembered. What is
shown is saved with the notebook as it first was, so that a page reads well where nothing runs.
"""

from helpers.explorers.chains import chain_explorer
from helpers.explorers.edges import edge_explorer
from helpers.explorers.features import feature_explorer
from helpers.explorers.neurons import neuron_explorer
from helpers.explorers.paths import path_explorer
from helpers.explorers.shell import LOCK, Explorer, token_of
from helpers.explorers.stream import stream_explorer
from helpers.explorers.superposition import superposition_explorer
from helpers.explorers.texts import ablation_explorer, component_explorer, text_explorer
from helpers.explorers.tokens import bigram_explorer, copying_explorer, head_explorer
from helpers.explorers.trainings import checkpoint_explorer, training_explorer

__all__ = [
    "LOCK",
    "Explorer",
    "ablation_explorer",
    "bigram_explorer",
    "chain_explorer",
    "checkpoint_explorer",
    "component_explorer",
    "copying_explorer",
    "edge_explorer",
    "feature_explorer",
    "head_explorer",
    "neuron_explorer",
    "path_explorer",
    "stream_explorer",
    "superposition_explorer",
    "text_explorer",
    "token_of",
    "training_explorer",
]
