"""The chain from record to page: predictions, records, tables, README and stored outputs say the same numbers.

Each test names the file that is off and the page that says otherwise. A page is put right by running it again (`make notebooks NB=...`),
tables by `write_table`, README by docs/readme.py; a record that disagrees with its predictions was changed by hand.
"""
import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from fsd_sdpose import experiments as ex
from fsd_sdpose.comparisons import draw_metric
from fsd_sdpose.comparisons import image_matches, weighted_ap
from fsd_sdpose.evaluation import coco_evaluator, read_ground_truth, read_results
from fsd_sdpose.skeletons import COCO

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
METHOD_PAGES = ("baseline", "fsd", "fsd_strong", "adaptive", "dynamic", "fsd_adaptive")
TABLES = sorted(p.parent.name for p in RESULTS.glob("*/table.md"))


@cache
def page_text(page):
    "Everything that a page shows: prose and the text of its stored outputs."
    if page.endswith(".md"):
        return (ROOT / page).read_text(encoding="utf-8")
    said = []
    for c in json.loads((ROOT / page).read_text(encoding="utf-8"))["cells"]:
        said.append("".join(c["source"]) if c["cell_type"] == "markdown" else "")
        for o in c.get("outputs", []):
            said += ["".join(o.get("text", ""))] + ["".join(v) for k, v in o.get("data", {}).items() if k.startswith("text/")]
    return "\n".join(said)


def check_page(page, expected):
    "Fail with the page's name where it lacks one of the texts that the records give."
    text = page_text(page)
    missing = [t for t in expected if t not in text]
    remedy = "python docs/readme.py, after running nbs/index.ipynb" if page.endswith(".md") else f'make notebooks NB="{page}"'
    assert not missing, f"{page} does not say what the records under results/ say: {missing[0]!r} ({len(missing)} such); {remedy}"


@cache
def demo():
    return ex.gather("demo", RESULTS)


def sentences(pairs=None, metric="AP", shown=None):
    return [ex.sentence(c, shown or metric) for _, c in ex.contrasts(demo(), pairs, metric).iterrows()]


@pytest.mark.parametrize("study", TABLES)
def test_tables_are_what_the_records_say(study, tmp_path):
    "runs.csv, table.csv and table.md, written again from the records, are the committed ones."
    (tmp_path / study).mkdir()
    (tmp_path / study / "runs").symlink_to(RESULTS / study / "runs")
    ex.write_table(study, tmp_path, RESULTS)
    committed, again = (pd.read_csv(folder / study / "runs.csv").set_index(["method", "seed"]) for folder in (RESULTS, tmp_path))
    assert list(committed.index) == list(again.index), f"results/{study}/runs.csv has other runs than results/{study}/runs"
    for run in again.index:
        differ = [c for c in again if str(again.at[run, c]) != str(committed.at[run, c])]
        name = f"results/{study}/runs/{run[0]}-seed{run[1]}/record.json"
        assert not differ, f"{name} says {differ[0]} = {again.at[run, differ[0]]}, results/{study}/runs.csv {committed.at[run, differ[0]]}"
    for name in ("table.csv", "table.md"):
        assert (RESULTS / study / name).read_text(encoding="utf-8") == (tmp_path / study / name).read_text(encoding="utf-8"), (
            f"results/{study}/{name} is not what the records under results/{study}/runs say")


def test_records_say_what_their_predictions_score():
    "AP of every run of the demo, from the predictions beside its record."
    runs, checked = demo(), 0
    for _, r in runs.iterrows():
        file = Path(r.folder, "results.json")
        if not file.exists():
            continue
        truth = read_ground_truth(ex._validation_file(r.study, r.overrides, r["data"][16:])[0])
        matches = image_matches(coco_evaluator(truth, read_results(file, truth), COCO))
        again = weighted_ap(matches, 0 * matches.people + 1)
        assert abs(again - r.AP) < 1e-5, f"{file.parent.relative_to(ROOT)}/record.json says AP {r.AP}, its predictions score {again:.6f}"
        checked += 1
    assert checked >= 35


def test_predictions_can_be_drawn():
    "The intervals on the pages cross seeds with pictures: the validation set is at hand and is the records' own."
    row = demo().query("method == 'fsd'").iloc[0]
    assert ex._validation_file(row.study, row.overrides, row["data"][16:]), "the demo's validation set is not the one that its records name"
    assert len(draw_metric(Path(row.folder, "results.json"), ex._validation_file(row.study, row.overrides, row["data"][16:])[0], resamples=3)) == 3


