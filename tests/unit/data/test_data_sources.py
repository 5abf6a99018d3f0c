from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from realigner.data import DataTally, data_fingerprint, pairs_from_rows, read_pairs
from realigner.errors import DataError
from realigner.recipe import DataSettings

ROWS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": f"q{i}"}], "chosen": f"yes {i}", "rejected": "no", "meta": {"n": i}}
    for i in range(5)
]


def write_lines(path: Path, rows: Iterable[object] = ROWS) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    raw = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def chosen_of(data: DataSettings | Path | str) -> list[str]:
    return [pair.chosen for pair in read_pairs(data)]


ALL = [row["chosen"] for row in ROWS]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "A.JSONL"])
def test_json_lines_are_read_and_each_pair_knows_its_line(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / name)
    pairs = list(read_pairs(str(path)))
    assert [pair.chosen for pair in pairs] == ALL
    assert [pair.source for pair in pairs] == [f"{path}:{line}" for line in range(1, 6)]
    assert pairs[0].prompt == ({"role": "user", "content": "q0"},)


def test_blank_lines_windows_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ROWS))
    pairs = list(read_pairs(path))
    assert [pair.chosen for pair in pairs] == ALL
    assert pairs[1].source == f"{path}:3"


def test_parquet_gives_the_same_pairs_as_json_lines(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet")
    pairs = list(read_pairs(path))
    assert [pair.id for pair in pairs] == [pair.id for pair in read_pairs(write_lines(tmp_path / "a.jsonl"))]
    assert pairs[4].source == f"{path}[4]"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    datasets.disable_progress_bars()
    path = tmp_path_factory.mktemp("saved")
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:1])
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(path / "both"))
    train.save_to_disk(str(path / "one"))
    return path


def test_a_data_set_saved_by_datasets_is_read_by_split(saved: Path) -> None:
    assert chosen_of(saved / "one") == ALL
    assert chosen_of(saved / "both") == ALL
    (pair,) = read_pairs(DataSettings(path=str(saved / "both"), split="test"))
    assert (pair.chosen, pair.source) == ("yes 0", f"{saved / 'both'}[0]")


def test_a_missing_split_of_a_saved_data_set_is_refused_with_those_there(saved: Path) -> None:
    with pytest.raises(DataError, match=r"split 'tset': its splits are train, test\. .*Did you mean 'test'\?"):
        chosen_of(DataSettings(path=str(saved / "both"), split="tset"))


def test_a_saved_data_set_that_lost_a_file_is_refused(saved: Path, tmp_path: Path) -> None:
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text((saved / "one" / name).read_text())
    with pytest.raises(DataError, match="`datasets` cannot load it"):
        chosen_of(tmp_path)


def test_rows_of_a_datasets_object_are_read_directly(saved: Path) -> None:
    import datasets

    rows = datasets.load_from_disk(str(saved / "one"))
    pairs = list(pairs_from_rows(rows, source_name="mine"))
    assert [pair.chosen for pair in pairs] == ALL
    assert pairs[2].source == "mine[2]"


def test_a_hub_id_is_streamed_with_its_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load_dataset(path: str, name: str | None, *, split: str, streaming: bool) -> list[dict[str, Any]]:
        asked.append((path, name, split, streaming))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs = list(read_pairs(DataSettings(path="owner/name", config="c", split="test")))
    assert asked == [("owner/name", "c", "test", True)]
    assert [pair.source for pair in pairs][:2] == ["owner/name[0]", "owner/name[1]"]


def test_a_hub_id_that_cannot_be_reached_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="data owner/name, split 'train': it is no local file or directory, and"):
        chosen_of("owner/name")


def test_a_directory_of_files_is_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write_lines(tmp_path / "b" / "x.jsonl.gz", ROWS[2:4])
    write_lines(tmp_path / "a.jsonl", ROWS[:2])
    write_parquet(tmp_path / "c.parquet", ROWS[4:])
    write_lines(tmp_path / ".cache" / "hidden.jsonl", ROWS)
    (tmp_path / "README.md").write_text("not data")
    assert chosen_of(tmp_path) == ALL


