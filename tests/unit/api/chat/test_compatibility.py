"""The table of fields is whole, true to what the API says of itself, and in the document."""

from __future__ import annotations

from tests import failures
from tests.compatibility import main, rows, said, shown_by


def test_a_test_shows_each_field_as_the_api_treats_it() -> None:
    wrong = {
        field: (treatment, row and row.agents)
        for field, treatment in said().items()
        if (row := shown_by(field)) is None or row.agents is not treatment
    }
    assert wrong == {}


def test_the_tests_exist_and_no_field_has_two_rows() -> None:
    assert {row.test for row in rows()} <= set(failures.tests_by_name())
    assert len({row.name for row in rows()}) == len(rows())


def test_the_document_has_the_table() -> None:
    assert main(["--check"]) == 0
