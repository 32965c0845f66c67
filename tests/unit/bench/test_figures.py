"""The bench's own arithmetic, which nobody would notice to be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.document import Document
from tests.bench.field import DIRECT, OURS
from tests.bench.marks import MARKS, Mark, figure_of, smooth_streams, table
from tests.bench.plots import series
from tests.bench.raw_client import Answer, Connection, Incomplete, Question, says
from tests.bench.redis_cost import asked, difference, scripts
from tests.bench.results import Results
from tests.bench.section import Section
from tests.bench.stats import quantile, spread
from tests.bench.table import ms, ratio, render


def test_quantile_is_a_sample_that_was_seen() -> None:
    samples = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(samples, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]


def test_no_samples_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_stamps_are_read_from_events_and_from_joined_chunks() -> None:
    at = (900_000_000_000, 1_700_000_000_000_000_000)
    answer = Answer(asked_ns=0)
    answer.pieces.append((*at, b'data: {"text":"0@1699999999998000000 "}\n'))
    answer.pieces.append((*at, b'{"content":"1@899999000000 "}\n{"content":"2@8999'))
    answer.pieces.append((*at, b'99500000 "}\n'))
    assert answer.ages_s(3) == pytest.approx([0.002, 0.001, 0.0005])


@pytest.mark.parametrize("indexes", [[0, 1], [0, 2, 1], [0, 1, 1, 2], []])
def test_an_answer_with_holes_doubles_or_disorder_does_not_count(indexes: list[int]) -> None:
    body = b"".join(b"%d@899999000000 \n" % index for index in indexes)
    with pytest.raises(Incomplete):
        Answer(asked_ns=0, pieces=[(0, 0, body)]).ages_s(3)


def test_first_text_counts_and_not_the_first_bytes() -> None:
    answer = Answer(asked_ns=1_000_000_000)
    answer.pieces += [
        (2_000_000_000, 0, b'{"content":""}\n{"con'),
        (3_000_000_000, 0, b'tent":"a"}'),
    ]
    assert answer.first_delta_s == 2.0


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r", b"\n\r\nbo", b"dy"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"4\r\nbody\r\n0\r", b"\n\r\n"],
    ],
)
async def test_client_knows_the_end_of_an_answer_however_it_is_cut(pieces: list[bytes]) -> None:
    connection = Connection()
    transport = _Transport()
    connection.connected_to("http://x", transport)
    asked = await connection.open(Question("http://x", "/", {}), says("hello"))
    for piece in pieces[:-1]:
        connection.data_received(piece)
        assert not connection.is_done
    connection.data_received(pieces[-1])
    assert connection.is_done
    assert b"body" in asked.body
    assert b'"hello"' in transport.written


async def test_client_gives_no_answer_for_a_refusal() -> None:
    connection = Connection()
    connection.connected_to("http://x", _Transport())
    await connection.open(Question("http://x", "/", {}), says("hello"))
    connection.data_received(b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno")
    with pytest.raises(Incomplete, match="503"):
        await connection.ended()


class _Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing to let go of."""


def test_table_lines_have_one_width() -> None:
    lines = render(["target", "p50"], [["a", "1.00"], ["longer", "100"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------ | ---: |"


def test_figures_have_as_many_digits_as_mean_something() -> None:
    assert [ms(s) for s in (0.00123, 0.0123, 0.123)] == ["1.23", "12.3", "123"]
    assert (ratio(3.0, 2.0), ratio(1.0, 0.0)) == ("1.5x", "-")
    assert [figure_of(value) for value in (0.0123, 12.34, 1234.0, 64305.0)] == [
        "0.0123",
        "12.3",
        "1,230",
        "64,300",
    ]


def test_only_what_ran_in_between_is_counted() -> None:
    ran = difference({"publish": 5, "get": 1}, {"publish": 9, "get": 1, "xadd": 7, "fcall": 2})
    assert list(ran.items()) == [("xadd", 7), ("publish", 4), ("fcall", 2)]
    assert (asked(ran), scripts(ran)) == (6, 2)


@pytest.mark.parametrize(
    ("is_least", "values", "verdict"),
    [
        (False, (2.0, 5.0), "met"),
        (False, (2.0, 5.1), "**missed**"),
        (True, (2.0, 5.0), "met"),
        (True, (1.9, 6.0), "**missed**"),
        (False, (None, 5.0), "met"),
        (False, (None, None), "–"),
    ],
)
def test_a_mark_is_met_when_all_its_figures_are(
    is_least: bool, values: tuple[float | None, ...], verdict: str
) -> None:
    mark = Mark("a mark", ("a", "b"), (2.0, 5.0), is_least)
    found = {
        name: {OURS: value}
        for name, value in zip(("a", "b"), values, strict=True)
        if value is not None
    }
    assert mark.verdict(found) == verdict


def test_every_mark_has_an_aim_for_each_figure() -> None:
    for mark in MARKS:
        assert len(mark.figures) == len(mark.wanted), mark.title


def test_table_sets_before_beside_now() -> None:
    now = {"turns_per_s": {OURS: 1300.0, DIRECT: 30_000.0}}
    shown = table(now, {"turns_per_s": {OURS: 300.0}})
    cells = [cell.strip() for cell in shown.splitlines()[-1].strip("|").split("|")]
    assert cells == [
        "tiny turns/s, 16 connections",
        "30,000",
        "–",
        "300",
        "1,300",
        "≥ 1,200",
        "met",
    ]


def test_streams_are_smooth_up_to_the_load_whose_deltas_come_late() -> None:
    found = {
        "streams50_age_p99_ms": {OURS: 4.0},
        "streams200_age_p99_ms": {OURS: 49.0},
        "streams500_age_p99_ms": {OURS: 800.0},
    }
    assert smooth_streams(found, OURS) == 200
    assert smooth_streams(found, DIRECT) is None


def test_plots_read_figures_in_the_order_of_the_load() -> None:
    found = {"streams200_age_p50_ms": {OURS: 2.0}, "streams50_age_p50_ms": {OURS: 1.0}, "x": {}}
    assert series(found, r"streams(\d+)_age_p50_ms", OURS) == [(50, 1.0), (200, 2.0)]


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    section = Section("a section")
    section.note("turns_per_s", OURS, 5.0)
    section.note("streams50_age_p99_ms", OURS, 5.0)
    results = Results("a machine", "abc", "2026-12-01")
    results.add(section)
    results.conclude()
    results.save(tmp_path / "run.json")
    assert Results.load(tmp_path / "run.json") == results
    assert json.loads((tmp_path / "run.json").read_text())["figures"]["streams_smooth"] == {
        OURS: 50
    }


def test_document_replaces_only_what_stands_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    document = Document(page)
    document.put("bench", "new")
    document.save()
    assert page.read_text() == "before\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\nafter\n"
    with pytest.raises(ValueError, match="marks"):
        document.put("marks", "new")
