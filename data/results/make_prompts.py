"""Make prompts.jsonl: the heads of functions of the standard library, which the subject then
continues.

python data/results/make_prompts.py
"""

import ast
import json
import pathlib
import random
import sysconfig

COUNT, SEED = 1500, 0


def heads():
    """(name, text) of every function outside tests, in the order of the files."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py")):
        place = path.relative_to(root)
        if {"test", "tests", "idlelib", "site-packages", "lib2to3"} & set(place.parts):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef) and node.body[0].lineno > node.lineno:
                yield (
                    f"{place}:{node.lineno}",
                    "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1]) + "\n",
                )


def main():
    once = {text: name for name, text in heads() if 12 < len(text) < 200}
    chosen = random.Random(SEED).sample(sorted(once), COUNT)
    with open(pathlib.Path(__file__).with_name("prompts.jsonl"), "w", encoding="utf-8") as out:
        for text in chosen:
            out.write(json.dumps({"prompt": text, "from": once[text]}) + "\n")


if __name__ == "__main__":
    main()
