/*
 * view.c: the process's RocksDB handle and its read view.
 *
 * Protocol of one view, in a process that reads through a secondary:
 *
 *   1. MembufPinAcquire: arenas that are not in RocksDB at pin.generation cannot
 *      go away any more.
 *   2. At the first read of RocksDB (StoreViewProve):
 *        publish the generation of the handle as still in use,
 *        read the generation that is required now,
 *        catch up to the greater of that and pin.generation, proven by each family,
 *        publish what was reached.
 *   3. Close: take the publication back, unless an iterator is kept.
 *
 * Why step 2 also asks for what is required now: while nothing was published
 * the worker may have unlinked files that the handle's old version names.  If the
 * worker looked before our publication, it had raised the required generation
 * before it looked, so we see that and move on; if it looked after, it saw ours.
 *
 * Opening: the required generation is published first.  RocksDB's manifest is read
 * after that, so the version found is at least as new as anything whose
 * retired files were unlinked before.
 *
 * Whenever the handle moves, iterators and cached pages of the old version go:
 * any later view needs a newer one, and files of the old one may be deleted.
 *
 * The worker reads through the primary; it is always up to date and
 * RocksDB itself keeps the files that an iterator uses.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "store/store_internal.h"

/* Files that a secondary has open beside its SSTs: MANIFEST, directories, one being opened. */
#define OTHER_FILES		8

static KvDb *primary = NULL;	/* this process is the worker; not ours to close */
static KvDb *secondary = NULL;
static uint64 generation = 0;	/* of the secondary, proven; of a primary: at least */
static bool published = false;	/* `generation` is what the worker knows of us */
static bool suspect = false;	/* a read failed: open the secondary afresh */
static bool view_open = false;

/* ---- cleanup --------------------------------------------------------------------- */

void
StoreUnpublish(void)
{
	if (published && !view_open && StoreIteratorCount() == 0)
	{
		MembufSetReaderGeneration(PG_UINT64_MAX);
		published = false;
	}
}

/* The pin itself is taken back by membuf's own callbacks. */
static void
ForgetView(void)
{
	if (view_open)
	{
		view_open = false;
		StoreCacheViewClosed();
	}
}

static void
AtXactEnd(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			ForgetView();
			StoreCacheUnpin();
			StoreReleaseIterators();
			StorePartsShrink();
			StoreScanShrink();
			break;
		default:
			break;
	}
}

static void
AtSubXactEnd(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
			 void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		ForgetView();
		StoreUnpublish();
	}
}

/*
 * Shared memory is gone already; what matters is that RocksDB's threads and
 * destructors are done with before the C++ library's own.
 */
static void
AtProcExit(int code, Datum arg)
{
	StoreDropIterators();
	KvClose(secondary);
	secondary = NULL;
}

static void
RegisterOnce(void)
{
	static bool registered = false;

	if (registered)
		return;
	registered = true;
	MembufRegisterCleanup();
	RegisterXactCallback(AtXactEnd, NULL);
	RegisterSubXactCallback(AtSubXactEnd, NULL);
	on_proc_exit(AtProcExit, 0);
}

/* ---- the handle -------------------------------------------------------------------- */

void
StoreUsePrimary(KvDb *db)
{
	primary = db;
	StoreDropIterators();
	StoreCacheDrop();
}

/* Iterators first: they cannot outlive the handle. */
static void
CloseSecondary(void)
{
	StoreDropIterators();
	StoreCacheDrop();
	KvClose(secondary);
	secondary = NULL;
	generation = 0;
	suspect = false;
}

static void
Publish(uint64 g)
{
	MembufSetReaderGeneration(g);
	published = true;
	pg_memory_barrier();
}

/*
 * RocksDB opens files behind the back of PostgreSQL's own bookkeeping, which would hand out
 * every descriptor that the process may have; then a read here would fail.
 */
static void
ReserveFiles(int n)
{
	static int	reserved = 0;

	for (; reserved < n; reserved++)
		ReserveExternalFD();
}

static void
OpenSecondary(void)
{
	KvOptions	o;
	KvStatus	st;

	Publish(MembufRequiredGeneration());
	StoreKvOptions(&o, false);
	ReserveFiles(o.max_open_files + OTHER_FILES);
	st.code = KV_OK;
	KvOpenSecondary(StoreDirectory(), &o, &secondary, &st);
	if (secondary == NULL)
		KvRaise(ERROR, &st, "could not open RocksDB storage");
	suspect = false;
}

static void
CatchUp(uint64 want)
{
	KvStatus	st;
	uint64		reached = 0;
	bool		reopened;

	StoreDropIterators();
	StoreCacheDrop();
	st.code = KV_OK;
	KvCatchUp(secondary, want, &reached, &reopened, &st);
	if (st.code == KV_OK && reached < want)
		StoreFillStatus(&st, KV_STALE, "the generation reached is too old");
	if (st.code != KV_OK)
	{
		/* where it stands now is unknown */
		suspect = true;
		KvRaise(ERROR, &st, "could not bring RocksDB storage up to date");
	}
	generation = reached;
	Publish(generation);
}

