"""ONNX Runtime: a model of one node, built here. Needs `onnxruntime` and `onnx`."""

from typing import Any

import numpy as np
import onnxruntime
from cases import EPS, Array, Case, Input
from onnx import TensorProto, helper, numpy_helper
from peers import TOLERANCE, Call, Unsupported

# op -> the ONNX operator, its attributes, and which parameters it takes
OPERATORS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "batch_eval": ("BatchNormalization", {}, ("weight", "bias", "mean", "var")),
    "layer": ("LayerNormalization", {"axis": -1}, ("weight", "bias")),
    "rms": ("RMSNormalization", {"axis": -1}, ("weight",)),
    "group": ("GroupNormalization", {}, ("weight", "bias")),
    "instance": ("InstanceNormalization", {}, ("weight", "bias")),
}


class OnnxRuntime:
    """Parameters are constants of the model; the input is wrapped, not copied; the result is allocated by the call."""

    tolerance = TOLERANCE

    def __init__(self, threads: int) -> None:
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.log_severity_level = 4
        self.about = {"onnxruntime": onnxruntime.__version__}

    def prepare(self, case: Case, data: Input) -> Call:
        """Make the call that is timed."""
        if case.op not in OPERATORS or case.last:
            raise Unsupported("no such operator, or not in channels-last order")
        name, attributes, parameters = OPERATORS[case.op]
        if case.op == "group":
            attributes = {"num_groups": case.groups}
        shape = list(case.shape)
        node = helper.make_node(name, ["x", *parameters], ["y"], epsilon=EPS, **attributes)
        graph = helper.make_graph(
            [node],
            "norm",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(getattr(data, parameter), parameter) for parameter in parameters],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
        session = onnxruntime.InferenceSession(model.SerializeToString(), self.options, providers=["CPUExecutionProvider"])
        feed = {"x": np.ascontiguousarray(data.x)}

        def call() -> Array:
            result: Array = session.run(None, feed)[0]
            return result

        return call
