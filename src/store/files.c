/*
 * files.c: what the SST files of a storage tell without being read: which pages may hold
 * rows that VACUUM has to look at, from which transaction on entries are unfrozen, and where
 * there are pages at all.
 *
 * A file's summary was made when it was written, of all it holds; what follows from one is true
 * of every page in it.  Nothing is known of rows that lie in write buffers only, but where
 * their pages are: who asks for more flushes first.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/transam.h"
#include "miscadmin.h"

#include "store/store_internal.h"

/* So few pages are looked up one by one, if they are less than half of the numbers in question. */
#define EXACT_PAGES		16384

/* malloc'ed by KvListFiles; kept here so that an ERROR in between frees it next time. */
static KvFile *listed = NULL;

/* Pages in ascending order do not make more ranges than need be. */
static void
AddPage(StorePageMap *map, int *cap, BlockNumber page)
{
	StorePageRange *last = map->nranges > 0 ? &map->ranges[map->nranges - 1] : NULL;

	map->pages++;
	if (last != NULL && last->last + 1 == page)
	{
		last->last = page;
		return;
	}
	if (map->nranges == *cap)
	{
		*cap *= 2;
		map->ranges = repalloc(map->ranges, *cap * sizeof(StorePageRange));
	}
	map->ranges[map->nranges].first = map->ranges[map->nranges].last = page;
	map->nranges++;
}

/* Of every arena of the view: pages may be in files too, and in several arenas. */
static void
AddBuffered(StorePageMap *map, int *cap, const StoreView *view, OrbitStorageId storage)
{
	char		from[CODEC_PAGE_KEY_SIZE];

	CodecPageKey(from, storage, 0);
	for (uint64 seq = view->pin.oldest; seq <= view->pin.active; seq++)
	{
		MembufIter	it;
		BlockNumber page;
		bool		on_node;

		MembufIterInit(&it, seq);
		on_node = MembufIterSeek(&it, ORBIT_PG_DATA, from, sizeof(from));
		while (on_node && StoreArenaPage(&it, storage, &page))
		{
			CHECK_FOR_INTERRUPTS();
			AddPage(map, cap, page);
			on_node = MembufIterNext(&it);
		}
	}
}

/* buffered, if not NULL: of one view with the files, what write buffers have. */
static int
ListFiles(OrbitStorageId storage, StorePageMap *buffered, int *cap)
{
	StoreView	view;
	KvDb	   *db;
	KvStatus	st = {KV_OK, ""};
	uint64		generation;
	int			n = 0;

	free(listed);
	listed = NULL;
	StoreViewOpen(&view);
	db = StoreViewProve(&view, &generation);
	if (db != NULL)
		KvListFiles(db, storage, storage, &listed, &n, &st);
	if (st.code != KV_OK)
		StoreViewFailed(&st, "could not list the files of RocksDB storage");
	if (buffered != NULL)
		AddBuffered(buffered, cap, &view, storage);
	StoreViewClose(&view);
	return n;
}

/*
 * Rows that nobody can see any more leave a trace: a delete mark, a dead slot, an entry that is
 * neither frozen nor surely committed.  A file without any is of no interest.
 */
static bool
MayHoldDead(const KvFile *f)
{
	const CodecSummary *s = &f->summary;

	if (!f->has_summary || s->deletes > 0 || s->deadslots > 0)
		return true;
	if (s->unfrozen == 0)
		return false;
	/* a load by one transaction */
	return s->oldest_unfrozen != s->newest_unfrozen || s->doomed > 0 ||
		!TransactionIdDidCommit(s->oldest_unfrozen);
}