static void
ProvePrimary(StoreView *v)
{
	StoreCacheDrop();			/* it has moved on without telling */
	generation = Max(v->pin.generation, MembufRequiredGeneration());
	v->proven = true;
}

KvDb *
StoreViewProve(StoreView *v, uint64 *g)
{
	uint64		want = v->pin.generation;

	Assert(view_open);
	if (want == 0)
		return NULL;
	if (primary != NULL)
	{
		if (!v->proven)
			ProvePrimary(v);
		*g = generation;
		return primary;
	}
	if (!v->proven)
	{
		if (suspect && secondary != NULL)
			CloseSecondary();
		if (secondary == NULL)
		{
			OpenSecondary();
			want = Max(want, MembufRequiredGeneration());
		}
		else if (!published)
		{
			Publish(generation);
			want = Max(want, MembufRequiredGeneration());
		}
		if (generation < want)
			CatchUp(want);
		v->proven = true;
	}
	Assert(published && generation >= v->pin.generation);
	*g = generation;
	return secondary;
}

bool
StoreViewRenew(StoreView *v)
{
	uint64		g;
	uint64		want;

	if (primary != NULL || StoreViewProve(v, &g) == NULL)
		return false;
	want = MembufRequiredGeneration();
	if (generation >= want)
		return false;
	CatchUp(want);
	return true;
}

void
StoreViewFailed(const KvStatus *st, const char *doing)
{
	suspect = true;
	KvRaise(ERROR, st, doing);
	pg_unreachable();
}

void
StoreReadFailed(const KvStatus *st, OrbitStorageId storage)
{
	char		doing[NAMEDATALEN + 80];

	snprintf(doing, sizeof(doing), "could not read %s from RocksDB storage",
			 StoreDescribe(storage));
	StoreViewFailed(st, doing);
}

uint64
StoreViewGeneration(void)
{
	return primary == NULL && !suspect ? generation : 0;
}

/* ---- the view ------------------------------------------------------------------------- */

void
StoreViewOpen(StoreView *v)
{
	if (primary == NULL)
		StoreAttach();
	RegisterOnce();
	if (view_open)
		elog(ERROR, "a read view of orbit storage is open already");
	view_open = true;
	v->proven = false;
	MembufPinAcquire(&v->pin);
}

void
StoreViewClose(StoreView *v)
{
	Assert(view_open);
	MembufUnpin();
	v->proven = false;
	ForgetView();
	StoreUnpublish();
}

void
StoreReleaseIterators(void)
{
	StoreDropIterators();
	StoreUnpublish();
}

/* ---- single keys --------------------------------------------------------------------- */

void
StoreOutOfMemory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while reading from orbit storage.")));
	pg_unreachable();
}

bool
StoreRocksGet(KvDb *handle, OrbitFamily family, const char *key, Size keylen, CodecBuf *out)
{
	KvStatus	st;

	out->len = 0;
	if (handle == NULL)
		return false;
	st.code = KV_OK;
	KvGet(handle, family, key, keylen, out, &st);
	if (st.code == KV_NOT_FOUND)
		return false;
	if (st.code != KV_OK)
	{
		OrbitStorageId storage;
		uint32		page;

		if (family == ORBIT_PG_DATA && CodecPageKeyParse(key, keylen, &storage, &page))
			StoreReadFailed(&st, storage);
		StoreViewFailed(&st, "could not read from RocksDB storage");
	}
	return true;
}

bool
StoreKvGet(OrbitFamily family, const char *key, Size keylen, CodecBuf *out)
{
	StoreView	v;
	bool		found = false;
	uint64		g;

	out->len = 0;
	StoreViewOpen(&v);
	for (uint64 seq = v.pin.active; seq >= v.pin.oldest; seq--)
	{
		MembufOp	op;
		const char *value;
		Size		len;

		if (!MembufKvLookup(seq, family, key, keylen, &op, &value, &len))
			continue;
		found = op == MEMBUF_PUT;
		if (found && !CodecBufAppend(out, value, len))
			StoreOutOfMemory();
		StoreViewClose(&v);
		return found;
	}
	found = StoreRocksGet(StoreViewProve(&v, &g), family, key, keylen, out);
	StoreViewClose(&v);
	return found;
}

/* Looks into the index blocks of files, so a view is not kept for many at a time. */
#define ESTIMATE_BATCH	64

void
StoreEstimateBytes(const OrbitStorageId *storages, int n, uint64 *bytes)
{
	for (int done = 0; done < n; done += ESTIMATE_BATCH)
	{
		int			some = Min(n - done, ESTIMATE_BATCH);
		StoreView	v;
		KvStatus	st;
		KvDb	   *handle;
		uint64		g;

		CHECK_FOR_INTERRUPTS();
		memset(&bytes[done], 0, some * sizeof(uint64));
		st.code = KV_OK;
		StoreViewOpen(&v);
		handle = StoreViewProve(&v, &g);
		if (handle != NULL)
			KvStorageBytes(handle, &storages[done], some, &bytes[done], &st);
		if (st.code != KV_OK)
			StoreViewFailed(&st, "could not read from RocksDB storage");
		StoreViewClose(&v);
	}
}
