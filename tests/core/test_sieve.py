"""The sieve finds what a dense product in float32 finds."""

import numpy as np
import pytest
import torch

from core.index import encode_firings, invert_shard
from core.saes import SAE, Form
from core.saes.sieve import Sieve


def random_sae(activation, d, n_features, scale=1.0, seed=0):
    """Weights of any length, offsets of any size; few features fire on a vector of unit variance times `scale`."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    W_dec = torch.nn.functional.normalize(draw(n_features, d), dim=1)
    length = draw(n_features).exp()
    W_enc = W_dec.T * length
    tensors = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": draw(d) * scale, "b_enc": -3.0 * length * scale}
    if activation == "jumprelu":
        tensors["threshold"] = (draw(n_features).abs() * 0.3 * length * scale).clamp(min=0)
    return SAE(Form("made", activation), tensors)


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize(("d", "n_features", "scale"), [(16, 100, 1.0), (256, 3000, 1e3), (768, 999, 1e-3)])
def test_the_firings_are_those_of_a_dense_product(activation, d, n_features, scale):
    sae = random_sae(activation, d, n_features, scale)
    x = torch.randn(300, d, generator=torch.Generator().manual_seed(1)) * scale + sae.b_dec
    x[::7] *= 1.5  # vectors of other lengths
    x[1::7] *= 0.1
    found, expected = Sieve(sae).firings(x), encode_firings(sae, x)
    row, feature, value = expected
    clear = value - (sae.threshold if activation == "jumprelu" else torch.zeros(n_features))[feature].numpy() > 1e-5 * scale * np.sqrt(d)
    told = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    assert len(row) > 100 and set(zip(row[clear].tolist(), feature[clear].tolist(), strict=True)) <= told
    assert len(told) <= len(row) + (~clear).sum() and (np.diff(found[0]) >= 0).all()
    np.testing.assert_allclose(found[2], sae.encode(x)[found[0], found[1]].numpy(), rtol=1e-4, atol=1e-4 * scale)


def test_activations_that_barely_pass_are_not_lost():
    """Thresholds set a hair below each activation: bfloat16 alone would miss about half of them."""
    sae = random_sae("jumprelu", 256, 400)
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(3)) * 30
    pre = (sae.read(x) @ sae.W_enc + sae.b_enc)[0]
    positive = pre > 0.1
    sae.threshold.copy_(torch.where(positive, pre * (1 - 1e-4), 1e9))
    columns = Sieve(sae)
    rough = (sae.read(x).bfloat16() @ sae.W_enc.bfloat16()).float()[0] + sae.b_enc > sae.threshold
    assert rough[positive].sum() < positive.sum() and columns.firings(x) is None  # too many pass: said to be dense
    few = positive.nonzero()[:5, 0]
    sae.threshold.copy_(sae.threshold.where(torch.isin(torch.arange(400), few), torch.tensor(1e9)))
    assert Sieve(sae).firings(x)[1].tolist() == few.tolist()


def test_where_much_fires_the_dense_product_is_used():
    sae = random_sae("relu", 16, 64)
    sae.b_enc.fill_(1.0)
    x = torch.randn(50, 16)
    assert Sieve(sae).firings(x) is None
    offsets, positions, firings = invert_shard(sae, x, 20, np.ones(50, bool))
    assert len(firings) == int((sae.encode(x) > 0).sum())


def test_nothing_fires():
    sae = random_sae("relu", 16, 64)
    sae.b_enc.fill_(-1e6)
    assert [len(part) for part in Sieve(sae).firings(torch.randn(5, 16))] == [0, 0, 0]
