# SPDX-License-Identifier: GPL-3.0-or-later
"""The page when it is served: who may read and change what, and that nothing leaves the page and the project."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tomostream.choices import exclusions
from tomostream.cli import main as command
from tomostream.files import locks
from tomostream.journal import entries, runs, stopping
from tomostream.journal.layout import starting_file, stop_file
from tomostream.journal.status import COMPOSE
from tomostream.report import acknowledged, handover, marks, server
from tomostream.report.actions import REQUESTS, Session
from tomostream.report.announce import read_alarms
from tomostream.report.server import COOKIE, HEADER, MAX_BODY, PageServer, inside
from tomostream.tests.made_project import FOLDERS
from tomostream.tests.test_report import HOSTILE, WithProject

TOKEN = "a-token-that-nobody-guesses"
#: Addresses that must not lead out of the page.
OUTSIDE = (
    "/../project.sqlite",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/series/../../Runs",
    "/..%5c..%5cetc",
    "//etc/passwd",
    "/.lock",
    "/.preview/x",
    "/download/TS_01/999",
    "/download/../0",
    "/download/TS_01/-1",
    "/download/TS_01/0/../../..",
    "/series/TS_01/%00",
    "/%ff",
    "/data/",
)


class Served(WithProject):
    def setUp(self):
        super().setUp()
        self.project.whole("TS_01")
        self.page = self.writer()
        self.page.finish()
        self.server = self.serve("127.0.0.1")

    def serve(self, host: str) -> PageServer:
        server = PageServer(Session(self.project.path, self.page.out), TOKEN, host)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        for act in (thread.join, server.server_close, server.shutdown):
            self.addCleanup(act)
        return server

    def ask(
        self, path: str, body: object = None, headers: dict | None = None, method: str = "", server: PageServer | None = None
    ):
        """Status, headers and body of an answer. A body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", (server or self.server).server_address[1], timeout=120)
        self.addCleanup(connection.close)
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(
            method or ("GET" if body is None else "POST"),
            path,
            data,
            {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})},
        )
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    def change(self, what: str, body: object, **headers: str):
        status, _, told = self.ask(
            f"/api/{what}", body, {HEADER: TOKEN, **{name.replace("_", "-"): value for name, value in headers.items()}}
        )
        return status, json.loads(told)

    def mark(self, **fields: object) -> dict:
        return {"series": "TS_01", "mark": "good", "note": "", "time": 1000.0, **fields}


