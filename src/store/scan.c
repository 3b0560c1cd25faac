/*
 * scan.c: whole pages, united over the write buffers and RocksDB.
 *
 * A scan holds a view only inside StoreScanNext.  Between calls it keeps
 *
 *   its position   the next page that may be returned: all that correctness needs
 *   an iterator    of RocksDB; it serves as long as no arena has been released that it
 *                  misses: pin.generation <= its generation.  Then, and when the
 *                  process's handle moves, it goes and is made anew at the position.
 *                  It is made when a page is not among the shared ones, and is left
 *                  behind while they are; what it reads is put there unless the table
 *                  would push everything else out.
 *   cursors        in arenas, one for each; a cursor set while its arena was sealed
 *                  stays right until the arena is released, for then nothing is
 *                  added.  In the active arena the position is sought every time.
 *
 * An iterator that ends with an error is never taken for the end of the table (K20).
 *
 * Iterators are malloc'ed by RocksDB, scans live in memory contexts: each scan has a
 * context of its own whose reset callback frees the iterator, so a scan that an
 * ERROR leaves behind leaks nothing.
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "store/store_internal.h"

/* Of a scan that would only push everything else out of the block cache. */
#define LARGE_SCAN_READAHEAD	((Size) 1024 * 1024)

/* Tables that would take more than this part of the shared pages are not put there by scans. */
#define KEEP_SHARE		2

/*
 * An iterator that is so many pages behind goes on; one that is further behind seeks.  A block of a file has
 * about two pages; it is put together as a whole.
 */
#define STEP_PAGES		2

/* So many pages that do not exist are noted among the shared ones; over more, an iterator steps faster. */
#define NOTE_ABSENT		4

typedef struct ArenaCursor
{
	uint64		seq;			/* 0: unused */
	bool		settled;		/* set while the arena was sealed */
	bool		ended;
	BlockNumber page;			/* where it stands, unless ended */
	MembufIter	it;
} ArenaCursor;

struct StoreScan
{
	MemoryContext context;
	MemoryContextCallback callback;
	dlist_node	node;			/* in `scans` */
	OrbitStorageId storage;
	BlockNumber first;
	BlockNumber last;
	bool		backward;
	bool		ended;
	bool		files;			/* see StoreScanFiles */
	bool		keep;			/* what is read is put among the shared pages */
	BlockNumber position;
	StoreCut	cut;			/* enough NULL: whole chains */

	KvIter	   *iter;
	Size		readahead;
	uint64		iter_generation;	/* of iter, or of rocks_ended */
	BlockNumber rocks_from;		/* no page from here up to where iter stands, or */
	bool		rocks_ended;	/* none from there on at all at iter_generation */
	BlockNumber rocks_page;		/* where iter stands */

	int			ncursors;
	ArenaCursor *cursors;		/* of arena s: cursors[s % ncursors] */
};

static dlist_head scans = DLIST_STATIC_INIT(scans);
static int	iterators = 0;

/* ---- iterators --------------------------------------------------------------------- */

static void
DropIterator(StoreScan *s)
{
	if (s->iter == NULL)
		return;
	KvIterDestroy(s->iter);
	s->iter = NULL;
	iterators--;
}

void
StoreDropIterators(void)
{
	dlist_iter	it;

	dlist_foreach(it, &scans)
		DropIterator(dlist_container(StoreScan, node, it.cur));
	Assert(iterators == 0);
}

int
StoreIteratorCount(void)
{
	return iterators;
}

static void
ScanContextReset(void *arg)
{
	StoreScan  *s = arg;

	DropIterator(s);
	dlist_delete(&s->node);
}

static void
CreateIterator(StoreScan *s, KvDb *handle)
{
	char		lower[CODEC_PAGE_KEY_SIZE];
	char		upper[CODEC_PAGE_KEY_SIZE + 1];
	KvStatus	st;

	CodecPageKey(lower, s->storage, s->first);
	CodecPageKey(upper, s->storage, s->last);
	upper[CODEC_PAGE_KEY_SIZE] = '\0';	/* the bound is exclusive: just behind */
	st.code = KV_OK;
	s->iter = KvIterCreate(handle, ORBIT_PG_DATA, lower, sizeof(lower),
						   upper, sizeof(upper), s->readahead, &st);
	if (s->iter == NULL)
	{
		if (st.code == KV_OK)
			StoreOutOfMemory();
		StoreReadFailed(&st, s->storage);
	}
	iterators++;
}

static inline const StoreCut *
Cut(StoreScan *s)
{
	return s->cut.enough != NULL ? &s->cut : NULL;
}

/* ---- RocksDB's side of a scan ------------------------------------------------------------------ */

