/*
 * tam_vacuum_dead.c: VACUUM's second half: index entries of rows that are dead.
 *
 * Only pages of files that may hold dead rows are read (store/files.c): a VACUUM costs what
 * changed, not what exists.  There rows are looked at in page order; TIDs of dead ones are
 * gathered until the memory that maintenance_work_mem allows is full, then every index is cleaned of
 * them, and the walk goes on.  Nothing is done to the rows: compaction removes them.  It leaves
 * a dead slot for a row until it knows that no index has an entry of it, and that is what the
 * record written at the end tells (CodecVacuum): rows ended by transactions before OldestXmin have
 * none.
 *
 * Why that is so: such a transaction had ended when OldestXmin was computed, so its row and the index
 * entries that were ever to come had been written, and the walk, which starts later, met the
 * row.  Dead by OldestXmin, it was gathered, unless an earlier VACUUM's record covers it.
 *
 * Standbys: before entries go a record names the newest transaction that ended such a row
 * (R6); core's own records of the deletions resolve no conflict.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "commands/progress.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/autovacuum.h"
#include "utils/lsyscache.h"

#include "tam/tam_internal.h"
#include "wal/wal.h"

/* ---- the record of the last VACUUM ------------------------------------------------ */

static void
VacuumKey(char key[CODEC_STORAGE_KEY_SIZE], OrbitStorageId storage)
{
	CodecStorageKey(key, storage, CODEC_RECORD_VACUUM);
}

static uint64
ReadCleaned(OrbitStorageId storage)
{
	static CodecBuf value;		/* static: nothing to free on ERROR */
	char		key[CODEC_STORAGE_KEY_SIZE];
	uint64		cleaned;

	VacuumKey(key, storage);
	if (!StoreKvGet(ORBIT_PG_TABLES, key, sizeof(key), &value) ||
		!StoreVacuumParse(key, sizeof(key), value.data, value.len, &storage, &cleaned))
		return 0;
	return cleaned;
}

static void
WriteCleaned(Relation rel, OrbitStorageId storage, uint64 cleaned)
{
	char		key[CODEC_STORAGE_KEY_SIZE];
	CodecVacuum record = {.format = 1, .cleaned = cleaned};

	VacuumKey(key, storage);
	WalWriteKv(ORBIT_PG_TABLES, key, sizeof(key), MEMBUF_PUT, &record, sizeof(record),
			   RelationIsPermanent(rel));
}

/* `xid` with its epoch. */
static uint64
FullXid(TransactionId xid)
{
	return OrbitFullXid(U64FromFullTransactionId(ReadNextFullTransactionId()), xid);
}

/* ---- memory ---------------------------------------------------------------------------- */

static int
MaxDeadItems(VacuumState *v)
{
	int			kb = IsAutoVacuumWorkerProcess() && autovacuum_work_mem != -1 ?
		autovacuum_work_mem : maintenance_work_mem;
	int64		max = MAXDEADITEMS(kb * (int64) 1024);

	max = Min(max, INT_MAX);
	max = Min(max, MAXDEADITEMS(MaxAllocSize));
	max = Min(max, (int64) Max(v->counts.pages, 1) * ORBIT_MAX_SLOT);
	return (int) Max(max, ORBIT_MAX_SLOT);	/* a page's rows must fit */
}

/* In shared memory when indexes are to be cleaned in parallel. */
static void
AllocDeadItems(VacuumState *v)
{
	int			max = MaxDeadItems(v);

	if (v->params->nworkers >= 0 && v->nindexes > 1)
	{
		if (RelationUsesLocalBuffers(v->rel))
		{
			if (v->params->nworkers > 0)
				ereport(WARNING,
						(errmsg("disabling parallel option of vacuum on \"%s\" --- cannot vacuum temporary tables in parallel",
								RelationGetRelationName(v->rel))));
		}
		else
			v->parallel = parallel_vacuum_init(v->rel, v->indexes, v->nindexes,
											   v->params->nworkers, max, v->elevel,
											   v->bstrategy);
	}
	if (v->parallel != NULL)
		v->dead = parallel_vacuum_get_dead_items(v->parallel);
	else
	{
		v->dead = palloc(vac_max_items_to_alloc_size(max));
		v->dead->max_items = max;
		v->dead->num_items = 0;
	}
	pgstat_progress_update_param(PROGRESS_VACUUM_MAX_DEAD_TUPLES, v->dead->max_items);
}

/* ---- indexes ------------------------------------------------------------------------------ */

static IndexVacuumInfo
InfoOf(VacuumState *v, int i, bool estimated)
{
	IndexVacuumInfo info = {0};

	info.index = v->indexes[i];
	info.analyze_only = false;
	info.report_progress = false;
	info.estimated_count = estimated;
	info.message_level = v->elevel;
	info.num_heap_tuples = v->rel->rd_rel->reltuples;
	info.strategy = v->bstrategy;
	return info;
}

/* True: transaction ids are about to run out, and freezing must not wait for indexes. */
static bool
Failsafe(VacuumState *v)
{
	if (!v->failsafe &&
		vacuum_xid_failsafe_check(v->rel->rd_rel->relfrozenxid, v->rel->rd_rel->relminmxid))
	{
		v->failsafe = true;
		ereport(WARNING,
				(errmsg("bypassing nonessential maintenance of table \"%s.%s.%s\" as a failsafe after %d index scans",
						get_database_name(MyDatabaseId),
						get_namespace_name(RelationGetNamespace(v->rel)),
						RelationGetRelationName(v->rel), v->index_scans),
				 errdetail("The table's relfrozenxid or relminmxid is too far in the past."),
				 errhint("Consider increasing configuration parameter \"maintenance_work_mem\" or \"autovacuum_work_mem\".\n"
						 "You might also need to consider other ways for VACUUM to keep up with the allocation of transaction IDs.")));
		VacuumCostActive = false;
		VacuumCostBalance = 0;
	}
	return v->failsafe;
}

