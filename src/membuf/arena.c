/*
 * arena.c: the ordered map in a write buffer: a skip list to which nodes are only
 * added, an index of pages beside it, pages with their row heads, chains of entries and of values.
 *
 * Insertion links a node level by level from the bottom, each by one compare-and-swap of
 * its predecessor's link; a node counts as present once it is on level 0.  Two that insert
 * the same key meet there: the second one sees the first one's node as the successor
 * and uses it.  A search that has reached a node on level i finds its links of the
 * levels below already set, for they were set earlier.
 *
 * No PostgreSQL function is called here but memcpy and friends, so that a program with
 * threads can test this file alone (t/unit/membuf_test.c).
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "port/pg_bswap.h"

#include "membuf/arena.h"

/* ---- space -------------------------------------------------------------- */

static int
BucketBits(Size bytes)
{
	return pg_leftmost_one_pos64(Max(bytes / ARENA_INDEX_SHARE / ARENA_BUCKET_BYTES, 1));
}

Size
ArenaRoom(Size bytes)
{
	return bytes - sizeof(Arena) - ((Size) ARENA_BUCKET_BYTES << BucketBits(bytes));
}

void
ArenaOpen(Arena *a, uint64 seq, uint32 size, uint32 taken)
{
	ArenaNode  *list = ArenaAt(a, ARENA_LIST);

	a->bucket_bits = BucketBits((Size) size * ARENA_UNIT);
	a->place_bits = pg_ceil_log2_32(size);
	Assert(a->place_bits < 32 && taken <= size - ArenaFirst(a));
	memset(a + 1, 0, (Size) ARENA_BUCKET_BYTES << a->bucket_bits);
	list->family = 0;
	list->height = ARENA_MAX_HEIGHT;
	list->keylen = 0;
	list->head = 0;
	for (int i = 0; i < ARENA_MAX_HEIGHT; i++)
		ArenaStore(&list->next[i], 0);
	ArenaStore(&a->size, size);
	ArenaStore(&a->height, 1);
	ArenaStore(&a->max_lsn, 0);
	ArenaStore(&a->opened, 0);
	ArenaStore(&a->used, ArenaFirst(a) + taken);
	ArenaStore(&a->seq, seq);
}

