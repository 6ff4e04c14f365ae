"""The shards hold what the run says, hostile text included, and nothing of it stands in a script
but as base64.
"""

import base64
import gzip
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from autointerp.clusters.unit import LEVEL_PREFIX, TABLE, Level, level_column
from autointerp.features import Features
from autointerp.labels.notes import add_note
from core.errors import UsageError
from core.files import read_json, write_json
from core.run import Run
from figures.explorer.about import median_gains, shorten
from figures.explorer.runs import Runs, find_nearest
from figures.explorer.shards import FIRST, OTHERS, PAGE, SIZE, SNIPPETS, Shards
from figures.explorer.site import MARK, export_site
from figures.style import DARK, LIGHT, contrast

HOSTILE = [
    "<script>alert(1)</script>",
    "</style>",
    '");alert(1);//',
    "\u202eevil\u2066",
    "\x00\x1b[31m",
    "\ud83d",
    "\u2028",
    "&lt;b&gt;",
]


def unpack(script: bytes):
    """The value of a shard, read as the page reads it: one call with two quoted arguments, base64
    of gzipped JSON.
    """
    text = script.decode("ascii")
    found = re.fullmatch(r'shard\("([\w-]+)","([A-Za-z0-9+/=]*)"\)\n', text)
    assert found, text[:100]
    return json.loads(gzip.decompress(base64.b64decode(found[2])))


def unpack_tokens(packed, words):
    """As loader.js does it."""
    if isinstance(packed, list):
        return packed
    return [words[ord(c) - FIRST - (0x800 if ord(c) >= 0xE000 else 0)] for c in packed]


@pytest.fixture(scope="module")
def shards(job):
    return Shards(Features(Run.open(str(job))))


def test_a_card_comes_back_as_it_was(shards):
    words = unpack(shards.script("words"))
    for feature in (0, 3, SIZE + 5):
        card, kept = (
            shards.features.card(feature, SNIPPETS),
            unpack(shards.script(f"f-{feature // SIZE:05d}"))[feature % SIZE],
        )
        assert (
            kept["labels"] == shorten(card.labels)
            and kept["histogram"]["counts"] == card.histogram["counts"]
        )
        assert len(kept["snippets"]) == len(card.snippets) > 5
        for packed, snippet in zip(kept["snippets"], card.snippets, strict=True):
            assert (
                unpack_tokens(packed["t"], words) == snippet["tokens"]
                and packed["s"] == snippet["stratum"]
            )
            values = np.zeros(len(snippet["tokens"]))
            values[packed["a"][::2]] = packed["a"][1::2]
            assert values == pytest.approx(snippet["activations"], rel=5e-3)
        assert [words[n] for n in kept["promoted"][::2]] == [t["token"] for t in card.promoted]
        assert [words[n] for n in kept["measured"][::2]] == [t["token"] for t in card.measured]
        assert kept["measured"][1::2] == pytest.approx(
            [t["change"] for t in card.measured], rel=1e-3
        )
        assert kept["promoted"][1::2] == pytest.approx(
            [t["logit"] for t in card.promoted], rel=1e-3
        )


def test_columns_agree_with_the_tables(shards):
    start, overview = unpack(shards.script("start")), shards.features.overview()
    assert (
        start["features"] == len(overview)
        and start["firings"] == shards.features.postings.n_firings.tolist()
    )
    [column] = [c for c in start["scores"] if (c["set"], c["kind"]) == ("rules", "simulation")]
    kept = np.array([np.nan if v is None else v / 1000 for v in column["value"]])
    np.testing.assert_allclose(kept, overview["score"], atol=5.1e-4)
    text = unpack(shards.script("text"))
    assert text["labels"]["rules"] == overview["label"].tolist()


def test_groups_are_those_of_the_overview(job_copy):
    """The small run of the tests has no clusters, so some are planted."""
    path = job_copy / "cluster" / TABLE
    table = pd.read_parquet(path)
    table = table.drop(columns=[c for c in table if c.startswith(LEVEL_PREFIX)])
    planted = table["feature"] % 4 - 1
    table.assign(**{"group": planted, level_column(0): planted}).to_parquet(path)
    features = Features(Run.open(str(job_copy)))
    [level] = unpack(Shards(features).script("start"))["layers"]
    assert level["group"] == features.overview()["cluster"].tolist()
    assert set(level["group"]) == {-1, 0, 1, 2}


