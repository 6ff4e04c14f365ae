"""The command line: a whole small job, every reading verb and its JSON, and what bad input gets."""

import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from core.errors import UsageError
from core.run import Run
from tests.support.small_job import two_lines
from tests.support.tiny import new_run, save_subject, write_documents

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
UNITS = ["capture", "train", "evaluate", "index", "effects", "cluster", "label/rules", "score/rules/simulation", "score/rules/simulation-corpus", "score/rules/coverage",
         "score/rules/detection", "score/rules/fuzzing", "score/rules/effect", "title", "relate", "report"]  # fmt: skip


# ---------------------------------------------------------------- the job and its readers


def test_every_stage_is_done_and_doing_it_again_takes_no_time(job, call):
    code, out, _ = call("status", job, "--json")
    stages = json.loads(out)["stages"]
    assert (
        code == 0
        and [s["stage"] for s in stages] == UNITS
        and {s["state"] for s in stages} == {"done"}
    )
    code, _, err = call("run", job, "--no-controls")
    assert code == 0
    assert "done in" not in err


def test_the_report_holds_what_the_run_measured(job):
    text = (job / "report" / "report.md").read_text(encoding="utf-8")
    summary = json.loads((job / "score" / "rules" / "simulation" / "manifest.json").read_text())[
        "summary"
    ]
    assert f"**{summary['median']:.2f}**" in text
    for name in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert (job / "report" / name).stat().st_size > 5000, name


def test_show_prints_a_feature_and_its_json_has_the_promised_keys(job, call):
    code, out, _ = call("show", job, 3, "--json")
    card = json.loads(out)
    promised = {
        "feature",
        "status",
        "density",
        "n_firings",
        "max",
        "labels",
        "promoted",
        "suppressed",
        "neighbours",
        "cluster",
        "notes",
        "snippets",
    }
    assert code == 0 and promised <= set(card) and card["feature"] == 3
    for snippet in card["snippets"]:
        assert (
            len(snippet["tokens"]) == len(snippet["activations"])
            and snippet["activations"][snippet["peak"]] <= card["max"]
        )
    assert f"feature 3   {card['status']}" in call("show", job, 3)[1]


def test_a_pair_is_counted_over_every_token(job, call):
    from autointerp.features import Features

    postings = Features(Run.open(str(job))).postings
    a, b = (-postings.n_firings).argsort()[:2].tolist()
    found = json.loads(call("pair", job, a, b, "--json")[1])
    assert (
        found["n_ab"] == len(set(postings.firings(a)[0]) & set(postings.firings(b)[0]))
        and found["n_a"] == postings.n_firings[a]
    )
    assert f"together on {found['n_ab']:,}" in call("pair", job, a, b)[1]
    card = json.loads(call("show", job, a, "--json")[1])
    assert (
        all(p["phi"] > 0 for p in card["partners"])
        and set(card["cluster"]) == {"group", "title"}
        and all(set(g) == {"layer", "group", "title"} for g in card["groups"])
    )
    assert two_lines(call("pair", job, 0, 99999)[2])[0].startswith(
        "error: There is no feature 99999"
    )


def test_a_readme_gets_its_figures_and_markdown(job_copy, call, tmp_path):
    assert call("report", job_copy, "--readme", tmp_path / "images")[0] == 0
    text = (tmp_path / "images" / "figures.md").read_text(encoding="utf-8")
    shown = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert (
        "map.png" in shown
        and "map-dark.png" in shown
        and text.count("<picture>") == len(shown) / 2
        and "n = " in text
    )
    for name in shown:
        for path in (
            tmp_path / "images" / name,
            tmp_path / "images" / name.replace(".png", ".svg"),
        ):
            assert 1000 < path.stat().st_size < 600_000


def test_list_filters_and_sorts(job, call):
    rows = json.loads(call("list", job, "--sort", "density", "--json")[1])
    assert [r["density"] for r in rows] == sorted((r["density"] for r in rows), reverse=True)
    assert set(rows[0]) == {"feature", "label", "coverage", "gain", "score", "density", "cluster"}
    strict = json.loads(call("list", job, "--min-score", "0.5", "--json")[1])
    assert {r["feature"] for r in strict} == {
        r["feature"] for r in rows if r["score"] is not None and r["score"] >= 0.5
    }


