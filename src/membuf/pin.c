/*
 * pin.c: which arenas and which generation of RocksDB each process may still read, and
 * what may therefore be used again or deleted.
 *
 * A reader announces the oldest arena it may touch, and only after a full barrier looks
 * whether that arena has been released meanwhile.  Whoever wants to use a block again
 * sees it released, and only after a full barrier looks at the announcements.  One of
 * the two sees the other: either the reader starts over with a younger arena, or the block
 * stays.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/ipc.h"
#include "storage/proc.h"

#include "membuf/control.h"

/* This process's range: pinned_oldest is 0 when there is no pin. */
static uint64 pinned_oldest = 0;
static uint64 pinned_active = 0;
static bool cleanup_registered = false;

static inline MembufSlot *
MySlot(void)
{
	Assert(MyProc != NULL && MyProc->pgprocno < membuf_control->nslots);
	return &membuf_slots[MyProc->pgprocno];
}

/* ---- pins -------------------------------------------------------------------------- */

void
MembufPinAcquire(MembufPin *pin)
{
	MembufControl *c = membuf_control;
	MembufSlot *slot = MySlot();
	uint64		oldest = pg_atomic_read_u64(&c->released) + 1;
	uint64		again;

	if (pinned_oldest != 0)
		elog(ERROR, "a view of the write buffers is opened inside another one");
	MembufRegisterCleanup();
	for (;;)
	{
		pg_atomic_write_u64(&slot->pinned, oldest);
		pg_memory_barrier();
		again = pg_atomic_read_u64(&c->released) + 1;
		if (again == oldest)
			break;
		oldest = again;
	}

	/* The generation is raised before `released`: this one covers arena oldest - 1. */
	pg_read_barrier();
	pin->oldest = pinned_oldest = oldest;
	pin->active = pinned_active = pg_atomic_read_u64(&c->active);
	pin->generation = pg_atomic_read_u64(&c->required_generation);
	pg_read_barrier();
	Assert(pin->oldest <= pin->active);
	Assert(pg_atomic_read_u64(&c->reclaimed) < pin->oldest);
}

/*
 * Leaves it to the timeout of waiters when the release of an arena is seen too late
 * here; a barrier for each read would cost more.
 */
void
MembufUnpin(void)
{
	uint64		oldest = pinned_oldest;
	MembufSlot *slot;

	if (oldest == 0)
		return;
	slot = MySlot();
	Assert(pg_atomic_read_u64(&membuf_control->reclaimed) < oldest);
	/* Reads of the arena must not slip behind. */
	pg_memory_barrier();
	pg_atomic_write_u64(&slot->pinned, 0);
	pinned_oldest = 0;
	if (unlikely(pg_atomic_read_u64(&membuf_control->released) >= oldest))
		ConditionVariableBroadcast(&membuf_control->space);
}

bool
MembufPinned(void)
{
	return pinned_oldest != 0;
}

bool
MembufMayRead(uint64 seq)
{
	uint64		oldest;
	uint64		active;

	if (pinned_oldest != 0 && seq >= pinned_oldest && seq <= pinned_active)
		return true;
	/* The worker reads what it has not released, a writer the active arena. */
	MembufGetRange(&oldest, &active);
	return seq >= oldest && seq <= active;
}

/* ---- generations ----------------------------------------------------------------------- */

uint64
MembufRequiredGeneration(void)
{
	return pg_atomic_read_u64(&membuf_control->required_generation);
}

/* The barrier orders it before the catching up that follows. */
void
MembufSetReaderGeneration(uint64 generation)
{
	MembufRegisterCleanup();
	pg_memory_barrier();
	pg_atomic_write_u64(&MySlot()->reader_generation, generation);
	pg_memory_barrier();
}

uint64
MembufMinReaderGeneration(void)
{
	uint64		min = PG_UINT64_MAX;

	pg_memory_barrier();
	for (int i = 0; i < membuf_control->nslots; i++)
	{
		uint64		g = pg_atomic_read_u64(&membuf_slots[i].reader_generation);

		min = Min(min, g);
	}
	return min;
}

void
MembufRaiseGeneration(uint64 generation)
{
	/* only the worker writes it */
	if (generation > pg_atomic_read_u64(&membuf_control->required_generation))
		pg_atomic_write_u64(&membuf_control->required_generation, generation);
}

/* ---- releasing ---------------------------------------------------------------------------- */

void
MembufRelease(uint64 seq, uint64 generation)
{
	Assert(seq == pg_atomic_read_u64(&membuf_control->released) + 1);
	Assert(seq < MembufActiveSeq());
	MembufRaiseGeneration(generation);
	pg_write_barrier();
	pg_atomic_write_u64(&membuf_control->released, seq);
	(void) MembufReclaim();
}

/* Smallest number that a process announces, PG_UINT64_MAX if none does. */
static uint64
OldestPin(void)
{
	uint64		min = PG_UINT64_MAX;

	for (int i = 0; i < membuf_control->nslots; i++)
	{
		uint64		pinned = pg_atomic_read_u64(&membuf_slots[i].pinned);

		if (pinned != 0)
			min = Min(min, pinned);
	}
	return min;
}

/*
 * Any process, any time.  A reader about to start over may announce an arena that was
 * reclaimed long ago; hence the result is only ever raised.
 */
bool
MembufReclaimBlocks(void)
{
	MembufControl *c = membuf_control;
	uint64		limit = pg_atomic_read_u64(&c->released);
	uint64		old = pg_atomic_read_u64(&c->reclaimed);
	uint64		pin;

	if (old >= limit)
		return false;
	pg_memory_barrier();
	/* looked at once: Min evaluates its arguments twice */
	pin = OldestPin();
	limit = Min(limit, pin - 1);
	while (old < limit)
	{
		if (pg_atomic_compare_exchange_u64(&c->reclaimed, &old, limit))
			return true;
	}
	return false;
}

int
MembufReclaim(void)
{
	uint64		reclaimed;
	uint64		released;

	if (MembufReclaimBlocks())
		ConditionVariableBroadcast(&membuf_control->space);
	reclaimed = pg_atomic_read_u64(&membuf_control->reclaimed);
	pg_read_barrier();
	released = pg_atomic_read_u64(&membuf_control->released);
	Assert(reclaimed <= released);
	Assert(released < MembufActiveSeq());
	Assert(MembufActiveSeq() <= pg_atomic_read_u64(&membuf_control->reclaimed) +
		   membuf_control->nblocks);
	return (int) (released - reclaimed);
}

/* ---- cleanup ---------------------------------------------------------------------------------- */

static void
AtXactEnd(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		MembufUnpin();
	Assert(event != XACT_EVENT_PRE_COMMIT || pinned_oldest == 0);
}

static void
AtSubXactEnd(SubXactEvent event, SubTransactionId mySubid,
			 SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		MembufUnpin();
}

/* After the transaction was aborted (before_shmem_exit), before the PGPROC is given back. */
static void
AtExit(int code, Datum arg)
{
	MembufUnpin();
	MembufSetReaderGeneration(PG_UINT64_MAX);
	if (MembufIsWorker())
		MembufSetWorkerLatch(NULL);
	MembufDetachWriter();
}

void
MembufRegisterCleanup(void)
{
	if (cleanup_registered)
		return;
	cleanup_registered = true;
	on_shmem_exit(AtExit, (Datum) 0);
	RegisterXactCallback(AtXactEnd, NULL);
	RegisterSubXactCallback(AtSubXactEnd, NULL);
}
