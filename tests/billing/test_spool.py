"""What PostgreSQL does not take lies on disk until it does, whatever happens meanwhile."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from billing.settlement import Settlement, Spool
from gateway_site.clients import DatabaseUnavailable, Lane

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def release() -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "account": 0, "release": True}


async def test_an_outage_in_the_middle_of_a_replay_leaves_every_file_to_the_next(tmp_path: Path) -> None:
    for _ in range(3):
        Spool(tmp_path).append([release()])
    away = Settlement(Lane(NOWHERE, deadline_seconds=1), spool=tmp_path)
    with pytest.raises(DatabaseUnavailable):
        await away.replay()
    lane = Lane(settings.DATABASE_URL, deadline_seconds=5)
    assert await Settlement(lane, spool=tmp_path).replay() == 3
    assert not os.listdir(tmp_path)
    await lane.close()


async def test_a_batch_that_fails_is_on_disk_when_its_future_is_done(tmp_path: Path) -> None:
    away = Settlement(Lane(NOWHERE, deadline_seconds=1), spool=tmp_path)
    assert (await away.submit(release())).outcome == "spooled"
    assert len(os.listdir(tmp_path)) == 1


async def test_a_file_in_another_processs_hands_is_left_alone(tmp_path: Path) -> None:
    Spool(tmp_path).append([release()])
    lane = Lane(settings.DATABASE_URL, deadline_seconds=5)
    for _ in Spool(tmp_path).claim():
        assert await Settlement(lane, spool=tmp_path).replay() == 0
    assert await Settlement(lane, spool=tmp_path).replay() == 1
    await lane.close()


async def test_what_a_killed_process_had_only_begun_is_removed_after_a_while(tmp_path: Path) -> None:
    half, fresh = tmp_path / ".settle-1.jsonl", tmp_path / ".settle-2.jsonl"
    half.write_text('{"id": ')
    fresh.write_text('{"id": ')
    long_ago = time.time() - 3600
    os.utime(half, (long_ago, long_ago))
    await Settlement(Lane(NOWHERE, deadline_seconds=1), spool=tmp_path).replay()
    assert os.listdir(tmp_path) == [fresh.name]
