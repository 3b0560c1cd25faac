/*
 * row/row.h: rows and their versions: visibility, conflicts, locks; the tuple
 * slot; the metapage that ties a relation to its storage.
 *
 * A chain (codec.h) is read newest first.  Rules that everything here relies on:
 *  - an entry other than LOCK is pushed only onto a row whose newest non-LOCK entry
 *    is committed, aborted, or of the pushing top-level transaction;
 *  - so the first entry, other than LOCK, whose transaction a snapshot sees decides:
 *    a version is the row, a DELETE (or KILL) means none;
 *  - entries of aborted transactions are skipped for good, whatever their flags say.
 * xmin of a version is its entry's xid, cmin its cid; xmax/cmax are those of the next
 * newer UPDATE or DELETE entry whose transaction has not aborted (else, for the system
 * column, of a running locker, else 0).
 */
#ifndef ORBIT_ROW_H
#define ORBIT_ROW_H

#include "postgres.h"

#include "access/tableam.h"
#include "base/base.h"
#include "codec/codec.h"
#include "executor/tuptable.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "store/store.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* ---- tuple slot (slot.c) ---------------------------------------------------- */

/*
 * A refcounted page that slots may point into.  It is pinned or malloc'ed, so it
 * is tied to the resource owner current at RowPageAlloc, as a buffer pin would be: who still
 * refers to it at that owner's end was cut off by an error and does not read it again.
 * The page is let go then; releasing such a reference later is allowed.
 */
typedef struct RowPage
{
	int			refcount;
	StorePage	page;
	struct ResourceOwnerData *owner;	/* NULL: the image is gone */
	uint64		orphaned;		/* number of the transaction in which it went */
	dlist_node	node;
} RowPage;

extern RowPage *RowPageAlloc(void);	/* one reference: the caller's */
extern void RowPageRelease(RowPage *p);

/*
 * Begins with HeapTupleTableSlot, so that PostgreSQL's deforming of heap slots serves
 * it: base.tuple points at base.tupdata, whose t_data is an image's address minus
 * 18 (the fields before t_infomask2 are never read through it).
 */
typedef struct RowTupleTableSlot
{
	HeapTupleTableSlot base;
	TransactionId xmin;
	TransactionId xmax;
	CommandId	cmin;
	CommandId	cmax;
	RowPage    *page;			/* image's page, when the slot holds a reference */
	const CodecEntry *unread;	/* in the page: what xmin, cmin and the tuple's length are to be taken from */
	char	   *own;			/* or the slot's own copy, a whole heap tuple header */
	Size		own_size;		/* and the image; kept between rows */
	bool		has_row;		/* image and xmin.. are a stored row's */
} RowTupleTableSlot;

extern const TupleTableSlotOps TTSOpsOrbit;

/* What the walk over a chain found. */
typedef struct RowVersion
{
	const CodecEntry *entry;	/* INSERT or UPDATE */
	ItemPointerData tid;		/* with the version's tag */
	TransactionId xmax;			/* 0: none */
	CommandId	cmax;			/* InvalidCommandId: xmax is but a locker's */
} RowVersion;

/* Image of an INSERT or UPDATE entry, without a speculative token. */
static inline const char *
RowImage(const CodecEntry *e, uint32 *len, uint32 *token)
{
	uint32		n = e->len;

	if (unlikely(e->kind_flags & CODEC_SPECULATIVE))
	{
		n -= sizeof(uint32);
		if (token != NULL)
			memcpy(token, e->payload + n, sizeof(uint32));
	}
	else if (token != NULL)
		*token = 0;
	*len = n;
	return e->payload;
}

/* page NULL: the image is copied into the slot; else the slot refers to the page. */
extern void RowStoreSlot(TupleTableSlot *slot, Relation rel, const RowVersion *v, RowPage *page);
/* A row of a plain page (StorePage).  Its entry is not read yet. */
extern void RowStorePlain(TupleTableSlot *slot, Relation rel, const CodecEntry *e, BlockNumber pageno,
						  int slotno, RowPage *page);

/*
 * Forms the image to store from any kind of slot: fills in missing attributes, flattens, toasts
 * (heap TOAST table; options as for heap_insert), checks the size.  The result is
 * palloc'ed in the current context, or the tuple of an orbit slot that has formed it already (RowFreeFormed);
 * *image points at t_infomask2 inside it.
 * old: the row replaced (for toast reuse) or NULL.
 */
extern HeapTuple RowFormTuple(Relation rel, TupleTableSlot *slot, HeapTuple old, int options,
							  const char **image, uint32 *len);
extern void RowFreeFormed(TupleTableSlot *slot, HeapTuple tuple);
/* A heap tuple whose header is filled from a stored image (palloc'ed): t_self, t_tableOid, xmin.. set. */
extern HeapTuple RowHeapTuple(Relation rel, const RowVersion *v);

/* ---- visibility (visibility.c) -------------------------------------------------- */

