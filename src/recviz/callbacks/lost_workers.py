"""Names a data worker that died."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer


class LostWorkers(Callback):
    """Waits a second before the loaders are taken down, where a connection broke.

    A data worker that is killed while it sends breaks its connection before its death is signalled. The signal has
    torch raise a RuntimeError that names the worker, but only as long as its loader stands.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the signal come."""
        if isinstance(exception, (ConnectionError, EOFError)):
            time.sleep(1)
