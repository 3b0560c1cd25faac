/*
 * worker_compact.c: which files are compacted, and when.
 *
 * RocksDB compacts by the size of its levels.  That never comes to an end which gives back what
 * nobody needs: a table is deleted from, and no more files come; a snapshot lets
 * go of old versions that lie in the lowest level.  So the worker looks at the summaries of the files
 * (kv.h) and compacts, one job at a time, where it is worth it.
 *
 *	job		a file and all that overlaps it in the levels below, united in the lowest
 *			one: there history is complete, and what the horizon lets go goes
 *	gain	an estimate of the bytes that the job would drop.  Of a file that is ripe (all its
 *			transactions are settled): its doomed entries, without dead slots whose
 *			indexes have not been cleaned.  Deltas above the lowest level doom as much below them:
 *			an update one version, a delete mark one row of average size.  And everything that
 *			belongs to dead storages.
 *	share	gain / bytes read; it must reach orbit.reclaim_threshold, so that
 *			what is written is in proportion to what is won
 *	age		a file must be orbit.reclaim_delay old: what comes out of one job
 *			waits as long for the next, so nothing is rewritten more often than that.
 *			Ten times as old, a quarter of the share is enough.
 *
 * A job that disappoints leaves its files alone for ten times as long.
 *
 * Level 0 cannot be compacted file by file: whoever takes one takes all older ones.  If the
 * next level in use is not the lowest one, level 0 goes there first, all of it; what
 * comes out is cut at storages and is judged file by file.
 *
 * Each flush adds a file to level 0, and a few rows changed all over a table overlap all of it.  RocksDB
 * would rewrite the next level with every fourth flush, however small.  So from LEVEL0_FILES on they
 * are united among themselves until together they are 1 / LEVEL0_SHARE of what they overlap below; RocksDB
 * comes in at twice as many files, when the worker has something else to do.
 *
 * orbit.reclaim_threshold = 0 takes files at random, all the time: for tests.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/xlog.h"
#include "common/pg_prng.h"

#include "base/base.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker_internal.h"

#define LOOK_MAX_MS			5000	/* between two lists of the files, when anything changed */
#define LOOK_MIN_MS			100
#define PATIENCE			10
#define LEVEL0_FILES		4		/* half of RocksDB's trigger (kv/rocks_open.cpp) */
#define LEVEL0_SHARE		8
#define LEVEL0_BYTES		(UINT64CONST(32) << 20) /* no more: one file must come out */
#define AGAIN_MS			100		/* another compaction is in the way */
#define PAUSE_FIRST_MS		1000	/* after an error, and at least as long as the job took */
#define PAUSE_MAX_MS		60000
#define SPARE_BYTES			(UINT64CONST(64) << 20)	/* of disk, that a job leaves free */

/* What is remembered of a file. */
typedef struct KnownFile
{
	uint64		number;
	OrbitTime	seen;
	OrbitTime	not_before;		/* came out of a job that disappointed */
} KnownFile;

typedef struct Job
{
	bool		running;
	double		share;			/* promised */
	uint64		newest;			/* greatest file number when it began */
	WorkerKeyRange range;
	int			level;			/* where to */
	OrbitTime	seen;			/* the first of its files */
	OrbitTime	begun;
} Job;

typedef struct CompactState
{
	WorkerFiles files;
	KnownFile  *known;			/* ascending by number, those of the last list */
	int			nknown;
	bool	   *taken;			/* scratch for closures, all false between them */
	int		   *members;		/* the same, as a list */
	uint64	   *numbers;
	int			cap;

	OrbitTime	looked;
	OrbitTime	not_before;
	WorkerPause pause;			/* after an error */
	uint64		last_generation;	/* what the last list was made for */
	uint64		last_compactions;
	uint64		last_horizon;
	bool		waiting;		/* a file was too young: look again though nothing changes */

	Job			job;
	bool		disappointed;	/* by the last job, whose files are not yet known */
	bool		united;			/* level 0, by the last job */
} CompactState;

static CompactState compact;
static WorkerCompactStats totals;

/* ---- the files ------------------------------------------------------------------------ */

static bool
Grow(void *array_pointer, Size size)
{
	void	  **array = array_pointer;
	void	   *more = realloc(*array, size);

	if (more != NULL)
		*array = more;
	return more != NULL;
}

static bool
Reserve(int n)
{
	if (n <= compact.cap)
		return true;
	n += n / 2;
	if (!Grow(&compact.taken, n * sizeof(bool)) || !Grow(&compact.members, n * sizeof(int)) ||
		!Grow(&compact.numbers, n * sizeof(uint64)) ||
		!Grow(&compact.known, n * sizeof(KnownFile)))
		return false;
	memset(compact.taken, 0, n * sizeof(bool));
	compact.cap = n;
	return true;
}

