/*
 * worker_freeze.c: VACUUM asks for a storage to be frozen.
 *
 * Requests come one at a time (worker_request.c).  The worker
 * compacts the storage's files that name an unfrozen xid before the limit, one after the other, until
 * none is left.  It gives up when that leads nowhere: an old transaction holds the horizon back, or a
 * lock of a running one lies below a version.  The answer proves nothing by itself: VACUUM reads the files'
 * summaries.
 *
 * On a standby nobody runs VACUUM, but replay waits when the primary's commit log was truncated, until
 * nothing here needs what goes.  So that little is left to do then, the worker of a standby freezes files of
 * its own accord once they are as old as those that VACUUM would freeze.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/vacuum.h"
#include "postmaster/autovacuum.h"

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define SETTLE_MS		2000	/* for transactions to settle; then it is tried without */
#define FRUITLESS		3		/* jobs that froze no file */
#define EARLY_REST_MS	(5 * 60 * 1000) /* after early ones that froze none */
#define EARLY_AGE		(1 << 20)	/* transactions in a segment of the commit log, which goes as a whole */

/* ---- backends ------------------------------------------------------------------------ */

bool
WorkerFreezeStorage(OrbitStorageId storage, TransactionId limit)
{
	OrbitRequirePreload();
	StoreAttach();
	if (RecoveryInProgress())
		return false;
	return WorkerRequestAndWait(&worker_shared->freeze, storage, limit, false) != 0;
}

/* ---- the worker ------------------------------------------------------------------------ */

/* The request that is being worked on. */
typedef struct Request
{
	uint64		id;
	OrbitStorageId storage;
	TransactionId limit;
	OrbitTime	since;
	int			left;			/* files to freeze at the last look; -1: not looked yet */
	int			fruitless;
	bool		job;			/* the running job is for it */
} Request;

static Request request;

bool
WorkerFreezeAsked(void)
{
	WorkerRequest asked;

	if (!WorkerRequestLook(&worker_shared->freeze, &asked))
		return false;
	if (asked.id != request.id)
	{
		memset(&request, 0, sizeof(request));
		request.id = asked.id;
		request.storage = asked.storage;
		request.limit = asked.limit;
		request.since = OrbitNow();
		request.left = -1;
	}
	return true;
}

void
WorkerFreezeAnswer(bool done)
{
	WorkerRequestAnswer(&worker_shared->freeze, request.id, done);
}

void
WorkerFreezeJobDone(KvCode code)
{
	if (!request.job)
		return;
	request.job = false;
	if (code != KV_OK && code != KV_AGAIN)
		WorkerFreezeAnswer(false);
}

/* Does the file keep the request from being done?  Without a summary it may. */
static bool
Offends(const KvFile *f, uint64 limit)
{
	if (request.storage != ORBIT_INVALID_STORAGE &&
		(f->last_storage < request.storage || f->first_storage > request.storage))
		return false;
	return !f->has_summary ||
		(f->summary.unfrozen > 0 && WorkerFullXid(f->summary.oldest_unfrozen) < limit);
}

/* Can the horizon do what is asked?  *wait: not yet, but soon. */
static bool
HorizonSuffices(const WorkerHorizon *h, uint64 limit, uint64 oldest, OrbitTime now,
				bool *wait)
{
	*wait = h->limit < limit || (h->base > oldest && h->base > h->want_base) ||
		(h->settled < limit && !OrbitElapsed(request.since, now, SETTLE_MS));
	return h->aim >= limit;
}

/* The next file to compact, -1: none that can be now. */
static int
NextFile(const WorkerFiles *files, uint64 limit)
{
	for (int i = 0; i < files->n; i++)
	{
		if (Offends(&files->f[i], limit) && !files->f[i].compacting)
			return i;
	}
	return -1;
}

bool
WorkerFreezeStep(const WorkerFiles *files, const WorkerHorizon *h, OrbitTime now)
{
	uint64		limit = WorkerFullXid(request.limit);
	uint64		oldest = limit;
	int			left = 0;
	int			file;
	bool		wait;

	for (int i = 0; i < files->n; i++)
	{
		const KvFile *f = &files->f[i];

		if (!Offends(f, limit))
			continue;
		left++;
		if (f->has_summary)
			oldest = Min(oldest, WorkerFullXid(f->summary.oldest_unfrozen));
	}
	if (left == 0 || !HorizonSuffices(h, limit, oldest, now, &wait))
	{
		WorkerFreezeAnswer(left == 0);
		return false;
	}
	if (wait)
		return true;
	request.fruitless = request.left < 0 || left < request.left ? 0 : request.fruitless;
	if (request.fruitless >= FRUITLESS)
	{
		WorkerFreezeAnswer(false);
		return false;
	}
	file = NextFile(files, limit);
	if (file < 0)
		return true;
	request.left = left;
	/* level 0 cannot be taken file by file; what matters here is that it is rewritten */
	request.job = WorkerStartJob(file, files->f[file].level == 0 ? WorkerBaseLevel() : KV_BOTTOM,
								 0, now);
	if (request.job)
		request.fruitless++;
	return true;
}

/* ---- a standby's own ---------------------------------------------------------------------- */

/* As VACUUM's: what began so many transactions before the horizon is frozen. */
static uint64
EarlyLimit(const WorkerHorizon *h)
{
	uint64		age = Max(Min(vacuum_freeze_min_age, autovacuum_freeze_max_age / 2), EARLY_AGE);

	return h->limit > age ? Min(h->limit - age, h->settled) : 0;
}

/* The horizon must know the fates down to the file's oldest transaction. */
static bool
IsOld(const KvFile *f, const WorkerHorizon *h, uint64 limit)
{
	uint64		oldest;

	if (!f->has_summary || f->summary.unfrozen == 0 || f->level == 0 || f->compacting)
		return false;
	oldest = WorkerFullXid(f->summary.oldest_unfrozen);
	return oldest < limit && oldest >= h->base;
}

bool
WorkerFreezeEarly(const WorkerFiles *files, const WorkerHorizon *h, OrbitTime now)
{
	static int	last = INT_MAX; /* how many were old when the last job began */
	static OrbitTime rest = 0;
	uint64		limit = EarlyLimit(h);
	int			first = -1;
	int			old = 0;

	if (!RecoveryInProgress() || now < rest)
		return false;
	for (int i = files->n - 1; i >= 0; i--)
	{
		if (!IsOld(&files->f[i], h, limit))
			continue;
		first = i;
		old++;
	}
	if (old >= last)
	{
		/* the last one froze nothing, or files came meanwhile: not in a circle */
		last = INT_MAX;
		rest = OrbitLater(now, EARLY_REST_MS);
		return false;
	}
	last = old == 0 ? INT_MAX : old;
	return old > 0 && WorkerStartJob(first, KV_BOTTOM, 0, now);
}
