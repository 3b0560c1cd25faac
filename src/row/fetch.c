/*
 * fetch.c: one row by its TID.
 *
 * Index entries carry canonical TIDs (tag 0) and mean the row; slots and triggers carry
 * tagged TIDs and mean one version.  A view is open only while the chain is walked and
 * the image copied into the slot.  RowVisible sees to serializable transactions.
 *
 * RowFetchVisible may run under nbtree's leaf lock: everything it does in the store is
 * allowed there, and it waits for nothing.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/procarray.h"

#include "row/row_internal.h"

/* Offsets that no row of ours has: multiples of 256, and those reserved by PostgreSQL. */
static inline bool
TidIsOurs(const ItemPointerData *tid)
{
	return OrbitTidSlot(tid) != 0 && OrbitTidTag(tid) <= ORBIT_MAX_TAG;
}

bool
RowFetchVisible(Relation rel, ItemPointer tid, Snapshot snapshot,
				TupleTableSlot *slot, bool *all_dead)
{
	OrbitStorageId storage = RowStorage(rel);
	StoreView	view;
	StoreChain	chain;
	StoreCut	cut;
	RowVersion	v;
	bool		found;

	if (unlikely(!TidIsOurs(tid)))
	{
		if (all_dead)
			*all_dead = false;
		return false;
	}

	StoreViewOpen(&view);
	StoreChainOpen(&chain, &view, storage, OrbitTidPage(tid), OrbitTidSlot(tid));
	chain.cut = RowCut(&cut, snapshot, true);
	found = RowVisible(&chain, rel, snapshot, &v, all_dead);
	if (found)
	{
		RowStoreSlot(slot, rel, &v, NULL);
		*tid = v.tid;
	}
	StoreViewClose(&view);
	return found;
}

/* Does the snapshot see the version with exactly this tag? */
static bool
FindExact(StoreChain *chain, Relation rel, Snapshot snapshot, int tag, RowVersion *v)
{
	if (snapshot->snapshot_type == SNAPSHOT_ANY)
		return RowFindVersion(chain, tag, v);
	return RowVisible(chain, rel, snapshot, v, NULL) && OrbitTidTag(&v->tid) == tag;
}

bool
RowFetchExact(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot)
{
	OrbitStorageId storage = RowStorage(rel);
	StoreView	view;
	StoreChain	chain;
	RowVersion	v;
	bool		found;

	if (unlikely(!TidIsOurs(tid)))
		return false;

	StoreViewOpen(&view);
	StoreChainOpen(&chain, &view, storage, OrbitTidPage(tid), OrbitTidSlot(tid));
	found = FindExact(&chain, rel, snapshot, OrbitTidTag(tid), &v);
	if (found)
		RowStoreSlot(slot, rel, &v, NULL);
	StoreViewClose(&view);
	return found;
}

bool
RowFetchSystem(Relation rel, const ItemPointerData *tid, RowSystem *sys)
{
	OrbitStorageId storage = RowStorage(rel);
	StoreView	view;
	StoreChain	chain;
	RowVersion	v;
	bool		found;

	if (unlikely(!TidIsOurs(tid)))
		return false;

	StoreViewOpen(&view);
	StoreChainOpen(&chain, &view, storage, OrbitTidPage(tid), OrbitTidSlot(tid));
	found = RowFindVersion(&chain, OrbitTidTag(tid), &v);
	if (found)
	{
		sys->xmin = v.entry->xid;
		sys->cmin = v.entry->cid;
		sys->xmax = v.xmax;
		sys->cmax = v.cmax;
	}
	StoreViewClose(&view);
	return found;
}

/* The fate that lets an entry count: not aborted. */
static bool
EntryStands(const CodecEntry *e)
{
	if (e->kind_flags & CODEC_FROZEN)
		return true;			/* the commit log may no longer know it */
	return TransactionIdIsCurrentTransactionId(e->xid) ||
		TransactionIdIsInProgress(e->xid) ||
		TransactionIdDidCommit(e->xid);
}

/*
 * The row that an update put in this one's place: the newest entry that stands,
 * locks apart, must be a delete mark that names it.
 */
static bool
NextRow(StoreChain *chain, ItemPointer next)
{
	const CodecEntry *e;

	StoreChainRewind(chain);
	while ((e = StoreChainNext(chain)) != NULL)
	{
		CodecDelete mark;
		CodecKind	kind = CodecEntryKind(e);

		if (kind == CODEC_LOCK || kind == CODEC_CONFIRM || !EntryStands(e))
			continue;
		if (kind != CODEC_DELETE)
			return false;
		memcpy(&mark, e->payload, sizeof(mark));
		if (!(mark.flags & CODEC_DELETE_UPDATED) || mark.slot == 0)
			return false;
		OrbitTidSet(next, mark.page, mark.slot, 0);
		return true;
	}
	return false;
}

void
RowLatestTid(Relation rel, ItemPointer tid, Snapshot snapshot)
{
	OrbitStorageId storage = RowStorage(rel);
	ItemPointerData row = *tid;

	for (;;)
	{
		StoreView	view;
		StoreChain	chain;
		RowVersion	v;
		bool		more;

		if (!TidIsOurs(&row))
			return;
		CHECK_FOR_INTERRUPTS();
		StoreViewOpen(&view);
		StoreChainOpen(&chain, &view, storage, OrbitTidPage(&row), OrbitTidSlot(&row));
		if (RowVisible(&chain, rel, snapshot, &v, NULL))
			*tid = v.tid;
		more = NextRow(&chain, &row);
		StoreViewClose(&view);
		if (!more)
			return;
	}
}
