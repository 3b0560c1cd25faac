/*
 * codec_history_store.h: what is stored of the page in codec_history_test.c, and who
 * works on it: the write buffer and its flush, horizons, VACUUM, compactions.
 */
#ifndef CODEC_HISTORY_STORE_H
#define CODEC_HISTORY_STORE_H

#include "codec_history.h"

#define MAX_PARTS		24
#define MAX_HORIZONS	6
#define TOKEN			4

/* ---- rows and their entries -------------------------------------------- */

typedef struct Row
{
	int			slot;
	bool		begun;
	bool		index;			/* some index leads here */
	int			speculative;	/* xid of an insertion not yet confirmed or killed, -1 none */
	Ent			all[MAX_ENTRIES];	/* oldest first */
	uint32_t	lsn[MAX_ENTRIES];
	int			n;
	int			flushed;		/* all[flushed ..] are in the write buffer */
} Row;

static Row	rows[MAX_ROWS];
static uint32_t serials;
static uint32_t wal_end;		/* LSNs count entries */

static uint32_t
PayloadLength(const Ent *e)
{
	if (e->kind == CODEC_DELETE)
		return sizeof(CodecDelete);
	if (!IsVersion(e))
		return 0;
	return 9 + e->serial % 13 + ((e->flags & CODEC_SPECULATIVE) ? TOKEN : 0);
}

typedef union Bytes
{
	CodecEntry	e;
	char		room[CODEC_ENTRY_HEADER + 40];
} Bytes;

/* The serial number over and over; the token is the same. */
static void
EncodeEntry(const Ent *e, Bytes *b)
{
	uint32_t	len = PayloadLength(e);
	uint32_t	token = IsVersion(e) && (e->flags & CODEC_SPECULATIVE) ? TOKEN : 0;

	memset(b, 0, sizeof(*b));
	b->e.len = len;
	b->e.xid = (uint32_t) (origin + (uint64_t) e->xid);
	b->e.cid = e->cid;
	b->e.kind_flags = e->kind | e->flags;
	b->e.tag = e->tag;
	for (uint32_t i = 0; i < len; i++)
		b->room[CODEC_ENTRY_HEADER + i] = (char) (e->serial >> (i % 4 * 8));
	for (uint32_t i = 0; i < token; i++)
		b->room[CODEC_ENTRY_HEADER + len - TOKEN + i] = (char) (e->serial >> (i * 8));
}

static Ent
DecodeEntry(const CodecEntry *c)
{
	Ent			e = {0};
	Bytes		want;

	e.kind = (uint8_t) CodecEntryKind(c);
	e.flags = c->kind_flags & (uint8_t) ~CODEC_KIND_MASK;
	e.tag = c->tag;
	e.xid = (int) (c->xid - (uint32_t) origin);
	e.cid = c->cid;
	if (c->len < TOKEN)
		return e;
	memcpy(&e.serial, c->payload, TOKEN);
	EncodeEntry(&e, &want);
	if (want.e.len != c->len || memcmp(want.e.payload, c->payload, c->len) != 0)
		e.serial = 0;
	return e;
}

static void
DecodeRow(const CodecPage *page, int slot, List *l)
{
	int			chain;
	const CodecEntry *c = CodecPageFind(page, slot, &chain);

	l->n = 0;
	for (; c != NULL && l->n < MAX_ENTRIES; c = CodecPageOlder(page, chain, c))
		l->e[l->n++] = DecodeEntry(c);
}

static void
TrueRow(const Row *r, List *l)
{
	l->n = 0;
	for (int i = r->n - 1; i >= 0; i--)
	{
		if (!r->all[i].unlinked)
			l->e[l->n++] = r->all[i];
	}
}

/* ---- what is stored ---------------------------------------------------- */

static CodecBuf parts[MAX_PARTS];	/* newest first */
static int	nparts;
static int	kept_locks;			/* locks in the parts are of xids before this one */