class TestWhatIsRead(Served):
    def test_the_page_and_its_data_are_served_as_what_they_are(self):
        for path, kind in (
            ("/", "text/html"),
            ("/index.html", "text/html"),
            ("/base.js", "text/javascript"),
            ("/metrics.csv", "text/csv"),
            ("/series/TS_01/v1-xy.webp", "image/webp"),
            ("/data/session.js?r=1", "text/javascript"),
        ):
            status, headers, body = self.ask(path)
            self.assertEqual(
                (status, headers["Content-Type"].split(";")[0], len(body)), (200, kind, int(headers["Content-Length"])), path
            )
            self.assertEqual((headers["X-Frame-Options"], headers["X-Content-Type-Options"]), ("DENY", "nosniff"))

    def test_a_file_that_a_series_lists_is_downloaded_from_the_project(self):
        listed = self.read("series", "TS_01", "data.js")["files"]
        for place, file in enumerate(listed):
            status, headers, body = self.ask(f"/download/TS_01/{place}")
            if os.path.isabs(file["path"]):  # the mdoc at the microscope
                self.assertEqual(status, 404)
                continue
            with open(os.path.join(self.project.path, file["path"]), "rb") as whole:
                self.assertEqual((status, body), (200, whole.read()))
            self.assertIn(os.path.basename(file["path"]), headers["Content-Disposition"])

    def test_nothing_outside_the_page_is_served(self):
        for path in OUTSIDE:
            status, _, body = self.ask(path)
            self.assertIn(status, (400, 404), path)
            self.assertNotIn(b"root:", body)

    def test_hidden_files_of_the_page_are_not_served(self):
        os.makedirs(self.path(".preview"))
        for name in (".key", os.path.join(".preview", "x")):
            with open(self.path(name), "w") as file:
                file.write("for the writer of the page alone")
            self.assertEqual(self.ask(f"/{name}")[0], 404)

    def test_a_listed_file_that_is_not_in_the_project_is_not_downloaded(self):
        elsewhere = os.path.join(self.folder, "elsewhere.mdoc")
        with open(elsewhere, "w") as file:
            file.write("at the microscope")
        with unittest.mock.patch.object(server, "listed_files", return_value=[elsewhere]):
            self.assertEqual(self.ask("/download/TS_01/0")[0], 404)

    def test_a_link_that_leads_out_of_the_page_is_no_file_of_it(self):
        os.symlink("/etc", self.path("out"))
        os.symlink("/etc/passwd", self.path("passwd.html"))
        self.assertEqual([self.ask(path)[0] for path in ("/out/passwd", "/passwd.html")], [404, 404])

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.sampled_from(
                ["..", ".", "", "%2e%2e", "series", "TS_01", "download", "0", "~", "\\", "\x00", "etc", "passwd", "ä"]
            ),
            max_size=8,
        )
    )
    def test_no_name_leads_out_of_a_folder(self, parts):
        root = os.path.realpath(self.page.out)
        try:
            found = inside(root, "/".join(parts))
        except ValueError:
            found = None  # a NUL, which the address is refused for
        self.assertTrue(found is None or found.startswith(root + os.sep))

    def test_from_another_machine_it_is_read_with_the_key_alone_which_does_not_change_anything(self):
        server = self.serve("0.0.0.0")
        self.assertEqual(self.ask("/", server=server)[0], 403)
        key = re.search(r"\?key=(\w+)#", server.address("host"))[1]
        status, headers, _ = self.ask(f"/?key={key}", server=server)
        self.assertEqual((status, headers["Location"]), (302, "/"))
        self.assertIn("HttpOnly; SameSite=Strict", headers["Set-Cookie"])
        elsewhere = self.ask(f"////evil.example/?key={key}", server=server)[1]["Location"]
        self.assertRegex(elsewhere, "^/(?!/)")              # "//evil.example/" would be another site
        cookie = {"Cookie": headers["Set-Cookie"].split(";")[0]}
        self.assertEqual(self.ask("/series/TS_01/data.js", headers=cookie, server=server)[0], 200)
        self.assertEqual(self.ask("/", headers={"Cookie": f"{COOKIE}=wrong"}, server=server)[0], 403)
        self.assertEqual(self.ask("/api/marks", self.mark(), {**cookie, HEADER: key}, server=server)[0], 403)
        self.assertEqual(marks.read(self.page.out), {})

    def test_a_name_of_another_site_that_points_here_is_refused(self):
        self.assertEqual(self.ask("/", headers={"Host": "evil.example:80"})[0], 403)
        self.assertEqual(self.ask("/", headers={"Host": f"localhost:{self.server.server_address[1]}"})[0], 200)

    def test_a_port_that_is_taken_and_a_token_that_can_be_guessed_are_refused(self):
        with self.assertRaises(OSError):
            PageServer(Session(self.project.path, self.page.out), TOKEN, port=self.server.server_address[1])
        with self.assertRaises(ValueError):
            PageServer(Session(self.project.path, self.page.out), "short")


