"""The computations of five tutorials, written as a reader would write them, held against torch."""

from functools import partial

import fusednorm as fn
import numpy as np
import pytest
from oracle import agree

torch = pytest.importorskip("torch")
nn = torch.nn


close = partial(agree, scale=1)


class NumpyBatchNorm2d:
    """Tutorial (a): running = momentum * running + (1 - momentum) * batch, with the biased variance."""

    def __init__(self, channels, momentum=0.9, eps=1e-5):
        self.gamma, self.beta = np.ones((1, channels, 1, 1)), np.zeros((1, channels, 1, 1))
        self.running_mean, self.running_var = np.zeros((1, channels, 1, 1)), np.ones((1, channels, 1, 1))
        self.momentum, self.eps = momentum, eps

    def __call__(self, x, training):
        if training:
            mean, var = fn.moments(x, (0, 2, 3), keepdims=True)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
            return fn.batch_norm(x, None, None, self.gamma, self.beta, training=True, eps=self.eps)
        return fn.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta, eps=self.eps)


def test_a_numpy_class_on_integers(rng):
    layer, peer = NumpyBatchNorm2d(3), nn.BatchNorm2d(3, momentum=0.1).double()
    layer.gamma[0, :, 0, 0], layer.beta[0, :, 0, 0] = [1.5, -2, 0.5], [0.1, 0.2, 0.3]
    peer.load_state_dict(
        {"weight": torch.from_numpy(layer.gamma.ravel()), "bias": torch.from_numpy(layer.beta.ravel())}, strict=False
    )
    for _ in range(3):
        x = rng.integers(0, 256, (4, 3, 8, 8))
        mean, var = fn.moments(x, (0, 2, 3), keepdims=True)
        close(mean, np.mean(x, (0, 2, 3), keepdims=True))
        close(var, np.var(x, (0, 2, 3), keepdims=True))
        before = peer.running_var.clone()
        close(layer(x, training=True), peer(torch.from_numpy(x).double()))
        # torch's running variance is the unbiased one: n = 4 * 8 * 8.
        peer.running_var = 0.9 * before + (peer.running_var - 0.9 * before) * 255 / 256
        close(layer.running_mean.ravel(), peer.running_mean)
        close(layer.running_var.ravel(), peer.running_var)
    close(layer(x, training=False), peer.eval()(torch.from_numpy(x).double()))


def test_b_batch_norm_2d_without_affine():
    x = [[[[1, 1], [1, 2]], [[-1, 1], [0, 1]]], [[[0, -1], [2, 2]], [[0, -1], [3, 1]]]]
    wanted = nn.BatchNorm2d(2, affine=False)(torch.tensor(x, dtype=torch.float32))
    close(fn.batch_norm(x, training=True), wanted)
    close(fn.batch_norm(np.array(x, np.float32), training=True), wanted)
    mean, var = fn.moments(x, (0, 2, 3))
    np.testing.assert_array_equal(mean, [1, 0.5])
    close(np.sqrt(var), torch.tensor(x, dtype=torch.float64).std((0, 2, 3), correction=0))
    close(np.sqrt(fn.moments(x, (0, 2, 3), ddof=1).var), torch.tensor(x, dtype=torch.float64).std((0, 2, 3)))


@pytest.mark.parametrize("shape", [(6, 5, 9), (6, 5, 4, 7)], ids=str)
def test_c_decay_and_tiny_eps(shape, rng):
    peer = (nn.BatchNorm1d if len(shape) == 3 else nn.BatchNorm2d)(5, eps=1e-7, momentum=0.01)
    gamma, beta = rng.normal(1, 0.2, (2, 5)).astype(np.float32)
    peer.load_state_dict({"weight": torch.from_numpy(gamma), "bias": torch.from_numpy(beta)}, strict=False)
    running_mean, running_var = np.zeros(5, np.float32), np.ones(5, np.float32)
    decay = 0.99
    for _ in range(4):
        x = rng.normal(2, 3, shape).astype(np.float32)
        y = fn.batch_norm(x, running_mean, running_var, gamma, beta, training=True, momentum=1 - decay, eps=1e-7)
        close(y, peer(torch.from_numpy(x)))
        close(running_mean, peer.running_mean)
        close(running_var, peer.running_var)
    close(fn.batch_norm(x, running_mean, running_var, gamma, beta, eps=1e-7), peer.eval()(torch.from_numpy(x)), scale=2)


def test_d_two_dimensions_against_one(rng):
    image = rng.normal(2, 3, (4, 3, 32, 32)).astype(np.float32)
    close(fn.batch_norm(image, training=True), nn.BatchNorm2d(3)(torch.from_numpy(image)))
    # The same statistics, with every pixel a row.
    rows = image.transpose(0, 2, 3, 1).reshape(-1, 3)
    by_rows = fn.batch_norm(rows, training=True)
    close(by_rows, nn.BatchNorm1d(3)(torch.from_numpy(rows)))
    close(by_rows.reshape(4, 32, 32, 3).transpose(0, 3, 1, 2), nn.BatchNorm2d(3)(torch.from_numpy(image)))
    words = rng.normal(2, 3, (4, 10, 16)).astype(np.float32)
    wanted = nn.BatchNorm1d(16)(torch.from_numpy(words).transpose(1, 2)).transpose(1, 2)
    close(fn.batch_norm(words, training=True, channel_axis=-1), wanted)
    mean, var = fn.moments(words, (0, 1))
    close(mean, torch.from_numpy(words).double().mean((0, 1)))
    close(var, torch.from_numpy(words).double().var((0, 1), correction=0))


def test_e_running_statistics_layer_and_group(rng):
    mean, var = np.zeros(4), np.ones(4)
    by_hand = mean.copy(), var.copy()
    peer = nn.BatchNorm1d(4).double()
    for _ in range(2):
        x = rng.normal(5, 2, (16, 4))
        fn.batch_norm(x, mean, var, training=True, momentum=0.1)
        peer(torch.from_numpy(x))
        by_hand = 0.9 * by_hand[0] + 0.1 * x.mean(0), 0.9 * by_hand[1] + 0.1 * x.var(0, ddof=1)
    for got, wanted, ours in ((mean, peer.running_mean, by_hand[0]), (var, peer.running_var, by_hand[1])):
        close(got, wanted)
        close(got, ours)
    tokens = rng.normal(0, 1, (2, 5, 8)).astype(np.float32)
    close(fn.layer_norm(tokens, 8), nn.LayerNorm(8)(torch.from_numpy(tokens)))
    images = rng.normal(0, 1, (2, 4, 2, 2)).astype(np.float32)
    close(fn.group_norm(images, 2), nn.GroupNorm(2, 4)(torch.from_numpy(images)))
