"""What `recviz fit` shows, and what it refuses to train."""

from __future__ import annotations

from pathlib import Path

from tests.trials.trial import Trial

OWN = (
    "fit --trainer.accelerator cpu --trainer.max_epochs 3 --model recviz.VICReg --model.warmup_epochs 0"
    " --model.backbone recviz.backbones.resnet18 --model.backbone.width 0.125 --model.projector_dims [16,16]"
)
PLAIN = "fit --trainer.accelerator cpu --trainer.max_epochs 3 --data tests.strangers.Good --model tests.strangers."


def no_folder(folder: Path) -> None:
    """Nothing stays."""
    assert not (folder / "r").exists()


def epochs_with_a_probe(folder: Path) -> None:
    """metrics.csv holds the probe of two epochs."""
    assert (folder / "r" / "metrics.csv").read_text().count(",probe/knn,") == 2


TRIALS = {
    "no epoch": Trial("fit $Q --trainer.max_epochs 0", "trainer.max_epochs is 0: there is nothing to train", 2),
    "one batch an epoch": Trial("fit $Q --trainer.limit_train_batches 1 --trainer.max_epochs 3", "1 steps? × 3 epochs"),
    "no step": Trial("fit $Q --trainer.max_steps 0", "trainer.max_steps is 0", 2),
    "no batch asked for": Trial("fit $Q --trainer.limit_train_batches 0", "trainer.limit_train_batches is 0", 2),
    "no time": Trial("fit $Q --trainer.max_time 00:00:00:00", "no training step was taken", 2),
    "a batch above the data, and drop_last": Trial(
        f"{OWN} --data tests.strangers.DropLast", "the training loader has no batch", 2
    ),
    "an iterable that gives nothing": Trial(
        f"{OWN} --data tests.strangers.NothingData --trainer.limit_train_batches 2",
        "epoch 1 had no batch: the training loader returned none",
        2,
    ),
    "an iterable that gives once": Trial(
        f"{OWN} --data tests.strangers.OnceData --trainer.limit_train_batches 2",
        ("epoch 1/3", "epoch 2 had no batch"),
        1,
        never="epoch 2/3",
    ),
    "no loss": Trial(f"{PLAIN}NoLoss", "epoch 1 trained nothing: NoLoss returned no loss", 2),
    "a validation loader without a batch": Trial(
        f"{OWN} --data tests.strangers.DropLastVal", "note: the validation loader has no batch"
    ),
    "validation of two views": Trial(
        f"{OWN} --data tests.strangers.TwoViewVal",
        r"a validation batch must be \(images, labels\).*got \(\(\[8, 3, 16, 16\], \[8, 3, 16, 16\]\), \[8\]\)",
        2,
    ),
    "training of one view": Trial(f"{OWN} --data tests.strangers.OneViewTrain", "a training batch must be .*got", 2),
    "labels without the number of classes": Trial(
        f"{OWN} --data tests.strangers.NoClasses", "OnlineProbe needs num_classes", 2
    ),
    "a module without features": Trial(
        f"{PLAIN}Plain --trainer.check_val_every_n_epoch 2",
        (
            "OnlineProbe measures nothing: Plain.training_step returned no dict",
            r"epoch 2/3 .*loss 0\.\d+  val_acc 0\.25",
            r"last logged: .*val_acc 0\.25",
        ),
        never=("Traceback", r"linear_top1", r"epoch 3/3 .*val_acc"),
    ),
    "a probe every second epoch": Trial(
        "fit $Q --run_dir r --trainer.max_epochs 5 --trainer.check_val_every_n_epoch 2",
        (r"epoch 2/5 .*linear_top1", r"epoch 4/5 .*linear_top1", r"last logged: .*linear_top1 [\d.]+"),
        never=("Traceback", r"epoch [135]/5 .*linear"),
        check=epochs_with_a_probe,
    ),
    "what a user logs for the bar": Trial(
        "fit $Q --trainer.callbacks tests.strangers.Users",
        r"epoch 1/1 .*mine/alpha 1\.25",
        never=("Traceback", "mine/hidden"),
    ),
    "overfit_batches": Trial("fit $Q --trainer.overfit_batches 1", "trainer.overfit_batches 1: train on few", 2),
    "a profile": Trial(
        "fit $Q --run_dir r --trainer.profiler simple",
        r"profile: r/fit-profile\.txt",
        check=lambda folder: (folder / "r/fit-profile.txt").read_text().index("run_training_epoch"),
    ),
    "fast_dev_run, then the run": Trial(
        "fit $Q --run_dir r --trainer.fast_dev_run true\nfit $Q --run_dir r", "epoch 1/1", never="Traceback"
    ),
    "fast_dev_run leaves nothing": Trial(
        "fit $Q --run_dir r --trainer.fast_dev_run true", "fast_dev_run leaves no run folder", check=no_folder
    ),
    **{
        f"strategy {name}": Trial(f"fit $Q --trainer.strategy {name}", f"trainer.strategy {name} is for notebooks", 2)
        for name in ("ddp_spawn", "ddp_fork", "ddp_notebook")
    },
    "strategy fsdp on a CPU": Trial("fit $Q --trainer.strategy fsdp", "fsdp", 2),
    "a start method of ddp": Trial(
        """fit $Q --trainer.strategy '{"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": """
        """{"start_method": "spawn"}}'""",
        "trainer.strategy spawn is for notebooks",
        2,
    ),
    "validation after more batches than an epoch has": Trial(
        "fit $Q --trainer.val_check_interval 1000", "trainer.val_check_interval 1000 is above the 6 batches", 2
    ),
    "barebones": Trial("fit $Q --trainer.barebones true", "leave trainer.barebones at its default", 2),
    "no checkpoints": Trial("fit $Q --trainer.enable_checkpointing false", "leave trainer.enable_checkpointing", 2),
}
