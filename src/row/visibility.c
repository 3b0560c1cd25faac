/*
 * visibility.c: which version of a row a snapshot sees.
 *
 * A chain is read from its newest entry down.  The first entry, locks apart, whose
 * transaction the snapshot counts decides: a version is the row, a delete mark means that
 * there is none.  Entries passed over on the way are of later or aborted transactions; the
 * last one that stands replaced the version found.
 *
 * A killed speculative row is dead for everyone at once, its own transaction included.
 * A speculative row not yet confirmed is an ordinary row to its own transaction; others see
 * its token through a dirty snapshot.
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "storage/predicate.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"

#include "membuf/membuf.h"
#include "row/row_internal.h"

/* What a walk has passed so far. */
typedef struct Passed
{
	TransactionId xmax;			/* lowest UPDATE or DELETE that stands */
	CommandId	cmax;
	TransactionId locker;		/* newest live locker, for the system column */
	bool		confirmed;		/* a CONFIRM: the INSERT below is speculative no more */
} Passed;

static inline void
NoteOver(Passed *p, const CodecEntry *e)
{
	p->xmax = e->xid;
	p->cmax = e->cid;
}

/* True: the entry is of no concern to the walk. */
static bool
PassesBy(Passed *p, const CodecEntry *e)
{
	switch (CodecEntryKind(e))
	{
		case CODEC_LOCK:
			if (!TransactionIdIsValid(p->locker) && RowLockFate(e->xid) != ROW_FATE_ABORTED)
				p->locker = e->xid;
			return true;
		case CODEC_CONFIRM:
			p->confirmed = true;
			return true;
		default:
			return false;
	}
}

static inline bool
EndsRow(const CodecEntry *e)
{
	CodecKind	kind = CodecEntryKind(e);

	return kind == CODEC_KILL || kind == CODEC_DEADSLOT;
}

static inline int
EntryTag(const CodecEntry *e)
{
	return CodecEntryKind(e) == CODEC_UPDATE ? e->tag : 0;
}

static bool
Found(StoreChain *c, const CodecEntry *e, const Passed *p, RowVersion *v)
{
	v->entry = e;
	OrbitTidSet(&v->tid, c->page, c->slot, EntryTag(e));
	if (TransactionIdIsValid(p->xmax))
	{
		v->xmax = p->xmax;
		v->cmax = p->cmax;
	}
	else
	{
		v->xmax = p->locker;
		v->cmax = InvalidCommandId;
	}
	return true;
}

static inline bool
NotFound(bool *all_dead, bool dead)
{
	if (all_dead != NULL)
		*all_dead = dead;
	return false;
}

/*
 * Nobody, now or later, can see what a delete mark has ended.  One of our own may yet be undone, and an
 * index entry given up for it would not come back: that must not hang on a horizon.
 */
static bool
DeadToAll(Relation rel, const CodecEntry *e, bool *all_dead)
{
	if (all_dead == NULL || rel == NULL)
		return false;
	if (e->kind_flags & CODEC_FROZEN)
		return true;
	return !TransactionIdIsCurrentTransactionId(e->xid) &&
		GlobalVisTestIsRemovableXid(GlobalVisTestFor(rel), e->xid);
}

/* ---- MVCC ------------------------------------------------------------------------- */

/*
 * *decided is set to the entry that decided, NULL if none did.
 */
static bool
WalkMvcc(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v, bool *all_dead,
		 const CodecEntry **decided, Passed *p)
{
	const CodecEntry *e;
	bool		standing = false;

	*decided = NULL;
	while ((e = StoreChainNext(c)) != NULL)
	{
		if (PassesBy(p, e))
			continue;
		if (EndsRow(e))
		{
			*decided = e;
			return NotFound(all_dead, true);
		}
		switch (RowMvccSight(e, snapshot))
		{
			case ROW_SIGHT_SEEN:
				*decided = e;
				if (CodecIsVersion(e))
					return Found(c, e, p, v);
				return NotFound(all_dead, !standing && DeadToAll(rel, e, all_dead));
			case ROW_SIGHT_LATER:
				/* may have aborted since; then it replaced nothing */
				if (TransactionIdDidAbort(e->xid))
					break;
				standing = true;
				NoteOver(p, e);
				break;
			case ROW_SIGHT_ABORTED:
				break;
		}
	}
	return NotFound(all_dead, !standing && rel != NULL);
}

