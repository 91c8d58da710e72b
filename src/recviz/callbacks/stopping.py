"""Stops a run between two steps when it is asked to, with a checkpoint of exactly there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.distributed import barrier, host_max
from recviz.errors import StoppedError

REQUEUE_CODE = 75
"""Exit code of a run that SIGTERM or SIGUSR1 stopped: EX_TEMPFAIL, "try again"."""

INTERRUPT_CODE = 130
_HANDLED = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class StopSafely(Callback):
    """On SIGTERM, SIGUSR1 or Ctrl-C: finish the step, write the checkpoint, flush the loggers, leave.

    Several processes agree before each step, so that one that was told is enough. Under SLURM, the requeue signal of
    Lightning's SLURMEnvironment (SIGUSR1 unless it was given another) also puts the job back into the queue, unless its
    auto_requeue is False. A second Ctrl-C stops at once, without a checkpoint.

    Args:
        checkpoint: the file to write.

    Raises:
        StoppedError: when training was stopped, with the exit code for the process.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._received = 0
        self._before: dict[int, Any] = {}
        self._saving = False
        self._requeue_signal: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in Lightning's place, whose handlers save in the middle of a step, and agree by way of the device."""
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None
        slurm = _slurm(trainer)
        self._requeue_signal = slurm.requeue_signal if slurm is not None and slurm.auto_requeue else None
        for signum in {*_HANDLED, *([slurm.requeue_signal] if slurm is not None and slurm.requeue_signal else [])}:
            self._before[signum] = signal.signal(signum, self._hear)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here, where every part of the earlier steps is done, if any process was told to."""
        received = host_max(self._received)
        if not received:
            return
        self._saving = True
        trainer.save_checkpoint(self.checkpoint)
        for logger in trainer.loggers:
            logger.save()
        if received == self._requeue_signal and trainer.is_global_zero:
            requeue()
        barrier()  # no process leaves, and has the launcher end the others, before all of this is done
        name = "Ctrl-C" if received == signal.SIGINT else signal.Signals(received).name
        raise StoppedError(
            f"stopped by {name} after step {trainer.global_step}, and saved: "
            f"go on with recviz fit --resume {self.checkpoint.parents[1]}",
            INTERRUPT_CODE if received == signal.SIGINT else REQUEUE_CODE,
        )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lightning's loop counts the step of a checkpoint again when it goes on; here, the step was counted."""
        if self._saving:
            checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer, where Lightning has not put back already what stood before its own handlers."""
        for signum, handler in self._before.items():
            if signal.getsignal(signum) == self._hear:
                signal.signal(signum, handler)
        self._before = {}

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._received == signum:
                raise KeyboardInterrupt
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        if self._received != self._requeue_signal or self._requeue_signal is None:  # which a SIGTERM may follow
            self._received = signum


def _slurm(trainer: Trainer) -> SLURMEnvironment | None:
    environment = trainer._accelerator_connector.cluster_environment  # Lightning's own handlers ask for it here
    return environment if isinstance(environment, SLURMEnvironment) else None


def requeue() -> None:
    """Put this SLURM job, if it is one, back into the queue."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"recviz: cannot requeue job {job}: {error}", file=sys.stderr, flush=True)
