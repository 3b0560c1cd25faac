/*
 * tam_sample.c: scans that are told which pages, or which rows of them, to visit: bitmap
 * heap scans, TABLESAMPLE and ANALYZE.
 */
#include "postgres.h"

#include "access/tsmapi.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "pgstat.h"
#include "storage/predicate.h"

#include "tam/tam_internal.h"

/* Up to so many rows of a page that would have to be copied are fetched one by one. */
#define BITMAP_SINGLE_ROWS		4

/* ---- bitmap heap scan ---------------------------------------------------------- */

/* The next row of the page that the bitmap wants: all of them on a lossy page. */
static bool
BitmapNextChain(TamScan *s, TBMIterateResult *tbmres)
{
	if (tbmres->ntuples < 0)
		return ++s->chain < s->page->page.image.nchains;
	while (s->bitmap_next < tbmres->ntuples)
	{
		int			offset = tbmres->offsets[s->bitmap_next++];

		if (offset <= ORBIT_MAX_SLOT &&
			CodecPageFind(&s->page->page.image, offset, &s->chain) != NULL)
			return true;
	}
	return false;
}

/* As in a sequential scan, what is seen is decided when the page is read. */
static bool
BitmapDecide(TamScan *s, TBMIterateResult *tbmres)
{
	TamDecideBegin(s);
	while (BitmapNextChain(s, tbmres))
		TamDecideRow(s, s->chain);
	s->chain = -1;
	return s->nvisible > 0;
}

/*
 * Bitmaps hold canonical TIDs, so an exact page lists slots.  Of rows that are fetched one by one visibility
 * is looked at in TamBitmapNextTuple.
 */
bool
TamBitmapNextBlock(TableScanDesc scan, struct TBMIterateResult *tbmres)
{
	TamScan    *s = (TamScan *) scan;
	BlockNumber pageno = tbmres->blockno;

	/* the executor asks for rows of a page that is passed over, too: there are none */
	s->bitmap_next = 0;
	s->bitmap_single = false;
	s->page_valid = false;

	/*
	 * Pages begun after the scan hold nothing that the snapshot sees.  A serializable
	 * transaction must look all the same, for what it passes over is a conflict.  It also
	 * fetches the rows of exact pages one by one, so that it locks no more than these.
	 */
	if (!IsolationIsSerializable() && pageno >= s->npages)
		return false;

	s->pageno = pageno;
	if (!IsolationIsSerializable() && TamTryPage(s, pageno))
		return s->plain || BitmapDecide(s, tbmres);
	s->bitmap_single = tbmres->ntuples >= 0 &&
		(tbmres->ntuples <= BITMAP_SINGLE_ROWS || IsolationIsSerializable());
	if (s->bitmap_single)
		return true;

	/* a predicate lock must precede the reading of what it protects */
	PredicateLockPage(s->rel, pageno, s->base.rs_snapshot);
	return TamLoadPage(s, pageno) && (s->plain || BitmapDecide(s, tbmres));
}

static bool
BitmapNextSingle(TamScan *s, TBMIterateResult *tbmres, TupleTableSlot *slot)
{
	while (s->bitmap_next < tbmres->ntuples)
	{
		ItemPointerData tid;

		ItemPointerSet(&tid, s->pageno, tbmres->offsets[s->bitmap_next++]);
		if (TamFetchVisible(s->rel, &tid, s->base.rs_snapshot, slot, NULL))
			return true;
	}
	return false;
}

static bool
BitmapNextOfPage(TamScan *s, TBMIterateResult *tbmres, TupleTableSlot *slot)
{
	if (!s->page_valid)
		return false;
	if (s->plain)
	{
		if (!BitmapNextChain(s, tbmres))
			return false;
		TamStorePlain(s, s->chain, slot);
		return true;
	}
	if (++s->chain >= s->nvisible)
		return false;
	RowStoreSlot(slot, s->rel, &s->visible[s->chain], s->page);
	return true;
}

