/*
 * codec_prune_test.c: pruning, rule by rule.  Prints TAP.
 *
 *   cc -std=gnu11 -g -O1 -Isrc -It/unit t/unit/codec_prune_test.c src/codec/(every .c)
 *
 * Transactions of odd numbers have aborted, of even ones committed.  Each case is run in
 * several places of the xids' circle.
 */
#include <time.h>

#include "codec_text.h"

#define MAX_PARTS	4

/* ---- horizons ---------------------------------------------------------- */

static uint8_t **chunks;
static size_t nchunks;

static void
FreeFates(void)
{
	for (size_t i = 0; i < nchunks; i++)
		free(chunks[i]);
	free(chunks);
	chunks = NULL;
	nchunks = 0;
}

/* Exactly as much as a horizon has to give; what it does not speak of is noise. */
static void
MakeHorizon(CodecHorizon *h, uint32_t limit, uint32_t settled, uint32_t base)
{
	uint64_t	first;

	FreeFates();
	h->limit = origin + limit;
	h->settled = origin + settled;
	h->base = origin + base;
	first = h->base / CODEC_FATES_CHUNK;
	nchunks = h->limit > h->base ? (size_t) ((h->limit - 1) / CODEC_FATES_CHUNK + 1 - first) : 0;
	chunks = Alloc((nchunks + 1) * sizeof(uint8_t *));
	for (size_t i = 0; i < nchunks; i++)
	{
		chunks[i] = Alloc(CODEC_FATES_CHUNK / 8);
		for (size_t k = 0; k < CODEC_FATES_CHUNK / 8; k++)
			chunks[i][k] = (uint8_t) Random(256);
	}
	for (uint64_t full = h->base; full < h->limit; full++)
	{
		uint8_t    *byte = &chunks[full / CODEC_FATES_CHUNK - first][full % CODEC_FATES_CHUNK / 8];
		uint8_t		bit = (uint8_t) (1 << full % 8);

		*byte = (uint8_t) ((full - origin) % 2 == 0 ? *byte | bit : *byte & ~bit);
	}
	h->fates = (const uint8_t *const *) chunks;
}

/* ---- cases ------------------------------------------------------------- */

typedef struct Case
{
	const char *in;
	const char *want;
	bool		complete;
	uint32_t	cleaned;
	uint32_t	base;
	const char *name;
} Case;

#define LIMIT	100
#define SETTLED	60

