/*
 * modify.c: DELETE and UPDATE.
 *
 * The order of tests and the results are heapam.c's (heap_delete, heap_update); README.md says
 * where rows as chains make a difference.  Each attempt reads the row afresh (RowExamine), and
 * either fails, waits and tries again, or writes; a write that finds the row changed since
 * is another reason to try again.  While waiting nothing is held but the heavyweight
 * tuple lock, which is kept over the attempts: it is our place in the queue.
 *
 * An update that changes no indexed column pushes a version onto the same row.  Any other makes
 * a new row and marks the old one deleted, naming the new one, in one record.
 *
 * TOAST.  heap's toaster writes new values and deletes old ones before the update itself can
 * be written.  If the update then failed, the transaction could go on with a row whose values
 * are gone.  So the row is locked first, in the mode of the update: after that nobody else
 * can come between.
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/predicate.h"
#include "utils/snapmgr.h"

#include "row/row_internal.h"

/* One delete or update, over all its attempts. */
typedef struct RowModify
{
	Relation	rel;
	ItemPointerData tid;		/* a copy: the caller's may lie in the new tuple's slot */
	CommandId	cid;
	Snapshot	crosscheck;
	bool		wait;
	bool		is_update;
	TM_FailureData *tmfd;
	LockTupleMode mode;
	bool		have_tuple_lock;
	RowState	s;
} RowModify;

static void
RefuseInParallel(bool is_update)
{
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 is_update ?
				 errmsg("cannot update tuples during a parallel operation") :
				 errmsg("cannot delete tuples during a parallel operation")));
}

static void
BeginModify(RowModify *m, Relation rel, ItemPointer tid, CommandId cid, Snapshot crosscheck,
			bool wait, bool is_update, TM_FailureData *tmfd)
{
	Assert(ItemPointerIsValid(tid));
	memset(m, 0, sizeof(*m));
	m->rel = rel;
	m->tid = *tid;
	m->cid = cid;
	m->crosscheck = crosscheck;
	m->wait = wait;
	m->is_update = is_update;
	m->tmfd = tmfd;
	m->mode = LockTupleExclusive;
	RowStateInit(&m->s, RowStorage(rel));
}

static void
EndModify(RowModify *m)
{
	RowReleaseTupleLock(m->rel, &m->s, m->mode, &m->have_tuple_lock);
	RowStateFree(&m->s);
}

static void
RaiseInvisible(bool is_update)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 is_update ?
			 errmsg("attempted to update invisible tuple") :
			 errmsg("attempted to delete invisible tuple")));
}

/*
 * Decides over the row as examined.  TM_BeingModified: `*blocker` must end first.
 */
static TM_Result
Decide(RowModify *m, TransactionId *blocker)
{
	RowState   *s = &m->s;
	TM_Result	result = RowSatisfiesUpdate(s, m->cid);

	if (result == TM_Invisible)
		RaiseInvisible(m->is_update);
	if (result == TM_BeingModified)
	{
		*blocker = RowBlocker(s, m->mode);
		if (TransactionIdIsValid(*blocker))
			return TM_BeingModified;
		/* only locks that are our own or go together with the change */
		result = TM_Ok;
	}
	/* referential integrity in REPEATABLE READ: the row must also be that of the snapshot */
	if (result == TM_Ok && m->crosscheck != InvalidSnapshot &&
		RowMvccSight(s->target.entry, m->crosscheck) != ROW_SIGHT_SEEN)
		result = TM_Updated;
	return result;
}

/*
 * Reads the row and decides, waiting for others as need be.  When the result is not
 * TM_BeingModified the view is open still.
 */
