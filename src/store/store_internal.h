/*
 * store/store_internal.h: private to src/store.
 *
 * attach.c     shared state, readiness, where the directory is
 * format.c     the FORMAT file
 * reached.c    the REACHED file
 * smallfile.c  writing such files
 * storageid.c  storage ids
 * publish.c    items -> arena
 * names.c      names of relations, for messages
 * view.c       the process's RocksDB handle and its read view
 * pagecache.c  pages for the open view
 * sharedpages.c  pages in shared memory
 * chain.c      one row
 * parts.c      one page out of its parts
 * scan.c       pages in order
 * kvscan.c     key/value records in order
 * counters.c   allocation words
 * files.c      what files tell
 * flush.c      arena -> RocksDB; flushpages.c builds its pages
 * primary.c    opening and closing the primary instance
 * snapshot.c   snapshots for backups
 * restore.c    RocksDB out of a snapshot
 */
#ifndef ORBIT_STORE_INTERNAL_H
#define ORBIT_STORE_INTERNAL_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "base/base.h"
#include "store/store.h"

/* Most arenas that a view can have: the upper limit of orbit.max_write_buffers. */
#define STORE_MAX_ARENAS	64

/* ---- shared state (attach.c) ------------------------------------------------ */

typedef struct StoreShared
{
	/* atomic */
	pg_atomic_uint32 ready;
	pg_atomic_uint64 flushed_lsn;	/* F */
	pg_atomic_uint64 covered_redo;
	pg_atomic_uint32 flushed_timeline;	/* that F was last written on; 0: not known */
	pg_atomic_uint64 instance;
	pg_atomic_uint64 reached;	/* what REACHED says */
	pg_atomic_uint64 logged_storage;	/* storage ids below may be in use; raised
										 * before the WAL record is inserted */
	pg_atomic_uint64 first_storage; /* ids handed out since this start are not below */
	pg_atomic_uint64 flushes;
	pg_atomic_uint64 pages_put;
	pg_atomic_uint64 pages_merged;
	pg_atomic_uint64 flushed_bytes;

	/* guarded by id_lock */
	LWLock		id_lock;
	uint64		next_storage;	/* next id to hand out */
	uint64		limit_storage;	/* first id that is not yet logged */
} StoreShared;

extern StoreShared *store_shared;

/* Raises an atomic to at least value; returns the greater of both. */
extern uint64 StoreRaiseAtomic(pg_atomic_uint64 *a, uint64 value);
/* One nap of at most ms in a wait loop, with the interrupts of this kind of process
 * handled; in the startup process it also makes sure that a worker is started. */
extern void StoreNap(long ms);

/* ---- the FORMAT file (format.c) ---------------------------------------------- */

/* False: there is none.  FATAL when it is not ours. */
extern bool StoreFormatCheck(void);
extern void StoreFormatWrite(void); /* durable; ERROR */
extern void StoreFormatMismatch(uint32 format) pg_attribute_noreturn();
extern void StoreSystemMismatch(uint64 system) pg_attribute_noreturn();

/* ---- small files (smallfile.c) -------------------------------------------------- */

/* On disk when it returns true; false: errno says why.  The directory is the caller's to sync. */
extern bool StoreWriteFile(const char *path, const char *text, int len);
/* The file of this name in orbit's directory: the old one or the new one, whole.  False: reported. */
extern bool StoreReplaceFile(const char *name, const char *text, int elevel);

/* ---- the REACHED file (reached.c) ----------------------------------------------- */

/* FATAL when RocksDB, which stands at this generation, has once been further. */
extern void StoreCheckReached(uint64 generation);

/* No generation is asked for at the next start. */
extern void StoreForgetReached(void);

/* ---- snapshots (snapshot.c) ------------------------------------------------------ */

/* Names that backups leave out; each is in use by one process at a time. */
#define STORE_SNAPSHOT_TEMP		"pgsql_tmp_snap"
#define STORE_SNAPSHOT_OLD		"pgsql_tmp_snap_old"
#define STORE_RESTORE_TEMP		"pgsql_tmp_restore"

