"""What two views cost, beside torchvision's, on one core; and their share of a training step.

    python benchmarks/views.py [--repeats 5] [--only TABLE]

Drawn images, the recipes' settings, random choices as in training. Each table's ways are timed by turns in one process;
a ratio is the median of the pairs' ratios. "PIL" is torchvision.transforms on PIL images as every peer uses it, then
ToTensor and Normalize; "v2" is torchvision.transforms.v2 on uint8 tensors, image by image. At 224 pixels the crops are
given and only what follows is timed, in batches of 32; torchvision's GaussianBlur on PIL images is slow, so PIL's own
filter, which the authors of VICReg use, stands beside it. Memory is the peak of the resident set beyond what was there
(Linux). The last table is on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peers.memory import peak_of
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms as pil
from torchvision.transforms import v2

from recviz import LARS, VICReg, View, Views
from recviz.augment.views import IMAGENET_MEAN, IMAGENET_STD
from recviz.backbones import resnet18
from recviz.data.patterns import draw_patterns
from recviz.optim.groups import parameter_groups

Way = Callable[[], object]


class PILBlur(nn.Module):
    """PIL's blur, with probability p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, image: Image.Image) -> Image.Image:
        """Blur, or not."""
        if torch.rand(()) >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2))))


def torchvision_view(view: View, size: int, kit: Any, crop: bool, pil_blur: bool = False) -> Any:
    """The view out of torchvision's classes; `kit` is torchvision.transforms or its v2."""
    steps: list[nn.Module] = []
    if crop:
        bicubic = kit.InterpolationMode.BICUBIC
        steps.append(kit.RandomResizedCrop(size, view.scale, view.ratio, interpolation=bicubic, antialias=True))
    jitter = kit.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    steps += [kit.RandomHorizontalFlip(view.flip), kit.RandomApply([jitter], view.jitter)]
    steps.append(kit.RandomGrayscale(view.grayscale))
    if view.blur:
        steps.append(PILBlur(view.blur) if pil_blur else kit.RandomApply([kit.GaussianBlur(23, (0.1, 2.0))], view.blur))
    if view.solarize:
        steps.append(kit.RandomSolarize(128, view.solarize))
    to_float = pil.ToTensor() if kit is pil else v2.ToDtype(torch.float32, scale=True)
    return kit.Compose([*steps, to_float, kit.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def one_by_one(images: list[Any], a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Two views of each image, as a loader's worker makes them."""
    return torch.stack([a(image) for image in images]), torch.stack([b(image) for image in images])


def timed(ways: dict[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, by turns, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times as long the slow way takes, median of pairs."""
    return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def report(ways: dict[str, Way], views: int, repeats: int, targets: dict[tuple[str, str], float | None]) -> None:
    """A table of one group of ways, and the ratios asked for."""
    times = timed(ways, repeats)
    print("| way | ms a view | views/s | peak MiB |\n|---|---|---|---|")
    for name, spent in times.items():
        median = statistics.median(spent)
        peak = peak_of(ways[name])
        print(f"| {name} | {median / views * 1e3:.4f} | {views / median:,.0f} | {peak:.0f} |")
    print("\n| | times faster | target |\n|---|---|---|")
    for (slow, fast), target in targets.items():
        print(f"| {fast}, against {slow} | {ratio(times, slow, fast):.1f} | {target or '-'} |")
    print(flush=True)


def pair(make: Callable[[], Views]) -> tuple[Views, Views]:
    """Step by step, and compiled."""
    eager, compiled = make(), make()
    eager.compiled, compiled.compiled = False, True
    return eager, compiled


def to_pil(images: Tensor) -> list[Image.Image]:
    """uint8 [N, 3, H, W] as PIL images."""
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def cifar(repeats: int) -> None:
    """Two views of 256 images of 32×32, from the image to the normalised tensor."""
    torch.set_num_threads(1)
    images = draw_patterns(torch.arange(256) % 10, torch.Generator().manual_seed(0))
    (eager, compiled), pictures = pair(Views.cifar), to_pil(images)
    make = {kit: torchvision_view(eager.a, 32, kit, crop=True) for kit in (pil, v2)}
    ways: dict[str, Way] = {
        "PIL": lambda: one_by_one(pictures, make[pil], make[pil]),
        "v2": lambda: one_by_one(list(images), make[v2], make[v2]),
        "recviz, step by step": lambda: eager(images),
        "recviz, compiled": lambda: compiled(images),
    }
    start = time.perf_counter()
    compiled(images)
    print(f"CIFAR recipe, 256 images, one core; compiling took {time.perf_counter() - start:.0f} s\n")
    targets: dict[tuple[str, str], float | None] = {
        ("PIL", "recviz, compiled"): 10,
        ("PIL", "recviz, step by step"): 4,
        ("v2", "recviz, compiled"): 15,
        ("v2", "recviz, step by step"): None,
    }
    report(ways, 512, repeats, targets)


def photometric(repeats: int) -> None:
    """What comes after the crop, on 224×224 pixels: the authors' two views."""
    torch.set_num_threads(1)
    small = draw_patterns(torch.arange(64) % 10, torch.Generator().manual_seed(0))
    crops = nn.functional.interpolate(small.float(), size=(224, 224), mode="bilinear").to(torch.uint8)
    pairs = crops.view(32, 2, 3, 224, 224)
    (eager, compiled), pictures = pair(Views.vicreg), to_pil(pairs[:, 0])
    make = partial(torchvision_view, size=224, crop=False)
    ways: dict[str, Way] = {
        "PIL": lambda: one_by_one(pictures, make(eager.a, kit=pil), make(eager.b, kit=pil)),
        "PIL with PIL's blur": lambda: one_by_one(
            pictures, make(eager.a, kit=pil, pil_blur=True), make(eager.b, kit=pil, pil_blur=True)
        ),
        "v2": lambda: one_by_one(list(pairs[:, 0]), make(eager.a, kit=v2), make(eager.b, kit=v2)),
        "recviz, step by step": lambda: eager(pairs),
        "recviz, compiled": lambda: compiled(pairs),
    }
    print("VICReg's views of 32 pairs of 224×224 crops, one core\n")
    targets: dict[tuple[str, str], float | None] = {
        (slow, fast): 4 if (slow, fast) == ("PIL", "recviz, compiled") else None
        for slow in ("PIL", "PIL with PIL's blur", "v2")
        for fast in ("recviz, step by step", "recviz, compiled")
    }
    report(ways, 64, repeats, targets)


def share(repeats: int) -> None:
    """The views' share of a step of ResNet-18 on CIFAR, bf16 and channels-last."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"share of a CIFAR ResNet-18 step on the {device.type}, {torch.get_num_threads()} threads\n")
    print("| batch | way | views, ms | step with them, ms | share | target |\n|---|---|---|---|---|---|")
    for batch in (256, 1024) if device.type == "cuda" else (256,):
        module = VICReg(resnet18("cifar"), (2048, 2048, 2048)).to(device)
        optimizer = LARS(parameter_groups(module), 0.1)
        images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8, device=device)
        for name, views in zip(("step by step", "compiled"), pair(Views.cifar), strict=True):
            views.to(device)
            ways: dict[str, Way] = {
                "views": partial(_finished, views, images),
                "step": partial(_finished, partial(step, module, optimizer, views), images),
            }
            spent = timed(ways, repeats)
            made, whole = (statistics.median(spent[key]) * 1e3 for key in ("views", "step"))
            target = "3%" if device.type == "cuda" else "2%"
            print(f"| {batch} | {name} | {made:.2f} | {whole:.1f} | {made / whole:.2%} | {target} |", flush=True)


def step(module: VICReg, optimizer: LARS, views: Views, images: Tensor) -> None:
    """Views, forward, backward, update."""
    made = views(images)
    with torch.autocast(images.device.type, torch.bfloat16):
        a, b = (module.projector(module.backbone(view)) for view in made)
    module.loss(a, b).total.backward()
    optimizer.step()
    optimizer.zero_grad()


def _finished(work: Callable[[Tensor], object], images: Tensor) -> None:
    work(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["cifar", "photometric", "share"], help="one table")
    args = parser.parse_args()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}\n")
    for name, table in {"cifar": cifar, "photometric": photometric, "share": share}.items():
        torch.set_num_threads(threads)
        if args.only in (None, name):
            table(args.repeats)
