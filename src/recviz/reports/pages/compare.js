"use strict";
const COLORS = ["#1f77b4", "#d95f02", "#1b9e77", "#c2268f", "#7570b3", "#8c6d00", "#17a2b8", "#d62728", "#5a9c1a", "#7f7f7f"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const pen = place => ({color: COLORS[place % 10], dash: DASHES[Math.floor(place / 10) % 4]});
/* A colour mixed with black (share below 0) or white. */
const shade = (color, share) => "#" + [1, 3, 5].map(at => {
  const value = parseInt(color.slice(at, at + 2), 16), to = share < 0 ? 0 : 255;
  return Math.round(value + (to - value) * Math.abs(share)).toString(16).padStart(2, "0");
}).join("");
/* The pens of lines with hues: each hue has a colour, the same in both charts, and its lines have shades and dashes. */
function pens(hues) {
  if (hues.some(hue => hue === null) || known.length < 2) return hues.map((_, place) => pen(place));
  return hues.map((hue, place) => {
    const same = hues.filter(other => other === hue).length, at = hues.slice(0, place).filter(other => other === hue).length;
    const color = shade(COLORS[known.indexOf(hue) % 10], same > 1 ? .5 * at / (same - 1) - .3 : 0);
    return {color, dash: DASHES[at % 4]};
  });
}
const literal = text => text.replaceAll("<", "&lt;");  // Plotly knows a few tags
const isShare = name => content.metrics[name] === "share";
const make = (tag, given) => Object.assign(document.createElement(tag), given);

function layout(x, y, log, share, aside, empty) {
  const ink = dark.matches ? "#ddd" : "#333", line = dark.matches ? "#444" : "#ddd";
  const axis = {gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true};
  return {
    font: {color: ink, family: "system-ui, sans-serif", size: 13}, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 55, r: 10, t: 28, b: 45}, hovermode: "closest", hoverlabel: {align: "left"},
    legend: aside ? {itemwidth: 30} : {orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, itemwidth: 30},
    showlegend: true,
    annotations: empty ? [{text: "not measured here", showarrow: false, xref: "paper", yref: "paper", x: .5, y: .5}] : [],
    xaxis: {...axis, title: {text: literal(x), standoff: 8}, ...(log ? {type: "log", tickvals: log} : {rangemode: "tozero"})},
    yaxis: {...axis, title: {text: literal(y)}, tickformat: share ? ".3~p" : ""},
  };
}
/* 1, 2 and 5 times the powers of ten. */
function ticks(traces) {
  const values = traces.flatMap(trace => trace.x).filter(value => value > 0);
  if (!values.length) return [1];
  const from = Math.floor(Math.log10(Math.min(...values))), to = Math.ceil(Math.log10(Math.max(...values)));
  return Array.from({length: to - from + 1}, (_, at) => [1, 2, 5].map(digit => digit * 10 ** (from + at))).flat();
}
/* What gives a run its colour: its method, or where all have one method its backbone, or else itself. */
const trained = content.runs.filter(run => run.kind === "run");
const several = name => new Set(trained.map(run => run[name])).size > 1;
const by = ["method", "backbone"].find(several) ?? "name";
const hue = run => run[by];
const known = [...new Set(trained.map(hue))];
const redraws = [];
const options = {showTips: false, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};

/* Whether the table's filter leaves a row of this run. */
const left = name => {
  const of = [...document.querySelectorAll("tbody tr")].filter(row => row.dataset.run === name);
  return !of.length || of.some(row => !row.hidden);
};

