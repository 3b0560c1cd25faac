/*
 * worker_backup.c: which backups run, so that snapshots are kept for them and VACUUM waits for them.
 *
 * Three kinds are seen, each before it copies anything:
 *
 *		pg_basebackup	a walsender's state.  It would stay when the backup is over, as long as the
 *						connection does, and hide the next one: so it is set back here.
 *		pg_backup_start	noted in shared memory before the function runs, hence before its checkpoint
 *						begins; the end of the transaction tells whether a backup was begun or has ended.
 *		pg_rewind		with a running source: a session that calls pg_read_binary_file, which it does
 *						before it lists the directories.  It does not say when it has finished: the
 *						session ends, or does nothing of that kind for READING_MS.
 *
 * Which snapshots a backup needs: its copy must hold one whose covered redo pointer is not before the
 * backup's own, from begin to end of the copying.
 *
 *		primary		the backup waits for a checkpoint that begins after it, for a few if several
 *					backups begin at once; that checkpoint has a snapshot.
 *		standby		it begins at a restartpoint, the one that it waits for or an older one.  The
 *					snapshot of that was made when its checkpoint record was replayed, perhaps long
 *					before, perhaps after the backup began.
 *		pg_rewind	replay begins before the fork of the timelines, which every snapshot covers that
 *					was made after it: the newest one when it lists the directories will do.
 *
 * So all that existed at its begin are kept, and all that are made until the redo pointer, which every
 * checkpoint and restartpoint moves, has moved MOVES times since.  What is made later may go again.
 * Each backup has a number of its own: two of one session, one after the other, are two.
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
#include "storage/ipc.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define MOVES				8
#define READING_MS			(10 * 60 * 1000)

/* ---- sessions ----------------------------------------------------------------------- */

/*
 * In a backup's number: the transaction has not ended in which pg_backup_start was called.  It may be
 * called again in that, which is seen at the first time only (plpgsql keeps expressions): so all
 * snapshots are kept meanwhile.
 */
#define BACKUP_OPEN			(UINT64CONST(1) << 63)

static object_access_hook_type previous_hook;
static WorkerCopier *my_copier = NULL;
static bool reads_now = false;

static uint64
NewNumber(void)
{
	return pg_atomic_add_fetch_u64(&worker_shared->last_number, 1);
}

static void
LeaveCopiers(int code, Datum arg)
{
	pg_atomic_write_u64(&my_copier->backup, 0);
	pg_atomic_write_u64(&my_copier->reading, 0);
	my_copier = NULL;
	pg_atomic_fetch_sub_u32(&worker_shared->ncopiers, 1);
}

/* Backends have ids from 1 on.  False: not a process that can copy anything. */
static bool
BecomeCopier(void)
{
	if (my_copier != NULL)
		return true;
	if (MyBackendId == InvalidBackendId || MyBackendId > MaxBackends)
		return false;
	on_shmem_exit(LeaveCopiers, 0);
	my_copier = &worker_shared->copiers[MyBackendId - 1];
	/* counted first: who sees nobody counted need not look */
	pg_atomic_fetch_add_u32(&worker_shared->ncopiers, 1);
	return true;
}

static void
NoteBackup(uint64 flag)
{
	if (!BecomeCopier())
		return;
	pg_atomic_write_u64(&my_copier->backup, NewNumber() | flag);
	pg_memory_barrier();
}

/* Has the session (of this copier) read files lately? */
static bool
Reads(WorkerCopier *c, OrbitTime now)
{
	uint64		at = pg_atomic_read_u64(&c->read_at);

	return at == 0 || !OrbitElapsed((OrbitTime) at, now, READING_MS);
}

/* lists: what is read from now on was listed now, so this is another copy. */
static void
NoteReading(bool lists)
{
	if (!BecomeCopier())
		return;
	if (lists || pg_atomic_read_u64(&my_copier->reading) == 0 ||
		!Reads(my_copier, OrbitNow()))
		pg_atomic_write_u64(&my_copier->reading, NewNumber());
	pg_atomic_write_u64(&my_copier->read_at, 0);
	pg_memory_barrier();
	reads_now = true;
}

