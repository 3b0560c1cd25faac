/*
 * tam_vacuum.c: VACUUM.  Dead versions are not this command's: flush and compaction drop
 * them.  What is left is what a table owes to the rest of the system: clean-up calls for its
 * indexes (pending lists of GIN, summaries of BRIN, free pages), and the statistics in
 * pg_class and in the cumulative statistics system.
 *
 * Rows are counted on a sample of pages when the table is large, on all of them when it is
 * small.  relfrozenxid stays: nothing here freezes.  relminmxid advances, for rows hold no
 * MultiXacts.
 *
 * Dead versions that nobody needs are not reported as dead rows to the statistics system:
 * autovacuum would come back every minute to a table for which it can do nothing.
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

#define VACUUM_SAMPLE_PAGES		8192

typedef struct VacuumCounts
{
	BlockNumber pages;
	BlockNumber scanned;
	double		live;
	double		recently_dead;
	double		dead;
} VacuumCounts;

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

static void
CountPage(TamScan *s, TransactionId oldest_xmin, VacuumCounts *counts)
{
	for (int chain = 0; chain < s->page->page.nchains; chain++)
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
	TableScanDesc scan = table_beginscan_analyze(rel);
	TamScan    *s = (TamScan *) scan;

	memset(counts, 0, sizeof(*counts));
	counts->pages = s->npages;
	pgstat_progress_update_param(PROGRESS_VACUUM_TOTAL_HEAP_BLKS, counts->pages);
	sample = Min(counts->pages, VACUUM_SAMPLE_PAGES);
	for (BlockNumber i = 0; i < sample; i++)
	{
		BlockNumber page = SamplePage(counts->pages, i, sample);

		vacuum_delay_point();
		if (TamLoadPage(s, page))
			CountPage(s, oldest_xmin, counts);
		counts->scanned++;
		pgstat_progress_update_param(PROGRESS_VACUUM_HEAP_BLKS_SCANNED, page + 1);
	}
	table_endscan(scan);

	if (counts->scanned < counts->pages)
	{
		double		factor = (double) counts->pages / counts->scanned;

		counts->live = floor(counts->live * factor + 0.5);
		counts->recently_dead = floor(counts->recently_dead * factor + 0.5);
		counts->dead = floor(counts->dead * factor + 0.5);
	}
}

static void
CleanupIndexes(int nindexes, Relation *indexes, const VacuumCounts *counts, int elevel,
			   BufferAccessStrategy bstrategy)
{
	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE,
								 PROGRESS_VACUUM_PHASE_INDEX_CLEANUP);
	for (int i = 0; i < nindexes; i++)
	{
		IndexVacuumInfo info = {0};
		IndexBulkDeleteResult *result;

		info.index = indexes[i];
		info.analyze_only = false;
		info.report_progress = false;
		info.estimated_count = counts->scanned < counts->pages;
		info.message_level = elevel;
		info.num_heap_tuples = counts->live + counts->recently_dead;
		info.strategy = bstrategy;
		result = vac_cleanup_one_index(&info, NULL);
		if (result == NULL)
			continue;
		if (!result->estimated_count)
			vac_update_relstats(indexes[i], result->num_pages, result->num_index_tuples,
								0, false, InvalidTransactionId, InvalidMultiXactId,
								NULL, NULL, false);
		pfree(result);
	}
}

/* Until VACUUM can freeze, somebody has to be told before the transaction ids run out. */
static void
WarnAge(Relation rel)
{
	TransactionId frozen = rel->rd_rel->relfrozenxid;
	int32		age;

	if (!TransactionIdIsNormal(frozen))
		return;
	age = (int32) (ReadNextTransactionId() - frozen);
	if (age < autovacuum_freeze_max_age)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot freeze old rows of table \"%s\"", RelationGetRelationName(rel)),
			 errdetail("Its oldest transaction ID is %d transactions old.", age),
			 errhint("Run VACUUM FULL or CLUSTER on the table, which freeze its rows.")));
}

static void
ReportVacuum(Relation rel, VacuumParams *params, const VacuumCounts *counts,
			 TransactionId oldest_xmin, TimestampTz start)
{
	bool		verbose = (params->options & VACOPT_VERBOSE) != 0;

	if (!verbose &&
		!(IsAutoVacuumWorkerProcess() && params->log_min_duration >= 0 &&
		  (params->log_min_duration == 0 ||
		   TimestampDifferenceExceeds(start, GetCurrentTimestamp(),
									  params->log_min_duration))))
		return;
	ereport(verbose ? INFO : LOG,
			(errmsg("vacuumed orbit table \"%s.%s.%s\": %u pages, %u of them counted",
					get_database_name(MyDatabaseId),
					get_namespace_name(RelationGetNamespace(rel)),
					RelationGetRelationName(rel), counts->pages, counts->scanned),
			 errdetail("%.0f live row versions, %.0f dead ones still needed by transactions before %u, %.0f left to flush and compaction.",
					   counts->live, counts->recently_dead, oldest_xmin, counts->dead)));
}

void
TamVacuum(Relation rel, struct VacuumParams *params, BufferAccessStrategy bstrategy)
{
	TransactionId oldest_xmin;
	TransactionId freeze_limit;
	MultiXactId oldest_multi;
	MultiXactId multi_cutoff;
	VacuumCounts counts;
	Relation   *indexes;
	int			nindexes;
	TimestampTz start = GetCurrentTimestamp();
	int			elevel = (params->options & VACOPT_VERBOSE) ? INFO : DEBUG2;

	pgstat_progress_start_command(PROGRESS_COMMAND_VACUUM, RelationGetRelid(rel));
	(void) vacuum_set_xid_limits(rel, params->freeze_min_age, params->freeze_table_age,
								 params->multixact_freeze_min_age,
								 params->multixact_freeze_table_age,
								 &oldest_xmin, &oldest_multi, &freeze_limit, &multi_cutoff);
	vac_open_indexes(rel, RowExclusiveLock, &nindexes, &indexes);

	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_SCAN_HEAP);
	CountRows(rel, oldest_xmin, &counts);
	if (params->index_cleanup != VACOPTVALUE_DISABLED)
		CleanupIndexes(nindexes, indexes, &counts, elevel, bstrategy);
	vac_close_indexes(nindexes, indexes, NoLock);

	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_FINAL_CLEANUP);
	vac_update_relstats(rel, counts.pages, counts.live, 0, nindexes > 0,
						InvalidTransactionId, oldest_multi, NULL, NULL, false);
	pgstat_report_vacuum(RelationGetRelid(rel), rel->rd_rel->relisshared,
						 (PgStat_Counter) counts.live, (PgStat_Counter) counts.recently_dead);
	pgstat_progress_end_command();

	WarnAge(rel);
	ReportVacuum(rel, params, &counts, oldest_xmin, start);
}
