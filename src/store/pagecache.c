/*
 * pagecache.c: RocksDB's pages for the open view.
 *
 * Nearly all of them lie in shared memory (sharedpages.c), pinned until the view is closed; the last few stay
 * pinned for the next view until the transaction ends, for who reads a row is likely to read its neighbour.
 * The rest, pages that are too large for it or that it has no place for, are kept here: everything was read
 * while the process's handle stood at one generation; when the handle moves all of it goes. So a view may use
 * it iff its own pin.generation is not above that: every arena released before the pin is in the page.
 *
 * A page used by the open view lives until that is closed, even if it has been dropped
 * meanwhile.  What is kept afterwards is bounded in bytes, least recently used first, but for
 * the last page, which is kept whatever its size.  That a page does not exist is remembered too.
 */
#include "postgres.h"

#include <stdlib.h>

#include "lib/ilist.h"

#include "store/store_internal.h"

#define BUCKETS			2048	/* a power of 2 */

typedef struct CachedPage
{
	dlist_node	node;			/* in lru or dropped */
	struct CachedPage *next;	/* in its bucket */
	OrbitStorageId storage;
	BlockNumber page;
	bool		exists;
	uint64		view;			/* number of the view it was last handed out in */
	CodecPage	image;
	CodecBuf	buf;
} CachedPage;

/* A page in shared memory, pinned by the open view or one before. */
typedef struct ViewPage
{
	struct ViewPage *next;
	OrbitStorageId storage;
	BlockNumber page;
	StorePinned *pinned;
	CodecPage	image;
} ViewPage;

static ViewPage *pinned_pages = NULL;	/* newest first */
static ViewPage *spare_pages = NULL;
static int	nspare = 0;

/* So many are looked through before shared memory is asked, and stay pinned between views. */
#define LOOK_BACK		4
#define KEEP_SPARE		16

static CachedPage *buckets[BUCKETS];
static dlist_head lru = DLIST_STATIC_INIT(lru); /* most recently used first */
static dlist_head dropped = DLIST_STATIC_INIT(dropped); /* of a generation gone by, in use */
static Size cached_bytes = 0;	/* of those in lru */
uint64		store_rocks_pages = 0;
static uint64 views = 1;		/* number of the open view, or of the next */

static inline CachedPage **
Bucket(OrbitStorageId storage, BlockNumber page)
{
	return &buckets[StorePageHash(storage, page) >> 53];
}

StaticAssertDecl(BUCKETS == 1 << (64 - 53), "the hash has more bits than there are buckets");

static inline Size
Weight(CachedPage *c)
{
	return sizeof(CachedPage) + c->buf.cap;
}

static void
Free(CachedPage *c)
{
	CodecBufFree(&c->buf);
	free(c);
}

/* Takes it out of the cache; it is freed now or when the view is closed. */
static void
Drop(CachedPage *c)
{
	CachedPage **link = Bucket(c->storage, c->page);

	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	dlist_delete(&c->node);
	cached_bytes -= Weight(c);
	if (c->view == views)
		dlist_push_head(&dropped, &c->node);
	else
		Free(c);
}

void
StoreCacheDrop(void)
{
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &lru)
		Drop(dlist_container(CachedPage, node, it.cur));
	Assert(cached_bytes == 0);
}

/* ---- pinned pages -------------------------------------------------------------------- */

/* A place for one more pin, so that none is taken that could not be noted. */
static void
MakePlace(void)
{
	if (spare_pages != NULL)
		return;
	spare_pages = calloc(1, sizeof(ViewPage));
	if (spare_pages == NULL)
		StoreOutOfMemory();
	nspare++;
}

static const CodecPage *
NotePinned(OrbitStorageId storage, BlockNumber page, StorePinned *pinned, const CodecPage *image)
{
	ViewPage   *p = spare_pages;

	spare_pages = p->next;
	nspare--;
	p->storage = storage;
	p->page = page;
	p->pinned = pinned;
	p->image = *image;
	p->next = pinned_pages;
	pinned_pages = p;
	return &p->image;
}

