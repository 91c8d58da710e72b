"""Ends a job of several processes when one of them dies, fails or hangs, and says which."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from recviz.distributed import host_max, tick, ticks
from recviz.errors import StoppedError

_WAITING = ("/torch/distributed/", "/torch/autograd/graph.py", "/torch/nn/parallel/", "/recviz/distributed.py")
"""In the paths of code whose innermost call waits for other processes."""


class Beat(NamedTuple):
    """What a process says of itself every other second."""

    number: int
    pid: int
    host: str
    """Machine and space of process numbers."""
    still: float
    """Seconds since its main thread was last seen to move."""
    place: str
    """Where the main thread is."""
    waits: bool
    """Whether it is there because of other processes."""
    ticks: int
    """How often it said that it moves."""
    ended: str
    """"" while it trains; then "done", or the line of its error."""


class RankWatch(Callback):
    """Ends every process of the job when one of them died, failed, or did not move for `timeout` seconds.

    A thread beside the training of each process tells the others, through the store that the processes met by, whether
    and where it moves. So a process that is stopped, that hangs in a read, or that left the others in a collective is
    found out and named on stderr, and all end with exit code 1. Without it, they would wait for half an hour or for
    ever. Takes no part where there is one process.

    Args:
        timeout: seconds without a move of a process, or without a word of one on another machine, that count as a hang.
        interval: seconds between two looks.
    """

    def __init__(self, timeout: float = 600.0, interval: float = 1.0) -> None:
        self.timeout = timeout
        self.interval = interval
        self._watch: _Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch, once the processes have met."""
        if stage == "fit" and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            _dismiss_observer()
            store = PrefixStore("recviz/ranks", _own_client(_get_default_store()))
            self._watch = _Watch(store, self.timeout, self.interval)
            self._watch.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A move."""
        tick()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """A move."""
        tick()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """A move."""
        tick()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others; where the error is that another process is gone, wait for the thread to name it."""
        if self._watch is None:
            return
        if isinstance(exception, (StoppedError, KeyboardInterrupt)):  # all processes agreed to stop
            self._watch.end("done")
            return
        if is_lost_peer(exception):
            self._watch.wait(min(self.timeout, 20 * self.interval))
        lines = str(exception).strip().splitlines() or [""]
        self._watch.end(f"{type(exception).__name__}: {lines[-1]}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.end("done")
            self._watch = None


def _own_client(store: Any) -> Any:
    """Another client of the group's store, whose waits hold up nobody else's; older versions of torch cannot clone."""
    if hasattr(store, "clone"):
        return store.clone()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return TCPStore(store.host, store.port, is_master=False) if isinstance(store, TCPStore) else store


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process went away, which tells nothing of why."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("gloo/", "NCCL", "Connection closed by peer", "Connection reset", "TCPStore")
    )


