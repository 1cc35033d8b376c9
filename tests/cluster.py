"""Run by test_dask.py: moments on a `distributed.LocalCluster` of processes, one of which is killed midway."""

import os
import signal
import sys
import tempfile
import time

import dask
import dask.array as da
import fusednorm as fn
import fusednorm.dask as fd
import numpy as np
from distributed import Client, LocalCluster

BLOCKS = 24


def slow_block(block, folder, block_info=None):
    """Leave a file that says the block was made, and take a while."""
    i = block_info[0]["chunk-location"][0]
    with open(os.path.join(folder, f"{i}-{os.getpid()}"), "w"):
        time.sleep(0.1)
    return block + np.random.default_rng(i).normal(1e4, 1, (50, 3, 8))


def main():
    """Compute with a loss, and compare with NumPy."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        x = da.zeros((50 * BLOCKS, 3, 8), chunks=(50, 3, 8)).map_blocks(
            slow_block, folder=folder, dtype="f8", meta=np.zeros((0, 0, 0))
        )
        future = client.compute(list(fd.moments(x, (0, 2))))
        while len(os.listdir(folder)) < BLOCKS // 3:
            time.sleep(0.01)
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        mean, var = (f.result(timeout=60) for f in future)
        made = os.listdir(folder)
        values = np.concatenate([np.random.default_rng(i).normal(1e4, 1, (50, 3, 8)) for i in range(BLOCKS)])
        np.testing.assert_allclose(mean, values.mean((0, 2)), rtol=1e-14)
        np.testing.assert_allclose(var, values.var((0, 2)), rtol=1e-10)
        assert len({name.partition("-")[2] for name in made}) >= 2, made
        y = fd.layer_norm(da.from_array(values, chunks=(100, 3, 4)), 8)
        np.testing.assert_array_equal(y.compute(), fn.layer_norm(values, 8))
        print(f"{len(made)} blocks made for {BLOCKS}", dask.__version__)
    print("fine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
