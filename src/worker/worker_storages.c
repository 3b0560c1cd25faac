/*
 * worker_storages.c: finds storages whose relations are gone and gets rid of them.
 *
 * PostgreSQL drops a relation by deleting its file and tells no table access method.  So the
 * worker goes through the registry records in pg_tables and looks at the files they speak of.
 * README.md argues why no storage in use can be taken for dead; the steps it rests on are:
 *
 *	look		transactions that run, then the records, then the files: storages of which
 *				every record's creator has ended and no file is left are candidates
 *	flush		everything that was published up to the end of the look reaches RocksDB
 *	confirm		the same records as in the look, no new one: the storage is dead.  The files
 *				are looked at once more
 *	dead		compactions drop its pages (worker_horizon.c); files of nothing else go at once
 *	forget		when no page is left: counters in shared memory, then the records
 *
 * All of it is done in the worker's main thread, in slices of a few milliseconds, and starts
 * over after a crash.  Nothing is logged: a standby's worker judges by its own files.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "row/row.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define REAP_MS				500
#define RETRY_MS			1000

/*
 * Where nothing happens nothing is dropped.  After CLEAN_ROUNDS rounds that found nothing the worker looks
 * only once in IDLE_ROUNDS intervals, until there is a new transaction or a flush.
 */
#define CLEAN_ROUNDS		2
#define IDLE_ROUNDS			20

typedef enum Phase
{
	PHASE_IDLE,
	PHASE_LOOK,
	PHASE_FLUSH,
	PHASE_CONFIRM
} Phase;

/* What was found of one storage in pg_tables. */
typedef struct Candidate
{
	OrbitStorageId storage;
	int			nrecords;		/* registry and alias records */
	uint64		hash;			/* of their keys and values */
} Candidate;

/* A "dropped" record of pg_metadata. */
typedef struct DroppedRecord
{
	char		kind;
	Oid			oid;
	bool		needed;			/* a record of pg_tables names it */
} DroppedRecord;

/* Has anything happened since? */
typedef struct Activity
{
	bool		recovery;
	bool		running;		/* transactions with an xid */
	uint64		position;		/* next xid, or what has been replayed */
	uint64		flushes;		/* records of pg_tables come with them */
} Activity;

static Phase phase = PHASE_IDLE;
static OrbitTime next_round = 0;
static Activity last_activity;
static int	clean_rounds = 0;
static int	skipped_rounds = 0;
static OrbitStorageId look_from;	/* the look goes on here */
static uint64 ticket;			/* of the flush after the look */
static int	confirmed;			/* candidates done with */

static Candidate *candidates = NULL;
static int	ncandidates = 0;
static int	max_candidates = 0;

static DroppedRecord *dropped_records = NULL;
static int	ndropped = 0;
static int	max_dropped = 0;

/* ---- what transactions do --------------------------------------------------------------- */

typedef struct Judge
{
	bool		recovery;
	const TransactionId *xids;	/* running ones, ascending as numbers; not in recovery */
	int			nxids;
	RowEvidence evidence;
} Judge;

static bool
WasDropped(char kind, Oid oid, void *arg)
{
	char		key[ROW_DROPPED_KEY_SIZE + 1];
	CodecBuf	value = {0};
	KvStatus	st = {KV_OK, ""};

	RowDroppedKey(key, kind, oid);
	KvGet(worker.db, ORBIT_PG_METADATA, key, ROW_DROPPED_KEY_SIZE, &value, &st);
	CodecBufFree(&value);
	return st.code == KV_OK;
}

/*
 * Before consistency files are missing because they have not been made yet (R10), and
 * without the snapshot of a hot standby nothing is known of transactions.
 */
static bool
MayJudge(bool *recovery)
{
	*recovery = RecoveryInProgress();
	return !*recovery || HotStandbyActive();
}

