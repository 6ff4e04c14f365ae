"""The sieve finds what a dense product in float32 finds."""

import numpy as np
import pytest
import torch

import core.saes.prefilter
from core.firings.index import encode_firings, invert_shard
from core.saes import SAE, SAEConfig
from core.saes.prefilter import Prefilter, TopKPrefilter, make_prefilter

pytestmark = pytest.mark.numeric


def random_sae(activation, d, n_features, scale=1.0, seed=0, k=0):
    """Weights of any length, offsets of any size; few features fire on a vector of unit variance
    times `scale`."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    W_dec = torch.nn.functional.normalize(draw(n_features, d), dim=1)
    length = draw(n_features).exp()
    W_enc = W_dec.T * length
    tensors = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_dec": draw(d) * scale,
        "b_enc": -3.0 * length * scale,
    }
    if activation == "jumprelu":
        tensors["threshold"] = (draw(n_features).abs() * 0.3 * length * scale).clamp(min=0)
    return SAE(SAEConfig("made", activation, k), tensors)


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize(
    ("d", "n_features", "scale"), [(16, 100, 1.0), (256, 3000, 1e3), (768, 999, 1e-3)]
)
def test_the_firings_are_those_of_a_dense_product(activation, d, n_features, scale):
    sae = random_sae(activation, d, n_features, scale)
    x = torch.randn(300, d, generator=torch.Generator().manual_seed(1)) * scale + sae.b_dec
    x[::7] *= 1.5  # vectors of other lengths
    x[1::7] *= 0.1
    found, expected = Prefilter(sae).find_firings(x), encode_firings(sae, x)
    row, feature, value = expected
    clear = value - (sae.threshold if activation == "jumprelu" else torch.zeros(n_features))[
        feature
    ].numpy() > 1e-5 * scale * np.sqrt(d)
    told = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    assert (
        len(row) > 100
        and set(zip(row[clear].tolist(), feature[clear].tolist(), strict=True)) <= told
    )
    assert len(told) <= len(row) + (~clear).sum() and (np.diff(found[0]) >= 0).all()
    np.testing.assert_allclose(
        found[2], sae.encode(x)[found[0], found[1]].numpy(), rtol=1e-4, atol=1e-4 * scale
    )


def test_activations_that_barely_pass_are_not_lost():
    """Thresholds set a hair below each activation: bfloat16 alone would miss about half of them."""
    sae = random_sae("jumprelu", 256, 400)
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(3)) * 30
    pre = (sae.prepare(x) @ sae.W_enc + sae.b_enc)[0]
    positive = pre > 0.1
    sae.threshold.copy_(torch.where(positive, pre * (1 - 1e-4), 1e9))
    columns = Prefilter(sae)
    rough = (sae.prepare(x).bfloat16() @ sae.W_enc.bfloat16()).float()[
        0
    ] + sae.b_enc > sae.threshold
    assert (
        rough[positive].sum() < positive.sum() and columns.find_firings(x) is None
    )  # too many pass: said to be dense
    few = positive.nonzero()[:5, 0]
    sae.threshold.copy_(sae.threshold.where(torch.isin(torch.arange(400), few), torch.tensor(1e9)))
    assert Prefilter(sae).find_firings(x)[1].tolist() == few.tolist()


def test_where_much_fires_the_dense_product_is_used():
    sae = random_sae("relu", 16, 64)
    sae.b_enc.fill_(1.0)
    x = torch.randn(50, 16)
    assert Prefilter(sae).find_firings(x) is None
    offsets, positions, firings = invert_shard(sae, x, 20, np.ones(50, bool))
    assert len(firings) == int((sae.encode(x) > 0).sum())


def test_nothing_fires():
    sae = random_sae("relu", 16, 64)
    sae.b_enc.fill_(-1e6)
    assert [len(part) for part in Prefilter(sae).find_firings(torch.randn(5, 16))] == [0, 0, 0]


# ---------------------------------------------------------------- TopK


def by_row(firings, n_rows):
    """The set of features that fire on each row."""
    row, feature, _ = firings
    assert (np.diff(row) >= 0).all()
    return [set(feature[row == i].tolist()) for i in range(n_rows)]


@pytest.mark.parametrize(
    ("d", "n_features", "k", "scale"),
    [(16, 640, 3, 1.0), (256, 3000, 20, 1e3), (64, 1003, 30, 1e-3), (32, 64, 2, 1.0)],
)
def test_the_k_largest_are_those_of_a_dense_product(d, n_features, k, scale):
    sae = random_sae("topk", d, n_features, scale, k=k)
    sae.b_enc[::3] *= -0.5  # of either sign
    x = torch.randn(300, d, generator=torch.Generator().manual_seed(1)) * scale + sae.b_dec
    x[::7] *= 1.5
    x[1::7] *= 0.1
    found = TopKPrefilter(sae).find_firings(x)
    pre = sae.prepare(x).double() @ sae.W_enc.double() + sae.b_enc.double()
    ordered = pre.sort(1, descending=True).values
    clear = (
        ordered[:, k - 1] - ordered[:, k] > 1e-5 * ordered[:, 0]
    ).numpy()  # on the others float32 decides
    told, expected = by_row(found, 300), by_row(encode_firings(sae, x), 300)
    assert clear.sum() > 250 and all(told[i] == expected[i] for i in np.flatnonzero(clear))
    np.testing.assert_allclose(
        found[2], pre[found[0], found[1]].numpy(), rtol=1e-4, atol=1e-4 * scale
    )


def test_features_that_bfloat16_cannot_tell_apart_are_chosen_as_float32_chooses():
    """64 columns that differ by less than bfloat16 holds; 8 of them fire."""
    d, k = 128, 8
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(d, generator=generator)
    W_enc = torch.randn(d, 512, generator=generator) * 0.1
    W_enc[:, :64] = column[:, None] * (1 + 1e-4 * torch.randperm(64, generator=generator))
    zeros = torch.zeros(d)
    sae = SAE(
        SAEConfig("made", "topk", k),
        {"W_enc": W_enc, "W_dec": W_enc.T.contiguous(), "b_dec": zeros, "b_enc": torch.zeros(512)},
    )
    x = column + 0.01 * torch.randn(50, d, generator=generator)
    rough = (x.bfloat16() @ W_enc.bfloat16()).float().topk(k).indices
    expected = [set(row) for row in (x @ W_enc).topk(k).indices.tolist()]
    assert sum(set(row) == e for row, e in zip(rough.tolist(), expected, strict=True)) < 10
    assert by_row(TopKPrefilter(sae).find_firings(x), 50) == expected
    sae.config = SAEConfig("made", "topk", 7)
    assert TopKPrefilter(sae).find_firings(x) is None, "more pass than is worth it"


def test_fewer_than_k_fire_where_fewer_are_positive():
    sae = random_sae("topk", 16, 640, k=6)
    sae.b_enc -= 1.5 * sae.W_enc.norm(dim=0)
    x = (
        sae.b_dec
        + torch.randn(200, 16, generator=torch.Generator().manual_seed(2))
        * torch.linspace(0.5, 3, 200)[:, None]
    )
    found, expected = (
        by_row(TopKPrefilter(sae).find_firings(x), 200),
        by_row(encode_firings(sae, x), 200),
    )
    assert found == expected and {0, 6} <= set(map(len, found)) and len(set(map(len, found))) > 4
    sae.b_enc.fill_(-1e6)
    assert [len(part) for part in TopKPrefilter(sae).find_firings(x)] == [0, 0, 0]


def test_a_sieve_is_for_cpus_that_are_fast_in_bfloat16_and_few_of_many(monkeypatch):
    monkeypatch.setattr(core.saes.prefilter, "pick_dtype", lambda *_: torch.bfloat16)
    kinds = [
        make_prefilter(sae)
        for sae in (
            random_sae("relu", 16, 64),
            random_sae("topk", 16, 64, k=2),
            random_sae("topk", 16, 64, k=3),
        )
    ]
    assert [type(kind) for kind in kinds] == [Prefilter, TopKPrefilter, type(None)]
    monkeypatch.setattr(core.saes.prefilter, "pick_dtype", lambda *_: torch.float32)
    assert make_prefilter(random_sae("relu", 16, 64)) is None
