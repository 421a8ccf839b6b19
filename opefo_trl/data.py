"""From a dataset on disk or on the hub to the `prompt` column that TRL trains on."""

from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk


LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load_splits(name: str, config: str | None = None, streaming: bool = False) -> DatasetDict | IterableDatasetDict:
    """
    Load a dataset with its splits.

    Args:
        name (`str`):
            A `.jsonl`, `.json`, `.parquet` or `.csv` file (one split, `train`), a folder that `save_to_disk` wrote, a
            folder of data files (named after their splits), or a name on the hub.
        config (`str`, *optional*):
            Configuration of a dataset on the hub.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to stream it.

    Raises:
        `ValueError`: if a local file or folder does not exist or cannot be read as a dataset.
    """
    path = Path(name)
    if path.suffix in LOADERS and not path.is_file():
        raise ValueError(f"Dataset file {name} does not exist: check `dataset_name` and the folder you run from.")
    try:
        if path.is_file():
            if path.suffix not in LOADERS:
                raise ValueError(f"its ending is none of {', '.join(LOADERS)}")
            return load_dataset(LOADERS[path.suffix], data_files=name, streaming=streaming)
        if (path / "dataset_dict.json").is_file():
            return load_from_disk(name)
        if (path / "dataset_info.json").is_file():
            return DatasetDict({"train": load_from_disk(name)})
        return load_dataset(name, name=config, streaming=streaming)
    except Exception as error:  # `datasets` raises many kinds, for a bad row as for a missing folder
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"Dataset {name} could not be loaded: {reason}") from error


def pick_split(splits: DatasetDict | IterableDatasetDict, split: str, field: str, name: str) -> Any:
    """Return one split, or raise a `ValueError` that names the `field` that asked for it."""
    if split not in splits:
        raise ValueError(f"Dataset {name} has no split {split!r}: set `{field}` to one of {', '.join(splits)}.")
    return splits[split]


def to_prompts(
    dataset: Any,
    name: str,
    prompt_column: str = "prompt",
    solution_column: str | None = None,
    prompt_template: str | None = None,
    system_prompt: str | None = None,
    conversational: bool = False,
) -> Any:
    """
    Give each row a `prompt` (and a `solution`) as TRL and its rewards expect them; other columns stay.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows.
        name (`str`):
            What the dataset is called in messages.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column with a problem text or with chat messages.
        solution_column (`str`, *optional*):
            Column to offer to reward functions as `solution`.
        prompt_template (`str`, *optional*):
            Text with `{prompt}` where the problem goes.
        system_prompt (`str`, *optional*):
            System message to put first; makes a text prompt conversational.
        conversational (`bool`, *optional*, defaults to `False`):
            Whether to turn a text prompt into a user message, so that the model's chat template is applied.

    Raises:
        `ValueError`: if a column is missing, the dataset is empty, or the prompts do not fit the options.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"Dataset {name} has no rows.")
    for field, column in (("dataset_prompt_column", prompt_column), ("dataset_solution_column", solution_column)):
        if column is not None and column not in first:
            raise ValueError(f"Dataset {name} has no column {column!r}: set `{field}` to one of {', '.join(first)}.")
    is_text = isinstance(first[prompt_column], str)
    if not is_text and not isinstance(first[prompt_column], list):
        raise ValueError(
            f"Column {prompt_column!r} of dataset {name} must hold texts or lists of chat messages, but its first row "
            f"holds {first[prompt_column]!r}."
        )
    if prompt_template is not None and not is_text:
        raise ValueError(
            f"`prompt_template` applies to texts, but column {prompt_column!r} of dataset {name} holds chat messages."
        )
    if prompt_template is not None and "{prompt}" not in prompt_template:
        raise ValueError("`prompt_template` must contain {prompt}, the place where the problem goes.")
    if prompt_column == "prompt" and not (solution_column or prompt_template or system_prompt or conversational):
        return dataset

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        prompt = row[prompt_column]
        if prompt_template is not None:
            # Not `str.format`: templates and problems are full of LaTeX braces
            prompt = prompt_template.replace("{prompt}", prompt)
        if is_text and (conversational or system_prompt is not None):
            prompt = [{"role": "user", "content": prompt}]
        if system_prompt is not None:
            prompt = [{"role": "system", "content": system_prompt}, *prompt]
        converted = {"prompt": prompt}
        if solution_column is not None:
            converted["solution"] = row[solution_column]
        return converted

    # Dropped first, since a column cannot change from text to messages in place
    return dataset.map(convert, remove_columns=["prompt"] if "prompt" in first else None)
