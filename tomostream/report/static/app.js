// SPDX-License-Identifier: GPL-3.0-or-later
// Where we are, the head of the page, and following the session. Loaded last.
"use strict";

const VIEWS = { gallery: drawGallery, plots: drawTrends };
function route() {              // view: session, gallery, plots, series (with its id)
  const match = /^#\/series\/(.*)$/.exec(location.hash), view = location.hash.slice(2);
  if (!match) return { view: Object.hasOwn(VIEWS, view) ? view : "session", id: null };
  try { return { view: "series", id: decodeURIComponent(match[1]) }; } catch { return { view: "series", id: match[1] }; }
}
const openSeries = () => route().id;
const address = id => "#/series/" + encodeURIComponent(id);
window.addEventListener("hashchange", () => { scrollTo(0, 0); draw(); });

function draw() {
  if (!state.session) return;
  const { view, id } = route();
  drawTop(view, id);
  if (view === "series") drawSeries(id);
  else (VIEWS[view] || drawSession)();
  const session = state.session;
  $("foot").replaceChildren("tomostream " + session.version + " · ", h("a", { href: "metrics.csv" }, "metrics.csv"), " · ",
    h("a", { href: "session.json" }, "session.json"), " · ", h("a", { href: "COLUMNS.txt" }, "what the columns are"), " · ",
    ...(session.handover ? [h("a", { href: session.handover }, "summary to print"), " · "] : []), session.path);
}
function drawTop(view, id) {
  const session = state.session;
  document.title = (session.alarms.length ? "⚠ " : "") + (id === null ? "" : id + " – ") + session.project;
  const link = (name, where, words) => h("a", { href: where, "aria-current": view === name ? "page" : null }, words);
  $("top").replaceChildren(...[
    h("a", { class: "brand", href: "#" }, "tomostream"),
    h("h1", {}, id === null ? session.project : h("a", { href: "#" }, session.project)),
    h("nav", { "aria-label": "views" }, link("session", "#", "Overview"), link("gallery", "#/gallery", "Gallery"), link("plots", "#/plots", "Plots")),
    h("span", { class: "pill", id: "pulse" }), h("span", { class: "grow" }),
    session.pictures_waiting > 2 ? h("span", { class: "pill" }, "pictures of " + session.pictures_waiting + " series pending") : null,
    Object.keys(session.protocols).length && session.running
      ? h("span", { class: "muted small" }, Object.entries(session.protocols).map(([name, what]) => name + " " + what).join(" · ")) : null, stopButton()]
    .filter(Boolean));
  tick();
}
function tick() {
  const session = state.session, pulse = $("pulse");
  if (!session || !pulse) return;
  const age = Date.now() / 1000 - session.updated;
  if (!session.running) pulse.replaceChildren(h("span", { class: deadOnes().length ? "dot dead" : "dot" }), standing() + ", last event " + clock(session.last_event));
  else if (age > STALE_SECONDS) pulse.replaceChildren(h("span", { class: "dot stale" }), "page not written for " + span(age));
  else pulse.replaceChildren(h("span", { class: "dot live" }), "live · " + span(Math.max(0, age)) + " old");
}

setInterval(tick, 1000);
setInterval(() => { if (!document.hidden && (!state.session || state.session.running)) load("data/session.js?t=" + Date.now()); }, POLL_SECONDS * 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) load("data/session.js?t=" + Date.now()); });
load("data/session.js?t=" + Date.now(), () => $("main").replaceChildren(h("p", { class: "empty" }, "No session has been written here yet. This page looks again every few seconds.")));
load("data/columns.js");
greet();
