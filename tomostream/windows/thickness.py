# SPDX-License-Identifier: GPL-3.0-or-later
"""Thickness of the specimen and height of the tomogram, judged in side views of a quick reconstruction."""

from __future__ import annotations

import os
import sys
import tkinter as tk
from collections.abc import Callable
from tkinter import ttk

from tomostream.choices import thickness
from tomostream.engine import quick
from tomostream.windows.base import PAD, Progress, Window, grey

#: Longest side of a view, and how near a click must be to grab a line, px.
WIDTH, NEAR = 520, 12
TOP, BOTTOM = "#e03030", "#2060d0"


def start(parent: tk.Misc, source: quick.Source, use: Callable[[thickness.Heights], None]) -> Progress:
    """Make the quick reconstruction, then show it; `use` is called with the values chosen."""
    def command(folder: str) -> list[str]:
        job = os.path.join(folder, "job.json")
        thickness.write_job(job, source)
        return [sys.executable, "-m", thickness.__name__, job, folder]

    def done(folder: str) -> None:
        ThicknessWindow(parent, source, *thickness.read_result(folder), use)

    return Progress(parent, f"Quick reconstruction of {source.series_id}", command, done)


class ThicknessWindow(Window):
    """Side views with two lines to drag, and below them the resulting values for the form."""

    def __init__(self, parent: tk.Misc, source: quick.Source, measured: thickness.Measured,
                 views: tuple[thickness.Image, thickness.Image], use: Callable[[thickness.Heights], None]) -> None:
        super().__init__(parent, f"Thickness of {source.series_id}")
        self.source, self.measured, self._use = source, measured, use
        self.lines = {TOP: measured.top_A, BOTTOM: measured.bottom_A}
        self._held: str | None = None
        self.depth = views[0].shape[0] * measured.pixel_size_A
        ttk.Label(self.main, text="Drag the lines to the upper and the lower face of the specimen, or type its thickness. "
                  f"Density is dark; the views are {self.depth / 10:.0f} nm high.").pack(anchor="w")
        frame = ttk.Frame(self.main)
        frame.pack(pady=PAD)
        self.canvases = [self._view(frame, title, image) for title, image in zip(
            ("Across the tilt axis (xz): shows top and bottom best", "Along the tilt axis (yz)"),
            views, strict=True)]
        self._entries()
        self.words = ttk.Label(self.main, wraplength=2 * WIDTH)
        self.words.pack(anchor="w", pady=PAD)
        buttons = ttk.Frame(self.main)
        buttons.pack(fill="x")
        ttk.Button(buttons, text="Cancel", command=self.destroy).pack(side="right")
        self.button = ttk.Button(buttons, text="Use these values", command=self.use)
        self.button.pack(side="right", padx=PAD)
        self.redraw()

    def _view(self, parent: ttk.Frame, title: str, image: thickness.Image) -> tk.Canvas:
        frame = ttk.Frame(parent)
        frame.pack(side="left", padx=(0, PAD))
        ttk.Label(frame, text=title).pack(anchor="w")
        height = min(WIDTH, round(WIDTH * image.shape[0] / image.shape[1]))
        width = round(height * image.shape[1] / image.shape[0])
        canvas = tk.Canvas(frame, width=width, height=height, highlightthickness=0, cursor="sb_v_double_arrow")
        canvas.pack()
        canvas.create_image(0, 0, anchor="nw", image=self.picture(grey(image, (width, height))))
        for colour in (TOP, BOTTOM):
            canvas.create_line(0, 0, width, 0, fill=colour, width=2, tags=colour)
        canvas.create_line(0, height / 2, width, height / 2, fill="#30a030", dash=(2, 6))
        canvas.bind("<Button-1>", self._take)
        canvas.bind("<B1-Motion>", self._drag)
        canvas.bind("<ButtonRelease-1>", lambda _: setattr(self, "_held", None))
        return canvas

    def _entries(self) -> None:
        row = ttk.Frame(self.main)
        row.pack(anchor="w")
        ttk.Label(row, text="Thickness of the specimen (nm)").pack(side="left")
        self.entry = ttk.Entry(row, width=8)
        self.entry.pack(side="left", padx=4)
        self.entry.bind("<Return>", lambda _: self.typed())
        self.entry.bind("<FocusOut>", lambda _: self.typed())
        ttk.Button(row, text="As measured", command=self.as_measured).pack(side="left", padx=PAD)

    # ------------------------------------------------------------------ lines
    def _height(self, canvas: tk.Misc, z_A: float) -> float:
        """Return the row of a height in a view."""
        return (0.5 - z_A / self.depth) * int(canvas.cget("height"))

    def _take(self, event: tk.Event) -> None:
        near = {colour: abs(self._height(event.widget, z) - event.y) for colour, z in self.lines.items()}
        colour = min(near, key=near.__getitem__)
        self._held = colour if near[colour] <= NEAR else None
        self.entry.selection_clear()

    def _drag(self, event: tk.Event) -> None:
        if self._held is None:
            return
        z = (0.5 - event.y / int(event.widget.cget("height"))) * self.depth
        least = self.measured.pixel_size_A
        half = self.depth / 2
        if self._held == TOP:
            self.lines[TOP] = min(max(z, self.lines[BOTTOM] + least), half)
        else:
            self.lines[BOTTOM] = max(min(z, self.lines[TOP] - least), -half)
        self.redraw()

    def typed(self) -> None:
        """Use the thickness in nm that was typed, about the same middle."""
        try:
            thick = 10.0 * float(self.entry.get().replace(",", "."))
        except ValueError:
            thick = 0.0
        if not 0 < thick <= 20 * self.depth:
            self.words.configure(text=f"'{self.entry.get()}' is not a thickness: write nanometres, e.g. 150.")
            return
        middle = (self.lines[TOP] + self.lines[BOTTOM]) / 2
        self.lines = {TOP: middle + thick / 2, BOTTOM: middle - thick / 2}
        self.redraw()

    def as_measured(self) -> None:
        self.lines = {TOP: self.measured.top_A, BOTTOM: self.measured.bottom_A}
        self.redraw()

    def redraw(self) -> None:
        """Update lines, entry and words."""
        for canvas in self.canvases:
            for colour, z in self.lines.items():
                y = self._height(canvas, z)
                canvas.coords(colour, 0, y, int(canvas.cget("width")), y)
        self.entry.delete(0, "end")
        self.entry.insert(0, f"{(self.lines[TOP] - self.lines[BOTTOM]) / 10:.0f}")
        text = thickness.words(self.measured, self.lines[TOP], self.lines[BOTTOM], self.source.pixel_size_A)
        self.words.configure(text=text)

    def use(self) -> None:
        """Pass the values on and close."""
        found = thickness.heights(self.lines[TOP], self.lines[BOTTOM], self.source.pixel_size_A)
        self.destroy()
        self._use(found)