static TM_Result
ExamineAndDecide(RowModify *m)
{
	for (;;)
	{
		RowState   *s = &m->s;
		TransactionId blocker;
		TM_Result	result;

		if (!s->open)
		{
			CHECK_FOR_INTERRUPTS();
			RowExamine(s, &m->tid);
		}
		if (!s->exists)
			return TM_Deleted;
		result = Decide(m, &blocker);
		if (result != TM_BeingModified || !m->wait)
			return result;
		RowStateClose(s);

		/*
		 * Who has done something to the row already must not queue up behind those
		 * who wait for him.
		 */
		if (!RowOwnInvolved(s))
			RowAcquireTupleLock(m->rel, s, m->mode, LockWaitBlock, &m->have_tuple_lock);
		(void) RowWaitFor(m->rel, blocker, &m->tid, LockWaitBlock,
						  m->is_update ? XLTW_Update : XLTW_Delete);
	}
}

static TM_Result
FailModify(RowModify *m, TM_Result result)
{
	RowStateClose(&m->s);
	RowFailure(&m->s, result, m->tmfd);
	EndModify(m);
	return result;
}

/* The old row's identity for logical decoding. */
static HeapTuple
SetOldImage(RowModify *m, RowChange *change, HeapTuple old, bool key_required)
{
	HeapTuple	identity = RowReplicaIdentity(m->rel, old, key_required, &change->old_is_key);

	if (identity == NULL)
		return NULL;
	/* not a row to be stored: a flattened one may exceed the limit of one */
	identity->t_data->t_infomask &= ROW_IMAGE_INFOMASK;
	identity->t_data->t_infomask2 &= HEAP_NATTS_MASK;
	change->old = (const char *) identity->t_data + ROW_IMAGE_OFFSET;
	change->oldlen = identity->t_len - ROW_IMAGE_OFFSET;
	return identity;
}

/* ---- DELETE -------------------------------------------------------------------------- */

static void
DeleteChange(RowChange *change, CodecDelete *mark, CommandId cid, bool changing_part)
{
	memset(change, 0, sizeof(*change));
	memset(mark, 0, sizeof(*mark));
	if (changing_part)
		mark->flags = CODEC_DELETE_MOVED;
	change->kind = WAL_DELETE;
	change->mode = LockTupleExclusive;
	change->entry.kind_flags = CODEC_DELETE | CODEC_KEYS_UPDATED;
	change->entry.xid = GetCurrentTransactionId();
	change->entry.cid = cid;
	change->entry.len = sizeof(*mark);
	change->entry.payload = mark;
}

/* Of a row that is deleted: for its TOASTed values, and for logical decoding. */
static bool
NeedsImage(Relation rel, const RowVersion *v)
{
	return RelationIsLogicallyLogged(rel) || RowHasExternal(v);
}

TM_Result
RowDelete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot,
		  Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changing_part)
{
	RowModify	m;
	RowChange	change;
	CodecDelete mark;
	HeapTuple	old = NULL;
	HeapTuple	identity = NULL;

	RefuseInParallel(false);
	DeleteChange(&change, &mark, cid, changing_part);
	BeginModify(&m, rel, tid, cid, crosscheck, wait, false, tmfd);
	do
	{
		TM_Result	result = ExamineAndDecide(&m);

		if (result != TM_Ok)
			return FailModify(&m, result);
		/* the version that a TID names never changes */
		if (old == NULL && NeedsImage(rel, &m.s.target))
			old = RowHeapTuple(rel, &m.s.target);
		RowStateClose(&m.s);
		CheckForSerializableConflictIn(rel, &m.tid, m.s.page);
		if (old != NULL && change.old == NULL)
			identity = SetOldImage(&m, &change, old, true);
		OrbitStopPoint("row_delete");
	} while (!RowPush(rel, &m.s, &change));

	CheckForSerializableConflictIn(rel, &m.tid, m.s.page);
	if (old != NULL)
		RowDeleteToast(rel, old, false);
	EndModify(&m);
	pgstat_count_heap_delete(rel);
	if (identity != NULL && identity != old)
		heap_freetuple(identity);
	if (old != NULL)
		heap_freetuple(old);
	return TM_Ok;
}

/* ---- UPDATE ---------------------------------------------------------------------------- */

typedef struct RowUpdating
{
	HeapTuple	old;			/* the target, copied */
	HeapTuple	new;			/* as it is to be stored */
	bool		toasted;
	bool		changes_index;	/* some index needs a new entry */
	bool		changes_identity;
	StoreItem	new_row;		/* page, slot: allocated once, whatever the attempts */
	bool		allocated;
} RowUpdating;

