/*
 * worker_flush.c: when the active write buffer is sealed, and how the sealed ones
 * reach RocksDB.
 *
 * The worker's loop calls WorkerFlushStep again and again; a step flushes at most
 * one write buffer, so that checkpoints, SIGTERM and readers never wait for more
 * than that.  What a seal proves is noted before it and claimed after it:
 *
 *	1. read the redo pointer and the newest ticket,
 *	2. seal the active buffer (the exclusive switch lock waits for every writer
 *	   between its WAL record and its publication),
 *	3. flush, oldest first, until every buffer up to the sealed one is released,
 *	4. what was read in 1 is covered and served.
 *
 * Failures (full disk, I/O errors) never end the worker: the buffer stays, writers
 * wait in MembufReserve, and the flush is tried again every second.  Only the last
 * flush of a shutdown gives up, with a PANIC: an orderly exit would let the shutdown
 * checkpoint bury rows that RocksDB does not have.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define RETRY_MS			1000
#define REPORT_MS			30000	/* the same failure is logged this often */
#define FINAL_TRIES			3

/*
 * An ingest ignores RocksDB's write stalls, so the worker paces itself: from
 * PACE_FROM files in level 0 on, each one more delays the next flush by PACE_STEP_MS
 * up to PACE_MAX_MS.  RocksDB's own defaults begin to slow writers at 20 files.
 * The bound keeps checkpoints going even if compaction does not.
 */
#define PACE_FROM			16
#define PACE_STEP_MS		25
#define PACE_MAX_MS			1000

static void
FindRunningHere(StoreRunning *r)
{
	RunningTransactions running = GetRunningTransactionData();

	/* it leaves them to us */
	LWLockRelease(ProcArrayLock);
	LWLockRelease(XidGenLock);
	r->oldest = running->oldestRunningXid;
	r->next = running->nextXid;

	/* The worker takes no snapshot; without these the commit log's readers go wrong (R4). */
	TransactionXmin = RecentXmin = r->oldest;
	r->horizon = GetOldestNonRemovableTransactionId(NULL);
	if (TransactionIdFollows(r->horizon, r->oldest))
		r->horizon = r->oldest;
	/* subtransactions of a transaction with many of them are not listed */
	if (running->subxid_status != SUBXIDS_IN_ARRAY)
		return;
	r->xids = running->xids;
	r->nxids = running->xcnt + running->subxcnt;
	qsort(running->xids, r->nxids, sizeof(TransactionId), StoreCompareXids);
}

/* In recovery nothing is filled in: the flush asks the commit log. */
static void
FindRunning(StoreRunning *r)
{
	memset(r, 0, sizeof(*r));
	r->nxids = -1;
	if (!RecoveryInProgress())
		FindRunningHere(r);
}

static void
PanicIfLastFlush(const KvStatus *st)
{
	if (!worker.leaving || MembufWriterCount() > 0 || worker.failures < FINAL_TRIES)
		return;
	ereport(PANIC,
			(errcode(st->code == KV_NO_SPACE ? ERRCODE_DISK_FULL : ERRCODE_IO_ERROR),
			 errmsg("could not flush orbit's write buffers before shutdown: %s", st->message),
			 errhint("The changes are in the write-ahead log. "
					 "Remedy the cause and start the server again.")));
}

/* doing: always the same pointer for the same work. */
static void
NoteFailure(const KvStatus *st, const char *doing)
{
	OrbitTime now = OrbitNow();
	KvStatus	resumed;

	worker.failures++;
	if (st->code != worker.reported || doing != worker.reported_doing || now >= worker.report_again)
	{
		KvRaise(LOG, st, doing);
		ereport(LOG,
				(errmsg("sessions that write to orbit tables may have to wait "
						"until RocksDB can be written again"),
				 errhint("The storage worker tries again every second.")));
		worker.reported = st->code;
		worker.reported_doing = doing;
		worker.report_again = OrbitLater(now, REPORT_MS);
	}
	PanicIfLastFlush(st);
	KvResume(worker.db, &resumed);
	worker.not_before = OrbitLater(OrbitNow(), RETRY_MS);
}

