/*
 * worker_backup.c: which backups run, so that snapshots are kept for them and VACUUM waits for them.
 *
 * A backup runs as long as a walsender says so (pg_basebackup), or a session is between
 * pg_backup_start and pg_backup_stop.  The second is noted here, in shared memory, before the function
 * runs, hence before its checkpoint begins; the end of the transaction tells whether a backup was begun
 * or has ended.
 *
 * Which snapshots a backup needs: its copy must hold one whose covered redo pointer is not before the
 * backup's own, from begin to end of the copying.
 *
 *		primary		the backup waits for a checkpoint that begins after it, for a few if several
 *					backups begin at once; that checkpoint has a snapshot.
 *		standby		it begins at a restartpoint, the one that it waits for or an older one.  The
 *					snapshot of that was made when its checkpoint record was replayed, perhaps long
 *					before, perhaps after the backup began.
 *
 * So all that existed at its begin are kept, and all that are made until the redo pointer, which every
 * checkpoint and restartpoint moves, has moved MOVES times since.  What is made later may go again.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define MOVES				8
#define RECHECK_MS			1000	/* a waiter looks this often whether the worker still exists */

/* ---- sessions ----------------------------------------------------------------------- */

static object_access_hook_type previous_hook;
static pg_atomic_uint64 *my_pin = NULL;

static void
Unpin(int code, Datum arg)
{
	if (my_pin == NULL)
		return;
	pg_atomic_write_u64(my_pin, 0);
	my_pin = NULL;
	pg_atomic_fetch_sub_u32(&worker_shared->pinned, 1);
}

/* Backends have ids from 1 on. */
static void
Pin(void)
{
	static bool registered = false;

	if (my_pin != NULL || MyBackendId == InvalidBackendId || MyBackendId > MaxBackends)
		return;
	if (!registered)
		on_shmem_exit(Unpin, 0);
	registered = true;
	my_pin = &worker_shared->pins[MyBackendId - 1];
	/* counted first: who sees no pin counted need not look for any */
	pg_atomic_fetch_add_u32(&worker_shared->pinned, 1);
	pg_atomic_write_u64(my_pin, pg_atomic_add_fetch_u64(&worker_shared->last_pin, 1));
	pg_memory_barrier();
}

static void
AccessHook(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (previous_hook)
		previous_hook(access, class, object, sub, arg);
	if (access == OAT_FUNCTION_EXECUTE && class == ProcedureRelationId &&
		object == F_PG_BACKUP_START)
		Pin();
}

/* A second look: the function may have been called by another name. */
static void
TransactionEnds(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (get_backup_status() == SESSION_BACKUP_NONE)
		Unpin(0, (Datum) 0);
	else
		Pin();
}

void
WorkerBackupInit(void)
{
	previous_hook = object_access_hook;
	object_access_hook = AccessHook;
	RegisterXactCallback(TransactionEnds, NULL);
}

/* ---- which run ------------------------------------------------------------------------ */

#define WALSENDER_KEY(i, pid)	(UINT64CONST(1) << 63 | (uint64) (i) << 32 | (uint32) (pid))

/* 0: this walsender makes none. */
static uint64
WalsenderKey(int i)
{
	WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
	uint64		key = 0;

	SpinLockAcquire(&walsnd->mutex);
	if (walsnd->pid != 0 && walsnd->state == WALSNDSTATE_BACKUP)
		key = WALSENDER_KEY(i, walsnd->pid);
	SpinLockRelease(&walsnd->mutex);
	return key;
}

/* Any process.  keys: NULL, or room for max_wal_senders + MaxBackends. */
static int
FindBackups(uint64 *keys)
{
	int			n = 0;

	for (int i = 0; i < max_wal_senders; i++)
	{
		uint64		key = WalsenderKey(i);

		if (key != 0 && keys != NULL)
			keys[n] = key;
		n += key != 0;
	}
	if (pg_atomic_read_u32(&worker_shared->pinned) == 0)
		return n;
	for (int i = 0; i < MaxBackends; i++)
	{
		uint64		key = pg_atomic_read_u64(&worker_shared->pins[i]);

		if (key != 0 && keys != NULL)
			keys[n] = key;
		n += key != 0;
	}
	return n;
}

bool
WorkerBackupRuns(void)
{
	return FindBackups(NULL) > 0;
}

/* ---- the worker: what they need ---------------------------------------------------------- */

typedef struct Backup
{
	uint64		key;
	XLogRecPtr	redo;			/* as last seen */
	int			moves;
	uint64		last;			/* snapshots up to this one are kept for it */
} Backup;

static Backup *backups;
static int	nbackups;

static const Backup *
Known(uint64 key)
{
	for (int i = 0; i < nbackups; i++)
	{
		if (backups[i].key == key)
			return &backups[i];
	}
	return NULL;
}

