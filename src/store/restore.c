/*
 * restore.c: RocksDB out of a snapshot, at the start of a data directory that was copied or rewound.
 *
 * Backups leave out RocksDB's live directory, or have a torn one (copied file by file).  So where
 * backup_label lies, or the live directory is missing, the newest snapshot that will do takes its
 * place.  It will do if
 *
 *		- all of it is there: SNAPSHOT with its checksum, each file with its size,
 *		- it is of this database cluster,
 *		- it holds whatever replay will not bring: its covered redo pointer is not before the place
 *		  where replay begins; or replay has nothing to bring and CLEAN names it,
 *		- its timeline is one that leads to where the backup was,
 *		- the commit log knows its transactions.
 *
 * The order of steps, so that a crash at any of them is followed by the same choice:
 *
 *		1	pgsql_tmp_restore is made: links to the pool's files, a copy of the MANIFEST
 *		2	what the copy has of another life goes: the torn live directory, other snapshots, files
 *			of the pool that this snapshot does not name (RocksDB will give their numbers out again),
 *			files being written, REACHED
 *		3	pgsql_tmp_restore becomes the live directory
 *
 * backup_label is PostgreSQL's to remove, after that; without it the live directory is missing until
 * step 3.  It may still be there at the next start, before anything was replayed: all is done once more.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/timeline.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/copydir.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "base/faults.h"
#include "store/store_internal.h"

#define CLOG_XACTS_PER_SEGMENT	((uint64) BLCKSZ * 4 * 32)

/* Where replay begins. */
typedef struct Target
{
	bool		label;			/* backup_label says so */
	bool		rewound;		/* and pg_rewind has written it */
	XLogRecPtr	redo;
	TimeLineID	timeline;
	uint64		clean;			/* the snapshot that needs no replay; 0: none */
} Target;

static bool
Exists(const char *name)
{
	char		path[MAXPGPATH];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", StoreDirectory(), name);
	if (lstat(path, &st) == 0)
		return true;
	if (errno != ENOENT && errno != ENOTDIR)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	return false;
}

static bool
HasLabel(void)
{
	struct stat st;

	return stat(BACKUP_LABEL_FILE, &st) == 0;
}

static void
ReadLabel(Target *t)
{
	FILE	   *file = AllocateFile(BACKUP_LABEL_FILE, "r");
	char		line[MAXPGPATH];
	unsigned int hi = 0,
				lo = 0,
				tli = 0;

	if (file == NULL)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", BACKUP_LABEL_FILE)));
	while (fgets(line, sizeof(line), file) != NULL)
	{
		if (strncmp(line, "BACKUP METHOD: pg_rewind", 24) == 0)
			t->rewound = true;
		(void) sscanf(line, "START WAL LOCATION: %X/%X (file %8X", &hi, &lo, &tli);
	}
	FreeFile(file);
	if (tli == 0)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("invalid data in file \"%s\"", BACKUP_LABEL_FILE)));
	t->label = true;
	t->redo = (uint64) hi << 32 | lo;
	t->timeline = tli;
}

static void
ReadControl(Target *t)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	t->redo = control->checkPointCopy.redo;
	t->timeline = control->checkPointCopy.ThisTimeLineID;
	if (control->state == DB_SHUTDOWNED)
		t->clean = StoreReadClean();
	pfree(control);
}

/* ---- which snapshot ----------------------------------------------------------------- */

static bool
HistoryIsHere(TimeLineID tli)
{
	char		path[MAXPGPATH];
	struct stat st;

	TLHistoryFilePath(path, tli);
	return stat(path, &st) == 0;
}

/*
 * Where a history is at hand it must lead from the older of both timelines to the newer one, with
 * nothing of the snapshot behind the fork.  Without, it comes from an archive that only recovery asks.
 */
static char *
WrongTimeline(const StoreSnapshot *s, const Target *t)
{
	TimeLineID	newer = Max(s->timeline, t->timeline);
	TimeLineID	older = Min(s->timeline, t->timeline);
	XLogRecPtr	last = s->timeline < t->timeline ? s->flushed : t->redo;
	List	   *history;
	ListCell   *cell;

	if (older == newer || !HistoryIsHere(newer))
		return NULL;
	history = readTimeLineHistory(newer);
	foreach(cell, history)
	{
		TimeLineHistoryEntry *entry = lfirst(cell);

		if (entry->tli == older && last <= entry->end)
			return NULL;
	}
	return psprintf("it is of timeline %u, which does not go together with timeline %u of the backup",
					s->timeline, t->timeline);
}