/* A directory in ours, with all that is in it; what cannot be removed is logged. */
extern void StoreRemoveTree(const char *name);
extern void StoreRenameDirectory(const char *from, const char *to, int elevel); /* durable */
extern uint64 StoreReadClean(void); /* 0: there is none */

/* ---- the view (view.c) --------------------------------------------------------- */

/*
 * Brings the process's RocksDB handle to the view's generation and proves it; returns
 * it with the generation that it stands at.  NULL: nothing was ever flushed, RocksDB
 * holds nothing the view could need.
 */
extern KvDb *StoreViewProve(StoreView *v, uint64 *generation);
/* Brings it to where readers are bound to be now.  False: there it is. */
extern bool StoreViewRenew(StoreView *v);
/* Raises a failed read as ERROR; the handle will be opened afresh. */
extern void StoreViewFailed(const KvStatus *st, const char *doing) pg_attribute_noreturn();
/* The same for a read of this storage, which the message names. */
extern void StoreReadFailed(const KvStatus *st, OrbitStorageId storage) pg_attribute_noreturn();
/* 'table "name"' or 'storage 42'; static storage. */
extern const char *StoreDescribe(OrbitStorageId storage);
/* Takes the published reader generation back if neither view nor iterator needs it. */
extern void StoreUnpublish(void);
/* Generation of the handle, 0 when it has none: what cached pages are worth. */
extern uint64 StoreViewGeneration(void);
extern void StoreUsePrimary(KvDb *db);	/* NULL: no more */

/* Value of a key in RocksDB alone.  NULL `handle`: not found. */
extern bool StoreRocksGet(KvDb *handle, OrbitFamily family, const char *key, Size keylen,
						  CodecBuf *out);
extern void StoreOutOfMemory(void) pg_attribute_noreturn();

/* Nothing can lie below this entry that matters to anybody: slots are never reused. */
static inline bool
StoreIsBottom(const CodecEntry *e)
{
	CodecKind	kind = CodecEntryKind(e);

	return kind == CODEC_INSERT || kind == CODEC_DEADSLOT ||
		((e->kind_flags & CODEC_FROZEN) && (kind == CODEC_UPDATE || kind == CODEC_DELETE));
}

/* The high bits are the good ones. */
static inline uint64
StorePageHash(OrbitStorageId storage, BlockNumber page)
{
	return (storage << 32 ^ page) * UINT64CONST(0x9E3779B97F4A7C15);
}

/* ---- pages of the view (pagecache.c) ----------------------------------------------- */

/* What a process keeps of pages that are not in shared memory. */
#define STORE_PAGE_CACHE_BYTES	((Size) 1024 * 1024)

/*
 * RocksDB's page, checked, or NULL; lives until the view is closed.  Chains may end behind what is enough by
 * cut; NULL: they are whole.  *pinned (may be NULL): where it lies in shared memory, if it does; whoever
 * wants it for longer pins it again.
 */
extern const CodecPage *StoreCachedPage(StoreView *v, OrbitStorageId storage, BlockNumber page,
										const StoreCut *cut, StorePinned **pinned);
/* The same if it is among the shared pages; false: it is not.  once: it need not stay for this. */
extern bool StoreFindShared(StoreView *v, OrbitStorageId storage, BlockNumber page, const StoreCut *cut,
							bool once, const CodecPage **image, StorePinned **pinned);
/* Puts a page that was read at this generation among them.  NULL: there is none there that serves. */
extern const CodecPage *StorePutShared(OrbitStorageId storage, BlockNumber page, uint64 generation,
									   const CodecPage *image, const StoreCut *cut, StorePinned **pinned);
extern void StoreCacheDrop(void);	/* the handle has moved */
extern void StoreCacheViewClosed(void);
extern void StoreCacheUnpin(void);	/* the transaction ends */

/* ---- pages in shared memory (sharedpages.c) ------------------------------------------ */

#define STORE_LARGEST_SHARED	((Size) 64 * 1024)	/* bytes of a page */
#define STORE_CUT_BYTES		((Size) 3 * ORBIT_PAGE_BYTES)	/* larger ones are cut, if the reader agrees */

