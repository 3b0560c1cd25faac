/*
 * membuf/membuf.h: the write buffers in shared memory.
 *
 * An arena is a block of shared memory filled from the front.  It holds an
 * ordered map (a skip list, memcmp order) from (family, byte-string key) to either
 * a page node (family pg_data, 12-byte page keys: 255 chain heads in lazily made
 * groups) or a chain of key/value entries (other families).  Nodes are only added.
 * Readers take no lock.
 *
 * Arenas are numbered by a sequence number from 1 up, never reused:
 *
 *     released < oldest <= ... <= active         oldest = released + 1
 *
 * `active` takes writes.  [oldest, active) are sealed, waiting to be flushed in order.
 * A released arena's contents are in RocksDB at generation <= required_generation.
 * The memory of arena s is block s % orbit.max_write_buffers; it is used again only
 * when s is released and no process pins a sequence number <= s.
 *
 * A process crash re-creates shared memory: nothing here survives one.
 */
#ifndef ORBIT_MEMBUF_H
#define ORBIT_MEMBUF_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "storage/block.h"

#include "base/base.h"
#include "codec/codec.h"

struct Latch;

extern Size MembufShmemSize(void);
extern void MembufShmemInit(void);	/* shmem_startup_hook, postmaster */

#define MEMBUF_MAX_KEY	2816	/* bytes, without the family byte */

/* ---- writing ------------------------------------------------------------- */

/*
 * Reserving space.  Backend, startup process; no LWLock held, no critical section.
 * bytes: sum of the Membuf*Cost of what will be published.  Waits for room when every
 * write buffer is full: cancellable in a backend, wakes the worker, survives postmaster
 * death (proc_exit).  ERROR 54000 when bytes exceeds MembufMaxReservation().
 * The reservation is bound to the arena `seq` that was active.
 *
 * It ends with the first MembufLeaveWrite after a MembufReservationLive that said true or
 * a publication from it: what is left of it goes to the next reservation of this
 * process and r->seq becomes 0, so r must still be there then. Never reserve while pinned.
 */
typedef struct MembufReservation
{
	uint64		seq;
	uint32		next;			/* in units of 8 bytes from the arena's start */
	uint32		end;
} MembufReservation;

extern void MembufReserve(MembufReservation *r, Size bytes);
/* Called by the startup process each time it has waited for room a while; may be NULL. */
extern void (*membuf_startup_wait_hook) (void);
extern Size MembufMaxReservation(void);

/* Worst-case cost of a page node with one group of slots; of one more group (16 slots);
 * of one entry; of a key/value put. */
extern Size MembufPageCost(void);
extern Size MembufGroupCost(void);
extern Size MembufEntryCost(Size payload_len);
extern Size MembufKvCost(Size keylen, Size valuelen);

/*
 * The switch lock, shared, behind the gate that keeps a sealer from starving (K8).
 * Between Enter and Leave the active arena cannot change; only memory may be touched
 * and XLogInsert called: no RocksDB, no commit log, no waiting, no arena reservation.
 * MembufReservationLive: the reservation's arena is still the active one; if not,
 * Leave and start over with a fresh reservation.
 */
extern void MembufEnterWrite(void);
extern void MembufLeaveWrite(void);
extern bool MembufReservationLive(MembufReservation *r);
extern uint64 MembufActiveSeq(void);

typedef struct MembufPage MembufPage;

/*
 * All of these: inside Enter/Leave, reservation live; they cannot fail or ereport,
 * for the space is reserved (a miscalculated reservation is a PANIC).
 * Publishing a row's entry requires that nobody else publishes to the same row: the
 * caller holds the row's partition lock, or has just been given the slot.
 */
extern MembufPage *MembufPageGet(MembufReservation *r, OrbitStorageId storage, BlockNumber page);

/*
 * Newest entry of the row in the active arena, NULL if it has none there.  An entry's
 * address identifies it while the arena is pinned or the switch lock is held.
 */
extern const CodecEntry *MembufPageNewest(MembufPage *p, int slot);

/*
 * Pushes a new newest entry.  below: the entry of this arena that becomes its successor in
 * the chain, normally MembufPageNewest(); an older one drops the entries between
 * (finished locks) from the chain.  Release semantics: whoever sees the head sees the bytes.
 */
extern void MembufPagePush(MembufReservation *r, MembufPage *p, int slot,
						   const CodecEntry *header, const void *payload,
						   const CodecEntry *below);

typedef enum MembufOp
{
	MEMBUF_PUT = 1,
	MEMBUF_TOMBSTONE = 2
} MembufOp;

extern void MembufKvPublish(MembufReservation *r, OrbitFamily family,
							const char *key, Size keylen, MembufOp op,
							const void *value, Size valuelen);

/* Notes that a record ending at `end` is published (or, for unlogged contents, 0). */
extern void MembufNoteLsn(XLogRecPtr end);

