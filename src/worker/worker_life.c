/*
 * worker_life.c: how the worker leaves.
 *
 * Without a live worker nothing holds checkpoints back, so an exit that PostgreSQL takes
 * for harmless (code 0 or 1) would lose rows.  Hence:
 *
 *	opening		StorePrimaryOpen refused (foreign or damaged directory).  No process can
 *				have written, for all wait until the worker is ready.  Restarting would
 *				refuse again for ever: the server is told to stop (fast shutdown; SIGQUIT
 *				would make the next start recover for nothing) and the exit is plain.
 *	running		any exit, by error, FATAL or the postmaster's death, is turned into
 *				_exit(2): a crash, before the process leaves the array of processes (which
 *				would release a waiting checkpoint).
 *	done		the orderly exit.
 *
 * SIGTERM comes from the postmaster at shutdown and from pg_terminate_backend.  Only
 * the first is obeyed: the postmaster writes "stopping" into its pid file before it
 * signals.  The one exception, recovery_target_action = shutdown, is announced by the
 * startup process (worker_recovery.c).
 *
 * At shutdown backends get SIGTERM at the same moment and may still be waiting for room
 * in the write buffers, so the worker goes on flushing until the last writer has
 * left.  Walsenders leave only after the shutdown checkpoint, which waits for the worker:
 * they are not counted.  In recovery nothing need be flushed: what a restartpoint
 * may use is covered (worker_recovery.c), the rest is replayed.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "utils/pidfile.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

static volatile sig_atomic_t term_pending = false;

static void
HandleSigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	term_pending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/* Fast shutdown of the whole server; the reason has been logged. */
void
WorkerStopServer(void)
{
	ereport(LOG,
			(errmsg("stopping the server because orbit's storage cannot be used")));
	kill(PostmasterPid, SIGINT);
}

/*
 * The postmaster is gone, and so will be the worker.  A checkpointer that waits for it at the end of
 * a checkpoint does not look for the postmaster there: it would wait for ever, and as long
 * as it does no server can be started on this data directory.  Let go it must not be.  SIGQUIT is
 * what the postmaster would send; it means an exit at once.
 */
static void
StopCheckpointer(void)
{
	Latch	   *latch = ProcGlobal->checkpointerLatch;

	for (uint32 i = 0; latch != NULL && i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		if (&proc->procLatch == latch && proc->pid != 0)
			kill(proc->pid, SIGQUIT);
	}
}

/* Registered last, so it runs before anything of this process is cleaned up. */
static void
BeforeExit(int code, Datum arg)
{
	switch (worker.phase)
	{
		case WORKER_OPENING:
			pg_atomic_write_u32(&worker_shared->pid, 0);
			if (PostmasterIsAlive())
				WorkerStopServer();
			break;
		case WORKER_RUNNING:
			if (!PostmasterIsAlive())
				StopCheckpointer();
			_exit(2);
		case WORKER_DONE:
			break;
	}
}

/* RocksDB may be half open: no destructor may run under its threads. */
static void
AfterExit(int code, Datum arg)
{
	if (worker.phase == WORKER_OPENING)
		_exit(code);
}

void
WorkerLifeInit(void)
{
	pqsignal(SIGTERM, HandleSigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	on_proc_exit(AfterExit, 0);
	before_shmem_exit(BeforeExit, 0);
}

/*
 * The postmaster's status line.  If the file cannot be read the answer is yes: the
 * postmaster itself stops when its file is gone, and an exit at the wrong time only
 * makes writers fail (the gate is closed), while staying would hang a shutdown.
 */
static bool
ServerIsStopping(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	int			lineno = 0;
	bool		stopping = false;

	if (file == NULL)
		return true;
	while (lineno < LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file))
		lineno++;
	if (lineno < LOCK_FILE_LINE_PM_STATUS)
		stopping = ferror(file) != 0;
	else
		stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stopping;
}

static void
Leave(void)
{
	worker.phase = WORKER_DONE;
	KvClose(worker.db);
	worker.db = NULL;
	pg_atomic_write_u32(&worker_shared->pid, 0);
	ConditionVariableBroadcast(&worker_shared->served_cv);
	proc_exit(0);
}

void
WorkerHandleTerm(void)
{
	if (!term_pending)
		return;
	term_pending = false;
	if (worker.leaving)
		return;

	if (!ServerIsStopping() && pg_atomic_read_u32(&worker_shared->target_shutdown) == 0)
	{
		ereport(LOG,
				(errmsg("the storage worker of orbit_fdw cannot be terminated on its own"),
				 errhint("It ends when the server is shut down.")));
		return;
	}

	/*
	 * The gate first: recovery may end at this moment, and whoever then begins to write
	 * either is refused or was let in before, when this no longer says "in recovery".
	 */
	MembufCloseGate();
	if (RecoveryInProgress())
		Leave();
	worker.leaving = true;
	worker.not_before = 0;
}

/* Orderly shutdown: leaves once no writer is left and everything is in RocksDB. */
void
WorkerLeaveIfDone(void)
{
	uint64		oldest;
	uint64		active;
	MembufArenaInfo info;

	/* In this order: a writer that is gone has published what it logged. */
	if (MembufWriterCount() > 0)
		return;
	MembufGetRange(&oldest, &active);
	if (worker.seal.active || oldest != active ||
		(MembufArenaGetInfo(active, &info) && info.used > 0))
		return;
	if (!WorkerStoreMetadata(true))
		return;
	StoreNoteReached();
	WorkerSnapshotForShutdown();
	Leave();
}