/* Reads where the iterator stands now. */
static void
NoteRocksPosition(StoreScan *s)
{
	const char *key;
	size_t		len;
	OrbitStorageId storage;
	KvStatus	st;

	if (KvIterValid(s->iter))
	{
		KvIterKey(s->iter, &key, &len);
		if (!CodecPageKeyParse(key, len, &storage, &s->rocks_page) || storage != s->storage)
		{
			StoreFillStatus(&st, KV_CORRUPTION, "unexpected key in column family pg_data");
			StoreReadFailed(&st, s->storage);
		}
		store_rocks_pages++;
		return;
	}
	st.code = KV_OK;
	KvIterStatus(s->iter, &st);
	if (st.code != KV_OK)
		StoreReadFailed(&st, s->storage);
	s->rocks_ended = true;
	DropIterator(s);			/* lets go of its files */
}

/* An iterator as new as the handle; one that is sought again reads on in what it has read ahead. */
static void
RenewIterator(StoreScan *s, StoreView *v)
{
	uint64		generation;
	KvDb	   *handle = StoreViewProve(v, &generation);

	DropIterator(s);
	CreateIterator(s, handle);
	s->iter_generation = generation;
}

static void
SeekRocks(StoreScan *s)
{
	char		key[CODEC_PAGE_KEY_SIZE];

	s->rocks_from = s->position;
	s->rocks_ended = false;
	CodecPageKey(key, s->storage, s->position);
	if (s->backward)
		KvIterSeekForPrev(s->iter, key, sizeof(key));
	else
		KvIterSeek(s->iter, key, sizeof(key));
	NoteRocksPosition(s);
}

/* Does the iterator, where it stands, tell what is next from the position on? */
static bool
IteratorTells(const StoreScan *s, const StoreView *v)
{
	if (s->iter_generation < v->pin.generation || (s->iter == NULL && !s->rocks_ended))
		return false;
	if (s->backward)
		return s->position <= s->rocks_from && (s->rocks_ended || s->position >= s->rocks_page);
	return s->position >= s->rocks_from && (s->rocks_ended || s->position <= s->rocks_page);
}

/* Brings the iterator to the position. */
static void
AdvanceIterator(StoreScan *s, StoreView *v)
{
	bool		serves = s->iter != NULL && s->iter_generation >= v->pin.generation;
	BlockNumber behind = 0;

	if (serves && s->backward && s->rocks_page > s->position)
		behind = s->rocks_page - s->position;
	else if (serves && !s->backward && s->rocks_page < s->position)
		behind = s->position - s->rocks_page;
	if (!serves)
		RenewIterator(s, v);
	if (behind == 0 || behind > STEP_PAGES)
		SeekRocks(s);
	while (!IteratorTells(s, v))
	{
		s->rocks_from = s->backward ? s->rocks_page - 1 : s->rocks_page + 1;
		if (s->backward)
			KvIterPrev(s->iter);
		else
			KvIterNext(s->iter);
		NoteRocksPosition(s);
	}
}

/*
 * From the position up to where the iterator stands there is nothing: the next scan need not ask.  Such are
 * the last pages of a small table whose rows have moved.
 */
static void
ShareAbsent(StoreScan *s)
{
	BlockNumber from = s->position;
	BlockNumber to = s->rocks_ended ? s->last : s->rocks_page - 1;
	StorePinned *unused;

	if (s->backward)
	{
		from = s->rocks_ended ? s->first : s->rocks_page + 1;
		to = s->position;
	}
	if ((!s->rocks_ended && s->rocks_page == s->position) || to - from >= NOTE_ABSENT)
		return;
	for (BlockNumber page = from; page <= to; page++)
		(void) StorePutShared(s->storage, page, s->iter_generation, NULL, NULL, &unused);
}

/* RocksDB's next page. */
typedef struct RocksPage
{
	bool		found;
	bool		maybe;			/* nothing at the position; beyond it is not known */
	BlockNumber page;
	const CodecPage *image;		/* NULL: it is the iterator's */
	StorePinned *pinned;
} RocksPage;

static void
NextOfRocks(StoreScan *s, StoreView *v, RocksPage *r)
{
	memset(r, 0, sizeof(*r));
	if (v->pin.generation == 0)
		return;
	if (!IteratorTells(s, v))
	{
		if (!s->files &&
			StoreFindShared(v, s->storage, s->position, Cut(s), !s->keep, &r->image, &r->pinned))
		{
			r->page = s->position;
			r->found = r->image != NULL;
			r->maybe = r->image == NULL;
			return;
		}
		AdvanceIterator(s, v);
		if (s->keep)
			ShareAbsent(s);
	}
	r->found = !s->rocks_ended;
	r->page = s->rocks_page;
}

