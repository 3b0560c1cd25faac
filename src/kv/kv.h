/*
 * kv/kv.h: RocksDB behind a C interface.  The only folder that includes
 * RocksDB's headers.  Implemented in C++ (rocks_*.cpp) behind extern "C": no C++
 * exception leaves a function and no function calls PostgreSQL, so no longjmp
 * crosses a C++ frame.  KvRaise (kv_error.c) is the one place where a RocksDB error
 * becomes an ereport.
 *
 * All signals are blocked while a call may start threads, so that RocksDB's
 * threads never run a PostgreSQL signal handler.
 *
 * A handle belongs to the process that opened it and must be used by its main
 * thread only.  Never open a database in the postmaster or before a fork.
 */
#ifndef ORBIT_KV_H
#define ORBIT_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ids.h"
#include "codec/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum KvCode
{
	KV_OK = 0,
	KV_NOT_FOUND,				/* of KvGet */
	KV_CORRUPTION,				/* damaged file or value */
	KV_IO_ERROR,
	KV_NO_SPACE,				/* full disk or quota */
	KV_BUSY,					/* lock file held by another process */
	KV_STALE,					/* a secondary could not be brought up to date */
	KV_INVALID,					/* bad argument, unknown option, missing database */
	KV_AGAIN,					/* something was in the way; nothing has changed */
	KV_NO_MEMORY,
	KV_OTHER
} KvCode;

typedef struct KvStatus
{
	KvCode		code;
	char		message[500];	/* RocksDB's own words, may name files */
} KvStatus;

typedef struct KvOptions
{
	uint64_t	block_cache_bytes;
	uint64_t	target_file_bytes;	/* 0: default of the implementation */
	int			max_background_jobs;
	int			compression;	/* OrbitCompression: 0 none, 1 lz4, 2 zstd */
	int			bottommost_compression;
	int			max_open_files; /* secondary; the primary uses -1 */
} KvOptions;

typedef struct KvDb KvDb;
typedef struct KvIter KvIter;
typedef struct KvBatch KvBatch;

/* ---- opening ------------------------------------------------------------ */

/*
 * dir: an existing directory; inside it the implementation uses pgsql_tmp_live/ (RocksDB's
 * own files), pgsql_tmp_stage/ (SSTs not yet ingested; only the primary cleans it), wal/ and
 * nowal/ (both always empty).  The primary creates what is missing, takes RocksDB's
 * lock, deletes leftovers of pgsql_tmp_stage/ and finds the newest generation.
 * *db is NULL unless KV_OK.
 */
extern void KvOpenPrimary(const char *dir, const KvOptions *o, KvDb **db, KvStatus *st);
extern void KvOpenSecondary(const char *dir, const KvOptions *o, KvDb **db, KvStatus *st);
/* Is there a database (its CURRENT file) under dir?  Only looks; allowed in any process. */
extern bool KvExists(const char *dir);
/* Where RocksDB's own files lie, inside dir. */
#define KV_LIVE_NAME	"pgsql_tmp_live"
#define KV_STAGE_NAME	"pgsql_tmp_stage"
extern void KvClose(KvDb *db);	/* NULL is allowed; frees iterators' database too,
								 * so destroy iterators first */

/* ---- reading (both kinds) -------------------------------------------------- */

/* Newest generation proven by the key of that family itself. */
extern void KvGeneration(KvDb *db, OrbitFamily family, uint64_t *generation, KvStatus *st);

/*
 * Secondary: makes every family's generation at least `want`, by catching up and,
 * after a few tries, by reopening the database; iterators opened before stay valid
 * only if *reopened is false.  KV_STALE when that fails.  *reached: the lowest
 * generation over the families, proven.  Cheap when already there.
 */
extern void KvCatchUp(KvDb *db, uint64_t want, uint64_t *reached, bool *reopened, KvStatus *st);

/* Value replaces out's contents (out->len = 0 first).  KV_NOT_FOUND if absent. */
extern void KvGet(KvDb *db, OrbitFamily family, const char *key, size_t keylen,
				  CodecBuf *out, KvStatus *st);