static void
AccessHook(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (previous_hook)
		previous_hook(access, class, object, sub, arg);
	if (access != OAT_FUNCTION_EXECUTE || class != ProcedureRelationId)
		return;
	switch (object)
	{
		case F_PG_BACKUP_START:
			NoteBackup(BACKUP_OPEN);
			break;
		case F_PG_READ_BINARY_FILE_TEXT:
		case F_PG_READ_BINARY_FILE_TEXT_INT8_INT8:
		case F_PG_READ_BINARY_FILE_TEXT_INT8_INT8_BOOL:
			NoteReading(false);
			break;
		case F_PG_LS_DIR_TEXT_BOOL_BOOL:
			/* others list directories too, who do not go on to copy them */
			if (my_copier != NULL && pg_atomic_read_u64(&my_copier->reading) != 0)
				NoteReading(true);
			break;
	}
}

static void
TransactionEnds(XactEvent event, void *arg)
{
	uint64		number;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (reads_now && my_copier != NULL)
		pg_atomic_write_u64(&my_copier->read_at, (uint64) OrbitNow());
	reads_now = false;
	number = my_copier != NULL ? pg_atomic_read_u64(&my_copier->backup) : 0;
	if (get_backup_status() == SESSION_BACKUP_NONE)
	{
		if (number != 0)
			pg_atomic_write_u64(&my_copier->backup, 0);
	}
	else if (number == 0)
		NoteBackup(0);			/* the function has been called by another name */
	else if (number & BACKUP_OPEN)
		pg_atomic_write_u64(&my_copier->backup, number & ~BACKUP_OPEN);
}

/* ---- walsenders ----------------------------------------------------------------------- */

static WorkerCopier *
SenderCopier(int i)
{
	return &worker_shared->copiers[MaxBackends + i];
}

/*
 * A base backup has a resource owner, outside of any transaction, and the last thing that it does is to
 * release it.  The new number comes first: whoever sees the state of the next backup sees it.
 */
static void
ResourcesReleased(ResourceReleasePhase phase, bool is_commit, bool is_top, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || MyWalSnd == NULL ||
		MyWalSnd->state != WALSNDSTATE_BACKUP)
		return;
	pg_atomic_write_u64(&SenderCopier(MyWalSnd - WalSndCtl->walsnds)->backup, NewNumber());
	pg_memory_barrier();
	if (!IsTransactionOrTransactionBlock())
		WalSndSetState(WALSNDSTATE_STARTUP);
}

void
WorkerBackupInit(void)
{
	previous_hook = object_access_hook;
	object_access_hook = AccessHook;
	RegisterXactCallback(TransactionEnds, NULL);
	RegisterResourceReleaseCallback(ResourcesReleased, NULL);
}

/* ---- which run ------------------------------------------------------------------------ */

typedef struct BackupKey
{
	uint64		number;			/* without BACKUP_OPEN */
	int			pid;			/* of the walsender; 0: a session */
	int			sender;
	bool		open;
} BackupKey;

/* False: this walsender makes none. */
static bool
SenderKey(int i, BackupKey *key)
{
	WalSnd	   *walsnd = &WalSndCtl->walsnds[i];

	memset(key, 0, sizeof(*key));
	SpinLockAcquire(&walsnd->mutex);
	if (walsnd->state == WALSNDSTATE_BACKUP)
		key->pid = walsnd->pid;
	SpinLockRelease(&walsnd->mutex);
	key->sender = i;
	key->number = pg_atomic_read_u64(&SenderCopier(i)->backup);
	return key->pid != 0;
}

static bool
SessionKey(uint64 number, BackupKey *key)
{
	memset(key, 0, sizeof(*key));
	key->number = number & ~BACKUP_OPEN;
	key->open = (number & BACKUP_OPEN) != 0;
	return number != 0;
}

