/*
 * fate.c: what became of a transaction.
 *
 * The order of the tests matters, as in heapam_visibility.c: a transaction sets its commit
 * status before it leaves the list of the running, so "running" is asked first.
 *
 * No hint bits are kept in rows, so the commit log would be asked for the same transactions
 * again and again: a small table remembers who has committed and is no longer running.  A cell is for
 * transactions that began one after another, for rows that have changed lately are of few such cells,
 * and those stay in a processor's cache while single transactions, each in a place of its own, would not.
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "row/row_internal.h"

/* ---- committed transactions ------------------------------------------------------- */

#define KNOWN_CELLS		256		/* 17 kB with CELL_XIDS of 512 */
#define CELL_XIDS		512
#define CELL_WORDS		(CELL_XIDS / 64)
#define CHECK_INTERVAL	INT64CONST(60000000)	/* a minute, in microseconds */
#define FORGET_AFTER	(UINT64CONST(1) << 30)

/* Of each cell: which transactions it is for (xid / CELL_XIDS), and who of them has committed. */
static uint32 known_range[KNOWN_CELLS];
static uint64 known[KNOWN_CELLS][CELL_WORDS];

static TimestampTz checked = 0;
static uint64 known_since = 0;	/* full xid */

/*
 * An xid means another transaction after 2^32 others.  Far fewer can begin in a minute, and
 * none of a single statement's xids can come round while its snapshot lasts.
 */
static void
ForgetOld(void)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();
	uint64		next;

	if (likely(now == checked || (now > checked && now - checked < CHECK_INTERVAL)))
		return;
	checked = now;
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	if (next - known_since > FORGET_AFTER)
	{
		memset(known, 0, sizeof(known));
		known_since = next;
	}
}

static bool
KnownCommitted(TransactionId xid)
{
	uint32		range = xid / CELL_XIDS;
	uint32		cell = range % KNOWN_CELLS;

	ForgetOld();
	return known_range[cell] == range && (known[cell][xid % CELL_XIDS / 64] >> (xid % 64) & 1) != 0;
}

static void
RememberCommitted(TransactionId xid)
{
	uint32		range = xid / CELL_XIDS;
	uint32		cell = range % KNOWN_CELLS;

	if (known_range[cell] != range)
	{
		known_range[cell] = range;
		memset(known[cell], 0, sizeof(known[cell]));
	}
	known[cell][xid % CELL_XIDS / 64] |= UINT64CONST(1) << (xid % 64);
}

bool
RowDidCommit(TransactionId xid)
{
	if (KnownCommitted(xid))
		return true;
	if (!TransactionIdDidCommit(xid))
		return false;
	RememberCommitted(xid);
	return true;
}

/* ---- fates ------------------------------------------------------------------------- */

RowFate
RowXidFate(TransactionId xid)
{
	if (KnownCommitted(xid))
		return ROW_FATE_COMMITTED;
	if (TransactionIdIsCurrentTransactionId(xid))
		return ROW_FATE_OWN;
	if (TransactionIdIsInProgress(xid))
		return ROW_FATE_RUNNING;
	return RowDidCommit(xid) ? ROW_FATE_COMMITTED : ROW_FATE_ABORTED;
}

RowFate
RowEntryFate(const CodecEntry *e)
{
	if (e->kind_flags & CODEC_FROZEN)
		return ROW_FATE_COMMITTED;
	return RowXidFate(e->xid);
}

/*
 * A lock may stay in a page for long after its transaction, when the commit log no longer knows
 * it.  The log is asked about recent ones only, of which to be told that they are not
 * running is dear: who has committed is remembered.
 */
RowFate
RowLockFate(TransactionId xid)
{
	if (KnownCommitted(xid))
		return ROW_FATE_ABORTED;
	if (TransactionIdIsCurrentTransactionId(xid))
		return ROW_FATE_OWN;
	if (TransactionIdIsInProgress(xid))
		return ROW_FATE_RUNNING;
	if (!TransactionIdPrecedes(xid, RecentXmin))
		(void) RowDidCommit(xid);
	return ROW_FATE_ABORTED;
}

/*
 * Below the snapshot's xmin nothing was running, and nothing is our own: a snapshot's xmin is
 * not above our own xid if we had one then, and an xid we got later is not below it.
 */
RowSight
RowMvccSight(const CodecEntry *e, Snapshot snapshot)
{
	TransactionId xid = e->xid;

	if (e->kind_flags & CODEC_FROZEN)
		return ROW_SIGHT_SEEN;
	if (!TransactionIdPrecedes(xid, snapshot->xmin))
	{
		if (TransactionIdIsCurrentTransactionId(xid))
			return e->cid < snapshot->curcid ? ROW_SIGHT_SEEN : ROW_SIGHT_LATER;
		if (XidInMVCCSnapshot(xid, snapshot))
			return ROW_SIGHT_LATER;
	}
	return RowDidCommit(xid) ? ROW_SIGHT_SEEN : ROW_SIGHT_ABORTED;
}