static const Case cases[] = {
	/* what everybody sees */
	{"I10", "I10*", .name = "an INSERT is frozen"},
	{"I100", "I100", .name = "the limit itself is undecided"},
	{"I98", "I98*", .name = "the last one before the limit is decided"},
	{"U20n I10", "U20n*", .name = "an UPDATE without lockers below is frozen, what lies behind goes"},
	{"U80 I10", "U80 I10*", .name = "an UPDATE that may have lockers below is not; its predecessor is"},
	{"U58 I10", "U58*", .name = "unless it is settled"},
	{"U60 I10", "U60 I10*", .name = "the mark itself is not settled"},
	{"U120 U30n I10", "U120 U30n*", .name = "undecided entries stay in front"},
	{"U120 U122 U80 U30n U20n I10", "U120 U122 U80 U30n*", .name = "the newest that may be is frozen"},
	{"U80n*", "U80n*", .name = "frozen stays frozen"},
	{"U120 U80*", "U120 U80*", .name = "frozen entries need not be settled"},
	{"I11*", "I11*", .name = "nor is their xid asked for"},
	{"I11* L120", "I11*", .name = "behind a frozen entry there is nothing"},
	{"U120 I110 L130", "U120 I110", .name = "nor behind an INSERT"},

	/* aborted */
	{"U21 I10", "I10*", .name = "an aborted UPDATE goes"},
	{"U120 U31 U30n U23 I10", "U120 U30n*", .name = "in the middle too"},
	{"U120 U31 D33 U122 D121 I10", "U120 U122 D121 I10*", .name = "decided ones only"},
	{"D21 U20n", "U20n*", .name = "an aborted DELETE goes"},
	{"D21", "", .name = "also when it is all there is"},
	{"I11", "X11", .name = "an aborted INSERT leaves a dead slot"},
	{"D15 U13 I11", "X11", .name = "so do aborted changes of one"},
	{"U110 I11", "U110 I11", .name = "undecided entries keep it"},

	/* deleted */
	{"D20 I10", "X20", .name = "a deleted row leaves a dead slot"},
	{"D20m U16 I10", "X20", .name = "a replaced one too"},
	{"D20", "X20", .name = "whose versions may lie in older parts (R3)"},
	{"D20", "X20", .complete = true, .name = "in complete history"},
	{"D120 I10", "D120 I10*", .name = "an undecided DELETE leaves the row alone"},
	{"D20 I10", "X20", .cleaned = 100, .name = "what older parts have is hidden until they are at hand (R3)"},
	{"X20", "X20", .cleaned = 100, .name = "by a dead slot, too (R3)"},
	{"D20 I10", "", .cleaned = 21, .complete = true, .name = "cleaned: gone"},
	{"D20 I10", "X20", .cleaned = 20, .complete = true, .name = "the mark itself is not cleaned"},
	{"X20", "", .cleaned = 21, .complete = true, .name = "dead slots go when cleaned"},
	{"X20", "X20", .cleaned = 20, .complete = true, .name = "and not before"},
	{"I11", "", .cleaned = 12, .complete = true, .name = "aborted rows go when cleaned"},
	{"D82 I10", "X82", .cleaned = 82, .complete = true, .name = "who deleted counts, not who inserted"},
	{"X120", "", .cleaned = 121, .complete = true, .name = "the horizon may be older than the mark"},
	{"D110* ", "X110", .name = "or than the one under which a mark was frozen"},
	{"L120 D110*", "L120 D110*", .cleaned = 121, .complete = true, .name = "which other locks may still stand above"},
	{"U120 X20", "U120 X20", .cleaned = 21, .complete = true, .name = "a dead slot with anything above it stays"},
	{"L30 U31 D33 X20", "X20", .name = "what is decided above a dead slot goes"},
	{"L30 U31 D33 X20", "", .cleaned = 21, .complete = true, .name = "and then the slot"},

	/* locks */
	{"L40 L41", "", .name = "a lock goes with its transaction"},
	{"L100 L40 L122 I10", "L100 L122 I10*", .name = "undecided locks stay"},
	{"L120 D20m I10", "L120 D20m*", .name = "above a delete mark, with what it names"},
	{"L40 D20m*", "X20", .name = "until they are decided"},
	{"D20 L120 I10", "D20 L120 I10*", .name = "a lock below a delete mark stays in reach"},
	{"U20n L120 I10", "U20n L120 I10*", .name = "whatever flags say"},
	{"U50 L120 U20n L122 U16n I10", "U50 L120 U20n L122 U16n*", .name = "only what lies below it is cut"},
	{"U20n L40 I10", "U20n*", .name = "decided locks hinder nothing"},
	{"L120 | U20n | L40 I10", "L120 U20n*", .name = "over several parts"},
	{"L120n U20n", "L120n U20n*", .name = "flags of locks stay"},

	/* speculative rows */
	{"I10s", "I10s", .name = "a speculative INSERT alone may yet be killed"},
	{"I10s", "I10s", .complete = true, .name = "by what is newer, so in complete history as well"},
	{"C10 I10s", "I10*", .name = "a confirmed one loses its token"},
	{"C10 | I10s", "I10*", .name = "over several parts"},
	{"C10", "C10", .name = "a CONFIRM waits for its INSERT"},
	{"C10", "", .complete = true, .name = "not for one that does not exist"},
	{"C11", "", .name = "nor when aborted"},
	{"C11 I11s", "X11", .name = "aborted in spite of a CONFIRM"},
	{"C110 I110s", "C110 I110s", .name = "undecided"},
	{"C10 I10", "I10*", .name = "nothing is left to confirm"},
	{"U20n C10", "U20n*", .name = "cut by a newer version"},
	{"U80 C10", "U80 C10", .name = "not cut"},
	{"U120 C10 I10s", "U120 I10*", .name = "below an undecided one"},
	{"D20 C10 I10s", "X20", .name = "and deleted"},
	{"K10 I10s", "X10", .name = "a killed row is dead"},
	{"K10 | I10s", "X10", .name = "over several parts"},
	{"K11 I11s", "X11", .name = "whatever became of its transaction"},
	{"K10", "X10", .cleaned = 100, .name = "its INSERT may lie in an older part (R3)"},
	{"K10 I10s", "", .cleaned = 11, .complete = true, .name = "cleaned: gone"},
	{"K110 I110s", "K110 I110s", .name = "not while undecided"},
	{"L120 K10 I10s", "L120 K10 I10s", .name = "nor below anything undecided"},

	/* xids before the base have ended, nobody knows how */
	{"I10", "I10", .base = 50, .name = "unknown INSERT"},
	{"U21 I10", "U21 I10", .base = 50, .name = "unknown UPDATE"},
	{"D20 I10", "D20 I10", .base = 50, .name = "unknown DELETE"},
	{"U80n D20 I10", "U80n*", .base = 50, .name = "behind a known one"},
	{"I50", "I50*", .base = 50, .name = "the base itself is known"},
	{"L40 U21 L41", "U21", .base = 50, .name = "locks go all the same"},
	{"K10 I10s", "X10", .base = 50, .name = "kills count all the same"},
	{"C10 I10s", "C10 I10s", .base = 50, .name = "confirms do not"},
	{"I10* ", "I10*", .base = 50, .name = "frozen"},
	{"L20 D10*", "X10", .base = 50, .name = "frozen delete mark"},
	{"U51 I10", "I10", .base = 50, .name = "aborted above unknown"},
	{"I10", "I10", .base = 100, .name = "no fate is known at all"},

	/* several parts */
	{"D20 | I10", "X20", .name = "a mark and its row"},
	{"X20 | D20 I10", "X20", .name = "a dead slot hides what it was made of"},
	{"X20 | X20", "X20", .name = "twin dead slots"},
	{"D20 I10 | X20", "X20", .name = "a dead row met again above its dead slot"},
	{"D20 | X20", "", .cleaned = 21, .complete = true, .name = "a delete mark met again"},
	{"K10 | X10", "X10", .name = "a KILL met again"},
	{"U40n U30n | U30n* ", "U40n*", .name = "twins of a frozen version"},
	{"U80 U72 | U72* | I10", "U80 U72*", .name = "the twin is frozen for its sake"},
	{" | I10", "I10*", .name = "an empty part"},
};