static int
CompareKnown(const void *a, const void *b)
{
	uint64		x = ((const KnownFile *) a)->number;
	uint64		y = ((const KnownFile *) b)->number;

	return x < y ? -1 : x > y;
}

static KnownFile *
FindKnown(KnownFile *known, int n, uint64 number)
{
	KnownFile	key = {.number = number};

	return n > 0 ? bsearch(&key, known, n, sizeof(KnownFile), CompareKnown) : NULL;
}

static inline WorkerKey
FirstKey(const KvFile *f)
{
	WorkerKey	k = {f->first_storage, f->first_page};

	return k;
}

static inline WorkerKey
LastKey(const KvFile *f)
{
	WorkerKey	k = {f->last_storage, f->last_page};

	return k;
}

static inline bool
KeyBefore(WorkerKey a, WorkerKey b)
{
	return a.storage != b.storage ? a.storage < b.storage : a.page < b.page;
}

static inline bool
Overlaps(const KvFile *f, const WorkerKeyRange *r)
{
	return !KeyBefore(LastKey(f), r->first) && !KeyBefore(r->last, FirstKey(f));
}

/* A new file that the last job made? */
static bool
FromLastJob(const KvFile *f)
{
	return f->number > compact.job.newest && f->level != 0 && Overlaps(f, &compact.job.range);
}

static void
NoteNewFile(KnownFile *k, int i, OrbitTime now)
{
	const KvFile *f = &compact.files.f[i];

	k->number = f->number;
	k->seen = now;
	k->not_before = 0;
	/* what was united in level 0 is as old as its oldest part, and older than all flushed since */
	if (compact.united && f->number > compact.job.newest && i == compact.files.level_end[0] - 1)
		k->seen = compact.job.seen;
	if (compact.disappointed && FromLastJob(f))
		k->not_before = OrbitLater(now, (int64) PATIENCE * Max(orbit_reclaim_delay, 1000));
}

/* Carries over what is known of files that are still there. */
static bool
UpdateKnown(OrbitTime now)
{
	const WorkerFiles *files = &compact.files;
	KnownFile  *old = NULL;
	int			nold = compact.nknown;

	if (nold > 0)
	{
		old = malloc(nold * sizeof(KnownFile));
		if (old == NULL)
			return false;
		memcpy(old, compact.known, nold * sizeof(KnownFile));
	}
	if (!Reserve(files->n))
	{
		free(old);
		return false;
	}
	for (int i = 0; i < files->n; i++)
	{
		KnownFile  *k = &compact.known[i];
		KnownFile  *before = FindKnown(old, nold, files->f[i].number);

		if (before != NULL)
			*k = *before;
		else
			NoteNewFile(k, i, now);
	}
	compact.nknown = files->n;
	if (files->n > 1)
		qsort(compact.known, files->n, sizeof(KnownFile), CompareKnown);
	compact.disappointed = compact.united = false;
	free(old);
	return true;
}

uint64
WorkerFullXid(TransactionId xid)
{
	return OrbitFullXid(U64FromFullTransactionId(ReadNextFullTransactionId()), xid);
}

/* Fates are needed from the oldest xid on that some file names. */
static void
TellOldest(const WorkerFiles *files)
{
	uint64		oldest = PG_UINT64_MAX;

	for (int i = 0; i < files->n; i++)
	{
		const CodecSummary *s = &files->f[i].summary;

		if (s->unfrozen > 0)
			oldest = Min(oldest, WorkerFullXid(s->oldest_unfrozen));
	}
	WorkerHorizonWantBase(oldest);
}

static bool
Look(OrbitTime now)
{
	WorkerFiles *files = &compact.files;
	KvStatus	st = {KV_OK, ""};

	free(files->f);
	memset(files, 0, sizeof(*files));
	KvListFiles(worker.db, 1, PG_UINT64_MAX, &files->f, &files->n, &st);
	if (st.code != KV_OK)
	{
		KvRaise(LOG, &st, "could not list RocksDB's files");
		return false;
	}
	for (int i = 0; i < files->n; i++)
	{
		for (int level = files->f[i].level + 1; level <= KV_BOTTOM + 1; level++)
			files->level_end[level - 1] = i + 1;
	}
	compact.looked = now;
	TellOldest(files);
	return UpdateKnown(now);
}

static inline int
LevelStart(const WorkerFiles *files, int level)
{
	return level == 0 ? 0 : files->level_end[level - 1];
}