def test_every_layer_of_groups_and_every_kind_of_score_is_there(job):
    """Three nested layers, and a kind of score that this version does not know, appear by
    themselves.
    """
    features = Features(Run.open(str(job)))
    n = features.postings.n_features
    features.levels = [
        Level(np.arange(n) // size, {g: f"L{size} {g}" for g in range(n)}, {g: g for g in range(n)})
        for size in (50, 10, 2)
    ]
    features.scores = features.scores.assign(kind="detection")
    shards = Shards(features)
    start = unpack(shards.script("start"))
    assert [max(layer["group"]) for layer in start["layers"]] == [
        (n - 1) // size for size in (50, 10, 2)
    ]
    assert [(c["set"], c["kind"]) for c in start["scores"]] == [("rules", "detection")]
    card = unpack(shards.script("f-00000"))[12]
    assert [(g["layer"], g["title"]) for g in card["groups"]] == [
        (0, "L50 0"),
        (1, "L10 1"),
        (2, "L2 6"),
    ]
    assert card["labels"][0]["scores"][0]["kind"] == "detection"


def test_hostile_text_is_only_ever_base64(job_copy):
    """Planted in the vocabulary, in notes and in titles; `unpack` fails if a script holds anything
    but its two arguments.
    """
    run = Run.open(str(job_copy))
    vocabulary = read_json(job_copy / "capture" / "vocabulary.json")
    frequent = np.argsort(-Features(run).postings.token_counts)[: len(HOSTILE)]
    for place, text in zip(frequent, HOSTILE, strict=True):
        vocabulary[place] = text
    (job_copy / "capture" / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (job_copy / "notes.jsonl").write_text(
        "".join(json.dumps({"feature": 1, "text": text, "time": ""}) + "\n" for text in HOSTILE)
    )
    features = Features(run)
    features.levels = [Level(np.zeros(features.postings.n_features, int), {0: HOSTILE[0]}, {0: 0})]
    shards = Shards(features)
    found = {name: unpack(shards.script(name)) for name in ("start", "text", "words", "f-00000")}
    assert (
        set(HOSTILE) <= set(found["words"])
        and [n["text"] for n in found["text"]["notes"]] == HOSTILE
    )
    assert found["start"]["layers"][0]["titles"]["0"] == HOSTILE[0] and len(
        found["f-00000"][1]["notes"]
    ) == len(HOSTILE)


def test_a_note_with_half_a_surrogate_pair_can_be_written_and_shown(job_copy):
    add_note(job_copy, 1, "half \ufffd pair")
    assert (
        unpack(Shards(Features(Run.open(str(job_copy)))).script("text"))["notes"][0]["text"]
        == "half \ufffd pair"
    )


@pytest.mark.parametrize(
    "name", ["f-99999", "clamp-0009", "f-", "run", "features", "_map", "f-00001.js", ""]
)
def test_a_name_that_is_no_shard_is_an_error(shards, name):
    with pytest.raises(UsageError, match="no shard"):
        shards.script(name)


def test_the_site_is_written_whole_and_over_nothing_else(job, tmp_path):
    features = Features(Run.open(str(job)))
    made = export_site(features, tmp_path / "site")
    names = {
        p.relative_to(tmp_path / "site").as_posix()
        for p in (tmp_path / "site").rglob("*")
        if p.is_file()
    }
    assert {p.name for p in PAGE.iterdir()} | {
        f"data/{name}.js" for name in Shards(features).names()
    } == names and made["files"] == len(names)
    assert made["first_paint_bytes"] < 400_000
    export_site(features, tmp_path / "site")  # an export may be replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="no export"):
        export_site(features, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists() and not (tmp_path / "mine" / MARK).exists()


def test_a_small_site_has_few_snippets_and_only_the_strongest_of_what_is_unclear(job):
    features = Features(Run.open(str(job)))
    small = Shards(features, small=True)
    cards = [
        card
        for name in small.names()
        if name.startswith("f-")
        for card in unpack(small.script(name))
    ]
    assert len(cards) == features.postings.n_features
    strata = {card["feature"]: [s["s"] for s in card["snippets"]] for card in cards}
    unclear = {c["feature"] for c in cards if c["labels"][0]["text"].startswith("unclear")}
    assert unclear and all(set(strata[f]) <= {"top"} and len(strata[f]) <= 3 for f in unclear)
    assert any("near_miss" in strata[f] or len(set(strata[f])) > 2 for f in set(strata) - unclear)
    assert max(map(len, strata.values())) < max(
        len(card["snippets"]) for card in unpack(Shards(features).script("f-00000"))
    )


def test_the_same_run_gives_the_same_bytes(shards):
    assert all(
        shards.script(name) == Shards(shards.features).script(name)
        for name in ("start", "text", "words", "f-00001")
    )


def test_the_page_makes_no_markup_of_text_and_asks_nobody():
    """Text becomes nodes through textContent alone, and nothing names another host."""
    for path in PAGE.iterdir():
        source = path.read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "import(",
        ):
            assert word not in source, f"{path.name}: {word}"
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", source)) - {
            "http://www.w3.org"
        }  # the name of SVG, which nobody loads
        assert not hosts, f"{path.name}: {hosts}"
    scripts = re.findall(
        r'<script src="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8")
    )
    assert sorted(scripts) == sorted(p.name for p in PAGE.glob("*.js"))


def test_an_experiment_becomes_a_shard(job_copy):
    (job_copy / "clamps").mkdir(exist_ok=True)
    write_json(
        job_copy / "clamps" / "0007.json",
        {
            "clamps": ["set 3=2x"],
            "features": [3],
            "prompts": ["</script>"],
            "baseline": ["a"],
            "clamped": ["b"],
        },
    )
    shards = Shards(Features(Run.open(str(job_copy))))
    assert "clamp-0007" in shards.names() and unpack(shards.script("clamp-0007"))["prompts"] == [
        "</script>"
    ]
    assert unpack(shards.script("start"))["clamps"] == [
        {
            "number": 7,
            "clamps": ["set 3=2x"],
            "features": [3],
            "prompts": 1,
            "doses": False,
            "works": False,
        }
    ]


# ---------------------------------------------------------------- what else fires on a peak


def test_what_else_fires_on_a_peak_is_what_the_index_says(shards):
    """In a page without a server each snippet holds the strongest others; with one, none."""
    postings, [card, *_] = shards.features.postings, unpack(shards.script("f-00000"))[3:]
    maxima = [postings.firings(f)[1].max(initial=0.0) for f in range(postings.n_features)]
    for snippet in card["snippets"]:
        shares = {
            f: float(values[where == snippet["n"]][0] / maxima[f])
            for f, (where, values) in enumerate(map(postings.firings, range(len(maxima))))
            if (where == snippet["n"]).any()
        }
        kept = dict(zip(snippet.get("h", [])[::2], snippet.get("h", [])[1::2], strict=True))
        assert len(kept) == min(OTHERS, len(shares))
        weakest = min((shares[f] for f in kept), default=0.0)
        assert sum(share > weakest + 1e-6 for share in shares.values()) < max(1, len(kept))
        assert all(abs(share - 100 * shares[f]) <= 0.51 for f, share in kept.items())
    live = unpack(Shards(shards.features, live={}).script("f-00000"))[3]
    assert not any("h" in snippet for snippet in live["snippets"])


# ---------------------------------------------------------------- several runs


@pytest.fixture(scope="module")
def two(job):
    return Runs([Features(Run.open(str(job))) for _ in range(2)])


def test_each_run_has_its_shards_under_its_own_names(two):
    names = two.names()
    assert {"start", "match-1", "r1-start", "r1-match-0", "r1-f-00000"} <= set(names)
    assert len(names) == len(set(names))
    starts = [unpack(two.script(name)) for name in ("start", "r1-start")]
    assert [start["number"] for start in starts] == [0, 1]
    assert all(len(start["runs"]) == 2 for start in starts)
    assert unpack(two.script("r1-f-00000")) == unpack(two.script("f-00000"))
    assert two.script("r1-words").startswith(b'shard("r1-words",')


@pytest.mark.parametrize("name", ["r2-start", "match-0", "match-2", "r1-match-1", "r1-", "r-start"])
def test_a_name_that_no_run_has_is_an_error(two, name):
    with pytest.raises(UsageError, match="no shard"):
        two.script(name)


def test_a_run_matches_itself_at_a_cosine_of_one(two):
    match = unpack(two.script("match-1"))
    assert match["feature"] == list(range(len(match["feature"])))
    assert min(match["cosine"]) >= 999 and match["chance"] < 0.9 and match["same_site"]


def test_the_nearest_direction_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 1500, 8)))
    row, cosine = find_nearest(a, b)
    assert row.tolist() == (a @ b.T).argmax(1).tolist()
    np.testing.assert_allclose(cosine, (a @ b.T).max(1))


