"""Says in the log of a run what `opefo plot` would say of it, while it can still be helped."""

from typing import Any

from accelerate.logging import get_logger
from transformers import TrainerCallback

from .plotting.diagnosis import NOT_LEARNING, find_troubles
from .plotting.runs import Run, add_entry


logger = get_logger(__name__)

PATIENCE = 5  # logs in a row that show a trouble before it is said: one batch may do so by chance
LOGS_JUDGED = 20  # fewer tell neither a collapse nor a bound


class Watcher(TrainerCallback):
    """
    Warns once of each trouble that [`~opefo_trl.plotting.diagnosis.find_troubles`] finds in the logs so far, and again
    of those that are there at the end.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.run = Run("this run", {})
        self.num_logs = 0
        self.seen: dict[str, int] = {}  # logs in a row with each trouble
        self.said: set[str] = set()
        for entry in state.log_history:  # of a run that is resumed
            self._add(entry)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._add({**(logs or {}), "step": state.global_step})
        found = self._find()
        self.seen = {kind: self.seen.get(kind, 0) + 1 for kind in found}
        for kind, sentence in found.items():
            if self.seen[kind] >= PATIENCE and kind not in self.said:
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
