"""States of statistics as arrays ``(..., 6)`` of float64, which `RunningMoments`, Dask and MPI share.

Count, mean and m2 (the sum of squared deviations), each with what its rounding left. The extension makes them from an array
(``_core.pooled``) and merges two (``_core.merge``).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STATE_VALUES = 6


def finish(states: Floats, ddof: float = 0) -> tuple[Floats, Floats]:
    """Mean and variance of states ``(..., 6)``; NaN where there is no value."""
    count, mean, m2 = (states[..., i] + states[..., i + 1] for i in (0, 2, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        var = m2 / np.maximum(count - ddof, 0)
    return np.where(count > 0, mean, np.nan), np.where(count > 0, var, np.nan)