bool
RowEndsAt(const CodecEntry *e, Snapshot snapshot)
{
	CodecKind	kind = CodecEntryKind(e);

	if (kind == CODEC_LOCK || kind == CODEC_CONFIRM)
		return false;
	return EndsRow(e) || RowMvccSight(e, snapshot) == ROW_SIGHT_SEEN;
}

static bool
Enough(const CodecEntry *e, void *arg)
{
	return RowEndsAt(e, arg);
}

const StoreCut *
RowCut(StoreCut *cut, Snapshot snapshot, bool one_row)
{
	if (snapshot == NULL || snapshot->snapshot_type != SNAPSHOT_MVCC)
		return NULL;
	*cut = (StoreCut) {Enough, snapshot, snapshot->xmin, one_row};
	return cut;
}

/* Another transaction wrote what this one does not see. */
static void
ConflictOut(Relation rel, TransactionId xid, Snapshot snapshot)
{
	if (TransactionIdPrecedes(xid, TransactionXmin) ||
		TransactionIdEquals(xid, GetTopTransactionIdIfAny()))
		return;
	xid = SubTransGetTopmostTransaction(xid);
	if (TransactionIdPrecedes(xid, TransactionXmin))
		return;
	CheckForSerializableConflictOut(rel, xid, snapshot);
}

/* A row of which nothing is seen yet: whoever made or changed it comes after us. */
static void
ConflictOutAll(StoreChain *c, Relation rel, Snapshot snapshot)
{
	const CodecEntry *e;
	Passed		p = {0};

	StoreChainRewind(c);
	while ((e = StoreChainNext(c)) != NULL)
	{
		if (PassesBy(&p, e) || EndsRow(e))
			continue;
		if (RowMvccSight(e, snapshot) == ROW_SIGHT_LATER && !TransactionIdDidAbort(e->xid))
			ConflictOut(rel, e->xid, snapshot);
	}
}

static bool
WalkSerializable(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v, bool *all_dead)
{
	const CodecEntry *decided;
	Passed		p = {0};
	bool		found = WalkMvcc(c, rel, snapshot, v, all_dead, &decided, &p);

	if (found && TransactionIdIsValid(p.xmax))
		ConflictOut(rel, p.xmax, snapshot);
	if (decided == NULL)
		ConflictOutAll(c, rel, snapshot);
	return found;
}

/* Has an entry been pushed onto the row since the chain was opened? */
static bool
WrittenSince(StoreChain *c)
{
	uint64		active = c->view->pin.active;
	MembufPage *page = MembufPageLookup(active, c->storage, c->page);
	const CodecEntry *newest = page != NULL ? MembufPageNewest(page, c->slot) : NULL;

	return newest != StoreChainActiveHead(c) || MembufActiveSeq() != active;
}

/*
 * A writer publishes and then looks for predicate locks.  A reader must take the lock first
 * and read then, or one of the two could miss the other; but only a row that is seen is to
 * be locked.  So: read, lock, and read again if somebody wrote in between.
 *
 * The lock is on the version's own TID, as in heap: with the row's, whoever replaced a later
 * version would be in conflict with us too, and more transactions would fail than need to.
 */
static bool
VisibleSerializable(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v,
					bool *all_dead)
{
	StoreView  *view = c->view;

	if (!WalkSerializable(c, rel, snapshot, v, all_dead))
		return false;
	if (view != NULL)
		OrbitStopPoint("row_read");
	PredicateLockTID(rel, &v->tid, snapshot, v->entry->xid);
	if (view == NULL || !WrittenSince(c))
		return true;
	StoreViewClose(view);
	StoreViewOpen(view);
	StoreChainOpen(c, view, c->storage, c->page, c->slot);
	return WalkSerializable(c, rel, snapshot, v, all_dead);
}

static bool
VisibleMvcc(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v, bool *all_dead)
{
	const CodecEntry *decided;
	Passed		p = {0};

	if (rel != NULL && unlikely(CheckForSerializableConflictOutNeeded(rel, snapshot)))
		return VisibleSerializable(c, rel, snapshot, v, all_dead);
	return WalkMvcc(c, rel, snapshot, v, all_dead, &decided, &p);
}

/* ---- the other snapshots --------------------------------------------------------------- */

