/*
 * tam_relation.c: files and sizes of a relation.  What stands in the file is the
 * business of row/relation.c.
 */
#include "postgres.h"

#include <math.h>

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_statistic.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "tam/tam_internal.h"

/* ---- life cycle ---------------------------------------------------------------- */

/*
 * No transaction older than RecentXmin can still write into the new table.  There are no
 * MultiXacts in it at all, so the limit for these may be the newest possible.
 */
void
TamSetNewFilenode(Relation rel, const RelFileNode *newrnode, char persistence,
				  TransactionId *freeze_xid, MultiXactId *minmulti)
{
	*freeze_xid = RecentXmin;
	*minmulti = GetOldestMultiXactId();
	RowCreateStorage(rel, newrnode, persistence);
}

void
TamNontransactionalTruncate(Relation rel)
{
	RowResetStorage(rel);
}

void
TamCopyData(Relation rel, const RelFileNode *newrnode)
{
	RowCopyStorage(rel, newrnode);
}

/* ---- sizes ------------------------------------------------------------------------ */

/*
 * The main fork's size is what PostgreSQL turns into a number of blocks: pages ever begun, as
 * far as TIDs reach.  Other forks are files.
 */
uint64
TamRelationSize(Relation rel, ForkNumber fork)
{
	uint64		size = 0;

	if (fork == MAIN_FORKNUM || fork == InvalidForkNumber)
		size = (uint64) StorePageCount(RowStorage(rel)) * BLCKSZ;
	for (int i = MAIN_FORKNUM + 1; i <= MAX_FORKNUM; i++)
	{
		if ((fork == i || fork == InvalidForkNumber) && smgrexists(RelationGetSmgr(rel), i))
			size += (uint64) smgrnblocks(RelationGetSmgr(rel), i) * BLCKSZ;
	}
	return size;
}

/* An upper bound of an attribute's bytes; -1: none known. */
static int32
AttributeMaxSize(Form_pg_attribute att)
{
	return att->attlen > 0 ? att->attlen : type_maximum_size(att->atttypid, att->atttypmod);
}

/*
 * Wide values go to a heap TOAST table, under heap's own rule: when a column can be toasted and a
 * row may be longer than the limit at which toasting starts.
 */
bool
TamNeedsToastTable(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int32		data = 0;
	bool		toastable = false;
	bool		unbounded = false;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		int32		size;

		if (att->attisdropped)
			continue;
		data = att_align_nominal(data, att->attalign);
		size = AttributeMaxSize(att);
		if (size < 0)
			unbounded = true;
		else
			data += size;
		if (att->attlen <= 0 && att->attstorage != TYPSTORAGE_PLAIN)
			toastable = true;
	}
	if (!toastable || unbounded)
		return toastable;
	return MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(desc->natts)) + MAXALIGN(data) >
		TOAST_TUPLE_THRESHOLD;
}

/* TOAST's own code writes heap tuples, so the TOAST table must be a heap. */
Oid
TamToastAm(Relation rel)
{
	return HEAP_TABLE_AM_OID;
}

/* ---- planner ---------------------------------------------------------------------------- */

/*
 * Figures for a table without statistics.  Node, entry header, image header and padding come to
 * about what a tuple header and line pointer take in heap, so heap's figures are used: such a table
 * gets the plans that it would get there.
 */
#define OVERHEAD_BYTES_PER_ROW	(MAXALIGN(SizeofHeapTupleHeader) + sizeof(ItemIdData))
#define USABLE_BYTES_PER_PAGE	(BLCKSZ - SizeOfPageHeaderData)

/*
 * Bytes of a row as ANALYZE found them, or -1.  The width in the statistics is that of values that
 * are not NULL, where they lie in the row.
 */
static double
AnalyzedRowBytes(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	double		bytes = OVERHEAD_BYTES_PER_ROW;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		HeapTuple	tuple;

		if (att->attisdropped)
			continue;
		tuple = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(RelationGetRelid(rel)),
								Int16GetDatum(att->attnum), BoolGetDatum(false));
		if (!HeapTupleIsValid(tuple))
			return -1;
		bytes += ((Form_pg_statistic) GETSTRUCT(tuple))->stawidth *
			(1 - ((Form_pg_statistic) GETSTRUCT(tuple))->stanullfrac);
		ReleaseSysCache(tuple);
	}
	return bytes;
}

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
		bytes = *tuples * AnalyzedRowBytes(rel);
	}

	/* what a scan reads are pages that are left, and rows that grew in place make them long */
	*pages -= absent;
	if (bytes > 0)
		*pages = (BlockNumber) Min(Max(*pages, floor(bytes / USABLE_BYTES_PER_PAGE)), MaxBlockNumber);
}