bool
TamBitmapNextTuple(TableScanDesc scan, struct TBMIterateResult *tbmres, TupleTableSlot *slot)
{
	TamScan    *s = (TamScan *) scan;
	bool		found;

	if (s->bitmap_single)
		found = BitmapNextSingle(s, tbmres, slot);
	else
		found = BitmapNextOfPage(s, tbmres, slot);
	if (found)
		pgstat_count_heap_fetch(s->rel);
	else
		ExecClearTuple(slot);	/* lets go of the page before the next is loaded */
	return found;
}

/* ---- TABLESAMPLE ------------------------------------------------------------------ */

bool
TamSampleNextBlock(TableScanDesc scan, SampleScanState *scanstate)
{
	TamScan    *s = (TamScan *) scan;
	TsmRoutine *tsm = scanstate->tsmroutine;
	BlockNumber pageno;

	if (s->npages == 0)
		return false;
	if (!tsm->NextSampleBlock)
	{
		if (!TamNextPage(s, false))
			return false;
		TamDecidePage(s);
		return true;
	}

	pageno = tsm->NextSampleBlock(scanstate, s->npages);
	if (!BlockNumberIsValid(pageno))
		return false;
	/* a page that is gone is an empty page to the sampling method */
	if (TamLoadPage(s, pageno))
		TamDecidePage(s);
	return true;
}

/* What is seen of the row in this slot of the page, or NULL. */
static const RowVersion *
SampledVersion(const TamScan *s, int slot)
{
	for (int i = 0; i < s->nvisible; i++)
	{
		if (OrbitTidSlot(&s->visible[i].tid) == slot)
			return &s->visible[i];
	}
	return NULL;
}

bool
TamSampleNextTuple(TableScanDesc scan, SampleScanState *scanstate, TupleTableSlot *slot)
{
	TamScan    *s = (TamScan *) scan;
	TsmRoutine *tsm = scanstate->tsmroutine;
	int			maxoffset = 0;

	if (s->page_valid && s->page->page.image.nchains > 0)
		(void) CodecPageChain(&s->page->page.image, s->page->page.image.nchains - 1, &maxoffset);

	for (;;)
	{
		OffsetNumber offset;
		const RowVersion *v;

		CHECK_FOR_INTERRUPTS();
		offset = tsm->NextSampleTuple(scanstate, s->pageno, maxoffset);
		if (!OffsetNumberIsValid(offset))
			break;
		v = offset <= maxoffset ? SampledVersion(s, offset) : NULL;
		if (v == NULL)
			continue;
		RowStoreSlot(slot, s->rel, v, s->page);
		pgstat_count_heap_getnext(s->rel);
		return true;
	}
	ExecClearTuple(slot);
	return false;
}

/* ---- ANALYZE ------------------------------------------------------------------------- */

/*
 * PostgreSQL draws block numbers from all pages ever begun.  Where most of those are gone (a queue,
 * a table of which the older part was deleted) it would meet none of the rest.  So each
 * number drawn stands for one of the pages that are left: numbers 0 to P - 1 are divided evenly
 * among the n of them, in order.
 *
 * A page is met once for each of its numbers that is drawn.  Its rows are offered to the sample the
 * first time only, or they would seem to be repeated.  But they are counted each time, as 1 / k of a
 * row where k is how many numbers the page has: PostgreSQL multiplies what it counts by P / numbers
 * drawn, so the expectation is the number of rows, and where all are drawn the count is exact.
 */
typedef struct TamAnalyze
{
	bool		mapped;			/* false: a number stands for itself */
	StorePageMap map;
	BlockNumber rank;			/* of the page, among those left */
	double		weight;			/* 1 / numbers of the page */
	bool		again;			/* it has been offered */
	double		live;			/* what it counts for */
	double		dead;
} TamAnalyze;

bool
TamSampleMap(TamScan *s, StorePageMap *map)
{
	if (s->npages < TAM_MAP_MIN_PAGES)
		return false;
	StoreGetPageMap(s->storage, map);
	if (map->pages < s->npages / 2)
		return true;
	pfree(map->ranges);
	pfree(map->before);
	return false;
}

