/*
 * prune.c: what may be let go of a chain, given what became of transactions.
 *
 * An entry is decided when its transaction precedes the horizon's limit and its fate is
 * known.  Such a transaction has ended, and if it committed every snapshot sees what it did.
 *
 * These go:
 *
 *	LOCK		once its transaction precedes the limit, whatever its fate
 *	UPDATE, DELETE	aborted
 *	CONFIRM		aborted; committed: together with the token and the flag of the INSERT that it
 *				confirms.  Both must be at hand: as long as the INSERT may lie in an
 *				older part the CONFIRM stays, and an INSERT alone may yet meet a KILL
 *	what lies behind a version that is frozen
 *
 * Frozen is the newest committed and decided version or delete mark behind which no lock
 * of a running transaction can lie, for readers of locks stop at it too:
 *
 *	INSERT				nothing lies behind it
 *	DELETE				its row has no more use for locks; one that was replaced gave them
 *						to the new row
 *	CODEC_NO_LOCKERS	said so when it was made
 *	before `settled`	whoever held one then has ended
 *
 * To be safe against a wrong flag, nothing is frozen in front of an undecided LOCK that
 * is at hand.  Entries above a frozen one stay in front of it.
 *
 * A row is dead when its first entry, apart from those that go, is a decided and committed
 * DELETE, a KILL before the limit, an aborted INSERT, or a dead slot.  Its chain becomes one
 * DEADSLOT, a frozen delete mark without payload: older parts may still hold versions, and only
 * behind a tombstone are they hidden (R3).  A dead slot goes altogether only where
 * history is complete, and where no index leads to it any more.
 *
 * Why any order of partial merges, and horizons older than earlier ones, are harmless: each rule
 * looks at entries whose transactions have ended for good, and what it leaves means the same to
 * every reader as what was there.  Nothing is dropped because something is missing at hand,
 * except in complete history.  An older horizon knows less; flags and dead slots that a
 * newer one has left are taken as they are, without asking for an xid again.
 *
 * xids have 32 bits here and are taken for the nearest before the limit.  Those of frozen
 * entries may be older than that and are only used where guessing too late does no harm.
 */
#include "codec/pagebytes.h"
#include "codec/prune.h"

#define FIRST_NORMAL_XID	3

typedef enum Fate
{
	FATE_UNDECIDED,
	FATE_COMMITTED,
	FATE_ABORTED
} Fate;

static inline uint32_t
NodeXid(const char *node)
{
	return Load32(node + NODE_XID);
}

static inline CodecKind
NodeKind(const char *node)
{
	return (CodecKind) ((uint8_t) node[NODE_KIND_FLAGS] & CODEC_KIND_MASK);
}

static inline bool
NodeHas(const char *node, uint8_t flag)
{
	return ((uint8_t) node[NODE_KIND_FLAGS] & flag) != 0;
}

static inline bool
NodeEndsChain(const char *node)
{
	return EndsChain((uint8_t) node[NODE_KIND_FLAGS]);
}

/* ---- transactions ------------------------------------------------------------- */

/* By how much an xid that is normal and not too far away precedes the limit; else 0. */
static inline uint32_t
Before(const CodecHorizon *h, uint32_t xid)
{
	uint32_t	distance = (uint32_t) h->limit - xid;

	if (xid < FIRST_NORMAL_XID || distance > UINT32_C(1) << 31 || distance > h->limit)
		return 0;
	return distance;
}

static inline bool
HasEnded(const CodecHorizon *h, const char *node)
{
	return Before(h, NodeXid(node)) != 0;
}

static Fate
NodeFate(const CodecHorizon *h, const char *node)
{
	uint32_t	distance = Before(h, NodeXid(node));
	uint64_t	full = h->limit - distance;
	const uint8_t *chunk;
	uint32_t	bit = (uint32_t) (full % CODEC_FATES_CHUNK);

	if (distance == 0 || full < h->base)
		return FATE_UNDECIDED;
	chunk = h->fates[full / CODEC_FATES_CHUNK - h->base / CODEC_FATES_CHUNK];
	return (chunk[bit / 8] >> (bit % 8) & 1) != 0 ? FATE_COMMITTED : FATE_ABORTED;
}

