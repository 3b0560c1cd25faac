/*
 * codec/codec.h: bytes <-> values.  Pure: no PostgreSQL, no RocksDB, no I/O,
 * no global state; safe in any thread.  Memory comes from malloc().
 *
 * ---- Entry ---------------------------------------------------------------
 * A row is a chain of entries, newest first.  The same bytes are used in the
 * write buffers and in pages, native (little) endian:
 *
 *   offset size
 *        0    4  len       bytes of payload
 *        4    4  xid       (sub)transaction that made the entry
 *        8    4  cid       its command id
 *       12    1  kind (low 3 bits) and flags (high 5 bits)
 *       13    1  tag       INSERT 0, UPDATE 0..254; LOCK: the LockTupleMode
 *       14  len  payload
 *
 * An entry begins at an address that is 4 modulo 8.  A tuple image, the
 * payload of INSERT and UPDATE, therefore begins at 2 modulo 8, which is where
 * HeapTupleHeaderData.t_infomask2 (offset 18) lies when the header is 8-byte
 * aligned: image = the heap tuple's bytes from t_infomask2 on, so the user data
 * at t_hoff is 8-byte aligned and a slot can point at it.
 *
 * payload by kind:
 *   INSERT, UPDATE  tuple image; with CODEC_SPECULATIVE the last 4 bytes of the
 *                   payload are the speculative token (not part of the image)
 *   DELETE          CodecDelete
 *   LOCK, CONFIRM, KILL, DEADSLOT   nothing
 * CONFIRM and KILL end a speculative insertion of the same xid below them.
 * DEADSLOT is what pruning leaves of a dead row: nobody sees anything of it any
 * more, but indexes may still have entries that lead here.  It has the full xid that
 * ended the row, low half in xid, high half in cid.
 *
 * Identity of an entry (R9): (kind, tag or lock mode, xid, cid); a DELETE's tag
 * is 0.  Of entries of one identity the one in the newest position counts.
 *
 * ---- Page ----------------------------------------------------------------
 *   offset size
 *        0    1  format    CODEC_PAGE_FORMAT
 *        1    1  flags     0
 *        2    2  nchains   0..255
 *        4    4  size      of the whole page in bytes, a multiple of 8
 *        8  4*n  directory: slot << 24 | offset of the first entry's node / 8,
 *                ascending by slot; padded to a multiple of 8
 *            ..  chains in directory order; a chain is a run of nodes, newest
 *                first.  A node is 8-byte aligned: 4 bytes zero, then the entry
 *                (so the entry is at 4 mod 8), zero padding to a multiple of 8.
 * A chain ends where the next one (or the page) begins.  A page that holds only
 * some rows, or only some entries of a row, is a delta (sparse) page: the same
 * format.
 */
#ifndef ORBIT_CODEC_H
#define ORBIT_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ids.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- entries ------------------------------------------------------------ */

typedef enum CodecKind
{
	CODEC_INSERT = 1,
	CODEC_UPDATE = 2,			/* a version in place of the one below it */
	CODEC_DELETE = 3,			/* delete mark; also of an update to a new row */
	CODEC_LOCK = 4,
	CODEC_CONFIRM = 5,
	CODEC_KILL = 6,
	CODEC_DEADSLOT = 7			/* what is left of a dead row */
} CodecKind;

#define CODEC_KIND_MASK		0x07
#define CODEC_FROZEN		0x08	/* everyone sees it; nothing below matters */
#define CODEC_SPECULATIVE	0x10	/* INSERT: payload ends with the token */
#define CODEC_KEYS_UPDATED	0x20	/* UPDATE, DELETE: FOR UPDATE strength */
#define CODEC_NO_LOCKERS	0x40	/* UPDATE, LOCK: when made, no other running
									 * transaction held a lock further down */
#define CODEC_COMMITTED		0x80	/* reserved: fate known when flushed */

