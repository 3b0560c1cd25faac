/*
 * primary.c: the worker opens RocksDB's primary instance and loads from it what the
 * other processes need before they may start.
 *
 * A new directory gets format version and system identifier in pg_metadata, then the
 * FORMAT file.  A directory that has them is checked; one that is of a newer version,
 * of another cluster or damaged is refused.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "store/store_internal.h"

static void
RaiseFatal(KvDb *db, const KvStatus *st)
{
	KvClose(db);
	KvRaise(FATAL, st, "could not open RocksDB storage");
	pg_unreachable();
}

static void
MakeDirectory(void)
{
	const char *dir = StoreDirectory();

	if (mkdir(dir, pg_dir_create_mode) == 0)
		fsync_fname(DataDir, true);
	else if (errno != EEXIST)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", dir)));
}

/*
 * Reads a fixed-size record of pg_metadata; false: absent.  Database closed and FATAL
 * when it cannot be read.
 */
static bool
ReadMetadata(KvDb *db, const char *key, void *value, Size len)
{
	CodecBuf	buf = {0};
	KvStatus	st;
	bool		found;

	st.code = KV_OK;
	KvGet(db, ORBIT_PG_METADATA, key, strlen(key), &buf, &st);
	found = st.code == KV_OK;
	if (found && buf.len < len)
		StoreFillStatus(&st, KV_CORRUPTION, "a record of pg_metadata is too short");
	if (st.code != KV_OK && st.code != KV_NOT_FOUND)
		RaiseFatal(db, &st);
	if (found)
		memcpy(value, buf.data, len);
	CodecBufFree(&buf);
	return found;
}

static void
PutMetadata(KvBatch *batch, const char *key, const void *value, Size len, KvStatus *st)
{
	if (st->code == KV_OK)
		KvBatchPut(batch, ORBIT_PG_METADATA, key, strlen(key), value, len, st);
}

static uint64
NewInstance(void)
{
	uint64		instance = 0;

	while (instance == 0)
	{
		if (!pg_strong_random(&instance, sizeof(instance)))
			ereport(FATAL,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random number for the RocksDB storage")));
	}
	return instance;
}

static void
InitMetadata(KvDb *db)
{
	uint32		format = ORBIT_FORMAT_VERSION;
	uint64		system = GetSystemIdentifier();
	uint64		instance = NewInstance();
	CodecFlushed flushed = {.next_storage = 1};
	KvStatus	st;
	KvBatch    *batch;
	uint64		generation;

	st.code = KV_OK;
	batch = KvBatchBegin(db, &st);
	if (batch == NULL)
	{
		if (st.code == KV_OK)
			StoreFillStatus(&st, KV_NO_MEMORY, "out of memory");
		RaiseFatal(db, &st);
	}
	/* ascending */
	PutMetadata(batch, CODEC_META_FLUSHED, &flushed, sizeof(flushed), &st);
	PutMetadata(batch, CODEC_META_FORMAT, &format, sizeof(format), &st);
	PutMetadata(batch, CODEC_META_INSTANCE, &instance, sizeof(instance), &st);
	PutMetadata(batch, CODEC_META_SYSTEM, &system, sizeof(system), &st);
	if (st.code == KV_OK)
		KvBatchCommit(batch, &generation, &st);
	else
		KvBatchAbort(batch);
	if (st.code != KV_OK)
		RaiseFatal(db, &st);
}

/* Oldest generation that every family has; all have the same, by the atomic ingest. */
static uint64
CommonGeneration(KvDb *db)
{
	uint64		common = PG_UINT64_MAX;

	for (int f = 0; f < ORBIT_NFAMILIES; f++)
	{
		uint64		g = 0;
		KvStatus	st;

		st.code = KV_OK;
		KvGeneration(db, (OrbitFamily) f, &g, &st);
		if (st.code != KV_OK)
			RaiseFatal(db, &st);
		common = Min(common, g);
	}
	return common;
}

/*
 * True: the directory is new, nothing but this was ever written.  FORMAT is written last: where it
 * stands there has been an ingest.
 */
static bool
CheckMetadata(KvDb *db, uint64 generation)
{
	uint32		format;
	uint64		system;
	KvStatus	st;

	if (!ReadMetadata(db, CODEC_META_FORMAT, &format, sizeof(format)))
	{
		if (generation == 0 && !StoreFormatCheck())
			return true;
		StoreFillStatus(&st, KV_CORRUPTION, "pg_metadata has no format version");
		RaiseFatal(db, &st);
	}
	if (format != ORBIT_FORMAT_VERSION)
	{
		KvClose(db);
		StoreFormatMismatch(format);
	}
	if (!ReadMetadata(db, CODEC_META_SYSTEM, &system, sizeof(system)))
	{
		StoreFillStatus(&st, KV_CORRUPTION, "pg_metadata has no system identifier");
		RaiseFatal(db, &st);
	}
	if (system != GetSystemIdentifier())
	{
		KvClose(db);
		StoreSystemMismatch(system);
	}
	return false;
}

static void
LoadFlushed(KvDb *db)
{
	CodecFlushed f;
	uint64		instance;
	KvStatus	st;

	if (!ReadMetadata(db, CODEC_META_FLUSHED, &f, sizeof(f)))
	{
		StoreFillStatus(&st, KV_CORRUPTION, "pg_metadata does not say up to where it was flushed");
		RaiseFatal(db, &st);
	}
	if (!ReadMetadata(db, CODEC_META_INSTANCE, &instance, sizeof(instance)) || instance == 0)
	{
		StoreFillStatus(&st, KV_CORRUPTION, "pg_metadata does not say which instance this is");
		RaiseFatal(db, &st);
	}
	pg_atomic_write_u64(&store_shared->instance, instance);
	(void) StoreRaiseAtomic(&store_shared->flushed_lsn, f.flushed_lsn);
	(void) StoreRaiseAtomic(&store_shared->covered_redo, f.covered_redo);
	pg_atomic_write_u32(&store_shared->flushed_timeline, f.timeline);
	StoreSetNextStorage(f.next_storage);
}

KvDb *
StorePrimaryOpen(void)
{
	KvOptions	o;
	KvStatus	st;
	KvDb	   *db = NULL;
	uint64		generation;

	StoreCheckDirectory();
	MakeDirectory();
	StoreKvOptions(&o, true);
	st.code = KV_OK;
	KvOpenPrimary(StoreDirectory(), &o, &db, &st);
	if (db == NULL)
		RaiseFatal(NULL, &st);

	generation = CommonGeneration(db);
	StoreCheckReached(generation);

	/*
	 * A new directory's generation holds nothing that anybody reads: as long as
	 * zero is required, backends need not open RocksDB at all.
	 */
	if (CheckMetadata(db, generation))
		InitMetadata(db);
	else
		MembufRaiseGeneration(generation);
	LoadFlushed(db);
	if (!StoreFormatCheck())
		StoreFormatWrite();

	StoreUsePrimary(db);
	ereport(LOG,
			(errmsg("PostgreSQL using persistent RocksDB storage at: %s/%s",
					DataDir, StoreDirectory())));
	return db;
}
