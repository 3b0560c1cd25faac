/*
 * tam_scan.c: scans over pages: sequential (both directions), by TID range, and the share of
 * one process in a parallel scan.
 *
 * A page is taken out of the store as a whole, copied or pinned in shared memory, and never changes
 * afterwards: no view or lock is held between two calls, however long a cursor stays open.  Slots point
 * into the page and keep it alive.  PostgreSQL's snapshot, not the moment of copying,
 * decides what is visible.
 *
 * Pages begun after the scan started need no visit: their rows belong to transactions that
 * the snapshot does not see, or to commands of our own after it.
 */
#include "postgres.h"

#include "access/skey.h"
#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/predicate.h"
#include "utils/snapmgr.h"

#include "tam/tam_internal.h"

/*
 * A parallel scan is cut into about so many ranges, as PostgreSQL does, but without its upper limit for
 * a range: that serves synchronized scans, and where page numbers reach far it makes ranges without
 * end.  A worker takes at least PARALLEL_MIN_CHUNK pages at once of a table with four times as many per
 * 8 workers: opening a range costs about as much as reading one page.
 */
#define PARALLEL_RANGES			2048
#define PARALLEL_MIN_CHUNK		8
#define PARALLEL_SMALL_TABLE	256

/* How far ahead of the row looked at memory is fetched; other distances have not been measured. */
#define PREFETCH_ROWS			8

/* ---- life ------------------------------------------------------------------- */

static void
ClosePages(TamScan *s)
{
	StoreScan  *pages = s->pages;

	s->pages = NULL;
	if (pages)
		StoreScanEnd(pages);
}

/* Start, or start over: what a rescan does not keep. */
static void
ResetPosition(TamScan *s, struct ScanKeyData *key)
{
	ClosePages(s);
	s->npages = StorePageCount(s->storage);
	s->first = 0;
	s->end = s->npages;
	s->inited = false;
	s->backward = false;
	s->page_valid = false;
	s->pageno = InvalidBlockNumber;
	s->chain = -1;
	s->seen_xid = InvalidTransactionId;
	s->bitmap_next = 0;
	s->bitmap_single = false;
	ItemPointerSetInvalid(&s->base.rs_mintid);
	ItemPointerSetInvalid(&s->base.rs_maxtid);
	if (key != NULL && s->base.rs_nkeys > 0)
		memcpy(s->base.rs_key, key, s->base.rs_nkeys * sizeof(ScanKeyData));
	if (s->base.rs_flags & SO_TYPE_SEQSCAN)
		pgstat_count_heap_scan(s->rel);
}

TableScanDesc
TamScanBegin(Relation rel, Snapshot snapshot, int nkeys, struct ScanKeyData *key,
			 ParallelTableScanDesc parallel, uint32 flags)
{
	OrbitStorageId storage = RowStorage(rel);
	TamScan    *s = palloc0(sizeof(TamScan));

	s->context = CurrentMemoryContext;
	s->rel = rel;
	s->storage = storage;
	s->base.rs_snapshot = snapshot;
	s->base.rs_nkeys = nkeys;
	s->base.rs_flags = flags;
	s->base.rs_parallel = parallel;
	if (nkeys > 0)
		s->base.rs_key = palloc(nkeys * sizeof(ScanKeyData));

	/* the caller has the relation open; make sure of it until scan_end */
	RelationIncrementReferenceCount(rel);
	if (flags & (SO_TYPE_BITMAPSCAN | SO_TYPE_ANALYZE))
		s->base.rs_rd = TamPrefetchProxy(rel);
	else
		s->base.rs_rd = rel;

	/* what such a scan reads cannot be named more finely than the table */
	if (flags & (SO_TYPE_SEQSCAN | SO_TYPE_SAMPLESCAN | SO_TYPE_TIDRANGESCAN))
		PredicateLockRelation(rel, snapshot);

	ResetPosition(s, key);
	return &s->base;
}

