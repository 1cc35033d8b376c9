"""Residual, activation and gradients of the layers: the layer is its function, called with its parameters."""

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import oracle
import pytest
from layer_cases import every_layer

ACTIVATIONS = {"relu": lambda y: np.maximum(y, 0), "tanh": np.tanh}


def unit(y):
    """What two more roundings of a float32 result may add to the norm's own error."""
    return 2 * oracle.unit(np.float32) * max(1, np.abs(y).max())


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


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_backward_is_that_of_torch(case, training, rng):
    torch = pytest.importorskip("torch")
    layer = layer_cases.draw_state(case.make(), rng).train(training)
    peer = case.make_torch(torch).double().train(training)
    peer.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in layer.state_dict().items()})
    x, grad = cases.draw(rng, case.shape, np.float64), cases.draw(rng, case.shape, np.float64)
    before = layer_cases.state_bytes(layer)
    grad_x, *grads = layer.backward(grad, x)
    assert layer_cases.state_bytes(layer) == before
    leaf = torch.from_numpy(x).requires_grad_()
    peer(leaf).backward(torch.from_numpy(grad))
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(grad_x, leaf.grad, **tolerance)
    assert len(grads) == (1 if case.name == "RMSNorm" else 2)
    for name, got in zip(("weight", "bias"), grads, strict=False):
        parameter = getattr(peer, name)
        if parameter is not None:
            # Of the weight's dtype: rounded once from sums in float64.
            unit = max(1e-10, np.finfo(got.dtype).eps)
            np.testing.assert_allclose(got, parameter.grad, rtol=unit, atol=1e-10)


def test_backward_of_a_sample_without_batch_axis(rng):
    layer, x, grad = fn.InstanceNorm1d(3), *rng.normal(size=(2, 3, 8))
    single, batched = layer.backward(grad, x), layer.backward(grad[None], x[None])
    assert cases.same_bits(single[0], batched[0][0])
    assert all(cases.same_bits(a, b) for a, b in zip(single[1:], batched[1:], strict=True))