extern Size StoreSharedPagesShmemSize(void);
extern void StoreSharedPagesShmemInit(void);
/*
 * RocksDB's page as any view that is open now may read it, checked once already.  False: it is not there.
 * *pinned NULL: RocksDB has no such page; otherwise image is good until the caller has unpinned it.  Its
 * chains may have been cut: see StoreSharedPagesServes.  mark: the page has been used, and shall stay.
 */
extern bool StoreSharedPagesFind(OrbitStorageId storage, BlockNumber page, bool mark,
								 StorePinned **pinned, CodecPage *image);
/*
 * A page, opened, read by a handle that stands at this generation; image NULL: there is none.  One that is
 * too large is put there cut for the reader.  Returns the shared one, pinned, which may have been cut for
 * another, or NULL: it could not be put there, or there is none.
 */
extern StorePinned *StoreSharedPagesPut(OrbitStorageId storage, BlockNumber page, uint64 generation,
										const CodecPage *image, const StoreCut *cut, CodecPage *shared);
/*
 * Has the page, in which chains may have been cut, all that the reader needs?  cut NULL: whole chains.
 * ERROR: the commit log cannot be read.
 */
extern bool StoreSharedPagesServes(const StorePinned *pinned, const StoreCut *cut);
/* These are likely to be asked for: brings them nearer to the processor. */
extern void StoreSharedPagesExpect(OrbitStorageId storage, BlockNumber next, BlockNumber after);
/* May a view that has been opened since it was pinned use it still? */
extern bool StoreSharedPagesStands(const StorePinned *pinned);
/* See StorePage. */
extern bool StoreSharedPagesPlain(const StorePinned *pinned, TransactionId *newest);
extern void StoreSharedPagesPinAgain(StorePinned *pinned);
extern void StoreSharedPagesUnpin(StorePinned *pinned);
/* May the commit log be asked about every transaction that is in the page? */
extern bool StoreFatesKnown(const CodecPage *page);
/*
 * This page of a sealed write buffer, delta, is about to be merged into RocksDB's: the same is done with
 * the one that is here, if any, pruned by the primary's horizon.  The worker; before StoreSharedPagesFlushed,
 * also more than once.  No error but the commit log's.  buf: memory to be used, the caller's to free.
 */
extern void StoreSharedPagesRenew(KvDb *db, OrbitStorageId storage, BlockNumber page, const void *delta,
								  Size len, uint64 seq, CodecBuf *buf);
/* The same of a page of which the write buffer has nothing that is written. */
extern void StoreSharedPagesKeep(OrbitStorageId storage, BlockNumber page, uint64 seq);
/*
 * The write buffer has become part of RocksDB at this generation: its pages have changed, and go if they were
 * neither renewed nor kept.  The worker; before views need the generation.
 */
extern void StoreSharedPagesFlushed(uint64 seq, uint64 generation);

/* ---- iterators kept by scans (scan.c) ----------------------------------------------- */

extern void StoreDropIterators(void);	/* destroys them all */
extern void StoreScanShrink(void);	/* frees memory that a large page has taken */
extern int	StoreIteratorCount(void);

/* Stands the iterator of an arena, which is on a node, on a page of the storage? */
static inline bool
StoreArenaPage(MembufIter *it, OrbitStorageId storage, BlockNumber *page)
{
	const char *key;
	Size		len;
	OrbitStorageId found;

	return MembufIterKey(it, &key, &len) == ORBIT_PG_DATA &&
		CodecPageKeyParse(key, len, &found, page) && found == storage;
}

/* ---- one page out of its parts (parts.c) ------------------------------------------------ */

typedef struct StoreParts
{
	const StoreCut *cut;		/* NULL: whole chains */
	int			n;
	Size		offset[STORE_MAX_ARENAS + 1];	/* in scratch memory; newest part first */
	bool		met[ORBIT_MAX_SLOT + 1];	/* by slot: a part so far has entries of it */
	bool		ended[ORBIT_MAX_SLOT + 1];	/* no older part matters */
	uint64		head_enough[STORE_SLOT_WORDS];	/* see StorePage */
} StoreParts;

