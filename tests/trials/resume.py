"""Trials of resuming: runs that end within an epoch, settings that change, and what a run folder holds."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.trials.trial import Trial


def same_weights(here: Path) -> None:
    """The runs `r` and `whole` have trained the same weights, in as many steps."""
    ours, theirs = (torch.load(here / run / "checkpoints/last.ckpt", weights_only=True) for run in ("r", "whole"))
    assert ours["global_step"] == theirs["global_step"] == 24
    assert all(torch.equal(ours["state_dict"][key], value) for key, value in theirs["state_dict"].items())


WHOLE = "fit $Q --trainer.max_epochs 4 --run_dir whole\n"
FOUR = "fit $Q --trainer.max_epochs 4 --trainer.max_steps 4 --run_dir r\n"
SWA = "--trainer.callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.01"

TRIALS = {
    "max_steps within an epoch": Trial(
        f"{WHOLE}{FOUR}fit --resume r --trainer.max_steps 24 --allow_changes true",
        says=r"epoch 4/4",
        check=same_weights,
    ),
    "max_steps in a chain": Trial(
        f"{WHOLE}{FOUR}"
        "fit --resume r --trainer.max_steps 6 --allow_changes true\n"
        "fit --resume r --trainer.max_steps 11 --allow_changes true\n"
        "fit --resume r --trainer.max_steps -1 --allow_changes true",
        check=same_weights,
    ),
    "max_steps says how to resume": Trial(FOUR, says=r"max_steps ended it after 0 of 4 epochs and 4 of 6 steps"),
    "max_steps behind the checkpoint": Trial(
        f"{FOUR}fit --resume r --trainer.max_steps 3 --allow_changes true", says="max_steps 3 is too low", code=2
    ),
    "a batch size that cannot be accepted": Trial(
        f"{FOUR}fit --resume r --data.batch_size 16",
        says="global batch 32, and here it is 16",
        code=2,
        never=("Traceback", "accept with"),
    ),
    "a callback's default without a text": Trial(
        f"fit $Q {SWA} --run_dir r\nfit --config r/config.yaml --run_dir s", never=("Traceback", "Unable")
    ),
    "resumed averaging that cannot be exact": Trial(
        f"fit $Q {SWA} --run_dir r\nfit --resume r", says="from after the start of StochasticWeightAveraging", code=2
    ),
    "accumulation by a callback": Trial(
        "fit $Q --trainer.callbacks+=GradientAccumulationScheduler '--trainer.callbacks.scheduling={0: 2}'",
        says="statistic of the batch",
        code=2,
    ),
    "accumulation by the trainer": Trial(
        "fit $Q --trainer.accumulate_grad_batches 2", says="statistic of the batch", code=2
    ),
}
