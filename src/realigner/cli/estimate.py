"""`realigner estimate`: what a run will cost, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from realigner.cli.options import Debug, Json, Quiet, RecipeFile, Set, recipe_of
from realigner.cli.voice import Voice, write_lines

if TYPE_CHECKING:
    from realigner.estimate import Estimate, Lengths


def estimate(
    recipe: RecipeFile,
    pairs: Annotated[
        int | None, typer.Option("--pairs", metavar="N", help="Reckon with so many pairs. Default: those of the data.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths", metavar="P,C,R", help="Mean tokens of prompt, chosen, rejected. Default: the data's."
        ),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", metavar="X", help="Speed of a device in 10^12 FLOPs a second. Default: measured here."
        ),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option("--bandwidth", metavar="GB", help="Memory bandwidth in 10^9 bytes a second. Default: measured."),
    ] = None,
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="Devices that share the work.")] = 1,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """State FLOPs, hours, memory and disk of each stage. Loads no weights and writes nothing."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.estimate import estimate as reckon
        from realigner.estimate import require_positive

        # By the names that were typed, and in their units.
        require_positive({"--pairs": pairs, "--tflops": tflops, "--bandwidth": bandwidth, "--devices": devices})
        found = reckon(
            recipe_of(recipe, settings),
            pairs=pairs,
            lengths=None if lengths is None else _lengths(lengths),
            flops=None if tflops is None else tflops * 1e12,
            bandwidth=None if bandwidth is None else bandwidth * 1e9,
            devices=devices,
            progress=voice.progress,
        )
        voice.answer(found.as_dict(), lambda out: _table(out, found))
    return voice.code


def _lengths(text: str) -> Lengths:
    from realigner.errors import RecipeError
    from realigner.estimate import Lengths

    try:
        prompt, chosen, rejected = (float(part) for part in text.split(","))
        if min(prompt, chosen, rejected) <= 0:
            raise ValueError
    except ValueError:
        raise RecipeError(
            f"--lengths {text}", "it is three mean numbers of tokens: prompt, chosen, rejected", "Write e.g. 130,60,60"
        ) from None
    return Lengths(prompt, chosen, rejected)


def _table(out: TextIO, found: Estimate) -> None:
    n, shape, speed = found.lengths, found.shape, found.speed
    names = {"confirm": "CONFIRM among them"}
    shares = ", ".join(f"{names.get(name, name)} {share:.0%}" for name, share in found.shares.items())
    lines = [
        f"{found.pairs:,} pairs of {n.prompt:.0f} + {n.chosen:.0f} / {n.rejected:.0f} tokens ({shares})",
        f"model of {shape.parameters:,} parameters, {shape.trained:,} trained",
        f"{speed.devices} × {speed.flops / 1e12:,.3g} TFLOP/s, {speed.bandwidth / 1e9:,.3g} GB/s ({speed.source})",
        "",
        f"{'stage':<10} {'FLOPs':>9} {'time':>10} {'memory':>10} {'disk':>10}",
    ]
    lines += [
        f"{s.stage:<10} {s.flops:>9.2e} {_time(s.seconds):>10} {_bytes(s.memory):>10} {_bytes(s.disk):>10}"
        for s in found.stages
    ]
    total = sum(s.seconds for s in found.stages)
    lines += [f"{'all':<10} {sum(s.flops for s in found.stages):>9.2e} {_time(total):>10}"]
    lines += ["", "Judges are not in it: realigner triage RECIPE --dry-run"]
    write_lines(out, *lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
