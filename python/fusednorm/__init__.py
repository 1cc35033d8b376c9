"""Normalization on the CPU for arrays: exact, fast, and without PyTorch."""

from fusednorm.config import __version__, get_num_threads, set_num_threads, show_config
from fusednorm.conventions import from_state
from fusednorm.functional import (
    Moments,
    add_layer_norm,
    add_rms_norm,
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    layer_norm,
    layer_norm_backward,
    moments,
    rms_norm,
    rms_norm_backward,
)
from fusednorm.fuse import fuse_conv_bn_weights, fuse_linear_bn_weights
from fusednorm.interop import from_torch, layers_from_torch
from fusednorm.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from fusednorm.running import RunningMoments

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Moments",
    "RMSNorm",
    "RunningMoments",
    "__version__",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "batch_norm_backward",
    "from_state",
    "from_torch",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_weights",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "layers_from_torch",
    "moments",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "show_config",
]
