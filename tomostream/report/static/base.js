// SPDX-License-Identifier: GPL-3.0-or-later
// What all scripts of the page share: the state, small helpers, the data. Data comes as scripts that call tomostream(kind, ...),
// because a page opened from the disk may load scripts but not fetch files (and no ES modules: these are plain scripts, in the
// order of index.html). Whatever comes from the session is put in as text, never as HTML.
"use strict";

const POLL_SECONDS = 5, STALE_SECONDS = 45, FIRST_ROWS = 120, MAX_ALARMS = 6;
const STATES = ["acquiring", "aligning", "waiting", "composing", "reconstructing", "done", "failed"];
const state = { session: null, rows: [], revisions: [], byId: new Map(), series: new Map(), sort: ["last", -1], filter: "", only: "",
  shown: FIRST_ROWS, loaded: 0, place: "", about: new Map(),
  marks: new Map(), marksRead: false, marksLost: false, marksRevision: 0, served: false, tile: 220, trend: { across: "time", up: "all" } };
const $ = id => document.getElementById(id);

function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}
function s(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children.flat()) if (child !== null) node.append(child);
  return node;
}
const known = value => value !== null && value !== undefined;
const fixed = (value, digits, unit) => known(value) ? Number(value).toFixed(digits) + (unit ? "\u202f" + unit : "") : "–";
const quoted = path => /^[\w@%+=:,./-]+$/.test(path) ? path : "'" + path.replaceAll("'", "'\\''") + "'";    // for a command line
const color = name => "var(--" + (STATES.includes(name) ? name : "waiting") + ")";
const clock = time => known(time) ? new Date(time * 1000).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit",
  minute: "2-digit", hour12: false }) : "–";
function span(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 100) return Math.round(seconds) + "\u202fs";
  if (seconds < 5400) return Math.round(seconds / 60) + "\u202fmin";
  return seconds < 172800 ? (seconds / 3600).toFixed(1) + "\u202fh" : Math.round(seconds / 86400) + "\u202fdays";
}
function size(bytes) {
  if (!known(bytes)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < 4) { bytes /= 1000; power += 1; }
  return (power && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)) + "\u202f" + units[power];
}
function load(source, failed) {
  const script = h("script", { src: source });
  script.onload = () => script.remove();
  script.onerror = () => { script.remove(); if (failed) failed(); };
  document.head.append(script);
}

// ---- data

window.tomostream = (kind, ...values) => {
  if (kind === "session") takeSession(values[0]);
  else if (kind === "rows") takeRows(...values);
  else if (kind === "columns") { for (const each of values[0]) state.about.set(each.name, each); draw(); }
  else if (kind === "marks") { mergeMarks(values[0]); draw(); }
  else if (kind === "series") { state.series.set(values[0], values[1]); draw(); }
};
function takeSession(session) {
  const before = state.session;
  state.session = session;
  readMarks();
  if (session.marks !== state.marksRevision) {
    state.marksRevision = session.marks;
    load("data/marks.js?r=" + session.marks);
  }
  session.chunks.forEach((revision, chunk) => {
    if (state.revisions[chunk] !== revision) {
      state.revisions[chunk] = revision;
      load(`data/rows-${String(chunk).padStart(3, "0")}.js?r=${revision}`, () => { state.revisions[chunk] = -1; });
    }
  });
  if (!before || before.updated !== session.updated || !session.chunks.length) draw();
}
function takeRows(chunk, revision, rows) {
  const names = state.session.columns;
  for (const old of state.rows[chunk] || []) if (old) state.byId.delete(old.series_id);
  state.rows[chunk] = rows.map(cells => {
    if (!cells) return null;
    const row = Object.fromEntries(names.map((name, place) => [name, cells[place]]));
    state.byId.set(row.series_id, row);
    return row;
  });
  state.loaded += 1;
  schedule();
  const open = state.byId.get(openSeries());
  if (open && open.page) load(`series/${open.page}/data.js?r=${revision}`);
}
let waiting = 0;
function schedule() {           // many chunks come at once: draw when the last is in, or after a moment
  clearTimeout(waiting);
  const missing = state.session.chunks.some((_, chunk) => !state.rows[chunk]);
  waiting = setTimeout(draw, missing ? 150 : 0);
}
