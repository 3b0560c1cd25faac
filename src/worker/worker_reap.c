/*
 * worker_reap.c: gets rid of storages that worker_storages.c found dead.
 *
 *	1. RocksDB's threads learn of it (worker_horizon.c): compactions drop the pages they meet;
 *	2. files that hold nothing else are deleted at once, as far as RocksDB's deferred
 *	   deletion lets them go;
 *	3. when no page is left, the entry in the shared counters goes, and then the records.
 *
 * The records come last: until then the storage is found again after a restart.  Nobody
 * reads or writes a dead storage, so there is nothing to lock.
 */
#include "postgres.h"

#include <stdlib.h>


#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define SLICE_US			3000	/* one turn of the main loop spends no more */
#define SLICE_CHECK			16	/* storages between two looks at the clock */
#define DROP_BATCH			256		/* storages whose files are deleted in one step */
#define FORGET_BATCH		1000	/* records deleted by one ingest */
#define REPORT_MS			30000

typedef enum DeadState
{
	DEAD_FOUND,
	DEAD_DROPPED,				/* files with nothing else in them are deleted */
	DEAD_FORGOTTEN				/* no page is left; its records are in `gathered` */
} DeadState;

/* worker.dead, and what was done about each. */
static OrbitStorageId *dead = NULL;
static uint8 *states = NULL;
static int	max_dead = 0;
static int	reap_from = 0;		/* the next one that may have lost its last page */
static bool reap_again = false; /* from the start, when the end is reached */

/* Records to be deleted by one ingest, ascending; they are gathered over many slices. */
static WorkerRecordKeys gathered;
static int	nforgotten = 0;

/* ---- helpers of both files --------------------------------------------------------------- */

bool
WorkerGrow(void **array, int n, int *max, Size size)
{
	int			more = *max * 2 + 64;
	void	   *grown;

	if (n < *max)
		return true;
	grown = realloc(*array, more * size);
	if (grown == NULL)
		return false;
	*array = grown;
	*max = more;
	return true;
}

void
WorkerStoragesFailed(const KvStatus *st, const char *doing)
{
	static OrbitTime reported = 0;
	static const char *reported_doing = "";
	OrbitTime now = OrbitNow();

	if (strcmp(doing, reported_doing) == 0 && !OrbitElapsed(reported, now, REPORT_MS))
		return;
	reported = now;
	reported_doing = doing;
	KvRaise(LOG, st, doing);
}

bool
WorkerSliceIsOver(OrbitTime start, int done)
{
	return done % SLICE_CHECK == 0 && OrbitNow() - start > SLICE_US;
}

bool
WorkerAddRecordKey(WorkerRecordKeys *k, OrbitFamily family, const char *key, size_t len)
{
	if (len > sizeof(k->keys[0].key) ||
		!WorkerGrow((void **) &k->keys, k->n, &k->max, sizeof(StoreRecordKey)))
		return false;
	k->keys[k->n].family = family;
	k->keys[k->n].len = len;
	memcpy(k->keys[k->n].key, key, len);
	k->n++;
	return true;
}

bool
WorkerDeleteRecords(WorkerRecordKeys *k)
{
	KvStatus	st = {KV_OK, ""};

	if (k->n > 0)
		StoreDeleteRecords(worker.db, k->keys, k->n, &st);
	if (st.code != KV_OK)
		WorkerStoragesFailed(&st, "could not delete the records of dropped storages");
	free(k->keys);
	return st.code == KV_OK;
}

/* ---- the list ------------------------------------------------------------------------------ */

