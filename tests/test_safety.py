"""Nothing runs a text as code: neither the package nor the examples, by their syntax, nor what reads an answer."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from opefo_trl import OPEFOConfig


ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("opefo_trl", "examples") for path in (ROOT / folder).rglob("*") if path.is_file())
SOURCES = [path for path in SOURCES if path.suffix in (".py", ".ipynb")]

RUN_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "sympy.sympify", "sympy.parse_expr"}
UNPICKLE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNPICKLING_CALLS = {"torch.load", "numpy.load", "pandas.read_pickle"}


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    return "".join(line for line in lines if not line.startswith(("%", "!")))


def unsafe(code: str) -> list[str]:
    """What in a module may run a text as code, or load weights that are no safetensors."""
    tree = ast.parse(code)
    imported = {}  # under which name a module or one of its members is known here
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in node.names:
                imported[name.asname or name.name] = module + name.name

    def full_name(node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return imported.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    found = [f"imports {name}" for name in imported.values() if name.split(".")[0] in UNPICKLE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            settings = {key.value: value for key, value in zip(node.keys, node.values, strict=True) if is_text(key)}
        elif isinstance(node, ast.Call):
            settings = {keyword.arg: keyword.value for keyword in node.keywords}
            called = full_name(node.func).removeprefix("builtins.")
            is_yaml = called.split(".")[0] == "yaml" and "load" in called and called != "yaml.safe_load"
            if called in RUN_TEXT | UNPICKLING_CALLS or is_yaml or called.endswith(".recv"):
                found.append(f"calls {called}")
            is_model = called.endswith(".from_pretrained") and "AutoModel" in called
            if is_model and not (is_constant(settings.get("use_safetensors"), True) or "gguf_file" in settings):
                found.append(f"{called} without use_safetensors=True")
            if called == "vllm.LLM" and not is_constant(settings.get("load_format"), "safetensors"):
                found.append("vllm.LLM without load_format='safetensors'")
        else:
            continue
        for name, only in {"shell": False, "weights_only": True, "safe_serialization": True}.items():
            if name in settings and not is_constant(settings[name], only):
                found.append(f"{name} is not {only}")
        remote = settings.get("trust_remote_code")
        if remote is not None and not (isinstance(remote, ast.Attribute) and remote.attr == "trust_remote_code"):
            found.append("trust_remote_code is not the user's")
    return found


def is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value or is_text(node) and node.value == value


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_module_runs_text_or_unpickles(path):
    assert unsafe(code_of(path)) == []


def test_every_module_is_looked_at():
    names = {path.name for path in SOURCES}
    assert {"grader.py", "sampling.py", "countdown.py", "lora.py", "grpo_to_opefo.ipynb"} <= names


@pytest.mark.parametrize(
    "code",
    [
        "eval(completion)",
        "exec('1')",
        "import builtins as b\nb.eval(text)",
        "compile(text, '', 'eval')",
        "from sympy import parse_expr\nparse_expr(answer)",
        "import pickle",
        "from joblib import load",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch\nfrom torch import nn\nanything(path, weights_only=False)",
        "connection.recv()",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import os\nos.system(command)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "from yaml import full_load\nfull_load(text)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "settings = {'trust_remote_code': True}",
        "AutoModelForCausalLM.from_pretrained(name)",
        "AutoModelForCausalLM.from_pretrained(name, use_safetensors=False)",
        "model.save_pretrained(path, safe_serialization=False)",
        "from vllm import LLM\nLLM(model=name)",
    ],
)
def test_the_check_can_fail(code):
    assert len(unsafe(code)) == 1


def test_what_is_safe():
    code = (
        "import ast, re, yaml\nmodel.eval()\nast.literal_eval(text)\nre.compile(text)\nyaml.safe_load(text)\n"
        "AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, trust_remote_code=args.trust_remote_code)\n"
    )
    assert unsafe(code) == []


def test_remote_code_is_off_unless_asked_for():
    assert OPEFOConfig("run", use_cpu=True, bf16=False).trust_remote_code is False


# As an answer or a gold, each would leave a file or a trace if any part of it ran
CODE = [
    "__import__('os').system('touch {}')",
    r"\text{{__import__('os').system('touch {}')}}",
    r"\operatorname{{eval}}(\text{{open('{}', 'w')}})",
    r"\mathrm{{open}}('{}','w')",
    r"x_{{open('{}','w')}} = 1",
    r"f(open('{}','w'), 1)",
    r"\gcd(open('{}','w'), 1)",
    r"\max(open('{}','w'), 1)",
    r"\variable{{open('{}','w')}}",
    r"\{{open('{}','w'), 2\}}",
    r"1, open('{}','w')",
    r"\begin{{pmatrix}} open('{}','w') & 1 \end{{pmatrix}}",
    r"1e9 + open('{}','w')",
    r"0x10; open('{}','w')",
    r"lambda: open('{}','w')",
]


def test_no_answer_is_run_by_the_grader(tmp_path):
    """Where math-verify has SymPy evaluate a text, that text is a number."""
    script = (
        "import json, re, sys\n"
        "import sympy.physics.units, sympy.parsing.sympy_parser as parser\n"
        "from opefo_trl.grading.equality import equal, is_text_alone\n"
        "from opefo_trl.grading.formulas import read_formula\n"
        "evaluate, evaluated = parser.eval_expr, []\n"
        "def eval_expr(code, *names):\n"
        "    evaluated.append(code)\n"
        "    return evaluate(code, *names)\n"
        "parser.eval_expr = eval_expr\n"
        "for answer in ['2', '0.50', *json.loads(sys.argv[1])]:\n"
        "    read_formula(answer)\n"
        "    is_text_alone(answer)\n"
        "    equal('5', answer)\n"
        "    equal(answer, '5')\n"
        "    equal(f'({answer}) + x', f'x + ({answer}) + 0')\n"
        "print(json.dumps(evaluated))\n"
    )
    mark = tmp_path / "mark"
    answers = json.dumps([answer.format(mark) for answer in CODE])
    done = subprocess.run([sys.executable, "-c", script, answers], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated = json.loads(done.stdout)
    assert "Integer (2 )" in evaluated and "Float ('0.50' )" in evaluated, "the watch is where SymPy evaluates"
    assert [code for code in evaluated if not is_number(code)] == []
    assert list(tmp_path.iterdir()) == []


def is_number(code: str) -> bool:
    name, _, value = code.partition(" (")
    return name in ("Integer", "Float") and set(value) <= set("0123456789.e+- ')")
