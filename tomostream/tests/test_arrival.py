# SPDX-License-Identifier: GPL-3.0-or-later
"""When a movie that is being written is used: the rules of `acquisition.arrival`, with a clock of the test's own."""

from __future__ import annotations

import unittest

from tomostream.acquisition.arrival import BROKEN, COMPLETE, GROWING, UNKNOWN, Arrivals


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.arrivals = Arrivals(settle=1.0, time_out=30.0)

    def see(self, now: float, size: int = 10, path: str = "a.mrc", **written: bool) -> None:
        self.arrivals.see(path, size, now, now, **written)

    def judge(self, now: float, state: str = COMPLETE, frames: int | None = 8, path: str = "a.mrc", reason: str = ""):
        return self.arrivals.judge(path, state, reason, frames, now)

    def know_frames(self, frames: int = 8) -> None:
        for _ in range(3):
            self.arrivals.note_frames(frames)


class TestACompleteFile(Case):
    def test_that_was_moved_into_place_is_used_at_once(self):
        self.see(0.0, path="a.tif", moved=True)
        self.assertEqual(self.judge(0.0, path="a.tif").state, "ready")

    def test_that_was_closed_is_used_at_once_when_its_header_tells_the_frames(self):
        self.see(0.0, closed=True)
        self.assertEqual(self.judge(0.0).state, "ready")

    def test_that_nobody_closed_is_used_when_it_has_been_still(self):
        self.see(0.0)
        self.assertEqual(self.judge(0.5).state, "wait")
        self.assertEqual(self.arrivals.next_due(), 1.0)
        self.assertEqual(self.judge(1.0).state, "ready")

    def test_that_changes_again_starts_to_settle_again(self):
        self.see(0.0)
        self.judge(0.5)
        self.see(0.9, size=20)
        self.assertEqual(self.judge(1.2).state, "wait")
        self.assertEqual(self.judge(1.95).state, "ready")

    def test_that_was_closed_and_then_written_to_again_is_no_longer_closed(self):
        self.see(0.0, closed=True)
        self.see(0.1, size=20)
        self.assertEqual(self.judge(0.2).state, "wait")

    def test_is_forgotten_once_it_is_decided(self):
        self.see(0.0, moved=True)
        self.judge(0.0)
        self.assertIsNone(self.arrivals.next_due())
        self.assertEqual(list(self.arrivals.leftovers()), [])


class TestAMovieThatIsCompleteAfterEveryFrame(Case):
    def test_is_not_used_when_its_writer_closes_it_after_the_first_frame(self):
        self.see(0.0, path="a.tif", closed=True)
        self.assertEqual(self.judge(0.0, frames=1, path="a.tif").state, "wait")

    def test_is_used_after_three_times_the_time_between_its_frames(self):
        for frame in range(1, 5):
            self.see(frame * 1.5, size=frame, path="a.tif", closed=True)
            self.assertEqual(self.judge(frame * 1.5, frames=frame, path="a.tif").state, "wait")
        self.assertEqual(self.judge(6.0 + 4.4, frames=4, path="a.tif").state, "wait")
        self.assertEqual(self.judge(6.0 + 4.6, frames=4, path="a.tif").state, "ready")

    def test_is_used_with_its_last_frame_once_the_usual_number_is_known(self):
        self.know_frames(8)
        for frame in range(1, 8):
            self.see(frame, size=frame, path="a.tif", closed=True)
            self.assertEqual(self.judge(frame, frames=frame, path="a.tif").state, "wait")
        self.see(8.0, size=8, path="a.tif", closed=True)
        self.assertEqual(self.judge(8.0, frames=8, path="a.tif").state, "ready")

    def test_with_too_few_frames_waits_for_the_time_out_and_is_used_then(self):
        self.know_frames(8)
        self.see(0.0, path="a.tif", closed=True)
        verdict = self.judge(1.0, frames=4, path="a.tif")
        self.assertEqual(verdict.state, "wait")
        self.assertIn("4 frames", verdict.reason)
        self.assertEqual(self.judge(30.0, frames=4, path="a.tif").state, "ready")

    def test_with_too_few_frames_is_used_at_once_when_it_was_moved_into_place(self):
        self.know_frames(8)
        self.see(0.0, path="a.tif", moved=True)
        self.assertEqual(self.judge(0.0, frames=4, path="a.tif").state, "ready")

    def test_of_eer_frames_a_few_less_are_normal(self):
        for frames in (64, 63, 64):
            self.arrivals.note_frames(frames)
        for frames, state, few in ((62, "ready", False), (61, "ready", False), (40, "wait", True)):
            self.see(0.0, path=f"{frames}.eer")
            self.assertEqual(self.judge(2.0, frames=frames, path=f"{frames}.eer").state, state)
            self.assertEqual(self.arrivals.fewer_than_usual(f"{frames}.eer", frames), few)
            self.assertTrue(self.arrivals.fewer_than_usual(f"{frames}.tif", frames))

    def test_where_the_exposure_grows_with_the_tilt_no_number_is_usual(self):
        for frames in (8, 8, 8, 10, 12, 14, 16):
            self.arrivals.note_frames(frames)
        self.assertIsNone(self.arrivals.usual_frames())

    def test_the_usual_number_needs_three_movies_that_agree(self):
        self.arrivals.note_frames(8)
        self.arrivals.note_frames(8)
        self.assertIsNone(self.arrivals.usual_frames())
        self.arrivals.note_frames(8)
        self.assertEqual(self.arrivals.usual_frames(), 8)


class TestAFileThatIsNotComplete(Case):
    def test_fails_with_its_reason_when_it_has_not_changed_for_the_time_out(self):
        self.see(0.0)
        self.assertEqual(self.judge(29.0, GROWING, reason="ends at byte 5").state, "wait")
        verdict = self.judge(30.0, GROWING, reason="ends at byte 5")
        self.assertEqual(verdict.state, "failed")
        self.assertIn("ends at byte 5", verdict.reason)

    def test_that_goes_on_growing_is_never_given_up(self):
        for now in range(0, 200, 20):
            self.see(float(now), size=now)
            self.assertEqual(self.judge(now + 15.0, GROWING).state, "wait")

    def test_that_is_no_movie_at_all_fails_after_five_seconds(self):
        self.see(0.0)
        self.assertEqual(self.judge(4.0, BROKEN, reason="is no TIFF").state, "wait")
        self.assertEqual(self.judge(5.0, BROKEN, reason="is no TIFF").state, "failed")

    def test_whose_structure_cannot_be_checked_is_taken_after_the_time_out(self):
        self.see(0.0)
        self.assertEqual(self.judge(29.0, UNKNOWN).state, "wait")
        self.assertEqual(self.judge(30.0, UNKNOWN).state, "ready")

    def test_is_not_read_for_every_write(self):
        self.see(0.0)
        self.judge(0.0, GROWING)
        for step in range(1, 50):
            self.see(step / 1000, size=10 + step)
        self.assertEqual(self.arrivals.due(0.05), [])
        self.assertEqual(len(self.arrivals.due(0.3)), 1)

    def test_is_left_over_when_the_session_ends(self):
        self.see(0.0, path="b.mrc")
        self.see(0.0, path="a.mrc")
        self.assertEqual([each.path for each in self.arrivals.leftovers()], ["a.mrc", "b.mrc"])

    def test_that_is_removed_is_forgotten(self):
        self.see(0.0)
        self.arrivals.forget("a.mrc")
        self.assertEqual(self.arrivals.due(100.0), [])


if __name__ == "__main__":
    unittest.main()