static bool
CheckPrune(const Case *c, const CodecBuf *page, const CodecPruning *p, const char *want,
		   bool changes)
{
	CodecBuf	out = {0};
	char		text[TEXT];
	bool		changed = !changes;
	const char *error = NULL;
	bool		ok;

	ok = CodecPrune(page->data, page->len, c->complete, p, &out, &changed, &error) &&
		changed == changes;
	if (changed)
		ok = ok && strcmp(PrintPage(text, &out), want) == 0;
	else
		ok = ok && out.len == 0;
	if (!ok)
		printf("# prune: changed %d, \"%s\", wanted \"%s\"\n", changed,
			   changed ? PrintPage(text, &out) : "", want);
	CodecBufFree(&out);
	return ok;
}

static bool
RunCase(const Case *c)
{
	CodecBuf	pages[MAX_PARTS] = {{0}};
	CodecPart	parts[MAX_PARTS];
	CodecHorizon h;
	CodecPruning p = {&h, c->cleaned > 0 ? origin + c->cleaned : 0};
	CodecBuf	out = {0};
	char		text[TEXT];
	char		before[TEXT];
	int			n = ParseParts(c->in, pages);
	bool		ok;

	MakeHorizon(&h, LIMIT, SETTLED, c->base);
	for (int i = 0; i < n; i++)
	{
		parts[i].data = pages[i].data;
		parts[i].len = pages[i].len;
	}
	ok = CodecUnite(parts, n, c->complete, &p, &out, NULL) &&
		strcmp(PrintPage(text, &out), c->want) == 0;
	if (!ok)
		printf("# unite: \"%s\", wanted \"%s\", origin %llx\n", text, c->want, (unsigned long long) origin);
	if (ok && n == 1)
		ok = CheckPrune(c, &pages[0], &p, c->want,
						strcmp(PrintPage(before, &pages[0]), c->want) != 0);
	/* what is pruned is left alone */
	ok = ok && CheckPrune(c, &out, &p, c->want, false);
	for (int i = 0; i < n; i++)
		CodecBufFree(&pages[i]);
	CodecBufFree(&out);
	return ok;
}

