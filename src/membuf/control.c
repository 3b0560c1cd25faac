/*
 * control.c: shared memory of the write buffers, what is known about each arena, the worker's
 * latch.
 */
#include "postgres.h"

#include "access/twophase.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "membuf/control.h"

MembufControl *membuf_control = NULL;
MembufSlot *membuf_slots = NULL;

/* ---- size and start ------------------------------------------------------------ */

static int
BlockCount(void)
{
	return Max(orbit_max_write_buffers, 2);
}

static Size
ArenaBytes(void)
{
	/* 256 kB and 16 GB are the setting's limits; places in an arena have 32 bits */
	Size		bytes = mul_size(Max(orbit_write_buffer_size, 256), 1024);

	return Min(bytes, (Size) PG_UINT32_MAX / 2 * ARENA_UNIT);
}

/* As many as there are PGPROCs (ProcGlobalShmemSize): pgprocno is the index. */
static int
SlotCount(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS + max_prepared_xacts;
}

static Size
ControlBytes(void)
{
	return CACHELINEALIGN(sizeof(MembufControl));
}

static Size
SlotBytes(void)
{
	return add_size(mul_size(SlotCount(), sizeof(MembufSlot)), PG_CACHE_LINE_SIZE);
}

static Size
BlockBytes(void)
{
	return add_size(mul_size(BlockCount(), ArenaBytes()), PG_CACHE_LINE_SIZE);
}

Size
MembufShmemSize(void)
{
	return add_size(ControlBytes(), add_size(SlotBytes(), BlockBytes()));
}

static void
InitControl(char *arenas)
{
	MembufControl *c = membuf_control;

	memset(c, 0, sizeof(*c));
	c->nblocks = BlockCount();
	c->nslots = SlotCount();
	c->arena_bytes = ArenaBytes();
	c->arenas = arenas;
	pg_atomic_init_u64(&c->required_generation, 0);
	pg_atomic_init_u64(&c->released, 0);
	pg_atomic_init_u64(&c->reclaimed, 0);
	pg_atomic_init_u64(&c->active, 0);
	pg_atomic_init_u32(&c->switch_pending, 0);
	pg_atomic_init_u32(&c->worker, MEMBUF_NO_WORKER);
	pg_atomic_init_u32(&c->writers, 0);
	pg_atomic_init_u32(&c->gate_closed, 0);
	pg_atomic_init_u64(&c->waits, 0);
	ConditionVariableInit(&c->space);
	for (int i = 0; i < c->nslots; i++)
	{
		pg_atomic_init_u64(&membuf_slots[i].pinned, 0);
		pg_atomic_init_u64(&membuf_slots[i].reader_generation, PG_UINT64_MAX);
	}
}

/* The caller holds AddinShmemInitLock. */
void
MembufShmemInit(void)
{
	bool		found;
	bool		found_slots;
	bool		found_arenas;
	char	   *arenas;

	membuf_control = ShmemInitStruct("orbit write buffer control", ControlBytes(), &found);
	membuf_slots = ShmemInitStruct("orbit write buffer pins", SlotBytes(), &found_slots);
	membuf_slots = (MembufSlot *) CACHELINEALIGN(membuf_slots);
	arenas = ShmemInitStruct("orbit write buffers", BlockBytes(), &found_arenas);
	arenas = (char *) CACHELINEALIGN(arenas);
	if (found)
		return;
	InitControl(arenas);
	/* Only headers are touched, and indexes of open arenas: what is not filled costs no memory. */
	for (uint64 i = 0; i < membuf_control->nblocks; i++)
		memset(MembufArenaAt(i), 0, sizeof(Arena));
	MembufOpenArena(1, 0);
}

/* ---- arenas -------------------------------------------------------------------------- */

void
MembufOpenArena(uint64 seq, uint32 taken)
{
	Assert(seq <= pg_atomic_read_u64(&membuf_control->reclaimed) + membuf_control->nblocks);
	ArenaOpen(MembufArenaAt(seq), seq, membuf_control->arena_bytes / ARENA_UNIT, taken);
	pg_write_barrier();
	pg_atomic_write_u64(&membuf_control->active, seq);
}

uint64
MembufActiveSeq(void)
{
	return pg_atomic_read_u64(&membuf_control->active);
}

/* released is read first: both only grow, so oldest <= active. */
void
MembufGetRange(uint64 *oldest, uint64 *active)
{
	*oldest = pg_atomic_read_u64(&membuf_control->released) + 1;
	pg_read_barrier();
	*active = pg_atomic_read_u64(&membuf_control->active);
}

/*
 * The block may get a new arena while we look; then its number has changed by the time
 * the rest has been read.
 */
bool
MembufArenaGetInfo(uint64 seq, MembufArenaInfo *info)
{
	Arena	   *a = MembufArenaAt(seq);
	uint64		oldest;
	uint64		active;

	MembufGetRange(&oldest, &active);
	if (seq < oldest || seq > active)
		return false;
	info->seq = seq;
	info->used = (Size) (ArenaLoad(&a->used) - ArenaFirst(a)) * ARENA_UNIT;
	info->max_lsn = ArenaLoad(&a->max_lsn);
	info->opened = ArenaLoad(&a->opened);
	info->sealed = seq < active;
	pg_read_barrier();
	return ArenaLoad(&a->seq) == seq &&
		seq > pg_atomic_read_u64(&membuf_control->released);
}

void
MembufNoteLsn(XLogRecPtr end)
{
	Arena	   *a = MembufArenaAt(MembufActiveSeq());
	uint64		old = ArenaLoad(&a->max_lsn);

	Assert(LWLockHeldByMe(SwitchLock()));
	while (old < end &&
		   !__atomic_compare_exchange_n(&a->max_lsn, &old, end, false,
										__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

/* ---- the worker's latch -------------------------------------------------------------------- */

/*
 * The number of its PGPROC is kept rather than the latch's address: setting the latch of whoever
 * has that PGPROC later is harmless.
 */
void
MembufSetWorkerLatch(struct Latch *latch)
{
	Assert(latch == NULL || latch == &MyProc->procLatch);
	MembufRegisterCleanup();	/* forgets it at exit */
	pg_atomic_write_u32(&membuf_control->worker,
						latch == NULL ? MEMBUF_NO_WORKER : (uint32) MyProc->pgprocno);
}

bool
MembufIsWorker(void)
{
	return MyProc != NULL &&
		pg_atomic_read_u32(&membuf_control->worker) == (uint32) MyProc->pgprocno;
}

void
MembufWakeWorker(void)
{
	uint32		no = pg_atomic_read_u32(&membuf_control->worker);

	if (no != MEMBUF_NO_WORKER)
		SetLatch(&ProcGlobal->allProcs[no].procLatch);
}

uint64
MembufWaitCount(void)
{
	return pg_atomic_read_u64(&membuf_control->waits);
}
