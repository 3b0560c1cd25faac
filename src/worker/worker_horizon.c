/*
 * worker_horizon.c: what compactions may know of transactions.
 *
 * RocksDB's threads must not ask PostgreSQL, so the worker's main thread tells them, once a
 * second: up to where all transactions have ended and are seen, or not, by everybody
 * alike (limit), and which of those before it have committed (fates).  CodecHorizon in codec.h is
 * the contract, README.md the argument.
 *
 *	limit		PostgreSQL's own horizon over all databases, not above the oldest running
 *				transaction.  Never lowered: what has been pruned by it is gone.
 *	settled		a limit found at an earlier time, when all who run now had no xid yet: they
 *				cannot have locked a row before a transaction below it ended.
 *	fates		read from the commit log in slices, upwards as the limit moves, and
 *				downwards to the oldest xid that the files name.
 *
 * The commit log may know commits whose WAL is not on disk, so the WAL is flushed after it
 * has been read and before anybody may rely on it (R19).
 *
 * A standby does the same for itself, once it can take snapshots: then it knows who runs on the
 * primary, and who is neither running nor committed has aborted (K5).
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/clog.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define HORIZON_MS		1000
#define SLICE_US		10000	/* of reading the commit log in one step */
#define SLICE_XIDS		4096	/* between two looks at the clock */
#define PAIRS			64
#define REPORT_MS		30000

#define CHUNK_BYTES		(CODEC_FATES_CHUNK / 8)

/* At some time every transaction before `limit` had ended and none from `next` on had begun. */
typedef struct LimitPair
{
	uint64		limit;
	uint64		next;
} LimitPair;

/*
 * Chunks of fates that are complete and published belong to kv; here their place is NULL.
 *		base <= limit <= aim, all full xids
 */
typedef struct HorizonState
{
	uint64		published;		/* how many; 0: none yet */
	uint64		limit;			/* as published */
	uint64		settled;
	uint64		base;
	uint64		aim;			/* where limit is to go */
	uint64		settled_aim;
	uint64		want_base;
	OrbitTime	aimed;			/* 0: never */
	TimestampTz moved;			/* last time that limit was published anew */

	LimitPair	pairs[PAIRS];	/* ascending */
	int			npairs;

	uint8	  **chunks;
	uint64		first_chunk;	/* number of chunks[0] */
	int			nchunks;
	int			chunks_cap;

	KvCleaned  *cleaned;		/* ascending */
	int			ncleaned;
	int			cleaned_cap;
	bool		lists_changed;
} HorizonState;

static HorizonState horizon;

/* ---- where the limit is to go ------------------------------------------------------ */

/*
 * The oldest transaction that runs, and the oldest that somebody may not see as everybody else
 * does.  TransactionXmin must be set before the commit log is asked (R4); there are
 * no snapshots in this process that would.
 */
static void
FindLimits(TransactionId *oldest, TransactionId *limit)
{
	if (RecoveryInProgress() && !HotStandbyActive())
	{
		/* those before it have ended, or the primary would not have truncated their fates */
		*oldest = *limit = pg_atomic_read_u32(&worker_shared->truncation);
		TransactionXmin = RecentXmin = *oldest;
		return;
	}
	if (RecoveryInProgress())
	{
		/* those that run on the primary count */
		*oldest = GetOldestNonRemovableTransactionId(NULL);
		TransactionXmin = RecentXmin = *oldest;
		*limit = *oldest;
		return;
	}
	*oldest = GetOldestActiveTransactionId();
	TransactionXmin = RecentXmin = *oldest;
	*limit = GetOldestNonRemovableTransactionId(NULL);
	if (TransactionIdFollows(*limit, *oldest))
		*limit = *oldest;
}

/* Of pairs that come too close together every second one goes; the last one stays. */
static void
AddPair(uint64 limit, uint64 next)
{
	HorizonState *h = &horizon;

	if (h->npairs > 0 && h->pairs[h->npairs - 1].limit == limit)
		return;					/* the earlier one says more */
	if (h->npairs == PAIRS)
	{
		for (int i = 0; i < PAIRS / 2; i++)
			h->pairs[i] = h->pairs[2 * i + 1];
		h->npairs = PAIRS / 2;
	}
	h->pairs[h->npairs].limit = limit;
	h->pairs[h->npairs++].next = next;
}

/* The newest limit of a time when nobody who runs now had begun. */
static void
SettlePairs(uint64 oldest)
{
	HorizonState *h = &horizon;
	int			n = 0;

	while (n < h->npairs && h->pairs[n].next <= oldest)
		h->settled_aim = h->pairs[n++].limit;
	memmove(h->pairs, h->pairs + n, (h->npairs - n) * sizeof(LimitPair));
	h->npairs -= n;
}

