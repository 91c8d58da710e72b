"""Features in two dimensions: PCA, t-SNE and, where it is installed, UMAP."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recviz.files import whole_file
from recviz.reports.embedding import THUMBNAIL, Embedded, sprite
from recviz.reports.gallery import HEAD


def project(features: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Positions [N, 2] in 0..1, by method.

    The features are scaled to length 1, as k-NN sees them. t-SNE and UMAP start from 50 principal components.

    Args:
        features: [N, D], N at least 3.
        seed: of t-SNE and UMAP.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = torch.nn.functional.normalize(features, dim=1).numpy()
    count, width = rows.shape
    components = PCA(min(50, width, count), random_state=seed).fit_transform(rows)
    perplexity = max(1.0, min(30.0, (count - 1) / 3))
    found = {
        "PCA": components[:, :2],
        "t-SNE": TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components),
    }
    if importlib.util.find_spec("umap") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap

            reducer = umap.UMAP(n_neighbors=max(2, min(15, count - 1)), random_state=seed, init="random")
            found["UMAP"] = reducer.fit_transform(components)
    return {name: _unit(torch.as_tensor(place, dtype=torch.float32)) for name, place in found.items()}


def _unit(places: Tensor) -> Tensor:
    low, high = places.aminmax(dim=0)
    return (places - low) / (high - low).clamp(min=1e-12)


def draw(places: dict[str, Tensor], embedded: Embedded, path: Path) -> None:
    """One panel a method, coloured by class."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(places), 5), layout="constrained")
    labels = embedded.labels
    many = len(embedded.class_names) > 20
    colors: Any = None if labels is None else colormaps["hsv" if many else "tab20"](
        labels.numpy() / max(1, len(embedded.class_names) - 1) if many else labels.numpy()
    )  # fmt: skip
    for place, (name, at) in enumerate(places.items(), start=1):
        axes = figure.add_subplot(1, len(places), place)
        axes.scatter(at[:, 0], at[:, 1], s=6, c=colors, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
    if labels is not None and not many:
        for label, name in enumerate(embedded.class_names):
            axes.scatter([], [], s=20, color=colormaps["tab20"](label), label=name.replace("$", r"\$"))
        figure.legend(loc="outside right center", fontsize="small")
    with whole_file(path) as part:
        figure.savefig(part, dpi=130)


def page(places: dict[str, Tensor], embedded: Embedded) -> str:
    """A page of the projections, with each image's thumbnail under the pointer."""
    address, across = sprite(embedded.thumbnails)
    count = len(embedded.names)
    content = {
        "places": {name: at.mul(10000).round().int().tolist() for name, at in places.items()},
        "labels": None if embedded.labels is None else embedded.labels.tolist(),
        "classes": embedded.class_names,
        "names": embedded.names,
        "across": across,
        "side": THUMBNAIL,
    }
    text = json.dumps(content).replace("<", "\\u003c")  # nothing in a name ends the script
    buttons = "".join(f'<button type="button">{name}</button>' for name in places)
    return (
        HEAD.replace("<!--title-->", "recviz embed: projections")
        + f"<p>{buttons} {count:,} images; point at one to see it.</p>"
        + '<div id="plot"><canvas width="1600" height="1600"></canvas><div id="tip"><i></i><span></span></div></div>'
        + f'<script>"use strict";const content = {text}, sprite = "{address}";{_SCRIPT}</script></body></html>'
    )


_SCRIPT = """
const canvas = document.querySelector("canvas"), brush = canvas.getContext("2d"), tip = document.getElementById("tip");
const color = label => label === null ? "#3274a1" : `hsl(${label * 360 / Math.max(1, content.classes.length)} 70% 50%)`;
const labelOf = index => content.labels === null ? null : content.labels[index];
let places = [];
function draw(method) {
  places = content.places[method];
  brush.clearRect(0, 0, 1600, 1600);
  places.forEach(([x, y], index) => {
    brush.fillStyle = color(labelOf(index));
    brush.beginPath();
    brush.arc(20 + x * 0.156, 1580 - y * 0.156, 5, 0, 7);
    brush.fill();
  });
  for (const button of document.querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.textContent === method);
}
canvas.addEventListener("pointermove", event => {
  const box = canvas.getBoundingClientRect(), scale = 1600 / box.width;
  const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
  let best = -1, nearest = 900;
  places.forEach(([x, y], index) => {
    const distance = (20 + x * 0.156 - px) ** 2 + (1580 - y * 0.156 - py) ** 2;
    if (distance < nearest) { nearest = distance; best = index; }
  });
  tip.hidden = best < 0;
  if (best < 0) return;
  const side = content.side, picture = tip.querySelector("i");
  const x = best % content.across, y = Math.floor(best / content.across);
  picture.style.background = `url(${sprite}) ${-x * side}px ${-y * side}px`;
  picture.style.width = picture.style.height = side + "px";
  const label = labelOf(best);
  tip.querySelector("span").textContent = (label === null ? "" : content.classes[label] + " ") + content.names[best];
  tip.style.left = Math.min(event.clientX - box.left + 12, box.width - 150) + "px";
  tip.style.top = event.clientY - box.top + 12 + "px";
});
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => draw(button.textContent));
tip.hidden = true;
draw(Object.keys(content.places)[0]);
"""