/* Removes the entries of the gathered rows from every index; false: given up. */
static bool
DeleteIndexEntries(VacuumState *v)
{
	if (v->dead->num_items == 0)
		return true;
	if (Failsafe(v))
		return false;

	OrbitStopPoint("vacuum-before-cleanup-record");
	WalLogCleanup(v->rel, v->storage, v->latest_removed);
	OrbitStopPoint("vacuum-before-indexes");
	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_VACUUM_INDEX);
	if (v->parallel != NULL)
		parallel_vacuum_bulkdel_all_indexes(v->parallel, v->rel->rd_rel->reltuples,
											v->index_scans);
	else
	{
		for (int i = 0; i < v->nindexes; i++)
		{
			IndexVacuumInfo info = InfoOf(v, i, true);

			v->index_stats[i] = vac_bulkdel_one_index(&info, v->index_stats[i], v->dead);
			if (Failsafe(v))
				return false;
		}
	}
	OrbitStopPoint("vacuum-after-indexes");
	v->index_scans++;
	v->removed += v->dead->num_items;
	v->dead->num_items = 0;
	pgstat_progress_update_param(PROGRESS_VACUUM_NUM_INDEX_VACUUMS, v->index_scans);
	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_SCAN_HEAP);
	return true;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void
GatherPage(VacuumState *v, TamScan *s)
{
	for (int chain = 0; chain < s->page->page.image.nchains; chain++)
	{
		StoreChain	c;
		TransactionId ended;
		TransactionId removed;
		int			slot = TamOpenRow(s, chain, &c);

		if (!RowIsDead(&c, v->oldest_xmin, &ended, &removed) ||
			(TransactionIdIsNormal(ended) && FullXid(ended) < v->cleaned))
			continue;
		TamNoteRemoved(&v->latest_removed, removed);
		OrbitTidSet(&v->dead->items[v->dead->num_items++], s->pageno, slot, 0);
	}
	pgstat_progress_update_param(PROGRESS_VACUUM_NUM_DEAD_TUPLES, v->dead->num_items);
}

static void
CountGathered(VacuumState *v, TamScan *s)
{
	TamVacuumCountPage(s, v->oldest_xmin, &v->counts);
	v->counts.scanned++;
}

static bool
GatherRange(VacuumState *v, TamScan *s, const StorePageRange *range)
{
	bool		on = true;

	TamSetRange(s, range->first, range->last < s->npages ? range->last + 1 : s->npages);
	while (on && TamNextPage(s, false))
	{
		vacuum_delay_point();
		if (v->dead->num_items + ORBIT_MAX_SLOT > v->dead->max_items)
			on = DeleteIndexEntries(v);
		if (on)
			GatherPage(v, s);
		if (on && v->counted)
			CountGathered(v, s);
		v->pages_read++;
		pgstat_progress_update_param(PROGRESS_VACUUM_HEAP_BLKS_SCANNED, s->pageno + 1);
	}
	return on;
}

/*
 * True: every dead row of the table was met, and no index has an entry of one any more.  Whoever ended
 * a row by OldestXmin had published that before, so the flush has brought it into a file.
 */
static bool
GatherAll(VacuumState *v)
{
	StoreFileFacts facts;
	bool		on = true;

	StoreGetFileFacts(v->storage, &facts);
	v->counted = facts.nranges == 1 && facts.ranges[0].first == 0 &&
		facts.ranges[0].last >= v->counts.pages - 1;
	for (int i = 0; on && i < facts.nranges; i++)
	{
		TableScanDesc scan = table_beginscan_analyze(v->rel);

		((TamScan *) scan)->once = true;
		on = GatherRange(v, (TamScan *) scan, &facts.ranges[i]);
		table_endscan(scan);
	}
	pfree(facts.ranges);
	v->counted = v->counts.complete = v->counted && on;
	return on && DeleteIndexEntries(v);
}

void
TamVacuumDeadRows(VacuumState *v)
{
	uint64		limit = FullXid(v->oldest_xmin);

	AllocDeadItems(v);
	v->cleaned = ReadCleaned(v->storage);
	if (v->params->index_cleanup == VACOPTVALUE_DISABLED || Failsafe(v) || limit <= v->cleaned)
		return;
	if (!GatherAll(v) || limit <= v->cleaned)
		return;
	OrbitStopPoint("vacuum-before-cleaned");
	WriteCleaned(v->rel, v->storage, limit);
	OrbitStopPoint("vacuum-after-cleaned");
}

/* The calls that end an index's vacuum: pending lists, summaries, free pages, statistics. */
void
TamVacuumCleanupIndexes(VacuumState *v)
{
	bool		estimated = !v->counts.complete;
	double		rows = v->counts.live + v->counts.recently_dead;

	if (v->params->index_cleanup == VACOPTVALUE_DISABLED || v->failsafe)
		return;
	pgstat_progress_update_param(PROGRESS_VACUUM_PHASE, PROGRESS_VACUUM_PHASE_INDEX_CLEANUP);
	if (v->parallel != NULL)
	{
		parallel_vacuum_cleanup_all_indexes(v->parallel, (long) rows, v->index_scans, estimated);
		return;
	}
	for (int i = 0; i < v->nindexes; i++)
	{
		IndexVacuumInfo info = InfoOf(v, i, estimated);

		info.num_heap_tuples = rows;
		v->index_stats[i] = vac_cleanup_one_index(&info, v->index_stats[i]);
	}
}
