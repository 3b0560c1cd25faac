/*
 * parts.c: one page out of its parts: what the arenas of a view have of it, newest first, and
 * RocksDB's page.
 *
 * A row that is changed all the time has a long chain, and whoever scans its page would copy
 * all of it to look at the first entries.  So a reader may say what is enough (StoreCut):
 * a chain then ends at the first entry that is, and older parts add nothing to it.  Pages of
 * RocksDB are cut only when they are large: where nearly every row has one version,
 * copying the bytes is cheaper than looking at them.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"

#include "store/store_internal.h"

#define SCRATCH_KEEP	((Size) 1024 * 1024)	/* kept over a transaction's end */

/* Parts that were built, one behind the other. */
static CodecBuf scratch;

/* Static: an ERROR raised by a StoreCut leaves nothing to free. */
static CodecBuilder builder;

/* ---- building parts ------------------------------------------------------------------ */

/* Where a chain goes on: in an arena, or in a page. */
typedef struct ChainSource
{
	uint64		seq;
	const CodecPage *image;		/* NULL: arena seq */
	int			chain;
} ChainSource;

static inline const CodecEntry *
Older(const ChainSource *s, const CodecEntry *e)
{
	return s->image != NULL ? CodecPageOlder(s->image, s->chain, e) : MembufOlder(s->seq, e);
}

/* A row begins with its INSERT, so there is nothing to be cut behind that of a new row. */
static inline bool
MayHaveOlder(const CodecEntry *e, const CodecEntry *older)
{
	return older != NULL || CodecEntryKind(e) != CODEC_INSERT;
}

static bool
BuildChain(StoreParts *p, const ChainSource *s, int slot, const CodecEntry *e)
{
	bool		ok = CodecBuildChain(&builder, slot);
	bool		head = !p->met[slot];

	p->met[slot] = true;
	while (ok && e != NULL)
	{
		const CodecEntry *older = Older(s, e);

		ok = CodecBuildEntry(&builder, e);
		if (p->cut != NULL && MayHaveOlder(e, older) && p->cut->enough(e, p->cut->arg))
		{
			p->ended[slot] = true;
			if (head)
				p->head_enough[slot / 64] |= UINT64CONST(1) << (slot % 64);
			break;
		}
		head = false;
		e = older;
	}
	return ok;
}

/* Appends the arena's page to scratch; *rows: how many. */
static bool
BuildFromArena(StoreParts *p, uint64 seq, MembufPage *page, int *rows)
{
	ChainSource s = {.seq = seq};
	const CodecEntry *e;
	int			slot = 0;

	while ((slot = MembufPageNextSlot(seq, page, slot, &e)) != 0)
	{
		if (p->ended[slot])
			continue;
		if (!BuildChain(p, &s, slot, e))
			return false;
		(*rows)++;
	}
	return true;
}

static bool
BuildFromImage(StoreParts *p, const CodecPage *image, int *rows)
{
	ChainSource s = {.image = image};

	for (s.chain = 0; s.chain < image->nchains; s.chain++)
	{
		int			slot;
		const CodecEntry *e = CodecPageChain(image, s.chain, &slot);

		if (p->ended[slot])
			continue;
		if (!BuildChain(p, &s, slot, e))
			return false;
		(*rows)++;
	}
	return true;
}

/* image NULL: the arena's page. */
static void
AddPart(StoreParts *p, uint64 seq, MembufPage *page, const CodecPage *image)
{
	Size		start = scratch.len;
	int			rows = 0;
	bool		ok;

	Assert(p->n < lengthof(p->offset));
	CodecBuildFree(&builder);
	CodecBuildBegin(&builder, &scratch);
	ok = CodecBufReserve(&builder.body, ORBIT_PAGE_BYTES) &&
		(image != NULL ? BuildFromImage(p, image, &rows) : BuildFromArena(p, seq, page, &rows)) &&
		CodecBuildFinish(&builder);
	CodecBuildFree(&builder);
	if (!ok)
		StoreOutOfMemory();
	if (rows > 0)
		p->offset[p->n++] = start;
	else
		scratch.len = start;	/* just begun: no row to be seen yet */
}

void
StorePartsBegin(StoreParts *p, const StoreCut *cut)
{
	scratch.len = 0;
	p->cut = cut;
	p->n = 0;
	memset(p->met, 0, sizeof(p->met));
	memset(p->ended, 0, sizeof(p->ended));
	memset(p->head_enough, 0, sizeof(p->head_enough));
}

