"""The reward of reasoning-gym's tasks: each task's own verifier scores the answer that a completion gives."""

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any


try:
    import reasoning_gym
except ImportError as error:
    raise ImportError(
        f"reasoning-gym cannot be imported ({error}): install it with `pip install -e '.[reasoning-gym]'`."
    ) from error


# A longer answer gets 0 without being read, which bounds the work of the verifier
MAX_ANSWER_LENGTH = 4000

# Tasks of reasoning-gym 0.1 whose verifier must not see text that a model wrote
REFUSED_TASKS = frozenset(
    [
        # They run the answer as Python, by `eval` or by SymPy's parser
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
        # It computes 1e999999999 to the last digit
        "coin_flip",
        # It calls every answer right where "True" is
        "game_of_life_halting",
    ]
)


@cache
def get_verifier(task: str) -> Callable[[str, dict[str, Any]], float]:
    """
    Returns a task's verifier, `score_answer(answer, entry)`.

    Args:
        task (`str`):
            Name of a task of reasoning-gym.

    Raises:
        `ValueError`: if there is no such task, or if its verifier is not safe for text of a model.
    """
    if task in REFUSED_TASKS:
        raise ValueError(
            f"Task {task!r} is refused: its verifier is not safe for text of a model, or accepts any answer."
        )
    try:
        return reasoning_gym.get_score_answer_fn(task)
    except Exception as error:  # an unknown task, or "composite", which needs tasks of its own
        raise ValueError(f"Task {task!r} has no verifier in reasoning-gym: {error}") from error


def extract_answer(text: str) -> str | None:
    """Returns the text between the last `<answer>` and `</answer>`, or `None` if there is none."""
    before, closed, _ = text.rpartition("</answer>")
    _, opened, answer = before.rpartition("<answer>")
    return answer.strip() if opened and closed else None


def score(text: str, entry: dict[str, Any]) -> float:
    """Returns the verifier's score of a completion, 0.0 to 1.0; 0.0 if there is no answer or the verifier fails."""
    verify = get_verifier(entry["metadata"]["source_dataset"])
    answer = extract_answer(text)
    if answer is None or len(answer) > MAX_ANSWER_LENGTH:
        return 0.0
    try:
        value = float(verify(answer, entry))
    except Exception:  # verifiers raise all kinds of exceptions on unexpected text
        return 0.0
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def reasoning_gym_reward(completions: list[Any], entry: list[str], **kwargs) -> list[float]:
    """
    Reward function for [`~trl.GRPOTrainer`]: the score that the task's verifier gives to the answer in
    `<answer>…</answer>`, the last one if there are several.

    Args:
        completions (`list[str]` or `list[list[dict[str, Any]]]`):
            Generated texts or messages.
        entry (`list[str]`):
            Entry of reasoning-gym that each prompt was made from, as JSON, from the dataset's column of that name.
        **kwargs:
            The other columns, which TRL passes too.

    Returns:
        `list[float]`: one reward per completion, from 0.0 to 1.0.
    """
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    return [score(text, json.loads(row)) for text, row in zip(texts, entry, strict=True)]