bool
ArenaReserve(Arena *a, uint32 least, uint32 most, uint32 *start, uint32 *end)
{
	uint32		size = ArenaLoad(&a->size);
	uint32		used = ArenaLoad(&a->used);

	Assert(least <= most);
	for (;;)
	{
		uint32		room = size - used;
		uint32		want = Min(most, room);

		if (least > room)
			return false;
		if (__atomic_compare_exchange_n(&a->used, &used, used + want, false,
										__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		{
			*start = used;
			*end = used + want;
			return true;
		}
	}
}

static Size
NodeBytes(int height, Size keylen, bool page)
{
	return offsetof(ArenaNode, next) + height * sizeof(uint32) + keylen +
		(page ? ARENA_GROUPS * sizeof(uint32) : 0);
}

Size
ArenaPageCost(void)
{
	return (Size) ArenaUnits(NodeBytes(ARENA_MAX_HEIGHT, CODEC_PAGE_KEY_SIZE, true)) *
		ARENA_UNIT + ARENA_GROUP_BYTES;
}

Size
ArenaKvCost(Size keylen, Size valuelen)
{
	return ((Size) ArenaUnits(NodeBytes(ARENA_MAX_HEIGHT, keylen, false)) +
			ArenaUnits(2 * sizeof(uint32) + valuelen)) * ARENA_UNIT;
}

static uint32
Take(MembufReservation *r, Size bytes)
{
	uint32		place = r->next;
	uint32		units = ArenaUnits(bytes);

	if (unlikely(units > r->end - r->next))
		ArenaOverrun();
	r->next += units;
	return place;
}

/* ---- searching ------------------------------------------------------------ */

void
ArenaFingerReset(ArenaFinger *f, uint64 seq)
{
	f->seq = seq;
	f->page = 0;
	for (int i = 0; i < ARENA_MAX_HEIGHT; i++)
		f->prev[i] = ARENA_LIST;
}

static inline int
NodeCompare(const ArenaNode *n, const ArenaKey *key)
{
	int			c;

	if (n->family != key->family)
		return n->family < key->family ? -1 : 1;
	c = memcmp(ArenaNodeKey(n), key->data, Min(n->keylen, key->len));
	return c != 0 ? c : (int) n->keylen - (int) key->len;
}

bool
ArenaNodeIs(const ArenaNode *n, const ArenaKey *key)
{
	return n->family == key->family && n->keylen == key->len &&
		memcmp(ArenaNodeKey(n), key->data, key->len) == 0;
}

static inline bool
Before(Arena *a, uint32 place, const ArenaKey *key)
{
	return place == ARENA_LIST || NodeCompare(ArenaAt(a, place), key) < 0;
}

static inline uint32
NextPlace(Arena *a, uint32 place, int level)
{
	return ArenaLoad(&((ArenaNode *) ArenaAt(a, place))->next[level]);
}

/*
 * Walks along one level from `from`, which is before the key, to the last node before it;
 * *next is what follows there (0: nothing).
 */
static uint32
WalkLevel(Arena *a, uint32 from, int level, const ArenaKey *key, uint32 *next)
{
	for (;;)
	{
		*next = NextPlace(a, from, level);
		if (*next == 0 || NodeCompare(ArenaAt(a, *next), key) >= 0)
			return from;
		from = *next;
	}
}

/*
 * The lowest level on which the finger's node and its successor enclose the key; the top
 * level when there is none.  *before: the lowest level whose finger is before the key.
 */
static int
ClimbFinger(Arena *a, ArenaFinger *f, const ArenaKey *key, int top, int *before)
{
	int			level;

	for (level = 0; level < top && !Before(a, f->prev[level], key); level++)
		;
	*before = level;
	for (; level < top; level++)
	{
		uint32		next = NextPlace(a, f->prev[level], level);

		if (next == 0 || !Before(a, next, key))
			return level;
	}
	return top - 1;
}

/*
 * Moves the finger to just before the key on every level it had to visit and returns the first
 * node >= key (0: none).  Levels above keep an older position, which is before
 * the key as well.
 */
static uint32
Find(Arena *a, ArenaFinger *f, const ArenaKey *key)
{
	int			top = ArenaLoad(&a->height);
	int			before;
	int			level = ClimbFinger(a, f, key, top, &before);
	uint32		at;
	uint32		next;
	bool		moved = false;

	if (before == top)
		f->prev[level] = ARENA_LIST;	/* every level was past the key */
	at = f->prev[level];
	for (;; level--)
	{
		uint32		last;

		/* Still at the finger above: the finger here is nearer, if not past the key. */
		if (!moved && level >= before)
			at = f->prev[level];
		last = WalkLevel(a, at, level, key, &next);
		moved |= (last != at);
		at = f->prev[level] = last;
		if (level == 0)
			return next;
	}
}

/* ---- inserting -------------------------------------------------------------- */

static int
RandomHeight(ArenaFinger *f)
{
	int			height = 1;
	uint64		x = f->random + UINT64CONST(0x9E3779B97F4A7C15);

	/* splitmix64: any state is a good one */
	f->random = x;
	x = (x ^ (x >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64CONST(0x94D049BB133111EB);
	x ^= x >> 31;
	while (height < ARENA_MAX_HEIGHT && (x & 3) == 0)
	{
		height++;
		x >>= 2;
	}
	return height;
}

/* A node not yet in the list; the caller sets its head. */
static uint32
MakeNode(Arena *a, ArenaFinger *f, MembufReservation *r, const ArenaKey *key, bool page)
{
	int			height = RandomHeight(f);
	uint32		place = Take(r, NodeBytes(height, key->len, page));
	ArenaNode  *n = ArenaAt(a, place);

	n->family = key->family;
	n->height = height;
	n->keylen = key->len;
	memset(n->next, 0, height * sizeof(uint32));
	memcpy((char *) ArenaNodeKey(n), key->data, key->len);
	return place;
}

/* Makes the list at least this tall.  Searchers that miss it only walk longer. */
static void
RaiseHeight(Arena *a, uint32 height)
{
	uint32		old = ArenaLoad(&a->height);

	while (old < height &&
		   !__atomic_compare_exchange_n(&a->height, &old, height, false,
										__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

/*
 * Links a finished node behind the finger, which Find has set.  Returns its place, or
 * that of the node with the same key that another process linked in the meantime.
 */
static uint32
LinkNode(Arena *a, ArenaFinger *f, const ArenaKey *key, uint32 place)
{
	ArenaNode  *n = ArenaAt(a, place);
	int			height = n->height;

	RaiseHeight(a, height);
	for (int level = 0; level < height; level++)
	{
		uint32		prev = f->prev[level];

		for (;;)
		{
			ArenaNode  *p;
			uint32		next;

			prev = WalkLevel(a, prev, level, key, &next);
			if (level == 0 && next != 0 && ArenaNodeIs(ArenaAt(a, next), key))
				return next;
			p = ArenaAt(a, prev);
			__atomic_store_n(&n->next[level], next, __ATOMIC_RELAXED);
			if (__atomic_compare_exchange_n(&p->next[level], &next, place, false,
											__ATOMIC_RELEASE, __ATOMIC_RELAXED))
				break;
		}
	}
	/* What comes next is most likely just behind. */
	for (int level = 0; level < height; level++)
		f->prev[level] = place;
	return place;
}

/* ---- pages --------------------------------------------------------------------- */

static inline ArenaKey
PageKey(const char *key)
{
	ArenaKey	k = {ORBIT_PG_DATA, CODEC_PAGE_KEY_SIZE, key};

	return k;
}

static inline uint32 *
PageGroups(ArenaNode *page)
{
	return (uint32 *) (ArenaNodeKey(page) + CODEC_PAGE_KEY_SIZE);
}

static inline Arena *
PageArena(ArenaNode *page)
{
	return (Arena *) ((char *) page - (Size) page->head * ARENA_UNIT);
}

/* splitmix64's end: each bit of the key changes half of the result's. */
static uint64
HashKey(const ArenaKey *key)
{
	uint64		storage;
	uint32		page;
	uint64		x;

	memcpy(&storage, key->data, sizeof(storage));
	memcpy(&page, key->data + sizeof(storage), sizeof(page));
	x = pg_ntoh64(storage) << 32 ^ pg_ntoh32(page);
	x = (x ^ (x >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return x ^ (x >> 31);
}

static inline uint32 *
Bucket(Arena *a, uint64 hash)
{
	return (uint32 *) (a + 1) + (hash & (((uint64) 1 << a->bucket_bits) - 1)) * ARENA_BUCKET_WORDS;
}

/* How a place is written into the index. */
static inline uint32
IndexWord(Arena *a, uint64 hash, uint32 place)
{
	return (uint32) (hash >> 32) >> a->place_bits << a->place_bits | place;
}

/*
 * The place of the page's node in the index.  0: no such page has a row, unless *full: its bucket is, and
 * only the list knows.
 */
static uint32
IndexFind(Arena *a, const ArenaKey *key, uint64 hash, bool *full)
{
	const uint32 *bucket = Bucket(a, hash);
	uint32		mark = IndexWord(a, hash, 0);

	*full = false;
	for (int i = 0; i < ARENA_BUCKET_WORDS; i++)
	{
		uint32		word = ArenaLoad(&bucket[i]);
		uint32		place = word ^ mark;

		if (word == 0)
			return 0;
		if (place >> a->place_bits == 0 && ArenaNodeIs(ArenaAt(a, place), key))
			return place;
	}
	*full = true;
	return 0;
}

/* A node that is in the list already.  Whoever adds a row to a page has called this, or found it there. */
static void
IndexAdd(Arena *a, uint64 hash, uint32 place)
{
	uint32	   *bucket = Bucket(a, hash);
	uint32		word = IndexWord(a, hash, place);

	for (int i = 0; i < ARENA_BUCKET_WORDS; i++)
	{
		uint32		old = ArenaLoad(&bucket[i]);

		if (old == 0 && __atomic_compare_exchange_n(&bucket[i], &old, word, false,
													__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return;
		if (old == word)
			return;
	}
}

static ArenaNode *
FindListed(Arena *a, ArenaFinger *f, const ArenaKey *key, uint64 hash)
{
	uint32		place = Find(a, f, key);

	if (place == 0 || !ArenaNodeIs(ArenaAt(a, place), key))
		return NULL;
	IndexAdd(a, hash, place);
	f->page = place;
	return ArenaAt(a, place);
}

static inline ArenaNode *
LastPage(Arena *a, const ArenaFinger *f, const ArenaKey *key)
{
	return f->page != 0 && ArenaNodeIs(ArenaAt(a, f->page), key) ? ArenaAt(a, f->page) : NULL;
}

ArenaNode *
ArenaPageLookup(Arena *a, ArenaFinger *f, const char *key)
{
	ArenaKey	k = PageKey(key);
	ArenaNode  *n = LastPage(a, f, &k);
	uint64		hash;
	bool		full;
	uint32		place;

	if (n != NULL)
		return n;
	hash = HashKey(&k);
	if (ArenaLoad(&a->height) < ARENA_INDEX_HEIGHT)
		return FindListed(a, f, &k, hash);
	place = IndexFind(a, &k, hash, &full);
	if (place == 0)
		return full ? FindListed(a, f, &k, hash) : NULL;
	f->page = place;
	return ArenaAt(a, place);
}

ArenaNode *
ArenaPageGet(Arena *a, ArenaFinger *f, MembufReservation *r, const char *key)
{
	ArenaKey	k = PageKey(key);
	ArenaNode  *n = LastPage(a, f, &k);
	uint64		hash;
	bool		full;
	uint32		place;
	uint32		saved;

	if (n != NULL)
		return n;
	hash = HashKey(&k);
	place = IndexFind(a, &k, hash, &full);
	if (place != 0)
	{
		f->page = place;
		return ArenaAt(a, place);
	}
	n = FindListed(a, f, &k, hash);
	if (n != NULL)
		return n;
	saved = r->next;
	place = MakeNode(a, f, r, &k, true);
	n = ArenaAt(a, place);
	n->head = place;
	memset(PageGroups(n), 0, ARENA_GROUPS * sizeof(uint32));
	f->page = LinkNode(a, f, &k, place);
	if (f->page != place)
		r->next = saved;		/* nobody has seen ours */
	IndexAdd(a, hash, f->page);
	return ArenaAt(a, f->page);
}

/* The group of 16 row heads for a slot, made if need be. */
static uint32 *
GetGroup(Arena *a, MembufReservation *r, ArenaNode *page, int slot)
{
	uint32	   *group = &PageGroups(page)[slot / ARENA_GROUP_SLOTS];
	uint32		place = ArenaLoad(group);
	uint32		saved = r->next;

	if (place == 0)
	{
		uint32		made = Take(r, ARENA_GROUP_BYTES);

		memset(ArenaAt(a, made), 0, ARENA_GROUP_BYTES);
		if (__atomic_compare_exchange_n(group, &place, made, false,
										__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			place = made;
		else
			r->next = saved;	/* another process was first */
	}
	return ArenaAt(a, place);
}

static inline const CodecEntry *
EntryAt(Arena *a, uint32 place)
{
	return place == 0 ? NULL :
		(const CodecEntry *) ((char *) ArenaAt(a, place) + sizeof(uint32));
}

const CodecEntry *
ArenaPageNewest(ArenaNode *page, int slot)
{
	Arena	   *a = PageArena(page);
	uint32		group = ArenaLoad(&PageGroups(page)[slot / ARENA_GROUP_SLOTS]);
	uint32	   *heads = ArenaAt(a, group);

	Assert(slot >= 1 && slot <= ORBIT_MAX_SLOT);
	if (group == 0)
		return NULL;
	return EntryAt(a, ArenaLoad(&heads[slot % ARENA_GROUP_SLOTS]));
}

void
ArenaPagePush(Arena *a, MembufReservation *r, ArenaNode *page, int slot,
			  const CodecEntry *header, const void *payload, const CodecEntry *below)
{
	uint32	   *heads = GetGroup(a, r, page, slot);
	Size		bytes = CODEC_NODE_SIZE(header->len);
	uint32		place = Take(r, bytes);
	char	   *p = ArenaAt(a, place);
	Size		filled = sizeof(uint32) + CODEC_ENTRY_HEADER + header->len;
	uint32		link = 0;

	Assert(slot >= 1 && slot <= ORBIT_MAX_SLOT);
	if (below != NULL)
	{
		Size		distance = (const char *) below - sizeof(uint32) - (const char *) a;

		Assert((const char *) below > (const char *) a && distance % ARENA_UNIT == 0);
		Assert(distance / ARENA_UNIT < ArenaLoad(&a->used));
		link = distance / ARENA_UNIT;
	}
	memcpy(p, &link, sizeof(uint32));
	memcpy(p + sizeof(uint32), header, CODEC_ENTRY_HEADER);
	if (header->len > 0)
		memcpy(p + sizeof(uint32) + CODEC_ENTRY_HEADER, payload, header->len);
	memset(p + filled, 0, bytes - filled);
	ArenaStore(&heads[slot % ARENA_GROUP_SLOTS], place);
}

const CodecEntry *
ArenaOlder(Arena *a, const CodecEntry *e)
{
	return EntryAt(a, *(const uint32 *) ((const char *) e - sizeof(uint32)));
}

/*
 * The rows of a page lie where they were written, far from each other: whoever goes through them waits for
 * memory at each, unless several are on their way at once.
 */
static inline void
FetchEntries(Arena *a, const uint32 *heads)
{
	for (int i = 0; i < ARENA_GROUP_SLOTS; i++)
	{
		const char *entry = ArenaAt(a, ArenaLoad(&heads[i]));

		__builtin_prefetch(entry);
		__builtin_prefetch(entry + 64);
	}
}

int
ArenaPageNextSlot(ArenaNode *page, int slot, const CodecEntry **e)
{
	Arena	   *a = PageArena(page);
	uint32	   *groups = PageGroups(page);

	for (slot++; slot <= ORBIT_MAX_SLOT;)
	{
		uint32		group = ArenaLoad(&groups[slot / ARENA_GROUP_SLOTS]);
		uint32	   *heads = ArenaAt(a, group);
		int			end = (slot / ARENA_GROUP_SLOTS + 1) * ARENA_GROUP_SLOTS;

		if (group == 0)
		{
			slot = end;
			continue;
		}
		if (slot == 1 || slot % ARENA_GROUP_SLOTS == 0)
			FetchEntries(a, heads);
		for (; slot < end; slot++)
		{
			uint32		place = ArenaLoad(&heads[slot % ARENA_GROUP_SLOTS]);

			if (place != 0)
			{
				*e = EntryAt(a, place);
				return slot;
			}
		}
	}
	*e = NULL;
	return 0;
}

/* ---- keys with values ------------------------------------------------------------- */

/* Writes a value, not yet in a chain. */
static uint32
MakeValue(Arena *a, MembufReservation *r, MembufOp op, const void *value, Size valuelen)
{
	Size		bytes = 2 * sizeof(uint32) + valuelen;
	uint32		place = Take(r, bytes);
	uint32	   *v = ArenaAt(a, place);

	Assert(valuelen < ((Size) 1 << 30) && (op == MEMBUF_PUT || op == MEMBUF_TOMBSTONE));
	v[0] = 0;
	v[1] = (uint32) (valuelen << 2) | op;
	if (valuelen > 0)
		memcpy(&v[2], value, valuelen);
	return place;
}

/* Unlike rows, nothing forbids two processes to write one key at the same time. */
static void
PushValue(Arena *a, ArenaNode *n, uint32 place)
{
	uint32	   *v = ArenaAt(a, place);
	uint32		old = ArenaLoad(&n->head);

	do
		v[0] = old;
	while (!__atomic_compare_exchange_n(&n->head, &old, place, false,
										__ATOMIC_RELEASE, __ATOMIC_ACQUIRE));
}

void
ArenaKvPublish(Arena *a, ArenaFinger *f, MembufReservation *r, const ArenaKey *key,
			   MembufOp op, const void *value, Size valuelen)
{
	uint32		v = MakeValue(a, r, op, value, valuelen);
	uint32		found = Find(a, f, key);
	uint32		saved = r->next;
	uint32		made;

	if (found == 0 || !ArenaNodeIs(ArenaAt(a, found), key))
	{
		/* Linked with its value, so that no reader meets a key without one. */
		made = MakeNode(a, f, r, key, false);
		((ArenaNode *) ArenaAt(a, made))->head = v;
		found = LinkNode(a, f, key, made);
		if (found == made)
			return;
		r->next = saved;
	}
	PushValue(a, ArenaAt(a, found), v);
}

void
ArenaKvValue(Arena *a, ArenaNode *n, MembufOp *op, const char **value, Size *valuelen)
{
	uint32	   *v = ArenaAt(a, ArenaLoad(&n->head));

	Assert(n->family != ORBIT_PG_DATA);
	*op = (MembufOp) (v[1] & 3);
	*value = (const char *) &v[2];
	*valuelen = v[1] >> 2;
}

/* ---- walking ------------------------------------------------------------------------ */

ArenaNode *
ArenaSeek(Arena *a, ArenaFinger *f, const ArenaKey *key)
{
	uint32		place = Find(a, f, key);

	return place == 0 ? NULL : ArenaAt(a, place);
}

static ArenaNode *
FingerNode(Arena *a, ArenaFinger *f)
{
	return f->prev[0] == ARENA_LIST ? NULL : ArenaAt(a, f->prev[0]);
}

ArenaNode *
ArenaSeekForPrev(Arena *a, ArenaFinger *f, const ArenaKey *key)
{
	uint32		place = Find(a, f, key);

	if (place != 0 && ArenaNodeIs(ArenaAt(a, place), key))
		return ArenaAt(a, place);
	return FingerNode(a, f);
}

ArenaNode *
ArenaNext(Arena *a, ArenaNode *n)
{
	uint32		place = ArenaLoad(&n->next[0]);

	return place == 0 ? NULL : ArenaAt(a, place);
}

ArenaNode *
ArenaPrev(Arena *a, ArenaFinger *f, ArenaNode *n)
{
	ArenaKey	key = {n->family, n->keylen, ArenaNodeKey(n)};

	(void) Find(a, f, &key);
	return FingerNode(a, f);
}