class TestWhatIsChanged(Served):
    def test_a_mark_is_kept_for_the_page_and_for_programs_and_the_newer_one_counts(self):
        self.assertEqual(self.change("marks", self.mark(note=HOSTILE)), (200, {"text": "TS_01: good"}))
        self.change("marks", self.mark(mark="bad", time=900.0))
        self.assertEqual(marks.read(self.page.out), {"TS_01": marks.Mark("good", HOSTILE, 1000.0)})
        self.assertEqual(self.read("data", "marks.js"), {"TS_01": {"mark": "good", "note": HOSTILE, "time": 1000.0}})
        self.change("marks", self.mark(mark="look-again", time=1001.0))
        self.assertEqual({name: mark.mark for name, mark in marks.read(self.page.out).items()}, {"TS_01": "look-again"})

    def test_a_browser_whose_clock_is_ahead_makes_no_mark_that_stands_for_good(self):
        self.change("marks", self.mark(time=1e12))
        self.assertLessEqual(marks.read(self.page.out)["TS_01"].time, time.time())

    def test_an_alarm_is_acknowledged(self):
        self.project.report(COMPOSE, "TS_02", entries.Failed, "its movies never came", name="TS_02")
        self.page.finish()
        (alarm,) = read_alarms(self.page.out)
        self.assertEqual(self.change("acknowledge", {"key": alarm.key})[0], 200)
        self.assertEqual(list(acknowledged.read(self.page.out)), [alarm.key])
        self.assertEqual(self.change("acknowledge", {"key": "nothing"})[0], 409)

    def test_tilts_are_taken_out_and_put_back(self):
        movies = self.project.movies("TS_01")
        self.assertEqual(self.change("exclude", {"series": "TS_01", "movies": movies[:1], "reason": "grid bar"})[0], 200)
        path = self.project.extra(COMPOSE, exclusions.NAME)
        self.assertEqual(exclusions.read(path), {"TS_01": {movies[0]: "grid bar"}})
        self.assertEqual(self.change("exclude", {"series": "TS_01", "movies": movies[:1], "back": True})[0], 200)
        self.assertEqual(exclusions.read(path), {"TS_01": {}})
        status, told = self.change("exclude", {"series": "TS_01", "movies": movies[:3]})
        self.assertEqual(status, 409)
        self.assertIn("at least three", told["error"])

    def test_the_session_is_asked_to_stop_where_it_runs(self):
        self.assertEqual(self.change("stop", {})[0], 409)
        folder = os.path.join(self.project.path, "Runs", FOLDERS[COMPOSE])
        with unittest.mock.patch.object(runs, "run_state", lambda each: runs.RUNNING if each == folder else runs.FINISHED):
            self.assertEqual(self.change("stop", {}), (200, {"text": "asked to stop: compose"}))
        self.assertTrue(os.path.exists(stop_file(folder)))

    def test_a_session_that_is_being_started_is_asked_to_stop_too(self):
        with locks.hold(starting_file(self.project.path), 0.0):
            self.assertEqual(self.change("stop", {}), (200, {"text": "asked to stop: what is being started"}))
        self.assertTrue(stopping.is_asked(self.project.path, COMPOSE))


class TestTheDoor(Served):
    def test_without_the_token_nothing_is_changed(self):
        for headers in ({}, {HEADER: ""}, {HEADER: TOKEN[:-1]}, {HEADER: TOKEN + "x"}, {"Cookie": f"{HEADER}={TOKEN}"}):
            for what in REQUESTS:
                self.assertEqual(self.ask(f"/api/{what}", {}, headers)[0], 403)
        self.assertEqual(self.ask(f"/api/marks?{HEADER}={TOKEN}", self.mark())[0], 403)
        self.assertEqual(marks.read(self.page.out), {})

    def test_a_form_or_script_of_another_site_changes_nothing(self):
        self.assertEqual(self.change("marks", self.mark(), Origin="http://evil.example")[0], 403)
        self.assertEqual(self.change("marks", self.mark(), Origin="null")[0], 403)
        self.assertEqual(self.change("marks", self.mark(), Host="evil.example")[0], 403)
        self.assertEqual(self.change("marks", json.dumps(self.mark()), Content_Type="text/plain")[0], 415)
        self.assertEqual(self.ask("/api/marks", headers={HEADER: TOKEN}, method="OPTIONS")[0], 501)
        self.assertEqual(marks.read(self.page.out), {})
        ours = f"127.0.0.1:{self.server.server_address[1]}"
        self.assertEqual(self.change("marks", self.mark(), Origin=f"http://{ours}", Host=ours)[0], 200)

    def test_a_body_that_is_too_large_or_of_no_length_is_not_read(self):
        self.assertEqual(self.change("marks", self.mark(note="x" * MAX_BODY))[0], 413)
        self.assertEqual(self.change("marks", self.mark(), Content_Length="-1")[0], 413)
        self.assertEqual(self.change("marks", self.mark(), Content_Length="many")[0], 413)

    def test_what_makes_no_sense_is_refused_in_words(self):
        bodies = [
            "",
            "{",
            "[]",
            "null",
            "1",
            self.mark(mark="splendid"),
            self.mark(series=5),
            self.mark(series=""),
            self.mark(note="x" * 501),
            self.mark(time="now"),
            self.mark(extra=1),
            {"series": "TS_01"},
            "[" * 100000,
        ]
        for body in bodies:
            status, told = self.change("marks", body)
            self.assertEqual(status, 400, body if len(str(body)) < 100 else "long")
            self.assertIn("is invalid", told["error"])
        for name in ("TS_99", HOSTILE, "../../etc", "x" * 1000):
            self.assertEqual(self.change("marks", self.mark(series=name))[0], 409)
        self.assertEqual([self.change(what, {})[0] for what in ("", "marks/x", "../marks", "run")], [404] * 4)
        self.assertEqual(marks.read(self.page.out), {})

    @settings(deadline=None, max_examples=60)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["series", "mark", "key", "movies", "x"]), inner, max_size=4)
            ),
        )
    )
    def test_no_request_whatever_it_holds_brings_the_server_down(self, body):
        for what in REQUESTS:
            if what == "stop" and body == {}:
                continue
            self.assertIn(self.change(what, json.dumps(body))[0], (400, 409))

    def test_marks_that_somebody_spoilt_are_named_and_not_overwritten(self):
        with open(self.path(marks.FILE), "w", encoding="utf-8") as file:
            file.write("{broken")
        status, told = self.change("marks", self.mark())
        self.assertEqual(status, 409)
        self.assertIn(marks.FILE, told["error"])
        with open(self.path(marks.FILE), encoding="utf-8") as file:
            self.assertEqual(file.read(), "{broken")


