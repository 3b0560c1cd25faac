/*
 * codec_test.c: src/codec alone, without a server.  Prints TAP.
 *
 *   cc -std=gnu11 -g -O1 -Isrc -It/unit t/unit/codec_test.c src/codec/(every .c) -o codec_test
 *   ./codec_test [seed]
 *
 * Run it under -fsanitize=address,undefined as well: every page handed to the
 * reader lies in a block of exactly its size, so a read past the end is caught.
 */
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "codec/codec.h"
#include "codec_tap.h"

/* ---- the model: a page as arrays of entries ----------------------------------- */

#define MODEL_PAYLOAD	32

typedef struct ModelEntry
{
	int			part;			/* where it came from, while uniting */
	union
	{
		CodecEntry	e;
		char		room[CODEC_ENTRY_HEADER + MODEL_PAYLOAD + 2];
	};
} ModelEntry;

typedef struct ModelChain
{
	ModelEntry *entries;
	int			n;
	int			cap;
} ModelChain;

typedef struct Model
{
	ModelChain	chains[ORBIT_MAX_SLOT + 1];
} Model;

static Model *
ModelCreate(void)
{
	Model	   *m = Alloc(sizeof(Model));

	memset(m, 0, sizeof(Model));
	return m;
}

static void
ModelFree(Model *m)
{
	for (int s = 0; s <= ORBIT_MAX_SLOT; s++)
		free(m->chains[s].entries);
	free(m);
}

/* e may lie in the array that grows, hence the copy. */
static ModelEntry *
ModelAdd(ModelChain *c, const ModelEntry *e)
{
	ModelEntry	copy = *e;

	if (c->n == c->cap)
	{
		ModelEntry *grown;

		c->cap = c->cap ? c->cap * 2 : 4;
		grown = Alloc(sizeof(ModelEntry) * (size_t) c->cap);
		if (c->n > 0)
			memcpy(grown, c->entries, sizeof(ModelEntry) * (size_t) c->n);
		free(c->entries);
		c->entries = grown;
	}
	c->entries[c->n] = copy;
	return &c->entries[c->n++];
}

static bool
EndsChain(const CodecEntry *e)
{
	CodecKind	k = CodecEntryKind(e);

	if (k == CODEC_DEADSLOT)
		return true;
	return (e->kind_flags & CODEC_FROZEN) &&
		(k == CODEC_INSERT || k == CODEC_UPDATE || k == CODEC_DELETE);
}

/* The rules of CodecUnite, word by word. */
static void
ModelUniteChain(ModelChain *out, Model **parts, int nparts, int slot)
{
	for (int p = 0; p < nparts; p++)
	{
		const ModelChain *c = &parts[p]->chains[slot];

		for (int i = 0; i < c->n; i++)
		{
			const ModelEntry *e = &c->entries[i];
			int			twin = -1;

			for (int k = 0; k < out->n && twin < 0; k++)
			{
				if (out->entries[k].part < p && CodecSameIdentity(&out->entries[k].e, &e->e))
					twin = k;
			}
			if (twin < 0)
				ModelAdd(out, e)->part = p;
			if (EndsChain(&e->e))
			{
				if (twin >= 0)
				{
					out->entries[twin].e.kind_flags |= CODEC_FROZEN;
					out->n = twin + 1;
				}
				return;
			}
		}
	}
}

static Model *
ModelUnite(Model **parts, int nparts)
{
	Model	   *m = ModelCreate();

	for (int s = 1; s <= ORBIT_MAX_SLOT; s++)
		ModelUniteChain(&m->chains[s], parts, nparts, s);
	return m;
}

