// SPDX-License-Identifier: GPL-3.0-or-later
// What can be changed from the page where `tomostream page PROJECT --serve` serves it. The token comes in the address and is kept
// by this window alone; a page that is opened from the disk or from any other web server never asks.
"use strict";

function token() {
  const given = /^#token=([\w-]+)$/.exec(location.hash);
  try {
    if (given) sessionStorage.setItem("tomostream-token", given[1]);
    if (given) history.replaceState(null, "", location.pathname + location.search);
    return location.protocol === "file:" ? null : sessionStorage.getItem("tomostream-token");
  } catch { return given ? given[1] : null; }
}
const TOKEN = token();

async function send(what, body) {
  try {
    const answer = await fetch("api/" + what, { method: "POST", headers: { "Content-Type": "application/json", "X-Tomostream-Token": TOKEN }, body: JSON.stringify(body) });
    const reply = await answer.json();
    say(reply.text || reply.error || "done", !answer.ok);
    return answer.ok;
  } catch { say("The page is no longer served: start tomostream page --serve again.", true); return false; }
}
function say(text, wrong) {
  const old = $("said");
  if (old) old.remove();
  const box = h("div", { id: "said", role: "status", class: "said" + (wrong ? " bad" : "") }, text);
  document.body.append(box);
  setTimeout(() => box.remove(), wrong ? 12000 : 4000);
}
async function greet() {
  if (!TOKEN) return;
  try {
    const answer = await fetch("api/hello", { headers: { "X-Tomostream-Token": TOKEN } });
    state.served = answer.ok;
  } catch { state.served = false; }
  draw();
}
function stopButton() {
  return state.served && state.session.running ? h("button", { id: "stop", onclick: () => {
    if (confirm("Stop the session? Work in flight finishes, and the outputs are closed; to continue: tomostream resume " + quoted(state.session.path) + " --again")) send("stop", {});
  } }, "Stop session") : null;
}
function acknowledgeButton(alarm) {
  return state.served ? h("button", { class: "small", onclick: event => { event.target.disabled = true; send("acknowledge", { key: alarm.key }); } }, "Acknowledge") : null;
}
function excludeButton(series, tilt) {
  return state.served && tilt.movie ? h("button", { class: "small", onclick: () => {
    const back = !known(tilt.section), reason = back ? "" : prompt(`Take ${tilt.angle_deg.toFixed(1)}° out of ${series}? Why:`, "");
    if (reason !== null) send("exclude", { series, movies: [tilt.movie], back, reason });
  } }, known(tilt.section) ? "take out" : "put back") : null;
}
function fileAddress(data, place) {     // of a file of the project: beside the page on the disk, or through our own server
  const file = data.files[place], page = state.byId.get(data.facts.series_id).page;
  if (file.path.startsWith("/") || !known(file.bytes)) return null;
  if (state.served) return `download/${page}/${place}`;
  return location.protocol === "file:" && state.session.root ? state.session.root + "/" + file.path.split("/").map(encodeURIComponent).join("/") : null;
}
