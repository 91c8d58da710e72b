"""The online probe on two processes against one, on the same global batches; test_ddp_losses has the gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recviz import OnlineProbe
from recviz.callbacks.collapse import QUEUES, CollapseMonitor
from recviz.distributed import rank, world_size
from tests.ddp.processes import run_on_processes


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
    assert probe._stream is not None
    accuracies = {name: float(metric.compute()) for name, metric in probe._stream.metrics.items()}  # type: ignore[operator]
    return {**accuracies, "weight": probe._stream.weight.detach(), "bank": probe._stream.bank}


def _rows(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(3, (count,), generator=generator)
    centres = torch.eye(3, 8) * 1.5
    return centres[labels] + torch.randn(count, 8, generator=generator), labels


def _spectra(rank: int) -> dict[str, float]:
    """Metrics that the collapse monitor logs; rows differ by process."""
    logged: dict[str, Tensor] = {}
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda name, value, **_: logged.update({name: value}))
    trainer = SimpleNamespace(global_step=1, log_every_n_steps=50, is_global_zero=rank == 0, current_epoch=0)
    monitor = CollapseMonitor()
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        outputs = {name: torch.randn(16, 8, generator=generator) for name in QUEUES}
        monitor.on_train_batch_end(trainer, module, outputs, None, 0)  # type: ignore[arg-type]
    monitor.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    return {name: float(value) for name, value in logged.items()}


def test_all_processes_log_what_callbacks_may_monitor() -> None:
    first, second = run_on_processes(_spectra, 2, timeout=180)
    assert {"collapse/features_alpha_req", "collapse/embeddings_lidar", "collapse/embeddings_rankme"} <= first.keys()
    assert first == second


def test_probe_on_two_processes_equals_one() -> None:
    whole = _probe_steps(0, 24)
    for part in run_on_processes(_probe_steps, 2, 12, timeout=180):
        assert torch.equal(part["bank"], whole["bank"])
        assert torch.allclose(part["weight"], whole["weight"], atol=1e-3)  # Adam magnifies rounding
        for name in ("linear_top1", "linear_top5", "knn"):
            assert part[name] == pytest.approx(whole[name], abs=1e-6)
    assert 0.4 < whole["knn"] < 1, "the problem is neither hopeless nor trivial"
