/*
 * flush.c: one sealed arena -> RocksDB, in one atomic ingest.
 *
 * Order, and what a crash after each step leaves:
 *
 *   1. XLogFlush past the arena's last record (K10)    nothing
 *   2. the batch: pages, counters, records, `flushed`  files in stage/, cleaned at open;
 *      XLogFlush past the commits that it relied on
 *   3. KvBatchCommit                                   all of it, F included
 *   4. F in shared memory, MembufRelease               the same
 *   5. counters marked as persisted                    the same
 *
 * Step 5 follows step 4: an entry may leave the counters' table only when every reader
 * is bound to a generation that has its record.
 *
 * Each ingest carries the `flushed` record of pg_metadata.  The counters of every
 * storage in the arena are written, with next_page from the shared allocation word as
 * it is now: it may be ahead of the arena, never behind.
 *
 * Failures come back as a status, also those that PostgreSQL raises as an ERROR (the commit log
 * cannot be read, out of memory): nothing has changed then but shared pages, which have more than
 * RocksDB and nothing that the arena has not, and the caller tries again.  As the end of the worker an
 * ERROR would be met again by every recovery that follows.  Should an ingest have
 * happened in spite of the failure, the second one finds the higher put_mark, merges the same
 * entries, and they count once.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "storage/lwlock.h"

#include "store/store_internal.h"

#define RECORD_KEY_SIZE		16

/* A record of the flush itself, to be merged with those of the arena. */
typedef struct FlushRecord
{
	char		key[RECORD_KEY_SIZE];
	Size		keylen;
	const void *value;			/* NULL: nothing, and the arena's is left out */
	Size		len;
} FlushRecord;

/* ---- WAL before data ----------------------------------------------------------------- */

static void
FlushWal(XLogRecPtr lsn)
{
	if (XLogRecPtrIsInvalid(lsn))
		return;					/* nothing logged in the arena */

	/*
	 * While WAL that lies on disk is replayed after a crash it is durable already,
	 * and a call would tell this process for good that it has no minimum recovery
	 * point to keep.  In archive recovery the call moves that point.
	 */
	if (GetRecoveryState() != RECOVERY_STATE_CRASH)
		XLogFlush(lsn);
}

/*
 * In recovery a finished lock is one whose transaction's end has been replayed, maybe from behind the
 * arena.  Recovery must not end before that any more: the transaction could be a prepared one.
 */
static void
FlushWalOfEnds(void)
{
	/* the record being replayed may be the one that told of the end */
	if (GetRecoveryState() == RECOVERY_STATE_ARCHIVE)
		XLogFlush(GetCurrentReplayRecPtr(NULL));
}

/*
 * The timeline beside F.  Redo may begin on an older one than F is of, and an ingest that moves nothing
 * must not say so (worker_history.c).
 */
static TimeLineID
CurrentTimeline(void)
{
	TimeLineID	tli = 0;

	if (!RecoveryInProgress())
		tli = GetWALInsertionTimeLine();
	else
		(void) GetXLogReplayRecPtr(&tli);
	return Max(tli, StoreFlushedTimeline());
}

/* ---- key/value families ---------------------------------------------------------------- */

int
StoreCompareKeys(const char *a, Size alen, const char *b, Size blen)
{
	int			c = memcmp(a, b, Min(alen, blen));

	return c != 0 ? c : alen < blen ? -1 : alen > blen;
}

static void
WriteArenaValue(KvBatch *batch, OrbitFamily family, MembufIter *it,
				const char *key, Size keylen, KvStatus *st)
{
	MembufOp	op;
	const char *value;
	Size		len;

	MembufIterValue(it, &op, &value, &len);
	if (op == MEMBUF_PUT)
		KvBatchPut(batch, family, key, keylen, value, len, st);
	else
		KvBatchDelete(batch, family, key, keylen, st);
}

/*
 * The newest value of each key that the arena has in the family (seq 0: no arena),
 * merged with the flush's own records, which win.  Both ascend.
 */
