/*
 * attach.c: the folder's shared state, where RocksDB lives, and waiting for the
 * worker to have opened it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/startup.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"

#include "store/store_internal.h"

#define ATTACH_TIMEOUT_MS			60000
#define ATTACH_STARTUP_TIMEOUT_MS	600000	/* nobody to retry: the server would stop */
#define ATTACH_NAP_MS				20

/*
 * A backend's secondary keeps open no more files (K21) than this part of those that the process may have: to
 * open one again costs twice as much as a lookup in it.  PostgreSQL leaves a third to all that open
 * descriptors of their own (AcquireExternalFD); what is left of that is for connections to other servers.
 */
#define SECONDARY_FILES_SHARE		4
#define SECONDARY_FILES_LEAST		64	/* whatever that is */

StoreShared *store_shared = NULL;

Size
StoreShmemSize(void)
{
	return add_size(add_size(MAXALIGN(sizeof(StoreShared)), StoreCountersShmemSize()),
					StoreSharedPagesShmemSize());
}

void
StoreShmemInit(void)
{
	bool		found;

	store_shared = ShmemInitStruct("orbit store", sizeof(StoreShared), &found);
	if (!found)
	{
		memset(store_shared, 0, sizeof(StoreShared));
		pg_atomic_init_u32(&store_shared->ready, 0);
		pg_atomic_init_u64(&store_shared->flushed_lsn, 0);
		pg_atomic_init_u64(&store_shared->covered_redo, 0);
		pg_atomic_init_u32(&store_shared->flushed_timeline, 0);
		pg_atomic_init_u64(&store_shared->instance, 0);
		pg_atomic_init_u64(&store_shared->reached, 0);
		pg_atomic_init_u64(&store_shared->logged_storage, 1);
		pg_atomic_init_u64(&store_shared->first_storage, 1);
		pg_atomic_init_u64(&store_shared->flushes, 0);
		pg_atomic_init_u64(&store_shared->pages_put, 0);
		pg_atomic_init_u64(&store_shared->pages_merged, 0);
		pg_atomic_init_u64(&store_shared->flushed_bytes, 0);
		/* one lock more in the tranche of the storage partitions */
		LWLockInitialize(&store_shared->id_lock, orbit_storage_locks[0].lock.tranche);
		store_shared->next_storage = 1;
		store_shared->limit_storage = 1;
	}
	StoreCountersShmemInit();
	StoreSharedPagesShmemInit();
}

uint64
StoreRaiseAtomic(pg_atomic_uint64 *a, uint64 value)
{
	uint64		old = pg_atomic_read_u64(a);

	while (old < value)
	{
		if (pg_atomic_compare_exchange_u64(a, &old, value))
			return value;
	}
	return old;
}

/* ---- directory ---------------------------------------------------------------- */

/* Every process of the server works in the data directory. */
const char *
StoreDirectory(void)
{
	return orbit_data_directory;
}

void
StoreKvOptions(KvOptions *o, bool primary)
{
	memset(o, 0, sizeof(*o));
	o->block_cache_bytes = (uint64) orbit_block_cache_size * 1024;
	o->target_file_bytes = 0;
	o->max_background_jobs = orbit_max_background_jobs;
	o->compression = orbit_compression;
	o->bottommost_compression = orbit_bottommost_compression;
	o->max_open_files = primary ? -1 :
		Max(max_safe_fds / SECONDARY_FILES_SHARE, SECONDARY_FILES_LEAST);
}

/* ---- readiness ------------------------------------------------------------------- */

void
StoreSetReady(bool ready)
{
	/* whatever was loaded into shared memory is seen by those who see the flag */
	pg_memory_barrier();
	pg_atomic_write_u32(&store_shared->ready, ready ? 1 : 0);
}

bool
StoreIsReady(void)
{
	if (store_shared == NULL || pg_atomic_read_u32(&store_shared->ready) == 0)
		return false;
	pg_read_barrier();
	return true;
}

void
StoreNap(long ms)
{
	Assert(InterruptHoldoffCount == 0);
	if (AmStartupProcess())
	{
		/* after a crash nobody else asks for background workers (K12) */
		SendPostmasterSignal(PMSIGNAL_BACKGROUND_WORKER_CHANGE);
		HandleStartupProcInterrupts();
	}
	else
		CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 ORBIT_WAIT_WORKER);
	ResetLatch(MyLatch);
	if (AmStartupProcess())
		HandleStartupProcInterrupts();
	else
		CHECK_FOR_INTERRUPTS();
}

void
StoreAttach(void)
{
	OrbitTime	start;
	int			timeout;

	if (likely(StoreIsReady()))
		return;
	OrbitRequirePreload();
	if (!IsUnderPostmaster)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("orbit tables cannot be used in single-user mode"),
				 errhint("Start the server normally; its storage worker is needed.")));

	timeout = AmStartupProcess() ? ATTACH_STARTUP_TIMEOUT_MS : ATTACH_TIMEOUT_MS;
	start = OrbitNow();
	while (!StoreIsReady())
	{
		if (OrbitElapsed(start, OrbitNow(), timeout))
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("the storage worker of orbit_fdw is not ready"),
					 errhint("Look for its messages in the server log; it needs a free slot of max_worker_processes.")));
		StoreNap(ATTACH_NAP_MS);
	}
}

/* ---- flushed-up-to bookkeeping ------------------------------------------------------ */

XLogRecPtr
StoreFlushedLsn(void)
{
	return pg_atomic_read_u64(&store_shared->flushed_lsn);
}

TimeLineID
StoreFlushedTimeline(void)
{
	return pg_atomic_read_u32(&store_shared->flushed_timeline);
}

uint64
StoreInstance(void)
{
	uint64		instance = pg_atomic_read_u64(&store_shared->instance);

	Assert(instance != 0);
	return instance;
}

XLogRecPtr
StoreCoveredRedo(void)
{
	return pg_atomic_read_u64(&store_shared->covered_redo);
}

void
StoreSetCoveredRedo(XLogRecPtr redo)
{
	(void) StoreRaiseAtomic(&store_shared->covered_redo, redo);
}

void
StoreGetFlushStats(StoreFlushStats *s)
{
	s->flushes = pg_atomic_read_u64(&store_shared->flushes);
	s->pages_put = pg_atomic_read_u64(&store_shared->pages_put);
	s->pages_merged = pg_atomic_read_u64(&store_shared->pages_merged);
	s->bytes = pg_atomic_read_u64(&store_shared->flushed_bytes);
}
