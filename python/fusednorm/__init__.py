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
from fusednorm.gradients import (
    batch_norm_backward,
    group_norm_backward,
    instance_norm_backward,
    layer_norm_backward,
    rms_norm_backward,
)

__all__ = [
    "Moments",
    "__version__",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "batch_norm_backward",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "show_config",
]