/*
 * Walks the chain to the version the snapshot sees.  All snapshot types but HISTORIC_MVCC
 * (ERROR 0A000).  Dirty: sets snapshot->xmin, xmax, speculativeToken as HeapTupleSatisfiesDirty.
 * ANY: the newest version (see RowFindVersion for an exact one).  NON_VACUUMABLE:
 * newest version not dead to all.  *all_dead (may be NULL): true only if no snapshot will ever see
 * the row again, and the chain was complete.
 * rel may be NULL where no relation is at hand (then *all_dead stays false and SSI is not
 * served).  Reads the commit log; may ereport; no LWLock of ours held.
 *
 * In a serializable transaction: conflict-out checks for the entries passed over, and a predicate lock
 * on the TID of the version found.  With a view the chain is then read again if somebody
 * wrote meanwhile; for that the view is closed and opened, so other entries taken from it are gone.
 * Over a page image (c->page set by the caller) nothing can be read again: the caller locks the
 * relation, the page or the TIDs before it reads the image.
 */
extern bool RowVisible(StoreChain *c, Relation rel, Snapshot snapshot,
					   RowVersion *v, bool *all_dead);

/*
 * With an MVCC snapshot: does the walk end at this entry, whatever lies below it?  For cutting
 * chains (StoreCut); reads the commit log.
 */
extern bool RowEndsAt(const CodecEntry *e, Snapshot snapshot);
/*
 * What of a row the snapshot needs, made in *cut; NULL: all of it, as other snapshots than MVCC's do.
 * one_row: for a StoreChain, otherwise for pages.
 */
extern const StoreCut *RowCut(StoreCut *cut, Snapshot snapshot, bool one_row);
/* The version with this very tag, whatever its fate. */
extern bool RowFindVersion(StoreChain *c, int tag, RowVersion *v);

typedef enum RowStatus			/* as HTSV_Result, of one version */
{
	ROW_DEAD,
	ROW_LIVE,
	ROW_RECENTLY_DEAD,
	ROW_INSERT_IN_PROGRESS,
	ROW_DELETE_IN_PROGRESS
} RowStatus;

/*
 * Calls back for every version of the chain, newest first, with its status against oldest_xmin
 * (as HeapTupleSatisfiesVacuum) and the transaction in progress, if any.  Stops when the callback
 * returns false.  superseded: an in-place update of a transaction that has not aborted is above it.
 * A dead slot, with no version above it, is one dead version; v then has no image.
 */
typedef struct RowVersionStatus
{
	RowVersion	v;
	RowStatus	status;
	TransactionId running;		/* xid of INSERT/DELETE_IN_PROGRESS */
	bool		superseded;
	bool		deleted;		/* a DELETE mark (not an in-place update) ended it */
	bool		dead_slot;		/* v.entry is what is left of a dead row */
} RowVersionStatus;
typedef bool (*RowVersionCallback) (const RowVersionStatus *s, void *arg);
extern void RowForEachVersion(StoreChain *c, TransactionId oldest_xmin,
							  RowVersionCallback callback, void *arg);

/*
 * Is the row of no use to a transaction now or later, and to none that looks back to oldest_xmin?
 * Needs the whole chain.  *ended: the transaction that ended it (its deleter, or who made it and
 * aborted), valid unless the chain does not tell.  *removed: that transaction, if it committed:
 * snapshots that do not see it still need the row; else InvalidTransactionId.
 */
extern bool RowIsDead(StoreChain *c, TransactionId oldest_xmin, TransactionId *ended,
					  TransactionId *removed);

/*
 * Who took something of the row away from snapshots: a transaction that committed and deleted the row
 * (*whole), or replaced a version in place.  Snapshots that see this transaction as finished miss
 * nothing of what it, and those before it, took away.  What it took may be gone already: entries, frozen ones
 * and dead slots too, keep their transaction.  Only transactions before `limit` count, which is not above the
 * next one; the frozen count in any case.  InvalidTransactionId: none.
 */
extern TransactionId RowRemovedBy(StoreChain *c, TransactionId limit, bool *whole);

/* ---- verification (check.c) ---------------------------------------------------------- */

/*
 * Checks a whole chain of the relation, which has npages pages; *versions is added to.  False:
 * *problem says what is impossible.
 */
extern bool RowCheckChain(Relation rel, StoreChain *c, BlockNumber npages, int64 *versions,
						  StringInfo problem);

/* ---- fetch (fetch.c) --------------------------------------------------------------- */

/*
 * Index fetch: the visible version of the row at the (any-tag) tid; sets the slot and *tid to the
 * version's TID.  May be called under nbtree's leaf lock.
 */
extern bool RowFetchVisible(Relation rel, ItemPointer tid, Snapshot snapshot,
							TupleTableSlot *slot, bool *all_dead);
/* The version at exactly this TID, if the snapshot sees that version (ANY: always). */
extern bool RowFetchExact(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot);
/* tuple_get_latest_tid: newest version of the row visible to the snapshot, following new rows. */
extern void RowLatestTid(Relation rel, ItemPointer tid, Snapshot snapshot);

