/*
 * pagecache.c: the last pages that point reads took from RocksDB.
 *
 * A small list, most recently used first.  Everything in it was read while the
 * process's handle stood at one generation; when the handle moves all of it goes.
 * So a view may use it iff its own pin.generation is not above that: every arena
 * released before the pin is in the page.  Such a hit needs no proof and no RocksDB.
 *
 * A page used by the open view lives until that is closed, even if it has been
 * dropped meanwhile.  What is kept afterwards is bounded in number and bytes.
 * That a page does not exist is remembered too.
 */
#include "postgres.h"

#include <stdlib.h>

#include "lib/ilist.h"

#include "store/store_internal.h"

#define CACHE_PAGES		16
#define CACHE_BYTES		((Size) 4 * 1024 * 1024)

typedef struct CachedPage
{
	dlist_node	node;
	OrbitStorageId storage;
	BlockNumber page;
	bool		exists;
	bool		in_use;			/* handed out in the open view */
	bool		dropped;		/* of a generation gone by */
	CodecPage	image;
	CodecBuf	buf;
} CachedPage;

static dlist_head cache = DLIST_STATIC_INIT(cache);
static int	cached_pages = 0;
static Size cached_bytes = 0;

static void
Remove(CachedPage *c)
{
	dlist_delete(&c->node);
	cached_pages--;
	cached_bytes -= c->buf.cap;
	CodecBufFree(&c->buf);
	free(c);
}

void
StoreCacheDrop(void)
{
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &cache)
	{
		CachedPage *c = dlist_container(CachedPage, node, it.cur);

		if (c->in_use)
			c->dropped = true;
		else
			Remove(c);
	}
}

/* Drops what is too old, then from the end what is too much. */
static void
Trim(int pages, Size bytes)
{
	dlist_node *n = dlist_is_empty(&cache) ? NULL : dlist_tail_node(&cache);

	while (n != NULL)
	{
		CachedPage *c = dlist_container(CachedPage, node, n);

		n = dlist_has_prev(&cache, n) ? dlist_prev_node(&cache, n) : NULL;
		if (!c->in_use && (c->dropped || cached_pages > pages || cached_bytes > bytes))
			Remove(c);
	}
}

void
StoreCacheViewClosed(void)
{
	dlist_iter	it;

	dlist_foreach(it, &cache)
		dlist_container(CachedPage, node, it.cur)->in_use = false;
	Trim(CACHE_PAGES, CACHE_BYTES);
}

static CachedPage *
Find(OrbitStorageId storage, BlockNumber page)
{
	dlist_iter	it;

	dlist_foreach(it, &cache)
	{
		CachedPage *c = dlist_container(CachedPage, node, it.cur);

		if (c->page == page && c->storage == storage && !c->dropped)
			return c;
	}
	return NULL;
}

/* Puts a page that has just been read, whose bytes are in buf, in front. */
static CachedPage *
Remember(OrbitStorageId storage, BlockNumber page, CodecBuf *buf, bool exists)
{
	CachedPage *c = calloc(1, sizeof(CachedPage));

	if (c == NULL)
	{
		CodecBufFree(buf);
		StoreOutOfMemory();
	}
	c->storage = storage;
	c->page = page;
	c->exists = exists;
	c->buf = *buf;
	memset(buf, 0, sizeof(*buf));
	if (exists && !CodecPageOpen(&c->image, c->buf.data, c->buf.len))
	{
		CodecBufFree(&c->buf);
		free(c);
		StoreRaiseDamagedPage(storage, page);
	}
	dlist_push_head(&cache, &c->node);
	cached_pages++;
	cached_bytes += c->buf.cap;
	return c;
}

static CachedPage *
ReadPage(StoreView *v, OrbitStorageId storage, BlockNumber page)
{
	/* static: an ERROR on the way leaves nothing to free */
	static CodecBuf buf;
	char		key[CODEC_PAGE_KEY_SIZE];
	uint64		g;
	KvDb	   *handle = StoreViewProve(v, &g);
	bool		exists;

	if (handle == NULL)
		return NULL;
	CodecPageKey(key, storage, page);
	exists = StoreRocksGet(handle, ORBIT_PG_DATA, key, sizeof(key), &buf);
	return Remember(storage, page, &buf, exists);
}

const CodecPage *
StoreCachedPage(StoreView *v, OrbitStorageId storage, BlockNumber page)
{
	CachedPage *c = NULL;

	if (v->pin.generation == 0)
		return NULL;

	/*
	 * Within one view a page read before is as good as a new one, also in the
	 * worker, whose handle has no generation of its own.
	 */
	if (v->proven || v->pin.generation <= StoreViewGeneration())
		c = Find(storage, page);
	if (c != NULL)
		dlist_move_head(&cache, &c->node);
	else
		c = ReadPage(v, storage, page);
	if (c == NULL)
		return NULL;
	c->in_use = true;
	return c->exists ? &c->image : NULL;
}

void
StoreRaiseDamagedPage(OrbitStorageId storage, BlockNumber page)
{
	KvStatus	st;
	char		doing[100];

	StoreFillStatus(&st, KV_CORRUPTION, "the page's format is unknown or its bytes are damaged");
	snprintf(doing, sizeof(doing), "could not read page %u of storage " UINT64_FORMAT,
			 page, storage);
	KvRaise(ERROR, &st, doing);
	pg_unreachable();
}
