/*
 * worker_internal.h: what the files of the worker folder share.
 */
#ifndef ORBIT_WORKER_INTERNAL_H
#define ORBIT_WORKER_INTERNAL_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "kv/kv.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "worker/worker.h"

/* ---- shared memory (worker_shmem.c) --------------------------------------- */

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
	ConditionVariable served_cv;	/* served was raised */

	/* guarded by mutex */
	slock_t		mutex;
	WorkerStats stats;
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
	TimestampTz last_flush;
	TimestampTz not_before;		/* no flush earlier (level 0 files, failures) */

	/* failures */
	int			failures;		/* in a row */
	KvCode		reported;		/* last one logged */
	TimestampTz report_again;

	/* leaving */
	bool		leaving;		/* orderly shutdown has begun */
} WorkerState;

extern WorkerState worker;

/* worker_flush.c: one step of work; true: there is more to do at once. */
extern bool WorkerFlushStep(TimestampTz now);
extern bool WorkerStoreMetadata(bool clean);	/* false: failed, and logged */

/* worker_gate.c */
extern void WorkerGateOpen(void);	/* become visible to the checkpointer */
extern void WorkerGateStep(void);	/* release checkpoints that are covered */
extern long WorkerGatePollTime(TimestampTz now);	/* ms */
extern void WorkerCheckEndOfLog(void);

/* worker_life.c */
extern void WorkerLifeInit(void);	/* signals and exit callbacks */
extern void WorkerHandleTerm(void);
extern void WorkerLeaveIfDone(void);
extern void WorkerStopServer(void);

/* worker_chores.c */
extern void WorkerChores(TimestampTz now);
extern void WorkerPublishStats(void);

/* worker_recovery.c: the startup process's side. */
extern void WorkerRecoveryInit(void);

#endif							/* ORBIT_WORKER_INTERNAL_H */
