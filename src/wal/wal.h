/*
 * wal/wal.h: the custom resource manager: logging with publication, redo,
 * description.  Record formats: wal/records.h.
 */
#ifndef ORBIT_WAL_H
#define ORBIT_WAL_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "base/ids.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "utils/rel.h"

/* _PG_init under preload: RegisterCustomRmgr. */
extern void WalRegister(void);

/*
 * What startup must do at the begin and end of redo and while it waits for arena space; set by
 * the worker folder, which knows how to bring a worker up during recovery.
 */
typedef struct WalRecoveryHooks
{
	void		(*redo_begin) (void);	/* rm_startup */
	void		(*redo_end) (void); /* rm_cleanup */
} WalRecoveryHooks;
extern WalRecoveryHooks wal_recovery_hooks;

/* Prepared buffer of one rows record; see WalPrepareRows. */
typedef struct WalRows
{
	char	   *data;
	uint32		len;
	Size		arena_cost;
	bool		logged;			/* relation is permanent */
} WalRows;

typedef enum WalRowsKind		/* record types of row changes; same format */
{
	WAL_INSERT = 0x00,
	WAL_MULTI_INSERT = 0x10,
	WAL_UPDATE = 0x20,
	WAL_DELETE = 0x30,
	WAL_LOCK = 0x40,
	WAL_CONFIRM = 0x50,			/* confirm or kill a speculative row */
	WAL_REWRITE = 0x60			/* other transactions' entries, by a table rewrite */
} WalRowsKind;

/*
 * Builds the record's bytes in a buffer of this process (valid until the next call) and computes
 * the arena space to reserve.  May ereport.  Does not keep `items`.
 * old: the old row's identity for logical decoding (an image as in an INSERT payload), or NULL;
 * needed where RelationIsLogicallyLogged (old_is_key: only the replica identity's columns).
 */
extern void WalPrepareRows(WalRows *w, WalRowsKind kind, Relation rel, OrbitStorageId storage,
						   const StoreItem *items, int n,
						   const void *old, uint32 oldlen, bool old_is_key);

/*
 * Between MembufEnterWrite and MembufLeaveWrite, with a live reservation of w->arena_cost and, for
 * rows that exist, their row lock held: in one critical section inserts the record (if logged)
 * and publishes the items in order.  items must be those of WalPrepareRows (`below` may
 * have been set since).  Returns the record's end, 0 when not logged.
 */
extern XLogRecPtr WalWriteRows(WalRows *w, WalRowsKind kind, OrbitStorageId storage,
							   MembufReservation *r, const StoreItem *items, int n);

/* One key/value, logged (if `logged`) and published; reserves space itself; no lock held. */
extern void WalWriteKv(OrbitFamily family, const char *key, Size keylen, MembufOp op,
					   const void *value, Size valuelen, bool logged);

/*
 * Before entries of ended rows are deleted from indexes, and before an index, or a rewritten table, can
 * be used that lacks rows or versions which ended: queries on a standby that do not see
 * latest_removed as finished must be gone first (R6).  Invalid, or not a permanent relation: nothing.
 */
extern void WalLogCleanup(Relation rel, OrbitStorageId storage, TransactionId latest_removed);

/* StoreLogBlock: logs and flushes a block of storage ids. */
extern void WalLogStorageBlock(uint64 next_storage);

#endif							/* ORBIT_WAL_H */
