"""Files' records: counted from the first byte, found when whole, due when nobody goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from infra.runtime.contents import contents_of
from infra.runtime.identity import new_file_id, new_part_id, new_upload_id
from infra.store.files.files import FileFacts, FileQuota, FileRecord, FileRecords
from infra.store.files.uploads import NewUpload, UploadStatus
from infra.wire.errors import FileNotKept
from infra.wire.ids import FileId, TenantId
from tests.contract.store.scene import OTHER_TENANT, TENANT, Scene

STORE, OTHER_STORE = "1" * 16, "2" * 16
ANY = FileQuota(0, 0)
FACTS = FileFacts(
    name="../a\0b 履歴書",
    type="text/plain",
    purpose="user_data",
    digest="d" * 64,
    bytes=10,
    life_s=None,
)


def file(n: int = 1) -> FileId:
    return new_file_id(1_700_000_000_000 + n)


async def begin(
    scene: Scene,
    id: FileId,
    *,
    announced: int = 0,
    quota: FileQuota = ANY,
    tenant: TenantId = TENANT,
) -> str:
    return await scene.store.files.begin(id, tenant, store=STORE, announced=announced, quota=quota)


async def kept(
    scene: Scene, n: int = 1, *, tenant: TenantId = TENANT, **facts: object
) -> FileRecord:
    id = file(n)
    assert await begin(scene, id, tenant=tenant) == "ok"
    record = await scene.store.files.keep(id, tenant, replace(FACTS, **facts), store=STORE)  # type: ignore[arg-type]
    assert record is not None
    return record


async def counted(scene: Scene, tenant: TenantId = TENANT) -> tuple[int, int]:
    found = await scene.redis.hgetall(scene.keys.tenant_filed(tenant))  # type: ignore[misc]
    return int(found.get(b"files", 0)), int(found.get(b"bytes", 0))


async def let_time_pass(scene: Scene, id: FileId) -> None:
    """It is due now."""
    await scene.redis.zadd(scene.keys.files_due(STORE), {id: 1})


async def test_a_file_is_found_when_it_is_whole_and_not_before(scene: Scene) -> None:
    id = file()
    await begin(scene, id)
    assert await scene.store.files.get(id) is None
    record = await scene.store.files.keep(id, TENANT, FACTS, store=STORE)
    assert record is not None
    assert await scene.store.files.get(id) == record
    assert (record.name, record.bytes, record.expires_ms) == (FACTS.name, 10, None)
    assert await scene.redis.zscore(scene.keys.files_due(STORE), id) is None


async def test_keeping_again_after_a_lost_answer_changes_nothing(scene: Scene) -> None:
    first = await kept(scene)
    again = await scene.store.files.keep(first.id, TENANT, FACTS, store=STORE)
    assert again == first
    assert await counted(scene) == (1, 10)


async def test_two_uploads_at_once_get_the_room_for_one(scene: Scene) -> None:
    quota = FileQuota(10, 100)
    ids = [file(n) for n in range(5)]
    rooms = [await begin(scene, id, announced=30, quota=quota) for id in ids]
    assert rooms == ["ok", "ok", "ok", "much", "much"]
    grown = [await scene.store.files.grow(id, count=40, quota=quota) for id in ids[:3]]
    assert grown == [True, False, False]
    assert await counted(scene) == (3, 100)


async def test_the_number_of_files_is_bounded(scene: Scene) -> None:
    quota = FileQuota(2, 0)
    rooms = [await begin(scene, file(n), quota=quota) for n in range(3)]
    assert rooms == ["ok", "ok", "many"]
    assert await begin(scene, file(9), quota=quota, tenant=OTHER_TENANT) == "ok"


async def test_what_goes_no_longer_counts(scene: Scene) -> None:
    records = [await kept(scene, n) for n in range(3)]
    for record in records:
        assert await scene.store.files.drop(record.id, TENANT)
        assert not await scene.store.files.drop(record.id, TENANT)
        await scene.store.files.forget(record.id, store=STORE)
    assert await counted(scene) == (0, 0)
    assert [key async for key in scene.redis.scan_iter(f"{scene.keys.prefix}:*")] == []


async def test_nobody_drops_a_file_of_another_tenant_or_one_that_is_not_whole(scene: Scene) -> None:
    record, unfinished = await kept(scene), file(2)
    await begin(scene, unfinished)
    assert not await scene.store.files.drop(record.id, OTHER_TENANT)
    assert not await scene.store.files.drop(unfinished, TENANT)
    assert await scene.store.files.get(record.id) == record


async def test_an_upload_of_which_nothing_is_heard_is_due_and_cannot_be_kept(scene: Scene) -> None:
    id = file()
    await begin(scene, id, announced=7)
    assert await scene.store.files.due(STORE, limit=10) == ()
    await let_time_pass(scene, id)
    assert await scene.store.files.grow(id, count=8, quota=ANY)
    assert await scene.store.files.due(STORE, limit=10) == (), "it goes on"
    await let_time_pass(scene, id)
    assert await scene.store.files.due(STORE, limit=10) == (id,)
    assert await counted(scene) == (0, 0)
    for call in (
        scene.store.files.grow(id, count=9, quota=ANY),
        scene.store.files.keep(id, TENANT, FACTS, store=STORE),
    ):
        with pytest.raises(FileNotKept):
            await call


async def test_what_is_due_goes_to_one_and_again_if_that_one_dies(scene: Scene) -> None:
    ids = [(await kept(scene, n, life_s=3600.0)).id for n in range(4)]
    assert await scene.store.files.due(STORE, limit=10) == ()
    for id in ids:
        await let_time_pass(scene, id)
    first, second, third = [await scene.store.files.due(STORE, limit=3) for _ in range(3)]
    assert (len(first), len(second), third) == (3, 1, ())
    assert sorted((*first, *second)) == sorted(ids)
    assert [await scene.store.files.get(id) for id in ids] == [None] * 4
    records, _ = await scene.store.files.page(
        TENANT, purpose=None, after=None, limit=9, is_rising=True
    )
    assert records == []
    await scene.store.files.forget(first[0], store=STORE)
    await let_time_pass(scene, first[1])
    assert await scene.store.files.due(STORE, limit=10) == (first[1],)


async def test_what_is_due_is_so_for_its_own_store_only(scene: Scene) -> None:
    record = await kept(scene)
    await scene.store.files.drop(record.id, TENANT)
    await let_time_pass(scene, record.id)
    assert await scene.store.files.due(OTHER_STORE, limit=10) == ()
    assert await scene.store.files.due(STORE, limit=10) == (record.id,)


async def test_pages_are_in_the_order_of_age(scene: Scene) -> None:
    records = [await kept(scene, n, purpose="vision" if n % 2 else "batch") for n in range(5)]
    await kept(scene, 99, tenant=OTHER_TENANT)
    page, has_more = await scene.store.files.page(
        TENANT, purpose=None, after=records[1].id, limit=2, is_rising=True
    )
    assert (page, has_more) == (records[2:4], True)
    page, has_more = await scene.store.files.page(
        TENANT, purpose="batch", after=records[4].id, limit=2, is_rising=False
    )
    assert (page, has_more) == ([records[2], records[0]], False)


async def test_an_upload_is_made_of_its_parts(scene: Scene) -> None:
    files, uploads = scene.store.files, scene.store.uploads
    upload = new_upload_id()
    await uploads.begin(upload, TENANT, NewUpload("a.bin", 9, "user_data", "", 3600.0))
    parts = [new_part_id(n) for n in range(3)]
    for part, count in zip(parts, (4, 5, 1), strict=True):
        await begin(scene, part)
        assert await files.grow(part, count=count, quota=ANY)
    outcomes = [
        await uploads.keep_part(part, upload, count=count)
        for part, count in zip(parts, (4, 5, 1), strict=True)
    ]
    assert [isinstance(one, int) for one in outcomes] == [True, True, False]
    assert outcomes[2] == "much"
    assert await uploads.parts(upload) == {parts[0]: 4, parts[1]: 5}
    assert await counted(scene) == (3, 10)
    assert [await files.get(part) for part in parts] == [None] * 3, "parts are no files"

    whole = file()
    await begin(scene, whole)
    made = await files.keep(
        whole, TENANT, replace(FACTS, bytes=9), store=STORE, upload=upload, parts=parts[:2]
    )
    late = file(2)
    await begin(scene, late)
    assert await files.keep(late, TENANT, FACTS, store=STORE, upload=upload) is None
    record = await uploads.get(upload)
    assert record is not None
    assert (record.status, record.file) == (UploadStatus.COMPLETED, whole)
    assert made == await files.get(whole)
    assert set(await files.due(STORE, limit=10)) == set(parts[:2])
    assert await counted(scene) == (3, 10)
    assert await uploads.cancel(upload) is None


async def test_a_cancelled_upload_lets_its_parts_go(scene: Scene) -> None:
    uploads, upload, part = scene.store.uploads, new_upload_id(), new_part_id(1)
    await uploads.begin(upload, TENANT, NewUpload("a.bin", 9, "user_data", "", None))
    await begin(scene, part)
    await uploads.keep_part(part, upload, count=4)
    assert await uploads.cancel(upload) == (part,)
    assert await uploads.cancel(upload) is None
    late = new_part_id(2)
    await begin(scene, late)
    assert await uploads.keep_part(late, upload, count=4) == "closed"
    await scene.store.files.forget(part, store=STORE)
    assert await counted(scene) == (1, 0)


async def test_an_upload_takes_no_parts_when_its_time_is_over(scene: Scene) -> None:
    uploads, upload, part = scene.store.uploads, new_upload_id(), new_part_id(1)
    await uploads.begin(upload, TENANT, NewUpload("a.bin", 9, "user_data", "", None))
    await scene.redis.hset(scene.keys.upload(upload), "expires", "1")  # type: ignore[misc]
    await begin(scene, part)
    assert await uploads.keep_part(part, upload, count=4) == "closed"
    record = await uploads.get(upload)
    assert record is not None
    assert record.status is UploadStatus.EXPIRED


async def test_parts_are_due_after_their_upload(scene: Scene) -> None:
    uploads, upload, part = scene.store.uploads, new_upload_id(), new_part_id(1)
    record = await uploads.begin(upload, TENANT, NewUpload("a", 9, "user_data", "", None))
    assert record is not None
    await begin(scene, part)
    await uploads.keep_part(part, upload, count=4)
    due = await scene.redis.zscore(scene.keys.files_due(STORE), part)
    assert due is not None
    assert due > record.expires_ms


async def test_names_are_sealed_where_contents_are(scene: Scene) -> None:
    sealed = FileRecords(scene.redis, scene.keys, contents=contents_of("s" * 32))
    id = file()
    await begin(scene, id)
    await sealed.keep(id, TENANT, replace(FACTS, name="a-secret-name.pdf"), store=STORE)
    found = await scene.redis.hgetall(scene.keys.file(id))  # type: ignore[misc]
    record = await sealed.get(id)
    assert b"secret-name" not in b"".join(found.values())
    assert record is not None
    assert record.name == "a-secret-name.pdf"


async def test_a_file_outlives_the_secret_of_its_name(scene: Scene) -> None:
    before, after = (
        FileRecords(scene.redis, scene.keys, contents=contents_of(secret * 32)) for secret in "ab"
    )
    id = file()
    await begin(scene, id)
    await before.keep(id, TENANT, FACTS, store=STORE)
    record = await after.get(id)
    assert record is not None
    assert (record.name, record.bytes) == (id, FACTS.bytes)


async def test_uploads_on_record_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.store.files.uploads.UPLOADS_MAX", 3)
    new, uploads = NewUpload("a", 9, "user_data", "", None), scene.store.uploads
    ids = [new_upload_id() for _ in range(4)]
    begun = [await uploads.begin(id, TENANT, new) for id in ids]
    assert [one is not None for one in begun] == [True, True, True, False]
    assert await uploads.get(ids[3]) is None
    assert await uploads.begin(new_upload_id(), OTHER_TENANT, new)
    await scene.redis.zadd(scene.keys.tenant_uploads(TENANT), {ids[0]: 1})
    assert await uploads.begin(new_upload_id(), TENANT, new), "one is forgotten"


async def test_programs_learn_of_other_file_stores_in_use(scene: Scene) -> None:
    assert await scene.store.files.see_store(STORE) == ()
    assert await scene.store.files.see_store(STORE) == ()
    assert await scene.store.files.see_store(OTHER_STORE) == (STORE,)
    assert sorted(await scene.store.files.stores_in_use()) == [STORE, OTHER_STORE]
    assert await scene.store.files.see_store(STORE) == (OTHER_STORE,)
    await scene.redis.zadd(scene.keys.file_stores(), {OTHER_STORE: 1})
    assert await scene.store.files.see_store(STORE) == (), "it is no longer in use"


async def test_one_looks_through_the_store(scene: Scene) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(scene.store.files.may_tidy(STORE, every_s=60)) for _ in range(5)]
    assert sorted(one.result() for one in asked) == [False] * 4 + [True]
