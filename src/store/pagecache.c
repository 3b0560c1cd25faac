/*
 * pagecache.c: pages that this process has read from RocksDB lately.
 *
 * A RocksDB get, even of a cached block, costs some microseconds: bloom filter, index block, data block,
 * the copy, and the check of the page.  A page found here costs a hash lookup.
 *
 * Each page was read while the process's handle stood at some generation, or was found among the shared pages by
 * a view that needed some generation.  A view may use it iff its own pin.generation is not above that: every
 * arena released before the pin is in the page.  Such a hit needs no proof and no RocksDB.  When the handle
 * moves all of it goes.
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
	uint64		generation;		/* good for views that need no later one */
	uint64		view;			/* number of the view it was last handed out in */
	CodecPage	image;
	CodecBuf	buf;
} CachedPage;

static CachedPage *buckets[BUCKETS];
static dlist_head lru = DLIST_STATIC_INIT(lru); /* most recently used first */
static dlist_head dropped = DLIST_STATIC_INIT(dropped); /* of a generation gone by, in use */
static Size cached_bytes = 0;	/* of those in lru */
uint64		store_rocks_pages = 0;
static uint64 views = 1;		/* number of the open view, or of the next */

static inline CachedPage **
Bucket(OrbitStorageId storage, BlockNumber page)
{
	uint64		h = (storage << 32 ^ page) * UINT64CONST(0x9E3779B97F4A7C15);

	return &buckets[h >> 53];
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

void
StoreCacheViewClosed(void)
{
	views++;
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
Remember(OrbitStorageId storage, BlockNumber page, CodecBuf *buf, bool exists, uint64 generation)
{
	CachedPage **bucket = Bucket(storage, page);
	CachedPage *c = calloc(1, sizeof(CachedPage));

	if (c == NULL)
	{
		CodecBufFree(buf);
		StoreOutOfMemory();
	}
	c->storage = storage;
	c->page = page;
	c->exists = exists;
	c->generation = generation;
	c->buf = *buf;
	memset(buf, 0, sizeof(*buf));
	if (exists && !CodecPageOpen(&c->image, c->buf.data, c->buf.len))
	{
		Free(c);
		StoreRaiseDamagedPage(storage, page);
	}
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

/* static: an ERROR on the way leaves nothing to free */
static CodecBuf read_buf;

static CachedPage *
ReadPage(StoreView *v, OrbitStorageId storage, BlockNumber page)
{
	char		key[CODEC_PAGE_KEY_SIZE];
	uint64		g;
	KvDb	   *handle = StoreViewProve(v, &g);
	CachedPage *c;
	bool		exists;

	if (handle == NULL)
		return NULL;
	Recycle(&read_buf);
	CodecPageKey(key, storage, page);
	store_rocks_pages++;
	exists = StoreRocksGet(handle, ORBIT_PG_DATA, key, sizeof(key), &read_buf);
	c = Remember(storage, page, &read_buf, exists, g);
	if (StoreViewGeneration() != 0)
		StoreSharedPagesPut(storage, page, g, &c->buf, exists ? &c->image : NULL);
	return c;
}

static CachedPage *
SharedPage(StoreView *v, OrbitStorageId storage, BlockNumber page)
{
	bool		exists;

	Recycle(&read_buf);
	if (!StoreSharedPagesGet(storage, page, &read_buf, &exists))
		return NULL;
	return Remember(storage, page, &read_buf, exists, v->pin.generation);
}

const CodecPage *
StoreCachedPage(StoreView *v, OrbitStorageId storage, BlockNumber page)
{
	CachedPage *c = NULL;

	if (v->pin.generation == 0)
		return NULL;

	c = Find(storage, page);
	if (c != NULL && c->generation < v->pin.generation)
	{
		Drop(c);
		c = NULL;
	}
	if (c != NULL)
		dlist_move_head(&lru, &c->node);
	else
		c = SharedPage(v, storage, page);
	if (c == NULL)
		c = ReadPage(v, storage, page);
	if (c == NULL)
		return NULL;
	c->view = views;
	return c->exists ? &c->image : NULL;
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
