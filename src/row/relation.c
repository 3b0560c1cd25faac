/*
 * relation.c: a relation's storage: the metapage (row/metapage.h) that carries its
 * storage id, and the records in pg_tables that tell which files use a storage.
 *
 * What PostgreSQL does for us: it creates, drops and replicates the one-page file with
 * the transaction, so a rollback or a DROP needs no code here.
 *
 * What is logged:
 *   permanent  the registry record (key/value record), then block 0 as a full-page
 *              image through shared buffers, also at wal_level = minimal: replay and
 *              the sync at commit then agree, and no fsync is needed here
 *   unlogged   the init fork, with storage id 0, as an image, synced at once; nothing
 *              of the main fork, which a crash replaces by the init fork
 *   temporary  nothing
 * The registry record comes before the file: a record without a file is garbage, a
 * file without a record would be a storage that nobody ever collects.  The worker
 * deletes storages whose files are gone (evidence.c); what it concludes rests on the order
 * of things here: record, then file; ids that grow; a metapage that goes from one id to a
 * later one only.
 *
 * Locks: the content lock of the metapage's buffer, alone.  Storage ids are allocated
 * before it is taken, for that may wait for space.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_class.h"
#include "catalog/storage.h"
#include "catalog/storage_xlog.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/backendid.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/memutils.h"

#include "row/metapage.h"
#include "row/row.h"
#include "wal/wal.h"

/*
 * In rd_amcache.  The relation cache frees it when it rebuilds the entry; the file
 * number guards the moments in between (a new relfilenode within a command).
 */
typedef struct StorageCache
{
	RelFileNode node;
	OrbitStorageId storage;
} StorageCache;

/* ---- the page ------------------------------------------------------------- */

static void
InitMetapage(Page page, OrbitStorageId storage, const RelFileNode *node)
{
	RowMetapage *meta;

	PageInit(page, BLCKSZ, 0);
	meta = RowMetapageGet(page);
	memset(meta, 0, sizeof(*meta));
	meta->magic = ROW_METAPAGE_MAGIC;
	meta->version = ROW_METAPAGE_VERSION;
	meta->kind = ROW_METAPAGE_TABLE;
	meta->storage = storage;
	meta->database = node->dbNode;
	meta->relnode = node->relNode;
	meta->instance = storage == ORBIT_INVALID_STORAGE ? 0 : StoreInstance();
	((PageHeader) page)->pd_lower = (char *) (meta + 1) - (char *) page;
}

static void
RaiseDamaged(Relation rel, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("table \"%s\" has no valid orbit metapage",
					RelationGetRelationName(rel)),
			 errdetail_internal("%s", detail),
			 errhint("The file \"%s\" is damaged or was not written by orbit_fdw. Restore the table from a backup.",
					 relpathbackend(rel->rd_node, rel->rd_backend, MAIN_FORKNUM))));
}

/* Everything that a page must satisfy before its storage id may be used. */
static void
CheckMetapage(Relation rel, Page page)
{
	RowMetapage *meta = RowMetapageGet(page);

	if (PageIsNew(page))
		RaiseDamaged(rel, "The page is empty.");
	if (meta->magic != ROW_METAPAGE_MAGIC ||
		((PageHeader) page)->pd_lower < (char *) (meta + 1) - (char *) page)
		RaiseDamaged(rel, "The magic number is wrong.");
	if (meta->version > ROW_METAPAGE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("table \"%s\" has orbit format version %d, newer than the supported version %d",
						RelationGetRelationName(rel), meta->version, ROW_METAPAGE_VERSION),
				 errhint("Install the orbit_fdw release that wrote it, or a later one.")));
	if (meta->kind != ROW_METAPAGE_TABLE)
		RaiseDamaged(rel, "The page belongs to another kind of relation.");

	/* without contents there is nothing that two databases could share */
	if (meta->storage == ORBIT_INVALID_STORAGE)
	{
		if (RelationIsPermanent(rel))
			RaiseDamaged(rel, "The storage id is missing.");
	}
	else if (meta->database != rel->rd_node.dbNode)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("table \"%s\" refers to a storage of the database with OID %u",
						RelationGetRelationName(rel), meta->database),
				 errdetail("The files of this database were copied from a database that owns orbit tables, which does not copy the rows."),
				 errhint("Drop the table here and load its rows with pg_dump and pg_restore.")));
	else if (meta->instance != StoreInstance())
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("the rows of table \"%s\" are not in RocksDB directory \"%s\"",
						RelationGetRelationName(rel), StoreDirectory()),
				 errdetail("The table was written with another RocksDB directory than the one now in use."),
				 errhint("Check orbit.data_directory, or restore the directory from the backup that the rest of the data directory comes from.")));
}

