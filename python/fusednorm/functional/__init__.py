"""The norms as functions, with the names, order and defaults of ``torch.nn.functional``, and their gradients.

Everything here hands its arguments to the extension, which checks them. All functions take whatever ``numpy.asarray``
reads, in any memory layout, and return a ``numpy.ndarray`` in the memory order of ``x`` (or ``out``). The gradients, from the
loss's by the result to those by the input, the weight and the bias, are of the plain norm, without residual and activation.
"""

from fusednorm.functional.batch import batch_norm, batch_norm_backward
from fusednorm.functional.group import group_norm, group_norm_backward
from fusednorm.functional.instance import instance_norm, instance_norm_backward
from fusednorm.functional.layer import add_layer_norm, layer_norm, layer_norm_backward
from fusednorm.functional.rms import add_rms_norm, rms_norm, rms_norm_backward
from fusednorm.functional.statistics import Moments, moments

__all__ = [
    "Moments",
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "moments",
    "rms_norm",
    "rms_norm_backward",
]
