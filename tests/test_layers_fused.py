"""Residual and activation of the layers: the layer is its function, called with its parameters."""

import cases
import layer_cases
import numpy as np
import pytest
from layer_cases import ONE_OF_EACH, every_layer

ACTIVATIONS = {"relu": lambda y: np.maximum(y, 0), "tanh": np.tanh}


def unit(y):
    """What two more roundings of a float32 result may add to the 2e-6 of the norm."""
    return 4e-6 * max(1, np.abs(y).max())


@every_layer
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_residual_and_activation(case, activation, training, rng):
    x, residual = cases.draw(rng, case.shape), cases.draw(rng, case.shape) - 3
    plain, fused = (layer_cases.draw_state(case.make(), np.random.default_rng(5)).train(training) for _ in range(2))
    fused.activation = activation
    wanted = ACTIVATIONS[activation](plain(x).astype(np.float64) + residual)
    out = np.empty_like(x)
    assert fused(x, residual=residual, out=out) is out
    np.testing.assert_allclose(out, wanted, rtol=0, atol=unit(wanted))
    assert layer_cases.state_bytes(fused) == layer_cases.state_bytes(plain)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_unknown_activation_changes_nothing(case, rng):
    layer = layer_cases.draw_state(case.make(activation="swush"), rng)
    before = layer_cases.state_bytes(layer)
    with pytest.raises(ValueError, match=r"activation: expected .*, got 'swush'"):
        layer(cases.draw(rng, case.shape))
    assert layer_cases.state_bytes(layer) == before