def test_find_looks_into_labels_and_notes(job_copy, call):
    assert call("note", job_copy, 5, "weekdays, I think")[0] == 0
    assert [r["feature"] for r in json.loads(call("find", job_copy, "weekdays", "--json")[1])] == [
        5
    ]
    assert (
        json.loads(call("show", job_copy, 5, "--json")[1])["notes"][0]["text"]
        == "weekdays, I think"
    )


def test_a_note_in_the_language_of_rules_is_labelled_and_scored(job_copy, call):
    assert call("note", job_copy, 4, '"cat"')[0] == 0
    assert call("label", job_copy, "--labels", "hand")[0] == 0
    assert call("score", job_copy, "--labels", "hand")[0] == 0
    labels = json.loads(call("show", job_copy, 4, "--json")[1])["labels"]
    assert [label["set"] for label in labels] == ["hand", "rules"] and labels[0]["scores"][0][
        "kind"
    ] == "coverage"
    assert (
        call("note", job_copy, 4, '"dog"')[0] == 0
        and call("label", job_copy, "--labels", "hand")[0] == 0
    )
    code, _, err = call("score", job_copy, "--labels", "hand")
    assert code == 3 and "label/hand" in two_lines(err)[0]


def test_text_says_what_fires_where_and_not_on_the_other(job, call):
    read = json.loads(call("text", job, "the cat sat", "--json")[1])
    assert "".join(read["tokens"]) == "the cat sat" and {
        "position",
        "feature",
        "activation",
        "label",
    } == set(read["firings"][0])
    assert (
        json.loads(call("text", job, "the cat sat", "--against", "the cat sat", "--json")[1])[
            "firings"
        ]
        == []
    )


def test_why_prints_parts_and_ablations(job, call):
    code, out, _ = call("why", job, "the cat", "--top", 3, "--json")
    made = json.loads(out)
    parts = sum(made[part] for part in ("features", "bias", "first", "rest")) + sum(made["errors"])
    assert code == 0 and abs(parts - made["logit"]) < 1e-3
    assert len([f for f in made["firings"] if f["change"] is not None]) == 3 + len(made["random"])
    code, out, _ = call("why", job, "the cat", "--token", "e", "--against", "d", "--steps", 4)
    assert code == 0 and "less that of ‹d›" in out and "every firing" in out


def test_clamp_prints_pairs_and_keeps_the_experiment(job_copy, call):
    code, out, _ = call(
        "clamp",
        job_copy,
        "--set",
        "3=5x",
        "--prompt",
        "the cat",
        "--tokens",
        5,
        "--doses",
        "0,1,4",
        "--figure",
        "--json",
    )
    record = json.loads(out)
    assert (
        code == 0
        and record["clamps"] == ["set 3=5x"]
        and len(record["baseline"]) == len(record["clamped"]) == 2
    )
    assert [d["dose"] for d in record["doses"]] == [0, 1, 4] and record["doses"][2]["kl"] > record[
        "doses"
    ][1]["kl"] > 0
    assert (job_copy / "clamps" / "0001.json").exists() and (
        job_copy / "clamps" / "0001.png"
    ).exists()
    code, out, _ = call(
        "clamp",
        job_copy,
        "--set",
        "3=2x",
        "--set",
        "5=1x",
        "--prompt",
        "the cat",
        "--tokens",
        5,
        "--doses",
        "0.5,2",
        "--figure",
        "--json",
    )
    both = json.loads(out)
    assert (
        code == 0 and both["features"] == [3, 5] and [d["dose"] for d in both["doses"]] == [0.5, 2]
    )
    assert both["measured_on"]["prompts"] > 1 and (job_copy / "clamps" / "0002.png").exists()


def test_clamp_compares_next_tokens(job_copy, call):
    words = ["--set", "3=5x", "--prompt", "the cat", "--tokens", 2, "--samples", 1]
    code, out, _ = call("clamp", job_copy, *words, "--logprobs", 4, "--json")
    entry = json.loads(out)["next_tokens"][0]
    assert code == 0 and entry["prompt"] == "the cat" and 4 <= len(entry["tokens"]) <= 8
    kept = json.loads((job_copy / "clamps" / "0001.json").read_text())
    assert kept["next_tokens"] == [entry]
    code, out, _ = call("clamp", job_copy, *words, "--logprobs", 4)
    assert code == 0 and "next token" in out and "nats" in out
    assert json.loads(call("replay", job_copy, 1, "--json")[1])["replay"]["same"] == 2


