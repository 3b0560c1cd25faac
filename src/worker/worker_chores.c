/*
 * worker_chores.c: what the worker does beside flushing: gives write buffers back,
 * deletes retired files, heals background errors, tells about itself.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define UNLINK_MS			500
#define HEAL_MS				5000
#define COMPACT_MS			200		/* a failed compaction is begun anew after a second */
#define COMPACT_FIRST_MS	10000
#define COMPACT_MAX_MS		(10 * 60 * 1000)
#define PUBLISH_MS			2000

/*
 * Files retired by a compaction are deleted once a generation newer than their
 * retirement exists and no reader needs an older one.  A flush makes a generation;
 * on a quiet system the worker makes an empty one.  That retires a few files of its own
 * (older generation keys), so the pause until the next empty one doubles until a
 * flush or a compaction of pg_data comes: a quiet system becomes quiet.
 */
#define EMPTY_FIRST_MS		2000
#define EMPTY_MAX_MS		(60 * 60 * 1000)

static uint32 retired_files = 0;
static uint32 pinned_buffers = 0;

static bool
Due(OrbitTime *last, OrbitTime now, int ms)
{
	if (!OrbitElapsed(*last, now, ms))
		return false;
	*last = now;
	return true;
}

static void
EmptyGenerationIfNeeded(OrbitTime now, int untagged)
{
	static int	pause = EMPTY_FIRST_MS;
	static OrbitTime own = 0;	/* worker.last_flush as the last empty one left it */
	static uint64 compactions = 0;
	KvPruned	pruned;

	KvGetPruned(worker.db, &pruned);
	if (worker.last_flush != own || pruned.compactions != compactions)
		pause = EMPTY_FIRST_MS;
	compactions = pruned.compactions;
	if (untagged == 0 || worker.failures > 0 ||
		!OrbitElapsed(worker.last_flush, now, pause))
		return;
	if (!WorkerStoreMetadata(false))
		return;
	own = worker.last_flush;
	pause = Min(pause * 2, EMPTY_MAX_MS);
}

static void
UnlinkRetired(OrbitTime now)
{
	static OrbitTime last = 0;
	int			untagged = 0;
	int			waiting = 0;

	if (!Due(&last, now, UNLINK_MS))
		return;
	KvUnlinkRetired(worker.db, MembufMinReaderGeneration(), &untagged, &waiting);
	retired_files = waiting;
	EmptyGenerationIfNeeded(now, untagged);
}

/*
 * A compaction that has failed is tried again after a pause that doubles: each try may read and
 * write a gigabyte, on a disk that perhaps is full.  Meanwhile files pile up in level 0, which
 * makes readers slower and the flush wait a little (worker_flush.c), but nothing else.
 */
static void
NurseCompaction(OrbitFamily family, OrbitTime now)
{
	static struct
	{
		WorkerPause pause;
		bool		paused;
	}			families[ORBIT_NFAMILIES];
	KvStatus	st;

	if (KvCompactionFailed(worker.db, family, &st))
	{
		char		doing[60];

		snprintf(doing, sizeof(doing), "could not compact column family %s", KvFamilyName(family));
		KvRaise(LOG, &st, doing);
		WorkerPauseBegin(&families[family].pause, st.code, now, COMPACT_FIRST_MS, COMPACT_MAX_MS);
		KvPauseCompaction(worker.db, family, true, &st);
		families[family].paused = true;
	}
	else if (families[family].paused && WorkerPauseIsOver(&families[family].pause, now))
	{
		/* if it fails, again at the next look */
		KvPauseCompaction(worker.db, family, false, &st);
		families[family].paused = st.code != KV_OK;
	}
	else if (families[family].pause.ms != 0 &&
			 OrbitElapsed(families[family].pause.until, now, COMPACT_MAX_MS))
		families[family].pause.ms = 0;
}

/* RocksDB refuses writes after a failed write of its MANIFEST until it is told to go on. */
static void
HealBackgroundError(OrbitTime now)
{
	static OrbitTime last = 0;
	static OrbitTime reported = 0;
	KvStatus	st = {KV_OK, ""};

	if (!Due(&last, now, HEAL_MS))
		return;
	KvBackgroundError(worker.db, &st);
	if (st.code == KV_OK)
		return;
	if (Due(&reported, now, 30000))
		KvRaise(LOG, &st, "RocksDB stopped after a background error");
	KvResume(worker.db, &st);
}

static void
CollectFamily(OrbitFamily family, WorkerFamilyStats *f)
{
	if (!KvIntProperty(worker.db, family, "rocksdb.live-sst-files-size", &f->bytes))
		f->bytes = 0;
	if (!KvIntProperty(worker.db, family, "rocksdb.estimate-num-keys", &f->keys))
		f->keys = 0;
	for (int level = 0; level < WORKER_LEVELS; level++)
	{
		char		name[40];
		char	   *text;

		snprintf(name, sizeof(name), "rocksdb.num-files-at-level%d", level);
		text = KvTextProperty(worker.db, family, name);
		f->files[level] = text ? strtoul(text, NULL, 10) : 0;
		free(text);
	}
}

void
WorkerPublishStats(void)
{
	WorkerStats stats;
	WorkerHorizon h;

	memset(&stats, 0, sizeof(stats));
	stats.taken = GetCurrentTimestamp();
	StoreGetFlushStats(&stats.flush);
	stats.retired = retired_files;
	stats.pinned = pinned_buffers;
	for (int family = 0; family < ORBIT_NFAMILIES; family++)
		CollectFamily(family, &stats.family[family]);
	WorkerCompactGet(&stats.compact);
	WorkerHorizonGet(&h);
	stats.horizon_known = h.version > 0;
	stats.horizon = h.limit;
	stats.settled = h.settled;
	stats.horizon_moved = h.moved;

	SpinLockAcquire(&worker_shared->mutex);
	worker_shared->stats = stats;
	SpinLockRelease(&worker_shared->mutex);
}

void
WorkerChores(OrbitTime now)
{
	static OrbitTime published = 0;
	static OrbitTime nursed = 0;

	pinned_buffers = MembufReclaim();
	UnlinkRetired(now);
	HealBackgroundError(now);
	if (Due(&nursed, now, COMPACT_MS))
	{
		for (int family = 0; family < ORBIT_NFAMILIES; family++)
			NurseCompaction(family, now);
	}
	StoreForgetOldPages();
	if (Due(&published, now, PUBLISH_MS))
		WorkerPublishStats();
}
