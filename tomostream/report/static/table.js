// SPDX-License-Identifier: GPL-3.0-or-later
// The table of all series.
"use strict";

const tilts = row => known(row.tilts_used) ? row.tilts_used : row.tilts_aligned;
const COLUMNS = [
  ["", "", null, row => row.thumb ? h("img", { src: `series/${row.page}/${row.thumb}`, alt: "", loading: "lazy", class: row.thumb.startsWith("v0-") ? "early" : null }) : h("div", { class: "none" })],
  ["Series", "id", row => row.series_id, row => [h("a", { href: address(row.series_id) }, row.series_id), valueOf(row, "mark") ? [" ", markBadge(valueOf(row, "mark"))] : null,
    h("div", { class: "why-below" }, flags(row.alarms), row.state === "done" && !row.pending ? "" : why(row))]],
  ["State", "", row => STATES.indexOf(row.state), row => h("span", { class: "state", style: { "--c": color(row.state) } }, row.state)],
  ["Tilts", "n", tilts, row => tilts(row) + " / " + (row.tilts_expected || row.tilts_seen || "?")],
  ["Quality", "n", row => row.quality, row => fixed(row.quality, 2)],
  ["Dose e/Å²", "n wide", row => row.dose_e_A2, row => fixed(row.dose_e_A2, 0)],
  ["Axis °", "n middle", row => row.tilt_axis_deg, row => fixed(row.tilt_axis_deg, 1)],
  ["Offset °", "n wide", row => row.tilt_offset_deg, row => fixed(row.tilt_offset_deg, 1)],
  ["Thickness nm", "n middle", row => row.thickness_A, row => fixed(known(row.thickness_A) ? row.thickness_A / 10 : null, 0)],
  ["Worst tilt", "n wide", row => row.worst_sigma_px, row => known(row.worst_sigma_px) ? fixed(row.worst_tilt_deg, 0, "°") + " · " + fixed(row.worst_sigma_px, 2, "px") : "–"],
  ["Defocus µm", "n middle", row => row.defocus_min_um, row => known(row.defocus_min_um) ? row.defocus_min_um.toFixed(1) + "–" + row.defocus_max_um.toFixed(1) : "–"],
  ["Drift px", "n wide", row => row.max_drift_px, row => fixed(row.max_drift_px, 1)],
  ["Latency", "n middle", row => row.latency_s, row => span(row.latency_s)],
  ["Last", "n middle", row => row.reconstructed || row.composed || row.last_movie, row => clock(row.reconstructed || row.composed || row.last_movie)],
  ["Why", "why", row => row.reason, row => h("div", { title: why(row) }, flags(row.alarms), why(row))]];
// decisions that the newest version does not show yet are carried out by the compose protocol, if it is running
const decided = row => row.pending + (["finished", "stopped", "failed", "dead"].includes(state.session.protocols.compose)
  ? ", when the session is continued: tomostream resume " + quoted(state.session.path) + " --again --from compose" : "");
const why = row => row.pending ? row.reason.replace(/\.$/, "") + "; " + decided(row) : row.reason;
const flags = text => text ? text.split(" ").map(kind => h("span", { class: "flag" }, state.session.kinds[kind] || kind)) : [];
function tableCard() {
  return h("section", { class: "card" }, filterTools(h("button", { onclick: saveMarks, title: "the series shown here, with their marks and notes" }, "Save list")),
    h("div", { class: "scroll" }, h("table", {}, h("thead", { id: "head" }), h("tbody", { id: "body" }))), h("div", { id: "more" }));
}
function drawTable() {
  const rows = visible();
  drawTools(rows);
  $("head").replaceChildren(h("tr", {}, COLUMNS.map(([title, kind, value], place) => h("th", { class: kind || null, scope: "col", tabindex: value ? 0 : null,
    "aria-sort": state.sort[0] === place ? (state.sort[1] > 0 ? "ascending" : "descending") : null,
    onclick: value ? () => sortBy(place) : null, onkeydown: value ? event => { if (event.key === "Enter") sortBy(place); } : null }, title))));
  $("body").replaceChildren(...rows.slice(0, state.shown).map(tableRow));
  $("more").replaceChildren(rows.length > state.shown ? h("p", { class: "empty", id: "sentinel" }, rows.length - state.shown + " more")
    : rows.length ? "" : h("p", { class: "empty" }, state.byId.size ? "No series matches the filter." : "No tilt series yet."));
  if ($("sentinel")) seen.observe($("sentinel"));
}
const seen = new IntersectionObserver(entries => {
  if (entries.some(entry => entry.isIntersecting)) { state.shown += 4 * FIRST_ROWS; drawTable(); }
}, { rootMargin: "600px" });
function tableRow(row) {
  return h("tr", { onclick: event => { if (!event.target.closest("a")) location.hash = address(row.series_id); } },
    COLUMNS.map(([, kind, , cell]) => h("td", { class: kind || null }, [cell(row)].flat(2))));
}
function sortBy(place) {
  state.sort = state.sort[0] === place ? [place, -state.sort[1]] : [place, 1];
  drawTable();
}
