/*
 * lock.c: row locks.
 *
 * A row lock is a LOCK entry on the row, in force while its transaction lives; README.md has the
 * rules.  Who finds one that conflicts first takes the heavyweight lock on the row's
 * canonical TID, which queues the waiters, and then waits for the holder's transaction.  Heap
 * has a heavyweight lock a version, we have one a row; hence nobody whose transaction others may
 * be waiting for on this row takes it (RowOwnInvolved).
 *
 * KEY SHARE and updates that leave the key alone go together.  A version so updated can be
 * locked still, and the lock must then also hold for what came after it.  In the same row
 * it does by itself, being an entry of the row; where an update made a new row, that one and
 * its successors are locked too.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"

#include "row/row_internal.h"

/* ---- waiting ------------------------------------------------------------------------ */

static const LOCKMODE tuple_lock_level[] = {
	[LockTupleKeyShare] = AccessShareLock,
	[LockTupleShare] = RowShareLock,
	[LockTupleNoKeyExclusive] = ExclusiveLock,
	[LockTupleExclusive] = AccessExclusiveLock
};

static void
RaiseNotAvailable(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not obtain lock on row in relation \"%s\"",
					RelationGetRelationName(rel))));
}

bool
RowAcquireTupleLock(Relation rel, const RowState *s, LockTupleMode mode,
					LockWaitPolicy policy, bool *have)
{
	ItemPointerData tid = s->canonical;
	LOCKMODE	level = tuple_lock_level[mode];

	Assert(!s->open);
	if (*have)
		return true;
	if (policy == LockWaitBlock)
		LockTuple(rel, &tid, level);
	else if (!ConditionalLockTuple(rel, &tid, level))
	{
		if (policy == LockWaitError)
			RaiseNotAvailable(rel);
		return false;
	}
	*have = true;
	return true;
}

void
RowReleaseTupleLock(Relation rel, const RowState *s, LockTupleMode mode, bool *have)
{
	ItemPointerData tid = s->canonical;

	if (*have)
		UnlockTuple(rel, &tid, tuple_lock_level[mode]);
	*have = false;
}

bool
RowWaitFor(Relation rel, TransactionId xid, const ItemPointerData *tid,
		   LockWaitPolicy policy, XLTW_Oper oper)
{
	ItemPointerData shown = *tid;

	Assert(InterruptHoldoffCount == 0 && !MembufPinned());
	OrbitStopPoint("row_wait");
	if (policy == LockWaitBlock)
		XactLockTableWait(xid, rel, &shown, oper);
	else if (!ConditionalXactLockTableWait(xid))
	{
		if (policy == LockWaitError)
			RaiseNotAvailable(rel);
		return false;
	}
	return true;
}

/* ---- one request ------------------------------------------------------------------------ */

typedef struct RowLocking
{
	Relation	rel;
	TupleTableSlot *slot;
	CommandId	cid;
	LockTupleMode mode;
	LockWaitPolicy policy;
	bool		have_tuple_lock;
	RowState	s;
} RowLocking;

/* Strongest lock of ours anywhere on the row; -1: none. */
static int
OwnLockOnRow(const RowState *s)
{
	int			strongest = -1;

	for (int i = 0; i < s->nholders; i++)
	{
		if (s->holders[i].own)
			strongest = Max(strongest, (int) s->holders[i].mode);
	}
	return strongest;
}

/* Is there nothing left to protect on this row? */
static bool
RowIsGone(const RowState *s)
{
	const RowOver *newest = s->nover > 0 ? &s->over[0] : NULL;

	return newest != NULL && newest->fate == ROW_FATE_COMMITTED &&
		(newest->deleted || newest->new_row ||
		 ItemPointerIndicatesMovedPartitions(&newest->next));
}

/*
 * KEY SHARE on a version that was updated: what came after it must let us lock too.
 * over[from] and what is below it has been judged by the caller.  TM_BeingModified: *blocker
 * must end first.
 */
static TM_Result
JudgeLater(const RowState *s, LockTupleMode mode, int from, TransactionId *blocker)
{
	for (int i = from - 1; i >= 0; i--)
	{
		const RowOver *o = &s->over[i];

		if (o->fate == ROW_FATE_OWN || !RowModesConflict(mode, o->mode))
			continue;
		if (o->fate == ROW_FATE_RUNNING)
		{
			*blocker = o->xid;
			return TM_BeingModified;
		}
		return o->deleted ? TM_Deleted : TM_Updated;
	}
	return TM_Ok;
}

