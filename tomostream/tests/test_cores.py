# SPDX-License-Identifier: GPL-3.0-or-later
"""The cores of a machine between sessions: never more than there are, who asked first goes first, nobody starves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest import mock

from tomostream.streaming import cores, tickets
from tomostream.streaming.cores import CORES, hold_cores
from tomostream.streaming.gpus import gpu_lock, inherited
from tomostream.streaming.tickets import Stopped, Ticket, folder
from tomostream.tests.support import wait_for

OTHER = ("import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
         "from tomostream.streaming.cores import hold_cores\n"
         "with hold_cores(int(sys.argv[2])):\n    print('held', flush=True); sys.stdin.read()\n")


class WithTickets(unittest.TestCase):
    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = place.name
        for patch in (mock.patch.object(tickets.tempfile, "gettempdir", return_value=self.folder),
                      mock.patch.dict(os.environ, {CORES: "4"})):
            patch.start()
            self.addCleanup(patch.stop)
        self.stopped = threading.Event()
        self.stopped.set()

    def tickets(self) -> list[str]:
        return [name for name in os.listdir(folder("cores")) if name != "gate"]

    def other(self, wanted: int) -> subprocess.Popen:
        """Another process that holds cores until its input is closed."""
        child = subprocess.Popen([sys.executable, "-c", OTHER, self.folder, str(wanted)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.stdin.close)
        return child


class TestCores(WithTickets):
    def test_are_held_while_a_program_runs_and_given_back_whatever_happens(self):
        with self.assertRaises(ValueError), hold_cores(3):
            self.assertEqual(len(self.tickets()), 1)
            self.assertEqual(len(inherited()), 1)
            raise ValueError
        self.assertEqual((self.tickets(), inherited()), ([], ()))

    def test_are_never_more_than_there_are_over_all_processes(self):
        child = self.other(3)
        self.assertEqual(child.stdout.readline(), b"held\n")
        with hold_cores(1):
            with self.assertRaises(Stopped), hold_cores(1, self.stopped):
                self.fail("five of four cores are held")
        with self.assertRaises(Stopped), hold_cores(2, self.stopped):
            self.fail("five of four cores are held")

    def test_of_one_that_was_killed_are_free(self):
        child = self.other(4)
        self.assertEqual(child.stdout.readline(), b"held\n")
        child.kill()
        child.wait()
        with hold_cores(4, self.stopped):
            self.assertEqual(len(self.tickets()), 1)

    def test_are_kept_by_a_program_that_outlives_its_protocol(self):
        with hold_cores(4):
            program = subprocess.Popen(["sleep", "60"], pass_fds=inherited())
            self.addCleanup(program.wait)
            self.addCleanup(program.kill)
            name, = self.tickets()
            os.rename(os.path.join(folder("cores"), name), os.path.join(folder("cores"), "aside"))     # as if we had been killed
        os.rename(os.path.join(folder("cores"), "aside"), os.path.join(folder("cores"), name))
        with self.assertRaises(Stopped), hold_cores(1, self.stopped):
            self.fail("a core is held twice")

    def test_that_are_wanted_in_larger_numbers_than_there_are_are_all(self):
        with hold_cores(64), self.assertRaises(Stopped), hold_cores(1, self.stopped):
            self.fail("a core is held twice")

    def test_are_not_refused_where_the_folder_cannot_be_used(self):
        with open(os.path.join(self.folder, "a file"), "w", encoding="utf-8"):
            pass
        with mock.patch.object(cores, "folder", return_value=os.path.join(self.folder, "a file")), \
                self.assertLogs(cores._LOG, "WARNING"), hold_cores(1, self.stopped):
            self.assertEqual(inherited(), ())

    def test_setting_is_a_whole_number_or_nothing(self):
        self.assertEqual(cores.cores(), 4)
        with mock.patch.dict(os.environ, {CORES: " "}):
            self.assertEqual(cores.cores(), cores.limits.cpus())
        for wrong in ("all", "0", "1.5", "-2"):
            with mock.patch.dict(os.environ, {CORES: wrong}), self.assertRaisesRegex(ValueError, f"{CORES} is '{wrong}'"):
                cores.cores()


class TestOrder(WithTickets):
    def test_who_asked_first_goes_first_and_small_ones_do_not_overtake(self):
        running, large, small = (Ticket(folder("cores"), wanted) for wanted in (2, 4, 1))
        with small, large:
            with running:
                self.assertEqual([each.turn(4) for each in (running, large, small)], [True, False, False])
            self.assertEqual([each.turn(4) for each in (large, small)], [True, False])

    def test_a_session_with_much_to_do_does_not_keep_another_from_its_share(self):
        """Six workers of one session and one of another want the only core, or the only GPU, again and again."""
        for hold, place in ((lambda: hold_cores(4), "cores"), (lambda: gpu_lock([0]), "gpu-0")):
            order = self.turns(hold, place)[:28]
            self.assertIn(order.count("little"), range(3, 6), order)

    def turns(self, hold, place: str) -> list[str]:
        """Who had it, in order; all ask for it before anybody gets it."""
        order: list[str] = []

        def work(session: str) -> None:
            while len(order) < 28:
                with hold():
                    order.append(session)

        threads = [threading.Thread(target=work, args=(name,)) for name in ("much",) * 6 + ("little",)]
        with hold():
            for thread in threads:
                thread.start()
            wait_for(lambda: sum(name[0].isdigit() for name in os.listdir(folder(place))) >= len(threads), 120, "tickets")
        for thread in threads:
            thread.join()
        return order


if __name__ == "__main__":
    unittest.main()
