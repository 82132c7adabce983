// SPDX-License-Identifier: GPL-3.0-or-later
// The tomogram itself: a slice in z, and the two cuts across it through a chosen point, made from the slices of the page.
"use strict";

function viewerCard(data) {
  const atlas = data.pictures.slices, [depth] = data.pictures.shape, image = new Image();
  const wide = atlas.width, tall = atlas.height, binned = tomogramPixel(data);
  const deep = Math.max(8, Math.round(depth * wide / data.pictures.shape[2]));
  const at = { z: Math.floor(atlas.count / 2), x: wide >> 1, y: tall >> 1 };
  const canvas = (width, height, label) => h("canvas", { width, height, role: "img", "aria-label": label });
  const xy = canvas(wide, tall, "slice in z"), xz = canvas(wide, deep, "cut along x"), yz = canvas(deep, tall, "cut along y"), where = h("span", { class: "where" });
  const box = h("div", { class: "ortho viewer", tabindex: 0, "aria-label": "tomogram: up and down change the slice", style: { "grid-template-columns": `${wide}fr ${deep}fr` } },
    frame(xy, "XY"), frame(yz, "YZ"), frame(xz, "XZ"), h("div", {}));
  const slider = h("input", { type: "range", min: 0, max: atlas.count - 1, "aria-label": "slice in z", oninput: () => go({ z: Number(slider.value) }) });
  const contrast = h("input", { type: "range", min: 50, max: 300, value: 100, "aria-label": "contrast", "aria-valuetext": "100 percent", oninput: () => {
    contrast.setAttribute("aria-valuetext", contrast.value + " percent");
    box.style.setProperty("--contrast", contrast.value / 100);
  } });
  if (binned) {
    const whole = data.pictures.shape[2] * binned / 10, nice = [1000, 500, 200, 100, 50, 20, 10].find(length => length <= whole / 3) || 5;
    xy.parentNode.append(h("div", { class: "scalebar", style: { width: 100 * nice / whole + "%" } }, nice + " nm"));
  }
  const place = k => [k % atlas.columns * wide, Math.floor(k / atlas.columns) * tall];
  const band = k => [deep - Math.round((k + 1) * deep / atlas.count), Math.max(1, Math.ceil(deep / atlas.count))];      // z upward, to the right
  function cross(target, x, y) {
    const pen = target.getContext("2d");
    pen.strokeStyle = "rgba(255, 214, 80, .65)";
    pen.beginPath();
    pen.moveTo(x, 0); pen.lineTo(x, target.height); pen.moveTo(0, y); pen.lineTo(target.width, y);
    pen.stroke();
  }
  function paint() {
    slider.value = at.z;
    where.textContent = atlas.labels[at.z] || "";
    slider.setAttribute("aria-valuetext", where.textContent);
    if (!image.complete || !image.naturalWidth) return;
    const [left, top] = place(at.z);
    xy.getContext("2d").drawImage(image, left, top, wide, tall, 0, 0, wide, tall);
    for (let k = 0; k < atlas.count; k += 1) {
      const [x, y] = place(k), [start, size] = band(k);
      xz.getContext("2d").drawImage(image, x, y + at.y, wide, 1, 0, start, wide, size);
      yz.getContext("2d").drawImage(image, x + at.x, y, 1, tall, deep - start - size, 0, size, tall);
    }
    const [start, size] = band(at.z);
    cross(xy, at.x + .5, at.y + .5);
    cross(xz, at.x + .5, start + size / 2);
    cross(yz, deep - start - size / 2, at.y + .5);
  }
  const inside = (value, count) => Math.max(0, Math.min(count - 1, Math.round(value)));
  function go(next) {
    Object.assign(at, next);
    at.z = inside(at.z, atlas.count); at.x = inside(at.x, wide); at.y = inside(at.y, tall);
    paint();
    if (data.follow) data.follow(at.z);
  }
  function chosen(target, take) {
    target.addEventListener("pointerdown", event => {
      const area = target.getBoundingClientRect();
      go(take((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height));
    });
  }
  chosen(xy, (x, y) => ({ x: x * wide, y: y * tall }));
  chosen(xz, (x, y) => ({ x: x * wide, z: (1 - y) * atlas.count - .5 }));
  chosen(yz, (x, y) => ({ y: y * tall, z: x * atlas.count - .5 }));
  box.addEventListener("wheel", event => { event.preventDefault(); go({ z: at.z + Math.sign(event.deltaY) }); }, { passive: false });
  box.addEventListener("keydown", event => {
    const step = { ArrowUp: 1, PageUp: 5, ArrowDown: -1, PageDown: -5 }[event.key];
    if (step) { event.preventDefault(); event.stopPropagation(); go({ z: at.z + step }); }
  });
  image.onload = paint;
  image.src = `series/${state.byId.get(data.facts.series_id).page}/${atlas.file}`;
  paint();
  return h("section", { class: "card player" }, h("h2", {}, data.pictures.filtered ? "Tomogram, filtered for viewing" : "Tomogram"), box, h("div", { class: "controls" }, h("span", { class: "small muted" }, "z"), slider, where),
    h("div", { class: "controls" }, h("span", { class: "small muted" }, "contrast"), contrast),
    h("p", { class: "small muted" }, `Click to choose the point; the wheel and the arrow keys change the slice. Both cuts are made from ${atlas.count} slices.`));
}
const frame = (canvas, name) => h("figure", {}, canvas, h("figcaption", {}, name));