static void
NoteSuccess(void)
{
	int			files;

	worker.last_flush = OrbitNow();
	if (worker.failures > 0)
	{
		if (worker.reported != KV_OK)
			ereport(LOG, (errmsg("RocksDB can be written again")));
		worker.failures = 0;
		worker.reported = KV_OK;
		worker.not_before = 0;
	}

	files = KvLevelZeroFiles(worker.db);
	if (files > PACE_FROM && !worker.leaving)
		worker.not_before = OrbitLater(worker.last_flush,
									   Min((files - PACE_FROM) * PACE_STEP_MS, PACE_MAX_MS));
}

static const char *const flushing = "could not flush a write buffer";
static const char *const storing = "could not write RocksDB's metadata";

static bool
FlushOldest(void)
{
	StoreRunning running;
	KvStatus	st = {KV_OK, ""};

	FindRunning(&running);
	StoreFlushOldest(worker.db, &running, false, &st);
	if (st.code != KV_OK)
	{
		NoteFailure(&st, flushing);
		return false;
	}
	NoteSuccess();
	OrbitStopPoint("worker-after-flush");
	return true;
}

/*
 * The metadata record and a generation alone: for retired files that wait for one,
 * and for the clean end.
 */
bool
WorkerStoreMetadata(bool clean)
{
	KvStatus	st = {KV_OK, ""};

	if (worker.failures > 0 && OrbitNow() < worker.not_before)
		return false;
	OrbitStopPoint("worker-before-generation");
	StoreBumpGeneration(worker.db, clean, &st);
	if (st.code != KV_OK)
	{
		NoteFailure(&st, storing);
		return false;
	}
	NoteSuccess();
	return true;
}

/* ---- sealing -------------------------------------------------------------------- */

static bool
ActiveNeedsSeal(OrbitTime now)
{
	uint64		oldest;
	uint64		active;
	MembufArenaInfo info;

	MembufGetRange(&oldest, &active);
	if (!MembufArenaGetInfo(active, &info) || info.used == 0)
		return false;
	if (worker.leaving && MembufWriterCount() == 0)
		return true;
	return info.opened != 0 &&
		OrbitElapsed(info.opened, now, orbit_flush_interval);
}

static void
SealIfNeeded(OrbitTime now)
{
	XLogRecPtr	redo = GetRedoRecPtr();
	uint64		ticket = pg_atomic_read_u64(&worker_shared->requested);
	uint64		oldest;
	uint64		active;

	if (redo == worker.covered && ticket == worker.served && !ActiveNeedsSeal(now))
		return;

	OrbitStopPoint("worker-before-seal");

	/*
	 * False: no block is free.  The caller flushes the oldest sealed buffer or
	 * waits for readers to let go of a released one, and comes back.
	 */
	if (!MembufSwitch(0))
		return;

	/* If the active buffer was empty, there is nothing in it to wait for. */
	MembufGetRange(&oldest, &active);
	worker.seal.active = true;
	worker.seal.upto = active - 1;
	worker.seal.redo = redo;
	worker.seal.ticket = ticket;
}

static void
FinishSeal(void)
{
	uint64		oldest;
	uint64		active;

	if (!worker.seal.active)
		return;
	MembufGetRange(&oldest, &active);
	if (oldest <= worker.seal.upto)
		return;

	worker.seal.active = false;
	worker.covered = worker.seal.redo;
	StoreSetCoveredRedo(worker.covered);

	if (worker.seal.ticket > worker.served)
	{
		worker.served = worker.seal.ticket;
		WorkerPublishStats();
		pg_atomic_write_u64(&worker_shared->served, worker.served);
		ConditionVariableBroadcast(&worker_shared->served_cv);
	}
}

bool
WorkerFlushStep(OrbitTime now)
{
	uint64		oldest;
	uint64		active;
	bool		flushed = false;

	if (!worker.seal.active)
		SealIfNeeded(now);

	MembufGetRange(&oldest, &active);
	if (oldest < active)
		flushed = now >= worker.not_before && FlushOldest();
	else if (worker.failures > 0 && !worker.leaving)
	{
		/* the metadata alone has failed, and no flush may come for long */
		(void) WorkerStoreMetadata(false);
	}
	FinishSeal();
	return flushed;
}
