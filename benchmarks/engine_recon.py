# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruction: time against the machine's floor measured in the same run, and correlation with a known slab.

    python benchmarks/engine_recon.py [--threads 2] [--repeats 4] [--small]

Floor: writing the volume's memory once, and the multiply-adds of the back-projection (two a voxel and tilt) on data
that stay in cache. Times are the least of the repeats. astra-toolbox is compared where it can be imported (it is no
dependency: install it beside tomostream into an environment to be thrown away); its time is that of two rows of the
volume on one thread each, times the rows, shared among the threads.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def least(work: Callable[[], Any], repeats: int) -> float:
    """Least wall time of `work` in seconds, after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def floor_kernel() -> Callable[..., None]:
    """Two multiply-adds for each voxel and tilt, on four rows that stay in the first cache."""
    import numba as nb
    import numpy as np

    @nb.njit(parallel=True, fastmath=True, boundscheck=False)
    def multiply_adds(rows: Any, times: int, tilts: int, out: Any) -> None:
        nx = out.shape[1]
        for job in nb.prange(out.shape[0]):
            row = out[job]
            for turn in range(times):
                for k in range(0, tilts, 4):
                    a = np.float32(turn + k) * np.float32(1e-6)
                    b = np.float32(1.0) - a
                    p, q, r, t = rows[0], rows[1], rows[2], rows[3]
                    for x in range(nx):
                        row[x] += (
                            b * p[x] + a * p[x + 1] + b * q[x] + a * q[x + 1]
                            + a * r[x] + b * r[x + 1] + a * t[x] + b * t[x + 1]
                        )  # fmt: skip

    return multiply_adds


def speed(threads: int, repeats: int, small: bool) -> None:
    """Table of times for 41 tilts of n x n to n x n x n / 4."""
    import numpy as np

    from tomostream.engine.output import Outputs
    from tomostream.engine.recon.slab import Method, Slab
    from tomostream.engine.recon.volume import VolumeWriter

    n, tilts = (512 if small else 1024), np.arange(-60, 61, 3.0)
    depth = n // 4
    images = np.random.default_rng(0).standard_normal((len(tilts), n, n), dtype=np.float32)
    write = least(lambda: np.empty((n, depth, n), np.float32).fill(1.0), repeats)
    kernel, rows, sums = floor_kernel(), images[0, :4, :].repeat(2, axis=1), np.zeros((threads, n), np.float32)
    adds = least(lambda: kernel(rows, n * depth // threads, len(tilts), sums), repeats)
    print(f"{len(tilts)} x {n} x {n} -> {n} x {n} x {depth}, {threads} threads, least of {repeats}")
    print(f"  floor: writing {write:.2f} s, multiply-adds {adds:.2f} s")
    for method in (Method(0), Method(15)):

        def work(method: Method = method) -> None:
            for _ in Slab(tilts, n, depth, method, threads).blocks(images, True):
                pass

        taken = least(work, repeats)
        print(f"  {method.name}: {taken:.2f} s, {taken / (write + adds):.1f} x the floor")
    with tempfile.TemporaryDirectory() as folder:

        def to_disk() -> None:
            with Outputs() as outputs:
                path = os.path.join(folder, "v.mrc")
                with VolumeWriter(outputs, path, (depth, n, n), 1.0, "benchmark", True) as writer:
                    for block in Slab(tilts, n, depth, Method(15), threads).blocks(images, True):
                        writer.write(block.data, 0, block.y0)
                    writer.add_statistics(0, 1, 0, 1)

        print(f"  SIRT-15 into a file: {least(to_disk, repeats):.2f} s")
    if astra_module() is None:
        print("  astra: not installed")
        return
    for name, iterations in (("FBP", 1), ("SIRT", 15)):
        two = images[:, :2]
        taken = least(lambda: with_astra(name, iterations, two, tilts, depth), 1)  # noqa: B023  (called at once)
        print(f"  astra {name}-{iterations}: {taken / 2 * n / threads:.0f} s, from two rows")


def astra_module() -> Any:
    """astra-toolbox, None where it is not installed."""
    try:
        import astra
    except ImportError:
        return None
    return astra


def slab() -> tuple[Any, Any, Any]:
    """(images (K, ny, nx), truth (ny, depth, nx), tilts): smooth noise thrice as wide as the field, projected."""
    import numpy as np
    import scipy.ndimage

    rng = np.random.default_rng(1)
    ny, depth, nx, tilts = 8, 96, 384, np.arange(-60, 61, 3.0)
    noise = rng.standard_normal((ny, depth, 3 * nx)).astype(np.float32)
    wide = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
    x, z = np.arange(3 * nx) + 0.5 - nx * 1.5, np.arange(depth) + 0.5 - depth / 2
    images = np.zeros((len(tilts), ny, nx), np.float32)
    for k, t in enumerate(np.radians(tilts)):
        place = x[None] * math.cos(t) + z[:, None] * math.sin(t) + nx / 2 - 0.5
        left = np.floor(place).astype(int)
        for step, weight in ((0, 1 - (place - left)), (1, place - left)):
            inside = (left + step >= 0) & (left + step < nx)
            for y in range(ny):
                images[k, y] += np.bincount((left + step)[inside], (weight * wide[y])[inside], nx)
    return images, wide[:, :, nx : 2 * nx], tilts


def correlation(volume: Any, truth: Any) -> float:
    """Correlation away from the edges."""
    import numpy as np

    inner = (slice(None), slice(16, -16), slice(60, -60))
    return float(np.corrcoef(volume[inner].ravel(), truth[inner].ravel())[0, 1])


def quality(threads: int) -> None:
    """Correlation of every method with the truth."""
    import numpy as np

    from tomostream.engine.recon.slab import Method, Slab

    images, truth, tilts = slab()
    print("correlation with the truth, 41 tilts of +-60 degrees, without noise")
    for method in (Method(0), Method(15), Method(60)):
        blocks = Slab(tilts, images.shape[2], truth.shape[1], method, threads).blocks(images, True)
        volume = np.concatenate([b.data.transpose(1, 0, 2).copy() for b in blocks])
        print(f"  {method.name}: {correlation(volume, truth):.3f}")
    if astra_module() is None:
        print("  astra: not installed")
        return
    for name, iterations in (("FBP", 1), ("SIRT", 15)):
        volume = with_astra(name, iterations, images, tilts, truth.shape[1])
        print(f"  astra {name}-{iterations}: {correlation(volume, truth):.3f}")


def with_astra(name: str, iterations: int, images: Any, tilts: Any, depth: int) -> Any:
    """The same slab by astra's CPU projector, (ny, depth, nx)."""
    import numpy as np

    astra, nx = astra_module(), images.shape[2]
    geometry = astra.create_vol_geom(depth, nx)
    rays = astra.create_proj_geom("parallel", 1.0, nx, np.radians(tilts))
    projector = astra.create_projector("linear", rays, geometry)
    out = np.empty((images.shape[1], depth, nx), np.float32)
    for y in range(len(out)):
        source, target = astra.data2d.create("-sino", rays, images[:, y]), astra.data2d.create("-vol", geometry)
        plan = astra.astra_dict(name)
        plan.update(ReconstructionDataId=target, ProjectionDataId=source, ProjectorId=projector)
        algorithm = astra.algorithm.create(plan)
        astra.algorithm.run(algorithm, iterations)
        out[y] = astra.data2d.get(target)[::-1]
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([source, target])
    return out


def main() -> None:
    """Read the options, set the threads before anything makes some, print the tables."""
    parser = argparse.ArgumentParser(description="time and quality of the reconstruction")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="512 px instead of 1024")
    options = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(options.threads)
    speed(options.threads, options.repeats, options.small)
    quality(options.threads)


if __name__ == "__main__":
    main()
