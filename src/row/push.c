/*
 * push.c: putting entries onto a row.
 *
 * The write has three steps.  The row was examined with a view open (state.c); now space is
 * reserved, with nothing held, for that may wait; then, under the switch lock and the lock
 * of the row's partition, it is checked that the row's newest entry in the active arena and that
 * arena itself are those examined, and the record is logged and published.  A new
 * entry in an older arena or in RocksDB is impossible, so what was examined still stands.  If the
 * check fails the caller examines again.
 *
 * Keeping chains short.  Everybody who wants a row reads its LOCK entries, and on the parent of
 * a busy foreign key they would pile up until the next flush.  A new entry links to the first
 * entry below the finished locks at the head of the chain, which so drop out.  Where running
 * locks stand in the way of that, and the walk has become long, they are carried:
 * logged once more above the new entry, which then says that nothing further down matters.
 * A lock met twice is one lock (same identity).
 */
#include "postgres.h"

#include "access/xact.h"

#include "membuf/membuf.h"
#include "row/row_internal.h"

#define CARRY_WALK		24		/* entries read before carrying pays */
#define CARRY_MAX		512		/* locks carried at once */

/* ---- new rows ------------------------------------------------------------------------ */

/* Nobody else knows the slots yet, so no row lock is needed. */
void
RowWriteFresh(Relation rel, OrbitStorageId storage, WalRowsKind kind,
			  const StoreItem *items, int n)
{
	MembufReservation r;
	WalRows		w;

	WalPrepareRows(&w, kind, rel, storage, items, n, NULL, 0, false);
	for (;;)
	{
		MembufReserve(&r, w.arena_cost);
		MembufEnterWrite();
		if (MembufReservationLive(&r))
			break;
		MembufLeaveWrite();
	}
	WalWriteRows(&w, kind, storage, &r, items, n);
	MembufLeaveWrite();
}

/* ---- rows that exist -------------------------------------------------------------------- */

static bool
Unchanged(MembufReservation *r, const RowState *s)
{
	MembufPage *page = MembufPageGet(r, s->storage, s->page);

	return MembufPageNewest(page, s->slot) == s->head;
}

/* One attempt: another arena, or another head, means that the row must be examined again. */
static bool
WriteChecked(WalRows *w, const RowState *s, WalRowsKind kind, const StoreItem *items, int n)
{
	LWLock	   *lock = StoreRowLock(s->storage, s->page, s->slot);
	MembufReservation r;
	bool		ok = false;

	MembufReserve(&r, w->arena_cost);
	OrbitStopPoint("row_before_push");
	MembufEnterWrite();
	if (MembufReservationLive(&r) && MembufActiveSeq() == s->seq)
	{
		LWLockAcquire(lock, LW_EXCLUSIVE);
		ok = Unchanged(&r, s);
		if (ok)
			WalWriteRows(w, kind, s->storage, &r, items, n);
		LWLockRelease(lock);
	}
	MembufLeaveWrite();
	return ok;
}

/* A lock of the entry's own transaction that the entry makes superfluous. */
static inline bool
Subsumed(TransactionId xid, LockTupleMode held, const StoreItem *entry, LockTupleMode mode)
{
	return xid == entry->xid && held <= mode;
}

static int
CountOthers(const RowState *s, const StoreItem *entry, LockTupleMode mode)
{
	int			n = 0;

	for (int i = 0; i < s->nholders; i++)
	{
		const RowHolder *h = &s->holders[i];

		if (!Subsumed(h->xid, h->mode, entry, mode))
			n++;
	}
	return n;
}

/*
 * The entry below which the chain goes on.  carry: live locks are carried, so all of the leading
 * ones may drop out.
 */
static const CodecEntry *
Below(const RowState *s, const StoreItem *entry, LockTupleMode mode, bool carry)
{
	for (int i = 0; !carry && i < s->nleads; i++)
	{
		const RowLead *lead = &s->leads[i];

		if (lead->live && !Subsumed(lead->xid, lead->mode, entry, mode))
			return lead->entry;
	}
	return s->after_leads;
}

static void
LockItem(StoreItem *item, BlockNumber page, int slot, const RowHolder *h)
{
	memset(item, 0, sizeof(*item));
	item->page = page;
	item->slot = slot;
	item->kind_flags = CODEC_LOCK;
	item->tag = h->mode;
	item->xid = h->xid;
	item->cid = h->cid;
}

/* Locks that stay in force beside the change, as items of the given row, oldest first. */
static int
CarryLocks(const RowState *s, const RowChange *change, bool others_only,
		   StoreItem *items, BlockNumber page, int slot)
{
	int			n = 0;

	for (int i = s->nholders - 1; i >= 0; i--)
	{
		const RowHolder *h = &s->holders[i];

		if (Subsumed(h->xid, h->mode, &change->entry, change->mode) ||
			(others_only && h->own))
			continue;
		LockItem(&items[n++], page, slot, h);
	}
	return n;
}

static int
BuildItems(const RowState *s, const RowChange *change, bool carry, StoreItem *items)
{
	StoreItem  *entry;
	int			n = 0;

	if (change->new_row != NULL)
	{
		items[n++] = *change->new_row;
		n += CarryLocks(s, change, true, items + n,
						change->new_row->page, change->new_row->slot);
	}
	entry = &items[n++];
	*entry = change->entry;
	entry->page = s->page;
	entry->slot = s->slot;
	entry->fresh = false;
	entry->below = Below(s, entry, change->mode, carry);
	if (carry)
		n += CarryLocks(s, change, false, items + n, s->page, s->slot);
	return n;
}

bool
RowPush(Relation rel, RowState *s, RowChange *change)
{
	CodecKind	kind = (CodecKind) (change->entry.kind_flags & CODEC_KIND_MASK);
	int			others = CountOthers(s, &change->entry, change->mode);
	bool		carry = others > 0 && others <= CARRY_MAX &&
		s->walked > CARRY_WALK + 4 * others &&
		(kind == CODEC_UPDATE || kind == CODEC_LOCK);
	StoreItem	few[2];			/* all there is without locks of others */
	StoreItem  *items = others == 0 ? few : palloc((2 + 2 * others) * sizeof(StoreItem));
	WalRows		w;
	bool		ok;
	int			n;

	Assert(!s->open);
	if ((others == 0 || carry) && (kind == CODEC_UPDATE || kind == CODEC_LOCK))
		change->entry.kind_flags |= CODEC_NO_LOCKERS;
	else
		change->entry.kind_flags &= ~CODEC_NO_LOCKERS;

	n = BuildItems(s, change, carry, items);
	WalPrepareRows(&w, change->kind, rel, s->storage, items, n,
				   change->old, change->oldlen, change->old_is_key);
	ok = WriteChecked(&w, s, change->kind, items, n);
	if (items != few)
		pfree(items);
	return ok;
}

bool
RowPushLock(Relation rel, RowState *s, CommandId cid, LockTupleMode mode)
{
	RowChange	change = {0};

	change.kind = WAL_LOCK;
	change.mode = mode;
	change.entry.kind_flags = CODEC_LOCK;
	change.entry.tag = mode;
	change.entry.xid = GetCurrentTransactionId();
	change.entry.cid = cid;
	OrbitStopPoint("row_lock");
	return RowPush(rel, s, &change);
}
