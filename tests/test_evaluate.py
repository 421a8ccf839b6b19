"""`opefo evaluate`: what it draws, scores, keeps, goes on with, compares and refuses."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import SYMBOLS, make_model, make_tokenizer
from datasets import load_dataset
from peft import LoraConfig, get_peft_model

from opefo_trl import cli, evaluate
from opefo_trl.sampling import Sampling, TransformersSampler
from opefo_trl.scores import summarize


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_model(initializer_range=0.5).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    for name, rows in (("mine", ROWS), ("short", ROWS[:3])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = "--model model --benchmarks mine=mine.jsonl short=short.jsonl --k 4 1 --batch_size 8 --max_tokens 12".split()


def run(output, *options):
    return cli.main(["evaluate", *OPTIONS, "--output", str(output), *options])


def read(output):
    return json.loads((Path(output) / "results.json").read_text())


def refuse(capsys, *words):
    assert cli.main(["evaluate", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("opefo evaluate: error: ")]
    return line


def test_results_can_be_recomputed(folder, capsys):
    assert run("out") == 0
    results = read("out")
    for name, (problems, k) in {"mine": (7, 4), "short": (3, 1)}.items():
        benchmark = results["benchmarks"][name]
        assert (benchmark["scores"]["problems"], benchmark["scores"]["k"]) == (problems, k)
        again = summarize(benchmark["problems"])
        assert json.dumps(again) == json.dumps(benchmark["scores"])
    assert (
        results["settings"]["top_p"] == 0.7 and results["settings"]["k"] == [4, 1] and "torch" in results["versions"]
    )
    rows = load_dataset("parquet", data_files="out/completions.parquet", split="train")
    assert len(rows) == 7 * 4 + 3
    assert {row["length"] for row in rows if row["truncated"]} == {12}
    assert any(not row["truncated"] and row["length"] < 12 for row in rows)
    golds = [row["gold"] for row in rows if row["benchmark"] == "mine" and row["sample"] == 0]
    assert golds == ["1", "22", "2, 3", "4.2", "9.6", r"\frac{1}{2}", "7"]
    table = capsys.readouterr().out
    assert "| mine | 7 | 4 | 0.0 ± 0.0 | 1: 0.0, 2: 0.0, 4: 0.0 |" in table and "| average |" in table


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

    monkeypatch.setattr("opefo_trl.sampling.TransformersSampler", Speaker)


GOLD = {"a1": "1", "b22": "22.0", "cc": "3, 2", "d": "4.2", "ee": "9.6", "f": "0.5", "gg1": "7"}
NEAR = {"a1": "1.01", "b22": "2", "cc": "3", "d": "4.31", "ee": "9.5", "f": "0.51", "gg1": "-7"}


def test_golds_are_right_and_near_misses_wrong(folder, monkeypatch):
    def answers(problem):
        within = [r"\boxed{4.3\%}"] if problem == "d" else ["none"]
        return [rf"No \boxed{{0}}: \boxed{{{GOLD[problem]}}}", rf"\boxed{{{NEAR[problem]}}}", *within, r"\boxed{"]

    answer_with(monkeypatch, answers)
    assert run("out") == 0
    problems = read("out")["benchmarks"]["mine"]["problems"]
    assert [problem["correct"] for problem in problems] == [
        [True, False, problem["problem"] == "d", False] for problem in problems
    ]
    scores = read("out")["benchmarks"]["mine"]["scores"]
    assert scores["avg@k"] == pytest.approx((6 / 4 + 2 / 4) / 7) and scores["pass@4"] == 1.0
    assert scores["distinct"] == pytest.approx((6 * 2 / 4 + 3 / 4) / 7)


def test_interrupted_and_resumed_equals_uninterrupted(folder, monkeypatch, capsys):
    assert run("whole") == 0
    draw, asked = TransformersSampler.draw, []

    def stop_in_the_third(self, prompts, num_samples, seed):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(seed)
        return draw(self, prompts, num_samples, seed)

    monkeypatch.setattr(TransformersSampler, "draw", stop_in_the_third)
    assert run("out") == 130 and "goes on where it stopped" in capsys.readouterr().err
    with (folder / "out" / "completions-0.jsonl").open("a") as file:
        file.write('{"benchmark": "mine", "prob')  # killed while it wrote

    def go_on(self, prompts, num_samples, seed):
        asked.append(seed)
        return draw(self, prompts, num_samples, seed)

    monkeypatch.setattr(TransformersSampler, "draw", go_on)
    assert run("out") == 0
    assert len(asked) == len(set(asked)) == 5, "no problem is asked twice"
    assert (folder / "out" / "results.json").read_text() == (folder / "whole" / "results.json").read_text()
    assert (folder / "out" / "completions-0.jsonl").read_text() == (
        folder / "whole" / "completions-0.jsonl"
    ).read_text()
    monkeypatch.setattr(TransformersSampler, "__init__", lambda *args: pytest.fail("a finished one needs no model"))
    assert run("out") == 0


def test_two_processes_equal_one(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(evaluate.__file__).parents[1]))
    assert run("one") == 0
    assert run("two", "--num_processes", "2") == 0
    shares = [(folder / "two" / f"completions-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted((folder / "one" / "completions-0.jsonl").read_text().splitlines())
    assert len(shares[0]) == 3 and len(shares[1]) == 2
    assert read("two")["benchmarks"] == read("one")["benchmarks"]


def test_greedy_samples_are_the_likeliest_tokens(folder):
    """Prompts of uneven length in one batch, against one prompt at a time without `generate`."""
    sampler = TransformersSampler("model", Sampling(0.0, 1.0, 12), "float32", batch_size=3)
    prompts = [[2, 3, 4, 5, 6], [7], [8, 9, 2]]
    eos = SYMBOLS.index("<eos>")
    for prompt, (sample,) in zip(prompts, sampler.draw(prompts, 1, 0), strict=True):
        ids = list(prompt)
        while len(ids) - len(prompt) < 12 and ids[-1] != eos:
            with torch.no_grad():
                ids.append(int(sampler.model(torch.tensor([ids])).logits[0, -1].argmax()))
        completion = ids[len(prompt) :]
        text = sampler.tokenizer.decode(completion, skip_special_tokens=True)
        assert sample == (text, len(completion), completion[-1] != eos)


def test_adapter_equals_the_merged_model(folder):
    torch.manual_seed(0)
    model = get_peft_model(
        make_model(initializer_range=0.5),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.peft_config["default"].base_model_name_or_path = "model"
    model.save_pretrained("adapter")
    model.merge_and_unload().save_pretrained("merged")
    make_tokenizer().save_pretrained("merged")
    how = Sampling(1.0, 0.9, 12)
    drawn = [
        TransformersSampler(name, how, "float32", batch_size=8).draw([[2, 3], [4]], 4, seed=1)
        for name in ("adapter", "merged", "model")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_weights_that_are_no_safetensors(folder, capsys):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "model", "r": 4}')
    (folder / "adapter" / "adapter_model.bin").touch()
    words = ["--benchmarks", "short=short.jsonl", "--output", "out", "--model"]
    assert "Adapter adapter has no adapter_model.safetensors: save it again" in refuse(capsys, *words, "adapter")
    torch.save(make_model().state_dict(), folder / "model" / "pytorch_model.bin")
    (folder / "model" / "model.safetensors").unlink()
    assert "no file named model.safetensors found in directory model" in refuse(capsys, *words, "model")


def test_vllm(folder, monkeypatch):
    """What is asked of vLLM, and what becomes of its answer; vLLM itself needs CUDA."""
    calls = []

    class LLM:
        def __init__(self, **settings):
            calls.append(settings)

        def generate(self, prompts, parameters, use_tqdm, lora_request):
            calls.append([len(prompt["prompt_token_ids"]) for prompt in prompts])
            calls.append([vars(parameter) for parameter in parameters])
            drawn = types.SimpleNamespace(text=r"\boxed{1}", token_ids=[1, 2, 3], finish_reason="stop")
            return [types.SimpleNamespace(outputs=[drawn] * parameters[0].n) for _ in prompts]

    vllm = types.ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, lambda **settings: types.SimpleNamespace(**settings)
    lora = types.ModuleType("vllm.lora.request")
    lora.LoRARequest = lambda *args: args
    for name, module in {"vllm": vllm, "vllm.lora": types.ModuleType("vllm.lora"), "vllm.lora.request": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert run("out", "--backend", "vllm") == 0
    assert calls[0] == {"model": "model", "dtype": "auto", "load_format": "safetensors"}
    assert calls[1] == [2, 3] and [parameter["n"] for parameter in calls[2]] == [4, 4]
    seeds = [parameter["seed"] for parameters in calls[2::2] for parameter in parameters]
    assert len(set(seeds)) == 10 and calls[2][0]["top_p"] == 0.7 and calls[2][0]["max_tokens"] == 12
    assert read("out")["benchmarks"]["mine"]["problems"][0]["correct"] == [True] * 4
    assert read("out")["benchmarks"]["mine"]["scores"]["mean_length"] == 3


def test_template_of_the_training(folder, monkeypatch):
    answer_with(monkeypatch, lambda prompt: ["1"] * 4)
    assert run("out", "--prompt_template", "e{prompt}h") == 0
    rows = load_dataset("parquet", data_files="out/completions.parquet", split="train")
    assert rows[0]["prompt"] == "ea1h"


def test_comparison(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: [r"\boxed{1}", "", "", ""])
    assert run("first") == 0
    answer_with(monkeypatch, lambda problem: [rf"\boxed{{{GOLD[problem]}}}"] * 4)
    assert run("second") == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--compare", "first", "second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| mine | 3.6 | 100.0 | +96.4 | +8")
    assert lines[3].startswith("| short | 33.3 | 100.0 | +66.7 |") and lines[4].startswith(
        "| average | 18.5 | 100.0 |"
    )
    assert cli.main(["evaluate", "--compare", "first", "first"]) == 0
    assert "| mine | 3.6 | 3.6 | +0.0 | +0.0 to +0.0 |" in capsys.readouterr().out


def test_comparison_of_different_problems(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: ["1"] * 4)
    assert run("first") == 0
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert run("second") == 0
    assert "hold different problems of mine" in refuse(capsys, "--compare", "first", "second")
    assert "gone is no result" in refuse(capsys, "--compare", "first", "gone")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--output o", "Both `--model` and `--output` are needed"),
        ("--model m", "Both `--model` and `--output` are needed"),
        ("--model m --output o --benchmarks nope", "Benchmark 'nope' is unknown: use aime24, aime25"),
        ("--model m --output o --benchmarks a=gone.jsonl", "Dataset file gone.jsonl does not exist"),
        ("--model m --output o --benchmarks a=mine.jsonl a=short.jsonl", "names a benchmark twice"),
        ("--model m --output o --benchmarks a=mine.jsonl --k 1 2", "`--k` holds 2 numbers for 1 benchmarks"),
        (
            "--model m --output o --benchmarks a=mine.jsonl --k 0",
            "`--k`, `--max_tokens` and `--num_processes` must be",
        ),
        ("--model m --output o --benchmarks a=mine.jsonl --top_p 0", "`--top_p` in (0, 1]"),
        ("--model ./m --output o --benchmarks a=mine.jsonl", "./m"),
        (
            "--model model --output o --benchmarks a=bad.jsonl",
            "Row 0 of benchmark a has an answer that cannot be read",
        ),
        ("--model model --output o --benchmarks a=no.jsonl", "Row 0 of benchmark a has no problem"),
        ("--model model --output o --benchmarks a=mine.jsonl --prompt_template x", "`prompt_template` must be one of"),
    ],
)
def test_refusals(folder, capsys, options, sentence):
    (folder / "bad.jsonl").write_text('{"problem": "a", "answer": ""}')
    (folder / "no.jsonl").write_text('{"text": "a", "answer": "1"}')
    assert sentence in refuse(capsys, *options.split())


def test_other_settings_in_the_same_folder(folder, monkeypatch, capsys):
    answer_with(monkeypatch, lambda problem: ["1"] * 4)
    assert run("out") == 0
    before = (folder / "out" / "results.json").read_text()
    message = refuse(capsys, *OPTIONS, "--output", "out", "--temperature", "0.5", "--seed", "3")
    assert "out holds completions that were drawn otherwise (temperature, seed): use another folder" in message
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert "that were drawn otherwise (problems): use another folder" in refuse(capsys, *OPTIONS, "--output", "out")
    assert (folder / "out" / "results.json").read_text() == before
    (folder / "out" / "settings.json").write_text("{")
    assert "settings.json is broken" in refuse(capsys, *OPTIONS, "--output", "out")
