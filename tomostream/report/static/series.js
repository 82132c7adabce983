// SPDX-License-Identifier: GPL-3.0-or-later
// The page of one series.
"use strict";

let drawn = "";
function drawSeries(id) {
  const row = state.byId.get(id), data = state.series.get(id);
  if (!row) {
    $("main").replaceChildren(h("p", { class: "empty" }, state.session.chunks.length && state.rows.flat().length ? "There is no series with this name." : "Reading the series …"));
    return;
  }
  if (!data && row.page && state.place !== id) { state.place = id; load(`series/${row.page}/data.js?r=${Date.now()}`); }
  const key = JSON.stringify([row, data ? data.signature : null, data ? data.trouble : null, state.marks.get(id), state.served]);
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
        h("span", {}, `made from the first ${data.pictures.preview[0]} of ${data.pictures.preview[1]} tilts, small and fast; the tomogram replaces it when the series is complete.`)) : null,
      data && data.pictures.filtered ? h("p", { class: "small muted", id: "is-filtered" },
        "Pictures of the filtered tomogram: for viewing; for averaging use the tomogram itself.") : null,
      markTools(row), figures(row, "flow"), data && data.trouble ? h("div", { class: "alarm" }, h("b", {}, "page"), h("span", {}, data.trouble)) : null));
  if (!data) {
    page.append(h("p", { class: "empty" }, "Pictures and plots appear once the series is composed and reconstructed."));
    return page;
  }
  const pictures = data.pictures, film = pictures.film ? player(data, pictures.film, "Aligned tilt series", true) : null;
  page.append(h("div", { class: "grid pictures" + (pictures.xy ? "" : " few") }, pictures.xy ? orthoCard(data) : null,
    pictures.slices ? viewerCard(data) : null, pictures.plain ? player(data, pictures.plain, "Not filtered", false) : null, film));
  page.append(h("div", { class: "grid plots" }, plots(data)));
  page.append(h("div", { class: "grid two" }, leftOut(data), fileCard(data)), commandCard(data));
  return page;
}
document.addEventListener("keydown", event => {
  if (event.target instanceof Element && event.target.closest("input, button, select") || route().view === "gallery") return;
  const link = [...document.querySelectorAll("a[data-key]")].find(each => each.dataset.key === event.key);
  if (link) location.hash = link.getAttribute("href");
  else if (event.key === "Escape" && route().view !== "session") location.hash = "";
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
  const canvas = h("canvas", { role: "img", "aria-label": title, width: atlas.width, height: atlas.height, style: { width: "100%" } });
  const where = h("span", { class: "where" }), image = new Image();
  let place = Math.floor(atlas.count / 2), timer = 0;
  const slider = h("input", { type: "range", min: 0, max: atlas.count - 1, "aria-label": title, oninput: () => show(Number(slider.value)) });
  const play = h("button", { onclick: () => timer ? stop() : start(), "aria-label": "play" }, "▶");
  function show(next) {
    place = (next + atlas.count) % atlas.count;
    slider.value = place;
    where.textContent = atlas.labels[place] || "";
    slider.setAttribute("aria-valuetext", where.textContent);
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
  if (!film) data.follow = z => { stop(); show(z); };         // the same slice as the filtered one beside it
  if (film) data.jump = angle => {
    const labels = atlas.labels.map(label => parseFloat(label));
    stop();
    show(labels.reduce((best, value, index) => Math.abs(value - angle) < Math.abs(labels[best] - angle) ? index : best, 0));
  };
  show(place);
  return h("section", { class: "card player" }, h("h2", {}, title), canvas, h("div", { class: "controls" }, play, slider, where));
}

function leftOut(data) {
  const out = data.facts.tilts.filter(tilt => !tilt.used);
  const facts = data.facts;
  const notes = [...facts.warnings, facts.ctf_note ? (/^(no )?CTF\b/i.test(facts.ctf_note) ? facts.ctf_note[0].toUpperCase() + facts.ctf_note.slice(1) : "CTF: " + facts.ctf_note) : "", facts.trust !== "trusted" && facts.quality_note ? "Alignment: " + facts.quality_note : "",
    facts.local_note ? "Local alignment: " + facts.local_note : ""].filter(Boolean);
  return h("section", { class: "card" }, h("h2", {}, "Tilts that are not used"), out.length
    ? h("ul", { class: "plain" }, out.map(tilt => h("li", {}, h("b", {}, tilt.angle_deg.toFixed(1) + "° "), tilt.reason || "not in the alignment",
      h("span", { class: "muted small" }, " " + tilt.movie + " "), tilt.section === null ? excludeButton(facts.series_id, tilt) : null))) : h("p", { class: "muted", style: { margin: 0 } }, facts.tilts.length ? "All tilts are used." : "Not known until it is composed."),
    state.served ? tiltList(facts) : null, notes.length ? [h("h2", { style: { margin: ".9rem 0 .3rem" } }, "Notes"), h("ul", { class: "plain" }, notes.map(note => h("li", {}, note)))] : null);
}
function tiltList(facts) {      // where tilts can be taken out from the page
  return h("details", { id: "tilt-list" }, h("summary", {}, "Take tilts out"), h("ul", { class: "plain small" }, facts.tilts.filter(tilt => known(tilt.section)).map(tilt =>
    h("li", {}, tilt.angle_deg.toFixed(1) + "° " + tilt.movie + " ", excludeButton(facts.series_id, tilt)))));
}
function fileCard(data) {
  return h("section", { class: "card" }, h("h2", {}, "Files"), data.files.length ? null : h("p", { class: "muted", style: { margin: 0 } }, "None yet."), h("ul", { class: "plain small" }, data.files.map((file, place) => h("li", {},
    h("span", { class: "muted" }, file.what + " "), fileAddress(data, place) ? h("a", { href: fileAddress(data, place), download: true }, file.path) : file.path, h("span", { class: "muted" }, " " + size(file.bytes))))));
}
function commandCard(data) {
  const facts = data.facts;
  const movies = facts.tilts.filter(tilt => tilt.command), versions = Object.entries(data.versions || {});
  if (!facts.commands.length && !movies.length) return "";
  return h("section", { class: "card", id: "commands" }, h("h2", {}, "Commands as they were run"),
    h("p", { class: "small", style: { margin: 0 } }, facts.programs.map(name => h("span", { class: "pill" }, name))),
    facts.commands.map(command => h("pre", {}, command)),
    movies.length ? h("details", {}, h("summary", {}, "The alignment of its " + movies.length + " movies"),
      movies.map(tilt => h("div", {}, h("b", { class: "small" }, tilt.angle_deg.toFixed(1) + "°"), h("pre", {}, tilt.command)))) : null,
    h("p", { class: "small muted", style: { margin: ".4rem 0 0" } }, [facts.tilt_axis_source ? "first tilt axis: " + facts.tilt_axis_source : "",
      facts.voltage_kV ? facts.voltage_kV + " kV" : "", ...versions.map(([name, version]) => name + " " + version)].filter(Boolean).join(" · ")));
}
