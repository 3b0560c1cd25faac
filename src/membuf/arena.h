/*
 * arena.h: one write buffer's memory and the ordered map in it.  Private to membuf.
 *
 * Knows nothing of locks, processes or waiting: who may write, and when the memory
 * may be used again, is the business of the other files here.  Every function may be
 * called by any number of readers and writers at once, except ArenaOpen.
 *
 * Memory is handed out from the front and never taken back.  An address inside an
 * arena is written down as its distance from the arena's start in units of 8 bytes;
 * 0, where the arena's own header lies, means none.
 *
 *   arena    header, index, then nodes, groups and entries in order of allocation
 *   index    buckets of 16 words: the places of page nodes, found by a hash of their keys
 *   node     uint8 family | uint8 height | uint16 keylen | uint32 head |
 *            uint32 next[height] | key | page node only: uint32 groups[16]
 *   group    uint32 heads[16]: newest entry of the rows in 16 neighbouring slots
 *   entry    uint32 older | CodecEntry, padded with zeros to 8 bytes
 *   value    uint32 older | uint32 length * 4 + op | bytes, padded
 *
 * `head` of a page node is the node's own place (so that a page pointer alone leads
 * to its entries), of any other node the newest value.
 *
 * The words that tie things together (next, head, groups, heads, the index) are written by
 * release and read by acquire operations, everything else only before such a word makes
 * it reachable.  PostgreSQL 15 has no acquire loads, so the compiler's builtins are
 * used; thread checkers understand them too.
 */
#ifndef ORBIT_ARENA_H
#define ORBIT_ARENA_H

#include "postgres.h"

#include "membuf/membuf.h"

#define ARENA_UNIT			8
#define ARENA_MAX_HEIGHT	12	/* a quarter of each level: enough for 16 M keys */
#define ARENA_GROUPS		16
#define ARENA_GROUP_SLOTS	16

/*
 * Of an arena's bytes, at most, for the index: a page with one row of 100 bytes takes 270 to 300, so there is
 * a word for each until the arena is full.  A bucket is one cache line.
 */
#define ARENA_INDEX_SHARE	64
#define ARENA_BUCKET_WORDS	16
#define ARENA_BUCKET_BYTES	(ARENA_BUCKET_WORDS * 4)

/* Below that height a list is short and in the processor's caches: the index would be slower. */
#define ARENA_INDEX_HEIGHT	6

#define ArenaLoad(p)		__atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ArenaStore(p, v)	__atomic_store_n((p), (v), __ATOMIC_RELEASE)

typedef struct ArenaNode
{
	uint8		family;
	uint8		height;
	uint16		keylen;
	uint32		head;
	uint32		next[FLEXIBLE_ARRAY_MEMBER];
} ArenaNode;

typedef struct Arena
{
	/* set when the arena is opened; read without a lock, hence atomic */
	uint64		seq;			/* 0: never opened */
	uint32		size;			/* units */

	/* atomic */
	uint32		height;			/* no node is taller */
	uint64		max_lsn;
	int64		opened;			/* TimestampTz of the first reservation, 0 if none */
	uint8		bucket_bits;	/* log2 of the number of buckets; not changed, like size */
	uint8		place_bits;		/* of a word of the index; those above are of the key's hash */
	uint8		unused[6];
	uint64		list[(offsetof(ArenaNode, next) + ARENA_MAX_HEIGHT * 4) / 8];
	/* a node without a key: the front of every level */
	char		pad1[128 - 40 - (offsetof(ArenaNode, next) + ARENA_MAX_HEIGHT * 4)];
	uint32		used;			/* units; on a cache line of its own */
	char		pad2[128 - 4];
} Arena;

#define ARENA_LIST			((uint32) (offsetof(Arena, list) / ARENA_UNIT))

/* The first unit that is handed out. */
static inline uint32
ArenaFirst(const Arena *a)
{
	return (sizeof(Arena) + ((Size) ARENA_BUCKET_BYTES << a->bucket_bits)) / ARENA_UNIT;
}

/* What an arena of that size hands out, in bytes. */
extern Size ArenaRoom(Size bytes);

