"use strict";
const plot = document.getElementById("plot"), tip = document.getElementById("tip"), found = document.getElementById("found");
const methods = [...document.querySelectorAll("#methods button")], dark = matchMedia("(prefers-color-scheme: dark)");
const classes = content.labels === null ? ["images"] : content.classes, total = content.names.length;
const kind = total > 3000 && document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";
const members = classes.map((_, label) =>
  [...content.names.keys()].filter(index => content.labels === null || content.labels[index] === label));
const label = index => content.labels === null ? "" : content.classes[content.labels[index]];
const make = (tag, given) => Object.assign(document.createElement(tag), given);
const MOST = 60;  // images shown of a selection
let method = 0, ringed = [];

function picture(element, index) {
  const x = index % content.across, y = Math.floor(index / content.across);
  element.style.backgroundPosition = `${-x * content.side}px ${-y * content.side}px`;
}
function draw() {
  const places = content.places[methods[method].textContent], ink = dark.matches ? "#ddd" : "#333";
  const at = indices => ({x: indices.map(index => places[index][0]), y: indices.map(index => places[index][1])});
  const traces = members.map((indices, place) => ({
    type: kind, mode: "markers", name: classes[place].replaceAll("<", "&lt;"), customdata: indices, hoverinfo: "none", ...at(indices),
    marker: {size: total > 5000 ? 4 : 7, color: content.colors[place] ?? "#3274a1"},
  }));
  traces.push({type: kind, mode: "markers", customdata: ringed, hoverinfo: "none", showlegend: false, ...at(ringed),
    marker: {size: 15, color: "rgba(0,0,0,0)", line: {width: 2.5, color: ink}}});
  const axis = {visible: false, fixedrange: false};
  const layout = {
    font: {color: ink, family: "system-ui, sans-serif"}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(128,128,128,.08)",
    margin: {l: 0, r: 0, t: 30, b: 0}, xaxis: axis, yaxis: axis, hovermode: "closest", hoverdistance: 12,
    showlegend: content.labels !== null, legend: {itemsizing: "constant"}, uirevision: method, dragmode: "zoom",
  };
  const bar = [["zoom2d", "pan2d", "select2d", "lasso2d", "resetScale2d", "toImage"]];
  methods.forEach((button, place) => button.setAttribute("aria-pressed", place === method));
  return Plotly.react(plot, traces, layout, {responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: bar});
}
function show(title, entries) {
  document.getElementById("what").textContent = title;
  const red = document.getElementById("red");
  if (red) red.hidden = entries[0]?.[1] !== null;
  found.replaceChildren(...entries.map(([index, similarity], place) => {
    const item = make("li", {title: content.names[index]}), image = make("i");
    picture(image, index);
    item.className = similarity === null && place === 0 ? "query" : "";
    if (entries[0][1] === null && label(index) !== label(entries[0][0])) item.className = "other";
    item.append(image, ...[make("b", {textContent: label(index)}), content.names[index], similarity ?? ""].map(line => {
      const small = make("small");
      small.append(line);
      return small;
    }));
    return item;
  }));
}
function neighbours(index) {
  const nearest = content.nearest[index].map((other, rank) => [other, content.similarities[index][rank].toFixed(3)]);
  ringed = [index, ...nearest.map(([other]) => other)];
  show(`Nearest to ${content.names[index]}`, [[index, null], ...nearest]);
  draw();
}
draw();
plot.on("plotly_hover", ({points, event}) => {
  const index = points[0].customdata;
  picture(tip.querySelector("i"), index);
  tip.querySelector("span").textContent = `${label(index)} ${content.names[index]}`;
  tip.hidden = false;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 160) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - 150) + "px";
});
plot.on("plotly_unhover", () => { tip.hidden = true; });
plot.on("plotly_click", ({points}) => neighbours(points[0].customdata));
plot.on("plotly_selected", selected => {
  if (!selected) return;
  const indices = [...new Set(selected.points.map(point => point.customdata))];
  const title = `${indices.length.toLocaleString("en")} selected`;
  show(indices.length > MOST ? `${title}, the first ${MOST}` : title, indices.slice(0, MOST).map(index => [index, ""]));
});
methods.forEach((button, place) => button.addEventListener("click", () => { method = place; draw(); }));
dark.addEventListener("change", draw);
