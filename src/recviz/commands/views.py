"""`recviz views`: a picture of a recipe's views, with the frequency and time of each step."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities import move_data_to_device
from torchvision.transforms.v2.functional import to_pil_image

from recviz.augment.picture import grid
from recviz.commands.job import options, parse_settings, quiet_lightning
from recviz.commands.parsing import instantiate
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.launch.machine import keep_compiled_code
from recviz.reports.views import StepReport, microseconds_per_view, step_reports

DESCRIPTION = "Draw the augmented views of a recipe and measure the time of each augmentation."


def run(argv: list[str]) -> None:
    """Draw views of the first batch of epoch 0, as training would; write the picture and print the table.

    Raises:
        InputError: invalid settings or data, or a datamodule that is not recviz's.
    """
    quiet_lightning()
    keep_compiled_code()
    parser = options("views", DESCRIPTION)
    parser.add_argument("--out", type=str, default="views.png", help="the picture (default: views.png)")
    parser.add_argument("--rows", type=int, default=8, help="images in the picture (default: 8)")
    config = parse_settings(parser, argv)
    only_data = Namespace(data=config.data)  # type: ignore[no-untyped-call]
    data, out, rows = instantiate(parser, only_data).data, Path(config.out), config.rows
    if not isinstance(data, DataModule):
        raise InputError(f"recviz views needs data of recviz, with views; got {type(data).__name__}")
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must end in .png, got {out}")
    if rows < 1:
        raise InputError(f"--rows must be at least 1, got {rows}")
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    split, sampler = data.train, data.train_dataloader().sampler
    assert split is not None  # after setup
    batch = data.batches(split)[next(iter(sampler))._replace(progress=1.0)]
    images, indices, seed = move_data_to_device(batch.images, device), batch.indices, batch.seed
    assert seed is not None  # of a training batch
    data.views.to(device)
    made = data.views(images, torch.Generator(device).manual_seed(seed))
    clean = split.images.clean(indices[:rows], data.preparation)
    names = [name for name, _, _ in data.views.each()]
    picture = grid(clean, [view.cpu() for view in made], data.preparation, rows, names)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(picture).save(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    generator = torch.Generator(device).manual_seed(seed)
    count = len(made) * len(indices)
    whole = microseconds_per_view(lambda: data.views(images, generator), count, device)
    print(f"{len(indices)} images of {type(data).__name__}, {len(made)} views each, on the {device.type}\n")
    print(table(step_reports(data.views, images, generator)))
    print(f"\nall together: {whole:.1f} µs a view, {1e6 / whole:,.0f} views/s")
    print(f"picture: {out}")


def table(reports: list[StepReport]) -> str:
    """One row per step and view."""
    lines = [f"{'view':<10}{'step':<16}{'fired':>8}{'µs/view':>10}"]
    for report in reports:
        fired = f"{report.fired:.1%}"
        lines.append(f"{report.view:<10}{report.step:<16}{fired:>8}{report.microseconds:>10.1f}")
    return "\n".join(lines)
