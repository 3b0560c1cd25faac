/*
 * tam_vacuum.c: VACUUM.  Dead versions are not this command's: flush and compaction drop
 * them.  What is left is what only it can do: index entries of dead rows (tam_vacuum_dead.c),
 * clean-up calls for the indexes, and the statistics in pg_class and in the cumulative
 * statistics system.
 *
 * Rows are counted on the pages that are looked at for dead rows, if these are all; else on a sample of pages
 * when the table is large, on all of them when it is small. relfrozenxid advances as far as files prove,
 * those of snapshots included; relminmxid always, for rows hold no MultiXacts.
 *
 * Dead rows that nobody needs are not reported to the statistics system once their index entries
 * are gone: autovacuum would come back every minute to a table for which it can do nothing.
 */
#include "postgres.h"

#include <math.h>

#include "access/multixact.h"
#include "commands/dbcommands.h"
#include "commands/progress.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/autovacuum.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "tam/tam_internal.h"
#include "worker/worker.h"

#define VACUUM_SAMPLE_PAGES		8192

/* As heap's VACUUM counts: a transaction in progress has not happened yet. */
static bool
CountForVacuum(const RowVersionStatus *s, void *arg)
{
	VacuumCounts *counts = arg;

	switch (s->status)
	{
		case ROW_LIVE:
		case ROW_DELETE_IN_PROGRESS:
			counts->live += 1;
			break;
		case ROW_RECENTLY_DEAD:
			counts->recently_dead += 1;
			break;
		case ROW_DEAD:
			counts->dead += 1;
			break;
		case ROW_INSERT_IN_PROGRESS:
			break;
	}
	return true;
}

void
TamVacuumCountPage(TamScan *s, TransactionId oldest_xmin, VacuumCounts *counts)
{
	for (int chain = 0; chain < s->page->page.image.nchains; chain++)
	{
		StoreChain	c;

		TamOpenRow(s, chain, &c);
		RowForEachVersion(&c, oldest_xmin, CountForVacuum, counts);
	}
}

/*
 * A page at random out of the i-th of n equal parts: sampling costs by the sample, however far
 * page numbers reach.
 */
static BlockNumber
SamplePage(BlockNumber pages, BlockNumber i, BlockNumber n)
{
	double		page;

	if (n >= pages)
		return i;
	page = (i + pg_prng_double(&pg_global_prng_state)) * pages / n;
	return Min((BlockNumber) page, pages - 1);
}

static void
CountRows(Relation rel, TransactionId oldest_xmin, VacuumCounts *counts)
{
	BlockNumber sample;
	BlockNumber pages;
	TableScanDesc scan = table_beginscan_analyze(rel);
	TamScan    *s = (TamScan *) scan;
	StorePageMap map;
	bool		mapped = TamSampleMap(s, &map);

	memset(counts, 0, sizeof(*counts));
	counts->pages = s->npages;
	pages = mapped ? map.pages : s->npages;
	sample = Min(pages, VACUUM_SAMPLE_PAGES);
	counts->complete = sample == pages;
	for (BlockNumber i = 0; i < sample; i++)
	{
		BlockNumber page = SamplePage(pages, i, sample);

		if (mapped)
			page = StoreMapPage(&map, page);
		vacuum_delay_point();
		if (TamLoadPage(s, page))
			TamVacuumCountPage(s, oldest_xmin, counts);
		counts->scanned++;
		pgstat_progress_update_param(PROGRESS_VACUUM_HEAP_BLKS_SCANNED, page + 1);
	}
	table_endscan(scan);

	if (!counts->complete)
	{
		double		factor = (double) pages / counts->scanned;

		counts->live = floor(counts->live * factor + 0.5);
		counts->recently_dead = floor(counts->recently_dead * factor + 0.5);
		counts->dead = floor(counts->dead * factor + 0.5);
	}
}

/* pg_class of the indexes; after the end of parallel mode, which forbids writes. */
static void
UpdateIndexStats(VacuumState *v)
{
	for (int i = 0; i < v->nindexes; i++)
	{
		IndexBulkDeleteResult *result = v->index_stats[i];

		if (result == NULL || result->estimated_count)
			continue;
		vac_update_relstats(v->indexes[i], result->num_pages, result->num_index_tuples,
							0, false, InvalidTransactionId, InvalidMultiXactId,
							NULL, NULL, false);
	}
}

/*
 * The table's new relfrozenxid.  Before it nothing is unfrozen: not in RocksDB's files, as their
 * summaries prove, and not in write buffers, for what was published before OldestXmin was computed has been
 * flushed since, and what comes later is of transactions from OldestXmin on.
 *
 * A file is rewritten for it only when the table is due (aggressive), and only those that need it.
 */
static TransactionId
Freeze(VacuumState *v, bool aggressive, TransactionId freeze_limit)
{
	StoreFileFacts facts;

	StoreGetFileFacts(v->storage, &facts);
	if (aggressive && facts.known && TransactionIdIsValid(facts.oldest_unfrozen) &&
		TransactionIdPrecedes(facts.oldest_unfrozen, freeze_limit))
	{
		(void) WorkerFreezeStorage(v->storage, freeze_limit);
		StoreGetFileFacts(v->storage, &facts);
	}
	if (!facts.known)
		return InvalidTransactionId;
	if (TransactionIdIsValid(facts.oldest_unfrozen) &&
		TransactionIdPrecedes(facts.oldest_unfrozen, v->oldest_xmin))
		return facts.oldest_unfrozen;
	return v->oldest_xmin;
}

