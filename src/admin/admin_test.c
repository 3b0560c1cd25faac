/*
 * admin_test.c: what a test needs and cannot wait for.  Like the stop points it is not part of
 * the extension's SQL: a test declares
 *
 *	CREATE FUNCTION orbit_use_pages(rel regclass, pages bigint) RETURNS void
 *		AS 'orbit_fdw' LANGUAGE C STRICT;
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "base/base.h"
#include "row/row.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(orbit_use_pages);

/*
 * The table's next row goes to the page of this number, as if all pages before it had been used and
 * nothing of them were left.  Page numbers never go back.  Not logged, and need not be: after a
 * crash before the next row nothing is left of it.
 */
Datum
orbit_use_pages(PG_FUNCTION_ARGS)
{
	int64		pages = PG_GETARG_INT64(1);
	Relation	rel;

	OrbitRequirePreload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to use up page numbers")));
	if (pages < 1 || pages > ORBIT_MAX_PAGE)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("invalid number of pages")));
	rel = table_open(PG_GETARG_OID(0), RowExclusiveLock);
	StoreNoteRow(RowStorage(rel), (BlockNumber) (pages - 1), ORBIT_MAX_SLOT);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}
