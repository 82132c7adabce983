// SPDX-License-Identifier: GPL-3.0-or-later
// Which series the table, the gallery and the plots show, and in which order. A filter consists of words found anywhere in a series, and
// comparisons of columns: `quality>0.7 thickness<2000 mark=good lamella`.
"use strict";

const COMPARISON = /([a-z_]\w*)\s*(<=|>=|!=|<|>|=)\s*("[^"]*"|[^\s"]+)/gi;
const OPERATORS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b };

function columnOf(name) {       // its name, or the start of it: thickness is thickness_A
  const wanted = name.toLowerCase(), names = ["mark", "note", ...state.session.columns];
  return names.find(each => each.toLowerCase() === wanted) || names.find(each => each.toLowerCase().startsWith(wanted + "_"))
    || names.find(each => `_${each.toLowerCase()}_`.includes(`_${wanted}_`)) || names.find(each => wanted.length > 2 && each.toLowerCase().startsWith(wanted));
}
function valueOf(row, column) {
  if (column === "mark" || column === "note") return (state.marks.get(row.series_id) || {})[column] || "";
  return row[column];
}
function readFilter(text) {
  const terms = [], unknown = [];
  const words = text.replace(COMPARISON, (all, name, operator, value) => {
    const column = columnOf(name);
    if (column) terms.push({ column, operator, value: value.replace(/^"|"$/g, "") });
    else unknown.push(name);
    return column ? " " : all;
  });
  return { terms, unknown, words: words.trim().toLowerCase() };
}
function fulfils(row, { column, operator, value }) {
  const have = valueOf(row, column), number = Number(value);
  if (!known(have)) return false;
  if (typeof have === "number") return value !== "" && Number.isFinite(number) && OPERATORS[operator](have, number);
  return OPERATORS[operator](String(have).toLowerCase(), value.toLowerCase());
}
function filtered() {
  const { terms, words } = readFilter(state.filter);
  const only = row => !state.only || row.state === state.only || (state.only === "alarms" && row.alarms)
    || (state.only === "marked" && valueOf(row, "mark"));
  const text = row => `${row.series_id} ${row.name} ${row.state} ${row.reason} ${row.pending} ${row.alarms} ${valueOf(row, "note")}`.toLowerCase();
  return state.rows.flat().filter(row => row && only(row) && terms.every(term => fulfils(row, term)) && (!words || text(row).includes(words)));
}
function inOrder(rows, value, direction) {      // unknown values last, whichever way
  const text = new Intl.Collator(undefined, { numeric: true });
  return rows.sort((a, b) => {
    const left = value(a), right = value(b);
    if (!known(left) || !known(right)) return known(left) ? -1 : known(right) ? 1 : 0;
    return direction * (typeof left === "string" ? text.compare(left, right) : left - right);
  });
}
function visible() {
  const rows = filtered(), [name, direction] = state.sort;
  if (name === "last") return direction < 0 ? rows.reverse() : rows;
  return inOrder(rows, typeof name === "number" ? COLUMNS[name][2] : row => valueOf(row, name), direction);
}
function chips() {
  const counts = new Map(), count = name => counts.set(name, (counts.get(name) || 0) + 1);
  for (const row of state.byId.values()) {
    count(row.state);
    if (row.alarms) count("alarms");
    if (valueOf(row, "mark")) count("marked");
  }
  return ["", ...STATES, "alarms", "marked"].filter(name => name === "" || counts.has(name)).map(name => h("button", {
    "aria-pressed": String(state.only === name), "data-state": name || "all",
    onclick: () => { state.only = name; state.shown = FIRST_ROWS; draw(); } }, name === "" ? "all" : name + " " + counts.get(name)));
}
function filterTools(...more) {
  const search = h("input", { type: "search", id: "search", placeholder: "Filter: name, reason, quality>0.7, thickness<2000, mark=good",
    "aria-label": "filter", title: "Words, and comparisons of columns: " + (state.session ? state.session.columns.join(", ") : ""),
    oninput: event => { state.filter = event.target.value; state.shown = FIRST_ROWS; draw(); } });
  search.value = state.filter;
  return h("div", { class: "tools" }, search, h("span", { id: "chips", class: "tools" }), ...more, h("span", { id: "count", class: "muted small" }));
}
function drawTools(rows) {
  const { unknown } = readFilter(state.filter);
  $("chips").replaceChildren(...chips());
  $("count").textContent = (rows.length === state.byId.size ? rows.length + " series" : rows.length + " of " + state.byId.size + " series")
    + (unknown.length ? `; no column is called ${unknown.join(", ")}` : "");
}
const numeric = () => state.session.columns.filter(name => !["version", "tilts_seen", "tilts_aligned"].includes(name)
  && [...state.byId.values()].some(row => typeof row[name] === "number"));
const isTime = name => (state.about.get(name) || {}).unit === "time";
function title(name) {          // tilt_axis_deg -> Tilt axis (degrees)
  const about = state.about.get(name), unit = about && about.unit && about.unit !== "time" ? about.unit.replace("A2", "Å²").replace(/^A$/, "Å").replace("um", "µm") : "";
  const words = name.replace(/_(deg|A|um|px|s|e_A2)$/, "").replace(/_e$/, "").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1) + (unit ? " (" + unit + ")" : "");
}