/* Any process.  keys has room for two of each walsender and backend. */
static int
FindBackups(BackupKey *keys)
{
	OrbitTime	now;
	int			n = 0;

	for (int i = 0; i < max_wal_senders; i++)
		n += SenderKey(i, &keys[n]);
	if (pg_atomic_read_u32(&worker_shared->ncopiers) == 0)
		return n;
	now = OrbitNow();
	for (int i = 0; i < MaxBackends; i++)
	{
		WorkerCopier *c = &worker_shared->copiers[i];

		n += SessionKey(pg_atomic_read_u64(&c->backup), &keys[n]);
		if (Reads(c, now))
			n += SessionKey(pg_atomic_read_u64(&c->reading), &keys[n]);
	}
	return n;
}

/* Of this process. */
static BackupKey *
KeyRoom(void)
{
	static BackupKey *keys = NULL;

	if (keys == NULL)
		keys = MemoryContextAlloc(TopMemoryContext,
								  (max_wal_senders + 2 * MaxBackends) * sizeof(BackupKey));
	return keys;
}

bool
WorkerBackupRuns(void)
{
	return FindBackups(KeyRoom()) > 0;
}

/* ---- the worker: what they need ---------------------------------------------------------- */

typedef struct Backup
{
	BackupKey	key;
	XLogRecPtr	redo;			/* as last seen */
	int			moves;
	uint64		last;			/* snapshots up to this one are kept for it */
} Backup;

static Backup *backups;
static int	nbackups;

static const Backup *
Known(const BackupKey *key)
{
	for (int i = 0; i < nbackups; i++)
	{
		const BackupKey *k = &backups[i].key;

		if (k->number == key->number && k->pid == key->pid && k->sender == key->sender)
			return &backups[i];
	}
	return NULL;
}

/* As it is now; old: at the last look, or NULL. */
static void
LookAt(const BackupKey *key, const Backup *old, XLogRecPtr redo, Backup *b)
{
	memset(b, 0, sizeof(*b));
	b->redo = redo;
	if (old != NULL)
		*b = *old;
	b->key = *key;
	if (b->redo != redo && !key->open)
		b->moves++;
	b->redo = redo;
	if (b->moves < MOVES)
		b->last = PG_UINT64_MAX;
	else if (b->last == PG_UINT64_MAX)
		b->last = WorkerNewestSnapshot();
}

/* Brings the list up to date. */
void
WorkerBackupsLook(void)
{
	static Backup *next = NULL;
	XLogRecPtr	redo = GetRedoRecPtr();
	BackupKey  *keys = KeyRoom();
	Backup	   *swap;
	int			n;

	if (next == NULL)
	{
		Size		most = (max_wal_senders + 2 * MaxBackends) * sizeof(Backup);

		next = MemoryContextAllocZero(TopMemoryContext, most);
		backups = MemoryContextAllocZero(TopMemoryContext, most);
	}
	n = FindBackups(keys);
	for (int i = 0; i < n; i++)
		LookAt(&keys[i], Known(&keys[i]), redo, &next[i]);
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

TransactionId
WorkerFreezeLimit(OrbitStorageId storage, TransactionId frozen, bool make)
{
	OrbitRequirePreload();
	StoreAttach();
	if (WorkerFullXid(frozen) <= pg_atomic_read_u64(&worker_shared->proven))
		return frozen;
	return WorkerRequestAndWait(&worker_shared->proof, storage, frozen, make);
}

/*
 * A backup that runs may copy any snapshot that there is.  One that begins later has a checkpoint
 * first, whose snapshot is newer than what was frozen for this: so it limits nothing, and only who
 * copies without a backup needs the newest snapshot to prove as much.
 */
static TransactionId
Grant(const WorkerRequest *r)
{
	uint64		asked = WorkerFullXid(r->limit);
	bool		runs = WorkerBackupRuns();
	uint64		need = WorkerSnapshotsNeed(r->storage, runs);

	if (need < asked && !runs && r->make && WorkerMakeSnapshot())
		need = WorkerSnapshotsNeed(r->storage, false);
	return need < asked ? (TransactionId) need : r->limit;
}

void
WorkerProofStep(void)
{
	WorkerRequest r;

	if (WorkerRequestLook(&worker_shared->proof, &r))
		WorkerRequestAnswer(&worker_shared->proof, r.id, Grant(&r));
}