/* ---- the arenas' side of a scan ---------------------------------------------------------------- */

/* Is the node it stands on (if any) a page of the scan? */
static void
NoteArenaPosition(StoreScan *s, ArenaCursor *c, bool on_node)
{
	c->ended = true;
	if (!on_node || !StoreArenaPage(&c->it, s->storage, &c->page))
		return;
	c->ended = s->backward ? c->page < s->first : c->page > s->last;
}

static bool
AdvanceArena(StoreScan *s, ArenaCursor *c, uint64 seq, bool sealed)
{
	if (c->seq != seq || !c->settled)
	{
		char		key[CODEC_PAGE_KEY_SIZE];

		c->seq = seq;
		c->settled = sealed;
		CodecPageKey(key, s->storage, s->position);
		MembufIterInit(&c->it, seq);
		NoteArenaPosition(s, c, s->backward ?
						  MembufIterSeekForPrev(&c->it, ORBIT_PG_DATA, key, sizeof(key)) :
						  MembufIterSeek(&c->it, ORBIT_PG_DATA, key, sizeof(key)));
	}
	while (!c->ended && (s->backward ? c->page > s->position : c->page < s->position))
		NoteArenaPosition(s, c, s->backward ? MembufIterPrev(&c->it) : MembufIterNext(&c->it));
	return !c->ended;
}

/* ---- scans ------------------------------------------------------------------------------------------ */

static Size
Readahead(BlockNumber count, BlockNumber first, BlockNumber last)
{
	uint64		end = Min((uint64) last + 1, count);
	uint64		cache = (uint64) orbit_block_cache_size * 1024;

	return end > first && (end - first) * ORBIT_PAGE_BYTES > cache ? LARGE_SCAN_READAHEAD : 0;
}

StoreScan *
StoreScanBegin(OrbitStorageId storage, BlockNumber first, BlockNumber last, bool backward,
			   const StoreCut *cut)
{
	BlockNumber count = StorePageCount(storage);
	MemoryContext context;
	StoreScan  *s;

	context = AllocSetContextCreate(CurrentMemoryContext, "orbit scan", ALLOCSET_SMALL_SIZES);
	s = MemoryContextAllocZero(context, sizeof(StoreScan));
	s->context = context;
	s->storage = storage;
	s->first = first;
	s->last = last;
	s->backward = backward;
	s->position = backward ? last : first;
	s->ended = first > last;
	s->keep = count <= (uint64) orbit_page_cache_size * 1024 / ORBIT_PAGE_BYTES / KEEP_SHARE;
	if (cut != NULL)
		s->cut = *cut;
	s->readahead = Readahead(count, first, last);
	s->ncursors = orbit_max_write_buffers;
	s->cursors = MemoryContextAllocZero(context, s->ncursors * sizeof(ArenaCursor));

	dlist_push_head(&scans, &s->node);
	s->callback.func = ScanContextReset;
	s->callback.arg = s;
	MemoryContextRegisterResetCallback(context, &s->callback);
	return s;
}

void
StoreScanFiles(StoreScan *s)
{
	s->files = true;
	s->keep = false;
}

void
StoreScanOnce(StoreScan *s)
{
	s->keep = false;
}

static void
MovePast(StoreScan *s, BlockNumber page)
{
	if (page == (s->backward ? s->first : s->last))
		s->ended = true;
	else
		s->position = s->backward ? page - 1 : page + 1;
}

/* The nearest page of the arenas from the position on. */
static bool
NextOfArenas(StoreScan *s, StoreView *v, BlockNumber *page)
{
	bool		found = false;

	for (uint64 seq = v->pin.oldest; seq <= v->pin.active; seq++)
	{
		ArenaCursor *c = &s->cursors[seq % s->ncursors];

		if (!AdvanceArena(s, c, seq, seq < v->pin.active))
			continue;
		if (!found || (s->backward ? c->page > *page : c->page < *page))
			*page = c->page;
		found = true;
	}
	return found;
}

/* The nearest page from the position on, and what RocksDB has of it; false: none. */
static bool
NextPage(StoreScan *s, StoreView *v, BlockNumber *page, RocksPage *r)
{
	while (!s->ended)
	{
		BlockNumber arena = s->position;
		bool		in_arenas = NextOfArenas(s, v, &arena);

		NextOfRocks(s, v, r);
		if (r->found && in_arenas)
			*page = s->backward ? Max(arena, r->page) : Min(arena, r->page);
		else if (r->found)
			*page = r->page;
		else if (in_arenas && (!r->maybe || arena == s->position))
			*page = arena;
		else if (!r->maybe)
			return false;
		else
		{
			/* queues leave many pages that are known to be gone */
			CHECK_FOR_INTERRUPTS();
			MovePast(s, s->position);
			continue;
		}
		r->found = r->found && r->page == *page;
		return true;
	}
	return false;
}

