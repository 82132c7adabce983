// SPDX-License-Identifier: GPL-3.0-or-later
// The figures of all series against time and against each other: outliers are seen at once.
"use strict";

const TRENDS = ["tilt_axis_deg", "tilt_offset_deg", "thickness_A", "defocus_um", "tilts_used", "quality", "resolution_xy_A", "max_residual_px", "max_drift_A", "max_drift_px",
  "dose_e_A2", "mean_counts", "latency_s"];
// a value is marked beyond this many standard deviations (estimated from medians)
const UNUSUAL = 4;

const timeOf = row => row.reconstructed || row.composed || row.last_movie;
function drawTrends() {
  if (!$("trends-page")) {
    const choose = (id, label) => h("label", { class: "small" }, label + " ", h("select", { id, onchange: event => { state.trend[id] = event.target.value; draw(); } }));
    $("main").replaceChildren(h("div", { id: "trends-page" }, h("section", { class: "card" }, filterTools(choose("across", "across"), choose("up", "up")),
      h("div", { id: "one-trend" })), h("div", { id: "trends", class: "grid plots" })));
    $("trends-page").dataset.key = "";
  }
  const rows = filtered(), names = numeric(), shown = TRENDS.filter(name => names.includes(name) && !(name === "max_drift_px" && names.includes("max_drift_A")));
  drawTools(rows);
  for (const [id, first] of [["across", "time"], ["up", "all"]]) fillChoice($(id), [first, ...names.filter(name => !isTime(name))], state.trend[id]);
  const key = JSON.stringify([state.revisions, state.filter, state.only, state.trend, rows.length, [...state.marks.keys()].length]);
  if ($("trends-page").dataset.key === key) return;
  $("trends-page").dataset.key = key;
  const across = names.includes(state.trend.across) ? state.trend.across : "time", up = names.includes(state.trend.up) ? state.trend.up : null;
  $("one-trend").replaceChildren(...(up ? [trend(rows, across, up, 900, 380)] : []));
  $("trends").replaceChildren(...(up ? [] : shown.map(name => trend(rows, across, name, 420, 230))).filter(Boolean));
  if (!shown.length) $("trends").replaceChildren(h("p", { class: "empty" }, "Figures appear with the first tomogram."));
}
function fillChoice(select, names, chosen) {
  if (select.dataset.key !== names.join(" ")) {
    select.dataset.key = names.join(" ");
    select.replaceChildren(...names.map(name => h("option", { value: name }, name === "time" || name === "all" ? name : title(name))));
  }
  select.value = chosen;
}
function spreadOf(values) {     // median, and the standard deviation that the median of the distances (or, if most have one value, their mean) stands for
  const sorted = values.slice().sort((a, b) => a - b), middle = sorted[sorted.length >> 1];
  const away = sorted.map(value => Math.abs(value - middle)).sort((a, b) => a - b);
  return [middle, 1.4826 * away[away.length >> 1] || 1.2533 * away.reduce((sum, each) => sum + each, 0) / away.length];
}
const wholes = values => values.every(Number.isInteger);
function bounds(values, least) {    // with room, and never so narrow that a constant looks like a fluctuation
  const low = Math.min(...values), high = Math.max(...values), wide = least || (wholes(values) ? 2 : Math.max(.01 * Math.abs(low + high) / 2, high > low ? 0 : .1));
  const room = Math.max(.06 * (high - low), (wide - (high - low)) / 2);
  return [low - room, high + room];
}
function trend(rows, across, up, width, height) {
  const value = across === "time" ? timeOf : row => row[across];
  const points = rows.filter(row => known(value(row)) && known(row[up]));
  if (!points.length) return null;
  const left = 58, right = 12, top = 12, bottom = 40, [middle, sigma] = spreadOf(points.map(row => row[up]));
  const [first, last] = bounds(points.map(value), across === "time" ? 600 : 0), [low, high] = bounds(points.map(row => row[up]), 0);
  const x = at => left + (at - first) / (last - first) * (width - left - right), y = at => height - bottom - (at - low) / (high - low) * (height - top - bottom);
  const name = title(up) + " against " + (across === "time" ? "time" : title(across));
  const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  const [marks, digits] = wholes(points.map(row => row[up])) ? [ticks(low, high, 4)[0].filter(Number.isInteger), 0] : ticks(low, high, 4);
  for (const mark of marks) chart.append(s("line", { class: "gridline", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }), s("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, mark.toFixed(digits)));
  chart.append(s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  if (across === "time") chart.append(s("text", { x: left, y: height - bottom + 18 }, clock(first)), s("text", { x: width - right, y: height - bottom + 18, "text-anchor": "end" }, clock(last)));
  else {
    const [below, decimals] = ticks(first, last, 6);
    for (const mark of below) chart.append(s("text", { x: x(mark), y: height - bottom + 18, "text-anchor": "middle" }, mark.toFixed(decimals)));
    chart.append(s("text", { x: width - right, y: height - 4, "text-anchor": "end" }, title(across)));
  }
  if (points.length > 4) chart.append(s("line", { class: "median", x1: left, x2: width - right, y1: y(middle), y2: y(middle) }));
  for (const row of points) {
    const unusual = points.length > 4 && sigma > 0 && Math.abs(row[up] - middle) > UNUSUAL * sigma;
    const dot = s("circle", { cx: x(value(row)), cy: y(row[up]), r: unusual ? 5 : 3.4, class: "point" + (unusual ? " unusual" : ""), style: unusual ? "" : `fill:${color(row.state)}` },
      s("title", {}, `${row.series_id}: ${Number(row[up].toPrecision(4))}` + (unusual ? ", unlike the others" : "")));
    dot.addEventListener("click", () => { location.hash = address(row.series_id); });
    chart.append(dot);
  }
  return h("section", { class: "card" }, h("h2", {}, name), chart);
}
