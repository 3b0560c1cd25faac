/*
 * store/store.h: one ordered view over the write buffers and RocksDB, the
 * counters of every storage, and the flush.  Knows entries and pages, not
 * transactions.
 */
#ifndef ORBIT_STORE_H
#define ORBIT_STORE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "base/ids.h"
#include "codec/codec.h"
#include "datatype/timestamp.h"
#include "kv/kv.h"
#include "membuf/membuf.h"

extern Size StoreShmemSize(void);
extern void StoreShmemInit(void);

/* "<data directory>/<orbit.data_directory>", relative, static storage. */
extern const char *StoreDirectory(void);
extern void StoreKvOptions(KvOptions *o, bool primary); /* from the settings */

/*
 * Waits until the worker has opened RocksDB (or recovery's startup may read).
 * Any process that reads or writes calls it first (cheap when ready); ERROR
 * 57P03 when the worker does not come.
 */
extern void StoreAttach(void);
extern void StoreSetReady(bool ready);	/* worker */
extern bool StoreIsReady(void);

/*
 * FATAL, with a hint, when the directory was written by another format version or
 * belongs to another database cluster.  For the postmaster's shmem_startup_hook, so that
 * the server stops with one message; the worker checks again.
 */
extern void StoreCheckDirectory(void);

/* Error messages about the storage will name this relation (the name is copied). */
extern void StoreNameStorage(OrbitStorageId storage, const char *name);

/* ---- publishing ------------------------------------------------------------ */

/* One change of one row, as it stands in a WAL record and in an arena. */
typedef struct StoreItem
{
	BlockNumber page;
	uint8		slot;
	uint8		kind_flags;		/* CodecKind and flags */
	uint8		tag;
	TransactionId xid;
	CommandId	cid;
	uint32		len;
	const void *payload;
	const CodecEntry *below;	/* see MembufPagePush; ignored in redo; NULL is
								 * allowed when `fresh` */
	bool		fresh;			/* the slot has just been allocated: nothing is below */
} StoreItem;

/* Worst-case arena bytes for these items. */
extern Size StorePublishCost(const StoreItem *items, int n);

/*
 * Publishes them in order: item n-1 last, so a reader that meets a delete mark
 * finds the row it points to when that row's item stands before it.  Inside
 * MembufEnterWrite/LeaveWrite with a live reservation; cannot fail.
 */
extern void StorePublish(MembufReservation *r, OrbitStorageId storage,
						 const StoreItem *items, int n);

/* Partition lock of a row: exclusive around check and publish (order: base.h). */
extern LWLock *StoreRowLock(OrbitStorageId storage, BlockNumber page, int slot);

/* ---- read view --------------------------------------------------------------- */

/*
 * A view is fixed at Open: it pins the arenas and knows which generation of RocksDB it
 * needs; RocksDB is caught up and proven only when it is first read.  One view a process
 * at a time; nothing may wait for transactions, space or clients while one is open.
 * May be opened under a foreign LWLock (nbtree's leaf lock).  Closed by error cleanup too.
 * Raises KvRaise errors; ERROR rather than stale data.
 */
typedef struct StoreView
{
	MembufPin	pin;
	bool		proven;			/* RocksDB is open at >= pin.generation */
} StoreView;

extern void StoreViewOpen(StoreView *v);
extern void StoreViewClose(StoreView *v);

/* ---- one row ---------------------------------------------------------------------- */

/*
 * Walks a row's entries, newest first, over the arenas of the view and then RocksDB.
 * An entry may be met twice (in an arena and in RocksDB): callers must not mind.
 * Entries live until the view is closed.
 */
typedef struct StoreChain
{
	StoreView  *view;			/* NULL: the chain of a page image */
	OrbitStorageId storage;
	BlockNumber page;
	int			slot;
	uint64		seq;			/* arena the walk is in; 0: RocksDB or page image */
	MembufPage *mpage;
	const CodecEntry *cur;
	const CodecPage *image;		/* RocksDB's page or the page image */
	const struct StoreCut *cut; /* NULL; or what the reader needs, of one_chain, set after Open */
	bool		short_image;	/* the image's chains may have been cut */
	bool		whole;			/* such images are not taken any more */
	const CodecEntry *active_head;	/* newest entry in arena pin.active at Open */
	int			chain;
	bool		ended;
} StoreChain;

