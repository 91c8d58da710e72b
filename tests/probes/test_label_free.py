"""Quality without labels: each number against its formula and on known spectra, and the protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from PIL import Image
from torch import Tensor

from recviz import PatternsDataModule
from recviz.backbones import resnet18
from recviz.probes.spectra import alpha_req, lidar, rankme, spread

Command = Callable[..., tuple[int, str, str]]


def rows(n: int, variances: Tensor, seed: int = 0) -> Tensor:
    """Rows [n, D] whose covariance has exactly these eigenvalues, in random directions, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    d = len(variances)
    z = torch.randn(n, d, dtype=torch.float64, generator=generator)
    white = torch.linalg.qr(z - z.mean(dim=0)).Q * math.sqrt(n - 1)
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator)).Q
    return white * variances.sqrt() @ rotation + 3


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("width", [8, 60, 150])
def test_alpha_of_a_power_law_is_its_exponent(alpha: float, width: int) -> None:
    z = rows(400, torch.arange(1, width + 1, dtype=torch.float64) ** -alpha)
    assert alpha_req(z).item() == pytest.approx(alpha, abs=1e-6)


def test_alpha_is_the_weighted_fit_of_ranks_4_to_100() -> None:
    values = (
        torch.rand(130, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).sort(descending=True).values
    )
    ranks = np.arange(4, 101)
    slope, _ = np.polyfit(np.log(ranks), np.log(values[3:100].numpy()), 1, w=np.sqrt(1 / ranks))
    assert alpha_req(rows(300, values)).item() == pytest.approx(-slope, rel=1e-7)


def test_alpha_of_few_directions_is_unknown() -> None:
    assert math.isnan(alpha_req(rows(50, torch.ones(5, dtype=torch.float64))).item())
    assert math.isnan(alpha_req(torch.ones(20, 40)).item())


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rankme_of_equal_singular_values_is_their_number(rank: int) -> None:
    z = torch.linalg.qr(torch.randn(50, rank, generator=torch.Generator().manual_seed(0))).Q @ torch.eye(rank, 12)
    assert rankme(z).item() == pytest.approx(rank, rel=1e-4)


def textbook_lidar(z: Tensor, delta: float) -> float:
    """Equations 1 to 4 of the paper, with explicit matrices."""
    n, q, d = z.shape
    means = [view.mean(dim=0) for view in z]
    mean = torch.stack(means).mean(dim=0)
    between = sum(torch.outer(m - mean, m - mean) for m in means)
    within = delta * torch.eye(d, dtype=z.dtype)
    for image, m in zip(z, means, strict=True):
        for view in image:
            within += torch.outer(view - m, view - m) / (n * (q - 1))
    values, vectors = torch.linalg.eigh(within)
    root = vectors * values.rsqrt() @ vectors.T
    eigen = torch.linalg.eigvalsh(root @ between @ root).clamp(min=0)
    shares = eigen / eigen.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


@pytest.mark.parametrize(("n", "q", "d"), [(20, 4, 6), (5, 2, 9), (40, 3, 3)])
@pytest.mark.parametrize("delta", [1e-4, 0.3])
def test_lidar_is_the_textbook_one(n: int, q: int, d: int, delta: float) -> None:
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(n, 1, d, dtype=torch.float64, generator=generator) * torch.arange(1, d + 1)
    z = z + torch.randn(n, q, d, dtype=torch.float64, generator=generator) + 2
    assert lidar(z, delta).item() == pytest.approx(textbook_lidar(z, delta), rel=1e-6)


def test_lidar_ignores_directions_in_which_only_the_views_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 1, 4, generator=generator).expand(-1, 10, -1)
    noise = torch.randn(200, 10, 4, generator=generator)
    both = torch.cat([images + 0.1 * noise, 30 * torch.randn(200, 10, 4, generator=generator)], dim=2)
    assert lidar(both).item() == pytest.approx(4, abs=0.2)
    assert rankme(both.flatten(0, 1)).item() > 4.3


def test_spread_of_a_point_and_of_the_sphere() -> None:
    assert spread(torch.ones(10, 8)).item() == 0
    assert spread(torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))).item() == pytest.approx(
        1, abs=0.01
    )


PROBE = ["probe", "--protocol", "label-free", "--results", "r.json", "--backbone", "recviz.backbones.resnet18"]
PROBE += ["--backbone.stem", "cifar", "--backbone.width", "0.125"]


SMALL = "--data recviz.PatternsDataModule --data.train_size 100 --data.val_size 20"


def test_the_command_needs_no_labels(recviz_command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(30):
        Image.fromarray(np.random.default_rng(i).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    data = "--data recviz.ImageFolderDataModule --data.num_workers 0 --data.views.size 32 --data.root"
    code, out, err = recviz_command(*PROBE, *data.split(), str(folder), "--lidar_images", "20", "--lidar_views", "3")
    assert (code, err) == (0, "")
    (result,) = json.loads(Path("r.json").read_text())
    assert set(result["metrics"]) == {"rankme", "alpha_req", "lidar", "spread"}
    assert result["training"] == {"images": 30, "lidar_images": 20, "lidar_views": 3}
    assert 1 < result["metrics"]["rankme"] <= 30
    assert "rank of what tells images apart, of 19" in out


def test_the_numbers_are_those_of_the_features_and_the_same_each_time(recviz_command: Command) -> None:
    data = f"{SMALL} --lidar_images 30 --lidar_views 4".split()
    codes = [recviz_command(*PROBE, *data)[0] for _ in range(2)]
    first, second = json.loads(Path("r.json").read_text())
    assert codes == [0, 0]
    assert first["metrics"] == second["metrics"]
    module = PatternsDataModule(train_size=100, val_size=20)
    module.setup("validate")
    seed_everything(0, verbose=False)
    backbone = resnet18(stem="cifar", width=0.125).eval()
    images = torch.stack([module.train.images.images[i] for i in range(100)])
    with torch.no_grad():
        features = backbone(module.preparation(images))
    assert first["metrics"]["rankme"] == pytest.approx(rankme(features).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--lidar_views 1", "at least 2 images and 2 views"),
        ("--save x.ckpt", "fits no classifier that --save could keep"),
        ("--crops 2", "--crops is not a setting of --protocol label-free"),
    ],
)
def test_refusals(recviz_command: Command, options: str, said: str) -> None:
    code, _, err = recviz_command(*PROBE, "--config", "quickstart.yaml", "--data.train_size", "20", *options.split())
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(recviz_command: Command) -> None:
    data = [
        "--data",
        "recviz.PatternsDataModule",
        "--data.train_size",
        "101",
        "--data.val_size",
        "20",
        "--data.batch_size",
        "16",
    ]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    assert [recviz_command(*PROBE, *data, *more)[0] for more in ([], two)] == [0, 0]
    one, both = json.loads(Path("r.json").read_text())
    assert both["training"] == one["training"] == {"images": 101, "lidar_images": 101, "lidar_views": 16}
    for name in ("rankme", "alpha_req", "spread"):
        assert both["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-3)
    assert both["metrics"]["lidar"] == pytest.approx(one["metrics"]["lidar"], rel=0.15), "of other views"
