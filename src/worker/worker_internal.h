/*
 * worker_internal.h: what the files of the worker folder share.
 */
#ifndef ORBIT_WORKER_INTERNAL_H
#define ORBIT_WORKER_INTERNAL_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "base/base.h"
#include "datatype/timestamp.h"
#include "kv/kv.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "worker/worker.h"

/* ---- shared memory (worker_shmem.c) --------------------------------------- */

/* What somebody asks of the worker (worker_request.c); guarded by WorkerShared's mutex. */
typedef struct WorkerRequest
{
	int			owner;			/* pid of who asks; 0: nobody */
	uint64		id;
	OrbitStorageId storage;		/* 0: all */
	TransactionId limit;
	bool		make;			/* a new snapshot is worth it */
	bool		answered;
	TransactionId answer;		/* an xid, or whether it is done */
} WorkerRequest;

typedef struct WorkerSlot
{
	WorkerRequest request;
	ConditionVariable cv;		/* it was answered, or the slot is free */
} WorkerSlot;

/* What a backend, or a walsender, does that copies the data directory (worker_backup.c).  Atomic. */
typedef struct WorkerCopier
{
	pg_atomic_uint64 backup;	/* number of the backup; 0: none */
	pg_atomic_uint64 reading;	/* the same, of who reads files by SQL */
	pg_atomic_uint64 read_at;	/* when it did so last; 0: it does so now */
} WorkerCopier;

/*
 * Tickets: whoever wants a flush takes the next number and wakes the worker.
 *		served <= requested
 * Everything published before ticket t was taken is in RocksDB once served >= t.
 */
typedef struct WorkerShared
{
	/* atomic */
	pg_atomic_uint64 requested;
	pg_atomic_uint64 served;	/* raised by the worker alone */
	pg_atomic_uint32 pid;		/* the worker, from before it opens RocksDB */
	pg_atomic_uint32 target_shutdown;	/* startup stops the server at the
										 * recovery target */
	pg_atomic_uint32 truncation;	/* recovery waits to truncate the commit log below
									 * this xid; 0: it does not */
	pg_atomic_uint64 snapshot_asked;	/* by the startup process */
	pg_atomic_uint64 snapshot_made; /* not above snapshot_asked; raised by the worker alone */
	ConditionVariable served_cv;	/* served was raised */
	WorkerSlot	freeze;			/* of WorkerFreezeStorage or, in recovery, of the startup process */
	WorkerSlot	proof;			/* of WorkerFreezeLimit */
	pg_atomic_uint64 proven;	/* no snapshot needs the commit log of a full xid before it */

	/* guarded by mutex */
	slock_t		mutex;
	WorkerStats stats;
	XLogRecPtr	snapshot_covered;	/* what the startup process asks for */
	TimeLineID	snapshot_timeline;

	pg_atomic_uint64 last_number;	/* of WorkerCopier; never 0 */
	pg_atomic_uint32 ncopiers;	/* not less than there are backends with one of them */
	/* of each backend, then of each walsender, whose `backup` numbers the one that comes next */
	WorkerCopier copiers[FLEXIBLE_ARRAY_MEMBER];
} WorkerShared;

extern WorkerShared *worker_shared;

extern uint64 WorkerTakeTicket(void);
extern bool WorkerTicketServed(uint64 ticket);
/* Nothing is published that RocksDB does not hold. */
extern bool WorkerNothingToFlush(void);

/* ---- the worker process --------------------------------------------------- */

/*
 * A seal that is being worked off: when every arena up to `upto` is released,
 * everything before `redo` is in RocksDB and `ticket` is served.
 */
typedef struct WorkerSeal
{
	bool		active;
	uint64		upto;
	XLogRecPtr	redo;
	uint64		ticket;
} WorkerSeal;

typedef enum WorkerPhase
{
	WORKER_OPENING,				/* nobody can have written yet */
	WORKER_RUNNING,				/* leaving now is a crash */
	WORKER_DONE					/* everything is flushed, or nothing need be */
} WorkerPhase;

