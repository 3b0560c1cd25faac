/*
 * tam_estimate.c: what the planner is told of a relation: rows, and pages to read.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_statistic.h"
#include "storage/bufpage.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "tam/tam_internal.h"

/*
 * Figures for a table without statistics.  Node, entry header, image header and padding come to
 * about what a tuple header and line pointer take in heap, so heap's figures are used: such a table
 * gets the plans that it would get there.
 */
#define OVERHEAD_BYTES_PER_ROW	(MAXALIGN(SizeofHeapTupleHeader) + sizeof(ItemIdData))
#define USABLE_BYTES_PER_PAGE	(BLCKSZ - SizeOfPageHeaderData)

/* ---- bytes of a row ---------------------------------------------------------------- */

/*
 * The system cache would read histograms too, of columns that no query asks for.  So what
 * follows from the widths is kept here, until somebody writes statistics, whosever.
 */
typedef struct RowBytesEntry
{
	Oid			relid;
	uint64		statistics;		/* row_bytes_statistics when it was read */
	double		bytes;			/* -1: a column has no statistics */
} RowBytesEntry;

static HTAB *row_bytes = NULL;
static uint64 row_bytes_statistics = 0; /* times that statistics have changed */

static void
StatisticsChanged(Datum arg, int cacheid, uint32 hashvalue)
{
	row_bytes_statistics++;
}

static void
MakeRowBytesCache(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(RowBytesEntry);
	row_bytes = hash_create("orbit row widths", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterSyscacheCallback(STATRELATTINH, StatisticsChanged, (Datum) 0);
}

static int
ColumnCount(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			n = 0;

	for (int i = 0; i < desc->natts; i++)
		n += !TupleDescAttr(desc, i)->attisdropped;
	return n;
}

/* The width in the statistics is that of values that are not NULL, as they lie in the row. */
static double
ReadRowBytes(Relation rel)
{
	Relation	statistics = table_open(StatisticRelationId, AccessShareLock);
	double		bytes = OVERHEAD_BYTES_PER_ROW;
	int			columns = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_statistic_starelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(rel)));
	scan = systable_beginscan(statistics, StatisticRelidAttnumInhIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_statistic s = (Form_pg_statistic) GETSTRUCT(tuple);

		if (s->stainherit)
			continue;
		bytes += s->stawidth * (1 - s->stanullfrac);
		columns++;
	}
	systable_endscan(scan);
	table_close(statistics, AccessShareLock);
	return columns == ColumnCount(rel) ? bytes : -1;
}

/* Bytes of a row as ANALYZE found them, -1: not known. */
static double
RowBytes(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	RowBytesEntry *e;
	uint64		statistics;
	double		bytes;

	if (row_bytes == NULL)
		MakeRowBytesCache();
	e = hash_search(row_bytes, &relid, HASH_FIND, NULL);
	if (e != NULL && e->statistics == row_bytes_statistics)
		return e->bytes;
	statistics = row_bytes_statistics;	/* they may change while they are read */
	bytes = ReadRowBytes(rel);
	e = hash_search(row_bytes, &relid, HASH_ENTER, NULL);
	e->statistics = statistics;
	e->bytes = bytes;
	return bytes;
}

/* ---- rows and pages ------------------------------------------------------------------ */

/*
 * Pages that are known to be gone.  After a restart and on a standby nobody has looked yet; it is
 * worth a look where most pages cannot have a row.
 */
static BlockNumber
AbsentPages(Relation rel, double rows, BlockNumber pages)
{
	OrbitStorageId storage = RowStorage(rel);
	BlockNumber absent = StoreAbsentPages(storage);

	if (absent == 0 && pages >= TAM_MAP_MIN_PAGES && rows < pages / 2)
	{
		StorePageMap map;

		StoreGetPageMap(storage, &map);
		pfree(map.ranges);
		pfree(map.before);
		absent = StoreAbsentPages(storage);
	}
	return Min(absent, pages);
}

/*
 * The density that ANALYZE notes is that of all pages ever begun.  Those that are gone do not come
 * back, so new pages are expected to be as full as the others.
 */
static double
RowsWithNewPages(Relation rel, double rows, BlockNumber pages, BlockNumber absent)
{
	double		analyzed = rel->rd_rel->relpages;
	double		more;

	if (absent == 0 || analyzed <= absent || pages <= analyzed)
		return rows;
	more = rel->rd_rel->reltuples / (analyzed - absent);
	return rint(rel->rd_rel->reltuples + (pages - analyzed) * Min(more, ORBIT_MAX_SLOT));
}

void
TamEstimateSize(Relation rel, int32 *attr_widths, BlockNumber *pages,
				double *tuples, double *allvisfrac)
{
	BlockNumber absent;
	double		bytes = -1;

	table_block_relation_estimate_size(rel, attr_widths, pages, tuples, allvisfrac,
									   OVERHEAD_BYTES_PER_ROW, USABLE_BYTES_PER_PAGE);
	/* the density guessed for a table without statistics knows no limit of slots */
	*tuples = Min(*tuples, (double) *pages * ORBIT_MAX_SLOT);

	absent = AbsentPages(rel, *tuples, *pages);
	if (rel->rd_rel->reltuples >= 0 && rel->rd_rel->relpages > 0)
	{
		*tuples = RowsWithNewPages(rel, *tuples, *pages, absent);
		bytes = *tuples * RowBytes(rel);
	}

	/* what a scan reads are pages that are left, and rows that grew in place make them long */
	*pages -= absent;
	if (bytes > 0)
		*pages = (BlockNumber) Min(Max(*pages, floor(bytes / USABLE_BYTES_PER_PAGE)), MaxBlockNumber);
}