/*
 * Iterators ignore range deletions (K20) and see one fixed version of the
 * database.  total_order is implied.  readahead: bytes, 0 = RocksDB's own
 * choice; blocks read with it do not enter the block cache.  lower/upper: bounds
 * [lower, upper), copied; NULL: none.  Generation keys (storage id 0) are never shown.
 * When Valid is false after a move, look at KvIterStatus: an error must not be
 * taken for the end.  Key and value live until the next move.
 */
extern KvIter *KvIterCreate(KvDb *db, OrbitFamily family,
							const char *lower, size_t lowerlen,
							const char *upper, size_t upperlen,
							size_t readahead, KvStatus *st);
extern void KvIterDestroy(KvIter *it);	/* NULL is allowed */
extern void KvIterSeek(KvIter *it, const char *key, size_t keylen);	/* first >= */
extern void KvIterSeekForPrev(KvIter *it, const char *key, size_t keylen);	/* last <= */
extern void KvIterNext(KvIter *it);
extern void KvIterPrev(KvIter *it);
extern bool KvIterValid(KvIter *it);
extern void KvIterKey(KvIter *it, const char **key, size_t *len);
extern void KvIterValue(KvIter *it, const char **value, size_t *len);
extern void KvIterStatus(KvIter *it, KvStatus *st);

/* About how many bytes of files hold the pages of each of these storages. */
extern void KvStorageBytes(KvDb *db, const OrbitStorageId *storages, int n, uint64_t *bytes,
						   KvStatus *st);

/* ---- writing (primary) --------------------------------------------------------- */

/*
 * One flush: a batch of puts and merges over all families becomes SST files and
 * one atomic ingest, together with a fresh generation key in every family.
 * Keys of one family must come in strictly ascending order.  KvBatchSplit ends the
 * current data file of a family (a large storage gets its own file, so that new
 * pages fall to the lowest level); the implementation splits by size as well.
 * Nothing is visible or durable before KvBatchCommit returns KV_OK; then all is.
 * KvBatchCommit and KvBatchAbort free the batch; after a failed commit the caller
 * builds the batch again.
 */
extern KvBatch *KvBatchBegin(KvDb *db, KvStatus *st);
extern void KvBatchPut(KvBatch *b, OrbitFamily f, const char *key, size_t keylen,
					   const char *value, size_t len, KvStatus *st);
extern void KvBatchMerge(KvBatch *b, OrbitFamily f, const char *key, size_t keylen,
						 const char *value, size_t len, KvStatus *st);
extern void KvBatchDelete(KvBatch *b, OrbitFamily f, const char *key, size_t keylen, KvStatus *st);
extern void KvBatchSplit(KvBatch *b, OrbitFamily f, KvStatus *st);
extern void KvBatchCommit(KvBatch *b, uint64_t *generation, KvStatus *st);
extern void KvBatchAbort(KvBatch *b);

/* ---- housekeeping (primary) -------------------------------------------------------- */

/*
 * SST files that RocksDB wants deleted wait here (K21, K22, R11).  Each is tagged
 * with the first generation ingested after it was retired, and KvUnlinkRetired
 * deletes those whose tag is <= min_generation, the oldest generation any reader
 * may still use.  *untagged: how many wait for a generation to be ingested (an
 * empty batch gives one); *waiting: all that still wait.
 */
extern void KvUnlinkRetired(KvDb *db, uint64_t min_generation, int *untagged, int *waiting);

/*
 * What compactions may forget (codec.h says what a horizon is).  Compactions that begin, and merges
 * that run, later use it; what it points to is copied.  Until the first call nothing is pruned, in a
 * secondary never.  A horizon must not fall behind the one before it (limit, settled, cleaned), and
 * the fate of a transaction must not change; what it relies on is on disk before the call (R19).
 *
 * fates: one pointer for each chunk that [base, limit) touches.  NULL: the chunk as in the last
 * successful call, allowed if all of it lay within that call's [base, limit).
 */