/* Which transactions run; must come before a look at files.  Valid until the next flush. */
static void
JudgeBegin(Judge *j, bool recovery)
{
	memset(j, 0, sizeof(*j));
	j->recovery = recovery;
	if (recovery)
	{
		/* the worker takes no snapshot; TransactionIdIsInProgress relies on these (R4) */
		TransactionXmin = RecentXmin = GetOldestNonRemovableTransactionId(NULL);
	}
	else
	{
		RunningTransactions running = GetRunningTransactionData();

		LWLockRelease(ProcArrayLock);
		LWLockRelease(XidGenLock);
		/* subtransactions may be missing; creators are top-level transactions */
		j->xids = running->xids;
		j->nxids = running->xcnt +
			(running->subxid_status == SUBXIDS_IN_ARRAY ? running->subxcnt : 0);
		qsort(running->xids, j->nxids, sizeof(TransactionId), StoreCompareXids);
	}
	j->evidence.recovery = recovery;
	j->evidence.first = StoreFirstStorage();
	j->evidence.dropped = WasDropped;
}

static bool
CreatorRuns(const Judge *j, TransactionId creator)
{
	if (!TransactionIdIsNormal(creator))
		return false;
	if (j->recovery)
		return TransactionIdIsInProgress(creator);
	return bsearch(&creator, j->xids, j->nxids, sizeof(TransactionId), StoreCompareXids) != NULL;
}

/* ---- records ------------------------------------------------------------------------------- */

static void
SeekStorage(KvIter *it, OrbitStorageId storage)
{
	char		key[CODEC_STORAGE_KEY_SIZE];

	CodecStorageKey(key, storage, '\0');
	KvIterSeek(it, key, CODEC_STORAGE_KEY_SIZE);
}

/* The storage of the record at the iterator; false: there is none. */
static bool
CurrentStorage(KvIter *it, OrbitStorageId *storage)
{
	const char *key;
	size_t		len;
	char		kind;

	if (!KvIterValid(it))
		return false;
	KvIterKey(it, &key, &len);
	return len >= CODEC_STORAGE_KEY_SIZE &&
		CodecStorageKeyParse(key, CODEC_STORAGE_KEY_SIZE, storage, &kind);
}

static void
NeedDropped(const CodecRegistry *r)
{
	for (int i = 0; i < ndropped; i++)
	{
		DroppedRecord *d = &dropped_records[i];

		if (d->oid == (d->kind == ROW_DROPPED_DATABASE ? r->database : r->tablespace))
			d->needed = true;
	}
}

/*
 * Reads all records of the storage at the iterator, which goes on to the next one.  True: every
 * creator has ended and no file is left.
 */
static bool
JudgeStorage(const Judge *j, KvIter *it, Candidate *c)
{
	OrbitStorageId storage;
	bool		gone = true;

	(void) CurrentStorage(it, &c->storage);
	c->nrecords = 0;
	c->hash = 0;
	for (; CurrentStorage(it, &storage) && storage == c->storage; KvIterNext(it))
	{
		const char *key;
		const char *value;
		size_t		keylen;
		size_t		len;
		CodecRegistry registry;

		KvIterKey(it, &key, &keylen);
		KvIterValue(it, &value, &len);
		if (!RowParseRegistry(key, keylen, value, len, &storage, &registry))
		{
			/* damaged, or of a newer version */
			if (key[CODEC_STORAGE_KEY_SIZE - 1] == CODEC_RECORD_REGISTRY)
				gone = false;
			continue;
		}
		c->nrecords++;
		c->hash = hash_combine64(c->hash, hash_bytes_extended((const unsigned char *) key, keylen, 0));
		c->hash = hash_combine64(c->hash, hash_bytes_extended((const unsigned char *) value, len, 0));
		NeedDropped(&registry);
		gone = gone && !CreatorRuns(j, registry.creator) &&
			RowFindFile(&j->evidence, c->storage, &registry, NULL) == ROW_FILE_NONE;
	}
	return gone && c->nrecords > 0;
}

static KvIter *
OpenRecords(OrbitFamily family)
{
	KvStatus	st = {KV_OK, ""};
	KvIter	   *it = KvIterCreate(worker.db, family, NULL, 0, NULL, 0, 0, &st);

	if (it == NULL)
		WorkerStoragesFailed(&st, "could not read the records of storages");
	return it;
}

