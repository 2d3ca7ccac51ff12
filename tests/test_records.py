"""The chain from record to page: predictions, records, tables, README and stored outputs agree.

Each test names the file that is off and the page that says otherwise. A page is put right by
running it again (`make pages` or `make notebooks NB=...`), tables by `write_table`, README by
docs/readme.py; a record that disagrees with its predictions was changed by hand.
"""
import json
import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from fsd_sdpose import tables
from fsd_sdpose.comparisons import metric_draws
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.experiments import study_files
from fsd_sdpose.files import sha256
from fsd_sdpose.studies import METHODS, SWEEPS, Study, guide_methods, place_pairs, run_folder
from fsd_sdpose.tables import contrasts, to_markdown, verdict, with_interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
TABLES = sorted(p.parent.name for p in RESULTS.glob("*/table.md"))


@cache
def page_text(page):
    "Everything that a page shows: prose and the text of its stored outputs."
    if page.endswith(".md"):
        return (ROOT / page).read_text(encoding="utf-8")
    texts = []
    for c in json.loads((ROOT / page).read_text(encoding="utf-8"))["cells"]:
        texts.append("".join(c["source"]) if c["cell_type"] == "markdown" else "")
        for o in c.get("outputs", []):
            texts.append("".join(o.get("text", "")))
            texts += ["".join(v) for k, v in o.get("data", {}).items() if k.startswith("text/")]
    return "\n".join(texts)


def check_page(page, expected):
    "Fail with the page's name where it lacks one of the texts that the records give."
    text = page_text(page)
    missing = [t for t in expected if t not in text]
    remedy = f'make notebooks NB="{page}"'
    if page.endswith(".md"):
        remedy = "python docs/readme.py, after running nbs/index.ipynb"
    assert not missing, (f"{page} does not say what the records under results/ say: "
                         f"{missing[0]!r} ({len(missing)} such); {remedy}")


@cache
def runs(study="demo"):
    return tables.gather(study, RESULTS)


@cache
def second_look():
    "The gains on the other test sets."
    return contrasts(runs("clutter_and_crowd"), metric="tests_AP")


@cache
def demo_table():
    return tables.ap_table("demo", RESULTS)


def sentences(pairs=None, metric="AP", shown=None):
    judged = contrasts(runs(), pairs, metric)
    return [tables.sentence(c, shown or metric) for _, c in judged.iterrows()]


@pytest.mark.parametrize("study", TABLES)
def test_tables_are_what_the_records_say(study, tmp_path):
    "runs.csv, table.csv and table.md, written again from the records, are the committed ones."
    (tmp_path / study).mkdir()
    (tmp_path / study / "runs").symlink_to(RESULTS / study / "runs")
    tables.write_table(study, tmp_path, RESULTS)
    committed, again = (pd.read_csv(folder / study / "runs.csv").set_index(["method", "seed"])
                        for folder in (RESULTS, tmp_path))
    assert list(committed.index) == list(again.index), f"results/{study}/runs.csv lists other runs"
    for run in again.index:
        for column in again:
            here, there = again.at[run, column], committed.at[run, column]
            record = f"results/{study}/runs/{run[0]}-seed{run[1]}/record.json"
            assert str(here) == str(there), (f"{record} says {column} = {here}, "
                                             f"results/{study}/runs.csv {there}")
    for name in ("table.csv", "table.md"):
        committed, again = (Path(folder, study, name).read_text(encoding="utf-8")
                            for folder in (RESULTS, tmp_path))
        assert committed == again, f"results/{study}/{name} is not what the records say"


def test_records_say_what_their_predictions_score():
    "AP of every run of the demo and its draws, from the predictions beside its record."
    checked = 0
    for _, r in runs().iterrows():
        file = Path(r.folder, "results.json")
        if not file.exists():
            continue
        record = json.loads(file.with_name("record.json").read_text(encoding="utf-8"))
        study = Study(record["about"], {}, **record["data"]["source"])
        truth = study_files(study, splits=("val",))["val"][0]
        assert sha256(truth) == record["data"]["val"]["sha256"], "the validation set is another one"
        name = file.parent.relative_to(ROOT)
        again = evaluate(truth, file)["AP"]
        assert abs(again - r.AP) < 1e-5, f"{name}/record.json: AP {r.AP}, predictions: {again:.6f}"
        if r.seed == 0:
            stored = pd.read_csv(file.with_name("draws.csv"))
            pd.testing.assert_frame_equal(stored, metric_draws(file, truth), atol=1e-5,
                                          obj=f"{name}/draws.csv")
        checked += 1
    assert checked >= 35


