"""The command `opefo`."""

import argparse
import logging
import os
import signal
import sys
from importlib import import_module
from subprocess import CalledProcessError

from .. import __version__
from .fields import check_names, format_help


def train(args: list[str]) -> int:
    """Launch `opefo_trl.commands.train` through accelerate, as `trl grpo` launches its script."""
    try:
        if "--help" in args or "-h" in args:
            print_help(args)
            return 0
        check_names(args)
    except ValueError as error:
        print(f"opefo train: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    from .arguments import apply_config_file, check_options, launch_actions, make_parser, without
    from .messages import fail

    parser = make_parser()
    known = launch_actions()
    try:
        # Values of the command line are checked later, when the number of processes is known
        namespace, launch_args = parser.parse_known_args(args)
        check_options(launch_args, parser, known)
        train_args = without(args, launch_args)
        for key, value in apply_config_file(parser, namespace.config).items():
            is_flag = known[key].nargs == 0
            if f"--{key}" not in launch_args and (value or not is_flag):
                launch_args += [f"--{key}"] if is_flag else [f"--{key}", str(value)]
        launch_args = resolve_accelerate_config_argument(launch_args)
    except ValueError as error:
        fail(error)
    if namespace.dry_run:
        from .dry_run import main as dry_run

        return dry_run(train_args, launch_args)
    if (code := check_first(train_args, launch_args)) != 0:
        return code
    # The training processes handle Ctrl-C: they say how to continue, and this process returns their exit code
    if not launch_args:  # accelerate warns about the defaults that it uses
        logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launch_command(
            launch_command_parser().parse_args([*launch_args, "--module", "opefo_trl.commands.train", *train_args])
        )
    except CalledProcessError as error:
        return error.returncode
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:  # from the launcher of several processes
        return 128 + error.sigval
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def print_help(args: list[str]) -> None:
    """
    Raises:
        `ValueError`: if the word after `--help` is not a topic.
    """
    place = next(place for place, word in enumerate(args) if word in ("--help", "-h"))
    try:
        print(format_help("opefo train", *args[place + 1 : place + 2]))
    except (LookupError, OSError, SyntaxError, ImportError):  # other package versions, whose sources look different
        from .arguments import make_parser

        make_parser().print_help()


def check_first(train_args: list[str], launch_args: list[str]) -> int:
    """
    Run the checks of a training process in a child process, so that a mistake is found before the training starts. The
    child cannot change this process, whose environment variables the training inherits.

    Returns:
        `int`: its exit code, 0 if all is well.
    """
    from .arguments import wants_cpu
    from .dry_run import planned_config, read_plan
    from .messages import fail, quiet
    from .train import check, parse

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        quiet()
        # Touch no device here; the training processes check what needs one
        parsed = parse([*train_args, "--use_cpu", "true"], planned_config(read_plan(launch_args).num_processes))
        check(*parsed, wants_cpu(train_args))
        code = 0
    except (ValueError, TypeError, OSError) as error:
        try:
            fail(error)
        except SystemExit as end:
            code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="opefo", description="OPEFO for TRL: GRPO with balanced entropy flow.")
    parser.add_argument("--version", action="version", version=f"opefo_trl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a model; `opefo train --help` lists every field", add_help=False)
    commands.add_parser("evaluate", help="score a model on math benchmarks", add_help=False)
    commands.add_parser("plot", help="draw runs and say what is wrong with them", add_help=False)
    commands.add_parser("inspect", help="show entropy and entropy change of every token on a page", add_help=False)
    commands.add_parser("recipes", help="list the recipes for `opefo train`, or print one", add_help=False)
    args, rest = parser.parse_known_args(argv)
    if args.command == "train":
        return train(rest)
    # Only the module of the command is imported: some take seconds
    return import_module(f".{args.command}", __package__).main(rest)


if __name__ == "__main__":
    sys.exit(main())