static void
TestCases(void)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		const Case *c = &cases[i];
		char		name[TEXT];
		bool		ok = true;

		for (size_t k = 0; k < NORIGINS; k++)
		{
			origin = origins[k];
			ok = RunCase(c) && ok;
		}
		snprintf(name, sizeof(name), "%s%s -> %s: %s", c->in,
				 c->complete ? " (complete)" : "", c->want, c->name);
		for (char *s = name; *s != '\0'; s++)
			*s = (char) (*s == '#' ? ' ' : *s);
		Ok(ok, name);
	}
}

/* ---- xids far away ----------------------------------------------------- */

/* The chain of one page after pruning, with xids written by hand. */
static bool
PruneOne(int kind, uint32_t xid, uint64_t limit, uint64_t cleaned, CodecEntry *out)
{
	CodecHorizon h = {limit, limit, limit, NULL};
	CodecPruning p = {&h, cleaned};
	TestEntry	t = {{0}};
	CodecBuilder b;
	CodecBuf	page = {0};
	CodecBuf	pruned = {0};
	CodecPart	part;
	CodecPage	opened;
	bool		ok;

	t.e.xid = xid;
	t.e.kind_flags = (uint8_t) kind;
	FillPayload(&t, 1);
	CodecBuildBegin(&b, &page);
	ok = CodecBuildChain(&b, 1) && CodecBuildEntry(&b, &t.e) && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	part.data = page.data;
	part.len = page.len;
	ok = ok && CodecUnite(&part, 1, true, &p, &pruned, NULL) &&
		CodecPageOpen(&opened, pruned.data, pruned.len) && opened.nchains == 1;
	if (ok)
		*out = *CodecPageChain(&opened, 0, NULL);
	CodecBufFree(&page);
	CodecBufFree(&pruned);
	return ok;
}

/* Is it left as it is? */
static bool
Untouched(int kind, uint32_t xid, uint64_t limit)
{
	CodecEntry	e;

	return PruneOne(kind, xid, limit, 0, &e) && e.kind_flags == kind && e.xid == xid;
}

static void
TestFarXids(void)
{
	const uint64_t limit = (UINT64_C(9) << 32) + 500;
	CodecEntry	e;

	Ok(Untouched(CODEC_LOCK, 0, limit) && Untouched(CODEC_LOCK, 1, limit) &&
	   Untouched(CODEC_LOCK, 2, limit) && Untouched(CODEC_INSERT, 2, limit) &&
	   Untouched(CODEC_KILL, 2, limit), "xids: those that mean no transaction are undecided");
	Ok(Untouched(CODEC_LOCK, 500, limit) && Untouched(CODEC_LOCK, 501, limit) &&
	   Untouched(CODEC_LOCK, 500 + (UINT32_C(1) << 31) - 1, limit),
	   "xids: half of the circle lies behind the limit");
	Ok(PruneOne(CODEC_KILL, 499, limit, 0, &e) && CodecDeadSlotXid(&e) == limit - 1 &&
	   PruneOne(CODEC_KILL, 3, limit, 0, &e) && CodecDeadSlotXid(&e) == limit - 497 &&
	   PruneOne(CODEC_KILL, 0xFFFFFFFF, limit, 0, &e) && CodecDeadSlotXid(&e) == limit - 501 &&
	   PruneOne(CODEC_KILL, 501 + (UINT32_C(1) << 31), limit, 0, &e) &&
	   CodecDeadSlotXid(&e) == limit + 1 - (UINT64_C(1) << 31),
	   "xids: half of it before, over the end of an epoch");
	Ok(Untouched(CODEC_LOCK, 0xFFFFFFFF, 500) && Untouched(CODEC_KILL, 0xF0000000, 500),
	   "xids: there is nothing before the first");
	Ok(PruneOne(CODEC_DELETE | CODEC_FROZEN, 700, limit, limit, &e) &&
	   CodecDeadSlotXid(&e) == limit + 200 &&
	   PruneOne(CODEC_DELETE | CODEC_FROZEN, 499 + (UINT32_C(1) << 31), limit, limit, &e) &&
	   CodecDeadSlotXid(&e) >= limit &&
	   PruneOne(CODEC_DELETE | CODEC_FROZEN, 2, limit, limit, &e) && CodecDeadSlotXid(&e) >= limit,
	   "xids: a frozen delete mark out of reach is taken for later than it was, never earlier");
}