static void
Aim(OrbitTime now)
{
	HorizonState *h = &horizon;
	TransactionId oldest;
	TransactionId limit;
	TransactionId truncation;
	uint64		next;

	h->aimed = now;
	FindLimits(&oldest, &limit);
	truncation = pg_atomic_read_u32(&worker_shared->truncation);
	/* after the limit: whoever has a later xid began when all before the limit had ended */
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	h->aim = Max(h->aim, OrbitFullXid(next, limit));
	SettlePairs(OrbitFullXid(next, oldest));
	AddPair(h->aim, next);

	/* the primary has frozen everything before it, and knew of all locks then */
	if (truncation != 0)
		h->settled_aim = Max(h->settled_aim, OrbitFullXid(next, truncation));
}

/* ---- fates --------------------------------------------------------------------------- */

/* Makes room for chunk number c, which is next to those that there are. */
static bool
AddChunk(uint64 c)
{
	HorizonState *h = &horizon;
	uint8	   *bits;

	if (h->nchunks == h->chunks_cap)
	{
		int			cap = h->chunks_cap > 0 ? h->chunks_cap * 2 : 16;
		uint8	  **more = realloc(h->chunks, cap * sizeof(uint8 *));

		if (more == NULL)
			return false;
		h->chunks = more;
		h->chunks_cap = cap;
	}
	bits = calloc(1, CHUNK_BYTES);
	if (bits == NULL)
		return false;
	if (h->nchunks == 0)
		h->first_chunk = c;
	if (c >= h->first_chunk)
	{
		Assert(c == h->first_chunk + h->nchunks);
		h->chunks[h->nchunks++] = bits;
		return true;
	}
	Assert(c == h->first_chunk - 1);
	memmove(h->chunks + 1, h->chunks, h->nchunks * sizeof(uint8 *));
	h->chunks[0] = bits;
	h->first_chunk = c;
	h->nchunks++;
	return true;
}

static bool
HaveChunk(uint64 c)
{
	HorizonState *h = &horizon;

	return h->nchunks > 0 && c >= h->first_chunk && c < h->first_chunk + h->nchunks;
}

static void
ReportUnreadable(const KvStatus *st)
{
	static OrbitTime reported = 0;
	OrbitTime now = OrbitNow();

	if (!OrbitElapsed(reported, now, REPORT_MS))
		return;
	reported = now;
	KvRaise(LOG, st, "could not learn what became of old transactions, whose rows stay as they are");
}

/*
 * Looks up [from, to), which lies in one chunk.  False: out of memory, or the commit log does not
 * reach back so far, or cannot be read.  The last must not be the end of the worker: it would be
 * the same after each restart.
 */
static bool
ReadFates(uint64 from, uint64 to)
{
	HorizonState *h = &horizon;
	uint64		c = from / CODEC_FATES_CHUNK;
	MemoryContext context = CurrentMemoryContext;
	KvStatus	st = {KV_OK, ""};
	uint8	   *bits;

	if (!HaveChunk(c) && !AddChunk(c))
		return false;
	bits = h->chunks[c - h->first_chunk];
	Assert(bits != NULL);

	/* as long as it is held the commit log is not truncated */
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (from < WorkerFullXid(ShmemVariableCache->oldestClogXid))
	{
		LWLockRelease(XactTruncationLock);
		return false;
	}
	PG_TRY();
	{
		for (uint64 xid = from; xid < to; xid++)
		{
			uint64		bit = xid % CODEC_FATES_CHUNK;

			if (TransactionIdIsNormal((TransactionId) xid) &&
				TransactionIdDidCommit((TransactionId) xid))
				bits[bit / 8] |= 1 << bit % 8;
		}
		LWLockRelease(XactTruncationLock);
	}
	PG_CATCH();
	{
		StoreCatchError(context, &st);
		ReportUnreadable(&st);
	}
	PG_END_TRY();
	return st.code == KV_OK;
}

/* Reads on from the limit towards the aim; returns how far it came. */
static uint64
ReadUp(OrbitTime deadline)
{
	HorizonState *h = &horizon;
	uint64		at = h->limit;

	while (at < h->aim && OrbitNow() < deadline)
	{
		uint64		to = Min(h->aim, at + SLICE_XIDS - at % SLICE_XIDS);

		if (!ReadFates(at, to))
			break;
		at = to;
	}
	return at;
}

static uint64
ReadDown(OrbitTime deadline)
{
	HorizonState *h = &horizon;
	uint64		at = h->base;

	while (at > h->want_base && OrbitNow() < deadline)
	{
		uint64		from = Max(h->want_base, (at - 1) - (at - 1) % SLICE_XIDS);

		if (!ReadFates(from, at))
		{
			h->want_base = at;	/* no further than the commit log */
			break;
		}
		at = from;
	}
	return at;
}

