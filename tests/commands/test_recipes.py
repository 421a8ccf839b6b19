"""Every YAML of the repository: it parses, is on-policy, computes what its comment says, and differs where it may."""

import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from qwen import SHAPES, make_qwen_tokenizer

from opefo_trl.commands import cli
from opefo_trl.commands.arguments import apply_config_file, make_parser, parse
from opefo_trl.commands.dry_run import planned_config, read_plan


ROOT = Path(__file__).parents[2]
YAMLS = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("examples/**/*.yaml")])
ACCELERATE = [path for path in YAMLS if path.parent.name == "accelerate_configs"]
RECIPES = [path for path in YAMLS if path not in ACCELERATE]
ARITHMETIC = re.compile(
    r"^# Rollouts: (\d+) process(?:es)? × (\d+) completions × (\d+) accumulation steps? "
    r"= (\d+) prompts × (\d+) completions = (\d+) completions per optimizer step,\n# strictly on-policy$",
    re.MULTILINE,
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path):
    """Processes and configurations as on the machine that the recipe is for, whose GPUs are not needed to read it."""
    launch = apply_config_file(make_parser(), str(path))
    num_processes = launch.get("num_processes", 1)
    return num_processes, *parse(["--config", str(path), "--use_cpu", "true"], planned_config(num_processes))


def test_there_are_recipes():
    assert len(RECIPES) >= 15 and len(ACCELERATE) == 2


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_is_on_policy_and_its_comment_right(path):
    num_processes, script_args, args, _, _ = read(path)
    assert args.is_on_policy and args.strict_on_policy
    completions = num_processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    (comment,) = ARITHMETIC.findall(path.read_text())
    assert [int(number) for number in comment] == [
        num_processes,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        completions // args.num_generations,
        args.num_generations,
        completions,
    ]
    assert completions % args.num_generations == 0 and completions == args.generation_batch_size
    assert f"opefo train --config {name(path)}" in path.read_text(), "the comment's command must be this file's"
    assert args.output_dir.endswith(path.stem), "two recipes must not share a folder"


BASELINES = [
    (path, path.with_name("grpo_lora.yaml" if path.stem.endswith("_lora") else "grpo.yaml"))
    for path in RECIPES
    if not path.stem.startswith("grpo")
]


@pytest.mark.parametrize(("path", "baseline"), BASELINES, ids=[name(path) for path, _ in BASELINES])
def test_recipe_differs_from_its_baseline_in_the_methods_keys_alone(path, baseline):
    ours, theirs = (yaml.safe_load(file.read_text()) for file in (path, baseline))
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {key for key in different if not key.startswith("flow_")} == {"output_dir"}
    assert theirs["flow_strength"] == 0.0 and "flow_entropy_target" not in theirs


@pytest.mark.parametrize("path", [path for path in RECIPES if "Qwen2.5-Math" in path.parent.name], ids=name)
def test_qwen_math_has_4096_positions(path):
    _, script_args, args, _, _ = read(path)
    assert script_args.dataset_max_prompt_length + args.max_completion_length <= 4096 == args.vllm_max_model_length


@pytest.mark.parametrize("stem", ["grpo", "opefo", "opefo_paper", "opefo_target"])
def test_the_papers_set_up(stem):
    _, _, args, model_args, _ = read(ROOT / "recipes" / "Qwen2.5-Math-7B" / f"{stem}.yaml")
    assert (args.generation_batch_size, args.num_generations) == (256, 8)
    assert (args.learning_rate, args.max_completion_length, args.temperature, args.beta) == (2.83e-6, 3000, 1.0, 0.0)
    assert model_args.model_name_or_path == "Qwen/Qwen2.5-Math-7B"


@pytest.mark.parametrize("model", ["Qwen2.5-Math-7B", "Qwen3-4B-Base"])
def test_the_plans_eight_updates(model):
    """The options in `docs/reproduce_paper.md`: the paper's rollouts, and a step on each eighth."""
    plan = (ROOT / "docs" / "reproduce_paper.md").read_text()
    (options,) = re.findall(r"(--strict_on_policy false .*?\\\n.*?)\n", plan)
    words = options.replace("\\\n", " ").split()
    if model == "Qwen3-4B-Base":
        words += re.search(r"then\s+add `(.*?)`", plan, re.DOTALL)[1].split()
    path = ROOT / "recipes" / model / "grpo.yaml"
    num_processes = yaml.safe_load(path.read_text())["num_processes"]
    with pytest.warns(UserWarning, match="Training off-policy"):
        _, args, _, _ = parse(["--config", str(path), "--use_cpu", "true", *words], planned_config(num_processes))
    assert (args.generation_batch_size, args.learning_rate, args.flow_strength) == (256, 1e-6, 0.0)
    assert args.steps_per_generation / args.gradient_accumulation_steps == 8


@pytest.mark.parametrize("path", ACCELERATE, ids=name)
def test_accelerate_file(path):
    config = load_config_from_file(str(path))
    plan = read_plan(["--config_file", str(path)])
    assert (plan.zero_stage, plan.num_processes, plan.num_machines) == (3, config.num_processes, config.num_machines)
    assert plan.offload_optimizer == plan.offload_params == ("offload" in path.stem)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each Qwen model: its configuration and a tokenizer of its size, no weights."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_qwen_tokenizer()
    for shape, config in SHAPES.items():
        config.save_pretrained(folder / shape)
        tokenizer.save_pretrained(folder / shape)
    return folder


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name.startswith("Qwen")], ids=name)
def test_dry_run_of_the_recipe(path, models, tmp_path, capsys):
    """No problems found on the model's real shape, and the estimate that `recipes/README.md` gives."""
    row = {"solution": "34", "prompt": "1+1?", "problem": "1+1?", "level": "Level 4"}
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 40))
    recipe = yaml.safe_load(path.read_text())
    model = str(models / recipe["model_name_or_path"])
    options = ["--model_name_or_path", model, "--dataset_name", str(tmp_path / "rows.jsonl"), "--dry_run"]
    assert cli.main(["train", "--config", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert "Reward: math_reward gives 1.0 for the gold answer" in out and "No problems found." in out

    (estimate, vllm) = re.search(r"^Memory: .*?\((.*?), vLLM ([\d.]+)", out, re.MULTILINE).groups()
    parts = [float(size) for size in re.findall(r" ([\d.]+)", estimate + out.split(vllm + ", ")[1].split(";")[0])]
    share = recipe["vllm_gpu_memory_utilization"]
    table = (ROOT / "recipes" / "README.md").read_text()
    if not path.stem.startswith("grpo"):
        line = next(line for line in table.splitlines() if f"`{path.parent.name}/{path.name}`" in line)
        assert f" {sum(parts):.0f} + {share} of the GPU |" in line
        assert f"| {recipe['num_processes']} × " in line and f"| {recipe['max_completion_length']:,} |" in line
