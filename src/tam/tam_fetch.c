/*
 * tam_fetch.c: rows by index entry.
 *
 * Neighbours in an index are often neighbours in the table.  Who has fetched two rows of one page in a row
 * takes the page as it is, if it lies in shared memory and no write buffer has anything of it, and fetches
 * what follows from there: no view, no search in the write buffers, no copy of the row.
 *
 * That is right for one snapshot.  What is written to the page after it has been taken is of a transaction
 * that the snapshot, which is older, does not see, or of a later command of our own.  Other snapshots than
 * MVCC's look at what is true now, and a serializable transaction at who writes after it; they have no use of
 * it.
 */
#include "postgres.h"

#include "access/xact.h"

#include "tam/tam_internal.h"

/* What tells a snapshot from another one that was taken in the same memory. */
typedef struct SnapshotStamp
{
	Snapshot	snapshot;
	TransactionId xmin;
	TransactionId xmax;
	uint32		xcnt;
	int32		subxcnt;
	bool		suboverflowed;
	CommandId	curcid;
} SnapshotStamp;

typedef struct TamFetch
{
	IndexFetchTableData base;
	OrbitStorageId storage;
	BlockNumber last;			/* page of the row fetched last */
	RowPage    *page;			/* NULL: none is kept */
	BlockNumber pageno;			/* of page */
	SnapshotStamp stamp;		/* for whom it was taken */
	TransactionId seen_xid;		/* committed before that snapshot; 0: none known */
} TamFetch;

static void
LetGo(TamFetch *f)
{
	RowPage    *page = f->page;

	f->page = NULL;
	f->last = InvalidBlockNumber;
	if (page != NULL)
		RowPageRelease(page);
}

IndexFetchTableData *
TamFetchBegin(Relation rel)
{
	TamFetch   *f = palloc0(sizeof(TamFetch));

	f->base.rel = rel;
	f->last = InvalidBlockNumber;
	return &f->base;
}

void
TamFetchReset(IndexFetchTableData *fetch)
{
	LetGo((TamFetch *) fetch);
}

void
TamFetchEnd(IndexFetchTableData *fetch)
{
	LetGo((TamFetch *) fetch);
	pfree(fetch);
}

/*
 * The ids themselves need no look: with bounds and numbers the same nothing has ended meanwhile, for what
 * begins has an id from xmax on.  (On a standby all of them are in subxip.)
 */
static inline bool
IsSame(const SnapshotStamp *stamp, Snapshot snapshot)
{
	return stamp->snapshot == snapshot && stamp->xmin == snapshot->xmin && stamp->xmax == snapshot->xmax &&
		stamp->xcnt == snapshot->xcnt && stamp->subxcnt == snapshot->subxcnt &&
		stamp->suboverflowed == snapshot->suboverflowed && stamp->curcid == snapshot->curcid;
}

/* A cursor may have stood here for so long that the commit log has forgotten the page's transactions. */
static inline bool
HasPage(TamFetch *f, BlockNumber pageno, Snapshot snapshot)
{
	return f->page != NULL && f->pageno == pageno && IsSame(&f->stamp, snapshot) &&
		StorePageFatesKnown(&f->page->page);
}

/* A slot may still refer to the page before. */
static bool
TakePage(TamFetch *f, BlockNumber pageno, Snapshot snapshot)
{
	LetGo(f);
	f->last = pageno;
	if (f->storage == ORBIT_INVALID_STORAGE)
		f->storage = RowStorage(f->base.rel);
	f->page = RowPageAlloc();
	if (!StoreTryPage(f->storage, pageno, NULL, &f->page->page))
	{
		LetGo(f);
		return false;
	}
	f->pageno = pageno;
	f->stamp = (SnapshotStamp) {snapshot, snapshot->xmin, snapshot->xmax, snapshot->xcnt, snapshot->subxcnt,
	snapshot->suboverflowed, snapshot->curcid};
	f->seen_xid = InvalidTransactionId;
	return true;
}

static bool
FetchFromPage(TamFetch *f, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot, bool *all_dead)
{
	const CodecPage *image = &f->page->page.image;
	const CodecEntry *e;
	RowVersion	v;
	StoreChain	c;
	int			chain;

	TamCountPage(f->base.rel, store_rocks_pages);
	if (all_dead != NULL)
		*all_dead = false;
	e = CodecPageFind(image, OrbitTidSlot(tid), &chain);
	if (e == NULL)
		return false;
	if (CodecIsVersion(e) && TamDecidedAtOnce(snapshot, e, &f->seen_xid))
		TamSeenVersion(e, f->pageno, OrbitTidSlot(tid), &v);
	else
	{
		StoreChainOpenPage(&c, f->storage, f->pageno, image, chain);
		if (!RowVisible(&c, f->base.rel, snapshot, &v, all_dead))
			return false;
	}
	RowStoreSlot(slot, f->base.rel, &v, f->page);
	*tid = v.tid;
	return true;
}

/* One version of a row at most: versions of a row never differ in an indexed column. */
bool
TamFetchTuple(IndexFetchTableData *fetch, ItemPointer tid, Snapshot snapshot,
			  TupleTableSlot *slot, bool *call_again, bool *all_dead)
{
	TamFetch   *f = (TamFetch *) fetch;
	BlockNumber pageno = OrbitTidPage(tid);

	*call_again = false;
	if (snapshot->snapshot_type == SNAPSHOT_MVCC && !IsolationIsSerializable() && OrbitTidTag(tid) == 0 &&
		(HasPage(f, pageno, snapshot) || (f->last == pageno && TakePage(f, pageno, snapshot))))
		return FetchFromPage(f, tid, snapshot, slot, all_dead);
	f->last = pageno;
	return TamFetchVisible(fetch->rel, tid, snapshot, slot, all_dead);
}
