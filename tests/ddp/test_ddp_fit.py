"""Training and online probe on two processes against one, on the same global batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recviz import OnlineProbe
from recviz.distributed import rank, world_size
from tests.ddp.processes import run_on_processes
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


def _probe_steps(_: int, batch_size: int) -> dict[str, Any]:
    """A probe fed with the same global batches, however many processes there are; then 33 held-out rows."""
    generator = torch.Generator().manual_seed(3)
    probe = OnlineProbe(bank_size=48, lr=0.05)
    probe.num_classes = 3
    for _ in range(4):
        features, labels = _rows(generator, 24)
        mine = slice(rank() * batch_size, (rank() + 1) * batch_size)
        output = {"features": features[mine], "labels": labels[mine]}
        probe.on_train_batch_end(None, None, output, None, 0)  # type: ignore[arg-type]
    features, labels = _rows(generator, 33)
    mine = slice(rank(), None, world_size())  # 17 and 16 rows

    class Trainer:
        sanity_checking = False

    output = {"features": features[mine], "labels": labels[mine]}
    probe.on_validation_batch_end(Trainer(), None, output, None, 0)  # type: ignore[arg-type]
    accuracies = {name: float(metric.compute()) for name, metric in probe._metrics.items()}
    return {**accuracies, "weight": probe._head[0], "bank": probe._bank}


def _rows(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(3, (count,), generator=generator)
    centres = torch.eye(3, 8) * 1.5
    return centres[labels] + torch.randn(count, 8, generator=generator), labels


def test_probe_on_two_processes_equals_one() -> None:
    whole = _probe_steps(0, 24)
    for part in run_on_processes(_probe_steps, 2, 12):
        assert torch.equal(part["bank"], whole["bank"])
        assert torch.allclose(part["weight"], whole["weight"], atol=1e-3)  # Adam magnifies rounding
        for name in ("linear_top1", "linear_top5", "knn"):
            assert part[name] == pytest.approx(whole[name], abs=1e-6)
    assert 0.4 < whole["knn"] < 1, "the problem is neither hopeless nor trivial"


def _fit(_: int) -> dict[str, Any]:
    """Two epochs in this process group; the weights, and what the probe counted."""
    import os

    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    environment = LightningEnvironment()
    environment.set_world_size(2)
    environment.set_global_rank(dist.get_rank())
    strategy = DDPStrategy(accelerator=None, cluster_environment=environment, process_group_backend="gloo")
    trainer = tiny_trainer(OnlineProbe(bank_size=32), epochs=2, strategy=strategy, devices=2)
    module = tiny_vicreg(base_lr=2.0)
    trainer.fit(module, datamodule=tiny_data(batch_size=8, val_size=31))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"weights": {key: value for key, value in module.state_dict().items()}, "metrics": metrics}


@pytest.mark.slow
def test_fit_on_two_processes_ends_with_one_set_of_weights() -> None:
    first, second = run_on_processes(_fit, 2, timeout=120)
    for key, value in first["weights"].items():
        if "running_" not in key:  # BatchNorm statistics are each process's own without SyncBatchNorm
            assert torch.allclose(value, second["weights"][key], atol=1e-6), key
    assert first["metrics"]["probe/knn"] == second["metrics"]["probe/knn"]
    assert (first["metrics"]["probe/knn"] * 31) == pytest.approx(round(first["metrics"]["probe/knn"] * 31), abs=1e-4)