static void
WriteFamily(KvBatch *batch, uint64 seq, OrbitFamily family,
			const FlushRecord *records, int n, KvStatus *st)
{
	MembufIter	it;
	bool		on = false;
	int			i = 0;

	if (seq != 0)
	{
		MembufIterInit(&it, seq);
		on = MembufIterSeek(&it, family, "\0", 1);
	}
	while (st->code == KV_OK)
	{
		const char *key = NULL;
		Size		keylen = 0;
		int			order;

		on = on && MembufIterKey(&it, &key, &keylen) == family;
		if (!on && i >= n)
			break;
		order = !on ? 1 : i >= n ? -1 :
			StoreCompareKeys(key, keylen, records[i].key, records[i].keylen);
		if (order < 0)
			WriteArenaValue(batch, family, &it, key, keylen, st);
		else
		{
			if (records[i].value != NULL)
				KvBatchPut(batch, family, records[i].key, records[i].keylen,
						   records[i].value, records[i].len, st);
			i++;
		}
		if (order <= 0)
			on = MembufIterNext(&it);
	}
}

/* ---- counters ------------------------------------------------------------------------------ */

static int
CompareStorages(const void *a, const void *b)
{
	OrbitStorageId x = ((const FlushStorage *) a)->storage;
	OrbitStorageId y = ((const FlushStorage *) b)->storage;

	return x < y ? -1 : x > y;
}

/*
 * When the shared table is crowded, storages that the arena does not touch have
 * their counters written too, so that they can leave it: an allocation whose row
 * never came would keep its entry for ever.
 */
static void
AddCrowd(KvDb *db, FlushResult *r, KvStatus *st)
{
	int			touched = r->nstorages;
	int			n;
	OrbitStorageId *ids = StoreCountersCrowd(&n);
	FlushStorage *more = n > 0 ? realloc(r->storages, (touched + n) * sizeof(FlushStorage)) : NULL;

	if (more == NULL)
	{
		free(ids);				/* none, or no memory: not needed for this flush */
		return;
	}
	r->storages = more;
	for (int i = 0; i < n && st->code == KV_OK; i++)
	{
		FlushStorage key = {.storage = ids[i]};

		if (touched > 0 &&
			bsearch(&key, more, touched, sizeof(FlushStorage), CompareStorages) != NULL)
			continue;
		StoreReadCounters(db, ids[i], &key.counters, st);
		more[r->nstorages++] = key;
	}
	free(ids);
	if (r->nstorages > touched)
		qsort(more, r->nstorages, sizeof(FlushStorage), CompareStorages);
}

static void
WriteTables(KvDb *db, KvBatch *batch, uint64 seq, FlushResult *r, KvStatus *st)
{
	FlushRecord *records;

	AddCrowd(db, r, st);
	if (st->code != KV_OK)
		return;
	records = calloc(Max(r->nstorages, 1), sizeof(FlushRecord));
	if (records == NULL)
	{
		StoreFillStatus(st, KV_NO_MEMORY, "out of memory while writing counters");
		return;
	}
	for (int i = 0; i < r->nstorages; i++)
	{
		FlushStorage *s = &r->storages[i];

		s->counters.next_page = Max(s->counters.next_page, StoreCountersNeed(s->storage));
		CodecStorageKey(records[i].key, s->storage, CODEC_RECORD_COUNTERS);
		records[i].keylen = CODEC_STORAGE_KEY_SIZE;
		records[i].value = &s->counters;
		records[i].len = sizeof(CodecCounters);
	}
	WriteFamily(batch, seq, ORBIT_PG_TABLES, records, r->nstorages, st);
	free(records);
}

/* ---- metadata -------------------------------------------------------------------------------- */

static void
WriteMetadata(KvBatch *batch, uint64 seq, XLogRecPtr flushed_lsn, bool clean, KvStatus *st)
{
	CodecFlushed f;
	FlushRecord records[2];

	memset(&f, 0, sizeof(f));
	f.flushed_lsn = flushed_lsn;
	f.covered_redo = StoreCoveredRedo();
	f.next_storage = StoreGetNextStorage();
	f.timeline = CurrentTimeline();
	f.clean = clean ? 1 : 0;

	memset(records, 0, sizeof(records));
	StaticAssertStmt(sizeof(CODEC_META_FLUSHED) <= RECORD_KEY_SIZE &&
					 sizeof(STORE_META_NEXT_STORAGE) <= RECORD_KEY_SIZE &&
					 CODEC_STORAGE_KEY_SIZE <= RECORD_KEY_SIZE, "key too long");
	strcpy(records[0].key, CODEC_META_FLUSHED);
	records[0].keylen = strlen(CODEC_META_FLUSHED);
	records[0].value = &f;
	records[0].len = sizeof(f);
	strcpy(records[1].key, STORE_META_NEXT_STORAGE);	/* it is in `flushed` */
	records[1].keylen = strlen(STORE_META_NEXT_STORAGE);
	WriteFamily(batch, seq, ORBIT_PG_METADATA, records, 2, st);
}

