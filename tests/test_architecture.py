"""Who may import whom, where the two doors to the outside are, and how large things may grow."""

import ast
import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("core", "autointerp", "figures")
# From ground to roof: each may import only what stands before it. The longest name that fits a
# module counts.
ORDER = [
    "core",
    "core.errors",
    "core.records",
    "core.settings",
    "core.progress",
    "core.files",
    "core.malloc",
    "core.embedded",
    "core.run",
    "core.hub",
    "core.devices",
    "core.workers",
    "core.ray_cluster",
    "core.ray_workers",
    "core.parallel",
    "core.text",
    "core.saes",
    "core.subject",
    "core.activations",
    "core.firings",
    "core.training.unit",
    "core.effects",
    "core.training",
    "core.attribution",
    "core.clamps",
    "autointerp",
    "autointerp.settings",
    "autointerp.statistics",
    "autointerp.tables",
    "autointerp.labels.unit",
    "autointerp.labels.notes",
    "autointerp.scores.unit",
    "autointerp.clusters.unit",
    "autointerp.titles.unit",
    "autointerp.examples",
    "autointerp.evidence",
    "autointerp.rules",
    "autointerp.llm",
    "autointerp.grow",
    "autointerp.clusters",
    "autointerp.scores",
    "autointerp.labels",
    "autointerp.titles",
    "autointerp.controls",
    "autointerp.card",
    "autointerp.features",
    "autointerp.exchange",
    "autointerp.clamps",
    "autointerp.answers",
    "autointerp.gallery",
    "autointerp.pipeline",
    "autointerp.whole",
    "autointerp.study",
    "figures",
    "figures.style",
    "figures.text",
    "figures.layout",
    "figures.clamp_lines",
    "figures.why_lines",
    "figures.markdown",
    "figures.terminal",
    "figures.plots",
    "figures.report",
    "figures.explorer",
    "figures.results",
    "figures.cli",
    "main",
]
# `Study` draws and exports: the only calls from below into figures, made when the method is called.
UPWARD = {
    ("autointerp.answers", "figures.plots"),
    ("autointerp.study", "figures.report"),
    ("autointerp.study", "figures.explorer"),
}
TORCH_FREE = (
    "autointerp.study", "autointerp.features", "autointerp.labels.label", "autointerp.scores.score",
    "autointerp.clusters.cluster", "autointerp.titles.title", "autointerp.exchange.neuronpedia", "core.firings.postings",
    "core.text.tokens", "core.effects.unit", "core.clamps.experiments", "core.attribution.record", "figures.report.report", "figures.explorer.shards",
)  # fmt: skip


def sources():
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def imported(path):
    """Modules that a file imports anywhere, functions included."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # names that only annotations use are not imported when it runs
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {m for m in modules if (ROOT / (m.replace(".", "/") + ".py")).exists()}
            found |= own | ({node.module} if len(own) < len(modules) else set())
    return found


def ours(names):
    return {n for n in names if n.split(".")[0] in (*PACKAGES, "main")}


def place(module):
    """The entry of ORDER that a module belongs to."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(name for name in names if name in ORDER)


def test_every_import_goes_down():
    seen = set()
    for path in [*sources(), ROOT / "main.py"]:
        here = place(module_name(path))
        if here == "autointerp":  # its public names are imported when they are used
            continue
        for name in ours(imported(path)):
            there = place(name)
            if (here, there) in UPWARD:
                seen.add((here, there))
            elif here != there:
                assert ORDER.index(there) < ORDER.index(here), f"{path} imports {name}"
    assert seen == UPWARD


def test_torch_stays_in_core():
    for path in sources():
        if not module_name(path).startswith("core"):
            assert not {n.split(".")[0] for n in imported(path)} & {"torch", "transformers"}, path


def test_what_reads_units_does_not_load_torch():
    code = f"import importlib, sys; [importlib.import_module(m) for m in {TORCH_FREE}]; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_new_package_holds_a_docstring_and_no_import():
    for path in sources():
        if path.name == "__init__.py" and module_name(path) not in (
            "autointerp",
            "core.saes",
            "core.saes.formats",
        ):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert ast.get_docstring(tree), path
            assert len(tree.body) == 1, path


def test_no_folder_is_a_warren():
    for folder in {path.parent for path in sources()}:
        files = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(files) <= (16 if folder.name == "autointerp" else 20), folder


def test_the_two_doors():
    for path in sources():
        name, text = module_name(path), path.read_text(encoding="utf-8")
        # `discover` runs a model once to find its layers; all else goes through `hooks`
        if name not in ("core.subject.hooks", "core.subject.discover"):
            assert "register_forward" not in text, f"{name} registers a hook"
        if not name.startswith("autointerp.llm."):
            assert "openai" not in imported(path), f"{name} imports openai"


def test_help_does_not_load_the_heavy_libraries():
    heavy = ("torch", "transformers", "numpy", "pandas", "matplotlib", "openai", "faiss", "umap")
    code = f"import sys; sys.argv = ['main.py', 'train', '--help']; import main; main.main(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_nothing_is_unpickled():
    """One module opens `.pt` files, and only through the restricted unpickler; it imports pickle
    for the name of an error.
    """
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        if module_name(path) == "core.saes.formats.tensors":
            assert text.count("torch.load(") == text.count("weights_only=True)") == 1
            assert {
                line.split("pickle.")[1].split(":")[0]
                for line in text.splitlines()
                if "pickle." in line.replace("picklers", "")
            } == {"UnpicklingError as error"}
        elif module_name(path) == "core.subject.weights":  # the name of an error, too
            assert set(re.findall(r"pickle\.(\w+)", text)) == {"UnpicklingError"}
            assert "torch.load(" not in text
        else:
            assert "pickle" not in imported(path) and "torch.load(" not in text, path


def test_functions_and_files_stay_small():
    for path in [*sources(), ROOT / "main.py"]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 440, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 55, (
                    f"{path}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
                )
