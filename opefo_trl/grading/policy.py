"""Options of the math reward."""

from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Policy:
    """
    Options of the math reward, on which users differ.

    Args:
        tolerance (`float`, *optional*, defaults to `0.0`):
            Relative distance up to which two numbers are equal, for example 0.01 for rounded golds.
        units (`str`, *optional*, defaults to `"optional"`):
            With `"required"`, the answer must have the same unit as the gold, or no unit if the gold has none.
        several_golds (`str`, *optional*, defaults to `"all"`):
            With `"any"`, one of several gold answers is enough.

    Raises:
        `ValueError`: if a value is not allowed.
    """

    tolerance: float = 0.0
    units: Literal["optional", "required"] = "optional"
    several_golds: Literal["all", "any"] = "all"

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"`tolerance` is {self.tolerance}, but must be at least 0 and below 1, such as 0.01.")
        if self.units not in ("optional", "required"):
            raise ValueError(f"`units` is {self.units!r}: set it to 'optional' or 'required'.")
        if self.several_golds not in ("all", "any"):
            raise ValueError(f"`several_golds` is {self.several_golds!r}: set it to 'all' or 'any'.")

    @classmethod
    def from_options(cls, options: Any) -> "Policy":
        """
        The policy in the options of a command, `math_reward_tolerance` and so on.

        Raises:
            `ValueError`: if a value is not allowed.
        """
        names = [field.name for field in fields(cls)]
        try:
            return cls(*(getattr(options, f"math_reward_{name}") for name in names))
        except ValueError as error:
            raise ValueError(f"`math_reward_{str(error).removeprefix('`')}") from None


DEFAULT_POLICY = Policy()
