from __future__ import annotations

import json
import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realigner.data import DataTally, pairs_from_rows, read_pairs, split_of
from realigner.data.seen import CACHE_KIB, SeenIndex
from realigner.errors import DataError, DiskError
from realigner.recipe import DataSettings
from realigner.records import pair_key, prompt_key, user_prompt


def row(prompt: str, chosen: str = "yes", rejected: str = "no", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


WITH_IDS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "id": "uid"}


def test_every_row_read_is_valid_skipped_or_a_duplicate() -> None:
    tally = DataTally()
    rows = [row("a"), row("b", "same", "same"), row("a"), row("a", "no", "yes"), row("c"), row("")]
    pairs = list(pairs_from_rows(rows, DataSettings(path="x", on_invalid="skip"), tally))
    assert [pair.source for pair in pairs] == ["rows[0]", "rows[3]", "rows[4]"]
    assert tally.as_dict() == {
        "format": "trl",
        "read": 6,
        "valid": 3,
        "skipped": {"identical responses": 1, "empty prompt": 1},
        "duplicates": 1,
        "contradictory": 1,
        "examples": {
            "identical responses": ["rows[1]"],
            "duplicate": ["rows[2] repeats rows[0]"],
            "contradictory": ["rows[3] reverses rows[0]"],
            "empty prompt": ["rows[5]"],
        },
    }
    json.dumps(tally.as_dict())


def test_only_the_first_places_of_a_reason_are_kept() -> None:
    tally = DataTally()
    list(pairs_from_rows([row("a"), *[row("")] * 50], DataSettings(path="x", on_invalid="skip"), tally))
    assert tally.skipped["empty prompt"] == 50
    assert tally.examples["empty prompt"] == ["rows[1]", "rows[2]", "rows[3]"]


def test_what_was_dropped_is_logged_also_without_a_tally(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="realigner.data"):
        list(pairs_from_rows([row("a"), row("a"), row("")], DataSettings(path="x", on_invalid="skip")))
    assert "1 pairs from 3 rows, 1 skipped (empty prompt), 1 duplicates dropped" in caplog.text


def test_a_duplicate_is_an_error_naming_both_places_where_asked() -> None:
    with pytest.raises(DataError, match=r"rows\[1\]: the same pair as rows\[0\].*data\.duplicates: drop"):
        list(pairs_from_rows([row("a"), row("a")], DataSettings(path="x", duplicates="error")))


def test_an_id_given_twice_is_an_error_naming_both_places_even_when_skipping() -> None:
    settings = DataSettings(path="x", fields=WITH_IDS, on_invalid="skip")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"rows\[2\]: id '7' was given to rows\[0\]: an id names one pair"):
        list(pairs_from_rows([row("a", uid=7), row("b", uid=8), row("c", uid="7")], settings))


def test_a_repeated_line_with_its_id_is_a_duplicate_and_not_a_second_owner_of_the_id() -> None:
    tally = DataTally()
    settings = DataSettings(path="x", fields=WITH_IDS)  # type: ignore[arg-type]
    assert [p.id for p in pairs_from_rows([row("a", uid="k"), row("a", uid="k")], settings, tally)] == ["k"]
    assert tally.duplicates == 1


@pytest.mark.parametrize("uid", [None, "", 1.5, True, ["x"]])
def test_an_id_that_is_no_text_or_whole_number_is_refused(uid: Any) -> None:
    settings = DataSettings(path="x", fields=WITH_IDS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"rows\[0\]: unusable id \(uid is "):
        list(pairs_from_rows([row("a", uid=uid)], settings))


def test_a_topic_is_read_beside_any_format_and_is_no_part_of_the_identity() -> None:
    rows = [row("a", meta={"about": "bread"}), row("b", meta={"about": 7}), row("c", meta={})]
    plain, about = (
        list(pairs_from_rows(rows, DataSettings(path="rows", topic=topic))) for topic in (None, "meta.about")
    )
    assert [pair.topic for pair in about] == ["bread", "7", None]
    assert [pair.topic for pair in plain] == [None] * 3
    assert [pair.id for pair in about] == [pair.id for pair in plain]
    with pytest.raises(DataError, match=r"data\.topic = 'meta\.abuot': there is no such column; found: about"):
        list(pairs_from_rows(rows, DataSettings(path="rows", topic="meta.abuot")))


def test_the_limit_counts_valid_pairs_and_reads_no_further() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from [row(""), row("a"), row("a"), row("b")]
        raise AssertionError("read past the limit")

    tally = DataTally()
    settings = DataSettings(path="x", on_invalid="skip", limit=2)
    assert len(list(pairs_from_rows(rows(), settings, tally))) == 2
    assert (tally.read, tally.valid, tally.duplicates) == (4, 2, 1)


def test_no_row_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="data rows: it has no row"):
        list(pairs_from_rows([]))


