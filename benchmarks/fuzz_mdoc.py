# SPDX-License-Identifier: GPL-3.0-or-later
"""Look for bytes that make the mdoc reader raise, and for prefixes of mdoc files from which it reads a wrong tilt.

    python benchmarks/fuzz_mdoc.py --cpu-minutes 10 [--seeds FOLDER...] [--corpus FOLDER]
    python benchmarks/fuzz_mdoc.py --prefixes FOLDER

The first is coverage-guided where atheris is installed (`pip install atheris`), else random mutation; it begins with
the mdoc files of the tests and of `--seeds`, and reads each input whole and cut at a byte of its own choice. `--corpus`
receives the inputs that reached something new. The second reads every prefix of every mdoc file of a folder, and checks
that none gives a tilt that the whole file does not give.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tomostream" / "tests" / "data"


def check(data: bytes) -> None:
    """Read `data` in all the ways there are; raises if anything is wrong."""
    from tomostream.acquisition.doctor import as_json, as_text
    from tomostream.acquisition.frames import group_frames
    from tomostream.acquisition.mdoc import read_mdoc
    from tomostream.acquisition.naming import SeriesIds, match_movies, series_name

    facts = read_mdoc("TS_1.mrc.mdoc", data)
    every = [facts, *group_frames([facts])]
    json.dumps(as_json(every), allow_nan=False)
    as_text(every)
    if facts.kind in ("unreadable", "image", "montage", "fast-tilt") and not facts.reason:
        raise ValueError(f"{facts.kind} without a reason")
    if not all(-90 <= tilt.angle <= 90 for tilt in facts.tilts_if_ended):
        raise ValueError("an angle that no stage has")
    if not all(tilt.dose.value is None or tilt.dose.value > 0 for tilt in facts.tilts_if_ended):
        raise ValueError("a dose that is not positive")
    if [tilt.order for tilt in facts.tilts] != list(range(1, len(facts.tilts) + 1)) and facts.kind != "frame":
        raise ValueError("tilts that are not numbered from 1")
    text = data[:200].decode("latin-1")
    SeriesIds().id_for(series_name(text))
    match_movies(facts.tilts, [text, *(tilt.movie or "" for tilt in facts.tilts)], "TS_1")


def prefixes(folder: Path) -> int:
    """Read every prefix of every file; print how many, return the exit status.

    What is read follows from `ended_lines` alone, so a prefix that has the same ended lines as the one before it is read
    already.
    """
    from tomostream.acquisition.grammar import ended_lines
    from tomostream.acquisition.mdoc import read_mdoc

    total, wrong, fewer, started = 0, 0, 0, time.process_time()
    for path in sorted(folder.rglob("*.mdoc")):
        data = path.read_bytes()
        facts = read_mdoc(path, data)
        whole = {(t.movie, t.angle, t.time, t.dose, t.section) for t in facts.tilts_if_ended}
        before, lines = 0, None
        for cut in range(len(data) + 1):
            if (ended := ended_lines(data[:cut])) == lines:
                continue
            lines = ended
            given = {(t.movie, t.angle, t.time, t.dose, t.section) for t in read_mdoc(path, data[:cut]).tilts}
            if not given <= whole and facts.kind != "fast-tilt":  # which is a frame mdoc until its first image begins
                wrong += 1
                print(f"{path}, cut at {cut}: {given - whole}")
            elif len(given) < before and facts.kind in ("tilt-series", "frame"):
                fewer += 1
                print(f"{path}, cut at {cut}: {len(given)} tilts, {before} before")
            before = len(given)
        total += len(data) + 1
    print(f"{total} prefixes: {wrong} with a wrong tilt, {fewer} with fewer tilts than a shorter one; "
          f"{time.process_time() - started:.0f} CPU s")
    return 1 if wrong or fewer else 0


def seed_files(folders: Iterable[Path]) -> list[bytes]:
    """Return the mdoc files to begin with, small ones first; of large ones the first kilobytes."""
    paths = [path for folder in (TESTS / "mdoc", TESTS / "mdoc_corpus", *folders) for path in sorted(folder.rglob("*"))]
    return sorted({path.read_bytes()[:6000] for path in paths if path.is_file()}, key=len)


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Change, cut, double or join lines and bytes of a seed."""
    lines = rng.choice(seeds).split(b"\n")
    for _ in range(rng.choice((1, 2, 4, 8))):
        place, other = rng.randrange(len(lines)), rng.choice(rng.choice(seeds).split(b"\n"))
        action = rng.randrange(5)
        if action == 0:
            lines[place] = other
        elif action == 1:
            lines.insert(place, other)
        elif action == 2 and len(lines) > 1:
            del lines[place]
        elif action == 3:
            lines[place] = lines[place][:rng.randrange(len(lines[place]) + 1)] + other[rng.randrange(len(other) + 1):]
        else:
            changed = bytearray(lines[place] or b" ")
            changed[rng.randrange(len(changed))] = rng.randrange(256)
            lines[place] = bytes(changed)
    data = b"\n".join(lines)
    return data[:rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data


def random_fuzz(seeds: list[bytes], cpu_seconds: float, one: Callable[[bytes], None]) -> None:
    """Feed mutated seeds for so long."""
    rng, end = random.Random(0), time.process_time() + cpu_seconds
    while time.process_time() < end:
        one(mutate(rng, seeds))


def guided_fuzz(seeds: list[bytes], cpu_seconds: float, one: Callable[[bytes], None], corpus: Path) -> None:
    """Hand over to libFuzzer, and leave the process when the CPU time is over: it does not give control back."""
    import atheris

    with atheris.instrument_imports(include=["tomostream.acquisition"]):
        import tomostream.acquisition.doctor  # noqa: F401
    for place, seed in enumerate(seeds):
        (corpus / f"seed{place:03d}").write_bytes(seed)
    started, inputs = time.process_time(), 0

    def until_the_end(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        one(data)
        if time.process_time() - started > cpu_seconds:
            print(f"{inputs} inputs in {time.process_time() - started:.0f} CPU s, none raised; "
                  f"{len(list(corpus.iterdir()))} are in the corpus.", flush=True)
            os._exit(0)

    atheris.Setup([sys.argv[0], "-max_len=6000", "-timeout=10", "-rss_limit_mb=2048", str(corpus)], until_the_end)
    atheris.Fuzz()


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=Path, nargs="*", default=[])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--random", action="store_true", help="do not use atheris")
    parser.add_argument("--prefixes", type=Path)
    options = parser.parse_args()
    if options.prefixes is not None:
        return prefixes(options.prefixes)
    inputs = 0

    def one(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        check(data)
        if data:
            check(data[:data[-1] * len(data) // 256])

    seeds = seed_files(options.seeds)
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz_mdoc"))
    corpus.mkdir(parents=True, exist_ok=True)
    try:
        if options.random:
            raise ImportError
        guided_fuzz(seeds, options.cpu_minutes * 60, one, corpus)
    except ImportError:
        print("atheris is not used: random mutation.")
        random_fuzz(seeds, options.cpu_minutes * 60, one)
        print(f"{inputs} inputs in {time.process_time():.0f} CPU s, none raised.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