def test_an_experiment_is_replayed_exactly(job_copy, call):
    words = [
        "--set",
        "3=5x",
        "--ablate",
        "4",
        "--positions",
        "generated",
        "--prompt",
        "the cat",
        "--prompt",
        "snow",
        "--tokens",
        6,
    ]
    made = json.loads(call("clamp", job_copy, *words, "--json")[1])
    again = json.loads(call("replay", job_copy, 1, "--json")[1])
    assert again["replay"] == {"number": 1, "same": 8, "texts": 8} and (
        again["baseline"],
        again["clamped"],
    ) == (made["baseline"], made["clamped"])
    assert made["positions"] == "generated" and made["clamped"] != made["baseline"]
    kept = json.loads((job_copy / "clamps" / "0001.json").read_text())
    (job_copy / "clamps" / "0001.json").write_text(json.dumps(kept | {"clamped": ["another"] * 4}))
    assert json.loads(call("replay", job_copy, 1, "--json")[1])["replay"]["same"] == 4
    (job_copy / "clamps" / "0001.json").write_text(json.dumps(kept | {"sae": "0"}))
    code, _, err = call("replay", job_copy, 1)
    assert code == 3 and "another autoencoder" in two_lines(err)[0]


def test_features_of_two_runs_are_clamped_together(job_copy, job, call, tmp_path):
    """A run of the same subject at another site lends its autoencoder; one at the same site cannot."""
    other = tmp_path / "early"
    subject = json.loads((job_copy / "run.json").read_text())["subject"]
    corpus = json.loads((job_copy / "run.json").read_text())["corpus"]
    assert (
        call(
            "new",
            other,
            "--subject",
            subject,
            "--site",
            "resid_post.0",
            "--corpus",
            corpus,
            "--dtype",
            "float32",
            "--device",
            "cpu",
        )[0]
        == 0
    )
    for stage in (
        ["capture", other, "--context", 32],
        ["train", other, "--expansion", 4, "--k", 4, "--batch-size", 256],
        ["index", other],
    ):
        assert call(*stage)[0] == 0
    words = ["--prompt", "the cat sat", "--tokens", 6, "--samples", 1, "--json"]
    alone = json.loads(call("clamp", job_copy, "--set", "3=5x", *words)[1])
    both = json.loads(call("clamp", job_copy, "--set", "3=5x", "--add", f"{other}:2=9", *words)[1])
    assert both["baseline"] == alone["baseline"] and both["also"][0]["clamps"][0]["feature"] == 2
    assert json.loads(call("replay", job_copy, 2, "--json")[1])["replay"]["same"] == 2
    code, _, err = call("clamp", job_copy, "--set", "3=5x", "--set", f"{job}:2=9", "--prompt", "x")
    assert code == 2 and "same site" in two_lines(err)[0]


def test_export_writes_the_site(job, call, tmp_path):
    code, out, _ = call("export", job, tmp_path / "site", "--to", "site")
    assert code == 0 and (tmp_path / "site" / "index.html").exists() and " MB" in out


def test_a_changed_stage_makes_what_follows_stale(job_copy, call):
    code, _, err = call("train", job_copy, "--k", 8)
    assert code == 3 and "k 4 -> 8" in two_lines(err)[0] and "--redo" in two_lines(err)[1]
    assert (
        call("train", job_copy, "--expansion", 8, "--k", 8, "--batch-size", 256, "--redo")[0] == 0
    )
    states = {
        s["stage"]: s["state"] for s in json.loads(call("status", job_copy, "--json")[1])["stages"]
    }
    assert (
        states["capture"] == states["train"] == "done"
        and states["index"] == states["label/rules"] == states["report"] == "stale"
    )


