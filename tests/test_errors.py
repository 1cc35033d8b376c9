"""Bad input: type and text of every error, and that nothing was written."""

import re

import cases
import fusednorm as fn
import numpy as np
import pytest
from bad_calls import BY_ROW, CALLS, EVERY, FUNCTIONS, NORMS, RUNNING, SHAPE


def right_arguments(function):
    arguments = {"x": cases.draw(np.random.default_rng(3), SHAPE)}
    if function == "group_norm":
        arguments["num_groups"] = 2
    if function in BY_ROW:
        arguments["normalized_shape"] = 6
    if function == "batch_norm":
        arguments["training"] = True
    return arguments


def written_by(bad):
    """Return the outputs that the call would write, if it were right."""
    outputs = {}
    if bad.function in RUNNING and not {"running_mean", "running_var"} & bad.change.keys():
        outputs |= {"running_mean": np.full(4, 3.0), "running_var": np.full(4, 5.0)}
    if bad.function in NORMS and not {"out", "x", "dtype"} & bad.change.keys():
        outputs["out"] = np.full(SHAPE, 7, np.float32)
    return outputs


@pytest.mark.parametrize("bad", CALLS, ids=[bad.name() for bad in CALLS])
def test_error(bad):
    arguments = right_arguments(bad.function) | written_by(bad) | bad.change
    arrays = [v for name, v in arguments.items() if isinstance(v, np.ndarray)]
    before = [a.tobytes() for a in arrays]
    with pytest.raises(bad.error) as caught:
        FUNCTIONS[bad.function](arguments.pop("x"), **arguments)
    assert caught.type is bad.error
    text = rf"{bad.function}: {bad.argument}: expected .*{bad.expected}.*, got .*({bad.got}).*"
    assert re.fullmatch(text, str(caught.value), re.DOTALL)
    assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize("function", EVERY)
def test_right_arguments_are_right(function):
    """Else each row of the table could fail for another reason than its own."""
    arguments = right_arguments(function)
    FUNCTIONS[function](arguments.pop("x"), **arguments)


@pytest.mark.parametrize("function", NORMS)
def test_x_is_positional_only(function):
    with pytest.raises(TypeError, match="positional"):
        FUNCTIONS[function](**right_arguments(function))


@pytest.mark.parametrize("function", NORMS)
def test_unknown_keyword(function):
    arguments = right_arguments(function)
    with pytest.raises(TypeError, match="axes"):
        FUNCTIONS[function](arguments.pop("x"), **arguments, axes=1)


@pytest.mark.parametrize("n", [0, -1, 4097, 2**31, 2**62])
def test_bad_number_of_threads(n, restore_threads):
    before = fn.get_num_threads()
    with pytest.raises(ValueError, match=rf"^set_num_threads: n: expected .* from 1 to 4096, got {n}$"):
        fn.set_num_threads(n)
    assert fn.get_num_threads() == before


@pytest.mark.parametrize("n", [2.0, None, "2"])
def test_number_of_threads_that_is_none(n, restore_threads):
    with pytest.raises(TypeError, match=r"^set_num_threads: n: expected an integer, got "):
        fn.set_num_threads(n)


@pytest.mark.parametrize("mode", ["json", None, np.array(["a", "b"]), ["stdout"]])
def test_unknown_mode_of_show_config(mode):
    with pytest.raises(ValueError, match=f"^show_config: mode: expected 'stdout' or 'dicts', got {re.escape(repr(mode))}$"):
        fn.show_config(mode)


def test_sparse_tensor_is_no_array():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^layer_norm: x: expected an array or what numpy\.asarray can read, got Tensor"):
        fn.layer_norm(torch.eye(3).to_sparse(), 3)


def test_tensor_of_several_values_is_no_flag():
    """It raises RuntimeError, where an array raises ValueError."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^layer_norm: return_stats: expected a bool, got tensor\(\[1\., 1\.\]\)") as caught:
        fn.layer_norm(np.ones((4, 3)), 3, return_stats=torch.ones(2))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_tensor_with_gradient_is_no_array():
    torch = pytest.importorskip("torch")
    with pytest.raises((TypeError, ValueError), match=r"^layer_norm: x: expected an array or what .* can read, got Tensor"):
        fn.layer_norm(torch.eye(3, requires_grad=True), 3)
