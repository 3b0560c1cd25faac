/*
 * files.c: what the SST files of a storage tell without being read: which pages may hold
 * rows that VACUUM has to look at, and from which transaction on entries are unfrozen.
 *
 * A file's summary was made when it was written, of all it holds; what follows from one is true
 * of every page in it.  Nothing is known of pages that lie in write buffers only: the
 * caller flushes first.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/transam.h"

#include "store/store_internal.h"

/* malloc'ed by KvListFiles; kept here so that an ERROR in between frees it next time. */
static KvFile *listed = NULL;

static int
ListFiles(OrbitStorageId storage)
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

void
StoreGetFileFacts(OrbitStorageId storage, StoreFileFacts *facts)
{
	int			n = ListFiles(storage);

	facts->known = true;
	facts->oldest_unfrozen = InvalidTransactionId;
	facts->ranges = palloc(Max(n, 1) * sizeof(StorePageRange));
	facts->nranges = 0;
	for (int i = 0; i < n; i++)
	{
		const KvFile *f = &listed[i];
		StorePageRange *r = &facts->ranges[facts->nranges];

		NoteUnfrozen(f, facts);
		if (!MayHoldDead(f))
			continue;
		r->first = f->first_storage == storage ? f->first_page : 0;
		r->last = f->last_storage == storage ? f->last_page : ORBIT_MAX_PAGE;
		facts->nranges++;
	}
	facts->nranges = UniteRanges(facts->ranges, facts->nranges);
	free(listed);
	listed = NULL;
}
