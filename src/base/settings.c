/*
 * settings.c: the extension's settings, whether it was preloaded, and its
 * LWLock tranches.
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/guc.h"

#include "base/base.h"

char	   *orbit_data_directory = NULL;
int			orbit_write_buffer_size = 64 * 1024;
int			orbit_max_write_buffers = 4;
int			orbit_page_cache_size = 128 * 1024;
int			orbit_block_cache_size = 8 * 1024;
int			orbit_max_background_jobs = 2;
int			orbit_compression = ORBIT_COMPRESSION_LZ4;
int			orbit_bottommost_compression = ORBIT_COMPRESSION_ZSTD;
int			orbit_wal_compression = ORBIT_COMPRESSION_LZ4;
int			orbit_flush_interval = 10 * 1000;
int			orbit_reclaim_delay = 60 * 1000;
int			orbit_reclaim_threshold = 20;
int			orbit_snapshot_keep = 5 * 60 * 1000;
int			orbit_collect_interval = 30 * 1000;

bool		orbit_preloaded = false;

LWLockPadded *orbit_switch_locks = NULL;
LWLockPadded *orbit_row_locks = NULL;
LWLockPadded *orbit_storage_locks = NULL;
LWLockPadded *orbit_page_locks = NULL;

static const struct config_enum_entry compression_options[] = {
	{"none", ORBIT_COMPRESSION_NONE, false},
	{"lz4", ORBIT_COMPRESSION_LZ4, false},
	{"zstd", ORBIT_COMPRESSION_ZSTD, false},
	{NULL, 0, false}
};

static const struct config_enum_entry wal_compression_options[] = {
	{"none", ORBIT_COMPRESSION_NONE, false},
	{"lz4", ORBIT_COMPRESSION_LZ4, false},
	{NULL, 0, false}
};

/*
 * The directory lies directly inside the data directory, or base backups would
 * miss it (R20); a plain name cannot lead out of it.
 */
static const char *
WrongDirectoryName(const char *name)
{
	static const char *const taken[] = {
		"base", "global", "pg_tblspc", "pg_wal", "pg_xact", "pg_subtrans",
		"pg_multixact", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_notify",
		"pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp",
		"pg_twophase", "log"
	};

	if (name[0] == '\0' || strlen(name) > 63 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != strlen(name))
		return "It must be the name of a directory inside the data directory: "
			"letters, digits, \"_\" and \"-\", at most 63 of them.";
	for (int i = 0; i < lengthof(taken); i++)
	{
		if (strcmp(name, taken[i]) == 0)
			return "This is a directory of PostgreSQL's own.";
	}
	if (strncmp(name, "pgsql_tmp", 9) == 0)
		return "Base backups leave out names that begin with \"pgsql_tmp\".";
	return NULL;
}

/*
 * PostgreSQL only warns of a wrong value of an extension's setting and goes on with
 * the default.  That would be another directory, without the user's rows: stop.
 */
static bool
CheckDataDirectory(char **newval, void **extra, GucSource source)
{
	const char *wrong = WrongDirectoryName(*newval);

	if (wrong == NULL)
		return true;
	if (process_shared_preload_libraries_in_progress)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"%s\": \"%s\"",
						"orbit.data_directory", *newval),
				 errdetail_internal("%s", wrong)));
	GUC_check_errdetail("%s", wrong);
	return false;
}

static void
DefineInt(const char *name, const char *what, const char *more, int *var,
		  int boot, int min, int max, GucContext context, int flags)
{
	DefineCustomIntVariable(name, what, more, var, boot, min, max, context, flags,
							NULL, NULL, NULL);
}

