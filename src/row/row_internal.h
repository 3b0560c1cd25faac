/*
 * row/row_internal.h: private to row.  What the files that change rows share.
 *
 * slot.c        tuple slot, page images
 * fetch.c       one row by its TID
 * image.c       images <-> heap tuples, TOAST, comparison, replica identity
 * fate.c        fates of transactions
 * visibility.c  which version a snapshot sees
 * state.c       what a writer must know about a row before it changes it
 * push.c        putting entries onto a row
 * insert.c      new rows
 * modify.c      delete, update
 * lock.c        row locks
 * check.c       whole chains, for orbit_verify()
 */
#ifndef ORBIT_ROW_INTERNAL_H
#define ORBIT_ROW_INTERNAL_H

#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "nodes/lockoptions.h"
#include "storage/lmgr.h"

#include "row/row.h"
#include "wal/wal.h"

/* ---- slot.c ----------------------------------------------------------------- */

/* An image is a heap tuple's bytes from t_infomask2 on; of t_infomask only these bits. */
#define ROW_IMAGE_OFFSET	offsetof(HeapTupleHeaderData, t_infomask2)
#define ROW_IMAGE_INFOMASK	(HEAP_HASNULL | HEAP_HASVARWIDTH | HEAP_HASEXTERNAL)

extern void RowFillHeader(HeapTupleHeader h, TransactionId xmin, TransactionId xmax,
						  CommandId cmin, const ItemPointerData *tid);
extern void RowCleanTuple(HeapTuple tuple, Oid tableoid);
/* The slot's contents have been stored as this version. */
extern void RowSlotStored(TupleTableSlot *slot, Relation rel, const ItemPointerData *tid,
						  TransactionId xmin, CommandId cmin, TransactionId xmax);

/* ---- fetch.c ------------------------------------------------------------------ */

/* What the system columns of a version show. */
typedef struct RowSystem
{
	TransactionId xmin;
	TransactionId xmax;
	CommandId	cmin;
	CommandId	cmax;			/* InvalidCommandId: xmax is but a locker's */
} RowSystem;

/* Of the version at exactly this TID, whatever its fate. */
extern bool RowFetchSystem(Relation rel, const ItemPointerData *tid, RowSystem *sys);

/* ---- image.c ------------------------------------------------------------------ */

/* palloc'ed; of the header only what the image has is set. */
extern HeapTuple RowCopyImage(const char *image, uint32 len);
/* Has the version TOASTed values outside of it? */
extern bool RowHasExternal(const RowVersion *v);
/*
 * The tuple that the slot has made of its values, complete: the slot's, until it is cleared. NULL: it has
 * none. The header may be written to while the slot's row is one that has not been stored.
 */
extern HeapTuple RowSlotTuple(TupleTableSlot *slot);
/* The slot's values as a tuple, not toasted. */
extern HeapTuple RowRawTuple(Relation rel, TupleTableSlot *slot);
extern bool RowNeedsToast(Relation rel, HeapTuple tuple, HeapTuple old);
/* The tuple's image, fit to be stored; ERROR 54000 when the tuple is too big. */
extern const char *RowStorableImage(HeapTuple tuple, uint32 *len);
/* Members of `attrs` (offset as in relcache's bitmaps) whose stored values differ. */
extern Bitmapset *RowChangedAttrs(Relation rel, Bitmapset *attrs, HeapTuple old, HeapTuple new);
extern bool RowAttrsExternal(Relation rel, Bitmapset *attrs, HeapTuple tuple);
/* What WAL must say about the old row for logical decoding, or NULL. */
extern HeapTuple RowReplicaIdentity(Relation rel, HeapTuple old, bool key_required, bool *is_key);
extern void RowDeleteToast(Relation rel, HeapTuple tuple, bool speculative);

/* ---- fate.c ---------------------------------------------------------------------- */

typedef enum RowFate
{
	ROW_FATE_ABORTED,			/* or crashed */
	ROW_FATE_OWN,				/* a live (sub)transaction of our own */
	ROW_FATE_RUNNING,
	ROW_FATE_COMMITTED
} RowFate;

extern RowFate RowXidFate(TransactionId xid);
extern RowFate RowEntryFate(const CodecEntry *e);	/* frozen is committed */
/* Of a transaction that is no longer running; remembers who has committed. */
extern bool RowDidCommit(TransactionId xid);
/* As a locker: OWN, RUNNING, or ABORTED for any that has ended. */
extern RowFate RowLockFate(TransactionId xid);

/* What an MVCC snapshot makes of an entry. */
typedef enum RowSight
{
	ROW_SIGHT_SEEN,
	ROW_SIGHT_LATER,			/* not finished when the snapshot was taken, or a later command */
	ROW_SIGHT_ABORTED
} RowSight;

extern RowSight RowMvccSight(const CodecEntry *e, Snapshot snapshot);

/* ---- state.c ---------------------------------------------------------------------- */

/* A LOCK entry of a live transaction. */
typedef struct RowHolder
{
	TransactionId xid;
	CommandId	cid;
	LockTupleMode mode;
	bool		own;
	int			over;			/* updates and deletes of other versions above it */
} RowHolder;