/* ---- what a job would read ---------------------------------------------------------------- */

typedef struct Closure
{
	WorkerKeyRange range;
	int			n;
	uint64		bytes;			/* of files */
	bool		busy;			/* one of them is being compacted */
} Closure;

static void
Take(Closure *c, int i)
{
	const KvFile *f = &compact.files.f[i];

	if (compact.taken[i])
		return;
	compact.taken[i] = true;
	if (c->n == 0 || KeyBefore(FirstKey(f), c->range.first))
		c->range.first = FirstKey(f);
	if (c->n == 0 || KeyBefore(c->range.last, LastKey(f)))
		c->range.last = LastKey(f);
	compact.members[c->n++] = i;
	c->bytes += f->bytes;
	c->busy = c->busy || f->compacting;
}

/* The first file of a level (not 0) that ends at or behind the key. */
static int
FirstEndingAt(const WorkerFiles *files, int level, WorkerKey key)
{
	int			low = LevelStart(files, level);
	int			high = files->level_end[level];

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (KeyBefore(LastKey(&files->f[middle]), key))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The files that RocksDB will take when it is asked to compact this one into `level`: of level 0 all
 * older ones, from there down all that overlap the range, which grows.  Their indexes are in
 * compact.members.
 */
static void
TakeClosure(Closure *c, int start, int level)
{
	const WorkerFiles *files = &compact.files;

	memset(c, 0, sizeof(*c));
	Take(c, start);
	if (files->f[start].level == 0)
	{
		for (int i = start; i < files->level_end[0]; i++)
			Take(c, i);
	}
	for (int l = Max(files->f[start].level, 1); l <= level; l++)
	{
		WorkerKeyRange range = c->range;

		for (int i = FirstEndingAt(files, l, range.first);
			 i < files->level_end[l] && Overlaps(&files->f[i], &range); i++)
			Take(c, i);
	}
	for (int i = 0; i < c->n; i++)
		compact.taken[compact.members[i]] = false;
}

/* ---- what it would win ----------------------------------------------------------------------- */

/* Is everything that this file's entries hang on decided? */
static bool
IsRipe(const KvFile *f, const WorkerHorizon *h)
{
	return f->summary.unfrozen == 0 || WorkerFullXid(f->summary.newest_unfrozen) < h->settled;
}

/* Doomed entries of the file itself that would go now. */
static double
OwnGain(const KvFile *f)
{
	uint64		kept = f->summary.deadslots - Min(f->cleaned_slots, f->summary.deadslots);
	double		gain = (double) f->summary.doomed_bytes - (double) kept * CODEC_NODE_SIZE(0);

	return Max(gain, 0);
}

/*
 * What the deltas of a file will replace below it.  A compaction above the lowest level makes dead
 * slots of delete marks: they stand for rows below just the same.
 */
static double
GainBelow(const KvFile *f, double row_bytes)
{
	double		standing = 1;

	if (f->level == KV_BOTTOM || f->operands == 0)
		return 0;
	if (f->summary.bytes > 0)
		standing -= (double) f->summary.doomed_bytes / f->summary.bytes;
	return f->operand_bytes * standing + (f->summary.deletes + f->summary.deadslots) * row_bytes;
}

static bool
MayGain(const KvFile *f)
{
	return !f->has_summary || f->dropped_bytes > 0 || f->empty > 0 || f->tombstones > 0 ||
		OwnGain(f) > 0 || (f->level < KV_BOTTOM && f->operands > 0);
}

/*
 * The share of a closure's bytes that would go.  Pages that are empty count as pages: what they
 * cost is the time to pass over them.  Files without a summary are worth a job: they get one.
 */
static double
ShareOf(const Closure *c, const WorkerHorizon *h)
{
	const WorkerFiles *files = &compact.files;
	double		bytes = 0;
	double		gain = 0;
	double		pages = 0;
	double		empty = 0;
	double		bottom_bytes = 0;
	double		bottom_rows = 0;
	double		row_bytes;

	for (int i = 0; i < c->n; i++)
	{
		const KvFile *f = &files->f[compact.members[i]];

		if (f->level != KV_BOTTOM)
			continue;
		bottom_bytes += f->summary.bytes;
		bottom_rows += f->summary.rows;
	}
	row_bytes = bottom_rows > 0 ? bottom_bytes / bottom_rows : 0;
	for (int i = 0; i < c->n; i++)
	{
		const KvFile *f = &files->f[compact.members[i]];

		if (!f->has_summary)
			return 1;
		bytes += f->summary.bytes;
		pages += f->summary.pages + f->tombstones;
		empty += f->empty + f->tombstones;
		gain += f->dropped_bytes;
		if (IsRipe(f, h))
			gain += OwnGain(f) + GainBelow(f, row_bytes);
	}
	if (pages == 0)
		return 0;
	return Max(bytes > 0 ? Min(gain / bytes, 1) : 0, empty / pages);
}

/* ---- the choice ------------------------------------------------------------------------------- */

typedef struct Choice
{
	int			file;			/* -1: none */
	int			level;			/* where to */
	double		share;
} Choice;

static bool
RoomFor(uint64 bytes)
{
	return WorkerFreeRoom() > bytes + bytes / 16 + SPARE_BYTES;
}

/* The lowest share that is enough for a file of this age; 2: none. */
static double
NeededShare(const KvFile *f, OrbitTime now)
{
	const KnownFile *k = FindKnown(compact.known, compact.nknown, f->number);
	double		needed = orbit_reclaim_threshold / 100.0;

	if (k == NULL || !OrbitElapsed(k->seen, now, orbit_reclaim_delay) ||
		now < k->not_before)
	{
		compact.waiting = true;
		return f->dropped_bytes > 0 ? needed : 2;
	}
	if (OrbitElapsed(k->seen, now, (int64) PATIENCE * orbit_reclaim_delay))
		return needed / 4;
	compact.waiting = true;
	return needed;
}

int
WorkerBaseLevel(void)
{
	uint64		level;

	if (!KvIntProperty(worker.db, ORBIT_PG_DATA, "rocksdb.base-level", &level) ||
		level < 1 || level > KV_BOTTOM)
		return KV_BOTTOM;
	return (int) level;
}

static void
Consider(int i, int level, const WorkerHorizon *h, OrbitTime now, Choice *best)
{
	const KvFile *f = &compact.files.f[i];
	double		needed;
	double		share;
	Closure		c;

	if (f->compacting || !MayGain(f) || (f->has_summary && !IsRipe(f, h) && f->dropped_bytes == 0))
		return;
	needed = NeededShare(f, now);
	if (needed > 1)
		return;
	TakeClosure(&c, i, KV_BOTTOM);
	share = ShareOf(&c, h);
	if (share < needed || share <= best->share)
		return;
	if (level != KV_BOTTOM)
		TakeClosure(&c, i, level);
	if (c.busy || !RoomFor(c.bytes))
	{
		compact.waiting = true;
		return;
	}
	best->file = i;
	best->level = level;
	best->share = share;
}

/* Level 0 when it has come to so many files: into one, or into the next level in use. */
static bool
ChooseLevelZero(int base, Choice *best)
{
	Closure		own;
	Closure		all;

	if (compact.files.level_end[0] < LEVEL0_FILES)
		return false;
	TakeClosure(&own, 0, 0);
	TakeClosure(&all, 0, base);
	best->level = own.bytes < LEVEL0_BYTES &&
		own.bytes * LEVEL0_SHARE < all.bytes - own.bytes ? 0 : base;
	if (own.busy || (best->level != 0 && all.busy) ||
		!RoomFor(best->level == 0 ? own.bytes : all.bytes))
		return false;
	best->file = 0;
	return true;
}

/* A file at random, into the lowest level or the next in use. */
static void
ChooseAny(Choice *best)
{
	const WorkerFiles *files = &compact.files;

	if (files->n == 0)
		return;
	best->file = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, files->n - 1);
	best->level = KV_BOTTOM;
	best->share = 0;
	if (pg_prng_bool(&pg_global_prng_state))
		best->level = Max(WorkerBaseLevel(), files->f[best->file].level);
	if (files->f[best->file].level == 0 && pg_prng_bool(&pg_global_prng_state))
		best->level = 0;
}

