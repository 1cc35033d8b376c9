"""What layers refuse where it is written, not at the next call: eps, activations, what is no array."""

import copy
import dataclasses
from decimal import Decimal
from fractions import Fraction

import cases
import fusednorm as fn
import numpy as np
import pytest
from layer_cases import every_kind


def with_eps(case, eps):
    return dataclasses.replace(case, options=case.options | {"eps": eps}).make()


@every_kind
@pytest.mark.parametrize(
    "eps",
    [-1, -1e-300, np.nan, np.inf, pytest.param(10**400, id="huge"), "1e-5", [1.0], 1j, np.complex64(1), np.array("1"), b"1"],
)
def test_eps_that_no_function_takes(case, eps):
    layer = with_eps(case, 0)
    for assign in (lambda: with_eps(case, eps), lambda: setattr(layer, "eps", eps)):
        with pytest.raises((TypeError, ValueError), match=f"^{case.name}: eps: expected a (finite )?number"):
            assign()
    assert layer.eps == 0


@every_kind
@pytest.mark.parametrize("eps", [0, 1, True, np.float32(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5"), None])
def test_eps_that_the_function_takes(case, eps, rng):
    if eps is None and case.name != "RMSNorm":
        with pytest.raises(TypeError, match=f"^{case.name}: eps: expected a number, got None$"):
            with_eps(case, eps)
        return
    layer = case.make()
    layer.eps = eps
    assert layer.eps is eps
    x = cases.draw(rng, case.shape)
    assert cases.same_bits(copy.deepcopy(layer)(x), with_eps(case, eps if eps is None else float(eps))(x))


@every_kind
def test_no_array(case):
    with pytest.raises(TypeError, match=rf"^({case.name}|layer_norm|rms_norm): x: expected an array, got None$"):
        case.make()(None)


@pytest.mark.parametrize("arguments", [{}, {"num_features": 3, "unknown": 1}])
def test_errors_of_python_name_the_batch_norm(arguments):
    with pytest.raises(TypeError, match=r"^BatchNorm\.__init__\(\) "):
        fn.BatchNorm2d(**arguments)


@every_kind
@pytest.mark.parametrize(("activation", "error"), [("ReLU", ValueError), ("", ValueError), (b"relu", TypeError)])
def test_unknown_activation(case, activation, error):
    text = rf"^{case.name}: activation: expected one of None, 'relu', .*, 'leaky_relu', got {activation!r}$"
    with pytest.raises(error, match=text):
        case.make(activation=activation)
    layer = case.make(activation="silu")
    with pytest.raises(error, match=text):
        layer.activation = activation
    assert layer.activation == "silu"


FLAGS = [np.array("no"), np.datetime64("2020"), np.ones(2), "no", None, [1], "a tensor of two"]


@pytest.mark.parametrize("flag", FLAGS, ids=str)
def test_flags(flag):
    if isinstance(flag, str) and flag.startswith("a tensor"):
        flag = pytest.importorskip("torch").ones(2)
    layer = fn.BatchNorm1d(3).eval()
    with pytest.raises(TypeError, match="expected a bool, got "):
        layer.train(flag)
    assert not layer.training
    with pytest.raises(TypeError, match="affine: expected a bool, got "):
        fn.BatchNorm1d(3, affine=flag)