/* Chunks below the base go: always whole ones. */
static uint64
RaiseBase(uint64 base)
{
	HorizonState *h = &horizon;
	uint64		start = h->want_base - h->want_base % CODEC_FATES_CHUNK;
	int			n = 0;

	if (base >= h->want_base || start <= base || start > h->limit)
		return base;
	while (n < h->nchunks && (h->first_chunk + n + 1) * CODEC_FATES_CHUNK <= start)
		free(h->chunks[n++]);
	memmove(h->chunks, h->chunks + n, (h->nchunks - n) * sizeof(uint8 *));
	h->first_chunk += n;
	h->nchunks -= n;
	h->base = start;			/* what is gone is gone, whether kv hears of it now or later */
	h->lists_changed = true;
	return start;
}

/*
 * Where the commit log was truncated beyond the limit, fates up to there can never be read; but nobody needs
 * them: the truncation waits until no file names them as unfrozen.  So the limit begins anew
 * there.  It may lag so far behind when something held it back for long, a replication slot, say.
 */
static void
SkipTruncated(void)
{
	HorizonState *h = &horizon;
	TransactionId known;
	uint64		oldest;

	LWLockAcquire(XactTruncationLock, LW_SHARED);
	known = ShmemVariableCache->oldestClogXid;
	LWLockRelease(XactTruncationLock);
	oldest = Min(WorkerFullXid(known), h->aim);
	if (h->limit >= oldest)
		return;
	for (int i = 0; i < h->nchunks; i++)
		free(h->chunks[i]);
	h->nchunks = 0;
	h->limit = h->base = h->want_base = oldest;
	h->moved = GetCurrentTimestamp();
	h->lists_changed = true;
}

/* Those that kv has for good need not be kept. */
static void
GiveChunksAway(void)
{
	HorizonState *h = &horizon;

	for (int i = 0; i < h->nchunks; i++)
	{
		uint64		start = (h->first_chunk + i) * CODEC_FATES_CHUNK;

		if (start >= h->base && start + CODEC_FATES_CHUNK <= h->limit)
		{
			free(h->chunks[i]);
			h->chunks[i] = NULL;
		}
	}
}

/* ---- publishing ------------------------------------------------------------------------ */

/* See R19; in archive recovery this moves the minimum recovery point instead. */
static void
FlushWalOfFates(void)
{
	if (!RecoveryInProgress())
		XLogFlush(GetXLogInsertEndRecPtr());
	else if (GetRecoveryState() == RECOVERY_STATE_ARCHIVE)
		XLogFlush(GetCurrentReplayRecPtr(NULL));
}

static bool
Publish(uint64 limit, uint64 settled, uint64 base)
{
	HorizonState *h = &horizon;
	KvHorizon	k = {0};
	KvStatus	st = {KV_OK, ""};
	int			ndead = worker.ndead;

	k.h.limit = limit;
	k.h.settled = settled;
	k.h.base = base;
	if (base < limit)
		k.h.fates = (const uint8_t *const *)
			(h->chunks + (base / CODEC_FATES_CHUNK - h->first_chunk));
	k.dead = worker.dead;
	k.ndead = h->lists_changed || worker.dead_changed ? ndead : KV_UNCHANGED;
	k.cleaned = h->cleaned;
	k.ncleaned = h->lists_changed ? h->ncleaned : KV_UNCHANGED;
	KvSetHorizon(worker.db, &k, &st);
	if (st.code != KV_OK)
	{
		KvRaise(LOG, &st, "could not tell RocksDB of ended transactions");
		return false;
	}
	if (limit != h->limit || h->published == 0)
		h->moved = GetCurrentTimestamp();
	h->published++;
	h->limit = limit;
	h->settled = settled;
	h->base = base;
	h->lists_changed = false;
	worker.dead_changed = false;
	GiveChunksAway();
	return true;
}

/* Nothing is known at first; older fates are then read bit by bit. */
static void
Begin(void)
{
	HorizonState *h = &horizon;

	h->limit = h->base = h->want_base = h->aim;
	h->lists_changed = true;
}

