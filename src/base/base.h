/*
 * base/base.h: what every folder of the extension may use: settings, wait
 * events, lock tranches, TID helpers, durations and test stop points.
 */
#ifndef ORBIT_BASE_H
#define ORBIT_BASE_H

#include "postgres.h"

#include "portability/instr_time.h"
#include "storage/itemptr.h"
#include "storage/lwlock.h"
#include "utils/wait_event.h"

#include "base/ids.h"

/* ---- TIDs ------------------------------------------------------------- */

#define OrbitOffset(slot, tag)	((OffsetNumber) ((slot) + 256 * (tag)))

static inline void
OrbitTidSet(ItemPointer tid, BlockNumber page, int slot, int tag)
{
	Assert(slot >= 1 && slot <= ORBIT_MAX_SLOT && tag >= 0 && tag <= ORBIT_MAX_TAG);
	ItemPointerSet(tid, page, OrbitOffset(slot, tag));
}

static inline BlockNumber
OrbitTidPage(const ItemPointerData *tid)
{
	return ItemPointerGetBlockNumberNoCheck(tid);
}

/* 0 when the TID is none of ours (offset a multiple of 256). */
static inline int
OrbitTidSlot(const ItemPointerData *tid)
{
	return ItemPointerGetOffsetNumberNoCheck(tid) & 0xff;
}

static inline int
OrbitTidTag(const ItemPointerData *tid)
{
	return ItemPointerGetOffsetNumberNoCheck(tid) >> 8;
}

/* The form that index entries, bitmaps, tuple and predicate locks carry. */
static inline void
OrbitTidCanonical(ItemPointer dst, const ItemPointerData *src)
{
	OrbitTidSet(dst, OrbitTidPage(src), OrbitTidSlot(src), 0);
}

/* ---- durations ---------------------------------------------------------- */

/*
 * Microseconds on a clock that nobody sets (CLOCK_MONOTONIC), the same for all processes; 0: never.
 * Every wait and deadline goes by it: a wall clock may jump, and would then let something wait for as
 * long as it jumped, or be due at once.  Times that are shown or stored are TimestampTz.
 */
typedef int64 OrbitTime;

static inline OrbitTime
OrbitNow(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (OrbitTime) INSTR_TIME_GET_MICROSEC(now);
}

/* Have so many ms passed from `since` to `now`?  Since never: they have. */
static inline bool
OrbitElapsed(OrbitTime since, OrbitTime now, int64 ms)
{
	return since == 0 || now - since >= ms * 1000;
}

static inline OrbitTime
OrbitLater(OrbitTime t, int64 ms)
{
	return t + ms * 1000;
}

/* ---- settings (settings.c) --------------------------------------------- */

typedef enum OrbitCompression
{
	ORBIT_COMPRESSION_NONE,
	ORBIT_COMPRESSION_LZ4,
	ORBIT_COMPRESSION_ZSTD
} OrbitCompression;

extern char *orbit_data_directory;	/* a name inside the data directory */
extern int	orbit_write_buffer_size;	/* kB */
extern int	orbit_max_write_buffers;
extern int	orbit_page_cache_size;	/* kB, in shared memory */
extern int	orbit_block_cache_size; /* kB, of the worker and of each backend */
extern int	orbit_max_background_jobs;
extern int	orbit_compression;	/* OrbitCompression */
extern int	orbit_bottommost_compression;
extern int	orbit_wal_compression;	/* OrbitCompression: none or lz4 */
extern int	orbit_flush_interval;	/* ms: oldest age of unflushed rows */
extern int	orbit_reclaim_delay;	/* ms: age of files that may be compacted */
extern int	orbit_reclaim_threshold;	/* percent of a compaction to be won; 0: for tests */
extern int	orbit_collect_interval; /* ms between searches for dropped tables */
extern int	orbit_snapshot_keep;	/* ms: how long superseded snapshots are kept */

/* Called from _PG_init only.  preload: inside shared_preload_libraries. */
extern void OrbitDefineSettings(bool preload);

/*
 * True when the library was preloaded, so that shared memory, the resource
 * manager and the worker exist.  OrbitRequirePreload() raises
 * OBJECT_NOT_IN_PREREQUISITE_STATE with a hint how to preload otherwise.
 */
