/*
 * codec_history.h: the world in which codec_history_test.c prunes: transactions,
 * snapshots, and what readers make of a row.  No codec here, but for the kinds and flags
 * of entries: everything is said a second time, on lists, and slowly.
 */
#ifndef CODEC_HISTORY_H
#define CODEC_HISTORY_H

#include <string.h>

#include "codec/codec.h"
#include "codec_tap.h"

#define MAX_XIDS		600
#define MAX_TXNS		4
#define MAX_SNAPSHOTS	4
#define MAX_ROWS		8
#define MAX_ENTRIES		400		/* of a row, ever */

/* ---- transactions ------------------------------------------------------ */

typedef enum State
{
	RUNNING,
	COMMITTED,
	ABORTED
} State;

typedef struct Xid
{
	State		state;			/* a released subtransaction runs on */
	int			parent;			/* -1: top level */
	int			top;
} Xid;

typedef struct Txn
{
	bool		active;
	int			top;
	int			current;		/* the innermost open subtransaction */
	uint32_t	cid;
} Txn;

typedef struct Snapshot
{
	bool		active;
	int			xmin;
	int			xmax;
	bool		running[MAX_XIDS];
	int			owner;			/* top xid, or -1 */
	uint32_t	curcid;
} Snapshot;

static uint64_t origin;			/* full xid of xid 0 */
static Xid	xids[MAX_XIDS];
static int	next_xid;
static Txn	txns[MAX_TXNS];
static Snapshot snapshots[MAX_SNAPSHOTS];

static inline int
NewXid(int parent)
{
	int			x;

	/* as PostgreSQL leaves out those that mean no transaction */
	while ((uint32_t) (origin + (uint64_t) next_xid) < 3)
		xids[next_xid++].state = ABORTED;
	x = next_xid++;
	xids[x].state = RUNNING;
	xids[x].parent = parent;
	xids[x].top = parent < 0 ? x : xids[parent].top;
	return x;
}

static inline bool
IsWithin(int x, int ancestor)
{
	for (; x >= 0; x = xids[x].parent)
	{
		if (x == ancestor)
			return true;
	}
	return false;
}

/* Ends a transaction, or aborts a subtransaction, with all that is within. */
static inline void
EndXid(int top, State state)
{
	for (int x = top; x < next_xid; x++)
	{
		if (xids[x].state == RUNNING && xids[x].top == xids[top].top && IsWithin(x, top))
			xids[x].state = state;
	}
}

static inline int
OldestRunning(void)
{
	for (int x = 0; x < next_xid; x++)
	{
		if (xids[x].state == RUNNING)
			return x;
	}
	return next_xid;
}

/* The oldest xid that some snapshot may not see, now or later. */
static inline int
OldestNeeded(void)
{
	int			x = OldestRunning();

	for (int i = 0; i < MAX_SNAPSHOTS; i++)
	{
		if (snapshots[i].active && snapshots[i].xmin < x)
			x = snapshots[i].xmin;
	}
	return x;
}

static inline void
TakeSnapshot(Snapshot *s, const Txn *owner)
{
	s->active = true;
	s->xmin = OldestRunning();
	s->xmax = next_xid;
	for (int x = 0; x < next_xid; x++)
		s->running[x] = xids[x].state == RUNNING;
	s->owner = owner != NULL ? owner->top : -1;
	s->curcid = owner != NULL ? owner->cid : 0;
}

/* ---- entries ----------------------------------------------------------- */

typedef struct Ent
{
	uint8_t		kind;
	uint8_t		flags;
	uint8_t		tag;
	bool		unlinked;		/* a lock that a later entry linked past */
	int			xid;
	uint32_t	cid;
	uint32_t	serial;			/* the payload follows from it; 0: damaged */
} Ent;

typedef struct List				/* newest first */
{
	int			n;
	Ent			e[MAX_ENTRIES];
} List;

static inline bool
IsVersion(const Ent *e)
{
	return e->kind == CODEC_INSERT || e->kind == CODEC_UPDATE;
}

static inline bool
PassesBy(const Ent *e)
{
	return e->kind == CODEC_LOCK || e->kind == CODEC_CONFIRM;
}