static void
Choose(OrbitTime now, const WorkerHorizon *h, Choice *best)
{
	const WorkerFiles *files = &compact.files;
	int			base = WorkerBaseLevel();

	best->file = -1;
	best->share = 0;
	compact.waiting = false;
	if (orbit_reclaim_threshold == 0)
	{
		ChooseAny(best);
		compact.waiting = true;
		return;
	}
	if (ChooseLevelZero(base, best))
		return;
	for (int i = 0; i < files->n; i++)
		Consider(i, files->f[i].level == 0 ? base : KV_BOTTOM, h, now, best);
}

/* ---- jobs ------------------------------------------------------------------------------------------ */

/* took: ms until it failed. */
static void
Pause(KvCode code, OrbitTime now, int64 took)
{
	WorkerPauseBegin(&compact.pause, code, now, Max(took, PAUSE_FIRST_MS), PAUSE_MAX_MS);
}

bool
WorkerStartJob(int file, int level, double share, OrbitTime now)
{
	const WorkerFiles *files = &compact.files;
	Job		   *job = &compact.job;
	KvStatus	st = {KV_OK, ""};
	Closure		c;

	TakeClosure(&c, file, level);
	job->newest = 0;
	for (int i = 0; i < files->n; i++)
		job->newest = Max(job->newest, files->f[i].number);
	job->seen = now;
	for (int i = 0; i < c.n; i++)
	{
		KnownFile  *k;

		compact.numbers[i] = files->f[compact.members[i]].number;
		k = FindKnown(compact.known, compact.nknown, compact.numbers[i]);
		if (k != NULL)
			job->seen = Min(job->seen, k->seen);
	}
	job->range = c.range;
	job->share = share;
	job->level = level;
	job->begun = now;
	OrbitStopPoint("compact-before-start");
	job->running = KvCompactStart(worker.db, compact.numbers, c.n, level, &st);
	if (job->running)
		return true;
	if (st.code != KV_OK)
		KvRaise(LOG, &st, "could not start a compaction");
	Pause(st.code, now, 0);
	return false;
}

