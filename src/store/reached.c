/*
 * reached.c: the file REACHED: a generation below which RocksDB must never be found again.
 *
 * RocksDB takes a MANIFEST whose end is missing for one whose writer died there, and silently comes
 * up as of an earlier ingest; a single damaged byte, the length of a record, is enough for that, and
 * so is an older copy of the directory.  As long as the write-ahead log replays what is missing, no harm
 * is done.  So before a checkpoint is released, or may become a restartpoint, the generation that
 * RocksDB then stands at is noted here, and the next open is refused below it.
 *
 * It is a guard, not a part of recovery: when it cannot be written, that is logged and things go on.
 *
 *     generation 4711
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog.h"
#include "storage/fd.h"

#include "base/base.h"
#include "store/store_internal.h"

#define REACHED_FILE	"REACHED"
#define REACHED_MAX		100

static void
ReachedPath(char *path)
{
	snprintf(path, MAXPGPATH, "%s/%s", StoreDirectory(), REACHED_FILE);
}

void
StoreNoteReached(void)
{
	uint64		generation = MembufRequiredGeneration();
	char		text[REACHED_MAX];

	if (generation <= pg_atomic_read_u64(&store_shared->reached))
		return;
	snprintf(text, sizeof(text), "generation " UINT64_FORMAT "\n", generation);
	if (StoreReplaceFile(REACHED_FILE, text, LOG))
		(void) StoreRaiseAtomic(&store_shared->reached, generation);
}

/* 0: there is no such file. */
static uint64
ReadReached(void)
{
	char		path[MAXPGPATH];
	char		text[REACHED_MAX + 1];
	unsigned long long generation;
	FILE	   *file;
	size_t		n;

	ReachedPath(path);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL && errno == ENOENT)
		return 0;
	if (file == NULL)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	n = fread(text, 1, REACHED_MAX, file);
	if (ferror(file))
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	FreeFile(file);
	text[n] = '\0';
	if (sscanf(text, "generation %llu", &generation) != 1)
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is damaged", path),
				 errhint("It says below which generation the RocksDB storage must not be found. If nothing else is damaged, remove it and start the server again.")));
	return generation;
}

void
StoreForgetReached(void)
{
	char		path[MAXPGPATH];

	ReachedPath(path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

void
StoreCheckReached(uint64 generation)
{
	uint64		reached = ReadReached();

	pg_atomic_write_u64(&store_shared->reached, reached);
	if (generation >= reached)
		return;
	ereport(FATAL,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("RocksDB storage in directory \"%s\" has lost its latest changes", StoreDirectory()),
			 errdetail("It stands at generation " UINT64_FORMAT ", but stood at " UINT64_FORMAT
					   " when a checkpoint was completed; rows would be missing.",
					   generation, reached),
			 errhint("Its MANIFEST file is damaged, or the directory is an older copy. Restore the whole data directory from a backup.")));
}