@pytest.mark.parametrize("page", ["README.md", "nbs/index.ipynb"])
def test_front_page(page):
    judged, place = contrasts(runs()).set_index("method"), contrasts(runs(), place_pairs())
    guide = judged[judged.index.isin(guide_methods())]
    shown = [guide.difference.idxmax(), "no_distillation"]
    rows = [judged.loc[m].to_dict() | dict(method=m) for m in shown]
    rows.append(place.query("method == 'fsd' and reference == 'fsd_shuffled'").iloc[0].to_dict())
    gaps = [tables.sentence(c).split(": ", 1)[1].removesuffix(f": {c['verdict']}.") for c in rows]
    others = [t.set_index("method").loc["fsd"]
              for t in (second_look(), tables.other_machine("demo", RESULTS))]
    gains = [f"fsd's gain is {with_interval(c)} over {c.seeds} seeds" for c in others]
    check_page(page, [*gaps, *gains, to_markdown(demo_table()), tables.conditions(runs())])


def test_ap_table_page():
    check_page("nbs/experiments/ap_table.ipynb", [
        to_markdown(demo_table()), tables.conditions(runs()),
        *sentences(), *sentences(place_pairs()),
        *sentences(metric="AP_crowd", shown="AP (crowd)"),
        *(f"{c.method} {with_interval(c)}" for _, c in second_look().iterrows())])


@pytest.mark.parametrize("method", [m for m in METHODS if m in set(runs().method)])
def test_method_pages(method):
    rows = demo_table()[demo_table().method.isin(["baseline", method])]
    judged = tables.method_contrasts(runs(), method)
    assert judged.reference.tolist() == [*METHODS[method].against]
    lines = [tables.sentence(c) for _, c in judged.iterrows()] or [verdict(runs(), method)]
    crowd = contrasts(runs(), metric="AP_crowd").query("method == @method")
    lines += [tables.sentence(c, "AP (crowd)") for _, c in crowd.iterrows()]
    check_page(f"nbs/experiments/{method}.ipynb", [to_markdown(rows), *lines])


def test_the_guide_page():
    "Verdicts in English and in Korean."
    korean = [f"{c.low:+.2f}에서 {c.high:+.2f}까지" for _, c in contrasts(runs()).iterrows()]
    english = [verdict(runs(), m).removeprefix(f"{m}: ") for m in guide_methods()]
    check_page("nbs/guide/the_guide.ipynb", [*english, *korean])


def test_why_it_works_page():
    methods = ["fsd_shuffled", "fsd", "fsd_strong", "dynamic"]
    shown = runs()[runs().method.isin(["no_distillation", "baseline", *methods])]
    check_page("nbs/experiments/why_it_works.ipynb", [
        verdict(shown, m, c).replace(f" {c} ", " ", 1)
        for m in methods for c in ("OKS_occluded", "AP_crowd")])


@pytest.mark.parametrize("sweep", list(SWEEPS))
def test_sweep_pages(sweep):
    check_page(f"nbs/experiments/sweep_{sweep}.ipynb", [
        tables.sweep_verdict(sweep, "demo", RESULTS),
        to_markdown(tables.sweep_table(sweep, "demo", RESULTS))])


def test_clutter_and_crowd_page():
    own = runs("clutter_and_crowd")
    lines = [tables.sentence(c) for _, c in second_look().iterrows()]
    for kind in tables.kinds_of_tests(own):
        growth = contrasts(own, metric=f"growth_{kind}")
        lines += [tables.sentence(c, f"AP from lowest to highest {kind}")
                  for _, c in growth.iterrows()]
    check_page("nbs/experiments/clutter_and_crowd.ipynb", [*lines, tables.conditions(own)])


