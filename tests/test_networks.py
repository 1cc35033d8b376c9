"""Trained networks, served without torch: a small ResNet on scikit-learn's digits, and transformer encoders."""

import fusednorm as fn
import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
safetensors_torch = pytest.importorskip("safetensors.torch")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
nn = torch.nn

TRAINED = 1280  # of the 1797 digits; the others are the test set
BATCH = 64
BLOCKS = {"block1": 1, "block2": 2}  # and their strides


fused_or_not = pytest.mark.parametrize("fused", [False, True])


def tolerance(wanted, depth, dtype=np.float32):
    """Every layer adds its error, relative to the largest value; `depth` layers are one after the other."""
    return {"rtol": 0, "atol": depth * oracle.unit(dtype, 1) * max(1, np.abs(wanted).max())}


# ---- a residual network


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.bn3(self.shortcut(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, 1, 1)
        self.bn = nn.BatchNorm2d(8)
        self.block1, self.block2 = Block(8, 16, BLOCKS["block1"]), Block(16, 32, BLOCKS["block2"])
        self.linear = nn.Linear(32, 10)

    def forward(self, x):
        y = self.block2(self.block1(torch.relu(self.bn(self.conv(x)))))
        return self.linear(y.mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    images, labels = datasets.load_digits(return_X_y=True)
    return (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Return the trained module, and its weights as a file gives them."""
    images, labels = map(torch.from_numpy, digits)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet()
        optimizer = torch.optim.Adam(network.parameters(), 0.005)
        for _ in range(3):
            for at in range(0, TRAINED, BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[at : at + BATCH]), labels[at : at + BATCH]).backward()
                optimizer.step()
    torch.set_num_threads(threads)
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    safetensors_torch.save_file(network.state_dict(), path)
    return network.eval(), safetensors_numpy.load_file(path)


def conv2d(x, weight, stride=1, bias=0.0):
    """Convolve: windows of x, times the weights. The result is channels-last in memory, as the product makes it."""
    pad = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.moveaxis(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))) + bias, -1, 1)


class Served:
    """The network in NumPy; each norm is a layer loaded from the file."""

    def __init__(self, weights, fused):
        self.weights, self.fused, self.norms = weights, fused, {}
        for key in weights:
            name, _, parameter = key.rpartition(".")
            if parameter == "running_mean":
                layer = fn.BatchNorm2d(len(weights[key]), activation="relu" if fused and not name.endswith("bn3") else None)
                layer.load_state_dict(weights, prefix=f"{name}.")
                self.norms[name] = layer.eval()

    def norm(self, name, x, residual=None):
        """Return relu(norm(x) + residual)."""
        if self.fused:
            return self.norms[name](x, residual=residual, out=x)
        y = self.norms[name](x)
        return np.maximum(y if residual is None else y + residual, 0)

    def block(self, name, x):
        w, stride = self.weights, BLOCKS[name]
        y = self.norm(f"{name}.bn1", conv2d(x, w[f"{name}.conv1.weight"], stride))
        shortcut = self.norms[f"{name}.bn3"](conv2d(x, w[f"{name}.shortcut.weight"], stride))
        return self.norm(f"{name}.bn2", conv2d(y, w[f"{name}.conv2.weight"]), shortcut)

    def __call__(self, x):
        w = self.weights
        y = self.norm("bn", conv2d(x, w["conv.weight"], 1, w["conv.bias"]))
        y = self.block("block2", self.block("block1", y))
        return y.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


class Folded:
    """The network in NumPy with every norm folded into its convolution."""

    def __init__(self, weights):
        self.weights, self.folded = weights, {}
        pairs = {f"{b}.{c}": f"{b}.{n}" for b in BLOCKS for c, n in (("conv1", "bn1"), ("conv2", "bn2"), ("shortcut", "bn3"))}
        for conv, norm in {"conv": "bn", **pairs}.items():
            mean, var, weight, bias = (weights[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
            self.folded[conv] = fn.fuse_conv_bn_weights(
                weights[f"{conv}.weight"], weights.get(f"{conv}.bias"), mean, var, 1e-5, weight, bias
            )

    def conv(self, name, x, stride=1):
        weight, bias = self.folded[name]
        return conv2d(x, weight, stride, bias)

    def block(self, name, x):
        y = np.maximum(self.conv(f"{name}.conv1", x, BLOCKS[name]), 0)
        return np.maximum(self.conv(f"{name}.conv2", y) + self.conv(f"{name}.shortcut", x, BLOCKS[name]), 0)

    def __call__(self, x):
        y = self.block("block2", self.block("block1", np.maximum(self.conv("conv", x), 0)))
        return y.mean((2, 3)) @ self.weights["linear.weight"].T + self.weights["linear.bias"]


RESNET_DEPTH = 11  # five convolutions and their norms, and the linear layer


def agree(got, wanted, labels):
    np.testing.assert_allclose(got, wanted, **tolerance(wanted, RESNET_DEPTH))
    np.testing.assert_array_equal(got.argmax(1), wanted.argmax(1))
    assert np.mean(got.argmax(1) == labels) > 0.8


def test_training_taught_something(digits, trained):
    """Else the tests below would compare noise."""
    images, labels = digits
    network, weights = trained
    with torch.no_grad():
        wanted = network(torch.from_numpy(images[TRAINED:])).numpy()
    assert np.mean(wanted.argmax(1) == labels[TRAINED:]) > 0.8
    assert all(np.ptp(array) > 0.01 for name, array in weights.items() if name.endswith(("bn2.weight", "running_mean")))


@fused_or_not
def test_resnet(fused, digits, trained):
    images, labels = digits[0][TRAINED:], digits[1][TRAINED:]
    network, weights = trained
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    agree(Served(weights, fused)(images), wanted, labels)


def test_resnet_with_folded_norms(digits, trained):
    images, labels = digits[0][TRAINED:], digits[1][TRAINED:]
    network, weights = trained
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    agree(Folded(weights)(images), wanted, labels)


def test_layers_of_the_module_are_those_of_the_file(trained):
    network, weights = trained
    ours, theirs = Served(weights, False).norms, fn.layers_from_torch(network)
    assert set(ours) == set(theirs)
    for name, layer in ours.items():
        for key, array in layer.state_dict().items():
            np.testing.assert_array_equal(array, theirs[name].state_dict()[key])


@fused_or_not
def test_running_statistics_after_an_epoch(fused, digits, trained):
    network, weights = trained
    peer = ResNet().train()
    peer.load_state_dict(network.state_dict())
    served = Served(weights, fused)
    for layer in served.norms.values():
        layer.train()
    batches = range(0, TRAINED, BATCH)
    for at in batches:
        images = digits[0][at : at + BATCH]
        with torch.no_grad():
            wanted = peer(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(served(images), wanted, **tolerance(wanted, RESNET_DEPTH))
    for name, layer in served.norms.items():
        for key, array in layer.state_dict().items():
            theirs = peer.state_dict()[f"{name}.{key}"].numpy()
            # What the layers before add, and a rounding to float32 per batch, most of which fade out (momentum 0.1).
            np.testing.assert_allclose(array, theirs, **tolerance(theirs, RESNET_DEPTH), err_msg=f"{name}.{key}")
        assert layer.num_batches_tracked == network.state_dict()[f"{name}.num_batches_tracked"] + len(batches)


# ---- a transformer encoder

WIDTH, HEADS, HIDDEN = 32, 4, 64
NORMS = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm}


def softmax(x):
    y = np.exp(x - x.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def attention(x, w, name):
    """Multi-head attention of x(N, L, WIDTH) to itself."""
    qkv = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = np.moveaxis(qkv.reshape(*x.shape[:2], 3, HEADS, -1), (2, 3), (0, 2))
    y = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.dtype.type(q.shape[-1]))) @ v
    return y.swapaxes(1, 2).reshape(x.shape) @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def feed_forward(x, w, name):
    y = np.maximum(x @ w[f"{name}.linear1.weight"].T + w[f"{name}.linear1.bias"], 0)
    return y @ w[f"{name}.linear2.weight"].T + w[f"{name}.linear2.bias"]


def add_norm(norm, x, residual):
    """Return norm(x + residual) and the sum; in one pass where there is one."""
    one_pass = getattr(fn, {"LayerNorm": "add_layer_norm", "RMSNorm": "add_rms_norm"}[type(norm).__name__], None)
    if one_pass is None:
        return norm(x + residual), x + residual
    parameters = [array for array in (norm.weight, getattr(norm, "bias", None)) if array is not None]
    return one_pass(x, residual, norm.normalized_shape, *parameters, eps=norm.eps)


def encode(x, weights, norms, norm_first):
    """Two blocks. Where norms come first, each one also takes up the skip connection of the half block before it."""
    if not norm_first:
        for i in range(2):
            x, _ = add_norm(norms[f"{i}.norm1"], attention(x, weights, f"{i}.self_attn"), x)
            x, _ = add_norm(norms[f"{i}.norm2"], feed_forward(x, weights, str(i)), x)
        return x
    y = norms["0.norm1"](x)
    for i in range(2):
        y, x = add_norm(norms[f"{i}.norm2"], attention(y, weights, f"{i}.self_attn"), x)
        y = feed_forward(y, weights, str(i))
        if i == 0:
            y, x = add_norm(norms["1.norm1"], y, x)
    return y + x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_transformer_encoder(norm, norm_first, dtype, rng, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        blocks = nn.ModuleList(
            # In evaluation torch takes a path of its own, for its own norm only.
            nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, norm_first=norm_first, batch_first=True).train()
            for _ in range(2)
        )
        for block in blocks:
            for name in ("norm1", "norm2"):
                setattr(block, name, NORMS[norm](WIDTH, eps=1e-5))
                nn.init.normal_(getattr(block, name).weight, 1, 0.3)
    blocks = blocks.to(torch.float32 if dtype == np.float32 else torch.float64)
    safetensors_torch.save_file(blocks.state_dict(), tmp_path / "encoder.safetensors")
    weights = safetensors_numpy.load_file(tmp_path / "encoder.safetensors")
    norms = {}
    for name in (f"{i}.norm{j}" for i in (0, 1) for j in (1, 2)):
        norms[name] = getattr(fn, norm)(WIDTH, eps=1e-5, dtype=dtype)
        norms[name].load_state_dict(weights, prefix=f"{name}.")

    x = rng.normal(0, 1, (3, 10, WIDTH)).astype(dtype)
    with torch.no_grad():
        wanted = torch.from_numpy(x)
        for block in blocks:
            wanted = block(wanted)
        wanted = wanted.numpy()
    got = encode(x, weights, norms, norm_first)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, wanted, **tolerance(wanted, 16, dtype))  # in each block: two norms, six products
