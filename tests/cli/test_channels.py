"""Images of four channels in 16 bits from the first command to the last."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import recviz
import recviz.cli
from recviz import Reading

Command = Callable[..., tuple[int, str, str]]
READING = Reading(4, (0, 10_000))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/<class>/*.npy of 12×12 pixels, and a run of one epoch."""
    root, draw = tmp_path_factory.mktemp("channels"), np.random.default_rng(0)
    for label in range(2):
        (root / f"images/{label}").mkdir(parents=True)
        for i in range(12):
            values = draw.integers(0, 5000, size=(4, 12, 12)) + 4000 * label
            np.save(root / f"images/{label}/{i:02}.npy", values.astype(np.uint16))
    assert recviz.cli.main([*fit(root), "--run_dir", str(root / "run")]) == 0
    return root


def fit(root: Path, data: str = "images") -> list[str]:
    reading = ["--data.reading.channels", "4", "--data.reading.value_range", "[0, 10000]"]
    network = ["--model.backbone.in_channels", "4", "--model.backbone.widths", "[8]", "--model.backbone.features", "16"]
    views = ["--data.views.size", "12", "--data.views.growth", "[[0, 8, 2], [0.5, 12, 2]]", "--data.memory_size", "12"]
    short = ["--trainer.max_epochs", "1", "--model.warmup_epochs", "0", "--model.projector_dims", "[16, 16]"]
    short += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--data.batch_size", "8"]
    return ["fit", "--config", "satellite.yaml", "--data.root", str(root / data), *reading, *network, *views, *short]


def test_the_run_keeps_reading_and_measured_normalisation(trained: Path) -> None:
    found = recviz.load_backbone(trained / "run").preparation
    assert found.reading == READING
    files = sorted((trained / "images").rglob("*.npy"))
    values = np.stack([np.load(path) for path in files]) / 10_000
    assert found.mean == pytest.approx(values.mean(axis=(0, 2, 3)), abs=0.02)  # of the training part
    about = json.loads((trained / "run/run.json").read_text())
    assert any("measured on the training images" in note for note in about["data"]["notes"])
    assert about["gflops"] > 0


def test_probe_predict_embed_and_neighbours_read_as_the_run_did(trained: Path, recviz_command: Command) -> None:
    run, images = str(trained / "run"), str(trained / "images")
    code, _, err = recviz_command("probe", "--ckpt_path", run, "--save", "probe.ckpt")
    assert code == 0, err
    code, _, err = recviz_command("probe", "--ckpt_path", run, "--protocol", "label-free")
    assert code == 0, err
    embed = ("embed", "--ckpt_path", run, "--split", "train", "--out")
    assert recviz_command(*embed, "own")[0] == 0
    assert "channels 0, 1, 2 of 4, mean ± 2 std" in Path("own/projection.html").read_text()
    assert recviz_command(*embed, "other", "--shown", "[3, 1, 0]")[0] == 0
    assert "channels 3, 1, 0 of 4, mean ± 2 std" in Path("other/neighbours.html").read_text()
    assert recviz_command(*embed, "other", "--data.reading.shown", "[2]")[0] == 0
    assert "channel 2 of 4, mean ± 2 std" in Path("other/neighbours.html").read_text()
    code, _, err = recviz_command(*embed, "wrong", "--shown", "[4]")
    assert code == 2
    assert "reading.shown must be one or three of the channels 0 to 3, got [4]" in err.replace("\n", " ")
    code, _, err = recviz_command("predict", images, "--ckpt_path", "probe.ckpt", "--out", "out.csv")
    assert code == 0, err
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    right = sum(Path(row["image"]).parent.name == row["class"] for row in rows)
    assert right >= 22  # the classes differ in brightness
    query = str(trained / "images/0/00.npy")
    arguments = ("--images", images, "--query", query, "--k", "3", "--out", "like.png", "--shown", "[2]")
    code, _out, err = recviz_command("neighbours", "--ckpt_path", run, *arguments)
    assert code == 0, err
    assert Path("like.png").stat().st_size > 0