/* An UPDATE or DELETE above the target version whose transaction has not aborted. */
typedef struct RowOver
{
	TransactionId xid;
	CommandId	cid;
	RowFate		fate;
	LockTupleMode mode;			/* strength: NoKeyExclusive or Exclusive */
	bool		deleted;		/* no next version anywhere */
	bool		new_row;		/* a delete mark that names another row */
	ItemPointerData next;		/* next version's TID, the target's own, or "moved" */
} RowOver;

typedef struct RowLead			/* LOCK and aborted entries at the head, in the active arena */
{
	const CodecEntry *entry;	/* to link to; not to be read once the view is closed */
	TransactionId xid;
	LockTupleMode mode;			/* if live */
	bool		live;			/* a lock in force */
} RowLead;

/*
 * A writer's reading of a row with respect to one of its versions, the target.  The arrays are
 * allocated when there is something for them, in the context that was current at RowStateInit, and
 * reused by every RowExamine.
 */
typedef struct RowState
{
	MemoryContext context;
	OrbitStorageId storage;
	ItemPointerData target_tid;
	ItemPointerData canonical;
	BlockNumber page;
	int			slot;

	/* what the write must still find */
	uint64		seq;
	const CodecEntry *head;

	/* the target; its entry lives until the view is closed */
	bool		exists;
	RowVersion	target;
	RowFate		xmin_fate;		/* KILLed counts as aborted */
	TransactionId xmin;
	CommandId	cmin;

	int			newest_tag;		/* of the newest version, whatever its fate */
	int			walked;			/* entries read */

	RowHolder  *holders;
	int			nholders;
	int			holders_cap;
	RowOver    *over;			/* newest first; the last one replaced the target */
	int			nover;
	int			over_cap;
	RowLead    *leads;			/* newest first */
	int			nleads;
	int			leads_cap;
	const CodecEntry *after_leads;	/* in the active arena, or NULL */

	StoreView	view;
	StoreChain	chain;
	bool		open;
} RowState;

extern void RowStateInit(RowState *s, OrbitStorageId storage);
extern void RowStateFree(RowState *s);
/* Opens a view and reads the row of tid.  The caller must RowStateClose before it waits. */
extern void RowExamine(RowState *s, const ItemPointerData *tid);
extern void RowStateClose(RowState *s);
/* As HeapTupleSatisfiesUpdate, of the target.  TM_BeingModified also for mere locks. */
extern TM_Result RowSatisfiesUpdate(const RowState *s, CommandId cid);
/* tmfd for a result that is not TM_Ok. */
extern void RowFailure(const RowState *s, TM_Result result, TM_FailureData *tmfd);
extern bool RowModesConflict(LockTupleMode a, LockTupleMode b);
/*
 * Another transaction that must end before the target can be taken in this mode, or
 * InvalidTransactionId: a running updater, or a running conflicting locker.
 */
extern TransactionId RowBlocker(const RowState *s, LockTupleMode mode);
/* Others may be waiting for our own transaction because of what it did to this row. */
extern bool RowOwnInvolved(const RowState *s);
/* Strongest live lock of ours that was taken on the target; -1: none. */
extern int	RowOwnLock(const RowState *s);
/*
 * A tag for an update in place; -1: none is free, or the row has too much of a past.  The view must
 * be open.
 */
extern int	RowNextTag(RowState *s);

/* ---- push.c --------------------------------------------------------------------------- */

/*
 * RowPush puts `entry` (its page, slot and below are filled in) onto the row as it was
 * examined, and new_row (or NULL) on the slot allocated for it just before.  mode: the lock strength
 * that the entry gives its transaction.  Locks of other live transactions are copied to the
 * new row, and above the entry where that keeps the chain short.  The view must be closed; our xid must
 * be assigned.  False: somebody was faster, examine again.
 */
typedef struct RowChange
{
	WalRowsKind kind;
	StoreItem	entry;
	LockTupleMode mode;
	const StoreItem *new_row;
	const char *old;			/* see WalPrepareRows */
	uint32		oldlen;
	bool		old_is_key;
} RowChange;

extern bool RowPush(Relation rel, RowState *s, RowChange *change);
/* A LOCK entry of our own. */
extern bool RowPushLock(Relation rel, RowState *s, CommandId cid, LockTupleMode mode);
/* An INSERT for a slot allocated here (insert.c). */
extern void RowAllocItem(Relation rel, OrbitStorageId storage, StoreItem *item,
						 TransactionId xid, CommandId cid, const char *image, uint32 len);
/* Writes items of freshly allocated slots. */
extern void RowWriteFresh(Relation rel, OrbitStorageId storage, WalRowsKind kind,
						  const StoreItem *items, int n);

/* ---- lock.c ------------------------------------------------------------------------------ */

/* The heavyweight lock on a row, by its canonical TID: the queue of those who wait for it. */
extern bool RowAcquireTupleLock(Relation rel, const RowState *s, LockTupleMode mode,
								LockWaitPolicy policy, bool *have);
extern void RowReleaseTupleLock(Relation rel, const RowState *s, LockTupleMode mode, bool *have);
/* False: the policy is to skip, and xid is still running. */
extern bool RowWaitFor(Relation rel, TransactionId xid, const ItemPointerData *tid,
					   LockWaitPolicy policy, XLTW_Oper oper);

#endif							/* ORBIT_ROW_INTERNAL_H */
