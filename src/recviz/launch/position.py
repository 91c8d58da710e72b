"""The position of a checkpoint in training, and Lightning's counters to resume there."""

from __future__ import annotations

from typing import Any, NamedTuple


class Position(NamedTuple):
    """A position between two steps."""

    epoch: int
    """Completed epochs."""
    batches: int
    """Completed batches of the next epoch."""
    begun: bool
    """Whether the hooks at that epoch's start have run."""
    logged_steps: int
    """The next step for loggers."""
    exact: bool = True
    """Whether the previous step is complete, including validation and end of epoch."""


def position(trainer: Any) -> Position:
    """The position of training, from the processed batches.

    An epoch is complete after its last batch, whatever ended the loop over its batches; Lightning also counts an epoch
    that a callback or max_steps ended as processed.

    Args:
        trainer: a Lightning Trainer during fit.
    """
    loop = trainer.fit_loop.epoch_loop
    epochs, batches = trainer.fit_loop.epoch_progress.current, loop.batch_progress.current
    steps = loop._batches_that_stepped
    last = loop.batch_progress.is_last_batch or batches.ready >= trainer.num_training_batches
    within = Position(epochs.started - 1, batches.processed, True, steps)
    if epochs.ready > epochs.started or not epochs.started:  # before the first batch of an epoch
        return Position(epochs.processed, 0, False, steps)
    if epochs.processed == epochs.started:  # at the end of an epoch
        return Position(epochs.processed, 0, False, steps) if last else within
    if batches.started > batches.processed:  # in a batch
        return within._replace(exact=False)
    if trainer.validating or batches.completed < batches.processed:  # after a batch, which is not counted yet
        exact = not validates(trainer)
        if trainer.validating:
            exact = loop.val_loop.batch_progress.is_last_batch != validates_since_it_stops(trainer)
        after = within._replace(logged_steps=steps + 1, exact=exact and not last)
        return Position(epochs.started, 0, False, steps + 1, exact=False) if last else after
    if last and batches.ready == batches.completed:  # an exception before the end of an epoch
        return Position(epochs.started, 0, False, steps, exact=False)
    return within


def validates(trainer: Any) -> bool:
    """Whether Lightning validates after the current batch, by the Trainer's intervals."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    loop = trainer.fit_loop
    if trainer.val_check_batch in (None, float("inf")):  # by time, or at the end of a loader without a length
        return bool(loop.epoch_loop.batch_progress.is_last_batch)
    batch = loop.total_batch_idx if every is None else loop.batch_idx
    return bool((batch + 1) % trainer.val_check_batch == 0)


def validates_since_it_stops(trainer: Any) -> bool:
    """Whether the starting validation only exists because a callback or the module stops the run here."""
    return trainer.should_stop and not trainer.sanity_checking and not validates(trainer)


def go_to(place: Position, loops: dict[str, Any], counts_steps: bool) -> None:
    """Set the counters of a checkpoint, so that Lightning resumes at a position without repeating anything.

    Lightning infers from them at which hook a checkpoint was made, and repeats or skips the rest of that step. All
    cases are reduced to one: the step is complete, and the next batch follows.

    Args:
        place: position to resume at.
        loops: checkpoint["loops"]["fit_loop"]; changed in place.
        counts_steps: whether the resuming Trainer has max_steps.
    """
    epochs = place.epoch + place.begun
    restarts = place.begun or counts_steps  # in a restarted epoch, Lightning's loop adds 1 to _batches_that_stepped
    for counts in loops["epoch_progress"].values():
        counts.update(ready=epochs, started=epochs, processed=place.epoch, completed=place.epoch)
    batches = loops["epoch_loop.batch_progress"]
    done = batches["total"]["ready"] - (batches["current"]["ready"] - place.batches if place.begun else 0)
    batches["current"].update(dict.fromkeys(batches["current"], place.batches))
    # started is one less, since Lightning would otherwise detect a restart
    batches["total"].update(ready=done, started=done - 1, processed=done, completed=done)
    batches["is_last_batch"] = not restarts
    validation = loops["epoch_loop.val_loop.batch_progress"]
    for counts in (validation["total"], validation["current"]):
        counts.update(dict.fromkeys(counts, 0))
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = place.logged_steps - restarts
