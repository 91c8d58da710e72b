"""Stops a run between two steps on request, with a checkpoint."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.distributed import barrier, host_max
from recviz.errors import StoppedError
from recviz.launch.heartbeat import expect_step
from recviz.launch.machine import typed_command
from recviz.launch.position import position, validates_since_it_stops
from recviz.progress import say

REQUEUE_CODE = 75
"""Exit code of a run stopped by SIGTERM or SIGUSR1: EX_TEMPFAIL, "try again"."""

INTERRUPT_CODE = 130
HANDLED = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""Signals that stop a run."""


class StopSafely(Callback):
    """Ends a run between two steps, with a checkpoint. It must precede callbacks that train.

    On SIGTERM, SIGUSR1 or Ctrl-C, it finishes the step, writes the checkpoint, flushes the loggers and exits.

    If a callback sets `trainer.should_stop` (max_time, EarlyStopping) or max_steps is reached, it finishes the step and
    writes the checkpoint before the hooks of the epoch's end. A stop by a callback is handled like max_steps, since
    Lightning would otherwise log and validate once more than the uninterrupted run.

    Ranks agree before each step, so a signal to one of them is enough. Under SLURM, the requeue signal of Lightning's
    SLURMEnvironment (default SIGUSR1) also requeues the job, unless auto_requeue is False. A second Ctrl-C stops
    immediately, without a checkpoint. So does any signal in a single process before its first step.

    Args:
        checkpoint: the file to write.
        slurm: the Trainer's plugin; by default Lightning's own in a SLURM job.

    Raises:
        StoppedError: training was stopped; holds the exit code.
    """

    def __init__(self, checkpoint: Path, slurm: SLURMEnvironment | None = None) -> None:
        self.checkpoint = checkpoint
        self.slurm = SLURMEnvironment() if slurm is None and SLURMEnvironment.detect() else slurm
        self._received = 0
        self._before: dict[int, Any] = {}
        self._steps: int | None = None  # max_steps, while a stop by a callback replaces it
        self._saved = False  # where the run ends, before its final validation
        self._requeue_signal: int | None = None
        self._at_once = False  # whether there is nothing to save yet

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's signal handlers, which save in the middle of a step."""
        slurm = self.slurm
        self._requeue_signal = slurm.requeue_signal if slurm is not None and slurm.auto_requeue else None
        for signum in {*HANDLED, *([slurm.requeue_signal] if slurm is not None and slurm.requeue_signal else [])}:
            self._before[signum] = signal.signal(signum, self._hear)
        self._at_once = trainer.world_size == 1  # perhaps not all ranks got the signal

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop between steps if any rank got a signal."""
        self._at_once = False
        received = host_max(self._received)
        if not received:
            return
        trainer.save_checkpoint(self.checkpoint)
        for logger in trainer.loggers:
            logger.save()
        if received == self._requeue_signal and trainer.is_global_zero:
            requeue()
        barrier()  # no rank exits, which makes the launcher end the others, before all have saved
        raise stopped(
            received, f"after step {trainer.global_step}, and saved: resume with {typed_command()} fit --resume "
            f"{shlex.quote(str(self.checkpoint.parents[1]))}",
        )  # fmt: skip

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Heartbeat."""
        expect_step()

    def take_over(self, trainer: Trainer) -> None:
        """Replace a request to stop after this step by max_steps.

        The Trainer's last callback must call it in on_train_batch_end.
        """
        least = (trainer.min_epochs or 0, trainer.min_steps or 0)
        if trainer.should_stop and trainer.current_epoch >= least[0] and trainer.global_step >= least[1]:
            self._steps = trainer.max_steps
            trainer.should_stop, trainer.fit_loop.epoch_loop.max_steps = False, trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before the validation that Lightning adds if the module itself requested the stop.

        The module's on_train_batch_end runs after that of the callbacks.
        """
        if validates_since_it_stops(trainer):
            trainer.save_checkpoint(self.checkpoint)
            self._saved = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the run ends within an epoch."""
        if self._steps is not None:
            trainer.should_stop, trainer.fit_loop.epoch_loop.max_steps = True, self._steps
            self._steps = None
        if not is_whole(trainer) and not self._saved:
            trainer.save_checkpoint(self.checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After a broken connection, wait for the signal that a data worker died.

        A worker killed while sending breaks its connection before its death is signalled. On the signal, torch raises a
        RuntimeError that names the worker, but only while its loader exists.
        """
        if isinstance(exception, (ConnectionError, EOFError)):
            time.sleep(1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers, unless Lightning has restored them already."""
        for signum, handler in self._before.items():
            if signal.getsignal(signum) == self._hear:
                signal.signal(signum, handler)
        self._before = {}

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self._at_once:
            if signum == self._requeue_signal:
                requeue()
            raise stopped(signum, "before a step was taken: run the same command again")
        if signum == signal.SIGINT:
            if self._received == signum:
                raise KeyboardInterrupt
            say("stopping after this step; Ctrl-C again stops at once")
        if self._received != self._requeue_signal or self._requeue_signal is None:  # a SIGTERM may follow
            self._received = signum


def stopped(signum: int, where: str) -> StoppedError:
    """The error of a run stopped by a signal."""
    name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    return StoppedError(f"stopped by {name} {where}", INTERRUPT_CODE if signum == signal.SIGINT else REQUEUE_CODE)


def is_whole(trainer: Trainer) -> bool:
    """Whether the ending epoch had all its batches."""
    return not position(trainer).begun


def requeue() -> None:
    """Requeue this SLURM job, if it is one."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"recviz: cannot requeue job {job}: {error}", file=sys.stderr, flush=True)
