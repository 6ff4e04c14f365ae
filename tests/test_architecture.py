"""Who may import whom, where the two doors to the outside are, and how large things may grow."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("core", "autointerp", "figures")
BASE = {
    "core.errors",
    "core.records",
    "core.settings",
    "core.files",
    "core.progress",
    "core.fields",
}  # fields: numpy alone, read by corpus and lexemes
FROM_CORE = BASE | {"core.run", "core.corpus", "core.experiments"}
STAGES = {
    f"core.{name}"
    for name in (
        "capture",
        "adopt",
        "train",
        "trainer",
        "sweep",
        "evaluate",
        "index",
        "effects",
        "clamp",
        "doses",
        "live",
        "export",
    )
}
MIDDLE = {"core.subject", "core.encode", "core.activations", "core.saes", "core.shards"}


def sources():
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """Modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_core_imports_only_downwards():
    for path in (ROOT / "core").rglob("*.py"):
        name, used = module_name(path), ours(imported(path))
        assert all(n.startswith("core") for n in used), f"{name} imports {used}"
        if name in BASE or name in (
            "core.run",
            "core.corpus",
            "core.documents",
            "core.families",
            "core.loading",
        ):
            assert used <= BASE, f"{name} imports {used - BASE}"
        elif name.startswith(tuple(MIDDLE)):
            assert not used & STAGES, f"{name} imports {used & STAGES}"


def test_autointerp_and_figures_stay_on_their_side():
    for path in sources():
        name, used = module_name(path), ours(imported(path))
        if name.startswith("autointerp"):
            assert {n for n in used if n.startswith("core")} <= FROM_CORE, (
                f"{name} imports {used - FROM_CORE}"
            )
            assert not any(n.startswith(("figures", "main")) for n in used), (
                f"{name} imports {used}"
            )
        if name.startswith("figures"):
            allowed = FROM_CORE | {
                "autointerp.features",
                "autointerp.examples",
                "autointerp.selection",
                "autointerp.workers",
            }
            if name.startswith(
                "figures.results"
            ):  # says what clamps showed and whether two labels agree, and decides neither
                allowed |= {"autointerp.agreement", "autointerp.steering"}
            assert {n for n in used if n.startswith(("core", "autointerp", "main"))} <= allowed, (
                f"{name} imports {used - allowed}"
            )


def test_torch_stays_in_core():
    for path in sources():
        if not module_name(path).startswith("core"):
            assert not {n.split(".")[0] for n in imported(path)} & {"torch", "transformers"}, path


def test_the_two_doors():
    for path in sources():
        name, text = module_name(path), path.read_text(encoding="utf-8")
        if name != "core.subject":
            assert "register_forward" not in text, f"{name} registers a hook"
        if name != "autointerp.llm":
            assert "openai" not in imported(path), f"{name} imports openai"


def test_help_does_not_load_the_heavy_libraries():
    heavy = ("torch", "transformers", "numpy", "pandas", "matplotlib", "openai", "faiss", "umap")
    code = f"import sys; sys.argv = ['main.py', 'train', '--help']; import main; main.main(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_nothing_is_unpickled():
    """One module opens `.pt` files, and only through the restricted unpickler; it imports pickle for the name of an error."""
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
        else:
            assert "pickle" not in imported(path) and "torch.load(" not in text, path


def test_functions_and_files_stay_small():
    for path in [*sources(), ROOT / "main.py", ROOT / "verbs.py"]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 480, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 55, (
                    f"{path}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
                )
