/*
 * worker_main.c: registration and main loop of the storage worker.
 *
 * One process owns the primary RocksDB instance.  It has no database and starts with
 * the postmaster, before recovery, which needs it.  Its main thread is the only one of
 * its threads that touches PostgreSQL.  README.md argues the protocol.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

/* While leaving, and while readers hold write buffers, nothing wakes the worker. */
#define POLL_SHORT_MS		10

WorkerState worker;

void
WorkerRegister(void)
{
	BackgroundWorker bgw;

	memset(&bgw, 0, sizeof(bgw));
	bgw.bgw_flags = BGWORKER_SHMEM_ACCESS;
	bgw.bgw_start_time = BgWorkerStart_PostmasterStart;
	bgw.bgw_restart_time = 1;
	strlcpy(bgw.bgw_library_name, "orbit_fdw", BGW_MAXLEN);
	strlcpy(bgw.bgw_function_name, "orbit_worker_main", BGW_MAXLEN);
	strlcpy(bgw.bgw_name, "orbit storage worker", BGW_MAXLEN);
	strlcpy(bgw.bgw_type, "orbit storage worker", BGW_MAXLEN);
	RegisterBackgroundWorker(&bgw);
	WorkerRecoveryInit();
	WorkerBackupInit();
}

/*
 * The order matters: checkpoints are held back before anybody may write, and nobody
 * writes before RocksDB is open.
 */
static void
Open(void)
{
	pg_atomic_write_u32(&worker_shared->pid, (uint32) MyProcPid);
	WorkerGateOpen();
	MembufSetWorkerLatch(MyLatch);
	worker.db = StorePrimaryOpen();
	worker.served = pg_atomic_read_u64(&worker_shared->served);
	store_cleaned_hook = WorkerNoteCleaned;
	WorkerLoadCleaned();
	WorkerLoadSnapshots();
	worker.phase = WORKER_RUNNING;
	WorkerPublishStats();
	StoreSetReady(true);
}

static long
SleepTime(bool more, OrbitTime now)
{
	long		ms = WorkerGatePollTime(now);

	if (more)
		return 0;
	if (worker.leaving || worker.seal.active || MembufReclaim() > 0 || WorkerFreezeAsked())
		ms = Min(ms, POLL_SHORT_MS);
	return ms;
}

static void
ReloadIfAsked(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

void
orbit_worker_main(Datum arg)
{
	MemoryContext context;

	memset(&worker, 0, sizeof(worker));
	WorkerLifeInit();
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "orbit storage worker",
									ALLOCSET_DEFAULT_SIZES);
	Open();
	MemoryContextSwitchTo(context);

	for (;;)
	{
		OrbitTime now = OrbitNow();
		bool		more;

		ResetLatch(MyLatch);
		ReloadIfAsked();
		WorkerHandleTerm();
		more = WorkerFlushStep(now);
		WorkerSnapshotStep(now);
		WorkerGateStep();
		WorkerCheckEndOfLog();
		WorkerChores(now);
		if (!worker.leaving)
		{
			more |= WorkerHorizonStep(now, WorkerFreezeAsked());
			WorkerCompactStep(now);
		}
		WorkerStoragesStep(now);
		if (worker.leaving)
			WorkerLeaveIfDone();
		MemoryContextReset(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 SleepTime(more, now), ORBIT_WAIT_WORKER_MAIN);
	}
}
