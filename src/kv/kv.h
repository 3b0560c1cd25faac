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
extern void KvCheckpoint(KvDb *db, const char *path, KvStatus *st);	/* hard-linked copy */
extern const char *KvFamilyName(OrbitFamily f);

/* ---- PostgreSQL side (kv_error.c) ------------------------------------------------------- */

/* Raises st as an ereport(elevel) with SQLSTATE and hint; `doing` is the errmsg's
 * subject, e.g. "could not read table page".  Returns only if elevel < ERROR. */
extern void KvRaise(int elevel, const KvStatus *st, const char *doing);

#ifdef __cplusplus
}
#endif
#endif							/* ORBIT_KV_H */
