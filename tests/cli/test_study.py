"""`recviz study`: the grid, going on, failures, and the array of jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from recviz.commands.recipes import recipes_folder
from recviz.commands.study import read_study, references, trials
from recviz.commands.trials import Trial, dealt_gpus, identity, run_trial

Command = Callable[..., tuple[int, str, str]]

STUDY = {
    "base": "quickstart.yaml",
    "options": {
        "trainer.callbacks": None,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "data.train_size": 200,
        "data.val_size": 100,
        "data.batch_size": 50,
        "model.backbone.width": 0.125,
        "model.projector_dims": [16, 16],
    },
    "grid": {
        "objective": {"vicreg": {}, "simclr": {"model": "recviz.SimCLR", "model.temperature": 0.2}},
        "data": {"half": {"data.fraction": 0.5}, "all": {}},
    },
    "probe": {"data.fraction": 1.0},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH")])))


def write(content: object, name: str = "study.yaml") -> None:
    Path(name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize(("name", "count"), [("data", 72), ("backbones", 54), ("evening", 6), ("smoke", 8)])
def test_shipped_studies_are_whole(name: str, count: int, tmp_path: Path) -> None:
    study = read_study(recipes_folder() / f"study-{name}.yaml")
    found = trials(study, tmp_path, [])
    assert len(found) == count
    assert len({trial.folder for trial in found}) == len(found)


@pytest.mark.slow
def test_a_study_runs_goes_on_and_compares(recviz_command: Command) -> None:
    """A trial is done, one was stopped before its first checkpoint, two were not begun."""
    write({**STUDY, "grid": {"data": {"half": {"data.fraction": 0.5}}}})
    assert recviz_command("study", "--config", "study.yaml", "--folder", "s")[0] == 0
    shutil.copytree("s/half", "s/vicreg-all", ignore=shutil.ignore_patterns("*.json", "checkpoints"))
    config = Path("s/vicreg-all/config.yaml")
    config.write_text(config.read_text().replace("fraction: 0.5", "fraction: 1.0"))
    write(STUDY)
    study = read_study(Path("study.yaml"))
    half = next(trial for trial in trials(study, Path("s"), []) if trial.folder == "s/vicreg-half")
    assert run_trial(half) == ""
    done = Path("s/vicreg-half/results.json").read_text()
    code, out, err = recviz_command("study", "--config", "study.yaml", "--folder", "s", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "4 trials in s, 1 done before" in out
    assert Path("s/vicreg-half/results.json").read_text() == done
    for trial in ("vicreg-half", "vicreg-all", "simclr-half", "simclr-all"):
        assert f"\n{trial} " in out
    assert "|---" not in out  # the whole table is in the file
    assert {"report.html", "report.md", "report-accuracy-data.png"} < {path.name for path in Path("s").iterdir()}
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--folder", "s")
    assert code == 0
    assert "4 trials in s, 4 done before" in out
    write({**STUDY, "probe": {}})
    code, _, err = recviz_command("study", "--config", "study.yaml", "--folder", "s")
    assert code == 2
    assert "s/vicreg-half was done with other settings" in err


@pytest.mark.slow
def test_each_untrained_backbone_is_probed_once_as_its_trials_are(tmp_path: Path) -> None:
    probe = ["--data.fraction", "1.0"]
    done = []
    for name, width, fraction, weights in (("a", 0.5, 0.5, None), ("b", 0.5, 1.0, "w.pth"), ("c", 0.25, 1.0, None)):
        backbone = {"class_path": "recviz.backbones.resnet18", "init_args": {"width": width, "weights": weights}}
        data = {"class_path": "recviz.PatternsDataModule", "init_args": {"fraction": fraction}}
        settings = {"model": {"init_args": {"backbone": backbone}}, "data": data}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(json.dumps(settings))
        done.append(Trial(str(tmp_path / name), "quickstart.yaml", [], [], [probe]))
    (file, command), (_, other) = references(done, tmp_path).items()
    config = ["--config", str(tmp_path / "a" / "config.yaml"), *probe, "--results", str(file)]
    assert command == ["probe", "--backbone", "recviz.backbones.resnet18", "--backbone.width", "0.5", *config]
    assert "0.25" in other


def test_each_probe_of_a_list_measures_the_trial_and_its_untrained_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    write({**STUDY, "grid": {"one": {"a": {}}}, "probe": [{"data.fraction": 1.0}, {"protocol": "label-free"}]})
    (trial,) = trials(read_study(Path("study.yaml")), Path("s"), [])
    ran: list[list[str]] = []

    def run(command: list[str], gpus: str | None) -> str:
        ran.append(command)
        Path("s/a").mkdir(exist_ok=True)
        return "stopped" if len(ran) == 2 else ""

    monkeypatch.setattr("recviz.commands.trials.run_command", run)
    assert run_trial(trial) == "stopped"
    assert not Path("s/a/study.json").exists()
    assert run_trial(trial) == ""
    assert Path("s/a/study.json").exists()
    probe = ["probe", "--ckpt_path", "s/a/checkpoints/last.ckpt"]
    assert ran[3:] == [[*probe, "--data.fraction", "1.0"], [*probe, "--protocol", "label-free"]]
    backbone = {"class_path": "recviz.backbones.resnet18", "init_args": {}}
    data = {"class_path": "recviz.PatternsDataModule", "init_args": {"fraction": 0.5}}
    Path("s/a/config.yaml").write_text(json.dumps({"model": {"init_args": {"backbone": backbone}}, "data": data}))
    assert [command[-4:-2] for command in references([trial], Path("s")).values()] == [
        ["--data.fraction", "1.0"],
        ["--protocol", "label-free"],
    ]


@pytest.mark.slow
def test_a_trial_that_was_stopped_does_not_go_on_with_otheridentity(recviz_command: Command) -> None:
    write({**STUDY, "grid": {"lr": {"one": {"model.base_lr": 0.3}}}})
    assert recviz_command("study", "--config", "study.yaml", "--folder", "s")[0] == 0
    Path("s/one/study.json").unlink()  # as it is before the probe is done
    for options in ({"model.base_lr": 0.6}, {}):
        write({**STUDY, "grid": {"lr": {"one": options}}})
        code, _, err = recviz_command("study", "--config", "study.yaml", "--folder", "s")
        assert code == 2
        assert "s/one was begun with other settings: give another --folder, or remove it" in err


def test_options_for_every_trial_count_unless_they_say_where_or_on_what() -> None:
    write(STUDY)
    study = read_study(Path("study.yaml"))

    def settings(*extra: str) -> object:
        return identity(trials(study, Path("s"), list(extra))[0])

    assert settings("--data.root", "here", "--trainer.devices=2", "--data.num_workers", "3") == settings()
    assert settings("--trainer.max_epochs", "20") != settings()
    assert settings("--data.root", "here", "--model.base_lr=2") == settings("--model.base_lr=2") != settings()


@pytest.mark.parametrize(
    ("given", "dealt"), [("0,1,3", ["0", "1", "3", "0"]), ("GPU-a", ["GPU-a"] * 4), ("", [""] * 4)]
)
def test_the_gpus_that_a_job_was_given_are_dealt_out(
    given: str, dealt: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert dealt_gpus(4) == dealt
    assert dealt_gpus(1) == [given]


@pytest.mark.slow
def test_a_trial_that_fails_is_named_and_the_others_run(recviz_command: Command) -> None:
    grid = {"lr": {"good": {}, "bad": {"model.base_lr": -1}}}
    write({**STUDY, "grid": grid})
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--folder", "s")
    assert code == 1
    assert "bad: recviz: error: base_lr and warmup_epochs must not be negative" in out
    assert "1 job failed (bad): the logs are in s/jobs" in out
    assert re.search(r"^good  ", out, re.M)
    assert not Path("s/bad").exists()


@pytest.mark.slow
def test_an_array_of_jobs(recviz_command: Command) -> None:
    """submitit's own local kind of job, which starts processes as SLURM would."""
    grid = {"lr": {"one": {}, "bad": {"model.base_lr": -1}}}
    write({**STUDY, "grid": grid, "slurm": {"cluster": "local", "timeout_min": 5}})
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--folder", "s", "--launcher", "slurm")
    assert code == 1
    assert "one: done" in out
    assert "bad: recviz: error" in out
    assert Path("s/one/results.json").is_file()


