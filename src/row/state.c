/*
 * state.c: what a writer must know about a row before it changes it.
 *
 * RowExamine reads the row's chain with respect to one version, the target that the caller's TID
 * names: what replaced it, who holds locks, and what the write must still find when it
 * comes to it (push.c).  All lookups of transactions are done here, with a view open
 * and no lock held.
 *
 * Locks protect the row, not a version.  A LOCK entry therefore counts wherever it lies in the
 * chain, with one exception: whether we ourselves hold the target already is asked of
 * the locks below what replaced it only, for a lock taken on a later version says
 * nothing about who may change the one the caller sees.
 *
 * CODEC_NO_LOCKERS on an entry says that when it was made no other running transaction had
 * a lock further down, unless that lock was put above it in the same change.  It speaks of what
 * lies below, so it holds whatever became of the entry's own transaction, and the search for
 * lockers ends there.
 *
 * Tags.  The next version's tag is the newest one's plus 1, modulo 255.  To be free it must be
 * that of no entry still in the chain, aborted ones included.  A walk over the
 * whole chain is needed only when the tag enters a half of the range: 128 may be used when
 * no tag of the upper half is left, 0 again when none of the lower half is.  Between
 * those points the tags ahead are free because they were when the half was entered.
 *
 * Retained versions of wide rows are what makes pages large: 255 rows of 255 versions of 8 kB
 * would be half a gigabyte, to be united and copied by each reader, and more than a page can hold.
 * So at every 16th tag the chain is measured, and a row that has too much of a
 * past goes on as a new one, on another page.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/lock.h"

#include "row/row_internal.h"

#define TAG_HALF	128
#define TAG_LOOK	16			/* versions between two looks at the whole chain */
#define CHAIN_BYTES	((Size) 128 * 1024)	/* at a look, a longer one gets no more versions */

/* The longest chains of a page together must stay far below what a page may be (codec.h). */
StaticAssertDecl(ORBIT_MAX_SLOT * (CHAIN_BYTES + (TAG_LOOK + 1) * CODEC_NODE_SIZE(BLCKSZ)) <
				 ((Size) 1 << 27) * 3 / 4, "size of a page");

/* ---- life ----------------------------------------------------------------------- */

void
RowStateInit(RowState *s, OrbitStorageId storage)
{
	memset(s, 0, sizeof(*s));
	s->context = CurrentMemoryContext;
	s->storage = storage;
}

void
RowStateFree(RowState *s)
{
	RowStateClose(s);
	if (s->holders != NULL)
		pfree(s->holders);
	if (s->over != NULL)
		pfree(s->over);
	if (s->leads != NULL)
		pfree(s->leads);
}

void
RowStateClose(RowState *s)
{
	if (s->open)
		StoreViewClose(&s->view);
	s->open = false;
}

/* ---- collecting ------------------------------------------------------------------- */

/* Most rows have nothing to collect: a first array comes with the first element. */
static void *
Grow(RowState *s, void *array, int *cap, Size element)
{
	if (array == NULL)
	{
		*cap = 8;
		return MemoryContextAlloc(s->context, *cap * element);
	}
	*cap *= 2;
	return repalloc(array, *cap * element);
}

static void
AddHolder(RowState *s, const CodecEntry *e, RowFate fate)
{
	LockTupleMode mode = (LockTupleMode) e->tag;
	RowHolder  *h;

	/*
	 * The same lock met again: carried up, or in an arena and in RocksDB.  Where it lies is
	 * where it was taken, the lowest place; but behind the target RocksDB may repeat
	 * what the arenas have above it.
	 */
	for (int i = 0; i < s->nholders; i++)
	{
		h = &s->holders[i];
		if (h->xid == e->xid && h->mode == mode)
		{
			if (!s->exists)
				h->over = s->nover;
			return;
		}
	}
	if (s->nholders == s->holders_cap)
		s->holders = Grow(s, s->holders, &s->holders_cap, sizeof(RowHolder));
	h = &s->holders[s->nholders++];
	h->xid = e->xid;
	h->cid = e->cid;
	h->mode = mode;
	h->own = fate == ROW_FATE_OWN;
	h->over = s->nover;
}

static void
FillNext(RowState *s, RowOver *o, const CodecEntry *e)
{
	CodecDelete mark;

	o->deleted = false;
	o->new_row = false;
	if (CodecEntryKind(e) == CODEC_UPDATE)
	{
		OrbitTidSet(&o->next, s->page, s->slot, e->tag);
		return;
	}
	memcpy(&mark, e->payload, sizeof(mark));
	if (mark.flags & CODEC_DELETE_UPDATED)
	{
		o->new_row = true;
		OrbitTidSet(&o->next, mark.page, mark.slot, 0);
	}
	else if (mark.flags & CODEC_DELETE_MOVED)
		ItemPointerSetMovedPartitions(&o->next);
	else
	{
		o->deleted = true;
		o->next = s->target_tid;
	}
}

