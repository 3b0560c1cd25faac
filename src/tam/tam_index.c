/*
 * tam_index.c: feeding a new index: CREATE INDEX, REINDEX, BRIN summarisation, and the
 * second pass of CREATE INDEX CONCURRENTLY.
 *
 * An index has one entry for a row, under the canonical TID, whatever number of versions the
 * row has.  That is the situation of a HOT chain in heap, and the rules are heap's: the
 * newest version that is not dead is indexed; if older versions still matter to somebody,
 * the index is unusable for those snapshots (ii_BrokenHotChain); if a transaction in
 * progress decides which version that is, we wait for it and look again.
 *
 * What is left out is seen by nobody here, but perhaps by a query of a standby: the newest transaction
 * that took such a thing away is logged before the index can be used, as VACUUM does (R6).
 * README.md has the argument.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "commands/progress.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/backend_progress.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

#include "tam/tam_internal.h"
#include "wal/wal.h"

/* What both passes need to compute index columns. */
typedef struct IndexFeed
{
	Relation	table;
	Relation	index;
	IndexInfo  *info;
	TamScan    *scan;
	EState	   *estate;
	ExprContext *econtext;
	ExprState  *predicate;
	TupleTableSlot *slot;
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	/* build only */
	TransactionId oldest_xmin;
	bool		checking_uniqueness;
	bool		anyvisible;
	double		reltuples;

	/* what the index leaves out, for standbys */
	bool		logs_removed;
	bool		versions_count; /* not rows only, older versions as well */
	TransactionId removed_limit;
	TransactionId latest_removed;
} IndexFeed;

static void
FeedBegin(IndexFeed *f, Relation table, Relation index, IndexInfo *info)
{
	memset(f, 0, sizeof(*f));
	f->table = table;
	f->index = index;
	f->info = info;
	f->estate = CreateExecutorState();
	f->econtext = GetPerTupleExprContext(f->estate);
	f->slot = table_slot_create(table, NULL);
	f->econtext->ecxt_scantuple = f->slot;
	f->predicate = ExecPrepareQual(info->ii_Predicate, f->estate);
}

static void
FeedEnd(IndexFeed *f)
{
	ExecDropSingleTupleTableSlot(f->slot);
	FreeExecutorState(f->estate);
	/* they lived in the executor state */
	f->info->ii_ExpressionsState = NIL;
	f->info->ii_PredicateState = NULL;
}

/* Computes the index columns of a version; false when a partial index leaves it out. */
static bool
FeedColumns(IndexFeed *f, const RowVersion *v)
{
	MemoryContextReset(f->econtext->ecxt_per_tuple_memory);
	RowStoreSlot(f->slot, f->table, v, f->scan->page);
	if (f->predicate != NULL && !ExecQual(f->predicate, f->econtext))
		return false;
	FormIndexDatum(f->info, f->slot, f->estate, f->values, f->isnull);
	return true;
}

/* ---- what standbys must know ------------------------------------------------------ */

/* No: somebody compares an index with its table (amcheck), perhaps on a standby. */
static bool
FillsIndex(IndexFeed *f)
{
	return f->anyvisible || ReindexIsProcessingIndex(RelationGetRelid(f->index)) ||
		f->index->rd_createSubid != InvalidSubTransactionId || IsParallelWorker() ||
		!f->index->rd_index->indisvalid;
}

/*
 * An index that has been valid and is made anew, or gets a BRIN summary, was followed by every update in
 * place: the versions of a row have the same columns in it.  One that nobody had to heed was not.
 */
static bool
VersionsAgree(IndexFeed *f)
{
	Form_pg_index form = f->index->rd_index;

	return (f->anyvisible || ReindexIsProcessingIndex(RelationGetRelid(f->index))) &&
		form->indisvalid && form->indisready && form->indislive && !form->indcheckxmin;
}

/* limit: what transactions from here on took away is not left out. */
static void
RemovedBegin(IndexFeed *f, bool versions_count, TransactionId limit)
{
	f->logs_removed = RelationNeedsWAL(f->table) && FillsIndex(f) && !RecoveryInProgress();
	f->versions_count = versions_count;
	f->removed_limit = limit;
}