/* Brings the list up to date. */
void
WorkerBackupsLook(void)
{
	static uint64 *keys = NULL;
	static Backup *next = NULL;
	XLogRecPtr	redo = GetRedoRecPtr();
	Backup	   *swap;
	int			n;

	if (keys == NULL)
	{
		int			most = max_wal_senders + MaxBackends;

		keys = MemoryContextAlloc(TopMemoryContext, most * sizeof(uint64));
		next = MemoryContextAllocZero(TopMemoryContext, most * sizeof(Backup));
		backups = MemoryContextAllocZero(TopMemoryContext, most * sizeof(Backup));
	}
	n = FindBackups(keys);
	for (int i = 0; i < n; i++)
	{
		const Backup *old = Known(keys[i]);
		Backup	   *b = &next[i];

		if (old != NULL)
			*b = *old;
		else
		{
			memset(b, 0, sizeof(*b));
			b->key = keys[i];
			b->redo = redo;
		}
		if (b->redo != redo)
			b->moves++;
		b->redo = redo;
		if (b->moves < MOVES)
			b->last = PG_UINT64_MAX;
		else if (b->last == PG_UINT64_MAX)
			b->last = WorkerNewestSnapshot();
	}
	swap = backups;
	backups = next;
	next = swap;
	nbackups = n;
}

bool
WorkerBackupNeeds(uint64 serial)
{
	WorkerBackupsLook();
	for (int i = 0; i < nbackups; i++)
	{
		if (serial <= backups[i].last)
			return true;
	}
	return false;
}

/* ---- VACUUM ------------------------------------------------------------------------------- */

static void
LeaveProof(int code, Datum arg)
{
	SpinLockAcquire(&worker_shared->mutex);
	if (worker_shared->proof.owner == MyProcPid)
		worker_shared->proof.owner = 0;
	SpinLockRelease(&worker_shared->mutex);
	ConditionVariableBroadcast(&worker_shared->proof_cv);
}

static bool
TakeProof(OrbitStorageId storage, TransactionId frozen, bool make)
{
	WorkerProof *slot = &worker_shared->proof;
	bool		taken = false;

	SpinLockAcquire(&worker_shared->mutex);
	if (slot->owner == 0)
	{
		slot->owner = MyProcPid;
		slot->storage = storage;
		slot->limit = frozen;
		slot->make = make;
		slot->answered = false;
		taken = true;
	}
	SpinLockRelease(&worker_shared->mutex);
	return taken;
}

static bool
ProofAnswered(TransactionId *limit)
{
	bool		answered;

	SpinLockAcquire(&worker_shared->mutex);
	answered = worker_shared->proof.answered;
	*limit = worker_shared->proof.limit;
	SpinLockRelease(&worker_shared->mutex);
	return answered;
}

static void
WaitForProof(void)
{
	if (WorkerPid() == 0)
	{
		ConditionVariableCancelSleep();
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the storage worker of orbit_fdw is not running"),
				 errdetail("It has left because the server is shutting down.")));
	}
	(void) ConditionVariableTimedSleep(&worker_shared->proof_cv, RECHECK_MS, ORBIT_WAIT_WORKER);
}

/* The full xid nearest to the next one. */
static uint64
FullXid(TransactionId xid)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	return next + (int32) (xid - (TransactionId) next);
}

TransactionId
WorkerFreezeLimit(OrbitStorageId storage, TransactionId frozen, bool make)
{
	TransactionId limit = frozen;

	OrbitRequirePreload();
	StoreAttach();
	if (FullXid(frozen) <= pg_atomic_read_u64(&worker_shared->proven))
		return frozen;

	ConditionVariablePrepareToSleep(&worker_shared->proof_cv);
	while (!TakeProof(storage, frozen, make))
		WaitForProof();
	PG_ENSURE_ERROR_CLEANUP(LeaveProof, (Datum) 0);
	{
		MembufWakeWorker();
		while (!ProofAnswered(&limit))
			WaitForProof();
	}
	PG_END_ENSURE_ERROR_CLEANUP(LeaveProof, (Datum) 0);
	ConditionVariableCancelSleep();
	LeaveProof(0, (Datum) 0);
	return limit;
}

/*
 * A backup that runs may copy any snapshot that there is.  One that begins later has a checkpoint
 * first, whose snapshot is newer than what was frozen for this: so it limits nothing, and only who
 * copies without a backup needs the newest snapshot to prove as much.
 */
static TransactionId
Grant(const WorkerProof *p)
{
	uint64		asked = FullXid(p->limit);
	bool		runs = WorkerBackupRuns();
	uint64		need = WorkerSnapshotsNeed(p->storage, runs);

	if (need < asked && !runs && p->make && WorkerMakeSnapshot())
		need = WorkerSnapshotsNeed(p->storage, false);
	return need < asked ? (TransactionId) need : p->limit;
}

/* Whoever asked may leave meanwhile and another come: it gets its own answer. */
void
WorkerProofStep(void)
{
	WorkerProof *slot = &worker_shared->proof;
	WorkerProof p;
	TransactionId granted;

	SpinLockAcquire(&worker_shared->mutex);
	p = *slot;
	SpinLockRelease(&worker_shared->mutex);
	if (p.owner == 0 || p.answered)
		return;
	granted = Grant(&p);
	SpinLockAcquire(&worker_shared->mutex);
	if (slot->owner == p.owner && slot->storage == p.storage && slot->limit == p.limit)
	{
		slot->limit = granted;
		slot->answered = true;
	}
	SpinLockRelease(&worker_shared->mutex);
	ConditionVariableBroadcast(&worker_shared->proof_cv);
}
