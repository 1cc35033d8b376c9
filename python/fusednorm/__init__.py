"""Normalization on the CPU for arrays: exact, fast, and without PyTorch."""

from fusednorm.config import __version__, get_num_threads, set_num_threads, show_config
from fusednorm.functional import (
    Moments,
    add_layer_norm,
    add_rms_norm,
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    moments,
    rms_norm,
)
from fusednorm.running import RunningMoments

__all__ = [
    "Moments",
    "RunningMoments",
    "__version__",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "get_num_threads",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "moments",
    "rms_norm",
    "set_num_threads",
    "show_config",
]
