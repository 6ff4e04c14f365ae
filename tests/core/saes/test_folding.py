"""Folding changes the tensors and not what is computed: each against the unfolded SAE on inputs
that were changed by hand."""

import pytest
import torch

from core.saes import SAE, SAEConfig
from core.saes.formats import folding

pytestmark = pytest.mark.numeric

D, F = 6, 11
SHAPES = {"W_enc": (D, F), "W_dec": (F, D), "b_dec": (D,)}
EXTRAS = {"relu": (), "jumprelu": ("threshold",), "gated": ("gate_scale", "gate_bias")}


@pytest.fixture(
    params=[(kind, subtract) for kind in EXTRAS for subtract in (True, False)],
    ids=lambda param: f"{param[0]} {param[1]}",
)
def form(request):
    return SAEConfig(request.param[0], request.param[0], subtract_b_dec=request.param[1])


@pytest.fixture
def tensors(form):
    generator = torch.Generator().manual_seed(1)
    made = {
        name: torch.randn(SHAPES.get(name, (F,)), generator=generator)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", *EXTRAS[form.activation])
    }
    return made | {name: made[name].abs() for name in ("threshold", "gate_scale") if name in made}


def vectors():
    return torch.randn(20, D, generator=torch.Generator().manual_seed(2))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_scaled_input(form, tensors):
    x, scale = vectors(), 0.3
    before, after = SAE(form, tensors), SAE(form, folding.scaled_input(tensors, scale))
    close(after.encode(x), before.encode(x * scale))
    close(after.reconstruct(x), before.reconstruct(x * scale) / scale)


def test_raw_units(form, tensors):
    x, norm = vectors(), 7.0
    before, after = SAE(form, tensors), SAE(form, folding.raw_units(tensors, norm))
    close(after.encode(x) / norm, before.encode(x / norm))
    close(after.reconstruct(x) / norm, before.reconstruct(x / norm))


def test_unit_decoder(form, tensors):
    x = vectors()
    before, after = SAE(form, tensors), SAE(form, folding.unit_decoder(tensors))
    close(after.W_dec.norm(dim=1), torch.ones(F))
    close(after.encode(x), before.encode(x) * before.W_dec.norm(dim=1))
    close(after.reconstruct(x), before.reconstruct(x))


def test_whitened_input(form, tensors):
    x, generator = vectors(), torch.Generator().manual_seed(3)
    mean, matrix = (
        torch.randn(D, generator=generator),
        torch.eye(D) + 0.3 * torch.randn(D, D, generator=generator),
    )
    inverse = torch.linalg.inv(matrix)
    before, after = (
        SAE(form, tensors),
        SAE(form, folding.whitened_input(tensors, mean, matrix, inverse, form.subtract_b_dec)),
    )
    close(after.encode(x), before.encode((x - mean) @ matrix))
    close(after.reconstruct(x), before.reconstruct((x - mean) @ matrix) @ inverse + mean)


def test_a_threshold_that_was_never_set_stays():
    scaled = folding.raw_units(
        {"b_enc": torch.ones(2), "b_dec": torch.ones(2), "threshold": torch.tensor([-1.0, 2.0])},
        5.0,
    )
    assert scaled["threshold"].tolist() == [-1.0, 10.0]
