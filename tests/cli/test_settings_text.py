"""config.yaml repeats the run: whatever `recviz fit` accepted is read again as the same settings."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from recviz.commands.job import Job

FIT = ["--config", "quickstart.yaml", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null", "--run_dir", "run"]
CALLBACKS = {
    "BackboneFinetuning": "",
    "BatchSizeFinder": "",
    "DeviceStatsMonitor": "",
    "EMAWeightAveraging": "device=cpu",
    "EarlyStopping": "monitor=probe/knn",
    "GradientAccumulationScheduler": "scheduling={0: 1}",
    "LambdaCallback": "",
    "LearningRateFinder": "",
    "LearningRateMonitor": "",
    "ModelCheckpoint": "train_time_interval=0:10:00",
    "ModelPruning": "pruning_fn=l1_unstructured",
    "ModelSummary": "",
    "OnExceptionCheckpoint": "dirpath=somewhere",
    "SpikeDetection": "",
    "StochasticWeightAveraging": "swa_lrs=0.01",
    "TQDMProgressBar": "",
    "Timer": "duration={hours: 3}",
    "WeightAveraging": "",
    "tests.cli.test_settings_text.Strange": "",
}
OTHERS = {
    "--trainer.logger=CSVLogger": "--trainer.logger.save_dir=logs",
    "--trainer.profiler=PyTorchProfiler": "--trainer.profiler.dirpath=profile",
    "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy": "--trainer.strategy.timeout=0:10:00",
    "--trainer.plugins=lightning.pytorch.plugins.environments.LightningEnvironment": "--trainer.devices=1",
    "--trainer.max_time=00:01:00:00": "--trainer.devices=1",
    "--model.optimizer=torch.optim.AdamW": "--model.optimizer.betas=[0.8, 0.9]",
}


class Strange(Callback):
    """Defaults of kinds that YAML does not have."""

    def __init__(  # noqa: PLR0913 (settings)
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        dtype: Any = torch.float16,
        typed: torch.dtype = torch.float16,
        dtypes: tuple[Any, ...] = (torch.float16,),
        wait: datetime.timedelta = datetime.timedelta(hours=1),
        loss: Any = torch.nn.functional.mse_loss,
        kind: type[torch.nn.Module] = torch.nn.Linear,
        layer: Callable = torch.nn.Linear,  # type: ignore[type-arg]  # as timm's transformers
        norm: Callable | None = torch.nn.LayerNorm,  # type: ignore[type-arg]
        text: str = "Unable to serialize instance of text",
        note: Any = object(),  # noqa: B008
        betas: tuple[float, float] = (0.8, 0.9),
        nothing: int | None = None,
    ) -> None:
        self.given = (device, dtype, typed, dtypes, wait, loss, kind, text, layer, norm, note)


def settings(args: list[str]) -> Job:
    return Job(args)


DEFAULT = ("StochasticWeightAveraging", "ModelPruning", "Timer", "tests.cli.test_settings_text.Strange")
OPTIONS = {
    name: [f"--trainer.callbacks+={name}", *([f"--trainer.callbacks.{option}"] if option else [])]
    for name, option in CALLBACKS.items()
} | {name: [name, option] for name, option in OTHERS.items()}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name in DEFAULT else pytest.mark.slow)
        for name, options in OPTIONS.items()
    ],
)
def test_what_was_given_is_given_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    first = settings([*FIT, *options]).config_text()
    (tmp_path / "config.yaml").write_text(first)
    again = settings(["--config", "config.yaml", "--run_dir", "run"])
    assert yaml.safe_load(again.config_text()) == yaml.safe_load(first)
    for callback in again.trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback).__name__ == "Strange":
            assert callback.given[:10] == Strange().given[:10]
            assert "betas" in first
            assert "nothing: null" in first


@pytest.mark.parametrize(("given", "limit"), [("1", 1), ("1.0", 1.0), ("2", 2), ("0.5", 0.5)])
def test_a_limit_of_one_batch_stays_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, given: str, limit: Any) -> None:
    monkeypatch.chdir(tmp_path)
    first = settings([*FIT, f"--trainer.limit_train_batches={given}"])
    (tmp_path / "config.yaml").write_text(first.config_text())
    for found in (first, settings(["--config", "config.yaml", "--run_dir", "run"])):
        read = found.trainer.limit_train_batches
        assert (type(read), read) == (type(limit), limit)
