# SPDX-License-Identifier: GPL-3.0-or-later
"""The movies that belong to nobody."""

from __future__ import annotations

import pickle
import unittest
from unittest import mock

from tomostream.acquisition.loose import Loose, Movie
from tomostream.acquisition.matching import signatures


def movie(number: int) -> Movie:
    return Movie(f"TS_{number // 41:04d}_{number % 41:03d}_3.0", f"TS_{number // 41:04d}_{number % 41:03d}_3.0",
                 f"/s/TS_{number // 41:04d}_{number % 41:03d}_3.0.tif")


class TestLoose(unittest.TestCase):
    def test_a_movie_is_found_by_what_its_name_tells_until_it_belongs_to_a_series(self):
        loose, one, other = Loose(), movie(0), movie(1)
        for each in (one, other):
            loose.add(each)
        self.assertEqual(loose.like(one.signatures - other.signatures), [one])
        loose.remove(one)
        self.assertEqual(loose.like(one.signatures), [other])
        loose.remove(other)
        self.assertEqual((len(loose), loose.like(other.signatures), loose.of_series("TS_0000")), (0, [], {}))

    def test_a_movie_that_found_its_series_leaves_nothing_behind(self):
        loose = Loose()
        for number in range(100):
            loose.add(movie(number))
        loose.like(movie(0).signatures)
        for number in range(100):
            loose.remove(movie(number))
        self.assertEqual(pickle.dumps(loose), pickle.dumps(Loose()))

    def test_what_movies_are_found_by_is_worked_out_when_somebody_searches(self):
        loose, found = Loose(), []
        with mock.patch.object(Movie, "signatures", property(lambda each: found.append(each.key) or signatures(each.path))):
            for number in range(100):
                loose.add(movie(number))
            for number in range(98):
                loose.remove(movie(number))
            self.assertEqual(found, [])
            self.assertEqual({each.key for each in loose.like(signatures(movie(99).path))}, {movie(98).key, movie(99).key})
        self.assertEqual(found, [movie(98).key, movie(99).key])


if __name__ == "__main__":
    unittest.main()