typedef struct WorkerState
{
	WorkerPhase phase;
	KvDb	   *db;

	/* flush */
	WorkerSeal	seal;
	uint64		served;			/* own copy of shared->served */
	XLogRecPtr	covered;		/* redo pointer known to be covered */
	OrbitTime	last_flush;
	OrbitTime	not_before;		/* no flush earlier (level 0 files, failures) */

	/* failures */
	int			failures;		/* in a row */
	KvCode		reported;		/* last one logged */
	const char *reported_doing;
	OrbitTime	report_again;

	/* leaving */
	bool		leaving;		/* orderly shutdown has begun */

	/*
	 * Storages of which nobody needs anything any more, ascending; the array belongs to whoever
	 * fills it in, and is read when the next horizon is published.
	 */
	const OrbitStorageId *dead;
	int			ndead;
	bool		dead_changed;
} WorkerState;

extern WorkerState worker;

/* worker_flush.c: one step of work; true: there is more to do at once. */
extern bool WorkerFlushStep(OrbitTime now);
extern bool WorkerStoreMetadata(bool clean);	/* false: failed, and logged */

/* worker_gate.c */
extern void WorkerGateOpen(void);	/* become visible to the checkpointer */
extern void WorkerGateStep(void);	/* release checkpoints that are covered */
extern long WorkerGatePollTime(OrbitTime now);	/* ms */
extern void WorkerCheckEndOfLog(void);

/* worker_life.c */
extern void WorkerLifeInit(void);	/* signals and exit callbacks */
extern void WorkerHandleTerm(void);
extern void WorkerLeaveIfDone(void);
extern void WorkerStopServer(void);

/* worker_chores.c */
extern void WorkerChores(OrbitTime now);
extern void WorkerPublishStats(void);

/* worker_pause.c: after a compaction that failed. */
typedef struct WorkerPause
{
	int64		ms;				/* 0: the last one succeeded */
	OrbitTime	begun;
	OrbitTime	until;
	bool		no_space;
	uint64		room;			/* bytes: the least that was free since */
	OrbitTime	looked;
} WorkerPause;

/* Twice as long as the last one, between the two bounds. */
extern void WorkerPauseBegin(WorkerPause *p, KvCode code, OrbitTime now, int64 first_ms, int64 max_ms);
/* Its time is over, or the disk was full and has clearly more room now. */
extern bool WorkerPauseIsOver(WorkerPause *p, OrbitTime now);
extern uint64 WorkerFreeRoom(void); /* bytes on the disk; PG_UINT64_MAX: not known */

/* worker_horizon.c: what compactions may forget. */
typedef struct WorkerHorizon
{
	uint64		version;		/* counts those published; 0: none yet */
	uint64		limit;			/* full xids, as published (codec.h) */
	uint64		settled;
	uint64		base;
	uint64		aim;			/* where limit will be when the fates have been read */
	uint64		want_base;		/* where base is going */
	TimestampTz moved;			/* when limit moved last */
} WorkerHorizon;

/* One slice of work; at_once: look for a new horizon now.  True: there is more. */
extern bool WorkerHorizonStep(OrbitTime now, bool at_once);
extern void WorkerHorizonGet(WorkerHorizon *out);
extern void WorkerHorizonWantBase(uint64 oldest);	/* the oldest xid that files name */
/* VACUUM has cleaned the storage's indexes of all rows that ended before this full xid. */
extern void WorkerNoteCleaned(OrbitStorageId storage, uint64 cleaned);
extern void WorkerForgetCleaned(OrbitStorageId storage);	/* nothing of it is left */
extern void WorkerLoadCleaned(void);

/* worker_compact.c: which files are compacted. */
typedef struct WorkerKey
{
	OrbitStorageId storage;
	BlockNumber page;
} WorkerKey;

typedef struct WorkerKeyRange
{
	WorkerKey	first;
	WorkerKey	last;
} WorkerKeyRange;

typedef struct WorkerFiles
{
	KvFile	   *f;				/* by level, then by key (level 0: newest first) */
	int			n;
	int			level_end[KV_BOTTOM + 1];	/* level l ends before this index */
} WorkerFiles;

extern void WorkerCompactStep(OrbitTime now);
extern void WorkerCompactGet(WorkerCompactStats *stats);
/* For worker_freeze.c, inside a step: file is an index into the list. */
extern bool WorkerStartJob(int file, int level, double share, OrbitTime now);
extern int	WorkerBaseLevel(void);	/* the level below 0 that is in use */

/* `xid`, which has been assigned, with its epoch.  Any process. */
extern uint64 WorkerFullXid(TransactionId xid);