def test_a_sweep_prints_its_table_and_one_of_it_is_taken(job_copy, call):
    words = (
        "sweep",
        job_copy,
        "--architecture",
        "topk,l1",
        "--expansion",
        3,
        "--k",
        "2,4",
        "--batch-size",
        256,
        "--warmup",
        2,
        "--loss-tokens",
        200,
    )
    code, out, _ = call(*words)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == [
        "sae",
        "topk-3x-k2",
        "topk-3x-k4",
        "l1-3x",
    ]
    rows = json.loads(call(*words, "--json")[1])
    assert rows[0]["l0"] <= 2 < rows[1]["l0"] <= 4 and all(
        0 < row["fvu"] < 2 and row["ce_increase"] for row in rows
    )
    assert call("train", job_copy, "--take", "sweep/sweep/topk-3x-k2", "--redo")[0] == 0
    states = {s["stage"]: s for s in json.loads(call("status", job_copy, "--json")[1])["stages"]}
    assert states["sweep/sweep"]["state"] == "done" and states["train"]["summary"]["features"] == 48


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "{run}", "99999"], 2, "no feature 99999"),
        (["show", "nowhere", "1"], 3, "no run 'nowhere'"),
        (["clamp", "{run}", "--set", "3", "--prompt", "x"], 2, "not a clamp"),
        (["clamp", "{run}", "--set", "99999=5x", "--prompt", "x"], 2, "no feature 99999"),
        (["clamp", "{run}", "--set", "3=5x", "--set", "3=2x", "--prompt", "x"], 2, "clamped twice"),
        (["clamp", "{run}", "--prompt", "x"], 2, "nothing to clamp"),
        (["clamp", "{run}", "--set", "3=5x"], 2, "no prompt"),
        (
            ["clamp", "{run}", "--set", "3=5x", "--ablate", "4", "--prompt", "x", "--doses", "1"],
            2,
            "no dose",
        ),
        (
            [
                "clamp",
                "{run}",
                "--set",
                "3=5x",
                "--set",
                "{run}:4=1",
                "--prompt",
                "x",
                "--doses",
                "1",
            ],
            2,
            "at one site",
        ),
        (
            ["clamp", "{run}", "--set", "3=5x", "--prompt", "x", "--doses", "1,many"],
            2,
            "not a list of numbers",
        ),
        (
            ["clamp", "{run}", "--set", "3=5x", "--prompt", "x", "--at", "("],
            2,
            "not a regular expression",
        ),
        (
            ["clamp", "{run}", "--set", "3=5x", "--prompt", "x", "--logprobs", "-1"],
            2,
            "no table",
        ),
        (["replay", "{run}", "9"], 2, "no clamp experiment 9"),
        (["clamp", "{run}", "--set", "nowhere:3=5x", "--prompt", "x"], 2, "nothing to clamp"),
        (
            ["clamp", "{run}", "--set", "3=5x", "--set", "nowhere:3=5x", "--prompt", "x"],
            3,
            "no run 'nowhere'",
        ),
        (["export", "{run}", "{run}", "--to", "site"], 2, "no export wrote"),
        (["text", "{run}", ""], 2, "two tokens"),
        (["why", "{run}", ""], 2, "two tokens"),
        (["why", "{run}", "the cat", "--token", "zebra zebra"], 2, "tokens of the subject"),
        (["note", "{run}", "3", "  "], 2, "empty"),
        (["label", "{run}", "--features", "1-x"], 2, "not a feature number"),
        (["score", "{run}", "--labels", "llm-nobody"], 3, "label/llm-nobody"),
        (["train", "{run}", "--architecture", "magic"], 2, "magic"),
        (["new", "x/y", "--site", "resid_up.3"], 2, "not a site"),
        (["new", "x/y", "--corpus", "nowhere.txt"], 2, "no corpus"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_input_gets_two_lines_and_its_code(job, call, words, code, said):
    got, _, err = call(*(w.format(run=job) for w in words))
    assert got == code and said in two_lines(err)[0] + two_lines(err)[1]


def made(tmp_path, subject_folder, **changes):
    settings = {
        "subject": subject_folder,
        "corpus": write_documents(tmp_path / "texts", n=20),
    } | changes
    return new_run(tmp_path / "run", **settings).path


def test_unknown_subject(tmp_path, subject_folder, call, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = call(
        "capture", made(tmp_path, subject_folder, subject=str(tmp_path / "missing"))
    )
    assert code in (2, 3) and "missing" in two_lines(err)[0]


def test_gated_repository_names_the_variable(tmp_path, subject_folder, call, monkeypatch):
    import transformers
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        raise OSError("403 Client Error.") from GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    code, _, err = call("capture", made(tmp_path, subject_folder))
    assert code == 3 and "gated" in two_lines(err)[0] and "HF_TOKEN" in two_lines(err)[1]


def test_unknown_site(tmp_path, subject_folder, call):
    code, _, err = call("capture", made(tmp_path, subject_folder, site="resid_post.9"))
    assert code == 2 and "resid_post.9" in two_lines(err)[0] and "0 to 2" in two_lines(err)[1]


def test_empty_corpus(tmp_path, subject_folder, call):
    (tmp_path / "none").mkdir()
    code, _, err = call("capture", made(tmp_path, subject_folder, corpus=tmp_path / "none"))
    assert code == 2 and "empty" in two_lines(err)[0]


def test_documents_that_are_too_short(tmp_path, subject_folder, call):
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "a.txt").write_text("", encoding="utf-8")
    code, _, err = call("capture", made(tmp_path, subject_folder, corpus=tmp_path / "short"))
    assert code == 2 and "without a word" in two_lines(err)[0]


def test_activations_that_are_not_numbers(tmp_path, call):
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_subject(tmp_path / "subject")
    weights = load_file(pathlib.Path(folder) / "model.safetensors")
    weights["transformer.h.0.mlp.c_proj.bias"][0] = torch.nan
    save_file(weights, pathlib.Path(folder) / "model.safetensors", metadata={"format": "pt"})
    path = made(tmp_path, folder)
    code, _, err = call("capture", path)
    assert (
        code == 2
        and "NaN" in two_lines(err)[0]
        and Run.open(str(path)).state("capture") == "partial"
    )


def test_a_full_disk_leaves_what_was_committed(job_copy, call, monkeypatch):
    import core.firings.postings

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "firings-00000.npy")

    monkeypatch.setattr(core.firings.postings, "write_array", full)
    before = (job_copy / "index" / "manifest.json").read_bytes()
    code, _, err = call("index", job_copy, "--redo")
    assert code == 3 and "disk is full" in two_lines(err)[0]
    assert (job_copy / "index" / "manifest.json").read_bytes() == before
    monkeypatch.undo()
    assert call("index", job_copy, "--redo")[0] == 0


