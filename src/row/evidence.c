/*
 * evidence.c: can a file still name a storage?  Whoever deletes rows on the strength of
 * the answer relies on ROW_FILE_NONE being final; worker/README.md argues it.  In doubt the
 * answer is ROW_FILE_UNSURE.
 *
 * The file is read as the kernel has it, never through shared buffers: that would bring
 * back buffers of a dropped relation.  So a page may be older than what sessions see, and
 * for unlogged and temporary relations no checkpoint ever writes it out.  What is read
 * proves something only where an older page could not say the same:
 *
 *	missing, length 0		dropped, for no relation has a file without a page (its creator
 *							has ended, or it would not be asked about)
 *	this storage			in use
 *	a later storage			it has taken this one's place: ids grow, and a metapage goes
 *							from one to a later one only
 *	none, or an earlier one	unknown, for the page may not have been written yet
 *	zeroes, damage, errors	unknown
 *
 * A file is missing also where its tablespace is not mounted, or was forgotten when the data
 * directory was restored.  Therefore the directories that it would be in have to be there,
 * or a record has to say that the database or the tablespace was dropped.
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_class.h"
#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "storage/backendid.h"

#include "row/metapage.h"
#include "row/row.h"

/* The record, and what is asked about it. */
typedef struct Question
{
	const RowEvidence *evidence;
	OrbitStorageId storage;
	const CodecRegistry *record;
	bool		home;			/* the database has a directory */
	RowFile		file;			/* the one looked at last */
} Question;

/* ---- one file ----------------------------------------------------------------------- */

static RowFileState
JudgePage(const Question *q, const char *page)
{
	const RowMetapage *meta = RowMetapageGet(page);

	if (PageIsNew((Page) page) || meta->magic != ROW_METAPAGE_MAGIC ||
		meta->version > ROW_METAPAGE_VERSION)
		return ROW_FILE_UNSURE;
	if (meta->storage != ORBIT_INVALID_STORAGE)
	{
		/* ids of another directory, or in a copied database, mean other storages */
		if (meta->instance != StoreInstance() || meta->database != q->record->database)
			return ROW_FILE_UNSURE;
		if (meta->storage == q->storage)
			return ROW_FILE_HOLDS;
		if (meta->storage > q->storage)
			return ROW_FILE_NONE;
	}

	/*
	 * Pages of unlogged relations are on disk after an orderly shutdown, and made anew after
	 * a crash: nothing of an earlier life can be in a buffer.
	 */
	if (q->record->persistence == RELPERSISTENCE_UNLOGGED &&
		q->storage < q->evidence->first)
		return ROW_FILE_NONE;
	return ROW_FILE_UNSURE;
}

static RowFileState
JudgeFile(Question *q, const char *path)
{
	PGAlignedBlock block;
	int			fd = open(path, O_RDONLY | PG_BINARY | O_CLOEXEC);
	int			n;

	q->file.exists = fd >= 0;
	if (fd < 0)
		return errno == ENOENT ? ROW_FILE_NONE : ROW_FILE_UNSURE;
	n = pg_pread(fd, block.data, BLCKSZ, 0);
	close(fd);
	if (n == 0)
		return ROW_FILE_NONE;
	return n == BLCKSZ ? JudgePage(q, block.data) : ROW_FILE_UNSURE;
}

static RowFileState
JudgeTablespace(Question *q, Oid tablespace)
{
	BackendId	backend = q->record->persistence == RELPERSISTENCE_TEMP ?
		q->record->backend : InvalidBackendId;
	char	   *path = GetRelationPath(q->record->database, tablespace, q->record->relnode,
									   backend, MAIN_FORKNUM);
	RowFileState state;

	q->file.tablespace = tablespace;
	state = JudgeFile(q, path);
	pfree(path);
	return state;
}

/* ---- directories --------------------------------------------------------------------- */

typedef enum Presence
{
	PRESENT,
	ABSENT,
	UNKNOWN
} Presence;

static Presence
Look(const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0)
		return PRESENT;
	return errno == ENOENT ? ABSENT : UNKNOWN;
}

/* Is this tablespace the database's own?  Only there it has a version file. */
static Presence
LookForHome(Oid database, Oid tablespace)
{
	char		path[MAXPGPATH];
	char	   *dir = GetDatabasePath(database, tablespace);

	snprintf(path, sizeof(path), "%s/PG_VERSION", dir);
	pfree(dir);
	return Look(path);
}

/*
 * ALTER DATABASE SET TABLESPACE moves the files of the database's own tablespace without
 * telling anybody; so the file may also be in what is its own tablespace now.
 */
