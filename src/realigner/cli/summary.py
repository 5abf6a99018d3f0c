"""What a finished run says on the terminal: outcomes, agreement before and after, utility, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from realigner.cli.console import duration, safe_text
from realigner.pipeline import RunResult
from realigner.runs import load_run

SAMPLES = 3
NOT_MEASURED = "-"
SAMPLE_WIDTH = 300
"""Characters shown of a prompt or a response."""


def print_summary(result: RunResult, stream: TextIO) -> None:
    """Write the summary of a run as far as it got. Model text is shown escaped and cut."""
    summary = result.summary
    write = Writer(stream)
    if summary:
        policy = summary["policy"]
        write.line(f"Policy {policy['id']} {policy['version']}: {policy['title']}")
        write.table("Old preferences under the new policy", *outcome_rows(summary["counts"]))
        write.table(
            "Agreement with the policy, held-out prompts (95 % intervals)", *agreement_rows(summary["agreement"])
        )
        write.line(change_line(summary["agreement"].get("change")))
        write.table("Utility on retained prompts", *utility_rows(summary))
        for index, sample in enumerate(samples(result.directory), start=1):
            write.sample(index, sample)
        for warning in summary.get("warnings", []):
            write.line(f"\nwarning: {warning}")
    records = load_run(result.directory).stages
    seconds = {stage: record["seconds"] for stage, record in records.items() if "seconds" in record}
    spent = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
    write.line(f"\nTime    {duration(sum(seconds.values()))} ({spent})")
    for name, path in (("Model", result.model), ("Report", result.report), ("Run", result.directory)):
        if path.exists():
            write.line(f"{name:<7} {path}")


def print_comparison(directory: Path, summary: Mapping[str, Any], stream: TextIO) -> None:
    """Write what a comparison of two models found. Model text is shown escaped and cut."""
    write = Writer(stream)
    policy = summary["policy"]
    write.line(f"Policy {policy['id']} {policy['version']}: {policy['title']}")
    write.table("Agreement with the policy (95 % intervals)", *agreement_rows(summary["agreement"]))
    write.line(change_line(summary["agreement"]["change"]))
    for index, sample in enumerate(samples(directory), start=1):
        write.sample(index, sample)
    for warning in summary["warnings"]:
        write.line(f"\nwarning: {warning}")
    write.line(f"\nReport  {directory / 'report.html'}")
    write.line(f"To correct these figures: realigner audit sample {directory} --of evaluation")


def outcome_rows(counts: Mapping[str, int]) -> tuple[list[str], list[list[str]]]:
    """Return the table of pairs by outcome."""
    total = max(sum(counts.values()), 1)
    meaning = {
        "INVERT": "preference reversed",
        "PUNISH": "both responses suppressed, or a correction preferred",
        "CONFIRM": "kept: chosen still right",
        "NEUTRAL": "kept: both comply",
        "UNDECIDED": "left out of training",
    }
    rows = [[name, f"{count:,}", f"{count / total:.1%}", meaning.get(name, "")] for name, count in counts.items()]
    return ["outcome", "pairs", "share", "what training does"], rows


def agreement_rows(agreement: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table of agreement before and after: in all, per outcome, per rule."""
    parts = [("all", agreement)]
    parts += [(name, value) for name, value in agreement.get("by_outcome", {}).items()]
    parts += [(f"topic {name}", value) for name, value in agreement.get("by_topic", {}).items()]
    parts += [(f"rule {name}", value) for name, value in agreement.get("by_rule", {}).items()]
    rows = [[name, share(value["before"]), share(value["after"]), count(value["after"])] for name, value in parts]
    return ["", "before", "after", "n"], rows


def change_line(change: Mapping[str, Any] | None) -> str:
    """Return the paired change on the same prompts, in words."""
    if change is None:
        return "No held-out prompt was answered."
    low, value, high = (100 * change[name] for name in ("low", "value", "high"))
    paired = change.get("mcnemar_p") is not None
    what = "prompts" if paired else "answers"
    p = f"McNemar p = {change['mcnemar_p']:.2g}" if paired else f"p = {change['p']:.2g}, {change['p_method']}"
    moved = f"{change['gained']} {what} gained, {change['lost']} lost"
    return f"Change {value:+.1f} points [{low:+.1f}, {high:+.1f}]: {moved} ({p})"