/* worker_freeze.c */
extern bool WorkerFreezeAsked(void);
extern void WorkerFreezeAnswer(bool done);
extern void WorkerFreezeJobDone(KvCode code);
/* True: nothing else is to be compacted now. */
extern bool WorkerFreezeStep(const WorkerFiles *files, const WorkerHorizon *h, OrbitTime now);
/* In recovery, when nothing else is to be done: freezes an old file, if there is one. */
extern bool WorkerFreezeEarly(const WorkerFiles *files, const WorkerHorizon *h, OrbitTime now);

/*
 * worker_request.c.  Take: false, the slot is not free.  Only the owner may ask whether it was
 * Answered, and has to Leave.  AndWait does all of it and waits, cancellable; no lock held; ERROR
 * 57P03 when there is no worker.
 */
/* One nap of a process that waits for the worker and has prepared to sleep on cv; the same ERROR. */
extern void WorkerWaitOn(ConditionVariable *cv);
extern void WorkerRequestInit(WorkerSlot *slot);
extern bool WorkerRequestTake(WorkerSlot *slot, OrbitStorageId storage, TransactionId limit,
							  bool make);
extern bool WorkerRequestAnswered(WorkerSlot *slot, TransactionId *answer);
extern void WorkerRequestLeave(WorkerSlot *slot);
extern TransactionId WorkerRequestAndWait(WorkerSlot *slot, OrbitStorageId storage,
										  TransactionId limit, bool make);
/* The worker's side.  Look: true, there is one to be answered. */
extern bool WorkerRequestLook(WorkerSlot *slot, WorkerRequest *request);
extern void WorkerRequestAnswer(WorkerSlot *slot, uint64 id, TransactionId answer);

/* worker_storages.c: finds storages whose relations are gone; a slice of it. */
extern void WorkerStoragesStep(OrbitTime now);

/* worker_reap.c: gets rid of them; a slice of it.  False: failed, and logged. */
extern bool WorkerReap(void);
extern void WorkerAddDead(OrbitStorageId storage);
extern bool WorkerIsDead(OrbitStorageId storage);

typedef struct WorkerRecordKeys
{
	StoreRecordKey *keys;		/* malloc'ed */
	int			n;
	int			max;
} WorkerRecordKeys;

extern bool WorkerAddRecordKey(WorkerRecordKeys *k, OrbitFamily family, const char *key, size_t len);
/* Frees k->keys.  False: failed, and logged. */
extern bool WorkerDeleteRecords(WorkerRecordKeys *k);
/* Room for one more element in a malloc'ed array of *max; false: out of memory. */
extern bool WorkerGrow(void **array, int n, int *max, Size size);
extern bool WorkerSliceIsOver(OrbitTime start, int done);
extern void WorkerStoragesFailed(const KvStatus *st, const char *doing);	/* a literal */

/* worker_snapshot.c: snapshots for backups.  False: none could be made, and that is logged. */
extern void WorkerLoadSnapshots(void);
extern bool WorkerMakeSnapshot(void);
extern bool WorkerSnapshotForGate(void);
extern void WorkerSnapshotForShutdown(void);
extern uint64 WorkerNewestSnapshot(void);	/* its serial; 0: none */
extern void WorkerSnapshotStep(OrbitTime now);

/* What the storage's rows in the snapshots need of the commit log; all: in all of them, else in the
 * newest.  A full xid; PG_UINT64_MAX: nothing. */
extern uint64 WorkerSnapshotsNeed(OrbitStorageId storage, bool all);

/* worker_backup.c */
extern void WorkerProofStep(void);
extern void WorkerBackupInit(void);
extern bool WorkerBackupRuns(void); /* any process */
extern void WorkerBackupsLook(void);	/* in each turn of the loop */
extern bool WorkerBackupNeeds(uint64 serial);

/* worker_recovery.c: the startup process's side. */
extern void WorkerRecoveryInit(void);

/* worker_history.c, in the startup process: FATAL if RocksDB is of another history. */
struct XLogReaderState;
extern void WorkerCheckHistory(void);	/* redo begins */
extern void WorkerCheckSwitch(struct XLogReaderState *record);	/* before redo of it */

#endif							/* ORBIT_WORKER_INTERNAL_H */