FRONT = ("README.md", "nbs/index.ipynb")


@pytest.mark.parametrize("page", FRONT)
def test_front_page(page):
    judged, place = ex.contrasts(demo()), ex.contrasts(demo(), ex.PLACE_PAIRS)
    own = judged[~judged.method.isin(ex.CONTROLS)]
    rows = [own.loc[own.difference.idxmax()], judged[judged.method == "no_distillation"].iloc[0],
            place[(place.method == "fsd") & (place.reference == "fsd_shuffled")].iloc[0]]
    gaps = [ex.sentence(c).split(": ", 1)[1].removesuffix(f": {c.verdict}.") for c in rows]
    others = [t.set_index("method").loc["fsd"] for t in (ex.other_people("demo", RESULTS), ex.other_machine("demo", RESULTS))]
    check_page(page, [*gaps,
                      *(f"fsd's gain is {ex.with_interval(c)} over {c.seeds} seeds alone" for c in others),
                      ex.to_markdown(ex.ap_table("demo", RESULTS)), ex.conditions(demo())])


def test_ap_table_page():
    check_page("nbs/experiments/ap_table.ipynb", [
        ex.to_markdown(ex.ap_table("demo", RESULTS)), ex.conditions(demo()), *sentences(), *sentences(metric="AP_crowd", shown="AP (crowd)"), *sentences(ex.PLACE_PAIRS)])


@pytest.mark.parametrize("method", [*METHOD_PAGES, "fsd_shuffled"])
def test_method_pages(method):
    page = "control" if method in ex.CONTROLS else method
    table = ex.ap_table("demo", RESULTS)
    check_page(f"nbs/experiments/{page}.ipynb", [
        ex.to_markdown(table[table.method.isin(["baseline", method])]), *(ex.verdict(demo(), method, m) for m in ("AP", "AP_crowd"))])


def test_the_guide_page():
    "Verdicts in English and in Korean."
    rows = ex.contrasts(demo())
    korean = [f"{c.low:+.2f}에서 {c.high:+.2f}까지" for _, c in rows.iterrows()]
    check_page("nbs/guide/the_guide.ipynb", [*(ex.verdict(demo(), m).removeprefix(f"{m}: ") for m in METHOD_PAGES), *korean])


def test_why_it_works_page():
    shown = [m for m in ("fsd_shuffled", "fsd", "fsd_strong", "dynamic")]
    runs = demo()[demo().method.isin(["no_distillation", "baseline", *shown])]
    check_page("nbs/experiments/why_it_works.ipynb", [
        ex.verdict(runs, m, c).replace(f" {c} ", " ", 1) for m in shown for c in ("OKS_occluded", "AP_crowd")])


@pytest.mark.parametrize("sweep", list(ex.SWEEPS))
def test_sweep_pages(sweep):
    page = "presets" if sweep == "presets" else f"sweep_{sweep}"
    check_page(f"nbs/experiments/{page}.ipynb", [ex.sweep_verdict(sweep, "demo", RESULTS), ex.to_markdown(ex.sweep_table(sweep, "demo", RESULTS))])


def test_reproduce_page():
    "The runs on another kind of CPU, beside the committed ones."
    here, there = ex.contrasts(demo()), ex.other_machine("demo", RESULTS)
    check_page("nbs/guide/reproduce.ipynb", [ex.with_interval(c) for t in (here, there) for _, c in t.iterrows()])


def test_clutter_and_crowd_is_said_on_the_ap_table_page():
    others = ex.other_people("demo", RESULTS)
    check_page("nbs/experiments/ap_table.ipynb", [f"{c.method} {ex.with_interval(c)}" for _, c in others.iterrows()])


@pytest.mark.parametrize("sweep", list(ex.SWEEPS))
def test_a_run_has_one_verdict(sweep):
    "A point of a sweep that is the study's own run says what the study's table says."
    table, judged = ex.contrasts(demo()).set_index("method"), ex.sweep_contrasts(sweep, "demo", RESULTS).set_index("label")
    for p in ex.SWEEPS[sweep]:
        if p.label in judged.index and not p.overrides:
            assert judged.verdict[p.label] == table.verdict[p.method], f"{sweep}: {p.label}"