static RowFileState
JudgeHome(Question *q, Oid tablespace)
{
	switch (LookForHome(q->record->database, tablespace))
	{
		case PRESENT:
			q->home = true;
			return tablespace == q->record->tablespace ? ROW_FILE_NONE :
				JudgeTablespace(q, tablespace);
		case ABSENT:
			return ROW_FILE_NONE;
		case UNKNOWN:
			break;
	}
	return ROW_FILE_UNSURE;
}

static RowFileState
JudgeHomes(Question *q)
{
	RowFileState state = JudgeHome(q, DEFAULTTABLESPACE_OID);
	DIR		   *dir;
	struct dirent *entry;

	if (state != ROW_FILE_NONE)
		return state;
	dir = opendir("pg_tblspc");
	if (dir == NULL)
		return ROW_FILE_UNSURE;
	while (state == ROW_FILE_NONE && (errno = 0, entry = readdir(dir)) != NULL)
	{
		if (strspn(entry->d_name, "0123456789") == strlen(entry->d_name))
			state = JudgeHome(q, (Oid) strtoul(entry->d_name, NULL, 10));
	}
	if (state == ROW_FILE_NONE && errno != 0)
		state = ROW_FILE_UNSURE;
	closedir(dir);
	return state;
}

static bool
WasDropped(const Question *q, char kind, Oid oid)
{
	return q->evidence->dropped(kind, oid, q->evidence->arg);
}

static bool
TablespaceIsThere(Oid tablespace)
{
	char		path[MAXPGPATH];

	if (tablespace == DEFAULTTABLESPACE_OID)
		return true;
	snprintf(path, sizeof(path), "pg_tblspc/%u/%s", tablespace, TABLESPACE_VERSION_DIRECTORY);
	return Look(path) == PRESENT;
}

/* No file was found.  Were we where it should be? */
static bool
LookedInTheRightPlace(const Question *q)
{
	const CodecRegistry *r = q->record;

	return (TablespaceIsThere(r->tablespace) ||
			WasDropped(q, ROW_DROPPED_TABLESPACE, r->tablespace)) &&
		(q->home || WasDropped(q, ROW_DROPPED_DATABASE, r->database));
}

/* ---- the answer ------------------------------------------------------------------------- */

bool
RowParseRegistry(const char *key, Size keylen, const char *value, Size len,
				 OrbitStorageId *storage, CodecRegistry *record)
{
	char		kind;

	if (keylen < CODEC_STORAGE_KEY_SIZE || len != sizeof(*record) ||
		!CodecStorageKeyParse(key, CODEC_STORAGE_KEY_SIZE, storage, &kind))
		return false;
	if (!(kind == CODEC_RECORD_REGISTRY && keylen == CODEC_STORAGE_KEY_SIZE) &&
		!(kind == ROW_RECORD_ALIAS && keylen == ROW_ALIAS_KEY_SIZE))
		return false;
	memcpy(record, value, sizeof(*record));
	return true;
}

/* Is there something to look at, and not known anyway? */
static bool
AnsweredByRecord(const Question *q, RowFileState *state)
{
	const CodecRegistry *r = q->record;
	bool		earlier_life = q->evidence->recovery || q->storage < q->evidence->first;

	*state = ROW_FILE_UNSURE;
	if (r->format != 1 || r->kind != ROW_METAPAGE_TABLE)
		return true;
	switch (r->persistence)
	{
		case RELPERSISTENCE_PERMANENT:
			return false;
		case RELPERSISTENCE_UNLOGGED:
			/* not replicated, and empty after recovery */
			*state = ROW_FILE_NONE;
			return q->evidence->recovery;
		case RELPERSISTENCE_TEMP:
			/* its session ended with the server, at the latest */
			*state = ROW_FILE_NONE;
			return earlier_life;
		default:
			return true;
	}
}

RowFileState
RowFindFile(const RowEvidence *evidence, OrbitStorageId storage, const CodecRegistry *record,
			RowFile *file)
{
	Question	q = {evidence, storage, record, false, {record->tablespace, false}};
	RowFileState state;

	if (!AnsweredByRecord(&q, &state))
	{
		state = JudgeTablespace(&q, record->tablespace);
		if (state == ROW_FILE_NONE)
			state = JudgeHomes(&q);
		if (state == ROW_FILE_NONE && !LookedInTheRightPlace(&q))
			state = ROW_FILE_UNSURE;
	}
	if (file != NULL)
		*file = q.file;
	return state;
}
