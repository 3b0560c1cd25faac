/*
 * worker_snapshot.c: when snapshots for backups are made, and when they go.  README.md argues why a
 * copy of the data directory always holds a complete one that will do.
 *
 * Made:	before a checkpoint is released (worker_gate.c); before the startup process hands a
 *			checkpoint's record on, in archive recovery; at an orderly shutdown; where VACUUM needs one
 *			(worker_backup.c); and when those that are kept hold back much space.
 * Kept:	the newest two; whatever a running backup may need; each other for orbit.snapshot_keep after
 *			the next one was made, but the oldest go earlier when they hold back much together.
 *
 * One that cannot be made is tried again every second, and what waits for it waits.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "storage/condition_variable.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define RETRY_MS			1000
#define REPORT_MS			30000
#define LOOK_MS				1000	/* between looks for what may go */
#define KEEP_NEWEST			2

/* Space held back that is worth a snapshot of its own; that superseded ones may hold back together. */
#define HELD_LEAST			(1024 * 1024)
#define OLD_LEAST			(16 * 1024 * 1024)
#define FREE_MS				60000	/* at most, until one is made to free what others hold */
#define HELD_SHARE			10	/* percent of what is in use, of both */

typedef struct Kept
{
	MemoryContext context;		/* of this one */
	StoreSnapshot s;
	OrbitTime	since;			/* made, or found at the start */
	OrbitTime	superseded;		/* 0: not yet */
	uint64		replaced;		/* bytes of its files that the next one does not name */
} Kept;

static struct
{
	Kept	  **kept;			/* by serial; malloc'ed */
	int			n;
	int			max;
	uint64		next_serial;
	OrbitTime	not_before;		/* after a failure */
	OrbitTime	report_again;
	bool		failed;
	XLogRecPtr	gate;			/* redo pointer of the last one made for a checkpoint */
	StoreSnapshot *leaving;		/* whose pool files are being removed */
	MemoryContext leaving_context;
	int			next_file;
} snapshots;

/* ---- the list ---------------------------------------------------------------------- */

static int
CompareNumbers(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Is the file named by a snapshot that is kept? */
static bool
InUse(uint64 number, void *arg)
{
	for (int i = snapshots.n - 1; i >= 0; i--)
	{
		if (StoreSnapshotHasFile(&snapshots.kept[i]->s, number))
			return true;
	}
	return false;
}

/* For WorkerFreezeLimit. */
static void
TellProven(void)
{
	uint64		oldest = PG_UINT64_MAX;

	for (int i = 0; i < snapshots.n; i++)
		oldest = Min(oldest, snapshots.kept[i]->s.oldest);
	pg_atomic_write_u64(&worker_shared->proven, snapshots.n > 0 ? oldest : 0);
}

static uint64
OldestIn(const StoreSnapshot *s, OrbitStorageId storage)
{
	uint64		oldest = PG_UINT64_MAX;

	for (int i = 0; i < s->nfiles; i++)
	{
		const StoreSnapshotFile *f = &s->files[i];

		if (f->oldest != 0 && f->first <= storage && f->last >= storage)
			oldest = Min(oldest, f->oldest);
	}
	return oldest;
}

uint64
WorkerSnapshotsNeed(OrbitStorageId storage, bool all)
{
	uint64		oldest = PG_UINT64_MAX;

	for (int i = all ? 0 : Max(snapshots.n - 1, 0); i < snapshots.n; i++)
		oldest = Min(oldest, OldestIn(&snapshots.kept[i]->s, storage));
	return snapshots.n > 0 ? oldest : 0;
}

/* Number i of the list has another behind it. */
static void
CountReplaced(int i)
{
	Kept	   *k = snapshots.kept[i];

	k->replaced = 0;
	for (int j = 0; j < k->s.nfiles; j++)
	{
		if (!StoreSnapshotHasFile(&snapshots.kept[i + 1]->s, k->s.files[j].number))
			k->replaced += k->s.files[j].bytes;
	}
}

static bool
Append(Kept *k)
{
	if (!WorkerGrow((void **) &snapshots.kept, snapshots.n, &snapshots.max, sizeof(Kept *)))
		return false;
	k->since = OrbitNow();
	snapshots.kept[snapshots.n++] = k;
	if (snapshots.n > 1)
	{
		snapshots.kept[snapshots.n - 2]->superseded = k->since;
		CountReplaced(snapshots.n - 2);
	}
	TellProven();
	return true;
}

static Kept *
NewKept(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "orbit snapshot",
												  ALLOCSET_DEFAULT_SIZES);
	Kept	   *k = MemoryContextAllocZero(context, sizeof(Kept));

	k->context = context;
	return k;
}

