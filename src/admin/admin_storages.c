/*
 * admin_storages.c: SQL functions that show what belongs to which relation.
 *
 *	orbit_storages()				one row a storage
 *	orbit_orphans()					files in this database that no relation knows: a crash
 *									in a transaction that created a table leaves them, as it does
 *									with heap tables, and their rows
 *	orbit_drop_orphan(storage)		deletes such a file at commit, by PostgreSQL's own means;
 *									the storage worker then finds the storage without a file
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogutils.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_tablespace_d.h"
#include "catalog/storage.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "row/row.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(orbit_storages);
PG_FUNCTION_INFO_V1(orbit_orphans);
PG_FUNCTION_INFO_V1(orbit_drop_orphan);

/* ---- records and files --------------------------------------------------------------- */

typedef enum State				/* of a record; of a storage the greatest one */
{
	STATE_DROPPED,
	STATE_UNKNOWN,
	STATE_CREATING,
	STATE_IN_USE
} State;

static const char *const state_names[] = {"dropped", "unknown", "creating", "in use"};

/* The order matters: see RowFindFile. */
static State
JudgeRecord(const RowEvidence *evidence, const RowRecord *r, RowFile *file)
{
	bool		running = TransactionIdIsNormal(r->registry.creator) &&
		TransactionIdIsInProgress(r->registry.creator);

	switch (RowFindFile(evidence, r->storage, &r->registry, file))
	{
		case ROW_FILE_HOLDS:
			return running ? STATE_CREATING : STATE_IN_USE;
		case ROW_FILE_UNSURE:
			return running ? STATE_CREATING : STATE_UNKNOWN;
		case ROW_FILE_NONE:
			break;
	}
	return running ? STATE_CREATING : STATE_DROPPED;
}

static RowEvidence
Evidence(void)
{
	RowEvidence evidence = {RecoveryInProgress(), StoreFirstStorage(), RowWasDropped, NULL};

	return evidence;
}

static char *
FilePath(const CodecRegistry *r, Oid tablespace)
{
	return GetRelationPath(r->database, tablespace, r->relnode,
						   r->persistence == RELPERSISTENCE_TEMP ? r->backend : InvalidBackendId,
						   MAIN_FORKNUM);
}

/* ---- relations of this database --------------------------------------------------------- */

static bool
Matches(Form_pg_class c, const CodecRegistry *r)
{
	if (c->relpersistence != RELPERSISTENCE_TEMP || r->persistence != RELPERSISTENCE_TEMP)
		return c->relpersistence == r->persistence;
	return isTempNamespace(c->relnamespace) ? r->backend == BackendIdForTempRelations() :
		r->backend == GetTempNamespaceBackendId(c->relnamespace);
}

/* Whom does the file belong to, as committed by now?  Reads pg_class itself, not a cache. */
static Oid
FindRelation(const CodecRegistry *r, Oid tablespace)
{
	Oid			found = InvalidOid;
	ScanKeyData key[2];
	Relation	class;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (r->database != MyDatabaseId)
		return InvalidOid;
	ScanKeyInit(&key[0], Anum_pg_class_reltablespace, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(tablespace == MyDatabaseTableSpace ? InvalidOid : tablespace));
	ScanKeyInit(&key[1], Anum_pg_class_relfilenode, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(r->relnode));
	class = table_open(RelationRelationId, AccessShareLock);
	InvalidateCatalogSnapshot();
	scan = systable_beginscan(class, ClassTblspcRelfilenodeIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class c = (Form_pg_class) GETSTRUCT(tuple);

		if (Matches(c, r))
			found = c->oid;
	}
	systable_endscan(scan);
	table_close(class, AccessShareLock);
	return found;
}

/* ---- orbit_storages -------------------------------------------------------------------------- */

/* Values of one row: the record that says most about the storage. */
typedef struct StorageRow
{
	RowRecord	record;
	RowFile		file;
	State		state;
} StorageRow;