/* ---- changes (insert.c, modify.c, lock.c): semantics of the tableam.h callbacks ------------ */

extern void RowInsert(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
					  bool speculative, uint32 token);
extern void RowMultiInsert(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid, int options);
extern void RowFinishSpeculative(Relation rel, TupleTableSlot *slot, uint32 token, bool succeeded);
extern TM_Result RowDelete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot,
						   Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changing_part);
extern TM_Result RowUpdate(Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid,
						   Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd,
						   LockTupleMode *lockmode, bool *update_indexes);
extern TM_Result RowLock(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
						 CommandId cid, LockTupleMode mode, LockWaitPolicy wait_policy, uint8 flags,
						 TM_FailureData *tmfd);

/*
 * For table rewrites (CLUSTER, VACUUM FULL): stores a whole chain as it is, newest first, with other
 * transactions' xids, as one new row; returns its canonical TID.  The last entry must be an INSERT;
 * tags, and the rows that delete marks name, are the caller's business.
 */
extern void RowCopyChain(Relation newrel, const CodecEntry **entries, int n, ItemPointer tid);

/* ---- a relation's storage (relation.c) -------------------------------------------------------- */

/* The storage id of an open relation; cached in rd_amcache.  An unlogged or temporary relation
 * whose metapage says 0 gets one here.  ERROR XX002 when the metapage is damaged. */
extern OrbitStorageId RowStorage(Relation rel);

/* One-page main fork (and init fork for unlogged) with a fresh storage id; registers it. */
extern void RowCreateStorage(Relation rel, const RelFileNode *node, char persistence);
/* A new, empty storage under the same relfilenode (non-transactional truncate). */
extern void RowResetStorage(Relation rel);
/* SET TABLESPACE: copies the metapage to the new file and registers the alias. */
extern void RowCopyStorage(Relation rel, const RelFileNode *newnode);

/* ---- databases and tablespaces (database.c) ---------------------------------------------------- */

extern Size RowShmemSize(void);
extern void RowShmemInit(void);

/* May there be a file in this database that a storage belongs to?  Temporary tables do not count. */
extern bool RowDatabaseOwnsTables(Oid database);

/* Around everything that moves a database's directory. */
extern void RowMoveBegin(void);
extern void RowMoveEnd(void);
/* False: a move is on its way.  Nothing has moved between two calls that give true and the same
 * number. */
extern bool RowNothingMoves(uint64 *begun);

/* Logs that a database or a tablespace was dropped, after it was.  Backend; may wait for space. */
#define ROW_DROPPED_DATABASE	'd'
#define ROW_DROPPED_TABLESPACE	't'
extern void RowNoteDropped(char kind, Oid oid);

/* A registry or alias record. */
typedef struct RowRecord
{
	OrbitStorageId storage;
	bool		alias;
	CodecRegistry registry;
} RowRecord;

/* All of them, by storage, palloc'ed.  Backend. */
extern RowRecord *RowListRecords(int *n);
/* False: the record is of another kind. */
extern bool RowParseRegistry(const char *key, Size keylen, const char *value, Size len,
							 OrbitStorageId *storage, CodecRegistry *record);

/* ---- can a file still name a storage? (evidence.c) ----------------------------------------------- */

typedef enum RowFileState
{
	ROW_FILE_HOLDS,				/* one does */
	ROW_FILE_UNSURE,			/* cannot be told now */
	ROW_FILE_NONE				/* none does, and none ever will: see RowFindFile */
} RowFileState;

typedef struct RowEvidence
{
	bool		recovery;		/* the server was in recovery when the record was read: a standby
								 * that has reached consistency */
	OrbitStorageId first;		/* StoreFirstStorage() */
	/* Is there a record that this was dropped?  kind: as for RowNoteDropped. */
	bool		(*dropped) (char kind, Oid oid, void *arg);
	void	   *arg;
} RowEvidence;

typedef struct RowFile
{
	Oid			tablespace;
	bool		exists;
} RowFile;

/*
 * Looks at the files that this record speaks of.  ROW_FILE_NONE is final if
 *	- the creator in the record had ended before the call,
 *	- RowNothingMoves() gives the same before and after it.
 * The storage is dead if this holds for all of its records, and if there is no other record of it
 * that was published before the last call was over.  file (may be NULL): what was found where, unless
 * it is ROW_FILE_NONE.  Worker and backends; raises nothing of its own.
 */
extern RowFileState RowFindFile(const RowEvidence *evidence, OrbitStorageId storage,
								const CodecRegistry *record, RowFile *file);

/* Keys of pg_metadata, row/metapage.h; and RowEvidence.dropped for backends. */
#define ROW_DROPPED_KEY_SIZE	17
#define ROW_DROPPED_PREFIX		"dropped/"
extern void RowDroppedKey(char key[ROW_DROPPED_KEY_SIZE + 1], char kind, Oid oid);
extern bool RowDroppedKeyParse(const char *key, Size len, char *kind, Oid *oid);
extern bool RowWasDropped(char kind, Oid oid, void *arg);

#endif							/* ORBIT_ROW_H */
