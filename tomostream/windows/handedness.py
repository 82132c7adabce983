# SPDX-License-Identifier: GPL-3.0-or-later
"""The sign of the tilt angles: one series both ways, what to look for, and the choice remembered for the instrument."""

from __future__ import annotations

import os
import tkinter as tk
from collections.abc import Callable
from functools import partial
from tkinter import ttk

from PIL import Image

from tomostream.choices import handedness, instruments
from tomostream.journal.composed import composed, read_series
from tomostream.windows.base import PAD, Progress, Window, our_command

VIEW = (910, 520)


class HandednessWindow(Window):
    """Choose a series, compare both reconstructions, choose a sign. `chosen(instrument, angles)` is called with the choice."""

    def __init__(self, parent: tk.Misc | None, project: str, chosen: Callable[[str, str], None] | None = None) -> None:
        names = composed(project)           # raises before there is a window
        super().__init__(parent, "Sign of the tilt angles: is the hand right?")
        self.project, self._chosen = project, chosen
        self.found: handedness.Check | None = None
        top = ttk.Frame(self.main)
        top.pack(fill="x")
        ttk.Label(top, text="Series").pack(side="left")
        self.choice = ttk.Combobox(top, values=names, state="readonly", width=28)
        self.choice.set(next((name for name in names if handedness.read_check(project, name)), names[0]))
        self.choice.pack(side="left", padx=PAD)
        self.choice.bind("<<ComboboxSelected>>", lambda _: self.load())
        self.make = ttk.Button(top, text="Reconstruct it both ways", command=self.run)
        self.make.pack(side="left")
        self.words = ttk.Label(self.main, wraplength=VIEW[0], justify="left")
        self.words.pack(anchor="w", pady=PAD)
        self._picture()
        self._decision()
        self.load()

    def _picture(self) -> None:
        frame = ttk.Frame(self.main)
        frame.pack(fill="both", expand=True)
        self.canvas = tk.Canvas(frame, width=VIEW[0], height=VIEW[1], bg="white", highlightthickness=0)
        bar = ttk.Scrollbar(frame, command=self.canvas.yview)
        self.canvas.configure(yscrollcommand=bar.set)
        self.canvas.pack(side="left", fill="both", expand=True)
        bar.pack(side="left", fill="y")
        for event, step in (("<Button-4>", -2), ("<Button-5>", 2)):
            self.canvas.bind(event, partial(self._scroll, step))

    def _scroll(self, step: int, _: object) -> None:
        self.canvas.yview_scroll(step, "units")

    def _decision(self) -> None:
        row = ttk.Frame(self.main)
        row.pack(fill="x", pady=(PAD, 0))
        self.sign = tk.StringVar(self, "")
        for value, text in ((instruments.AS_GIVEN, "angles as given"), (instruments.NEGATED, "angles negated")):
            ttk.Radiobutton(row, text=text, value=value, variable=self.sign).pack(side="left", padx=(0, PAD))
        ttk.Label(row, text="for the instrument").pack(side="left")
        self.name = ttk.Entry(row, width=34)
        self.name.pack(side="left", padx=4)
        ttk.Button(row, text="Remember", command=self.remember).pack(side="left", padx=PAD)
        ttk.Button(row, text="Close", command=self.destroy).pack(side="right")

    # ------------------------------------------------------------------ what is shown
    def load(self) -> None:
        """Show the check of the chosen series, if there is one."""
        series_id = self.choice.get()
        self.found = handedness.read_check(self.project, series_id)
        self.canvas.delete("all")
        self.pictures.clear()
        self.name.delete(0, "end")
        self.make.configure(text="Reconstruct it both ways" if self.found is None else "Reconstruct it again")
        self.sign.set("" if self.found is None else self.found.advice)
        if self.found is None:
            self.name.insert(0, handedness.instrument_of(read_series(self.project, series_id)))
            self.words.configure(text="A wrong sign of the tilt angles mirrors every tomogram: helices have the wrong hand. The "
                                 "alignment cannot reveal it. Reconstruct one good series both ways, and compare.")
            return
        self.name.insert(0, self.found.instrument)
        self.words.configure(text="\n".join([f"Evidence: {self.found.evidence}", "What to look for:",
                                             *(f"• {text}" for text in handedness.LOOK_FOR[:2])]))
        try:
            with Image.open(os.path.join(self.found.folder, self.found.picture)) as image:
                image.load()
        except OSError as error:
            self.words.configure(text=f"The picture cannot be read: {error}")
            return
        self.canvas.create_image(0, 0, anchor="nw", image=self.picture(image))
        self.canvas.configure(scrollregion=(0, 0, image.width, image.height))

    # ------------------------------------------------------------------ what is done
    def run(self) -> None:
        """Make the check, beside this window."""
        Progress(self, f"{self.choice.get()} both ways",
                 lambda _: our_command("handedness", self.project, self.choice.get()), lambda _: self.load())

    def remember(self) -> None:
        """Keep the choice for the instrument."""
        if not self.sign.get():
            self.report("Choose first: angles as given, or negated.")
            return
        try:
            file = instruments.remember(self.name.get(), self.sign.get(), self.choice.get(),
                                        self.found.evidence if self.found else "")
        except ValueError as problem:
            self.report(f"Not remembered: {problem}.")
            return
        self.report(f"Remembered for {self.name.get()}: tilt angles {self.sign.get()}.\n\nRuns started from now on with "
                    f"'as remembered for the instrument' use it; a running one keeps its sign.\n\n({file})")
        if self._chosen is not None:
            self._chosen(self.name.get(), self.sign.get())
        self.destroy()
