"""The form of a container: written in one way, and never more than its host allows."""

from __future__ import annotations

import pytest

from worker.hosts.form import USUAL_FORM, ContainerForm
from worker.hosts.host import Limits

DIGEST = "b" * 64
LIMITS = Limits(cpus=1.0, start_cpus=2.0, memory_mb=1024, pids=256, tmp_mb=64, file_mb=4096)


def test_a_form_gets_less_and_never_more() -> None:
    small = LIMITS.within(ContainerForm(cpus=0.5, memory_mb=512, pids=64, file_mb=100))
    assert (small.first_cpus, small.memory_mb, small.pids, small.file_mb) == (0.5, 512, 64, 100)
    assert small.tmp_mb == LIMITS.tmp_mb
    large = LIMITS.within(ContainerForm(cpus=64.0, memory_mb=10**6, pids=10**5, file_mb=10**5))
    assert (large.first_cpus, large.memory_mb, large.pids, large.file_mb) == (1.0, 1024, 256, 4096)
    assert LIMITS.within(USUAL_FORM) == LIMITS


def test_a_form_is_written_in_one_way() -> None:
    form = ContainerForm(bundle=DIGEST)
    assert ContainerForm.of_text(form.text) == form
    assert (USUAL_FORM.text, ContainerForm.of_text("")) == ("", USUAL_FORM)
    for text in (
        f" {form.text}",
        "{}",
        '{"bundle":"../../etc"}',
        f'{{"bundle":"{DIGEST}","more":1}}',
        f'{{"bundle":"{DIGEST}","bundle":"{DIGEST}"}}',
        "[]",
        '{"cpus":NaN}',
        '{"cpus":1}',
        '{"image":"../x"}',
        '{"memory_mb":0}',
        "x" * 5000,
    ):
        with pytest.raises(ValueError, match="form"):
            ContainerForm.of_text(text)