void
OrbitDefineSettings(bool preload)
{
	/*
	 * Without preload the settings have no effect; they are defined all the
	 * same so that setting them in a session gets an answer.  A postmaster
	 * setting may only be defined during preload.
	 */
	if (!preload)
		return;

	DefineCustomStringVariable("orbit.data_directory",
							   "Directory of RocksDB inside the data directory.",
							   NULL, &orbit_data_directory, "orbit",
							   PGC_POSTMASTER, 0, CheckDataDirectory, NULL, NULL);
	DefineInt("orbit.write_buffer_size", "Size of one write buffer in shared memory.",
			  NULL, &orbit_write_buffer_size, 64 * 1024, 256, 16 * 1024 * 1024,
			  PGC_POSTMASTER, GUC_UNIT_KB);
	DefineInt("orbit.max_write_buffers", "Number of write buffers.",
			  "One takes writes while the others wait to be flushed.",
			  &orbit_max_write_buffers, 4, 2, 64, PGC_POSTMASTER, 0);
	DefineInt("orbit.page_cache_size",
			  "Size of the cache of pages in shared memory.",
			  "What shared_buffers is to heap tables.",
			  &orbit_page_cache_size, 128 * 1024, ORBIT_PAGE_PARTITION_KB, 1024 * 1024 * 1024,
			  PGC_POSTMASTER, GUC_UNIT_KB);
	DefineInt("orbit.block_cache_size",
			  "Size of RocksDB's block cache, in the storage worker and in each backend.",
			  "What is not in the page cache is read through it; indexes and filters of files take the most of it.",
			  &orbit_block_cache_size, 8 * 1024, 1024, INT_MAX / 2,
			  PGC_POSTMASTER, GUC_UNIT_KB);
	DefineInt("orbit.max_background_jobs", "Number of RocksDB's compaction threads.",
			  NULL, &orbit_max_background_jobs, 2, 1, 64, PGC_POSTMASTER, 0);
	DefineInt("orbit.flush_interval",
			  "Age after which rows in a write buffer are flushed to RocksDB.",
			  NULL, &orbit_flush_interval, 10 * 1000, 10, INT_MAX / 2,
			  PGC_SIGHUP, GUC_UNIT_MS);
	DefineInt("orbit.reclaim_delay",
			  "Time after which the space of rows that nobody needs any more is reclaimed.",
			  "Files of RocksDB are left alone until they are this old.",
			  &orbit_reclaim_delay, 60 * 1000, 0, INT_MAX / 2,
			  PGC_SIGHUP, GUC_UNIT_MS);
	DefineInt("orbit.reclaim_threshold",
			  "Share of a compaction's input, in percent, that must be reclaimed by it.",
			  "Zero compacts files at random all the time, which is for tests.",
			  &orbit_reclaim_threshold, 20, 0, 100, PGC_SIGHUP, 0);
	DefineInt("orbit.collect_interval",
			  "Time between searches for storages of tables that were dropped.",
			  NULL, &orbit_collect_interval, 30 * 1000, 10, INT_MAX / 2,
			  PGC_SIGHUP, GUC_UNIT_MS);
	DefineInt("orbit.snapshot_keep",
			  "Time for which snapshots of RocksDB are kept after a newer one was made.",
			  "At most, but for the newest two and those that a backup or pg_rewind needs.",
			  &orbit_snapshot_keep, 5 * 60 * 1000, 0, INT_MAX / 2,
			  PGC_SIGHUP, GUC_UNIT_MS);
	DefineCustomEnumVariable("orbit.compression", "Compression of RocksDB's files.",
							 NULL, &orbit_compression, ORBIT_COMPRESSION_LZ4,
							 compression_options, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("orbit.bottommost_compression",
							 "Compression of the files in RocksDB's lowest level.",
							 NULL, &orbit_bottommost_compression, ORBIT_COMPRESSION_ZSTD,
							 compression_options, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("orbit.wal_compression",
							 "Compression of rows in the WAL, where many, or a large one, are written at once.",
							 NULL, &orbit_wal_compression, ORBIT_COMPRESSION_LZ4,
							 wal_compression_options, PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("orbit");
}

void
OrbitRequirePreload(void)
{
	if (likely(orbit_preloaded))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("orbit_fdw must be loaded at server start"),
			 errdetail("Tables in RocksDB need shared memory, a WAL resource manager and a storage worker."),
			 errhint("Add orbit_fdw to shared_preload_libraries in postgresql.conf and restart the server.")));
}

int
OrbitPagePartitions(void)
{
	int			n = Min(orbit_page_cache_size / ORBIT_PAGE_PARTITION_KB, ORBIT_PAGE_PARTITIONS);

	return Max(n, orbit_page_cache_size / (1024 * 1024));
}

void
OrbitRequestLocks(void)
{
	RequestNamedLWLockTranche("orbit_switch", 2);
	RequestNamedLWLockTranche("orbit_row", ORBIT_ROW_LOCKS);
	RequestNamedLWLockTranche("orbit_storage", ORBIT_STORAGE_LOCKS);
	RequestNamedLWLockTranche("orbit_unique", ORBIT_UNIQUE_LOCKS);
	RequestNamedLWLockTranche("orbit_page", OrbitPagePartitions());
}

void
OrbitAttachLocks(void)
{
	orbit_switch_locks = GetNamedLWLockTranche("orbit_switch");
	orbit_row_locks = GetNamedLWLockTranche("orbit_row");
	orbit_storage_locks = GetNamedLWLockTranche("orbit_storage");
	orbit_page_locks = GetNamedLWLockTranche("orbit_page");
}