/* Columns that indexes, keys and the replica identity depend on. */
typedef struct RowAttrs
{
	Bitmapset  *index;
	Bitmapset  *key;
	Bitmapset  *identity;
	Bitmapset  *any;
} RowAttrs;

/* May open indexes, hence wait: no view may be open. */
static void
GetAttrs(RowAttrs *a, Relation rel)
{
	a->index = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_ALL);
	a->key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_KEY);
	a->identity = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
	a->any = bms_copy(a->index);
	a->any = bms_add_members(a->any, a->key);
	a->any = bms_add_members(a->any, a->identity);
}

static void
FreeAttrs(RowAttrs *a)
{
	bms_free(a->index);
	bms_free(a->key);
	bms_free(a->identity);
	bms_free(a->any);
}

/* What changes, hence how strong a lock the update is and whether indexes care. */
static void
Compare(RowModify *m, RowUpdating *u, const RowAttrs *a)
{
	Bitmapset  *changed = RowChangedAttrs(m->rel, a->any, u->old, u->new);

	u->changes_index = bms_overlap(changed, a->index);
	u->changes_identity = bms_overlap(changed, a->identity) ||
		RowAttrsExternal(m->rel, a->identity, u->old);
	m->mode = bms_overlap(changed, a->key) ? LockTupleExclusive : LockTupleNoKeyExclusive;
	bms_free(changed);
}

/*
 * The first reading of the row: what does not depend on who else is at it.  False: there is
 * no such version.  The view is left open.
 */
static bool
BeginUpdate(RowModify *m, RowUpdating *u, TupleTableSlot *slot)
{
	RowAttrs	attrs;

	memset(u, 0, sizeof(*u));
	u->new = RowRawTuple(m->rel, slot);
	GetAttrs(&attrs, m->rel);
	RowExamine(&m->s, &m->tid);
	if (m->s.exists)
	{
		u->old = RowHeapTuple(m->rel, &m->s.target);
		Compare(m, u, &attrs);
	}
	FreeAttrs(&attrs);
	return m->s.exists;
}

static void
EndUpdate(RowUpdating *u)
{
	heap_freetuple(u->new);
	if (u->old != NULL)
		heap_freetuple(u->old);
}

/* False: somebody was faster. */
static bool
ToastNew(RowModify *m, RowUpdating *u)
{
	HeapTuple	toasted;

	Assert(!m->s.open);
	if (RowOwnLock(&m->s) < (int) m->mode &&
		!RowPushLock(m->rel, &m->s, m->cid, m->mode))
		return false;
	toasted = heap_toast_insert_or_update(m->rel, u->new, u->old, 0);
	if (toasted != u->new)
		heap_freetuple(u->new);
	u->new = toasted;
	u->toasted = true;
	return true;
}

/* A new version of the same row. */
static void
InPlaceChange(RowModify *m, RowUpdating *u, RowChange *change, int tag)
{
	StoreItem  *entry = &change->entry;

	entry->kind_flags = CODEC_UPDATE;
	entry->tag = tag;
	entry->payload = RowStorableImage(u->new, &entry->len);
}

/* A new row, and a delete mark on the old one that names it. */
static void
NewRowChange(RowModify *m, RowUpdating *u, RowChange *change, CodecDelete *mark)
{
	StoreItem  *entry = &change->entry;
	const char *image;
	uint32		len;

	if (!u->allocated)
	{
		image = RowStorableImage(u->new, &len);
		RowAllocItem(m->rel, m->s.storage, &u->new_row, entry->xid, m->cid, image, len);
		u->allocated = true;
	}
	memset(mark, 0, sizeof(*mark));
	mark->page = u->new_row.page;
	mark->slot = u->new_row.slot;
	mark->flags = CODEC_DELETE_UPDATED;
	entry->kind_flags = CODEC_DELETE;
	entry->tag = 0;
	entry->len = sizeof(*mark);
	entry->payload = mark;
	change->new_row = &u->new_row;
}

