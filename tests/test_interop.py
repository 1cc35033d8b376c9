"""Layers from torch's modules."""

import importlib
import sys

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import pytest
from fusednorm.layers import BatchNorm
from layer_cases import every_layer
from oracle import agree
from processes import output_of


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def trained_module(case, torch, rng):
    module = case.make_torch(torch)
    state = layer_cases.draw_state(case.make(), rng).state_dict()
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return module


@every_layer
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_from_torch(case, training, torch, rng):
    module = trained_module(case, torch, rng).train(training)
    layer = fn.from_torch(module)
    assert type(layer) is getattr(fn, case.name)
    assert repr(layer) == repr(module)
    assert layer.training is training
    for _ in range(2):
        x = cases.draw(rng, case.shape)
        agree(layer(x), module(torch.from_numpy(x)))
    for name, tensor in module.state_dict().items():
        array = getattr(layer, name)
        assert not np.shares_memory(array, tensor.numpy())
        np.testing.assert_allclose(array, tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_dtype_of_the_parameters(name, torch):
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    module = torch.nn.BatchNorm1d(3).to(getattr(torch, name))
    module.weight.data[:] = torch.tensor([0.1, 0.2, 0.3])
    layer = fn.from_torch(module)
    assert layer.weight.dtype.name == name
    np.testing.assert_array_equal(layer.weight.astype(np.float64), module.weight.detach().double())


def test_bfloat16_without_ml_dtypes(torch, monkeypatch):
    """Float32 holds the same values."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    module = torch.nn.LayerNorm(3, dtype=torch.bfloat16)
    module.weight.data[:] = torch.tensor([0.1, 0.2, 0.3])
    layer = fn.from_torch(module)
    assert layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.weight, module.weight.detach().float())


def test_sync_batch_norm_takes_any_number_of_dimensions(torch, rng):
    module = torch.nn.SyncBatchNorm(3, momentum=0.3)
    layer = fn.from_torch(module)
    assert type(layer) is BatchNorm
    peer = torch.nn.BatchNorm1d(3, momentum=0.3)
    for shape in ((4, 3), (4, 3, 5)):
        x = cases.draw(rng, shape)
        agree(layer(x), peer(torch.from_numpy(x)))
    assert layer(cases.draw(rng, (2, 3, 2, 2, 2, 2))).shape == (2, 3, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="BatchNorm: x: expected at least 2 dimensions and 3 channels along axis 1"):
        layer(np.zeros(3))


def test_subclass_that_computes_the_same(torch, rng):
    class Mine(torch.nn.LayerNorm):
        pass

    x = cases.draw(rng, (2, 5))
    assert cases.same_bits(fn.from_torch(Mine(5))(x), fn.layer_norm(x, 5))


def test_what_is_not_supported_is_named(torch):
    class ChannelsFirst(torch.nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    class LayerNorm(torch.nn.Module):
        """Some libraries have their own by this name."""

        normalized_shape, eps, elementwise_affine, weight, bias = (3,), 1e-5, False, None, None

    others = [
        ChannelsFirst(3),
        LayerNorm(),
        torch.nn.Linear(2, 2),
        torch.nn.Sequential(torch.nn.LayerNorm(3)),
        torch.nn.LocalResponseNorm(2),
        None,
        np.ones(3),
    ]
    for module in others:
        name = type(module).__name__
        with pytest.raises(TypeError, match=rf"from_torch: module: expected one of torch\.nn's BatchNorm1d, .*, got .*{name}$"):
            fn.from_torch(module)


def test_lazy_norms(torch, rng):
    """Torch's forgets to count the channels where it has no arrays."""
    lazy = torch.nn.LazyBatchNorm1d()
    with pytest.raises(TypeError, match=r"got torch\..*LazyBatchNorm1d, which has no parameters yet$"):
        fn.from_torch(lazy)
    x, bare = cases.draw(rng, (4, 3)), torch.nn.LazyBatchNorm1d(affine=False, track_running_stats=False)
    for module in (lazy, bare):
        module(torch.from_numpy(x))
    assert fn.from_torch(lazy).num_features == 3
    with pytest.raises(
        ValueError, match="from_torch: module: expected a norm that knows its number of channels, got num_features=0"
    ):
        fn.from_torch(bare)


def test_all_norms_of_a_network(torch, rng):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Sequential(torch.nn.GroupNorm(2, 4), torch.nn.ReLU(), torch.nn.LayerNorm(4).eval()),
    )
    layers = fn.layers_from_torch(network)
    assert {name: type(layer).__name__ for name, layer in layers.items()} == {
        "1": "BatchNorm2d",
        "2.0": "GroupNorm",
        "2.2": "LayerNorm",
    }
    assert [layer.training for layer in layers.values()] == [True, True, False]
    assert fn.layers_from_torch(torch.nn.LayerNorm(3)).keys() == {""}
    with pytest.raises(TypeError, match="layers_from_torch: module: expected a torch module, got dict"):
        fn.layers_from_torch({})


def test_torch_is_not_imported():
    """A module is known by where its class says that it is from."""
    code = """
import sys, numpy as np, fusednorm as fn
class RMSNorm:
    normalized_shape, eps, elementwise_affine, training, weight = (3,), 0.5, True, False, np.array([1, 2, 3], np.float32)
    def forward(self, x): pass
RMSNorm.__module__ = "torch.nn.modules.normalization"
layer = fn.from_torch(RMSNorm())
fn.from_state(fn.LayerNorm, {"gamma": [1.0, 2.0]}, "keras")
print(layer, layer.weight, layer.training, [m for m in ("torch", "tensorflow", "jax", "onnx") if m in sys.modules])
"""
    assert output_of(code) == "RMSNorm((3,), eps=0.5, elementwise_affine=True) [1. 2. 3.] False []"


@pytest.mark.parametrize("make", ["BatchNorm2d", "InstanceNorm2d"])
def test_statistics_of_float64_without_weights(make, torch, rng):
    module = getattr(torch.nn, make)(2, affine=False, track_running_stats=True).double().eval()
    module.running_mean.copy_(torch.tensor([1e6 + 0.1, -3e5 - 0.7], dtype=torch.float64))
    layer = fn.from_torch(module)
    x = rng.normal(size=(4, 2, 3, 3)) + np.array([1e6, -3e5])[:, None, None]
    assert layer.running_mean.dtype == np.float64
    np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_modules_that_were_changed(training, torch, rng):
    """What the module computes with counts, not what its flags or its state dict say."""
    nn, prune, parametrize = (importlib.import_module(f"torch.nn{part}") for part in ("", ".utils.prune", ".utils.parametrize"))
    removed, kept, plain, pruned, parametrized = (
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3),
        nn.LayerNorm(4),
    )
    removed.track_running_stats, removed.running_mean, removed.running_var = False, None, None
    kept.track_running_stats = False
    plain.weight = plain.bias = None
    prune.l1_unstructured(pruned, "weight", 1)
    parametrize.register_parametrization(parametrized, "weight", nn.Softplus())
    x = rng.normal(2, 3, (5, 3, 4, 4)).astype("f4")
    for module in (removed, kept, plain, pruned, parametrized):
        module.train(training)
        layer = fn.from_torch(module)
        want = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(layer(x), want, rtol=0, atol=1e-5)