typedef struct CodecEntry
{
	uint32_t	len;
	uint32_t	xid;
	uint32_t	cid;
	uint8_t		kind_flags;
	uint8_t		tag;
	char		payload[];
} __attribute__((packed, aligned(4))) CodecEntry;

#define CODEC_PAGE_FORMAT	1

#define CODEC_ENTRY_HEADER	14
/* bytes of a node (4-byte link or zero, entry, padding) */
#define CODEC_NODE_SIZE(len) ((((size_t) (len)) + 4 + CODEC_ENTRY_HEADER + 7) & ~(size_t) 7)

static inline CodecKind
CodecEntryKind(const CodecEntry *e)
{
	return (CodecKind) (e->kind_flags & CODEC_KIND_MASK);
}

static inline bool
CodecIsVersion(const CodecEntry *e)
{
	CodecKind	kind = CodecEntryKind(e);

	return kind == CODEC_INSERT || kind == CODEC_UPDATE;
}

#define CODEC_DELETE_UPDATED	0x01	/* next row in page, slot */
#define CODEC_DELETE_MOVED		0x02	/* moved to another partition */

typedef struct CodecDelete
{
	uint32_t	page;			/* with CODEC_DELETE_UPDATED, else 0 */
	uint8_t		slot;
	uint8_t		flags;
	uint16_t	zero;
} __attribute__((packed)) CodecDelete;

extern bool CodecSameIdentity(const CodecEntry *a, const CodecEntry *b);

/* The full xid that ended the row of a DEADSLOT. */
static inline uint64_t
CodecDeadSlotXid(const CodecEntry *e)
{
	return (uint64_t) e->cid << 32 | e->xid;
}

/* ---- growing byte buffer -------------------------------------------------- */

/* Zero-initialise; data is malloc'ed, hence 16-byte aligned. */
typedef struct CodecBuf
{
	char	   *data;
	size_t		len;
	size_t		cap;
} CodecBuf;

extern bool CodecBufReserve(CodecBuf *b, size_t extra); /* false: out of memory */
extern bool CodecBufAppend(CodecBuf *b, const void *bytes, size_t n);
extern void CodecBufFree(CodecBuf *b);

/* ---- reading a page -------------------------------------------------------- */

typedef struct CodecPage
{
	const char *data;
	uint32_t	size;
	uint16_t	nchains;
} CodecPage;

/*
 * Checks the header, the directory and the extent of every entry, so that the
 * accessors below cannot leave the page.  False: not a page of a known format
 * or damaged.  data must be 8-byte aligned for the accessors; check_only callers
 * may pass any alignment.
 */
extern bool CodecPageOpen(CodecPage *p, const void *data, size_t len);

/* Of a page that this process has just built out of checked parts: only the header is read. */
extern void CodecPageOpenBuilt(CodecPage *p, const void *data, size_t len);

/* Newest entry of the i-th chain (0 <= i < nchains); its slot. */
extern const CodecEntry *CodecPageChain(const CodecPage *p, int i, int *slot);
/* Newest entry of the row in this slot; NULL when the page has none. */
extern const CodecEntry *CodecPageFind(const CodecPage *p, int slot, int *chain);
/* Next older entry of chain i; NULL at its end. */
extern const CodecEntry *CodecPageOlder(const CodecPage *p, int i, const CodecEntry *e);

/* ---- building a page ------------------------------------------------------- */

/*
 * Slots ascending, entries newest first.  The builder writes to out (appended at
 * out->len, which must be a multiple of 8).  Functions return false when out of
 * memory or when the page would pass 2^27 bytes.
 */
typedef struct CodecBuilder
{
	CodecBuf   *out;
	size_t		start;
	int			nchains;
	uint32_t	directory[ORBIT_MAX_SLOT];
	CodecBuf	body;
} CodecBuilder;

extern void CodecBuildBegin(CodecBuilder *b, CodecBuf *out);
extern bool CodecBuildChain(CodecBuilder *b, int slot);
extern bool CodecBuildEntry(CodecBuilder *b, const CodecEntry *e);
/* The same with CODEC_FROZEN set; the chain ends with it. */
extern bool CodecBuildFrozen(CodecBuilder *b, const CodecEntry *e);
extern bool CodecBuildFinish(CodecBuilder *b);	/* page now at out->data + start */
extern void CodecBuildFree(CodecBuilder *b);

