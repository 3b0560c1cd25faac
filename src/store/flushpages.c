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
 * What an arena has of a row is not its whole history (R3), so only this is left out:
 *
 *   locks      of transactions that have ended
 *   aborted    updates and deletes: everybody skips them
 *   versions   behind one that is frozen here: its transaction has committed and precedes
 *              the horizon, so that no snapshot looks further down.  A frozen delete mark stays,
 *              or it would uncover versions in RocksDB.
 *
 * A chain ends at a frozen entry for every reader, so a LOCK of a running transaction must
 * not lie behind one.  In the arena that is looked at, chain by chain; in RocksDB there are only
 * locks that some flush has kept, and nothing is frozen until the transactions of all those
 * have ended (LocksBelow).
 *
 * Runs in the worker's main thread.  Memory by malloc, in FlushPages, for the commit log is read, which may
 * ereport: a flush survives that.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/clog.h"
#include "access/transam.h"
#include "storage/lwlock.h"

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
	const StoreRunning *running;
	FlushResult *result;
	KvStatus   *st;
	int			storages_cap;

	/* the storage at hand */
	FlushStorage current;
	BlockNumber old_mark;		/* put_mark before this flush */
	bool		freeze;

	/* the run at hand */
	bool		put;
	bool		large;			/* has files of its own, nothing is held back */
	CodecBuf	held;
	CodecBuilder builder;
	HeldPage   *pages;
	int			npages;
	int			pages_cap;

	CodecBuf	renewed;		/* a shared page with what the arena has of it */
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

int
StoreCompareXids(const void *a, const void *b)
{
	TransactionId x = *(const TransactionId *) a;
	TransactionId y = *(const TransactionId *) b;

	return (x > y) - (x < y);
}

/*
 * In recovery: has a commit or abort been replayed?  Not finding one proves nothing (K5).  The status
 * alone is read: which transaction a subtransaction belongs to may not be known here.
 */
static bool
EndIsReplayed(TransactionId xid)
{
	static TransactionId last = InvalidTransactionId;	/* one that has ended */
	XidStatus	status = TRANSACTION_STATUS_IN_PROGRESS;
	XLogRecPtr	lsn;

	if (xid == last)
		return true;
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (!TransactionIdPrecedes(xid, ShmemVariableCache->oldestClogXid))
		status = TransactionIdGetStatus(xid, &lsn);
	LWLockRelease(XactTruncationLock);
	if (status != TRANSACTION_STATUS_COMMITTED && status != TRANSACTION_STATUS_ABORTED)
		return false;
	last = xid;
	return true;
}

static bool
HasEnded(const StoreRunning *r, TransactionId xid)
{
	if (!TransactionIdIsValid(r->oldest))
		return EndIsReplayed(xid);
	if (TransactionIdPrecedes(xid, r->oldest))
		return true;
	return r->nxids >= 0 && TransactionIdPrecedes(xid, r->next) &&
		(r->nxids == 0 ||
		 bsearch(&xid, r->xids, r->nxids, sizeof(TransactionId), StoreCompareXids) == NULL);
}

/*
 * A lock whose transaction has ended binds nobody, whatever its fate.  One that were written out
 * now would stay in RocksDB, so a single long transaction must not keep all others' locks.
 */
static inline bool
IsFinishedLock(FlushPages *f, const CodecEntry *e)
{
	return CodecEntryKind(e) == CODEC_LOCK && HasEnded(f->running, e->xid);
}

/*
 * An insertion stays: it is all that there is of its row.  A version's tag may then be given out
 * again, but nobody has the TID of an aborted one in hand.
 */
static bool
IsAborted(FlushPages *f, const CodecEntry *e)
{
	CodecKind	kind = CodecEntryKind(e);

	return (kind == CODEC_UPDATE || kind == CODEC_DELETE) &&
		!(e->kind_flags & CODEC_FROZEN) && TransactionIdIsNormal(e->xid) &&
		HasEnded(f->running, e->xid) && !TransactionIdDidCommit(e->xid);
}

/* Locks that are in RocksDB are of transactions before this one; 0: nothing is known yet. */
static uint64 kept_locks = 0;

/*
 * May a LOCK of a running transaction lie in RocksDB?  When this process begins, of any
 * transaction before now: prepared ones hold theirs over a restart.
 */