static void
UnpinFrom(ViewPage **link)
{
	while (*link != NULL)
	{
		ViewPage   *p = *link;

		StoreSharedPagesUnpin(p->pinned);
		*link = p->next;
		if (nspare >= KEEP_SPARE)
		{
			free(p);
			continue;
		}
		p->next = spare_pages;
		spare_pages = p;
		nspare++;
	}
}

static void
UnpinMost(void)
{
	ViewPage  **link = &pinned_pages;

	for (int i = 0; *link != NULL && i < LOOK_BACK; i++)
		link = &(*link)->next;
	UnpinFrom(link);
}

void
StoreCacheUnpin(void)
{
	UnpinFrom(&pinned_pages);
}

static const CodecPage *
FindPinned(OrbitStorageId storage, BlockNumber page, const StoreCut *cut, StorePinned **pinned)
{
	ViewPage   *p = pinned_pages;

	for (int i = 0; p != NULL && i < LOOK_BACK; i++, p = p->next)
	{
		if (p->page != page || p->storage != storage || !StoreSharedPagesStands(p->pinned) ||
			!StoreSharedPagesServes(p->pinned, cut))
			continue;
		*pinned = p->pinned;
		return &p->image;
	}
	return NULL;
}

/* The image, if it serves.  The pin has been noted, so an ERROR leaves nothing. */
static const CodecPage *
Serving(const CodecPage *image, const StoreCut *cut, StorePinned **pinned)
{
	if (likely(StoreSharedPagesServes(*pinned, cut)))
		return image;
	*pinned = NULL;
	return NULL;
}

bool
StoreFindShared(StoreView *v, OrbitStorageId storage, BlockNumber page, const StoreCut *cut, bool once,
				const CodecPage **image, StorePinned **pinned)
{
	CodecPage	found;

	Assert(v->pin.generation != 0);
	*image = FindPinned(storage, page, cut, pinned);
	if (*image != NULL)
		return true;
	MakePlace();
	if (!StoreSharedPagesFind(storage, page, !once, pinned, &found))
		return false;
	if (*pinned == NULL)
		return true;
	*image = Serving(NotePinned(storage, page, *pinned, &found), cut, pinned);
	return *image != NULL;
}

const CodecPage *
StorePutShared(OrbitStorageId storage, BlockNumber page, uint64 generation,
			   const CodecPage *image, const StoreCut *cut, StorePinned **pinned)
{
	CodecPage	shared;

	*pinned = NULL;
	if (StoreViewGeneration() == 0)
		return NULL;			/* what is read through the primary is of no known generation */
	MakePlace();
	*pinned = StoreSharedPagesPut(storage, page, generation, image, cut, &shared);
	if (*pinned == NULL)
		return NULL;
	return Serving(NotePinned(storage, page, *pinned, &shared), cut, pinned);
}

/* ---- pages of this process ----------------------------------------------------------- */

void
StoreCacheViewClosed(void)
{
	views++;
	UnpinMost();
	while (unlikely(!dlist_is_empty(&dropped)))
		Free(dlist_container(CachedPage, node, dlist_pop_head_node(&dropped)));
	while (unlikely(cached_bytes > STORE_PAGE_CACHE_BYTES) && dlist_has_next(&lru, dlist_head_node(&lru)))
		Drop(dlist_container(CachedPage, node, dlist_tail_node(&lru)));
}

static CachedPage *
Find(OrbitStorageId storage, BlockNumber page)
{
	CachedPage *c = *Bucket(storage, page);

	while (c != NULL && (c->page != page || c->storage != storage))
		c = c->next;
	return c;
}

