"""Run as a script: NEIGHBOURS in the order of import, "fusednorm" among them; all work, alone and at once. Prints "ok".

Each brings threads of its own, and often an OpenMP runtime of its own.
"""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MODULES = {"sklearn": "sklearn.cluster", "onnxruntime": "onnxruntime"}


def work_of_fusednorm(fn, x):
    fn.set_num_threads(4)
    return lambda: fn.layer_norm(x, x.shape[1])


def work_of_torch(torch, x):
    torch.set_num_threads(4)
    linear = torch.nn.Linear(x.shape[1], 64)
    tensor = torch.from_numpy(x)
    return lambda: torch.nn.functional.layer_norm(linear(tensor).detach(), (64,)).numpy()


def work_of_sklearn(cluster, x):
    """Its OpenMP code; the rows are few enough to take a moment."""
    kmeans = cluster.KMeans(8, n_init=1, random_state=0, max_iter=5, tol=0)
    return lambda: kmeans.fit_predict(x[:2000, :16])


def work_of_onnxruntime(runtime, x):
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    node = helper.make_node("Softmax", ["x"], ["y"])
    graph = helper.make_graph([node], "softmax", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def close(a, b):
    """A neighbour may sum in another order each time; fusednorm may not."""
    return np.allclose(a, b, rtol=1e-4, atol=1e-5)


def main():
    names = sys.argv[1:]
    modules = {name: importlib.import_module(MODULES.get(name, name)) for name in names}
    x = (np.random.default_rng(0).integers(-2000, 4000, (4000, 256)) / 997).astype(np.float32)
    works = {name: globals()["work_of_" + name](module, x) for name, module in modules.items()}
    alone = {name: work() for name, work in works.items()}
    d = x.astype(np.float64) - x.mean(1, dtype=np.float64, keepdims=True)
    assert np.abs(alone["fusednorm"] - d / np.sqrt((d**2).mean(1, keepdims=True) + 1e-5)).max() < 1e-5
    for _ in range(3):  # in turns
        for name, work in works.items():
            check(name, work(), alone[name])
    with ThreadPoolExecutor(2 * len(names)) as pool:  # at once
        for name, result in [(name, pool.submit(work)) for _ in range(8) for name, work in works.items()]:
            check(name, result.result(), alone[name])
    print("ok")


def check(name, got, wanted):
    same = np.array_equal(got, wanted) if name == "fusednorm" else close(got, wanted)
    assert same, f"{name}: another result than alone"


if __name__ == "__main__":
    main()
