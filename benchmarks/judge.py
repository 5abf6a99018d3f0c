"""How fast, how cheap and how large judging is.

python -m benchmarks.judge --json FILE [--quick]

* `share_of_ceiling`: judgements a second through `triage` (prompts built, answers parsed, every verdict stored) against
  a local server with 50 ms latency and 64 slots, over what that server gives the leanest generator of load. The median
  of rounds in which both run one after the other.
* `cached_seconds_20k`: `realigner triage` of 20,000 pairs whose verdicts are all stored: the whole command, its start
  and its plan included.
* `rejudged_after_one_rule`: calls after an edit to one rule of ten, over the calls of all ten. 0.1 is that rule alone.
* `peak_mb_10k`, `peak_mb_1m`: peak memory of a process that triages that many pairs, made on the fly and judged by a
  scripted oracle, into a file. With --quick the larger one has fewer pairs; `config` says how many.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import common
from realigner.errors import DataError
from realigner.oracle import PolicyOracle, ScriptedOracle
from realigner.oracle.build import open_oracle
from realigner.oracle.http import http_judge
from realigner.oracle.http.records import encode
from realigner.oracle.judge import RuleQuestion
from realigner.pipeline import run
from realigner.policy import Policy
from realigner.recipe import OracleSettings, Recipe
from realigner.recipe_judges import HttpJudgeSettings
from realigner.records import Judgement, Label, Pair, RuleVerdict, user_prompt
from realigner.triaging import triage
from realigner.triaging.store import write_triage

LATENCY, SLOTS, CONCURRENCY = 0.05, 64, 96
"""The client keeps more requests under way than there are slots, as one would with a server of one's own: a slot that
becomes free finds the next request in line. The generator of load does the same."""
COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main())"
CHILD = "import sys; from benchmarks import judge; judge.triage_in_memory(int(sys.argv[1]), sys.argv[2])"
ANSWER = "Dig a hole twice as wide as the roots, water it well, and keep the soil loose around the stem. " * 6


def policy_of(rules: int, edited: str = "") -> dict[str, Any]:
    """Return a policy of wording rules; `edited` is added to the last of them."""
    return {
        "id": "bench",
        "version": "1",
        "title": "Bench",
        "rules": [
            {
                "id": f"r{number}",
                "by": "llm",
                "text": f"The response keeps promise number {number} to the reader.{edited if number == rules else ''}",
                "violates": ["It states the opposite of what was promised.", "It leaves the promise out."],
                "allowed": ["It says openly that the promise cannot be kept."],
                "examples": [{"text": "I cannot promise this.", "label": "compliant", "why": "It is open about it."}],
            }
            for number in range(1, rules + 1)
        ],
    }


def pair_of(number: int) -> Pair:
    """Return the number-th pair; no two have the same texts."""
    prompt = user_prompt(f"How do I plant tree number {number} in my garden?")
    return Pair(str(number), prompt, f"{ANSWER} Yes {number}.", f"{ANSWER} No {number}.", f"made:{number}")


@contextmanager
def server(latency: float = LATENCY, slots: int = SLOTS) -> Iterator[str]:
    """Start the judge server in a process of its own; yield its base URL."""
    command = [sys.executable, "-m", "benchmarks.judge_server", f"--latency={latency}", f"--slots={slots}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=common.ROOT)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def stats(url: str) -> dict[str, Any]:
    """Return what the server counted since it was last asked."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=10) as reply:  # noqa: S310
        found: dict[str, Any] = json.load(reply)
    return found


def oracle_settings(url: str, **more: Any) -> OracleSettings:
    """Return the settings of the judge at a URL."""
    llm = {"kind": "http", "url": url, "model": "bench", "output": "json_schema", "concurrency": CONCURRENCY}
    return OracleSettings.model_validate({"kind": "judges", "llm": llm, **more})


