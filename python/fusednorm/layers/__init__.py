"""The norms as layers, with the names, order, attributes and state of ``torch.nn``."""

from fusednorm.layers.base import Layer, LoadResult
from fusednorm.layers.batch import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from fusednorm.layers.instance import InstanceNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from fusednorm.layers.plain import GroupNorm, LayerNorm, RMSNorm

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "Layer",
    "LayerNorm",
    "LoadResult",
    "RMSNorm",
]
