/*
 * control.h: the state in shared memory that orders the arenas.  Private to membuf.
 *
 * Invariant, asserted by MembufReclaim and by each pin:
 *
 *     reclaimed <= released < active <= reclaimed + nblocks
 *
 * Arenas up to `released` are in RocksDB; up to `reclaimed` nobody reads them any more, so
 * their blocks may be used again.
 */
#ifndef ORBIT_CONTROL_H
#define ORBIT_CONTROL_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "base/base.h"
#include "membuf/arena.h"
#include "membuf/membuf.h"

/* One a process, by pgprocno; a cache line each, for readers write theirs often. */
typedef union MembufSlot
{
	struct
	{
		pg_atomic_uint64 pinned;	/* oldest sequence number it may touch, 0: none */
		pg_atomic_uint64 reader_generation; /* PG_UINT64_MAX: no files open */
	};
	char		pad[PG_CACHE_LINE_SIZE];
} MembufSlot;

typedef struct MembufControl
{
	/* constant after start */
	int			nblocks;
	int			nslots;
	Size		arena_bytes;
	char	   *arenas;

	/* atomic; written by the worker only, in this order at a release */
	pg_atomic_uint64 required_generation;
	pg_atomic_uint64 released;

	/* atomic; only grows; see ReclaimBlocks */
	pg_atomic_uint64 reclaimed;

	/* written under gate and switch lock, both exclusive; read by anyone */
	pg_atomic_uint64 active;
	pg_atomic_uint32 switch_pending;

	/* atomic */
	pg_atomic_uint32 worker;	/* pgprocno, MEMBUF_NO_WORKER if none */
	pg_atomic_uint32 writers;
	pg_atomic_uint32 gate_closed;
	pg_atomic_uint64 waits;

	ConditionVariable space;	/* a block was freed, or an arena opened */
} MembufControl;

#define MEMBUF_NO_WORKER	PG_UINT32_MAX

extern MembufControl *membuf_control;
extern MembufSlot *membuf_slots;

#define GateLock()		(&orbit_switch_locks[0].lock)
#define SwitchLock()	(&orbit_switch_locks[1].lock)

static inline Arena *
MembufArenaAt(uint64 seq)
{
	return (Arena *) (membuf_control->arenas +
					  (seq % membuf_control->nblocks) * membuf_control->arena_bytes);
}

/* control.c: opens arena `seq` in its block and makes it the active one. */
extern void MembufOpenArena(uint64 seq, uint32 taken);
extern bool MembufIsWorker(void);

/* pin.c: moves `reclaimed` as far as pins allow; true if it moved. */
extern bool MembufReclaimBlocks(void);
/* For assertions: may this process read arena `seq`? */
extern bool MembufMayRead(uint64 seq);

/* writers.c: attaches the process as a writer. */
extern void MembufAttachWriter(void);
extern void MembufDetachWriter(void);

#endif							/* ORBIT_CONTROL_H */