/* Puts a page that has just been read, whose bytes are in buf, in front. */
static CachedPage *
Remember(OrbitStorageId storage, BlockNumber page, CodecBuf *buf, const CodecPage *image)
{
	CachedPage **bucket = Bucket(storage, page);
	CachedPage *c = calloc(1, sizeof(CachedPage));

	if (c == NULL)
		StoreOutOfMemory();
	c->storage = storage;
	c->page = page;
	c->exists = image != NULL;
	if (image != NULL)
		c->image = *image;
	c->buf = *buf;
	memset(buf, 0, sizeof(*buf));
	c->next = *bucket;
	*bucket = c;
	dlist_push_head(&lru, &c->node);
	cached_bytes += Weight(c);
	return c;
}

/* With the cache full its oldest page's memory serves the next one. */
static void
Recycle(CodecBuf *buf)
{
	CachedPage *c;

	if (buf->data != NULL || cached_bytes <= STORE_PAGE_CACHE_BYTES - 2 * ORBIT_PAGE_BYTES ||
		dlist_is_empty(&lru))
		return;
	c = dlist_container(CachedPage, node, dlist_tail_node(&lru));
	if (c->view == views || c->buf.cap > 2 * ORBIT_PAGE_BYTES)
		return;
	cached_bytes -= c->buf.cap;
	*buf = c->buf;
	memset(&c->buf, 0, sizeof(c->buf));
	Drop(c);
}

static const CodecPage *
Use(CachedPage *c)
{
	c->view = views;
	return c->exists ? &c->image : NULL;
}

static const CodecPage *
ReadPage(StoreView *v, OrbitStorageId storage, BlockNumber page, const StoreCut *cut, StorePinned **pinned)
{
	/* static: an ERROR on the way leaves nothing to free */
	static CodecBuf buf;
	char		key[CODEC_PAGE_KEY_SIZE];
	uint64		g;
	KvDb	   *handle = StoreViewProve(v, &g);
	CodecPage	image;
	const CodecPage *shared;
	bool		exists;

	Recycle(&buf);
	CodecPageKey(key, storage, page);
	store_rocks_pages++;
	exists = StoreRocksGet(handle, ORBIT_PG_DATA, key, sizeof(key), &buf);
	if (exists && !CodecPageOpen(&image, buf.data, buf.len))
		StoreRaiseDamagedPage(storage, page);
	shared = StorePutShared(storage, page, g, exists ? &image : NULL, cut, pinned);
	if (shared != NULL)
	{
		if (buf.cap > 2 * STORE_LARGEST_SHARED)
			CodecBufFree(&buf);
		return shared;
	}
	return Use(Remember(storage, page, &buf, exists ? &image : NULL));
}

const CodecPage *
StoreCachedPage(StoreView *v, OrbitStorageId storage, BlockNumber page, const StoreCut *cut,
				StorePinned **pinned)
{
	CachedPage *c = NULL;
	const CodecPage *image;
	StorePinned *unasked;

	if (pinned == NULL)
		pinned = &unasked;
	*pinned = NULL;
	if (v->pin.generation == 0)
		return NULL;
	if (StoreFindShared(v, storage, page, cut, false, &image, pinned))
		return image;

	/*
	 * Within one view a page read before is as good as a new one, also in the
	 * worker, whose handle has no generation of its own.
	 */
	if (v->proven || v->pin.generation <= StoreViewGeneration())
		c = Find(storage, page);
	if (c == NULL)
		return ReadPage(v, storage, page, cut, pinned);
	dlist_move_head(&lru, &c->node);
	return Use(c);
}

void
StoreRaiseDamagedPage(OrbitStorageId storage, BlockNumber page)
{
	KvStatus	st;
	char		doing[NAMEDATALEN + 80];

	StoreFillStatus(&st, KV_CORRUPTION, "the page's format is unknown or its bytes are damaged");
	snprintf(doing, sizeof(doing), "could not read page %u of %s", page, StoreDescribe(storage));
	KvRaise(ERROR, &st, doing);
	pg_unreachable();
}
