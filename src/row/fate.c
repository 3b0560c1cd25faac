/*
 * fate.c: what became of a transaction.
 *
 * The order of the tests matters, as in heapam_visibility.c: a transaction sets its commit
 * status before it leaves the list of the running, so "running" is asked first.
 *
 * No hint bits are kept in rows, so the commit log would be asked for the same transactions
 * again and again: a small table remembers who has committed and is no longer running.
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

#define KNOWN			4096	/* 16 kB; 2^12: see Known */
#define CHECK_INTERVAL	INT64CONST(60000000)	/* a minute, in microseconds */
#define FORGET_AFTER	(UINT64CONST(1) << 30)

static TransactionId known[KNOWN];
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

static inline TransactionId *
Known(TransactionId xid)
{
	return &known[(xid * 0x9E3779B1u) >> 20];
}

static bool
KnownCommitted(TransactionId xid)
{
	ForgetOld();
	return *Known(xid) == xid && TransactionIdIsNormal(xid);
}

bool
RowDidCommit(TransactionId xid)
{
	if (KnownCommitted(xid))
		return true;
	if (!TransactionIdDidCommit(xid))
		return false;
	*Known(xid) = xid;
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