void
StorePartsAdd(StoreParts *p, uint64 seq, MembufPage *page)
{
	AddPart(p, seq, page, NULL);
}

void
StorePartsShrink(void)
{
	if (scratch.cap > SCRATCH_KEEP)
		CodecBufFree(&scratch);
	CodecBuildFree(&builder);	/* an ERROR may have left it */
}

/* ---- cutting for many ------------------------------------------------------------------ */

/* Enough also for whoever takes a snapshot later.  What we have done ourselves is not yet. */
static bool
EnoughForMany(const CodecEntry *e, const StoreCut *cut)
{
	CodecKind	kind = CodecEntryKind(e);

	return (kind == CODEC_UPDATE || kind == CODEC_DELETE) && !(e->kind_flags & CODEC_FROZEN) &&
		!TransactionIdIsCurrentTransactionId(e->xid) && cut->enough(e, cut->arg);
}

static bool
CutChain(const CodecPage *image, int chain, const StoreCut *cut, TransactionId *newest)
{
	int			slot;
	const CodecEntry *e = CodecPageChain(image, chain, &slot);
	bool		ok = CodecBuildChain(&builder, slot);

	while (ok && e != NULL)
	{
		const CodecEntry *older = CodecPageOlder(image, chain, e);

		ok = CodecBuildEntry(&builder, e);
		if (older != NULL && EnoughForMany(e, cut))
		{
			if (!TransactionIdIsValid(*newest) || TransactionIdPrecedes(*newest, e->xid))
				*newest = e->xid;
			break;
		}
		e = older;
	}
	return ok;
}

bool
StoreCutPage(const CodecPage *image, const StoreCut *cut, CodecBuf *out, TransactionId *newest)
{
	bool		ok = true;

	*newest = InvalidTransactionId;
	CodecBuildFree(&builder);
	CodecBuildBegin(&builder, out);
	for (int chain = 0; ok && chain < image->nchains; chain++)
		ok = CutChain(image, chain, cut, newest) && builder.body.len <= STORE_LARGEST_SHARED;
	ok = ok && CodecBuildFinish(&builder) && out->len <= STORE_LARGEST_SHARED;
	CodecBuildFree(&builder);
	return ok;
}

/* ---- uniting -------------------------------------------------------------------------- */

void
StorePageRelease(StorePage *p)
{
	StorePinned *pinned = p->pinned;

	p->pinned = NULL;
	p->plain = false;
	memset(p->head_enough, 0, sizeof(p->head_enough));
	p->image.data = NULL;
	if (pinned != NULL)
		StoreSharedPagesUnpin(pinned);
}

void
StorePageFree(StorePage *p)
{
	StorePageRelease(p);
	CodecBufFree(&p->buf);
}

/* Adds RocksDB's page as one more part, cut. */
static void
AddCut(StoreParts *p, const StoreRocksPart *rocks, OrbitStorageId storage, BlockNumber page)
{
	static CodecBuf aligned;	/* static: nothing to free on ERROR */
	const CodecPage *image = rocks->image;
	CodecPage	opened;

	if (image == NULL)
	{
		aligned.len = 0;
		if (!CodecBufAppend(&aligned, rocks->rocks, rocks->len))
			StoreOutOfMemory();
		if (!CodecPageOpen(&opened, aligned.data, rocks->len))
			StoreRaiseDamagedPage(storage, page);
		image = &opened;
	}
	AddPart(p, 0, NULL, image);
	CodecBufFree(&aligned);
}

/* Have the arenas all that is to be seen of RocksDB's page? */
static bool
AllEnded(const StoreParts *p, const CodecPage *image)
{
	for (int chain = 0; chain < image->nchains; chain++)
	{
		int			slot;

		(void) CodecPageChain(image, chain, &slot);
		if (!p->ended[slot])
			return false;
	}
	return true;
}

/* There is but one part: nothing to unite. */
static void
CopyOnly(StoreParts *p, const StoreRocksPart *rocks, StorePage *out)
{
	const char *data = p->n == 0 ? rocks->rocks : scratch.data;
	Size		len = p->n == 0 ? rocks->len : scratch.len;

	if (!CodecBufAppend(&out->buf, data, len))
		StoreOutOfMemory();
}