def test_files_named_for_splits_are_not_mixed(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-00000-of-00002.jsonl", ROWS[:2])
    write_lines(tmp_path / "train-00001-of-00002.jsonl", ROWS[2:])
    write_lines(tmp_path / "test.jsonl", ROWS[:1])
    assert chosen_of(tmp_path) == ALL
    assert chosen_of(DataSettings(path=str(tmp_path), split="test")) == ALL[:1]
    with pytest.raises(DataError, match=r"split 'val': its files are named for the splits test, train"):
        chosen_of(DataSettings(path=str(tmp_path), split="val"))


GOOD = json.dumps(ROWS[0]).encode() + b"\n"


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"prompt": "caf\xe9"}\n', r"not UTF-8 \(byte 16 of the line is 0xe9\): text must be UTF-8"),
        (b'{"prompt": "a" "b"}\n', r"not JSON \(Expecting ',' delimiter at column 16\)"),
        (b'{"prompt": "cut', r"not JSON \(Unterminated string starting at at column 12\)"),
        (b'["a", "b"]\n', r"not JSON \(it holds a list\)"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}\n", "not JSON"),
    ],
    ids=["not UTF-8", "broken", "cut", "list", "deep", "long number"],
)
def test_a_broken_line_is_named_by_its_number_and_column_or_counted(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n" + line)
    with pytest.raises(DataError, match=f"a.jsonl:3: {message}"):
        chosen_of(path)
    tally = DataTally()
    assert len(list(read_pairs(DataSettings(path=str(path), on_invalid="skip"), tally))) == 1
    assert (tally.read, tally.valid, tally.skipped.total()) == (2, 1, 1)


@pytest.mark.parametrize(("name", "converted"), [("a.json", "a.jsonl"), ("a.jsonl", "a-rows.jsonl")])
def test_a_json_list_is_refused_with_the_command_that_converts_it(tmp_path: Path, name: str, converted: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(ROWS, indent=2))
    with pytest.raises(DataError, match=rf"one JSON list.*jq -c '\.\[\]' {name} > {converted}$"):
        chosen_of(DataSettings(path=str(path), on_invalid="skip"))


@pytest.mark.parametrize("damage", ["cut", "overwritten", "not gzip"])
def test_a_damaged_gzip_stream_is_an_error_even_when_skipping(tmp_path: Path, damage: str) -> None:
    raw = bytearray(write_lines(tmp_path / "a.jsonl.gz", ROWS * 50).read_bytes())
    if damage == "cut":
        del raw[-20:]
    elif damage == "overwritten":
        raw[40:60] = bytes(20)
    else:
        raw[:] = GOOD
    (tmp_path / "a.jsonl.gz").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, after line \d+: the gzip stream is damaged or cut short"):
        chosen_of(DataSettings(path=str(tmp_path / "a.jsonl.gz"), on_invalid="skip"))


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"a\.parquet: it cannot be read as Parquet"):
        chosen_of(tmp_path / "a.parquet")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"a\.jsonl: it has no row"):
        chosen_of(tmp_path / "a.jsonl")


def test_a_missing_file_is_refused_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError, match=r"no such file or directory.*Did you mean 'pairs\.jsonl'\?"):
        read_pairs(tmp_path / "pair.jsonl")


@pytest.mark.parametrize("name", ["data/pairs.jsonl", "a/b/c", "./a/b", "pairs", "../x"])
def test_what_cannot_be_a_hub_id_is_a_missing_file(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file or directory, and it is not a hub id"):
        read_pairs(name)


def test_a_file_that_goes_away_is_one_clear_message(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    pairs = read_pairs(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: it cannot be opened \(No such file or directory\)"):
        next(pairs)


def test_a_file_that_cannot_be_hashed_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl")

    def refuse(self: Path, mode: str = "r") -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: it cannot be read \(Permission denied\)"):
        data_fingerprint(path)


def test_an_unknown_extension_is_refused_at_once_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(DataError, match=r"a\.csv: a file must end in one of \.jsonl, .*\.parquet"):
        read_pairs(tmp_path / "a.csv")


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(DataError, match="it holds no file ending in one of"):
        read_pairs(tmp_path)


def test_the_fingerprint_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    one = data_fingerprint(write_lines(tmp_path / "a.jsonl"))
    assert one == data_fingerprint(write_lines(tmp_path / "elsewhere" / "b.jsonl"))
    assert one != data_fingerprint(write_lines(tmp_path / "c.jsonl", ROWS[1:]))
    assert one.startswith("sha256:") and len(one) == len("sha256:") + 64


def test_the_fingerprint_of_a_directory_covers_names_and_bytes_of_what_is_read(tmp_path: Path) -> None:
    def directory(name: str, files: dict[str, list[dict[str, Any]]]) -> str:
        for file, rows in files.items():
            write_lines(tmp_path / name / file, rows)
        return data_fingerprint(tmp_path / name)

    base = directory("0", {"a.jsonl": ROWS[:2], "b.jsonl": ROWS[2:]})
    assert base == directory("1", {"a.jsonl": ROWS[:2], "b.jsonl": ROWS[2:]})
    assert base != directory("2", {"a.jsonl": ROWS[:3], "b.jsonl": ROWS[3:]})
    assert base != directory("3", {"a.jsonl": ROWS[:2], "c.jsonl": ROWS[2:]})


def test_the_fingerprint_of_a_saved_data_set_needs_no_datasets_library(saved: Path) -> None:
    assert data_fingerprint(saved / "one") != data_fingerprint(saved / "both")


def test_the_fingerprint_of_a_hub_id_is_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Answer:
        sha = "abc123"

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: Answer())
    assert data_fingerprint("owner/name") == "hub:abc123"


def test_the_fingerprint_of_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(self: object, name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(DataError, match=r"the hub does not tell its revision \(ConnectionError"):
        data_fingerprint("owner/name")
    with pytest.raises(DataError, match="no such file or directory"):
        data_fingerprint(tmp_path / "none.jsonl")