bool
WorkerHorizonStep(OrbitTime now, bool at_once)
{
	HorizonState *h = &horizon;
	OrbitTime	deadline;
	uint64		limit;
	uint64		base;
	uint64		settled;

	/*
	 * In recovery there is none before a snapshot of the running is known, but for what the
	 * primary has given up.
	 */
	if (RecoveryInProgress() && !HotStandbyActive() &&
		pg_atomic_read_u32(&worker_shared->truncation) == 0)
		return false;
	if (at_once || OrbitElapsed(h->aimed, now, Min(HORIZON_MS, orbit_reclaim_delay)))
		Aim(now);
	else if (h->published == 0)
		return false;
	if (h->published == 0)
		Begin();
	SkipTruncated();

	deadline = OrbitLater(now, SLICE_US / 1000);
	limit = ReadUp(deadline);
	base = ReadDown(deadline);
	base = RaiseBase(base);
	settled = Max(h->settled, Min(h->settled_aim, limit));
	if (h->published > 0 && limit == h->limit && base == h->base && settled == h->settled &&
		!h->lists_changed && !worker.dead_changed)
		return false;

	OrbitStopPoint("horizon-before-flush");
	FlushWalOfFates();
	if (!Publish(limit, settled, base))
		return false;
	return h->limit < h->aim || h->base > h->want_base;
}

void
WorkerHorizonGet(WorkerHorizon *out)
{
	HorizonState *h = &horizon;

	out->version = h->published;
	out->limit = h->limit;
	out->settled = h->settled;
	out->base = h->base;
	out->aim = h->aim;
	out->want_base = h->want_base;
	out->moved = h->moved;
}

void
WorkerHorizonWantBase(uint64 oldest)
{
	horizon.want_base = Min(oldest, horizon.limit);
}

/* ---- storages whose indexes have been cleaned ---------------------------------------------- */

static int
CompareCleaned(const void *a, const void *b)
{
	OrbitStorageId x = ((const KvCleaned *) a)->storage;
	OrbitStorageId y = ((const KvCleaned *) b)->storage;

	return x < y ? -1 : x > y;
}

/* Where the storage is or would be. */
static int
CleanedPlace(OrbitStorageId storage)
{
	int			low = 0;
	int			high = horizon.ncleaned;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (horizon.cleaned[middle].storage < storage)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool
CleanedReserve(void)
{
	HorizonState *h = &horizon;
	int			cap;
	KvCleaned  *more;

	if (h->ncleaned < h->cleaned_cap)
		return true;
	cap = h->cleaned_cap > 0 ? h->cleaned_cap * 2 : 64;
	more = realloc(h->cleaned, cap * sizeof(KvCleaned));
	if (more == NULL)
		return false;
	h->cleaned = more;
	h->cleaned_cap = cap;
	return true;
}

/*
 * Called for what an ingest has written.  Out of memory is no harm: the mark is found again at the
 * next ingest or start; until then dead slots stay.
 */
void
WorkerNoteCleaned(OrbitStorageId storage, uint64 cleaned)
{
	HorizonState *h = &horizon;
	int			i = CleanedPlace(storage);

	if (i < h->ncleaned && h->cleaned[i].storage == storage)
	{
		if (cleaned <= h->cleaned[i].cleaned)
			return;
	}
	else
	{
		if (!CleanedReserve())
			return;
		memmove(h->cleaned + i + 1, h->cleaned + i, (h->ncleaned - i) * sizeof(KvCleaned));
		h->cleaned[i].storage = storage;
		h->ncleaned++;
	}
	h->cleaned[i].cleaned = cleaned;
	h->lists_changed = true;
}

void
WorkerForgetCleaned(OrbitStorageId storage)
{
	HorizonState *h = &horizon;
	int			i = CleanedPlace(storage);

	if (i >= h->ncleaned || h->cleaned[i].storage != storage)
		return;
	h->ncleaned--;
	memmove(h->cleaned + i, h->cleaned + i + 1, (h->ncleaned - i) * sizeof(KvCleaned));
	h->lists_changed = true;
}

static void
LoadRecord(KvIter *it)
{
	const char *key;
	const char *value;
	size_t		keylen;
	size_t		len;
	KvCleaned	c;

	KvIterKey(it, &key, &keylen);
	KvIterValue(it, &value, &len);
	if (StoreVacuumParse(key, keylen, value, len, &c.storage, &c.cleaned) && CleanedReserve())
		horizon.cleaned[horizon.ncleaned++] = c;
}

/* When the worker starts: the marks that RocksDB has. */
void
WorkerLoadCleaned(void)
{
	KvStatus	st = {KV_OK, ""};
	KvIter	   *it = KvIterCreate(worker.db, ORBIT_PG_TABLES, NULL, 0, NULL, 0, 0, &st);

	if (it == NULL)
	{
		KvRaise(LOG, &st, "could not read RocksDB's table records");
		return;
	}
	for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it))
		LoadRecord(it);
	KvIterStatus(it, &st);
	if (st.code != KV_OK)
		KvRaise(LOG, &st, "could not read RocksDB's table records");
	KvIterDestroy(it);
	if (horizon.ncleaned > 1)
		qsort(horizon.cleaned, horizon.ncleaned, sizeof(KvCleaned), CompareCleaned);
}
