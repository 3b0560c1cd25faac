/*
 * row/metapage.h: format of block 0 of an orbit relation's main fork (and of an
 * unlogged relation's init fork), and of the alias record in pg_tables.
 *
 * The page is a standard PostgreSQL page: checksums, pg_basebackup, SET TABLESPACE
 * and full-page redo treat it like any other.  The struct stands where line pointers
 * would (PageGetContents), pd_lower points behind it, so that it is never taken
 * for the hole of a full-page image.
 *
 *   offset size   (from PageGetContents)
 *        0    4  magic     ROW_METAPAGE_MAGIC
 *        4    2  version   ROW_METAPAGE_VERSION; a reader refuses a greater one
 *        6    1  kind      't' table ('i': index, reserved)
 *        7    1  zero
 *        8    8  storage   storage id; 0: none yet, allocated at first use (init
 *                          forks for ever; main forks of unlogged and temporary
 *                          relations until something looks at their contents)
 *       16    4  database  oid of the database that allocated the storage id
 *       20    4  relnode   relfilenode for which the page was made (information)
 *       24    8  instance  the RocksDB directory that holds the storage (StoreInstance);
 *                          0 with storage 0
 *
 * instance guards against another directory (orbit.data_directory changed, or the directory
 * lost and made anew): its storage ids begin again and mean other rows.
 *
 * database guards against copies: a database made from a template holds the same
 * page in another directory, and two databases must not share one storage.  Moving
 * a database to another tablespace keeps its oid.
 *
 * ---- alias record (family pg_tables) -------------------------------------------
 * SET TABLESPACE copies the page, so that until commit two files name one storage.
 * The storage is in use while any of its files exists.  Key, 17 bytes:
 *
 *   storage id (8, big-endian) | 'A' | tablespace (4, big-endian) | relnode (4, big-endian)
 *
 * value: a CodecRegistry in which tablespace, relnode and creator are those of the
 * copy.
 *
 * The creator is a top-level transaction.  Until it has ended, the file may not be there yet.
 *
 * ---- dropped directories (family pg_metadata) ---------------------------------------
 * Key, 17 characters: "dropped/", 'd' (database) or 't' (tablespace), its oid as 8 hexadecimal
 * digits.  Value: one byte, 1.  Written after DROP DATABASE and DROP TABLESPACE; gone when no
 * record of pg_tables names that oid any more.  Sorts before CODEC_META_FLUSHED.
 */
#ifndef ORBIT_ROW_METAPAGE_H
#define ORBIT_ROW_METAPAGE_H

#include "postgres.h"

#include "base/ids.h"
#include "storage/bufpage.h"

#define ROW_METAPAGE_BLOCK		0
#define ROW_METAPAGE_MAGIC		0x4254524F	/* bytes O R T B */
#define ROW_METAPAGE_VERSION	1
#define ROW_METAPAGE_TABLE		't'

typedef struct RowMetapage
{
	uint32		magic;
	uint16		version;
	uint8		kind;
	uint8		zero;
	uint64		storage;
	Oid			database;
	Oid			relnode;
	uint64		instance;
} RowMetapage;

StaticAssertDecl(sizeof(RowMetapage) == 32, "metapage format");
StaticAssertDecl(offsetof(RowMetapage, storage) == 8, "metapage format");
StaticAssertDecl(offsetof(RowMetapage, relnode) == 20, "metapage format");

#define RowMetapageGet(page)	((RowMetapage *) PageGetContents(page))

#define ROW_RECORD_ALIAS		'A'
#define ROW_ALIAS_KEY_SIZE		17

#endif							/* ORBIT_ROW_METAPAGE_H */
