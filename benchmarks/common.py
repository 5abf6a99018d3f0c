"""What every benchmark shares: its arguments, the JSON it writes, and an environment for the peers it runs against."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers"
"""The environment of the peers; made on first use, never that of the project."""


def arguments(doc: str | None) -> argparse.Namespace:
    """Read the two arguments that all benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the result is written")
    parser.add_argument("--quick", action="store_true", help="a small version, under 50 s, with the same keys")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Describe what this runs on, without names of hosts or people."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    found: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory) / 2**20, 1),
        "system": platform.system(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name(0)
    return found


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in ("realigner", "torch", "transformers", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(
    path: Path,
    benchmark: str,
    *,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    ratios: Mapping[str, Any],
    packages: Sequence[str] = (),
) -> None:
    """Write the result and print its ratios, last."""
    result = {
        "benchmark": benchmark,
        "machine": machine(),
        "versions": versions(*packages),
        "config": dict(config),
        "rows": [dict(row) for row in rows],
        "ratios": dict(ratios),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps(result["ratios"], indent=2))


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each piece of work in turn, round after round, so that a busy machine slows all of them alike.

    Returns seconds by name, one a round; one round before them warms up and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for lap in range(rounds + 1):
        for name, piece in work.items():
            start = time.perf_counter()
            piece()
            if lap:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Return the median over rounds of slow / fast, each round by itself."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def with_peers(*requirements: str, without: Sequence[str] = ()) -> None:
    """Go on inside an environment that has these peers beside the project, making or completing it where needed.

    Everything is installed under the project's own pins; a peer that does not go with them is refused by pip.
    `without` names what a peer asks for, does not need, and cannot be had in a build that goes with our torch.
    """
    missing = [r for r in requirements if not _installed(r)]
    if not missing:
        return
    python = PEERS / "bin" / "python"
    if Path(sys.prefix) == PEERS:
        raise SystemExit(f"{', '.join(missing)} could not be installed beside the project")
    if not python.exists():
        venv.create(PEERS, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    print(f"installing {', '.join(requirements)} into {PEERS.name} …", file=sys.stderr)
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, "-e", str(ROOT), *requirements], check=True)
    if without:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "-y", *without], check=True)
    module = sys.modules["__main__"].__spec__
    assert module is not None
    os.execv(str(python), [str(python), "-m", module.name, *sys.argv[1:]])


def _installed(requirement: str) -> bool:
    name = requirement.partition("==")[0].partition(">=")[0]
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
