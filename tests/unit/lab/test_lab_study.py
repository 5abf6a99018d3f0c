"""The study: cells are what decides them, runs go on where they stopped, and tables say what the rows say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from realigner.errors import RecipeError
from realigner.lab import study as study_module
from realigner.lab.bars import Evidence, _at_least, _weights
from realigner.lab.exam import rank
from realigner.lab.experiment import Setting, judged
from realigner.lab.figures import write_figures
from realigner.lab.phrases import Topic
from realigner.lab.plan import PAPER, Study, block_cells, search_cells
from realigner.lab.report import _marginal, write_tables
from realigner.lab.shifts import SHIFTS, complies, draw_shift_pairs, variants
from realigner.lab.study import Results, quick_study, run_study, searched
from realigner.lab.tables import Mean, Wins, difference, mean_of, wins
from realigner.lab.world import Answer, Ask, Stance, write_answer
from realigner.records import Outcome

CONTENT = """
name: test
output: out
cache: cache
model: {corpus: 20, preferences: 10, held_out: 4}
seeds: [0, 1]
shifts: [safety]
setting: {pairs: 64}
search: {rates: [1.0e-4, 3.0e-4], seeds: [100]}
blocks:
  - {name: main, arms: [m-ref, trace, dpo-gold, u2a]}
  - name: noise
    arms: [trace]
    sweep: {noise: [0.1, 0.2], loss.alpha_kl: [0.1, 10.0]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "study.yaml").write_text(CONTENT)
    return Study.load(tmp_path / "study.yaml")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the training of a cell by a row that follows from the cell; return the list of cells computed."""
    done: list[Any] = []

    def run_cell(root: str, lab: Any, shift: str, seed: int, arm: str, setting: Setting, rate: float) -> dict[str, Any]:
        done.append((shift, seed, arm, setting.noise, rate))
        value = {"trace": 0.8, "dpo-gold": 0.82, "u2a": 0.5, "m-ref": 0.4}[arm] + 0.01 * seed % 0.1
        best = 3e-4 if arm == "trace" else 1e-4
        ranks = [110, 110] if arm == "trace" else [0, 110]
        found = {"agreement": value - (0.1 if rate not in (best, 0.0) else 0.0), "ranks": ranks}
        found["by_rule"] = {"be-plain": value} | ({"cite": 0.25} if arm == "trace" and seed else {})
        return {**found, "m_ref": {"old_agreement": 0.97 - 0.04 * seed, "well_formed": 1.0}}

    monkeypatch.setattr(study_module, "run_cell", run_cell)
    return done


def test_a_block_is_arms_by_shifts_by_seeds_by_the_points_of_its_sweep(study: Study) -> None:
    main, noise = study.blocks
    assert len(block_cells(study, main, {})) == 4 * 1 * 2
    cells = block_cells(study, noise, {})
    assert [(c.seed, c.setting.noise, c.setting.loss["alpha_kl"]) for c in cells] == [
        (seed, noise, alpha) for seed in (0, 1) for noise in (0.1, 0.2) for alpha in (0.1, 10.0)
    ]
    assert {c.setting.pairs for c in cells} == {64}


def test_a_cell_is_another_where_anything_that_decides_it_differs(study: Study) -> None:
    (cell, *_) = block_cells(study, study.blocks[1], {("trace", 64): 1e-4})
    others = [
        replace(cell, seed=7),
        replace(cell, shift="style"),
        replace(cell, arm="uniform"),
        replace(cell, learning_rate=2e-4),
        replace(cell, setting=replace(cell.setting, noise=0.3)),
        replace(cell, setting=replace(cell.setting, loss={"beta": 0.1})),
        replace(cell, setting=replace(cell.setting, loss={"imitate": 0.3})),
        replace(cell, setting=replace(cell.setting, impact={"score": "cosine"})),
        replace(cell, lab=replace(cell.lab, steps=7)),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 1 + len(others)
    assert replace(cell, block="elsewhere").key == cell.key


def test_the_default_of_a_setting_said_aloud_is_the_same_cell(study: Study) -> None:
    (cell, *_) = block_cells(study, study.blocks[0], {})
    cell = replace(cell, arm="trace")
    said = replace(cell, setting=replace(cell.setting, loss={"beta": 0.3}, impact={"gold": {"size": 24}}))
    assert said.key == cell.key


def test_without_noise_it_does_not_matter_how_errors_would_be_correlated(study: Study) -> None:
    (cell, *_) = block_cells(study, study.blocks[1], {("trace", 64): 1e-4})
    for noise, same in ((0.0, True), (0.1, False)):
        keys = {
            replace(cell, setting=replace(cell.setting, noise=noise, correlation=kind)).key
            for kind in ("independent", "correlated")
        }
        assert (len(keys) == 1) == same


def test_baselines_without_anchor_or_weights_do_not_depend_on_their_settings(study: Study) -> None:
    (cell, *_) = block_cells(study, study.blocks[1], {})
    for arm, same in (("dpo-gold", True), ("u2a", True), ("trace", False), ("impact", False)):
        one, two = (replace(cell, arm=arm, setting=replace(cell.setting, loss={"alpha_kl": a})) for a in (0.1, 5.0))
        assert (one.key == two.key) == same, arm


@pytest.mark.parametrize("arm", PAPER)
def test_another_weight_of_a_loss_leaves_the_cells_of_the_papers_arms(study: Study, arm: str) -> None:
    (cell, *_) = block_cells(study, study.blocks[1], {})
    keys = [
        replace(cell, arm=arm, setting=replace(cell.setting, loss=loss)).key
        for loss in ({"alpha_kl": 0.1}, {"alpha_kl": 5.0, "imitate": 0.3, "confirm": 0.7}, {"beta": 0.7})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_rates_may_be_searched_at_another_number_of_pairs_than_a_block_has(study: Study) -> None:
    block = study.blocks[1].model_copy(update={"sweep": {"pairs": (96, 128)}, "rates": (1e-4, 3e-4), "searched_at": 80})
    assert {cell.setting.pairs for cell in search_cells(study, block)} == {80}
    cells = block_cells(study, block, {("trace", 80): 3e-4, ("trace", 96): 1e-4})
    assert {(cell.setting.pairs, cell.learning_rate) for cell in cells} == {(96, 3e-4), (128, 3e-4)}


def test_a_single_rate_is_taken_without_a_search(study: Study, computed: list[Any]) -> None:
    (main, _), one = study.blocks, {"rates": (2e-4,)}
    study = study.model_copy(update={"blocks": (main.model_copy(update=one),)})
    results = run_study(study)
    assert [(arm, rate) for _, _, arm, _, rate in computed] == 2 * [
        ("m-ref", 0.0), ("trace", 2e-4), ("dpo-gold", 2e-4), ("u2a", 2e-4)
    ]  # fmt: skip
    assert "Learning rate of all arms: 0.0002, without a search." in write_tables(study, results)[0].read_text()


def test_every_cell_is_computed_once_and_a_second_run_computes_nothing(study: Study, computed: list[Any]) -> None:
    results = run_study(study)
    # Search: two rates for each of three trained arms; main: four arms by two seeds; noise: eight.
    assert len(computed) == 6 + 8 + 8
    assert len(results.rows) == len(computed)
    assert not list((results.directory / "cells").iterdir())
    run_study(study)
    assert len(computed) == 22


def test_a_stopped_study_keeps_what_is_done(study: Study, computed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study_module.run_cell

    def stops(*arguments: Any) -> Any:
        if len(computed) == 9:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(study_module, "run_cell", stops)
    with pytest.raises(KeyboardInterrupt):
        run_study(study)
    assert len(Results(study.output).rows) == 9
    monkeypatch.setattr(study_module, "run_cell", whole)
    run_study(study)
    assert len(computed) == 22


def test_each_arm_gets_the_rate_that_agreed_most_on_the_tuning_seeds(study: Study, computed: list[Any]) -> None:
    results = run_study(study)
    found = searched(study, study.blocks[0], results)
    assert found == {("trace", 64): 3e-4, ("dpo-gold", 64): 1e-4, ("u2a", 64): 1e-4}
    assert {row["learning_rate"] for row in results.rows.values() if row["arm"] == "trace" and row["seed"] < 2} == {
        3e-4
    }


def test_a_block_may_search_rates_at_each_of_its_own_numbers_of_pairs(
    tmp_path: Path, computed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study_module.run_cell

    def run_cell(*arguments: Any) -> dict[str, Any]:
        found, pairs, rate = whole(*arguments), arguments[5].pairs, arguments[6]
        return {**found, "agreement": 0.9 if (pairs == 128) == (rate == 1e-4) else 0.6}

    monkeypatch.setattr(study_module, "run_cell", run_cell)
    for own, rates in (("", {64: 3e-4, 128: 3e-4}), (", rates: [1.0e-4, 2.0e-4]", {64: 2e-4, 128: 1e-4})):
        block = f"  - {{name: scale, arms: [trace, m-ref], sweep: {{pairs: [64, 128]}}{own}}}"
        (tmp_path / "study.yaml").write_text(CONTENT + block + "\n")
        study = Study.load(tmp_path / "study.yaml")
        results = run_study(study, blocks=["scale"])
        cells = study_module.cells_of(study, study.blocks[2], results)
        assert {c.setting.pairs: c.learning_rate for c in cells if c.arm == "trace"} == rates
        assert {c.learning_rate for c in cells if c.arm == "m-ref"} == {None}
        search = search_cells(study, study.blocks[2])
        assert {(c.setting.pairs, c.learning_rate) for c in search} == (
            set(product((64, 128), (1e-4, 2e-4))) if own else {(64, 1e-4), (64, 3e-4)}
        )


def test_a_diverged_training_is_a_row_and_loses_the_search(
    study: Study, computed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from realigner.errors import TrainingDiverged

    whole = study_module.run_cell

    def diverges(*arguments: Any) -> Any:
        if arguments[4] == "trace" and arguments[6] == 3e-4:
            raise TrainingDiverged("step 3", "its loss is not finite", "Lower the learning rate")
        return whole(*arguments)

    monkeypatch.setattr(study_module, "run_cell", diverges)
    results = run_study(study)
    assert searched(study, study.blocks[1], results) == {("trace", 64): 1e-4}
    assert sum("diverged" in row for row in results.rows.values()) == 1


@pytest.mark.parametrize(("facts", "chosen"), [(1.0, 3e-4), (0.995, 3e-4), (0.98, 1e-4)])
def test_a_rate_that_costs_facts_is_not_chosen_however_much_it_agrees(
    facts: float, chosen: float, study: Study, computed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study_module.run_cell

    def run_cell(*arguments: Any) -> Any:
        high = arguments[6] == 3e-4
        return {**whole(*arguments), "agreement": 0.9 if high else 0.6, "facts_said": facts if high else 1.0}

    monkeypatch.setattr(study_module, "run_cell", run_cell)
    assert searched(study, study.blocks[1], run_study(study, blocks=["noise"])) == {("trace", 64): chosen}


def test_a_search_may_be_on_both_tuning_shifts_and_on_no_other(tmp_path: Path) -> None:
    for shifts, fine in (("[tuning, tuning-hard]", True), ("[tuning, safety]", False), ("[]", False)):
        path = tmp_path / "study.yaml"
        path.write_text(CONTENT.replace("seeds: [100]}", f"seeds: [100], shifts: {shifts}}}"))
        assert shifts in path.read_text()
        if fine:
            study = Study.load(path)
            assert [c.shift for c in search_cells(study, study.blocks[1])] == ["tuning"] * 2 + ["tuning-hard"] * 2
        else:
            with pytest.raises(RecipeError, match="a search is on the tuning shifts"):
                Study.load(path)


def test_the_search_is_on_the_tuning_shift_and_seeds_alone(study: Study) -> None:
    cells = search_cells(study, study.blocks[0])
    assert {(c.shift, c.seed, c.arm) for c in cells} == {("tuning", 100, arm) for arm in ("trace", "dpo-gold", "u2a")}
    assert not {c.seed for block in study.blocks for c in block_cells(study, block, {})} & {100}


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("arms: [trace]", "arms: [trcae]", "arm 'trcae' of block 'noise' is not known. Did you mean 'trace'"),
        ("shifts: [safety]", "shifts: [tuning]\nseeds2: 1", "seeds2 = 1: Extra inputs"),
        ("noise: [0.1, 0.2]", "nois: [0.1]", "setting 'nois' of block 'noise' is not known. Did you mean 'noise'"),
        ("seeds: [0, 1]", "seeds: [0, 100]", "mixes tuning seeds or a tuning shift"),
        ("shifts: [safety]", "shifts: [tuning]", "mixes tuning seeds or a tuning shift"),
        (
            "noise: [0.1, 0.2]",
            "noise: [0.1, 2]",
            r"study.yaml: block 'noise': noise = 2: .* less than or equal to 1\. ",
        ),
        ("noise: [0.1, 0.2]", "noise: 0.1", r"blocks\.1\.sweep\.noise = 0\.1: "),
        ("noise: [0.1, 0.2]", "noise: []", r"blocks\.1\.sweep\.noise: .* at least 1 item"),
        ("noise: [0.1, 0.2]", "loss.alpa_kl: [1]", r"block 'noise': alpa_kl = 1: "),
        ("noise: [0.1, 0.2]", "impact.gold: [3]", r"block 'noise': .*int"),
        ("noise: [0.1, 0.2]", "mix: [pkuu]", r"block 'noise': mix 'pkuu' is none of pku"),
        ("seeds: [0, 1]", "seeds: [-1]", r"seeds\.0 = -1: .* greater than or equal to 0\. "),
        ("held_out: 4", "held_oot: 4", r"model: held_oot = 4: "),
        ("held_out: 4", "held_out: many", r"model: held_out = 'many': "),
        ("held_out: 4", "size: {hiden: 4}", r"model: .*hiden"),
        ("held_out: 4", "size: {hidden: wide}", r"model: .*hidden"),
        ("setting: {pairs: 64}", "setting: {pairs: 64, nois: 0.3}", r"block 'main': nois = 0\.3: "),
        ("setting: {pairs: 64}", "setting: {loss.alpha_kl: 3}", r"block 'main': loss\.alpha_kl = 3: "),
        ("shifts: [safety]", "shifts: [saftey]", r"shift 'saftey' is not known\. Did you mean 'safety'"),
    ],
)
def test_a_study_file_with_a_fault_is_refused_with_the_fault(tmp_path: Path, old: str, new: str, match: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(CONTENT.replace(old, new))
    with pytest.raises(RecipeError, match=match):
        Study.load(path)


def test_a_study_that_is_not_there_and_a_block_that_is_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="it cannot be read"):
        Study.load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="block 'mian': the study has main, noise"):
        study.check_blocks(["mian"])


def test_tables_say_what_is_done_and_compare_arms_on_the_same_prompts(study: Study, computed: list[Any]) -> None:
    results = run_study(study)
    files = {path.name: path for path in write_tables(study, results)}
    main = files["main.md"].read_text()
    assert "97.0 % (seed 0), 93.0 % (seed 1)" in main and "BELOW the 95% that is required: seed 1." in main
    assert "8 of 8 cells are done" in main and "| trace | 80.5 ± 6.4 |" in main
    assert "100.0 ± 0.0 % (ties 50.0 %)" in main  # over U2A: one prompt won, one tied
    assert "another setting" in main
    assert "| shift | rule | m-ref | trace | dpo-gold | u2a |" in main
    assert "| safety | be-plain | 40.5 ± 6.4 | 80.5 ± 6.4 | 82.5 ± 6.4 | 50.5 ± 6.4 |" in main
    assert "| safety | cite | – | 25.0 (1 seed) | – | – |" in main  # a rule that applied to no answer of the others
    assert "noise = 0.1, loss.alpha_kl = 0.1" in files["noise.md"].read_text()
    assert len(files["main.csv"].read_text().splitlines()) == 9
    lines = files["bars.md"].read_text().splitlines()
    within = next(line for line in lines if "within 2 points of DPO-Gold: safety" in line)
    assert "-2.0 ± 0.0 points, 2 seeds | met" in within
    assert "| 100.0 ± 0.0 % (ties 50.0 %) | met, surely |" in next(
        line for line in lines if "win rate over U2A" in line
    )
    assert "not run yet" in next(line for line in lines if "above naive relabelling: value" in line)
    assert [path.name for path in write_figures(study, results)] == ["main.svg", "noise.svg"]


def test_a_bar_goes_by_the_mean_and_says_where_the_whole_interval_agrees() -> None:
    def at(*values: float) -> list[str]:
        return _at_least("bar", mean_of(values), 0.8).cells()[1:]

    assert at(0.9, 0.9, 0.91) == ["90.3 ± 1.4 points, 3 seeds", "met, surely"]
    assert at(0.7, 0.95) == ["82.5 ± 158.8 points, 2 seeds", "met"]
    assert at(0.7, 0.71)[1] == "MISSED, surely" and at(0.6, 0.9)[1] == "MISSED"
    assert at(0.9) == ["90.0 points, 1 seed", "met"] and at()[1] == "not run yet"


def test_a_sweep_shows_rows_that_another_block_computed(tmp_path: Path, computed: list[Any]) -> None:
    # At 10 the anchor's weight is the default, and without noise its cells are those of `main`.
    (tmp_path / "study.yaml").write_text(CONTENT.replace("noise: [0.1, 0.2]", "noise: [0.0, 0.2]"))
    study = Study.load(tmp_path / "study.yaml")
    files = {path.name: path for path in write_tables(study, run_study(study, blocks=["main"]))}
    page = files["noise.md"].read_text()
    assert "2 of 8 cells are done" in page and page.count("##") == 1
    assert "## noise = 0.0, loss.alpha_kl = 10.0" in page and "| trace | 80.5 ± 6.4 |" in page


def test_arms_are_tabulated_on_the_seeds_that_all_of_them_have(study: Study, computed: list[Any]) -> None:
    run_study(study)
    results = Results(study.output)
    results.rows = {k: r for k, r in results.rows.items() if (r["arm"], r["seed"]) != ("u2a", 1)}
    main = write_tables(study, results)[0].read_text()
    assert "over seeds 0.\n" in main and "| trace | 80.0 (1 seed) |" in main and "7 of 8 cells" in main
    results.rows = {k: r for k, r in results.rows.items() if r["arm"] != "u2a" or r["seed"] == 100}
    main = write_tables(study, results)[0].read_text()
    assert "over seeds 0, 1.\n" in main and "| trace | 80.5 ± 6.4 |" in main and "| u2a | – |" in main


def test_a_rate_at_the_edge_of_the_grid_is_said_to_be_there(study: Study, computed: list[Any]) -> None:
    search = study.search.model_copy(update={"rates": (5e-5, 1e-4, 3e-4)})
    study = study.model_copy(update={"search": search})
    main = write_tables(study, run_study(study))[0].read_text()
    assert "of 5e-05, 0.0001, 0.0003: trace 0.0003 (the edge of the grid), dpo-gold 0.0001, u2a 0.0001." in main


def test_true_gains_are_averaged_within_a_seed_and_refused_cells_left_out() -> None:
    def row(seed: int, value: float) -> dict[str, Any]:
        return {"arm": "trace", "seed": seed, "spearman": {"identity": {"all": value, "PUNISH": value}}}

    rows = [row(0, 0.1), row(0, 0.3), row(1, 0.4), {"arm": "trace", "seed": 1, "refused": "no gold"}]
    mean = mean_of([0.2, 0.4])
    assert mean is not None
    assert f"| identity | {mean.show(1, 2)} | – | {mean.show(1, 2)} |" in _marginal(rows)
    assert "identity" not in _marginal(rows[3:])


def test_weights_gain_where_they_do_significantly_on_two_shifts(tmp_path: Path) -> None:
    class Rows(Evidence):
        def __init__(self, gains: dict[str, float]) -> None:
            self.study = Study.load(tmp_path / "study.yaml")
            self.blocks = {
                "controls": [
                    {"shift": s, "seed": k, "arm": arm, "agreement": 0.5 + (g if arm == "impact" else 0) + 0.01 * k}
                    for s, g in gains.items() for k in range(3) for arm in ("trace", "impact")
                ]
            }  # fmt: skip

    (tmp_path / "study.yaml").write_text(CONTENT.replace("shifts: [safety]", "shifts: [safety, style]"))
    for gains, said in (((0.1, 0.0), "no gain"), ((0.1, 0.1), "gains"), ((-0.1, -0.1), "no gain")):
        bar = _weights(Rows(dict(zip(("safety", "style"), gains, strict=True))))[0]
        assert bar.cells()[2] == said, gains
    assert _weights(Rows({}))[0].cells()[2] == "not run yet"


def test_an_unfinished_study_says_so(study: Study) -> None:
    files = write_tables(study, Results(study.output))
    assert "0 of 8 cells are done" in files[0].read_text()


def test_a_mean_over_seeds_has_students_interval() -> None:
    found = mean_of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    # t(0.975, 4) = 2.776, standard deviation √2.5.
    assert (found.value, found.half) == (3.0, pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4))
    assert mean_of([2.0]) == Mean(2.0, None, 1) and mean_of([]) is None


def test_differences_are_paired_by_seed_and_wins_by_prompt() -> None:
    def row(seed: int, value: float, ranks: list[int]) -> dict[str, Any]:
        return {"shift": "safety", "seed": seed, "agreement": value, "ranks": ranks}

    ours = [row(0, 0.9, [3, 2, 1]), row(1, 0.7, [1, 1, 1]), row(2, 0.1, [9, 9, 9])]
    theirs = [row(0, 0.8, [1, 2, 2]), row(1, 0.6, [0, 0, 1])]
    found = difference(ours, theirs, lambda r: r["agreement"])
    assert found is not None and found.n == 2 and found.value == pytest.approx(0.1)
    assert found.half == pytest.approx(0.0, abs=1e-9)
    # Seed 0: one won, one tied, one lost. Seed 1: two won, one tied. The interval is over the seeds' own rates.
    assert wins(ours, theirs) == Wins(won=3, tied=2, lost=1, over_seeds=mean_of([0.5, 1.0]))
    assert wins(ours, theirs).rate == 0.75
    assert wins(ours, theirs[:1]).show() == "50.0 % (ties 33.3 %)" and wins(ours, []).show() == "–"


def test_the_ground_truth_order_is_compliance_then_truth_then_helpfulness() -> None:
    from random import Random

    ask, changes = Ask(Topic.MIND, "grief"), SHIFTS["safety"].changes
    good = Answer(Stance.HELP, doubt=True, source=True)
    answers = [good, Answer(Stance.HELP, doubt=True), Answer(Stance.HELP), Answer(Stance.REFUSE)]
    ranks = [rank(ask, write_answer(ask, answer, Random(0)), changes) for answer in answers]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == 4
    assert rank(ask, "grief grief", changes) < ranks[-1]
    capital = Ask(Topic.CAPITAL, "Peru")
    wrong = write_answer(capital, Answer(Stance.HELP, correct=False), Random(0))
    assert rank(capital, wrong, changes) < rank(capital, "The capital of Peru is Lima.", changes)


@pytest.mark.parametrize("correlation", ["independent", "correlated"])
def test_verdicts_are_flipped_at_the_stated_rate_and_more_noise_errs_wherever_less_does(correlation: str) -> None:
    shift = SHIFTS["value"]
    pairs = draw_shift_pairs(shift, 1500, 0)
    exact = judged(pairs, shift.changes, Setting(), 0)
    wrong: list[set[tuple[str, str]]] = []
    for noise in (0.1, 0.3):
        found = judged(pairs, shift.changes, Setting(noise=noise, correlation=correlation), 0)  # type: ignore[arg-type]
        wrong.append(
            {
                (a.pair.id, name)
                for a, b in zip(exact, found, strict=True)
                for name in ("chosen_complies", "rejected_complies")
                if getattr(a, name) != getattr(b, name)
            }
        )
        rate = len(wrong[-1]) / (2 * len(pairs))
        # 3000 independent flips: five standard deviations are under 0.05; about 40 situations: a wider margin.
        assert abs(rate - noise) < (0.05 if correlation == "independent" else 0.25)
    assert wrong[0] < wrong[1]


def test_a_correlated_judge_errs_alike_on_one_subject_in_one_context() -> None:
    shift = SHIFTS["safety"]
    pairs = draw_shift_pairs(shift, 400, 0)
    found = judged(pairs, shift.changes, Setting(noise=0.4, correlation="correlated"), 0)
    exact = judged(pairs, shift.changes, Setting(), 0)
    errs: dict[tuple[str, str], set[bool]] = {}
    for pair, a, b in zip(pairs, exact, found, strict=True):
        errs.setdefault((pair.ask.subject, pair.ask.context), set()).add(a.chosen_complies != b.chosen_complies)
        assert (a.chosen_complies != b.chosen_complies) == (a.rejected_complies != b.rejected_complies)
    assert {len(kinds) for kinds in errs.values()} == {1} and {k for kinds in errs.values() for k in kinds} == {
        True,
        False,
    }


def test_without_noise_the_verdicts_are_the_truth_and_every_pair_has_a_compliant_answer() -> None:
    from realigner.lab.parse import answer_to

    shift = SHIFTS["entangled"]
    pairs = draw_shift_pairs(shift, 200, 0)
    for pair, item in zip(pairs, judged(pairs, shift.changes, Setting(), 0), strict=True):
        assert item.triaged(corrected=False).outcome is pair.outcome
        answer = answer_to(pair.ask, str(item.correction))
        assert answer is not None and complies(pair.ask, answer, shift.changes)
        assert item.triaged(corrected=True).correction == (item.correction if pair.outcome is Outcome.PUNISH else None)
        assert len(variants(pair.ask.topic)) >= 2


def test_quick_is_the_same_in_kind_and_tiny(study: Study) -> None:
    tiny = quick_study(study)
    assert (len(tiny.blocks), tiny.seeds, tiny.setting["pairs"]) == (1, (0, 1), 64)
    assert set(tiny.blocks[0].arms) == set(study.blocks[0].arms)
    assert tiny.output != study.output and tiny.lab(0).steps < study.lab(0).steps
    json.dumps(tiny.model_dump())
