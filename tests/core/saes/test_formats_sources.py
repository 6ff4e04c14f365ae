"""Where `--sae SPEC` looks: files and folders here, the hub's cache, and what it says when there is
nothing. No test reaches the network."""

import pathlib
import shutil
import types

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core import hub
from core.errors import NotReady, UsageError
from core.saes import SAE
from core.saes.formats.sources import files_wanted, find_source

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no way to the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(cache, repo, inner, fixture, revision="main"):
    """The fixture laid into the cache as the hub's client lays it."""
    root = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(FIXTURES / fixture, root / "snapshots" / "c0ffee" / inner)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / revision).write_text("c0ffee")


def response():
    return types.SimpleNamespace(
        headers={}, status_code=403, request=None, url="", text="", reason_phrase=""
    )


# ---------------------------------------------------------------- the hub


def test_an_sae_in_the_hubs_cache_loads_offline(cache):
    cached(cache, "me/saes", "layers.5", "sparsify/topk/layers.5")
    shutil.copy(
        FIXTURES / "sparsify/topk/config.json",
        cache / "models--me--saes/snapshots/c0ffee/config.json",
    )
    published = SAE.load("hf:me/saes/layers.5")
    assert (str(published.site), published.subject) == ("resid_post.5", "EleutherAI/pythia-160m")
    assert published.source == "sparsify, hf:me/saes/layers.5"


def test_a_revision_is_asked_for(cache):
    cached(cache, "me/saes", "a", "saelens/standard", revision="v2")
    assert SAE.load("hf:me/saes/a@v2").n_features == 11
    with pytest.raises(NotReady, match="not in the local cache"):
        SAE.load("hf:me/saes/a@v3")


def test_a_folder_that_looks_like_a_file(cache):
    """Some releases have folders called `….pt`."""
    cached(cache, "me/saes", "v5_32k_layer_8.pt", "saelens/topk_layer_norm")
    assert SAE.load("hf:me/saes/v5_32k_layer_8.pt").config.norm == "layer_norm"


def test_only_files_that_an_sae_may_consist_of_are_downloaded(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **more: asked.update(more, repo=repo) or str(FIXTURES / "saelens"),
    )
    SAE.load("hf:me/saes/standard@v2")
    assert (asked["repo"], asked["revision"]) == ("me/saes", "v2")
    assert {"standard/cfg.json", "standard/sae_weights.safetensors", "config.json"} <= set(
        asked["allow_patterns"]
    )
    assert all(
        "*" not in pattern and pattern.count("/") <= 2 for pattern in asked["allow_patterns"]
    )
    assert {"a/b/8.pt", "a/b/config.json", "a/config.json", "a/b/8_cfg.json"} <= set(
        files_wanted("a/b/8.pt")
    )


@pytest.mark.parametrize(
    ("error", "kind", "told", "then"),
    [
        (GatedRepoError("no", response=response()), NotReady, "gated", "HF_TOKEN"),
        (
            RepositoryNotFoundError("no", response=response()),
            UsageError,
            "no repository 'me/saes'",
            "Check the name",
        ),
        (
            RevisionNotFoundError("no", response=response()),
            UsageError,
            "no revision 'v9'",
            "Leave out",
        ),
        (LocalEntryNotFoundError("no"), NotReady, "cannot be reached", "local folder"),
        (ConnectionError("no"), NotReady, "cannot be reached", "local folder"),
    ],
    ids=["gated", "missing", "revision", "offline", "connection"],
)
def test_the_hubs_errors_are_two_lines(monkeypatch, error, kind, told, then):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=told) as caught:
        SAE.load("hf:me/saes/layer@v9")
    assert then in caught.value.next_step and str(caught.value).count("\n") == 1


def test_a_repository_of_many_saes_names_some(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    files = [f"layer_{n}/width_16k/average_l0_{n}/params.npz" for n in range(26)]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: files)
    for spec in ("hf:google/scope", "hf:google/scope/layer_99"):
        with pytest.raises(
            UsageError, match="26 of them, such as hf:google/scope/layer_0/width_16k/average_l0_0,"
        ):
            SAE.load(spec)
    monkeypatch.setattr(
        huggingface_hub, "list_repo_files", lambda *_, **__: ["big.pth", "README.md"]
    )
    with pytest.raises(UsageError, match="1 of them, such as hf:google/scope/big.pth"):
        SAE.load("hf:google/scope")


def test_a_cache_without_the_folder_says_so(cache):
    cached(cache, "me/saes", "layers.5", "sparsify/topk/layers.5")
    with pytest.raises(UsageError, match="nothing called 'layers.6'"):
        SAE.load("hf:me/saes/layers.6")


@pytest.mark.parametrize("spec", ["hf:gpt2", "hf:", "hf:a/b c", "hf:/x"])
def test_what_names_no_repository(spec):
    with pytest.raises(UsageError, match="names no repository"):
        SAE.load(spec)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf:a/b", ("a/b", "", "")),
        ("hf:a/b/", ("a/b", "", "")),
        ("hf:a/b/c/d", ("a/b", "c/d", "")),
        ("hf:a/b/c/d@main", ("a/b", "c/d", "main")),
        ("hf:a/b@refs/pr/1", ("a/b", "", "refs/pr/1")),
        ("hf:a/b/group_0_24576:v1", ("a/b", "group_0_24576:v1", "")),
    ],
)
def test_parts_of_a_spec(spec, parts):
    assert hub.parse(spec) == parts


# ---------------------------------------------------------------- here


def test_a_file_or_its_folder(tmp_path):
    folder = FIXTURES / "dictionary_learning/topk"
    for spec in (folder, folder / "ae.pt"):
        assert SAE.load(str(spec)).config.k == 3
    shutil.copytree(folder, tmp_path / "trainer_0")
    (tmp_path / "trainer_0/checkpoints").mkdir()
    (tmp_path / "trainer_0/ae.pt").rename(tmp_path / "trainer_0/checkpoints/ae_1000.pt")
    assert SAE.load(str(tmp_path / "trainer_0/checkpoints/ae_1000.pt")).config.k == 3


def test_a_folder_above_names_what_is_below():
    with pytest.raises(
        UsageError, match="holds no SAE that is known here. It holds .* such as .*saelens/abstopk"
    ):
        SAE.load(str(FIXTURES / "saelens"))


def test_nothing_several_and_unknown(tmp_path):
    with pytest.raises(UsageError, match="no file or folder"):
        SAE.load(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="holds no SAE"):
        SAE.load(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="no file of weights"):
        SAE.load(str(tmp_path / "notes.txt"))
    shutil.copy(FIXTURES / "saelens/standard/expected.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="in no known layout.*'f', 'x', 'x_hat'"):
        SAE.load(str(tmp_path))
    shutil.copy(FIXTURES / "saelens/standard/expected.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="several files of weights: a.safetensors, b.safetensors"):
        SAE.load(str(tmp_path))


def test_the_part_of_a_file(tmp_path):
    shutil.copy(FIXTURES / "dictionary_learning/topk/ae.pt", tmp_path / "learned_dicts.pt")
    assert (
        find_source(f"{tmp_path}/learned_dicts.pt#3").part == 3
        and find_source(f"{tmp_path}/learned_dicts.pt").part is None
    )


@pytest.mark.parametrize(
    "name", ["sae_weights.safetensors", "params.npz", "ae.pt", "sae.safetensors"]
)
def test_a_broken_file_is_an_error_for_a_person(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(UsageError, match="cannot be read|holds more than tensors"):
        SAE.load(str(tmp_path))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be read"):
        SAE.load(str(tmp_path))
