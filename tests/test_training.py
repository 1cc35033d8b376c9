"""A small convolutional network with BatchNorm, trained in NumPy and fusednorm on scikit-learn's digits, and in torch."""

import fusednorm as fn
import numpy as np
import pytest

datasets = pytest.importorskip("sklearn.datasets")

RATE, MOMENTUM, BATCH = 0.05, 0.9, 64


def digits():
    """Return images (N, 1, 8, 8) and labels of 1437 training samples and 360 test samples."""
    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order, None] / 16).astype(np.float32)
    labels = data.target[order]
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def first_parameters():
    rng = np.random.default_rng(1)
    parameters = {}
    for i, (inputs, outputs) in enumerate([(1, 8), (8, 16)]):
        parameters[f"conv{i}"] = rng.normal(0, np.sqrt(2 / (9 * inputs)), (outputs, inputs, 3, 3))
        parameters[f"weight{i}"], parameters[f"bias{i}"] = np.ones(outputs), np.zeros(outputs)
    parameters["linear"], parameters["shift"] = rng.normal(0, 0.05, (10, 256)), np.zeros(10)
    return {name: value.astype(np.float32) for name, value in parameters.items()}


def patches(x):
    """(N, C, H, W) to (N * H * W, C * 9): what a 3 by 3 convolution with padding sees."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 9)


def conv(x, kernel):
    n, _, height, width = x.shape
    return (patches(x) @ kernel.reshape(len(kernel), -1).T).reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def conv_backward(grad, x, kernel):
    """Gradients by x and by the kernel; by x it is a convolution with the kernel turned around."""
    rows = grad.transpose(0, 2, 3, 1).reshape(-1, len(kernel))
    return conv(grad, kernel.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]), (rows.T @ patches(x)).reshape(kernel.shape)


class Network:
    def __init__(self):
        self.parameters = first_parameters()
        self.velocity = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self.running = [(np.zeros(c, np.float32), np.ones(c, np.float32)) for c in (8, 16)]

    def features(self, x, training):
        """Two blocks of convolution, batch norm and relu, then means of 2 by 2 pixels; and what backward needs."""
        p, steps = self.parameters, []
        for i in range(2):
            z = conv(x, p[f"conv{i}"])
            y = fn.batch_norm(z, *self.running[i], p[f"weight{i}"], p[f"bias{i}"], training, activation="relu")
            steps.append((x, z, y))
            x = y
        return x.reshape(len(x), 16, 4, 2, 4, 2).mean((3, 5)).reshape(len(x), 256), steps

    def predict(self, x):
        return np.argmax(self.features(x, False)[0] @ self.parameters["linear"].T + self.parameters["shift"], 1)

    def gradients(self, x, labels):
        p = self.parameters
        means, steps = self.features(x, True)
        scores = means @ p["linear"].T + p["shift"]
        scores = scores - scores.max(1, keepdims=True)
        log_likelihood = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        grad = (np.exp(log_likelihood) - np.eye(10, dtype=np.float32)[labels]) / np.float32(len(labels))
        found = {"linear": grad.T @ means, "shift": grad.sum(0)}
        grad = np.repeat(np.repeat((grad @ p["linear"] / 4).reshape(-1, 16, 4, 4), 2, 2), 2, 3)
        for i in (1, 0):
            inputs, z, y = steps[i]
            grad, found[f"weight{i}"], found[f"bias{i}"] = fn.batch_norm_backward(
                grad * (y > 0), z, weight=p[f"weight{i}"], training=True
            )
            grad, found[f"conv{i}"] = conv_backward(grad, inputs, p[f"conv{i}"])
        return -log_likelihood[np.arange(len(labels)), labels].mean(), found

    def step(self, x, labels):
        loss, found = self.gradients(x, labels)
        for name, value in self.parameters.items():
            self.velocity[name] = MOMENTUM * self.velocity[name] + found[name]
            value -= RATE * self.velocity[name]
        return float(loss)


def batches(images, labels, epochs):
    rng = np.random.default_rng(2)
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for i in range(0, len(labels) - BATCH + 1, BATCH):
            yield images[order[i : i + BATCH]], labels[order[i : i + BATCH]]


@pytest.mark.slow
def test_digits():
    images, labels, test_images, test_labels = digits()
    network = Network()
    losses = [network.step(x, t) for x, t in batches(images, labels, 6)]
    accuracy = np.mean(network.predict(test_images) == test_labels)
    assert accuracy >= 0.975, f"{accuracy:.4f}; the last loss was {losses[-1]:.4f}"


def test_losses_are_those_of_torch():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    network = Network()
    p = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in network.parameters.items()}
    optimizer = torch.optim.SGD(p.values(), RATE, MOMENTUM)
    images, labels, *_ = digits()
    for _, (x, t) in zip(range(10), batches(images, labels, 1), strict=False):
        y = torch.from_numpy(x)
        for i in range(2):
            z = F.conv2d(y, p[f"conv{i}"], padding=1)
            y = F.relu(F.batch_norm(z, None, None, p[f"weight{i}"], p[f"bias{i}"], True))
        loss = F.cross_entropy(F.linear(F.avg_pool2d(y, 2).flatten(1), p["linear"], p["shift"]), torch.from_numpy(t))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert abs(network.step(x, t) - loss.item()) < 1e-4