/* A chart with controls. `controls` name its choices, [[value, text], …] each; `drawn` gives traces and axes. */
function chart(id, controls, drawn) {
  const figure = document.getElementById(id), bar = figure.querySelector(".controls"), place = figure.querySelector(".chart");
  const chosen = {};
  const draw = () => {
    const {traces, x, y, log, share} = drawn(chosen);
    const entries = new Set(traces.map(trace => trace.name)).size;
    figure.classList.toggle("long", entries > 8);
    const aside = entries > 6 && place.clientWidth > 550;  // else below
    const size = {width: place.clientWidth, height: aside ? Math.max(430, Math.min(900, 40 + 27 * entries)) : 380 + 21 * Math.min(entries, 24)};
    Plotly.react(place, traces, {...layout(x, y, log && ticks(traces), share, aside, !traces.some(trace => trace.x.length)), ...size}, options);
  };
  for (const [name, [label, choices]] of Object.entries(controls)) {
    const box = make("label", {textContent: label + " "});
    if (choices === "check") {
      const input = make("input", {type: "checkbox"});
      input.addEventListener("change", () => { chosen[name] = input.checked; draw(); });
      chosen[name] = false;
      box.prepend(input);
    } else {
      const select = make("select");
      select.append(...choices.map(([value, text]) => make("option", {value, textContent: text})));
      select.addEventListener("change", () => { chosen[name] = select.value; draw(); });
      chosen[name] = select.value;
      box.append(select);
      box.hidden = choices.length < 2;
    }
    bar.append(box);
  }
  figure.hidden = false;
  redraws.push(draw);
  draw();
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    draw();
  }).observe(place);
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => Plotly.relayout(place, {"font.color": "#333"}));
  addEventListener("afterprint", draw);
}

/* Accuracy against a cost. */
const COSTS = [
  ["images", "pretraining images"], ["compute", "training compute, 10¹⁵ multiply-adds"], ["epochs", "epochs"],
  ["hours", "hours of training"], ["parameters", "parameters of the backbone"], ["gflops", "GFLOPs of one image"],
  ["rankme", "RankMe of the embeddings"],
];
const different = name => new Set(trained.map(run => run[name]).filter(value => value !== null)).size > 1;
const costs = COSTS.filter(([name]) => different(name));
const measured = Object.keys(content.metrics).filter(name => trained.some(run => run.metrics[name]));
if (costs.length && measured.length) {
  const groups = [...new Set(trained.map(run => run.group))].map(group => [group, content.headings[group]]);
  chart("costs", {
    group: ["table", groups], y: ["show", measured.map(name => [name, content.titles[name] ?? name])],
    x: ["against", costs], log: ["log scale", "check"],
  }, chosen => {
    const here = content.runs.filter(run => run.group === chosen.group && run.metrics[chosen.y] && left(run.name));
    const able = here.filter(run => run.kind === "run" && run[chosen.x] !== null);
    const kinds = new Map();
    for (const run of able) {  // at a fixed amount of data compute depends on the backbone, and vice versa
      const by = ["compute", "parameters", "gflops"].includes(chosen.x) ? run.images && `${run.images.toLocaleString("en")} images`
        : run.backbone;
      const kind = [run.method, by].filter(Boolean).join(", ") || run.name;
      kinds.set(kind, [...(kinds.get(kind) ?? []), run]);
    }
    const inOrder = [...kinds].sort(([a], [b]) => a.localeCompare(b, "en", {numeric: true}));
    const lines = pens(inOrder.map(([, runs]) => new Set(runs.map(hue)).size === 1 ? hue(runs[0]) : null));
    const values = able.map(run => run[chosen.x]).filter(value => !chosen.log || value > 0);
    const low = Math.min(...values), high = Math.max(...values);
    const crowded = value => inOrder.filter(([, runs]) => runs.some(run => run[chosen.x] === value)).length > 1;
    const apart = (value, place) => {  // by at most half a percent of the axis to each side
      if (!crowded(value)) return value;
      const by = .01 * (place / (inOrder.length - 1) - .5);
      return chosen.log ? value * (high / low) ** by : value + by * (high - low);
    };
    const traces = inOrder.map(([name, runs], place) => {
      runs.sort((a, b) => a[chosen.x] - b[chosen.x]);
      const of = runs.map(run => run.metrics[chosen.y]);
      return {
        name: literal(name), x: runs.map(run => apart(run[chosen.x], place)), y: of.map(metric => metric.value), mode: "lines+markers",
        line: lines[place],
        error_y: {type: "data", symmetric: false, thickness: 1, width: 3, array: of.map(m => m.high - m.value),
          arrayminus: of.map(m => m.value - m.low)},
        text: runs.map(run => run.about), hovertemplate: "%{text}<extra></extra>",
      };
    });
    const across = able.map(run => run[chosen.x]), ends = [Math.min(...across), Math.max(...across)];
    for (const run of here.filter(run => ["reference", "baseline"].includes(run.kind) && run.name !== "chance")) {
      const value = run.metrics[chosen.y].value;
      traces.push({name: literal(run.name), x: ends, y: [value, value], mode: "lines", line: {color: "#8a8a8a", dash: "dot", width: 1.5},
        text: [run.about, run.about], hovertemplate: "%{text}<extra></extra>"});
    }
    return {traces, x: costs.find(([name]) => name === chosen.x)[1], y: content.titles[chosen.y] ?? chosen.y, log: chosen.log,
      share: isShare(chosen.y)};
  });
}

