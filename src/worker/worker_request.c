/*
 * worker_request.c: requests to the worker that somebody waits for.
 *
 * A slot in shared memory holds one request at a time; who comes later waits until it is free.  The
 * worker answers by the request's id, so an answer never reaches somebody else: whoever asked may have
 * left meanwhile, and another may have come.
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define RECHECK_MS		1000	/* a waiter looks this often whether the worker still exists */

void
WorkerRequestInit(WorkerSlot *slot)
{
	memset(&slot->request, 0, sizeof(slot->request));
	ConditionVariableInit(&slot->cv);
}

/* ---- who asks ------------------------------------------------------------------------- */

bool
WorkerRequestTake(WorkerSlot *slot, OrbitStorageId storage, TransactionId limit, bool make)
{
	WorkerRequest *r = &slot->request;
	bool		taken = false;

	SpinLockAcquire(&worker_shared->mutex);
	if (r->owner == 0)
	{
		r->owner = MyProcPid;
		r->id++;
		r->storage = storage;
		r->limit = limit;
		r->make = make;
		r->answered = false;
		taken = true;
	}
	SpinLockRelease(&worker_shared->mutex);
	if (taken)
		MembufWakeWorker();
	return taken;
}

bool
WorkerRequestAnswered(WorkerSlot *slot, TransactionId *answer)
{
	bool		answered;

	SpinLockAcquire(&worker_shared->mutex);
	answered = slot->request.answered;
	*answer = slot->request.answer;
	SpinLockRelease(&worker_shared->mutex);
	return answered;
}

void
WorkerRequestLeave(WorkerSlot *slot)
{
	SpinLockAcquire(&worker_shared->mutex);
	if (slot->request.owner == MyProcPid)
		slot->request.owner = 0;
	SpinLockRelease(&worker_shared->mutex);
	ConditionVariableBroadcast(&slot->cv);
}

static void
LeaveSlot(int code, Datum arg)
{
	WorkerRequestLeave((WorkerSlot *) DatumGetPointer(arg));
}

void
WorkerWaitOn(ConditionVariable *cv)
{
	if (WorkerPid() == 0)
	{
		ConditionVariableCancelSleep();
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the storage worker of orbit_fdw is not running"),
				 errdetail("It has left because the server is shutting down.")));
	}
	(void) ConditionVariableTimedSleep(cv, RECHECK_MS, ORBIT_WAIT_WORKER);
}

TransactionId
WorkerRequestAndWait(WorkerSlot *slot, OrbitStorageId storage, TransactionId limit, bool make)
{
	TransactionId answer = InvalidTransactionId;

	ConditionVariablePrepareToSleep(&slot->cv);
	while (!WorkerRequestTake(slot, storage, limit, make))
		WorkerWaitOn(&slot->cv);
	PG_ENSURE_ERROR_CLEANUP(LeaveSlot, PointerGetDatum(slot));
	{
		while (!WorkerRequestAnswered(slot, &answer))
			WorkerWaitOn(&slot->cv);
	}
	PG_END_ENSURE_ERROR_CLEANUP(LeaveSlot, PointerGetDatum(slot));
	ConditionVariableCancelSleep();
	WorkerRequestLeave(slot);
	return answer;
}

/* ---- the worker ----------------------------------------------------------------------- */

bool
WorkerRequestLook(WorkerSlot *slot, WorkerRequest *request)
{
	SpinLockAcquire(&worker_shared->mutex);
	*request = slot->request;
	SpinLockRelease(&worker_shared->mutex);
	return request->owner != 0 && !request->answered;
}

void
WorkerRequestAnswer(WorkerSlot *slot, uint64 id, TransactionId answer)
{
	WorkerRequest *r = &slot->request;

	SpinLockAcquire(&worker_shared->mutex);
	if (r->owner != 0 && r->id == id)
	{
		r->answer = answer;
		r->answered = true;
	}
	SpinLockRelease(&worker_shared->mutex);
	ConditionVariableBroadcast(&slot->cv);
}