/* Where the storage is in the list, or would be. */
static int
FindDead(OrbitStorageId storage)
{
	int			low = 0;
	int			high = worker.ndead;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (worker.dead[middle] < storage)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool
WorkerIsDead(OrbitStorageId storage)
{
	int			i = FindDead(storage);

	return i < worker.ndead && worker.dead[i] == storage;
}

static void
ListChanged(void)
{
	worker.dead = dead;
	worker.dead_changed = true;
}

void
WorkerAddDead(OrbitStorageId storage)
{
	int			i = FindDead(storage);
	int			max = max_dead;

	/* both arrays have the same size; out of memory: it will be found again */
	if (!WorkerGrow((void **) &states, worker.ndead, &max, sizeof(uint8)) ||
		!WorkerGrow((void **) &dead, worker.ndead, &max_dead, sizeof(OrbitStorageId)))
		return;
	memmove(&dead[i + 1], &dead[i], (worker.ndead - i) * sizeof(OrbitStorageId));
	memmove(&states[i + 1], &states[i], (worker.ndead - i) * sizeof(uint8));
	dead[i] = storage;
	states[i] = DEAD_FOUND;
	worker.ndead++;
	if (i < reap_from)
		reap_from++;			/* what is gathered stays ascending */
	ListChanged();
	ereport(DEBUG1, (errmsg_internal("orbit storage " UINT64_FORMAT " is dead", storage)));
}

static void
RemoveForgotten(void)
{
	int			n = 0;
	int			from = reap_from;

	for (int i = 0; i < worker.ndead; i++)
	{
		if (states[i] == DEAD_FORGOTTEN)
		{
			from -= i < reap_from;
			continue;
		}
		dead[n] = dead[i];
		states[n] = states[i];
		n++;
	}
	worker.ndead = n;
	reap_from = from;
	ListChanged();
}

/* ---- pages ------------------------------------------------------------------------------------ */

/* Whole files at once, those of many storages in one step; compactions do the rest. */
static bool
DropFiles(void)
{
	KvStatus	st = {KV_OK, ""};
	OrbitStorageId batch[DROP_BATCH];
	int			end = 0;
	int			n = 0;

	for (; end < worker.ndead && n < DROP_BATCH; end++)
	{
		if (states[end] == DEAD_FOUND)
			batch[n++] = worker.dead[end];
	}
	if (n == 0)
		return true;
	OrbitStopPoint("storages-before-drop");
	KvDropStorages(worker.db, batch, n, &st);
	if (st.code != KV_OK)
	{
		WorkerStoragesFailed(&st, "could not delete files of dropped storages");
		return false;
	}
	for (int i = 0; i < end; i++)
	{
		if (states[i] == DEAD_FOUND)
			states[i] = DEAD_DROPPED;
	}
	reap_again = true;
	return true;
}

/* Bounded, so that nobody else's page is read.  In doubt yes. */
static bool
HasPages(OrbitStorageId storage)
{
	char		from[CODEC_PAGE_KEY_SIZE];
	char		to[CODEC_PAGE_KEY_SIZE];
	KvStatus	st = {KV_OK, ""};
	KvIter	   *it;
	bool		found;

	CodecPageKey(from, storage, 0);
	CodecPageKey(to, storage + 1, 0);
	it = KvIterCreate(worker.db, ORBIT_PG_DATA, from, sizeof(from), to, sizeof(to), 0, &st);
	if (it == NULL)
		return true;
	KvIterSeek(it, from, sizeof(from));
	found = KvIterValid(it);
	if (!found)
		KvIterStatus(it, &st);
	KvIterDestroy(it);
	return found || st.code != KV_OK;
}

/* ---- records ------------------------------------------------------------------------------------ */

/* Every record, of whatever kind. */
static bool
AddRecordsOf(WorkerRecordKeys *k, OrbitStorageId storage)
{
	char		from[CODEC_STORAGE_KEY_SIZE];
	char		to[CODEC_STORAGE_KEY_SIZE];
	KvStatus	st = {KV_OK, ""};
	KvIter	   *it;
	bool		ok = true;

	CodecStorageKey(from, storage, '\0');
	CodecStorageKey(to, storage + 1, '\0');
	it = KvIterCreate(worker.db, ORBIT_PG_TABLES, from, sizeof(from), to, sizeof(to), 0, &st);
	if (it == NULL)
		return false;
	for (KvIterSeek(it, from, sizeof(from)); ok && KvIterValid(it); KvIterNext(it))
	{
		const char *key;
		size_t		len;

		KvIterKey(it, &key, &len);
		ok = WorkerAddRecordKey(k, ORBIT_PG_TABLES, key, len);
	}
	KvIterStatus(it, &st);
	KvIterDestroy(it);
	return ok && st.code == KV_OK;
}

/* The ingest.  On failure they are gathered anew. */
static bool
DeleteGathered(void)
{
	WorkerRecordKeys keys = gathered;

	memset(&gathered, 0, sizeof(gathered));
	if (nforgotten == 0)
		return true;
	nforgotten = 0;
	OrbitStopPoint("storages-before-forget");
	if (WorkerDeleteRecords(&keys))
	{
		OrbitStopPoint("storages-after-forget");
		RemoveForgotten();
		return true;
	}
	for (int i = 0; i < worker.ndead; i++)
	{
		if (states[i] == DEAD_FORGOTTEN)
			states[i] = DEAD_DROPPED;
	}
	reap_again = true;
	return false;
}

/*
 * Gathers the records of dead storages that have no page left.  Each ingest costs several
 * fsyncs, so there is one for all of them, or for FORGET_BATCH records.
 */
static bool
ForgetSlice(OrbitTime start)
{
	int			done = 0;

	for (; reap_from < worker.ndead && gathered.n < FORGET_BATCH; reap_from++)
	{
		OrbitStorageId storage = worker.dead[reap_from];

		if (WorkerSliceIsOver(start, ++done))
			return true;
		if (states[reap_from] != DEAD_DROPPED || HasPages(storage))
			continue;
		if (!AddRecordsOf(&gathered, storage))
		{
			/* some of its records may be in: begin anew */
			gathered.n = 0;
			for (int i = 0; i < worker.ndead; i++)
				states[i] = Min(states[i], DEAD_DROPPED);
			nforgotten = 0;
			return false;
		}
		/* the counters first: a flush would write their record again */
		StoreForgetCounters(storage);
		WorkerForgetCleaned(storage);
		states[reap_from] = DEAD_FORGOTTEN;
		nforgotten++;
	}
	return DeleteGathered();
}

/*
 * Pages of a small table may stay for long in a file of much else, which is not worth a compaction.  So the
 * list is gone through again only when there was a compaction or somebody has joined it.
 */
static bool
NothingNew(void)
{
	static uint64 compactions = 0;
	KvPruned	pruned;

	if (reap_from < worker.ndead || nforgotten > 0)
		return false;			/* in the middle of it */
	KvGetPruned(worker.db, &pruned);
	if (pruned.compactions == compactions && !reap_again)
		return true;
	compactions = pruned.compactions;
	reap_again = false;
	reap_from = 0;
	return false;
}

bool
WorkerReap(void)
{
	OrbitTime start = OrbitNow();

	if (worker.ndead == 0 || worker.dead_changed)
		return true;			/* compactions must know first */
	if (!DropFiles())
		return false;
	if (NothingNew() || ForgetSlice(start))
		return true;
	reap_again = true;
	return false;
}
