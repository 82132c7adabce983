# SPDX-License-Identifier: GPL-3.0-or-later
"""Cores and GPUs between sessions: the session that has least goes first, no session waits that has nothing, nobody starves."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from dataclasses import replace
from unittest import mock

from tomostream.streaming import cores, tickets
from tomostream.streaming.cores import CORES, hold_cores
from tomostream.streaming.gpus import gpu_lock, inherited
from tomostream.streaming.tickets import Place, Stopped, Ticket, folder, head_start, next_place, use

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
        return [name for name in os.listdir(folder("cores")) if name[0].isdigit()]

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


    def test_that_cannot_be_asked_for_any_more_are_not_refused_either(self):
        with hold_cores(4), mock.patch.object(tickets.os, "rename", side_effect=FileNotFoundError("somebody cleaned up")), \
                self.assertLogs(cores._LOG, "WARNING"), hold_cores(1, self.stopped, "another"):
            self.assertEqual(len(inherited()), 1)
        self.assertEqual(self.tickets(), [])

    def test_are_one_program_s_at_once_for_a_session_that_has_none(self):
        with hold_cores(4, session="much"), hold_cores(3, self.stopped, "little"):
            self.assertEqual(len(self.tickets()), 2)
            with self.assertRaises(Stopped), hold_cores(1, self.stopped, "little"):
                self.fail("a session that has cores got more than there are")


class TestTheRule(unittest.TestCase):
    """Which ticket is next, by nothing but what is asked for and what runs."""

    def test_the_session_that_has_least_is_next(self):
        running = [Place("much", 2, 1, 1), Place("little", 1, 2, 2)]
        asked = [Place("much", 1, 3), Place("little", 1, 4)]
        self.assertEqual(next_place(running + asked, 4, {}), asked[1])

    def test_of_two_that_have_as_much_the_one_that_has_had_less_is_next(self):
        asked = [Place("a", 1, 1), Place("b", 1, 2)]
        for used, first in (({}, 0), ({"a": 5}, 1), ({"a": 5, "b": 9}, 0)):
            self.assertEqual(next_place(asked, 1, used), asked[first])

    def test_what_runs_counts_as_had_until_now(self):
        self.assertEqual(use([Place("a", 2, 1, 10), Place("a", 1, 1, 30), Place("b", 4, 1)], {"b": 7}, 50), {"a": 100, "b": 7})

    def test_who_begins_to_ask_has_the_past_of_whoever_had_least(self):
        asking = [Place("a", 1, 1), Place("b", 1, 1, 1)]
        self.assertEqual(head_start("new", asking, {"a": 90, "b": 60, "gone": 5}), 60)
        self.assertEqual(head_start("old", asking, {"a": 90, "b": 60, "old": 80}), 80)
        self.assertEqual(head_start("new", [], {"gone": 50}), 50)
        self.assertEqual(head_start("new", [], {}), 0)

    def test_within_a_session_who_asked_first_is_next(self):
        self.assertEqual(next_place([Place("a", 1, 8), Place("a", 4, 3)], 4, {}), Place("a", 4, 3))

    def test_nobody_overtakes_one_for_which_there_is_no_room_yet(self):
        places = [Place("a", 2, 1, 1), Place("b", 1, 2, 2), Place("b", 4, 3), Place("a", 1, 4)]
        self.assertIsNone(next_place(places, 4, {}))

    def test_a_session_that_has_nothing_may_begin_where_that_is_the_rule(self):
        places = [Place("a", 2, 1, 1), Place("a", 1, 2), Place("b", 2, 3)]
        self.assertEqual([next_place(places, 2, {}, one_each) for one_each in (False, True)], [None, places[2]])
        self.assertIsNone(next_place(places[:2], 2, {}, True))

    def test_nobody_asks(self):
        self.assertIsNone(next_place([Place("a", 1, 1, 1)], 4, {}, True))


class Machine:
    """Sessions that want cores again and again, in time that is only counted.

    Parameters
    ----------
    wants : session -> seconds of its programs, over and over, and how many of them it asks for at the same time.
    """

    def __init__(self, total: int, wants: dict[str, tuple[tuple[int, ...], int]], one_each: bool) -> None:
        self.total, self.one_each = total, one_each
        self.seconds = {session: itertools.cycle(seconds) for session, (seconds, _) in wants.items()}
        self.places = [Place(session, 1, number, name=f"{number}") for session, (_, many) in wants.items()
                       for number in range(many)]
        self.ends: dict[Place, int] = {}
        self.used = dict.fromkeys(wants, 0)
        self.waits_with_nothing = dict.fromkeys(wants, 0)
        self.most = 0

    def run(self, seconds: int) -> None:
        for now in range(1000, 1000 + seconds):
            for place in [place for place, end in self.ends.items() if end <= now]:
                del self.ends[place]
                self.places.remove(place)
                self.places.append(Place(place.session, 1, now, name=place.name))
            while (found := next_place(self.places, self.total, self.used, self.one_each)) is not None:
                self.places.remove(found)
                running = replace(found, began=now)
                self.places.append(running)
                self.ends[running] = now + next(self.seconds[found.session])
            has = [place.session for place in self.ends]
            self.most = max(self.most, len(has))
            for session in self.used:
                self.used[session] += has.count(session)
                self.waits_with_nothing[session] += session not in has


class TestSharing(unittest.TestCase):
    """Two sessions with more to do than the machine can, one of them with long programs and many at a time."""

    def shares(self, total: int, one_each: bool = True) -> Machine:
        machine = Machine(total, {"much": ((60, 90, 45), 12), "little": ((2, 3, 20), 4)}, one_each)
        machine.run(6000)
        return machine

    def test_both_get_the_same(self):
        for total in (2, 3, 4, 7):
            used = self.shares(total).used
            self.assertLess(abs(used["much"] - used["little"]), 0.15 * sum(used.values()), (total, used))

    def test_neither_is_ever_without_a_core(self):
        for total in (1, 2, 3):
            machine = self.shares(total)
            self.assertEqual(machine.waits_with_nothing, {"much": 0, "little": 0})
            self.assertLessEqual(machine.most, total + 1)

    def test_one_gpu_goes_from_one_session_to_the_other_by_turns(self):
        machine = Machine(1, {"much": ((5,), 12), "little": ((5,), 1)}, one_each=False)
        machine.run(1000)
        self.assertEqual((machine.used, machine.most), ({"much": 500, "little": 500}, 1))

    def test_one_session_alone_gets_everything_and_no_more(self):
        machine = Machine(3, {"much": ((60, 90), 12)}, one_each=True)
        machine.run(500)
        self.assertEqual((machine.used, machine.most), ({"much": 1500}, 3))


class TestTickets(WithTickets):
    def ticket(self, wanted: int, session: str) -> Ticket:
        ticket = Ticket(folder("cores"), wanted, session)
        self.addCleanup(ticket.close)
        return ticket

    def test_who_asked_first_goes_first_and_small_ones_do_not_overtake(self):
        running, large, small = (self.ticket(wanted, "one") for wanted in (2, 4, 1))
        self.assertEqual([each.turn(4) for each in (running, large, small)], [True, False, False])
        running.close()
        self.assertEqual([each.turn(4) for each in (small, large, small)], [False, True, False])

    def test_sessions_get_the_same_however_many_programs_one_of_them_has(self):
        """The only GPU; a program takes 9 s. The clock is ours."""
        order: list[str] = []
        with mock.patch.object(tickets, "_now", side_effect=lambda: now):
            now, waiting = 10, []
            for session in ("much",) * 6 + ("little",):
                waiting.append((session, self.ticket(1, session)))
                now += 1
            while len(order) < 12:
                session, ticket = next(each for each in waiting if each[1].turn(1))
                order.append(session)
                waiting.remove((session, ticket))
                now += 9
                again = session, self.ticket(1, session)
                ticket.close()
                waiting.append(again)
        self.assertEqual(order, ["much", "little"] * 6)

    def test_of_a_program_that_is_gone_do_not_count(self):
        for runs in (False, True):
            gone, next_one = self.ticket(4, "gone"), self.ticket(4, "next")
            self.assertEqual((gone.turn(4) if runs else True, next_one.turn(4)), (True, False))
            gone._lock.close()          # as the kernel does
            self.assertTrue(next_one.turn(4))
            self.assertEqual(len(self.tickets()), 1)
            next_one.close()

    def notes(self) -> list[str]:
        return [name.split("-")[1] for name in sorted(os.listdir(folder("cores"))) if name.startswith("used-")]

    def test_say_what_a_session_has_had_in_one_file_a_session(self):
        with mock.patch.object(tickets, "_now", side_effect=lambda: now):
            now = 100
            for _ in range(3):
                with self.ticket(2, "a") as ticket:
                    self.assertTrue(ticket.turn(2))
                    now += 50
            self.assertEqual(self.notes(), ["300"])
            with self.ticket(2, "a") as ticket:
                now += 1
                other = self.ticket(1, "b")
                self.assertFalse(other.turn(2))
                self.assertTrue(ticket.turn(2))
                now += 50
            self.assertEqual(self.notes(), ["300", "400"])      # b begins with what a had then

    def test_remember_some_sessions_that_ask_for_nothing_any_more(self):
        with mock.patch.object(tickets, "MAX_REMEMBERED", 2):
            for number in range(6):
                self.ticket(1, f"old {number}").close()
        self.assertEqual(len(self.notes()), 3)      # two, and the last one

    def test_of_gpus_are_the_turns_of_sessions_too(self):
        with gpu_lock([0], session="much"):
            name, = (name for name in os.listdir(folder("gpu-0")) if name[0].isdigit())
            self.assertIn(hashlib.sha256(b"much").hexdigest()[:16], name)
            with self.assertRaises(Stopped), gpu_lock([0], self.stopped, "little"):
                self.fail("two programs have one GPU")


if __name__ == "__main__":
    unittest.main()
