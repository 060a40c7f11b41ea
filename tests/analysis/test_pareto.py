import time

import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from analysis.pareto import (
    DEFAULT_OBJECTIVES,
    best_under,
    front_of_each_group,
    hypervolume,
    knee,
    pareto_front,
    ranks,
    reference_point,
)

COLUMNS = list(DEFAULT_OBJECTIVES)
maybe = st.one_of(st.integers(0, 4).map(float), st.just(float("nan")))
rows_of_four = st.lists(st.tuples(*[maybe] * 4), max_size=25)


def table_of(rows):
    return pd.DataFrame(rows, columns=COLUMNS, dtype=float).assign(dataset="d", selection="val")


@given(rows_of_four, st.sampled_from([COLUMNS, COLUMNS[:2], COLUMNS[:3], ["relus", "depth"], ["val_accuracy"]]))
def test_fronts_equal_brute_force_with_ties_duplicates_and_nan(rows, objectives):
    table = table_of(rows)
    complete = table.dropna(subset=objectives)
    front = pareto_front(table, objectives)
    if "val_accuracy" in objectives:
        expected = complete[reference.nondominated(complete[objectives].to_numpy())] if len(complete) else complete
    else:  # the reference maximises its first column
        values = complete[objectives].to_numpy() * [-1, 1] if len(complete) else complete[objectives].to_numpy()
        expected = complete[reference.nondominated(values)] if len(complete) else complete
    assert front.index.tolist() == expected.index.tolist()


@given(rows_of_four)
def test_ranks_are_those_of_peeling_fronts_off(rows):
    table = table_of(rows)
    found = ranks(table)
    left, rank = table.dropna(subset=COLUMNS), 0
    assert found[~table.index.isin(left.index)].isna().all()
    while len(left):
        front = left[reference.nondominated(left[COLUMNS].to_numpy())]
        assert (found[front.index] == rank).all()
        left, rank = left.drop(front.index), rank + 1


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=8))
def test_hypervolume_is_the_dominated_share_of_the_box(points):
    table = pd.DataFrame([(10.0 * a, float(c)) for a, c in points], columns=["val_accuracy", "relus"])
    found = hypervolume(table, ["val_accuracy", "relus"], {"val_accuracy": 0.0, "relus": 10.0})
    cells = [(x, y) for x in range(10) for y in range(10)]
    covered = sum(any(a > y and c <= x for a, c in points) for x, y in cells)
    assert found == pytest.approx(covered / 100)


def test_hypervolume_of_nothing_and_of_costs_that_nobody_has():
    table = table_of([(50, 0, 10, 5)])
    reference_ = reference_point(table, COLUMNS)
    assert reference_ == pytest.approx({"val_accuracy": 0.0, "relus": 0.0, "macs": 11.0, "depth": 5.5})
    assert hypervolume(table, COLUMNS, reference_) == pytest.approx(0.5 / 11 / 11)
    assert hypervolume(table.head(0), COLUMNS, reference_) == 0.0
    assert hypervolume(table, COLUMNS, reference_ | {"macs": 20.0, "depth": 10.0}) == pytest.approx(0.5**3)


def with_all_relu(*costs):
    """Students beside networks of these costs."""
    students = table_of([(60, 10, 100, 5), (50, 5, 50, 4)]).assign(mask_method="senet")
    whole = table_of([(70, *each) for each in costs]).assign(mask_method="none")
    return pd.concat([students, whole], ignore_index=True)


def test_one_bad_model_moves_the_reference_point_of_nobody():
    table = with_all_relu((100, 1000, 10))
    bad = table_of([(1, 9000, 10_000, 99)]).assign(mask_method="senet")
    more = pd.concat([table, bad], ignore_index=True)
    corner = reference_point(table, COLUMNS)
    assert corner == pytest.approx({"val_accuracy": 0.0, "relus": 110.0, "macs": 1100.0, "depth": 11.0})
    assert reference_point(more, COLUMNS) == corner
    assert hypervolume(more, COLUMNS, corner) == hypervolume(table, COLUMNS, corner) > 0


def test_a_reference_point_can_be_given_and_needs_no_all_relu_network():
    table = with_all_relu((100, 1000, np.nan), (200, 500, np.nan))
    assert reference_point(table, COLUMNS) == pytest.approx({"val_accuracy": 0.0, "relus": 220.0, "macs": 1100.0, "depth": 5.5})
    students = table[table["mask_method"] != "none"]
    assert reference_point(students, COLUMNS, {"relus": 50.0, "params": 1.0}) == pytest.approx(
        {"val_accuracy": 0.0, "relus": 50.0, "macs": 110.0, "depth": 5.5}
    )


def test_hypervolume_stands_nan_ties_and_one_model_alone():
    table = with_all_relu((100, 1000, 10))
    corner = reference_point(table, COLUMNS)
    whole = hypervolume(table, COLUMNS, corner)
    unknown = table_of([(np.nan, 1, 1, 1)]).assign(mask_method="senet")
    assert hypervolume(pd.concat([table, unknown]), COLUMNS, corner) == whole, "what isn't known gains nothing"
    assert hypervolume(pd.concat([table, table]), COLUMNS, corner) == pytest.approx(whole), "a tie gains nothing"
    alone = table.tail(1)
    assert hypervolume(alone, COLUMNS, reference_point(alone, COLUMNS)) == pytest.approx(0.7 / 11**3)


def test_groups_have_fronts_and_ranks_of_their_own():
    table = table_of([(50, 1, 1, 1), (60, 1, 1, 1)]).assign(dataset=["a", "b"])
    assert len(front_of_each_group(table)) == 2
    assert ranks(table).tolist() == [0, 0]
    assert front_of_each_group(table.head(0)).empty


def test_knee_is_the_nearest_to_the_best_of_everything():
    table = table_of([(90, 100, 1, 1), (85, 20, 1, 1), (10, 0, 1, 1)])
    assert knee(table).name == 1
    assert knee(table.iloc[[0]]).name == 0
    assert knee(table.head(0)) is None
    # In ReLUs the second is far from the best, as a share of their range it isn't.
    assert knee(table_of([(90, 100_000, 1, 1), (89, 30_000, 1, 1), (10, 0, 1, 1)])).name == 1


def test_best_under_lists_best_first_or_the_nearest():
    table = table_of([(70, 50, 1, 10), (72, 60, 1, 12), (72, 55, 1, 12), (90, 500, 1, 16), (99, np.nan, 1, 1)])
    found = best_under(table, {"relus": 100, "depth": 14, "val_accuracy": 70})
    assert found.rows.index.tolist() == [2, 1, 0] and found.nearest.empty
    none = best_under(table, {"relus": 40, "depth": 14})
    assert none.rows.empty
    assert none.nearest.index[0] == 0 and none.nearest["misses"].iloc[0] == "ReLUs 50 (at most 40)"
    assert 4 not in none.nearest.index
    both = best_under(table, {"relus": 100, "val_accuracy": 89})
    assert both.nearest["misses"].iloc[0] == "val % 72 (at least 89)"


def test_unknown_objectives_are_refused():
    with pytest.raises(ValueError, match="objective 'speed'; expected of: val_accuracy"):
        pareto_front(table_of([(1, 1, 1, 1)]), ["val_accuracy", "speed"])


@pytest.mark.slow
def test_a_million_rows_of_four_objectives():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((1_000_000, 4)), columns=COLUMNS)
    started = time.process_time()
    front = pareto_front(table)
    assert time.process_time() - started < 3 * 3, "three times the target: the machine may be busy"
    assert 100 < len(front) < 2000
