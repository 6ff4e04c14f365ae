"""Which controls a whole run makes of a transcoder."""

from types import SimpleNamespace

import pytest

from autointerp import whole
from core.settings import RunSettings


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        (RunSettings(), ["random", "untrained"]),
        (RunSettings(sae="published"), ["random"]),
        (RunSettings(site="mlp_in.1", site_out="mlp_out.1"), ["untrained"]),
        (RunSettings(site="mlp_in.1", site_out="mlp_out.1", sae="published"), []),
        (RunSettings(weights="random"), []),
    ],
)
def test_a_transcoder_has_no_control_of_untrained_directions(monkeypatch, capsys, settings, made):
    """Untrained directions predict nothing; the untrained subject's own transcoder does."""
    run = SimpleNamespace(
        name="r", settings=settings, manifest=lambda unit: SimpleNamespace(summary={})
    )
    monkeypatch.setattr(whole, "make_control_run", lambda run, directions: directions)
    monkeypatch.setattr(whole, "make_untrained_run", lambda run: "untrained")
    assert whole.make_controls(run) == made
    said = capsys.readouterr().err
    assert ("--directions neurons" in said) == bool(settings.site_out)