/* ---- records in pg_tables --------------------------------------------------- */

/*
 * Before the record of a file that is still to be made.  Who looks for storages without a file
 * leaves this one alone while its creator runs, so there must be one (CREATE TABLE comes here
 * without), and the record carries its xid to standbys.
 */
static void
NeedCreator(void)
{
	(void) GetCurrentTransactionId();
}

static void
FillRegistry(CodecRegistry *r, Relation rel, const RelFileNode *node, char persistence)
{
	memset(r, 0, sizeof(*r));
	r->format = 1;
	r->kind = ROW_METAPAGE_TABLE;
	r->persistence = (uint8) persistence;
	r->tablespace = node->spcNode;
	r->database = node->dbNode;
	r->relnode = node->relNode;
	r->backend = persistence == RELPERSISTENCE_TEMP ? BackendIdForTempRelations() : -1;
	r->relid = RelationGetRelid(rel);
	r->creator = GetTopTransactionIdIfAny();
}

static void
RegisterStorage(Relation rel, const RelFileNode *node, char persistence,
				OrbitStorageId storage)
{
	CodecRegistry registry;
	char		key[CODEC_STORAGE_KEY_SIZE];

	FillRegistry(&registry, rel, node, persistence);
	CodecStorageKey(key, storage, CODEC_RECORD_REGISTRY);
	WalWriteKv(ORBIT_PG_TABLES, key, sizeof(key), MEMBUF_PUT,
			   &registry, sizeof(registry), persistence == RELPERSISTENCE_PERMANENT);
}

/* It was never used.  Nothing was logged either, for only an unlogged relation has two adopters. */
static void
UnregisterStorage(OrbitStorageId storage)
{
	char		key[CODEC_STORAGE_KEY_SIZE];

	CodecStorageKey(key, storage, CODEC_RECORD_REGISTRY);
	WalWriteKv(ORBIT_PG_TABLES, key, sizeof(key), MEMBUF_TOMBSTONE, "", 0, false);
}

static void
RegisterAlias(Relation rel, const RelFileNode *node, char persistence,
			  OrbitStorageId storage)
{
	CodecRegistry registry;
	char		key[ROW_ALIAS_KEY_SIZE];
	uint32		number;

	FillRegistry(&registry, rel, node, persistence);
	CodecStorageKey(key, storage, ROW_RECORD_ALIAS);
	number = pg_hton32(node->spcNode);
	memcpy(key + CODEC_STORAGE_KEY_SIZE, &number, sizeof(number));
	number = pg_hton32(node->relNode);
	memcpy(key + CODEC_STORAGE_KEY_SIZE + 4, &number, sizeof(number));
	WalWriteKv(ORBIT_PG_TABLES, key, sizeof(key), MEMBUF_PUT,
			   &registry, sizeof(registry), persistence == RELPERSISTENCE_PERMANENT);
}

/* ---- opening ------------------------------------------------------------------ */

static void
PrepareUse(void)
{
	OrbitRequirePreload();
	StoreAttach();
}

/* The checked storage id of the metapage, possibly 0. */
static OrbitStorageId
ReadMetapage(Relation rel)
{
	Buffer		buf;
	OrbitStorageId storage;

	if (smgrnblocks(RelationGetSmgr(rel), MAIN_FORKNUM) == 0)
		RaiseDamaged(rel, "The file has no page.");
	buf = ReadBuffer(rel, ROW_METAPAGE_BLOCK);
	LockBuffer(buf, BUFFER_LOCK_SHARE);
	CheckMetapage(rel, BufferGetPage(buf));
	storage = RowMetapageGet(BufferGetPage(buf))->storage;
	UnlockReleaseBuffer(buf);
	return storage;
}

/*
 * No checkpoint writes out buffers of unlogged and temporary relations.  Who looks at the file
 * only (evidence.c) would keep the storages that came before this one as long as the relation lives.
 */
static void
WriteOut(Relation rel, Buffer buf)
{
	if (RelationUsesLocalBuffers(rel))
		FlushRelationBuffers(rel);
	else if (!RelationIsPermanent(rel))
		FlushOneBuffer(buf);
}

