/*
 * flushpages.c: the pages of a sealed arena, in key order, into a batch.
 *
 * Each page becomes a delta page with what the arena has of it.
 *
 *   put    when the page's number is at or above the storage's put_mark in RocksDB:
 *          no flush ever wrote it, so nothing older exists anywhere
 *   merge  otherwise
 *
 * Pages of one storage come in ascending order, so the merges stand in front of the
 * puts.  A run of either kind that has RUN_BYTES or more gets SST files of its own:
 * a file of nothing but new pages overlaps nothing and falls to the lowest level.
 * Pages are held back until it is known whether a run grows that large.
 *
 * Runs in the worker's main thread.  Memory by malloc; nothing ereports.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/transam.h"

#include "store/store_internal.h"

#define RUN_BYTES	((Size) 256 * 1024)

typedef struct HeldPage
{
	BlockNumber page;
	Size		offset;			/* in held */
	Size		len;
} HeldPage;

typedef struct FlushPages
{
	KvDb	   *db;
	KvBatch    *batch;
	uint64		seq;
	TransactionId oldest_running;
	FlushResult *result;
	KvStatus   *st;
	int			storages_cap;

	/* the storage at hand */
	FlushStorage current;
	BlockNumber old_mark;		/* put_mark before this flush */

	/* the run at hand */
	bool		put;
	bool		large;			/* has files of its own, nothing is held back */
	CodecBuf	held;
	HeldPage   *pages;
	int			npages;
	int			pages_cap;
} FlushPages;

void
StoreFillStatus(KvStatus *st, KvCode code, const char *message)
{
	st->code = code;
	strlcpy(st->message, message, sizeof(st->message));
}

static bool
NoMemory(FlushPages *f)
{
	StoreFillStatus(f->st, KV_NO_MEMORY, "out of memory while building pages");
	return false;
}

/* ---- building a delta page ---------------------------------------------------------- */

/* A lock whose transaction has ended binds nobody, whatever its fate. */
static inline bool
IsFinishedLock(FlushPages *f, const CodecEntry *e)
{
	return CodecEntryKind(e) == CODEC_LOCK &&
		TransactionIdIsValid(f->oldest_running) &&
		TransactionIdPrecedes(e->xid, f->oldest_running);
}

static bool
BuildChain(FlushPages *f, CodecBuilder *b, int slot, const CodecEntry *e, int *rows)
{
	bool		begun = false;

	for (; e != NULL; e = MembufOlder(f->seq, e))
	{
		if (IsFinishedLock(f, e))
			continue;
		if (!begun)
		{
			if (!CodecBuildChain(b, slot))
				return false;
			begun = true;
			(*rows)++;
		}
		if (!CodecBuildEntry(b, e))
			return false;
	}
	return true;
}

/* Appends the page to f->held; *rows: how many chains it has. */
static bool
BuildPage(FlushPages *f, MembufPage *page, int *rows)
{
	CodecBuilder b;
	const CodecEntry *e;
	int			slot = 0;
	bool		ok;

	*rows = 0;
	CodecBuildBegin(&b, &f->held);
	ok = CodecBufReserve(&b.body, ORBIT_PAGE_BYTES);	/* rather than growing to it */
	while (ok && (slot = MembufPageNextSlot(f->seq, page, slot, &e)) != 0)
		ok = BuildChain(f, &b, slot, e, rows);
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	return ok || NoMemory(f);
}

/* ---- runs ------------------------------------------------------------------------------ */

static bool
WritePage(FlushPages *f, const HeldPage *p)
{
	char		key[CODEC_PAGE_KEY_SIZE];
	const char *value = f->held.data + p->offset;

	CodecPageKey(key, f->current.storage, p->page);
	if (f->put)
	{
		KvBatchPut(f->batch, ORBIT_PG_DATA, key, sizeof(key), value, p->len, f->st);
		f->result->pages_put++;
	}
	else
	{
		KvBatchMerge(f->batch, ORBIT_PG_DATA, key, sizeof(key), value, p->len, f->st);
		f->result->pages_merged++;
	}
	f->result->bytes += p->len;
	return f->st->code == KV_OK;
}

static bool
WriteHeld(FlushPages *f)
{
	for (int i = 0; i < f->npages; i++)
	{
		if (!WritePage(f, &f->pages[i]))
			return false;
	}
	f->npages = 0;
	f->held.len = 0;
	return true;
}

static bool
Split(FlushPages *f)
{
	KvBatchSplit(f->batch, ORBIT_PG_DATA, f->st);
	return f->st->code == KV_OK;
}

static bool
EndRun(FlushPages *f)
{
	if (!WriteHeld(f))
		return false;
	if (f->large && !Split(f))
		return false;
	f->large = false;
	return true;
}

