// SPDX-License-Identifier: GPL-3.0-or-later
// The page of a session. Data comes as scripts that call tomostream(kind, ...), because a page opened from the disk may load
// scripts but not fetch files. Whatever comes from the session is put in as text, never as HTML.
"use strict";
(() => {
  const POLL_SECONDS = 5, STALE_SECONDS = 45, FIRST_ROWS = 120, MAX_ALARMS = 6;
  const STATES = ["acquiring", "aligning", "waiting", "composing", "reconstructing", "done", "failed"];
  const state = { session: null, rows: [], revisions: [], byId: new Map(), series: new Map(), sort: ["last", -1], filter: "", only: "",
    shown: FIRST_ROWS, loaded: 0, place: "" };
  const $ = id => document.getElementById(id);

  // ------------------------------------------------------------------------------------------------ small helpers
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

  // ------------------------------------------------------------------------------------------------ data
  window.tomostream = (kind, ...values) => {
    if (kind === "session") takeSession(values[0]);
    else if (kind === "rows") takeRows(...values);
    else if (kind === "series") { state.series.set(values[0], values[1]); draw(); }
  };
  function takeSession(session) {
    const before = state.session;
    state.session = session;
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

  // ------------------------------------------------------------------------------------------------ where we are
  function openSeries() {
    const match = /^#\/series\/(.*)$/.exec(location.hash);
    if (!match) return null;
    try { return decodeURIComponent(match[1]); } catch { return match[1]; }
  }
  const address = id => "#/series/" + encodeURIComponent(id);
  window.addEventListener("hashchange", () => { scrollTo(0, 0); draw(); });

  function draw() {
    if (!state.session) return;
    const id = openSeries();
    drawTop(id);
    if (id === null) drawSession();
    else drawSeries(id);
    const session = state.session;
    $("foot").replaceChildren("tomostream " + session.version + " · ", h("a", { href: "metrics.csv" }, "metrics.csv"), " · ",
      h("a", { href: "session.json" }, "session.json"), " · ", h("a", { href: "COLUMNS.txt" }, "what the columns are"), " · " + session.path);
  }
  function drawTop(id) {
    const session = state.session;
    document.title = (session.alarms.length ? "⚠ " : "") + (id === null ? "" : id + " – ") + session.project;
    $("top").replaceChildren(...[
      h("a", { class: "brand", href: "#" }, "tomostream"),
      h("h1", {}, id === null ? session.project : h("a", { href: "#" }, session.project)),
      h("span", { class: "pill", id: "pulse" }), h("span", { class: "grow" }),
      session.pictures_waiting > 2 ? h("span", { class: "pill" }, "pictures of " + session.pictures_waiting + " series to come") : null,
      Object.keys(session.protocols).length && session.running
        ? h("span", { class: "muted small" }, Object.entries(session.protocols).map(([name, what]) => name + " " + what).join(" · ")) : null]
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

  // ------------------------------------------------------------------------------------------------ the session
  function drawSession() {
    let page = $("session-page");
    if (!page) {
      page = h("div", { id: "session-page" }, h("div", { class: "first", id: "first" }, h("section", { id: "verdict", class: "card" }),
        h("div", { id: "alarms", class: "alarms" }), h("section", { id: "latest", class: "card" }), h("div", { id: "cards", class: "grid cards" }),
        h("section", { id: "activity", class: "card" })), h("section", { id: "history", class: "card" }), tableCard());
      $("main").replaceChildren(page);
    }
    $("verdict").replaceChildren(...verdict());
    $("alarms").replaceChildren(...alarmLines());
    $("cards").replaceChildren(...cards());
    drawLatest();
    drawActivity();
    drawTable();
  }
  function alarmLines() {
    const session = state.session;
    const grave = alarm => ["protocol-died", "standstill", "series-failed"].includes(alarm.kind), dead = alarm => alarm.kind === "protocol-died";
    const alarms = session.alarms.slice().sort((a, b) => dead(b) - dead(a) || grave(b) - grave(a) || b.since - a.since), lines = [];
    lines.push(...alarms.map(alarm => h("div", { class: grave(alarm) ? "alarm grave" : "alarm", role: "alert" }, h("b", {}, session.kinds[alarm.kind] || alarm.kind),
      h("span", {}, alarm.text), h("span", { class: "muted small" }, (alarm.count > 1 ? alarm.count + " times, " : "") + "since " + clock(alarm.since)),
      alarm.items.filter(item => state.byId.has(item)).slice(-6).map(item => h("a", { href: address(item), class: "small" }, item)))));
    for (const [name, reason] of Object.entries(session.waiting)) if (!session.alarms.some(alarm => alarm.kind === "held-up" && alarm.of === name))
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
  const deadOnes = () => Object.entries(state.session.protocols).filter(([, what]) => what === "dead").map(([name]) => name);
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
      + (waits >= 1 ? ", about " + span(60 * waits) : ""), silent === null ? null : "last movie " + span(Math.max(0, silent)) + " ago"];
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
    const box = $("latest"), key = JSON.stringify([row, soon, coming ? coming.thumb : null]);
    $("first").classList.toggle("empty-yet", !row && !coming);
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    const picture = (each, version, text) => h("a", { class: "picture", href: address(each.series_id) },
      h("img", { src: `series/${each.page}/v${version}-xy.webp?r=${session.updated}`, alt: text }));
    const alone = !(row && row.thumb);
    const preview = coming && coming.thumb ? h("div", { class: "preview" + (alone ? " alone" : "") }, picture(coming, 0, "preview"),
      h("div", {}, h("b", { class: "badge" }, "Preview"), " ", h("a", { href: address(coming.series_id) }, coming.series_id),
        h("div", { class: "small muted" }, `made of the first ${soon.tilts} of ${soon.expected} tilts, small and quick`
          + (alone ? "; the tomogram takes its place when the series is complete" : "")))) : null;
    if (!alone) box.replaceChildren(h("h2", {}, "Latest tomogram"), h("div", { class: "latest" }, picture(row, row.version, "central slice"),
      h("div", { class: "facts" }, h("h1", {}, h("a", { href: address(row.series_id) }, row.series_id)),
        row.alarms ? h("div", {}, flags(row.alarms)) : null, figures(row), preview)));
    else if (preview) box.replaceChildren(h("h2", {}, "Before the first tomogram"), preview);
    else box.replaceChildren(h("h2", {}, "Latest tomogram"), h("p", { class: "empty" }, "The first tomogram appears here."));
  }
  function drawActivity() {
    const session = state.session, box = $("activity"), key = JSON.stringify([session.activity, session.history.length, innerWidth > 700]);
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    box.replaceChildren(h("h2", {}, "Activity"), activity());
    $("history").hidden = !session.history.length;
    $("history").replaceChildren(h("h2", {}, "Alarms of the session, the newest first"), history());
  }
  function figures(row, kind) {
    const ready = known(row.tilts_used), used = ready ? row.tilts_used + " of " + (row.tilts_expected || row.tilts_seen || "?") : row.tilts_aligned + " of " + (row.tilts_expected || "?");
    const defocus = known(row.defocus_min_um) ? row.defocus_min_um.toFixed(1) + " to " + row.defocus_max_um.toFixed(1) + "\u202fµm" : "–";
    const pairs = [[ready ? "Tilts used" : "Tilts so far", used], ["Dose", fixed(row.dose_e_A2, 0, "e/Å²")], ["Tilt axis", fixed(row.tilt_axis_deg, 1, "°")],
      ["Tilt offset", fixed(row.tilt_offset_deg, 1, "°")], ["Thickness", fixed(known(row.thickness_A) ? row.thickness_A / 10 : null, 0, "nm")],
      ["Quality", fixed(row.quality, 2)], ["Least certain tilt", known(row.worst_sigma_px) ? fixed(row.worst_tilt_deg, 0, "°") + " (" + fixed(row.worst_sigma_px, 2, "px") + ")" : "–"],
      ["Defocus", defocus], ["Largest drift", fixed(row.max_drift_px, 1, "px")], ["Latency", span(row.latency_s)]];
    return h("dl", { class: kind || null }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }
  function history() {
    const events = state.session.history.slice(-6).reverse();
    return h("ul", { class: "plain small" }, events.map(event => h("li", {}, h("span", { class: "muted" }, clock(event.time) + " "),
      h("b", { class: event.change === "raised" ? "warn" : event.change === "over" ? "good" : "muted" },
        (state.session.kinds[event.kind] || event.kind) + (event.change === "raised" ? "" : " " + event.change)), " " + event.text)));
  }
  function activity() {
    const bars = state.session.activity, step = state.session.bar_seconds;
    if (!bars.length) return h("p", { class: "muted small" }, "nothing yet");
    const first = bars[0][0], last = bars[bars.length - 1][0], count = Math.max(12, (last - first) / step + 1);
    const width = innerWidth > 700 ? 460 : 340, height = 130, left = 34, bottom = 20, top = 8;
    const most = Math.max(4, ...bars.map(bar => Math.max(bar[1], bar[2])));
    const x = time => left + (time - first) / step / count * (width - left), y = value => height - bottom - value / most * (height - bottom - top);
    const wide = (width - left) / count;
    const chart = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "movies in ten minutes", style: "width:100%;height:auto;max-height:13rem" });
    for (const part of [0, .5, 1]) chart.append(s("line", { class: "gridline", x1: left, x2: width, y1: y(part * most), y2: y(part * most) }),
      s("text", { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" }, String(Math.round(part * most))));
    for (const [time, came, aligned, done] of bars) {
      const title = s("title", {}, `${clock(time)}: ${came} movies came, ${aligned} aligned, ${done} tomograms`);
      chart.append(s("g", {}, title,
        s("rect", { x: x(time) + wide * .08, width: Math.max(1, wide * .4), y: y(came), height: height - bottom - y(came), style: "fill:var(--acquiring)", rx: 1 }),
        s("rect", { x: x(time) + wide * .5, width: Math.max(1, wide * .4), y: y(aligned), height: height - bottom - y(aligned), style: "fill:var(--done)", rx: 1 }),
        done ? s("circle", { cx: x(time) + wide / 2, cy: top, r: 3.5, style: "fill:var(--accent)" }) : null));
    }
    const short = count * step > 72000 ? clock : time => new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    chart.append(s("text", { x: left, y: height - 4 }, short(first)),
      s("text", { x: width, y: height - 4, "text-anchor": "end" }, short(first + count * step)));
    return h("div", {}, chart, h("div", { class: "legend small", style: { margin: ".2rem 0 .9rem" } },
      [["movies came", "acquiring"], ["aligned", "done"]].map(([text, name]) => h("span", { class: "state", style: { "--c": color(name) } }, text)),
      h("span", { class: "state", style: { "--c": "var(--accent)" } }, "tomograms made"), h("span", {}, "in ten minutes")));
  }

  // ------------------------------------------------------------------------------------------------ the table
  const tilts = row => known(row.tilts_used) ? row.tilts_used : row.tilts_aligned;
  const COLUMNS = [
    ["", "", null, row => row.thumb ? h("img", { src: `series/${row.page}/${row.thumb}`, alt: "", loading: "lazy", class: row.thumb.startsWith("v0-") ? "early" : null }) : h("div", { class: "none" })],
    ["Series", "id", row => row.series_id, row => h("a", { href: address(row.series_id) }, row.series_id)],
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
  // what people decided and the newest version does not show yet is done by the compose protocol, if it runs
  const decided = row => row.pending + (["finished", "stopped", "dead"].includes(state.session.protocols.compose)
    ? ", when the session is continued: tomostream resume --again --from compose" : "");
  const why = row => row.pending ? row.reason.replace(/\.$/, "") + "; " + decided(row) : row.reason;
  const flags = text => text ? text.split(" ").map(kind => h("span", { class: "flag" }, state.session.kinds[kind] || kind)) : [];
  function tableCard() {
    const search = h("input", { type: "search", id: "search", placeholder: "Filter by name, reason, alarm", "aria-label": "filter",
      oninput: event => { state.filter = event.target.value.toLowerCase(); state.shown = FIRST_ROWS; drawTable(); } });
    search.value = state.filter;
    return h("section", { class: "card" }, h("div", { class: "tools" }, search, h("span", { id: "chips", class: "tools", style: { margin: 0 } }),
      h("span", { id: "count", class: "muted small" })), h("div", { class: "scroll" }, h("table", {}, h("thead", { id: "head" }), h("tbody", { id: "body" }))),
      h("div", { id: "more" }));
  }
  function chips() {
    const counts = new Map();
    for (const row of state.byId.values()) {
      counts.set(row.state, (counts.get(row.state) || 0) + 1);
      if (row.alarms) counts.set("alarms", (counts.get("alarms") || 0) + 1);
    }
    return ["", ...STATES, "alarms"].filter(name => name === "" || counts.has(name)).map(name => h("button", {
      "aria-pressed": String(state.only === name), "data-state": name || "all",
      onclick: () => { state.only = name; state.shown = FIRST_ROWS; drawTable(); } }, name === "" ? "all" : name + " " + counts.get(name)));
  }
  function visible() {
    const place = state.rows.flat();
    let rows = place.filter(row => row && (!state.only || row.state === state.only || (state.only === "alarms" && row.alarms)));
    if (state.filter) rows = rows.filter(row => `${row.series_id} ${row.name} ${row.state} ${row.reason} ${row.pending} ${row.alarms}`.toLowerCase().includes(state.filter));
    const [name, direction] = state.sort;
    if (name === "last") return direction < 0 ? rows.reverse() : rows;
    const value = COLUMNS[name][2];
    const text = new Intl.Collator(undefined, { numeric: true });
    return rows.sort((a, b) => {
      const left = value(a), right = value(b);
      if (!known(left) || !known(right)) return known(left) ? -1 : known(right) ? 1 : 0;
      return direction * (typeof left === "string" ? text.compare(left, right) : left - right);
    });
  }
  function drawTable() {
    const rows = visible();
    $("chips").replaceChildren(...chips());
    $("count").textContent = rows.length === state.byId.size ? rows.length + " series" : rows.length + " of " + state.byId.size + " series";
    $("head").replaceChildren(h("tr", {}, COLUMNS.map(([title, kind, value], place) => h("th", { class: kind || null, scope: "col", tabindex: value ? 0 : null,
      "aria-sort": state.sort[0] === place ? (state.sort[1] > 0 ? "ascending" : "descending") : null,
      onclick: value ? () => sortBy(place) : null, onkeydown: value ? event => { if (event.key === "Enter") sortBy(place); } : null }, title))));
    $("body").replaceChildren(...rows.slice(0, state.shown).map(tableRow));
    $("more").replaceChildren(rows.length > state.shown ? h("p", { class: "empty", id: "sentinel" }, rows.length - state.shown + " more")
      : rows.length ? "" : h("p", { class: "empty" }, state.byId.size ? "No series fits the filter." : "No tilt series yet."));
    if ($("sentinel")) seen.observe($("sentinel"));
  }
  const seen = new IntersectionObserver(entries => {
    if (entries.some(entry => entry.isIntersecting)) { state.shown += 4 * FIRST_ROWS; drawTable(); }
  }, { rootMargin: "600px" });
  function tableRow(row) {
    return h("tr", { onclick: event => { if (!event.target.closest("a")) location.hash = address(row.series_id); } },
      COLUMNS.map(([, kind, , cell]) => h("td", { class: kind || null }, cell(row))));
  }
  function sortBy(place) {
    state.sort = state.sort[0] === place ? [place, -state.sort[1]] : [place, 1];
    drawTable();
  }

  // ------------------------------------------------------------------------------------------------ one series
  let drawn = "";
  function drawSeries(id) {
    const row = state.byId.get(id), data = state.series.get(id);
    if (!row) {
      $("main").replaceChildren(h("p", { class: "empty" }, state.session.chunks.length && state.rows.flat().length ? "There is no series of this name." : "Reading the series …"));
      return;
    }
    if (!data && row.page && state.place !== id) { state.place = id; load(`series/${row.page}/data.js?r=${Date.now()}`); }
    const key = JSON.stringify([row, data ? data.signature : null, data ? data.trouble : null]);
    if ($("series-page") && drawn === key) return;
    drawn = key;
    $("main").replaceChildren(seriesPage(row, data));
  }
  function seriesPage(row, data) {
    const order = visible(), place = order.findIndex(each => each.series_id === row.series_id);
    const step = (other, text, key) => other ? h("a", { href: address(other.series_id), "data-key": key, title: other.series_id }, text) : null;
    const page = h("div", { id: "series-page" },
      h("section", { class: "card", style: { "margin-bottom": "1rem" } },
        h("div", { class: "tools" }, h("h1", {}, row.series_id), h("span", { class: "pill state", style: { "--c": color(row.state) } }, row.state),
          row.version > 1 ? h("span", { class: "pill" }, "version " + row.version) : null,
          row.name && row.name !== row.series_id ? h("span", { class: "muted" }, row.name) : null, h("span", { style: { flex: 1 } }),
          step(order[place - 1], "← previous", "ArrowLeft"), step(order[place + 1], "next →", "ArrowRight")),
        h("p", { style: { margin: "0 0 .4rem", "overflow-wrap": "anywhere" } }, row.reason),
        row.pending ? h("div", { class: "alarm note", id: "is-pending" }, h("b", {}, "Tilts"), h("span", {}, decided(row))) : null,
        (data ? data.findings : []).map(finding => h("div", { class: "alarm", style: { "margin-top": ".4rem" } },
          h("b", {}, state.session.kinds[finding.kind] || finding.kind), h("span", {}, finding.text))),
        data && data.pictures.preview ? h("div", { class: "alarm note", id: "is-preview" }, h("b", { class: "badge" }, "Preview"),
          h("span", {}, `made of the first ${data.pictures.preview[0]} of ${data.pictures.preview[1]} tilts, small and quick; the tomogram takes its place when the series is complete.`)) : null,
        figures(row, "flow"), data && data.trouble ? h("div", { class: "alarm" }, h("b", {}, "page"), h("span", {}, data.trouble)) : null));
    if (!data) {
      page.append(h("p", { class: "empty" }, "Pictures and plots come when the series is composed and reconstructed."));
      return page;
    }
    const pictures = data.pictures, film = pictures.film ? player(data, pictures.film, "Aligned tilt series", true) : null;
    page.append(h("div", { class: "grid pictures" + (pictures.xy ? "" : " few") }, pictures.xy ? orthoCard(data) : null,
      pictures.slices ? player(data, pictures.slices, "Slices", false) : null, film));
    page.append(h("div", { class: "grid plots" }, plots(data)));
    page.append(h("div", { class: "grid two" }, leftOut(data), fileCard(data)), commandCard(data));
    return page;
  }
  document.addEventListener("keydown", event => {
    if (event.target instanceof Element && event.target.closest("input, button")) return;
    const link = [...document.querySelectorAll("a[data-key]")].find(each => each.dataset.key === event.key);
    if (link) location.hash = link.getAttribute("href");
    else if (event.key === "Escape" && openSeries() !== null) location.hash = "";
  });

  function orthoCard(data) {
    const made = data.pictures, base = `series/${state.byId.get(data.facts.series_id).page}/`;
    const figure = name => h("figure", {}, h("img", { src: base + made[name].file, alt: name.toUpperCase() + " slice" }), h("figcaption", {}, name.toUpperCase()));
    const xy = figure("xy"), wide = made.xy.width, tall = made.xy.height, deep = made.xz.height;
    const binned = tomogramPixel(data);
    if (binned) {
      const whole = wide / made.scale * binned / 10, nice = [1000, 500, 200, 100, 50, 20, 10].find(length => length <= whole / 3) || 5;
      xy.append(h("div", { class: "scalebar", style: { width: 100 * nice / whole + "%" } }, nice + " nm"));
    }
    return h("section", { class: "card" }, h("h2", {}, "Central slices"), h("div", { class: "ortho", id: "ortho",
      style: { "grid-template-columns": `${wide}fr ${made.yz.width}fr`, "grid-template-rows": "auto auto" } },
      xy, figure("yz"), figure("xz"), h("div", {})), h("p", { class: "small muted", style: { margin: ".5rem 0 0" } },
      `${made.shape[2]} × ${made.shape[1]} × ${made.shape[0]} voxels` + (binned ? ` of ${(binned / 10).toFixed(2)} nm` : "")
        + (made.depth < made.shape[0] ? `, of which the middle ${made.depth} in z` : "") + "; means over a slab, y upward"));
  }
  function tomogramPixel(data) {
    if (data.pictures.pixel_size_A) return data.pictures.pixel_size_A;
    const facts = data.facts, match = / -OutBin ([0-9.]+)/.exec(facts.commands[0] || "");
    return facts.pixel_size_A ? facts.pixel_size_A * (match ? Number(match[1]) : 1) : null;
  }

  function player(data, atlas, title, film) {
    const canvas = h("canvas", { width: atlas.width, height: atlas.height, style: { width: "100%" } });
    const where = h("span", { class: "where" }), image = new Image();
    let place = Math.floor(atlas.count / 2), timer = 0;
    const slider = h("input", { type: "range", min: 0, max: atlas.count - 1, "aria-label": title, oninput: () => show(Number(slider.value)) });
    const play = h("button", { onclick: () => timer ? stop() : start(), "aria-label": "play" }, "▶");
    function show(next) {
      place = (next + atlas.count) % atlas.count;
      slider.value = place;
      where.textContent = atlas.labels[place] || "";
      if (!image.complete || !image.naturalWidth) return;
      canvas.getContext("2d").drawImage(image, place % atlas.columns * atlas.width, Math.floor(place / atlas.columns) * atlas.height,
        atlas.width, atlas.height, 0, 0, atlas.width, atlas.height);
    }
    function start() {
      let step = 1;
      play.textContent = "❚❚";
      timer = setInterval(() => {
        if (!canvas.isConnected) { stop(); return; }
        if (place + step < 0 || place + step >= atlas.count) step = -step;
        show(place + step);
      }, film ? 90 : 110);
    }
    function stop() { clearInterval(timer); timer = 0; play.textContent = "▶"; }
    canvas.addEventListener("wheel", event => { event.preventDefault(); stop(); show(Math.max(0, Math.min(atlas.count - 1, place + Math.sign(event.deltaY)))); }, { passive: false });
    image.onload = () => show(place);
    image.src = `series/${state.byId.get(data.facts.series_id).page}/${atlas.file}`;
    if (film) data.jump = angle => {
      const labels = atlas.labels.map(label => parseFloat(label));
      stop();
      show(labels.reduce((best, value, index) => Math.abs(value - angle) < Math.abs(labels[best] - angle) ? index : best, 0));
    };
    show(place);
    return h("section", { class: "card player" }, h("h2", {}, title), canvas, h("div", { class: "controls" }, play, slider, where));
  }

  // ------------------------------------------------------------------------------------------------ plots
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
    return h("section", { class: "card" }, h("h2", {}, title + " (" + unit + ")"), chart);
  }

  // ------------------------------------------------------------------------------------------------ words
  function leftOut(data) {
    const out = data.facts.tilts.filter(tilt => !tilt.used);
    const facts = data.facts;
    const notes = [...facts.warnings, facts.ctf_note ? "CTF: " + facts.ctf_note : "", facts.quality_note && facts.quality_note !== "trust" ? "Alignment: " + facts.quality_note : "",
      facts.local_note ? "Local alignment: " + facts.local_note : ""].filter(Boolean);
    return h("section", { class: "card" }, h("h2", {}, "Tilts that are not used"), out.length
      ? h("ul", { class: "plain" }, out.map(tilt => h("li", {}, h("b", {}, tilt.angle_deg.toFixed(1) + "° "), tilt.reason || "not in the alignment",
        h("span", { class: "muted small" }, " " + tilt.movie)))) : h("p", { class: "muted", style: { margin: 0 } }, facts.tilts.length ? "All tilts are used." : "Not known before it is composed."),
      notes.length ? [h("h2", { style: { margin: ".9rem 0 .3rem" } }, "Notes"), h("ul", { class: "plain" }, notes.map(note => h("li", {}, note)))] : null);
  }
  function fileCard(data) {
    return h("section", { class: "card" }, h("h2", {}, "Files"), data.files.length ? null : h("p", { class: "muted", style: { margin: 0 } }, "None yet."), h("ul", { class: "plain small" }, data.files.map(file => h("li", {},
      h("span", { class: "muted" }, file.what + " "), file.path, h("span", { class: "muted" }, " " + size(file.bytes))))));
  }
  function commandCard(data) {
    const facts = data.facts;
    const movies = facts.tilts.filter(tilt => tilt.command), versions = Object.entries(data.versions || {});
    if (!facts.commands.length && !movies.length) return "";
    return h("section", { class: "card", id: "commands" }, h("h2", {}, "Commands, as they were run"),
      h("p", { class: "small", style: { margin: 0 } }, facts.programs.map(name => h("span", { class: "pill" }, name))),
      facts.commands.map(command => h("pre", {}, command)),
      movies.length ? h("details", {}, h("summary", {}, "The alignment of its " + movies.length + " movies"),
        movies.map(tilt => h("div", {}, h("b", { class: "small" }, tilt.angle_deg.toFixed(1) + "°"), h("pre", {}, tilt.command)))) : null,
      h("p", { class: "small muted", style: { margin: ".4rem 0 0" } }, [facts.tilt_axis_source ? "first tilt axis: " + facts.tilt_axis_source : "",
        facts.voltage_kV ? facts.voltage_kV + " kV" : "", ...versions.map(([name, version]) => name + " " + version)].filter(Boolean).join(" · ")));
  }

  // ------------------------------------------------------------------------------------------------ follow
  setInterval(tick, 1000);
  setInterval(() => { if (!document.hidden && (!state.session || state.session.running)) load("data/session.js?t=" + Date.now()); }, POLL_SECONDS * 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) load("data/session.js?t=" + Date.now()); });
  load("data/session.js?t=" + Date.now(), () => $("main").replaceChildren(h("p", { class: "empty" }, "No session has been written here yet. This page looks again every few seconds.")));
})();