static void
ReportVacuum(const VacuumState *v, TimestampTz start)
{
	VacuumParams *params = v->params;
	const VacuumCounts *counts = &v->counts;
	bool		verbose = (params->options & VACOPT_VERBOSE) != 0;
	StringInfoData buf;

	if (!verbose &&
		!(IsAutoVacuumWorkerProcess() && params->log_min_duration >= 0 &&
		  (params->log_min_duration == 0 ||
		   TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									  params->log_min_duration))))
		return;
	initStringInfo(&buf);
	appendStringInfo(&buf, "%.0f live row versions, %.0f dead ones still needed by transactions before %u, %.0f left to flush and compaction.\n",
					 counts->live, counts->recently_dead, v->oldest_xmin, counts->dead);
	appendStringInfo(&buf, "%lld dead rows removed from the indexes in %d scans of each.",
					 (long long) v->removed, v->index_scans);
	for (int i = 0; i < v->nindexes; i++)
	{
		if (v->index_stats[i] != NULL)
			appendStringInfo(&buf, "\nindex \"%s\": pages: %u in total, %u newly deleted, %u currently deleted, %u reusable",
							 RelationGetRelationName(v->indexes[i]),
							 v->index_stats[i]->num_pages,
							 v->index_stats[i]->pages_newly_deleted,
							 v->index_stats[i]->pages_deleted,
							 v->index_stats[i]->pages_free);
	}
	ereport(verbose ? INFO : LOG,
			(errmsg("vacuumed orbit table \"%s.%s.%s\": %u pages, %u of them counted",
					get_database_name(MyDatabaseId),
					get_namespace_name(RelationGetNamespace(v->rel)),
					RelationGetRelationName(v->rel), counts->pages, counts->scanned),
			 errdetail_internal("%s", buf.data)));
	pfree(buf.data);
}

void
TamVacuum(Relation rel, struct VacuumParams *params, BufferAccessStrategy bstrategy)
{
	TransactionId freeze_limit;
	TransactionId frozen;
	bool		aggressive;
	MultiXactId oldest_multi;
	MultiXactId multi_cutoff;
	VacuumState v = {0};
	TimestampTz start = GetCurrentTimestamp();

	pgstat_progress_start_command(PROGRESS_COMMAND_VACUUM, RelationGetRelid(rel));
	v.rel = rel;
	v.params = params;
	v.bstrategy = bstrategy;
	v.elevel = (params->options & VACOPT_VERBOSE) ? INFO : DEBUG2;
	v.storage = RowStorage(rel);
	aggressive = vacuum_set_xid_limits(rel, params->freeze_min_age, params->freeze_table_age,
									   params->multixact_freeze_min_age,
									   params->multixact_freeze_table_age,
									   &v.oldest_xmin, &oldest_multi, &freeze_limit,
									   &multi_cutoff);
	/* what transactions before OldestXmin wrote is in files then */
	WorkerFlushAll();
	vac_open_indexes(rel, RowExclusiveLock, &v.nindexes, &v.indexes);
	v.index_stats = palloc0(Max(v.nindexes, 1) * sizeof(IndexBulkDeleteResult *));

	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_SCAN_HEAP);
	v.counts.pages = StorePageCount(v.storage);
	pgstat_progress_update_param(PROGRESS_VACUUM_TOTAL_HEAP_BLKS, v.counts.pages);
	TamVacuumDeadRows(&v);
	if (!v.counted)
		CountRows(rel, v.oldest_xmin, &v.counts);
	TamVacuumCleanupIndexes(&v);
	if (v.parallel != NULL)
		parallel_vacuum_end(v.parallel, v.index_stats);
	UpdateIndexStats(&v);

	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_FINAL_CLEANUP);
	OrbitStopPoint("vacuum-before-freeze");
	aggressive |= (params->options & VACOPT_DISABLE_PAGE_SKIPPING) != 0;
	frozen = Freeze(&v, aggressive, freeze_limit);
	OrbitStopPoint("vacuum-after-freeze");
	if (TransactionIdIsValid(frozen) &&
		TransactionIdPrecedes(rel->rd_rel->relfrozenxid, frozen))
		frozen = WorkerFreezeLimit(v.storage, frozen, aggressive);
	vac_update_relstats(rel, v.counts.pages, v.counts.live, 0, v.nindexes > 0,
						frozen, oldest_multi, NULL, NULL, false);
	OrbitStopPoint("vacuum-after-relfrozenxid");
	pgstat_report_vacuum(RelationGetRelid(rel), rel->rd_rel->relisshared,
						 (PgStat_Counter) v.counts.live,
						 (PgStat_Counter) v.counts.recently_dead);
	pgstat_progress_end_command();

	ReportVacuum(&v, start);
	vac_close_indexes(v.nindexes, v.indexes, NoLock);
}
