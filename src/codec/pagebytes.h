/*
 * codec/pagebytes.h: private to codec.  The page format as bytes: loads and
 * stores that work at any alignment, the walk over nodes, and the one check
 * that everything else relies on.
 */
#ifndef ORBIT_PAGEBYTES_H
#define ORBIT_PAGEBYTES_H

#include <string.h>

#include "codec/codec.h"

#ifdef USE_ASSERT_CHECKING
#include <assert.h>
#define CodecAssert(condition) assert(condition)
#else
#define CodecAssert(condition) ((void) 0)
#endif

#define PAGE_HEADER			8
#define PAGE_MAX_SIZE		((size_t) 1 << 27)
#define PAGE_MAX_CHAINS		ORBIT_MAX_SLOT

#define NODE_ENTRY			4	/* the entry's offset in its node */
#define NODE_MIN_SIZE		CODEC_NODE_SIZE(0)

/* offsets in a node */
#define NODE_LEN			(NODE_ENTRY + 0)
#define NODE_XID			(NODE_ENTRY + 4)
#define NODE_CID			(NODE_ENTRY + 8)
#define NODE_KIND_FLAGS		(NODE_ENTRY + 12)
#define NODE_TAG			(NODE_ENTRY + 13)
#define NODE_PAYLOAD		(NODE_ENTRY + CODEC_ENTRY_HEADER)

/*
 * Shortest tuple image: t_infomask2, t_infomask and t_hoff, so that whoever
 * reads those three fields stays inside the payload.
 */
#define IMAGE_MIN_SIZE		5
#define TOKEN_SIZE			4

static inline uint16_t
Load16(const char *p)
{
	uint16_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t
Load32(const char *p)
{
	uint32_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t
Load64(const char *p)
{
	uint64_t	v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void
Store16(char *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void
Store32(char *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* Header and directory of a page with n chains: where the first chain begins. */
static inline size_t
PageBodyStart(size_t n)
{
	return PAGE_HEADER + ((n * 4 + 7) & ~(size_t) 7);
}

static inline uint32_t
PageDirectory(const char *page, int i)
{
	return Load32(page + PAGE_HEADER + (size_t) i * 4);
}

static inline int
DirectorySlot(uint32_t d)
{
	return (int) (d >> 24);
}

static inline size_t
DirectoryOffset(uint32_t d)
{
	return (size_t) (d & 0xffffff) * 8;
}

/* Where the i-th chain of a checked page ends. */
static inline size_t
PageChainEnd(const char *page, int nchains, size_t size, int i)
{
	return i + 1 < nchains ? DirectoryOffset(PageDirectory(page, i + 1)) : size;
}

static inline size_t
NodeSize(const char *node)
{
	return CODEC_NODE_SIZE(Load32(node + NODE_LEN));
}

/*
 * Does a chain end here?  With a frozen version or a dead slot; a frozen lock is no
 * version and ends nothing.
 */
static inline bool
EndsChain(uint8_t kind_flags)
{
	uint8_t		kind = kind_flags & CODEC_KIND_MASK;

	return kind == CODEC_DEADSLOT ||
		((kind_flags & CODEC_FROZEN) != 0 && kind <= CODEC_DELETE);
}

/*
 * Is this a payload length that the kind allows?  Keeps readers of images,
 * tokens and CodecDelete inside the payload.
 */
static inline bool
EntryShapeOk(uint8_t kind_flags, uint8_t tag, uint32_t len)
{
	switch (kind_flags & CODEC_KIND_MASK)
	{
		case CODEC_INSERT:
		case CODEC_UPDATE:
			return tag <= ORBIT_MAX_TAG &&
				len >= IMAGE_MIN_SIZE +
				((kind_flags & CODEC_SPECULATIVE) ? TOKEN_SIZE : 0);
		case CODEC_DELETE:
			return tag <= ORBIT_MAX_TAG && len == sizeof(CodecDelete);
		case CODEC_LOCK:
		case CODEC_CONFIRM:
		case CODEC_KILL:
		case CODEC_DEADSLOT:
			return tag <= ORBIT_MAX_TAG && len == 0;
		default:
			return false;
	}
}

typedef struct PageShape
{
	uint32_t	size;
	uint16_t	nchains;
	bool		overlong;		/* some chain goes on behind its end */
} PageShape;

/* Any alignment.  Everything CodecPageOpen promises, in one pass over the entries. */
extern bool CodecCheckPage(const char *page, size_t len, PageShape *shape);

#endif							/* ORBIT_PAGEBYTES_H */