/* ---- pruning ------------------------------------------------------------------ */

#define CODEC_FATES_CHUNK	65536	/* fates in one chunk, a bit each */

/*
 * All that a compaction may know of transactions: built by the worker's main thread,
 * read by RocksDB's threads, immutable while in use.  Full xids throughout.
 */
typedef struct CodecHorizon
{
	uint64_t	limit;			/* every transaction before it has ended; what committed ones
								 * before it did is seen by every snapshot, now and later */
	uint64_t	settled;		/* <= limit.  Moreover no LOCK of a running transaction lies
								 * below an entry of theirs */
	uint64_t	base;			/* <= limit.  Fates are known for [base, limit) */
	const uint8_t *const *fates;	/* chunk i: xids from (base / CODEC_FATES_CHUNK + i) *
									 * CODEC_FATES_CHUNK on; xid n of a chunk is bit n % 8
									 * of byte n / 8; 1: committed */
} CodecHorizon;

typedef struct CodecPruning
{
	const CodecHorizon *horizon;
	uint64_t	cleaned;		/* of this storage: no index has an entry for a row that was
								 * ended by a full xid before this one; 0: none is known */
} CodecPruning;

/* ---- the one page routine ---------------------------------------------------- */

/*
 * Unites pages of one key, newest first: entries of newer parts go in front,
 * duplicates (same identity) keep the newest position, a chain ends at its first
 * frozen version (INSERT, UPDATE or DELETE with CODEC_FROZEN) or dead slot.  When a
 * frozen version is a duplicate, its newer twin inherits the flag.  Entries of one part
 * are not compared with each other.  Parts may have any alignment, but must not lie in
 * out.  The page is appended at out->len, a multiple of 8.
 * complete: nothing older than the last part exists anywhere.  Newer entries may exist
 * in any case.
 * p: what may be let go besides (prune.c has the rules); NULL: nothing.  With it the
 * page may be left without a chain.
 * False: a part is damaged, or out of memory; *error then says which.
 */
typedef struct CodecPart
{
	const void *data;
	size_t		len;
} CodecPart;

extern bool CodecUnite(const CodecPart *parts, int nparts, bool complete,
					   const CodecPruning *p, CodecBuf *out, const char **error);

/*
 * The same for a single page.  Nothing to be done: *changed is false and out is as it
 * was.  A page may be pruned under an older horizon than before; that does no harm.
 */
extern bool CodecPrune(const void *page, size_t len, bool complete, const CodecPruning *p,
					   CodecBuf *out, bool *changed, const char **error);

/* ---- what a page holds, for file properties ------------------------------------ */

/*
 * doomed: what a late enough horizon and mark of cleaned indexes let go, if those who
 * deleted have committed: versions that are not the newest of their chain or lie below a
 * delete mark, delete marks, locks, confirms, kills, dead slots.
 * unfrozen: entries that somebody must know the xid of, locks among them; not dead slots.
 */
typedef struct CodecSummary
{
	uint64_t	pages;
	uint64_t	rows;			/* chains, dead slots included */
	uint64_t	entries;
	uint64_t	bytes;			/* of whole pages */
	uint64_t	doomed;			/* entries */
	uint64_t	doomed_bytes;
	uint64_t	deletes;		/* delete marks */
	uint64_t	deadslots;
	uint64_t	unfrozen;		/* entries */
	uint32_t	oldest_unfrozen;	/* xids, by circular order; */
	uint32_t	newest_unfrozen;	/* valid when unfrozen > 0 */
} CodecSummary;

/* Adds the page to *sum; a damaged page adds nothing.  Any alignment. */
extern void CodecSummarize(const void *page, size_t len, CodecSummary *sum);

/* ---- keys ---------------------------------------------------------------------- */

