# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page in headless Chromium, opened from the disk: `python -m tomostream.tests.browser.check_page [FOLDER]`.

Pictures of what was seen are left in FOLDER (by default `browser-pictures`), to be looked at.
"""

from __future__ import annotations

import functools
import http.server
import os
import sys
import tempfile
import threading
import unittest
from importlib import resources
from urllib.parse import quote

import numpy as np

from tomostream.choices import exclusions
from tomostream.journal import entries
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT
from tomostream.report import marks
from tomostream.report.actions import Session
from tomostream.report.server import PageServer
from tomostream.report.writer import ReportWriter
from tomostream.tests.browser.driver import Browser
from tomostream.tests.made_project import MadeProject, write_mrc
from tomostream.tests.test_preview import FakePreviews

PICTURES = "browser-pictures"
HOSTILE = "</script><img src=x onerror=window.hacked=1>\"'&/../\u202eTS"
#: The checker of accessibility, of the Python package that carries it (`make test-browser` installs it).
AXE = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
ROWS = "document.querySelectorAll('#body tr').length"
NAMES = "[...document.querySelectorAll('#body td.id > a')].map(cell => cell.textContent)"
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth)"


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class TestPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.__exit__)
        os.makedirs(PICTURES, exist_ok=True)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.project = MadeProject(os.path.join(folder.name, "Krios night"), range(-60, 61, 6))
        self.states = {IMPORT: "running"}
        self.browser.screen(1600, 1000)
        self.browser.console()

    def tearDown(self):
        self.assertEqual(self.browser.console(), [], "messages on the console")
        self.browser.open("about:blank")

    def write(self, clock=None) -> ReportWriter:
        page = ReportWriter(self.project.path, states=lambda _: self.states, clock=clock or (lambda: self.project.time))
        self.addCleanup(page.close)
        page.finish()
        return page

    def open(self, page: ReportWriter, place: str = "") -> None:
        self.browser.open(f"file://{quote(page.out)}/index.html{place}")

    def serve(self, page: ReportWriter, place: str = "") -> None:
        """Open the page through a web server that knows nothing of us."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietFiles, directory=page.out))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for act in (thread.join, server.server_close, server.shutdown, lambda: self.browser.open("about:blank")):
            self.addCleanup(act)
        self.browser.open(f"http://127.0.0.1:{server.server_address[1]}/{place}")

    def picture(self, name: str) -> None:
        self.browser.picture(os.path.join(PICTURES, f"{name}.png"))

    def session(self) -> None:
        for n in range(6):
            self.project.whole(f"TS_{n:02d}", axis=85.0 if n != 4 else 88.0, quality=0.9 - 0.1 * n)
        self.project.acquire("TS_06", tilts=5)
        self.project.acquire("TS_07")
        self.project.compose("TS_07")
        self.project.report(ARETOMO, "TS_07", entries.Failed, "the program made no tomogram: it said nothing", version=1)

    # ------------------------------------------------------------------ what is checked
    def test_a_session_in_progress_shows_sorts_and_filters(self):
        self.session()
        self.open(self.write())
        self.browser.until(f"{ROWS} === 8 && {LOADED}")
        self.picture("progress-wide")
        names = self.browser.run(f"return {NAMES}")
        self.assertEqual(names, [f"TS_{n:02d}" for n in reversed(range(8))])
        quality = "document.querySelectorAll('#head th')[4]"
        self.browser.run(f"{quality}.click()")
        self.assertEqual(self.browser.run(f"return {NAMES}")[:6], [f"TS_{n:02d}" for n in reversed(range(6))])
        self.browser.run(f"{quality}.click()")
        self.assertEqual(self.browser.run(f"return {NAMES}")[:2], ["TS_00", "TS_01"])
        self.assertEqual(self.browser.run(f"return {quality}.getAttribute('aria-sort')"), "descending")
        search = ("const box = document.getElementById('search'); box.value = arguments[0];"
                  "box.dispatchEvent(new Event('input'));")
        self.browser.run(search, "made no tomogram")
        self.assertEqual(self.browser.run(f"return {NAMES}"), ["TS_07"])
        self.browser.run(search, "")
        self.browser.run("document.querySelector('button[data-state=alarms]').click()")
        self.assertEqual(sorted(self.browser.run(f"return {NAMES}")), ["TS_04", "TS_07"])

    def test_no_width_makes_the_page_scroll_sideways(self):
        self.session()
        page = self.write()
        for place, ready in (("", f"{ROWS} === 8"), ("#/series/TS_01", "document.querySelector('#ortho')")):
            self.open(page, place)
            self.browser.until(ready)
            for width, dark in ((380, False), (820, True), (1280, False), (1280, True), (2560, True), (3840, True)):
                self.browser.screen(width, {2560: 1440, 3840: 2160}.get(width, 1000), dark, mobile=width < 800)
                self.browser.until(LOADED)
                self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth - innerWidth"), 0, width)
                self.picture(f"{'series' if place else 'session'}-{width}{'-dark' if dark else ''}")

    def test_the_latest_tomogram_whether_it_keeps_up_and_what_is_wrong_are_seen_without_scrolling(self):
        self.session()
        self.states = {IMPORT: "running", COMPOSE: "dead"}
        self.open(self.write())
        for width, height in ((1280, 720), (380, 800), (2560, 1440)):
            self.browser.screen(width, height, mobile=width < 800)
            self.browser.until(f"document.querySelector('#latest img') && {LOADED}")
            place = self.browser.run("return ['#verdict', '#alarms .alarm', '#latest img'].map(each => "
                                     "document.querySelector(each).getBoundingClientRect().top)")
            self.assertLess(max(place), 0.8 * height, (width, place))
        text = self.browser.run("return document.getElementById('first').textContent")
        for words in ("compose died", "3 alarms", "Protocol died", "Tilt axis", "TS_05", "of 8 series"):
            self.assertIn(words, text)
        self.assertNotIn("Keeps up", text)
        self.assertEqual(self.browser.run("return document.getElementById('state').className"), "big bad")
        self.picture("a-protocol-died")
        share = self.browser.run("const box = document.querySelector('#latest img').getBoundingClientRect();"
                                 "return Math.max(box.width / innerWidth, box.height / innerHeight)")
        self.assertGreater(share, 0.25)

    def test_a_preview_is_marked_until_the_tomogram_replaces_it(self):
        self.project.whole("TS_00")
        self.project.acquire("TS_01", tilts=14)
        self.project.report(COMPOSE, "TS_01", entries.Preview, "time for a preview", tilts=(("a.mrc", 0.0),) * 14, expected=21,
                            tilt_axis=85.0, pixel_size_A=4.0)
        page = self.write()
        page.previews.maker = FakePreviews(os.path.dirname(self.project.path))
        page.update()
        page.previews.wait(60)
        page.finish()
        self.open(page)
        self.browser.until(f"document.querySelector('.preview img') && {LOADED}")
        self.assertIn("14 of 21 tilts", self.browser.run("return document.querySelector('.preview').textContent"))
        self.assertEqual(self.browser.run("return document.querySelector('.latest h1').textContent"), "TS_00")
        self.picture("preview")
        self.browser.run("document.querySelector('.preview a').click()")
        self.browser.until(f"document.querySelector('#is-preview') && document.querySelector('#ortho') && {LOADED}")
        self.picture("preview-series")
        self.project.acquire("TS_01")
        self.project.compose("TS_01")
        self.project.reconstruct("TS_01")
        page.finish()
        self.browser.until(f"!document.querySelector('#is-preview') && {LOADED} && "
                           "[...document.images].some(image => image.src.includes('v1-xy'))", 15)
        self.browser.run("location.hash = ''")
        self.browser.until("document.querySelector('.latest h1').textContent === 'TS_01' && !document.querySelector('.preview')")

    def test_an_open_page_follows_the_session_without_being_loaded_again(self):
        self.project.whole("TS_00")
        page = self.write()
        self.open(page)
        self.browser.until(f"{ROWS} === 1")
        self.browser.run("window.mark = 1")
        self.project.whole("TS_01")
        page.finish()
        self.browser.until(f"{ROWS} === 2 && window.mark === 1 && {LOADED}", 15)

    def test_an_open_series_page_shows_its_new_version(self):
        self.project.whole("TS_00")
        page = self.write()
        self.open(page, "#/series/TS_00")
        self.browser.until("document.querySelector('#ortho')")
        self.project.compose("TS_00", version=2)
        self.project.reconstruct("TS_00", version=2, quality=0.41)
        page.finish()
        self.browser.until(f"document.body.textContent.includes('version 2') && {LOADED} && "
                           "[...document.images].some(image => image.src.includes('v2-xy'))", 15)

    def test_hostile_names_are_shown_and_do_nothing(self):
        self.project.acquire(HOSTILE, tilts=3)
        self.project.report(COMPOSE, HOSTILE, entries.Failed, f"because of {HOSTILE}", name=HOSTILE)
        self.open(self.write())
        self.browser.until(f"{ROWS} === 1")
        self.assertEqual(self.browser.run(f"return {NAMES}"), [HOSTILE])
        self.browser.run("document.querySelector('#body tr').click()")
        self.browser.until("document.querySelector('#series-page')")
        self.assertIn(f"because of {HOSTILE}", self.browser.run("return document.body.textContent"))
        self.assertIsNone(self.browser.run("return window.hacked"))
        self.assertEqual(self.browser.run("return [...document.images].filter(image => image.src.endsWith('/x')).length"), 0)
        self.picture("hostile")

    def test_series_of_any_name_open_from_the_table_and_their_words_stay_in_place(self):
        names = ["<script>window.hacked=1</script>", '"quoted" \'twice\' `once`', "A" * 200, "100 % & more?#/..", "Zelle 1 ä 试"]
        for name in names:
            self.project.acquire(name, tilts=2)
            self.project.report(COMPOSE, name, entries.Failed, f"only two tilts of {name}", name=name)
        self.open(self.write())
        self.browser.until(f"{ROWS} === {len(names)}")
        for width in (1600, 380):
            self.browser.screen(width, 1000, mobile=width < 800)
            self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth - innerWidth"), 0, width)
        for name in names:
            self.browser.run("location.hash = ''")
            self.browser.until(f"{ROWS} === {len(names)}")
            self.browser.run("[...document.querySelectorAll('#body td.id a')].find(each => each.textContent === arguments[0])"
                             ".click()", name)
            self.browser.until("document.querySelector('#series-page h1') && document.querySelector('#series-page .grid')")
            self.assertEqual(self.browser.run("return document.querySelector('#series-page h1').textContent"), name)
            self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth - innerWidth"), 0, name)
        self.picture("long-name")
        self.assertIsNone(self.browser.run("return window.hacked"))

    def test_a_series_that_is_opened_before_there_is_anything_gets_its_pictures_when_they_come(self):
        self.project.acquire("TS_00", tilts=3)
        page = self.write()
        self.open(page, "#/series/TS_00")
        self.browser.until("document.querySelector('#series-page .empty')")
        for key in ('"', "\\", "]", "x"):
            self.browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))", key)
        self.project.acquire("TS_00")
        self.project.compose("TS_00")
        self.project.reconstruct("TS_00")
        page.finish()
        self.browser.until(f"document.querySelector('#ortho') && {LOADED}", 15)

    def test_tilts_that_a_person_took_out_are_reported_until_the_series_is_made_again(self):
        self.project.whole("TS_00")
        movie = self.project.movies("TS_00")[3]
        exclusions.write(self.project.extra(COMPOSE, exclusions.NAME), {"TS_00": {movie: "grid bar"}})
        self.states = {COMPOSE: "finished"}
        self.open(self.write())
        self.browser.until(f"{ROWS} === 1 && {LOADED}")
        words = f"to be made again without {movie}, when the session is continued: tomostream resume"
        self.assertIn(words, self.browser.run("return document.querySelector('td.why').textContent"))
        self.browser.run("document.querySelector('td.id a').click()")
        self.browser.until("document.querySelector('#is-pending')")
        self.assertIn(words, self.browser.run("return document.querySelector('#is-pending').textContent"))

    def test_spoilt_input_makes_a_page_that_says_what_is_wrong(self):
        for name in ("TS_00", "TS_01"):
            self.project.whole(name)
        with open(self.project.extra(COMPOSE, "TS_00.json"), encoding="utf-8") as file:
            text = file.read()
        with open(self.project.extra(COMPOSE, "TS_00.json"), "w", encoding="utf-8") as file:
            file.write(text.replace('"angle": 0,', '"angle": null,').replace('"angle": 0.0,', '"angle": null,'))
        path = self.project.ledgers[COMPOSE].path
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) - 70)
        self.open(self.write(), "#/series/TS_00")
        self.browser.until(f"document.querySelector('#ortho') && {LOADED}")
        self.assertIn("TS_00.json cannot be read", self.browser.run("return document.body.textContent"))
        self.picture("spoilt")

    def test_a_page_of_one_series_has_its_pictures_plots_and_words(self):
        self.project.acquire("TS_00")
        self.project.compose("TS_00", left_out=[["TS_00_099", 66.0, "its movie failed"]])
        self.project.reconstruct("TS_00", excluded=2)
        self.project.whole("TS_01")
        self.states = {IMPORT: "finished"}
        self.open(self.write(), "#/series/TS_00")
        self.browser.until(f"document.querySelector('#ortho') && {LOADED}")
        self.assertEqual(self.browser.run("return document.querySelectorAll('.plots svg').length"), 5)
        text = self.browser.run("return document.body.textContent")
        for words in ("too dark", "its movie failed", "aretomo -FlipVol 1 -OutBin 2", "made 1.0", "/mdocs/TS_00.mdoc",
                      "Session ended"):
            self.assertIn(words, text)
        self.assertEqual(self.browser.run("return document.querySelectorAll('#commands details pre').length"), 21)
        self.assertIn("MotionCor3 1.2.1", text)
        bars = "document.querySelectorAll('.plots svg')[0].querySelectorAll('line[style]').length"
        self.assertGreater(self.browser.run(f"return {bars}"), 10)
        small = self.browser.run("return Math.min(...[...document.querySelectorAll('.plots svg text')].map(each => "
                                 "each.getBoundingClientRect().height))")
        self.assertGreater(small, 12)
        where = "document.querySelectorAll('.player .where')[1].textContent"
        self.browser.run("document.querySelectorAll('.plots svg circle')[0].dispatchEvent(new Event('click'))")
        self.assertEqual(self.browser.run(f"return {where}"), "-60.0° – not used")
        self.browser.run("document.querySelector('.player button').click()")
        self.browser.until(f"{where} !== '-60.0° – not used'")
        self.picture("series-finished")
        self.browser.run("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}))")
        self.browser.until("location.hash === '#/series/TS_01'")

    def test_any_static_web_server_will_do(self):
        self.project.whole("TS_00")
        page = self.write()
        self.serve(page, "#/series/TS_00")
        self.browser.until(f"document.querySelector('#ortho') && {LOADED}")
        wanted = self.browser.run("return performance.getEntriesByType('resource').map(each => new URL(each.name).hostname)")
        self.assertEqual(set(wanted), {"127.0.0.1"})

    def search(self, text: str) -> None:
        self.enter("#search", text, "input")

    def key(self, key: str, where: str = "document.activeElement") -> None:
        event = "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true})"
        self.browser.run(f"({where} || document.body).dispatchEvent({event})", key)

    def enter(self, where: str, value: object, event: str = "change") -> None:
        """Put a value into a field."""
        self.browser.run(f"const box = document.querySelector('{where}'); box.value = arguments[0];"
                         f"box.dispatchEvent(new Event('{event}'))", value)

    def test_the_gallery_shows_all_tomograms_sorted_filtered_and_walked_through_by_keys(self):
        self.session()
        self.open(self.write(), "#/gallery")
        tiles = "[...document.querySelectorAll('.tile')].map(each => each.dataset.series)"
        self.browser.until(f"{tiles}.length === 6 && {LOADED}")
        self.assertEqual(self.browser.run(f"return {tiles}"), [f"TS_{n:02d}" for n in reversed(range(6))])
        self.picture("gallery")
        self.enter("#order", "quality 1")
        self.assertEqual(self.browser.run(f"return {tiles}")[:2], ["TS_05", "TS_04"])
        self.search("quality>0.65 axis<86")
        self.assertEqual(self.browser.run(f"return {tiles}"), ["TS_02", "TS_01", "TS_00"])
        self.search("splendour=3")
        self.assertIn("no column is called splendour", self.browser.run("return document.getElementById('count').textContent"))
        self.search("")
        self.browser.run("document.querySelector('.tile').focus()")
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "g"):
            self.key(key)
        self.assertEqual(self.browser.run("return document.activeElement.dataset.series"), "TS_04")
        self.assertEqual(self.browser.run("return document.querySelector('.tile .mark').textContent"), "Good")
        self.enter("#tile-size", 400, "input")
        self.assertGreater(self.browser.run("return document.querySelector('.tile').getBoundingClientRect().width"), 390)
        self.browser.screen(380, 800, mobile=True)
        self.assertLessEqual(self.browser.run("return document.documentElement.scrollWidth - innerWidth"), 0)

    def test_the_plots_show_every_figure_and_mark_what_is_unlike_the_others(self):
        for n in range(12):
            self.project.whole(f"TS_{n:02d}", axis=85.0 + 0.01 * n if n != 7 else 91.0, thickness_A=1500.0 + 10 * n)
        self.open(self.write(), "#/plots")
        self.browser.until("document.querySelectorAll('#trends svg').length > 6")
        unusual = "[...document.querySelectorAll('.point.unusual title')].map(each => each.textContent.split(':')[0])"
        self.assertEqual(self.browser.run(f"return {unusual}"), ["TS_07"])
        self.picture("plots")
        self.enter("#across", "thickness_A")
        self.enter("#up", "quality")
        self.assertEqual(self.browser.run("return document.querySelectorAll('#one-trend .point').length"), 12)
        self.assertEqual(self.browser.run("return document.querySelectorAll('#trends svg').length"), 0)
        self.browser.run("document.querySelectorAll('#one-trend .point')[3].dispatchEvent(new Event('click'))")
        self.browser.until("document.querySelector('#series-page')")

    def test_a_mark_and_a_note_are_kept_by_the_browser_filtered_and_saved_as_a_list(self):
        self.session()
        page = self.write()
        self.open(page, "#/series/TS_01")
        self.browser.until(f"document.querySelector('#marks') && {LOADED}")
        self.key("b", "document.body")
        self.enter(".note-text", 'ice, "thick"')
        self.assertEqual(self.browser.run("return document.querySelector('#marks [aria-pressed=true]').dataset.mark"), "bad")
        self.open(page)
        self.browser.until(f"{ROWS} === 8")
        self.search("mark=bad")
        self.assertEqual(self.browser.run("return [...state.marks.keys()]"), ["TS_01"])
        self.assertEqual(self.browser.run(f"return {NAMES}"), ["TS_01"])
        self.assertEqual(self.browser.run("return marksText()"), 'series_id,mark,note\nTS_01,bad,"ice, ""thick"""\n')
        self.browser.run("localStorage.clear()")

    def test_the_tomogram_is_walked_through_by_keys_and_cut_through_the_chosen_point(self):
        self.project.whole("TS_00")
        self.serve(self.write(), "#/series/TS_00")          # of a page on the disk a script may not read the pixels
        self.browser.until(f"document.querySelector('.viewer') && {LOADED}")
        where = "document.querySelector('.player .where').textContent"
        first = self.browser.run(f"return {where}")
        self.key("ArrowUp", "document.querySelector('.viewer')")
        self.assertNotEqual(self.browser.run(f"return {where}"), first)
        self.assertEqual(self.browser.run("return document.querySelector('.player input').getAttribute('aria-valuetext')"),
                         self.browser.run(f"return {where}"))
        # the block of the made volume is at high y, low x and high z: seen in the cuts through it, not through the other corner
        grey = """
            const [xy, yz, xz] = [...document.querySelectorAll('.viewer canvas')];
            const at = (canvas, x, y) => canvas.getContext('2d')
              .getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data[0];
            const click = (x, y) => { const area = xy.getBoundingClientRect(); xy.dispatchEvent(new PointerEvent('pointerdown',
              { clientX: area.left + x * area.width, clientY: area.top + y * area.height })); };
            click(.25, .1); const through = [at(xz, .1, .15), at(xz, .9, .15), at(yz, .8, .2), at(yz, .1, .2)];
            click(.9, .9); return [through, [at(xz, .1, .15), at(yz, .8, .2)]];"""
        through, beside = self.browser.run(grey)
        self.assertGreater(through[0] - through[1], 100)
        self.assertGreater(through[2] - through[3], 100)
        self.assertLess(max(beside), through[0] - 100)
        self.browser.console()          # Chromium's advice on reading pixels

    def test_the_filtered_tomogram_and_the_other_one_show_the_same_slice_side_by_side(self):
        self.project.whole("TS_00", filtered=True)
        self.open(self.write(), "#/series/TS_00")
        self.browser.until(f"document.querySelectorAll('.player').length === 3 && {LOADED}")
        for key in ("ArrowUp", "ArrowUp", "ArrowDown", "ArrowUp"):
            self.key(key, "document.querySelector('.viewer')")
        shown = self.browser.run("return [...document.querySelectorAll('.player .where')].map(each => each.textContent)")
        self.assertEqual((shown[0], shown[0] != "z 7 of 12"), (shown[1], True))
        self.picture("filtered")

    def test_a_served_page_marks_acknowledges_takes_out_and_stops(self):
        self.session()
        page = self.write()
        with PageServer(Session(self.project.path, page.out), "a-token-that-nobody-guesses") as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(server.shutdown)
            self.browser.open(server.address("127.0.0.1"))
            self.browser.until(f"state.served && document.querySelector('#stop') && {LOADED}")
            self.assertNotIn("token", self.browser.run("return location.href"))
            self.browser.run("document.querySelector('.alarm button').click()")
            self.browser.until("(document.getElementById('said') || {textContent: ''}).textContent.includes('acknowledged')")
            self.picture("served")
            self.browser.run("location.hash = '#/series/TS_02'")
            self.browser.until("document.querySelector('#tilt-list')")
            self.key("l", "document.body")
            self.browser.until("document.getElementById('said').textContent === 'TS_02: look again'")
            self.assertEqual(marks.read(page.out)["TS_02"].mark, "look-again")
            self.browser.run("window.prompt = () => 'ice'; document.querySelector('#tilt-list button').click()")
            self.browser.until("document.getElementById('said').textContent.includes('20 of 21 tilts')")
            self.assertEqual(self.browser.run("return [...document.querySelectorAll('a[download]')].length"), 5)
            self.browser.run("sessionStorage.clear(); localStorage.clear()")
            self.browser.open("about:blank")

    def test_the_newest_aligned_tilt_is_seen_before_there_is_any_tomogram(self):
        self.project.acquire("TS_00", tilts=2)
        image = np.random.default_rng(1).normal(10.0, 1.0, (1, 1100, 1300)).astype(np.float32)
        write_mrc(os.path.join(self.project.path, self.project.movies("TS_00")[1] + "_aligned_mic.mrc"), image, 2.0)
        self.open(self.write())
        self.browser.until(f"document.querySelectorAll('#tilt img').length === 2 && {LOADED}")
        self.assertIn("1300 × 1100", self.browser.run("return document.querySelector('#tilt').textContent"))
        self.picture("first-minute")

    def test_no_view_has_a_fault_that_axe_finds(self):
        self.session()
        self.states = {IMPORT: "running", COMPOSE: "dead"}
        page = self.write()
        views = {"": f"{ROWS} === 8", "#/gallery": "document.querySelector('.tile')",
                 "#/plots": "document.querySelector('#trends svg')", "#/series/TS_01": "document.querySelector('#ortho')"}
        for place, ready in views.items():
            for dark in (False, True):
                self.browser.screen(1280, 900, dark)
                self.open(page, place)
                self.browser.until(f"{ready} && {LOADED}")
                self.browser.run(AXE)
                self.browser.run("""axe.run(document, { resultTypes: ['violations'] }).then(found => { window.found = { list:
                    found.violations.map(each => each.id + ': ' + each.nodes.slice(0, 4).map(node => node.target + ' '
                    + (node.any[0] || {}).message).join('; ')) }; })""")
                self.assertEqual(self.browser.until("window.found", 60)["list"], [], (place, dark))

    def test_a_page_that_is_no_longer_written_says_so(self):
        self.project.whole("TS_00")
        self.open(self.write())                  # its clock stands in the year 2027
        self.browser.run("const now = Date.now; Date.now = () => 1e13")
        self.browser.until("document.getElementById('pulse').textContent.includes('page not written')", 5)
        self.browser.run("location.reload()")

    def test_a_folder_without_a_session_yet_says_so(self):
        page = self.write()
        os.remove(os.path.join(page.out, "data", "session.js"))
        self.open(page)
        self.browser.until("document.body.textContent.includes('No session has been written here yet')")
        self.assertEqual(len(self.browser.console()), 1)          # the missing file itself
        page.finish()
        self.browser.until("document.body.textContent.includes('No tilt series yet')", 15)
        self.picture("empty")
        self.browser.console()

    def test_a_thousand_series_are_usable_in_two_seconds(self):
        for n in range(1000):
            self.project.acquire(f"TS_{n:04d}", tilts=1)
            self.project.compose(f"TS_{n:04d}", image_files=False)
            self.project.reconstruct(f"TS_{n:04d}", image_files=False, quality=n % 97 / 97)
        self.open(self.write())
        self.browser.until("document.getElementById('count').textContent === '1000 series'")
        ready = self.browser.run("""
            const began = performance.now(), head = document.querySelectorAll('#head th')[4]; head.click();
            const box = document.getElementById('search'); box.value = 'TS_09'; box.dispatchEvent(new Event('input'));
            return [performance.now() - began, document.getElementById('count').textContent]""")
        self.assertEqual(ready[1], "100 of 1000 series")
        self.assertLess(ready[0], 1000)
        self.picture("thousand")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and "." not in sys.argv[1]:
        PICTURES = sys.argv.pop(1)
    unittest.main(verbosity=2)