/* Takes into account what the index will not have of this row. */
static void
NoteRemoved(IndexFeed *f, int chain)
{
	StoreChain	c;
	TransactionId removed;
	bool		whole;
	int			slot;

	if (!f->logs_removed ||
		CodecEntryKind(CodecPageChain(&f->scan->page->page.image, chain, &slot)) == CODEC_INSERT)
		return;
	(void) TamOpenRow(f->scan, chain, &c);
	removed = RowRemovedBy(&c, f->removed_limit, &whole);
	if (whole || f->versions_count)
		TamNoteRemoved(&f->latest_removed, removed);
}

static void
RemovedEnd(IndexFeed *f, OrbitStorageId storage)
{
	if (f->logs_removed)
		WalLogCleanup(f->table, storage, f->latest_removed);
}

/* ---- which version of a row ------------------------------------------------------ */

typedef struct RowToIndex
{
	RowVersionStatus top;		/* newest version that is not dead */
	bool		found;
	bool		broken;			/* older versions matter that the entry will not show */
	bool		changed;		/* a transaction ended while we looked */
	TransactionId wait_for;		/* decides which version is the one */
} RowToIndex;

static bool
CollectVersion(const RowVersionStatus *s, void *arg)
{
	RowToIndex *row = arg;

	if (s->status == ROW_DEAD)
		return true;
	if (!row->found)
	{
		row->found = true;
		row->top = *s;
		return true;
	}
	switch (s->status)
	{
		case ROW_RECENTLY_DEAD:
			row->broken = true;
			break;
		case ROW_DELETE_IN_PROGRESS:
			/* if it is our own update, assume that it commits: else nobody sees the index */
			if (TransactionIdIsCurrentTransactionId(s->running))
				row->broken = true;
			else
				row->wait_for = s->running;
			break;
		case ROW_LIVE:
			row->changed = true;
			break;
		case ROW_INSERT_IN_PROGRESS:	/* an earlier version of the same transaction */
		case ROW_DEAD:
			break;
	}
	return true;
}

static void
WarnConcurrent(IndexFeed *f, const char *what)
{
	if (!IsSystemRelation(f->table))
		elog(WARNING, "concurrent %s in progress within table \"%s\"",
			 what, RelationGetRelationName(f->table));
}

/*
 * Decides on a row as far as it can be decided now: false when it has no version to index.
 * row->wait_for says that a transaction must end first.  *count: does the row count as live,
 * by the rules of ANALYZE.
 */
static bool
JudgeRow(IndexFeed *f, RowToIndex *row, bool *alive, bool *count)
{
	bool		own;

	*count = false;
	*alive = false;
	if (!row->found)
		return false;
	own = TransactionIdIsCurrentTransactionId(row->top.running);
	if (f->anyvisible)
		row->wait_for = InvalidTransactionId;

	switch (row->top.status)
	{
		case ROW_LIVE:
			*alive = *count = true;
			break;
		case ROW_RECENTLY_DEAD:
			/* older snapshots may still use the entry; no unique check for it */
			break;
		case ROW_INSERT_IN_PROGRESS:
			*alive = true;
			*count = own || f->anyvisible;
			if (own || f->anyvisible)
				break;
			WarnConcurrent(f, "insert");
			if (f->checking_uniqueness)
				row->wait_for = row->top.running;
			break;
		case ROW_DELETE_IN_PROGRESS:
			*count = !own || f->anyvisible;
			if (own || f->anyvisible)
				break;
			WarnConcurrent(f, "delete");
			if (f->checking_uniqueness)
				row->wait_for = row->top.running;
			break;
		case ROW_DEAD:
			return false;
	}
	return true;
}

/*
 * The version under which the row at `chain` is to be indexed.  Waits for transactions and
 * then reads the page anew: no view or lock is held here.
 */