static bool
Build(CodecBuilder *b, const Ent *e, bool frozen)
{
	Bytes		bytes;

	EncodeEntry(e, &bytes);
	return frozen ? CodecBuildFrozen(b, &bytes.e) : CodecBuildEntry(b, &bytes.e);
}

/* The write buffer as a page. */
static bool
BufferPage(CodecBuf *out)
{
	CodecBuilder b;
	bool		ok = true;

	out->len = 0;
	CodecBuildBegin(&b, out);
	for (int i = 0; i < MAX_ROWS; i++)
	{
		ok = ok && CodecBuildChain(&b, rows[i].slot);
		for (int k = rows[i].n - 1; k >= rows[i].flushed; k--)
			ok = ok && (rows[i].all[k].unlinked || Build(&b, &rows[i].all[k], false));
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	return ok;
}

/* As any reader sees it: nothing is pruned. */
static bool
ReadStore(CodecBuf *out, CodecPage *page)
{
	CodecPart	all[MAX_PARTS + 1];
	CodecBuf	buffer = {0};
	bool		ok = BufferPage(&buffer);

	out->len = 0;
	all[0].data = buffer.data;
	all[0].len = buffer.len;
	for (int i = 0; i < nparts; i++)
	{
		all[i + 1].data = parts[i].data;
		all[i + 1].len = parts[i].len;
	}
	ok = ok && CodecUnite(all, nparts + 1, true, NULL, out, NULL) &&
		CodecPageOpen(page, out->data, out->len);
	CodecBufFree(&buffer);
	return ok;
}

static bool
ReadRow(const Row *r, List *l)
{
	CodecBuf	bytes = {0};
	CodecPage	page;
	bool		ok = ReadStore(&bytes, &page);

	if (ok)
		DecodeRow(&page, r->slot, l);
	CodecBufFree(&bytes);
	return ok;
}

/* What store/flushpages.c freezes of a write buffer. */
static const Ent *
FlushFreezes(const Row *r)
{
	const Ent  *frozen = NULL;

	for (int i = r->n - 1; i >= r->flushed; i--)
	{
		const Ent  *e = &r->all[i];

		if (e->unlinked)
			continue;
		if (e->kind == CODEC_LOCK)
		{
			if (frozen != NULL && xids[e->xid].state == RUNNING)
				return NULL;
		}
		else if (e->kind > CODEC_DELETE)
		{
			if (frozen == NULL)
				return NULL;
		}
		else if (frozen == NULL && !(e->flags & CODEC_SPECULATIVE) &&
				 xids[e->xid].state == COMMITTED && e->xid < OldestNeeded())
			frozen = e;
	}
	return frozen;
}

static bool
FlushRow(CodecBuilder *b, Row *r, bool freeze)
{
	const Ent  *frozen = freeze ? FlushFreezes(r) : NULL;
	bool		ok = CodecBuildChain(b, r->slot);
	bool		ended = false;

	for (int i = r->n - 1; i >= r->flushed && !ended; i--)
	{
		const Ent  *e = &r->all[i];

		if (e->unlinked || (e->kind == CODEC_LOCK && xids[e->xid].state != RUNNING))
			continue;
		if (e->kind == CODEC_LOCK && e->xid >= kept_locks)
			kept_locks = e->xid + 1;
		ended = e == frozen;
		ok = ok && Build(b, e, ended);
	}
	r->flushed = r->n;
	return ok;
}

static bool
Flush(bool freeze)
{
	CodecBuilder b;
	CodecBuf	page = {0};
	bool		ok = true;

	if (nparts == MAX_PARTS)
		return true;
	freeze = freeze && OldestRunning() >= kept_locks;
	CodecBuildBegin(&b, &page);
	for (int i = 0; i < MAX_ROWS; i++)
		ok = ok && FlushRow(&b, &rows[i], freeze);
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	memmove(parts + 1, parts, sizeof(CodecBuf) * (size_t) nparts++);
	parts[0] = page;
	return ok;
}

/* ---- horizons ---------------------------------------------------------- */

typedef struct Horizon
{
	CodecHorizon h;
	uint8_t    *chunks[2];
} Horizon;

typedef struct Settling			/* then every lock was of an xid before `next` */
{
	int			limit;
	int			next;
} Settling;

static Horizon horizons[MAX_HORIZONS];
static int	nhorizons;
static uint64_t marks[MAX_HORIZONS];	/* "cleaned", the newest last */
static int	nmarks;
static Settling settlings[MAX_XIDS];
static int	nsettlings;

static int
Settled(int limit)
{
	int			oldest = OldestRunning();
	int			settled = 0;

	if (nsettlings < MAX_XIDS)
	{
		settlings[nsettlings].limit = limit;
		settlings[nsettlings++].next = next_xid;
	}
	for (int i = 0; i < nsettlings; i++)
	{
		if (settlings[i].next <= oldest)
			settled = settlings[i].limit;
	}
	return settled;
}

/* What the horizon does not speak of is noise. */
static uint8_t *
FateChunk(const CodecHorizon *h, uint64_t chunk)
{
	uint8_t    *bits = Alloc(CODEC_FATES_CHUNK / 8);

	memset(bits, (int) Random(256), CODEC_FATES_CHUNK / 8);
	for (int x = 0; x < next_xid; x++)
	{
		uint64_t	full = origin + (uint64_t) x;
		uint8_t		bit = (uint8_t) (1 << full % 8);
		uint8_t    *byte = &bits[full % CODEC_FATES_CHUNK / 8];

		if (full < h->base || full >= h->limit || full / CODEC_FATES_CHUNK != chunk)
			continue;
		*byte = (uint8_t) (xids[x].state == COMMITTED ? *byte | bit : *byte & ~bit);
	}
	return bits;
}

static void
FreeHorizon(Horizon *h)
{
	free(h->chunks[0]);
	free(h->chunks[1]);
}

static void
Publish(bool all_known)
{
	int			limit = OldestNeeded();
	Horizon    *h;

	if (nhorizons == MAX_HORIZONS)
	{
		FreeHorizon(&horizons[0]);
		memmove(horizons, horizons + 1, sizeof(Horizon) * --nhorizons);
	}
	h = &horizons[nhorizons++];
	h->h.limit = origin + (uint64_t) limit;
	h->h.settled = origin + (uint64_t) Settled(limit);
	h->h.base = all_known || Random(3) > 0 ? origin : origin + Random((uint32_t) limit + 1);
	h->chunks[0] = FateChunk(&h->h, h->h.base / CODEC_FATES_CHUNK);
	h->chunks[1] = FateChunk(&h->h, h->h.base / CODEC_FATES_CHUNK + 1);
}

/* One of the last few, most often the newest. */
static int
Recent(int n)
{
	while (n > 1 && Random(3) == 0)
		n--;
	return n - 1;
}

static CodecPruning
SomePruning(bool newest)
{
	Horizon    *h = &horizons[newest ? nhorizons - 1 : Recent(nhorizons)];
	CodecPruning p;

	/* the struct may have moved */
	h->h.fates = (const uint8_t *const *) h->chunks;
	p.horizon = &h->h;
	p.cleaned = nmarks == 0 ? 0 : marks[newest ? nmarks - 1 : Recent(nmarks)];
	return p;
}

/* ---- VACUUM ------------------------------------------------------------ */

static int	vacuum_step;
static int	vacuum_limit;

static bool
LooksDead(const List *l, int limit)
{
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];

		if (PassesBy(e))
			continue;
		if (EndsRow(e))
			return true;
		if (Fate(e) != ABORTED)
			return e->kind == CODEC_DELETE && Fate(e) == COMMITTED &&
				((e->flags & CODEC_FROZEN) || e->xid < limit);
		if (IsBottom(e))
			break;
	}
	return l->n > 0;
}

