# SPDX-License-Identifier: GPL-3.0-or-later
"""What the live page costs: `python benchmarks/report.py [--series 10 100 1000] [--tilts 41] [--json FILE]`.

For sessions of so many series: time and bytes of one update (a tilt came; a series became a tomogram), the first page of a
whole session, how often the tables for scripts (whole files) are written and which part of the time that takes, and, where
chromium is installed, how long the page takes to load until its table is usable, sorted and filtered. Times are medians of
several; making pictures is measured separately, because it does not depend on the session.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

import numpy as np

from tomostream.files import writing
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE
from tomostream.report import writer
from tomostream.report.writer import ReportWriter
from tomostream.tests.browser.driver import Browser
from tomostream.tests.made_project import MadeProject, write_mrc

REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results = [measure(count, options.tilts) for count in options.series]
    results.append(pictures())
    for result in results:
        print("  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                        for name, value in result.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


def measure(count: int, tilts: int) -> dict[str, object]:
    """One session of `count` series."""
    with tempfile.TemporaryDirectory() as folder:
        project = MadeProject(os.path.join(folder, "session"), np.linspace(-60, 60, tilts))
        for number in range(count):
            project.whole(f"TS_{number:04d}", image_files=False)
        page = ReportWriter(project.path, states=lambda _: {"aretomo": "running"}, clock=lambda: project.time)
        page._say = lambda _: None
        began = time.perf_counter()
        page.finish()
        result: dict[str, object] = {"series": count, "first_page_s": time.perf_counter() - began}
        result |= {f"tilt_{name}": value for name, value in
                   updates(page, project, lambda n: project.acquire(f"NEW_{n}", tilts=1)).items()}
        result |= {f"tomogram_{name}": value for name, value in
                   updates(page, project, lambda n: project.report(
                       ARETOMO, f"TS_{n % count:04d}", entries.Reconstructed, f"again {n}", version=1, tilts_used=tilts)).items()}
        result |= {"tables_every_s": page._tables_pause,
                   "tables_percent_of_time": result["tomogram_tables_ms"] / page._tables_pause / 10}
        result |= loading(page.out, count + REPEATS)
        page.close()
        return result


def updates(page: ReportWriter, project: MadeProject, happen) -> dict[str, float]:
    """Median time (ms) and bytes of an update, without and with the tables for scripts (written every few seconds)."""
    plain, whole, written = [], [], []
    keep = writing.write_text

    def counted(path: str, text: str) -> None:
        written[-1] += len(text)
        keep(path, text)

    writer.write_text = writing.write_text = counted
    try:
        for number in range(REPEATS):
            for times, due in ((plain, False), (whole, True)):
                if due:
                    page._tables_at = 0.0
                else:
                    happen(number)
                    page._tables_at = float("inf")
                written.append(0)
                began = time.perf_counter()
                page.update()
                times.append(1000 * (time.perf_counter() - began))
            while page.busy:
                page.wait(10)
                page.update()
    finally:
        writer.write_text = writing.write_text = keep
    return {"ms": statistics.median(plain), "kB": statistics.median(written[::2]) / 1000,
            "tables_ms": statistics.median(whole), "tables_kB": statistics.median(written[1::2]) / 1000}


def loading(out: str, count: int) -> dict[str, object]:
    """Seconds from opening the page to a table of all series, and ms to sort and to filter it."""
    try:
        browser = Browser()
    except FileNotFoundError:
        return {"load_s": "no chromium"}
    with browser:
        loads = []
        for _ in range(5):
            browser.open("about:blank")
            browser.open(f"file://{out}/index.html")
            loads.append(browser.until(
                f"document.getElementById('count').textContent === '{count} series' && performance.now()") / 1000)
        act = browser.run("""const time = act => { const began = performance.now(); act(); document.body.offsetHeight;
            return performance.now() - began; };
            const box = document.getElementById('search');
            return [time(() => document.querySelectorAll('#head th')[4].click()),
              time(() => { box.value = 'TS_00'; box.dispatchEvent(new Event('input')); })]""")
    return {"load_s": statistics.median(loads), "sort_ms": float(act[0]), "filter_ms": float(act[1])}


def pictures() -> dict[str, object]:
    """Seconds of the pictures' thread and kB on disk for one series: 41 tilts of 1024 x 1024, 512 x 512 x 200 voxels."""
    with tempfile.TemporaryDirectory() as folder:
        project = MadeProject(os.path.join(folder, "session"), np.linspace(-60, 60, 41))
        project.whole("TS_01")
        noise = np.random.default_rng(1)
        write_mrc(project.extra(COMPOSE, "TS_01.mrcs"), noise.normal(50, 7, (41, 1024, 1024)).astype(np.float32), 4.0)
        write_mrc(project.extra(ARETOMO, "TS_01", "TS_01.mrc"), noise.normal(0, 1, (200, 512, 512)).astype(np.float32), 8.0)
        page = ReportWriter(project.path, clock=lambda: project.time)
        began = time.perf_counter()
        page.finish()
        seconds = time.perf_counter() - began
        page.close()
        target = os.path.join(page.out, "series", "TS_01")
        size = sum(os.path.getsize(os.path.join(target, name)) for name in os.listdir(target))
        return {"pictures_s": seconds, "pictures_kB": size / 1000}


if __name__ == "__main__":
    main()
