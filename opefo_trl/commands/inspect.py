"""`opefo inspect`: writes an HTML page with the entropy of every token, and how an update would change it."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ..config import OPEFOConfig
from .arguments import check_options, launch_actions, parse, without
from .arguments import make_parser as make_train_parser
from .messages import one_line, quiet
from .preparation import prepare


PROG = "opefo inspect"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} --config FILE.yaml [--prompts N] [--compare MODEL] [--out FILE] [--FIELD VALUE ...]",
        description="Draw completions to a few prompts of a dataset as `opefo train` would, and write a page that "
        "shows the entropy, the probability and the entropy change of every token. FIELD is any field of `opefo "
        "train`; `--model_name_or_path` names the model or a run's checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("--prompts", type=int, default=4, help="prompts to draw for (default: %(default)s)")
    parser.add_argument(
        "--compare", metavar="MODEL", help="second model, such as the base model, measured on the same tokens"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("inspect.html"), metavar="FILE", help="page to write (default: %(default)s)"
    )
    return parser


def config_for(prompts: int, output_dir: str) -> type[OPEFOConfig]:
    """[`OPEFOConfig`] with all completions of `prompts` prompts in one micro-batch. It saves and reports nothing."""

    class InspectionConfig(OPEFOConfig):
        def __post_init__(self):
            self.per_device_train_batch_size = prompts * cast(int, self.num_generations)
            self.gradient_accumulation_steps = self.num_iterations = 1
            self.generation_batch_size = self.steps_per_generation = None
            self.output_dir, self.report_to, self.save_strategy, self.eval_strategy = output_dir, "none", "no", "no"
            self.gradient_checkpointing = self.log_completions = False
            super().__post_init__()

    return InspectionConfig


def inspect_model(train_args: list[str], prompts: int, compare: str | None, out: Path) -> str:
    """
    Draw, measure and write the page.

    Returns:
        `str`: what to print.

    Raises:
        `ValueError`: if the settings do not fit, a model cannot be loaded, or the page cannot be written.
    """
    from ..inspection.measuring import InspectedTrainer, inspect
    from ..inspection.page import render_page

    if prompts < 1:
        raise ValueError(f"`--prompts` must be at least 1, but it is {prompts}.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"`--out` {out} cannot be written: there is no folder {out.absolute().parent}.")
    with tempfile.TemporaryDirectory() as folder:
        # Options for accelerate are of no use here, but a command for `opefo train` may hold some
        parser = make_train_parser()
        _, launch_args = parser.parse_known_args(train_args)
        check_options(launch_args, parser, launch_actions())
        parsed = parse(without(train_args, launch_args), config_for(prompts, folder))
        trainer_args = prepare(*parsed)

        def load(model: Any) -> InspectedTrainer:
            try:
                return InspectedTrainer(**{**trainer_args, "model": model})
            except OSError as error:
                raise ValueError(f"Model {model} cannot be loaded: {error}") from error

        trainer = load(trainer_args["model"])
        other = None if compare is None else load(compare)
        first, second = (cast(Any, each.processing_class) for each in (trainer, other or trainer))
        if first.get_vocab() != second.get_vocab():
            raise ValueError(
                f"{compare} has another tokenizer than {trainer_args['model']}: compare models with one tokenizer."
            )
        inspection = inspect(trainer, other)
    try:
        names = [None if name is None else Path(name).name or name for name in (trainer_args["model"], compare)]
        out.write_text(render_page(inspection, str(names[0]), names[1]), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"`--out` {out} cannot be written: {error.strerror}.") from error
    return (
        f"Wrote {out}: {prompts} prompts, mean entropy {inspection.entropy:.3f} nats, P {inspection.increase:.3g}, "
        f"N {inspection.decrease:.3g}, λ {inspection.coefficient:+.3f}."
    )


def main(argv: Sequence[str]) -> int:
    options, train_args = make_parser().parse_known_args(argv)
    quiet()
    try:
        print(inspect_model(train_args, options.prompts, options.compare, options.out))
    except (ValueError, TypeError, OSError) as error:
        print(f"{PROG}: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0