static void
NoteFailure(const KvStatus *st, OrbitTime now)
{
	if (st->code == KV_AGAIN)
	{
		compact.not_before = OrbitLater(now, AGAIN_MS);
		return;
	}
	totals.failures++;
	KvRaise(LOG, st, "could not reclaim space of orbit tables");
	Pause(st->code, now, (now - compact.job.begun) / 1000);
}

/* True: one is running. */
static bool
PollJob(OrbitTime now)
{
	Job		   *job = &compact.job;
	KvStatus	st = {KV_OK, ""};
	uint64		read;
	uint64		written;

	if (!job->running)
		return false;
	if (KvCompactPoll(worker.db, &read, &written, &st))
		return true;
	job->running = false;
	compact.looked = 0;
	WorkerFreezeJobDone(st.code);
	if (st.code != KV_OK)
	{
		NoteFailure(&st, now);
		return false;
	}
	compact.pause.ms = 0;
	totals.jobs++;
	totals.read += read;
	totals.written += written;
	compact.disappointed = orbit_reclaim_threshold > 0 && job->share > 0 &&
		written > read * (1 - job->share / 4);
	compact.united = job->level == 0;
	OrbitStopPoint("compact-after-job");
	return false;
}

/* Has anything happened that could make a list look different? */
static bool
TimeToLook(OrbitTime now, const WorkerHorizon *h)
{
	uint64		generation = MembufRequiredGeneration();
	KvPruned	pruned;
	int			every = Max(LOOK_MIN_MS, Min(LOOK_MAX_MS, orbit_reclaim_delay / 4));

	if (!OrbitElapsed(compact.looked, now, every))
		return false;
	KvGetPruned(worker.db, &pruned);
	if (compact.looked != 0 && !compact.waiting && generation == compact.last_generation &&
		pruned.compactions == compact.last_compactions && h->version == compact.last_horizon)
		return false;
	compact.last_generation = generation;
	compact.last_compactions = pruned.compactions;
	compact.last_horizon = h->version;
	return true;
}

void
WorkerCompactStep(OrbitTime now)
{
	WorkerHorizon h;
	Choice		choice;
	bool		asked;

	if (PollJob(now))
		return;
	WorkerHorizonGet(&h);
	asked = WorkerFreezeAsked();
	if (worker.failures > 0 || now < compact.not_before ||
		!WorkerPauseIsOver(&compact.pause, now))
		return;
	if (h.version == 0)
	{
		if (asked)
			WorkerFreezeAnswer(false);
		return;
	}
	if (!asked && !TimeToLook(now, &h))
		return;
	if (!Look(now))
	{
		Pause(KV_NO_MEMORY, now, 0);
		return;
	}
	if (asked && WorkerFreezeStep(&compact.files, &h, now))
		return;
	Choose(now, &h, &choice);
	if (choice.file >= 0)
		(void) WorkerStartJob(choice.file, choice.level, choice.share, now);
	else
		(void) WorkerFreezeEarly(&compact.files, &h, now);
}

void
WorkerCompactGet(WorkerCompactStats *stats)
{
	KvPruned	pruned;

	KvGetPruned(worker.db, &pruned);
	*stats = totals;
	stats->running = compact.job.running;
	stats->compactions = pruned.compactions;
	stats->bytes_read = pruned.bytes_read;
	stats->bytes_written = pruned.bytes_written;
	stats->pages = pruned.pages;
	stats->removed = pruned.removed;
	stats->pruned = pruned.bytes;
	stats->damaged = pruned.damaged;
}