def test_reproduce_page():
    "The runs on another kind of CPU, beside the committed ones."
    both = (contrasts(runs()), tables.other_machine("demo", RESULTS))
    intervals = [with_interval(c) for table in both for _, c in table.iterrows()]
    check_page("nbs/guide/reproduce.ipynb", intervals)


@pytest.mark.parametrize("sweep", list(SWEEPS))
def test_a_run_has_one_verdict(sweep):
    "A point of a sweep that is the study's own run says what the study's table says."
    table = contrasts(runs()).set_index("method").verdict
    judged = tables.sweep_contrasts(sweep, "demo", RESULTS).set_index("label").verdict
    for p in SWEEPS[sweep].points:
        if p.label in judged.index and not p.overrides:
            assert judged[p.label] == table[p.method], f"{sweep}: {p.label}"


@pytest.fixture
def copies(tmp_path):
    "Two seeds of two methods of the demo, to be broken."
    for run in ("baseline-seed0", "baseline-seed1", "fsd-seed0", "fsd-seed1"):
        folder = tmp_path / "demo/runs" / run
        shutil.copytree(RESULTS / "demo/runs" / run, folder)
    return tmp_path


def change(folder, run, path, value, remove=False):
    "Set one entry of a record, or remove it; the name of its file."
    file = folder / "demo/runs" / run / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    *above, last = path.split("/")
    entry = record
    for key in above:
        entry = entry[key]
    entry[last] = value
    if remove:
        del entry[last]
    file.write_text(json.dumps(record), encoding="utf-8")
    return f"{run}/record.json"


NUMBER = "not a number from 0 to 100"


@pytest.mark.parametrize("path, value, message", [
    ("metrics/AP", float("nan"), NUMBER), ("metrics/AP", None, NUMBER),
    ("metrics/AP", "35", NUMBER), ("metrics/AP", float("inf"), NUMBER),
    ("metrics/AP", 1e9, NUMBER), ("metrics/AP", -1, NUMBER), ("metrics/AP", True, NUMBER),
    ("metrics/AP_crowd", float("nan"), NUMBER), ("metrics/OKS_occluded", None, NUMBER),
    ("untrained/AP", float("nan"), NUMBER), ("deepest_cycle", {"AP": "35"}, NUMBER),
    ("tests", {"crowd-0": {"people": 9}}, NUMBER), ("metrics", [], "AttributeError"),
    ("metrics/OKS_occluded", float("nan"), "has no OKS_occluded"),
    ("data/val/counted/crowd_people", 0, "though nobody is in a crowd"),
    ("seconds", None, "not a number"), ("probes/attention_local", "a", "not a number"),
    ("seed", "1", "the seed is '1'"), ("seed", True, "the seed is True"),
    ("seed", -1, "the seed is -1"), ("seed", 3, "fsd-seed3 of the study demo and lies in"),
    ("method", "fsd_strong", "fsd_strong-seed1 of the study demo"),
    ("study", "lspet", "fsd-seed1 of the study lspet"), ("study", 3, "study is 3"),
    ("config/loss_vis_token_dist/threshold", .2, "differ in the losses"),
])
def test_a_record_that_cannot_count_is_named(copies, path, value, message):
    "The mean is never taken over the rest."
    name = change(copies, "fsd-seed1", path, value)
    with pytest.raises(ValueError, match=message) as error:
        tables.ap_table("demo", copies, RESULTS)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["metrics/AP", "metrics/AP_crowd", "metrics/OKS_occluded",
                                  "seed", "metrics", "environment/versions/torch"])
def test_a_record_without_an_entry_is_named(copies, path):
    name = change(copies, "fsd-seed1", path, None, remove=True)
    with pytest.raises(ValueError, match=path.split("/")[-1]) as error:
        tables.gather("demo", copies)
    assert name in str(error.value)


def test_nobody_in_a_crowd_is_no_fault(copies):
    for run in ("baseline-seed0", "baseline-seed1", "fsd-seed0", "fsd-seed1"):
        for part in ("metrics", "untrained"):
            change(copies, run, f"{part}/AP_crowd", float("nan"))
        change(copies, run, "data/val/counted/crowd_people", 0)
    table = tables.ap_table("demo", copies, RESULTS).set_index("method")
    assert table.loc["fsd", "measured AP (crowd)"] == "nobody in this stratum"


