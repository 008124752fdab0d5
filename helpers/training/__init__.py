"""Training, in one code path for the command line, the notebooks and the tests.

On the command line::

    python -m helpers.training --layers 2 --out runs/two_layer            # start
    python -m helpers.training --layers 2 --out runs/two_layer --resume   # go on after Ctrl-C, a kill, a power cut
    python -m helpers.training --recipe laptop --out runs/laptop          # induction heads in under a minute
    python -m helpers.training --all                                      # train every model of the book again
    torchrun --nproc-per-node=2 -m helpers.training --layers 2 …          # the same on several processes
"""

# Each module imports only from those before it:
# config, machine, parallel, optimizers, zero_layer, loop, recipes, __main__.

from helpers.training.config import TrainingConfig
from helpers.training.loop import TrainingState, run, train
from helpers.training.recipes import RECIPES, SEEDS

__all__ = ["RECIPES", "SEEDS", "TrainingConfig", "TrainingState", "run", "train"]
