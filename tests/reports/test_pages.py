"""The pages of `recviz embed` in a browser: thumbnails under the pointer, nothing asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from recviz.reports import gallery, projections
from recviz.reports.embedding import Embedded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ["one.jpg", "</script><b>two", "three.jpg", "four.jpg"]
POINT = """
<script>
const box = document.querySelector("canvas").getBoundingClientRect(), scale = box.width / 1600;
document.querySelectorAll("button")[1].click();
const [x, y] = content.places["t-SNE"][1];
const at = {clientX: box.left + (20 + x * 0.156) * scale, clientY: box.top + (1580 - y * 0.156) * scale};
document.querySelector("canvas").dispatchEvent(new PointerEvent("pointermove", at));
const said = document.createElement("pre");
said.textContent = [tip.hidden, tip.textContent, tip.querySelector("i").style.background.includes("data:image/jpeg"),
  performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length].join("|");
document.body.append(said);
</script>
"""


def embedded() -> Embedded:
    thumbnails = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 40, 40) * 60
    return Embedded(torch.randn(4, 5), torch.tensor([0, 1, 0, 1]), NAMES, ["cat", "<i>dog"], thumbnails)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_pointer_shows_an_image(tmp_path: Path) -> None:
    places = {"PCA": torch.rand(4, 2), "t-SNE": torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])}
    page = projections.page(places, embedded())
    (tmp_path / "page.html").write_text(page.replace("</body>", POINT + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", f"file://{tmp_path / 'page.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (said,) = re.findall(r"<pre>(.*?)</pre>", done.stdout)
    assert said == "false|&lt;i&gt;dog &lt;/script&gt;&lt;b&gt;two|true|0"
    assert "CONSOLE" not in done.stderr, done.stderr


def test_the_gallery_shows_names_as_text() -> None:
    page = gallery.page(embedded(), {1: 0.5})
    assert "<i>dog" not in page
    assert "<b>two" not in page
    assert "50.0% at 1" in page
    assert page.count("<tr>") == 4
