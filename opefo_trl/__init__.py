"""OPEFO for TRL: GRPO with the policy's entropy flow balanced."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet


if TYPE_CHECKING:
    from .config import OPEFOConfig as OPEFOConfig
    from .trainer import OPEFOTrainer as OPEFOTrainer

__version__ = "0.1.0"
__all__ = ["OPEFOConfig", "OPEFOTrainer"]

# The seams to TRL are methods that move between its releases: an untested one could train plain GRPO without a word.
# Checked here, since every module of the package, and so the command too, comes by this way
TRL_RANGE = ">=1.16,<1.17"
if not SpecifierSet(TRL_RANGE).contains(version("trl"), prereleases=True):
    raise ImportError(
        f"opefo_trl {__version__} works with trl{TRL_RANGE}, but trl {version('trl')} is installed: "
        f"run `pip install 'trl{TRL_RANGE}'`."
    )

_MODULES = {"OPEFOConfig": ".config", "OPEFOTrainer": ".trainer"}


# Lazy, as TRL's own import: `import opefo_trl` must not load torch
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