class TestTheCommand(Served):
    def test_it_prints_the_address_serves_and_ends_by_ctrl_c(self):
        launch = "import sys; from tomostream.cli import main; sys.exit(main())"
        with subprocess.Popen(
            [sys.executable, "-c", launch, "page", self.project.path, "--serve", "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            port, token = re.match(r"http://localhost:(\d+)/#token=(\S+)", process.stdout.readline()).groups()
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=120)
            connection.request(
                "POST", "/api/marks", json.dumps(self.mark()), {"Content-Type": "application/json", HEADER: token}
            )
            self.assertEqual(connection.getresponse().status, 200)
            connection.close()
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(120), 130)

    def test_it_refuses_in_one_sentence(self):
        self.assertEqual(command(["page", os.path.join(self.folder, "nothing")]), 2)
        self.assertEqual(command(["page", self.project.path, "--serve", "--token", "short"]), 2)
        self.assertEqual(command(["page", self.project.path, "--serve", "--port", str(self.server.server_address[1])]), 2)
        shutil.rmtree(self.page.out)
        self.assertEqual(command(["page", self.project.path]), 2)


class TestTheSummaryToHandOver(WithProject):
    def test_it_says_what_was_done_with_what_and_what_failed_and_why(self):
        self.project.whole("TS_01", quality=0.8)
        self.project.whole("TS_02")
        self.project.report(COMPOSE, HOSTILE, entries.Failed, f"because of {HOSTILE}", name=HOSTILE)
        page = self.writer()
        page.finish()
        marks.put(page.out, "TS_01", marks.Mark("good", "nice membrane", time.time()))
        text = handover.page(page.out)
        for words in (
            "3 tilt series: 2 done, 1 failed",
            "MotionCor3 1.2.1",
            "300 kV",
            "pixel size 4 Å",
            "2 series of 5 tilts and 15 e/Å²",
            "Zheng",
            "nmeth.4193",
            "because of",
            "good – nice membrane",
            "aretomo -FlipVol 1 -OutBin 2",
            "data:image/webp;base64,",
        ):
            self.assertIn(words, text)
        self.assertNotIn("<img src=x", text)
        self.assertNotIn("<script", text)
        with open(self.path(handover.FILE), encoding="utf-8") as file:
            self.assertIn("TS_02", file.read())

    def test_a_page_without_a_table_has_no_summary(self):
        with self.assertRaises(handover.NoSummary):
            handover.page(self.folder)


class TestTheListOfSeries(WithProject):
    def test_the_first_column_of_the_page_s_list_and_one_name_a_line_are_read(self):
        for text, names in (
            ('series_id,mark,note\nTS_01,good,"a, b"\nTS_02,,\n', ["TS_01", "TS_02"]),
            ("TS_03\n\nTS_01\nTS_03\n", ["TS_03", "TS_01"]),
            ('\ufeffseries_id,mark,note\r\n"a ""b"", c",,\r\n', ['a "b", c']),
        ):
            with open(os.path.join(self.folder, "list"), "w", encoding="utf-8", newline="") as file:
                file.write(text)
            self.assertEqual(marks.series_in(file.name), names)
        with open(file.name, "w", encoding="utf-8"):
            pass
        self.assertRaises(ValueError, marks.series_in, file.name)