extern void StoreChainOpen(StoreChain *c, StoreView *v, OrbitStorageId storage,
						   BlockNumber page, int slot);
/* Over a page image that the caller keeps. */
extern void StoreChainOpenPage(StoreChain *c, OrbitStorageId storage, BlockNumber page,
							   const CodecPage *image, int chain);
extern const CodecEntry *StoreChainNext(StoreChain *c); /* first call: the newest */
extern void StoreChainRewind(StoreChain *c);
/* Newest entry of the row in the view's active arena, as it was when the chain was
 * opened (NULL: none): what MembufPageNewest must still return for "nothing changed". */
extern const CodecEntry *StoreChainActiveHead(StoreChain *c);

/* ---- pages and scans ------------------------------------------------------------------ */

/*
 * What a reader with an MVCC snapshot needs of a row: enough() says that it needs nothing below this entry,
 * for the snapshot sees it, or the row has ended for everybody.  Called while a view is open: may look into
 * the commit log, but neither wait nor read or write orbit storage.
 */
typedef struct StoreCut
{
	bool		(*enough) (const CodecEntry *e, void *arg);
	void	   *arg;
	TransactionId xmin;			/* enough, too, is what any transaction before it has committed */
	bool		one_chain;		/* for a StoreChain, which can go on below */
} StoreCut;

/*
 * A page, opened. It lies in buf, or in shared memory, pinned: then it is never written to. Zero-initialise;
 * whoever fills it lets go of what it held.
 */
typedef struct StorePinned StorePinned;

#define STORE_SLOT_WORDS	(ORBIT_MAX_SLOT / 64 + 1)

typedef struct StorePage
{
	CodecPage	image;
	bool		plain;			/* every row is one INSERT, frozen or of a transaction that has committed */
	TransactionId newest;		/* of a plain page: none of the latter is after it; invalid: all frozen */
	uint64		head_enough[STORE_SLOT_WORDS];	/* a bit by slot, see StorePageHeadEnough */
	CodecBuf	buf;			/* its memory is kept for the next page */
	StorePinned *pinned;
} StorePage;

/*
 * When the page was made, the newest entry of the row in this slot was found to be enough.  Holds for the
 * snapshot of that StoreCut; false: it was not asked, or is not.
 */
static inline bool
StorePageHeadEnough(const StorePage *p, int slot)
{
	return (p->head_enough[slot / 64] >> (slot % 64) & 1) != 0;
}

extern void StorePageRelease(StorePage *p); /* lets go of what is shared */
extern void StorePageFree(StorePage *p);
/* May the commit log still be asked about every transaction in a page that StoreTryPage gave? */
extern bool StorePageFatesKnown(const StorePage *p);

/*
 * The united page (arenas and RocksDB), whole as if copied.  False: no such page.  Opens and closes a view of
 * its own.  cut: chains may end behind an entry that is enough; NULL: whole chains.  ERROR: it is damaged.
 */
extern bool StoreReadPage(OrbitStorageId storage, BlockNumber page, const StoreCut *cut,
						  StorePage *out);
/* The same where it costs next to nothing; false: it may exist all the same. */
extern bool StoreTryPage(OrbitStorageId storage, BlockNumber page, const StoreCut *cut, StorePage *out);

/*
 * Pages of [first, last] that exist, ascending (or descending with backward).  Holds no view
 * between calls; a position survives flushes.  Pages made after Begin may or may not be met.
 * What cut->arg points to must live until End.
 */
typedef struct StoreScan StoreScan;

extern StoreScan *StoreScanBegin(OrbitStorageId storage, BlockNumber first, BlockNumber last,
								 bool backward, const StoreCut *cut);