static void
AddOver(RowState *s, const CodecEntry *e, RowFate fate)
{
	RowOver    *o;

	if (s->nover == s->over_cap)
		s->over = Grow(s, s->over, &s->over_cap, sizeof(RowOver));
	o = &s->over[s->nover++];
	o->xid = e->xid;
	o->cid = e->cid;
	o->fate = fate;
	o->mode = (e->kind_flags & CODEC_KEYS_UPDATED) ?
		LockTupleExclusive : LockTupleNoKeyExclusive;
	FillNext(s, o, e);
}

static void
AddLead(RowState *s, const CodecEntry *e, bool live)
{
	if (s->nleads == s->leads_cap)
		s->leads = Grow(s, s->leads, &s->leads_cap, sizeof(RowLead));
	s->leads[s->nleads].entry = e;
	s->leads[s->nleads].xid = e->xid;
	s->leads[s->nleads].mode = (LockTupleMode) e->tag;
	s->leads[s->nleads++].live = live;
}

/*
 * What the next entry of the row need not link to: LOCK entries, of which some may be in force, and
 * aborted updates and deletes, at the head of the active arena.
 */
static bool
IsLead(const CodecEntry *e, RowFate fate)
{
	CodecKind	kind = CodecEntryKind(e);

	return kind == CODEC_LOCK ||
		((kind == CODEC_UPDATE || kind == CODEC_DELETE) && fate == ROW_FATE_ABORTED);
}

/* They end with the first entry that is neither. */
static void
NoteLead(RowState *s, const CodecEntry *e, RowFate fate, bool live, bool *leading)
{
	bool		in_active = s->chain.seq == s->seq;

	if (!*leading)
		return;
	if (in_active && IsLead(e, fate))
	{
		AddLead(s, e, live);
		return;
	}
	*leading = false;
	if (in_active)
		s->after_leads = e;
}

static void
SetTarget(RowState *s, const CodecEntry *e, RowFate fate)
{
	s->exists = true;
	s->target.entry = e;
	s->target.tid = s->target_tid;
	s->xmin = e->xid;
	s->cmin = e->cid;
	s->xmin_fate = fate;
	s->target.xmax = InvalidTransactionId;
	s->target.cmax = InvalidCommandId;
	if (s->nover > 0)
	{
		s->target.xmax = s->over[s->nover - 1].xid;
		s->target.cmax = s->over[s->nover - 1].cid;
	}
}

static void
AddVersion(RowState *s, const CodecEntry *e, RowFate fate, bool killed)
{
	int			tag = CodecEntryKind(e) == CODEC_UPDATE ? e->tag : 0;

	if (s->newest_tag < 0)
		s->newest_tag = tag;
	if (s->exists)
		return;
	if (tag == OrbitTidTag(&s->target_tid))
	{
		SetTarget(s, e, killed ? ROW_FATE_ABORTED : fate);
		return;
	}
	if (fate != ROW_FATE_ABORTED)
		AddOver(s, e, fate);
}

/* True: nothing older matters. */
static bool
CollectEntry(RowState *s, const CodecEntry *e, RowFate fate, bool *killed, bool *lockers_done)
{
	CodecKind	kind = CodecEntryKind(e);

	switch (kind)
	{
		case CODEC_LOCK:
			/* handled by the caller */
		case CODEC_CONFIRM:
			break;
		case CODEC_KILL:
			*killed = true;
			break;
		case CODEC_DEADSLOT:
			return true;
		case CODEC_DELETE:
			if (!s->exists && fate != ROW_FATE_ABORTED)
				AddOver(s, e, fate);
			break;
		case CODEC_INSERT:
		case CODEC_UPDATE:
			AddVersion(s, e, fate, *killed);
			break;
	}
	if ((kind == CODEC_UPDATE || kind == CODEC_LOCK) && (e->kind_flags & CODEC_NO_LOCKERS))
		*lockers_done = true;
	return s->exists && *lockers_done;
}

/* Fates are looked up where they matter; elsewhere the result is not used. */
static RowFate
FateOfEntry(const RowState *s, const CodecEntry *e, bool leading)
{
	switch (CodecEntryKind(e))
	{
		case CODEC_INSERT:
		case CODEC_UPDATE:
		case CODEC_DELETE:
			return !s->exists || leading ? RowEntryFate(e) : ROW_FATE_COMMITTED;
		default:
			return ROW_FATE_COMMITTED;
	}
}

static void
Collect(RowState *s)
{
	const CodecEntry *e;
	bool		leading = true;
	bool		killed = false;
	bool		lockers_done = false;

	while ((e = StoreChainNext(&s->chain)) != NULL)
	{
		RowFate		fate = FateOfEntry(s, e, leading);
		bool		live = false;

		s->walked++;
		if (CodecEntryKind(e) == CODEC_LOCK && !lockers_done)
		{
			RowFate		locker = RowLockFate(e->xid);

			live = locker != ROW_FATE_ABORTED;
			if (live)
				AddHolder(s, e, locker);
		}
		NoteLead(s, e, fate, live, &leading);
		if (CollectEntry(s, e, fate, &killed, &lockers_done))
			break;
	}
}