static bool
ChooseVersion(IndexFeed *f, int chain, RowVersion *v, bool *alive)
{
	TamScan    *s = f->scan;

	for (;;)
	{
		RowToIndex	row;
		StoreChain	c;
		ItemPointerData tid;
		bool		count;
		int			slot;

		memset(&row, 0, sizeof(row));
		slot = TamOpenRow(s, chain, &c);
		RowForEachVersion(&c, f->oldest_xmin, CollectVersion, &row);
		CHECK_FOR_INTERRUPTS();
		if (row.changed)
			continue;
		if (!JudgeRow(f, &row, alive, &count))
			return false;
		if (!TransactionIdIsValid(row.wait_for))
		{
			if (row.broken)
				f->info->ii_BrokenHotChain = true;
			if (count)
				f->reltuples += 1;
			*v = row.top.v;
			return true;
		}

		OrbitTidSet(&tid, s->pageno, slot, 0);
		XactLockTableWait(row.wait_for, f->table, &tid, XLTW_InsertIndexUnique);
		ExecClearTuple(f->slot);
		if (!TamLoadPage(s, s->pageno))
			return false;
		if (CodecPageFind(&s->page->page.image, slot, &chain) == NULL)
			return false;
		s->chain = chain;
	}
}

/* ---- build ----------------------------------------------------------------------- */

static void
BuildRow(IndexFeed *f, IndexBuildCallback callback, void *callback_state)
{
	TamScan    *s = f->scan;
	ItemPointerData tid;
	RowVersion	v;
	bool		alive = true;

	CHECK_FOR_INTERRUPTS();
	NoteRemoved(f, s->chain);
	if (s->base.rs_snapshot->snapshot_type == SNAPSHOT_ANY)
	{
		if (!ChooseVersion(f, s->chain, &v, &alive))
			return;
	}
	else
	{
		if (!TamRowVisible(s, s->chain, &v))
			return;
		f->reltuples += 1;
	}
	if (!FeedColumns(f, &v))
		return;
	OrbitTidCanonical(&tid, &v.tid);
	callback(f->index, &tid, f->values, f->isnull, alive, callback_state);
}

static BlockNumber
BlocksToScan(TamScan *s)
{
	if (s->base.rs_parallel != NULL)
		return ((ParallelBlockTableScanDesc) s->base.rs_parallel)->phs_nblocks;
	return s->end - s->first;
}

static void
BuildPages(IndexFeed *f, bool progress, IndexBuildCallback callback, void *callback_state)
{
	TamScan    *s = f->scan;
	bool		parallel = s->base.rs_parallel != NULL;

	if (progress)
		pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_TOTAL, BlocksToScan(s));
	while (TamNextPage(s, false))
	{
		/* in a parallel scan ranges come in ascending order, so this is near enough */
		if (progress)
			pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE,
										 parallel ? s->pageno : s->pageno - s->first);
		while (++s->chain < s->page->page.image.nchains)
			BuildRow(f, callback, callback_state);
		ExecClearTuple(f->slot);
	}
	if (progress)
		pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE, BlocksToScan(s));
}

/*
 * Begins the scan of a serial build: every version for a normal build, a snapshot's for a
 * concurrent one.
 */
static TableScanDesc
BeginBuildScan(IndexFeed *f, bool allow_sync, BlockNumber start, BlockNumber nblocks,
			   Snapshot *registered)
{
	Snapshot	snapshot = SnapshotAny;
	TableScanDesc scan;
	TamScan    *s;

	*registered = NULL;
	if (!TransactionIdIsValid(f->oldest_xmin))
		*registered = snapshot = RegisterSnapshot(GetTransactionSnapshot());
	scan = table_beginscan_strat(f->table, snapshot, 0, NULL, true, allow_sync);
	s = (TamScan *) scan;
	if (allow_sync)
		Assert(start == 0 && nblocks == InvalidBlockNumber);
	else if (nblocks == InvalidBlockNumber)
		TamSetRange(s, start, s->npages);
	else
		TamSetRange(s, start, (BlockNumber) Min((uint64) start + nblocks, s->npages));
	if (s->first > s->end)
		TamSetRange(s, 0, 0);
	return scan;
}

