"""Run as a script: KIND. Workers of a pool normalize, after their parent has used its own threads. Prints "ok".

KIND: fork, forkserver, spawn (of concurrent.futures), loky, multiprocessing or threading (of joblib).
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import fusednorm as fn
import numpy as np

ROWS = (100, 257, 4000)


def work(rows):
    """Small and large calls, and a layer."""
    x = (np.random.default_rng(rows).integers(-2000, 4000, (rows, 256)) / 997).astype(np.float32)
    layer = fn.BatchNorm1d(256)
    return fn.layer_norm(x, 256), layer(x), layer.running_var, fn.moments(x, 0).var


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def results(kind, tasks):
    if kind in multiprocessing.get_all_start_methods():
        with ProcessPoolExecutor(2, multiprocessing.get_context(kind)) as pool:
            return list(pool.map(work, tasks, timeout=60))
    import joblib

    return joblib.Parallel(n_jobs=2, backend=kind, timeout=60)(joblib.delayed(work)(rows) for rows in tasks)


def main():
    fn.set_num_threads(4)
    before = [work(rows) for rows in ROWS]
    got = results(sys.argv[1], [*ROWS, *ROWS])
    after = [work(rows) for rows in ROWS]
    assert all(same(a, b) for a, b in zip([*got, *after], before * 3, strict=True))
    print("ok")


if __name__ == "__main__":
    main()
