"""Tools, and environments over several turns: at strength 0 stock GRPO's weights, else λ as from full logits."""

import asyncio

import pytest
import torch
from chats import chat_reward, make_chats
from ways import chat, check, logged


def up(steps: int) -> str:
    """
    Go up.

    Args:
        steps: How many.

    Returns:
        Where that is.
    """
    return str(2 * steps)


async def down(steps: int) -> str:
    """
    Go down, and be slow about it.

    Args:
        steps: How many.

    Returns:
        Where that is.
    """
    await asyncio.sleep(0)
    return str(9 - steps)


class Stairs:
    """An environment of several turns: it remembers where the model stands."""

    def reset(self, start: int = 0, **kwargs) -> str | None:
        self.floor = start
        return f" {start}"

    async def down(self, steps: int) -> str:
        """
        Go down.

        Args:
            steps: How many.

        Returns:
            Where that is.
        """
        self.floor -= steps or 1  # the model may leave it out
        return str(self.floor)


class ScoredStairs(Stairs):
    """The environment gives a reward."""

    def up(self, steps: int) -> str:
        """
        Go up.

        Args:
            steps: How many.

        Returns:
            Where that is.
        """
        self.floor += steps or 1
        return str(self.floor)

    def get_reward(self) -> float:
        return -abs(self.floor - 3.0)


def floor_reward(completions, environments, **kwargs):
    return [float(environment.floor) for environment in environments]


def both_environments():
    """Each row names its own; rewards are the environment's, where it has one, and a function's."""
    rows = make_chats(environment=["scored", "stairs"], start=[1, 2, 3])
    environments = {"stairs": Stairs, "scored": ScoredStairs}
    return chat(train_dataset=rows, environment_factory=environments, reward_funcs=[floor_reward, chat_reward])


AGENTS = {
    "tools": (lambda: chat(tools=[up, down]), {}),
    "one call at most": (lambda: chat(tools=[up, down]), {"max_tool_calling_iterations": 1, "loss_type": "grpo"}),
    "an environment": (
        lambda: chat(
            environment_factory=ScoredStairs, reward_funcs=[floor_reward], train_dataset=make_chats(start=[4, 0])
        ),
        {},
    ),
    "an environment and a tool": (
        lambda: chat(environment_factory=Stairs, tools=[up]),
        {"mask_truncated_completions": True},
    ),
    "an environment alone": (
        lambda: chat(environment_factory=ScoredStairs, reward_funcs=None, train_dataset=None),
        {},
    ),
    "two environments": (both_environments, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.filterwarnings("ignore:You are using 'environment_factory'")
@pytest.mark.parametrize("name", AGENTS)
def test_agents(tmp_path, name):
    """The model calls tools, and what they return is in its context and not trained on."""
    way, settings = AGENTS[name]
    stock, balanced = check(tmp_path, way, max_completion_length=60, **settings)
    assert all(frequency > 0 for frequency in logged(stock, "tools/call_frequency"))
    masks = torch.cat([batch["tool_mask"] for batch in balanced._buffered_inputs])  # (B, T)
    calls = (masks.diff(dim=1) == -1).sum(1)  # (B,)
    assert (calls.max() == 1) if "max_tool_calling_iterations" in settings else (calls.max() > 1)
