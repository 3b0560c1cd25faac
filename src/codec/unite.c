/*
 * unite.c: the one page routine.
 *
 * Readers, flush and compaction all put pages of one key together through
 * CodecUnite.  For each slot the chains of the parts are laid one behind the
 * other, newest part first, under two rules:
 *
 *   duplicates   an entry whose identity a newer part has already given is left
 *                out.  Entries of one part are not compared with each other.
 *   frozen end   the chain ends with the first frozen version or dead slot met.
 *                If a frozen version is a duplicate, its newer twin inherits the
 *                flag and the chain ends there: everyone sees the row in that
 *                state, and were the flag lost, what an older part holds below would
 *                show again.
 *
 * With both, uniting is associative byte by byte, which RocksDB's partial merges
 * need.  With a horizon each chain is then pruned where it lies (prune.c), and the same
 * holds for what readers see, if no longer for the bytes.
 *
 * Cost: linear in the bytes of the parts.  Chains that only one part has are
 * copied whole.  Identities are looked up in a short array, or in a hash table
 * once a chain has many.
 *
 * Parts are read by bytes at any alignment, so none has to be copied first.
 */
#include <stdlib.h>

#include "codec/pagebytes.h"
#include "codec/prune.h"

static const char *const ErrorDamaged = "damaged page";
static const char *const ErrorMemory = "out of memory";
static const char *const ErrorTooLarge = "page would exceed 128 MB";

/* ---- identities given by newer parts -------------------------------------- */

#define SEEN_LINEAR		32		/* up to here a scan beats hashing */

typedef struct SeenEntry
{
	uint64_t	xid_cid;
	uint32_t	kind_tag;
	uint32_t	offset;			/* of the node in the page being made */
} SeenEntry;

typedef struct Seen
{
	SeenEntry  *entries;
	uint32_t	n;
	uint32_t	cap;
	uint32_t	known;			/* entries[0 .. known) are of newer parts */
	uint32_t   *table;			/* 1 + index into entries, 0 empty */
	uint32_t	table_cap;		/* allocated */
	uint32_t	mask;			/* in use: mask + 1 cells; 0: no table */
	uint32_t	hashed;			/* entries[0 .. hashed) are in the table */
} Seen;

static SeenEntry
Identity(const char *node, size_t offset)
{
	SeenEntry	s;
	uint32_t	kind = (uint8_t) node[NODE_KIND_FLAGS] & CODEC_KIND_MASK;

	s.xid_cid = Load64(node + NODE_XID);
	s.kind_tag = kind << 8;
	if (kind != CODEC_DELETE)	/* a delete mark takes no tag */
		s.kind_tag |= (uint8_t) node[NODE_TAG];
	s.offset = (uint32_t) offset;
	return s;
}

static bool
SameIdentity(const SeenEntry *a, const SeenEntry *b)
{
	return a->xid_cid == b->xid_cid && a->kind_tag == b->kind_tag;
}

