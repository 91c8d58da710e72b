"""`recviz export`: the backbone of a run for other programs."""

from __future__ import annotations

from pathlib import Path

from recviz.commands.parsing import new_parser, parse
from recviz.errors import InputError
from recviz.progress import working
from recviz.reports.compare import metric_text
from recviz.reports.export import SUFFIXES, card_path, export
from recviz.runs.checkpoints import read_backbone
from recviz.runs.folder import RunFolder, newest_checkpoint
from recviz.runs.rows import read_rows

DESCRIPTION = """Export a backbone as weights (state_dict, safetensors, timm) or as a program (onnx, torch_export) that
takes images in 0..1 and normalises them itself. A model card beside it says how to load it.

The default is the newest run below ./runs. The export is read back and its features are compared."""


def run(argv: list[str]) -> None:
    """Parse, write, check, and print the path."""
    parser = new_parser("export", DESCRIPTION)
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="a run folder or its checkpoint")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="safetensors", help="default: safetensors")
    parser.add_argument("--out", type=str | None, default=None, help="the file (timm: the folder)")
    config = parse(parser, argv)
    source = Path(config.ckpt_path or newest_checkpoint())
    out = Path(config.out or f"backbone{SUFFIXES[config.format] or '-timm'}")
    if SUFFIXES[config.format] and out.suffix != SUFFIXES[config.format]:
        raise InputError(f"--out must end in {SUFFIXES[config.format]} for --format {config.format}, got {out}")
    if config.format == "timm" and out.is_file():
        raise InputError(f"--out {out} is a file, and timm needs a folder")
    if out.is_dir() and SUFFIXES[config.format]:
        raise InputError(f"--out {out} is a folder")
    backbone, origin = read_backbone(source)
    with working(f"writing {out}"):
        difference = export(backbone, origin, config.format, out, figures(source))
    print(f"{source}: {config.format} in {out}, its card in {card_path(out, config.format)}")
    print(f"read back, features differ by {difference:.1e} at the most")


def figures(source: Path) -> list[str]:
    """Results of the run's results.json and metrics, as lines of Markdown."""
    folder = RunFolder(source) if source.is_dir() else RunFolder.of(source)
    if not folder.exists:  # a checkpoint outside its run, or an exported file
        return []
    return [
        f"- {run.group.title}: {', '.join(f'{name} {metric_text(value)}' for name, value in run.metrics.items())}"
        for run in read_rows(folder.path)
        if run.kind == "run" and run.metrics
    ]
