/*
 * tam_utility.c: hooks, for what PostgreSQL does without asking a table access method.
 *
 * CREATE DATABASE copies the template's files, so both databases would name the
 * same storages; until rows can be copied, it is refused when the template owns orbit
 * tables.
 *
 * Who owns tables is taken from the records in pg_tables: they are there for every storage
 * of a permanent or used unlogged table, whichever buffers its file is still in.  A record
 * counts while one of its files exists and holds this storage id, in any tablespace (ALTER
 * DATABASE SET TABLESPACE moves files without telling us).
 *
 * A table made in the template after the check is met by row/relation.c: the copy's
 * metapage names another database, and opening it is an error.
 *
 * A session may stay idle inside a transaction, with a cursor open, for hours.  RocksDB's
 * iterators would keep files that compaction has replaced; so when the outermost run of
 * the executor returns they are given up.  A scan that goes on finds its place again.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_tablespace_d.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "common/relpath.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/fd.h"
#include "tcop/utility.h"

#include "row/metapage.h"
#include "tam/tam_internal.h"

static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static ExecutorRun_hook_type prev_ExecutorRun = NULL;
static int	run_depth = 0;

/* ---- does a database own orbit tables --------------------------------------------- */

typedef struct StorageFile
{
	OrbitStorageId storage;
	RelFileNode node;
} StorageFile;

typedef struct StorageFiles
{
	Oid			database;
	int			n;
	int			max;
	StorageFile *files;
} StorageFiles;

/* Registry and alias records have one form; both end in a file. */
static bool
CollectFile(const char *key, Size keylen, const char *value, Size len, void *arg)
{
	StorageFiles *files = arg;
	CodecRegistry registry;
	OrbitStorageId storage;
	char		record;

	if (keylen < CODEC_STORAGE_KEY_SIZE || len != sizeof(registry) ||
		!CodecStorageKeyParse(key, CODEC_STORAGE_KEY_SIZE, &storage, &record) ||
		(record != CODEC_RECORD_REGISTRY && record != ROW_RECORD_ALIAS))
		return true;
	memcpy(&registry, value, sizeof(registry));
	if (registry.database != files->database ||
		registry.persistence == RELPERSISTENCE_TEMP)
		return true;

	if (files->n == files->max)
	{
		files->max = files->max ? files->max * 2 : 64;
		files->files = files->files ?
			repalloc_huge(files->files, files->max * sizeof(StorageFile)) :
			palloc(files->max * sizeof(StorageFile));
	}
	files->files[files->n].storage = storage;
	files->files[files->n].node.spcNode = registry.tablespace;
	files->files[files->n].node.dbNode = registry.database;
	files->files[files->n].node.relNode = registry.relnode;
	files->n++;
	return true;
}

/*
 * Does this file hold the storage's metapage?  A page of zeroes has not been written out yet: it
 * counts.  An empty file is one that was dropped and waits for the next checkpoint.
 */
static bool
FileHoldsStorage(const StorageFile *file, Oid tablespace)
{
	char	   *path = GetRelationPath(file->node.dbNode, tablespace, file->node.relNode,
									   InvalidBackendId, MAIN_FORKNUM);
	PGAlignedBlock block;
	RowMetapage *meta = RowMetapageGet(block.data);
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	int			n;

	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", path)));
		pfree(path);
		return false;
	}
	n = pg_pread(fd, block.data, BLCKSZ, 0);
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	pfree(path);
	if (n < BLCKSZ)
		return false;
	if (PageIsNew((Page) block.data))
		return true;
	return meta->magic == ROW_METAPAGE_MAGIC && meta->storage == file->storage;
}

/* Every tablespace but pg_global. */
static List *
AllTablespaces(void)
{
	List	   *tablespaces = list_make1_oid(DEFAULTTABLESPACE_OID);
	DIR		   *dir = AllocateDir("pg_tblspc");
	struct dirent *entry;

	while ((entry = ReadDir(dir, "pg_tblspc")) != NULL)
	{
		Oid			oid;

		if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name))
			continue;
		oid = (Oid) strtoul(entry->d_name, NULL, 10);
		tablespaces = lappend_oid(tablespaces, oid);
	}
	FreeDir(dir);
	return tablespaces;
}

static bool
DatabaseOwnsTables(Oid database)
{
	StorageFiles files = {0};
	List	   *tablespaces;
	ListCell   *lc;

	files.database = database;
	StoreAttach();
	StoreKvForEach(ORBIT_PG_TABLES, "", 0, CollectFile, &files);
	if (files.n == 0)
		return false;

	tablespaces = AllTablespaces();
	for (int i = 0; i < files.n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		foreach(lc, tablespaces)
		{
			if (FileHoldsStorage(&files.files[i], lfirst_oid(lc)))
				return true;
		}
	}
	return false;
}

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
	if (OidIsValid(database) && DatabaseOwnsTables(database))
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
