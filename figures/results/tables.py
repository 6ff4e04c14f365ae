"""Rows of the report's tables, and the few sentences that depend on what came out."""

from __future__ import annotations

from core.files import read_json
from figures.markdown import code
from figures.report.gallery import shown_by
from figures.report.report import against, named_groups
from figures.results.numbers import Numbers
from figures.text import useful_text, visible

SHORT = 110  # characters of a text in a table
SETS = {"hand": "by hand", "rules": "automatic"}


def number(value, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def shortened(text: str) -> str:
    return code(text if len(text) <= SHORT else text[: SHORT - 1] + "…")


def sites(n: Numbers) -> list[list[str]]:
    return [
        [r["name"], f"`{r['site']}`", f"{r['fvu']:.1%}", f"{r['ce_increase']:+.2f}", f"{r['recovered_mean']:.0%}", number(r["simulation"]), number(r["detection"]),
         number(r["effect"]), number(r["rise"]), f"{r['token']:.0%}", f"{r['unclear']:.0%}"]
        for r in n.site_rows
    ]  # fmt: skip


def splits(n: Numbers) -> list[list[str]]:
    uses = {
        "train": "training, labelling",
        "val": "early stopping, calibration of scores",
        "test": "every figure that is quoted",
    }
    return [
        [name, f"{v['documents']:,}", f"{v['tokens']:,}", uses[name]]
        for name, v in n.main["capture"]["splits"].items()
    ]


def sizes(n: Numbers) -> list[list[str]]:
    return [
        [
            r["series"],
            r["name"],
            f"{r['l0']:.0f}",
            f"{r['fvu']:.1%}",
            f"{r['recovered_mean']:.0%}",
            f"{r['dead_share']:.1%}",
        ]
        for r in n.sizes
    ]


def labels(h: dict) -> list[list[str]]:
    """Of one feature read by hand: each set's label with its scores."""
    kinds = ("simulation", "simulation-corpus", "detection")
    return [
        [SETS[name], shortened(text), *(number(h["scores"][name].get(kind)) for kind in kinds)]
        for name, text in h["texts"].items()
        if name in SETS
    ]


def promoted(h: dict) -> str:
    return " ".join(code(t["token"]) for t in h["card"]["promoted"][:8])


def scores(n: Numbers) -> list[list[str]]:
    """This subject, the untrained one and random directions, by simulation and detection."""
    rows = []
    for name, units in (
        ("this subject", n.main),
        ("untrained subject", n.control),
        ("random directions", n.random),
    ):
        s, d = (units[f"score/rules/{kind}"] for kind in ("simulation", "detection"))
        above = f"{s['share_above_null']:.0%}"
        rows.append(
            [
                name,
                f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]",
                number(s["null_median"]),
                above,
                number(d["median"]),
                number(d["null_median"]),
                f"{s['live']:,}",
            ]
        )
    return rows


def named(n: Numbers) -> list[list[str]]:
    return [
        [layer, title, size]
        for layer, _, title, size in named_groups(n.features)
        if not title.startswith("mixed")
    ]


def ami_null(n: Numbers) -> str:
    proof = read_json(n.features.run.folder("cluster") / "proof.json")
    return against(proof["firing"]["graph"]["ami"], ".3f")[1]


def agreement(n: Numbers) -> str:
    """How far the hand labels and the automatic ones predict the same."""
    known = [(h["feature"], h["same"]) for h in n.hand if h["same"] is not None]
    missing = [str(h["feature"]) for h in n.hand if h["same"] is None]
    told = ", ".join(f"{value:.2f} ({feature})" for feature, value in known)
    silent = (
        f' For {" and ".join(missing)} there is none, since a label that says "unclear" predicts nothing.'
        if missing
        else ""
    )
    return f"the correlation of what they predict over all held-out tokens is {told}.{silent}"


# ---------------------------------------------------------------- clamps


def texts(record: dict) -> list[list[str]]:
    return [
        [shortened(p), shortened(b), shortened(c)]
        for p, b, c in zip(record["prompts"], record["baseline"], record["clamped"], strict=True)
    ]


def doses(record: dict) -> list[list[str]]:
    return [
        [f"{d['dose']:g}x", number(d["own"]), number(d["random_own"]), number(d["kl"]), number(d["random_kl"]), number(d["perplexity"], ".1f"), number(d["found"], ".3f"),
         number(d["random_found"], ".3f")]
        for d in record["doses"]
    ]  # fmt: skip


def useful(record: dict) -> str:
    """The useful dose by what is written and by what is found again, each on prompts that it was not sought on."""
    return (
        sentence(useful_text(record["useful"], "own", "of the tokens written are its own"))
        + " "
        + sentence(useful_text(record["useful_found"], "found", "of its maximum is found again"))
    )


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def verdict(record: dict) -> str:
    """What the two tests say of a clamp."""
    if record["works"] and record["found_again"]:
        return "it writes its own tokens, and is found again"
    return (
        "it writes its own tokens"
        if record["works"]
        else "it is found again"
        if record["found_again"]
        else "the clamp fails"
    )


def failed(n: Numbers, names: dict[int, str]) -> str:
    """Which clamps fail both tests."""
    called = [
        f"{r['features'][0]} ({names[r['features'][0]] or 'not interpretable'})"
        for r in n.by_hand
        if not (r["works"] or r["found_again"])
    ]
    return f"By both tests these fail: {', '.join(called)}." if called else "None fails both tests."


def gallery(n: Numbers) -> list[list[str]]:
    rows = []
    for r in n.gallery:
        feature = r["features"][0]
        label = visible(r["labels"].get(str(feature)) or "no label")
        rows.append(
            [
                feature,
                shortened(label),
                f"{shown_by(r)[0]['dose']:g}x",
                shortened(r["baseline"][0]),
                shortened(r["clamped"][0]),
            ]
        )
    return rows
