/*
 * base/ids.h: identifiers and limits, in plain C so that the code running in
 * RocksDB's threads (C++) may include it.  No PostgreSQL header here.
 *
 * storage id   64 bits, names one generation of a relation's contents; never
 *              handed out twice, crash or not.  0 is reserved: in every column
 *              family the keys that begin with storage id 0 belong to the
 *              storage engine itself (generation keys).
 * page         32 bits, BlockNumber; grows with insertion and is never reused.
 * slot         1..255, a row's place on its page; never reused.
 * tag          0..254, tells the versions of one row apart.
 * TID          (page, slot + 256 * tag).  Offsets 0xfffc and up are reserved by
 *              PostgreSQL; the greatest one produced here is 65279 (0xfeff).
 */
#ifndef ORBIT_IDS_H
#define ORBIT_IDS_H

#include <stdint.h>

typedef uint64_t OrbitStorageId;

#define ORBIT_INVALID_STORAGE	((OrbitStorageId) 0)
#define ORBIT_MAX_SLOT			255
#define ORBIT_MAX_TAG			254
#define ORBIT_PAGE_BYTES		8192	/* row bytes after which a page is full */
#define ORBIT_MAX_PAGE			0xFFFFFFFEu /* MaxBlockNumber */

/* Column families, in the order in which they are opened and ingested. */
typedef enum OrbitFamily
{
	ORBIT_PG_DATA = 0,			/* rows, in pages */
	ORBIT_PG_INDEXES = 1,		/* ordered index entries (empty so far) */
	ORBIT_PG_TABLES = 2,		/* one registry and one counter record a storage */
	ORBIT_PG_METADATA = 3,		/* format, system identifier, flushed LSN */
	ORBIT_NFAMILIES = 4
} OrbitFamily;

/*
 * The full xid of `xid`, which must not be later than `next`, the next full one: so that must have been
 * read after `xid` was assigned.  What is later comes out 2^32 too early.
 */
static inline uint64_t
OrbitFullXid(uint64_t next, uint32_t xid)
{
	return next - (uint32_t) ((uint32_t) next - xid);
}

/* Version of everything under the data directory; see docs/formats.md. */
#define ORBIT_FORMAT_VERSION	1

#endif							/* ORBIT_IDS_H */
