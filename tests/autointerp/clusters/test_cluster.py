"""The stage: planted groups and hierarchies are found, noise is set aside, two processes agree, a
killed stage goes on.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from autointerp.clusters import cluster as stage
from autointerp.clusters import grouping, replicates
from autointerp.clusters.family_table import (
    describe_families,
    render_families,
    summarise_families,
)
from autointerp.clusters.geometry import unit_rows
from autointerp.clusters.similarity import similarity_within, strongest_tokens
from autointerp.clusters.tables import (
    choose_hues,
    describe_clusters,
    find_duplicates,
    kept_share,
    make_feature_table,
    membership_strengths,
    spread_rows,
    take_finest,
    vote,
)
from autointerp.clusters.unit import read_families
from autointerp.pipeline import make as make_unit
from autointerp.settings import ClusterSettings
from core.errors import UsageError
from core.run import Run
from core.settings import key_table
from tests.support.clouds import anisotropic, hierarchy, planted
from tests.support.tiny import Killed

pytestmark = pytest.mark.slow

QUICK = ClusterSettings(nulls=3, seeds=1, subsamples=2)
HALF = ClusterSettings().decorrelate


def clustered_rows(x, seed=0):
    """(graph, tree, sizes, labels) of the whole method."""
    graph = grouping.build_graph(x, HALF)
    tree = grouping.build_tree(grouping.lay_out_space(graph, seed))
    sizes = grouping.choose_sizes(tree)
    return graph, tree, sizes, grouping.label_levels(tree, sizes, graph.inside, len(x))


@pytest.fixture(scope="module")
def found():
    x, truth = planted()
    return x, truth, *clustered_rows(x)


def test_planted_groups_are_recovered_and_no_finer_layer_is_made_up(found):
    _, truth, _, _, _, labels = found
    signal = truth >= 0
    assert adjusted_rand_score(truth[signal], labels[signal, -1]) >= 0.95
    sizes = np.bincount(labels[labels[:, -1] >= 0, -1])
    assert (np.diff(sizes) <= 0).all()  # 0 is the largest


def test_planted_hierarchies_are_recovered():
    """Rounding differs between processors, so two of three random seeds have to find both levels."""
    x, top, sub = hierarchy()
    n_recovered = 0
    for seed in range(3):
        labels = clustered_rows(x, seed)[3]
        n_recovered += (
            labels.shape[1] >= 2
            and adjusted_rand_score(top, labels[:, 0]) >= 0.95
            and max(adjusted_rand_score(sub, column) for column in labels.T) >= 0.95
        )
    assert n_recovered >= 2


def test_planted_noise_is_isolated_before_umap(found):
    _, truth, graph, _, _, labels = found
    isolated = np.setdiff1d(np.arange(len(truth)), graph.inside)
    assert np.isin(np.flatnonzero(truth < 0), isolated).mean() >= 0.95
    assert (truth[isolated] >= 0).sum() == 0 and (labels[isolated] == -1).all()


def test_memberships_are_strongest_in_the_middle_and_zero_outside(found):
    x, _, graph, tree, sizes, labels = found
    probability = membership_strengths(tree, sizes[-1], graph.inside, len(x))
    assert ((probability > 0) == (labels[:, -1] >= 0)).all() and probability.max() == 1


def test_noise_is_suggested_a_group_but_not_given_one(found):
    _, truth, graph, _, _, labels = found
    lost = np.flatnonzero(truth == 3)[0]
    group = labels[:, -1].copy()
    group[lost] = -1
    suggested, strength = vote(group, graph.rows, graph.cosines)
    assert suggested[lost] == labels[lost, -1] and strength[lost] > 0.9
    assert (suggested[group >= 0] == group[group >= 0]).all()
    nobody, nothing = vote(np.full(len(group), -1), graph.rows, graph.cosines)
    assert (nobody == -1).all() and (nothing == 0).all()


def test_random_directions_have_no_groups(tmp_path):
    x = unit_rows(np.random.default_rng(1).normal(size=(600, 64)))
    graph = grouping.build_graph(x, HALF)
    levels = stage.read_levels(tmp_path, graph, x)
    assert graph.near is None
    assert levels.sizes == []
    assert levels.labels.shape == (600, 0)
    assert np.isfinite(levels.layout).all()
    assert (levels.membership(graph, 600) == 0).all()
    assert describe_clusters(x, levels.tree, [], levels.labels, np.arange(600)) == []
    finest = take_finest(levels.labels)
    assert (finest == -1).all()
    assert similarity_within(csr_matrix(np.eye(600)), finest, np.ones(600), 0) is None


def test_a_cloud_without_groups_is_like_its_twin_and_planted_groups_are_not():
    for x, holds in ((anisotropic(500, 32), False), (planted(cosine=0.4)[0], True)):
        _, _, sizes, labels = clustered_rows(x)
        own = grouping.cohesion(x, take_finest(labels))
        clouds = [replicates.covariance_twin(x, np.random.default_rng(i)) for i in range(3)]
        nulls = [
            replicates.measure_cloud(cloud, ClusterSettings(), 0, sizes)["cohesion"]
            for cloud in clouds
        ]
        assert (own > 1.5 * max(nulls)) is holds


def test_few_live_features_still_work():
    x, truth = planted(n_groups=2, size=10, n_noise=0, d=16, cosine=0.9)
    assert adjusted_rand_score(truth, clustered_rows(x)[3][:, -1]) == 1.0


def test_what_cannot_be_grouped_is_said():
    with pytest.raises(UsageError, match="Only 7 of 2048 features ever fire"):
        stage.check(ClusterSettings(), 7, 2048)
    for wrong in ({"nulls": -1}, {"seeds": -1}, {"subsamples": -1}, {"decorrelate": 2.0}):
        with pytest.raises(UsageError):
            stage.check(ClusterSettings(**wrong), 100, 100)


def test_rows_that_are_all_equal_are_refused():
    stage.check_distinct(np.random.default_rng(0).normal(size=(100, 16)).astype("f4"), 0, 0)
    with pytest.raises(UsageError, match="1 different directions; 3 more are of length zero"):
        stage.check_distinct(np.full((100, 16), 0.25, np.float32), 3, 0)


def degenerate_rows(kind):
    rng = np.random.default_rng(0)
    some = rng.normal(size=(20, 16))
    return {
        "a plane": np.c_[rng.normal(size=(200, 2)), np.zeros((200, 14))],
        "copies": np.repeat(some, 15, 0),
        "nearly all alike": np.r_[np.repeat(some[:1], 280, 0), some[1:]],
        "units of the subject": np.eye(64),
        "few dimensions": rng.normal(size=(40, 2)),
        "pairs of opposite sign": np.r_[some, -some],
        "as many as needed": some[:16],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "connected"),
    [
        ("a plane", True),
        ("copies", True),
        ("nearly all alike", False),
        ("units of the subject", False),
        ("few dimensions", False),
        ("pairs of opposite sign", False),
        ("as many as needed", False),
    ],
)
def test_degenerate_rows_are_laid_out_or_left_without_clusters(kind, connected):
    x = unit_rows(degenerate_rows(kind).astype(np.float32))
    stage.check_distinct(x, 0, 0)
    graph = grouping.build_graph(x, HALF)
    assert (graph.near is not None) == connected
    if connected:
        space, layout = grouping.lay_out_space(graph, 0), grouping.lay_out_map(graph, 0)
        assert np.isfinite(space).all() and np.isfinite(layout).all()
        sizes = grouping.choose_sizes(tree := grouping.build_tree(space))
        assert len(grouping.label_levels(tree, sizes, graph.inside, len(x))) == len(x)


def test_cohesion_counts_those_without_a_group_as_zero():
    x = unit_rows(np.random.default_rng(0).normal(size=(6, 4)))
    group = np.array([0, 0, 0, 1, 1, -1])
    cosine = x @ x.T
    own = [
        (cosine[0, 1] + cosine[0, 2]) / 2,
        (cosine[1, 0] + cosine[1, 2]) / 2,
        (cosine[2, 0] + cosine[2, 1]) / 2,
        cosine[3, 4],
        cosine[4, 3],
        0,
    ]
    assert grouping.cohesion(x, group) == pytest.approx(np.mean(own), abs=1e-6)


# ------------------------------------------------------------ tables


def test_table_lists_every_feature(found):
    x, truth, graph, _, _, labels = found
    live = np.arange(len(x)) * 2 + 1  # every second feature is dead
    density = np.zeros(2 * len(x))
    density[live] = 0.01
    density[live[0]] = 0.5
    table = make_feature_table(
        graph,
        labels,
        np.zeros(len(x)),
        np.zeros((len(x), 2), np.float32),
        live,
        density,
    )
    assert list(table["feature"]) == list(range(2 * len(x)))
    assert [c for c in table if c.startswith("layer_")] == [
        f"layer_{i}" for i in range(labels.shape[1])
    ]
    assert table["status"].value_counts().to_dict() == {
        "dead": 600,
        "alive": len(graph.inside) - 1,
        "isolated": 600 - len(graph.inside),
        "dense": 1,
    }
    dead = table[table["status"] == "dead"]
    assert (
        (dead["group"] == -1).all() and (dead["nn_feature"] == -1).all() and dead["x"].isna().all()
    )
    assert table.loc[live, "nn_feature"].isin(live).all()
    neighbours = spread_rows(live[graph.rows[:, 1:4]], live, (2 * len(x), 10), -1)
    assert (neighbours[live, 3:] == -1).all() and (neighbours[0] == -1).all()


def test_duplicates_and_groups_are_described():
    x, _ = planted(n_groups=3, size=20, n_noise=0, cosine=0.8)
    x[7] = x[3]
    graph, tree, sizes, labels = clustered_rows(x)
    assert find_duplicates(graph, np.arange(len(x)) + 100) == [[103, 107, 1.0]]
    first = describe_clusters(x, tree, sizes, labels, np.arange(len(x)))[0]
    members = x[labels[:, 0] == 0]
    pairs = (members @ members.T)[np.triu_indices(len(members), 1)]
    assert (
        first["cosine"] == pytest.approx(pairs.mean(), abs=1e-4)
        and first["medoid"] == first["exemplars"][0]
        and first["parent"] == -1
    )


def test_families_are_at_most_nine():
    centres = np.repeat(np.eye(12), 2, 0) + 0.01 * np.random.default_rng(0).normal(size=(24, 12))
    family = choose_hues(centres)
    assert family.max() == 8 and family[0] == 0
    assert (choose_hues(centres[:5]) == np.arange(5)).all()


def test_likeness_is_above_its_null_only_where_groups_share_tokens():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 20)
    shared = similarity_within(csr_matrix(np.eye(10)[group]), group, rng.random(200), 0)
    assert shared["value"] == 1.0 and shared["p"] < 0.01
    assert (
        similarity_within(
            csr_matrix(np.eye(10)[rng.permutation(group)]), group, rng.random(200), 0
        )["p"]
        > 0.01
    )


def test_likeness_equals_brute_force():
    rng = np.random.default_rng(0)
    rows, group = unit_rows(rng.random((30, 6))), rng.integers(-1, 4, 30)
    pairs = [rows[i] @ rows[j] for i in range(30) for j in range(i) if group[i] == group[j] >= 0]
    assert similarity_within(csr_matrix(rows), group, rng.random(30), 0)["value"] == pytest.approx(
        np.mean(pairs), abs=1e-5
    )


def test_strongest_tokens_are_of_the_strongest_firings():
    firings = [
        (np.array([0, 1, 2]), np.array([3.0, 1.0, 2.0])),
        (np.array([], int), np.array([])),
        (np.array([3]), np.array([1.0])),
    ]
    postings = SimpleNamespace(n_features=3, blocks=lambda: [(0, firings)])
    tokens = type("T", (), {"ids": np.array([5, 6, 7, 1]), "vocabulary": ["x"] * 8})()
    table = strongest_tokens(postings, tokens, np.array([0, 2]), n=2).toarray()
    assert np.allclose(table[0, [5, 7]], np.sqrt(0.5)) and table[0, 6] == 0 and table[1, 1] == 1


# ------------------------------------------------------------ the stage


def plant(run):
    """Give the features of a tiny run directions that form groups of sixteen."""
    width = np.load(run.folder("train") / "directions.npy").shape
    x, _ = planted(n_groups=width[0] // 16, size=16, n_noise=width[0] % 16, d=width[1], cosine=0.9)
    np.save(run.folder("train") / "directions.npy", x)
    return run


@pytest.fixture(scope="module")
def clustered(tiny_run, tmp_path_factory):
    """A copy of the tiny run with planted directions, clustered in another process."""
    folder = tmp_path_factory.mktemp("clustered") / "run"
    shutil.copytree(tiny_run.path, folder)
    plant(Run.open(str(folder)))
    code = f"from tests.autointerp.clusters.test_cluster import QUICK, Run, make_unit; make_unit(Run.open({str(folder)!r}), 'cluster', QUICK)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
    return Run.open(str(folder))


def test_the_stage_writes_what_it_promises(clustered):
    manifest, folder = clustered.manifest("cluster"), clustered.folder("cluster")
    s, n = manifest.summary, manifest.summary["features"]
    arrays = {
        "neighbours",
        "cosines",
        "partners",
        "partners_phi",
        "partners_shared",
        "graph_groups",
        "embedding",
    }
    assert set(manifest.files) == {f"{a}.npy" for a in arrays} | {
        "features.parquet",
        "families.parquet",
        "groups.json",
        "proof.json",
        "duplicates.json",
    }
    assert not (folder / "steps").exists()
    for name in arrays:
        assert len(np.load(folder / f"{name}.npy")) == n
    assert (
        np.load(folder / "neighbours.npy").shape
        == np.load(folder / "partners.npy").shape
        == (n, 20)
    )
    table, groups = (
        pd.read_parquet(folder / "features.parquet"),
        json.loads((folder / "groups.json").read_text()),
    )
    assert (
        len(table) == n
        and s["alive"] + s["dead"] == n
        and s["verdict"]
        and s["verdict_kind"] in ("none", "unstable", "structure")
    )
    assert [sum(g["layer"] == i for g in groups) for i in range(len(s["layers"]))] == s["layers"]
    families = read_families(clustered)
    counted = table.loc[table["family"] >= 0, "family"].value_counts().sort_index()
    assert families["size"].tolist() == counted.tolist() and s["families"] == len(families)
    assert len(families) == 0 and s["family_cut"] is None  # three are planted, too few to count
    assert {"kind", "together", "beside", "context"} <= set(families)
    for g in groups:
        members = table[table[f"layer_{g['layer']}"] == g["group"]]
        assert len(members) == g["size"] and (
            g["layer"] == 0 or (members[f"layer_{g['layer'] - 1}"] == g["parent"]).all()
        )
    assert (
        make_unit(clustered, "cluster", QUICK).key == manifest.key
    )  # committed: nothing is made twice


def test_another_process_writes_the_same_bytes_also_when_killed_half_way(
    clustered, run_copy, monkeypatch
):
    def killed(*_):
        raise Killed

    plant(run_copy)
    monkeypatch.setattr(stage, "strongest_tokens", killed)
    with pytest.raises(Killed):
        make_unit(run_copy, "cluster", QUICK)
    monkeypatch.undo()
    monkeypatch.setattr(stage, "build_graph", killed)  # neighbours and pairs are not made again
    monkeypatch.setattr(stage, "count_pairs", killed)
    assert make_unit(run_copy, "cluster", QUICK).files == clustered.manifest("cluster").files


def test_planted_families_are_found_described_and_summarised(tmp_path):
    """24 families of 16 in 384 of 500 rows, numbered within all features, of which half are dead."""
    x, truth = planted(n_groups=24, size=16, n_noise=116, d=48, cosine=0.8)
    np.save(tmp_path / "x.npy", x)
    plan = {"settings": key_table(QUICK), "seed": 0, "workers": 1}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    replicates.write_families(tmp_path)
    found = json.loads((tmp_path / "families.json").read_text())
    assert adjusted_rand_score(truth, found["family"]) > 0.95
    alive = np.arange(500) * 2 + 1
    table = describe_families(x, found, alive)
    assert table["comes_back"].all() and table["jaccard"].mean() > table["null_jaccard"].mean()
    medoids = (table["medoid"].to_numpy() - 1) // 2
    assert np.array(found["family"])[medoids].tolist() == table["family"].tolist()
    summary = summarise_families(table.assign(kind="synonyms"), found)
    assert summary["families"] == len(table) and summary["families_null"] == 0
    back = (table["null_jaccard"] >= 0.5).mean()
    assert summary["families_null_back"] == pytest.approx(back, abs=1e-4)
    assert summary["families_come_back"] == 1 and summary["family_share"] > 0.7
    assert summary["family_kinds"] == {"synonyms": len(table)}
    assert f"{len(table)} families" in render_families(summary)


def test_layouts_that_fail_are_not_passed_over(tmp_path):
    with pytest.raises(RuntimeError, match="exit code 1"):
        replicates.finish(replicates.start(tmp_path))


def test_names_of_replicates():
    assert replicates.list_replicates(ClusterSettings(nulls=1, seeds=1, subsamples=2)) == [
        "null-0",
        "columns-0",
        "uniform-0",
        "seed-0",
        "subsample-0",
        "subsample-1",
    ]
    kept = replicates.subsample(0, 100, 0)
    assert (
        len(set(kept)) == 80
        and (np.diff(kept) > 0).all()
        and not np.array_equal(kept, replicates.subsample(1, 100, 0))
    )


def test_share_of_groups_that_come_back():
    records = [
        {"layer": 0, "jaccard": 0.5},
        {"layer": 0, "jaccard": 0.49},
        {"layer": 1, "jaccard": 0.1},
    ]
    assert kept_share(records, 0) == 0.5 and kept_share([{"layer": 0, "jaccard": None}], 0) is None
