"""The archive of an agent's skills and files: one form, and nothing else is taken for it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from infra.wire.agents.bundle import (
    BUNDLE_FILES_MAX,
    BUNDLE_MAX_BYTES,
    BundleFile,
    BundleRefused,
    bundle_digest,
    pack,
    skills_of,
    unpack,
)

STYLE = b"---\nname: house-style\ndescription: Style.\n---\nBe plain.\n"
FILES = {
    "workspace/data/table.csv": BundleFile(b"a,b\n1,2\n"),
    "skills/house-style/SKILL.md": BundleFile(
        b"---\nname: house-style\ndescription: Style.\n---\nBe plain.\n"
    ),
    "skills/house-style/check.sh": BundleFile(b"#!/bin/sh\n", is_executable=True),
}


def test_the_same_files_give_the_same_archive_in_whatever_order() -> None:
    raw = pack(FILES)
    assert pack(dict(sorted(FILES.items()))) == raw
    assert unpack(raw) == FILES
    assert skills_of(FILES) == ("house-style",)
    # A change of Python's that gives other bytes would make other versions of all agents.
    assert bundle_digest(raw) == "b4a4f13255854a773cd67a066af0e37faf884299e243f53b68b569db80659d5f"


def test_long_and_foreign_names_come_back() -> None:
    files = {f"workspace/{'ü' * 60}/{'x' * 90}": BundleFile(b"1")}
    assert unpack(pack(files)) == files


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("workspace/../x", "not a plain path"),
        ("workspace//x", "not a plain path"),
        ("/workspace/x", "not a plain path"),
        ("workspace/./x", "not a plain path"),
        ("workspace/a\\b", "not a plain path"),
        ("workspace/a\nb", "not a plain path"),
        ("workspace/a\x00b", "not a plain path"),
        ("workspace/u\u0308", "not a plain path"),
        ("workspace/\ud800", "not a plain path"),
        ("workspace/" + "x" * 200, "longer than 200 characters"),
        ("workspace/" + "/".join("x" * 20), "deeper than 12 folders"),
        ("elsewhere/x", "skills/<skill>/... and workspace/... only"),
        ("workspace", "skills/<skill>/... and workspace/... only"),
        ("skills/SKILL.md", "skills/<skill>/... and workspace/... only"),
        ("skills/Not Plain/SKILL.md", "small letters, digits and `-`"),
        ("skills/lone/README.md", "skills/lone: has no SKILL.md"),
    ],
)
def test_a_path_that_is_not_one_of_a_bundle_is_refused(path: str, told: str) -> None:
    with pytest.raises(BundleRefused) as refused:
        pack({path: BundleFile(b"")})
    assert told in str(refused.value)


def test_what_is_a_file_and_a_folder_is_refused() -> None:
    with pytest.raises(BundleRefused, match="workspace/a: a file and a folder"):
        pack({"workspace/a": BundleFile(b""), "workspace/a/b/c": BundleFile(b"")})


def test_too_much_is_refused() -> None:
    with pytest.raises(BundleRefused, match="larger than 4 MiB"):
        pack({"workspace/a": BundleFile(bytes(BUNDLE_MAX_BYTES))})
    with pytest.raises(BundleRefused, match="more than 500 files"):
        pack({f"workspace/{n}": BundleFile(b"") for n in range(BUNDLE_FILES_MAX + 1)})
    with pytest.raises(BundleRefused, match="larger than 4 MiB"):
        unpack(bytes(BUNDLE_MAX_BYTES + 1))


def hostile(
    change: Callable[[tarfile.TarInfo], None], tar_format: int = tarfile.PAX_FORMAT
) -> bytes:
    """An archive with one file, of which something is not as it should be."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tar_format) as archive:
        entry = tarfile.TarInfo("workspace/x")
        entry.size, entry.mode = 1, 0o644
        change(entry)
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return output.getvalue()


def _set(**values: object) -> Callable[[tarfile.TarInfo], None]:
    def change(entry: tarfile.TarInfo) -> None:
        for name, value in values.items():
            setattr(entry, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
        _set(type=tarfile.LNKTYPE, linkname="workspace/y", size=0),
        _set(type=tarfile.CHRTYPE, devmajor=1, devminor=3, size=0),
        _set(type=tarfile.BLKTYPE, size=0),
        _set(type=tarfile.FIFOTYPE, size=0),
        _set(type=tarfile.DIRTYPE, size=0),
        _set(type=tarfile.CONTTYPE),
        _set(type=tarfile.GNUTYPE_SPARSE),
        _set(name="../x"),
        _set(name="/etc/x"),
        _set(name="workspace/../../x"),
        _set(mode=0o4755),
        _set(mode=0o666),
        _set(uid=1),
        _set(uname="root"),
        _set(mtime=1),
        _set(pax_headers={"comment": "x"}),
        _set(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
    ],
)
def test_an_entry_that_is_not_a_plain_file_of_ours_is_refused(
    change: Callable[[tarfile.TarInfo], None],
) -> None:
    with pytest.raises(BundleRefused):
        unpack(hostile(change))


def test_what_is_not_exactly_the_form_is_refused() -> None:
    raw = pack(FILES)
    unpack(raw)
    gnu = hostile(_set(), tarfile.GNU_FORMAT)
    for other in (
        b"",
        b"x" * 600,
        raw + bytes(10240),
        raw[:-512],
        raw[:700],
        b"\x1f\x8b" + raw,
        raw.replace(b"Be plain.", b"Be plain!", 1)[:512] + raw,
        gnu.replace(b"ustar  ", b"ustar\x0000"),
    ):
        with pytest.raises(BundleRefused):
            unpack(other)


def test_a_file_twice_is_refused() -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for content in (b"1", b"2"):
            entry = tarfile.TarInfo("workspace/x")
            entry.size = 1
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(BundleRefused, match="not in the form"):
        unpack(output.getvalue())


def test_broken_archives_are_refused_without_another_error() -> None:
    """Each byte of the headers and of the filling counts. Other contents are another bundle."""
    raw, taken = bytearray(pack(FILES)), list[int]()
    for place in range(4 * 512):
        broken = raw.copy()
        broken[place] ^= 0x35
        try:
            unpack(bytes(broken))
        except BundleRefused:
            continue
        taken.append(place)
    lengths = [len(FILES[path].content) for path in sorted(FILES)]
    contents = [*range(512, 512 + lengths[0]), *range(1536, 1536 + lengths[1])]
    assert set(taken) <= set(contents)
    assert set(contents[lengths[0] :]) <= set(taken), "all of a file that is no skill's head"
