/*
 * database.c: does a database own orbit tables?
 *
 * The answer is taken from the records in pg_tables: they are there for every storage of
 * a permanent or used unlogged table, whichever buffers its file is still in.  A record
 * counts while one of its files exists and holds this storage id, in any tablespace (ALTER
 * DATABASE SET TABLESPACE moves files without telling us).
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "catalog/pg_class.h"
#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "row/metapage.h"
#include "row/row.h"

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

bool
RowDatabaseOwnsTables(Oid database)
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
