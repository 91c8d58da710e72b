"""The pages of `recviz embed` in a browser: images, neighbours and selections, nothing asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from recviz.reports import gallery, projections
from recviz.reports.embedding import Embedded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ["one.jpg", "</script><b>two", "three.jpg", "four.jpg"]
POINT = """
<script>
methods[1].click();
plot.emit("plotly_hover", {points: [{customdata: 1}], event: {clientX: 5, clientY: 5}});
const lines = [tip.hidden, tip.textContent, getComputedStyle(tip.querySelector("i")).backgroundImage.slice(0, 27),
  tip.querySelector("i").style.backgroundPosition];
plot.emit("plotly_click", {points: [{customdata: 1}]});
lines.push(document.getElementById("what").textContent, [...found.children].map(item => item.className).join(),
  [...found.children].map(item => item.title).join(), plot.data.at(-1).x.join());
plot.emit("plotly_selected", {points: [{customdata: 2}, {customdata: 3}]});
lines.push(document.getElementById("what").textContent, [...found.children].map(item => item.textContent).join());
lines.push([...document.querySelectorAll(".legendtext")].map(name => name.textContent).join());
lines.push(performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length);
document.body.append(Object.assign(document.createElement("pre"), {textContent: lines.join("\\n"), className: "said"}));
</script>
"""


def embedded() -> Embedded:
    thumbnails = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 40, 40) * 60
    return Embedded(
        torch.randn(4, 5), torch.tensor([0, 1, 0, 1]), NAMES, ["cat", "<i>dog"], thumbnails, torch.arange(4)
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_pointed_image_shows_a_pressed_one_its_neighbours_and_selected_ones_are_listed(tmp_path: Path) -> None:
    places = {"PCA": torch.rand(4, 2), "t-SNE": torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])}
    images = embedded()._replace(features=torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.4]]))
    page = projections.page(places, images, "runs/<a>")
    (tmp_path / "page.html").write_text(page.replace("</body>", POINT + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (said,) = re.findall(r'<pre class="said">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    hidden, tip, thumbnail, place, title, classes, names, ringed, selected, listed, legend, asked = unescape(
        said
    ).splitlines()
    assert (hidden, tip) == ("false", "<i>dog </script><b>two")  # dog is the second class, of images 1 and 3
    assert (thumbnail, place) == ('url("data:image/jpeg;base64', "-96px 0px")
    assert title == "Nearest to </script><b>two"
    assert names == "</script><b>two,one.jpg,four.jpg,three.jpg"
    assert classes == "query,other,,other"
    assert ringed == "5000,0,0,10000"
    assert (selected, listed) == ("2 selected", "catthree.jpg,<i>dogfour.jpg")
    assert legend == "cat,<i>dog"
    assert asked == "0"
    assert "<h1>Features in two dimensions: runs/&lt;a&gt;</h1>" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr


def test_the_gallery_shows_names_as_text() -> None:
    page = gallery.page(embedded(), "runs/<a>")
    assert "<i>dog" not in page
    assert "<b>two" not in page
    assert page.count("<tr>") == 1 + 4  # the heading and four queries
    assert "<title>Nearest neighbours: runs/&lt;a&gt;</title>" in page


def test_the_gallery_says_name_class_and_similarity() -> None:
    black = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    names, classes = ["a/b.jpg", "c", "d"], ["x", "y"]
    three = Embedded(torch.eye(3) + 0.5, torch.tensor([0, 0, 1]), names, classes, black, torch.arange(3))
    page = gallery.page(three, "run", rows=1)
    cells = re.findall(r"<td.*?</td>", page)
    lines = [re.findall(r"<small>(.*?)</small>", cell) for cell in cells]
    assert sorted(name for _, name, *_ in lines) == ["b.jpg", "c", "d"]
    assert [line[2:] for line in lines] == [[], ["0.636"], ["0.636"]]
    assert {name: label for label, name, *_ in lines} == {"b.jpg": "<b>x</b>", "c": "<b>x</b>", "d": "<b>y</b>"}
    assert re.findall(r'<th scope="col">(.*?)</th>', page) == ["query", "1", "2"]
    assert "image-rendering: pixelated" in page  # 32 pixels, enlarged to 96


def test_the_picture_of_neighbours_marks_the_query_and_wraps() -> None:
    white = torch.full((10, 3, 20, 20), 255, dtype=torch.uint8)
    names = ["q.jpg", *(f"folder/a-name-that-is-longer-than-a-tile-{index}.jpg" for index in range(9))]
    drawn = gallery.picture(white, names, [0.5] * 9)
    drawn.canvas.draw()
    query, first, *_, last = drawn.axes
    assert [query.get_title(), first.get_title()] == ["query", "0.500"]
    assert [query.get_frame_on(), first.get_frame_on()] == [True, False]
    assert query.get_position().y0 > last.get_position().y1
    words = [axes.xaxis.label.get_window_extent() for axes in (first, drawn.axes[2])]
    assert words[0].x1 < words[1].x0  # names reach no other


@pytest.mark.parametrize("count", [1, 2, 10, 11, 20, 21, 100])
def test_classes_have_colours_of_their_own(count: int) -> None:
    assert len(set(projections.class_colors(count))) == count


def test_the_projection_names_its_run_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **more: (figures.append(figure), save(figure, path)))
    projections.draw({"PCA": torch.rand(4, 2)}, embedded(), "runs/$a$", tmp_path / "p.png")
    assert figures[0].get_suptitle() == r"runs/\$a\$: 4 images of 2 classes"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["cat", "<i>dog"]
