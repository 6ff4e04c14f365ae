"""Untrained directions on the same activations, and what a clamp on neutral prefixes changes."""

import json
import os

import numpy as np
import pytest
import torch

from core.activations.store import ActivationStore
from core.clamps.clamp import clamp_edit
from core.effects.effects import PREFIXES
from core.errors import UsageError
from core.firings.postings import maxima
from core.records import Clamp, Site
from core.saes import SAE
from core.settings import EffectsSettings, IndexSettings
from core.subject.load import load_subject
from core.text.tokens import Tokens
from core.training.controls import make_control
from tests.support.stages import effects, index


def train(run):
    store = ActivationStore(run.folder("capture"))
    x = torch.cat([store.shard(i).float() for i in range(store.n_shards)]).numpy()
    return x[Tokens(run.folder("capture")).in_split("train")]


def test_random_directions_are_as_many_of_unit_length_and_fire_as_often(run_copy):
    control = make_control(run_copy, "random")
    sae, trained = SAE.load(control.folder("train")), SAE.load(run_copy.folder("train"))
    assert (sae.n_features, sae.config.k) == (trained.n_features, trained.config.k)
    np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(sae.b_dec, train(run_copy).mean(0), atol=1e-4)
    ids = "ids.npy"
    assert (
        os.stat(control.path / "capture" / ids).st_ino
        == os.stat(run_copy.path / "capture" / ids).st_ino
    ), "the capture is linked, not copied"
    index(control, IndexSettings())
    assert control.manifest("index").summary["firings_per_token"] == pytest.approx(
        sae.config.k, abs=0.3
    )
    assert (
        make_control(run_copy, "random").manifest("train").key == control.manifest("train").key
    ), "asked for again, it is there"


def test_principal_directions_are_those_of_a_singular_value_decomposition(run_copy):
    sae = SAE.load(make_control(run_copy, "pca").folder("train"))
    x = train(run_copy)
    _, _, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    d = x.shape[1]
    assert sae.W_dec.shape == (2 * d, d)
    np.testing.assert_allclose(np.abs((sae.W_dec[:d].numpy() * rows).sum(1)), 1, atol=1e-3)
    np.testing.assert_allclose(sae.W_dec[d:], -sae.W_dec[:d])


def test_an_unknown_control_is_refused(run_copy):
    with pytest.raises(UsageError, match="no control"):
        make_control(run_copy, "magic")


def test_changes_under_a_clamp_are_those_of_clamping_one_feature_alone(run_copy):
    effects(run_copy, EffectsSettings(clamp=2.0))
    found = np.load(run_copy.folder("effects") / "clamped.npy")
    subject, sae, site = (
        load_subject(run_copy),
        SAE.load(run_copy.folder("train")),
        Site.parse(run_copy.settings.site),
    )
    largest = maxima(run_copy, sae.n_features)
    assert found.shape == (sae.n_features, subject.n_vocabulary) and largest.max() > 0
    for feature in (int(np.argmax(largest)), int(np.argsort(largest)[-5])):
        edit, total = clamp_edit(sae, [Clamp(feature, "set", 2.0 * float(largest[feature]))]), 0.0
        for text in PREFIXES:
            row = torch.tensor([subject.prompt_tokens(text)])
            plain, clamped = (
                subject.logits(row, *more)[0, -1].log_softmax(-1) for more in ((), (site, edit))
            )
            total = total + (clamped - plain)
        np.testing.assert_allclose(
            found[feature], total.detach().numpy() / len(PREFIXES), atol=0.02, rtol=2e-3
        )
    assert (found[largest == 0] == 0).all()


def test_without_clamps_there_is_no_file_of_them(run_copy):
    effects(run_copy, EffectsSettings(clamp=0.0))
    assert not (run_copy.folder("effects") / "clamped.npy").exists()
    assert (
        json.loads((run_copy.folder("effects") / "manifest.json").read_text())["summary"][
            "features"
        ]
        > 0
    )