#define KV_UNCHANGED	(-1)	/* number of elements: the list of the last call */

typedef struct KvCleaned
{
	OrbitStorageId storage;
	uint64_t	cleaned;		/* as in CodecPruning */
} KvCleaned;

typedef struct KvHorizon
{
	CodecHorizon h;
	const OrbitStorageId *dead; /* ascending: nobody needs anything of these storages */
	int			ndead;
	const KvCleaned *cleaned;	/* ascending */
	int			ncleaned;
} KvHorizon;

extern void KvSetHorizon(KvDb *db, const KvHorizon *h, KvStatus *st);

/*
 * Unites pages of one key of pg_data, newest first, that are all there is of it, as a merge in this primary
 * would: pruned by the horizon, maybe to a page without a chain.  Appends to out, whose length is a multiple
 * of 8.  False: a part is damaged, or out of memory.
 */
extern bool KvUnitePages(KvDb *db, const char *key, size_t keylen, const CodecPart *parts, int nparts,
						 CodecBuf *out);

/* What compactions of pg_data have done since the primary was opened. */
typedef struct KvPruned
{
	uint64_t	pages;			/* changed or removed by the filter; merges are not counted */
	uint64_t	removed;		/* of these, removed */
	uint64_t	bytes;			/* less in them, uncompressed */
	uint64_t	damaged;		/* pages left as they are because they cannot be read */
	uint64_t	compactions;
	uint64_t	bytes_read;		/* of files */
	uint64_t	bytes_written;
} KvPruned;

extern void KvGetPruned(KvDb *db, KvPruned *p);

/*
 * The SST files of pg_data that may hold pages of storages from..to (inclusive), by level, in each
 * by key (level 0: newest first).  Primary and secondary, main thread; in a secondary like any read
 * only while a view is open, for it may have to open files.  What was read of a file is kept.
 * The summary is of the whole file, also where it holds other storages too.
 */
typedef struct KvFile
{
	uint64_t	number;			/* never used twice */
	int			level;			/* 0: files may overlap.  KV_BOTTOM: nothing is below */
	uint64_t	bytes;			/* of the file */
	OrbitStorageId first_storage;
	OrbitStorageId last_storage;
	uint32_t	first_page;		/* of first_storage */
	uint32_t	last_page;		/* of last_storage */
	bool		compacting;		/* primary: being compacted at this moment */
	bool		has_summary;	/* false: all that follows is unknown, and zero */
	CodecSummary summary;
	uint64_t	operands;		/* of the pages: deltas, whose history may be in lower levels */
	uint64_t	operand_bytes;
	uint64_t	empty;			/* pages without a row, that the next compaction removes */
	uint64_t	tombstones;		/* removed pages */
	uint64_t	dropped_bytes;	/* primary: of pages of dead storages (KvHorizon) */
	uint64_t	cleaned_slots;	/* primary: dead slots that may go (KvHorizon), estimated */
} KvFile;

#define KV_BOTTOM		6

/* *files: malloc'ed, the caller frees it; NULL unless KV_OK and *n > 0. */
extern void KvListFiles(KvDb *db, OrbitStorageId from, OrbitStorageId to,
						KvFile **files, int *n, KvStatus *st);

/*
 * One compaction at a time in a thread of its own: rewrites these files of pg_data, and what overlaps
 * them in the levels between, into `level`.  KV_BOTTOM: everything is united there, so history is
 * complete and nothing is left that the horizon lets go.  False: not started (one is running, or st
 * says why).  KvCompactPoll: true while it runs; then the result, once, with the bytes of files read
 * and written: KV_AGAIN when another compaction was in the way or a file is gone, try later with a
 * fresh list.  KvClose cancels it.
 */
extern bool KvCompactStart(KvDb *db, const uint64_t *numbers, int n, int level, KvStatus *st);
extern bool KvCompactPoll(KvDb *db, uint64_t *read, uint64_t *written, KvStatus *st);

