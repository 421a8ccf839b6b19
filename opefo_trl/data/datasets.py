"""Loads datasets from disk or from the hub, and selects their split and rows."""

from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk


LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
# In a CSV file, `NA` and `None` are ordinary answers
OPTIONS = {"csv": {"keep_default_na": False}}


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
                raise ValueError(f"its extension is none of {', '.join(LOADERS)}")
            if path.stat().st_size == 0:
                raise ValueError("it is empty")
            loader = LOADERS[path.suffix]
            if loader != "parquet":
                _check_encoding(path)
            return load_dataset(loader, data_files=name, streaming=streaming, **OPTIONS.get(loader, {}))
        if (path / "dataset_dict.json").is_file():
            return load_from_disk(name)
        if (path / "dataset_info.json").is_file():
            return DatasetDict({"train": load_from_disk(name)})
        return load_dataset(name, name=config, streaming=streaming)
    except Exception as error:  # `datasets` raises many kinds, for bad rows as well as for missing folders
        reason = " ".join(str(error.__cause__ or error).split())
        if "corresponds to no data" in reason:
            reason = "it holds no rows"
        raise ValueError(f"Dataset {name} could not be loaded: {reason}.") from error


def _check_encoding(path: Path) -> None:
    """Raise a `ValueError` if a file is not UTF-8: `datasets` would fail only at that row, in the middle of a run."""
    with path.open(encoding="utf-8") as file:
        try:
            while file.read(1 << 20):
                pass
        except UnicodeDecodeError as error:
            reason = f"it is not UTF-8 ({error}): convert it, for example with `iconv -f latin1 -t utf8`"
            raise ValueError(reason) from None


def pick_split(splits: DatasetDict | IterableDatasetDict, split: str, field: str, name: str) -> Any:
    """Return one split, or raise a `ValueError` that names the `field` that asked for it."""
    if split not in splits:
        raise ValueError(f"Dataset {name} has no split {split!r}: set `{field}` to one of {', '.join(splits)}.")
    return splits[split]


def keep_rows(dataset: Any, wanted: dict[str, Any], name: str) -> Any:
    """
    Keep the rows whose columns hold one of the wanted values.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows.
        wanted (`dict[str, Any]`):
            A value or a list of values for each column.
        name (`str`):
            What the dataset is called in messages.

    Raises:
        `ValueError`: if a column is missing, or no row is left.
    """
    first: dict[str, Any] = next(iter(dataset), {})
    for column in wanted:
        if column not in first:
            raise ValueError(f"Dataset {name} has no column {column!r}: `dataset_filter` can use {', '.join(first)}.")
    values = {column: value if isinstance(value, list) else [value] for column, value in wanted.items()}
    kept = dataset.filter(lambda row: all(row[column] in values[column] for column in values))
    if next(iter(kept), None) is None:
        raise ValueError(f"`dataset_filter` {wanted} leaves no row of dataset {name}: its first row is {first}.")
    return kept