/* Own changes count whatever their command, and so does all that has committed by now. */
static bool
VisibleSelf(StoreChain *c, Relation rel, RowVersion *v, bool *all_dead)
{
	const CodecEntry *e;
	Passed		p = {0};
	bool		standing = false;

	while ((e = StoreChainNext(c)) != NULL)
	{
		if (PassesBy(&p, e))
			continue;
		if (EndsRow(e))
			return NotFound(all_dead, true);
		switch (RowEntryFate(e))
		{
			case ROW_FATE_OWN:
				if (CodecIsVersion(e))
					return Found(c, e, &p, v);
				return NotFound(all_dead, false);
			case ROW_FATE_COMMITTED:
				if (CodecIsVersion(e))
					return Found(c, e, &p, v);
				return NotFound(all_dead, !standing && DeadToAll(rel, e, all_dead));
			case ROW_FATE_RUNNING:
				standing = true;
				NoteOver(&p, e);
				break;
			case ROW_FATE_ABORTED:
				break;
		}
	}
	return NotFound(all_dead, !standing && rel != NULL);
}

/*
 * As SELF, but what others have not committed shows too: a new row with its inserter in
 * snapshot->xmin, an old one with whoever is replacing it in snapshot->xmax.
 */
static bool
VisibleDirty(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v, bool *all_dead)
{
	const CodecEntry *e;
	Passed		p = {0};

	snapshot->xmin = snapshot->xmax = InvalidTransactionId;
	snapshot->speculativeToken = 0;
	while ((e = StoreChainNext(c)) != NULL)
	{
		RowFate		fate;

		if (PassesBy(&p, e))
			continue;
		if (EndsRow(e))
			return NotFound(all_dead, true);
		fate = RowEntryFate(e);
		if (fate == ROW_FATE_ABORTED)
			continue;
		if (fate == ROW_FATE_RUNNING && CodecEntryKind(e) != CODEC_INSERT)
		{
			NoteOver(&p, e);
			continue;
		}
		if (!CodecIsVersion(e))
			return NotFound(all_dead, fate == ROW_FATE_COMMITTED &&
							!TransactionIdIsValid(p.xmax) && DeadToAll(rel, e, all_dead));
		if (fate == ROW_FATE_RUNNING)
		{
			uint32		len;

			snapshot->xmin = e->xid;
			if (!p.confirmed)
				(void) RowImage(e, &len, &snapshot->speculativeToken);
		}
		else
			snapshot->xmax = p.xmax;
		return Found(c, e, &p, v);
	}
	return NotFound(all_dead, !TransactionIdIsValid(p.xmax) && rel != NULL);
}

/* The newest version, whatever its fate. */
static bool
VisibleAny(StoreChain *c, RowVersion *v, bool *all_dead)
{
	const CodecEntry *e;
	Passed		p = {0};
	bool		ended = false;

	while ((e = StoreChainNext(c)) != NULL)
	{
		if (PassesBy(&p, e))
			continue;
		if (EndsRow(e))
			ended = true;
		else if (CodecIsVersion(e))
		{
			Found(c, e, &p, v);
			if (all_dead != NULL)
				*all_dead = false;
			return true;
		}
		else if (!ended && RowEntryFate(e) != ROW_FATE_ABORTED)
			NoteOver(&p, e);
	}
	return NotFound(all_dead, false);
}

/* The newest version that somebody may still see. */
static bool
VisibleNonVacuumable(StoreChain *c, Snapshot snapshot, RowVersion *v, bool *all_dead)
{
	const CodecEntry *e;
	Passed		p = {0};

	while ((e = StoreChainNext(c)) != NULL)
	{
		RowFate		fate;

		if (PassesBy(&p, e))
			continue;
		if (EndsRow(e))
			return NotFound(all_dead, true);
		fate = RowEntryFate(e);
		if (fate == ROW_FATE_ABORTED)
			continue;
		if (CodecIsVersion(e))
			return Found(c, e, &p, v);
		if (fate == ROW_FATE_COMMITTED &&
			((e->kind_flags & CODEC_FROZEN) ||
			 GlobalVisTestIsRemovableXid(snapshot->vistest, e->xid)))
			return NotFound(all_dead, true);
		NoteOver(&p, e);
	}
	return NotFound(all_dead, !TransactionIdIsValid(p.xmax));
}

