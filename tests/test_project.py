"""What ships: the stub matches the module, the public names are the API's, nothing heavy is imported."""

import ast
import inspect
import re
from pathlib import Path

import fusednorm as fn
import pytest
from fusednorm import _core
from processes import output_of

PACKAGE = Path(fn.__file__).parent
STUB = ast.parse((PACKAGE / "_core.pyi").read_text())
STUB_FUNCTIONS = {node.name: node.args for node in STUB.body if isinstance(node, ast.FunctionDef)}

API = {
    "batch_norm": "x / running_mean=None running_var=None weight=None bias=None training=False momentum=0.1 eps=1e-05 "
    "* channel_axis=1 residual=None activation=None dtype=None out=None return_stats=False",
    "layer_norm": "x / normalized_shape weight=None bias=None eps=1e-05 "
    "* residual=None activation=None dtype=None out=None return_stats=False",
    "rms_norm": "x / normalized_shape weight=None eps=None "
    "* residual=None activation=None dtype=None out=None return_stats=False",
    "group_norm": "x / num_groups weight=None bias=None eps=1e-05 "
    "* channel_axis=1 residual=None activation=None dtype=None out=None return_stats=False",
    "instance_norm": "x / running_mean=None running_var=None weight=None bias=None use_input_stats=True momentum=0.1 eps=1e-05 "
    "* channel_axis=1 residual=None activation=None dtype=None out=None return_stats=False",
    "add_layer_norm": "x residual normalized_shape weight=None bias=None eps=1e-05 * out=None",
    "add_rms_norm": "x residual normalized_shape weight=None eps=None * out=None",
    "batch_norm_backward": "grad x running_mean=None running_var=None weight=None training=False eps=1e-05 "
    "* channel_axis=1 stats=None",
    "layer_norm_backward": "grad x normalized_shape weight=None eps=1e-05 * stats=None",
    "rms_norm_backward": "grad x normalized_shape weight=None eps=None * stats=None",
    "group_norm_backward": "grad x num_groups weight=None eps=1e-05 * channel_axis=1 stats=None",
    "instance_norm_backward": "grad x running_mean=None running_var=None weight=None use_input_stats=True eps=1e-05 "
    "* channel_axis=1 stats=None",
    "moments": "x axis=None * ddof=0 keepdims=False dtype=None",
    "fuse_conv_bn_weights": "conv_w conv_b bn_rm bn_rv bn_eps bn_w bn_b transpose=False",
    "fuse_linear_bn_weights": "linear_w linear_b bn_rm bn_rv bn_eps bn_w bn_b",
    "from_torch": "module",
    "layers_from_torch": "module",
    "from_state": "kind state convention * name='' eps=None momentum=None **options",
    "set_num_threads": "n",
    "get_num_threads": "",
    "show_config": "mode='stdout'",
    "RunningMoments": "channel_axis=1",
}