StaticAssertDecl(sizeof(Arena) == 256, "arena header has an unexpected size");
StaticAssertDecl(offsetof(Arena, used) == 128, "arena.used is not on its own cache line");

typedef struct ArenaKey
{
	uint8		family;
	uint16		len;
	const char *data;
} ArenaKey;

/*
 * Where the last search of this process (or thread) in one arena ended; makes the next
 * one short when it is near.  prev[i] is a node on level i before the key searched
 * for, ARENA_LIST at first, and never behind prev[i - 1].  Nodes do not vanish,
 * so a finger stays good for as long as the arena does.
 */
typedef struct ArenaFinger
{
	uint64		seq;			/* 0: unset; kept by the owner */
	uint64		random;			/* state of the height generator, kept over resets */
	uint32		page;			/* last page node found, 0 none; in the index, if that has room */
	uint32		prev[ARENA_MAX_HEIGHT];
} ArenaFinger;

extern void ArenaFingerReset(ArenaFinger *f, uint64 seq);

static inline void *
ArenaAt(Arena *a, uint32 place)
{
	return (char *) a + (Size) place * ARENA_UNIT;
}

static inline uint32
ArenaUnits(Size bytes)
{
	return (uint32) ((bytes + ARENA_UNIT - 1) / ARENA_UNIT);
}

/* ---- space -------------------------------------------------------------- */

/*
 * Empties the arena for a new life; the first `taken` units from ArenaFirst on are the caller's own.
 * Nobody else may use the arena until the caller has published its sequence number.
 */
extern void ArenaOpen(Arena *a, uint64 seq, uint32 size, uint32 taken);

/* Takes at least `least`, if there is room `most` units; false: not enough room left. */
extern bool ArenaReserve(Arena *a, uint32 least, uint32 most, uint32 *start, uint32 *end);

/* A node of the greatest height; see Membuf*Cost. */
extern Size ArenaPageCost(void);
extern Size ArenaKvCost(Size keylen, Size valuelen);
#define ARENA_GROUP_BYTES	((Size) ARENA_GROUP_SLOTS * 4)

/* Called when a reservation is too small for what is published; does not return. */
extern void ArenaOverrun(void) pg_attribute_noreturn();

/* ---- publishing: space comes from r; see membuf.h ---------------------------- */

extern ArenaNode *ArenaPageGet(Arena *a, ArenaFinger *f, MembufReservation *r,
							   const char *key);
extern void ArenaPagePush(Arena *a, MembufReservation *r, ArenaNode *page, int slot,
						  const CodecEntry *header, const void *payload,
						  const CodecEntry *below);
extern void ArenaKvPublish(Arena *a, ArenaFinger *f, MembufReservation *r,
						   const ArenaKey *key, MembufOp op,
						   const void *value, Size valuelen);

/* ---- reading ------------------------------------------------------------------- */

extern ArenaNode *ArenaPageLookup(Arena *a, ArenaFinger *f, const char *key);
extern const CodecEntry *ArenaPageNewest(ArenaNode *page, int slot);
extern int	ArenaPageNextSlot(ArenaNode *page, int slot, const CodecEntry **e);
extern const CodecEntry *ArenaOlder(Arena *a, const CodecEntry *e);
extern void ArenaKvValue(Arena *a, ArenaNode *n, MembufOp *op,
						 const char **value, Size *valuelen);

/* First node >= key; last node <= key; neighbours.  NULL: none. */
extern ArenaNode *ArenaSeek(Arena *a, ArenaFinger *f, const ArenaKey *key);
extern ArenaNode *ArenaSeekForPrev(Arena *a, ArenaFinger *f, const ArenaKey *key);
extern ArenaNode *ArenaNext(Arena *a, ArenaNode *n);
extern ArenaNode *ArenaPrev(Arena *a, ArenaFinger *f, ArenaNode *n);
extern bool ArenaNodeIs(const ArenaNode *n, const ArenaKey *key);

static inline const char *
ArenaNodeKey(const ArenaNode *n)
{
	return (const char *) &n->next[n->height];
}

#endif							/* ORBIT_ARENA_H */