static bool
LocksBelow(const StoreRunning *r)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (kept_locks == 0)
		kept_locks = next;
	return OrbitFullXid(next, r->oldest) < kept_locks;
}

static void
NoteKeptLock(const CodecEntry *e)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (kept_locks != 0)
		kept_locks = Max(kept_locks, OrbitFullXid(next, e->xid) + 1);
}

static bool
EverybodySees(FlushPages *f, const CodecEntry *e)
{
	return TransactionIdIsNormal(e->xid) && HasEnded(f->running, e->xid) &&
		TransactionIdPrecedes(e->xid, f->running->horizon) &&
		TransactionIdDidCommit(e->xid);
}

/* The entry of the chain to be frozen, or NULL. */
static const CodecEntry *
FindFrozen(FlushPages *f, const CodecEntry *e)
{
	const CodecEntry *frozen = NULL;

	for (; e != NULL; e = MembufOlder(f->seq, e))
	{
		switch (CodecEntryKind(e))
		{
			case CODEC_LOCK:
				if (frozen != NULL && !IsFinishedLock(f, e))
					return NULL;
				break;
			case CODEC_INSERT:
			case CODEC_UPDATE:
			case CODEC_DELETE:
				/* an insertion that is confirmed by an entry above must not lose that */
				if (frozen == NULL && !(e->kind_flags & CODEC_SPECULATIVE) &&
					EverybodySees(f, e))
					frozen = e;
				break;
			default:
				if (frozen == NULL)
					return NULL;
				break;
		}
	}
	return frozen;
}

static bool
BuildEntry(FlushPages *f, CodecBuilder *b, const CodecEntry *e, const CodecEntry *frozen)
{
	if (CodecEntryKind(e) == CODEC_LOCK)
		NoteKeptLock(e);
	if (e != frozen)
		return CodecBuildEntry(b, e);
	f->result->froze = true;
	return CodecBuildFrozen(b, e);
}

static bool
BuildChain(FlushPages *f, CodecBuilder *b, int slot, const CodecEntry *e, int *rows)
{
	const CodecEntry *frozen = f->freeze ? FindFrozen(f, e) : NULL;
	bool		begun = false;

	for (; e != NULL; e = MembufOlder(f->seq, e))
	{
		if (IsFinishedLock(f, e) || IsAborted(f, e))
			continue;
		if (!begun)
		{
			if (!CodecBuildChain(b, slot))
				return false;
			begun = true;
			(*rows)++;
		}
		if (!BuildEntry(f, b, e, frozen))
			return false;
		if (e == frozen)
			break;
	}
	return true;
}

/* Appends the page to f->held; *rows: how many chains it has. */
static bool
BuildPage(FlushPages *f, MembufPage *page, int *rows)
{
	CodecBuilder *b = &f->builder;
	const CodecEntry *e;
	int			slot = 0;
	bool		ok;

	*rows = 0;
	CodecBuildBegin(b, &f->held);
	ok = CodecBufReserve(&b->body, ORBIT_PAGE_BYTES);	/* rather than growing to it */
	while (ok && (slot = MembufPageNextSlot(f->seq, page, slot, &e)) != 0)
		ok = BuildChain(f, b, slot, e, rows);
	ok = ok && CodecBuildFinish(b);
	CodecBuildFree(b);
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
		StoreSharedPagesRenew(f->db, f->current.storage, p->page, value, p->len, f->seq, &f->renewed);
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
		StoreSharedPagesKeep(storage, page, f->seq);
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
StoreFlushPages(KvDb *db, KvBatch *batch, uint64 seq, const StoreRunning *running,
				FlushResult *r, KvStatus *st)
{
	FlushPages	f;

	memset(&f, 0, sizeof(f));
	memset(r, 0, sizeof(*r));
	st->code = KV_OK;
	f.db = db;
	f.batch = batch;
	f.seq = seq;
	f.running = running;
	f.freeze = TransactionIdIsValid(running->horizon) && !LocksBelow(running);
	f.result = r;
	f.st = st;
	PG_TRY();
	{
		WalkPages(&f);
	}
	PG_FINALLY();
	{
		CodecBuildFree(&f.builder);
		CodecBufFree(&f.held);
		CodecBufFree(&f.renewed);
		free(f.pages);
	}
	PG_END_TRY();
}