static inline bool
EndsRow(const Ent *e)
{
	return e->kind == CODEC_KILL || e->kind == CODEC_DEADSLOT;
}

/* Behind this one no reader looks. */
static inline bool
IsBottom(const Ent *e)
{
	return e->kind == CODEC_INSERT || e->kind == CODEC_DEADSLOT ||
		((e->flags & CODEC_FROZEN) && e->kind <= CODEC_DELETE);
}

static inline State
Fate(const Ent *e)
{
	return (e->flags & CODEC_FROZEN) ? COMMITTED : xids[e->xid].state;
}

/* ---- readers ----------------------------------------------------------- */

/* What a reader finds of a row. */
typedef struct Answer
{
	bool		found;
	Ent			version;
	int			xmax;			/* -1: none */
	uint32_t	cmax;
	int			xmin;			/* dirty: running inserter, -1: none */
	uint32_t	token;			/* dirty: 0: none */
} Answer;

static inline bool
SameAnswer(const Answer *a, const Answer *b)
{
	if (a->found != b->found)
		return false;
	if (!a->found)
		return true;
	return a->version.kind == b->version.kind && a->version.tag == b->version.tag &&
		a->version.xid == b->version.xid && a->version.cid == b->version.cid &&
		a->version.serial == b->version.serial && a->version.serial != 0 &&
		a->xmax == b->xmax && a->cmax == b->cmax && a->xmin == b->xmin && a->token == b->token;
}

static inline void
NoteOver(Answer *a, const Ent *e)
{
	a->xmax = e->xid;
	a->cmax = e->cid;
}

static inline void
NothingYet(Answer *a)
{
	memset(a, 0, sizeof(*a));
	a->xmax = a->xmin = -1;
}

/* 1: seen; 0: later; -1: aborted. */
static inline int
Sight(const Ent *e, const Snapshot *s)
{
	if (e->flags & CODEC_FROZEN)
		return 1;
	if (e->xid >= s->xmin)
	{
		if (s->owner >= 0 && xids[e->xid].state == RUNNING && xids[e->xid].top == s->owner)
			return e->cid < s->curcid;
		if (e->xid >= s->xmax || s->running[e->xid])
			return 0;
	}
	return xids[e->xid].state == COMMITTED ? 1 : -1;
}

static inline Answer
ReadMvcc(const List *l, const Snapshot *s)
{
	Answer		a;

	NothingYet(&a);
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];
		int			sight;

		if (PassesBy(e))
			continue;
		if (EndsRow(e))
			break;
		sight = Sight(e, s);
		if (sight == 0 && xids[e->xid].state != ABORTED)
			NoteOver(&a, e);
		if (sight > 0)
		{
			a.found = IsVersion(e);
			a.version = *e;
			break;
		}
		if (IsBottom(e))
			break;
	}
	return a;
}

/* What is so at this moment, to transaction `top` (-1: to nobody who has done anything). */
static inline Answer
ReadLatest(const List *l, int top)
{
	Answer		a;

	NothingYet(&a);
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];
		State		fate;

		if (PassesBy(e))
			continue;
		if (EndsRow(e))
			break;
		fate = Fate(e);
		if (fate == COMMITTED || (fate == RUNNING && xids[e->xid].top == top))
		{
			a.found = IsVersion(e);
			a.version = *e;
			break;
		}
		if (fate == RUNNING)
			NoteOver(&a, e);
		if (IsBottom(e))
			break;
	}
	return a;
}

/* As a unique check: others' unfinished changes show. */
static inline Answer
ReadDirty(const List *l)
{
	Answer		a;
	bool		confirmed = false;

	NothingYet(&a);
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];
		State		fate = e->kind == CODEC_DEADSLOT ? COMMITTED : Fate(e);

		confirmed = confirmed || e->kind == CODEC_CONFIRM;
		if (PassesBy(e) || (fate == ABORTED && !EndsRow(e)))
			continue;
		if (EndsRow(e))
			break;
		if (fate == RUNNING && e->kind != CODEC_INSERT)
		{
			NoteOver(&a, e);
			continue;
		}
		a.found = IsVersion(e);
		a.version = *e;
		if (fate == RUNNING)
			a.xmin = e->xid;
		if (fate == RUNNING && !confirmed && (e->flags & CODEC_SPECULATIVE))
			a.token = e->serial;
		break;
	}
	return a;
}

