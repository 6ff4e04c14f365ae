"""The SAE of a run, written for SAELens."""

import json

import pytest
import torch

from core.errors import NotReady, UsageError
from core.run import Run
from core.saes import SAE
from core.training.published import export_saelens


def test_the_runs_sae_in_the_layout_of_saelens(tiny_run, tmp_path):
    told = export_saelens(tiny_run, tmp_path / "out")
    published, sae = SAE.load(str(tmp_path / "out")), SAE.load(tiny_run.folder("train"))
    x = torch.randn(20, sae.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(published.reconstruct(x), sae.reconstruct(x))
    assert (str(published.site), published.subject) == (
        tiny_run.settings.site,
        tiny_run.settings.subject,
    )
    assert published.context == tiny_run.manifest("capture").settings["context"] > 0
    assert (
        told["features"] == sae.n_features
        and json.loads((tmp_path / "out/cfg.json").read_text())["d_sae"] == sae.n_features
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    export_saelens(tiny_run, tmp_path / "out")  # what it wrote it may write again


def test_a_folder_with_other_files_and_an_untrained_run(tiny_run, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="other files"):
        export_saelens(tiny_run, tmp_path)
    with pytest.raises(NotReady, match="train has not been made"):
        export_saelens(Run.create(str(tmp_path / "empty"), tiny_run.settings), tmp_path / "out")
