"""Runs are compared against the spread of their seeds, and named by their settings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from train.errors import ConfigError
from train.paper.command import choose_items
from train.paper.curve import span_means
from train.paper.item import DataName, RunSpec, ScaleName
from train.paper.items import ITEMS
from train.paper.items.biases import common_loss
from train.paper.items.fig1 import Curve, common_level
from train.paper.items.readings import READINGS
from train.paper.plan import Planner, PreparedData
from train.paper.scales import scale_of
from train.paper.statistics import compare, compare_pairs
from train.settings import from_assignments, read_toml, resolve


def test_a_difference_beyond_the_spread_is_decided_by_its_direction() -> None:
    found = compare([0.50, 0.51, 0.52], [0.40, 0.41, 0.42])
    assert found.difference == pytest.approx(0.1)
    expected = stats.ttest_ind([0.50, 0.51, 0.52], [0.40, 0.41, 0.42], equal_var=False)
    assert found.p == pytest.approx(float(expected.pvalue))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.1 < found.high
    assert found.decision(1) == "reproduced"
    assert found.decision(-1) == "not reproduced"


@pytest.mark.parametrize(
    ("changed", "baseline"),
    [
        ([0.50, 0.40, 0.60], [0.45, 0.55, 0.40]),
        ([0.9], [0.1]),
        ([0.9, 0.9], [0.1]),
        ([0.9, 0.9], [0.1, 0.1]),
    ],
)
def test_without_more_than_the_spread_nothing_is_decided(
    changed: list[float], baseline: list[float]
) -> None:
    assert compare(changed, baseline).decision(1) == "not decidable at this scale"


def test_pairs_are_compared_by_their_differences() -> None:
    one, ten = [0.60, 0.50, 0.40], [0.58, 0.47, 0.38]
    found = compare_pairs(one, ten)
    assert found.decision(1) == "reproduced"
    assert compare(one, ten).decision(1) == "not decidable at this scale"
    assert compare_pairs(one, one).p is None


def test_epochs_to_an_error_are_read_between_epochs() -> None:
    curve = Curve(activation="relu", rate=0.01, seed=0, errors=(0.9, 0.5, 0.2))
    assert curve.epochs_to(0.5) == 2
    assert curve.epochs_to(0.35) == pytest.approx(2.5)
    assert curve.epochs_to(0.1) is None
    slower = Curve(activation="tanh", rate=0.01, seed=0, errors=(0.9, 0.8, 0.4))
    assert common_level([[curve], [slower]]) == 0.4
    assert common_level([[curve], [curve]]) == 0.25


def test_rows_of_the_log_become_means_of_epochs() -> None:
    assert span_means([(2, 0.8), (4, 0.4), (6, 0.2)], 2) == pytest.approx((0.8, 0.4, 0.2))
    assert span_means([(3, 0.9), (6, 0.3)], 2) == pytest.approx((0.9, 0.6, 0.3))
    assert span_means([(5, 0.5)], 2) == pytest.approx((0.5, 0.5, 0.5))


def test_the_loss_of_the_biases_is_one_that_all_runs_reach() -> None:
    chance = math.log(10)
    assert common_loss([[2.5, 2.0, 1.0], [2.3, 1.9]], 10) == pytest.approx(0.9 * chance)
    assert common_loss([[2.5, 2.2, 2.25], [2.3, 1.9]], 10) == pytest.approx(2.2)


def test_equal_values_in_a_group_are_compared_without_a_warning() -> None:
    third = 1 / 24
    assert compare([third] * 3, [third, third, 0.0, third, third]).p is not None


def datasets(fingerprint: str) -> dict[DataName, PreparedData]:
    data = PreparedData(
        location="data", fingerprint=fingerprint, classes=4, train_images=100, val_images=20
    )
    names: tuple[DataName, ...] = ("photos", "some-classes", "cifar")
    return dict.fromkeys(names, data)


def planner(out: Path, fingerprint: str = "a") -> Planner:
    data = PreparedData(
        location="data", fingerprint=fingerprint, classes=4, train_images=100, val_images=20
    )
    names: tuple[DataName, ...] = ("photos", "some-classes", "cifar")
    return Planner(out, scale_of("small", train_images=100), dict.fromkeys(names, data))


def test_a_runs_folder_is_named_by_what_decides_it(tmp_path: Path) -> None:
    plan = planner(tmp_path)
    spec = RunSpec(name="no-lrn", settings={"net.lrn": False}, seed=1)
    name = plan.run_job(spec).name
    others = (
        RunSpec(name="no-lrn", settings={"net.lrn": True}, seed=1),
        RunSpec(name="no-lrn", settings={"net.lrn": False}, seed=2),
        RunSpec(name="no-lrn", settings={"net.lrn": False}, seed=1, warm_start=spec),
        RunSpec(name="no-lrn", settings={"net.lrn": False}, seed=1, data="cifar"),
    )
    names = {name, planner(tmp_path, "b").run_job(spec).name}
    names |= {plan.run_job(other).name for other in others}
    assert len(names) == 6
    assert planner(tmp_path).run_job(spec).name == name


@pytest.mark.parametrize("scale", ["small", "medium", "full"])
def test_every_run_of_every_item_has_settings_that_fit_accepts(scale: str, tmp_path: Path) -> None:
    size = scale_of(scale, train_images=100)  # type: ignore[arg-type]
    plan = Planner(tmp_path, size, datasets("a"))
    for path, content in plan.settings_files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    jobs = plan.plan(ITEMS, 2)
    assert len(jobs.runs) > 50
    for spec, job in jobs.runs.values():
        words = list(job.arguments)
        file = read_toml(Path(words[words.index("--config") + 1]))
        values = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
        config = resolve(None, file, from_assignments(tuple(values)))
        assert config.preset == "source-2012"
        known = {each.name for _, each in jobs.runs.values()}
        assert known.issuperset(job.needs), spec


def test_only_runs_of_a_search_may_fail(tmp_path: Path) -> None:
    plan = planner(tmp_path).plan(ITEMS, 1)
    optional = {spec.name for spec, job in plan.runs.values() if job.optional}
    assert optional
    assert all(name.startswith("cifar-") for name in optional)


def test_items_are_chosen_by_id_or_by_the_beginning_of_several() -> None:
    assert choose_items(()) == list(ITEMS)
    assert [item.id for item in choose_items(("lrn", "fig2"))] == ["fig2", "lrn"]
    assert {item.id.split("-")[0] for item in choose_items(("layers",))} == {"layers"}
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    with pytest.raises(ConfigError, match="unknown item 'table3': --only takes some of fig1"):
        choose_items(("table3",))


def test_a_length_that_was_asked_for_moves_what_happens_in_a_run() -> None:
    scale = scale_of("small", train_images=2_600, overrides={"optim.epochs": 20})
    assert scale.settings["optim.step_epochs"] == [15]
    assert scale.settings["input.lighting_stop_epoch"] == 15
    assert scale.cifar["eval_every_epochs"] == 20
    assert (
        scale_of("medium", train_images=2_600, overrides={"optim.epochs": 7}).cifar[
            "eval_every_epochs"
        ]
        == 7
    )


@pytest.mark.parametrize("scale", ["small", "medium", "full"])
def test_a_reading_states_the_setting_that_its_runs_have(scale: ScaleName) -> None:
    size = scale_of(scale, train_images=2_600)
    for reading in READINGS:
        _, value = reading.change(size)
        assert reading.spec(size, 0).settings == {reading.setting: value}


def test_evaluations_run_where_the_runs_do(tmp_path: Path) -> None:
    overrides = {"device": "cpu"}
    scale = scale_of("small", train_images=100, overrides=overrides)
    names: tuple[DataName, ...] = ("photos", "some-classes", "cifar")
    plan = Planner(tmp_path, scale, dict.fromkeys(names, datasets("a")["photos"])).plan(ITEMS, 1)
    for _, job in plan.evaluations.values():
        assert job.arguments[job.arguments.index("--device") + 1] == "cpu"