/* An error must not be taken for the end of the records. */
static bool
CloseRecords(KvIter *it)
{
	KvStatus	st = {KV_OK, ""};

	KvIterStatus(it, &st);
	KvIterDestroy(it);
	if (st.code == KV_OK)
		return true;
	WorkerStoragesFailed(&st, "could not read the records of storages");
	return false;
}

/* "Dropped" records that no storage needs: at the end of a look at all of them. */
static void
ForgetDropped(void)
{
	WorkerRecordKeys	f = {0};

	for (int i = 0; i < ndropped; i++)
	{
		char		key[ROW_DROPPED_KEY_SIZE + 1];

		if (dropped_records[i].needed)
			continue;
		RowDroppedKey(key, dropped_records[i].kind, dropped_records[i].oid);
		(void) WorkerAddRecordKey(&f, ORBIT_PG_METADATA, key, ROW_DROPPED_KEY_SIZE);
	}
	ndropped = 0;
	(void) WorkerDeleteRecords(&f);
}

/* ---- look ------------------------------------------------------------------------------------- */

static void
EndRound(bool clean)
{
	phase = PHASE_IDLE;
	clean_rounds = clean ? clean_rounds + 1 : 0;
	next_round = OrbitLater(OrbitNow(), orbit_collect_interval);
}

/* An error, or the server's state has changed: nothing that was found counts. */
static void
AbandonRound(void)
{
	EndRound(false);
}

static bool
NoteCandidate(const Candidate *c)
{
	if (!WorkerGrow((void **) &candidates, ncandidates, &max_candidates, sizeof(Candidate)))
		return false;
	candidates[ncandidates++] = *c;
	return true;
}

static void
LookSlice(bool recovery)
{
	Judge		judge;
	uint64		moves;
	uint64		moves_after;
	int			before = ncandidates;
	int			done = 0;
	bool		end = false;
	OrbitTime start = OrbitNow();
	KvIter	   *it = OpenRecords(ORBIT_PG_TABLES);

	if (it == NULL || !RowNothingMoves(&moves))
	{
		KvIterDestroy(it);
		AbandonRound();
		return;
	}
	JudgeBegin(&judge, recovery);
	SeekStorage(it, look_from);
	do
	{
		Candidate	c;

		end = !CurrentStorage(it, &c.storage);
		if (end)
			break;
		if (JudgeStorage(&judge, it, &c) && !WorkerIsDead(c.storage))
			(void) NoteCandidate(&c);
		look_from = c.storage + 1;
	} while (!WorkerSliceIsOver(start, ++done));

	if (!CloseRecords(it))
	{
		AbandonRound();
		return;
	}
	if (!RowNothingMoves(&moves_after) || moves_after != moves)
		ncandidates = before;
	if (!end)
		return;

	OrbitStopPoint("storages-after-look");
	if (ndropped > 0)
		ForgetDropped();
	if (ncandidates == 0)
	{
		EndRound(true);
		return;
	}
	ticket = WorkerTakeTicket();
	phase = PHASE_FLUSH;
}

/* ---- confirm ------------------------------------------------------------------------------------ */

static void
ConfirmSlice(bool recovery)
{
	Judge		judge;
	uint64		moves;
	uint64		moves_after;
	int			first = confirmed;
	int			done = 0;
	bool	   *gone;
	OrbitTime start = OrbitNow();
	KvIter	   *it = OpenRecords(ORBIT_PG_TABLES);

	if (it == NULL || !RowNothingMoves(&moves))
	{
		KvIterDestroy(it);
		AbandonRound();
		return;
	}
	gone = palloc0((ncandidates - confirmed) * sizeof(bool));
	JudgeBegin(&judge, recovery);
	do
	{
		const Candidate *c = &candidates[confirmed];
		Candidate	again;
		OrbitStorageId storage;

		SeekStorage(it, c->storage);
		gone[confirmed - first] = CurrentStorage(it, &storage) && storage == c->storage &&
			JudgeStorage(&judge, it, &again) &&
			again.nrecords == c->nrecords && again.hash == c->hash;
		confirmed++;
	} while (confirmed < ncandidates && !WorkerSliceIsOver(start, ++done));

	if (CloseRecords(it) && RowNothingMoves(&moves_after) && moves_after == moves)
	{
		for (int i = first; i < confirmed; i++)
		{
			if (gone[i - first])
				WorkerAddDead(candidates[i].storage);
		}
	}
	if (confirmed == ncandidates)
		EndRound(false);
}

