"""Where rows come from: files are read line by line or batch by batch, never as a whole."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from realigner.data.rows import InvalidRow, Row
from realigner.errors import DataError, did_you_mean
from realigner.recipe import DataSettings

JSON_LINES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
PARQUET = (".parquet",)
KNOWN = ", ".join((*JSON_LINES, *PARQUET))
PARQUET_BATCH = 256
"""Rows decoded at a time."""
SPLIT_WORDS = frozenset({"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"})
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def open_rows(settings: DataSettings) -> Iterator[Row]:
    """Return the rows of a data set; what can be checked without reading is checked at once.

    Raises:
        DataError: there is no such file, directory or hub id, or it is in no form that can be read.
    """
    path = Path(settings.path)
    if is_saved_dataset(path):
        return _saved_rows(settings)
    if path.exists():
        return (row for file in data_files(path, settings.split) for row in _file_rows(file))
    if is_hub_id(settings.path):
        return _hub_rows(settings)
    raise DataError(
        f"data {settings.path}",
        "no such file or directory, and it is not a hub id (owner/name)",
        f"Check data.path; a relative path is taken from the recipe's folder.{_near_file(path)}",
    )


def is_hub_id(text: str) -> bool:
    """Whether the text reads as `owner/name` rather than as a path to a file."""
    return HUB_ID.fullmatch(text) is not None and not text.startswith(".") and not _has_form(Path(text))


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets` wrote this directory with `save_to_disk`."""
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


def data_files(path: Path, split: str) -> list[Path]:
    """Return a file itself, or the data files of a directory and of its sub-directories, sorted by path.

    Where file names say a split (`train-00000.parquet`, `test.jsonl`), only the files of `split` are returned.

    Raises:
        DataError: the extension is unknown, or the directory has no data file, or none of the split.
    """
    if path.is_file():
        if not _has_form(path):
            raise DataError(
                f"data {path}",
                f"a file must end in one of {KNOWN}",
                "Rename it if it is one of these, or convert it to JSONL",
            )
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _has_form(file) and not _hidden(file, path))
    if not files:
        raise DataError(
            f"data directory {path}",
            f"it holds no file ending in one of {KNOWN}, and `datasets` did not write it",
            "Name the directory that holds the files",
        )
    said = {file: _said_split(file) for file in files}
    splits = sorted({name for name in said.values() if name})
    if not splits:
        return files
    chosen = [file for file in files if said[file] == split]
    if not chosen:
        raise DataError(
            f"data directory {path}, split '{split}'",
            f"its files are named for the splits {', '.join(splits)}",
            f"Set data.split to one of them.{did_you_mean(split, splits)}",
        )
    return chosen


def json_lines(path: Path) -> Iterator[Row]:
    """Read JSON Lines, plain or gzipped. Lines with nothing but white space hold no row.

    Raises:
        DataError: the file holds one JSON list, or its compressed stream is damaged.
    """
    number = 0
    with _open_binary(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                    _refuse_list(path, line)
                if line.strip():
                    yield Row(f"{path}:{number}", _parse(line))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path}, after line {number}",
                f"the gzip stream is damaged or cut short ({error})",
                "Fetch or compress the file again",
            ) from error


def _parse(line: bytes) -> dict[str, Any] | InvalidRow:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return InvalidRow("not UTF-8", f"byte {error.start + 1} of the line is 0x{line[error.start]:02x}")
    except json.JSONDecodeError as error:
        return InvalidRow("not JSON", f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or endless nesting
        return InvalidRow("not JSON", str(error))
    return value if isinstance(value, dict) else InvalidRow("not JSON", f"it holds a {type(value).__name__}")


def _refuse_list(path: Path, first_line: bytes) -> None:
    if first_line.lstrip().startswith(b"["):
        stem = path.name.split(".json")[0]
        # A file of lines by its name alone must not be told to overwrite itself.
        converted = f"{stem}-rows.jsonl" if ".jsonl" in path.name else f"{stem}.jsonl"
        raise DataError(
            f"data {path}",
            "it holds one JSON list, which cannot be read row by row",
            f"Convert it once: jq -c '.[]' {path.name} > {converted}",
        )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            index = 0
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                for columns in batch.to_pylist():
                    yield Row(f"{path}[{index}]", columns)
                    index += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"data {path}", f"it cannot be read as Parquet ({error})", "Write or fetch the file again"
        ) from error


def _saved_rows(settings: DataSettings) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(settings.path)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"data {settings.path}", f"`datasets` cannot load it ({error})", "Save it again with save_to_disk"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        if settings.split not in saved:
            raise DataError(
                f"data {settings.path}, split '{settings.split}'",
                f"its splits are {', '.join(saved)}",
                f"Set data.split to one of them.{did_you_mean(settings.split, saved)}",
            )
        saved = saved[settings.split]
    for index, columns in enumerate(saved):
        yield Row(f"{settings.path}[{index}]", columns)


def _hub_rows(settings: DataSettings) -> Iterator[Row]:
    import datasets

    try:
        stream = datasets.load_dataset(settings.path, settings.config, split=settings.split, streaming=True)
        for index, columns in enumerate(stream):
            yield Row(f"{settings.path}[{index}]", columns)
    except Exception as error:  # the hub, its cache, HTTP and file systems below it raise what they like
        raise DataError(
            f"data {settings.path}, split '{settings.split}'",
            f"it is no local file or directory, and the hub does not give it ({type(error).__name__}: {error})",
            "Check data.path, data.config and data.split, and the network or your access to it",
        ) from error


def _file_rows(path: Path) -> Iterator[Row]:
    return _parquet_rows(path) if path.name.lower().endswith(PARQUET) else json_lines(path)


def _open_binary(path: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))
    except OSError as error:
        raise DataError(f"{path}", f"it cannot be opened ({error.strerror})", "Check the path") from error


def _has_form(path: Path) -> bool:
    return path.name.lower().endswith((*JSON_LINES, *PARQUET))


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _said_split(file: Path) -> str | None:
    word = re.split(r"[-_.]", file.name, maxsplit=1)[0]
    return word if word in SPLIT_WORDS else None


def _near_file(path: Path) -> str:
    folder = path.parent
    return did_you_mean(path.name, (file.name for file in folder.iterdir())) if folder.is_dir() else ""
