/*
 * worker/worker.h: the storage worker: one process that owns the primary RocksDB
 * instance, flushes write buffers and holds checkpoints back until RocksDB holds
 * what lies before their redo pointer.
 */
#ifndef ORBIT_WORKER_H
#define ORBIT_WORKER_H

#include "postgres.h"

#include "base/ids.h"
#include "fmgr.h"
#include "store/store.h"

/* _PG_init under preload: background worker, redo wrapper, recovery hooks. */
extern void WorkerRegister(void);
extern Size WorkerShmemSize(void);
extern void WorkerShmemInit(void);

/* Entry point named in the registration. */
extern PGDLLEXPORT void orbit_worker_main(Datum arg);

/*
 * Seals and flushes everything published before the call; waits.  Any backend; no lock
 * held, no view open.  ERROR 57014 when cancelled, 57P03 when there is no worker.
 */
extern void WorkerFlushAll(void);

/*
 * VACUUM: has the worker rewrite files of the storage until none of them holds an unfrozen xid before
 * limit (circular order).  False: it cannot now, because a lock or an old transaction is in the way,
 * or the server is in recovery; the files' summaries then say how far it got.  What lies in write buffers
 * is not looked at: flush first.  Waits, cancellable; no lock held, no view open.  ERROR
 * 57P03 when there is no worker.
 */
extern bool WorkerFreezeStorage(OrbitStorageId storage, TransactionId limit);

/*
 * VACUUM: how far relfrozenxid of a relation may advance, at most to `frozen`, which the files prove; not
 * further than the snapshots prove from which a copy of this server may be restored (README.md).  make:
 * a new snapshot is worth it.  A result that is not later than before is as good as none.  Waits as above.
 */
extern TransactionId WorkerFreezeLimit(OrbitStorageId storage, TransactionId frozen, bool make);

/* ---- what the worker tells about itself ---------------------------------- */

#define WORKER_LEVELS	7		/* RocksDB's default number of levels */

typedef struct WorkerFamilyStats
{
	uint64		bytes;			/* of live SST files */
	uint64		keys;			/* RocksDB's estimate */
	uint32		files[WORKER_LEVELS];
} WorkerFamilyStats;

/* Since the worker started. */
typedef struct WorkerCompactStats
{
	uint64		jobs;			/* compactions that the worker asked for */
	uint64		failures;
	uint64		read;			/* bytes of files, of these jobs */
	uint64		written;
	bool		running;
	uint64		compactions;	/* of pg_data, RocksDB's own too */
	uint64		bytes_read;
	uint64		bytes_written;
	uint64		pages;			/* made smaller or removed by the filter */
	uint64		removed;
	uint64		pruned;			/* bytes less in them, uncompressed */
	uint64		damaged;
} WorkerCompactStats;

typedef struct WorkerStats
{
	TimestampTz taken;			/* 0: never yet */
	StoreFlushStats flush;
	uint32		retired;		/* SST files that wait to be deleted */
	uint32		pinned;			/* write buffers held by readers only */
	WorkerFamilyStats family[ORBIT_NFAMILIES];
	WorkerCompactStats compact;
	bool		horizon_known;	/* if so: full xids */
	uint64		horizon;
	uint64		settled;
	TimestampTz horizon_moved;
} WorkerStats;

/* A copy, at most a few seconds old.  Any process. */
extern void WorkerGetStats(WorkerStats *stats);
extern int	WorkerPid(void);	/* 0: none */

#endif							/* ORBIT_WORKER_H */
