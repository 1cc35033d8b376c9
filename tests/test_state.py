"""State dicts: what loads, what is refused, and that a refused one has loaded nothing."""

import re

import cases
import fusednorm as fn
import layer_cases
import numpy as np
import pytest
from layer_cases import every_layer

# @ stands for the prefix of the keys.
SHAPES = r"@weight \(3,\), @bias \(3,\), @running_mean \(3,\), @running_var \(3,\), @num_batches_tracked \(\)"


def trained(case, rng):
    return {name: array.copy() for name, array in layer_cases.draw_state(case.make(), rng).state_dict().items()}


def as_torch(state, path):
    torch = pytest.importorskip("torch")
    return {name: torch.nn.Parameter(torch.from_numpy(a), requires_grad=a.dtype.kind == "f") for name, a in state.items()}


def as_torch_file(state, path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(a) for name, a in state.items()}, path / "state.pt")
    return torch.load(path / "state.pt")


def as_npz(state, path):
    np.savez(path / "state.npz", **state)
    return np.load(path / "state.npz")


def as_safetensors(state, path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(state, path / "state.safetensors")
    return numpy.load_file(path / "state.safetensors")


SOURCES = {
    "arrays": lambda state, path: state,
    "float64": lambda state, path: {name: a.astype("f8") if a.dtype.kind == "f" else a for name, a in state.items()},
    "lists": lambda state, path: {name: a.tolist() for name, a in state.items()},
    "tensors": as_torch,
    "torch.load": as_torch_file,
    "numpy.load": as_npz,
    "safetensors": as_safetensors,
}


@every_layer
@pytest.mark.parametrize("source", SOURCES)
def test_what_loads(case, source, tmp_path, rng):
    state, layer = trained(case, rng), case.make()
    arrays = layer.state_dict()
    assert layer.load_state_dict(SOURCES[source](state, tmp_path)) == ([], [])
    assert layer_cases.state_bytes(layer) == {name: a.tobytes() for name, a in state.items()}
    # In place: who holds the arrays sees the new values.
    assert all(getattr(layer, name) is array for name, array in arrays.items())


@every_layer
def test_torch_loads_ours(case, rng):
    torch = pytest.importorskip("torch")
    state, peer = trained(case, rng), case.make_torch(torch)
    layer = case.make()
    layer.load_state_dict(state)
    peer.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    layer.load_state_dict(peer.state_dict())
    assert layer_cases.state_bytes(layer) == {name: a.tobytes() for name, a in state.items()}


def test_state_dict_gives_the_arrays_themselves():
    layer = fn.BatchNorm1d(2)
    state = layer.state_dict()
    state["weight"][:] = 5
    assert state["weight"] is layer.weight
    assert list(layer.state_dict(prefix="net.bn1."))[:2] == ["net.bn1.weight", "net.bn1.bias"]


def test_dtype_of_the_layer_stays(rng):
    layer = fn.BatchNorm1d(3, dtype=np.float16)
    layer.load_state_dict({name: rng.uniform(0.5, 1.5, 3) for name in layer.state_dict() if name != "num_batches_tracked"})
    assert [a.dtype.name for a in layer.state_dict().values()] == ["float16", "float16", "float32", "float32", "int64"]
    layer.load_state_dict({"weight": np.array([1e9, -1e9, 0.1]), "bias": [1, 2, 3]}, strict=False)
    np.testing.assert_array_equal(layer.weight, np.array([np.inf, -np.inf, 0.1], np.float16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tensors_of_other_dtypes(dtype, rng):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(rng.normal(size=5)).to(getattr(torch, dtype))
    layer = fn.RMSNorm(5)
    layer.load_state_dict({"weight": tensor})
    np.testing.assert_array_equal(layer.weight, tensor.float().numpy())


def test_bfloat16_layer(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = fn.RMSNorm(5, dtype=ml_dtypes.bfloat16)
    values = rng.normal(size=5)
    for source in (values, values.astype(np.float32), values.astype(ml_dtypes.bfloat16)):
        layer.load_state_dict({"weight": source})
        assert cases.same_bits(layer.weight, values.astype(np.float32).astype(ml_dtypes.bfloat16))


def test_bfloat16_in_numpys_files(tmp_path, rng):
    """They name it V2."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer, other = (fn.BatchNorm1d(5, dtype=ml_dtypes.bfloat16) for _ in range(2))
    layer.weight[:], layer.running_mean[:] = rng.normal(size=(2, 5))
    np.savez(tmp_path / "a.npz", **layer.state_dict())
    with np.load(tmp_path / "a.npz") as archive:
        other.load_state_dict(archive)
    for name, array in layer.state_dict().items():
        assert cases.same_bits(getattr(other, name), array)
    wide = fn.BatchNorm1d(5)
    wide.load_state_dict({**layer.state_dict(), "weight": layer.weight.view("V2")})
    np.testing.assert_array_equal(wide.weight, layer.weight.astype("f4"))
    layer.num_batches_tracked = 3
    wide.load_state_dict({name: array.astype(ml_dtypes.bfloat16).view("V2") for name, array in layer.state_dict().items()})
    assert wide.num_batches_tracked == 3


def test_counter_may_be_missing(rng):
    layer = fn.BatchNorm1d(3)
    layer.num_batches_tracked = 4
    state = {name: a.copy() for name, a in layer.state_dict().items()}
    del state["num_batches_tracked"]
    assert layer.load_state_dict(state) == ([], [])
    assert layer.num_batches_tracked == 4


def test_prefix(rng):
    whole = {f"net.bn{i}.{name}": a + i for i in (1, 2) for name, a in fn.BatchNorm1d(3).state_dict().items()}
    layer = fn.BatchNorm1d(3)
    assert layer.load_state_dict(whole, prefix="net.bn2.") == ([], [])
    np.testing.assert_array_equal(layer.weight, 3)
    with pytest.raises(ValueError, match=r"got no 'net\.bn3\.weight', no 'net\.bn3\.bias'"):
        layer.load_state_dict(whole, prefix="net.bn3.")


def test_one_value_in_the_memory_of_another(rng):
    layer = fn.BatchNorm1d(3)
    layer.weight[:], layer.bias[:] = [1, 2, 3], [4, 5, 6]
    layer.load_state_dict({"weight": layer.bias, "bias": layer.weight}, strict=False)
    np.testing.assert_array_equal([layer.weight, layer.bias], [[4, 5, 6], [1, 2, 3]])


CHANGES = {
    "missing": (lambda s: s.pop("weight"), "no '@weight'"),
    "two missing": (lambda s: (s.pop("weight"), s.pop("running_var")), "no '@weight', no '@running_var'"),
    "unexpected": (lambda s: s.update(gamma=np.ones(3)), "an unexpected '@gamma'"),
    "shape": (lambda s: s.update(bias=np.ones((1, 3))), r"'@bias' of shape \(1, 3\)"),
    "scalar": (lambda s: s.update(bias=1.0), r"'@bias' of shape \(\)"),
    "counter": (lambda s: s.update(num_batches_tracked=np.ones(2, int)), r"'@num_batches_tracked' of shape \(2,\)"),
    "negative": (lambda s: s.update(num_batches_tracked=np.array(-1)), "'@num_batches_tracked' of value -1"),
    "too large": (
        lambda s: s.update(num_batches_tracked=np.array(2**63 + 1, "u8")),
        f"'@num_batches_tracked' of value {2**63 + 1}",
    ),
    "infinite": (lambda s: s.update(num_batches_tracked=np.array(np.inf)), "'@num_batches_tracked' of dtype float64"),
    "fraction": (lambda s: s.update(num_batches_tracked=np.array(0.5)), "'@num_batches_tracked' of dtype float64"),
    "complex": (lambda s: s.update(weight=np.ones(3, complex)), "'@weight' of dtype complex128"),
    "text": (lambda s: s.update(weight=np.array(["1"] * 3)), "'@weight' of dtype <U1"),
    "everything": (
        lambda s: (s.pop("weight"), s.update(gamma=np.ones(3), bias=np.ones(4))),
        r"no '@weight', an unexpected '@gamma', '@bias' of shape \(4,\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prefix", ["", "net.bn."])
def test_refused_state_loads_nothing(change, prefix, rng):
    layer = layer_cases.draw_state(fn.BatchNorm1d(3), rng)
    state = {name: array + 1 for name, array in layer.state_dict().items()}
    edit, got = CHANGES[change]
    edit(state)
    before = layer_cases.state_bytes(layer)
    text = f"expected {SHAPES}; got {got}$".replace("@", re.escape(prefix))
    with pytest.raises(ValueError, match=rf"^BatchNorm1d\.load_state_dict: state_dict: {text}"):
        layer.load_state_dict({prefix + name: value for name, value in state.items()}, prefix=prefix)
    assert layer_cases.state_bytes(layer) == before


def test_read_only_array_loads_nothing(rng):
    layer = layer_cases.draw_state(fn.BatchNorm1d(3), rng)
    layer.running_var.flags.writeable = False
    before = layer_cases.state_bytes(layer)
    with pytest.raises(ValueError, match="'running_var' for a read-only array"):
        layer.load_state_dict(fn.BatchNorm1d(3).state_dict())
    assert layer_cases.state_bytes(layer) == before


def test_unreadable_value_loads_nothing(rng):
    layer = layer_cases.draw_state(fn.BatchNorm1d(3), rng)
    before = layer_cases.state_bytes(layer)
    state = fn.BatchNorm1d(3).state_dict() | {"running_var": [[1.0], [2.0, 3.0]]}
    with pytest.raises(ValueError, match=r"running_var: expected an array or what numpy\.asarray can read, got list"):
        layer.load_state_dict(state)
    assert layer_cases.state_bytes(layer) == before


def test_not_strict(rng):
    layer = fn.BatchNorm1d(3)
    result = layer.load_state_dict({"weight": [1.0, 2, 3], "gamma": 5}, strict=False)
    assert result.missing_keys == ["bias", "running_mean", "running_var"]
    assert result.unexpected_keys == ["gamma"]
    np.testing.assert_array_equal(layer.weight, [1, 2, 3])
    with pytest.raises(ValueError, match=r"got 'weight' of shape \(4,\)$"):
        layer.load_state_dict({"weight": np.ones(4), "gamma": 5}, strict=False)


@pytest.mark.parametrize("state", [None, [1, 2], np.ones(3)], ids=["None", "list", "ndarray"])
def test_no_mapping(state):
    with pytest.raises(TypeError, match="expected a mapping of names to arrays, got"):
        fn.LayerNorm(3).load_state_dict(state)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_a_checkpoint_cast_as_a_whole(dtype):
    """The counter too; torch's old ones have a dimension."""
    for shape in ((), (1,)):
        layer = fn.BatchNorm2d(3)
        state = {name: array.astype(dtype) for name, array in layer.state_dict().items()}
        layer.load_state_dict(state | {"num_batches_tracked": np.full(shape, 12, dtype)})
        assert layer.num_batches_tracked == 12
        assert layer.num_batches_tracked.shape == ()


def test_keys_that_are_no_text():
    layer = fn.LayerNorm(2)
    state = layer.state_dict() | {1: np.ones(2), None: np.ones(2)}
    with pytest.raises(ValueError, match="an unexpected '1', an unexpected 'None'"):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).unexpected_keys == ["1", "None"]
    for take in (lambda prefix: layer.load_state_dict(state, prefix=prefix), lambda prefix: layer.state_dict(prefix=prefix)):
        with pytest.raises(TypeError, match=r"^LayerNorm\.\w+: prefix: expected text, got 1$"):
            take(1)
