"""Figures of probes: what they are of, and what they say of themselves."""

from __future__ import annotations

from tests.trials.trial import QUICK, Trial

PROBE = (
    f"fit {QUICK} --run_dir r --trainer.precision bf16-mixed\n"
    "probe --ckpt_path r --trainer.accelerator cpu --data.train_size 300"
)
BACKBONE = (
    "probe --config quickstart.yaml --data.train_size 100 --data.val_size 50 --backbone torchvision.models.resnet18"
)

TRIALS = {
    "a linear probe says how it ended": Trial(
        f"{PROBE} --no-cache", r"L2 penalty \S+ by cross-validation, converged in \d+ steps"
    ),
    "official in batches of 256 and float32": Trial(
        f"{PROBE} --protocol official --epochs 1", "batch_size 256, precision 32-true"
    ),
    "finetune in batches of 256 and float32": Trial(
        f"{PROBE} --protocol finetune --epochs 1", "batch_size 256, precision 32-true"
    ),
    "official in the precision asked for": Trial(
        f"{PROBE} --protocol official --epochs 1 --trainer.precision bf16-mixed", "precision bf16-mixed"
    ),
    "a stem for 224 pixels on 32": Trial(BACKBONE, "--data.views.size 96"),
    "a stem for 224 pixels on 96": Trial(f"{BACKBONE} --data.views.size 96", "96×96", never="note: the backbone"),
}
