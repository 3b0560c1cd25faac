/*
 * worker_pause.c: the pause after a compaction that failed.
 *
 * Each try may read and write a gigabyte, so the pause doubles while it goes on failing.  Where the
 * disk was full, nobody should wait for the end of a long pause once there is space: the
 * file system is asked every second.  The failed try gives its own space back a moment after the
 * failure, so what counts is the least that was free since; and a tenth of the pause passes
 * in any case, or a disk that is filled and emptied by others would mean one try after the other.
 */
#include "postgres.h"

#include <sys/statvfs.h>

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define LOOK_MS			1000
#define MORE_BYTES		(UINT64CONST(1) << 20)

uint64
WorkerFreeRoom(void)
{
	struct statvfs s;

	if (statvfs(StoreDirectory(), &s) != 0)
		return PG_UINT64_MAX;
	return (uint64) s.f_bavail * s.f_frsize;
}

void
WorkerPauseBegin(WorkerPause *p, KvCode code, OrbitTime now, int64 first_ms, int64 max_ms)
{
	p->ms = Min(Max(p->ms * 2, first_ms), max_ms);
	p->begun = now;
	p->until = OrbitLater(now, p->ms);
	p->no_space = code == KV_NO_SPACE;
	p->room = PG_UINT64_MAX;
	p->looked = now;
}

static bool
SpaceCame(WorkerPause *p, OrbitTime now)
{
	uint64		room;

	if (!OrbitElapsed(p->looked, now, LOOK_MS))
		return false;
	p->looked = now;
	room = WorkerFreeRoom();
	if (room == PG_UINT64_MAX)
		return false;
	p->room = Min(p->room, room);
	return room > p->room + p->room / 2 + MORE_BYTES && OrbitElapsed(p->begun, now, p->ms / 10);
}

bool
WorkerPauseIsOver(WorkerPause *p, OrbitTime now)
{
	return now >= p->until || (p->no_space && SpaceCame(p, now));
}