/* Curves of training. */
if (Object.keys(content.curves).length) {
  const names = Object.keys(content.curves).map(name => [name, content.curves[name].title]);
  chart("curves", {
    y: ["show", names], x: ["against", [["epoch", "epochs"], ["hours", "hours"]]], log: ["log scale", "check"],
  }, chosen => {
    const traces = [], {runs, share} = content.curves[chosen.y];
    const lines = pens(runs.map(curve => hue(curve)));
    runs.forEach((curve, place) => {
      if (!left(curve.name)) return;
      const x = curve[chosen.x];
      if (x.every(value => value === null)) return;
      const line = lines[place], group = {legendgroup: curve.name, name: literal(curve.name)};
      if (curve.low) {
        const edge = {...group, x, mode: "lines", line: {width: 0}, showlegend: false, hoverinfo: "skip"};
        traces.push({...edge, y: curve.low}, {...edge, y: curve.high, fill: "tonexty", fillcolor: line.color + "33"});
      }
      const hover = `%{fullData.name}<br>%{y:${share ? ".1%" : ".4~g"}} at ${chosen.x} %{x:.3~f}<extra></extra>`;
      traces.push({...group, x, y: curve.y, hovertemplate: hover, mode: x.length < 30 ? "lines+markers" : "lines", line});
    });
    return {traces, x: chosen.x, y: content.curves[chosen.y].title, log: chosen.log, share};
  });
}

/* The table: filter, sort, columns. */
const rows = [...document.querySelectorAll("tbody tr")];
const filter = document.getElementById("filter");
const count = document.getElementById("count");
function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.words.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${rows.length}`;
  for (const redraw of redraws) redraw();
}
filter.addEventListener("input", show);
for (const heading of document.querySelectorAll("th")) {
  heading.querySelector("button").addEventListener("click", () => {
    const table = heading.closest("table"), column = [...heading.parentNode.children].indexOf(heading);
    const first = [...table.tBodies[0].rows].map(row => row.children[column].dataset.sort).find(text => text !== "");
    const now = heading.getAttribute("aria-sort");  // numbers from the largest, at first
    const up = now === null ? isNaN(first) : now === "descending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.children[column].dataset.sort;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // unknown comes last, both ways
      const numbers = !isNaN(x) && !isNaN(y);
      return (numbers ? x - y : x.localeCompare(y, "en", {numeric: true})) * (up ? 1 : -1);
    };
    table.closest(".wide").scrollTop = 0;
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  });
}
const headings = [...document.querySelectorAll("th")];
for (const title of new Set(headings.map(heading => heading.dataset.column))) {
  const of = headings.filter(heading => heading.dataset.column === title);
  const input = make("input", {type: "checkbox", checked: of.some(heading => !heading.hidden)});
  input.addEventListener("change", () => {
    for (const heading of of) {
      const column = [...heading.parentNode.children].indexOf(heading);
      for (const row of heading.closest("table").rows) row.children[column].hidden = !input.checked;
    }
  });
  const label = make("label");
  label.append(input, " " + title);
  const item = make("li");
  item.append(label);
  document.getElementById("columns").append(item);
}
show();