def cpu_seconds() -> float:
    """Return the processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- throughput


class Load(asyncio.Protocol):
    """One connection of the generator: sends the same bytes again as soon as an answer is whole."""

    def __init__(self, request: bytes, left: list[int], done: asyncio.Future[None]) -> None:
        self.request, self.left, self.done, self.data = request, left, done, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first."""
        self.transport: Any = transport
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count an answer and send the next."""
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.rpartition(b": ")[2]):
            return
        self.data = b""
        self.left[0] -= 1
        if self.left[0] >= CONCURRENCY:
            self.transport.write(self.request)
        elif self.left[0] == 0 and not self.done.done():
            self.done.set_result(None)


async def _generate(port: int, request: bytes, count: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    left = [count]
    made = [
        await loop.create_connection(lambda: Load(request, left, done), "127.0.0.1", port) for _ in range(CONCURRENCY)
    ]
    await done
    for transport, _ in made:
        transport.abort()
    await asyncio.sleep(0)


def ceiling(url: str, count: int) -> dict[str, Any]:
    """Measure what the server gives a client that does nothing but send one request's bytes again and again."""
    judge = http_judge(HttpJudgeSettings(kind="http", url=url, model="bench", output="json_schema"))
    pair = pair_of(0)
    rules = Policy.parse(policy_of(1)).rules
    body = encode(judge.request(RuleQuestion(rules, Judgement(pair.prompt, pair.chosen))))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    stats(url)
    begin, cpu = time.perf_counter(), cpu_seconds()
    asyncio.run(_generate(int(url.split(":")[2].split("/")[0]), head + body, count))
    return _rate("ceiling", count, time.perf_counter() - begin, cpu_seconds() - cpu, stats(url))


def throughput(url: str, count: int, folder: Path) -> dict[str, Any]:
    """Measure triage: `count` judgements over half as many pairs, every verdict stored."""
    policy = Policy.parse(policy_of(1))
    settings = oracle_settings(url, store=str(folder / f"{time.time_ns()}.sqlite"))
    with open_oracle(settings, policy, folder / "run") as oracle:
        oracle.judge([Judgement(user_prompt("warm"), "up")])
        stats(url)
        begin, cpu = time.perf_counter(), cpu_seconds()
        pairs = map(pair_of, range(count // 2))
        triaged = sum(1 for _ in triage(pairs, oracle, batch_size=settings.questions_at_a_time))
        seconds, used = time.perf_counter() - begin, cpu_seconds() - cpu
    assert triaged == count // 2
    return _rate("triage", count, seconds, used, stats(url))


def _rate(name: str, count: int, seconds: float, cpu: float, counted: dict[str, Any]) -> dict[str, Any]:
    assert counted["served"] == count, counted
    return {
        "what": name,
        "judgements": count,
        "seconds": round(seconds, 3),
        "per_second": round(count / seconds, 1),
        "client_cpu_us_per_call": round(1e6 * cpu / count, 1),
    }


def measure_throughput(count: int, rounds: int, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of all rounds, and the median share of the ceiling."""
    rows, shares = [], []
    with server() as url:
        for _ in range(rounds):
            top, ours = ceiling(url, count), throughput(url, count, folder)
            rows += [top, ours]
            shares.append(ours["per_second"] / top["per_second"])
    return rows, statistics.median(shares)


# -- what is asked again


def write_recipe(folder: Path, url: str, pairs: int, policy: dict[str, Any]) -> Path:
    """Write the files of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"prompt": pair.prompt[0]["content"], "chosen": pair.chosen, "rejected": pair.rejected})
        for pair in map(pair_of, range(pairs))
    )
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "policy.yaml").write_text(json.dumps(policy), encoding="utf-8")
    recipe = {
        "output": str(folder / "run"),
        "model": {"path": "never-loaded"},
        "data": {"path": str(folder / "pairs.jsonl")},
        "policy": {"path": str(folder / "policy.yaml")},
        "oracle": oracle_settings(url).model_dump(mode="json"),
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def judge_all(recipe: Path, **options: Any) -> None:
    """Run the stage triage."""
    try:
        run(Recipe.load(recipe), only="triage", **options)
    except DataError as error:  # this judge finds nothing wrong, so nothing is to be re-aligned; all has been judged
        assert "no conflicts" in str(error)


def measure_edit(pairs: int, folder: Path) -> tuple[dict[str, Any], float]:
    """Judge by ten rules, edit one, judge again; return the row and the share of calls that were made again."""
    with server(latency=0.0, slots=256) as url:
        judge_all(write_recipe(folder, url, pairs, policy_of(10)))
        first = stats(url)["served"]
        judge_all(write_recipe(folder, url, pairs, policy_of(10, " Really.")))
        again = stats(url)["served"]
    # One call of each is the trivial question that shows the server to be there.
    row = {"what": "one rule of ten edited", "pairs": pairs, "calls": first - 1, "calls_after_the_edit": again - 1}
    return row, (again - 1) / (first - 1)


def measure_cached(pairs: int, folder: Path) -> dict[str, Any]:
    """Store a verdict on every response, then time the command that finds all of them."""
    with server() as url:
        recipe = write_recipe(folder, url, pairs, policy_of(1))
        store_all(Recipe.load(recipe), pairs)
        command = [sys.executable, "-c", COMMAND, "triage", str(recipe), "--redo", "--quiet"]
        seconds, cpu = [], []
        for _ in range(3):
            begin, used = time.perf_counter(), _of_children()
            subprocess.run(command, cwd=common.ROOT, check=False, stderr=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - begin, 2))
            cpu.append(round(_of_children() - used, 2))
        asked = stats(url)["served"]
    assert asked == 0, "a stored verdict was asked for again"
    assert (folder / "run" / "manifest.json").exists()
    return {"what": "cached", "pairs": pairs, "calls": asked, "seconds": seconds, "cpu_seconds": cpu}