void
TamScanEnd(TableScanDesc scan)
{
	TamScan    *s = (TamScan *) scan;

	ClosePages(s);
	if (s->page)
		RowPageRelease(s->page);
	if (s->visible)
		pfree(s->visible);
	TamAnalyzeEnd(s);
	if (scan->rs_rd != s->rel)
		pfree(scan->rs_rd);
	if (scan->rs_key)
		pfree(scan->rs_key);
	if (scan->rs_flags & SO_TEMP_SNAPSHOT)
		UnregisterSnapshot(scan->rs_snapshot);
	RelationDecrementReferenceCount(s->rel);
	pfree(s);
}

/* The parameters ask for buffer strategy, sync and page mode: nothing to us. */
void
TamScanRescan(TableScanDesc scan, struct ScanKeyData *key, bool set_params,
			  bool allow_strat, bool allow_sync, bool allow_pagemode)
{
	ResetPosition((TamScan *) scan, key);
}

/*
 * Ranges are handed out from page 0 up: a worker then reads each range with one ordered scan
 * of the store, which a start in the middle would cut in two.
 */
Size
TamParallelScanInitialize(Relation rel, ParallelTableScanDesc pscan)
{
	Size		size = table_block_parallelscan_initialize(rel, pscan);

	pscan->phs_syncscan = false;
	return size;
}

/* ---- pages ------------------------------------------------------------------- */

/* A page that no slot refers to. */
static StorePage *
PageBuffer(TamScan *s)
{
	s->page_valid = false;
	if (s->page != NULL && s->page->refcount > 1)
	{
		RowPage    *shared = s->page;

		s->page = NULL;
		RowPageRelease(shared);
	}
	if (s->page == NULL)
		s->page = RowPageAlloc();
	return &s->page->page;
}

/*
 * A whole page is decided on when it is read, as heap does: a cursor may stand in it for so long that the
 * commit log forgets its transactions.  Other snapshots than MVCC's see what happens meanwhile.
 */
static bool
DecidesByPage(const TamScan *s)
{
	return s->base.rs_snapshot != NULL && s->base.rs_snapshot->snapshot_type == SNAPSHOT_MVCC;
}

/*
 * The snapshot sees every row.  A serializable transaction looks at all that is not frozen, as in
 * TamDecidedAtOnce.
 */
static bool
SeesAll(const TamScan *s)
{
	const StorePage *page = &s->page->page;

	if (!page->plain || !DecidesByPage(s))
		return false;
	return !TransactionIdIsValid(page->newest) ||
		(!IsolationIsSerializable() && TransactionIdPrecedes(page->newest, s->base.rs_snapshot->xmin));
}

static void
OpenPage(TamScan *s)
{
	s->plain = SeesAll(s);
	s->page_valid = true;
	s->chain = s->backward ? s->page->page.image.nchains : -1;
}

void
TamSetRange(TamScan *s, BlockNumber first, BlockNumber end)
{
	s->first = first;
	s->end = Min(end, s->npages);
}

bool
TamTryPage(TamScan *s, BlockNumber pageno)
{
	StorePage  *buf = PageBuffer(s);
	StoreCut	cut;

	s->pageno = pageno;
	if (!StoreTryPage(s->storage, pageno, RowCut(&cut, s->base.rs_snapshot, false), buf))
		return false;
	TamCountPage(s->rel, store_rocks_pages);
	OpenPage(s);
	return true;
}

bool
TamLoadPage(TamScan *s, BlockNumber pageno)
{
	StorePage  *buf = PageBuffer(s);
	StoreCut	cut;
	uint64		before = store_rocks_pages;
	bool		found;

	s->pageno = pageno;
	found = StoreReadPage(s->storage, pageno, RowCut(&cut, s->base.rs_snapshot, false), buf);
	TamCountPage(s->rel, before);
	if (!found)
		return false;
	OpenPage(s);
	return true;
}