/* ---- one ingest --------------------------------------------------------------------------------- */

/* Fills the batch; seq 0: metadata alone. */
static void
FillBatch(KvDb *db, KvBatch *batch, uint64 seq, XLogRecPtr flushed_lsn,
		  const StoreRunning *running, bool clean, FlushResult *r, KvStatus *st)
{
	if (seq != 0)
		StoreFlushPages(db, batch, seq, running, r, st);
	if (st->code == KV_OK && seq != 0)
		WriteFamily(batch, seq, ORBIT_PG_INDEXES, NULL, 0, st);
	if (st->code == KV_OK)
		WriteTables(db, batch, seq, r, st);
	if (st->code == KV_OK)
		WriteMetadata(batch, seq, flushed_lsn, clean, st);
}

void
StoreCatchError(MemoryContext context, KvStatus *st)
{
	ErrorData  *error;
	KvCode		code = KV_OTHER;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	LWLockReleaseAll();

	if (error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
		code = KV_NO_MEMORY;
	else if (error->sqlerrcode == ERRCODE_DISK_FULL)
		code = KV_NO_SPACE;
	else if (error->sqlerrcode == ERRCODE_IO_ERROR)
		code = KV_IO_ERROR;
	st->code = code;
	snprintf(st->message, sizeof(st->message), "%s%s%s", error->message,
			 error->detail != NULL ? "; " : "", error->detail != NULL ? error->detail : "");
	FreeErrorData(error);
}

/* All of an ingest but the ingest itself: the log before the data, and the batch. */
static void
PrepareIngest(KvDb *db, KvBatch *batch, uint64 seq, XLogRecPtr arena_lsn, XLogRecPtr flushed_lsn,
			  const StoreRunning *running, bool clean, FlushResult *r, KvStatus *st)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		FlushWal(arena_lsn);
		FillBatch(db, batch, seq, flushed_lsn, running, clean, r, st);
		if (st->code == KV_OK && seq != 0)
			FlushWalOfEnds();
		/* What was frozen relied on commits that may not be on disk yet (K5, R19). */
		if (st->code == KV_OK && r->froze)
			XLogFlush(GetXLogInsertEndRecPtr());
		OrbitStopPoint("flush-before-ingest");
	}
	PG_CATCH();
	{
		StoreCatchError(context, st);
	}
	PG_END_TRY();
}

/* On KV_OK everything is in RocksDB at *generation; r->storages is to be freed. */
static void
Ingest(KvDb *db, uint64 seq, XLogRecPtr arena_lsn, XLogRecPtr flushed_lsn,
	   const StoreRunning *running, bool clean, FlushResult *r, uint64 *generation, KvStatus *st)
{
	KvBatch    *batch;

	memset(r, 0, sizeof(*r));
	st->code = KV_OK;
	batch = KvBatchBegin(db, st);
	if (batch == NULL)
	{
		if (st->code == KV_OK)
			StoreFillStatus(st, KV_NO_MEMORY, "out of memory");
		return;
	}
	if (st->code == KV_OK)
		PrepareIngest(db, batch, seq, arena_lsn, flushed_lsn, running, clean, r, st);
	if (st->code == KV_OK && OrbitStopArmed() && OrbitStopFails("flush-no-space"))
		StoreFillStatus(st, KV_NO_SPACE, "No space left on device (made up by a test)");
	if (st->code != KV_OK)
	{
		KvBatchAbort(batch);
		return;
	}
	KvBatchCommit(batch, generation, st);
	if (st->code == KV_OK)
		OrbitStopPoint("flush-after-ingest");
}

void		(*store_cleaned_hook) (OrbitStorageId storage, uint64 cleaned) = NULL;

static void
CountersPersisted(const FlushResult *r)
{
	for (int i = 0; i < r->nstorages; i++)
		StoreCountersPersisted(r->storages[i].storage, r->storages[i].counters.next_page);
}