void
RowExamine(RowState *s, const ItemPointerData *tid)
{
	Assert(!s->open);
	s->target_tid = *tid;
	OrbitTidCanonical(&s->canonical, tid);
	s->page = OrbitTidPage(tid);
	s->slot = OrbitTidSlot(tid);
	s->exists = false;
	s->newest_tag = -1;
	s->walked = 0;
	s->nholders = 0;
	s->nover = 0;
	s->nleads = 0;
	s->after_leads = NULL;

	StoreViewOpen(&s->view);
	s->open = true;
	StoreChainOpen(&s->chain, &s->view, s->storage, s->page, s->slot);
	s->seq = s->view.pin.active;
	s->head = StoreChainActiveHead(&s->chain);
	Collect(s);
}

/* ---- deciding ------------------------------------------------------------------------ */

/* What replaced the target, or NULL. */
static const RowOver *
Successor(const RowState *s)
{
	return s->nover > 0 ? &s->over[s->nover - 1] : NULL;
}

TM_Result
RowSatisfiesUpdate(const RowState *s, CommandId cid)
{
	const RowOver *o = Successor(s);

	switch (s->xmin_fate)
	{
		case ROW_FATE_OWN:
			if (s->cmin >= cid)
				return TM_Invisible;
			break;
		case ROW_FATE_COMMITTED:
			break;
		default:
			return TM_Invisible;
	}
	if (o == NULL)
		return s->nholders > 0 ? TM_BeingModified : TM_Ok;
	switch (o->fate)
	{
		case ROW_FATE_OWN:
			return o->cid >= cid ? TM_SelfModified : TM_Invisible;
		case ROW_FATE_RUNNING:
			return TM_BeingModified;
		default:
			return o->deleted ? TM_Deleted : TM_Updated;
	}
}

void
RowFailure(const RowState *s, TM_Result result, TM_FailureData *tmfd)
{
	const RowOver *o = s->exists ? Successor(s) : NULL;

	tmfd->ctid = s->target_tid;
	tmfd->xmax = InvalidTransactionId;
	tmfd->cmax = InvalidCommandId;
	if (o != NULL)
	{
		tmfd->ctid = o->next;
		tmfd->xmax = o->xid;
		if (result == TM_SelfModified)
			tmfd->cmax = o->cid;
	}
}

bool
RowModesConflict(LockTupleMode a, LockTupleMode b)
{
	static const LOCKMODE level[] = {
		[LockTupleKeyShare] = AccessShareLock,
		[LockTupleShare] = RowShareLock,
		[LockTupleNoKeyExclusive] = ExclusiveLock,
		[LockTupleExclusive] = AccessExclusiveLock
	};

	return DoLockModesConflict(level[a], level[b]);
}

TransactionId
RowBlocker(const RowState *s, LockTupleMode mode)
{
	const RowOver *o = Successor(s);

	if (o != NULL && o->fate == ROW_FATE_RUNNING && RowModesConflict(mode, o->mode))
		return o->xid;
	for (int i = s->nholders - 1; i >= 0; i--)
	{
		const RowHolder *h = &s->holders[i];

		if (!h->own && RowModesConflict(mode, h->mode))
			return h->xid;
	}
	return InvalidTransactionId;
}

bool
RowOwnInvolved(const RowState *s)
{
	if (s->exists && s->xmin_fate == ROW_FATE_OWN)
		return true;
	for (int i = 0; i < s->nover; i++)
	{
		if (s->over[i].fate == ROW_FATE_OWN)
			return true;
	}
	for (int i = 0; i < s->nholders; i++)
	{
		if (s->holders[i].own)
			return true;
	}
	return false;
}

int
RowOwnLock(const RowState *s)
{
	int			strongest = -1;

	for (int i = 0; i < s->nholders; i++)
	{
		const RowHolder *h = &s->holders[i];

		if (h->own && h->over == s->nover)
			strongest = Max(strongest, (int) h->mode);
	}
	return strongest;
}

/* ---- tags ------------------------------------------------------------------------------ */

/* Is there room in the row for versions up to the next look? */
static bool
HasRoom(RowState *s, int next)
{
	const CodecEntry *e;
	Size		bytes = 0;

	StoreChainRewind(&s->chain);
	while ((e = StoreChainNext(&s->chain)) != NULL)
	{
		CodecKind	kind = CodecEntryKind(e);
		int			tag = kind == CODEC_UPDATE ? e->tag : 0;

		if (kind != CODEC_UPDATE && kind != CODEC_INSERT)
			continue;
		bytes += CODEC_NODE_SIZE(e->len);
		if (bytes > CHAIN_BYTES)
			return false;
		if (next % TAG_HALF == 0 && tag / TAG_HALF == next / TAG_HALF)
			return false;
	}
	return true;
}

int
RowNextTag(RowState *s)
{
	int			next = s->newest_tag + 1;

	Assert(s->open && s->newest_tag >= 0);
	if (next > ORBIT_MAX_TAG)
		next = 0;
	if (next % TAG_LOOK == 0 && !HasRoom(s, next))
		return -1;
	return next;
}
