"""From statistics of a data set to a layer."""

import fusednorm as fn
import numpy as np
import pytest

layers = pytest.importorskip("fusednorm.layers")


@pytest.mark.parametrize(("dims", "shape"), [(1, (20, 3)), (1, (20, 3, 5)), (2, (20, 3, 4, 5)), (3, (20, 3, 2, 4, 5))])
def test_the_layer_gives_the_data_mean_0_and_variance_1(dims, shape, rng):
    x = rng.normal(5, 3, shape)
    stats = fn.RunningMoments().update(x[:7]).update(x[7:])
    layer = stats.to_batch_norm(dims, eps=0, dtype=np.float64)
    assert type(layer) is getattr(layers, f"BatchNorm{dims}d")
    assert not layer.training
    mean, var = fn.moments(layer(x), tuple(i for i in range(x.ndim) if i != 1))
    np.testing.assert_allclose(mean, 0, atol=1e-14)
    np.testing.assert_allclose(var, 1, rtol=1e-14)


def test_settings(rng):
    x = rng.normal(5, 3, (20, 4, 5, 3))
    stats = fn.RunningMoments(channel_axis=-1).update(x)
    layer = stats.to_batch_norm(ddof=1, activation="relu")
    assert layer.channel_axis == -1
    np.testing.assert_allclose(layer.running_var, stats.var(1), rtol=1e-6)
    assert layer(x).min() == 0


def test_errors():
    stats = fn.RunningMoments()
    with pytest.raises(ValueError, match="from_moments: stats: expected values in every channel"):
        stats.to_batch_norm()
    with pytest.raises(ValueError, match="to_batch_norm: dims: expected 1, 2 or 3, got 4"):
        stats.update([[1.0]]).to_batch_norm(4)
    with pytest.raises(ValueError, match="from_moments: track_running_stats: expected True, got False"):
        stats.to_batch_norm(track_running_stats=False)


def test_all_values_pooled_make_one_channel(rng):
    x = rng.normal(3, 2, (50, 1, 4, 4))
    layer = fn.RunningMoments(None).update(x).to_batch_norm(eps=0)
    np.testing.assert_allclose(layer.running_mean, [x.mean()], rtol=1e-6)
    np.testing.assert_allclose(layer(x).std(), 1, rtol=1e-6)
    with pytest.raises(TypeError, match=r"BatchNorm2d\.from_moments: stats: expected RunningMoments, got int"):
        fn.BatchNorm2d.from_moments(5)
