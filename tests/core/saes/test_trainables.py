"""Every architecture in training: loss and gradients against the paper's formula in plain autograd,
constraints, and that what it measures is the SAE that it makes.
"""

import numpy as np
import pytest
import torch

from core.errors import UsageError
from core.saes import products, selection
from core.saes.architectures.jumprelu import BANDWIDTH
from core.saes.architectures.untied import AUX_WEIGHT
from core.settings import ARCHITECTURES, WITH_K, TrainSettings
from core.training.trainer import KINDS, make_sae

pytestmark = pytest.mark.numeric

D, F, K, B, PENALTY = 6, 10, 3, 40, 0.3
NONE = torch.zeros(0, dtype=torch.int64)
DEAD = [NONE, torch.tensor([1]), torch.tensor([0, 3, 4, 6, 8])]


def random_sae(architecture, seed=0, d_in=D, n_features=F, dtype=torch.float64):
    """Weights that no initialisation gives: nothing is zero, the encoder is not the decoder's
    transpose."""
    generator = torch.Generator().manual_seed(seed)
    sae = KINDS[architecture](d_in, n_features, *((K,) if architecture in WITH_K else ())).to(dtype)
    with torch.no_grad():
        for tensor in sae.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if architecture == "tied_l1":
            sae.t.copy_(torch.randn(d_in, generator=generator))
        if architecture == "jumprelu":
            sae.threshold.abs_().mul_(0.2)
        sae.after_step()
    return sae


@pytest.fixture(params=list(ARCHITECTURES))
def trainable(request):
    return random_sae(request.param, dtype=torch.float32)


def vectors(n=B, seed=5, d_in=D, dtype=torch.float64):
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed)).to(dtype)


# ---------------------------------------------------------------- the papers' losses, dense and
# with masks


def masked_largest(values, k):
    return values >= values.topk(k, dim=1).values[:, -1:]