uint64
WorkerNewestSnapshot(void)
{
	return snapshots.n > 0 ? snapshots.kept[snapshots.n - 1]->s.serial : 0;
}

/* ---- at start -------------------------------------------------------------------------- */

/* One of an earlier life of the server: kept if all of it is there. */
static void
LoadOne(uint64 serial)
{
	Kept	   *k = NewKept();
	MemoryContext old = MemoryContextSwitchTo(k->context);
	char	   *wrong;
	StoreSnapshot *s = StoreReadSnapshot(serial, &wrong);

	if (s != NULL && (s->instance != StoreInstance() || s->system != GetSystemIdentifier()))
		wrong = "it belongs to another RocksDB storage";
	else if (s != NULL && s->generation > MembufRequiredGeneration())
		wrong = "it is newer than the RocksDB storage";
	else if (s != NULL)
		wrong = StoreSnapshotIncomplete(s);
	MemoryContextSwitchTo(old);
	if (wrong == NULL)
	{
		k->s = *s;
		if (!Append(k))
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		return;
	}
	ereport(LOG,
			(errmsg("removing an unusable snapshot of RocksDB"),
			 errdetail_internal("Snapshot " UINT64_FORMAT ": %s.", serial, wrong)));
	(void) StoreRemoveSnapshot(serial);
	MemoryContextDelete(k->context);
}

void
WorkerLoadSnapshots(void)
{
	int			n;
	uint64	   *numbers;

	/* from now on it would be wrong: something may be written that the snapshot does not have */
	StoreRemoveClean();
	StoreCleanSnapshots();
	numbers = StoreListSnapshots(&n);
	snapshots.next_serial = n > 0 ? numbers[n - 1] + 1 : 1;
	for (int i = 0; i < n; i++)
		LoadOne(numbers[i]);
	pfree(numbers);
	numbers = StoreListPool(&n);
	for (int i = 0; i < n; i++)
	{
		if (!InUse(numbers[i], NULL))
			StoreRemovePoolFile(numbers[i], false);
	}
	pfree(numbers);
}

/* ---- making one ------------------------------------------------------------------------- */

static TimeLineID
Timeline(void)
{
	TimeLineID	tli;

	if (!RecoveryInProgress())
		return GetWALInsertionTimeLine();
	(void) GetXLogReplayRecPtr(&tli);
	return tli;
}

static void
NoteFailure(const KvStatus *st)
{
	OrbitTime now = OrbitNow();

	snapshots.not_before = OrbitLater(now, RETRY_MS);
	if (snapshots.failed && now < snapshots.report_again)
		return;
	snapshots.failed = true;
	snapshots.report_again = OrbitLater(now, REPORT_MS);
	KvRaise(LOG, st, "could not make a snapshot of RocksDB");
	ereport(LOG,
			(errmsg("checkpoints have to wait until a snapshot of RocksDB can be made"),
			 errhint("The storage worker tries again every second.")));
}

