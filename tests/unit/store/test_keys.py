"""Names in Redis: all under one prefix, none holds what a user wrote."""

from __future__ import annotations

import inspect

import pytest

from infra.store.keys import Keys


def names(keys: Keys) -> dict[str, str]:
    """Every function's name with `x` for each id."""
    made = {}
    for name, function in inspect.getmembers(keys, inspect.ismethod):
        if not name.startswith("_"):
            made[name] = function(*["x"] * len(inspect.signature(function).parameters))
    return made


def test_every_key_is_under_the_prefix_and_none_is_another() -> None:
    made = {name: key for name, key in names(Keys("mine")).items() if name != "bell"}

    assert all(key.startswith("mine:") for key in made.values())
    assert len(set(made.values())) == len(made)


def test_every_key_says_what_it_is() -> None:
    for name, function in inspect.getmembers(Keys, inspect.isfunction):
        if not name.startswith("_"):
            assert function.__doc__, name


@pytest.mark.parametrize("prefix", ["", "a b", "%s", "agc\n", "ä", "x" * 65])
def test_a_prefix_that_would_break_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Keys(prefix)
