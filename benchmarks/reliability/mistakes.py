"""What `opefo train` answers to mistakes and accidents, in how many seconds, and with which exit code.

    python -m benchmarks.reliability.mistakes

The mistakes are in `mistakes.yaml`, each one command in a fresh folder with a tiny model, data and a recipe. Prints a
table, and exits with 1 if an answer is not the expected one.
"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from tqdm.auto import tqdm

from benchmarks.markdown import table
from benchmarks.reliability.kills import prepare


@dataclass(frozen=True)
class Mistake:
    """One command and what it must say; `mistakes.yaml` explains the fields."""

    name: str
    says: str
    options: str = ""
    recipe: dict = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    before: bool = False
    code: int = 2


MISTAKES = [Mistake(**fields) for fields in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())]


def run(mistake: Mistake, folder: Path) -> tuple[str, float, int]:
    """The line that answers a mistake, the seconds that it took, and the exit code."""
    prepare(folder, steps=2)
    recipe = {**yaml.safe_load((folder / "recipe.yaml").read_text()), "output_dir": "run", **mistake.recipe}
    recipe = {name: value for name, value in recipe.items() if value is not None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name, content in mistake.files.items():
        (folder / name).write_text(content, encoding="latin-1")
    opefo = [str(Path(sys.executable).with_name("opefo")), "train", "--config", "recipe.yaml"]
    if mistake.before:
        subprocess.run(opefo, cwd=folder, check=True, capture_output=True)
    began = time.perf_counter()
    done = subprocess.run([*opefo, *mistake.options.split()], cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    lines = (done.stdout + done.stderr).replace("\r", "\n").splitlines()
    found = next((line for line in lines if re.search(mistake.says, line)), "; ".join(lines[-3:]))
    return found.strip(), seconds, done.returncode


def main() -> int:
    rows, faults = [], []
    for mistake in tqdm(MISTAKES, unit="mistake"):
        with TemporaryDirectory() as folder:
            said, seconds, code = run(mistake, Path(folder))
            said = said.replace(folder, "…")
        if not re.search(mistake.says, said) or code != mistake.code:
            faults.append(f"{mistake.name}: {code}, {said}")
        shown = said.split("opefo train: error: ")[-1].removeprefix("[RANK 0] ").replace("|", "\\|")
        rows.append(
            [mistake.name, f"`{mistake.options}`" if mistake.options else "", shown, f"{seconds:.1f}", str(code)]
        )
    print(table(["mistake", "options", "answer", "seconds", "exit code"], rows))
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