/* Appends the model's page to out. */
static bool
ModelEncode(const Model *m, CodecBuf *out)
{
	CodecBuilder b;
	bool		ok = true;

	CodecBuildBegin(&b, out);
	for (int s = 1; s <= ORBIT_MAX_SLOT && ok; s++)
	{
		const ModelChain *c = &m->chains[s];

		if (c->n > 0)
			ok = CodecBuildChain(&b, s);
		for (int i = 0; i < c->n && ok; i++)
			ok = CodecBuildEntry(&b, &c->entries[i].e);
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	return ok;
}

static void
MakeEntry(ModelEntry *m, int kind, uint8_t flags, uint8_t tag, uint32_t xid, uint32_t cid)
{
	uint32_t	len = 0;

	memset(m, 0, sizeof(*m));
	if (kind == CODEC_INSERT || kind == CODEC_UPDATE)
		len = 5 + Random(MODEL_PAYLOAD - 9) + ((flags & CODEC_SPECULATIVE) ? 4 : 0);
	else if (kind == CODEC_DELETE)
		len = sizeof(CodecDelete);
	m->e.len = len;
	m->e.xid = xid;
	m->e.cid = cid;
	m->e.kind_flags = (uint8_t) (kind | flags);
	m->e.tag = tag;
	for (uint32_t i = 0; i < len; i++)
		m->room[CODEC_ENTRY_HEADER + i] = (char) Random(256);
}

/* Few identities, so that parts share many. */
static void
RandomEntry(ModelEntry *m, uint32_t ids, uint32_t frozen_in)
{
	static const int kinds[] = {CODEC_INSERT, CODEC_UPDATE, CODEC_UPDATE, CODEC_DELETE,
	CODEC_LOCK, CODEC_LOCK, CODEC_CONFIRM, CODEC_KILL, CODEC_DEADSLOT};
	int			kind = kinds[Random(9)];
	uint8_t		flags = 0;
	uint8_t		tag = 0;

	if (Random(frozen_in) == 0)
		flags |= CODEC_FROZEN;
	if (kind == CODEC_INSERT && Random(4) == 0)
		flags |= CODEC_SPECULATIVE;
	if (kind == CODEC_UPDATE && Random(2) == 0)
		flags |= CODEC_KEYS_UPDATED;
	if (kind == CODEC_UPDATE || kind == CODEC_LOCK)
		tag = (uint8_t) Random(kind == CODEC_LOCK ? 4 : 3);
	/* the tag of a delete mark means nothing, whatever it is */
	if (kind == CODEC_DELETE)
		tag = (uint8_t) Random(2);
	MakeEntry(m, kind, flags, tag, 100 + Random(ids), Random(2));
}

/* twins: the same identity may stand twice in one chain. */
static Model *
RandomModel(uint32_t slots, uint32_t chain, uint32_t ids, uint32_t frozen_in, bool twins)
{
	Model	   *m = ModelCreate();
	uint32_t	nchains = Random(slots + 1);

	while (nchains-- > 0)
	{
		ModelChain *c = &m->chains[1 + Random(Random(8) == 0 ? ORBIT_MAX_SLOT : slots)];
		uint32_t	n = 1 + Random(chain);

		while (n-- > 0)
		{
			ModelEntry	e;
			bool		twin = false;

			RandomEntry(&e, ids, frozen_in);
			for (int i = 0; i < c->n && !twins; i++)
				twin = twin || CodecSameIdentity(&c->entries[i].e, &e.e);
			if (!twin)
				ModelAdd(c, &e);
		}
	}
	return m;
}

/* ---- walking a page ------------------------------------------------------------- */

static volatile uint32_t sink;

/* Reads every byte that a reader may, and checks that accessors stay inside. */
static bool
WalkEntry(const CodecPage *p, const CodecEntry *e)
{
	const char *at = (const char *) e;
	uint32_t	sum = e->xid + e->cid + e->tag;
	CodecKind	kind = CodecEntryKind(e);

	if (((uintptr_t) e & 7) != 4 || ((uintptr_t) e->payload & 7) != 2)
		return false;
	if (at < p->data + 12 || at + CODEC_ENTRY_HEADER + e->len > p->data + p->size)
		return false;
	for (uint32_t i = 0; i < e->len; i++)
		sum = sum * 31 + (uint8_t) e->payload[i];
	sink = sum;
	if (kind == CODEC_INSERT || kind == CODEC_UPDATE)
		return e->len >= ((e->kind_flags & CODEC_SPECULATIVE) ? 9 : 5);
	return e->len == (kind == CODEC_DELETE ? sizeof(CodecDelete) : 0) && kind != 0;
}

static bool
WalkPage(const CodecPage *p)
{
	int			before = 0;
	int			found = 0;

	for (int i = 0; i < p->nchains; i++)
	{
		int			slot = -1;
		int			chain = -1;
		const CodecEntry *e = CodecPageChain(p, i, &slot);

		if (slot <= before || CodecPageFind(p, slot, &chain) != e || chain != i)
			return false;
		before = slot;
		for (; e != NULL; e = CodecPageOlder(p, i, e))
		{
			if (!WalkEntry(p, e))
				return false;
		}
	}
	for (int slot = -1; slot <= 300; slot++)
		found += CodecPageFind(p, slot, NULL) != NULL;
	return found == p->nchains;
}

/* The page the builder makes of what the accessors give. */
static bool
Rebuild(const CodecPage *p, CodecBuf *out)
{
	CodecBuilder b;
	bool		ok = true;

	CodecBuildBegin(&b, out);
	for (int i = 0; i < p->nchains; i++)
	{
		int			slot;
		const CodecEntry *e = CodecPageChain(p, i, &slot);

		ok = ok && CodecBuildChain(&b, slot);
		for (; e != NULL; e = CodecPageOlder(p, i, e))
			ok = ok && CodecBuildEntry(&b, e);
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	return ok;
}

static bool
SameBytes(const CodecBuf *a, const CodecBuf *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/* Does the page hold the model's slots and entries, and nothing else? */
static bool
PageIsModel(const CodecBuf *page, const Model *m)
{
	CodecPage	p;
	int			nchains = 0;

	if (!CodecPageOpen(&p, page->data, page->len) || !WalkPage(&p))
		return false;
	for (int s = 1; s <= ORBIT_MAX_SLOT; s++)
	{
		const ModelChain *c = &m->chains[s];
		int			chain = -1;
		const CodecEntry *e = CodecPageFind(&p, s, &chain);

		nchains += c->n > 0;
		for (int i = 0; i < c->n; i++)
		{
			const CodecEntry *want = &c->entries[i].e;

			if (e == NULL || memcmp(e, want, CODEC_ENTRY_HEADER + want->len) != 0)
				return false;
			e = CodecPageOlder(&p, chain, e);
		}
		if (e != NULL)
			return false;
	}
	return nchains == p.nchains;
}

/* ---- building and reading ---------------------------------------------------------- */

static void
TestBuffer(void)
{
	CodecBuf	b = {0};
	bool		ok = true;

	for (uint32_t i = 0; i < 100000; i++)
		ok = ok && CodecBufAppend(&b, &i, sizeof(i));
	for (uint32_t i = 0; i < 100000; i++)
		ok = ok && memcmp(b.data + i * 4, &i, 4) == 0;
	Ok(ok && b.len == 400000 && b.cap >= b.len && ((uintptr_t) b.data & 15) == 0,
	   "buffer: appended bytes are kept");
	Ok(!CodecBufReserve(&b, SIZE_MAX - 10) && b.len == 400000,
	   "buffer: an impossible reservation fails and changes nothing");
	CodecBufFree(&b);
	Ok(b.data == NULL && b.len == 0 && b.cap == 0, "buffer: free leaves an empty one");
}

static void
TestRoundTrip(void)
{
	bool		ok = true;

	Reseed(1);
	for (int i = 0; i < 2000 && ok; i++)
	{
		Model	   *m = RandomModel(1 + Random(ORBIT_MAX_SLOT), 1 + Random(5), 9, 5, true);
		CodecBuf	out = {0};
		CodecBuf	again = {0};
		CodecPage	p;

		ok = ModelEncode(m, &out) && PageIsModel(&out, m) &&
			CodecPageOpen(&p, out.data, out.len) && p.size == out.len &&
			Rebuild(&p, &again) && SameBytes(&out, &again);
		CodecBufFree(&out);
		CodecBufFree(&again);
		ModelFree(m);
	}
	Ok(ok, "page: 2000 random pages read back as built, entries at 4 and images at 2 modulo 8");
}

static void
TestEdgePages(void)
{
	CodecBuf	out = {0};
	CodecBuilder b;
	CodecPage	p;
	Model	   *m = ModelCreate();
	ModelEntry	lock;
	size_t		second;

	MakeEntry(&lock, CODEC_LOCK, 0, 2, 7, 8);
	CodecBuildBegin(&b, &out);
	Ok(CodecBuildFinish(&b) && out.len == 8 && CodecPageOpen(&p, out.data, out.len) &&
	   p.nchains == 0 && CodecPageFind(&p, 1, NULL) == NULL, "page: empty page");
	CodecBuildFree(&b);

	second = out.len;
	for (int s = 1; s <= ORBIT_MAX_SLOT; s++)
		ModelAdd(&m->chains[s], &lock);
	Ok(ModelEncode(m, &out) && CodecPageOpen(&p, out.data + second, out.len - second) &&
	   p.nchains == 255 && WalkPage(&p) && p.size == 8 + 1024 + 255 * 24,
	   "page: all 255 slots, appended behind another page");
	Ok(!CodecPageOpen(&p, out.data, out.len) && !CodecPageOpen(&p, NULL, 0),
	   "page: bytes behind the page, or no page at all, are refused");

	out.len = 0;
	CodecBuildBegin(&b, &out);
	Ok(CodecBuildChain(&b, 3) && CodecBuildChain(&b, 5) && CodecBuildEntry(&b, &lock.e) &&
	   CodecBuildChain(&b, 9) && CodecBuildFinish(&b) &&
	   CodecPageOpen(&p, out.data, out.len) && p.nchains == 1 &&
	   CodecPageFind(&p, 5, NULL) != NULL, "builder: chains without entries vanish");
	CodecBuildFree(&b);
	CodecBufFree(&out);
	ModelFree(m);
}

static void
TestBuilderRefusals(void)
{
#ifndef USE_ASSERT_CHECKING
	CodecBuf	out = {0};
	CodecBuilder b;
	ModelEntry	lock;
	ModelEntry	bad;

	MakeEntry(&lock, CODEC_LOCK, 0, 2, 7, 8);
	bad = lock;
	bad.e.kind_flags = 0;
	CodecBuildBegin(&b, &out);
	Ok(!CodecBuildEntry(&b, &lock.e) && !CodecBuildChain(&b, 0) && !CodecBuildChain(&b, 256) &&
	   CodecBuildChain(&b, 4) && !CodecBuildEntry(&b, &bad.e) && CodecBuildEntry(&b, &lock.e) &&
	   !CodecBuildChain(&b, 4) && !CodecBuildChain(&b, 3),
	   "builder: refuses what no reader would take");
	CodecBuildFree(&b);
	CodecBufFree(&out);
#endif
}

static void
TestBuilderLimit(void)
{
	const uint32_t len = 1 << 25;
	CodecBuf	out = {0};
	CodecBuilder b;
	CodecPage	p;
	CodecEntry *big = Alloc(CODEC_ENTRY_HEADER + 2 + (size_t) len);
	int			fit = 0;

	memset(big, 0, CODEC_ENTRY_HEADER + (size_t) len);
	big->len = len;
	big->kind_flags = CODEC_INSERT;
	CodecBuildBegin(&b, &out);
	if (CodecBuildChain(&b, 1))
	{
		while (fit < 10 && CodecBuildEntry(&b, big))
			fit++;
	}
	Ok(fit == 3 && CodecBuildFinish(&b) && CodecPageOpen(&p, out.data, out.len),
	   "builder: stops at 2^27 bytes and the page so far is good");
	CodecBuildFree(&b);

	{
		CodecPart	parts[2] = {{out.data, out.len}, {out.data, out.len}};
		CodecBuf	united = {0};
		const char *error = NULL;
		char	   *copy = Alloc(out.len);

		Ok(CodecUnite(parts, 2, false, NULL, &united, &error) && SameBytes(&out, &united),
		   "unite: two huge pages of the same entries");
		/* other xids: six entries of 32 MB */
		memcpy(copy, out.data, out.len);
		for (size_t at = 16; at < out.len; at += CODEC_NODE_SIZE(len))
			copy[at + 8] = 1;
		parts[1].data = copy;
		united.len = 0;
		Ok(!CodecUnite(parts, 2, false, NULL, &united, &error) && error != NULL &&
		   united.len == 0, "unite: refuses to pass 2^27 bytes");
		CodecBufFree(&united);
		free(copy);
	}
	free(big);
	CodecBufFree(&out);
}

static void
TestIdentity(void)
{
	ModelEntry	a;
	ModelEntry	b;
	ModelEntry	lock;
	ModelEntry	lock2;
	ModelEntry	del;
	ModelEntry	del2;
	bool		ok;

	MakeEntry(&a, CODEC_UPDATE, 0, 1, 10, 2);
	MakeEntry(&b, CODEC_UPDATE, CODEC_FROZEN | CODEC_KEYS_UPDATED, 1, 10, 2);
	MakeEntry(&lock, CODEC_LOCK, 0, 1, 10, 2);
	MakeEntry(&lock2, CODEC_LOCK, 0, 2, 10, 2);
	MakeEntry(&del, CODEC_DELETE, 0, 0, 10, 2);
	MakeEntry(&del2, CODEC_DELETE, 0, 5, 10, 2);
	ok = CodecSameIdentity(&a.e, &b.e) && !CodecSameIdentity(&a.e, &lock.e) &&
		!CodecSameIdentity(&lock.e, &lock2.e) && CodecSameIdentity(&del.e, &del2.e) &&
		!CodecSameIdentity(&a.e, &del.e);
	b.e.cid = 3;
	ok = ok && !CodecSameIdentity(&a.e, &b.e);
	b.e.cid = 2;
	b.e.xid = 11;
	ok = ok && !CodecSameIdentity(&a.e, &b.e);
	b.e.xid = 10;
	b.e.tag = 2;
	Ok(ok && !CodecSameIdentity(&a.e, &b.e),
	   "entry: identity is kind, tag or lock mode, xid and cid; flags and a delete mark's tag are not");
}

/* ---- uniting -------------------------------------------------------------------------- */

/* Unites copies of the pages, each at a random alignment in a block of its size. */
static bool
Unite(const CodecBuf *pages, int n, CodecBuf *out)
{
	CodecPart	parts[8];
	char	   *blocks[8];
	const char *error = NULL;
	bool		ok;

	for (int i = 0; i < n; i++)
	{
		size_t		skew = Random(8);

		blocks[i] = Alloc(skew + pages[i].len);
		memcpy(blocks[i] + skew, pages[i].data, pages[i].len);
		parts[i].data = blocks[i] + skew;
		parts[i].len = pages[i].len;
	}
	ok = CodecUnite(parts, n, Random(2) == 0, NULL, out, &error);
	if (!ok)
		printf("# unite: %s\n", error);
	for (int i = 0; i < n; i++)
		free(blocks[i]);
	return ok;
}

/* Unites pages[0 .. n) with brackets put at random. */
static bool
UniteBracketed(const CodecBuf *pages, int n, CodecBuf *out)
{
	CodecBuf	sides[2] = {{0}, {0}};
	int			cut;
	bool		ok;

	if (n == 1)
		return Unite(pages, 1, out);
	cut = 1 + (int) Random((uint32_t) n - 1);
	ok = UniteBracketed(pages, cut, &sides[0]) &&
		UniteBracketed(pages + cut, n - cut, &sides[1]) &&
		Unite(sides, 2, out);
	CodecBufFree(&sides[0]);
	CodecBufFree(&sides[1]);
	return ok;
}

typedef struct UniteCase
{
	uint32_t	slots;
	uint32_t	chain;
	uint32_t	ids;
	uint32_t	frozen_in;
	bool		twins;
	int			rounds;
	const char *name;
} UniteCase;

static void
TestUniteCase(const UniteCase *c)
{
	bool		same = true;
	bool		bracketed = true;
	bool		inputs = true;

	for (int round = 0; round < c->rounds && same && bracketed; round++)
	{
		int			n = 1 + (int) Random(6);
		Model	   *models[8];
		CodecBuf	pages[8] = {{0}};
		Model	   *want;
		CodecBuf	expected = {0};
		CodecBuf	out = {0};
		CodecBuf	other = {0};

		for (int i = 0; i < n; i++)
		{
			models[i] = RandomModel(c->slots, c->chain, c->ids, c->frozen_in, c->twins);
			inputs = inputs && ModelEncode(models[i], &pages[i]);
		}
		want = ModelUnite(models, n);
		inputs = inputs && ModelEncode(want, &expected);
		same = Unite(pages, n, &out) && SameBytes(&out, &expected) && PageIsModel(&out, want);
		bracketed = UniteBracketed(pages, n, &other) && SameBytes(&out, &other);
		if (!same || !bracketed)
			printf("# seed %llu, round %d, %d parts\n", (unsigned long long) seed, round, n);
		for (int i = 0; i < n; i++)
		{
			ModelFree(models[i]);
			CodecBufFree(&pages[i]);
		}
		ModelFree(want);
		CodecBufFree(&expected);
		CodecBufFree(&out);
		CodecBufFree(&other);
	}
	printf("# %d rounds: %s\n", c->rounds, c->name);
	Ok(inputs && same, "unite: equals the model");
	Ok(bracketed, "unite: associative in every bracketing, byte by byte");
}

static void
TestUniteModels(void)
{
	static const UniteCase cases[] = {
		{4, 3, 3, 4, false, 6000, "few identities, frozen ends often"},
		{4, 6, 3, 6, true, 4000, "twins inside parts"},
		{60, 4, 12, 100, false, 1500, "many slots, frozen ends rarely"},
		{255, 2, 3, 10, false, 300, "full pages"},
		{2, 300, 90, 100000, false, 300, "chains past the hashing limit"},
		{2, 300, 40, 200, true, 300, "long chains with twins and frozen ends"},
	};

	Reseed(2);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		TestUniteCase(&cases[i]);
}

/* One chain of slot 1: the entries given, newest first. */
static CodecBuf
Chain(int n, ...)
{
	CodecBuf	out = {0};
	Model	   *m = ModelCreate();
	va_list		args;

	va_start(args, n);
	for (int i = 0; i < n; i++)
		ModelAdd(&m->chains[1], va_arg(args, const ModelEntry *));
	va_end(args);
	if (!ModelEncode(m, &out))
		out.len = 0;
	ModelFree(m);
	return out;
}

/* Unites parts and compares with want; frees them all. */
static void
CheckUnite(int n, CodecBuf *parts, CodecBuf want, const char *name)
{
	CodecBuf	out = {0};

	Ok(Unite(parts, n, &out) && SameBytes(&out, &want), name);
	for (int i = 0; i < n; i++)
		CodecBufFree(&parts[i]);
	CodecBufFree(&want);
	CodecBufFree(&out);
}

static void
TestUniteExamples(void)
{
	ModelEntry	ins;
	ModelEntry	ins_frozen;
	ModelEntry	upd;
	ModelEntry	upd_frozen;
	ModelEntry	lock;
	ModelEntry	lock_frozen;
	ModelEntry	del;
	ModelEntry	dead;

	MakeEntry(&ins, CODEC_INSERT, 0, 0, 5, 0);
	MakeEntry(&dead, CODEC_DEADSLOT, 0, 0, 8, 0);
	ins_frozen = ins;
	MakeEntry(&upd, CODEC_UPDATE, 0, 1, 6, 0);
	upd_frozen = upd;
	MakeEntry(&lock, CODEC_LOCK, 0, 1, 7, 0);
	lock_frozen = lock;
	MakeEntry(&del, CODEC_DELETE, 0, 0, 8, 0);
	ins_frozen.e.kind_flags |= CODEC_FROZEN;
	upd_frozen.e.kind_flags |= CODEC_FROZEN;
	lock_frozen.e.kind_flags |= CODEC_FROZEN;

	CheckUnite(0, NULL, Chain(0), "unite: no parts give an empty page");
	CheckUnite(2, (CodecBuf[]) {Chain(1, &upd), Chain(1, &ins)}, Chain(2, &upd, &ins),
			   "unite: newer part in front");
	CheckUnite(2, (CodecBuf[]) {Chain(2, &lock, &upd), Chain(3, &lock, &upd, &ins)},
			   Chain(3, &lock, &upd, &ins), "unite: duplicates keep the newest position");
	CheckUnite(3, (CodecBuf[]) {Chain(1, &del), Chain(2, &upd_frozen, &lock), Chain(1, &ins)},
			   Chain(2, &del, &upd_frozen), "unite: a frozen version ends the chain");
	CheckUnite(2, (CodecBuf[]) {Chain(2, &del, &lock_frozen), Chain(1, &ins)},
			   Chain(3, &del, &lock_frozen, &ins), "unite: a frozen lock ends nothing");
	CheckUnite(1, (CodecBuf[]) {Chain(2, &ins_frozen, &lock)}, Chain(1, &ins_frozen),
			   "unite: a lone part ends at its frozen version too");
	CheckUnite(3, (CodecBuf[]) {Chain(2, &upd, &lock), Chain(1, &upd_frozen), Chain(1, &ins)},
			   Chain(1, &upd_frozen), "unite: frozen below its twin ends the chain at the twin");
	CheckUnite(3, (CodecBuf[]) {Chain(2, &lock, &dead), Chain(1, &dead), Chain(2, &del, &ins)},
			   Chain(2, &lock, &dead), "unite: a dead slot ends the chain, duplicate or not");
}

static void
TestUniteAppends(void)
{
	ModelEntry	ins;
	ModelEntry	upd;
	CodecBuf	pages[2];
	CodecBuf	out = {0};
	CodecPage	p;
	size_t		second;
	CodecPart	broken[2];
	const char *error = NULL;

	MakeEntry(&ins, CODEC_INSERT, 0, 0, 5, 0);
	MakeEntry(&upd, CODEC_UPDATE, 0, 1, 6, 0);
	pages[0] = Chain(1, &upd);
	pages[1] = Chain(1, &ins);
	Unite(pages, 1, &out);
	second = out.len;
	Ok(Unite(pages, 2, &out) && CodecPageOpen(&p, out.data, second) &&
	   CodecPageOpen(&p, out.data + second, out.len - second) && p.nchains == 1,
	   "unite: appends behind what the buffer holds");

	broken[0].data = pages[0].data;
	broken[0].len = pages[0].len;
	broken[1].data = pages[1].data;
	broken[1].len = pages[1].len - 8;
	second = out.len;
	Ok(!CodecUnite(broken, 2, false, NULL, &out, &error) && error != NULL && out.len == second &&
	   !CodecUnite(broken + 1, 1, false, NULL, &out, NULL) && out.len == second,
	   "unite: a damaged part fails and leaves the buffer as it was");
	CodecBufFree(&pages[0]);
	CodecBufFree(&pages[1]);
	CodecBufFree(&out);
}

/* Two parts of one row, each with n locks, the older half of the first in the second. */
static void
TestUniteLong(void)
{
	const uint32_t n = 100000;
	CodecBuf	pages[2] = {{0}, {0}};
	CodecBuf	out = {0};
	CodecPage	p;
	CodecBuilder b;
	bool		ok = true;
	clock_t		began;
	uint32_t	at = 0;

	for (uint32_t k = 0; k < 2; k++)
	{
		CodecBuildBegin(&b, &pages[k]);
		ok = ok && CodecBuildChain(&b, 17);
		for (uint32_t i = 0; i < n; i++)
		{
			ModelEntry	lock;

			MakeEntry(&lock, CODEC_LOCK, 0, 1, 1000000 - k * (n / 2) - i, 0);
			ok = ok && CodecBuildEntry(&b, &lock.e);
		}
		ok = ok && CodecBuildFinish(&b);
		CodecBuildFree(&b);
	}
	began = clock();
	ok = ok && Unite(pages, 2, &out);
	printf("# %.1f ms\n", (double) (clock() - began) * 1000 / CLOCKS_PER_SEC);
	ok = ok && (clock() - began) / CLOCKS_PER_SEC < 3 && CodecPageOpen(&p, out.data, out.len);
	if (ok)
	{
		for (const CodecEntry *e = CodecPageChain(&p, 0, NULL); e != NULL && ok;
			 e = CodecPageOlder(&p, 0, e))
			ok = e->xid == 1000000 - at++;
	}
	Ok(ok && at == n + n / 2, "unite: chains of 100000 entries take linear time");
	CodecBufFree(&pages[0]);
	CodecBufFree(&pages[1]);
	CodecBufFree(&out);
}

/* ---- damage ------------------------------------------------------------------------------ */

static long accepted;

/*
 * bytes: exactly one block.  Whatever the reader accepts must be safe to walk, be
 * just what the builder would make of it, and go through CodecUnite.
 */
static bool
Survives(char *bytes, size_t len, const CodecBuf *whole)
{
	CodecPage	p;
	CodecBuf	again = {0};
	CodecBuf	united = {0};
	CodecPart	parts[2] = {{bytes, len}, {whole->data, whole->len}};
	bool		open = CodecPageOpen(&p, bytes, len);
	bool		ok = true;

	if (open)
	{
		accepted++;
		ok = WalkPage(&p) && Rebuild(&p, &again) && again.len == len &&
			memcmp(again.data, bytes, len) == 0;
	}
	ok = ok && CodecUnite(parts, 2, false, NULL, &united, NULL) == open;
	if (open && ok)
		ok = CodecPageOpen(&p, united.data, united.len) && WalkPage(&p);
	CodecBufFree(&again);
	CodecBufFree(&united);
	return ok;
}

static void
TestDamagedBytes(void)
{
	bool		ok = true;
	long		tried = 0;

	Reseed(3);
	accepted = 0;
	for (int i = 0; i < 12; i++)
	{
		Model	   *m = RandomModel(1 + (uint32_t) i, 3, 9, 8, false);
		CodecBuf	page = {0};
		char	   *bytes;

		ok = ok && ModelEncode(m, &page);
		bytes = Alloc(page.len);
		memcpy(bytes, page.data, page.len);
		for (size_t at = 0; at < page.len && ok; at++)
		{
			for (int flip = 1; flip < 256 && ok; flip++, tried++)
			{
				bytes[at] = (char) (page.data[at] ^ flip);
				ok = Survives(bytes, page.len, &page);
			}
			bytes[at] = page.data[at];
		}
		free(bytes);
		CodecBufFree(&page);
		ModelFree(m);
	}
	printf("# %ld damaged pages, %ld still well formed\n", tried, accepted);
	Ok(ok && accepted > 0 && accepted < tried, "damage: every value of every single byte");
}

static void
TestDamagedMore(void)
{
	bool		ok = true;

	Reseed(4);
	for (int i = 0; i < 20000 && ok; i++)
	{
		Model	   *m = RandomModel(6, 3, 9, 8, false);
		CodecBuf	page = {0};
		size_t		len;
		char	   *bytes;

		ok = ModelEncode(m, &page);
		len = Random(3) == 0 ? Random((uint32_t) page.len + 1) : page.len;
		bytes = Alloc(len);
		memcpy(bytes, page.data, len);
		/* often let the size field agree, or nothing deeper is reached */
		if (len >= 8 && Random(2) == 0)
			memcpy(bytes + 4, &(uint32_t) {(uint32_t) len}, 4);
		for (uint32_t n = Random(5); n > 0 && len > 0; n--)
			bytes[Random((uint32_t) len)] = (char) (Random(2) ? Random(256) : Random(4) * 8);
		ok = ok && Survives(bytes, len, &page);
		free(bytes);
		CodecBufFree(&page);
		ModelFree(m);
	}
	Ok(ok, "damage: 20000 pages cut short or hit several times");
}

static void
TestGarbage(void)
{
	CodecBuf	empty = Chain(0);
	bool		ok = true;

	Reseed(5);
	for (int i = 0; i < 50000 && ok; i++)
	{
		size_t		len = Random(40) * 8;
		char	   *bytes = Alloc(len);

		for (size_t k = 0; k < len; k++)
			bytes[k] = (char) (Random(3) ? 0 : Random(32));
		if (len >= 8)
		{
			bytes[0] = CODEC_PAGE_FORMAT;
			bytes[1] = 0;
			memcpy(bytes + 4, &(uint32_t) {(uint32_t) len}, 4);
		}
		ok = Survives(bytes, len, &empty);
		free(bytes);
	}
	Ok(ok, "damage: 50000 blocks of garbage behind a good header");
	CodecBufFree(&empty);
}

/* ---- keys ------------------------------------------------------------------------------- */

static int
Sign(int v)
{
	return (v > 0) - (v < 0);
}

static uint64_t
RandomNumber(void)
{
	uint64_t	v = (uint64_t) Random(1u << 31) << 33 ^ (uint64_t) Random(1u << 31) << 16 ^ Random(1u << 31);

	return v >> Random(64);
}

static void
TestKeyOrder(void)
{
	bool		trip = true;
	bool		order = true;

	Reseed(6);
	for (int i = 0; i < 200000; i++)
	{
		char		a[CODEC_PAGE_KEY_SIZE];
		char		b[CODEC_PAGE_KEY_SIZE];
		OrbitStorageId sa = RandomNumber() | 1;
		OrbitStorageId sb = Random(2) ? sa : (RandomNumber() | 1);
		uint32_t	pa = (uint32_t) RandomNumber();
		uint32_t	pb = Random(4) ? (uint32_t) RandomNumber() : pa;
		OrbitStorageId storage;
		uint32_t	page;
		int			want = sa != sb ? (sa < sb ? -1 : 1) : pa < pb ? -1 : pa > pb;

		CodecPageKey(a, sa, pa);
		CodecPageKey(b, sb, pb);
		order = order && Sign(memcmp(a, b, sizeof(a))) == want;
		trip = trip && CodecPageKeyParse(a, sizeof(a), &storage, &page) == (pa <= ORBIT_MAX_PAGE) &&
			storage == sa && page == pa && !CodecKeyIsReserved(a, sizeof(a));
	}
	Ok(trip, "keys: page keys read back");
	Ok(order, "keys: memcmp order is the order of storage and page");
}

static void
TestKeyKinds(void)
{
	char		pagekey[CODEC_PAGE_KEY_SIZE];
	char		storagekey[CODEC_STORAGE_KEY_SIZE];
	char		genkey[CODEC_GENERATION_KEY_SIZE];
	char		genkey2[CODEC_GENERATION_KEY_SIZE];
	OrbitStorageId storage;
	uint32_t	page;
	uint64_t	generation;
	char		record;

	CodecPageKey(pagekey, 0x0102030405060708, 0x0a0b0c0d);
	Ok(memcmp(pagekey, "\1\2\3\4\5\6\7\10\12\13\14\15", 12) == 0, "keys: big-endian bytes");

	CodecStorageKey(storagekey, 77, CODEC_RECORD_COUNTERS);
	Ok(CodecStorageKeyParse(storagekey, sizeof(storagekey), &storage, &record) &&
	   storage == 77 && record == CODEC_RECORD_COUNTERS &&
	   !CodecStorageKeyParse(storagekey, 8, &storage, &record) &&
	   !CodecPageKeyParse(storagekey, sizeof(storagekey), &storage, &page),
	   "keys: storage keys read back and are no page keys");

	CodecGenerationKey(genkey, 255);
	CodecGenerationKey(genkey2, 256);
	Ok(CodecGenerationKeyParse(genkey, sizeof(genkey), &generation) && generation == 255 &&
	   memcmp(genkey, genkey2, sizeof(genkey)) < 0 && memcmp(genkey2, pagekey, 12) < 0 &&
	   CodecKeyIsReserved(genkey, sizeof(genkey)) &&
	   !CodecPageKeyParse(genkey, sizeof(genkey), &storage, &page) &&
	   !CodecStorageKeyParse(genkey, sizeof(genkey), &storage, &record),
	   "keys: generation keys read back, are reserved and sort before all others");

	CodecPageKey(pagekey, 0, 1);
	CodecStorageKey(storagekey, 0, 'R');
	Ok(!CodecPageKeyParse(pagekey, sizeof(pagekey), &storage, &page) &&
	   !CodecStorageKeyParse(storagekey, sizeof(storagekey), &storage, &record) &&
	   CodecKeyIsReserved(pagekey, sizeof(pagekey)) &&
	   !CodecGenerationKeyParse(pagekey, sizeof(pagekey), &generation),
	   "keys: storage id 0 is reserved");
	Ok(!CodecKeyIsReserved(CODEC_META_FLUSHED, strlen(CODEC_META_FLUSHED)) &&
	   !CodecKeyIsReserved(CODEC_META_FORMAT, strlen(CODEC_META_FORMAT)) &&
	   !CodecKeyIsReserved("\0\0\0\0\0\0\0", 7) && !CodecKeyIsReserved("", 0),
	   "keys: metadata keys and short keys are not reserved");
}

int
main(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 10);
	Reseed(0);
	printf("# seed %llu\n", (unsigned long long) seed);
	TestBuffer();
	TestIdentity();
	TestRoundTrip();
	TestEdgePages();
	TestBuilderRefusals();
	TestBuilderLimit();
	TestUniteExamples();
	TestUniteAppends();
	TestUniteModels();
	TestUniteLong();
	TestDamagedBytes();
	TestDamagedMore();
	TestGarbage();
	TestKeyOrder();
	TestKeyKinds();
	printf("1..%d\n", tests);
	return failures > 0;
}
