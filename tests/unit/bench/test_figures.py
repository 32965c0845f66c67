"""The bench's own arithmetic, which nobody would notice to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.redis_cost import asked, difference
from tests.bench.report import MARKERS, Report
from tests.bench.stats import quantile, spread
from tests.bench.streams import Answer, Incomplete, Moment, read_stamps
from tests.bench.table import ms, ratio, render


def test_quantile_is_a_sample_that_was_seen() -> None:
    samples = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(samples, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]


def test_no_samples_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_stamps_are_read_from_events_and_from_joined_chunks() -> None:
    answer = Answer()
    now = Moment(unix=1_700_000_000_000_000_000, monotonic=900_000_000_000)
    read_stamps(answer, b'data: {"text":"0@1699999999998000000 "}', now)
    read_stamps(answer, b'{"content":"1@899999000000 "}{"content":"2@899999500000 "}', now)
    assert answer.indexes == [0, 1, 2]
    assert answer.ages_s == pytest.approx([0.002, 0.001, 0.0005])


@pytest.mark.parametrize("indexes", [[0, 1], [0, 2, 1], [0, 1, 1, 2], []])
def test_an_answer_with_holes_doubles_or_disorder_does_not_count(indexes: list[int]) -> None:
    with pytest.raises(Incomplete):
        Answer(indexes=indexes).check(3)


def test_table_lines_have_one_width() -> None:
    lines = render(["target", "p50"], [["a", "1.00"], ["longer", "100"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------ | ---: |"


def test_figures_have_as_many_digits_as_mean_something() -> None:
    assert [ms(s) for s in (0.00123, 0.0123, 0.123)] == ["1.23", "12.3", "123"]
    assert (ratio(3.0, 2.0), ratio(1.0, 0.0)) == ("1.5x", "-")


def test_only_what_ran_in_between_is_counted() -> None:
    ran = difference({"publish": 5, "get": 1}, {"publish": 9, "get": 1, "xadd": 7})
    assert list(ran.items()) == [("xadd", 7), ("publish", 4)]
    assert asked(ran) == 4


def test_report_replaces_only_what_stands_between_the_markers(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    out = Report()
    out.add("new")
    out.write(document)
    assert document.read_text() == f"before\n{MARKERS[0]}\n\nnew\n\n{MARKERS[1]}\nafter\n"