double
TamIndexBuildRangeScan(Relation table, Relation index, struct IndexInfo *index_info,
					   bool allow_sync, bool anyvisible, bool progress,
					   BlockNumber start_blockno, BlockNumber numblocks,
					   IndexBuildCallback callback, void *callback_state,
					   TableScanDesc scan)
{
	IndexFeed	f;
	Snapshot	registered = NULL;

	FeedBegin(&f, table, index, index_info);
	f.checking_uniqueness = index_info->ii_Unique || index_info->ii_ExclusionOps != NULL;
	f.anyvisible = anyvisible;
	f.oldest_xmin = InvalidTransactionId;
	if (!IsBootstrapProcessingMode() && !index_info->ii_Concurrent)
		f.oldest_xmin = GetOldestNonRemovableTransactionId(table);
	Assert(!(anyvisible && f.checking_uniqueness));

	/* a parallel build brings its scan, with a snapshot chosen by the same rule */
	if (scan == NULL)
		scan = BeginBuildScan(&f, allow_sync, start_blockno, numblocks, &registered);
	f.scan = (TamScan *) scan;
	Assert((scan->rs_snapshot->snapshot_type == SNAPSHOT_ANY) ==
		   TransactionIdIsValid(f.oldest_xmin));

	RemovedBegin(&f, !VersionsAgree(&f), TransactionIdIsValid(f.oldest_xmin) ?
				 f.oldest_xmin : scan->rs_snapshot->xmax);
	BuildPages(&f, progress, callback, callback_state);
	RemovedEnd(&f, f.scan->storage);

	ExecClearTuple(f.slot);
	table_endscan(scan);
	if (registered)
		UnregisterSnapshot(registered);
	FeedEnd(&f);
	return f.reltuples;
}

/* ---- second pass of CREATE INDEX CONCURRENTLY ------------------------------------------ */

/* Moves on in the sorted TIDs of the index until `tid` is met or passed. */
static bool
AlreadyIndexed(struct ValidateIndexState *state, ItemPointer tid,
			   ItemPointer cursor, bool *at_end)
{
	while (!*at_end &&
		   (!ItemPointerIsValid(cursor) || ItemPointerCompare(cursor, tid) < 0))
	{
		Datum		value;
		bool		isnull;

		if (!tuplesort_getdatum(state->tuplesort, true, &value, &isnull, NULL))
		{
			*at_end = true;
			return false;
		}
		Assert(!isnull);
		itemptr_decode(cursor, DatumGetInt64(value));
#ifndef USE_FLOAT8_BYVAL
		pfree(DatumGetPointer(value));
#endif
	}
	return !*at_end && ItemPointerCompare(cursor, tid) == 0;
}

/*
 * Rows come in the order of their canonical TIDs, as the index's TIDs do: a plain merge.
 * The unique check runs even for a row that is dead by now: its entry stands for all of the
 * row's versions, and newer ones made no entry because the row had one coming.
 * Since the first pass updates in place heed the index, so a row's versions agree.
 */
void
TamIndexValidateScan(Relation table, Relation index, struct IndexInfo *index_info,
					 Snapshot snapshot, struct ValidateIndexState *state)
{
	IndexFeed	f;
	TamScan    *s;
	ItemPointerData cursor;
	bool		at_end = false;

	ItemPointerSetInvalid(&cursor);
	FeedBegin(&f, table, index, index_info);
	f.scan = s = (TamScan *) table_beginscan_strat(table, snapshot, 0, NULL, true, false);
	pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_TOTAL, s->npages);
	RemovedBegin(&f, false, snapshot->xmax);

	while (TamNextPage(s, false))
	{
		pgstat_progress_update_param(PROGRESS_SCAN_BLOCKS_DONE, s->pageno);
		while (++s->chain < s->page->page.image.nchains)
		{
			RowVersion	v;
			ItemPointerData tid;
			int			slot;

			CHECK_FOR_INTERRUPTS();
			if (!TamRowVisible(s, s->chain, &v))
			{
				(void) CodecPageChain(&s->page->page.image, s->chain, &slot);
				OrbitTidSet(&tid, s->pageno, slot, 0);
				if (!AlreadyIndexed(state, &tid, &cursor, &at_end))
					NoteRemoved(&f, s->chain);
				continue;
			}
			state->htups += 1;
			OrbitTidCanonical(&tid, &v.tid);
			if (AlreadyIndexed(state, &tid, &cursor, &at_end) || !FeedColumns(&f, &v))
				continue;
			index_insert(index, f.values, f.isnull, &tid, table,
						 index_info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						 false, index_info);
			state->tups_inserted += 1;
		}
		ExecClearTuple(f.slot);
	}
	RemovedEnd(&f, s->storage);

	table_endscan(&s->base);
	FeedEnd(&f);
}
