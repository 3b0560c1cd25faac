/*
 * worker_recovery.c: what the startup process does for orbit.
 *
 *	redo begins		bring the worker up and wait until it has opened RocksDB: redo asks
 *					which records it already holds, and whether it is of this history.
 *	redo waits for room in the write buffers	see that the worker is there.
 *	redo of a checkpoint record		everything before its redo pointer must be in
 *					RocksDB before the original function may note it as the place of
 *					a restartpoint.  Restartpoints ignore the flag that holds back
 *					checkpoints, and nothing else stands between this record and them.
 *	redo of a truncation of the commit log		RocksDB here may still hold entries whose fate only
 *					the commit log tells, though the primary's no longer does (R5): the worker
 *					freezes them first.
 *	redo ends		everything replayed is flushed, so the checkpoint or record that
 *					ends recovery has nothing to wait for.
 *
 *	redo of a moved or dropped database	is counted as a move (row/database.c): whoever looks for
 *					files meanwhile starts over.
 *
 * After a backend crash the postmaster starts no background worker while recovery runs
 * unless it is told that the list of workers changed.  It may also have lost the first
 * message to an unfortunate moment, so every wait repeats it.
 *
 * The startup process's signal handlers do not set its latch: every wait is short and
 * calls HandleStartupProcInterrupts().  It holds no lock while waiting.
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogrecovery.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/standby.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "row/row.h"
#include "store/store.h"
#include "wal/wal.h"
#include "worker/worker_internal.h"

#define WAIT_MS				10	/* one nap */
#define ASK_MS				200
#define TELL_MS				10000
#define GIVE_UP_MS			60000	/* no worker process at all */

/* proc_exit code with which startup asks for recovery_target_action = shutdown */
#define EXIT_TARGET_SHUTDOWN	3

static void (*original_xlog_redo) (XLogReaderState *record);
static void (*original_clog_redo) (XLogReaderState *record);
static void (*original_dbase_redo) (XLogReaderState *record);

/* ---- waiting ---------------------------------------------------------------------- */

static void
RequirePostmaster(void)
{
	if (IsUnderPostmaster)
		return;
	ereport(FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("changes of orbit tables cannot be recovered in single-user mode"),
			 errhint("Start the server normally once; its storage worker is needed.")));
}

/* Reminds the postmaster while there is no worker; gives up after a minute. */
static void
AskForWorker(void)
{
	static OrbitTime missing_since = 0;
	static OrbitTime asked = 0;
	OrbitTime	now;

	if (WorkerPid() != 0)
	{
		missing_since = 0;
		return;
	}
	now = OrbitNow();
	if (missing_since == 0)
		missing_since = now;
	if (OrbitElapsed(missing_since, now, GIVE_UP_MS))
		ereport(FATAL,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("the storage worker of orbit_fdw did not start"),
				 errhint("Consider increasing max_worker_processes; the log may tell more.")));
	if (OrbitElapsed(asked, now, ASK_MS))
	{
		asked = now;
		SendPostmasterSignal(PMSIGNAL_BACKGROUND_WORKER_CHANGE);
	}
}

/* One round of any wait of the startup process; membuf calls it too. */
static void
StartupWaitRound(void)
{
	RequirePostmaster();
	HandleStartupProcInterrupts();
	AskForWorker();
}

static void
Nap(OrbitTime *told, const char *what)
{
	OrbitTime now = OrbitNow();

	StartupWaitRound();
	if (OrbitElapsed(*told, now, TELL_MS))
	{
		*told = now;
		ereport(LOG, (errmsg("recovery waits for the storage worker of orbit_fdw %s", what)));
	}
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WAIT_MS,
					 ORBIT_WAIT_WORKER);
	ResetLatch(MyLatch);
}

static void
FlushAndWait(void)
{
	OrbitTime told = OrbitNow();
	uint64		ticket;

	if (WorkerNothingToFlush())
		return;
	RequirePostmaster();
	ticket = WorkerTakeTicket();
	while (!WorkerTicketServed(ticket))
		Nap(&told, "to flush the write buffers");
}

/* A snapshot that holds everything before `covered`; for whoever copies this server from now on. */
static void
SnapshotAndWait(XLogRecPtr covered, TimeLineID timeline)
{
	OrbitTime told = OrbitNow();
	uint64		asked;

	RequirePostmaster();
	SpinLockAcquire(&worker_shared->mutex);
	worker_shared->snapshot_covered = covered;
	worker_shared->snapshot_timeline = timeline;
	SpinLockRelease(&worker_shared->mutex);
	asked = pg_atomic_add_fetch_u64(&worker_shared->snapshot_asked, 1);
	MembufWakeWorker();
	while (pg_atomic_read_u64(&worker_shared->snapshot_made) < asked)
		Nap(&told, "to make a snapshot of RocksDB");
}

/* ---- hooks --------------------------------------------------------------------------- */

static void
NoteTargetShutdown(int code, Datum arg)
{
	if (code == EXIT_TARGET_SHUTDOWN)
		pg_atomic_write_u32(&worker_shared->target_shutdown, 1);
}