/* ---- reading --------------------------------------------------------------- */

/*
 * A pin covers the arenas [oldest, active] as they were; one pin a process.
 * Order (R14): publish the pin, full barrier, read the list, recheck.  Whatever was
 * released before is in RocksDB at `generation`; a view must use RocksDB at
 * >= generation.  No waiting for a transaction, client, arena space or flush while
 * pinned.  Released by MembufUnpin, by transaction abort and by process exit.
 */
typedef struct MembufPin
{
	uint64		oldest;
	uint64		active;
	uint64		generation;
} MembufPin;

extern void MembufPinAcquire(MembufPin *pin);
extern void MembufUnpin(void);
extern bool MembufPinned(void);
extern void MembufRegisterCleanup(void);	/* once a process: exit and abort hooks */
extern uint64 MembufRequiredGeneration(void);
/* The generation below which this process needs no files: set before catching up,
 * and whenever its RocksDB view moves; PG_UINT64_MAX: has none open. */
extern void MembufSetReaderGeneration(uint64 generation);

/* Arena `seq` in the pinned range. */
extern MembufPage *MembufPageLookup(uint64 seq, OrbitStorageId storage, BlockNumber page);
/* After the newest one: next older entry in the same arena, or NULL. */
extern const CodecEntry *MembufOlder(uint64 seq, const CodecEntry *e);
/* Newest value of a key in arena seq; false: none there. */
extern bool MembufKvLookup(uint64 seq, OrbitFamily family, const char *key, Size keylen,
						   MembufOp *op, const char **value, Size *valuelen);

/* Ordered walk over one arena, both directions; works on the active one too. */
typedef struct MembufIter
{
	uint64		seq;
	uint32		node;			/* 0: not on a node */
} MembufIter;

extern void MembufIterInit(MembufIter *it, uint64 seq);
extern bool MembufIterSeek(MembufIter *it, OrbitFamily f, const char *key, Size keylen); /* >= */
extern bool MembufIterSeekForPrev(MembufIter *it, OrbitFamily f, const char *key, Size keylen); /* <= */
extern bool MembufIterNext(MembufIter *it);
extern bool MembufIterPrev(MembufIter *it);
/* On a node: its family and key; the page of a pg_data node, else the newest value. */
extern OrbitFamily MembufIterKey(MembufIter *it, const char **key, Size *keylen);
extern MembufPage *MembufIterPage(MembufIter *it);
extern void MembufIterValue(MembufIter *it, MembufOp *op, const char **value, Size *valuelen);
/* Next used slot > slot on the page (pass 0 first), 0 at the end; *e: its newest entry. */
extern int	MembufPageNextSlot(uint64 seq, MembufPage *p, int slot, const CodecEntry **e);

/* ---- switching and releasing (worker; startup process; a writer that met a full arena) -- */

/*
 * Seals the active arena and opens the next one, taking gate and switch lock
 * exclusively.  if_seq: only when the active arena is this one (0: whatever it is).
 * False: nothing was done, because another process did it or no free block is left.
 * An arena in which nothing was reserved is not sealed (returns true); a sealed one may be
 * empty all the same.
 */
extern bool MembufSwitch(uint64 if_seq);

typedef struct MembufArenaInfo
{
	uint64		seq;
	Size		used;			/* bytes reserved; 0: nothing was ever published */
	XLogRecPtr	max_lsn;		/* end of the last record in it, 0 if none */
	bool		sealed;
	OrbitTime	opened;			/* first reservation in it, 0 if none */
} MembufArenaInfo;

extern void MembufGetRange(uint64 *oldest, uint64 *active);
extern bool MembufArenaGetInfo(uint64 seq, MembufArenaInfo *info);
/* Worker, after the ingest of the oldest arena with this generation. */
extern void MembufRelease(uint64 seq, uint64 generation);
/* Worker, after an ingest without an arena. */
extern void MembufRaiseGeneration(uint64 generation);
/* Worker: makes the blocks of released, unpinned arenas usable again, wakes waiters;
 * returns how many blocks are still held by pins. */
extern int	MembufReclaim(void);
/* Worker: the smallest reader generation; PG_UINT64_MAX when no process reads. */
extern uint64 MembufMinReaderGeneration(void);
/* The worker's latch is set when space runs low; the worker registers itself here. */
extern void MembufSetWorkerLatch(struct Latch *latch);
extern void MembufWakeWorker(void);
/* For statistics and tests. */
extern uint64 MembufWaitCount(void);

/* ---- writers and shutdown (K14) ------------------------------------------------ */

/*
 * A backend is attached as a writer by its first MembufReserve and detached by process exit (an
 * on_shmem_exit callback, so after its transaction has been aborted).  Once the gate is
 * closed a new attachment is ERROR 57P01.  The startup process is not counted.
 */
extern int	MembufWriterCount(void);
extern void MembufCloseGate(void);

#endif							/* ORBIT_MEMBUF_H */