static char *
WrongCommitLog(const StoreSnapshot *s)
{
	char		path[MAXPGPATH];
	struct stat st;

	snprintf(path, sizeof(path), "pg_xact/%04X",
			 (unsigned int) ((TransactionId) s->oldest / CLOG_XACTS_PER_SEGMENT));
	if (stat(path, &st) == 0)
		return NULL;
	return psprintf("it needs the commit log of transaction %u, but file \"%s\" is missing",
					(TransactionId) s->oldest, path);
}

/* NULL: it will do. */
static char *
Wrong(const StoreSnapshot *s, const Target *t)
{
	char	   *wrong;

	if (s->system != GetSystemIdentifier())
		return psprintf("it belongs to another database cluster, with system identifier " UINT64_FORMAT,
						s->system);
	wrong = StoreSnapshotIncomplete(s);
	if (wrong == NULL && s->covered < t->redo && s->serial != t->clean)
		wrong = psprintf("it is complete up to %X/%X only, but replay begins at %X/%X",
						 LSN_FORMAT_ARGS(s->covered), LSN_FORMAT_ARGS(t->redo));
	if (wrong == NULL)
		wrong = WrongTimeline(s, t);
	return wrong;
}

/*
 * A running backup holds VACUUM back (worker/README.md), so its commit log has what rows in use need;
 * what is missing may be that of a table dropped meanwhile.  So there it is only a reason to prefer
 * another snapshot.
 */
static StoreSnapshot *
Choose(const Target *t, StringInfo wrongs)
{
	StoreSnapshot *second = NULL;
	int			n;
	uint64	   *serials = StoreListSnapshots(&n);

	for (int i = n - 1; i >= 0; i--)
	{
		char		name[STORE_SNAPSHOT_NAME];
		char	   *wrong;
		StoreSnapshot *s = StoreReadSnapshot(serials[i], &wrong);

		if (s != NULL)
			wrong = Wrong(s, t);
		if (wrong == NULL)
		{
			wrong = WrongCommitLog(s);
			if (wrong == NULL)
				return s;
			if (second == NULL && t->label && !t->rewound)
				second = s;
		}
		StoreSnapshotName(name, serials[i]);
		appendStringInfo(wrongs, "%sSnapshot %s cannot be used: %s.",
						 wrongs->len > 0 ? "\n" : "", name, wrong);
	}
	return second;
}

static void
Refuse(const Target *t, const char *wrongs)
{
	ereport(FATAL,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("no usable snapshot of RocksDB in directory \"%s\"", StoreDirectory()),
			 wrongs[0] != '\0' ? errdetail_internal("%s", wrongs) :
			 errdetail("The data directory is a copy, or was rewound, and holds no snapshot."),
			 t->label ?
			 errhint("The copy of the data directory is not complete. Take another one, or run pg_rewind again; all of directory \"%s\" belongs to it, except names that begin with \"pgsql_tmp\".", StoreDirectory()) :
			 errhint("Restore the whole data directory from a backup. A directory that was copied without a backup must include \"%s/%s\", unless the server had been shut down.", StoreDirectory(), KV_LIVE_NAME)));
}

/* ---- putting it in place ----------------------------------------------------------------- */

static void
FailedTo(const char *what, const char *path)
{
	ereport(FATAL,
			(errcode_for_file_access(),
			 errmsg("could not %s \"%s\": %m", what, path)));
}

/* A hard link, or a copy where there are none. */
static void
PutFile(char *from, char *to)
{
	errno = OrbitFileFault(ORBIT_FAULT_LINK, to);
	if (errno == 0 && link(from, to) == 0)
		return;
	if (!KvLinkImpossible(errno))
		FailedTo("link file", to);
	copy_file(from, to);
	fsync_fname(to, false);
}

static void
CopyHead(const StoreSnapshot *s, const char *temp, const char *name)
{
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	StoreSnapshotPath(from, s->serial, name);
	snprintf(to, sizeof(to), "%s/%s", temp, name);
	copy_file(from, to);
	fsync_fname(to, false);
}

