"""How many agents a host carries."""

from __future__ import annotations

import pytest

from worker.hosts.capacity import WaterMarks, memory_needed_mb, slots_for, water_marks


@pytest.mark.parametrize(
    ("configured", "machine_mb", "container_mb", "slots"),
    [(7, 1024, 1024, 7), (0, 24_000, 1024, 90), (0, 24_000, 4096, 23), (0, 256, 1024, 1)],
)
def test_slots_follow_the_setting_else_the_memory(
    configured: int, machine_mb: int, container_mb: int, slots: int
) -> None:
    found = slots_for(configured=configured, machine_mb=machine_mb, container_mb=container_mb)
    assert found == slots


@pytest.mark.parametrize(
    ("machine_mb", "needed_mb"), [(16_000, 1280), (2560, 1280), (2000, 1000), (1000, 500)]
)
def test_memory_for_one_agent_and_a_reserve_is_asked_for_but_never_the_whole_machine(
    machine_mb: int, needed_mb: int
) -> None:
    needed = memory_needed_mb(container_mb=1024, reserve_mb=256, machine_mb=machine_mb)
    assert needed == needed_mb


@pytest.mark.parametrize(
    ("low_mb", "high_mb", "marks"),
    [
        (0, 0, WaterMarks(1480, 1880)),
        (2000, 0, WaterMarks(2000, 2400)),
        (0, 3000, WaterMarks(1480, 3000)),
        (2000, 1000, WaterMarks(2000, 2000)),
    ],
)
def test_idle_agents_go_before_nothing_new_may_start(
    low_mb: int, high_mb: int, marks: WaterMarks
) -> None:
    assert water_marks(needed_mb=1280, low_mb=low_mb, high_mb=high_mb) == marks
