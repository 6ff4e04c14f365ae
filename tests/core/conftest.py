"""Copies of published SAEs that a test may change."""

import json
import pathlib
import shutil

import pytest

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def copy(tmp_path):
    """A copy of a fixture in a new folder, with its settings changed; a value of None takes the
    setting away.
    """

    def make(name, settings=None, file="cfg.json", **tensors):
        folder = tmp_path / "copy" / name
        shutil.copytree(FIXTURES / name, folder)
        path = folder / file
        table = json.loads(path.read_text()) | (settings or {})
        path.write_text(
            json.dumps({key: value for key, value in table.items() if value is not None})
        )
        if tensors:
            from safetensors.torch import load_file, save_file

            weights = folder / "sae_weights.safetensors"
            save_file(load_file(weights) | tensors, weights)
        return folder

    return make
