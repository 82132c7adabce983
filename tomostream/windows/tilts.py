# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing which tilts of a series are used: mark them, say why, confirm. Does the same as `tomostream exclude`."""

from __future__ import annotations

import os
import tkinter as tk
from tkinter import ttk

import numpy as np
from numpy.typing import NDArray

from tomostream.choices import exclusions
from tomostream.files.grey import averaged
from tomostream.files.logs import counted
from tomostream.files.mrc import open_mrc
from tomostream.journal import runs
from tomostream.journal.composed import ComposedSeries, NoSeries, Tilt, composed
from tomostream.journal.status import ARETOMO, COMPOSE, ProjectStatus
from tomostream.windows.base import PAD, Progress, Window, grey, our_command

EDGE = 380
COLUMNS = (("mark", "", 110), ("angle", "tilt angle", 80), ("order", "order", 50), ("dose", "dose before", 100),
           ("movie", "movie", 170), ("why", "why not", 240))
OUT, BACK = "take out", "put back"
STATES = {"used": "used", "missing": "missing", "excluded": "taken out"}


class TiltsWindow(Window):
    """The tilts of the composed series of a project."""

    def __init__(self, parent: tk.Misc | None, project: str, series_id: str) -> None:
        names = composed(project)           # raises before there is a window
        super().__init__(parent, "Tilts of a series: take out or put back")
        self.project, self.names = project, names
        self.marks: dict[str, str] = {}
        self.series: ComposedSeries | None = None
        self._top(series_id if series_id in self.names else self.names[0])
        middle = ttk.Frame(self.main)
        middle.pack(fill="both", expand=True, pady=PAD)
        self._list(middle)
        self.view = tk.Label(middle, width=EDGE, height=EDGE, bg="#777777", compound="center", fg="white")
        self._no_picture = tk.PhotoImage(master=self, width=1, height=1)
        self.view.configure(image=self._no_picture)
        self.view.pack(side="right", padx=(PAD, 0))
        self._bottom()
        self.load()

    # ------------------------------------------------------------------ parts
    def _top(self, series_id: str) -> None:
        top = ttk.Frame(self.main)
        top.pack(fill="x")
        ttk.Label(top, text="Series").pack(side="left")
        self.choice = ttk.Combobox(top, values=self.names, state="readonly", width=28)
        self.choice.set(series_id)
        self.choice.pack(side="left", padx=PAD)
        self.choice.bind("<<ComboboxSelected>>", lambda _: self.load())
        self.words = ttk.Label(top)
        self.words.pack(side="left")

    def _list(self, parent: ttk.Frame) -> None:
        self.table = ttk.Treeview(parent, columns=[name for name, _, _ in COLUMNS], show="headings", height=18,
                                  selectmode="extended")
        for name, title, width in COLUMNS:
            self.table.heading(name, text=title)
            self.table.column(name, width=width, anchor="e" if name in ("angle", "order", "dose") else "w",
                              stretch=name == "why")
        self.table.tag_configure("out", foreground="#b02020")
        self.table.tag_configure("missing", foreground="#888888")
        self.table.tag_configure("marked", background="#ffe8b0")
        bar = ttk.Scrollbar(parent, command=self.table.yview)
        self.table.configure(yscrollcommand=bar.set)
        self.table.pack(side="left", fill="both", expand=True)
        bar.pack(side="left", fill="y")
        self.table.bind("<<TreeviewSelect>>", lambda _: self.show_picture())
        self.table.bind("<Double-1>", lambda _: self.mark())
        self.table.bind("<space>", lambda _: self.mark())

    def _bottom(self) -> None:
        bottom = ttk.Frame(self.main)
        bottom.pack(fill="x")
        ttk.Button(bottom, text="Mark / unmark the selected tilts", command=self.mark).pack(side="left")
        ttk.Label(bottom, text="Why").pack(side="left", padx=(2 * PAD, 4))
        self.reason = ttk.Entry(bottom, width=40)
        self.reason.pack(side="left")
        ttk.Button(bottom, text="Close", command=self.destroy).pack(side="right")
        self.button = ttk.Button(bottom, text="Apply", command=self.apply, state="disabled")
        self.button.pack(side="right", padx=PAD)
        ttk.Label(self.main, foreground="#555555", text="Double click or space marks a tilt: one that is used is taken out, one "
                  "that was taken out is put back. Only this series is made again.").pack(
                      anchor="w", pady=(PAD, 0))

    # ------------------------------------------------------------------ what is shown
    def load(self) -> None:
        """Read the series again, dropping the marks."""
        self.marks = {}
        try:
            self.series = exclusions.read_choice(self.project, self.choice.get())
        except (NoSeries, ValueError) as problem:
            self.series = None
            self.table.delete(*self.table.get_children())
            self.words.configure(text=str(problem))
            return
        self.refresh()
        middle = min(self.series.tilts, key=lambda tilt: abs(tilt.angle))
        self.table.selection_set(middle.movie)
        self.table.see(middle.movie)

    def refresh(self) -> None:
        """Show the current list, with the marks."""
        if self.series is None:
            return
        selected = self.table.selection()
        self.table.delete(*self.table.get_children())
        for tilt in self.series.tilts:
            mark = self.marks.get(tilt.movie, "")
            tags = [*(["out"] if tilt.state == "excluded" else ["missing"] if tilt.state == "missing" else []),
                    *(["marked"] if mark else [])]
            dose = "" if tilt.prior_dose is None else f"{tilt.prior_dose:.1f} e/A2"
            state = f"→ {mark}" if mark else STATES[tilt.state]
            self.table.insert("", "end", tilt.movie, tags=tags, values=(
                state, f"{tilt.angle:.2f}°", tilt.order or "", dose, tilt.movie, tilt.reason))
        self.table.selection_set([movie for movie in selected if self.table.exists(movie)])
        used = sum(tilt.state == "used" for tilt in self.series.tilts)
        self.words.configure(text=f"version {self.series.version}: {used} of {len(self.series.tilts)} tilts are used")
        self.button.configure(state="normal" if self.marks else "disabled",
                              text=f"Apply ({len(self.marks)})" if self.marks else "Apply")

    def tilt(self, movie: str) -> Tilt | None:
        return next((tilt for tilt in self.series.tilts if tilt.movie == movie), None) if self.series else None

    def show_picture(self) -> None:
        """Show the image of the tilt selected last."""
        selected = self.table.selection()
        tilt = self.tilt(selected[-1]) if selected else None
        if tilt is None:
            return
        self.pictures.clear()
        try:
            image = read_image(self.project, self.series, tilt)
        except (OSError, ValueError) as error:
            self.view.configure(image=self._no_picture, text=f"no picture: {error}", wraplength=EDGE - 20)
            return
        height, width = image.shape
        scale = EDGE / max(height, width)
        self.view.configure(image=self.picture(grey(image, (round(width * scale), round(height * scale)))), text="")

    # ------------------------------------------------------------------ what is done
    def mark(self) -> None:
        """Mark the selected tilts to change their state, or unmark them."""
        for movie in self.table.selection():
            tilt = self.tilt(movie)
            if tilt is None or tilt.state == "missing":
                continue
            if self.marks.pop(movie, None) is None:
                self.marks[movie] = BACK if tilt.state == "excluded" else OUT
        self.refresh()

    def apply(self) -> None:
        """Confirm, write, and say what happens next."""
        out = {movie: self.reason.get() for movie, mark in self.marks.items() if mark == OUT}
        back = [movie for movie, mark in self.marks.items() if mark == BACK]
        words = " and ".join(text for movies, text in ((out, f"take {counted(len(out), 'tilt')} out"),
                                                       (back, f"put {counted(len(back), 'tilt')} back")) if movies)
        why = f" because of: {self.reason.get().strip()}" if out and self.reason.get().strip() else ""
        if self.series is None or not self.ask(f"{self.series.series_id}: {words}{why}?\n\nThe series is composed and "
                                               "reconstructed again; its tomogram is replaced."):
            return
        try:
            left = exclusions.apply(self.series, out, back)
        except ValueError as problem:
            self.report(f"Nothing was changed: {problem}.")
            return
        self.load()
        self._next(left)

    def _next(self, left: int) -> None:
        ended = ended_protocols(self.project)
        if not ended:
            self.report(f"{left} tilts will be used. The series is composed and reconstructed again now.")
        elif self.ask(f"{left} tilts will be used. {' and '.join(ended)} {'has' if len(ended) == 1 else 'have'} ended; the "
                      f"series is made again when {'it is' if len(ended) == 1 else 'they are'} continued. Continue now?"):
            Progress(self.master, "Continuing the protocols",
                     lambda _: our_command("resume", self.project, "--again", "--from", COMPOSE, "--no-follow", "--quiet"),
                     lambda _: None)


def read_image(project: str, series: ComposedSeries | None, tilt: Tilt) -> NDArray[np.float32]:
    """Return a small picture of a tilt, from the stack or, if it is not in it, from its micrograph.

    Raises
    ------
    OSError, ValueError : there is none, or it cannot be read; says why.
    """
    if series is None:
        raise ValueError("the series cannot be read")
    if tilt.section is not None:
        image = np.asarray(open_mrc(series.stack).section(tilt.section), dtype=np.float32)
    elif tilt.micrograph:
        image = np.asarray(open_mrc(os.path.join(project, tilt.micrograph)).section(0), dtype=np.float32)
    else:
        raise ValueError("this tilt was never aligned")
    return averaged(image, max(1, max(image.shape) // EDGE))


def ended_protocols(project: str) -> list[str]:
    """Return which of the two protocols that make a series again are not running."""
    status = ProjectStatus(project)
    status.update()
    ended = []
    for name in (COMPOSE, ARETOMO):
        folder = status.folders.get(name)
        if folder and runs.run_state(folder) != runs.RUNNING:
            ended.append(name)
    return ended
