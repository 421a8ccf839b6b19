"""Logs the warnings of `opefo plot` while a run is still training."""

from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback

from .plotting.diagnosis import NOT_LEARNING, find_troubles
from .plotting.runs import Run, add_entry


logger = get_logger(__name__)

# Consecutive logs that show a trouble before the warning. In a few logs, small groups get equal rewards by chance
PATIENCE = 15
PATIENCE_WHEN_NOT_LEARNING = 5
LOGS_JUDGED = 20  # fewer logs cannot show a collapse or a pinned λ


class Watcher(TrainerCallback):
    """
    Warns once about each trouble that [`~opefo_trl.plotting.diagnosis.find_troubles`] finds in the logs so far, and
    again at the end about those that remain.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.run = Run("this run", {})
        self.num_logs = 0
        self.seen: dict[str, int] = {}  # logs in a row with each trouble
        self.said: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self._forget()
        for entry in state.log_history:  # of a resumed run
            self._add(entry)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._add({**(logs or {}), "step": state.global_step})
        found = self._find()
        self.seen = {kind: self.seen.get(kind, 0) + 1 for kind in found}
        for kind, sentence in found.items():
            needed = PATIENCE_WHEN_NOT_LEARNING if kind in NOT_LEARNING else PATIENCE
            if self.seen[kind] >= needed and kind not in self.said:
                self.said.add(kind)
                logger.warning(f"Step {state.global_step}: {sentence}")

    def on_train_end(self, args, state, control, **kwargs):
        for sentence in self._find().values():
            logger.warning(f"At the end, step {state.global_step}: {sentence}")

    def _add(self, entry: dict[str, Any]) -> None:
        add_entry(self.run, entry)
        self.num_logs += "reward" in entry

    def _find(self) -> dict[str, str]:
        found = find_troubles(self.run)
        return found if self.num_logs >= LOGS_JUDGED else {kind: found[kind] for kind in NOT_LEARNING & found.keys()}
