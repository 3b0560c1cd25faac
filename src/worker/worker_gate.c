/*
 * worker_gate.c: holds checkpoints back until RocksDB holds everything logged
 * before their redo pointer.
 *
 * PostgreSQL has no hook in the checkpointer, but before a checkpoint completes it
 * collects the virtual transactions that carry DELAY_CHKPT_COMPLETE and waits until
 * none of them is still there.  The worker carries the flag all the time and
 * releases waiting checkpoints by taking another local transaction id (a "bump"):
 * that ends exactly the waits that had begun, and no flag is set or cleared in a
 * race with the collector.
 *
 * When may it bump?  A checkpoint publishes its redo pointer before it collects,
 * and collects under ProcArrayLock.  So with that lock held exclusively, whoever has
 * collected the present id has a redo pointer that can be read now.  If that is the
 * one that was read before the last finished seal (worker_flush.c), then everything
 * before it is in RocksDB: bump.  Otherwise seal and flush again first.  Comparing
 * before the lock only would release a checkpoint that published a newer pointer
 * during the flush.
 *
 * The worker has no database, so PostgreSQL does not list it in the array of
 * processes; it enters itself.  Its backend id lies above every backend's: -1 would
 * mean "a prepared transaction after a crash" to whoever waits for the virtual
 * transaction (DROP TABLESPACE in recovery); an id of a backend would collide.  The one
 * place that indexes an array by it is SendProcSignal (reached by CancelDBBackends when
 * recovery waits for a buffer pin): the array has MaxBackends + NUM_AUXPROCTYPES slots, the
 * last of which is an auxiliary process's with another pid, so nothing is sent.  The lock
 * manager and the invalidation array look an unknown id up as "no such backend", which
 * means that the transaction is over: nobody ever waits for it there.  xid, xmin and
 * database stay zero: horizons, snapshots, DROP DATABASE and CREATE INDEX CONCURRENTLY
 * do not see the worker.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

/*
 * Nothing tells the worker that a checkpoint began or has collected: it looks.
 * An immediate checkpoint collects within moments after it published its redo
 * pointer; a spread one minutes later, when 50 ms more do not matter.
 */
#define POLL_FAST_MS		10
#define POLL_MS				50
#define FAST_FOR_MS			2000

void
WorkerGateOpen(void)
{
	Assert(!TransactionIdIsValid(MyProc->xid) && !TransactionIdIsValid(MyProc->xmin));
	Assert(MyProc->databaseId == InvalidOid);

	MyProc->backendId = MaxBackends + NUM_AUXPROCTYPES;
	InitProcessPhase2();

	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->lxid = 1;
	MyProc->delayChkptFlags |= DELAY_CHKPT_COMPLETE;
	LWLockRelease(ProcArrayLock);
}

/* Once for each redo pointer, so once a checkpoint. */
static void
NoteReached(void)
{
	static XLogRecPtr noted = InvalidXLogRecPtr;

	/* in recovery the startup process does it */
	if (noted == worker.covered || RecoveryInProgress())
		return;
	StoreNoteReached();
	noted = worker.covered;
}

void
WorkerGateStep(void)
{
	if (GetRedoRecPtr() != worker.covered)
		return;

	NoteReached();
	if (!WorkerSnapshotForGate())
		return;

	OrbitStopPoint("worker-before-bump");

	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	if (GetRedoRecPtr() == worker.covered)
	{
		MyProc->lxid++;
		if (!LocalTransactionIdIsValid(MyProc->lxid))
			MyProc->lxid = 1;
	}
	LWLockRelease(ProcArrayLock);
}

long
WorkerGatePollTime(OrbitTime now)
{
	static XLogRecPtr last_redo = InvalidXLogRecPtr;
	static OrbitTime changed = 0;
	XLogRecPtr	redo = GetRedoRecPtr();

	if (redo != last_redo)
	{
		last_redo = redo;
		changed = now;
	}
	return OrbitElapsed(changed, now, FAST_FOR_MS) ? POLL_MS : POLL_FAST_MS;
}

/*
 * Once, when recovery has ended: RocksDB must not be ahead of the log.  If it is,
 * new records would get positions that redo takes for flushed and skips.  An
 * intact pair cannot look like that: a write buffer is flushed only after its log, and
 * in recovery only after the minimum recovery point has moved past it.  The insert
 * position is the start of a next record, so never below the end of an old one.
 *
 * The opposite, a log that went on without RocksDB, cannot be told from a server
 * that ran for a while without orbit_fdw; so it is not checked.
 */
void
WorkerCheckEndOfLog(void)
{
	static bool checked = false;
	XLogRecPtr	flushed;
	XLogRecPtr	end;

	if (checked || RecoveryInProgress())
		return;
	checked = true;
	OrbitStopPoint("worker-recovery-ended");
	flushed = StoreFlushedLsn();
	end = GetXLogInsertRecPtr();
	if (flushed <= end)
		return;
	ereport(LOG,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("orbit's RocksDB directory \"%s\" is ahead of the write-ahead log",
					StoreDirectory()),
			 errdetail("It holds changes up to %X/%X, but the log ends at %X/%X.",
					   LSN_FORMAT_ARGS(flushed), LSN_FORMAT_ARGS(end)),
			 errhint("The directory and the rest of the data directory must come from one backup; "
					 "a log position set back with pg_resetwal has the same effect.")));
	WorkerStopServer();
}