/* One set of parts at a time in a process.  All raise ERROR when out of memory. */
extern void StorePartsBegin(StoreParts *p, const StoreCut *cut);
/* What the arena has of the page; arenas from the newest down. */
extern void StorePartsAdd(StoreParts *p, uint64 seq, MembufPage *page);
/*
 * Lets out be the united page. rocks: RocksDB's value or NULL; image: the same bytes, where they are aligned
 * and have been checked; pinned: where these lie. checked false: out->buf has the bytes, and they are not
 * looked at where there is nothing to unite.  False: there is no such page.
 */
typedef struct StoreRocksPart
{
	const char *rocks;
	Size		len;
	const CodecPage *image;
	StorePinned *pinned;
} StoreRocksPart;

/* Of an opened page; image NULL: there is none. */
static inline StoreRocksPart
StorePartOf(const CodecPage *image, StorePinned *pinned)
{
	StoreRocksPart part = {0};

	if (image != NULL)
		part = (StoreRocksPart) {image->data, image->size, image, pinned};
	return part;
}

extern bool StorePartsUnite(StoreParts *p, const StoreRocksPart *rocks, bool checked,
							OrbitStorageId storage, BlockNumber page, StorePage *out);
/* The page as the open view has it, RocksDB's part by way of the page cache. */
extern bool StoreUnitedPage(StoreView *v, OrbitStorageId storage, BlockNumber page,
							const StoreCut *cut, StorePage *out);
extern void StorePartsShrink(void); /* frees scratch memory that grew large */
/*
 * Appends the page to out with chains cut where that serves not only this reader: behind what has committed.
 * *newest: of the transactions behind whose entries chains were cut, or invalid.  False: out of memory, or
 * it is more than STORE_LARGEST_SHARED even so.
 */
extern bool StoreCutPage(const CodecPage *image, const StoreCut *cut, CodecBuf *out, TransactionId *newest);

/* ---- counters for the flush (counters.c) ---------------------------------------------- */

extern Size StoreCountersShmemSize(void);
extern void StoreCountersShmemInit(void);
/* First page from which on nothing has been handed out; 0 when the storage is not in
 * the table. */
extern BlockNumber StoreCountersNeed(OrbitStorageId storage);
/* `next_page` is in RocksDB, and readers are bound to a generation that has it. */
extern void StoreCountersPersisted(OrbitStorageId storage, BlockNumber next_page);
/* Storages whose need is not persisted, if the table is so full that the flush should
 * write them all (else none).  malloc'ed, *n of them; NULL also when out of memory. */
extern OrbitStorageId *StoreCountersCrowd(int *n);
/* Reads and checks a counter record; false: damaged. */
extern bool StoreCountersParse(const char *value, Size len, CodecCounters *c);

/* ---- the flush's pages (flushpages.c) --------------------------------------------------- */

typedef struct FlushStorage
{
	OrbitStorageId storage;
	CodecCounters counters;		/* as read, then as written */
} FlushStorage;

typedef struct FlushResult
{
	FlushStorage *storages;		/* touched, ascending; malloc'ed */
	int			nstorages;
	uint64		pages_put;
	uint64		pages_merged;
	uint64		bytes;
	bool		froze;			/* relied on commits: flush the WAL before the commit */
} FlushResult;

/* Adds the arena's pages to the batch.  On failure st says why; r->storages is to be
 * freed in any case. */
extern void StoreFlushPages(KvDb *db, KvBatch *batch, uint64 seq, const StoreRunning *running,
							FlushResult *r, KvStatus *st);
/* The storage's counters as RocksDB's primary has them, else fresh ones. */
extern void StoreReadCounters(KvDb *db, OrbitStorageId storage, CodecCounters *c, KvStatus *st);
/* memcmp order, a prefix first */
extern int	StoreCompareKeys(const char *a, Size alen, const char *b, Size blen);
extern void StoreFillStatus(KvStatus *st, KvCode code, const char *message);

/* Key of the arena record that makes a logged block of storage ids reach RocksDB. */
#define STORE_META_NEXT_STORAGE "next_storage"

#endif							/* ORBIT_STORE_INTERNAL_H */