/* Writes another storage id into the metapage; with only_if_none, unless it has one. */
static OrbitStorageId
WriteMetapage(Relation rel, OrbitStorageId storage, bool only_if_none)
{
	Buffer		buf = ReadBuffer(rel, ROW_METAPAGE_BLOCK);
	RowMetapage *meta;

	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	CheckMetapage(rel, BufferGetPage(buf));
	meta = RowMetapageGet(BufferGetPage(buf));
	if (only_if_none && meta->storage != ORBIT_INVALID_STORAGE)
		storage = meta->storage;
	else
	{
		START_CRIT_SECTION();
		meta->storage = storage;
		meta->database = rel->rd_node.dbNode;
		meta->relnode = rel->rd_node.relNode;
		meta->instance = StoreInstance();
		MarkBufferDirty(buf);
		if (RelationIsPermanent(rel))
			log_newpage_buffer(buf, true);
		END_CRIT_SECTION();
		WriteOut(rel, buf);
	}
	UnlockReleaseBuffer(buf);
	return storage;
}

/*
 * First use of an unlogged or temporary relation.  Two processes may come here at once: the
 * buffer lock decides, and the loser's id stays unused.
 */
static OrbitStorageId
AdoptStorage(Relation rel)
{
	OrbitStorageId storage;
	OrbitStorageId adopted;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot access temporary or unlogged relations during recovery")));
	storage = StoreAllocStorageId(WalLogStorageBlock);
	RegisterStorage(rel, &rel->rd_node, rel->rd_rel->relpersistence, storage);
	adopted = WriteMetapage(rel, storage, true);
	if (adopted != storage)
		UnregisterStorage(storage);
	return adopted;
}

static OrbitStorageId
OpenStorage(Relation rel)
{
	StorageCache *cache;
	OrbitStorageId storage;

	PrepareUse();
	storage = ReadMetapage(rel);
	if (storage == ORBIT_INVALID_STORAGE)
		storage = AdoptStorage(rel);

	/* reading the page may have rebuilt the entry, so look at rd_amcache only now */
	cache = rel->rd_amcache;
	if (cache == NULL)
		cache = MemoryContextAlloc(CacheMemoryContext, sizeof(StorageCache));
	cache->node = rel->rd_node;
	cache->storage = storage;
	rel->rd_amcache = cache;
	StoreNameStorage(storage, RelationGetRelationName(rel));
	return storage;
}

OrbitStorageId
RowStorage(Relation rel)
{
	StorageCache *cache = rel->rd_amcache;

	if (likely(cache != NULL && RelFileNodeEquals(cache->node, rel->rd_node)))
		return cache->storage;
	return OpenStorage(rel);
}

static void
ForgetStorage(Relation rel)
{
	if (rel->rd_amcache != NULL)
		pfree(rel->rd_amcache);
	rel->rd_amcache = NULL;
}

/* ---- life cycle ------------------------------------------------------------------ */

/*
 * Block 0 of a new permanent relation.  Shared buffers and an image in the WAL give the usual
 * order (WAL before page) and spare CREATE TABLE an fsync.
 */
static void
WritePermanentMetapage(const RelFileNode *node, OrbitStorageId storage)
{
	Buffer		buf = ReadBufferWithoutRelcache(*node, MAIN_FORKNUM, P_NEW,
												RBM_ZERO_AND_LOCK, NULL, true);

	Assert(BufferGetBlockNumber(buf) == ROW_METAPAGE_BLOCK);
	START_CRIT_SECTION();
	InitMetapage(BufferGetPage(buf), storage, node);
	MarkBufferDirty(buf);
	log_newpage_buffer(buf, true);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(buf);
}

/* Block 0 of a fork that is not logged, or of an init fork, straight into the file. */
static void
WriteForkMetapage(SMgrRelation srel, ForkNumber fork, const RelFileNode *node, bool skip_fsync)
{
	PGAlignedBlock block;
	Page		page = (Page) block.data;
	RelFileNode target = *node;

	InitMetapage(page, ORBIT_INVALID_STORAGE, node);
	if (fork == INIT_FORKNUM)
		log_newpage(&target, INIT_FORKNUM, ROW_METAPAGE_BLOCK, page, true);
	PageSetChecksumInplace(page, ROW_METAPAGE_BLOCK);
	smgrextend(srel, fork, ROW_METAPAGE_BLOCK, block.data, skip_fsync);
}

