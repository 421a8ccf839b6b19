"""A small evaluation, its words and the model's, for the tests."""

import json
from pathlib import Path

from conftest import make_model, make_tokenizer

from opefo_trl.commands import cli


# As published: AIME, AMC's floats, OlympiadBench's lists and tolerance, Minerva's text of a list, a solution
ROWS = [
    {"problem": "a1", "answer": "1"},
    {"problem": "b22", "answer": 22.0},
    {"question": "cc", "final_answer": ["$2$", "$3$"], "solution": ["Long."], "error": None},
    {"question": "d", "final_answer": ["4.2"], "error": "1e-1"},
    {"problem": "ee", "answer": "['9.6\\n']"},
    {"problem": "f", "solution": r"So \boxed{\frac{1}{2}}."},
    {"problem": "gg1", "answer": "7"},
]
OPTIONS = "--model model --benchmarks mine=mine.jsonl short=short.jsonl --k 4 1 --batch_size 8 --max_tokens 12".split()
GOLD = {"a1": "1", "b22": "22.0", "cc": "3, 2", "d": "4.2", "ee": "9.6", "f": "0.5", "gg1": "7"}


def make_folder(tmp_path, monkeypatch):
    """Enter a folder with a model and two benchmarks, and return it."""
    make_model(initializer_range=0.5).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    for name, rows in (("mine", ROWS), ("short", ROWS[:3])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(output, *options):
    return cli.main(["evaluate", *OPTIONS, "--output", str(output), *options])


def read(output):
    return json.loads((Path(output) / "results.json").read_text())


def refuse(capsys, *words):
    assert cli.main(["evaluate", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("opefo evaluate: error: ")]
    return line


def answer_with(monkeypatch, answers):
    """Put texts in the model's mouth: for each problem, those of its samples."""

    class Speaker:
        """In the place of the sampler of transformers."""

        tokenizer = make_tokenizer()

        def __init__(self, *args):
            self.asked = []

        def draw(self, prompts, num_samples, seed):
            texts = [answers(self.tokenizer.decode(prompt)) for prompt in prompts]
            return [[(text, 5, False) for text in samples[:num_samples]] for samples in texts]

    monkeypatch.setattr("opefo_trl.evaluation.sampling.TransformersSampler", Speaker)
