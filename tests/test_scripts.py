"""Public training scripts, with two names swapped: at strength 0 they end with stock GRPO's weights, bit for bit."""

from dataclasses import dataclass

import pytest
import transformers
import trl
from chats import make_chat_model, make_chat_tokenizer
from conftest import equal, make_model, make_tokenizer, relative_error
from scripts import SCRIPTS, gspo

import opefo_trl


@dataclass
class Here:
    """What a script leaves to its machine and to chance: in place of the defaults, whatever it does not set itself."""

    report_to: str = "none"
    use_cpu: bool = True
    bf16: bool = False
    gradient_checkpointing: bool = False
    disable_tqdm: bool = True
    save_strategy: str = "no"
    logging_steps: int = 1
    num_generations: int = 4
    max_completion_length: int = 10
    seed: int = 7


@dataclass
class GRPOConfig(Here, trl.GRPOConfig):
    pass


@dataclass
class OPEFOConfig(Here, opefo_trl.OPEFOConfig):
    pass


@dataclass
class MonitorConfig(OPEFOConfig):
    flow_strength: float = 0.0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """What stands in the place of the hub's models."""
    folder = tmp_path_factory.mktemp("models")
    for name, model, tokenizer in (
        ("model", make_model(), make_tokenizer()),
        ("chat", make_chat_model(), make_chat_tokenizer()),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def ends(models, tmp_path):
    """Of a script: the weights of stock GRPO, of strength 0 and of strength 1."""

    def run(script):
        swapped = opefo_trl.OPEFOTrainer
        for config, trainer in (GRPOConfig, trl.GRPOTrainer), (MonitorConfig, swapped), (OPEFOConfig, swapped):
            folder = tmp_path / config.__name__
            folder.mkdir()
            for saved in models.iterdir():
                (folder / saved.name).symlink_to(saved)
            transformers.set_seed(0)  # of a new adapter
            yield script(config, trainer, folder).model.state_dict()

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_script(ends, script):
    stock, monitored, balanced = ends(script)
    assert equal(stock, monitored)
    assert not equal(stock, balanced)


def test_gspo(ends):
    """Run per token, its gradient is stock's up to rounding, which Adam enlarges."""
    stock, monitored, balanced = ends(gspo)
    assert relative_error(monitored, stock) < 1e-4 < 1e-3 < relative_error(balanced, stock)
