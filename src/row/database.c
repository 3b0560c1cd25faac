/*
 * database.c: databases and tablespaces as a whole.
 *
 * Does a database own orbit tables?  The answer is taken from the records in pg_tables: they
 * are there for every storage of a permanent or used unlogged table, whichever buffers its
 * file is still in.  A record counts unless it is certain that none of its files exists
 * any more (evidence.c).
 *
 * PostgreSQL moves and drops whole directories without asking a table access method.  Who judges
 * by missing files has to know of both:
 *	- while a database moves, a look at the new place and then at the old one may miss its
 *	  files in both.  Moves are counted, and a look during one is worth nothing;
 *	- a directory that was dropped must be told from one that cannot be reached.  A key
 *	  in pg_metadata says that it was dropped (row/metapage.h).
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "row/metapage.h"
#include "row/row.h"
#include "wal/wal.h"

/* ---- moves --------------------------------------------------------------------------- */

typedef struct MoveShared
{
	/* atomic */
	pg_atomic_uint32 running;
	pg_atomic_uint64 begun;
} MoveShared;

static MoveShared *moves = NULL;

Size
RowShmemSize(void)
{
	return MAXALIGN(sizeof(MoveShared));
}

void
RowShmemInit(void)
{
	bool		found;

	moves = ShmemInitStruct("orbit database moves", RowShmemSize(), &found);
	if (found)
		return;
	pg_atomic_init_u32(&moves->running, 0);
	pg_atomic_init_u64(&moves->begun, 0);
}

void
RowMoveBegin(void)
{
	pg_atomic_fetch_add_u32(&moves->running, 1);
	pg_atomic_fetch_add_u64(&moves->begun, 1);
}

void
RowMoveEnd(void)
{
	pg_atomic_fetch_sub_u32(&moves->running, 1);
}

bool
RowNothingMoves(uint64 *begun)
{
	pg_memory_barrier();
	*begun = pg_atomic_read_u64(&moves->begun);
	return pg_atomic_read_u32(&moves->running) == 0;
}

/* ---- dropped directories -------------------------------------------------------------- */

void
RowDroppedKey(char key[ROW_DROPPED_KEY_SIZE + 1], char kind, Oid oid)
{
	snprintf(key, ROW_DROPPED_KEY_SIZE + 1, "%s%c%08x", ROW_DROPPED_PREFIX, kind, oid);
}

bool
RowDroppedKeyParse(const char *key, Size len, char *kind, Oid *oid)
{
	char		text[ROW_DROPPED_KEY_SIZE + 1];
	unsigned int number;

	if (len != ROW_DROPPED_KEY_SIZE)
		return false;
	memcpy(text, key, len);
	text[len] = '\0';
	if (sscanf(text, ROW_DROPPED_PREFIX "%c%8x", kind, &number) != 2)
		return false;
	*oid = number;
	return true;
}

void
RowNoteDropped(char kind, Oid oid)
{
	char		key[ROW_DROPPED_KEY_SIZE + 1];
	char		value = 1;

	RowDroppedKey(key, kind, oid);
	WalWriteKv(ORBIT_PG_METADATA, key, ROW_DROPPED_KEY_SIZE, MEMBUF_PUT, &value,
			   sizeof(value), true);
}

/* RowEvidence.dropped for backends. */
bool
RowWasDropped(char kind, Oid oid, void *arg)
{
	char		key[ROW_DROPPED_KEY_SIZE + 1];
	CodecBuf	value = {0};
	bool		found;

	RowDroppedKey(key, kind, oid);
	found = StoreKvGet(ORBIT_PG_METADATA, key, ROW_DROPPED_KEY_SIZE, &value);
	CodecBufFree(&value);
	return found;
}

/* ---- all records ------------------------------------------------------------------------ */

typedef struct Collecting
{
	RowRecord  *records;
	int			n;
	int			max;
} Collecting;

static bool
CollectRecord(const char *key, Size keylen, const char *value, Size len, void *arg)
{
	Collecting *c = arg;
	RowRecord	r;

	if (!RowParseRegistry(key, keylen, value, len, &r.storage, &r.registry))
		return true;
	r.alias = keylen == ROW_ALIAS_KEY_SIZE;
	if (c->n == c->max)
	{
		c->max = c->max ? c->max * 2 : 64;
		c->records = c->records ?
			repalloc_huge(c->records, c->max * sizeof(RowRecord)) :
			palloc(c->max * sizeof(RowRecord));
	}
	c->records[c->n++] = r;
	return true;
}

RowRecord *
RowListRecords(int *n)
{
	Collecting	c = {0};

	StoreAttach();
	StoreKvForEach(ORBIT_PG_TABLES, "", 0, CollectRecord, &c);
	*n = c.n;
	return c.records;
}

bool
RowDatabaseOwnsTables(Oid database)
{
	RowEvidence evidence = {false, 0, RowWasDropped, NULL};
	int			n;
	RowRecord  *records = RowListRecords(&n);

	evidence.first = StoreFirstStorage();
	for (int i = 0; i < n; i++)
	{
		RowRecord  *r = &records[i];

		CHECK_FOR_INTERRUPTS();
		if (r->registry.database == database &&
			r->registry.persistence != RELPERSISTENCE_TEMP &&
			RowFindFile(&evidence, r->storage, &r->registry, NULL) != ROW_FILE_NONE)
			return true;
	}
	return false;
}