/*
 * The full xid of whoever ended the row.  A frozen mark's may be past the limit, of a newer
 * horizon, or out of reach behind it: then this is too late by some 2^32, and the dead slot
 * stays longer than it had to.
 */
static uint64_t
EndingXid(const CodecHorizon *h, const char *node)
{
	uint32_t	xid = NodeXid(node);
	uint32_t	distance = Before(h, xid);

	if (NodeKind(node) == CODEC_DEADSLOT)
		return (uint64_t) Load32(node + NODE_CID) << 32 | xid;
	return distance != 0 ? h->limit - distance : h->limit + (uint32_t) (xid - (uint32_t) h->limit);
}

/* ---- what is to become of a chain ------------------------------------------------ */

typedef struct Plan
{
	const CodecPruning *p;
	const CodecHorizon *h;
	const char *frozen;			/* the chain is to end here; NULL: nowhere */
	const char *dead;			/* what ended the row; NULL: it is not known to be dead */
	size_t		end;			/* nobody reads beyond: behind the INSERT at the latest */
	bool		complete;
	bool		confirmed;		/* a committed CONFIRM of `confirmer` was met */
	uint32_t	confirmer;
} Plan;

/* May a committed and decided entry be the last one of its chain? */
static bool
MayFreeze(const Plan *plan, const char *node)
{
	switch (NodeKind(node))
	{
		case CODEC_INSERT:
			return !NodeHas(node, CODEC_SPECULATIVE) ||
				(plan->confirmed && plan->confirmer == NodeXid(node));
		case CODEC_DELETE:
			return true;
		default:
			return NodeHas(node, CODEC_NO_LOCKERS) ||
				plan->h->limit - Before(plan->h, NodeXid(node)) < plan->h->settled;
	}
}

/*
 * An INSERT, UPDATE or DELETE that is not frozen.  *above: an entry that stays has been met.
 */
static void
PlanChange(Plan *plan, const char *node, bool *above)
{
	CodecKind	kind = NodeKind(node);
	Fate		fate = NodeFate(plan->h, node);

	if (fate == FATE_ABORTED)
	{
		if (kind == CODEC_INSERT && !*above && plan->dead == NULL)
			plan->dead = node;
		return;
	}
	if (fate == FATE_COMMITTED)
	{
		if (kind == CODEC_DELETE && !*above)
			plan->dead = node;
		if (plan->frozen == NULL && MayFreeze(plan, node))
			plan->frozen = node;
	}
	*above = true;
}

static void
PlanNode(Plan *plan, const char *node, bool *above)
{
	switch (NodeKind(node))
	{
		case CODEC_LOCK:
			if (HasEnded(plan->h, node))
				break;
			/* whoever looks for it must get here */
			plan->frozen = NULL;
			plan->dead = NULL;
			*above = true;
			break;
		case CODEC_CONFIRM:
			/* above its INSERT, with the same fate */
			if (NodeFate(plan->h, node) == FATE_COMMITTED)
			{
				plan->confirmed = true;
				plan->confirmer = NodeXid(node);
			}
			break;
		case CODEC_KILL:
			if (!*above && HasEnded(plan->h, node))
				plan->dead = node;
			*above = true;
			break;
		default:
			PlanChange(plan, node, above);
			break;
	}
}

static void
PlanChain(Plan *plan, const char *nodes, size_t size)
{
	bool		above = false;
	size_t		at = 0;
	const char *node;

	do
	{
		node = nodes + at;
		at += NodeSize(node);
		if (NodeEndsChain(node))
		{
			if (plan->frozen == NULL)
				plan->frozen = node;
			if (!above && NodeKind(node) >= CODEC_DELETE)
				plan->dead = node;
			break;
		}
		PlanNode(plan, node, &above);
	} while (NodeKind(node) != CODEC_INSERT && at < size);
	plan->end = at;
}