/* The store's scan frees itself with the context it was made in, so that must last. */
static void
OpenRange(TamScan *s, BlockNumber first, BlockNumber last)
{
	MemoryContext old = MemoryContextSwitchTo(s->context);
	StoreCut	cut;

	ClosePages(s);
	s->pages = StoreScanBegin(s->storage, first, last, s->backward, RowCut(&cut, s->base.rs_snapshot, false));
	if (s->once)
		StoreScanOnce(s->pages);
	MemoryContextSwitchTo(old);
}

static bool
NextOfRange(TamScan *s)
{
	StorePage  *buf = PageBuffer(s);
	uint64		before = store_rocks_pages;

	if (!StoreScanNext(s->pages, &s->pageno, buf))
	{
		ClosePages(s);
		return false;
	}
	TamCountPage(s->rel, before);
	OpenPage(s);
	return true;
}

/* Opens the range of a serial scan that starts, or that turns round at page pageno. */
static bool
StartRange(TamScan *s, bool backward)
{
	BlockNumber first = s->first;
	BlockNumber end = s->end;

	if (s->inited && backward)
		end = s->pageno;
	else if (s->inited)
		first = s->pageno + 1;
	s->inited = true;
	s->backward = backward;
	if (first >= end)
		return false;
	OpenRange(s, first, end - 1);
	return true;
}

/* As heap does: behind the end a scan starts over, from the side it is asked to come from. */
static bool
EndOfScan(TamScan *s)
{
	ClosePages(s);
	s->inited = false;
	s->page_valid = false;
	return false;
}

static bool
NextSerialPage(TamScan *s, bool backward)
{
	if (!s->inited || s->backward != backward || s->pages == NULL)
	{
		if (!StartRange(s, backward))
			return EndOfScan(s);
	}
	if (!NextOfRange(s))
		return EndOfScan(s);
	return true;
}

/*
 * A worker's next range is a whole chunk of PostgreSQL's page allocator: we take its first
 * page and mark the rest of the chunk as handed out.
 */
static bool
NextParallelRange(TamScan *s, BlockNumber *first, BlockNumber *last)
{
	ParallelBlockTableScanDesc shared = (ParallelBlockTableScanDesc) s->base.rs_parallel;
	ParallelBlockTableScanWorker worker = &s->worker;
	uint32		more;

	if (!s->inited)
	{
		table_block_parallelscan_startblock_init(s->rel, worker, shared);
		worker->phsw_chunk_size = pg_nextpower2_32(Max(shared->phs_nblocks / PARALLEL_RANGES, 1));
		if (shared->phs_nblocks >= PARALLEL_SMALL_TABLE)
			worker->phsw_chunk_size = Max(worker->phsw_chunk_size, PARALLEL_MIN_CHUNK);
		s->inited = true;
	}
	*first = table_block_parallelscan_nextpage(s->rel, worker, shared);
	if (*first == InvalidBlockNumber)
		return false;
	more = worker->phsw_chunk_remaining;
	worker->phsw_nallocated += more;
	worker->phsw_chunk_remaining = 0;
	*last = (BlockNumber) Min((uint64) *first + more, (uint64) shared->phs_nblocks - 1);
	return true;
}

static bool
NextParallelPage(TamScan *s)
{
	for (;;)
	{
		BlockNumber first;
		BlockNumber last;

		if (s->pages != NULL && NextOfRange(s))
			return true;
		CHECK_FOR_INTERRUPTS();
		if (!NextParallelRange(s, &first, &last))
			return EndOfScan(s);
		if (first < last)
			OpenRange(s, first, last);
		else if (TamLoadPage(s, first))
			return true;
	}
}

bool
TamNextPage(TamScan *s, bool backward)
{
	CHECK_FOR_INTERRUPTS();
	if (s->base.rs_parallel != NULL)
	{
		Assert(!backward);
		return NextParallelPage(s);
	}
	return NextSerialPage(s, backward);
}

