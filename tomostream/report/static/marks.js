// SPDX-License-Identifier: GPL-3.0-or-later
// What people think of a series: good, bad, to look at again, and a note. Stored by this browser, and with the session where
// `tomostream page PROJECT --serve` serves the page; of two different marks the newer one counts.
"use strict";

const MARKS = [["good", "g", "Good"], ["bad", "b", "Bad"], ["look-again", "l", "Look again"]];
const storage = () => "tomostream-marks:" + state.session.path;

function readMarks() {          // of this browser; where it stores nothing (private windows), marks last as long as the page
  if (state.marksRead || !state.session) return;
  state.marksRead = true;
  try { mergeMarks(JSON.parse(localStorage.getItem(storage()) || "{}")); } catch { state.marksLost = true; }
}
function mergeMarks(marks) {
  for (const [id, each] of Object.entries(marks)) {
    const old = state.marks.get(id);
    if (each && typeof each === "object" && (!old || old.time < each.time)) state.marks.set(id, { mark: String(each.mark || ""), note: String(each.note || ""), time: Number(each.time) || 0 });
  }
}
function setMark(id, mark, note) {
  const old = state.marks.get(id) || { mark: "", note: "" };
  const now = { mark: known(mark) ? mark : old.mark, note: known(note) ? note : old.note, time: Date.now() / 1000 };
  state.marks.set(id, now);
  try { localStorage.setItem(storage(), JSON.stringify(Object.fromEntries(state.marks))); } catch { state.marksLost = true; }
  if (state.served) send("marks", { series: id, ...now });
  draw();
}
const markBadge = mark => h("span", { class: "mark " + mark }, (MARKS.find(([name]) => name === mark) || [, , mark])[2]);
function markTools(row) {
  const now = state.marks.get(row.series_id) || { mark: "", note: "" };
  const note = h("input", { type: "text", class: "note-text", placeholder: "note", "aria-label": "note", maxlength: 500, onchange: event => setMark(row.series_id, null, event.target.value) });
  note.value = now.note;
  return h("div", { class: "tools", id: "marks" }, MARKS.map(([name, key, words]) => h("button", { "aria-pressed": String(now.mark === name), "data-mark": name,
    title: key.toUpperCase() + " marks, U removes", onclick: () => setMark(row.series_id, now.mark === name ? "" : name) }, words)), note,
    h("span", { class: "small muted" }, state.served ? "stored with the session" : state.marksLost ? "this browser stores nothing: marks are lost when the page is closed" : "stored by this browser"));
}
function marksText() {          // the first column is what `tomostream export --series-file` reads
  const cell = value => /[",\n\r]/.test(value) ? '"' + value.replaceAll('"', '""') + '"' : value;
  const rows = visible().map(row => [row.series_id, valueOf(row, "mark"), valueOf(row, "note")]);
  return "series_id,mark,note\n" + rows.map(row => row.map(cell).join(",")).join("\n") + "\n";
}
function saveMarks() {
  const link = h("a", { href: URL.createObjectURL(new Blob([marksText()], { type: "text/csv" })), download: state.session.project + "-series.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof Element && event.target.closest("input, select, textarea")) return;
  const { view, id } = route(), focused = document.activeElement instanceof Element ? document.activeElement.closest("[data-series]") : null;
  const series = view === "series" ? id : view === "gallery" && focused ? focused.dataset.series : null;
  const mark = MARKS.find(([, key]) => key === event.key.toLowerCase());
  if (!series || !state.byId.has(series) || !(mark || event.key.toLowerCase() === "u")) return;
  setMark(series, mark ? mark[0] : "");
  const again = [...document.querySelectorAll(".tile")].find(each => each.dataset.series === series);
  if (again) again.focus();
});
