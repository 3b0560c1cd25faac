/*
 * admin_verify.c: orbit_verify(): reads everything that is stored of a table, from the
 * write buffers and from RocksDB with its checksums, and checks what ordinary reads take for granted.
 *
 * One row a relation without a problem (problem is NULL); otherwise a row for each problem, the
 * first MAX_PROBLEMS of them.  A file that cannot be read ends the walk over the relation: the
 * message names the file, and the rest of the relation is unknown.  Each relation is read in a
 * subtransaction, so that an error in one does not keep the others from being verified.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "row/row.h"
#include "store/store.h"

#define MAX_PROBLEMS	100

PG_FUNCTION_INFO_V1(orbit_verify);

typedef struct Verification
{
	ReturnSetInfo *rsinfo;
	Snapshot	snapshot;
	Oid			relid;
	int64		pages;
	int64		live;
	int64		versions;
	int			problems;
} Verification;

static void
AddRow(Verification *v, const char *problem)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = ObjectIdGetDatum(v->relid);
	values[1] = Int64GetDatum(v->pages);
	values[2] = Int64GetDatum(v->live);
	values[3] = Int64GetDatum(v->versions);
	nulls[4] = problem == NULL;
	values[4] = problem != NULL ? CStringGetTextDatum(problem) : (Datum) 0;
	tuplestore_putvalues(v->rsinfo->setResult, v->rsinfo->setDesc, values, nulls);
	v->problems += problem != NULL;
}

static void
VerifyRow(Verification *v, Relation rel, const CodecPage *page, BlockNumber pageno, int chain,
		  BlockNumber npages)
{
	StoreChain	c;
	RowVersion	version;
	StringInfoData problem;

	initStringInfo(&problem);
	StoreChainOpenPage(&c, RowStorage(rel), pageno, page, chain);
	if (RowCheckChain(rel, &c, npages, &v->versions, &problem))
	{
		StoreChainRewind(&c);
		if (RowVisible(&c, NULL, v->snapshot, &version, NULL))
			v->live++;
	}
	else
		AddRow(v, psprintf("page %u, row %d: %s", pageno, c.slot, problem.data));
}

static void
VerifyPages(Verification *v, Relation rel)
{
	OrbitStorageId storage = RowStorage(rel);
	StoreScan  *scan = StoreScanBegin(storage, 0, ORBIT_MAX_PAGE, false, NULL);
	RowPage    *page = RowPageAlloc();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orbit_verify",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	BlockNumber pageno;

	StoreScanFiles(scan);
	while (v->problems < MAX_PROBLEMS && StoreScanNext(scan, &pageno, &page->page))
	{
		StorePage  *read = &page->page;

		/* after the page was read: it may have been begun since the scan */
		BlockNumber npages = StorePageCount(storage);

		CHECK_FOR_INTERRUPTS();
		v->pages++;
		if (!CodecPageOpen(&read->image, read->buf.data, read->buf.len))
		{
			AddRow(v, psprintf("page %u is damaged", pageno));
			continue;
		}
		if (pageno >= npages)
			AddRow(v, psprintf("page %u lies behind the last page that was ever begun", pageno));
		for (int chain = 0; chain < read->image.nchains; chain++)
			VerifyRow(v, rel, &read->image, pageno, chain, npages);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	RowPageRelease(page);
	StoreScanEnd(scan);
}

/* What an error says, in one line. */
static char *
DescribeError(const ErrorData *error)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, error->message);
	if (error->detail != NULL)
		appendStringInfo(&text, ": %s", error->detail);
	return text.data;
}

static void
VerifyCaught(Verification *v, Relation rel)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		VerifyPages(v, rel);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		AddRow(v, DescribeError(error));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

static void
VerifyRelation(ReturnSetInfo *rsinfo, Relation rel)
{
	Verification v = {.rsinfo = rsinfo,.relid = RelationGetRelid(rel)};

	v.snapshot = RegisterSnapshot(GetLatestSnapshot());
	VerifyCaught(&v, rel);
	UnregisterSnapshot(v.snapshot);
	if (v.problems == 0)
		AddRow(&v, NULL);
}

/* Orbit tables of this database that this session can read, in a list of OIDs. */
static List *
AllTables(Oid am)
{
	Relation	classes = table_open(RelationRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(classes, InvalidOid, false, NULL, 0, NULL);
	List	   *tables = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);

		if (class->relam != am || !RELKIND_HAS_STORAGE(class->relkind))
			continue;
		if (class->relpersistence == RELPERSISTENCE_TEMP &&
			isOtherTempNamespace(class->relnamespace))
			continue;
		if (class->relpersistence != RELPERSISTENCE_PERMANENT && RecoveryInProgress())
			continue;
		tables = lappend_oid(tables, class->oid);
	}
	systable_endscan(scan);
	table_close(classes, AccessShareLock);
	return tables;
}

Datum
orbit_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			am;
	ListCell   *lc;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	am = get_table_am_oid("orbit", false);
	if (!PG_ARGISNULL(0))
	{
		Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);

		if (rel->rd_rel->relam != am)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" is not a table of access method orbit",
							RelationGetRelationName(rel))));
		if (RELATION_IS_OTHER_TEMP(rel))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot verify temporary tables of other sessions")));
		VerifyRelation(rsinfo, rel);
		relation_close(rel, NoLock);
		return (Datum) 0;
	}
	foreach(lc, AllTables(am))
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), AccessShareLock);

		/* it may have been dropped or rewritten meanwhile */
		if (rel == NULL)
			continue;
		if (rel->rd_rel->relam == am)
			VerifyRelation(rsinfo, rel);
		relation_close(rel, AccessShareLock);
	}
	return (Datum) 0;
}