def test_dry_run_and_options_for_every_trial(recviz_command: Command) -> None:
    write(STUDY)
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--dry_run", "true", "--data.seed", "3")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("recviz fit --config quickstart.yaml ") and "--data.seed 3" in line for line in lines)
    assert "--model recviz.SimCLR --model.temperature 0.2" in lines[2]
    assert lines[0].endswith("--run_dir runs/study/vicreg-half")
    assert not Path("runs").exists()


def test_each_trial_is_repeated_with_the_seeds(recviz_command: Command) -> None:
    write({**STUDY, "seeds": [0, 7]})
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--dry_run", "true")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 8
    assert "--seed_everything 7" in lines[1]
    assert lines[1].endswith("--run_dir runs/study/vicreg-half-seed7")


def test_a_study_of_seeds_alone(recviz_command: Command) -> None:
    write({"base": "quickstart.yaml", "seeds": [3, 4]})
    code, out, _ = recviz_command("study", "--config", "study.yaml", "--dry_run", "true")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["runs/study/seed3", "runs/study/seed4"]


def test_options_without_a_dot_go_to_every_run(recviz_command: Command) -> None:
    write(STUDY)
    given = ["--seed_everything", "3", "--compile", "true", "--keep_every_n_epochs=2"]
    code, out, err = recviz_command("study", "--config", "study.yaml", *given, "--dry_run", "true")
    assert code == 0, err
    assert all(" ".join(given) in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        (None, [], "no recipe study.yaml"),
        (STUDY, ["--jobs", "0"], "--jobs must be at least 1"),
        (STUDY, ["--job", "2"], "--job"),
        ("text", [], "study.yaml is not a study"),
        ({**STUDY, "grids": {}}, [], "it has no key 'grids'"),
        ({"base": "quickstart.yaml"}, [], "no key 'grid'"),
        ({**STUDY, "base": "nowhere.yaml"}, [], "no recipe nowhere.yaml"),
        ({**STUDY, "grid": {}}, [], "grid needs axes"),
        ({**STUDY, "grid": {"a": {"x": {}}, "b": {"x": {}}}}, [], "of different names"),
        ({**STUDY, "grid": {"a": {"../x": {}}}}, [], "is not the name of a file"),
        ({**STUDY, "grid": {"a": ["x"]}}, [], "is not a study"),
        ({**STUDY, "grid": {"a": {"x": {}, "x-y": {}}, "b": {"z": {}, "y-z": {}}}}, [], "x-y-z twice"),
        ({**STUDY, "probe": {"save": "x.ckpt"}}, [], "probe: save is the study's own"),
        ({**STUDY, "seeds": 3}, [], "seeds must be a list of whole numbers, each once"),
        ({**STUDY, "seeds": [True]}, [], "seeds must be a list of whole numbers, each once"),
        ({**STUDY, "seeds": [0, 0]}, [], "seeds must be"),
        ({**STUDY, "seeds": [0, 1]}, ["--seed_everything", "3"], "--seed_everything is set by the study's seeds"),
        (STUDY, ["--folder", "study.yaml"], "cannot write to study.yaml"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, content: object, args: list[str], said: str) -> None:
    if content is not None:
        write(content)
    code, _, err = recviz_command("study", "--config", "study.yaml", *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_folder_in_use_and_a_machine_without_slurm(recviz_command: Command) -> None:
    write(STUDY)
    assert recviz_command("study")[0] == 2
    Path("s").mkdir()
    with FileLock("s/study.lock"):
        code, _, err = recviz_command("study", "--config", "study.yaml", "--folder", "s")
    assert code == 2
    assert "another study runs in s" in err
    code, _, err = recviz_command("study", "--config", "study.yaml", "--folder", "s", "--launcher", "slurm")
    assert code == 2
    assert "recviz: error: --launcher slurm: " in err


def test_a_trial_that_runs_already_is_left_alone(tmp_path: Path) -> None:
    """Its process holds the lock, also when the study that started it is gone."""
    write(STUDY)
    trial = trials(read_study(Path("study.yaml")), Path("s"), [])[0]
    Path("s").mkdir()
    with FileLock("s/vicreg-half.lock"):
        assert run_trial(trial) == "it is running already"


@pytest.mark.slow
def test_a_study_that_is_told_to_stop_takes_its_runs_along(tmp_path: Path) -> None:
    write({**STUDY, "options": {**STUDY["options"], "trainer.max_epochs": 5000}})  # type: ignore[dict-item]
    command = [sys.executable, "-m", "recviz", "study", "--config", "study.yaml", "--folder", "s"]
    study = subprocess.Popen(command, start_new_session=True)
    try:
        waited_until = time.monotonic() + 120
        while not Path("s/vicreg-half/checkpoints/last.ckpt").exists() and time.monotonic() < waited_until:
            assert study.poll() is None
            time.sleep(0.1)
        study.send_signal(signal.SIGTERM)  # to the study alone
        assert study.wait(timeout=60) == 130
    finally:
        study.kill()
        study.wait()
    (log,) = Path("s/jobs").glob("*_log.out")
    assert "stopped by SIGTERM" in log.read_text()
    assert not Path("s/vicreg-half/study.json").exists()