bool
RowVisible(StoreChain *c, Relation rel, Snapshot snapshot, RowVersion *v, bool *all_dead)
{
	bool		found = false;

	switch (snapshot->snapshot_type)
	{
		case SNAPSHOT_MVCC:
			found = VisibleMvcc(c, rel, snapshot, v, all_dead);
			break;
		case SNAPSHOT_SELF:
			found = VisibleSelf(c, rel, v, all_dead);
			break;
		case SNAPSHOT_ANY:
			return VisibleAny(c, v, all_dead);
		case SNAPSHOT_DIRTY:
			found = VisibleDirty(c, rel, snapshot, v, all_dead);
			break;
		case SNAPSHOT_NON_VACUUMABLE:
			found = VisibleNonVacuumable(c, snapshot, v, all_dead);
			break;
		case SNAPSHOT_HISTORIC_MVCC:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("orbit tables cannot be read during logical decoding")));
			break;
		case SNAPSHOT_TOAST:
			elog(ERROR, "orbit tables do not hold TOAST values");
	}
	if (found && all_dead != NULL)
		*all_dead = false;
	return found;
}

bool
RowFindVersion(StoreChain *c, int tag, RowVersion *v)
{
	const CodecEntry *e;
	Passed		p = {0};

	while ((e = StoreChainNext(c)) != NULL)
	{
		if (PassesBy(&p, e) || EndsRow(e))
			continue;
		if (CodecIsVersion(e) && EntryTag(e) == tag)
			return Found(c, e, &p, v);
		if (RowEntryFate(e) != ROW_FATE_ABORTED)
			NoteOver(&p, e);
	}
	return false;
}

/* ---- every version ---------------------------------------------------------------------- */

typedef struct VersionWalk
{
	TransactionId oldest_xmin;
	const CodecEntry *over;		/* replaced or deleted the next version down */
	RowFate		over_fate;
	bool		killed;
	const CodecEntry **seen;	/* of the arenas: RocksDB may have them too */
	int			nseen;
	int			seen_cap;
} VersionWalk;

static bool
SeenInArena(VersionWalk *w, const CodecEntry *e, bool in_arena)
{
	if (!in_arena)
	{
		for (int i = 0; i < w->nseen; i++)
		{
			if (CodecSameIdentity(w->seen[i], e))
				return true;
		}
		return false;
	}
	if (w->nseen == w->seen_cap)
	{
		w->seen_cap = Max(16, w->seen_cap * 2);
		w->seen = w->seen == NULL ?
			palloc(w->seen_cap * sizeof(*w->seen)) :
			repalloc(w->seen, w->seen_cap * sizeof(*w->seen));
	}
	w->seen[w->nseen++] = e;
	return false;
}

static RowStatus
StatusOfCommitted(VersionWalk *w, TransactionId *running)
{
	if (w->over == NULL)
		return ROW_LIVE;
	if (w->over_fate != ROW_FATE_COMMITTED)
	{
		*running = w->over->xid;
		return ROW_DELETE_IN_PROGRESS;
	}
	if ((w->over->kind_flags & CODEC_FROZEN) ||
		TransactionIdPrecedes(w->over->xid, w->oldest_xmin))
		return ROW_DEAD;
	return ROW_RECENTLY_DEAD;
}

static RowStatus
VersionStatus(VersionWalk *w, const CodecEntry *e, RowFate fate, TransactionId *running)
{
	*running = InvalidTransactionId;
	if (w->killed)
		return ROW_DEAD;
	switch (fate)
	{
		case ROW_FATE_OWN:
			*running = e->xid;
			if (w->over == NULL)
				return ROW_INSERT_IN_PROGRESS;
			*running = w->over->xid;
			return ROW_DELETE_IN_PROGRESS;
		case ROW_FATE_RUNNING:
			*running = e->xid;
			return ROW_INSERT_IN_PROGRESS;
		case ROW_FATE_COMMITTED:
			return StatusOfCommitted(w, running);
		case ROW_FATE_ABORTED:
			break;
	}
	return ROW_DEAD;
}

static void
DescribeVersion(VersionWalk *w, StoreChain *c, const CodecEntry *e, RowFate fate,
				RowVersionStatus *s)
{
	Passed		p = {0};

	if (w->over != NULL)
		NoteOver(&p, w->over);
	Found(c, e, &p, &s->v);
	s->status = VersionStatus(w, e, fate, &s->running);
	s->superseded = w->over != NULL && CodecEntryKind(w->over) == CODEC_UPDATE;
	s->deleted = w->killed || (w->over != NULL && CodecEntryKind(w->over) == CODEC_DELETE);
	s->dead_slot = false;
}

