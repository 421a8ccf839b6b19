"""OPEFO for TRL: GRPO with the policy's entropy flow balanced."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement


if TYPE_CHECKING:
    from .config import OPEFOConfig as OPEFOConfig
    from .trainer import OPEFOTrainer as OPEFOTrainer

__version__ = "0.1.0"
__all__ = ["OPEFOConfig", "OPEFOTrainer"]


# The seams to TRL are methods that move between its releases: an untested one could train plain GRPO without a word.
# Checked here, since every module of the package, and so the command too, comes by this way
def _check_trl() -> None:
    try:
        requirements = map(Requirement, requires("opefo_trl") or [])
    except PackageNotFoundError as error:
        raise ImportError(
            f"opefo_trl {__version__} is imported from a folder and not installed, so which TRL it works with is "
            "unknown: run `pip install -e .` in its checkout."
        ) from error
    supported = next(requirement.specifier for requirement in requirements if requirement.name == "trl")
    needed = "trl" + ",".join(sorted(map(str, supported), reverse=True))  # the lower bound first
    try:
        found = version("trl")
    except PackageNotFoundError as error:
        raise ImportError(
            f"opefo_trl {__version__} works with {needed}, but no trl is installed: run `pip install '{needed}'`."
        ) from error
    if not supported.contains(found, prereleases=True):
        raise ImportError(
            f"opefo_trl {__version__} works with {needed}, but trl {found} is installed: run `pip install '{needed}'`."
        )


_check_trl()
_MODULES = {"OPEFOConfig": ".config", "OPEFOTrainer": ".trainer"}


# Lazy, as TRL's own import: `import opefo_trl` must not load torch
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
