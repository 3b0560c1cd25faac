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

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "storage/fd.h"

#include "store/store_internal.h"

#define REACHED_FILE	"REACHED"
#define REACHED_MAX		100

static void
ReachedPath(char *path, const char *name)
{
	snprintf(path, MAXPGPATH, "%s/%s", StoreDirectory(), name);
}

static bool
WriteFile(const char *path, uint64 generation)
{
	char		text[REACHED_MAX];
	int			len = snprintf(text, sizeof(text), "generation " UINT64_FORMAT "\n", generation);
	int			fd = OpenTransientFile(path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	bool		ok;

	if (fd < 0)
		return false;
	errno = 0;
	ok = write(fd, text, len) == len && pg_fsync(fd) == 0;
	/* a short write without an errno means a full disk */
	if (!ok && errno == 0)
		errno = ENOSPC;
	if (!ok)
	{
		int			save_errno = errno;

		CloseTransientFile(fd);
		errno = save_errno;
		return false;
	}
	return CloseTransientFile(fd) == 0;
}

void
StoreNoteReached(void)
{
	uint64		generation = MembufRequiredGeneration();
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];

	if (generation <= pg_atomic_read_u64(&store_shared->reached))
		return;
	ReachedPath(path, REACHED_FILE);
	ReachedPath(temp, REACHED_FILE ".tmp");
	if (!WriteFile(temp, generation))
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp)));
	else if (durable_rename(temp, path, LOG) == 0)
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

	ReachedPath(path, REACHED_FILE);
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

	ReachedPath(path, REACHED_FILE);
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
