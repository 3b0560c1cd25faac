/*
 * reserve.c: space in the active arena, the write section, the switch to the next arena.
 *
 * A process takes space in chunks of a few kB and serves its reservations from there, so
 * that small writes neither contend for the arena's counter nor share cache lines.
 * What a reservation leaves unused (they ask for the worst case) goes back to
 * the chunk when the write section ends.
 *
 * All of it is bookkeeping about one arena: once that arena is sealed nothing of it may be
 * used any more, and nothing is, for a reservation carries the arena's number.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/startup.h"

#include "membuf/control.h"
#include "membuf/section.h"

#define CHUNK_BYTES		4096
#define FETCH_BYTES		512
#define WAIT_MS			50

void		(*membuf_startup_wait_hook) (void) = NULL;

/* The rest of this process's chunk; seq 0: none. */
static MembufReservation spare = {0, 0, 0};

/* The reservation that is in use in the present write section. */
static MembufReservation *section = NULL;

/* ---- reserving --------------------------------------------------------------------- */

Size
MembufMaxReservation(void)
{
	return ArenaRoom(membuf_control->arena_bytes);
}

static uint32
ChunkUnits(uint32 units)
{
	return Max(units, ArenaUnits(Min(CHUNK_BYTES, membuf_control->arena_bytes / 256)));
}

static void
NoteOpened(Arena *a)
{
	int64		none = 0;

	if (ArenaLoad(&a->opened) == 0)
		(void) __atomic_compare_exchange_n(&a->opened, &none, OrbitNow(), false,
										   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/*
 * What is reserved has not been touched for long, and is written to in the critical section: it is brought
 * to the processor meanwhile.
 */
static inline void
FetchReserved(const MembufReservation *r)
{
	const char *at = ArenaAt(MembufArenaAt(r->seq), r->next);
	Size		bytes = Min((Size) (r->end - r->next) * ARENA_UNIT, FETCH_BYTES);

	for (Size i = 0; i < bytes; i += 64)
		__builtin_prefetch(at + i, 1);
}

static void
CarveSpare(MembufReservation *r, uint32 units)
{
	r->seq = spare.seq;
	r->next = spare.next;
	r->end = spare.next + units;
	spare.next = r->end;
	FetchReserved(r);
}

/* From the spare chunk or a new one.  False: no room in arena seq. */
static bool
TryReserve(MembufReservation *r, uint64 seq, uint32 units)
{
	Arena	   *a = MembufArenaAt(seq);
	uint32		start;
	uint32		end;

	if (spare.seq != seq || spare.end - spare.next < units)
	{
		/*
		 * When the arena is sealed, released and its block opened anew between the caller's
		 * look at the active number and this, space of a younger arena is wasted; the
		 * reservation is not live, so it is never used.
		 */
		if (!ArenaReserve(a, units, ChunkUnits(units), &start, &end))
			return false;
		NoteOpened(a);
		OrbitTouch(ArenaAt(a, start), (Size) (end - start) * ARENA_UNIT);
		if (spare.seq != seq || spare.end != start)
			spare.next = start;
		spare.seq = seq;
		spare.end = end;
	}
	CarveSpare(r, units);
	return true;
}

/* ---- switching ----------------------------------------------------------------------- */

static bool
NextBlockFree(void)
{
	uint64		next = MembufActiveSeq() + 1;
	uint64		n = membuf_control->nblocks;

	if (next <= pg_atomic_read_u64(&membuf_control->reclaimed) + n)
		return true;
	(void) MembufReclaimBlocks();
	return next <= pg_atomic_read_u64(&membuf_control->reclaimed) + n;
}

static bool
ArenaUntouched(uint64 seq)
{
	Arena	   *a = MembufArenaAt(seq);

	return ArenaLoad(&a->used) == ArenaFirst(a);
}

/* Both locks exclusive.  See MembufSwitch; units: SealAndOpen. */
static bool
SwitchLocked(uint32 units, bool *opened)
{
	uint64		seq = MembufActiveSeq();

	if (ArenaUntouched(seq))
		return units == 0;
	if (!NextBlockFree())
		return false;
	MembufOpenArena(seq + 1, units);
	*opened = true;
	return true;
}

/*
 * Opens the next arena with `units` (0: none) already taken for the caller, so that a big
 * reservation does not find it filled by others.
 */
static bool
SealAndOpen(uint64 if_seq, uint32 units, bool *opened)
{
	MembufControl *c = membuf_control;
	bool		ok;

	*opened = false;
	if (if_seq != 0 && if_seq != MembufActiveSeq())
		return false;
	LWLockAcquire(GateLock(), LW_EXCLUSIVE);
	if (if_seq != 0 && if_seq != MembufActiveSeq())
	{
		/* Of many who met the full arena only the first stops the writers. */
		LWLockRelease(GateLock());
		return false;
	}
	pg_atomic_write_u32(&c->switch_pending, 1);
	LWLockAcquire(SwitchLock(), LW_EXCLUSIVE);
	ok = SwitchLocked(units, opened);
	LWLockRelease(SwitchLock());
	pg_atomic_write_u32(&c->switch_pending, 0);
	LWLockRelease(GateLock());
	if (*opened)
	{
		ConditionVariableBroadcast(&c->space);
		MembufWakeWorker();
	}
	return ok;
}

bool
MembufSwitch(uint64 if_seq)
{
	bool		opened;

	Assert(!LWLockHeldByMe(SwitchLock()));
	return SealAndOpen(if_seq, 0, &opened);
}

/* A writer met the full arena seq.  True: another arena is open and has room for us. */
static bool
SwitchAndReserve(MembufReservation *r, uint64 seq, uint32 units)
{
	bool		opened;
	uint32		chunk = ChunkUnits(units);

	/* Without the locks first: they would slow down those who still have room. */
	if (!NextBlockFree() || !SealAndOpen(seq, chunk, &opened) || !opened)
		return false;
	NoteOpened(MembufArenaAt(seq + 1));
	spare.seq = seq + 1;
	spare.next = ArenaFirst(MembufArenaAt(seq + 1));
	spare.end = spare.next + chunk;
	CarveSpare(r, units);
	return true;
}

/* ---- waiting for room ------------------------------------------------------------------- */

static void
CheckMayWait(void)
{
	if (MembufPinned())
		elog(ERROR, "cannot wait for write buffer space inside a view of the write buffers");
	if (MembufIsWorker())
		elog(ERROR, "the storage worker cannot wait for write buffer space");
}

/*
 * Sleeps until a block may have become free.  The timeout covers what nobody announces: a pin
 * dropped at the very moment of a release, a worker that is being started, and in the startup
 * process signals, which do not set its latch.
 */
static void
WaitForRoom(void)
{
	MembufWakeWorker();
	if (AmStartupProcess())
	{
		HandleStartupProcInterrupts();
		if (membuf_startup_wait_hook)
			membuf_startup_wait_hook();
	}
	else
		CHECK_FOR_INTERRUPTS();
	(void) ConditionVariableTimedSleep(&membuf_control->space, WAIT_MS,
									   ORBIT_WAIT_WRITE_BUFFER);
}

static void
ReserveSlow(MembufReservation *r, uint32 units)
{
	bool		waited = false;

	for (;;)
	{
		uint64		seq = MembufActiveSeq();

		if (TryReserve(r, seq, units) || SwitchAndReserve(r, seq, units))
			break;
		if (seq != MembufActiveSeq())
			continue;
		if (!waited)
		{
			CheckMayWait();
			pg_atomic_fetch_add_u64(&membuf_control->waits, 1);
			waited = true;
		}
		WaitForRoom();
	}
	if (waited)
		ConditionVariableCancelSleep();
}

void
MembufReserve(MembufReservation *r, Size bytes)
{
	/* it may wait, so no LWLock is held, not even one of PostgreSQL's (R15) */
	Assert(InterruptHoldoffCount == 0 && CritSectionCount == 0);
	Assert(!MembufPinned());
	MembufAttachWriter();
	if (unlikely(bytes > MembufMaxReservation()))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a change of %zu bytes does not fit into a write buffer", bytes),
				 errdetail("A write buffer has room for %zu bytes.", MembufMaxReservation()),
				 errhint("Increase \"orbit.write_buffer_size\".")));
	if (!TryReserve(r, MembufActiveSeq(), ArenaUnits(bytes)))
		ReserveSlow(r, ArenaUnits(bytes));
}