/* out NULL: only the number. */
extern bool StoreScanNext(StoreScan *s, BlockNumber *page, StorePage *out);
/* Before the first page: files are to be read, whatever is cached; out->image is the caller's to open. */
extern void StoreScanFiles(StoreScan *s);
/* Before the first page: what is read is of no use to others, and takes no place among the shared pages. */
extern void StoreScanOnce(StoreScan *s);
extern void StoreScanEnd(StoreScan *s);
/* ereport(ERROR) XX001 that names storage and page. */
extern void StoreRaiseDamagedPage(OrbitStorageId storage, BlockNumber page) pg_attribute_noreturn();
/* How often this process has asked RocksDB for a page: for statistics. */
extern uint64 store_rocks_pages;
/* Worker, every now and then: pages in shared memory that the commit log need not know about any more go. */
extern void StoreForgetOldPages(void);
/* Drops RocksDB iterators that a scan keeps between calls (end of a statement). */
extern void StoreReleaseIterators(void);

/* ---- what files tell (files.c) ------------------------------------------------------ */

typedef struct StorePageRange
{
	BlockNumber first;
	BlockNumber last;			/* inclusive */
} StorePageRange;

/*
 * Of what RocksDB holds of a storage; write buffers are not looked at.  Opens a view of its own; may
 * ask the commit log.
 */
typedef struct StoreFileFacts
{
	bool		known;			/* false: some file does not tell what is unfrozen */
	uint32		oldest_unfrozen;	/* no entry of a transaction before it is unfrozen;
									 * InvalidTransactionId: none at all */
	StorePageRange *ranges;		/* palloc'ed; ascending, disjoint: pages that may hold dead rows */
	int			nranges;
} StoreFileFacts;

extern void StoreGetFileFacts(OrbitStorageId storage, StoreFileFacts *facts);

/*
 * Where a storage's pages are: all that exist lie in these ranges, but not every number in them need
 * have a page.  Told by the files and the write buffers.  Where few pages are left of
 * many they are looked up one by one, and the ranges are exact.
 */
typedef struct StorePageMap
{
	StorePageRange *ranges;		/* palloc'ed; ascending, disjoint */
	int			nranges;
	BlockNumber *before;		/* palloc'ed: numbers in the ranges before each */
	BlockNumber pages;			/* numbers in all ranges together */
} StorePageMap;

extern void StoreGetPageMap(OrbitStorageId storage, StorePageMap *map);
/* The i-th number of the map, i < map->pages. */
extern BlockNumber StoreMapPage(const StorePageMap *map, BlockNumber i);

/* ---- key/value records (pg_tables, pg_metadata) ----------------------------------------- */

extern bool StoreKvGet(OrbitFamily family, const char *key, Size keylen, CodecBuf *out);

/*
 * Calls back for every key of the family that begins with prefix, newest values, in key order,
 * while a view is open (the callback may palloc, but not read or write orbit storage);
 * stops when it returns false.  Not for pg_data.
 */
typedef bool (*StoreKvCallback) (const char *key, Size keylen, const char *value, Size len,
								 void *arg);
extern void StoreKvForEach(OrbitFamily family, const char *prefix, Size prefixlen,
						   StoreKvCallback callback, void *arg);

/* About how many bytes of RocksDB's files each storage takes; write buffers do not count. */
extern void StoreEstimateBytes(const OrbitStorageId *storages, int n, uint64 *bytes);

/* ---- counters of a storage --------------------------------------------------------------- */

/*
 * Shared hash table storage id -> allocation word, filled from pg_tables at first use,
 * evicted when nothing unflushed depends on it.  Any process but the postmaster; no LWLock
 * held; may read RocksDB.
 *
 * StoreAllocRows: slots for up to `want` rows of `bytes` (entry sizes) on one page; returns how
 * many: rows page:first .. page:first+n-1.  Full when 255 slots are used or 8 kB passed.
 * The page count is raised before the slots can be used.  0: the pages of the storage are used
 * up, for good (R21).  The last number is never used, so that the page count is one too.
 */
#define STORE_PAGE_LIMIT	ORBIT_MAX_PAGE
extern int	StoreAllocRows(OrbitStorageId storage, const uint32 *bytes, int want,
						   BlockNumber *page, int *first);
extern BlockNumber StorePageCount(OrbitStorageId storage);	/* pages ever begun */
/*
 * So many of these are known to be gone; they do not come back.  A hint for estimates, forgotten
 * by a restart and when the storage has not been used for long.
 */