static int
CompareRanges(const void *a, const void *b)
{
	const StorePageRange *x = a;
	const StorePageRange *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* Ascending, and no two that touch. */
static int
UniteRanges(StorePageRange *ranges, int n)
{
	int			out = 0;

	qsort(ranges, n, sizeof(StorePageRange), CompareRanges);
	for (int i = 1; i < n; i++)
	{
		if (ranges[i].first <= ranges[out].last ||
			ranges[i].first - ranges[out].last == 1)
			ranges[out].last = Max(ranges[out].last, ranges[i].last);
		else
			ranges[++out] = ranges[i];
	}
	return n > 0 ? out + 1 : 0;
}

static void
NoteUnfrozen(const KvFile *f, StoreFileFacts *facts)
{
	if (!f->has_summary)
		facts->known = false;
	else if (f->summary.unfrozen > 0 &&
			 (!TransactionIdIsValid(facts->oldest_unfrozen) ||
			  TransactionIdPrecedes(f->summary.oldest_unfrozen, facts->oldest_unfrozen)))
		facts->oldest_unfrozen = f->summary.oldest_unfrozen;
}

static StorePageRange
RangeOf(const KvFile *f, OrbitStorageId storage)
{
	StorePageRange r;

	r.first = f->first_storage == storage ? f->first_page : 0;
	r.last = f->last_storage == storage ? f->last_page : ORBIT_MAX_PAGE;
	return r;
}

void
StoreGetFileFacts(OrbitStorageId storage, StoreFileFacts *facts)
{
	int			n = ListFiles(storage, NULL, NULL);

	facts->known = true;
	facts->oldest_unfrozen = InvalidTransactionId;
	facts->ranges = palloc(Max(n, 1) * sizeof(StorePageRange));
	facts->nranges = 0;
	for (int i = 0; i < n; i++)
	{
		const KvFile *f = &listed[i];

		NoteUnfrozen(f, facts);
		if (MayHoldDead(f))
			facts->ranges[facts->nranges++] = RangeOf(f, storage);
	}
	facts->nranges = UniteRanges(facts->ranges, facts->nranges);
	free(listed);
	listed = NULL;
}

/* ---- where there are pages ----------------------------------------------------------- */

/* Numbers from the page count on are none. */
static void
CountMap(StorePageMap *map, BlockNumber count)
{
	int			n = 0;

	map->pages = 0;
	for (int i = 0; i < map->nranges && map->ranges[i].first < count; i++)
	{
		map->ranges[i].last = Min(map->ranges[i].last, count - 1);
		map->pages += map->ranges[i].last - map->ranges[i].first + 1;
		n++;
	}
	map->nranges = n;
}

/* Reads all pages of the map; what is not there is taken out of it. */
static void
LookUpPages(OrbitStorageId storage, StorePageMap *map)
{
	StorePageMap exact = {0};
	int			cap = 64;

	exact.ranges = palloc(cap * sizeof(StorePageRange));
	for (int i = 0; i < map->nranges; i++)
	{
		StoreScan  *s = StoreScanBegin(storage, map->ranges[i].first, map->ranges[i].last,
									   false, NULL);
		BlockNumber page;

		while (StoreScanNext(s, &page, NULL))
		{
			CHECK_FOR_INTERRUPTS();
			AddPage(&exact, &cap, page);
		}
		StoreScanEnd(s);
	}
	pfree(map->ranges);
	*map = exact;
}

void
StoreGetPageMap(OrbitStorageId storage, StorePageMap *map)
{
	BlockNumber count = StorePageCount(storage);
	int			cap = 64;
	int			n;
	uint64		pages;
	bool		known = true;

	memset(map, 0, sizeof(*map));
	map->ranges = palloc(cap * sizeof(StorePageRange));
	n = ListFiles(storage, map, &cap);
	pages = map->pages;
	map->ranges = repalloc(map->ranges, (map->nranges + n + 1) * sizeof(StorePageRange));
	for (int i = 0; i < n; i++)
	{
		map->ranges[map->nranges++] = RangeOf(&listed[i], storage);
		pages += listed[i].summary.pages;
		known = known && listed[i].has_summary;
	}
	free(listed);
	listed = NULL;
	map->nranges = UniteRanges(map->ranges, map->nranges);
	CountMap(map, count);
	if (known && pages <= EXACT_PAGES && pages < map->pages / 2)
		LookUpPages(storage, map);
	map->before = palloc(Max(map->nranges, 1) * sizeof(BlockNumber));
	for (int i = 0; i < map->nranges; i++)
		map->before[i] = i == 0 ? 0 : map->before[i - 1] +
			(map->ranges[i - 1].last - map->ranges[i - 1].first + 1);
	/* a page of which several files or write buffers hold something counts for each */
	StoreNoteAbsent(storage, count - (known ? (BlockNumber) Min(map->pages, pages) : map->pages));
}

BlockNumber
StoreMapPage(const StorePageMap *map, BlockNumber i)
{
	int			low = 0;
	int			high = map->nranges - 1;

	Assert(i < map->pages);
	while (low < high)
	{
		int			middle = high - (high - low) / 2;

		if (map->before[middle] <= i)
			low = middle;
		else
			high = middle - 1;
	}
	return map->ranges[low].first + (i - map->before[low]);
}