static void
RedoBegin(void)
{
	OrbitTime told = OrbitNow();

	/* Without a record of ours, single-user mode may recover. */
	if (!IsUnderPostmaster)
		return;
	before_shmem_exit(NoteTargetShutdown, 0);
	while (!StoreIsReady())
		Nap(&told, "to open RocksDB");
	WorkerCheckHistory();
}

static void
RedoEnd(void)
{
	OrbitStopPoint("recovery-before-last-flush");
	FlushAndWait();
	OrbitStopPoint("recovery-after-last-flush");
	StoreNoteReached();
}

/*
 * Sealing and flushing all is more than needed, but a write buffer does not know its
 * first record.  Buffers are flushed by age, and the record comes long after its redo
 * pointer, so little is left to wait for.
 */
static void
CoverCheckpoint(XLogRecPtr redo, TimeLineID timeline)
{
	FlushAndWait();
	if (!IsUnderPostmaster)
		return;
	StoreNoteReached();
	StoreSetCoveredRedo(redo);
	/* nobody can back up a server that recovers from a crash */
	if (GetRecoveryState() == RECOVERY_STATE_ARCHIVE)
		SnapshotAndWait(redo, timeline);
}

static void
XlogRedo(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	if (info == XLOG_CHECKPOINT_ONLINE || info == XLOG_CHECKPOINT_SHUTDOWN)
	{
		CheckPoint	checkpoint;

		memcpy(&checkpoint, XLogRecGetData(record), sizeof(checkpoint));
		CoverCheckpoint(checkpoint.redo, checkpoint.ThisTimeLineID);
	}
	WorkerCheckSwitch(record);
	original_xlog_redo(record);
}

/*
 * Every transaction before the truncation has ended, and if it committed all queries of the primary see
 * what it did.  A query here whose snapshot is older has to go, as it would have when a heap's page
 * was frozen.
 */
static void
FreezeBefore(TransactionId limit)
{
	OrbitTime told = OrbitNow();
	RelFileNode all = {InvalidOid, InvalidOid, InvalidOid};
	TransactionId last = limit;
	TransactionId done = 0;

	RequirePostmaster();
	FlushAndWait();
	TransactionIdRetreat(last);
	if (InHotStandby)
		ResolveRecoveryConflictWithSnapshot(last, all);
	pg_atomic_write_u32(&worker_shared->truncation, limit);
	while (!done)
	{
		while (!WorkerRequestTake(&worker_shared->freeze, ORBIT_INVALID_STORAGE, limit, false))
			Nap(&told, "to freeze rows");
		while (!WorkerRequestAnswered(&worker_shared->freeze, &done))
			Nap(&told, "to freeze rows before the commit log is truncated");
		WorkerRequestLeave(&worker_shared->freeze);
		/* no horizon yet, or something in the way: it is asked again */
		if (!done)
			Nap(&told, "to freeze rows before the commit log is truncated");
	}
	pg_atomic_write_u32(&worker_shared->truncation, 0);
}

/*
 * Older snapshots still have rows that were not frozen.  Who copies this server from now on gets the
 * one that is made here; a backup that already runs perhaps not: then the files of the commit log stay,
 * until they go with the next truncation.  A server made of that copy replays this record itself.
 */
static bool
MayTruncate(TransactionId limit)
{
	TimeLineID	timeline;

	(void) GetXLogReplayRecPtr(&timeline);
	SnapshotAndWait(StoreCoveredRedo(), timeline);
	if (!WorkerBackupRuns())
		return true;
	ereport(LOG,
			(errmsg("keeping the commit log before transaction %u because a backup is being taken",
					limit)));
	return false;
}

static void
ClogRedo(XLogReaderState *record)
{
	/* recovering from its own crash a primary repeats what it had made sure of itself */
	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) == CLOG_TRUNCATE && IsUnderPostmaster &&
		GetRecoveryState() == RECOVERY_STATE_ARCHIVE)
	{
		xl_clog_truncate truncate;

		memcpy(&truncate, XLogRecGetData(record), sizeof(truncate));
		OrbitStopPoint("recovery-before-freeze");
		FreezeBefore(truncate.oldestXact);
		OrbitStopPoint("recovery-after-freeze");
		if (!MayTruncate(truncate.oldestXact))
		{
			AdvanceOldestClogXid(truncate.oldestXact);
			return;
		}
	}
	original_clog_redo(record);
}

/* An error here ends the server's recovery, and shared memory with it. */
static void
DbaseRedo(XLogReaderState *record)
{
	RowMoveBegin();
	original_dbase_redo(record);
	RowMoveEnd();
}

void
WorkerRecoveryInit(void)
{
	original_clog_redo = RmgrTable[RM_CLOG_ID].rm_redo;
	RmgrTable[RM_CLOG_ID].rm_redo = ClogRedo;
	original_xlog_redo = RmgrTable[RM_XLOG_ID].rm_redo;
	RmgrTable[RM_XLOG_ID].rm_redo = XlogRedo;
	original_dbase_redo = RmgrTable[RM_DBASE_ID].rm_redo;
	RmgrTable[RM_DBASE_ID].rm_redo = DbaseRedo;
	wal_recovery_hooks.redo_begin = RedoBegin;
	wal_recovery_hooks.redo_end = RedoEnd;
	membuf_startup_wait_hook = StartupWaitRound;
}