bool
StoreVacuumParse(const char *key, Size keylen, const char *value, Size len,
				 OrbitStorageId *storage, uint64 *cleaned)
{
	CodecVacuum record;
	char		type;

	if (!CodecStorageKeyParse(key, keylen, storage, &type) || type != CODEC_RECORD_VACUUM ||
		len < sizeof(record))
		return false;
	memcpy(&record, value, sizeof(record));
	*cleaned = record.cleaned;
	return record.format == 1;
}

/* What VACUUMs have achieved, as the arena says and RocksDB now knows. */
static void
TellCleaned(uint64 seq)
{
	MembufIter	it;
	bool		on;

	if (store_cleaned_hook == NULL)
		return;
	MembufIterInit(&it, seq);
	for (on = MembufIterSeek(&it, ORBIT_PG_TABLES, "\0", 1); on; on = MembufIterNext(&it))
	{
		const char *key;
		const char *value;
		Size		keylen;
		Size		len;
		MembufOp	op;
		OrbitStorageId storage;
		uint64		cleaned;

		if (MembufIterKey(&it, &key, &keylen) != ORBIT_PG_TABLES)
			break;
		MembufIterValue(&it, &op, &value, &len);
		if (op == MEMBUF_PUT && StoreVacuumParse(key, keylen, value, len, &storage, &cleaned))
			store_cleaned_hook(storage, cleaned);
	}
}

static void
CountFlush(const FlushResult *r)
{
	pg_atomic_fetch_add_u64(&store_shared->flushes, 1);
	pg_atomic_fetch_add_u64(&store_shared->pages_put, r->pages_put);
	pg_atomic_fetch_add_u64(&store_shared->pages_merged, r->pages_merged);
	pg_atomic_fetch_add_u64(&store_shared->flushed_bytes, r->bytes);
}

void
StoreFlushOldest(KvDb *db, const StoreRunning *running, bool clean_shutdown, KvStatus *st)
{
	uint64		oldest;
	uint64		active;
	uint64		generation = 0;
	XLogRecPtr	flushed_lsn;
	MembufArenaInfo info;
	FlushResult r;

	StoreFillStatus(st, KV_OK, "");
	MembufGetRange(&oldest, &active);
	if (oldest >= active || !MembufArenaGetInfo(oldest, &info))
		return;					/* nothing is sealed */
	Assert(info.sealed);

	flushed_lsn = Max(StoreFlushedLsn(), info.max_lsn);
	Ingest(db, oldest, info.max_lsn, flushed_lsn, running, clean_shutdown, &r, &generation, st);
	if (st->code == KV_OK)
	{
		(void) StoreRaiseAtomic(&store_shared->flushed_lsn, flushed_lsn);
		TellCleaned(oldest);	/* as long as the arena can be read */
		StoreSharedPagesFlushed(oldest, generation);
		MembufRelease(oldest, generation);
		CountersPersisted(&r);
		CountFlush(&r);
	}
	free(r.storages);
}

void
StoreDeleteRecords(KvDb *db, const StoreRecordKey *keys, int n, KvStatus *st)
{
	KvBatch    *batch;
	uint64		generation = 0;

	StoreFillStatus(st, KV_OK, "");
	batch = KvBatchBegin(db, st);
	if (batch == NULL)
	{
		if (st->code == KV_OK)
			StoreFillStatus(st, KV_NO_MEMORY, "out of memory");
		return;
	}
	for (int i = 0; i < n && st->code == KV_OK; i++)
		KvBatchDelete(batch, keys[i].family, keys[i].key, keys[i].len, st);
	if (st->code == KV_OK)
		WriteMetadata(batch, 0, StoreFlushedLsn(), false, st);
	if (st->code != KV_OK)
	{
		KvBatchAbort(batch);
		return;
	}
	KvBatchCommit(batch, &generation, st);
	if (st->code == KV_OK)
		MembufRaiseGeneration(generation);
}

void
StoreBumpGeneration(KvDb *db, bool clean_shutdown, KvStatus *st)
{
	uint64		generation = 0;
	FlushResult r;

	StoreFillStatus(st, KV_OK, "");
	Ingest(db, 0, InvalidXLogRecPtr, StoreFlushedLsn(), NULL, clean_shutdown, &r, &generation, st);
	if (st->code == KV_OK)
	{
		MembufRaiseGeneration(generation);
		CountersPersisted(&r);
	}
	free(r.storages);
}