def aux(sae, pre, error, dead):
    """AuxK with the dead found by masks."""
    if not len(dead):
        return 0.0
    among = torch.full_like(pre, -torch.inf).index_copy(1, dead, pre[:, dead])
    f = torch.where(masked_largest(among, min(D // 2, len(dead))), pre, 0.0).relu()
    return (
        AUX_WEIGHT
        * (error.detach() - f @ sae.W_dec).square().mean()
        / error.detach().square().mean()
    )


def untied_parts(sae, x, mask):
    pre = (x - sae.b_dec) @ sae.E.T + sae.b_enc
    f = torch.where(mask(pre), pre, 0.0).relu()
    return pre, f, x - f @ sae.W_dec - sae.b_dec


def topk_loss(sae, x, dead):
    pre, _, error = untied_parts(sae, x, lambda pre: masked_largest(pre, K))
    return error.square().mean() + aux(sae, pre, error, dead)


def batch_topk_loss(sae, x, dead):
    pre, _, error = untied_parts(
        sae, x, lambda pre: pre >= pre.flatten().sort(descending=True).values[K * len(x) - 1]
    )
    return error.square().mean() + aux(sae, pre, error, dead)


def matryoshka_loss(sae, x, dead):
    pre, f, error = untied_parts(
        sae, x, lambda pre: pre >= pre.flatten().sort(descending=True).values[K * len(x) - 1]
    )
    prefixes = (1, 2, 5, 10)
    return sum((x - f[:, :m] @ sae.W_dec[:m] - sae.b_dec).square().mean() for m in prefixes) / len(
        prefixes
    ) + aux(sae, pre, error, dead)


def l1_loss(sae, x, dead):
    _, f, error = untied_parts(sae, x, lambda pre: pre > 0)
    return error.square().mean() + PENALTY * (f * sae.W_dec.square().sum(1).sqrt()).sum(1).mean()


def gated_loss(sae, x, dead):
    product = (x - sae.b_dec) @ sae.E.T
    gate = product + sae.b_enc
    f = torch.where(gate > 0, (product * sae.r.exp() + sae.b_mag).relu(), 0.0)
    frozen = x - gate.relu() @ sae.W_dec.detach() - sae.b_dec.detach()
    return (
        (x - f @ sae.W_dec - sae.b_dec).square().mean()
        + PENALTY * gate.relu().sum(1).mean()
        + frozen.square().mean()
    )


def tied_loss(sae, x, dead):
    rows = sae.E / sae.E.square().sum(1, keepdim=True).sqrt()
    f = ((x - sae.t) @ rows.T + sae.b).relu()
    return (x - f @ rows - sae.t).square().mean() + PENALTY * f.abs().sum(1).mean()


LOSSES = {
    "topk": topk_loss,
    "batch_topk": batch_topk_loss,
    "matryoshka": matryoshka_loss,
    "l1": l1_loss,
    "gated": gated_loss,
    "tied_l1": tied_loss,
}


def gradients(sae, total):
    sae.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters()}


@pytest.mark.parametrize("dead", DEAD, ids=len)
@pytest.mark.parametrize("architecture", list(LOSSES))
def test_loss_and_gradients_are_those_of_the_dense_formula(architecture, dead):
    sae, x = random_sae(architecture), vectors()
    loss, dense = (
        sae.training_loss(x, PENALTY, dead, torch.float64),
        LOSSES[architecture](sae, x, dead),
    )
    torch.testing.assert_close(loss.total, dense)
    ours, expected = gradients(sae, loss.total), gradients(sae, dense)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("dead", DEAD, ids=len)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_fused_pass_is_the_plain_formula(architecture, dead):
    """The plain one moves BatchTopK's threshold too, so each starts from the same weights."""
    x = vectors()
    fused, plain = random_sae(architecture), random_sae(architecture)
    a = fused.training_loss(x, PENALTY, dead, torch.float64)
    b = plain.plain_loss(x, PENALTY, dead)
    for name in ("total", "reconstruction", "sparsity", "l0"):
        torch.testing.assert_close(getattr(a, name).double(), getattr(b, name).double(), msg=name)
    assert torch.equal(a.fired, b.fired)
    ours, expected = gradients(fused, a.total), gradients(plain, b.total)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().max() > 0
    if architecture in ("batch_topk", "matryoshka"):
        assert float(fused.cut) == pytest.approx(float(plain.cut))


def test_jumprelu_gradients_are_the_papers_equations_one_entry_at_a_time():
    """The slope of the jump is written out for each entry of pre; its gradient then goes on to the
    weights by plain autograd."""
    sae, x = random_sae("jumprelu"), vectors(400)
    pre = (x - sae.b_dec) @ sae.E.T + sae.b_enc
    p, thresholds, W = (
        pre.detach().numpy(),
        sae.threshold.detach().numpy(),
        sae.W_dec.detach().numpy(),
    )
    f = np.where(p > thresholds, p, 0.0)
    error = f @ W + sae.b_dec.detach().numpy() - x.numpy()
    by_threshold, by_pre, near = np.zeros(F), np.zeros(p.shape), 0
    for b in range(len(x)):
        for i in range(F):
            g = 2 / error.size * (error[b] @ W[i])
            by_pre[b, i] = g if p[b, i] > thresholds[i] else 0.0
            if abs(p[b, i] - thresholds[i]) < BANDWIDTH / 2:
                near += 1
                slope = g * thresholds[i] / BANDWIDTH + PENALTY / len(x) / BANDWIDTH
                by_threshold[i] -= slope
                by_pre[b, i] += slope
    loss = sae.training_loss(x, PENALTY, NONE, torch.float64)
    assert loss.total.item() == pytest.approx((error**2).mean() + PENALTY * (f > 0).sum() / len(x))
    found = gradients(sae, loss.total)
    assert 200 < near < p.size / 2
    np.testing.assert_allclose(found["threshold"].numpy(), by_threshold, rtol=1e-6)
    decoded = (x - torch.from_numpy(f) @ sae.W_dec - sae.b_dec).square().mean()
    for name, gradient in gradients_but_threshold(
        sae, decoded + (pre * torch.from_numpy(by_pre)).sum()
    ).items():
        torch.testing.assert_close(found[name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def gradients_but_threshold(sae, total):
    names = [name for name, _ in sae.named_parameters() if name != "threshold"]
    return dict(
        zip(
            names,
            torch.autograd.grad(total, [sae.get_parameter(name) for name in names]),
            strict=True,
        )
    )


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_bfloat16_products_change_a_gradient_by_about_their_rounding(architecture):
    sae, x = (
        random_sae(architecture, d_in=32, n_features=96, dtype=torch.float32),
        vectors(512, d_in=32, dtype=torch.float32),
    )
    if architecture in WITH_K:
        sae.k = 90  # nearly all that is positive: which ones win is a matter of rounding
    exact = gradients(sae, sae.training_loss(x, 0.01, NONE, torch.float32).total)
    rounded = gradients(sae, sae.training_loss(x, 0.01, NONE, torch.bfloat16).total)
    for name in exact.keys() - {
        "threshold",
        "b_enc",
    }:  # sums of rounded signs near a threshold; sums of nearly cancelling entries
        assert float((rounded[name] - exact[name]).norm() / exact[name].norm()) < 0.03, name
        assert rounded[name].dtype == torch.float32


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("n", "k"), [(2048, 32), (2048, 5), (100, 7), (64, 64), (96, 3), (33, 1)])
def test_the_largest_are_those_that_topk_finds(n, k, dtype):
    pre = torch.randn(50, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    pre[3] = -1.0  # nothing positive
    pre[4, : n // 2] = 2.0  # ties
    values, places = selection.largest(pre, k)
    expected = pre.topk(k, dim=1).values.relu()
    assert torch.equal(values.sort(1, descending=True).values, expected)
    assert torch.equal(pre.gather(1, places).relu(), values)
    assert all(len(set(row.tolist())) == k for row in places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("k", [1, 37, 400, 1000])
def test_the_border_of_a_batch_is_the_kth_largest_and_what_is_below_it(k, dtype):
    pre = torch.randn(20, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    ordered = pre.flatten().sort(descending=True).values
    last, below = selection.find_border(pre, k)
    assert last == max(0.0, float(ordered[k - 1]))
    assert below == max([0.0, *ordered[ordered < last].tolist()])
    assert last == 0 or torch.equal(pre > below, pre >= last)
    assert selection.find_border(-pre.abs() - 1, k) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_that_tie_are_on_one_side_of_the_border(dtype):
    pre = torch.tensor([[3.0, 2.0, 2.0], [2.0, 1.0, -1.0]], dtype=dtype)
    expected = {1: (3, 2), 2: (2, 1), 3: (2, 1), 4: (2, 1), 5: (1, 0), 6: (0, 0)}
    assert {k: selection.find_border(pre, k) for k in expected} == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_of_bits_is_the_mask_of_numbers(dtype):
    generator = torch.Generator().manual_seed(3)
    g, x = (torch.randn(40, 64, generator=generator).to(dtype) for _ in range(2))
    x[0], x[1], x[2], x[3] = 0.0, -0.0, 1e-30, -1e-30
    assert torch.equal(products.where_positive(g, x), torch.where(x > 0, g, 0.0))
    assert 0 < int((x > 0).sum()) < x.numel()


def test_the_largest_do_not_depend_on_how_many_rows_are_looked_at_together(monkeypatch):
    pre = torch.randn(70, 512, generator=torch.Generator().manual_seed(5))
    values, places = selection.largest(pre, 8)
    monkeypatch.setattr(selection, "CHUNK", 1)
    fewer = selection.largest(pre, 8)
    assert torch.equal(fewer[0], values)
    assert torch.equal(fewer[1], places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_at_some_features_are_those_of_the_whole_product(dtype):
    generator = torch.Generator().manual_seed(4)
    g, W = (torch.randn(n, 24, generator=generator).to(dtype) for n in (30, 50))
    features = torch.rand(30, 50, generator=generator).topk(7, sorted=False).indices
    expected = (g.double() @ W.double().T).gather(1, features)
    found = products.products_at(g, W, features).double()
    torch.testing.assert_close(
        found, expected, rtol=1e-2, atol=0.1 if dtype == torch.bfloat16 else 1e-5
    )


@pytest.mark.parametrize("n_features", [10, 70_000])
def test_firings_in_order_of_feature(n_features):
    features = torch.randint(0, n_features, (30, 4), generator=torch.Generator().manual_seed(2))
    order, starts = selection.order_by_feature(features, n_features)
    flat = features.flatten()
    assert sorted(order.tolist()) == list(range(120)) and len(starts) == n_features + 1
    for feature in flat.unique():
        assert set(order[starts[feature] : starts[feature + 1]].tolist()) == set(
            (flat == feature).nonzero()[:, 0].tolist()
        )


# ---------------------------------------------------------------- what training tells and makes


def test_training_measures_the_sae_that_it_makes(trainable):
    x = vectors(dtype=torch.float32)
    for _ in range(300 if hasattr(trainable, "cut") else 0):
        trainable.training_loss(x, PENALTY, NONE)  # the running threshold settles
    trainable.eval()
    sae = trainable.finish(1.0)
    f = sae.encode(x)
    loss = trainable.training_loss(x, PENALTY, NONE)
    assert torch.equal(loss.fired, (f > 0).any(0))
    assert float(loss.l0) == pytest.approx(float((f > 0).sum(1).float().mean()))
    assert float(loss.reconstruction) == pytest.approx(
        float((sae.reconstruct(x) - x).square().mean()), rel=1e-5
    )
    penalised = {
        "l1": f.sum(1).mean(),
        "tied_l1": f.sum(1).mean(),
        "jumprelu": (f > 0).sum(1).float().mean(),
    }
    if trainable.architecture in penalised:
        assert float(loss.sparsity) == pytest.approx(
            float(penalised[trainable.architecture]), rel=1e-5
        )
    if trainable.architecture in WITH_K:
        assert float(loss.sparsity) == 0 and float(loss.l0) == pytest.approx(K, abs=0.15)


def test_a_finished_sae_reads_raw_vectors_where_training_read_scaled_ones(trainable):
    x, scale = vectors(dtype=torch.float32), 7.5
    trainable.training_loss(x / scale, PENALTY, NONE)
    small, raw = trainable.finish(1.0), trainable.finish(scale)
    torch.testing.assert_close(raw.encode(x), small.encode(x / scale) * scale, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        raw.reconstruct(x), small.reconstruct(x / scale) * scale, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(raw.W_dec.norm(dim=1), torch.ones(F))
    trainable.E.data += 1.0
    assert torch.equal(raw.encode(x), raw.encode(x)) and not torch.equal(
        trainable.finish(scale).W_enc, raw.W_enc
    ), "they share no memory"


def test_a_batch_where_too_few_are_positive_lets_all_of_them_fire():
    sae = random_sae("batch_topk")
    with torch.no_grad():
        sae.b_enc -= 3.0
    x = vectors()
    pre = (x - sae.b_dec) @ sae.E.T + sae.b_enc
    loss = sae.training_loss(x, 0.0, NONE, torch.float64)
    assert (
        float(loss.l0) == pytest.approx(float((pre > 0).sum() / len(x))) and 0 < float(loss.l0) < K
    )
    assert float(sae.cut) == pytest.approx(pre[pre > 0].min().item() / 2)


def test_the_threshold_of_batch_topk_is_a_running_mean_of_the_middle_of_the_border():
    sae, expected = random_sae("batch_topk"), None
    for seed in range(4):
        x = vectors(seed=seed)
        pre = (
            ((x - sae.b_dec) @ sae.E.T + sae.b_enc).detach().flatten().sort(descending=True).values
        )
        middle = float(pre[K * B - 1] + pre[K * B]) / 2
        sae.training_loss(x, 0.0, NONE, torch.float64)
        expected = middle if expected is None else expected + 0.1 * (middle - expected)
        assert float(sae.cut) == pytest.approx(expected)
    before = float(sae.cut)
    sae.eval().training_loss(vectors(seed=9) * 5, 0.0, NONE, torch.float64)
    assert float(sae.cut) == before, "measuring does not move it"


@pytest.mark.parametrize("architecture", ["batch_topk", "matryoshka"])
def test_what_fires_in_a_batch_fires_in_use_however_it_is_rounded(architecture):
    """With one seed too few are positive, and all of them fire."""
    for seed in range(20):
        sae, x = (
            random_sae(architecture, seed, dtype=torch.float32),
            vectors(seed=seed, dtype=torch.float32),
        )
        pre = ((x - sae.b_dec) @ sae.E.T + sae.b_enc).detach()
        last = pre.flatten().sort(descending=True).values[K * B - 1]
        sae.training_loss(x, PENALTY, NONE)
        for rounding in (-1e-6, 0.0, 1e-6):
            f = sae.finish(1.0).encode(x + rounding * x.abs())
            assert torch.equal(f > 0, (pre >= last) & (pre > 0)), (seed, rounding)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "matryoshka"])
def test_auxk_reaches_the_encoder_of_features_that_never_fire(architecture):
    sae, x = random_sae(architecture), vectors()
    with torch.no_grad():
        sae.b_enc += 8.0  # of the nine others, the k largest are far above
        sae.E[4] = 0.01 * torch.randn(D, generator=torch.Generator().manual_seed(1))
        sae.b_enc[4] = 0.05  # above zero, far below the k largest
    without = gradients(sae, sae.training_loss(x, 0.0, NONE, torch.float64).total)
    with_aux = gradients(sae, sae.training_loss(x, 0.0, torch.tensor([4]), torch.float64).total)
    for name in ("E", "b_enc", "W_dec"):
        assert without[name][4].abs().max() == 0 < with_aux[name][4].abs().max()


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in ("l1", "tied_l1")])
def test_decoder_rows_stay_unit_length_and_steps_waste_nothing_on_length(architecture):
    sae = random_sae(architecture)
    optimiser = torch.optim.SGD(sae.parameters(), lr=0.05)
    for seed in range(5):
        optimiser.zero_grad()
        sae.training_loss(vectors(seed=seed), 0.01, torch.arange(F), torch.float64).total.backward()
        before = sae.W_dec.detach().clone()
        sae.before_step()
        torch.testing.assert_close(
            (sae.W_dec.grad * before).sum(1), torch.zeros(F, dtype=torch.float64), atol=1e-6, rtol=0
        )
        optimiser.step()
        assert (sae.W_dec.detach() - before).abs().max() > 1e-4
        sae.after_step()
        torch.testing.assert_close(
            sae.W_dec.detach().norm(dim=1), torch.ones(F, dtype=torch.float64)
        )


def test_a_threshold_does_not_fall_below_zero():
    sae = random_sae("jumprelu")
    with torch.no_grad():
        sae.threshold.fill_(-1.0)
    sae.after_step()
    assert torch.equal(sae.threshold.detach(), torch.zeros(F, dtype=torch.float64))


def test_the_same_generator_gives_the_same_start(trainable):
    starts = []
    for seed in (1, 1, 2):
        other = random_sae(trainable.architecture, 3, dtype=torch.float32).requires_grad_(False)
        other.initialise(torch.arange(D).float(), torch.Generator().manual_seed(seed))
        starts.append(other.finish(1.0).W_dec)
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    torch.testing.assert_close(starts[0].norm(dim=1), torch.ones(F))


@pytest.mark.parametrize("k", [0, F + 1])
@pytest.mark.parametrize("architecture", WITH_K)
def test_a_k_that_cannot_be_is_an_error(architecture, k):
    with pytest.raises(UsageError, match=f"k is {k}"):
        KINDS[architecture](D, F, k)


def test_an_l0_that_nothing_could_follow_is_an_error():
    with pytest.raises(UsageError, match="no penalty"):
        make_sae(TrainSettings(target_l0=20.0), D)


def test_reviving_points_a_dead_feature_at_what_is_not_reconstructed():
    sae = random_sae("tied_l1", dtype=torch.float32).requires_grad_(False)
    sae.E.copy_(torch.eye(F, D))
    sae.E[D:] = torch.eye(D)[: F - D]
    sae.b.fill_(0.0)
    sae.b[2] = sae.b[2 + D] = -1e6  # nothing reads dimension 2
    sae.t.zero_()
    x = torch.zeros(20, D)
    x[:, 2] = 3.0
    dead, alive = torch.tensor([2, 2 + D]), [i for i in range(F) if i not in (2, 2 + D)]
    sae.revive(dead, x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_dec[dead], torch.eye(D)[[2, 2]])
    assert (sae.b[dead] == 0).all()
    torch.testing.assert_close(sae.W_dec[alive], torch.cat([torch.eye(D), torch.eye(D)])[:F][alive])


# ---------------------------------------------------------------- transcoders


UNTIED = [name for name in ARCHITECTURES if name != "tied_l1"]
D_OUT, RATIO = 5, 1.7


def random_transcoder(architecture, skip):
    generator = torch.Generator().manual_seed(1)
    sae = KINDS[architecture](D, F, *((K,) if architecture in WITH_K else ()))
    sae.make_transcoder(D_OUT, skip, RATIO)
    sae = sae.to(torch.float64)
    with torch.no_grad():
        for tensor in (*sae.parameters(), sae.centre):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if architecture == "jumprelu":
            sae.threshold.abs_().mul_(0.2)
        sae.after_step()
    return sae


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("dead", [NONE, torch.tensor([0, 3, 4])], ids=len)
@pytest.mark.parametrize("architecture", UNTIED)
def test_a_transcoder_s_loss_and_gradients_are_those_of_plain_autograd(architecture, dead, skip):
    sae, x = random_transcoder(architecture, skip), vectors()
    target = vectors(seed=8, d_in=D_OUT)
    fused = sae.training_loss(x, PENALTY, dead, torch.float64, target)
    ours = gradients(sae, fused.total)
    if hasattr(sae, "cut"):
        sae.cut.fill_(-1.0)
    plain = sae.plain_loss(x, PENALTY, dead, target)
    torch.testing.assert_close(fused.total, plain.total)
    torch.testing.assert_close(fused.reconstruction, plain.reconstruction)
    for name, gradient in gradients(sae, plain.total).items():
        torch.testing.assert_close(ours[name], gradient, msg=lambda m, name=name: f"{name}: {m}")
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("architecture", UNTIED)
def test_a_finished_transcoder_predicts_raw_outputs_as_in_training(architecture, skip):
    sae, x, target = random_transcoder(architecture, skip), vectors(), vectors(seed=8, d_in=D_OUT)
    if hasattr(sae, "cut"):
        sae.cut.fill_(0.4)
    sae.eval()
    scale = 3.0  # of the targets; x was divided by scale / RATIO
    used = sae.finish(scale)
    assert used.config.transcoder and used.has_skip == skip and used.d_out == D_OUT
    predicted = used.reconstruct((x * scale / RATIO).float()).double() / scale
    error = (target - predicted).square().mean()
    loss = sae.training_loss(x, 0.0, NONE, torch.float64, target)
    torch.testing.assert_close(error, loss.reconstruction, rtol=1e-5, atol=1e-6)


def test_decoder_rows_of_a_new_transcoder_are_what_a_linear_map_predicts():
    """Behind a linear map each feature starts with the direction that it has to write."""
    x, draw = vectors(n=400, dtype=torch.float32), torch.Generator().manual_seed(2)
    linear = torch.randn(D, D_OUT, generator=draw)
    sae = KINDS["topk"](D, F, K)
    sae.make_transcoder(D_OUT, False, 1.0)
    sae.initialise_transcoder(x, x @ linear + 2.0, draw)
    expected = torch.nn.functional.normalize(sae.E @ linear, dim=1)
    torch.testing.assert_close(sae.W_dec.detach(), expected.detach(), rtol=0, atol=5e-3)
    torch.testing.assert_close(sae.centre, x.mean(0))