# ---------------------------------------------------------------- one palette


def test_the_page_and_the_figures_share_their_colours():
    """Each meaning has one colour in both, in each theme."""
    css = (PAGE / "style.css").read_text(encoding="utf-8")
    light, dark = css.split(':root[data-theme="dark"]')
    for theme, part in ((LIGHT, light), (DARK, dark)):
        for name in ("page", "ink", "score", "null", "own", "direction", "other"):
            [found] = re.findall(rf"--{name}: (#\w+);", part)
            assert found.lower() == theme[name].lower(), name
        for name in ("score", "null", "own", "direction", "other"):
            assert contrast(theme[name], theme["page"]) >= 3, name


def test_gains_are_over_features_of_like_density_and_by_label_set():
    rows = [  # feature, set, kind, value
        (0, "rules", "coverage", 0.9), (1, "rules", "coverage", 0.5), (2, "rules", "coverage", None),
        (1, "hand", "coverage", 0.25), (0, "rules", "simulation", 0.1),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["feature", "set", "kind", "value"])
    references = {
        "random directions": np.array([0.4, 0.3, 0.2]),
        "untrained subject": np.full(3, np.nan),  # nothing of it was scored
    }
    known = SimpleNamespace(scores=scores, references=references)
    gains = median_gains(known)
    assert {name: list(found) for name, found in gains.items()} == {
        name: ["random directions"] for name in ("rules", "hand")
    }
    assert gains["rules"]["random directions"] == pytest.approx((0.5 + 0.2) / 2)
    assert gains["hand"]["random directions"] == pytest.approx(-0.05)
    assert median_gains(SimpleNamespace(scores=scores, references={})) == {}
