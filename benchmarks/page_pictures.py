# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the live page for the README: `python benchmarks/page_pictures.py PROJECT [--series NAME] [--name page]`.

PROJECT is any project that ran, e.g. that of `make demo` or `make demo-real`. Writes NAME_session.png and NAME_series.png
(and NAME_phone.png when asked for) into docs/images, each below 200 kB. With --as-it-is the page is taken as a running session
has written it; `--as-it-is --only preview`, while a preview is on it, writes NAME_preview.png: what is seen first, without the
table.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from urllib.parse import quote

from PIL import Image

from tomostream.cli.report import states_of
from tomostream.journal.layout import REPORT
from tomostream.report.writer import ReportWriter
from tomostream.tests.browser.driver import Browser

MAX_BYTES = 200_000
#: Kind of picture -> width of the screen, and whether it is a dark one. In this order: the last ones change the page.
KINDS = {"session": (1400, True), "phone": (390, False), "preview": (1200, False), "series": (1400, False)}
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("--series", metavar="NAME", help="for the page of one series (default: the latest)")
    parser.add_argument("--name", default="page", help="start of the names of the pictures")
    parser.add_argument("--as-it-is", action="store_true", help="the page that is there, not one that is made again")
    parser.add_argument("--only", nargs="+", default=["session", "series"], choices=[*KINDS])
    parser.add_argument("--out", default="docs/images")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        name = options.series
        if options.as_it_is:
            folder = os.path.join(os.path.abspath(options.project), REPORT)
        else:
            page = ReportWriter(options.project, folder, states=states_of)
            page.finish()
            page.close()
            name = name or page.summary(0.0)["latest"]
        address = f"file://{quote(folder)}/index.html"
        browser.screen(1400, 1000)
        browser.open(address)
        browser.until(f"document.querySelector('#body tr') && {LOADED}")
        browser.run("document.getElementById('foot').style.display = 'none'")
        for kind, (width, dark) in KINDS.items():
            if kind not in options.only:
                continue
            if kind == "preview":
                browser.until(f"document.querySelector('.preview img') && {LOADED}")
                browser.run("document.getElementById('body').closest('.card').style.display = 'none';"
                            "document.getElementById('history').style.display = 'none'")
            if kind == "series":
                browser.run("location.hash = '#/series/' + encodeURIComponent(arguments[0])", name)
                browser.until(f"document.querySelector('#ortho') && {LOADED}")
                browser.run("document.querySelectorAll('.two, pre').forEach(part => part.closest('.two, .card').remove())")
            height = 844 if kind == "phone" else 1000
            browser.screen(width, height, dark, mobile=kind == "phone", scale=1.0)
            browser.until(LOADED)
            if kind != "phone":
                bottom = browser.run("return document.querySelector('main').getBoundingClientRect().bottom")
                height = min(height, int(bottom) + 16)
                browser.screen(width, height, dark)
            path = os.path.join(options.out, f"{options.name}_{kind}.png")
            browser.picture(path)
            print(path, shrink(path), "bytes")


def shrink(path: str) -> int:
    """Fewer colours, then fewer pixels, until the file is small enough for a repository."""
    picture = Image.open(path).convert("RGB")
    for scale in (1.0, 0.85, 0.7, 0.6, 0.5):
        size = (round(picture.width * scale), round(picture.height * scale))
        for colours in (256, 128, 64):
            data = io.BytesIO()
            small = picture.resize(size, Image.Resampling.LANCZOS)
            small.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
            if data.tell() <= MAX_BYTES:
                with open(path, "wb") as file:
                    file.write(data.getvalue())
                return data.tell()
    raise SystemExit(f"{path} does not become small enough")


if __name__ == "__main__":
    main()
