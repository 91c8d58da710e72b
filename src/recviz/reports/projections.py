"""Features in two dimensions: PCA, t-SNE and, if installed, UMAP."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor

from recviz.files import whole_file
from recviz.launch.machine import torch_threads
from recviz.reports.embedding import THUMBNAIL, Embedded, others, sprite
from recviz.reports.page import plotly, rendered
from recviz.reports.plots import literal, panels


def project(features: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Positions [N, 2] in 0..1, by method.

    Features are normalised to length 1, as for k-NN. t-SNE and UMAP start from 50 principal components.

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
        with warnings.catch_warnings(), torch_threads():
            warnings.simplefilter("ignore")
            import umap

            reducer = umap.UMAP(n_neighbors=max(2, min(15, count - 1)), random_state=seed, init="random")
            found["UMAP"] = reducer.fit_transform(components)
    return {name: _unit(torch.as_tensor(place, dtype=torch.float32)) for name, place in found.items()}


def _unit(places: Tensor) -> Tensor:
    low, high = places.aminmax(dim=0)
    return (places - low) / (high - low).clamp(min=1e-12)


def class_colors(count: int) -> list[str]:
    """A colour for each class: from matplotlib's tab10 or tab20, or the colour circle for more classes."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "hsv"]
    return [to_hex(colors(place if count <= 20 else place / count)) for place in range(count)]


def draw(places: dict[str, Tensor], embedded: Embedded, source: str, path: Path) -> None:
    """Draw one panel per method of `project`, coloured by class."""
    figure, axes = panels(len(places), width=5, height=5.2, columns=3)
    colors = class_colors(len(embedded.class_names))
    color = "#3274a1" if embedded.labels is None else [colors[label] for label in embedded.labels.tolist()]
    for place, (name, at) in zip(axes, places.items(), strict=True):
        place.scatter(at[:, 0], at[:, 1], s=6, c=color, linewidths=0)
        place.set(title=name, xticks=[], yticks=[])
    what = f"{source}: {len(embedded.names):,} images"
    if embedded.labels is not None:
        what += f" of {len(colors)} classes"
        if len(colors) <= 20:
            for label, name in enumerate(embedded.class_names):
                axes[0].scatter([], [], s=20, color=colors[label], label=literal(name))
            figure.legend(loc="outside right center", fontsize="small")
    figure.suptitle(literal(what))
    with whole_file(path) as part:
        figure.savefig(part, dpi=130)


def page(places: dict[str, Tensor], embedded: Embedded, source: str, k: int = 10) -> str:
    """A page of the projections: images under the pointer, neighbours of a pressed one, selections, classes."""
    style, across = sprite(embedded.thumbnails)
    count = len(embedded.names)
    nearest = others(embedded.features, min(k, count - 1))
    content = {
        "places": {name: at.mul(10000).round().int().tolist() for name, at in places.items()},
        "labels": None if embedded.labels is None else embedded.labels.tolist(),
        "classes": embedded.class_names,
        "colors": class_colors(len(embedded.class_names)),
        "names": [embedded.name(index) for index in range(count)],
        "nearest": nearest.indices.tolist(),
        "similarities": [[round(value, 3) for value in row] for row in nearest.similarities.tolist()],
        "across": across,
        "side": THUMBNAIL,
    }
    return rendered(
        "projection",
        title=f"Features in two dimensions: {source}",
        count=f"{count:,}",
        classes=embedded.labels is not None,
        methods=list(places),
        content=content,
        plotly=plotly(),
        **style,
    )