/* ---- rows --------------------------------------------------------------------- */

int
TamOpenRow(TamScan *s, int chain, StoreChain *c)
{
	StoreChainOpenPage(c, s->storage, s->pageno, &s->page->page.image, chain);
	return c->slot;
}

static bool
WalkToVisible(TamScan *s, int chain, RowVersion *v)
{
	StoreChain	c;

	TamOpenRow(s, chain, &c);
	return RowVisible(&c, s->rel, s->base.rs_snapshot, v, NULL);
}

/* So does the newest entry of a row of which the store has found that, when it made the page. */
static inline bool
DecidedByStore(const TamScan *s, int slot)
{
	return StorePageHeadEnough(&s->page->page, slot) && !IsolationIsSerializable();
}

#ifdef USE_ASSERT_CHECKING
/* Not to be asked by a serializable transaction, which would lock the row. */
static bool
WalkAgrees(TamScan *s, int chain, RowVersion *version)
{
	RowVersion	v;

	if (!WalkToVisible(s, chain, &v))
		return version == NULL;
	return version != NULL && v.entry == version->entry && ItemPointerEquals(&v.tid, &version->tid) &&
		v.xmax == version->xmax && v.cmax == version->cmax;
}
#endif

bool
TamRowVisible(TamScan *s, int chain, RowVersion *v)
{
	const CodecEntry *e;
	int			slot;

	e = CodecPageChain(&s->page->page.image, chain, &slot);
	if (!DecidedByStore(s, slot) && !TamDecidedAtOnce(s->base.rs_snapshot, e, &s->seen_xid))
		return WalkToVisible(s, chain, v);
	if (!CodecIsVersion(e))
	{
		Assert(IsolationIsSerializable() || WalkAgrees(s, chain, NULL));
		return false;
	}
	TamSeenVersion(e, s->pageno, slot, v);
	Assert(IsolationIsSerializable() || WalkAgrees(s, chain, v));
	return true;
}

void
TamStorePlain(TamScan *s, int chain, TupleTableSlot *slot)
{
	int			slotno;
	const CodecEntry *e = CodecPageChain(&s->page->page.image, chain, &slotno);

	RowStorePlain(slot, s->rel, e, s->pageno, slotno, s->page);
}

/* Rows lie further apart than a processor looks ahead by itself. */
static inline void
LookAhead(TamScan *s, int chain)
{
	if (chain >= 0 && chain < s->page->page.image.nchains)
	{
		const CodecEntry *e = CodecPageChain(&s->page->page.image, chain, NULL);

		__builtin_prefetch(e);
		__builtin_prefetch(&e->tag);
	}
}

void
TamDecideBegin(TamScan *s)
{
	if (s->visible == NULL)
		s->visible = MemoryContextAlloc(s->context, ORBIT_MAX_SLOT * sizeof(RowVersion));
	s->nvisible = 0;
}

void
TamDecideRow(TamScan *s, int chain)
{
	if (TamRowVisible(s, chain, &s->visible[s->nvisible]))
		s->nvisible++;
}

void
TamDecidePage(TamScan *s)
{
	TamDecideBegin(s);
	for (int chain = 0; chain < s->page->page.image.nchains; chain++)
	{
		LookAhead(s, chain + PREFETCH_ROWS);
		TamDecideRow(s, chain);
	}
	s->chain = s->backward ? s->nvisible : -1;
}

/*
 * The next row of a page of which everybody sees every row.  It is not looked at unless the query does so;
 * columns of the row before have been read, so this one's are likely to be.
 */
static bool
NextPlain(TamScan *s, int step, TupleTableSlot *slot)
{
	bool		looks = slot->tts_nvalid > 0;

	s->chain += step;
	if (s->chain < 0 || s->chain >= s->page->page.image.nchains)
		return false;
	if (looks)
		LookAhead(s, s->chain + step * PREFETCH_ROWS);
	TamStorePlain(s, s->chain, slot);
	return true;
}

