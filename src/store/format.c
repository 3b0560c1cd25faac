/*
 * format.c: the FORMAT file: which format the directory has and whose it is.
 *
 * Plain text, so that the postmaster can check it before any process opens
 * RocksDB (and so can an administrator).  RocksDB's pg_metadata holds the same two
 * numbers; this file repeats them.  It is written once, when they are known to be in
 * RocksDB, and never changes.
 *
 *     orbit_fdw format 1
 *     system identifier 7312345678901234567
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "store/store_internal.h"

#define FORMAT_FILE			"FORMAT"
#define FORMAT_LINES		"orbit_fdw format %u\nsystem identifier " UINT64_FORMAT "\n"
#define FORMAT_MAX			200

void
StoreFormatMismatch(uint32 format)
{
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("RocksDB storage in directory \"%s\" has format %u, but this orbit_fdw knows format %u",
					StoreDirectory(), format, ORBIT_FORMAT_VERSION),
			 format > ORBIT_FORMAT_VERSION ?
			 errhint("It was written by a newer version of orbit_fdw: install that version.") :
			 errhint("It was written by an older version of orbit_fdw: dump with that version and restore.")));
	pg_unreachable();
}

void
StoreSystemMismatch(uint64 system)
{
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("RocksDB storage in directory \"%s\" belongs to another database cluster",
					StoreDirectory()),
			 errdetail("The directory is of the cluster with system identifier " UINT64_FORMAT
					   ", this one is " UINT64_FORMAT ".",
					   system, GetSystemIdentifier()),
			 errhint("Put back the directory that belongs to this data directory.")));
	pg_unreachable();
}

bool
StoreFormatCheck(void)
{
	char		path[MAXPGPATH];
	char		text[FORMAT_MAX + 1];
	unsigned int format;
	unsigned long long system;
	FILE	   *file;
	size_t		n;

	snprintf(path, sizeof(path), "%s/%s", StoreDirectory(), FORMAT_FILE);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
	{
		if (errno == ENOENT)
			return false;
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	n = fread(text, 1, FORMAT_MAX, file);
	if (ferror(file))
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	FreeFile(file);
	text[n] = '\0';

	if (sscanf(text, "orbit_fdw format %u system identifier %llu", &format, &system) < 1)
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not say which format the directory has", path),
				 errhint("Put back the file, or the whole directory, from where it was copied.")));
	if (format != ORBIT_FORMAT_VERSION)
		StoreFormatMismatch(format);
	if (sscanf(text, "orbit_fdw format %u system identifier %llu", &format, &system) != 2)
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not say which cluster the directory belongs to", path),
				 errhint("Put back the file, or the whole directory, from where it was copied.")));
	if (system != GetSystemIdentifier())
		StoreSystemMismatch(system);
	return true;
}

void
StoreFormatWrite(void)
{
	char		text[FORMAT_MAX];

	snprintf(text, sizeof(text), FORMAT_LINES, ORBIT_FORMAT_VERSION, GetSystemIdentifier());
	(void) StoreReplaceFile(FORMAT_FILE, text, ERROR);
}

void
StoreCheckDirectory(void)
{
	struct stat st;

	if (stat(StoreDirectory(), &st) != 0)
	{
		if (errno == ENOENT)
			return;
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not stat directory \"%s\": %m", StoreDirectory())));
	}
	if (!S_ISDIR(st.st_mode))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is not a directory", StoreDirectory()),
				 errhint("Move the file away, or set orbit.data_directory to another name.")));
	/* FORMAT is written last: where it stands, RocksDB's files have been there. */
	if (StoreFormatCheck() && !KvExists(StoreDirectory()))
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("RocksDB's files in directory \"%s\" are missing", StoreDirectory()),
				 errdetail("The directory has been used, but holds no database."),
				 errhint("Restore the whole directory from the backup that the rest of the data directory comes from.")));
}