/* One attempt to write, with the row as examined; the view is closed.  False: try again. */
static bool
WriteUpdate(RowModify *m, RowUpdating *u, int tag, ItemPointer newtid)
{
	RowChange	change = {0};
	CodecDelete mark;
	HeapTuple	identity;
	bool		done;

	/*
	 * As in heap, the update is as strong as the strongest lock that we have on the version: who
	 * was kept waiting by FOR UPDATE, be it with KEY SHARE, goes on with the new version.
	 */
	change.kind = WAL_UPDATE;
	change.mode = Max((int) m->mode, RowOwnLock(&m->s));
	change.entry.xid = GetCurrentTransactionId();
	change.entry.cid = m->cid;
	if (tag >= 0)
	{
		InPlaceChange(m, u, &change, tag);
		OrbitTidSet(newtid, m->s.page, m->s.slot, tag);
	}
	else
	{
		NewRowChange(m, u, &change, &mark);
		OrbitTidSet(newtid, u->new_row.page, u->new_row.slot, 0);
	}
	if (change.mode == LockTupleExclusive)
		change.entry.kind_flags |= CODEC_KEYS_UPDATED;

	identity = SetOldImage(m, &change, u->old, u->changes_identity);
	CheckForSerializableConflictIn(m->rel, &m->tid, m->s.page);
	if (tag >= 0)
		OrbitStopPoint("row_update");
	else
		OrbitStopPoint("row_update_new_row");
	done = RowPush(m->rel, &m->s, &change);
	if (identity != NULL && identity != u->old)
		heap_freetuple(identity);
	return done;
}

/*
 * What the system column xmax of the new version shows: as heap, a lock that stays in force.
 * INSERT ... ON CONFLICT ... RETURNING xmax = 0 tells inserted rows from updated ones by it.
 */
static TransactionId
RemainingLocker(const RowState *s)
{
	return s->nholders > 0 ? s->holders[0].xid : InvalidTransactionId;
}

static TM_Result
UpdateRow(RowModify *m, RowUpdating *u, ItemPointer newtid, bool *in_place,
		  TransactionId *locker)
{
	bool		need_toast = RowNeedsToast(m->rel, u->new, u->old);
	int			tag;

	for (;;)
	{
		TM_Result	result = ExamineAndDecide(m);

		if (result != TM_Ok)
			return result;
		tag = u->changes_index ? -1 : RowNextTag(&m->s);
		/* not the lock that we take for the sake of TOAST */
		if (!u->toasted)
			*locker = RemainingLocker(&m->s);
		RowStateClose(&m->s);
		if (need_toast && !u->toasted)
		{
			/* the lock is on the row now: read it again */
			(void) ToastNew(m, u);
			continue;
		}
		if (WriteUpdate(m, u, tag, newtid))
			break;
	}
	*in_place = tag >= 0;
	return TM_Ok;
}

TM_Result
RowUpdate(Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid,
		  Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd,
		  LockTupleMode *lockmode, bool *update_indexes)
{
	TransactionId xid = GetCurrentTransactionId();
	TransactionId locker = InvalidTransactionId;
	ItemPointerData newtid;
	RowModify	m;
	RowUpdating u;
	TM_Result	result = TM_Deleted;
	bool		in_place;

	RefuseInParallel(true);
	*update_indexes = false;
	BeginModify(&m, rel, otid, cid, crosscheck, wait, true, tmfd);
	if (BeginUpdate(&m, &u, slot))
		result = UpdateRow(&m, &u, &newtid, &in_place, &locker);
	*lockmode = m.mode;
	if (result != TM_Ok)
	{
		EndUpdate(&u);
		return FailModify(&m, result);
	}

	CheckForSerializableConflictIn(rel, &m.tid, m.s.page);
	EndModify(&m);
	pgstat_count_heap_update(rel, in_place);
	EndUpdate(&u);
	*update_indexes = !in_place;
	RowSlotStored(slot, rel, &newtid, xid, cid, locker);
	return TM_Ok;
}