void
RowCreateStorage(Relation rel, const RelFileNode *node, char persistence)
{
	SMgrRelation srel;
	OrbitStorageId storage = ORBIT_INVALID_STORAGE;

	if (IsBinaryUpgrade)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pg_upgrade cannot transfer orbit tables"),
				 errdetail("Table \"%s\" keeps its rows outside the files that pg_upgrade copies.",
						   RelationGetRelationName(rel)),
				 errhint("Move orbit tables with pg_dump and pg_restore.")));
	PrepareUse();

	if (persistence == RELPERSISTENCE_PERMANENT)
	{
		storage = StoreAllocStorageId(WalLogStorageBlock);
		NeedCreator();
		RegisterStorage(rel, node, persistence, storage);
		OrbitStopPoint("row_create_registered");
	}

	srel = RelationCreateStorage(*node, persistence, true);
	switch (persistence)
	{
		case RELPERSISTENCE_PERMANENT:
			WritePermanentMetapage(node, storage);
			break;
		case RELPERSISTENCE_UNLOGGED:
			smgrcreate(srel, INIT_FORKNUM, false);
			log_smgrcreate(node, INIT_FORKNUM);
			WriteForkMetapage(srel, INIT_FORKNUM, node, false);

			/*
			 * The write did not go through shared buffers, so a checkpoint that
			 * began meanwhile may already have passed our records.
			 */
			smgrimmedsync(srel, INIT_FORKNUM);
			WriteForkMetapage(srel, MAIN_FORKNUM, node, false);
			break;
		case RELPERSISTENCE_TEMP:
			WriteForkMetapage(srel, MAIN_FORKNUM, node, true);
			break;
		default:
			elog(ERROR, "invalid relation persistence '%c'", persistence);
	}
	smgrclose(srel);
	OrbitStopPoint("row_create_done");
}

/*
 * Used where the old contents need not survive a rollback (created in the same
 * subtransaction, or ON COMMIT DELETE ROWS of a temporary table), under an exclusive lock on a
 * relation that no other session has seen: only this process can have the old id cached.
 */
void
RowResetStorage(Relation rel)
{
	OrbitStorageId storage;

	PrepareUse();
	storage = ReadMetapage(rel);
	if (storage == ORBIT_INVALID_STORAGE || StorePageCount(storage) == 0)
		return;					/* ON COMMIT DELETE ROWS of an unused table is frequent */

	storage = StoreAllocStorageId(WalLogStorageBlock);
	RegisterStorage(rel, &rel->rd_node, rel->rd_rel->relpersistence, storage);
	OrbitStopPoint("row_reset_registered");
	ForgetStorage(rel);
	WriteMetapage(rel, storage, false);
	OrbitStopPoint("row_reset_done");
}

static void
CopyFork(Relation rel, SMgrRelation dst, const RelFileNode *newnode, ForkNumber fork)
{
	char		persistence = rel->rd_rel->relpersistence;

	if (fork != MAIN_FORKNUM)
	{
		smgrcreate(dst, fork, false);
		if (persistence == RELPERSISTENCE_PERMANENT ||
			(persistence == RELPERSISTENCE_UNLOGGED && fork == INIT_FORKNUM))
			log_smgrcreate(newnode, fork);
	}
	RelationCopyStorage(RelationGetSmgr(rel), dst, fork, persistence);
}

void
RowCopyStorage(Relation rel, const RelFileNode *newnode)
{
	char		persistence = rel->rd_rel->relpersistence;
	OrbitStorageId storage;
	SMgrRelation dst;

	PrepareUse();
	storage = ReadMetapage(rel);
	if (storage != ORBIT_INVALID_STORAGE)
	{
		NeedCreator();
		RegisterAlias(rel, newnode, persistence, storage);
	}

	/* the copy is made from the file, so the file must be up to date */
	dst = smgropen(*newnode, rel->rd_backend);
	FlushRelationBuffers(rel);
	RelationCreateStorage(*newnode, persistence, true);
	for (int fork = MAIN_FORKNUM; fork <= MAX_FORKNUM; fork++)
	{
		if (fork == MAIN_FORKNUM || smgrexists(RelationGetSmgr(rel), fork))
			CopyFork(rel, dst, newnode, fork);
	}
	RelationDropStorage(rel);
	smgrclose(dst);
}
