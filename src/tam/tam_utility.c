/*
 * tam_utility.c: hooks, for what PostgreSQL does without asking a table access method.
 *
 * CREATE DATABASE copies the template's files, so both databases would name the
 * same storages; until rows can be copied, it is refused when the template owns orbit
 * tables.
 *
 * A table made in the template after the check is met by row/relation.c: the copy's
 * metapage names another database, and opening it is an error.
 *
 * DROP DATABASE, DROP TABLESPACE and ALTER DATABASE SET TABLESPACE remove and move files of orbit
 * tables; the worker, which judges by files, is told so (row/database.c).
 *
 * pg_upgrade copies files of relations and knows of no others.  Its first question to a database of the
 * old server that owns orbit tables is answered with an error, so that its --check fails, too.
 *
 * A session may stay idle inside a transaction, with a cursor open, for hours.  RocksDB's
 * iterators would keep files that compaction has replaced; so when the outermost run of
 * the executor returns they are given up.  A scan that goes on finds its place again.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "tcop/utility.h"

#include "tam/tam_internal.h"

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static ExecutorRun_hook_type prev_ExecutorRun = NULL;
static int	run_depth = 0;

/* ---- CREATE DATABASE ------------------------------------------------------------------ */

static void
CheckCreateDatabase(const CreatedbStmt *stmt)
{
	const char *template = "template1";
	ListCell   *lc;
	Oid			database;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			template = defGetString(option);
	}
	database = get_database_oid(template, true);
	if (OidIsValid(database) && RowDatabaseOwnsTables(database))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot create a database from template \"%s\"", template),
				 errdetail("Database \"%s\" contains tables that use access method orbit, whose rows CREATE DATABASE does not copy.",
						   template),
				 errhint("Use pg_dump and pg_restore, or a template without such tables.")));
}

/* ---- files that vanish and move -------------------------------------------------------- */

typedef struct DroppedDirectory
{
	char		kind;			/* 0: none */
	Oid			oid;
} DroppedDirectory;

/* The name is resolved before the statement, the drop noted after it. */
static DroppedDirectory
FindDirectoryToDrop(Node *stmt)
{
	DroppedDirectory d = {0, InvalidOid};

	/* Who may not write cannot note anything: the storages are kept then. */
	if (RecoveryInProgress() || !IsUnderPostmaster || am_walsender)
		return d;
	if (IsA(stmt, DropdbStmt))
	{
		d.kind = ROW_DROPPED_DATABASE;
		d.oid = get_database_oid(castNode(DropdbStmt, stmt)->dbname, true);
	}
	else if (IsA(stmt, DropTableSpaceStmt))
	{
		d.kind = ROW_DROPPED_TABLESPACE;
		d.oid = get_tablespace_oid(castNode(DropTableSpaceStmt, stmt)->tablespacename, true);
	}
	if (!OidIsValid(d.oid))
		d.kind = 0;
	else
		StoreAttach();			/* fail now rather than when it is gone */
	return d;
}

static bool
MovesDatabase(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, AlterDatabaseStmt))
		return false;
	foreach(lc, castNode(AlterDatabaseStmt, stmt)->options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
			return true;
	}
	return false;
}

static void
MoveEnded(int code, Datum arg)
{
	RowMoveEnd();
}

static void
Proceed(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		ProcessUtilityContext context, ParamListInfo params,
		QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

static void
TamProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				  ProcessUtilityContext context, ParamListInfo params,
				  QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	DroppedDirectory dropped;

	/* in recovery PostgreSQL refuses them all */
	if (IsA(stmt, CreatedbStmt) && !RecoveryInProgress())
		CheckCreateDatabase((CreatedbStmt *) stmt);
	dropped = FindDirectoryToDrop(stmt);

	if (MovesDatabase(stmt))
	{
		RowMoveBegin();
		PG_ENSURE_ERROR_CLEANUP(MoveEnded, (Datum) 0);
		{
			Proceed(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		}
		PG_END_ENSURE_ERROR_CLEANUP(MoveEnded, (Datum) 0);
		RowMoveEnd();
	}
	else
		Proceed(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);

	if (dropped.kind != 0)
		RowNoteDropped(dropped.kind, dropped.oid);
}

/* ---- pg_upgrade ---------------------------------------------------------------------------- */

static void
CheckUpgrade(void)
{
	static bool checked = false;

	if (likely(!IsBinaryUpgrade) || checked || !OidIsValid(MyDatabaseId))
		return;
	if (RowDatabaseOwnsTables(MyDatabaseId))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pg_upgrade cannot transfer orbit tables"),
				 errdetail("Database \"%s\" contains tables that use access method orbit, whose rows are outside the files that pg_upgrade copies.",
						   get_database_name(MyDatabaseId)),
				 errhint("Move orbit tables with pg_dump and pg_restore.")));
	checked = true;
}

/* ---- iterators of idle sessions --------------------------------------------------------- */

static void
TamExecutorRun(QueryDesc *queryDesc, ScanDirection direction, uint64 count,
			   bool execute_once)
{
	CheckUpgrade();
	run_depth++;
	PG_TRY();
	{
		if (prev_ExecutorRun)
			prev_ExecutorRun(queryDesc, direction, count, execute_once);
		else
			standard_ExecutorRun(queryDesc, direction, count, execute_once);
	}
	PG_FINALLY();
	{
		run_depth--;
	}
	PG_END_TRY();
	/* after an error the end of the transaction does it */
	if (run_depth == 0)
		StoreReleaseIterators();
}

void
TamInit(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = TamProcessUtility;
	prev_ExecutorRun = ExecutorRun_hook;
	ExecutorRun_hook = TamExecutorRun;
	TamPrefetchInit();
}
