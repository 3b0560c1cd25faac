/*
 * chain.c: one row's entries, newest first: the view's arenas from the active one
 * down, then RocksDB's page.
 *
 * The walk ends behind an INSERT, a frozen version or a dead slot without looking further: slots
 * are never reused, so nothing older can exist that matters.  Rows inserted since
 * the last flush are therefore read without RocksDB.
 *
 * Of a page that has grown large shared memory has the upper end of each chain (sharedpages.c).  Who
 * needs more goes on in the whole page, behind the entry where he is.
 *
 * The head of the active arena is read once, at Open.  The walk starts from it, and
 * a writer compares it again under the row's lock: what it decided on is what it saw.
 */
#include "postgres.h"

#include "store/store_internal.h"

static const CodecEntry *
ArenaHead(StoreChain *c, uint64 seq)
{
	c->mpage = MembufPageLookup(seq, c->storage, c->page);
	return c->mpage != NULL ? MembufPageNewest(c->mpage, c->slot) : NULL;
}

void
StoreChainOpen(StoreChain *c, StoreView *v, OrbitStorageId storage, BlockNumber page, int slot)
{
	c->view = v;
	c->storage = storage;
	c->page = page;
	c->slot = slot;
	c->image = NULL;
	c->cut = NULL;
	c->short_image = false;
	c->whole = false;
	c->chain = 0;
	c->active_head = ArenaHead(c, v->pin.active);
	StoreChainRewind(c);
}

void
StoreChainOpenPage(StoreChain *c, OrbitStorageId storage, BlockNumber page, const CodecPage *image,
				   int chain)
{
	c->view = NULL;
	c->storage = storage;
	c->page = page;
	c->image = image;
	c->cut = NULL;
	c->short_image = false;
	c->whole = false;
	c->chain = chain;
	c->active_head = NULL;
	c->mpage = NULL;
	(void) CodecPageChain(image, chain, &c->slot);
	StoreChainRewind(c);
}

void
StoreChainRewind(StoreChain *c)
{
	c->seq = c->view != NULL ? c->view->pin.active : 0;
	c->cur = NULL;
	c->ended = false;
}

const CodecEntry *
StoreChainActiveHead(StoreChain *c)
{
	return c->active_head;
}

/* The next entry in the arenas; NULL: go on in RocksDB. */
static const CodecEntry *
NextInArenas(StoreChain *c)
{
	const CodecEntry *e;

	e = c->cur != NULL ? MembufOlder(c->seq, c->cur) : c->active_head;
	while (e == NULL && c->seq > c->view->pin.oldest)
		e = ArenaHead(c, --c->seq);
	return e;
}

static const CodecEntry *
RocksHead(StoreChain *c)
{
	StorePinned *pinned;
	static const StoreCut any = {.one_chain = true};
	const StoreCut *cut = c->cut != NULL ? c->cut : &any;

	Assert(cut->one_chain);
	c->image = StoreCachedPage(c->view, c->storage, c->page, c->whole ? NULL : cut, &pinned);
	c->short_image = pinned != NULL && !StoreSharedPagesServes(pinned, NULL);
	return c->image != NULL ? CodecPageFind(c->image, c->slot, &c->chain) : NULL;
}

/*
 * The entry below the last one of a chain that may have been cut.  Where the whole page does not have that
 * one, either it is older than the page that was cut, as it may be while a flush is under way, or the row has
 * been pruned since.  The walk then begins once more, with the whole page at its end, for the order matters.
 */
static const CodecEntry *
BelowCut(StoreChain *c)
{
	const CodecEntry *e;

	c->short_image = false;
	c->image = StoreCachedPage(c->view, c->storage, c->page, NULL, NULL);
	e = c->image != NULL ? CodecPageFind(c->image, c->slot, &c->chain) : NULL;
	for (; e != NULL; e = CodecPageOlder(c->image, c->chain, e))
	{
		if (CodecSameIdentity(e, c->cur))
			return CodecPageOlder(c->image, c->chain, e);
	}
	c->whole = true;
	StoreChainRewind(c);
	return StoreChainNext(c);
}

const CodecEntry *
StoreChainNext(StoreChain *c)
{
	const CodecEntry *e;

	if (c->ended || (c->cur != NULL && StoreIsBottom(c->cur)))
	{
		c->ended = true;
		return NULL;
	}
	if (c->seq != 0)
	{
		e = NextInArenas(c);
		if (e == NULL)
		{
			c->seq = 0;
			e = RocksHead(c);
		}
	}
	else if (c->cur != NULL)
	{
		e = CodecPageOlder(c->image, c->chain, c->cur);
		if (e == NULL && unlikely(c->short_image))
			e = BelowCut(c);
	}
	else
		e = CodecPageChain(c->image, c->chain, &c->slot);

	c->cur = e;
	c->ended = e == NULL;
	return e;
}