/* The row that an update put in this one's place, and the update's xid. */
static bool
NextRow(const RowState *s, ItemPointer next, TransactionId *xid)
{
	if (s->nover == 0 || !s->over[0].new_row)
		return false;
	*next = s->over[0].next;
	*xid = s->over[0].xid;
	return true;
}

/*
 * Locks one row that came of an update; a row of another origin, or of an aborted
 * update, is none of ours.  *more: *next, made by *xid, is to be locked as well.
 */
static TM_Result
LockLaterRow(RowLocking *l, RowState *s, ItemPointer next, TransactionId *xid, bool *more)
{
	ItemPointerData tid = *next;

	*more = false;
	for (;;)
	{
		TransactionId blocker = InvalidTransactionId;
		TM_Result	result;

		CHECK_FOR_INTERRUPTS();
		RowExamine(s, &tid);
		RowStateClose(s);
		if (!s->exists || s->xmin != *xid || s->xmin_fate == ROW_FATE_ABORTED)
			return TM_Ok;
		result = JudgeLater(s, l->mode, s->nover, &blocker);
		if (result == TM_Ok)
			blocker = RowBlocker(s, l->mode);
		else if (result != TM_BeingModified)
			return result;
		if (TransactionIdIsValid(blocker))
		{
			if (!RowWaitFor(l->rel, blocker, &tid, l->policy, XLTW_LockUpdated))
				return TM_WouldBlock;
			continue;
		}
		if (OwnLockOnRow(s) >= (int) l->mode || RowIsGone(s) ||
			RowPushLock(l->rel, s, l->cid, l->mode))
			break;
	}
	*more = NextRow(s, next, xid);
	return TM_Ok;
}

static TM_Result
LockLaterRows(RowLocking *l, ItemPointer next, TransactionId xid)
{
	RowState	s;
	TM_Result	result;
	bool		more = true;

	RowStateInit(&s, l->s.storage);
	do
	{
		result = LockLaterRow(l, &s, next, &xid, &more);
	} while (result == TM_Ok && more);
	RowStateFree(&s);
	return result;
}

/* ---- the target ---------------------------------------------------------------------------- */

/*
 * Decides over the target as examined.  TM_Ok: push the lock (*push), or we have it already.
 * TM_BeingModified: *blocker must end first.
 */
static TM_Result
DecideLock(RowLocking *l, TransactionId *blocker, bool *push)
{
	RowState   *s = &l->s;
	TM_Result	result = RowSatisfiesUpdate(s, l->cid);

	*push = true;
	if (result == TM_Ok || result == TM_Invisible || result == TM_SelfModified)
		return result;
	if (RowOwnLock(s) >= (int) l->mode)
	{
		*push = false;
		return TM_Ok;
	}
	if (result != TM_BeingModified)
	{
		/* updated or deleted for good; the key may still be what it was */
		if (RowModesConflict(l->mode, s->over[s->nover - 1].mode))
			return result;
	}
	*blocker = RowBlocker(s, l->mode);
	if (TransactionIdIsValid(*blocker))
		return TM_BeingModified;
	if (s->nover > 0)
		return JudgeLater(s, l->mode, s->nover - 1, blocker);
	return TM_Ok;
}

/* False: the policy is to skip rather than to wait. */
static bool
WaitForBlocker(RowLocking *l, TransactionId blocker)
{
	RowState   *s = &l->s;

	if (!RowOwnInvolved(s) &&
		!RowAcquireTupleLock(l->rel, s, l->mode, l->policy, &l->have_tuple_lock))
		return false;
	return RowWaitFor(l->rel, blocker, &s->target_tid, l->policy, XLTW_Lock);
}

/* Takes the lock that was decided on.  False: somebody was faster.  *result may become a failure. */
static bool
TakeLock(RowLocking *l, TM_Result *result)
{
	RowState   *s = &l->s;
	ItemPointerData next;
	TransactionId xid;

	if (NextRow(s, &next, &xid))
	{
		*result = LockLaterRows(l, &next, xid);
		if (*result != TM_Ok)
			return true;
	}
	if (OwnLockOnRow(s) >= (int) l->mode || RowIsGone(s))
		return true;
	return RowPushLock(l->rel, s, l->cid, l->mode);
}