/* Its steps lie apart: what happens in between must not matter. */
static bool
VacuumStep(void)
{
	bool		ok = true;

	switch (vacuum_step++)
	{
		case 0:
			vacuum_limit = OldestNeeded();
			break;
		case 1:
			for (int i = 0; i < MAX_ROWS; i++)
			{
				List		l;

				ok = ok && ReadRow(&rows[i], &l);
				if (ok && LooksDead(&l, vacuum_limit))
					rows[i].index = false;
			}
			break;
		default:
			if (nmarks == MAX_HORIZONS)
				memmove(marks, marks + 1, sizeof(uint64_t) * --nmarks);
			marks[nmarks++] = origin + (uint64_t) vacuum_limit;
			vacuum_step = 0;
			break;
	}
	return ok;
}

/* ---- compaction -------------------------------------------------------- */

static bool
PrunedAgain(const CodecBuf *page, bool complete, const CodecPruning *p)
{
	CodecBuf	out = {0};
	bool		changed = true;
	bool		ok;

	ok = CodecPrune(page->data, page->len, complete, p, &out, &changed, NULL) && !changed;
	CodecBufFree(&out);
	if (!ok)
		printf("# pruning twice is not pruning once\n");
	return ok;
}

/* As a compaction filter: one part. */
static bool
Filter(int i, bool complete, const CodecPruning *p)
{
	CodecBuf	out = {0};
	bool		changed;
	bool		ok;

	ok = CodecPrune(parts[i].data, parts[i].len, complete, p, &out, &changed, NULL);
	if (ok && changed)
	{
		ok = PrunedAgain(&out, complete, p);
		CodecBufFree(&parts[i]);
		parts[i] = out;
	}
	else
		CodecBufFree(&out);
	return ok;
}