static void
Unite(StoreParts *p, const StoreRocksPart *rocks, OrbitStorageId storage, BlockNumber page, CodecBuf *out)
{
	CodecPart	parts[lengthof(p->offset) + 1];
	const char *error = "";
	CodecPage	check;

	for (int i = 0; i < p->n; i++)
	{
		parts[i].data = scratch.data + p->offset[i];
		parts[i].len = (i + 1 < p->n ? p->offset[i + 1] : scratch.len) - p->offset[i];
	}
	if (rocks->rocks != NULL)
	{
		parts[p->n].data = rocks->rocks;
		parts[p->n].len = rocks->len;
	}
	if (CodecUnite(parts, p->n + (rocks->rocks != NULL), true, NULL, out, &error))
		return;
	if (rocks->rocks != NULL && !CodecPageOpen(&check, rocks->rocks, rocks->len))
		StoreRaiseDamagedPage(storage, page);
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("could not read page %u of storage " UINT64_FORMAT ": %s",
					page, storage, error)));
}

bool
StorePartsUnite(StoreParts *p, const StoreRocksPart *rocks, bool checked,
				OrbitStorageId storage, BlockNumber page, StorePage *out)
{
	static const StoreRocksPart none = {0};

	StorePageRelease(out);
	out->buf.len = 0;
	if (p->n == 0 && rocks->pinned != NULL)
	{
		StoreSharedPagesPinAgain(rocks->pinned);
		out->pinned = rocks->pinned;
		out->plain = StoreSharedPagesPlain(rocks->pinned, &out->newest);
		out->image = *rocks->image;
		return true;
	}
	if (rocks->rocks != NULL && p->cut != NULL && rocks->len > STORE_CUT_BYTES)
	{
		AddCut(p, rocks, storage, page);
		rocks = &none;
	}
	else if (p->n > 0 && rocks->image != NULL && AllEnded(p, rocks->image))
		rocks = &none;
	if (p->n == 0 && rocks->rocks == NULL)
		return false;
	if (p->n == 0 || (p->n == 1 && rocks->rocks == NULL))
		CopyOnly(p, rocks, out);
	else
		Unite(p, rocks, storage, page, &out->buf);
	/* uniting keeps the first entry of each row, for nothing is pruned here */
	memcpy(out->head_enough, p->head_enough, sizeof(out->head_enough));
	if (p->n > 0)
		CodecPageOpenBuilt(&out->image, out->buf.data, out->buf.len);
	else if (checked && !CodecPageOpen(&out->image, out->buf.data, out->buf.len))
		StoreRaiseDamagedPage(storage, page);
	return true;
}

/* ---- one page ------------------------------------------------------------------------------ */

bool
StoreUnitedPage(StoreView *v, OrbitStorageId storage, BlockNumber page, const StoreCut *cut,
				StorePage *out)
{
	StoreParts	parts;
	const CodecPage *image;
	StorePinned *pinned;
	StoreRocksPart rocks;

	StorePartsBegin(&parts, cut);
	for (uint64 seq = v->pin.active; seq >= v->pin.oldest; seq--)
	{
		MembufPage *p = MembufPageLookup(seq, storage, page);

		if (p != NULL)
			StorePartsAdd(&parts, seq, p);
	}
	image = StoreCachedPage(v, storage, page, cut, &pinned);
	rocks = StorePartOf(image, pinned);
	return StorePartsUnite(&parts, &rocks, true, storage, page, out);
}

bool
StoreReadPage(OrbitStorageId storage, BlockNumber page, const StoreCut *cut, StorePage *out)
{
	StoreView	v;
	bool		found;

	StoreViewOpen(&v);
	found = StoreUnitedPage(&v, storage, page, cut, out);
	StoreViewClose(&v);
	return found;
}

/* Only a page of which nothing has changed since the last flush, and that is in shared memory. */
bool
StoreTryPage(OrbitStorageId storage, BlockNumber page, const StoreCut *cut, StorePage *out)
{
	StoreView	v;
	StoreParts	none = {0};
	const CodecPage *image;
	StorePinned *pinned;
	bool		found;

	StoreViewOpen(&v);
	found = v.pin.generation != 0;
	for (uint64 seq = v.pin.active; found && seq >= v.pin.oldest; seq--)
		found = MembufPageLookup(seq, storage, page) == NULL;
	found = found && StoreFindShared(&v, storage, page, cut, false, &image, &pinned) && image != NULL;
	if (found)
	{
		StoreRocksPart rocks = StorePartOf(image, pinned);

		found = StorePartsUnite(&none, &rocks, true, storage, page, out);
	}
	StoreViewClose(&v);
	return found;
}
