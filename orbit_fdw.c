/*
 * orbit_fdw.c: module magic and _PG_init only.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "row/row.h"
#include "store/store.h"
#include "tam/tam.h"
#include "wal/wal.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

static void
ShmemRequest(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(OrbitStopShmemSize());
	RequestAddinShmemSpace(MembufShmemSize());
	RequestAddinShmemSpace(StoreShmemSize());
	RequestAddinShmemSpace(RowShmemSize());
	RequestAddinShmemSpace(WorkerShmemSize());
	OrbitRequestLocks();
}

static void
ShmemStartup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	OrbitAttachLocks();
	OrbitStopShmemInit();
	MembufShmemInit();
	StoreShmemInit();
	RowShmemInit();
	WorkerShmemInit();
	LWLockRelease(AddinShmemInitLock);
	StoreRestore();
	StoreCheckDirectory();
}

void
_PG_init(void)
{
	OrbitDefineSettings(process_shared_preload_libraries_in_progress);
	if (!process_shared_preload_libraries_in_progress)
		return;

	orbit_preloaded = true;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = ShmemRequest;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = ShmemStartup;
	WalRegister();
	WorkerRegister();
	TamInit();
}
