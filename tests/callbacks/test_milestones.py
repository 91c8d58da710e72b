"""Milestones: where a run ends, and where it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from recviz.callbacks.milestones import Milestones
from recviz.errors import InputError
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


def test_a_run_ends_at_each_milestone_and_goes_on(tmp_path: Path) -> None:
    done, checkpoint = [], None
    for _ in range(3):
        trainer = tiny_trainer(Milestones([1, 3]), epochs=4)
        trainer.fit(tiny_vicreg(), datamodule=tiny_data(), ckpt_path=checkpoint)
        done.append(trainer.global_step // 4)  # steps of an epoch
        checkpoint = str(tmp_path / f"{trainer.global_step}.ckpt")
        trainer.save_checkpoint(checkpoint)
    assert done == [1, 3, 4]


def test_epochs_count_from_one() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Milestones([0, 2])