/* The version that a TID names, whatever its fate, and what replaced it. */
static inline Answer
ReadTag(const List *l, int tag)
{
	Answer		a;

	NothingYet(&a);
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];

		if (PassesBy(e) || EndsRow(e))
			continue;
		if (IsVersion(e) && e->tag == tag)
		{
			a.found = true;
			a.version = *e;
			break;
		}
		if (Fate(e) != ABORTED)
			NoteOver(&a, e);
		if (IsBottom(e))
			break;
	}
	return a;
}

/* The newest entry, apart from locks, that has not aborted; NULL: the row is gone. */
static inline const Ent *
Standing(const List *l)
{
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];

		if (PassesBy(e))
			continue;
		if (EndsRow(e))
			return NULL;
		if (Fate(e) != ABORTED)
			return e;
		if (IsBottom(e))
			break;
	}
	return NULL;
}

/* Changes of a row above one of its versions, as followers of updates and waiters see them. */
static inline int
ChangesAbove(const List *l, const Ent *version, List *over)
{
	over->n = 0;
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];

		if (PassesBy(e) || EndsRow(e))
			continue;
		if (IsVersion(e) && e->tag == version->tag && e->xid == version->xid)
			return over->n;
		if (Fate(e) != ABORTED)
			over->e[over->n++] = *e;
	}
	return -1;
}

/* ---- row locks --------------------------------------------------------- */

static inline bool
ModesConflict(int a, int b)
{
	static const bool conflict[4][4] = {
		{0, 0, 0, 1}, {0, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 1}
	};

	return conflict[a][b];
}

/* Locks in force, as a writer looks for them; a lock is its xid and mode. */
static inline void
Holders(const List *l, List *holders)
{
	holders->n = 0;
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];
		bool		known = e->kind != CODEC_LOCK || xids[e->xid].state != RUNNING;

		for (int k = 0; k < holders->n && !known; k++)
			known = holders->e[k].xid == e->xid && holders->e[k].tag == e->tag;
		if (!known)
			holders->e[holders->n++] = *e;
		if (((e->kind == CODEC_UPDATE || e->kind == CODEC_LOCK) && (e->flags & CODEC_NO_LOCKERS)) ||
			IsBottom(e))
			break;
	}
}

/* The lock strength that an entry gives its transaction. */
static inline int
Strength(const Ent *e)
{
	return e->kind == CODEC_LOCK ? e->tag : (e->flags & CODEC_KEYS_UPDATED) ? 3 : 2;
}

/*
 * The strongest lock of each xid, its changes included: what that makes superfluous is found by
 * some readers and not by others.
 */
static inline void
StrongestHolders(const List *l, List *strongest)
{
	List		holders;

	Holders(l, &holders);
	for (int i = 0; i < l->n && !IsBottom(&l->e[i]); i++)
	{
		if (!PassesBy(&l->e[i]) && !EndsRow(&l->e[i]) && Fate(&l->e[i]) == RUNNING)
			holders.e[holders.n++] = l->e[i];
	}
	strongest->n = 0;
	for (int i = 0; i < holders.n; i++)
	{
		const Ent  *e = &holders.e[i];
		int			k = 0;

		while (k < strongest->n && strongest->e[k].xid != e->xid)
			k++;
		if (k == strongest->n)
		{
			strongest->e[strongest->n++] = *e;
			strongest->e[k].tag = 0;
		}
		if (Strength(e) > strongest->e[k].tag)
			strongest->e[k].tag = (uint8_t) Strength(e);
	}
}

static inline bool
SameHolders(const List *a, const List *b)
{
	bool		same = a->n == b->n;

	for (int i = 0; i < a->n && same; i++)
	{
		bool		there = false;

		for (int k = 0; k < b->n && !there; k++)
			there = a->e[i].xid == b->e[k].xid && a->e[i].tag == b->e[k].tag;
		same = there;
	}
	return same;
}

#endif							/* CODEC_HISTORY_H */
