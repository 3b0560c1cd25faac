/*
 * tam_index_delete.c: index_delete_tuples: which entries of one index page may go, and
 * which transactions' removal a standby must then know of.
 *
 * Called with the index page locked: at most a bounded number of rows is read, nothing is
 * waited for.
 *
 * A row that the store does not know was never committed: its WAL was lost in a crash.  Compaction
 * forgets a row only when VACUUM has removed its index entries; until then a dead slot tells
 * who ended it.
 */
#include "postgres.h"

#include "storage/procarray.h"
#include "utils/snapmgr.h"

#include "tam/tam_internal.h"

/* Bottom-up deletion looks at rows of so many pages, as heap does. */
#define BOTTOM_UP_PAGES			6

static int
CompareTids(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) &((const TM_IndexDelete *) a)->tid,
							  (ItemPointer) &((const TM_IndexDelete *) b)->tid);
}

/* Takes into account what the row has lost, or is to lose. */
static void
AdvanceRemovedXid(StoreChain *c, TransactionId next, TransactionId *latest)
{
	bool		whole;
	TransactionId removed = RowRemovedBy(c, next, &whole);

	TamNoteRemoved(latest, removed);
}

/* May the entry go?  Then *latest takes its row's removal into account. */
static bool
CheckEntry(Relation rel, OrbitStorageId storage, const ItemPointerData *tid, bool known,
		   Snapshot nonvacuumable, TransactionId next, TransactionId *latest)
{
	StoreView	view;
	StoreChain	c;
	RowVersion	v;
	bool		deletable;

	if (OrbitTidSlot(tid) == 0)
		return known;
	StoreViewOpen(&view);
	StoreChainOpen(&c, &view, storage, OrbitTidPage(tid), OrbitTidSlot(tid));
	deletable = known || !RowVisible(&c, rel, nonvacuumable, &v, NULL);
	if (deletable)
		AdvanceRemovedXid(&c, next, latest);
	StoreViewClose(&view);
	return deletable;
}

/* ---- bottom-up deletion ---------------------------------------------------------- */

typedef struct PageGroup
{
	int			first;
	int			n;
	int			promising;
} PageGroup;

static int
ComparePromise(const void *a, const void *b)
{
	const PageGroup *x = a;
	const PageGroup *y = b;

	if (x->promising != y->promising)
		return x->promising > y->promising ? -1 : 1;
	if (x->n != y->n)
		return x->n > y->n ? -1 : 1;
	return x->first < y->first ? -1 : 1;
}

/*
 * Sorts the entries so that the pages with the most promising ones come first, and leaves out
 * all but the best.  The index access method asked for what is cheap to find: most entries
 * will be kept anyway.
 */
static void
KeepBestPages(TM_IndexDeleteOp *op)
{
	PageGroup  *groups = palloc(op->ndeltids * sizeof(PageGroup));
	TM_IndexDelete *kept = palloc(op->ndeltids * sizeof(TM_IndexDelete));
	int			ngroups = 0;
	int			nkept = 0;

	for (int i = 0; i < op->ndeltids; i++)
	{
		if (i == 0 ||
			OrbitTidPage(&op->deltids[i].tid) != OrbitTidPage(&op->deltids[i - 1].tid))
		{
			groups[ngroups].first = i;
			groups[ngroups].n = 0;
			groups[ngroups].promising = 0;
			ngroups++;
		}
		groups[ngroups - 1].n++;
		if (op->status[op->deltids[i].id].promising)
			groups[ngroups - 1].promising++;
	}
	qsort(groups, ngroups, sizeof(PageGroup), ComparePromise);
	for (int g = 0; g < Min(ngroups, BOTTOM_UP_PAGES); g++)
	{
		if (g > 0 && groups[g].promising == 0)
			break;
		memcpy(kept + nkept, op->deltids + groups[g].first,
			   groups[g].n * sizeof(TM_IndexDelete));
		nkept += groups[g].n;
	}
	memcpy(op->deltids, kept, nkept * sizeof(TM_IndexDelete));
	op->ndeltids = nkept;
	pfree(kept);
	pfree(groups);
}

/* ---- callback ----------------------------------------------------------------------- */

TransactionId
TamIndexDeleteTuples(Relation rel, TM_IndexDeleteOp *delstate)
{
	OrbitStorageId storage = RowStorage(rel);
	TransactionId latest = InvalidTransactionId;
	TransactionId next = ReadNextTransactionId();
	SnapshotData nonvacuumable;
	BlockNumber page = InvalidBlockNumber;
	int			freed = 0;
	int			freed_before = 0;
	int			done = 0;

	InitNonVacuumableSnapshot(nonvacuumable, GlobalVisTestFor(rel));
	qsort(delstate->deltids, delstate->ndeltids, sizeof(TM_IndexDelete), CompareTids);
	if (delstate->bottomup)
		KeepBestPages(delstate);

	for (int i = 0; i < delstate->ndeltids; i++)
	{
		TM_IndexDelete *entry = &delstate->deltids[i];
		TM_IndexStatus *status = &delstate->status[entry->id];

		if (delstate->bottomup && OrbitTidPage(&entry->tid) != page)
		{
			/* enough is freed, or the last page gave nothing */
			if (i > 0 && (freed >= delstate->bottomupfreespace || freed == freed_before))
				break;
			page = OrbitTidPage(&entry->tid);
			freed_before = freed;
		}
		if (!CheckEntry(rel, storage, &entry->tid, status->knowndeletable,
						&nonvacuumable, next, &latest))
			continue;
		status->knowndeletable = true;
		freed += status->freespace;
		done = i + 1;
	}

	/* entries behind the last deletable one need not be looked at again */
	delstate->ndeltids = done;
	return latest;
}