static uint32_t
HashIdentity(const SeenEntry *s)
{
	uint64_t	h = s->xid_cid ^ (uint64_t) s->kind_tag * UINT64_C(0x9e3779b97f4a7c15);

	h ^= h >> 33;
	h *= UINT64_C(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64_C(0xc4ceb9fe1a85ec53);
	return (uint32_t) (h >> 32);
}

/* For the next chain. */
static void
SeenReset(Seen *s)
{
	s->n = 0;
	s->known = 0;
	s->mask = 0;
	s->hashed = 0;
}

static bool
SeenAdd(Seen *s, const SeenEntry *e)
{
	if (s->n == s->cap)
	{
		uint32_t	cap = s->cap > 0 ? s->cap * 2 : 64;
		SeenEntry  *entries = realloc(s->entries, cap * sizeof(SeenEntry));

		if (entries == NULL)
			return false;
		s->entries = entries;
		s->cap = cap;
	}
	s->entries[s->n++] = *e;
	return true;
}

/* The cell of this identity, or the empty one where it belongs. */
static uint32_t *
SeenCell(const Seen *s, const SeenEntry *e)
{
	uint32_t	i = HashIdentity(e) & s->mask;

	while (s->table[i] != 0 && !SameIdentity(&s->entries[s->table[i] - 1], e))
		i = (i + 1) & s->mask;
	return &s->table[i];
}

/* Makes room for twice the entries; the table is cleared when it has to grow. */
static bool
SeenSizeTable(Seen *s)
{
	uint32_t	cells = 128;

	while (cells < s->n * 2)
		cells *= 2;
	if (s->mask + 1 >= cells)
		return true;
	if (s->table_cap < cells)
	{
		free(s->table);
		s->table_cap = 0;
		s->table = malloc(cells * sizeof(uint32_t));
		if (s->table == NULL)
			return false;
		s->table_cap = cells;
	}
	memset(s->table, 0, cells * sizeof(uint32_t));
	s->mask = cells - 1;
	s->hashed = 0;
	return true;
}

/* Called between two parts: what was added so far counts from now on. */
static bool
SeenPublish(Seen *s)
{
	s->known = s->n;
	if (s->n <= SEEN_LINEAR)
		return true;
	if (!SeenSizeTable(s))
		return false;
	for (; s->hashed < s->n; s->hashed++)
	{
		uint32_t   *cell = SeenCell(s, &s->entries[s->hashed]);

		/* of twins inside one part the newest stands for both */
		if (*cell == 0)
			*cell = s->hashed + 1;
	}
	return true;
}

static const SeenEntry *
SeenFind(const Seen *s, const SeenEntry *e)
{
	if (s->mask != 0)
	{
		uint32_t	index = *SeenCell(s, e);

		return index != 0 ? &s->entries[index - 1] : NULL;
	}
	for (uint32_t i = 0; i < s->known; i++)
	{
		if (SameIdentity(&s->entries[i], e))
			return &s->entries[i];
	}
	return NULL;
}

/* ---- chains ------------------------------------------------------------------ */

/* A chain of one part; those of one slot are linked from newest to oldest. */
typedef struct ChainRef
{
	const char *nodes;
	uint32_t	size;
	int32_t		older;			/* -1: none */
} ChainRef;

typedef struct Union
{
	const CodecPruning *p;		/* NULL: nothing is pruned */
	bool		complete;
	bool		changed;		/* by pruning */
	char	   *page;			/* being made, room for every part reserved */
	size_t		used;
	bool		overlong;		/* some chain goes on behind its end */
	ChainRef   *refs;
	int32_t		newest[ORBIT_MAX_SLOT + 1]; /* by slot, -1: none */
	int			nchains;
	Seen		seen;
	const char *error;
} Union;

static bool
AppendNodes(Union *u, const char *nodes, size_t size)
{
	if (size > PAGE_MAX_SIZE - u->used)
	{
		u->error = ErrorTooLarge;
		return false;
	}
	memcpy(u->page + u->used, nodes, size);
	u->used += size;
	return true;
}

/* Bytes of a chain up to and with its first frozen version. */
static size_t
FrozenEnd(const ChainRef *ref)
{
	size_t		at = 0;

	while (at < ref->size)
	{
		const char *node = ref->nodes + at;

		at += NodeSize(node);
		if (EndsChain((uint8_t) node[NODE_KIND_FLAGS]))
			break;
	}
	return at;
}

/* A frozen version met again below its newer twin: the chain ends at the twin. */
static void
EndAtTwin(Union *u, const SeenEntry *twin)
{
	char	   *node = u->page + twin->offset;

	node[NODE_KIND_FLAGS] = (char) ((uint8_t) node[NODE_KIND_FLAGS] | CODEC_FROZEN);
	u->used = twin->offset + NodeSize(node);
}

/* Appends what one part adds to the chain; *ended: nothing older matters. */
static bool
AppendPart(Union *u, const ChainRef *ref, bool *ended)
{
	bool		last = ref->older < 0;
	size_t		size;

	for (size_t at = 0; at < ref->size && !*ended; at += size)
	{
		const char *node = ref->nodes + at;
		SeenEntry	self = Identity(node, u->used);
		const SeenEntry *twin = SeenFind(&u->seen, &self);

		size = NodeSize(node);
		*ended = EndsChain((uint8_t) node[NODE_KIND_FLAGS]);
		if (twin != NULL)
		{
			if (*ended)
				EndAtTwin(u, twin);
			continue;
		}
		if (!AppendNodes(u, node, size))
			return false;
		if (!last && !SeenAdd(&u->seen, &self))
		{
			u->error = ErrorMemory;
			return false;
		}
	}
	return true;
}

static bool
AppendChain(Union *u, const ChainRef *ref)
{
	bool		ended = false;

	if (ref->older < 0)
		return AppendNodes(u, ref->nodes, u->overlong ? FrozenEnd(ref) : ref->size);

	SeenReset(&u->seen);
	for (;;)
	{
		if (!AppendPart(u, ref, &ended))
			return false;
		if (ended || ref->older < 0)
			return true;
		if (!SeenPublish(&u->seen))
		{
			u->error = ErrorMemory;
			return false;
		}
		ref = &u->refs[ref->older];
	}
}

/* ---- pages --------------------------------------------------------------------- */

/* Links the chains of every part by slot. */
static void
LinkChains(Union *u, const CodecPart *parts, int nparts)
{
	int32_t		n = 0;

	for (int slot = 0; slot <= ORBIT_MAX_SLOT; slot++)
		u->newest[slot] = -1;
	u->nchains = 0;
	/* oldest part first, so that each newer one goes in front */
	for (int i = nparts - 1; i >= 0; i--)
	{
		const char *page = parts[i].data;
		int			nchains = Load16(page + 2);

		for (int j = 0; j < nchains; j++)
		{
			uint32_t	d = PageDirectory(page, j);
			size_t		start = DirectoryOffset(d);
			ChainRef   *ref = &u->refs[n];

			ref->nodes = page + start;
			ref->size = (uint32_t) (PageChainEnd(page, nchains, parts[i].len, j) - start);
			ref->older = u->newest[DirectorySlot(d)];
			u->newest[DirectorySlot(d)] = n++;
			u->nchains += ref->older < 0;
		}
	}
}

static void
Prune(Union *u, size_t start)
{
	if (u->p != NULL)
		u->used = start + CodecPruneChain(u->p, u->complete, u->page + start,
										  u->used - start, &u->changed);
}

/* Some of the chains are gone: the directory shrinks to the first n. */
static void
ShrinkDirectory(Union *u, int n)
{
	size_t		from = PageBodyStart((size_t) u->nchains);
	size_t		to = PageBodyStart((size_t) n);
	char	   *directory = u->page + PAGE_HEADER;

	for (int i = 0; i < n; i++)
		Store32(directory + i * 4, Load32(directory + i * 4) - (uint32_t) ((from - to) / 8));
	/* what lies between the last of them and the body is zero */
	memset(directory + n * 4, 0, to - PAGE_HEADER - (size_t) n * 4);
	memmove(u->page + to, u->page + from, u->used - from);
	u->used -= from - to;
	u->nchains = n;
}

/* Unless pruned every slot that occurs keeps at least its newest entry. */
static bool
WritePage(Union *u)
{
	char	   *directory = u->page + PAGE_HEADER;
	int			n = 0;

	u->used = PageBodyStart((size_t) u->nchains);
	memset(u->page, 0, u->used);
	for (int slot = 1; slot <= ORBIT_MAX_SLOT; slot++)
	{
		size_t		start = u->used;

		if (u->newest[slot] < 0)
			continue;
		Store32(directory + n * 4, (uint32_t) slot << 24 | (uint32_t) (start / 8));
		if (!AppendChain(u, &u->refs[u->newest[slot]]))
			return false;
		Prune(u, start);
		n += u->used > start;
	}
	if (n < u->nchains)
		ShrinkDirectory(u, n);
	u->page[0] = CODEC_PAGE_FORMAT;
	Store16(u->page + 2, (uint16_t) u->nchains);
	Store32(u->page + 4, (uint32_t) u->used);
	return true;
}

/* Unites checked parts of `nchains` chains and `bytes` bytes in all. */
static bool
UniteChecked(Union *u, const CodecPart *parts, int nparts,
			 size_t nchains, size_t bytes, CodecBuf *out)
{
	bool		ok;

	/* the united page is never longer than its parts and an empty page */
	if (bytes > PAGE_MAX_SIZE - PAGE_HEADER)
		bytes = PAGE_MAX_SIZE - PAGE_HEADER;
	u->refs = malloc((nchains + 1) * sizeof(ChainRef));
	if (u->refs == NULL || !CodecBufReserve(out, bytes + PAGE_HEADER))
	{
		free(u->refs);
		u->error = ErrorMemory;
		return false;
	}
	u->page = out->data + out->len;
	LinkChains(u, parts, nparts);
	ok = WritePage(u);
	if (ok)
		out->len += u->used;
	free(u->refs);
	free(u->seen.entries);
	free(u->seen.table);
	return ok;
}

static void
UnionInit(Union *u, bool complete, const CodecPruning *p)
{
	u->p = p != NULL && p->horizon != NULL ? p : NULL;
	u->complete = complete;
	u->changed = false;
	u->overlong = false;
	u->error = NULL;
	memset(&u->seen, 0, sizeof(u->seen));
}

bool
CodecUnite(const CodecPart *parts, int nparts, bool complete,
		   const CodecPruning *p, CodecBuf *out, const char **error)
{
	Union		u;
	size_t		nchains = 0;
	size_t		bytes = 0;
	bool		ok = true;

	CodecAssert(out->len % 8 == 0);
	UnionInit(&u, complete, p);
	for (int i = 0; i < nparts && ok; i++)
	{
		PageShape	shape;

		ok = parts[i].data != NULL &&
			CodecCheckPage(parts[i].data, parts[i].len, &shape);
		if (!ok)
		{
			u.error = ErrorDamaged;
			break;
		}
		nchains += shape.nchains;
		bytes += shape.size;
		u.overlong = u.overlong || shape.overlong;
	}

	if (ok && nparts == 1 && !u.overlong && u.p == NULL)
	{
		ok = CodecBufAppend(out, parts[0].data, parts[0].len);
		if (!ok)
			u.error = ErrorMemory;
	}
	else if (ok)
		ok = UniteChecked(&u, parts, nparts, nchains, bytes, out);
	if (!ok && error != NULL)
		*error = u.error;
	return ok;
}

bool
CodecPrune(const void *page, size_t len, bool complete, const CodecPruning *p,
		   CodecBuf *out, bool *changed, const char **error)
{
	Union		u;
	PageShape	shape;
	CodecPart	part = {page, len};
	size_t		start = out->len;
	bool		ok = page != NULL && CodecCheckPage(page, len, &shape);

	CodecAssert(out->len % 8 == 0);
	UnionInit(&u, complete, p);
	u.error = ErrorDamaged;
	*changed = false;
	if (ok && u.p != NULL && (shape.overlong || !CodecIsPruned(page, len)))
	{
		u.overlong = shape.overlong;
		ok = UniteChecked(&u, &part, 1, shape.nchains, shape.size, out);
		*changed = ok && (u.changed || u.overlong);
		if (!*changed)
			out->len = start;
	}
	if (!ok && error != NULL)
		*error = u.error;
	return ok;
}