static bool
MakeOne(Kept *k, XLogRecPtr covered, TimeLineID timeline)
{
	KvStatus	st = {KV_OK, ""};
	MemoryContext old = MemoryContextSwitchTo(k->context);

	k->s.serial = snapshots.next_serial++;
	k->s.covered = covered;
	k->s.timeline = timeline != 0 ? timeline : Timeline();
	StoreMakeSnapshot(worker.db, &k->s, InUse, NULL, WorkerIsDead, &st);
	MemoryContextSwitchTo(old);
	if (st.code == KV_OK && !Append(k))
	{
		(void) StoreRemoveSnapshot(k->s.serial);
		st.code = KV_NO_MEMORY;
		strlcpy(st.message, "out of memory", sizeof(st.message));
	}
	if (st.code == KV_OK)
		return true;
	NoteFailure(&st);
	return false;
}

/* timeline 0: the present one. */
static bool
Make(XLogRecPtr covered, TimeLineID timeline)
{
	Kept	   *k;

	if (snapshots.failed && OrbitNow() < snapshots.not_before)
		return false;
	k = NewKept();
	if (!MakeOne(k, covered, timeline))
	{
		MemoryContextDelete(k->context);
		return false;
	}
	if (snapshots.failed)
		ereport(LOG, (errmsg("snapshots of RocksDB can be made again")));
	snapshots.failed = false;
	OrbitStopPoint("snapshot-made");
	return true;
}

bool
WorkerMakeSnapshot(void)
{
	return Make(StoreCoveredRedo(), 0);
}

/* In recovery the startup process asks for them. */
bool
WorkerSnapshotForGate(void)
{
	if (snapshots.gate == worker.covered || RecoveryInProgress())
		return true;
	if (!Make(worker.covered, 0))
		return false;
	snapshots.gate = worker.covered;
	return true;
}

void
WorkerSnapshotForShutdown(void)
{
	MemoryContext context = CurrentMemoryContext;
	KvStatus	st;

	snapshots.not_before = 0;
	if (!WorkerMakeSnapshot())
	{
		ereport(LOG,
				(errmsg("shutting down without a snapshot of RocksDB"),
				 errdetail("A copy of the data directory can be used only if it includes RocksDB's own directory.")));
		return;
	}
	PG_TRY();
	{
		StoreWriteClean(WorkerNewestSnapshot());
	}
	PG_CATCH();
	{
		StoreCatchError(context, &st);
		KvRaise(LOG, &st, "could not note the snapshot of the shutdown");
	}
	PG_END_TRY();
}

/* The request of the startup process (worker_recovery.c). */
static void
ServeStartup(void)
{
	uint64		asked = pg_atomic_read_u64(&worker_shared->snapshot_asked);
	XLogRecPtr	covered;
	TimeLineID	timeline;

	if (asked == pg_atomic_read_u64(&worker_shared->snapshot_made))
		return;
	SpinLockAcquire(&worker_shared->mutex);
	covered = worker_shared->snapshot_covered;
	timeline = worker_shared->snapshot_timeline;
	SpinLockRelease(&worker_shared->mutex);
	if (Make(covered, timeline))
		pg_atomic_write_u64(&worker_shared->snapshot_made, asked);
}

/* ---- space that is held back --------------------------------------------------------------- */

/*
 * Bytes of files that only snapshots still name, and of those in use.  One more snapshot frees them once the
 * older ones go; on a server where nothing happens, no checkpoint would make one.
 */
static bool
MuchIsHeld(void)
{
	const StoreSnapshot *newest = &snapshots.kept[snapshots.n - 1]->s;
	uint64	   *live;
	int			n;
	uint64		held = 0;
	uint64		used = 0;
	KvStatus	st;

	KvLiveFiles(worker.db, &live, &n, &st);
	if (st.code != KV_OK)
		return false;
	for (int i = 0; i < snapshots.n; i++)
	{
		const StoreSnapshot *s = &snapshots.kept[i]->s;

		for (int j = 0; j < s->nfiles; j++)
		{
			/* counted where it is met last */
			if (s != newest && StoreSnapshotHasFile(&snapshots.kept[i + 1]->s, s->files[j].number))
				continue;
			if (bsearch(&s->files[j].number, live, n, sizeof(uint64), CompareNumbers) == NULL)
				held += s->files[j].bytes;
			else
				used += s->files[j].bytes;
		}
	}
	free(live);
	return held >= HELD_LEAST && held >= used / 100 * HELD_SHARE;
}

