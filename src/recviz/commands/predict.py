"""`recviz predict`: classifies the images below a folder with a classifier of `recviz probe`."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch

from recviz.commands.parsing import new_parser, parse
from recviz.data.folder import LooseImages
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import whole_file
from recviz.progress import working
from recviz.reports.embedding import embed
from recviz.runs.classifiers import load_classifier

DESCRIPTION = """Classify the images below a folder by what `recviz probe --save PROBE.ckpt` wrote.

Writes a CSV with a row for each image: its path, the most likely class, and that class's probability. Unreadable
images are listed and left out."""


def run(argv: list[str]) -> None:
    """Parse, classify, write."""
    parser = new_parser("predict", DESCRIPTION)
    parser.add_argument("folder", type=str, metavar="FOLDER", help="the images")
    parser.add_argument("--ckpt_path", type=str, required=True, help="what recviz probe --save wrote")
    parser.add_argument("--out", type=str, default="predictions.csv", help="the CSV (default: predictions.csv)")
    config = parse(parser, argv)
    out = Path(config.out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder")
    with working("reading the checkpoint"):
        classifier = load_classifier(config.ckpt_path)
    data = DataModule(LooseImages(Path(config.folder), classifier.preparation.reading), batch_size=64, on_error="skip")
    embedded = embed(classifier.backbone, data, data.dataset.train(), classifier.preparation)
    with torch.no_grad():
        features = embedded.features.to(classifier.head.weight.dtype)
        likely = classifier.head(features).softmax(dim=1).max(dim=1)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "probability"])
            for index, (label, value) in enumerate(zip(likely.indices, likely.values, strict=True)):
                name = os.fsencode(embedded.names[index]).decode("utf-8", "backslashreplace")
                writer.writerow([name, classifier.class_names[int(label)], f"{float(value):.4f}"])
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    print(f"{len(embedded.names):,} images in {out}{embedded.left_out}")