/* ---- pages ------------------------------------------------------------- */

static bool
PruneTo(const CodecBuf *page, const CodecPruning *p, const CodecBuf *want)
{
	CodecBuf	out = {0};
	bool		changed;
	bool		ok;

	/* it is to be appended behind something */
	ok = CodecBufAppend(&out, "12345678", 8) &&
		CodecPrune(page->data, page->len, true, p, &out, &changed, NULL) && changed &&
		out.len == 8 + want->len && memcmp(out.data + 8, want->data, want->len) == 0 &&
		memcmp(out.data, "12345678", 8) == 0;
	CodecBufFree(&out);
	return ok;
}

/* Chains that vanish shrink the directory, which the bytes of the page must show. */
static void
TestVanishing(void)
{
	static const char *const before[] = {"L120", "D20 I10", "U20n I10", "L40"};
	static const char *const after[] = {"L120", "", "U20n*", ""};
	CodecHorizon h;
	CodecPruning p = {&h, 0};
	bool		ok = true;

	origin = 1000;
	MakeHorizon(&h, LIMIT, SETTLED, 0);
	p.cleaned = origin + 50;
	for (int n = 1; n <= ORBIT_MAX_SLOT; n++)
	{
		CodecBuf	page = {0};
		CodecBuf	want = {0};

		BuildPage(n, before, 4, &page);
		BuildPage(n, after, 4, &want);
		ok = ok && PruneTo(&page, &p, &want);
		CodecBufFree(&page);
		CodecBufFree(&want);
	}
	Ok(ok, "page: chains vanish, up to the whole page");
}

static void
TestNothingToPrune(void)
{
	static const char *const rows[] = {"I10*", "U20n*"};
	CodecHorizon h;
	CodecPruning p = {&h, 0};
	CodecPruning none = {NULL, 0};
	CodecBuf	page = {0};
	CodecBuf	out = {0};
	CodecPart	part;
	const char *error = NULL;
	bool		changed = true;

	MakeHorizon(&h, LIMIT, SETTLED, 0);
	BuildPage(255, rows, 2, &page);
	part.data = page.data;
	part.len = page.len;
	Ok(CodecPrune(page.data, page.len, true, &p, &out, &changed, NULL) && !changed && out.len == 0 &&
	   CodecUnite(&part, 1, true, &p, &out, NULL) && out.len == page.len &&
	   memcmp(out.data, page.data, page.len) == 0, "page: frozen rows stay as they are");
	page.data[100] ^= 1;
	changed = true;
	Ok(!CodecPrune(page.data, page.len - 8, true, &p, &out, &changed, &error) && !changed &&
	   error != NULL && !CodecPrune(NULL, 0, true, &p, &out, &changed, NULL) &&
	   out.len == page.len, "page: damage is refused");

	out.len = page.len = 0;
	BuildPage(3, (const char *const[]) {"L40 D20 I10"}, 1, &page);
	part.data = page.data;
	part.len = page.len;
	Ok(CodecPrune(page.data, page.len, true, NULL, &out, &changed, NULL) && !changed &&
	   CodecPrune(page.data, page.len, true, &none, &out, &changed, NULL) && !changed &&
	   CodecUnite(&part, 1, true, &none, &out, NULL) && out.len == page.len &&
	   memcmp(out.data, page.data, page.len) == 0, "page: without a horizon nothing goes");
	CodecBufFree(&page);
	CodecBufFree(&out);
}