@pytest.mark.parametrize("path", ["environment/device", "environment/versions/torch"])
def test_arms_of_one_seed_run_on_one_machine(copies, path):
    name = change(copies, "fsd-seed1", path, "another; still another")
    with pytest.raises(ValueError, match="all arms of one seed run on one machine") as error:
        tables.ap_table("demo", copies, RESULTS)
    assert name in str(error.value) and "baseline-seed1/record.json" in str(error.value)


def test_what_seeds_do_not_share_is_said(copies):
    "Machines and versions of the two seeds, and losses of an older definition."
    assert tables.mixture(tables.gather("demo", copies)) == ""
    for method in ("baseline", "fsd"):
        change(copies, f"{method}-seed1", "environment/device", "another")
        change(copies, f"{method}-seed1", "environment/versions/torch", "2.0")
        change(copies, f"fsd-seed{int(method == 'fsd')}",
               "config/loss_vis_token_dist/threshold", .2)
    text = tables.conditions(tables.gather("demo", copies))
    assert "on 2 kinds of machine" in text and "versions of torch (2.0, 2.13" in text
    assert "The losses of fsd are other ones than this library's" in text


def test_seeds_that_were_paired_are_shown(copies):
    "A missing seed of the baseline, then another one only, then none."
    runs, rows = copies / "demo/runs", []
    for gone in ("baseline-seed1", "fsd-seed0", "baseline-seed0"):
        shutil.rmtree(runs / gone)
        rows.append(tables.ap_table("demo", copies, RESULTS).set_index("method").loc["fsd"])
    assert [str(r.seeds) for r in rows] == ["2, of which 1 paired", "1, of which 0 paired", "1"]
    assert "one seed: no interval" in rows[0]["measured gain"]
    assert rows[1]["measured gain"].startswith("no seed in common")
    assert rows[2]["measured gain"] == "no baseline"


HISTORY = "epoch,loss,AP,method,seed\n1,1,2,fsd,1\n2,1,2,fsd,1\n3,1,2,fsd,1\n"


@pytest.mark.parametrize("content, message", [
    ("", "cannot be read"), (b"\xff\xfe\x00\x81", "cannot be read"),
    ('a,"b\n1', "cannot be read"), ("a,b\n1,2\n1,2,3,4\n", "cannot be read"),
    ("epoch,loss\n1,2\n", "no column 'AP'"),
    (HISTORY[:-len("3,1,2,fsd,1\n")], "2 rows, not one for each of 3 epochs"),
    (HISTORY.replace("3,1", "2,1"), "not one for each"),
    (HISTORY.replace("1,2", "x,2"), "a loss that is no number"),
    (HISTORY.replace("fsd,1", "fsd,0"), "not of fsd and seed 1"),
])
def test_a_broken_history_is_named(copies, content, message):
    file = copies / "demo/runs/fsd-seed1/history.csv"
    file.write_text(HISTORY, encoding="utf-8")
    assert len(tables.gather_history("demo", copies)) == 12
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        tables.gather_history("demo", copies)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage, message", [
    (lambda t: t[:200], "has 200 rows"), (lambda t: t.assign(AP=t.AP.where(t.index > 3)), "no AP"),
    (lambda t: t.assign(OKS="a"), "not a table of numbers"),
    (lambda t: t.assign(AP=t.AP * 100), "AP leaves the range"), (lambda t: "", "not a table")])
def test_broken_draws_are_named(copies, damage, message):
    file = copies / "demo/runs/fsd-seed1/draws.csv"
    table = damage(pd.read_csv(file))
    file.write_text(table if isinstance(table, str) else table.to_csv(index=False))
    with pytest.raises(ValueError, match=message) as error:
        tables.ap_table("demo", copies, RESULTS)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_point_of_a_sweep_is_what_its_folder_says(copies):
    "A run of FSD itself is no point of the sweep over its temperature."
    folder = run_folder(copies, "demo", "fsd", 0, "temperature", "temperature-0.5")
    shutil.copytree(RESULTS / "demo/runs/fsd-seed0", folder)
    with pytest.raises(ValueError, match="temperature-0.5 says: run it again") as error:
        tables.gather_sweep("temperature", "demo", copies)
    assert str(folder) in str(error.value)
