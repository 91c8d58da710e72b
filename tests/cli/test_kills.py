"""Runs that SIGKILL ends at any moment go on with --resume, and end bit for bit as the uninterrupted run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.forked import Fault, Runs
from tests.cli.test_resume import assert_same, last, table
from tests.datasets import make_folder

EPOCHS, STEPS, VAL = 4, 4, 2
FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16"]
FIT += ["--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]", "--model.warmup_epochs", "1"]
FIT += ["--trainer.max_epochs", str(EPOCHS), "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
FIT += ["--trainer.log_every_n_steps", "1", "--keep_every_n_epochs", "2", "--probe.bank_size", "16"]

MOMENTS = [  # what, how often a run does it, and when
    ("recviz.methods.joint_embedding:JointEmbedding.training_step", EPOCHS * STEPS, ("before", "after")),
    ("recviz.losses.vicreg:VICRegLoss.forward", EPOCHS * STEPS, ("before",)),
    ("recviz.optim.lars:LARS.step", EPOCHS * STEPS, ("before", "after")),
    ("recviz.optim.lars:LARS.plain_update", EPOCHS * STEPS, ("before",)),  # when half of the weights are new
    ("recviz.probes.online:OnlineProbe.on_train_batch_end", EPOCHS * STEPS, ("before", "after")),
    ("recviz.methods.joint_embedding:JointEmbedding.validation_step", EPOCHS, ("before", "after")),
    ("recviz.runs.saving:WholeCheckpoints.save_checkpoint", EPOCHS, ("before", "after")),
    ("os:fsync", EPOCHS, ("before", "torn", "after")),
    ("os:replace", EPOCHS, ("before", "after")),
    ("recviz.runs.metrics:MetricsFile.log_metrics", EPOCHS * (STEPS + 2), ("before", "after")),
    ("recviz.runs.metrics:MetricsFile.begin", EPOCHS * (STEPS + 2), ("before", "after")),
    ("recviz.runs.record:RunRecord._write", EPOCHS, ("before", "after")),
]


def moments(processes: int) -> list[tuple[Fault, int]]:
    """20 with the rank of the process, at random but the same each time: each kind once, some twice, and any times."""
    draw = random.Random(processes)
    found = []
    for target, calls, whens in MOMENTS + draw.choices(MOMENTS, k=4):
        rank = 0 if "recviz.runs" in target or target.startswith("os:") else draw.randrange(processes)
        found.append((Fault(target, draw.randint(1, calls), draw.choice(whens)), rank))
    for _ in range(20 - len(found)):
        found.append((Fault("time", draw.randint(50, 900), ""), draw.randrange(processes)))
    return found


CASES = [  # some by default, all where there is time
    pytest.param(processes, number, marks=() if number in ((0, 4, 8), (1,))[processes - 1] else pytest.mark.slow)
    for processes in (1, 2)
    for number in range(20)
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("kills")
    make_folder(folder / "photos", classes=2, per_class=15)  # 26 to train on, 4 held out
    forks = Runs(folder)
    for processes in (1, 2):
        ended = forks.run([*fit(processes), "--run_dir", f"whole{processes}"], processes, log=f"whole{processes}-views")
        assert ended.codes == [0] * processes, ended.output
    yield forks
    forks.close()


def fit(processes: int) -> list[str]:
    """One process has a worker that reads images; two do without, since forks may trip over the threads of gloo."""
    return [*FIT, "--data.batch_size", str(6 // processes), "--data.num_workers", str(2 - processes)]


def views(folder: Path, name: str, processes: int) -> list[dict[int, set[str]]]:
    """By rank and step, the hashes of what was seen then: one each, also where a step was done twice."""
    found: list[dict[int, set[str]]] = []
    for rank in range(processes):
        found.append({})
        for line in (folder / f"{name}-views{rank}.txt").read_text().splitlines():
            step, digest = line.split()
            found[-1].setdefault(int(step), set()).add(digest)
    return found


@pytest.mark.parametrize(("processes", "number"), CASES)
def test_a_killed_run_ends_as_the_uninterrupted_one(runs: Runs, processes: int, number: int) -> None:
    fault, rank = moments(processes)[number]
    folder, name = runs.folder, f"run{processes}-{number}"
    killed = runs.run([*fit(processes), "--run_dir", name], processes, fault, rank, f"{name}-views")
    assert killed.codes[rank] == -9, f"{fault} never came: {killed}"  # a run takes more than a second
    if not (folder / name / "config.yaml").is_file():
        shutil.rmtree(folder / name, ignore_errors=True)
        resumed = runs.run([*fit(processes), "--run_dir", name], processes, log=f"{name}-views")
    else:
        resumed = runs.run(["fit", "--resume", name], processes, log=f"{name}-views")
    assert resumed.codes == [0] * processes, f"{fault}: {resumed.output}"
    assert_same(folder / name, folder / f"whole{processes}")
    assert views(folder, name, processes) == views(folder, f"whole{processes}", processes)


@pytest.mark.slow
def test_the_number_of_processes_may_change_between_epochs(runs: Runs) -> None:
    args = [*fit(1), "--run_dir", "change", "--keep_every_n_epochs", "1", "--data.num_workers", "0"]
    assert runs.run(args, fault=Fault("recviz.losses.vicreg:VICRegLoss.forward", 2 * STEPS + 2, "before")).codes == [-9]
    changed = ["fit", "--resume", "change", "--data.batch_size", "3"]
    refused = runs.run(changed, processes=2)
    assert refused.codes == [2, 2]
    assert "data.batch_size 6 → 3" in refused.output[0]
    assert "trainer.devices auto → 2" in refused.output[0]
    accepted = runs.run([*changed, "--allow_changes", "true"], processes=2)
    assert accepted.codes == [0, 0], accepted.output
    assert last(runs.folder / "change")["global_step"] == EPOCHS * STEPS
    steps = [int(row["step"]) for row in table(runs.folder / "change") if row["train/total"]]
    assert steps == list(range(EPOCHS * STEPS))
    whole = [row["train/total"] for row in table(runs.folder / "whole1") if row["train/total"]]
    assert [row["train/total"] for row in table(runs.folder / "change") if row["train/total"]][: 2 * STEPS] == (
        whole[: 2 * STEPS]
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_that_is_told_stops_all(runs: Runs, rank: int) -> None:
    name = f"told{rank}"
    told = Fault("recviz.losses.vicreg:VICRegLoss.forward", STEPS + 2, "SIGTERM")
    stopped = runs.run([*fit(2), "--run_dir", name], 2, told, rank)
    assert stopped.codes == [75, 75], stopped.output
    assert last(runs.folder / name)["global_step"] == STEPS + 2
    assert runs.run(["fit", "--resume", name], 2).codes == [0, 0]
    assert_same(runs.folder / name, runs.folder / "whole2")


OFTEN = ["--trainer.val_check_interval", "2", "--trainer.callbacks", "tests.endings.EndsAfter"]
NEVER = ["--trainer.callbacks.step", "-1"]


@pytest.fixture(scope="module")
def often(runs: Runs) -> Path:
    """A whole run on two processes that validates within its epochs."""
    ended = runs.run([*fit(2), *OFTEN, "--run_dir", "often"], 2, log="often-views")
    assert ended.codes == [0, 0], ended.output
    return runs.folder / "often"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "endings"),
    {
        "max_steps": [["--trainer.max_steps", "5"]],
        "max_steps at the end of an epoch": [["--trainer.max_steps", "8"]],
        "a callback": [["--trainer.callbacks.step", "7"]],
        "a callback where validation is due": [["--trainer.callbacks.step", "6"]],
        "a chain": [
            ["--trainer.max_steps", "1"], ["--trainer.max_steps", "3"], ["--trainer.callbacks.step", "5"],
            ["--trainer.max_steps", "11"],
        ],
    }.items(),
)  # fmt: skip
def test_two_processes_that_end_within_an_epoch(runs: Runs, often: Path, name: str, endings: list[list[str]]) -> None:
    folder = name.replace(" ", "-")
    begin, steps = [*fit(2), *OFTEN, "--run_dir", folder], 0
    for ending in endings:
        ended = runs.run([*begin, *ending], 2, log=f"{folder}-views")
        assert ended.codes == [0, 0], ended.output
        assert steps < last(runs.folder / folder)["global_step"] < EPOCHS * STEPS
        steps = last(runs.folder / folder)["global_step"]
        begin = ["fit", "--resume", folder, "--allow_changes", "true", "--trainer.max_steps", "-1", *NEVER]
    assert runs.run(begin, 2, log=f"{folder}-views").codes == [0, 0]
    assert_same(runs.folder / folder, often)
    assert views(runs.folder, folder, 2) == views(runs.folder, "often", 2)