/* Does this entry, in front of the one that is frozen, go for its own sake? */
static bool
Goes(const Plan *plan, const char *node)
{
	switch (NodeKind(node))
	{
		case CODEC_LOCK:
			return HasEnded(plan->h, node);
		case CODEC_UPDATE:
		case CODEC_DELETE:
			return NodeFate(plan->h, node) == FATE_ABORTED;
		case CODEC_CONFIRM:
			switch (NodeFate(plan->h, node))
			{
				case FATE_ABORTED:
					return true;
				case FATE_COMMITTED:
					/* its INSERT is at hand, or cut off, or does not exist */
					return plan->frozen != NULL || plan->complete;
				case FATE_UNDECIDED:
					break;
			}
			return false;
		default:
			return false;
	}
}

/* ---- rewriting ----------------------------------------------------------------------- */

/* A speculative INSERT that has been confirmed becomes an ordinary one. */
static void
DropToken(char *node)
{
	uint32_t	len = Load32(node + NODE_LEN) - TOKEN_SIZE;
	size_t		size = CODEC_NODE_SIZE(len);

	Store32(node + NODE_LEN, len);
	node[NODE_KIND_FLAGS] = (char) ((uint8_t) node[NODE_KIND_FLAGS] & ~CODEC_SPECULATIVE);
	/* the token's bytes that are padding now */
	memset(node + NODE_PAYLOAD + len, 0, size - NODE_PAYLOAD - len);
}

static void
Freeze(const Plan *plan, char *node, bool *changed)
{
	bool		token = NodeKind(node) == CODEC_INSERT && NodeHas(node, CODEC_SPECULATIVE) &&
		plan->confirmed && plan->confirmer == NodeXid(node);

	*changed = *changed || token || !NodeEndsChain(node);
	if (token)
		DropToken(node);
	if (!NodeEndsChain(node))
		node[NODE_KIND_FLAGS] = (char) ((uint8_t) node[NODE_KIND_FLAGS] | CODEC_FROZEN);
}

/* The chain of a dead row: one dead slot or nothing. */
static size_t
WriteDead(const Plan *plan, char *nodes, size_t size, bool *changed)
{
	uint64_t	xid = EndingXid(plan->h, plan->dead);
	bool		gone = plan->complete && xid < plan->p->cleaned;

	if (!gone && size == NODE_MIN_SIZE && NodeKind(nodes) == CODEC_DEADSLOT)
		return size;
	*changed = true;
	if (gone)
		return 0;
	memset(nodes, 0, NODE_MIN_SIZE);
	Store32(nodes + NODE_XID, (uint32_t) xid);
	Store32(nodes + NODE_CID, (uint32_t) (xid >> 32));
	nodes[NODE_KIND_FLAGS] = CODEC_DEADSLOT;
	return NODE_MIN_SIZE;
}

static size_t
WriteChain(const Plan *plan, char *nodes, size_t size, bool *changed)
{
	size_t		used = 0;
	size_t		node_size;
	bool		last = false;

	for (size_t at = 0; at < plan->end && !last; at += node_size)
	{
		char	   *node = nodes + at;

		node_size = NodeSize(node);
		last = node == plan->frozen;
		if (!last && Goes(plan, node))
			continue;
		if (last)
			Freeze(plan, node, changed);
		if (used < at)
			memmove(nodes + used, node, NodeSize(node));
		used += NodeSize(nodes + used);
	}
	*changed = *changed || used < size;
	return used;
}

size_t
CodecPruneChain(const CodecPruning *p, bool complete, char *nodes, size_t size, bool *changed)
{
	Plan		plan = {.p = p, .h = p->horizon, .complete = complete};

	PlanChain(&plan, nodes, size);
	if (plan.dead != NULL)
		return WriteDead(&plan, nodes, size, changed);
	return WriteChain(&plan, nodes, size, changed);
}

bool
CodecIsPruned(const char *page, size_t len)
{
	int			nchains = Load16(page + 2);

	for (int i = 0; i < nchains; i++)
	{
		size_t		start = DirectoryOffset(PageDirectory(page, i));
		const char *node = page + start;

		if (PageChainEnd(page, nchains, len, i) - start != NodeSize(node) ||
			!NodeHas(node, CODEC_FROZEN) || NodeKind(node) > CODEC_UPDATE ||
			NodeHas(node, CODEC_SPECULATIVE))
			return false;
	}
	return true;
}