/* As a merge: parts i to j become one, or none. */
static bool
Merge(int i, int j, bool complete, const CodecPruning *p)
{
	CodecPart	in[MAX_PARTS];
	CodecBuf	out = {0};
	CodecPage	page;
	bool		ok;

	for (int k = i; k <= j; k++)
	{
		in[k - i].data = parts[k].data;
		in[k - i].len = parts[k].len;
	}
	ok = CodecUnite(in, j - i + 1, complete, p, &out, NULL) &&
		CodecPageOpen(&page, out.data, out.len) &&
		(p == NULL || PrunedAgain(&out, complete, p));
	if (!ok)
		return false;
	for (int k = i; k <= j; k++)
		CodecBufFree(&parts[k]);
	parts[i] = out;
	memmove(parts + i + 1, parts + j + 1, sizeof(CodecBuf) * (size_t) (nparts - j - 1));
	nparts -= j - i;
	if (page.nchains == 0 && Random(2) == 0)
	{
		CodecBufFree(&parts[i]);
		memmove(parts + i, parts + i + 1, sizeof(CodecBuf) * (size_t) (nparts - i - 1));
		nparts--;
	}
	return ok;
}

static bool
Compact(void)
{
	CodecPruning p;
	bool		complete;
	bool		ok = true;
	int			i;
	int			j;

	if (nparts == 0 || nhorizons == 0)
		return true;
	p = SomePruning(false);
	i = (int) Random((uint32_t) nparts);
	j = i + (int) Random((uint32_t) (nparts - i));
	/* of the last part it may be known that nothing older exists, or not */
	complete = j == nparts - 1 && Random(4) > 0;
	for (int k = i; k <= j && ok; k++)
	{
		if (Random(2))
			ok = Filter(k, complete && k == nparts - 1, &p);
	}
	if (Random(2))
		p = SomePruning(false);
	return ok && Merge(i, j, complete, Random(5) > 0 ? &p : NULL);
}

#endif							/* CODEC_HISTORY_STORE_H */