extern void StoreNoteAbsent(OrbitStorageId storage, BlockNumber absent);
extern BlockNumber StoreAbsentPages(OrbitStorageId storage);
/* Redo: page:slot exists. */
extern void StoreNoteRow(OrbitStorageId storage, BlockNumber page, int slot);
/* The storage is gone and nobody can name it any more: takes its entry out of the table (worker). */
extern void StoreForgetCounters(OrbitStorageId storage);

/*
 * Storage ids.  StoreAllocStorageId hands out the next one; when the logged block is used up
 * it calls *log_block(first unused after the block) which must write and flush the WAL record
 * (an LWLock is held meanwhile).  No LWLock held; reserves arena space, so it may wait.
 * StoreSetNextStorage, raise only, is for redo (startup process); it reserves space too.
 */
typedef void (*StoreLogBlock) (uint64 next_storage);
extern OrbitStorageId StoreAllocStorageId(StoreLogBlock log_block);
extern void StoreSetNextStorage(uint64 next_storage);
extern uint64 StoreGetNextStorage(void);
/* Ids below were handed out before the server was started, the others since.  Final when recovery
 * has ended. */
extern OrbitStorageId StoreFirstStorage(void);

/* ---- flushed-up-to bookkeeping -------------------------------------------------------------- */

/* F: end of the last record held by RocksDB.  A record is replayed iff it ends after it. */
extern XLogRecPtr StoreFlushedLsn(void);
/* Of F as it was when RocksDB was opened; 0: nothing was ever flushed. */
extern TimeLineID StoreFlushedTimeline(void);
extern XLogRecPtr StoreCoveredRedo(void);

/*
 * Random number of this RocksDB directory and its physical copies, never 0.  Relations carry it,
 * so that rows are never looked for in a directory that does not hold them.  After StoreAttach.
 */
extern uint64 StoreInstance(void);

/*
 * Notes durably that RocksDB must not be found below the generation that it stands at now: before a
 * checkpoint or restartpoint may rely on it.  Worker; in recovery the startup process.  What goes
 * wrong is logged.
 */
extern void StoreNoteReached(void);

/* ---- snapshots for backups (snapshot.c) -------------------------------------------------------- */

#define STORE_POOL				"sst"
#define STORE_SNAPSHOT_FILE		"SNAPSHOT"
#define STORE_SNAPSHOT_NAME		32	/* bytes of a directory's name */

typedef struct StoreSnapshotFile
{
	uint64		number;
	uint64		bytes;
	OrbitStorageId first;		/* of pg_data; 0: of another family */
	OrbitStorageId last;
	uint64		oldest;			/* least full xid whose fate the commit log must know; 0: none */
} StoreSnapshotFile;

typedef struct StoreSnapshot
{
	uint64		serial;			/* grows from one to the next */
	uint64		system;
	uint64		instance;
	uint64		generation;
	XLogRecPtr	flushed;		/* F */
	XLogRecPtr	covered;		/* every orbit record before it is in the snapshot */
	TimeLineID	timeline;
	TimestampTz made;
	uint64		oldest;			/* least full xid that may be asked of the commit log */
	char		manifest[32];
	uint64		manifest_bytes;
	StoreSnapshotFile *files;	/* palloc'ed; ascending by number */
	int			nfiles;
} StoreSnapshot;

extern void StoreSnapshotName(char *name, uint64 serial);
/* Path of a file in it; "": of the directory. */
extern void StoreSnapshotPath(char *path, uint64 serial, const char *file);
extern void StorePoolPath(char *path, uint64 number);
/* Serial numbers of the directories, and file numbers of the pool; palloc'ed, ascending.  ERROR. */
extern uint64 *StoreListSnapshots(int *n);
extern uint64 *StoreListPool(int *n);
/* NULL: it cannot be read, and *wrong (palloc'ed) says why.  Any process. */
extern StoreSnapshot *StoreReadSnapshot(uint64 serial, char **wrong);
/* Does it name this file? */
extern bool StoreSnapshotHasFile(const StoreSnapshot *s, uint64 number);
/* Which of its files are missing or have another size; NULL: none. */
extern char *StoreSnapshotIncomplete(const StoreSnapshot *s);

/*
 * Worker.  serial, covered and timeline are given, the rest is filled in.  Durable on KV_OK; otherwise
 * nothing is visible.  pooled: see KvMakeSnapshot.  dead: nobody reads this storage any more.
 */