/* Chains that no writer would make: nothing may be read or written beyond the page. */
static void
TestNonsense(void)
{
	CodecHorizon h;
	CodecPruning p = {&h, 0};
	bool		ok = true;

	Reseed(7);
	for (int i = 0; i < 60000 && ok; i++)
	{
		CodecBuilder b;
		CodecBuf	page = {0};
		CodecBuf	out = {0};
		CodecBuf	again = {0};
		CodecPage	opened;
		bool		complete = Random(2) == 0;
		bool		changed;

		origin = origins[Random(NORIGINS)];
		MakeHorizon(&h, LIMIT, Random(LIMIT + 1), Random(LIMIT + 1));
		p.cleaned = Random(2) ? origin + Random(LIMIT) : 0;
		CodecBuildBegin(&b, &page);
		for (int slot = 1; slot < 4; slot++)
		{
			ok = ok && CodecBuildChain(&b, slot);
			for (uint32_t n = Random(7); n > 0; n--)
			{
				TestEntry	t = {{0}};
				uint32_t	kind = 1 + Random(7);

				t.e.xid = Random(9) ? (uint32_t) (origin + Random(130)) : Random(1u << 31) * 2;
				t.e.kind_flags = (uint8_t) (kind | (Random(4) ? 0 : CODEC_FROZEN) | Random(4) << 5 |
											(kind == CODEC_INSERT && Random(2) ? CODEC_SPECULATIVE : 0));
				FillPayload(&t, Random(50));
				ok = ok && CodecBuildEntry(&b, &t.e);
			}
		}
		ok = ok && CodecBuildFinish(&b) &&
			CodecPrune(page.data, page.len, complete, &p, &out, &changed, NULL);
		if (ok && changed)
			ok = CodecPageOpen(&opened, out.data, out.len) && out.len <= page.len &&
				CodecPrune(out.data, out.len, complete, &p, &again, &changed, NULL) && !changed;
		CodecBuildFree(&b);
		CodecBufFree(&page);
		CodecBufFree(&out);
		CodecBufFree(&again);
	}
	Ok(ok, "page: 60000 pages of nonsense are pruned to pages that stay");
}

static void
TestLong(void)
{
	const int	n = 100000;
	CodecBuf	page = {0};
	CodecBuf	out = {0};
	CodecBuilder b;
	CodecHorizon h;
	CodecPruning p = {&h, 0};
	CodecPage	opened;
	bool		changed;
	bool		ok;
	clock_t		began;

	origin = 1000;
	MakeHorizon(&h, LIMIT, SETTLED, 0);
	CodecBuildBegin(&b, &page);
	ok = CodecBuildChain(&b, 17);
	for (int i = 0; i < n; i++)
	{
		TestEntry	t;

		ParseEntry(i % 3 == 0 ? "L120" : i % 3 == 1 ? "U31" : "U80", &t);
		ok = ok && CodecBuildEntry(&b, &t.e);
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	began = clock();
	ok = ok && CodecPrune(page.data, page.len, false, &p, &out, &changed, NULL) && changed;
	printf("# %.1f ms\n", (double) (clock() - began) * 1000 / CLOCKS_PER_SEC);
	Ok(ok && (clock() - began) / CLOCKS_PER_SEC < 3 && CodecPageOpen(&opened, out.data, out.len),
	   "page: a chain of 100000 entries takes linear time");
	CodecBufFree(&page);
	CodecBufFree(&out);
}

int
main(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 10);
	Reseed(0);
	TestCases();
	TestFarXids();
	TestVanishing();
	TestNothingToPrune();
	TestNonsense();
	TestLong();
	FreeFates();
	printf("1..%d\n", tests);
	return failures > 0;
}
