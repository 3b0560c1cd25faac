/*
 * wal_conflict.c: queries of this standby that are in the way of a cleanup record.
 *
 * Core waits until they have ended, and cancels them when the standby's delay is over.  One case
 * it does not look for: such a query waits for a lock that the startup process holds for a
 * transaction of the primary.  The lock goes with a later record, so neither would ever get on
 * where the delay is unlimited, and all of it is waited in vain where it is not.  A REINDEX makes
 * that likely: its lock on the index is replayed before the record.  So the wait is done
 * here, and such a query is cancelled at once.
 */
#include "postgres.h"

#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/startup.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "storage/standby.h"
#include "utils/timestamp.h"

#include "wal/wal_internal.h"

#define FIRST_NAP_MS	1
#define LAST_NAP_MS		100

/* Has replay waited for queries as long as it is to? */
static bool
DelayIsOver(void)
{
	TimestampTz received;
	bool		streamed;
	int			delay;

	GetXLogReceiptTime(&received, &streamed);
	delay = streamed ? max_standby_streaming_delay : max_standby_archive_delay;
	return delay >= 0 &&
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(received, delay);
}

/* The locks that replay takes are in conflict with every other. */
static bool
WaitsForUs(int pid)
{
	BlockedProcsData *data = GetBlockerStatusData(pid);
	bool		found = false;

	for (int i = 0; i < data->nprocs && !found; i++)
	{
		BlockedProcData *blocked = &data->procs[i];

		for (int j = 0; j < blocked->num_locks && !found; j++)
		{
			LockInstanceData *lock = &data->locks[blocked->first_lock + j];

			found = lock->pid == MyProcPid && lock->holdMask != 0;
		}
	}
	pfree(data->procs);
	pfree(data->locks);
	pfree(data->waiter_pids);
	pfree(data);
	return found;
}

static void
CancelThoseWhoWaitForUs(const VirtualTransactionId *queries)
{
	for (; VirtualTransactionIdIsValid(*queries); queries++)
	{
		PGPROC	   *proc = BackendIdGetProc(queries->backendId);

		/* a look without a lock spares those of the lock table */
		if (proc == NULL || proc->waitStatus != PROC_WAIT_STATUS_WAITING ||
			!WaitsForUs(proc->pid))
			continue;
		(void) CancelVirtualTransaction(*queries, PROCSIG_RECOVERY_CONFLICT_SNAPSHOT);
	}
}

static void
Nap(int ms)
{
	HandleStartupProcInterrupts();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 WAIT_EVENT_RECOVERY_CONFLICT_SNAPSHOT);
	ResetLatch(MyLatch);
}

void
WalResolveCleanup(const xl_orbit_cleanup *cleanup)
{
	TransactionId xid = cleanup->latest_removed;
	TimestampTz start = GetCurrentTimestamp();
	VirtualTransactionId *queries;
	bool		told = false;
	int			nap = FIRST_NAP_MS;

	for (;;)
	{
		queries = GetConflictingVirtualXIDs(xid, cleanup->node.dbNode);
		if (!VirtualTransactionIdIsValid(*queries) || DelayIsOver())
			break;
		CancelThoseWhoWaitForUs(queries);
		if (log_recovery_conflict_waits && !told &&
			TimestampDifferenceExceeds(start, GetCurrentTimestamp(), DeadlockTimeout))
		{
			LogRecoveryConflict(PROCSIG_RECOVERY_CONFLICT_SNAPSHOT, start, GetCurrentTimestamp(),
								queries, true);
			told = true;
		}
		Nap(nap);
		nap = Min(nap * 2, LAST_NAP_MS);
	}
	/* nobody, or their time is up */
	ResolveRecoveryConflictWithSnapshot(xid, cleanup->node);
	if (told)
		LogRecoveryConflict(PROCSIG_RECOVERY_CONFLICT_SNAPSHOT, start, GetCurrentTimestamp(),
							NULL, false);
}