static TamAnalyze *
AnalyzeBegin(TamScan *s)
{
	TamAnalyze *a = MemoryContextAllocZero(s->context, sizeof(TamAnalyze));
	MemoryContext old = MemoryContextSwitchTo(s->context);

	a->weight = 1;
	a->rank = InvalidBlockNumber;
	a->mapped = TamSampleMap(s, &a->map);
	MemoryContextSwitchTo(old);
	return a;
}

/* The first of the numbers that stand for the page of this rank: the least b with b * n / P >= rank. */
static uint64
FirstNumber(const TamScan *s, BlockNumber rank)
{
	uint64		n = s->analyze->map.pages;

	return ((uint64) rank * s->npages + n - 1) / n;
}

void
TamAnalyzeEnd(TamScan *s)
{
	if (s->analyze != NULL && s->analyze->mapped)
	{
		pfree(s->analyze->map.ranges);
		pfree(s->analyze->map.before);
	}
	if (s->analyze != NULL)
		pfree(s->analyze);
	s->analyze = NULL;
}

bool
TamAnalyzeNextBlock(TableScanDesc scan, BlockNumber blockno, BufferAccessStrategy bstrategy)
{
	TamScan    *s = (TamScan *) scan;
	TamAnalyze *a = s->analyze;
	BlockNumber rank;

	if (a == NULL)
		a = s->analyze = AnalyzeBegin(s);
	if (!a->mapped)
		return TamLoadPage(s, blockno);
	if (a->map.pages == 0 || blockno >= s->npages)
		return false;
	rank = (BlockNumber) ((uint64) blockno * a->map.pages / s->npages);
	a->again = rank == a->rank;
	if (a->again)
		return a->live > 0 || a->dead > 0;
	a->rank = rank;
	a->weight = 1.0 / (FirstNumber(s, rank + 1) - FirstNumber(s, rank));
	a->live = a->dead = 0;
	return TamLoadPage(s, StoreMapPage(&a->map, rank));
}

typedef struct AnalyzeRow
{
	double		live;
	double		dead;
	bool		sampled;
	RowVersion	sample;
} AnalyzeRow;

/*
 * Each version counts as heap counts each tuple: a transaction in progress has not happened
 * yet, unless it is our own, which has.  So at most one version of a row is sampled.
 */
static bool
CountForAnalyze(const RowVersionStatus *s, void *arg)
{
	AnalyzeRow *row = arg;
	bool		live = false;

	switch (s->status)
	{
		case ROW_LIVE:
			live = true;
			break;
		case ROW_DEAD:
		case ROW_RECENTLY_DEAD:
			row->dead += 1;
			break;
		case ROW_INSERT_IN_PROGRESS:
			live = TransactionIdIsCurrentTransactionId(s->running);
			break;
		case ROW_DELETE_IN_PROGRESS:
			live = !TransactionIdIsCurrentTransactionId(s->running);
			if (!live)
				row->dead += 1;
			break;
	}
	if (live)
	{
		row->live += 1;
		if (!row->sampled)
			row->sample = s->v;
		row->sampled = true;
	}
	return true;
}

bool
TamAnalyzeNextTuple(TableScanDesc scan, TransactionId oldest_xmin,
					double *liverows, double *deadrows, TupleTableSlot *slot)
{
	TamScan    *s = (TamScan *) scan;
	TamAnalyze *a = s->analyze;

	while (!a->again && ++s->chain < s->page->page.image.nchains)
	{
		AnalyzeRow	row = {0};
		StoreChain	c;

		TamOpenRow(s, s->chain, &c);
		RowForEachVersion(&c, oldest_xmin, CountForAnalyze, &row);
		a->live += row.live * a->weight;
		a->dead += row.dead * a->weight;
		*liverows += row.live * a->weight;
		*deadrows += row.dead * a->weight;
		if (row.sampled)
		{
			RowStoreSlot(slot, s->rel, &row.sample, s->page);
			return true;
		}
	}
	if (a->again)
	{
		*liverows += a->live;
		*deadrows += a->dead;
	}
	ExecClearTuple(slot);
	return false;
}