/* The next visible row of the page, in this direction. */
static bool
NextOfPage(TamScan *s, int step, RowVersion *v)
{
	if (!DecidesByPage(s))
	{
		for (s->chain += step; s->chain >= 0 && s->chain < s->page->page.image.nchains; s->chain += step)
		{
			if (TamRowVisible(s, s->chain, v))
				return true;
		}
		return false;
	}
	s->chain += step;
	if (s->chain < 0 || s->chain >= s->nvisible)
		return false;
	*v = s->visible[s->chain];
	return true;
}

/* Steps to the next visible row.  The slot lets go of the page before it is replaced. */
static bool
NextVersion(TamScan *s, bool backward, TupleTableSlot *slot)
{
	int			step = backward ? -1 : 1;

	for (;;)
	{
		RowVersion	v;

		if (s->page_valid && s->plain && NextPlain(s, step, slot))
			return true;
		if (s->page_valid && !s->plain && NextOfPage(s, step, &v))
		{
			RowStoreSlot(slot, s->rel, &v, s->page);
			return true;
		}
		s->page_valid = false;
		ExecClearTuple(slot);
		if (!TamNextPage(s, backward))
			return false;
		if (DecidesByPage(s) && !s->plain)
			TamDecidePage(s);
	}
}

static bool
KeysMatch(TamScan *s, TupleTableSlot *slot)
{
	for (int i = 0; i < s->base.rs_nkeys; i++)
	{
		ScanKey		key = &s->base.rs_key[i];
		bool		isnull;
		Datum		value;

		if (key->sk_flags & SK_ISNULL)
			return false;
		value = slot_getattr(slot, key->sk_attno, &isnull);
		if (isnull ||
			!DatumGetBool(FunctionCall2Coll(&key->sk_func, key->sk_collation,
											value, key->sk_argument)))
			return false;
	}
	return true;
}

static bool
NextSlot(TamScan *s, bool backward, TupleTableSlot *slot, bool in_range)
{
	while (NextVersion(s, backward, slot))
	{
		if (in_range &&
			(ItemPointerCompare(&slot->tts_tid, &s->base.rs_mintid) < 0 ||
			 ItemPointerCompare(&slot->tts_tid, &s->base.rs_maxtid) > 0))
			continue;
		if (s->base.rs_nkeys > 0 && !KeysMatch(s, slot))
			continue;
		pgstat_count_heap_getnext(s->rel);
		return true;
	}
	ExecClearTuple(slot);
	return false;
}

bool
TamScanGetNextSlot(TableScanDesc scan, ScanDirection direction, TupleTableSlot *slot)
{
	return NextSlot((TamScan *) scan, ScanDirectionIsBackward(direction), slot, false);
}

/* ---- TID ranges ------------------------------------------------------------------ */

/*
 * The range compares TIDs as users see them in ctid, tag included.  Within a page rows come in the
 * order of their slots, so a TID outside the range does not end the scan; only the
 * pages are limited.
 */
void
TamScanSetTidRange(TableScanDesc scan, ItemPointer mintid, ItemPointer maxtid)
{
	TamScan    *s = (TamScan *) scan;
	BlockNumber first = ItemPointerGetBlockNumberNoCheck(mintid);
	BlockNumber last = ItemPointerGetBlockNumberNoCheck(maxtid);

	ItemPointerCopy(mintid, &scan->rs_mintid);
	ItemPointerCopy(maxtid, &scan->rs_maxtid);
	if (s->npages == 0 || first >= s->npages || ItemPointerCompare(mintid, maxtid) > 0)
		TamSetRange(s, 0, 0);
	else
		TamSetRange(s, first, Min(last, s->npages - 1) + 1);
}

bool
TamScanGetNextSlotTidRange(TableScanDesc scan, ScanDirection direction, TupleTableSlot *slot)
{
	return NextSlot((TamScan *) scan, ScanDirectionIsBackward(direction), slot, true);
}