class _Watch:
    """Two threads: one tells and asks through the store, where it may have to wait; the other judges what is known."""

    def __init__(self, store: Any, timeout: float, interval: float) -> None:
        self.store, self.timeout, self.interval = store, timeout, interval
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.ended = ""
        self._count = 0
        self._moved: tuple[object, float] = (None, time.monotonic())
        self._heard: dict[int, tuple[Beat, float]] = {}  # by rank: the last beat, and when it was new
        self._asked = time.monotonic()  # when the store last answered
        self._store_is_gone = False
        self._told: dict[int, str] = {}  # what is wrong, by rank, as another process found out
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._tell, self._look)]

    def start(self) -> None:
        """Begin, once each process has told who it is."""
        self.store.set(str(self.rank), json.dumps(self._own_beat("")))
        host_max(0)
        for thread in self._threads:
            thread.start()

    def end(self, how: str) -> None:
        """Tell the others that this process ends, and stop."""
        self.ended = self.ended or how
        for thread in self._threads:
            thread.join(timeout=3 * self.interval)

    def wait(self, seconds: float) -> None:
        """Let the threads judge; they end this process where they find a reason."""
        self._threads[1].join(timeout=seconds)

    def _tell(self) -> None:
        while True:
            ended = self.ended
            try:
                self.store.set(str(self.rank), json.dumps(self._own_beat(ended)))
                for rank in range(self.size):
                    if self.store.check([str(rank)]):
                        beat = Beat(*json.loads(self.store.get(str(rank))))
                        if rank not in self._heard or self._heard[rank][0].number != beat.number:
                            self._heard[rank] = (beat, time.monotonic())
                if self.store.check(["verdict"]):
                    self._told = {int(rank): what for rank, what in json.loads(self.store.get("verdict")).items()}
            except RuntimeError:  # a store whose process is gone
                self._store_is_gone = True
                return
            self._asked = time.monotonic()
            if ended:
                return
            time.sleep(self.interval)

    def _own_beat(self, ended: str) -> Beat:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        stack = (ticks(), *_calls(frame))
        now = time.monotonic()
        if stack != self._moved[0]:
            self._moved = (stack, now)
        self._count += 1
        waits = frame is not None and any(sign in frame.f_code.co_filename for sign in _WAITING)
        return Beat(self._count, os.getpid(), _host(), now - self._moved[1], _place(frame), waits, ticks(), ended)

    def _look(self) -> None:
        while not self.ended:
            time.sleep(self.interval)
            verdict = self._told or self._verdict()
            if verdict and not self.ended:
                self._leave(verdict)

    def _verdict(self) -> dict[int, str]:
        """What is wrong, by rank."""
        heard, now = dict(self._heard), time.monotonic()
        if self._store_is_gone or now - self._asked > self.timeout:
            return {0: f"{_process(heard, 0)} gave no answer: it was killed, it crashed, or it is stopped"}
        wrong: dict[int, str] = {}
        stuck: dict[int, Beat] = {}
        for rank, (beat, since) in heard.items():
            if beat.ended:
                if beat.ended != "done":
                    wrong[rank] = f"ended by {beat.ended}"
            elif beat.host == _host() and _is_dead(beat.pid):
                wrong[rank] = f"{_process(heard, rank)} died: it was killed, or it crashed"
            elif now - since > self.timeout:
                wrong[rank] = f"{_process(heard, rank)} gave no sign for {now - since:.0f} s: it is stopped"
            elif beat.still > self.timeout:
                stuck[rank] = beat
        if wrong:
            return wrong
        behind = min((beat.ticks for beat in stuck.values()), default=0)
        guilty = {rank: beat for rank, beat in stuck.items() if not beat.waits}
        if len({beat.ticks for beat in stuck.values()}) > 1:
            guilty = {rank: beat for rank, beat in stuck.items() if beat.ticks == behind}
        if not guilty and len(stuck) == self.size:  # they wait for one another
            guilty = stuck
        return {
            rank: f"{_process(heard, rank)} hangs: it has been in {beat.place} for {beat.still:.0f} s"
            for rank, beat in guilty.items()
        }

    def _leave(self, verdict: dict[int, str]) -> None:
        """Tell the others the verdict, end the guilty that are on this machine, and end this process."""
        first = not self._told and self._publish(verdict)
        if first:
            named = "; ".join(f"rank {rank} {what}" for rank, what in sorted(verdict.items()))
            print(f"recviz: error: {named}; all {self.size} processes end", file=sys.stderr, flush=True)
        for rank in verdict.keys() - {self.rank}:
            beat, _ = self._heard.get(rank, (None, 0.0))
            if beat is not None and beat.host == _host() and not beat.ended:
                with contextlib.suppress(OSError):
                    os.kill(beat.pid, signal.SIGKILL)
        if first or self.rank == 0:  # the others have to learn it, from the store that rank 0 keeps
            time.sleep(3 * self.interval)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    def _publish(self, verdict: dict[int, str]) -> bool:
        """Put a verdict into the store; whether this process should speak for all."""
        text, answers = json.dumps(verdict), []

        def publish() -> None:
            with contextlib.suppress(RuntimeError):
                answers.append(self.store.compare_set("verdict", "", text).decode() == text)

        asking = threading.Thread(target=publish, daemon=True)
        asking.start()
        asking.join(timeout=2 * self.interval)
        if answers:
            return bool(answers[0])
        return self.rank == min(set(range(self.size)) - verdict.keys(), default=self.rank)  # nobody can be asked


def _process(heard: dict[int, tuple[Beat, float]], rank: int) -> str:
    return f"(process {heard[rank][0].pid})" if rank in heard else ""


def _calls(frame: FrameType | None) -> Iterator[tuple[int, int]]:
    """Functions and places in them, from the innermost call outwards."""
    while frame is not None:
        yield id(frame.f_code), frame.f_lasti
        frame = frame.f_back


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "nothing"
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _host() -> str:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}"


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"  # ended, and waits to be asked for its code
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _dismiss_observer() -> None:
    """Relieve Lightning's thread that kills all processes, without a word, some seconds after one of them ended."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer" and hasattr(thread, "_child_processes"):
            thread._child_processes = []