/*
 * As heap_lock_tuple: locks the version that tid names, and no other.  The slot is given
 * that version's contents, whatever the result, if it exists.
 */
static TM_Result
LockVersion(RowLocking *l, const ItemPointerData *tid, TM_FailureData *tmfd)
{
	RowState   *s = &l->s;
	TM_Result	result;

	for (;;)
	{
		TransactionId blocker = InvalidTransactionId;
		bool		push;

		CHECK_FOR_INTERRUPTS();
		RowExamine(s, tid);
		if (!s->exists)
		{
			RowStateClose(s);
			ExecClearTuple(l->slot);
			result = TM_Deleted;
			break;
		}
		result = DecideLock(l, &blocker, &push);
		if (result != TM_BeingModified || l->policy != LockWaitBlock)
			RowStoreSlot(l->slot, l->rel, &s->target, NULL);
		RowStateClose(s);
		if (result == TM_BeingModified)
		{
			if (WaitForBlocker(l, blocker))
				continue;
			result = TM_WouldBlock;
			break;
		}
		if (result != TM_Ok || !push || TakeLock(l, &result))
			break;
	}
	if (result != TM_Ok && result != TM_Invisible)
		RowFailure(s, result, tmfd);
	RowReleaseTupleLock(l->rel, s, l->mode, &l->have_tuple_lock);
	return result;
}

/* ---- following updates ------------------------------------------------------------------------ */

static void
RaiseMoved(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("tuple to be locked was already moved to another partition due to concurrent update")));
}

/*
 * The target was updated by a transaction that has committed: steps to the newest version.
 * TM_Ok: *tid is a live version to be locked.  Anything else is the request's result.
 */
static TM_Result
FindLastVersion(RowLocking *l, ItemPointer tid, TM_FailureData *tmfd)
{
	RowState   *s = &l->s;
	TransactionId xmin = tmfd->xmax;

	*tid = tmfd->ctid;
	for (;;)
	{
		const RowOver *o;

		CHECK_FOR_INTERRUPTS();
		if (ItemPointerIndicatesMovedPartitions(tid))
			RaiseMoved();
		RowExamine(s, tid);
		RowStateClose(s);
		/* the chain of updates must fit together */
		if (!s->exists || s->xmin != xmin || s->xmin_fate == ROW_FATE_ABORTED)
			return TM_Deleted;
		if (s->xmin_fate == ROW_FATE_RUNNING)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg_internal("xid %u is uncommitted in row (%u,%u) to be locked in \"%s\"",
									 xmin, ItemPointerGetBlockNumber(tid),
									 ItemPointerGetOffsetNumber(tid),
									 RelationGetRelationName(l->rel))));
		o = s->nover > 0 ? &s->over[s->nover - 1] : NULL;
		if (o == NULL)
			break;
		if (o->fate == ROW_FATE_RUNNING)
		{
			if (!RowWaitFor(l->rel, o->xid, tid, l->policy, XLTW_FetchUpdated))
				return TM_WouldBlock;
			continue;
		}
		if (o->deleted)
			return TM_Deleted;
		*tid = o->next;
		xmin = o->xid;
	}

	/* made by this very command, or a later one of ours: not to be seen by it */
	if (s->xmin_fate == ROW_FATE_OWN && s->cmin >= l->cid)
	{
		tmfd->xmax = s->xmin;
		tmfd->cmax = s->cmin;
		return TM_SelfModified;
	}
	return TM_Ok;
}

TM_Result
RowLock(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
		CommandId cid, LockTupleMode mode, LockWaitPolicy wait_policy, uint8 flags,
		TM_FailureData *tmfd)
{
	RowLocking	l = {0};
	TM_Result	result;

	l.rel = rel;
	l.slot = slot;
	l.cid = cid;
	l.mode = mode;
	l.policy = wait_policy;
	tmfd->traversed = false;
	RowStateInit(&l.s, RowStorage(rel));
	for (;;)
	{
		ItemPointerData target = *tid;

		result = LockVersion(&l, &target, tmfd);
		if (result != TM_Updated || !(flags & TUPLE_LOCK_FLAG_FIND_LAST_VERSION))
			break;
		if (ItemPointerEquals(&tmfd->ctid, &target))
		{
			result = TM_Deleted;
			break;
		}
		tmfd->traversed = true;
		result = FindLastVersion(&l, tid, tmfd);
		if (result != TM_Ok)
			break;
	}
	RowStateFree(&l.s);
	return result;
}