def store_all(recipe: Recipe, pairs: int) -> None:
    """Fill the store as if every response had been judged."""
    policy = Policy.load(recipe.policy.path)
    (rule,) = policy.rules
    facts = {"output": "json_schema", "calls": 1, "input_tokens": 700, "output_tokens": 30, "seconds": 0.05}
    with open_oracle(recipe.oracle, policy, recipe.output) as oracle:
        assert isinstance(oracle, PolicyOracle) and oracle.store is not None
        verdict = (rule.hash, RuleVerdict(rule.id, Label.COMPLIANT, "Nothing in the response breaks this rule."))
        for pair in map(pair_of, range(pairs)):
            for text in (pair.chosen, pair.rejected):
                oracle.store.add(oracle.judges["llm"], Judgement(pair.prompt, text), [verdict], facts)


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- memory


def triage_in_memory(pairs: int, path: str) -> None:
    """Triage `pairs` pairs, made on the fly, by a scripted oracle into a Parquet file (in a process of its own)."""

    def verdict(question: Judgement) -> Label:
        return Label.NON_COMPLIANT if question.response.endswith("7.") else Label.COMPLIANT

    write_triage(triage(map(pair_of, range(pairs)), ScriptedOracle(verdict)), Path(path))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure_memory(pairs: int, folder: Path) -> dict[str, Any]:
    """Return the peak memory of triaging `pairs` pairs."""
    command = [sys.executable, "-c", CHILD, str(pairs), str(folder / "triage.parquet")]
    begin = time.perf_counter()
    printed = subprocess.run(command, cwd=common.ROOT, check=True, capture_output=True, text=True).stdout
    seconds = round(time.perf_counter() - begin, 1)
    return {"what": "memory", "pairs": pairs, "peak_mb": round(int(printed) / 1024, 1), "seconds": seconds}


def main() -> None:
    """Measure everything."""
    given = common.arguments(__doc__)
    count, rounds, many, edited = (3_000, 3, 100_000, 60) if given.quick else (20_000, 3, 1_000_000, 500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, share = measure_throughput(count, rounds, folder)
        row, again = measure_edit(edited, folder / "edit")
        cached = measure_cached(20_000, folder / "cached")
        small, large = measure_memory(10_000, folder), measure_memory(many, folder)
    common.write(
        given.json,
        "judge",
        config={
            "latency_s": LATENCY,
            "slots": SLOTS,
            "concurrency": CONCURRENCY,
            "judgements": count,
            "rounds": rounds,
            "pairs_of_peak_mb_1m": many,
            "quick": given.quick,
        },
        rows=[*rows, row, cached, small, large],
        ratios={
            "share_of_ceiling": round(share, 3),
            "cached_seconds_20k": statistics.median(cached["seconds"]),
            "rejudged_after_one_rule": round(again, 4),
            "peak_mb_10k": small["peak_mb"],
            "peak_mb_1m": large["peak_mb"],
        },
        packages=("aiohttp",),
    )


if __name__ == "__main__":
    main()
