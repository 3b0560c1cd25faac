/*
 * pagebuild.c: building a page.
 *
 * Chains are gathered in the builder's own buffer, because the directory in
 * front of them is as long as there are chains; CodecBuildFinish puts both
 * together.  A chain that was begun and got no entry does not appear in the page.
 * An entry or slot that the reader would refuse is refused here, for a page that
 * cannot be read back must never reach a file.
 */
#include "codec/pagebytes.h"

void
CodecBuildBegin(CodecBuilder *b, CodecBuf *out)
{
	CodecAssert(out->len % 8 == 0);
	b->out = out;
	b->start = out->len;
	b->nchains = 0;
	memset(&b->body, 0, sizeof(b->body));
}

/* Forgets the last chain if it has no entries. */
static void
DropEmptyChain(CodecBuilder *b)
{
	if (b->nchains > 0 &&
		DirectoryOffset(b->directory[b->nchains - 1]) == b->body.len)
		b->nchains--;
}

bool
CodecBuildChain(CodecBuilder *b, int slot)
{
	bool		ok;

	DropEmptyChain(b);
	ok = slot >= 1 && slot <= ORBIT_MAX_SLOT &&
		(b->nchains == 0 || slot > DirectorySlot(b->directory[b->nchains - 1])) &&
		b->body.len < PAGE_MAX_SIZE;
	CodecAssert(ok || b->body.len >= PAGE_MAX_SIZE);
	if (!ok)
		return false;
	/* offsets count from the body's start until CodecBuildFinish */
	b->directory[b->nchains++] = (uint32_t) slot << 24 | (uint32_t) (b->body.len / 8);
	return true;
}

bool
CodecBuildEntry(CodecBuilder *b, const CodecEntry *e)
{
	size_t		size = CODEC_NODE_SIZE(e->len);
	size_t		bytes = CODEC_ENTRY_HEADER + (size_t) e->len;
	bool		ok = b->nchains > 0 && EntryShapeOk(e->kind_flags, e->tag, e->len);
	char	   *node;

	CodecAssert(ok);
	if (!ok ||
		PageBodyStart((size_t) b->nchains) + b->body.len + size > PAGE_MAX_SIZE ||
		!CodecBufReserve(&b->body, size))
		return false;
	node = b->body.data + b->body.len;
	memset(node, 0, NODE_ENTRY);
	memcpy(node + NODE_ENTRY, e, bytes);
	memset(node + NODE_ENTRY + bytes, 0, size - NODE_ENTRY - bytes);
	b->body.len += size;
	return true;
}

bool
CodecBuildFrozen(CodecBuilder *b, const CodecEntry *e)
{
	size_t		at = b->body.len + NODE_ENTRY + offsetof(CodecEntry, kind_flags);

	if (!CodecBuildEntry(b, e))
		return false;
	b->body.data[at] = (char) (e->kind_flags | CODEC_FROZEN);
	return true;
}

bool
CodecBuildFinish(CodecBuilder *b)
{
	size_t		start;
	size_t		size;
	char	   *page;

	DropEmptyChain(b);
	start = PageBodyStart((size_t) b->nchains);
	size = start + b->body.len;
	if (size > PAGE_MAX_SIZE || !CodecBufReserve(b->out, size))
		return false;

	page = b->out->data + b->start;
	memset(page, 0, start);
	page[0] = CODEC_PAGE_FORMAT;
	Store16(page + 2, (uint16_t) b->nchains);
	Store32(page + 4, (uint32_t) size);
	for (int i = 0; i < b->nchains; i++)
		Store32(page + PAGE_HEADER + (size_t) i * 4,
				b->directory[i] + (uint32_t) (start / 8));
	if (b->body.len > 0)
		memcpy(page + start, b->body.data, b->body.len);
	b->out->len = b->start + size;
	return true;
}

void
CodecBuildFree(CodecBuilder *b)
{
	CodecBufFree(&b->body);
}
