/*
 * tam_relation.c: files and sizes of a relation.  What stands in the file is the
 * business of row/relation.c.
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_attribute.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

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
