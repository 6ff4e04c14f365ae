"""Published SAEs against what their own libraries computed (tests/fixtures/make_*.py), and refusals where that is not possible."""

import pathlib

import pytest
import torch
from safetensors.torch import load_file

from core.saes.formats import load_published

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
CASES = sorted(path.parent for path in FIXTURES.rglob("expected.safetensors") if path.parent.parent.name not in ("skip_connection", "transcoder"))


@pytest.mark.parametrize("folder", CASES, ids=[str(folder.relative_to(FIXTURES)) for folder in CASES])
def test_encode_and_decode_are_the_librarys(folder):
    expected = load_file(folder / "expected.safetensors")
    sae = load_published(str(folder)).sae
    f = sae.encode(expected["x"])
    assert (expected["f"] != 0).any() and (expected["f"] == 0).any()
    torch.testing.assert_close(f, expected["f"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.decode(f, expected["x"]), expected["x_hat"], rtol=1e-5, atol=1e-5)