/*
 * An iterator may be older than the last VACUUM, which froze what its files still have as it was.  Where the
 * commit log has been truncated since then, the page is read again from the files as they are now.
 */
static bool
IsOutdated(StoreScan *s, StoreView *v, const CodecPage *image)
{
	return !StoreFatesKnown(image) && (StoreViewRenew(v) || s->iter == NULL);
}

static CodecBuf iterator_page;	/* static: nothing to free on ERROR */

void
StoreScanShrink(void)
{
	if (iterator_page.cap > 2 * STORE_LARGEST_SHARED)
		CodecBufFree(&iterator_page);
}

static void
OpenIteratorPage(StoreScan *s, const StoreRocksPart *part, CodecPage *opened)
{
	CodecBuf   *buf = &iterator_page;

	buf->len = 0;
	if (!CodecBufAppend(buf, part->rocks, part->len))
		StoreOutOfMemory();
	if (!CodecPageOpen(opened, buf->data, buf->len))
		StoreRaiseDamagedPage(s->storage, s->rocks_page);
}

/* What the iterator stands on, for the others too. */
static void
ShareIteratorPage(StoreScan *s, StoreRocksPart *part, const CodecPage *opened)
{
	const CodecPage *shared;
	StorePinned *pinned;

	shared = StorePutShared(s->storage, s->rocks_page, s->iter_generation, opened, Cut(s), &pinned);
	/* not this one, if somebody else was faster: as good, but perhaps pruned less, or cut for another */
	*part = StorePartOf(shared != NULL ? shared : opened, pinned);
}

/* False: it has no row yet; or, *outdated, it is to be read again. */
static bool
TakePage(StoreScan *s, StoreView *v, BlockNumber page, const RocksPage *r, StorePage *out, bool *outdated)
{
	StoreRocksPart rocks = {0};
	StoreParts	parts;
	CodecPage	opened;
	bool		found;

	StorePartsBegin(&parts, Cut(s));
	for (uint64 seq = v->pin.active; seq >= v->pin.oldest; seq--)
	{
		ArenaCursor *c = &s->cursors[seq % s->ncursors];

		if (!c->ended && c->page == page)
			StorePartsAdd(&parts, seq, MembufIterPage(&c->it));
	}
	if (r->found && r->image != NULL)
		rocks = StorePartOf(r->image, r->pinned);
	else if (r->found)
	{
		size_t		len;
		bool		cuts;
		bool		shares;

		KvIterValue(s->iter, &rocks.rocks, &len);
		rocks.len = len;
		cuts = Cut(s) != NULL && len > STORE_CUT_BYTES;
		shares = s->keep && (len <= STORE_LARGEST_SHARED || Cut(s) != NULL);
		if (cuts || shares)
			OpenIteratorPage(s, &rocks, &opened);
		/* who cuts it asks the commit log */
		*outdated = cuts && IsOutdated(s, v, &opened);
		if (*outdated)
			return false;
		if (shares)
			ShareIteratorPage(s, &rocks, &opened);
		else if (cuts)
			rocks = StorePartOf(&opened, NULL);
	}
	found = StorePartsUnite(&parts, &rocks, !s->files, s->storage, page, out);
	StoreScanShrink();
	return found;
}

bool
StoreScanNext(StoreScan *s, BlockNumber *page, StorePage *out)
{
	static StorePage unseen;
	StoreView	v;
	RocksPage	r = {0};
	bool		found = false;
	bool		outdated = false;

	if (s->ended)
		return false;
	if (out == NULL)
		out = &unseen;
	StoreViewOpen(&v);
	while (!found && !s->ended)
	{
		if (!NextPage(s, &v, page, &r))
			s->ended = true;
		else
		{
			found = TakePage(s, &v, *page, &r, out, &outdated);
			if (found && out != &unseen && r.found && r.image == NULL && !s->files)
				outdated = IsOutdated(s, &v, &out->image);
			if (outdated)
				found = outdated = false;
			else
				MovePast(s, *page);
		}
	}
	if (s->ended)
		DropIterator(s);
	if (out == &unseen)
		StorePageRelease(out);
	else if (!s->ended && r.image != NULL)
		StoreSharedPagesExpect(s->storage, s->position, s->backward ? s->position - 1 : s->position + 1);
	StoreViewClose(&v);
	return found;
}

void
StoreScanEnd(StoreScan *s)
{
	MemoryContextDelete(s->context);	/* the callback does the rest */
	StoreUnpublish();
}
