"""Collapse, bad numbers, throughput, the run folder and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.progress import EpochLines
from recviz.callbacks.throughput import Throughput
from recviz.probes.spectra import alpha_req, lidar, rankme, spread
from recviz.runs.folder import RunFolder
from recviz.runs.record import RunRecord
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


def test_spread_is_one_for_directions_at_random_and_zero_for_one_direction() -> None:
    assert float(spread(torch.randn(2000, 64))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.randn(1, 64).expand(50, 64))) == pytest.approx(0, abs=1e-5)


def test_rankme_counts_directions_of_equal_strength() -> None:
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    for rank in (1, 5, 32):
        assert float(rankme(basis[:, :rank] @ basis[:rank])) == pytest.approx(rank, rel=1e-3)


def test_a_collapse_is_warned_of_once_and_a_healthy_run_is_not(caplog: pytest.LogCaptureFixture) -> None:
    healthy = tiny_vicreg(base_lr=1.0)
    tiny_trainer(CollapseMonitor(), epochs=3).fit(healthy, datamodule=tiny_data())
    assert "collapsing" not in caplog.text
    collapsed = tiny_vicreg(base_lr=0.0)
    torch.nn.init.ones_(collapsed.projector[-1].weight)  # all columns of the embeddings are one
    tiny_trainer(CollapseMonitor(), epochs=3).fit(collapsed, datamodule=tiny_data())
    assert caplog.text.count("collapsing") == 1


class Kept(Callback):
    """Keeps the embeddings of every step, or another output."""

    def __init__(self, name: str = "embeddings") -> None:
        self.name = name
        self.rows: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(outputs[self.name])


@pytest.mark.parametrize(("samples", "rows"), [(2, 16), (16, 16), (17, 17), (40, 40), (4096, 64)])
def test_the_rank_is_that_of_the_last_rows_of_the_epoch(samples: int, rows: int) -> None:
    kept = Kept()
    trainer = tiny_trainer(kept, CollapseMonitor(samples=samples), epochs=2)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())  # four batches of 16 in an epoch
    expected = rankme(torch.cat(kept.rows[-4:])[-rows:])
    torch.testing.assert_close(trainer.callback_metrics["collapse/embeddings_rankme"], expected)


def test_lidar_and_alpha_req_are_those_of_the_epochs_rows_where_they_are_enough() -> None:
    one, other, features = (Kept(name) for name in ("embeddings", "other_embeddings", "features"))
    trainer = tiny_trainer(one, other, features, CollapseMonitor(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    views = torch.stack([torch.cat(one.rows), torch.cat(other.rows)], dim=1)  # [64, 2, 16]
    found = trainer.callback_metrics
    torch.testing.assert_close(found["collapse/embeddings_lidar"], lidar(views).float())
    torch.testing.assert_close(found["collapse/features_alpha_req"], alpha_req(torch.cat(features.rows)).float())
    few = tiny_trainer(CollapseMonitor(samples=2), epochs=1)  # one batch of 16 of 16 columns
    few.fit(tiny_vicreg(), datamodule=tiny_data())
    assert "collapse/embeddings_lidar" not in few.callback_metrics
    assert "collapse/embeddings_rankme" in few.callback_metrics


def test_wide_rows_are_fewer() -> None:
    monitor = CollapseMonitor()
    for _ in range(9):
        monitor._keep("embeddings", torch.zeros(256, 2**14))
    assert sum(map(len, monitor._queues["embeddings"])) == 1024


def test_a_checkpoint_within_an_epoch_has_the_rows_of_it(tmp_path: Path) -> None:
    kept, monitor = Kept(), CollapseMonitor()
    trainer = tiny_trainer(kept, monitor, epochs=2, max_steps=6, limit_val_batches=0)  # of four steps in an epoch
    monitor.on_train_epoch_end = lambda *args: None  # type: ignore[method-assign]  # which max_steps calls, too
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    [state] = [state for state in torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"].values() if state]
    again = CollapseMonitor()
    again.load_state_dict(state)
    assert torch.equal(torch.cat(again._queues["embeddings"]), torch.cat(kept.rows))


def test_a_resumed_epoch_keeps_as_many_rows_as_an_uninterrupted_one() -> None:
    batches = torch.randn(7, 16, 8).unbind()
    whole, first, resumed = (CollapseMonitor(samples=40) for _ in range(3))
    for batch in batches:
        whole._keep("embeddings", batch)
    for batch in batches[:4]:
        first._keep("embeddings", batch)
    resumed.load_state_dict(first.state_dict())
    for batch in batches[4:]:
        resumed._keep("embeddings", batch)
    expected = torch.cat(batches)[-40:]
    for monitor in (whole, resumed):
        assert torch.equal(torch.cat(monitor._queues["embeddings"]), expected)


def test_collapse_measures_are_logged() -> None:
    trainer = tiny_trainer(CollapseMonitor(), Throughput(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    metrics = trainer.callback_metrics
    assert 1 <= float(metrics["collapse/embeddings_rankme"]) <= 16
    assert float(metrics["collapse/embeddings_std"]) > 0
    assert float(metrics["collapse/features_std"]) > 0
    assert 0 < float(metrics["collapse/embeddings_spread"]) < 1.1
    assert float(metrics["train/images_per_s"]) > 0


def test_run_folder_and_checkpoint_tell_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    keep = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
    trainer = tiny_trainer(RunRecord(RunFolder(folder), "model: x\n"), keep, epochs=1, enable_checkpointing=True)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert (folder / "config.yaml").read_text() == "model: x\n"
    assert (folder / "views.png").read_bytes().startswith(b"\x89PNG")
    assert torch.load(folder / "last.ckpt", weights_only=True)["recviz"]["config"] == "model: x\n"


def test_header_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    module = tiny_vicreg(base_lr=0.8)
    mode: dict[str, Any] = {}
    module.on_train_start = lambda: mode.update(training=module.backbone.training)  # type: ignore[method-assign]
    tiny_trainer(RunRecord(None, ""), EpochLines(), epochs=1).fit(module, datamodule=tiny_data())
    out = capsys.readouterr().out
    assert "batch 16 = 16 × 1 process, peak lr 0.05 = 0.8 × 16 / 256, 4 steps × 1 epoch," in out
    assert "data: PatternsDataModule: 64 images of 10 classes (rows, columns, checks, dots, weave, …)" in out
    assert "held out: 30 images" in out
    assert "GFLOPs at 32×32" in out
    assert "note: warm-up takes 1 of the 1 epoch, so that the peak lr is not reached" in out
    assert "epoch 1/1  train/total " in out
    assert mode["training"], "counting operations leaves the backbone in training mode"


@pytest.mark.parametrize(
    ("precision", "times", "noted"), [("bf16-mixed", 4.04, True), ("bf16-mixed", 0.4, False), ("32-true", 4.04, False)]
)
def test_a_cpu_that_is_slow_in_bf16_is_noted(
    precision: Any, times: float, noted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recviz.runs.header.bf16_slowdown", lambda: times)
    trainer = tiny_trainer(RunRecord(None, ""), epochs=1, precision=precision, limit_train_batches=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    line = "note: this CPU computes bf16 4.0 times slower than float32: set trainer.precision 32-true"
    assert (line in capsys.readouterr().out) == noted