/*
 * Drops the files that hold nothing but pages of these dead storages, in one step; the rest of them
 * goes when compactions meet it.  Level 0 is left alone.
 */
extern void KvDropStorages(KvDb *db, const OrbitStorageId *storages, int n, KvStatus *st);

/* Rewrites the range down to the lowest level; returns when done. */
extern void KvCompactRange(KvDb *db, OrbitFamily f, const char *begin, size_t beginlen,
						   const char *end, size_t endlen, KvStatus *st);	/* NULL: open end */
extern bool KvIntProperty(KvDb *db, OrbitFamily f, const char *name, uint64_t *value);
/* malloc'ed text of a property ("rocksdb.levelstats", ...), or NULL */
extern char *KvTextProperty(KvDb *db, OrbitFamily f, const char *name);
extern int	KvLevelZeroFiles(KvDb *db);	/* most L0 files of any family */
extern void KvResume(KvDb *db, KvStatus *st);	/* after a background error, whatever it was */
extern void KvBackgroundError(KvDb *db, KvStatus *st);	/* KV_OK when there is none */

/*
 * A compaction that fails (a damaged file, a full disk) has changed nothing, and nothing else is
 * stopped for it; but RocksDB would begin it anew every second.  KvCompactionFailed: has one
 * failed in the family since the last call?  KvPauseCompaction: whether the family's automatic
 * compactions wait.
 */
extern bool KvCompactionFailed(KvDb *db, OrbitFamily f, KvStatus *st);
extern void KvPauseCompaction(KvDb *db, OrbitFamily f, bool pause, KvStatus *st);

/*
 * A snapshot: what RocksDB holds at this moment, for backups.  dir, an existing empty directory, gets
 * CURRENT and the valid part of the MANIFEST; the directory pool gets one more name (a hard link; where
 * there are none, a copy) for each SST file of which pooled() does not say that it has it.  A file that
 * lies there otherwise is replaced.  All of it is on disk when this returns KV_OK; after a failure the
 * pool is as before.  pooled() is called in the calling thread and must not raise.
 */
typedef struct KvSnapshotFile
{
	uint64_t	number;			/* its name is the number in six digits or more, and .sst */
	uint64_t	bytes;
} KvSnapshotFile;

typedef struct KvSnapshot
{
	uint64_t	generation;
	char		manifest[32];	/* name of the file */
	uint64_t	manifest_bytes;
	KvSnapshotFile *files;		/* malloc'ed; ascending */
	int			nfiles;
} KvSnapshot;

typedef bool (*KvPooled) (uint64_t number, void *arg);

extern void KvMakeSnapshot(KvDb *db, const char *dir, const char *pool, KvPooled pooled, void *arg,
						   KvSnapshot *out, KvStatus *st);
extern void KvFreeSnapshot(KvSnapshot *s);
/* Does errno say that there can be no (more) hard link of a file, for here, from there or at all? */
extern bool KvLinkImpossible(int err);
/* Numbers of the SST files that are in use now; malloc'ed, ascending. */
extern void KvLiveFiles(KvDb *db, uint64_t **numbers, int *n, KvStatus *st);
extern const char *KvFamilyName(OrbitFamily f);

#ifdef ORBIT_DEV
/*
 * Tests: the faults (base/faults.h) that this process and its children meet in files.  The table
 * stays where it is and may change at any time.  NULL: none.
 */
struct OrbitFaultTable;
extern void KvUseFaults(struct OrbitFaultTable *table);
#endif

/* ---- PostgreSQL side (kv_error.c) ------------------------------------------------------- */

/* Raises st as an ereport(elevel) with SQLSTATE and hint; `doing` is the errmsg's
 * subject, e.g. "could not read table page".  Returns only if elevel < ERROR. */
extern void KvRaise(int elevel, const KvStatus *st, const char *doing);

#ifdef __cplusplus
}
#endif
#endif							/* ORBIT_KV_H */