static void
PutStorage(ReturnSetInfo *rsinfo, const StorageRow *row, uint64 bytes)
{
	const CodecRegistry *r = &row->record.registry;
	Oid			relation = row->state == STATE_DROPPED ? InvalidOid :
		FindRelation(r, row->file.tablespace);
	char		persistence[2] = {r->persistence, '\0'};
	Datum		values[7];
	bool		nulls[7] = {false};

	values[0] = Int64GetDatum((int64) row->record.storage);
	values[1] = ObjectIdGetDatum(r->database);
	values[2] = ObjectIdGetDatum(relation);
	nulls[2] = !OidIsValid(relation);
	values[3] = CStringGetTextDatum(FilePath(r, row->file.tablespace));
	values[4] = CStringGetTextDatum(persistence);
	values[5] = CStringGetTextDatum(state_names[row->state]);
	values[6] = Int64GetDatum((int64) bytes);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Records of one storage follow each other; returns the number of storages. */
static int
JudgeAll(const RowRecord *records, int n, StorageRow *rows)
{
	RowEvidence evidence = Evidence();
	int			nrows = 0;

	for (int i = 0; i < n; i++)
	{
		StorageRow	row = {.record = records[i]};

		CHECK_FOR_INTERRUPTS();
		row.state = JudgeRecord(&evidence, &records[i], &row.file);
		if (nrows == 0 || rows[nrows - 1].record.storage != records[i].storage)
			rows[nrows++] = row;
		else if (row.state >= rows[nrows - 1].state)
			rows[nrows - 1] = row;
	}
	return nrows;
}

Datum
orbit_storages(PG_FUNCTION_ARGS)
{
	int			n;
	RowRecord  *records;
	StorageRow *rows;
	OrbitStorageId *ids;
	uint64	   *bytes;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	records = RowListRecords(&n);
	rows = palloc_extended(Max(n, 1) * sizeof(StorageRow), MCXT_ALLOC_HUGE);
	n = JudgeAll(records, n, rows);

	ids = palloc_extended(Max(n, 1) * sizeof(OrbitStorageId), MCXT_ALLOC_HUGE);
	bytes = palloc_extended(Max(n, 1) * sizeof(uint64), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
		ids[i] = rows[i].record.storage;
	StoreEstimateBytes(ids, n, bytes);
	for (int i = 0; i < n; i++)
		PutStorage((ReturnSetInfo *) fcinfo->resultinfo, &rows[i], bytes[i]);
	return (Datum) 0;
}

/* ---- orphans ------------------------------------------------------------------------------------ */

/*
 * Unlogged and temporary relations leave none: their files are emptied or deleted after a crash.
 * First the file and the creator, then the catalog: whoever has committed by then shows there.
 */
static bool
IsOrphan(const RowEvidence *evidence, const RowRecord *r, RowFile *file)
{
	State		state;

	if (r->registry.database != MyDatabaseId ||
		r->registry.persistence != RELPERSISTENCE_PERMANENT)
		return false;
	state = JudgeRecord(evidence, r, file);
	return (state == STATE_IN_USE || (state == STATE_UNKNOWN && file->exists)) &&
		!OidIsValid(FindRelation(&r->registry, file->tablespace));
}

Datum
orbit_orphans(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RowEvidence evidence;
	RowRecord  *records;
	int			n;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	records = RowListRecords(&n);
	evidence = Evidence();
	for (int i = 0; i < n; i++)
	{
		RowFile		file;
		uint64		bytes;
		Datum		values[3];
		bool		nulls[3] = {false};

		CHECK_FOR_INTERRUPTS();
		if (!IsOrphan(&evidence, &records[i], &file))
			continue;
		StoreEstimateBytes(&records[i].storage, 1, &bytes);
		values[0] = Int64GetDatum((int64) records[i].storage);
		values[1] = CStringGetTextDatum(FilePath(&records[i].registry, file.tablespace));
		values[2] = Int64GetDatum((int64) bytes);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* PostgreSQL deletes it when this transaction has committed, here and on standbys. */
static void
DropFileAtCommit(const CodecRegistry *r, Oid tablespace)
{
	RelFileNode node = {tablespace, r->database, r->relnode};
	Relation	rel = CreateFakeRelcacheEntry(node);

	rel->rd_backend = InvalidBackendId;
	RelationDropStorage(rel);
	FreeFakeRelcacheEntry(rel);
}

Datum
orbit_drop_orphan(PG_FUNCTION_ARGS)
{
	OrbitStorageId storage = (OrbitStorageId) PG_GETARG_INT64(0);
	RowEvidence evidence;
	RowRecord  *records;
	int			n;
	int			ndropped = 0;

	OrbitRequirePreload();
	PreventCommandDuringRecovery("orbit_drop_orphan()");
	records = RowListRecords(&n);
	evidence = Evidence();
	for (int i = 0; i < n; i++)
	{
		RowFile		file;

		if (records[i].storage != storage || !IsOrphan(&evidence, &records[i], &file))
			continue;
		/* so that the commit is logged and the deletion reaches standbys */
		(void) GetCurrentTransactionId();
		DropFileAtCommit(&records[i].registry, file.tablespace);
		ndropped++;
	}
	if (ndropped == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("storage %lld has no orphaned file in this database",
						(long long) storage),
				 errhint("See orbit_orphans().")));
	PG_RETURN_VOID();
}