static void
MakeLive(const StoreSnapshot *s, const char *temp)
{
	StoreRemoveTree(STORE_RESTORE_TEMP);
	if (MakePGDirectory(temp) != 0)
		FailedTo("create directory", temp);
	for (int i = 0; i < s->nfiles; i++)
	{
		char		from[MAXPGPATH];
		char		to[MAXPGPATH];

		StorePoolPath(from, s->files[i].number);
		snprintf(to, sizeof(to), "%s/%06llu.sst", temp, (unsigned long long) s->files[i].number);
		PutFile(from, to);
	}
	CopyHead(s, temp, s->manifest);
	CopyHead(s, temp, "CURRENT");
	fsync_fname(temp, true);
}

static void
RemoveOthers(const StoreSnapshot *s)
{
	int			n;
	uint64	   *numbers = StoreListSnapshots(&n);

	for (int i = 0; i < n; i++)
	{
		if (numbers[i] != s->serial && !StoreRemoveSnapshot(numbers[i]))
			ereport(FATAL, (errmsg("could not remove an outdated snapshot of RocksDB")));
	}
	numbers = StoreListPool(&n);
	for (int i = 0; i < n; i++)
	{
		if (!StoreSnapshotHasFile(s, numbers[i]))
			StoreRemovePoolFile(numbers[i], true);
	}
}

/* What is still there although it must not be would be found by RocksDB, or keep a name occupied. */
static void
RemoveLive(void)
{
	static const char *const names[] = {KV_LIVE_NAME, KV_STAGE_NAME, "wal", "nowal"};

	for (int i = 0; i < lengthof(names); i++)
	{
		StoreRemoveTree(names[i]);
		if (Exists(names[i]))
			ereport(FATAL,
					(errmsg("could not remove directory \"%s/%s\"", StoreDirectory(), names[i])));
	}
}

static void
PutInPlace(const StoreSnapshot *s)
{
	char		temp[MAXPGPATH];
	char		live[MAXPGPATH];
	char		stop[MAXPGPATH];

	snprintf(temp, sizeof(temp), "%s/%s", StoreDirectory(), STORE_RESTORE_TEMP);
	snprintf(live, sizeof(live), "%s/%s", StoreDirectory(), KV_LIVE_NAME);
	snprintf(stop, sizeof(stop), "%s/%s", StoreDirectory(), STORE_POOL);
	MakeLive(s, temp);
	OrbitStopPoint("restore-after-links");
	RemoveLive();
	OrbitStopPoint("restore-after-live");
	RemoveOthers(s);
	StoreForgetReached();
	fsync_fname(stop, true);
	fsync_fname(StoreDirectory(), true);
	OrbitStopPoint("restore-before-rename");
	StoreRenameDirectory(temp, live, FATAL);
	OrbitStopPoint("restore-after-rename");
}

void
StoreRestore(void)
{
	Target		t = {0};
	StoreSnapshot *s;
	StringInfoData wrongs;
	char		name[STORE_SNAPSHOT_NAME];
	int			nsnapshots;

	(void) StoreListSnapshots(&nsnapshots);
	if (HasLabel() ? !Exists("FORMAT") && nsnapshots == 0 && !Exists(KV_LIVE_NAME) :
		Exists(KV_LIVE_NAME) || (!Exists("FORMAT") && nsnapshots == 0))
		return;
	if (HasLabel())
		ReadLabel(&t);
	else
		ReadControl(&t);
	initStringInfo(&wrongs);
	s = Choose(&t, &wrongs);
	if (s == NULL)
		Refuse(&t, wrongs.data);
	if (wrongs.len > 0)
		ereport(LOG,
				(errmsg("some snapshots of RocksDB are left aside"),
				 errdetail_internal("%s", wrongs.data)));
	PutInPlace(s);
	StoreSnapshotName(name, s->serial);
	ereport(LOG,
			(errmsg("restored RocksDB storage in directory \"%s\" from snapshot %s",
					StoreDirectory(), name),
			 errdetail("It was made at %s on timeline %u and is complete up to %X/%X; replay begins at %X/%X.",
					   timestamptz_to_str(s->made), s->timeline, LSN_FORMAT_ARGS(s->covered),
					   LSN_FORMAT_ARGS(t.redo))));
}
