/*
 * scan.c: whole pages, united over the write buffers and RocksDB.
 *
 * A scan holds a view only inside StoreScanNext.  Between calls it keeps
 *
 *   its position   the next page that may be returned: all that correctness needs
 *   an iterator    of RocksDB; it serves as long as no arena has been released that it
 *                  misses: pin.generation <= its generation.  Then, and when the
 *                  process's handle moves, it goes and is made anew at the position.
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
#include "utils/memutils.h"

#include "store/store_internal.h"

/* Of a scan that would only push everything else out of the block cache. */
#define LARGE_SCAN_READAHEAD	((Size) 1024 * 1024)

/*
 * Storages of so few pages are read page by page through the page cache: a small table that
 * every statement scans costs neither an iterator nor the decoding of its blocks.
 */
#define SMALL_STORAGE	16

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
	bool		small;			/* see SMALL_STORAGE */
	BlockNumber position;
	StoreCut	cut;			/* enough NULL: whole chains */

	KvIter	   *iter;
	Size		readahead;
	uint64		iter_generation;	/* of iter, or of rocks_ended */
	bool		rocks_ended;	/* no page from the position on at iter_generation */
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

static void
SeekRocks(StoreScan *s, KvDb *handle, uint64 generation)
{
	char		key[CODEC_PAGE_KEY_SIZE];

	DropIterator(s);
	CreateIterator(s, handle);
	s->iter_generation = generation;
	s->rocks_ended = false;
	CodecPageKey(key, s->storage, s->position);
	if (s->backward)
		KvIterSeekForPrev(s->iter, key, sizeof(key));
	else
		KvIterSeek(s->iter, key, sizeof(key));
	NoteRocksPosition(s);
}

/* Brings the iterator to the position; false: RocksDB has no page from there on. */
static bool
AdvanceRocks(StoreScan *s, StoreView *v)
{
	if (v->pin.generation == 0)
		return false;
	if (s->iter_generation < v->pin.generation || (s->iter == NULL && !s->rocks_ended))
	{
		uint64		generation;
		KvDb	   *handle = StoreViewProve(v, &generation);

		SeekRocks(s, handle, generation);
	}
	while (!s->rocks_ended &&
		   (s->backward ? s->rocks_page > s->position : s->rocks_page < s->position))
	{
		if (s->backward)
			KvIterPrev(s->iter);
		else
			KvIterNext(s->iter);
		NoteRocksPosition(s);
	}
	return !s->rocks_ended;
}

/* ---- the arenas' side of a scan ---------------------------------------------------------------- */

/* Is the node it stands on (if any) a page of the scan? */
static void
NoteArenaPosition(StoreScan *s, ArenaCursor *c, bool on_node)
{
	const char *key;
	Size		len;
	OrbitStorageId storage;

	c->ended = true;
	if (!on_node || MembufIterKey(&c->it, &key, &len) != ORBIT_PG_DATA ||
		!CodecPageKeyParse(key, len, &storage, &c->page) || storage != s->storage)
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
	s->small = count <= SMALL_STORAGE && last <= count;
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

/* The nearest page from the position on; false: none. */
static bool
NextPage(StoreScan *s, StoreView *v, BlockNumber *page)
{
	bool		found = AdvanceRocks(s, v);

	if (found)
		*page = s->rocks_page;
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

static inline const StoreCut *
Cut(StoreScan *s)
{
	return s->cut.enough != NULL ? &s->cut : NULL;
}

/* The page's bytes; false: it has no row yet. */
static bool
CopyPage(StoreScan *s, StoreView *v, BlockNumber page, CodecBuf *out)
{
	const char *rocks = NULL;
	size_t		len = 0;
	StoreParts	parts;

	StorePartsBegin(&parts, Cut(s));
	for (uint64 seq = v->pin.active; seq >= v->pin.oldest; seq--)
	{
		ArenaCursor *c = &s->cursors[seq % s->ncursors];

		if (!c->ended && c->page == page)
			StorePartsAdd(&parts, seq, MembufIterPage(&c->it));
	}
	if (s->iter != NULL && s->rocks_page == page && v->pin.generation != 0)
		KvIterValue(s->iter, &rocks, &len);
	return StorePartsUnite(&parts, rocks, len, NULL, s->storage, page, out);
}

static void
MovePast(StoreScan *s, BlockNumber page)
{
	if (page == (s->backward ? s->first : s->last))
		s->ended = true;
	else
		s->position = s->backward ? page - 1 : page + 1;
}

bool
StoreScanNext(StoreScan *s, BlockNumber *page, CodecBuf *out)
{
	StoreView	v;
	bool		found = false;

	if (s->ended)
		return false;
	StoreViewOpen(&v);
	while (!found && !s->ended)
	{
		if (s->small)
		{
			*page = s->position;
			found = StoreUnitedPage(&v, s->storage, *page, Cut(s), out);
			MovePast(s, *page);
		}
		else if (!NextPage(s, &v, page))
			s->ended = true;
		else
		{
			found = CopyPage(s, &v, *page, out);
			MovePast(s, *page);
		}
	}
	if (s->ended)
		DropIterator(s);
	StoreViewClose(&v);
	return found;
}

void
StoreScanEnd(StoreScan *s)
{
	MemoryContextDelete(s->context);	/* the callback does the rest */
	StoreUnpublish();
}
