/*
 * worker/worker.h: the storage worker: one process that owns the primary RocksDB
 * instance, flushes write buffers and holds checkpoints back until RocksDB holds
 * what lies before their redo pointer.
 */
#ifndef ORBIT_WORKER_H
#define ORBIT_WORKER_H

#include "postgres.h"

#include "fmgr.h"

/* _PG_init under preload: background worker, redo wrapper, recovery hooks. */
extern void WorkerRegister(void);
extern Size WorkerShmemSize(void);
extern void WorkerShmemInit(void);

/* Entry point named in the registration. */
extern PGDLLEXPORT void orbit_worker_main(Datum arg);

/* Seals and flushes everything published before the call; waits (cancellable).  Any backend. */
extern void WorkerFlushAll(void);

#endif							/* ORBIT_WORKER_H */
