"""Trials of hints, of messages, and of what is bad input and what a bug."""

from __future__ import annotations

from tests.trials.trial import Trial

FAULTY = "tests.cli.faulty"


def hint(command: str, right: str) -> Trial:
    """A command with a wrong name, and the right one."""
    return Trial(command, f"did you mean {right}\\?", code=2)


TRIALS = {
    "a recipe without --config": Trial("fit cifar10.yaml", "given by --config: --config cifar10.yaml", code=2),
    "fit alone": Trial("fit", (r"--config", r"quickstart \(two minutes", "imagenet,"), code=2),
    "fit's usage": Trial("fit --help", "^usage: recviz fit --config RECIPE"),
    "views' usage": Trial("views --help", "^usage: recviz views --config RECIPE"),
    "help of a command": Trial("help pack", "^usage: recviz pack"),
    "neighbors": hint("neighbors --k 3", "recviz neighbours"),
    "train": hint("train --config cifar10.yaml", "recviz fit"),
    "eval": hint("eval", "recviz probe"),
    "infer": hint("infer photos", "recviz predict"),
    "extract": hint("extract", "recviz embed"),
    "convert": hint("convert", "recviz export"),
    "sweep": hint("sweep", "recviz study"),
    "a misspelt command": hint("compair a b", "recviz compare"),
    "a misspelt recipe": hint("fit --config cifra10", "cifar10.yaml"),
    "a misspelt method": hint("fit $Q --model VICreg", "VICReg"),
    "--lr": hint("fit $Q --lr 0.1", "--model.base_lr"),
    "--batch_size": hint("fit $Q --batch_size 32", "--data.batch_size"),
    "--epochs": hint("fit $Q --epochs 3", "--trainer.max_epochs"),
    "--gpus": hint("fit $Q --gpus 2", "--trainer.devices"),
    "--seed": hint("fit $Q --seed 3", "--seed_everything"),
    "--output": hint("fit $Q --output x", "--run_dir"),
    "--root of a folder": hint("fit $F --root x", "--data.root"),
    "--probe.kind": hint("fit $Q --probe.kind x", "--probe.k"),
    "--lr of a probe": hint("probe --lr 1", "--head_lr"),
    "pack of what is not there": Trial("pack nosuch out", "nosuch is not a folder", code=2, never="data.root"),
    "a study with options without a dot": Trial(
        "study --config study-smoke.yaml --seed_everything 3 --compile true --dry_run true",
        "--seed_everything 3 --compile true --run_dir",
    ),
    "a study's commands for a shell": Trial(
        "study --config study-smoke.yaml --dry_run true", r"--model.projector_dims '\[256, 64\]'"
    ),
    "a study without --config": Trial("study study-smoke.yaml", "given by --config: --config study-smoke.yaml", code=2),
    "a study's run folder": Trial(
        "study --config study-smoke.yaml --run_dir x", "--run_dir is the study's own", code=2
    ),
    "Muon": Trial("fit $Q --model.optimizer torch.optim.Muon", "Muon cannot train this model: Muon only", code=2),
    "SparseAdam": Trial("fit $Q --model.optimizer torch.optim.SparseAdam", "sparse gradients", code=2),
    "LBFGS": Trial("fit $Q --model.optimizer torch.optim.LBFGS", "LBFGS", code=2),
    "Adam that refuses its betas": Trial(
        "fit $Q --model.optimizer torch.optim.Adam --model.optimizer.betas [2,3]", "Invalid beta", code=2
    ),
    "AdamW": Trial("fit $Q --model.optimizer torch.optim.AdamW --trainer.limit_train_batches 1", "next:"),
    "EarlyStopping on val_loss": Trial(
        "fit $Q --trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_loss",
        "EarlyStopping monitors 'val_loss', .* train/total",
        code=2,
    ),
    "EarlyStopping on train_loss": Trial(
        "fit $Q --trainer.callbacks EarlyStopping --trainer.callbacks.monitor train_loss", "it logs .*train/total", 2
    ),
    "LearningRateFinder": Trial("fit $Q --trainer.callbacks LearningRateFinder", "remove it", code=2),
    "BatchSizeFinder": Trial("fit $Q --trainer.callbacks BatchSizeFinder", "remove it", code=2),
    "EarlyStopping on what is logged": Trial(
        "fit $Q --trainer.callbacks EarlyStopping --trainer.callbacks.monitor probe/knn", "next:"
    ),
    "ModelCheckpoint on val_acc": Trial(
        "fit $Q --trainer.callbacks ModelCheckpoint --trainer.callbacks.monitor val_acc",
        "ModelCheckpoint monitors",
        code=2,
    ),
    "two validation loaders": Trial(f"fit $Q --data {FAULTY}.TwoLoaders", "2 validation loaders", code=2),
    "a value that a user's class refuses": Trial(
        f"fit $Q --model.backbone {FAULTY}.RefusesItsValue", "RefusesItsValue: depth must be even, got 3", code=2
    ),
    "a bug in a user's backbone": Trial(f"fit $Q --model.backbone {FAULTY}.HasABug", raises=AttributeError),
    "a bug in a user's callback": Trial(f"fit $Q --trainer.callbacks {FAULTY}.BuggyCallback", raises=ZeroDivisionError),
    "a bug in a user's data": Trial(f"fit $Q --data {FAULTY}.HasABugInItsData", raises=RuntimeError),
    "a package that is not there": Trial(
        "fit $Q --model.backbone tests.cli.needs_a_package.Net", "pip install a_package_that_nobody_has", code=2
    ),
}
