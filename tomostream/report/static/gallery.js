// SPDX-License-Identifier: GPL-3.0-or-later
// All tomograms as a wall of pictures: sorted and filtered like the table, walked through and marked by keys.
"use strict";

const tiles = new Map();

function drawGallery() {
  if (!$("gallery-page")) {
    const order = h("select", { id: "order", "aria-label": "sort by", onchange: event => {
      const [name, direction] = event.target.value.split(" ");
      state.sort = [name, Number(direction)];
      draw();
    } });
    const size = h("input", { type: "range", id: "tile-size", min: 90, max: 480, step: 10, value: state.tile, "aria-label": "size of the pictures",
      oninput: event => resize(Number(event.target.value)) });
    $("main").replaceChildren(h("div", { id: "gallery-page" }, h("section", { class: "card" }, filterTools(order, size),
      h("div", { id: "wall", class: "wall" }), h("p", { class: "small muted" }, "Arrow keys move, Enter opens; G marks as good, B as bad, L as one to look at again, U removes the mark. tomostream marks " + quoted(state.session.path) + " --set good makes Scipion sets of the good ones."))));
    tiles.clear();
    resize(state.tile);
  }
  fillOrder();
  const rows = visible().filter(row => row.thumb);
  drawTools(rows);
  const wanted = rows.map(tile), wall = $("wall");
  if (wanted.length !== wall.children.length || wanted.some((node, place) => wall.children[place] !== node)) wall.replaceChildren(...wanted);
  if (!rows.length) wall.replaceChildren(h("p", { class: "empty" }, state.byId.size ? "No tomogram matches the filter yet." : "No tilt series yet."));
}
function resize(size) {
  state.tile = size;
  $("tile-size").setAttribute("aria-valuetext", size + " pixels");
  $("wall").style.setProperty("--tile", size + "px");
}
function fillOrder() {
  const names = numeric(), key = names.join(" ");
  if ($("order").dataset.key !== key) {
    $("order").dataset.key = key;
    $("order").replaceChildren(h("option", { value: "last -1" }, "newest first"), h("option", { value: "last 1" }, "oldest first"), h("option", { value: "series_id 1" }, "by name"),
      ...names.flatMap(name => [[1, "↑"], [-1, "↓"]].map(([direction, arrow]) => h("option", { value: `${name} ${direction}` }, title(name) + " " + arrow))));
  }
  $("order").value = state.sort.join(" ");
}
const cardOf = row => `series/${row.page}/${row.thumb.replace("-thumb", "-card")}`;
function tile(row) {
  const [name] = state.sort, mark = valueOf(row, "mark"), value = state.session.columns.includes(name) && name !== "series_id" ? figure(row, name) : fixed(row.quality, 2);
  const key = JSON.stringify([row.thumb, row.state, row.alarms, value, mark]), old = tiles.get(row.series_id);
  if (old && old.dataset.key === key) return old;
  const picture = h("img", { src: cardOf(row), alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => { picture.src = `series/${row.page}/${row.thumb}`; }, { once: true });      // of a page that an earlier version wrote
  const node = h("a", { class: "tile", href: address(row.series_id), "data-key": key, "data-series": row.series_id, title: row.reason }, picture,
    h("span", { class: "caption" }, h("b", {}, row.series_id), h("span", { class: "num" }, value), mark ? markBadge(mark) : null,
      row.alarms ? h("span", { class: "warn", title: row.alarms }, "⚠") : null, row.thumb.startsWith("v0-") ? h("span", { class: "badge" }, "Preview") : null));
  tiles.set(row.series_id, node);
  return node;
}
const figure = (row, name) => !known(row[name]) ? "–" : isTime(name) ? clock(row[name]) : typeof row[name] === "number" ? String(Number(row[name].toPrecision(3))) : String(row[name]);
function walk(key) {        // from the focused tile to its neighbour
  const all = [...document.querySelectorAll(".tile")], place = all.indexOf(document.activeElement);
  if (!all.length) return;
  const columns = Math.max(1, all.filter(each => each.offsetTop === all[0].offsetTop).length);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  all[place < 0 ? 0 : Math.max(0, Math.min(all.length - 1, place + step))].focus();
}
document.addEventListener("keydown", event => {
  if (route().view !== "gallery" || !event.key.startsWith("Arrow") || event.target.closest && event.target.closest("input, select")) return;
  event.preventDefault();
  walk(event.key);
});
