"""Pages that ask nothing of the network; that of a comparison sorts, filters, and fits a phone."""

START = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
"""
"""How every page begins: it may load nothing from anywhere."""

PAGE = (
    START
    + """<title><!--title--></title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --published: #b35900; --below: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --published: #ffb366; --below: #ff8a7a; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 100rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { max-width: 13rem; } td.text { min-width: 7.5rem; } td:first-child { min-width: 8rem; max-width: 17rem; }
td small { display: block; white-space: nowrap; opacity: .75; }
tr.below td:nth-child(-n+3) { color: var(--below); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tr:hover td { background: var(--soft); }
tr.published td { color: var(--published); font-style: italic; }
tr.baseline td, tr.reference td { opacity: .75; }
td:first-child, th:first-child { position: sticky; left: 0; background: Canvas; }
input { font: inherit; padding: .3rem .5rem; width: min(100%, 22rem); }
figure { margin: 0 0 1rem; } figure h2 { margin-bottom: 0; } figcaption { margin-bottom: .4rem; }
figure svg { max-width: 100%; height: auto; background: #fff; }
</style>
</head>
<body>
<h1><!--title--></h1>
<p><label>Filter rows <input id="filter" type="search" placeholder="vicreg resnet18"></label>
<span id="count" role="status"></span></p>
<!--note-->
<!--tables-->
<p>Below an accuracy stands its 95% interval (Wilson) in percent, which follows from the number of test images alone.
GFLOPs are those of one image's forward pass, with a multiply and an add counted as one. Rows in italics were published
by others and not measured here. Chance is one over the number of classes. A run in red is not above chance, raw pixels
or its own backbone before training. Probes: "linear" is <code>recviz probe</code>; "closing" is measured once at the
end of training; "online" runs beside training and reads lower.</p>
<main><!--plots--></main>
<script>
"use strict";
const rows = [...document.querySelectorAll("tbody tr")];
const filter = document.getElementById("filter");
const count = document.getElementById("count");
function show() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.words.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${rows.length}`;
}
filter.addEventListener("input", show);
for (const heading of document.querySelectorAll("th")) {
  heading.querySelector("button").addEventListener("click", () => {
    const table = heading.closest("table"), column = [...heading.parentNode.children].indexOf(heading);
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.children[column].dataset.sort;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // unknown comes last, both ways
      const numbers = !isNaN(x) && !isNaN(y);
      return (numbers ? x - y : x.localeCompare(y, "en", {numeric: true})) * (up ? 1 : -1);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  });
}
show();
</script>
</body>
</html>
"""
)