extern bool orbit_preloaded;
extern void OrbitRequirePreload(void);

/* ---- shared memory -------------------------------------------------------- */

#define ORBIT_OS_PAGE	4096	/* larger ones are touched more often than need be */

/*
 * For memory that is about to be written, perhaps for the first time by this process: the kernel maps one
 * page where a write meets none, but its neighbours too (64 kB) where a read does.
 */
static inline void
OrbitTouch(const void *at, Size bytes)
{
	const volatile char *p = at;

	for (Size i = 0; i < bytes; i += ORBIT_OS_PAGE)
		(void) p[i];
}

/* ---- locks ------------------------------------------------------------- */

/*
 * Every LWLock of the extension, with the legal nesting, outermost first:
 *   storage partition -> (nothing)
 *   storage ids (the tranche's one more, held over the flush of a WAL record) -> switch gate
 *   switch gate -> switch -> row partition -> WAL insertion (PostgreSQL's)
 *   a partition of the shared pages -> (nothing)
 * orbit_unique is reserved for the ordered index: it nests outside the gate.
 */
#define ORBIT_ROW_LOCKS			512
#define ORBIT_STORAGE_LOCKS		32
#define ORBIT_UNIQUE_LOCKS		1024

/*
 * The shared page cache has a lock for each partition: as many partitions as PostgreSQL's buffer mapping has,
 * but none smaller than ORBIT_PAGE_PARTITION_KB or of 2 GB.
 */
#define ORBIT_PAGE_PARTITION_KB	2048
#define ORBIT_PAGE_PARTITIONS	128
extern int	OrbitPagePartitions(void);

extern void OrbitRequestLocks(void);	/* shmem_request_hook */
extern void OrbitAttachLocks(void);		/* shmem_startup_hook */
extern LWLockPadded *orbit_switch_locks;	/* [0] gate, [1] switch */
extern LWLockPadded *orbit_row_locks;
extern LWLockPadded *orbit_storage_locks;
extern LWLockPadded *orbit_page_locks;	/* OrbitPagePartitions() of them */

/* ---- wait events -------------------------------------------------------- */

/* PostgreSQL 15 shows every one of them as "Extension". */
#define ORBIT_WAIT_WRITE_BUFFER		PG_WAIT_EXTENSION
#define ORBIT_WAIT_WORKER			PG_WAIT_EXTENSION
#define ORBIT_WAIT_STOP_POINT		PG_WAIT_EXTENSION
#define ORBIT_WAIT_WORKER_MAIN		PG_WAIT_EXTENSION

/* ---- test stop points (stop.c) ------------------------------------------ */

/*
 * OrbitStopPoint("name") does nothing until a test arms that name with
 * orbit_stop_point_set(name, action, skip):
 *   wait    wait (cancellable outside critical sections) until disarmed
 *   error   ereport(ERROR); never arm it at a point in a critical section
 *   kill    SIGKILL to the own process
 *   fail    OrbitStopFails("name") returns true: the caller fakes a failure
 * skip: how many hits pass by before the first one acts.
 * Allowed in any PostgreSQL process, never in a RocksDB thread.
 * The SQL functions exist in the library only; tests declare them.
 */
extern Size OrbitStopShmemSize(void);
extern void OrbitStopShmemInit(void);
extern bool OrbitStopArmed(void);
extern void OrbitStopHit(const char *name);
extern bool OrbitStopFails(const char *name);

#define OrbitStopPoint(name) \
	do { if (unlikely(OrbitStopArmed())) OrbitStopHit(name); } while (0)

/* ---- faults of files, for tests (faults.c) -------------------------------- */

#ifdef ORBIT_DEV
struct OrbitFaultTable;
extern Size OrbitFaultShmemSize(void);
extern struct OrbitFaultTable *OrbitFaultShmemInit(void);

/* For a call (faults.h) of our own on a file, not in backends: the errno to fail with, or 0. */
extern int	OrbitFileFault(int call, const char *path);
#else
#define OrbitFileFault(call, path)	0
#endif

#endif							/* ORBIT_BASE_H */
