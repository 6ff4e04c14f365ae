"""A small version of the plan on a tiny subject: the report has the structure of the one that is
committed, and no figure typed by hand.
"""

import json
import pathlib
import re

import pytest

import main
from core.errors import UsageError
from figures.cli.results import read_plan
from figures.results.write import BEGIN, END, split_readme
from tests.support.tiny import write_documents

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[3]
HERE = ROOT / "figures" / "results"
PLAN = ROOT / "data" / "results" / "plan.txt"
README = f"# A readme\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"
SMALL = """
new results --sae {folder}/sae --subject {subject} --corpus {folder}/texts --dtype float32 --device cpu
capture results --store yes --context 32
train results
evaluate results --tokens 500 --loss-tokens 300
index results
effects results
cluster results --seeds 1 --subsamples 2 --nulls 3
label results
score results
title results
relate results
note results 0 '"sat" or "cat"'
note results 1 'unclear'
label results --labels hand
score results --labels hand
clamp results --set 0=2x --prompt "the cat" --samples 1 --tokens 4 --doses 1,2
clamp results --set 1=2x --prompt "the cat" --samples 1 --tokens 4 --doses 1,2
new results-control --weights random --subject {subject} --site resid_post.1 --corpus {folder}/texts --dtype float32 --device cpu
capture results-control --context 32
train results-control --expansion 2 --k 4 --batch-size 256 --warmup 2 --epochs 1
index results-control
label results-control --sample 10
score results-control --kind simulation,detection
control results --directions random
sweep results --name sizes --architecture tied_l1,l1,topk --expansion 1,2 --k 4 --penalty 0.01 --epochs 1 --batch-size 256 --warmup 2 --loss-tokens 300
sweep results --name penalties --architecture l1 --expansion 2 --penalty 0.005,0.01 --epochs 1 --batch-size 256 --warmup 2 --loss-tokens 300
sweep results --name stopping --architecture tied_l1 --expansion 2 --penalty 0.01 --epochs 8 --patience 1 --batch-size 256 --warmup 2 --loss-tokens 300
{sites}
new results-prompts --seed 2 --subject {subject} --site resid_post.1 --corpus {folder}/prompts.jsonl --dtype float32 --device cpu
new results-plain --subject {subject} --site resid_post.1 --corpus {folder}/texts --dtype float32 --device cpu
new results-seed --seed 1 --subject {subject} --site resid_post.1 --corpus {folder}/texts --dtype float32 --device cpu
capture results-prompts --generate 20 --context 32
capture results-plain --context 32
capture results-seed --context 32
train results-prompts --expansion 2 --k 4 --batch-size 256 --warmup 2 --epochs 1
train results-plain --expansion 2 --k 4 --batch-size 256 --warmup 2 --epochs 1
train results-seed --expansion 2 --k 4 --batch-size 256 --warmup 2 --epochs 1
compare results-plain results-seed
compare results-plain results-prompts
"""
SITE = """
new {run} --subject {subject} --site {site} --corpus {folder}/texts --dtype float32 --device cpu
capture {run} --context 32
train {run} --expansion 2 --k 4 --batch-size 256 --warmup 2 --epochs 1
evaluate {run} --tokens 500 --loss-tokens 300
index {run}
effects {run}
label {run} --sample 10
score {run}
"""
SITES = {
    "early": "resid_post.0",
    "middle": "resid_post.1",
    "late": "resid_post.2",
    "mlp": "mlp_out.1",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, subject_folder, job, call):
    """The folder in which the small plan was run and its report written."""
    folder = tmp_path_factory.mktemp("results")
    write_documents(folder / "texts", n=120, words=60)
    prompts = [{"prompt": f"the cat number {i} sat on the mat and the dog"} for i in range(80)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)), encoding="utf-8")
    named = {"subject": subject_folder, "folder": folder}
    sites = "".join(
        SITE.format(run=f"results-{name}", site=site, **named) for name, site in SITES.items()
    )
    (folder / "plan.txt").write_text(SMALL.format(sites=sites, **named), encoding="utf-8")
    hand = [
        {"feature": f, "name": name, "reading": "Words.", "fails": "Often."}
        for f, name in ((0, "animals"), (1, ""))
    ]
    (folder / "hand.json").write_text(json.dumps(hand), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("export", job, folder / "sae", "--to", "saelens")[0] == 0
        code, _, err = call(
            "results", "--plan", folder, "--out", folder / "docs", "--readme", folder / "README.md"
        )
        assert code == 0, err[-3000:]
        (folder / "AGAIN.md").write_text(README, encoding="utf-8")
        patch.setattr("figures.results.write.draw", lambda drawings, *_: [])  # once is enough
        again = call(
            "results", "--plan", folder, "--out", folder / "again", "--readme", folder / "AGAIN.md"
        )
    return folder, again


def headings(text):
    return [line for line in text.splitlines() if line.startswith("## ")]


def tables(text):
    """The header of every table, doses and labels of single features once."""
    lines = text.splitlines()
    return list(
        dict.fromkeys(
            re.sub(r"\d+=\d+x", "F", above)
            for above, line in zip(lines, lines[1:], strict=False)
            if re.fullmatch(r"\|(---\|)+", line)
        )
    )


def figures(text):
    return {
        re.sub(r"\d+", "F", name)
        for name in re.findall(r'src="images/results/([\w-]+)\.png"', text)
    }


def test_the_report_has_the_structure_of_the_one_that_is_committed(made):
    small, whole = (
        (made[0] / "docs" / "report.md").read_text(encoding="utf-8"),
        (ROOT / "docs" / "report.md").read_text(encoding="utf-8"),
    )
    assert headings(small) == headings(whole) and len(headings(small)) >= 8
    optional = {
        "| feature | label | dose | without | with |"
    }  # of the gallery, which the small plan leaves out
    assert [t for t in tables(whole) if t not in optional] == tables(small)
    assert figures(small) <= figures(whole) and figures(whole) - figures(small) <= {
        "map",
        "nulls",
        "together",
    }  # a tiny subject may have no groups


def test_every_picture_is_there_in_both_themes(made):
    folder = made[0]
    for text, base in (
        ((folder / "docs" / "report.md"), folder / "docs"),
        ((folder / "README.md"), folder),
    ):
        names = re.findall(r'src(?:set)?="([^"]+)"', text.read_text(encoding="utf-8"))
        assert names and all((base / name).stat().st_size > 5000 for name in names)


def test_the_readme_keeps_what_stands_around_the_answers(made):
    text = (made[0] / "README.md").read_text(encoding="utf-8")
    assert (
        text.startswith("# A readme\n\nBefore.\n\n" + BEGIN)
        and text.endswith(END + "\n\nAfter.\n")
        and "old" not in text
    )
    assert len(re.findall(r"^\*\*[^*]+\?\*\*", text, re.MULTILINE)) == 6
    for answer in re.split(r"^\*\*[^*]+\?\*\*", text, flags=re.MULTILINE)[1:]:
        assert (
            len(answer.split(END)[0].strip().splitlines()) <= 10 and answer.count("<picture>") <= 1
        )


def test_a_second_time_nothing_is_made_again(made):
    folder, (code, _, err) = made
    assert code == 0 and "done in" not in err and "already done" in err
    assert len(list((folder / "data/runs/results/clamps").glob("*.json"))) == 2
    assert (
        len((folder / "data/runs/results/notes.jsonl").read_text(encoding="utf-8").splitlines())
        == 2
    )


def test_no_figure_is_typed_by_hand():
    """What is left of the templates and of what was written by hand holds no digit, but for the
    references and the level of intervals.
    """
    for name in ("report.md.j2", "readme.md.j2"):
        text = (HERE / name).read_text(encoding="utf-8").split("## References")[0]
        text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|`[^`]*`", "", text, flags=re.DOTALL)
        # of a norm, a measure, an architecture; the level of every interval here
        names = r"\bL[01]\b|GPT-2|95 % interval"
        assert not re.findall(r"\d+", re.sub(names, "", text)), name
    for entry in json.loads((ROOT / "data/results/hand.json").read_text(encoding="utf-8")):
        assert not re.search(r"\d", entry["reading"] + entry["fails"]), entry["feature"]


def test_every_command_of_the_plan_is_understood():
    commands = read_plan(PLAN)
    assert len(commands) > 50 and any("\n" in word for words in commands for word in words)
    for verb, *words in commands:
        main.cli.commands[verb].make_context(verb, list(words))


def test_a_readme_without_marks_is_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(UsageError, match="where the answers go"):
        split_readme(path)