def test_no_usable_row_is_an_error_that_tells_the_reasons() -> None:
    with pytest.raises(DataError, match=r"0 pairs from 2 rows, 2 skipped \(empty prompt\)"):
        list(pairs_from_rows([row(""), row(" ")], DataSettings(path="x", on_invalid="skip")))


def test_rows_that_are_not_mappings_are_refused() -> None:
    with pytest.raises(DataError, match=r"rows\[0\]: not columns \(it is a str\)"):
        list(pairs_from_rows(["train", "test"]))  # type: ignore[list-item]


def test_one_tally_may_serve_several_sources() -> None:
    tally = DataTally()
    list(pairs_from_rows([row("a")], None, tally))
    with pytest.raises(DataError, match="it has no row"):
        list(pairs_from_rows([], None, tally))
    assert (tally.read, tally.valid) == (1, 1)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@given(prompt=texts, chosen=texts, rejected=texts)
def test_an_id_is_the_content_whatever_the_format_the_order_or_the_other_rows(
    prompt: str, chosen: str, rejected: str
) -> None:
    if chosen.strip() == rejected.strip():
        return
    (plain,) = pairs_from_rows([row(prompt, chosen, rejected)], DataSettings(path="x", format="trl"))
    turn = {"role": "user", "content": prompt}
    conversation = {
        "chosen": [turn, {"role": "assistant", "content": chosen}],
        "rejected": [turn, {"role": "assistant", "content": rejected}],
        "extra": 1,
    }
    other = {"chosen": [turn, {"role": "assistant", "content": "§"}], "rejected": conversation["rejected"]}
    found = {p.id for p in pairs_from_rows([other, conversation], DataSettings(path="x", on_invalid="skip"))}
    assert plain.id in found
    assert plain.id == pair_key(user_prompt(prompt), chosen, rejected)


@given(prompts=st.lists(texts, min_size=1, max_size=20), seed=st.integers(), fraction=st.floats(0, 1))
def test_the_split_depends_on_prompt_and_seed_alone_and_grows_with_the_fraction(
    prompts: list[str], seed: int, fraction: float
) -> None:
    sides = {prompt: split_of(user_prompt(prompt), seed, fraction) for prompt in prompts}
    again = {prompt: split_of(user_prompt(prompt), seed, fraction) for prompt in reversed(prompts)}
    assert sides == again
    for prompt, side in sides.items():
        assert side == "train" or split_of(user_prompt(prompt), seed, (1 + fraction) / 2) == "eval"
        assert split_of(user_prompt(prompt), seed, 0) == "train"
        assert split_of(user_prompt(prompt), seed, 1) == "eval"


def test_the_share_held_out_is_the_fraction_and_another_seed_draws_others() -> None:
    prompts = [user_prompt(f"question {i}") for i in range(5000)]
    first = {prompt_key(p) for p in prompts if split_of(p, 0, 0.1) == "eval"}
    second = {prompt_key(p) for p in prompts if split_of(p, 1, 0.1) == "eval"}
    assert 420 < len(first) < 580  # 500 ± 3.8 standard deviations
    assert len(first & second) < 100  # 50 expected by chance


def test_the_split_is_the_same_on_every_platform_and_in_every_version() -> None:
    sides = [split_of(user_prompt(f"question {i}"), 7, 0.5) for i in range(16)]
    assert "".join(side[0] for side in sides) == "tttetteeeetttett"


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=r"eval_fraction = .*: it is a share from 0 to 1"):
        split_of(user_prompt("x"), 0, fraction)


def peak_of_reading(path: Path, count: int) -> int:
    with path.open("w", encoding="utf-8") as lines:
        for i in range(count):
            lines.write(json.dumps(row(f"question {i} " * 20, f"yes {i} " * 20, f"no {i} " * 20)) + "\n")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_pairs(path)) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    small, large = (peak_of_reading(tmp_path / f"{count}.jsonl", count) for count in (1000, 10_000))
    assert large < 1.2 * small + 50_000


def test_the_index_of_seen_pairs_keeps_a_bounded_cache_and_lies_on_disk() -> None:
    with SeenIndex() as seen:
        (cache,) = seen._database.execute("PRAGMA cache_size").fetchone()
        (_, _, file) = seen._database.execute("PRAGMA database_list").fetchone()
        assert (cache, file) == (-CACHE_KIB, "")
        assert seen.add("pair", "k", "one") is None
        assert seen.add("pair", "k", "two") == "one"
        assert seen.add("id", "k", "three") is None
        assert seen.find("id", "j") is None


def test_a_full_disk_for_the_index_is_one_clear_message() -> None:
    with SeenIndex() as seen:
        seen._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(DiskError, match=r"the index of pairs already read \(.*full\).*TMPDIR"):
            for i in range(1000):
                seen.add("pair", str(i), "somewhere.jsonl:1" * 10)


def test_importing_the_data_layer_loads_no_heavy_library() -> None:
    heavy = "torch transformers datasets pyarrow numpy huggingface_hub"
    code = f"import sys, realigner.data; print([m for m in '{heavy}'.split() if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
