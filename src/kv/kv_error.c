/*
 * kv_error.c: the one place where a RocksDB error becomes an ereport.
 */
#include "postgres.h"

#include "kv/kv.h"

static int
SqlState(KvCode code)
{
	switch (code)
	{
		case KV_CORRUPTION:
			return ERRCODE_DATA_CORRUPTED;
		case KV_IO_ERROR:
			return ERRCODE_IO_ERROR;
		case KV_NO_SPACE:
			return ERRCODE_DISK_FULL;
		case KV_BUSY:
			return ERRCODE_LOCK_FILE_EXISTS;
		case KV_STALE:
			return ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
		case KV_INVALID:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case KV_NO_MEMORY:
			return ERRCODE_OUT_OF_MEMORY;
		case KV_AGAIN:
			return ERRCODE_OBJECT_IN_USE;
		case KV_OK:
		case KV_NOT_FOUND:
		case KV_OTHER:
			break;
	}
	return ERRCODE_INTERNAL_ERROR;
}

static const char *
Hint(KvCode code)
{
	switch (code)
	{
		case KV_CORRUPTION:
			return "A file of the RocksDB database is damaged or missing; restore from a backup.";
		case KV_NO_SPACE:
			return "Check free disk space.";
		case KV_BUSY:
			return "Another process has the RocksDB database open; is an old storage worker still running?";
		case KV_STALE:
			return "Retry; if it happens again, look into the server log for errors of the storage worker.";
		case KV_INVALID:
			return "Check that the RocksDB database exists and the orbit settings in postgresql.conf.";
		default:
			return NULL;
	}
}

void
KvRaise(int elevel, const KvStatus *st, const char *doing)
{
	const char *hint = Hint(st->code);

	ereport(elevel,
			(errcode(SqlState(st->code)),
			 errmsg("%s: %s", doing, st->message),
			 hint ? errhint("%s", hint) : 0));
}
