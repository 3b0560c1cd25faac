/*
 * worker_shmem.c: the worker's shared memory, and what other processes may ask
 * of the worker through it.
 *
 * Flush requests are tickets (worker_internal.h).  A backend waits for its ticket
 * on a condition variable; it holds nothing while it waits.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/shmem.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

/* A waiter looks this often (ms) whether the worker still exists. */

WorkerShared *worker_shared = NULL;

Size
WorkerShmemSize(void)
{
	return MAXALIGN(add_size(offsetof(WorkerShared, copiers),
							 mul_size(MaxBackends + max_wal_senders, sizeof(WorkerCopier))));
}

void
WorkerShmemInit(void)
{
	bool		found;

	worker_shared = ShmemInitStruct("orbit storage worker", WorkerShmemSize(), &found);
	if (found)
		return;
	memset(worker_shared, 0, WorkerShmemSize());
	pg_atomic_init_u64(&worker_shared->requested, 0);
	pg_atomic_init_u64(&worker_shared->served, 0);
	pg_atomic_init_u32(&worker_shared->pid, 0);
	pg_atomic_init_u32(&worker_shared->target_shutdown, 0);
	pg_atomic_init_u32(&worker_shared->truncation, 0);
	pg_atomic_init_u64(&worker_shared->snapshot_asked, 0);
	pg_atomic_init_u64(&worker_shared->snapshot_made, 0);
	pg_atomic_init_u64(&worker_shared->last_number, 0);
	pg_atomic_init_u32(&worker_shared->ncopiers, 0);
	for (int i = 0; i < MaxBackends + max_wal_senders; i++)
	{
		WorkerCopier *c = &worker_shared->copiers[i];

		pg_atomic_init_u64(&c->backup, 0);
		pg_atomic_init_u64(&c->reading, 0);
		pg_atomic_init_u64(&c->read_at, 0);
	}
	ConditionVariableInit(&worker_shared->served_cv);
	WorkerRequestInit(&worker_shared->freeze);
	WorkerRequestInit(&worker_shared->proof);
	pg_atomic_init_u64(&worker_shared->proven, 0);
	SpinLockInit(&worker_shared->mutex);
}

uint64
WorkerTakeTicket(void)
{
	uint64		ticket = pg_atomic_add_fetch_u64(&worker_shared->requested, 1);

	MembufWakeWorker();
	return ticket;
}

bool
WorkerTicketServed(uint64 ticket)
{
	return pg_atomic_read_u64(&worker_shared->served) >= ticket;
}

bool
WorkerNothingToFlush(void)
{
	uint64		oldest;
	uint64		active;
	MembufArenaInfo info;

	MembufGetRange(&oldest, &active);
	return oldest == active && MembufArenaGetInfo(active, &info) && info.used == 0;
}

void
WorkerFlushAll(void)
{
	uint64		ticket;

	OrbitRequirePreload();
	StoreAttach();
	if (WorkerNothingToFlush())
		return;

	ticket = WorkerTakeTicket();
	ConditionVariablePrepareToSleep(&worker_shared->served_cv);
	while (!WorkerTicketServed(ticket))
		WorkerWaitOn(&worker_shared->served_cv);
	ConditionVariableCancelSleep();
}

void
WorkerGetStats(WorkerStats *stats)
{
	SpinLockAcquire(&worker_shared->mutex);
	*stats = worker_shared->stats;
	SpinLockRelease(&worker_shared->mutex);
}

int
WorkerPid(void)
{
	return (int) pg_atomic_read_u32(&worker_shared->pid);
}