#define CODEC_PAGE_KEY_SIZE		12	/* storage id (8) | page (4), big-endian */
#define CODEC_STORAGE_KEY_SIZE	9	/* storage id (8) | record type (1) */
#define CODEC_GENERATION_KEY_SIZE 16	/* zero (8) | generation (8) */

extern void CodecPageKey(char key[CODEC_PAGE_KEY_SIZE], OrbitStorageId storage, uint32_t page);
extern bool CodecPageKeyParse(const char *key, size_t len, OrbitStorageId *storage, uint32_t *page);

#define CODEC_RECORD_REGISTRY	'R' /* CodecRegistry, from a logged kv batch */
#define CODEC_RECORD_COUNTERS	'C' /* CodecCounters, written by every flush
									 * that touches the storage */
#define CODEC_RECORD_VACUUM		'V' /* CodecVacuum, from a logged kv batch */
extern void CodecStorageKey(char key[CODEC_STORAGE_KEY_SIZE], OrbitStorageId storage, char record);
extern bool CodecStorageKeyParse(const char *key, size_t len, OrbitStorageId *storage, char *record);
extern void CodecGenerationKey(char key[CODEC_GENERATION_KEY_SIZE], uint64_t generation);
extern bool CodecGenerationKeyParse(const char *key, size_t len, uint64_t *generation);
extern bool CodecKeyIsReserved(const char *key, size_t len);	/* storage id 0 */

/* ---- records of pg_tables and pg_metadata: fixed little-endian structs ---------- */

typedef struct CodecRegistry
{
	uint32_t	format;			/* 1 */
	uint8_t		kind;			/* 't' table, 'i' index */
	uint8_t		persistence;	/* 'p', 'u', 't' */
	uint8_t		dropped;		/* reserved for collection */
	uint8_t		zero;
	uint32_t	tablespace;		/* relfilenode of creation */
	uint32_t	database;
	uint32_t	relnode;
	int32_t		backend;		/* temporary: owner's backend id, else -1 */
	uint32_t	relid;			/* pg_class oid at creation */
	uint32_t	creator;		/* xid that created it */
	uint64_t	owner;			/* index: the table's storage id */
	uint32_t	encoding;		/* index: key encoding version */
	uint32_t	zero2;
} CodecRegistry;

typedef struct CodecCounters
{
	uint32_t	format;			/* 1 */
	uint32_t	put_mark;		/* no flush ever wrote a page >= this one */
	uint32_t	next_page;		/* insertion goes on at a page >= this one */
	uint32_t	first_live;		/* reserved: first live page */
	uint32_t	live_pages;		/* reserved */
	uint32_t	zero;
	uint64_t	zero2;
} CodecCounters;

/*
 * What the last VACUUM of the storage achieved.  Rows that were ended (deleted, or their
 * insertion aborted) by a transaction before `cleaned`, a full transaction id, have no
 * entry in any index.
 */
typedef struct CodecVacuum
{
	uint32_t	format;			/* 1 */
	uint32_t	zero;
	uint64_t	cleaned;
} CodecVacuum;

/* Keys of pg_metadata. */
#define CODEC_META_FORMAT		"format_version"	/* uint32 */
#define CODEC_META_INSTANCE		"instance"			/* uint64, random: this RocksDB and its
													 * physical copies; repeated in metapages */
#define CODEC_META_SYSTEM		"system_identifier" /* uint64 */
#define CODEC_META_FLUSHED		"flushed"			/* CodecFlushed */

typedef struct CodecFlushed
{
	uint64_t	flushed_lsn;	/* F: end of the last record that is in RocksDB */
	uint64_t	covered_redo;	/* redo pointers up to here are covered */
	uint64_t	next_storage;	/* storage ids from here on are unused */
	uint32_t	timeline;
	uint32_t	clean;			/* 1: written by an orderly shutdown */
} CodecFlushed;

#ifdef __cplusplus
}
#endif
#endif							/* ORBIT_CODEC_H */