static void
FreeSpace(OrbitTime now)
{
	if (snapshots.n == 0 || snapshots.leaving != NULL || WorkerBackupRuns() ||
		!OrbitElapsed(snapshots.kept[snapshots.n - 1]->since, now, Min(orbit_snapshot_keep, FREE_MS)))
		return;
	if (MuchIsHeld())
		(void) WorkerMakeSnapshot();
}

/* ---- removing -------------------------------------------------------------------------------- */

/*
 * Do those that only orbit.snapshot_keep keeps hold back more than that is worth?  A file is in all
 * snapshots that were made during its life: what one has and the next one has not, no later one has.
 */
static bool
OldHoldMuch(void)
{
	const StoreSnapshot *newest = &snapshots.kept[snapshots.n - 1]->s;
	uint64		held = 0;
	uint64		used = 0;

	for (int i = 0; i < snapshots.n - KEEP_NEWEST; i++)
	{
		if (!WorkerBackupNeeds(snapshots.kept[i]->s.serial))
			held += snapshots.kept[i]->replaced;
	}
	for (int j = 0; j < newest->nfiles; j++)
		used += newest->files[j].bytes;
	return held > Max(used / 100 * HELD_SHARE, OLD_LEAST);
}

static bool
MayGo(int i, bool much, OrbitTime now)
{
	const Kept *k = snapshots.kept[i];

	return i < snapshots.n - KEEP_NEWEST &&
		(much || OrbitElapsed(k->superseded, now, orbit_snapshot_keep)) &&
		!WorkerBackupNeeds(k->s.serial);
}

/* Takes one out of the list; its files in the pool follow in slices. */
static void
RemoveOne(int i)
{
	Kept	   *k = snapshots.kept[i];

	if (!StoreRemoveSnapshot(k->s.serial))
		return;
	memmove(&snapshots.kept[i], &snapshots.kept[i + 1], (snapshots.n - i - 1) * sizeof(Kept *));
	snapshots.n--;
	if (i > 0)
		CountReplaced(i - 1);
	TellProven();
	snapshots.leaving = &k->s;
	snapshots.leaving_context = k->context;
	snapshots.next_file = 0;
}

static void
RemoveFiles(void)
{
	OrbitTime start = OrbitNow();
	bool		copied = WorkerBackupRuns();
	int			done = 0;

	while (snapshots.next_file < snapshots.leaving->nfiles)
	{
		uint64		number = snapshots.leaving->files[snapshots.next_file++].number;

		if (!InUse(number, NULL))
			StoreRemovePoolFile(number, copied);
		if (WorkerSliceIsOver(start, ++done))
			return;
	}
	snapshots.leaving = NULL;
	MemoryContextDelete(snapshots.leaving_context);
}

/* A slice of it.  False: there is nothing to be removed. */
static bool
Remove(OrbitTime now)
{
	bool		much;

	if (snapshots.leaving != NULL)
	{
		RemoveFiles();
		return true;
	}
	if (snapshots.n <= KEEP_NEWEST)
		return false;
	much = OldHoldMuch();
	for (int i = 0; i < snapshots.n; i++)
	{
		if (MayGo(i, much, now))
		{
			RemoveOne(i);
			return snapshots.leaving != NULL;
		}
	}
	return false;
}

void
WorkerSnapshotStep(OrbitTime now)
{
	static OrbitTime looked = 0;

	WorkerBackupsLook();
	ServeStartup();
	WorkerProofStep();
	if (worker.leaving)
		return;
	if (snapshots.leaving == NULL && !OrbitElapsed(looked, now, LOOK_MS))
		return;
	if (Remove(now))
		return;
	looked = now;
	FreeSpace(now);
}