BATCH = "num_features eps=1e-05 momentum=0.1 affine=True track_running_stats=True "
INSTANCE = "num_features eps=1e-05 momentum=0.1 affine=False track_running_stats=False "
OPTIONS = "* bias=True dtype=<class 'numpy.float32'> activation=None channel_axis=1"
LAYERS = {
    **{f"BatchNorm{n}d": BATCH + OPTIONS for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": INSTANCE + OPTIONS for n in (1, 2, 3)},
    "GroupNorm": "num_groups num_channels eps=1e-05 affine=True " + OPTIONS,
    "LayerNorm": "normalized_shape eps=1e-05 elementwise_affine=True bias=True * dtype=<class 'numpy.float32'> activation=None",
    "RMSNorm": "normalized_shape eps=None elementwise_affine=True * dtype=<class 'numpy.float32'> activation=None",
}
METHODS = {
    "__call__": "self x * residual=None out=None",
    "backward": "self grad x",
    "train": "self mode=True",
    "eval": "self",
    "state_dict": "self * prefix=''",
    "load_state_dict": "self state_dict strict=True * prefix=''",
}


def spelled(signature):
    """Return a signature as the table above writes it."""
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return re.sub(r"[(),]", "", str(inspect.Signature(plain))).strip()


@pytest.mark.parametrize("name", [*API, *LAYERS])
def test_signature(name):
    assert spelled(inspect.signature(getattr(fn, name))) == (API | LAYERS)[name]


@pytest.mark.parametrize("name", LAYERS)
def test_methods_of_layers(name):
    layer = getattr(fn, name)
    assert {m: spelled(inspect.signature(getattr(layer, m))) for m in METHODS} == METHODS
    assert all(inspect.getdoc(getattr(layer, method)) for method in METHODS)


def test_public_names():
    assert set(fn.__all__) == {*API, *LAYERS, "Moments", "__version__"}
    assert all(hasattr(fn, name) for name in fn.__all__)
    assert fn.__all__ == sorted(fn.__all__)


def parameter_names(function):
    """Of a built-in function; pybind11 writes the signature into the docstring's first line."""
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        inside = function.__doc__.splitlines()[0].split("(", 1)[1].rsplit(")", 1)[0]
        return [part.split(":")[0].strip() for part in inside.split(",") if part.strip()]


# From each folder of cpp, what its files may include of the others.
INCLUDES = {
    "binding": r"machine/\w+\.hpp|\w+\.hpp",
    "": r"machine/\w+\.hpp|kernels/kernels\.hpp|\w+\.hpp",
    "machine": r"kernels/kernels\.hpp|\w+\.hpp",
    "kernels": r"\w+\.hpp",
}


def test_includes_point_one_way():
    cpp = Path(__file__).parents[1] / "cpp"
    for folder, allowed in INCLUDES.items():
        of_above = set() if folder in ("", "binding") else {path.name for path in cpp.glob("*.hpp")}
        files = [*(cpp / folder).glob("*.hpp"), *(cpp / folder).glob("*.cpp")]
        assert files
        for path in files:
            for name in re.findall(r'#include "([^"]+)"', path.read_text()):
                assert re.fullmatch(allowed, name), path.name
                assert name not in of_above, path.name


def test_stub_has_the_names_of_the_module():
    assert set(STUB_FUNCTIONS) == {name for name in dir(_core) if not name.startswith("_")}


@pytest.mark.parametrize("name", STUB_FUNCTIONS)
def test_stub_has_the_parameters_of_the_function(name):
    arguments = STUB_FUNCTIONS[name]
    assert [a.arg for a in (*arguments.posonlyargs, *arguments.args)] == parameter_names(getattr(_core, name))
    assert not arguments.args
    assert not arguments.kwonlyargs


def test_package_is_typed_and_has_no_tests():
    assert (PACKAGE / "py.typed").exists()
    assert [p.name for p in PACKAGE.rglob("*") if "test" in p.name.lower()] == []


def test_import_brings_numpy_alone():
    code = """
import sys
import numpy
before = set(sys.modules)
import fusednorm
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(new - {"_xxsubinterpreters"}))  # Python's, but not in its list
"""
    assert output_of(code) in ("['fusednorm']", "['fusednorm', 'numpy']")


def test_import_brings_no_archives():
    """They are a third of its time."""
    code = "import sys, numpy; before = set(sys.modules); import fusednorm; print('zipfile' in set(sys.modules) - before)"
    assert output_of(code) == "False"


def test_import_leaves_subnormal_numbers_alone():
    """A library linked with -ffast-math sets flush-to-zero for the whole process."""
    assert output_of("import fusednorm, numpy as np; print(np.float64(5e-324) * np.float64(1.0) > 0)") == "True"


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", fn.__version__)
    assert fn.show_config("dicts")["version"] == fn.__version__


def test_show_config(capsys):
    config = fn.show_config("dicts")
    assert {"version", "isa", "isas_available", "openmp", "threads", "compiler"} <= set(config)
    assert config["isa"] in config["isas_available"]
    assert fn.show_config() is None
    printed = capsys.readouterr().out
    assert all(name in printed for name in config)
    assert config["isa"] in printed


def test_every_public_name_has_a_docstring():
    assert all(inspect.getdoc(getattr(fn, name)) for name in (*API, *LAYERS))
