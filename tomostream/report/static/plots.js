// SPDX-License-Identifier: GPL-3.0-or-later
// Plots of the tilts of a series.
"use strict";

function plots(data) {
  const all = data.facts.tilts;
  return [
    all.some(tilt => known(tilt.residual_px)) ? ["Residual of the alignment", "px", "residual_px", "var(--accent)", true]
      : ["Uncertainty of the shift", "px", "sigma_px", "var(--accent)", true], ["Frame drift", "px", "drift_px", "var(--acquiring)", true],
    ["Defocus", "µm", "defocus_um", "var(--composing)", false], ["Mean counts", "per pixel", "mean_counts", "var(--reconstructing)", false],
    ["Dose before the exposure", "e/Å²", "prior_dose_e_A2", "var(--aligning)", true]]
    .map(([title, unit, name, ink, zero]) => plot(data, all.filter(tilt => known(tilt[name])), name, title, unit, ink, zero)).filter(Boolean);
}
function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map(x => x * power).find(x => x >= rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9 * step; value += step) found.push(Math.abs(value) < step / 1e6 ? 0 : value);
  return [found, Math.max(0, -Math.floor(Math.log10(step)))];
}
function plot(data, points, name, title, unit, ink, zero) {
  if (!points.length) return null;
  const width = 360, height = 210, left = 50, right = 10, top = 12, bottom = 40;
  const spread = point => name === "residual_px" && known(point.sigma_px) ? point.sigma_px : 0;
  const values = points.flatMap(point => [point[name], point[name] + spread(point)]), angles = data.facts.tilts.map(tilt => tilt.angle_deg);
  let low = zero ? 0 : Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * .08;
  high += room; if (!zero) low = low - room < 0 && low >= 0 ? 0 : low - room;
  const first = Math.min(...angles) - 2, last = Math.max(...angles) + 2;
  const x = angle => left + (angle - first) / (last - first) * (width - left - right), y = value => height - bottom - (value - low) / (high - low) * (height - top - bottom);
  const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const [marks, digits] = ticks(low, high, 4);
  for (const value of marks) chart.append(s("line", { class: "gridline", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
    s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  const steps = [5, 10, 20, 30].find(step => (last - first) / step <= 7) || 30;
  for (let value = Math.ceil(first / steps) * steps; value <= last; value += steps) chart.append(s("line", { class: "axis", x1: x(value), x2: x(value), y1: height - bottom, y2: height - bottom + 4 }),
    s("text", { x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, value + "°"));
  chart.append(s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  const level = (value, text) => { if (known(value) && value > low && value < high) chart.append(
    s("line", { class: "limit", x1: left, x2: width - right, y1: y(value), y2: y(value) }), s("text", { class: "limit", x: width - right, y: y(value) - 4, "text-anchor": "end" }, text)); };
  const limits = state.session.limits || {}, targets = points.map(point => point.target_defocus_um).filter(known).sort((a, b) => a - b);
  if (name === "defocus_um") level(targets[targets.length >> 1], "target");
  else if (name === "sigma_px") level(limits.residual_px, "alarm");
  else level(limits[name], "alarm");
  if (name === "mean_counts") chart.append(s("polyline", { class: "expected", points: points.filter(point => point.counts_part).sort((a, b) => a.angle_deg - b.angle_deg)
    .map(point => `${x(point.angle_deg)},${y(point.mean_counts / point.counts_part)}`).join(" ") }));
  for (const point of points) if (spread(point)) chart.append(s("line", { x1: x(point.angle_deg), x2: x(point.angle_deg), y1: y(point[name] + spread(point)),
    y2: y(Math.max(low, point[name] - spread(point))), style: `stroke:${ink};stroke-opacity:.6;stroke-width:1.4` }));
  const sorted = points.filter(point => point.used).sort((a, b) => a.angle_deg - b.angle_deg);
  if (name !== "prior_dose_e_A2" && name !== "residual_px") chart.append(s("polyline", { points: sorted.map(point => `${x(point.angle_deg)},${y(point[name])}`).join(" "), style: `fill:none;stroke:${ink};stroke-opacity:.45;stroke-width:1.5` }));
  for (const point of points) {
    const low_counts = name === "mean_counts" && known(point.counts_part) && point.counts_part < (state.session.limits || {}).counts_part;
    const mark = s("circle", { cx: x(point.angle_deg), cy: y(point[name]), r: low_counts ? 5 : 3.6, style: point.used && !low_counts ? `fill:${ink};cursor:pointer`
      : "fill:var(--card);stroke:var(--failed);stroke-width:1.8;cursor:pointer" },
    s("title", {}, `${point.angle_deg.toFixed(1)}°: ${Number(point[name].toPrecision(4))}` + (spread(point) ? ` ± ${Number(spread(point).toPrecision(2))}` : "") + ` ${unit}` + (point.used ? "" : ", not used: " + point.reason)));
    mark.addEventListener("click", () => data.jump && data.jump(point.angle_deg));
    chart.append(mark);
  }
  chart.append(s("text", { x: width - right, y: height - 3, "text-anchor": "end" }, "tilt angle"));
  return h("section", { class: "card" }, h("h2", {}, title + " (" + unit + ")"), chart,
    points.some(spread) ? h("p", { class: "small muted" }, "Bars: the uncertainty of the tilt's position.") : null);
}
