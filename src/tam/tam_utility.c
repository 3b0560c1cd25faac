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
 * A session may stay idle inside a transaction, with a cursor open, for hours.  RocksDB's
 * iterators would keep files that compaction has replaced; so when the outermost run of
 * the executor returns they are given up.  A scan that goes on finds its place again.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
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

static void
TamProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				  ProcessUtilityContext context, ParamListInfo params,
				  QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	if (IsA(pstmt->utilityStmt, CreatedbStmt) && !RecoveryInProgress())
		CheckCreateDatabase((CreatedbStmt *) pstmt->utilityStmt);
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

/* ---- iterators of idle sessions --------------------------------------------------------- */

static void
TamExecutorRun(QueryDesc *queryDesc, ScanDirection direction, uint64 count,
			   bool execute_once)
{
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
}