/* The page that has just been built at the end of f->held. */
static bool
AddToRun(FlushPages *f, BlockNumber page, Size offset)
{
	if (f->npages == f->pages_cap)
	{
		int			cap = f->pages_cap > 0 ? f->pages_cap * 2 : 64;
		HeldPage   *more = realloc(f->pages, cap * sizeof(HeldPage));

		if (more == NULL)
			return NoMemory(f);
		f->pages = more;
		f->pages_cap = cap;
	}
	f->pages[f->npages].page = page;
	f->pages[f->npages].offset = offset;
	f->pages[f->npages].len = f->held.len - offset;
	f->npages++;

	if (!f->large && f->held.len >= RUN_BYTES)
	{
		if (!Split(f))
			return false;
		f->large = true;
	}
	return !f->large || WriteHeld(f);
}

/* ---- storages ------------------------------------------------------------------------------ */

void
StoreReadCounters(KvDb *db, OrbitStorageId storage, CodecCounters *c, KvStatus *st)
{
	char		key[CODEC_STORAGE_KEY_SIZE];
	CodecBuf	value = {0};

	memset(c, 0, sizeof(*c));
	c->format = 1;
	CodecStorageKey(key, storage, CODEC_RECORD_COUNTERS);
	KvGet(db, ORBIT_PG_TABLES, key, sizeof(key), &value, st);
	if (st->code == KV_OK && !StoreCountersParse(value.data, value.len, c))
		StoreFillStatus(st, KV_CORRUPTION, "a storage's counter record is damaged");
	else if (st->code == KV_NOT_FOUND)
		st->code = KV_OK;
	CodecBufFree(&value);
}

static bool
BeginStorage(FlushPages *f, OrbitStorageId storage)
{
	f->current.storage = storage;
	StoreReadCounters(f->db, storage, &f->current.counters, f->st);
	f->old_mark = f->current.counters.put_mark;
	return f->st->code == KV_OK;
}

static bool
EndStorage(FlushPages *f)
{
	FlushResult *r = f->result;

	if (f->current.storage == ORBIT_INVALID_STORAGE)
		return true;
	if (!EndRun(f))
		return false;
	if (r->nstorages == f->storages_cap)
	{
		int			cap = f->storages_cap > 0 ? f->storages_cap * 2 : 64;
		FlushStorage *more = realloc(r->storages, cap * sizeof(FlushStorage));

		if (more == NULL)
			return NoMemory(f);
		r->storages = more;
		f->storages_cap = cap;
	}
	r->storages[r->nstorages++] = f->current;
	return true;
}

static bool
AddPage(FlushPages *f, OrbitStorageId storage, BlockNumber page, MembufPage *mpage)
{
	CodecCounters *c = &f->current.counters;
	Size		offset;
	int			rows;
	bool		put;

	if (storage != f->current.storage &&
		!(EndStorage(f) && BeginStorage(f, storage)))
		return false;

	put = page >= f->old_mark;
	if (put != f->put)
	{
		if (!EndRun(f))
			return false;
		f->put = put;
	}
	c->next_page = Max(c->next_page, page + 1);
	offset = f->held.len;
	if (!BuildPage(f, mpage, &rows))
		return false;
	if (rows == 0)
	{
		f->held.len = offset;	/* nothing but finished locks */
		return true;
	}
	c->put_mark = Max(c->put_mark, page + 1);
	return AddToRun(f, page, offset);
}

static void
WalkPages(FlushPages *f)
{
	char		from[CODEC_PAGE_KEY_SIZE] = {0};
	MembufIter	it;
	bool		on;

	MembufIterInit(&it, f->seq);
	for (on = MembufIterSeek(&it, ORBIT_PG_DATA, from, sizeof(from)); on; on = MembufIterNext(&it))
	{
		const char *key;
		Size		len;
		OrbitStorageId storage;
		BlockNumber page;

		if (MembufIterKey(&it, &key, &len) != ORBIT_PG_DATA)
			break;
		if (!CodecPageKeyParse(key, len, &storage, &page))
		{
			StoreFillStatus(f->st, KV_OTHER, "a write buffer has a page with a bad key");
			return;
		}
		if (!AddPage(f, storage, page, MembufIterPage(&it)))
			return;
	}
	(void) EndStorage(f);
}

void
StoreFlushPages(KvDb *db, KvBatch *batch, uint64 seq, TransactionId oldest_running,
				FlushResult *r, KvStatus *st)
{
	FlushPages	f;

	memset(&f, 0, sizeof(f));
	memset(r, 0, sizeof(*r));
	st->code = KV_OK;
	f.db = db;
	f.batch = batch;
	f.seq = seq;
	f.oldest_running = oldest_running;
	f.result = r;
	f.st = st;
	WalkPages(&f);
	CodecBufFree(&f.held);
	free(f.pages);
}
