// SPDX-License-Identifier: GPL-3.0-or-later
// The front page: is all well, the latest tomogram, counts, activity, alarms.
"use strict";

function drawSession() {
  let page = $("session-page");
  if (!page) {
    page = h("div", { id: "session-page" }, h("div", { class: "first", id: "first" }, h("section", { id: "verdict", class: "card" }),
      h("div", { id: "alarms", class: "alarms" }), h("section", { id: "latest", class: "card" }), h("section", { id: "tilt", class: "card" }), h("p", { id: "no-preview", class: "small muted" }), h("div", { id: "cards", class: "grid cards" }),
      h("section", { id: "activity", class: "card" })), h("section", { id: "history", class: "card" }), tableCard());
    $("main").replaceChildren(page);
  }
  $("verdict").replaceChildren(...verdict());
  $("alarms").replaceChildren(...alarmLines());
  $("cards").replaceChildren(...cards());
  drawLatest();
  drawTilt();
  drawActivity();
  drawTable();
}
function alarmLines() {
  const session = state.session;
  const grave = alarm => ["protocol-died", "standstill", "series-failed", "queue"].includes(alarm.kind), dead = alarm => alarm.kind === "protocol-died";
  const alarms = session.alarms.slice().sort((a, b) => dead(b) - dead(a) || grave(b) - grave(a) || b.since - a.since), lines = [];
  lines.push(...alarms.map(alarm => h("div", { class: grave(alarm) ? "alarm grave" : "alarm", role: "alert" }, h("b", {}, session.kinds[alarm.kind] || alarm.kind),
    h("span", {}, alarm.text), h("span", { class: "muted small" }, (alarm.count > 1 ? alarm.count + " times, " : "") + "since " + clock(alarm.since)),
    acknowledgeButton(alarm), alarm.items.filter(item => state.byId.has(item)).slice(-6).map(item => h("a", { href: address(item), class: "small" }, item)))));
  for (const [name, reason] of Object.entries(session.waiting)) if (!session.alarms.some(alarm => ["held-up", "queue"].includes(alarm.kind) && alarm.of === name))
    lines.push(h("div", { class: "alarm" }, h("b", {}, name + " waits"), h("span", {}, reason)));
  if (session.unassigned) lines.push(h("div", { class: "alarm" }, h("b", {}, "Movies in no series"), h("span", {}, session.unassigned)));
  if (session.acknowledged.length) lines.push(h("div", { class: "alarm note", id: "acknowledged" }, h("b", {}, session.acknowledged.length + " acknowledged"),
    h("span", {}, [...new Set(session.acknowledged.map(alarm => alarm.of || session.kinds[alarm.kind] || alarm.kind))].slice(0, 8).join(", "))));
  if (session.trouble) lines.push(h("div", { class: "alarm" }, h("b", {}, "Alarms are not sent"), h("span", {}, session.trouble)));
  if (lines.length > MAX_ALARMS) {
    const more = lines.splice(MAX_ALARMS - 1);
    lines.push(h("div", { class: "alarm more" }, h("span", {}, "and " + more.length + " more: " + more.map(line => line.querySelector("b").textContent).join(", "))));
  }
  return lines;
}
const deadOnes = () => Object.entries(state.session.protocols).filter(([, what]) => what === "dead" || what === "failed").map(([name]) => name);
function standing() {           // ended is only what ended by itself; "" while it runs
  const session = state.session, dead = deadOnes(), states = Object.values(session.protocols);
  if (dead.length) return dead.length === states.length ? "Session died" : dead.join(", ") + " died";
  return session.running ? "" : states.every(what => what === "finished") ? "Session ended" : "Session stopped";
}
function legend(pairs) {
  return h("div", { class: "legend" }, pairs.map(([name, value, kind]) => h("span", {}, name + " ", h("b", { class: kind }, String(value)))));
}
function verdict() {            // is it keeping up, is anything wrong: to be read from across the room
  const session = state.session, wrong = session.alarms.length, bad = deadOnes().length || session.alarms.some(alarm => alarm.kind === "standstill");
  const keeps = !session.running || session.keeps_up, waits = Math.max(session.backlog_minutes || 0, session.backlog_series_minutes || 0);
  const silent = session.running && known(session.last_movie) ? session.updated - session.last_movie : null;
  const words = [session.backlog_tilts + (session.backlog_tilts === 1 ? " tilt" : " tilts") + " and " + session.backlog_series + " series wait"
    + (waits >= 1 ? ", about " + span(60 * waits) : ""), silent === null ? null : "last movie " + span(Math.max(0, silent)) + " ago",
    session.running && session.protocols.import === "running" && known(session.until) ? "import ends " + clock(session.until) : null];
  return [h("div", { class: "big " + (bad ? "bad" : keeps ? "good" : "warn"), id: "state" }, bad && !deadOnes().length ? "Stands still" : standing() || (keeps ? "Keeps up" : "Is behind")),
    h("div", { class: "big " + (bad ? "bad" : wrong ? "warn" : "good"), id: "wrong" }, wrong ? wrong + (wrong === 1 ? " alarm" : " alarms") : "No alarms"),
    h("p", { class: "small muted" }, words.filter(Boolean).join(" · "))];
}
function cards() {
  const session = state.session, movies = session.movies;
  const total = Object.values(session.series).reduce((a, b) => a + b, 0);
  const part = (count, all) => all ? 100 * count / all + "%" : "0";
  return [
    h("section", { class: "card" }, h("h2", {}, "Tomograms"), h("div", { class: "big" }, String(session.series.done || 0),
      h("small", {}, " of " + total + " series")),
      h("div", { class: "bar" }, STATES.slice().reverse().filter(name => session.series[name]).map(name =>
        h("i", { style: { width: part(session.series[name], total), background: color(name) }, title: name }))),
      legend(STATES.filter(name => session.series[name] && name !== "done").map(name => [name, session.series[name], name === "failed" ? "bad" : null]))),
    h("section", { class: "card" }, h("h2", {}, "Movies"), h("div", { class: "big" }, String(movies.aligned), h("small", {}, " of " + movies.found + " aligned")),
      h("div", { class: "bar" }, h("i", { style: { width: part(movies.aligned, movies.found), background: "var(--done)" } }),
        movies.imported > movies.aligned ? h("i", { style: { width: part(movies.imported - movies.aligned, movies.found), background: "var(--acquiring)" } }) : null,
        movies.failed ? h("i", { style: { width: part(movies.failed, movies.found), background: "var(--failed)" } }) : null),
      legend([["imported", movies.imported], ["failed", movies.failed, movies.failed ? "bad" : null]])),
    h("section", { class: "card" }, h("h2", {}, "Tilts per hour"), h("div", { class: "big" }, fixed(session.tilts_per_hour, 0),
      h("small", {}, known(session.aligned_per_hour) ? " in · " + fixed(session.aligned_per_hour, 0) + " aligned" : "")),
      h("p", { class: "small muted" }, known(session.series_per_hour) ? fixed(session.series_per_hour, 1) + " tomograms per hour" : "")),
    h("section", { class: "card" }, h("h2", {}, "Last event"), h("div", {}, clock(session.last_time)),
      h("p", { class: "small muted clamp", title: session.last_text, style: { margin: ".3rem 0 0" } }, session.last_text),
      known(session.disk_free_GB) ? h("p", { class: "small muted", style: { margin: ".3rem 0 0" } }, size(session.disk_free_GB * 1e9) + " free on the disk") : null)];
}
function drawLatest() {
  const session = state.session, row = state.byId.get(session.latest), soon = session.preview, coming = soon ? state.byId.get(soon.series_id) : null;
  const box = $("latest"), key = JSON.stringify([row, soon, coming ? coming.thumb : null, session.preview_trouble]);
  $("first").classList.toggle("empty-yet", !row && !coming);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const picture = (each, version, text) => h("a", { class: "picture", href: address(each.series_id) },
    h("img", { src: `series/${each.page}/v${version}-xy.webp?r=${session.updated}`, alt: text }));
  const alone = !(row && row.thumb);
  const preview = coming && coming.thumb ? h("div", { class: "preview" + (alone ? " alone" : "") }, picture(coming, 0, "preview"),
    h("div", {}, h("b", { class: "badge" }, "Preview"), " ", h("a", { href: address(coming.series_id) }, coming.series_id),
      h("div", { class: "small muted" }, `made from the first ${soon.tilts} of ${soon.expected} tilts, small and fast`
        + (alone ? "; the tomogram replaces it when the series is complete" : "")))) : null;
  if (!alone) box.replaceChildren(h("h2", {}, "Latest tomogram"), h("div", { class: "latest" }, picture(row, row.version, "central slice"),
    h("div", { class: "facts" }, h("h1", {}, h("a", { href: address(row.series_id) }, row.series_id)),
      row.alarms ? h("div", {}, flags(row.alarms)) : null, figures(row), preview)));
  else if (preview) box.replaceChildren(h("h2", {}, "Before the first tomogram"), preview);
  else box.replaceChildren(h("h2", {}, "Latest tomogram"), h("p", { class: "empty" }, session.series.done ? "None of the tomograms has a picture." : "The first tomogram appears here."));
  $("no-preview").textContent = !preview && session.preview_trouble ? session.preview_trouble : "";
}
function drawTilt() {          // the newest aligned tilt: from the first minute on, there is something to look at
  const session = state.session, tilt = session.tilt || {}, box = $("tilt"), key = JSON.stringify([tilt, $("first").className]);
  box.hidden = !tilt.movie;
  $("first").classList.toggle("tilt-there", Boolean(tilt.movie));
  if (!tilt.movie || box.dataset.key === key) return;
  box.dataset.key = key;
  const picture = (name, text) => h("img", { src: `data/${name}.webp?r=${tilt.time}`, alt: text });
  box.replaceChildren(h("h2", {}, "Latest aligned tilt" + ($("first").classList.contains("empty-yet") ? " – until the first tomogram" : "")), h("div", { class: "tilt" }, picture("tilt", "the sum of its frames"), tilt.spectrum ? h("div", { class: "spectrum" }, picture("spectrum", "its power spectrum"), tilt.ctf ? ringsOf(tilt.ctf) : null) : null,
    h("div", {}, h("b", {}, tilt.movie), h("dl", {}, [["Aligned", clock(tilt.time)], ["Drift", fixed(tilt.drift_px, 1, "px") + (known(tilt.drift_A) ? " (" + fixed(tilt.drift_A, 1, "Å") + ")" : "")],
      ["Mean counts", known(tilt.mean_counts) ? String(Number(tilt.mean_counts.toPrecision(4))) : "–"], ["Size", tilt.shape.join(" × ") + "\u202fpx"],
      ...tilt.ctf ? [["Defocus", fixed(tilt.ctf.defocus_um, 2, "µm")], ["Astigmatism", fixed(tilt.ctf.astigmatism_um, 2, "µm")], ["Rings to", fixed(tilt.ctf.resolution_A, 1, "Å")]] : []].map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, value)))), tilt.ctf ? ctfPlot(tilt.ctf) : tilt.ctf_note ? h("p", { class: "small muted" }, "No CTF fit: " + tilt.ctf_note + ".") : null)));
}
function ringsOf(ctf) {        // where the fitted CTF is zero, over the right half of the spectrum, whose edge is Nyquist
  return s("svg", { viewBox: "-1 -1 2 2", role: "img", "aria-label": "zeros of the fitted CTF" }, s("clipPath", { id: "right-half" }, s("rect", { x: 0, y: -1, width: 1, height: 2 })),
    s("g", { "clip-path": "url(#right-half)" }, s("g", { transform: `rotate(${ctf.azimuth_deg})` }, ctf.zeros.map(([along, across]) => s("ellipse", { rx: along, ry: across })))));
}
function ctfPlot(ctf) {        // the power over its background against the frequency, and what the fit makes of it
  const width = 300, height = 110, bottom = 18, end = ctf.k[ctf.k.length - 1], most = Math.max(.02, ...ctf.fitted.map(Math.abs)) * 1.6;
  const x = k => k / end * width, y = value => (height - bottom) / 2 * (1 - Math.max(-1, Math.min(1, value / most)));
  const line = (values, kind) => s("polyline", { class: kind, points: values.map((value, place) => x(ctf.k[place]).toFixed(1) + "," + y(value).toFixed(1)).join(" ") });
  const ticks = [40, 20, 10, 7, 5, 4, 3].filter(each => 1 / each < .97 * end && 1 / each >= ctf.k[0] && ctf.resolution_A), kept = ticks.filter((each, place) => !place || x(1 / each) - x(1 / ticks[place - 1]) > 26);
  return h("figure", { class: "ctf" }, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `CTF fit: defocus ${ctf.defocus_um} µm, rings to ${ctf.resolution_A} Å` },
    kept.map(each => [s("line", { class: "gridline", x1: x(1 / each), x2: x(1 / each), y1: 0, y2: height - bottom }), s("text", { x: x(1 / each), y: height - 4, "text-anchor": "middle" }, each + " Å")]).flat(),
    line(ctf.measured, "measured"), line(ctf.fitted, "fitted"), s("line", { class: "limit", x1: x(1 / ctf.resolution_A), x2: x(1 / ctf.resolution_A), y1: 0, y2: height - bottom })),
    h("figcaption", { class: "legend small" }, h("span", { class: "state", style: { "--c": "var(--muted)" } }, "power over its background"), h("span", { class: "state", style: { "--c": "var(--accent)" } }, "CTF fit")));
}
function drawActivity() {
  const session = state.session, box = $("activity"), key = JSON.stringify([session.activity, session.history.length, innerWidth > 700]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(h("h2", {}, "Activity"), activity());
  $("history").hidden = !session.history.length;
  $("history").replaceChildren(h("h2", {}, "Alarms of the session, newest first"), alarmHistory());
}
function figures(row, kind) {
  const ready = known(row.tilts_used), used = ready ? row.tilts_used + " of " + (row.tilts_expected || row.tilts_seen || "?") : row.tilts_aligned + " of " + (row.tilts_expected || "?");
  const defocus = known(row.defocus_min_um) ? row.defocus_min_um.toFixed(1) + " to " + row.defocus_max_um.toFixed(1) + "\u202fµm" : "–";
  const pairs = [[ready ? "Tilts used" : "Tilts so far", used], ["Dose", fixed(row.dose_e_A2, 0, "e/Å²")], ["Tilt axis", fixed(row.tilt_axis_deg, 1, "°")],
    ["Tilt offset", fixed(row.tilt_offset_deg, 1, "°")], ["Thickness", fixed(known(row.thickness_A) ? row.thickness_A / 10 : null, 0, "nm")],
    ["Quality", fixed(row.quality, 2)], ["Least certain tilt", known(row.worst_sigma_px) ? fixed(row.worst_tilt_deg, 0, "°") + " (" + fixed(row.worst_sigma_px, 2, "px") + ")" : "–"],
    ["Defocus", defocus], ["Largest drift", fixed(row.max_drift_px, 1, "px") + (known(row.max_drift_A) ? " (" + fixed(row.max_drift_A, 1, "Å") + ")" : "")], ["Latency", span(row.latency_s)]];
  if (known(row.gold_beads)) pairs.splice(-1, 0, ["Gold beads erased", row.gold_beads + (known(row.gold_residual_px) ? " (" + fixed(row.gold_residual_px, 2, "px") + " off)" : "")]);
  return h("dl", { class: kind || null }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
function alarmHistory() {
  const events = state.session.history.slice(-6).reverse();
  return h("ul", { class: "plain small" }, events.map(event => h("li", {}, h("span", { class: "muted" }, clock(event.time) + " "),
    h("b", { class: event.change === "raised" ? "warn" : event.change === "over" ? "good" : "muted" },
      state.session.kinds[event.kind] || event.kind), " " + event.text, event.change === "raised" ? null : h("span", { class: "muted" }, event.change === "over" ? " – resolved" : " – " + event.change))));
}
function coarser(bars, step) {     // so few bars that each is wide enough to be seen
  const whole = [1, 3, 6, 12].find(each => (bars.length ? bars[bars.length - 1][0] - bars[0][0] : 0) / step / each <= 48) || 24, sums = new Map();
  for (const [time, ...counts] of bars) {
    const start = Math.floor(time / (whole * step)) * whole * step, sum = sums.get(start) || counts.map(() => 0);
    sums.set(start, sum.map((value, place) => value + counts[place]));
  }
  return [[...sums].map(([time, counts]) => [time, ...counts]), whole * step];
}
function activity() {
  const [bars, step] = coarser(state.session.activity, state.session.bar_seconds);
  if (!bars.length) return h("p", { class: "muted small" }, "nothing yet");
  const first = bars[0][0], last = bars[bars.length - 1][0], count = Math.max(12, (last - first) / step + 1);
  const width = innerWidth > 700 ? 460 : 340, height = 130, left = 34, bottom = 20, top = 8;
  const most = Math.max(4, ...bars.map(bar => Math.max(bar[1], bar[2])));
  const x = time => left + (time - first) / step / count * (width - left), y = value => height - bottom - value / most * (height - bottom - top);
  const wide = (width - left) / count;
  const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "movies in " + span(step), style: "width:100%;height:auto;max-height:13rem" });
  for (const part of [0, .5, 1]) chart.append(s("line", { class: "gridline", x1: left, x2: width, y1: y(part * most), y2: y(part * most) }),
    s("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, String(Math.round(part * most))));
  for (const [time, came, aligned, done] of bars) {
    const title = s("title", {}, `${clock(time)}: ${came} movies arrived, ${aligned} aligned, ${done} tomograms`);
    chart.append(s("g", {}, title,
      s("rect", { x: x(time) + wide * .08, width: Math.max(1, wide * .4), y: y(came), height: height - bottom - y(came), style: "fill:var(--acquiring)", rx: 1 }),
      s("rect", { x: x(time) + wide * .5, width: Math.max(1, wide * .4), y: y(aligned), height: height - bottom - y(aligned), style: "fill:var(--done)", rx: 1 }),
      done ? s("circle", { cx: x(time) + wide / 2, cy: top, r: 3.5, style: "fill:var(--accent)" }) : null));
  }
  const short = count * step > 72000 ? clock : time => new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  chart.append(s("text", { x: left, y: height - 4 }, short(first)),
    s("text", { x: width, y: height - 4, "text-anchor": "end" }, short(first + count * step)));
  return h("div", {}, chart, h("div", { class: "legend small", style: { margin: ".2rem 0 .9rem" } },
    [["movies arrived", "acquiring"], ["aligned", "done"]].map(([text, name]) => h("span", { class: "state", style: { "--c": color(name) } }, text)),
    h("span", { class: "state", style: { "--c": "var(--accent)" } }, "tomograms made"), h("span", {}, "in " + span(step))));
}