def test_another_folder_of_other_channels_is_one_line(trained: Path, recviz_command: Command, tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((3, 12, 12), dtype=np.uint16))
    run = str(trained / "run")
    code, _, err = recviz_command("embed", "--ckpt_path", run, "--images", str(tmp_path), "--out", "look")
    assert code == 2
    assert "none of 3 images can be read" in err.replace("\n", " ")
    assert "it has 3 channels, and data.reading.channels is 4" in err.replace("\n", " ")
    code, _, err = recviz_command(*fit(trained), "--model.backbone.in_channels", "3", "--run_dir", "other")
    assert code == 2
    assert "takes images of 3 channels, and these have 4: set the backbone's in_channels" in err
    code, _, err = recviz_command(*fit(trained), "--data.reading.channels", "5", "--run_dir", "other")
    assert code == 2
    assert ".npy: it has 4 channels, and data.reading.channels is 5: set it to 4" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("form", "name"), [("safetensors", "b.safetensors"), pytest.param("torch_export", "b.pt2", marks=pytest.mark.slow)]
)
def test_the_model_card_s_program_runs(trained: Path, recviz_command: Command, form: str, name: str) -> None:
    image = str(trained / "images/0/00.npy")
    code, _, err = recviz_command("export", "--ckpt_path", str(trained / "run"), "--format", form, "--out", name)
    assert code == 0, err
    card = next(path for path in (Path(name).with_suffix(".md"), Path(f"{name}.md")) if path.is_file()).read_text()
    assert "4; values from 0 to 10000 become 0 to 1" in card
    program = card.partition("```python\n")[2].partition("```")[0].replace("image.tif", image)
    Path("program.py").write_text(f"{program}\ntorch.save(features, 'features.pt')")
    subprocess.run([sys.executable, "program.py"], check=True)
    backbone = recviz.load_backbone(trained / "run")
    expected = backbone(backbone.preparation(recviz.read_image(image, 12, READING)[None]))
    torch.testing.assert_close(torch.load("features.pt"), expected.detach(), rtol=1e-4, atol=1e-4)


def test_packed_images_are_the_same(trained: Path, recviz_command: Command) -> None:
    reading = ("--reading.channels", "4", "--reading.value_range", "[0, 10000]")
    code, _, err = recviz_command("pack", str(trained / "images"), "packed", *reading)
    assert code == 0, err
    views = recviz.Views.multichannel(12)
    packed = recviz.PackedDataModule("packed", views=views, batch_size=4, num_workers=0)
    plain = recviz.ImageFolderDataModule(
        str(trained / "images"), reading=READING, views=recviz.Views.multichannel(12), batch_size=4, num_workers=0
    )
    for data in (packed, plain):
        data.setup("fit")
    assert packed.preparation.reading == READING
    assert packed.preparation.mean == pytest.approx(plain.preparation.mean, abs=0.03)  # of other training parts
    assert packed.train is not None
    assert plain.train is not None
    sums = []
    for data in (packed, plain):
        splits = [split for split in (data.train, data.val) if split is not None]
        images = torch.cat([s.images.clean(torch.arange(len(s.images)), data.preparation) for s in splits])
        sums.append(images.flatten(1).double().sum(dim=1).sort().values)
    torch.testing.assert_close(*sums)


def test_a_resumed_run_has_the_same_reading(trained: Path, recviz_command: Command) -> None:
    run = str(trained / "run")
    changed = ("--allow_changes", "true", "--trainer.max_epochs")
    code, _, err = recviz_command("fit", "--resume", run, *changed, "2")
    assert code == 0, err
    assert "measured" in (trained / "run/config.yaml").read_text()
    code, _, err = recviz_command("fit", "--resume", run, *changed, "3", "--data.reading.shown", "[3, 2, 1]")
    assert code == 0, err
    code, _, err = recviz_command("fit", "--resume", run, *changed, "4", "--data.reading.value_range", "[0, 5000]")
    assert code == 2
    assert "data.reading" in err or "fingerprint" in err
