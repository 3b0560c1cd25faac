/*
 * smallfile.c: the small text files beside RocksDB's: FORMAT, REACHED, CLEAN, SNAPSHOT.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "storage/fd.h"

#include "base/base.h"
#include "base/faults.h"
#include "store/store_internal.h"

bool
StoreWriteFile(const char *path, const char *text, int len)
{
	int			fd = OpenTransientFile(path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	int			failed;

	if (fd < 0)
		return false;
	errno = failed = OrbitFileFault(ORBIT_FAULT_WRITE, path);
	if (failed == 0 && (write(fd, text, len) != len || pg_fsync(fd) != 0))
		/* a short write without an errno means a full disk */
		failed = errno != 0 ? errno : ENOSPC;
	if (CloseTransientFile(fd) != 0 && failed == 0)
		failed = errno;
	errno = failed;
	return failed == 0;
}

bool
StoreReplaceFile(const char *name, const char *text, int elevel)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%s", StoreDirectory(), name);
	snprintf(temp, sizeof(temp), "%s/%s.tmp", StoreDirectory(), name);
	if (!StoreWriteFile(temp, text, strlen(text)))
	{
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp)));
		return false;
	}
	return durable_rename(temp, path, elevel) == 0;
}