extern void StoreMakeSnapshot(KvDb *db, StoreSnapshot *s, KvPooled pooled, void *arg,
							  bool (*dead) (OrbitStorageId storage), KvStatus *st);
/* False: not removed, and logged.  The pool keeps its files. */
extern bool StoreRemoveSnapshot(uint64 serial);
/* copied: a backup may be reading it.  What goes wrong is logged. */
extern void StoreRemovePoolFile(uint64 number, bool copied);
/* Removes what a crash left of making and removing.  Worker. */
extern void StoreCleanSnapshots(void);

/* CLEAN names the snapshot that has everything, of a server that was shut down.  Durable; ERROR. */
extern void StoreWriteClean(uint64 serial);
extern void StoreRemoveClean(void);

/*
 * In the postmaster, before anything opens RocksDB: where the data directory has been copied or
 * rewound, its RocksDB is made from the newest usable snapshot.  FATAL when there is none.
 */
extern void StoreRestore(void);

/* ---- flush (worker, main thread) --------------------------------------------------------------- */

typedef struct StoreFlushStats
{
	uint64		flushes;
	uint64		pages_put;
	uint64		pages_merged;
	uint64		bytes;
} StoreFlushStats;

/* Opens the primary, checks format version and system identifier, loads F, covered and the next
 * storage id into shared memory.  Errors are ereport(FATAL) with a hint. */
extern KvDb *StorePrimaryOpen(void);
/*
 * Which transactions run: none before `oldest`; of those before `next` only the ones in xids
 * (ascending as numbers, subtransactions too), where nxids is not -1.  oldest
 * InvalidTransactionId: in recovery, where only the commit log tells.
 * horizon: every snapshot, now and later, sees what committed transactions before it did;
 * InvalidTransactionId: not known, nothing is frozen.  TransactionXmin must be `oldest` then (R4).
 */
typedef struct StoreRunning
{
	TransactionId oldest;
	TransactionId next;
	TransactionId horizon;
	const TransactionId *xids;
	int			nxids;
} StoreRunning;

/* The order of xids above, for qsort and bsearch. */
extern int	StoreCompareXids(const void *a, const void *b);

/*
 * XLogFlush past the arena, then its pages and records in one atomic ingest; then the arena is
 * released.  Left out are LOCK entries of transactions that do not run any more, aborted updates and
 * deletes, and versions behind one that everybody sees; that one is frozen.  Returns a status
 * instead of raising; on failure nothing changed and it may be called again.
 */
extern void StoreFlushOldest(KvDb *db, const StoreRunning *running, bool clean_shutdown, KvStatus *st);
/* Worker: told of each VACUUM record that has just been ingested.  NULL: nobody is. */
extern void (*store_cleaned_hook) (OrbitStorageId storage, uint64 cleaned);
/* Is this key and value of pg_tables a VACUUM record? */
extern bool StoreVacuumParse(const char *key, Size keylen, const char *value, Size len,
							 OrbitStorageId *storage, uint64 *cleaned);
/* Inside PG_CATCH of the worker: the ERROR as a status; the process holds nothing afterwards. */
extern void StoreCatchError(MemoryContext context, KvStatus *st);
/* An ingest of a generation (and the metadata record) alone. */
extern void StoreBumpGeneration(KvDb *db, bool clean_shutdown, KvStatus *st);
/*
 * Deletes records of storages that nobody can name any more: keys of pg_tables, ascending, and keys
 * of pg_metadata that sort before CODEC_META_FLUSHED, ascending.  One atomic ingest.
 */
typedef struct StoreRecordKey
{
	OrbitFamily family;
	uint8		len;
	char		key[23];
} StoreRecordKey;

extern void StoreDeleteRecords(KvDb *db, const StoreRecordKey *keys, int n, KvStatus *st);
/* Everything before this redo pointer is in RocksDB (worker, once proven).  Stored with the next
 * ingest; in shared memory at once. */
extern void StoreSetCoveredRedo(XLogRecPtr redo);
extern void StoreGetFlushStats(StoreFlushStats *s);

#endif							/* ORBIT_STORE_H */