# ---------------------------------------------------------------- other processes


def started(*words):
    return subprocess.Popen(
        [sys.executable, "main.py", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        # workers of the tests ignore Ctrl-C, and a child would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path, process, seconds=60):
    end = time.time() + seconds
    while not path.exists():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(0.02)


def wait_for_change(path, seconds=60):
    before, end = path.stat().st_mtime_ns, time.time() + seconds
    while path.stat().st_mtime_ns == before:
        assert time.time() < end
        time.sleep(0.02)


def test_ctrl_c_kill_and_a_second_process(tmp_path, subject_folder, call):
    """One training: interrupted, killed, gone on with; beside it a second process is told who holds
    the run.
    """
    path = made(tmp_path, subject_folder, corpus=write_documents(tmp_path / "many", n=200))
    assert call("capture", path, "--context", 32)[0] == 0
    train = [
        "train",
        path,
        "--batch-size",
        64,
        "--epochs",
        400,
        "--patience",
        1000,
        "--k",
        4,
    ]
    checkpoint = path / "train.partial" / ".checkpoint.safetensors"

    first = started(*train)
    wait_for(checkpoint, first)
    code, _, err = call("train", path)
    assert code == 3 and f"process {first.pid}" in two_lines(err)[0]
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130 and "Traceback" not in first.communicate()[1]

    second = started(*train)
    wait_for_change(checkpoint)
    second.kill()
    second.wait(30)
    run = Run.open(str(path))
    assert run.state("train") == "partial" and run.state("capture") == "done"
    third = started(*train)
    wait_for_change(checkpoint)
    third.terminate()
    assert "continues from step" in third.communicate()[1]


def test_show_prints_what_a_feature_fires_with_and_its_group_path(job, call):
    for feature in range(20):
        card, text = (
            json.loads(call("show", job, feature, "--json")[1]),
            call("show", job, feature)[1],
        )
        assert ("fires with" in text) == bool(card["partners"]) and ("related" in text) == bool(
            card["related"]
        )
        assert all(f"{p['feature']:<6} phi {p['phi']:+.2f}" in text for p in card["partners"][:4])
        assert ("none (noise)" in text) == (bool(card["cluster"]) and not card["groups"])
    assert card["partners"]


# ---------------------------------------------------------------- chat, saelens


def test_a_subject_without_a_chat_template_says_so(job, call):
    for words in (
        ("text", job, "the cat", "--chat"),
        ("clamp", job, "--set", "3=1.0", "--prompt", "the cat", "--chat"),
    ):
        code, _, err = call(*words)
        assert code == 2 and "no chat template" in two_lines(err)[0]


def test_texts_and_prompts_become_turns(job_copy, subject_folder, tmp_path, call):
    import shutil

    chat = shutil.copytree(subject_folder, tmp_path / "chat")
    settings = json.loads((chat / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
    (chat / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    run = json.loads((job_copy / "run.json").read_text())
    (job_copy / "run.json").write_text(json.dumps(run | {"subject": str(chat)}))
    read = json.loads(call("text", job_copy, "the cat", "--chat", "--json")[1])
    assert "".join(read["tokens"]) == "<user> the cat\n"
    made = json.loads(
        call(
            "clamp",
            job_copy,
            "--set",
            "3=1.0",
            "--prompt",
            "the cat",
            "--tokens",
            3,
            "--chat",
            "--json",
        )[1]
    )
    assert set(made["prompts"]) == {"<user> the cat\n<assistant> "}


def test_the_sae_of_a_run_goes_out_in_the_layout_of_saelens_and_comes_back(job, tmp_path, call):
    code, out, err = call("export", job, tmp_path / "out", "--to", "saelens")
    assert code == 0, err
    assert "layout of SAELens" in out
    from core.saes import SAE

    back, sae = SAE.load(str(tmp_path / "out")), SAE.load(job / "train")
    x = torch.randn(20, sae.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(back.reconstruct(x), sae.reconstruct(x), rtol=1e-5, atol=1e-5)
    assert str(back.site) == "resid_post.1"


def test_a_python_without_the_packages_says_what_to_type():
    """-S leaves the site packages out: only the standard library is there."""
    done = subprocess.run(
        [sys.executable, "-S", "main.py", "list", "demo"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and done.stderr.splitlines()[0].startswith("error: ")
        and "make setup" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_notes_in_free_words_are_left_out_of_scores_where_no_llm_is_named(
    job_copy, call, monkeypatch
):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    rules = pd.read_parquet(job_copy / "label" / "rules" / "labels.parquet").set_index("feature")
    a, b, free = rules.index[:3]
    for feature in (a, b):
        assert call("note", job_copy, feature, rules["text"][feature])[0] == 0
    assert "in free words" in call("note", job_copy, free, "weird things about imports")[1]
    assert call("label", job_copy, "--labels", "hand")[0] == 0
    for words in ((), ("--kind", "simulation,coverage")):
        code, _, err = call("score", job_copy, "--labels", "hand", *words)
        assert code == 0 and f"The label of feature {free} is not in the language of rules" in err
        assert "Scored 2 of 3" in err
    held = {
        kind: pd.read_parquet(job_copy / "score" / "hand" / kind / "scores.parquet")
        for kind in ("simulation", "coverage", "detection")
    }
    for table in held.values():
        assert set(table["feature"]) == {a, b} and table["null"].notna().any()  # of the other rule
    code, _, err = call("score", job_copy, "--labels", "hand", "--features", free)
    assert code == 2 and "--llm-url" in two_lines(err)[1]
    code, _, err = call(
        "score", job_copy, "--labels", "hand", "--features", a
    )  # its note is a rule
    assert code == 0 and "not in the language" not in err


def test_llm_names_the_only_set_that_an_llm_made(job_copy, call):
    from autointerp.labels.unit import complete_name

    run = Run.open(str(job_copy))
    assert complete_name(run, "rules") == "rules"
    code, _, err = call("list", job_copy, "--labels", "llm")
    assert code == 2 and "No LLM has labelled" in two_lines(err)[0]
    for name in ("llm-small", "llm-large"):
        shutil.copytree(job_copy / "label" / "rules", job_copy / "label" / name)
        manifest = job_copy / "label" / name / "manifest.json"
        manifest.write_text(manifest.read_text().replace("label/rules", f"label/{name}"))
        if name == "llm-small":
            assert complete_name(run, "llm") == name
            assert call("list", job_copy, "--labels", "llm", "--limit", "3")[0] == 0
    with pytest.raises(UsageError, match="2 label sets of an LLM: llm-large, llm-small"):
        complete_name(run, "llm")