/* ---- rounds ---------------------------------------------------------------------------------------- */

/* "Dropped" records that were there before the records of storages are read. */
static bool
ListDropped(void)
{
	KvIter	   *it = OpenRecords(ORBIT_PG_METADATA);

	ndropped = 0;
	if (it == NULL)
		return false;
	for (KvIterSeek(it, ROW_DROPPED_PREFIX, strlen(ROW_DROPPED_PREFIX)); KvIterValid(it); KvIterNext(it))
	{
		const char *key;
		size_t		len;
		DroppedRecord d = {0};

		KvIterKey(it, &key, &len);
		if (!RowDroppedKeyParse(key, len, &d.kind, &d.oid))
			break;
		if (!WorkerGrow((void **) &dropped_records, ndropped, &max_dropped, sizeof(DroppedRecord)))
			break;
		dropped_records[ndropped++] = d;
	}
	return CloseRecords(it);
}

static void
NoteActivity(bool recovery, Activity *a)
{
	Judge		judge;
	StoreFlushStats flush;

	memset(a, 0, sizeof(*a));
	a->recovery = recovery;
	JudgeBegin(&judge, recovery);
	a->running = judge.nxids > 0;
	if (recovery)
		a->position = GetXLogReplayRecPtr(NULL);
	else
		a->position = U64FromFullTransactionId(ReadNextFullTransactionId());
	StoreGetFlushStats(&flush);
	a->flushes = flush.flushes;
}

/* A file goes a moment after its transaction has ended, hence more than one clean round. */
static bool
NothingHappened(bool recovery)
{
	Activity	now;
	bool		same;

	NoteActivity(recovery, &now);
	same = now.recovery == last_activity.recovery && now.position == last_activity.position &&
		now.flushes == last_activity.flushes && !last_activity.running;
	last_activity = now;
	if (!same)
		clean_rounds = 0;
	if (same && clean_rounds >= CLEAN_ROUNDS && ++skipped_rounds < IDLE_ROUNDS)
		return true;
	skipped_rounds = 0;
	return false;
}

static void
StartRound(bool recovery)
{
	if (NothingHappened(recovery))
	{
		next_round = OrbitLater(OrbitNow(), orbit_collect_interval);
		return;
	}
	if (!ListDropped())
	{
		AbandonRound();
		return;
	}
	ncandidates = 0;
	confirmed = 0;
	look_from = ORBIT_INVALID_STORAGE + 1;
	phase = PHASE_LOOK;
}

/* ---- one turn ------------------------------------------------------------------------------------------ */

static void
Collect(OrbitTime now)
{
	static bool was_recovery = false;
	bool		recovery;

	if (!MayJudge(&recovery))
		return;
	if (recovery != was_recovery && phase != PHASE_IDLE)
		AbandonRound();
	was_recovery = recovery;

	switch (phase)
	{
		case PHASE_IDLE:
			/* a shorter interval may have been set meanwhile */
			next_round = Min(next_round, OrbitLater(now, orbit_collect_interval));
			if (now >= next_round)
				StartRound(recovery);
			break;
		case PHASE_LOOK:
			LookSlice(recovery);
			break;
		case PHASE_FLUSH:
			if (!WorkerTicketServed(ticket))
				break;
			OrbitStopPoint("storages-before-confirm");
			phase = PHASE_CONFIRM;
			break;
		case PHASE_CONFIRM:
			ConfirmSlice(recovery);
			break;
	}
}

void
WorkerStoragesStep(OrbitTime now)
{
	static OrbitTime next_reap = 0;

	if (worker.leaving || worker.failures > 0)
		return;
	Collect(now);
	if (now >= next_reap)
	{
		bool		ok = WorkerReap();

		next_reap = OrbitLater(now, ok ? REAP_MS : RETRY_MS);
	}
}