/* What is left of a row that is dead to everyone counts as one dead version. */
static void
DescribeDeadSlot(StoreChain *c, const CodecEntry *e, RowVersionStatus *s)
{
	Passed		p = {0};

	memset(s, 0, sizeof(*s));
	Found(c, e, &p, &s->v);
	s->status = ROW_DEAD;
	s->deleted = true;
	s->dead_slot = true;
}

void
RowForEachVersion(StoreChain *c, TransactionId oldest_xmin,
				  RowVersionCallback callback, void *arg)
{
	VersionWalk w = {.oldest_xmin = oldest_xmin};
	bool		any = false;
	const CodecEntry *e;

	while ((e = StoreChainNext(c)) != NULL)
	{
		RowVersionStatus s;
		CodecKind	kind = CodecEntryKind(e);
		RowFate		fate;

		if (kind == CODEC_LOCK || kind == CODEC_CONFIRM)
			continue;
		if (c->view != NULL && SeenInArena(&w, e, c->seq != 0))
			continue;
		if (kind == CODEC_DEADSLOT)
		{
			/* with versions above it, which an arena still has, the row has been counted */
			DescribeDeadSlot(c, e, &s);
			if (!any)
				(void) callback(&s, arg);
			break;
		}
		if (EndsRow(e))
		{
			w.killed = true;
			continue;
		}
		fate = RowEntryFate(e);
		if (CodecIsVersion(e))
		{
			any = true;
			DescribeVersion(&w, c, e, fate, &s);
			if (!callback(&s, arg) || (e->kind_flags & CODEC_FROZEN))
				break;
		}
		if (fate != ROW_FATE_ABORTED)
		{
			w.over = e;
			w.over_fate = fate;
		}
	}
	if (w.seen != NULL)
		pfree(w.seen);
}

/* ---- dead rows ------------------------------------------------------------------------- */

bool
RowIsDead(StoreChain *c, TransactionId oldest_xmin, TransactionId *ended,
		  TransactionId *removed)
{
	const CodecEntry *e;

	*ended = InvalidTransactionId;
	*removed = InvalidTransactionId;
	while ((e = StoreChainNext(c)) != NULL)
	{
		CodecKind	kind = CodecEntryKind(e);

		if (kind == CODEC_LOCK || kind == CODEC_CONFIRM)
			continue;
		if (!TransactionIdIsValid(*ended))
			*ended = e->xid;
		if (kind == CODEC_KILL)
			return true;
		if (kind == CODEC_DEADSLOT)
		{
			/* who ended it may have committed: it no longer says */
			*ended = *removed = e->xid;
			return true;
		}
		switch (RowEntryFate(e))
		{
			case ROW_FATE_ABORTED:
				continue;
			case ROW_FATE_COMMITTED:
				break;
			case ROW_FATE_OWN:
			case ROW_FATE_RUNNING:
				return false;
		}
		if (kind != CODEC_DELETE ||
			!((e->kind_flags & CODEC_FROZEN) || TransactionIdPrecedes(e->xid, oldest_xmin)))
			return false;
		*ended = *removed = e->xid;
		return true;
	}
	/* everything aborted; a chain of locks alone would be no row */
	return TransactionIdIsValid(*ended);
}

/* Ids of frozen entries may be of a time out of reach, which no snapshot remembers. */
static bool
CountsAsRemover(const CodecEntry *e, TransactionId limit)
{
	if (!TransactionIdIsNormal(e->xid))
		return false;
	if (CodecEntryKind(e) == CODEC_DEADSLOT || (e->kind_flags & CODEC_FROZEN))
		return TransactionIdPrecedes(e->xid, limit) ||
			TransactionIdPrecedes(e->xid, ReadNextTransactionId());
	return TransactionIdPrecedes(e->xid, limit) && TransactionIdDidCommit(e->xid);
}

/*
 * The first that counts is enough, though one below it may have the greater id: entries stand in the order
 * of their commits.  Who does not see a transaction further down as finished does not see this one so either,
 * hence its xmin is not above either of them.
 */
TransactionId
RowRemovedBy(StoreChain *c, TransactionId limit, bool *whole)
{
	const CodecEntry *e;

	*whole = false;
	StoreChainRewind(c);
	while ((e = StoreChainNext(c)) != NULL)
	{
		CodecKind	kind = CodecEntryKind(e);

		if (kind != CODEC_UPDATE && kind != CODEC_DELETE && kind != CODEC_DEADSLOT)
			continue;
		if (CountsAsRemover(e, limit))
		{
			*whole = kind != CODEC_UPDATE;
			return e->xid;
		}
	}
	return InvalidTransactionId;
}