def utility_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the table of KL (nats per token) and perplexity."""
    perplexity, kl = summary["perplexity"], summary["kl"]
    return ["", "before", "after"], [
        ["perplexity", measure(perplexity["before"]), measure(perplexity["after"])],
        ["KL from before, nats per token", "0", measure(kl)],
    ]


def share(interval: Mapping[str, Any] | None) -> str:
    """Return a proportion with its interval, in per cent."""
    if interval is None:
        return NOT_MEASURED
    return f"{interval['value']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


def measure(interval: Mapping[str, Any] | None) -> str:
    """Return a number with its interval, to three or four digits."""
    if interval is None:
        return NOT_MEASURED
    value, low, high = (f"{interval[name]:.4g}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def count(interval: Mapping[str, Any] | None) -> str:
    """Return the number of observations behind a figure."""
    return "0" if interval is None else f"{interval['n']:,}"


def samples(directory: Path, limit: int = SAMPLES) -> list[dict[str, str]]:
    """Return the first prompts whose answer changed, with the answers before and after, one of each outcome first."""
    import pyarrow.parquet as pq

    path = directory / "responses.parquet"
    if not path.is_file():
        return []
    before: dict[str, dict[str, Any]] = {}
    changed: list[dict[str, str]] = []
    with pq.ParquetFile(path) as file:
        wanted = ("prompt_id", "outcome", "model", "sample", "prompt", "response")
        columns = [name for name in wanted if name in file.schema_arrow.names]
        rows = [row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist()]
    rows = [row for row in rows if not row.get("sample")]  # the first of several answers to a prompt
    for row in rows:
        if row["model"] == "before":
            before[row["prompt_id"]] = row
    for row in rows:
        old = before.get(row["prompt_id"])
        if row["model"] == "after" and old is not None and old["response"] != row["response"]:
            sample = {"outcome": row["outcome"], "prompt": row["prompt"][-1]["content"]}
            changed.append({**sample, "before": old["response"], "after": row["response"]})
    return _spread(changed)[:limit]


def _spread(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Order rows so that each outcome comes once before any comes twice, conflicts first."""
    order = ("PUNISH", "INVERT", "CONFIRM", "NEUTRAL", "UNDECIDED")
    seen: dict[str, int] = {}

    def ranks() -> Iterator[tuple[int, int]]:
        for row in rows:
            outcome = row["outcome"]
            yield seen.setdefault(outcome, 0), order.index(outcome) if outcome in order else len(order)
            seen[outcome] += 1

    ranked = sorted(zip(ranks(), range(len(rows)), strict=True))
    return [rows[index] for _, index in ranked]


class Writer:
    """Writes tables and texts: drawn by rich on a terminal, in plain columns elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()

    def line(self, text: str) -> None:
        """Write one line of our own words with values in it."""
        self._stream.write(safe_text(text, lines=True) + "\n")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table; columns after the first are aligned to the right where they are numbers."""
        if self._terminal:
            self._rich_table(title, header, rows)
            return
        lines = [list(header), *(list(map(safe_text, row)) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        self.line(f"\n{title}")
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.line("  " + "  ".join(cells).rstrip())

    def sample(self, number: int, sample: Mapping[str, str]) -> None:
        """Write one prompt with the answers before and after."""
        self.line(f"\nSample {number}" + (f" ({sample['outcome']})" if sample["outcome"] else ""))
        for name in ("prompt", "before", "after"):
            text = " ".join(safe_text(sample[name]).split())
            self.line(f"  {name:<7} {text if len(text) <= SAMPLE_WIDTH else text[: SAMPLE_WIDTH - 1] + '…'}")

    def _rich_table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"\n{title}"), title_justify="left")
        for name in header:
            table.add_column(Text(name))
        for row in rows:
            table.add_row(*(Text(safe_text(cell)) for cell in row))
        Console(file=self._stream, markup=False, highlight=False, emoji=False).print(table)
