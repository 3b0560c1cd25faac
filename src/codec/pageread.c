/*
 * pageread.c: checking a page and finding entries in it.
 *
 * The check runs on every page that is read, so it takes one pass and touches
 * only the node headers and the padding behind each payload.  After it no
 * accessor needs a bound: every offset, length and chain end has been proven to
 * lie inside the page.
 */
#include "codec/pagebytes.h"

/*
 * The nodes from `at` to `end`, both multiples of 8 inside the page, fill that
 * space exactly.  An empty chain is refused: the accessors take the first entry
 * for granted.
 */
static bool
CheckChain(const char *page, size_t at, size_t end, bool *overlong)
{
	bool		ended = false;

	if (at >= end)
		return false;
	while (at < end)
	{
		const char *node = page + at;
		size_t		room = end - at;
		uint64_t	first;
		uint32_t	len;
		size_t		size;
		unsigned	padding;

		if (room < NODE_MIN_SIZE)
			return false;
		first = Load64(node);	/* zero, len */
		len = (uint32_t) (first >> 32);
		if ((uint32_t) first != 0 || len > room - NODE_PAYLOAD)
			return false;
		if (!EntryShapeOk((uint8_t) node[NODE_KIND_FLAGS],
						  (uint8_t) node[NODE_TAG], len))
			return false;

		/* room is a multiple of 8, so the rounded size fits as well */
		size = CODEC_NODE_SIZE(len);
		padding = (unsigned) (size - NODE_PAYLOAD - len);
		if (padding > 0 && Load64(node + size - 8) >> (64 - 8 * padding) != 0)
			return false;

		if (ended)
			*overlong = true;
		ended = ended || EndsChain((uint8_t) node[NODE_KIND_FLAGS]);
		at += size;
	}
	return true;
}

/* Header: format, flags, number of chains, size. */
static bool
CheckHeader(const char *page, size_t len, PageShape *shape)
{
	if (len < PAGE_HEADER || len > PAGE_MAX_SIZE || len % 8 != 0)
		return false;
	shape->nchains = Load16(page + 2);
	shape->size = Load32(page + 4);
	shape->overlong = false;
	return (uint8_t) page[0] == CODEC_PAGE_FORMAT && page[1] == 0 &&
		shape->size == len &&
		shape->nchains <= PAGE_MAX_CHAINS &&
		PageBodyStart(shape->nchains) <= len;
}

bool
CodecCheckPage(const char *page, size_t len, PageShape *shape)
{
	size_t		start;
	int			slot = 0;

	if (!CheckHeader(page, len, shape))
		return false;

	start = PageBodyStart(shape->nchains);
	if (shape->nchains == 0)
		return len == start;
	if (shape->nchains % 2 != 0 && Load32(page + start - 4) != 0)
		return false;
	if (DirectoryOffset(PageDirectory(page, 0)) != start)
		return false;

	for (int i = 0; i < shape->nchains; i++)
	{
		uint32_t	d = PageDirectory(page, i);
		size_t		end = PageChainEnd(page, shape->nchains, len, i);

		/* ascending slots also rule out slot 0 */
		if (DirectorySlot(d) <= slot || end > len)
			return false;
		slot = DirectorySlot(d);
		if (!CheckChain(page, DirectoryOffset(d), end, &shape->overlong))
			return false;
	}
	return true;
}

bool
CodecPageOpen(CodecPage *p, const void *data, size_t len)
{
	PageShape	shape;

	p->data = NULL;
	p->size = 0;
	p->nchains = 0;
	if (data == NULL || !CodecCheckPage(data, len, &shape))
		return false;
	p->data = data;
	p->size = shape.size;
	p->nchains = shape.nchains;
	return true;
}

void
CodecPageOpenBuilt(CodecPage *p, const void *data, size_t len)
{
#ifdef USE_ASSERT_CHECKING
	PageShape	shape;

	CodecAssert(CodecCheckPage(data, len, &shape));
#endif
	p->data = data;
	p->size = (uint32_t) len;
	p->nchains = Load16((const char *) data + 2);
}

static inline const CodecEntry *
EntryAt(const CodecPage *p, size_t offset)
{
	CodecAssert(((uintptr_t) p->data & 7) == 0);
	return (const CodecEntry *) (p->data + offset + NODE_ENTRY);
}

const CodecEntry *
CodecPageChain(const CodecPage *p, int i, int *slot)
{
	uint32_t	d;

	CodecAssert(i >= 0 && i < p->nchains);
	d = PageDirectory(p->data, i);
	if (slot != NULL)
		*slot = DirectorySlot(d);
	return EntryAt(p, DirectoryOffset(d));
}

/*
 * Slots begin at 1 and ascend, so slot s lies at index s - 1 or before, and
 * exactly there on a page without holes: look there first, then bisect.
 */
const CodecEntry *
CodecPageFind(const CodecPage *p, int slot, int *chain)
{
	int			low = 0;
	int			high = slot < p->nchains ? slot : p->nchains;
	int			probe = high - 1;

	while (low < high)
	{
		uint32_t	d = PageDirectory(p->data, probe);

		if (DirectorySlot(d) == slot)
		{
			if (chain != NULL)
				*chain = probe;
			return EntryAt(p, DirectoryOffset(d));
		}
		if (DirectorySlot(d) < slot)
			low = probe + 1;
		else
			high = probe;
		probe = (low + high) / 2;
	}
	return NULL;
}

const CodecEntry *
CodecPageOlder(const CodecPage *p, int i, const CodecEntry *e)
{
	size_t		next;

	CodecAssert(i >= 0 && i < p->nchains);
	next = (size_t) ((const char *) e - NODE_ENTRY - p->data) + CODEC_NODE_SIZE(e->len);
	if (next >= PageChainEnd(p->data, p->nchains, p->size, i))
		return NULL;
	return EntryAt(p, next);
}