/* ---- the write section ------------------------------------------------------------------- */

/*
 * PostgreSQL's LWLocks let a shared request pass while an exclusive one waits, so writers who come
 * and go would keep a sealer out for ever.  While one waits they queue at the gate (K8).
 */
void
MembufEnterWrite(void)
{
	Assert(!LWLockHeldByMe(GateLock()) && !LWLockHeldByMe(SwitchLock()));
	section = NULL;
	if (unlikely(pg_atomic_read_u32(&membuf_control->switch_pending) != 0))
	{
		LWLockAcquire(GateLock(), LW_SHARED);
		LWLockRelease(GateLock());
	}
	LWLockAcquire(SwitchLock(), LW_SHARED);
	OrbitStopPoint("write_section");
}

void
MembufUseReservation(MembufReservation *r)
{
	Assert(LWLockHeldByMe(SwitchLock()));
	Assert(r->seq == MembufActiveSeq());
	section = r;
}

/* What is left of the reservation joins the spare chunk if it borders on it. */
static void
EndReservation(MembufReservation *r)
{
	Assert(r->next <= r->end);
	if (spare.seq == r->seq && r->end == spare.next)
		spare.next = r->next;
	else if (spare.seq != r->seq || spare.end - spare.next < r->end - r->next)
		spare = *r;
	r->seq = 0;
}

void
MembufLeaveWrite(void)
{
	if (section != NULL)
		EndReservation(section);
	section = NULL;
	LWLockRelease(SwitchLock());
}

bool
MembufReservationLive(MembufReservation *r)
{
	Assert(LWLockHeldByMe(SwitchLock()));
	if (r->seq != MembufActiveSeq())
		return false;
	section = r;
	return true;
}
