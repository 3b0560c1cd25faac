/*
 * snapshot.c: the directories that backups copy: what is in them and how they are made, read,
 * checked and removed.
 *
 *		sst/NNNNNN.sst		the pool: one name for each SST file that some snapshot names
 *		snap-<serial>/		CURRENT, MANIFEST-NNNNNN, SNAPSHOT
 *		CLEAN				the snapshot with which the server was shut down
 *
 * SNAPSHOT is text, written last, and ends with a checksum of itself:
 *
 *		orbit_fdw snapshot 1
 *		system 7312345678901234567
 *		instance 1234567890123456789
 *		generation 4711
 *		flushed 0/1A2B3C4
 *		covered 0/1A2B3C0
 *		timeline 1
 *		made 817000000000000
 *		oldest 742
 *		MANIFEST-000123 4567
 *		files 2
 *		12 4096 5 9 742
 *		13 1234 0 0 0
 *		checksum 89abcdef
 *
 * made: microseconds since 2000.  oldest: the least full xid whose fate must be found in the commit log.  A
 * file: number, bytes, first and last storage, and the same for its own (0: none).  Only files of
 * pg_data have the last three.
 *
 * A directory gets its name when all of it is on disk, and loses it before the first of it is removed.
 */
#include "postgres.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/transam.h"
#include "access/xlog.h"
#include "common/file_perm.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "store/store_internal.h"

#define SNAPSHOT_FORMAT		1
#define CLEAN_FILE			"CLEAN"

/* ---- names ------------------------------------------------------------------------ */

void
StoreSnapshotName(char *name, uint64 serial)
{
	snprintf(name, STORE_SNAPSHOT_NAME, "snap-%016llu", (unsigned long long) serial);
}

void
StoreSnapshotPath(char *path, uint64 serial, const char *file)
{
	char		name[STORE_SNAPSHOT_NAME];

	StoreSnapshotName(name, serial);
	snprintf(path, MAXPGPATH, "%s/%s%s%s", StoreDirectory(), name,
			 file[0] != '\0' ? "/" : "", file);
}

void
StorePoolPath(char *path, uint64 number)
{
	snprintf(path, MAXPGPATH, "%s/" STORE_POOL "/%06llu.sst", StoreDirectory(),
			 (unsigned long long) number);
}

static void
InDirectory(char *path, const char *name)
{
	snprintf(path, MAXPGPATH, "%s/%s", StoreDirectory(), name);
}

/* False: not the name of a snapshot. */
static bool
ParseName(const char *name, uint64 *serial)
{
	char		again[STORE_SNAPSHOT_NAME];

	if (strncmp(name, "snap-", 5) != 0)
		return false;
	*serial = strtoull(name + 5, NULL, 10);
	StoreSnapshotName(again, *serial);
	return *serial > 0 && strcmp(again, name) == 0;
}

static int
CompareNumbers(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

static int
CompareSnapshotFiles(const void *a, const void *b)
{
	const StoreSnapshotFile *x = a;
	const StoreSnapshotFile *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

bool
StoreSnapshotHasFile(const StoreSnapshot *s, uint64 number)
{
	StoreSnapshotFile key = {.number = number};

	return bsearch(&key, s->files, s->nfiles, sizeof(key), CompareSnapshotFiles) != NULL;
}

/* Whatever a directory holds that parse() has a number for, ascending.  No directory: nothing. */
static uint64 *
ListNumbers(const char *path, bool (*parse) (const char *name, uint64 *number), int *n)
{
	int			max = 64;
	uint64	   *numbers = palloc(max * sizeof(uint64));
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;

	*n = 0;
	if (dir == NULL && errno == ENOENT)
		return numbers;
	while ((entry = ReadDir(dir, path)) != NULL)
	{
		uint64		number;

		if (!parse(entry->d_name, &number))
			continue;
		if (*n == max)
		{
			max *= 2;
			numbers = repalloc_huge(numbers, max * sizeof(uint64));
		}
		numbers[(*n)++] = number;
	}
	FreeDir(dir);
	qsort(numbers, *n, sizeof(uint64), CompareNumbers);
	return numbers;
}

uint64 *
StoreListSnapshots(int *n)
{
	return ListNumbers(StoreDirectory(), ParseName, n);
}

/* Names that are none of ours count as number 0, which no file has: they are leftovers too. */
static bool
ParsePoolName(const char *name, uint64 *number)
{
	char	   *end;

	*number = strtoull(name, &end, 10);
	return end != name && strcmp(end, ".sst") == 0;
}

uint64 *
StoreListPool(int *n)
{
	char		path[MAXPGPATH];

	InDirectory(path, STORE_POOL);
	return ListNumbers(path, ParsePoolName, n);
}

/* ---- the text ---------------------------------------------------------------------------- */

static void
WriteText(const StoreSnapshot *s, StringInfo text)
{
	pg_crc32c	crc;

	appendStringInfo(text, "orbit_fdw snapshot %d\n", SNAPSHOT_FORMAT);
	appendStringInfo(text, "system " UINT64_FORMAT "\n", s->system);
	appendStringInfo(text, "instance " UINT64_FORMAT "\n", s->instance);
	appendStringInfo(text, "generation " UINT64_FORMAT "\n", s->generation);
	appendStringInfo(text, "flushed %X/%X\n", LSN_FORMAT_ARGS(s->flushed));
	appendStringInfo(text, "covered %X/%X\n", LSN_FORMAT_ARGS(s->covered));
	appendStringInfo(text, "timeline %u\n", s->timeline);
	appendStringInfo(text, "made " INT64_FORMAT "\n", s->made);
	appendStringInfo(text, "oldest " UINT64_FORMAT "\n", s->oldest);
	appendStringInfo(text, "%s " UINT64_FORMAT "\n", s->manifest, s->manifest_bytes);
	appendStringInfo(text, "files %d\n", s->nfiles);
	for (int i = 0; i < s->nfiles; i++)
	{
		const StoreSnapshotFile *f = &s->files[i];

		appendStringInfo(text, UINT64_FORMAT " " UINT64_FORMAT " " UINT64_FORMAT " "
						 UINT64_FORMAT " " UINT64_FORMAT "\n",
						 f->number, f->bytes, f->first, f->last, f->oldest);
	}
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text->data, text->len);
	FIN_CRC32C(crc);
	appendStringInfo(text, "checksum %08x\n", crc);
}

static bool
ChecksumIsRight(const char *text, Size len)
{
	static const char last[] = "checksum 00000000\n";
	unsigned int stored;
	pg_crc32c	crc;

	if (len < sizeof(last) - 1 ||
		sscanf(text + len - (sizeof(last) - 1), "checksum %8x\n", &stored) != 1)
		return false;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text, len - (sizeof(last) - 1));
	FIN_CRC32C(crc);
	return crc == stored;
}

/* A number and the character behind it; *p goes on behind that. */
static bool
TakeNumber(char **p, uint64 *number, char behind)
{
	char	   *end;

	*number = strtoull(*p, &end, 10);
	if (end == *p || *end != behind)
		return false;
	*p = end + 1;
	return true;
}

static bool
ParseHead(char **p, StoreSnapshot *s)
{
	unsigned long long system,
				instance,
				generation,
				oldest,
				manifest_bytes;
	long long	made;
	unsigned int format,
				timeline,
				fhi,
				flo,
				chi,
				clo;
	int			taken = 0;

	if (sscanf(*p, "orbit_fdw snapshot %u\n", &format) != 1 || format != SNAPSHOT_FORMAT)
		return false;
	if (sscanf(*p, "orbit_fdw snapshot %u system %llu instance %llu generation %llu flushed %X/%X "
			   "covered %X/%X timeline %u made %lld oldest %llu %31[-A-Z0-9] %llu files %d%n",
			   &format, &system, &instance, &generation, &fhi, &flo, &chi, &clo, &timeline,
			   &made, &oldest, s->manifest, &manifest_bytes, &s->nfiles, &taken) != 14 ||
		s->nfiles < 0 || (*p)[taken] != '\n')
		return false;
	s->system = system;
	s->instance = instance;
	s->generation = generation;
	s->flushed = (uint64) fhi << 32 | flo;
	s->covered = (uint64) chi << 32 | clo;
	s->timeline = timeline;
	s->made = made;
	s->oldest = oldest;
	s->manifest_bytes = manifest_bytes;
	*p += taken + 1;
	return true;
}

static bool
ParseText(char *p, Size len, StoreSnapshot *s)
{
	if (!ParseHead(&p, s) || s->nfiles > len)
		return false;
	s->files = palloc_extended(Max(s->nfiles, 1) * sizeof(StoreSnapshotFile), MCXT_ALLOC_HUGE);
	for (int i = 0; i < s->nfiles; i++)
	{
		StoreSnapshotFile *f = &s->files[i];

		if (!TakeNumber(&p, &f->number, ' ') || !TakeNumber(&p, &f->bytes, ' ') ||
			!TakeNumber(&p, &f->first, ' ') || !TakeNumber(&p, &f->last, ' ') ||
			!TakeNumber(&p, &f->oldest, '\n'))
			return false;
	}
	return true;
}

/* The whole file, palloc'ed, with a zero behind it; NULL: errno says why. */
static char *
ReadWhole(const char *path, Size *len)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat st;
	char	   *text;
	ssize_t		n;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) != 0)
	{
		CloseTransientFile(fd);
		return NULL;
	}
	text = palloc_extended(st.st_size + 1, MCXT_ALLOC_HUGE);
	n = read(fd, text, st.st_size);
	CloseTransientFile(fd);
	*len = Max(n, 0);
	text[*len] = '\0';
	return text;
}

StoreSnapshot *
StoreReadSnapshot(uint64 serial, char **wrong)
{
	StoreSnapshot *s = palloc0(sizeof(StoreSnapshot));
	char		path[MAXPGPATH];
	char	   *text;
	Size		len;

	*wrong = NULL;
	StoreSnapshotPath(path, serial, STORE_SNAPSHOT_FILE);
	text = ReadWhole(path, &len);
	s->serial = serial;
	if (text == NULL)
		*wrong = psprintf("could not read file \"%s\": %m", path);
	else if (!ChecksumIsRight(text, len))
		*wrong = psprintf("file \"%s\" is damaged", path);
	else if (!ParseText(text, len, s))
		*wrong = psprintf("file \"%s\" has another format", path);
	if (text != NULL)
		pfree(text);
	return *wrong == NULL ? s : NULL;
}

/* ---- completeness ----------------------------------------------------------------------------- */

#define NAMED_MAX	5			/* files that a message names */

static void
CheckFile(const char *path, uint64 bytes, StringInfo wrong, int *n)
{
	struct stat st;
	bool		missing = stat(path, &st) != 0;

	if (!missing && st.st_size == bytes)
		return;
	if (++*n > NAMED_MAX)
		return;
	if (*n > 1)
		appendStringInfoString(wrong, ", ");
	if (missing)
		appendStringInfo(wrong, "file \"%s\" is missing", path);
	else
		appendStringInfo(wrong, "file \"%s\" has %lld bytes instead of " UINT64_FORMAT,
						 path, (long long) st.st_size, bytes);
}

char *
StoreSnapshotIncomplete(const StoreSnapshot *s)
{
	StringInfoData wrong;
	char		path[MAXPGPATH];
	int			n = 0;

	initStringInfo(&wrong);
	StoreSnapshotPath(path, s->serial, "CURRENT");
	CheckFile(path, strlen(s->manifest) + 1, &wrong, &n);
	StoreSnapshotPath(path, s->serial, s->manifest);
	CheckFile(path, s->manifest_bytes, &wrong, &n);
	for (int i = 0; i < s->nfiles; i++)
	{
		StorePoolPath(path, s->files[i].number);
		CheckFile(path, s->files[i].bytes, &wrong, &n);
	}
	if (n > NAMED_MAX)
		appendStringInfo(&wrong, ", and %d more", n - NAMED_MAX);
	if (n > 0)
		return wrong.data;
	pfree(wrong.data);
	return NULL;
}

/* ---- making one -------------------------------------------------------------------------------- */

static void
MakeDirectory(const char *path)
{
	if (MakePGDirectory(path) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
}

/* What pg_data's files say of themselves. */
typedef struct Summaries
{
	KvFile	   *files;			/* malloc'ed; by number */
	int			n;
	uint64		newest;			/* number of the first list's newest file */
	bool		moving;			/* compactions changed the list meanwhile */
	uint64		next_xid;
	uint64		oldest_known;	/* nobody asks the commit log for an older one */
	uint64		oldest;			/* of all of them */
} Summaries;

static int
CompareFiles(const void *a, const void *b)
{
	const KvFile *x = a;
	const KvFile *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static KvFile *
FindFile(const Summaries *all, uint64 number)
{
	KvFile		key = {.number = number};

	return all->n == 0 ? NULL : bsearch(&key, all->files, all->n, sizeof(KvFile), CompareFiles);
}

/* 0: nothing in it needs the commit log. */
static uint64
OldestOf(const Summaries *all, const KvFile *f)
{
	if (!f->has_summary)
		return all->oldest_known;
	if (f->summary.unfrozen == 0)
		return 0;
	return Max(OrbitFullXid(all->next_xid, f->summary.oldest_unfrozen), all->oldest_known);
}

/* Before the snapshot. */
static void
Summarize(KvDb *db, Summaries *out, KvStatus *st)
{
	TransactionId oldest;

	memset(out, 0, sizeof(*out));
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	oldest = ShmemVariableCache->oldestClogXid;
	LWLockRelease(XactTruncationLock);
	out->next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	out->oldest_known = TransactionIdIsNormal(oldest) ?
		OrbitFullXid(out->next_xid, oldest) : FirstNormalTransactionId;
	KvListFiles(db, 1, PG_UINT64_MAX, &out->files, &out->n, st);
	out->oldest = out->next_xid;
	for (int i = 0; i < out->n; i++)
	{
		uint64		one = OldestOf(out, &out->files[i]);

		if (one != 0)
			out->oldest = Min(out->oldest, one);
		out->newest = Max(out->newest, out->files[i].number);
	}
	if (out->n > 0)
		qsort(out->files, out->n, sizeof(KvFile), CompareFiles);
}

/* After it: files that a compaction has made meanwhile. */
static void
SummarizeNew(KvDb *db, Summaries *all, KvStatus *st)
{
	KvFile	   *files;
	int			n;
	int			old = all->n;
	KvFile	   *both;

	KvListFiles(db, 1, PG_UINT64_MAX, &files, &n, st);
	if (st->code != KV_OK)
		return;
	both = realloc(all->files, (old + n + 1) * sizeof(KvFile));
	if (both == NULL)
	{
		free(files);
		StoreFillStatus(st, KV_NO_MEMORY, "out of memory");
		return;
	}
	all->files = both;
	all->moving = n != old;
	for (int i = 0; i < n; i++)
	{
		Summaries	before = {.files = both,.n = old};

		if (FindFile(&before, files[i].number) != NULL)
			continue;
		both[all->n++] = files[i];
		all->moving = true;
	}
	free(files);
	if (all->moving)
		qsort(both, all->n, sizeof(KvFile), CompareFiles);
}

/*
 * A file that is in neither list is of another family; but if compactions went on, a new one may
 * also have come and gone between the lists: then it may hold anything of what was there before.
 */
static void
Describe(const Summaries *all, const KvSnapshotFile *f, bool (*dead) (OrbitStorageId storage),
		 StoreSnapshotFile *out)
{
	const KvFile *known = FindFile(all, f->number);

	memset(out, 0, sizeof(*out));
	out->number = f->number;
	out->bytes = f->bytes;
	if (known != NULL)
	{
		out->first = known->first_storage;
		out->last = known->last_storage;
		if (out->first != out->last || dead == NULL || !dead(out->first))
			out->oldest = OldestOf(all, known);
	}
	else if (all->moving && f->number > all->newest)
	{
		out->first = 1;
		out->last = PG_UINT64_MAX;
		out->oldest = all->oldest;
	}
}

static void
DescribeAll(const Summaries *all, const KvSnapshot *made, bool (*dead) (OrbitStorageId storage),
			StoreSnapshot *s)
{
	s->generation = made->generation;
	strlcpy(s->manifest, made->manifest, sizeof(s->manifest));
	s->manifest_bytes = made->manifest_bytes;
	s->nfiles = made->nfiles;
	s->files = palloc_extended(Max(s->nfiles, 1) * sizeof(StoreSnapshotFile), MCXT_ALLOC_HUGE);
	s->oldest = all->next_xid;
	for (int i = 0; i < s->nfiles; i++)
	{
		Describe(all, &made->files[i], dead, &s->files[i]);
		if (s->files[i].oldest != 0)
			s->oldest = Min(s->oldest, s->files[i].oldest);
	}
}

void
StoreRenameDirectory(const char *from, const char *to, int elevel)
{
	if (rename(from, to) != 0)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", from, to)));
	(void) fsync_fname_ext(StoreDirectory(), true, false, elevel);
}

/* The temporary directory becomes the snapshot. */
static void
Publish(const StoreSnapshot *s, const char *temp)
{
	StringInfoData text;
	char		path[MAXPGPATH];

	initStringInfo(&text);
	WriteText(s, &text);
	snprintf(path, sizeof(path), "%s/%s", temp, STORE_SNAPSHOT_FILE);
	if (!StoreWriteFile(path, text.data, text.len))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	pfree(text.data);
	fsync_fname(temp, true);
	OrbitStopPoint("snapshot-before-rename");
	StoreSnapshotPath(path, s->serial, "");
	StoreRenameDirectory(temp, path, ERROR);
}

void
StoreMakeSnapshot(KvDb *db, StoreSnapshot *s, KvPooled pooled, void *arg,
				  bool (*dead) (OrbitStorageId storage), KvStatus *st)
{
	MemoryContext context = CurrentMemoryContext;
	Summaries	all = {0};
	KvSnapshot	made = {0};
	char		temp[MAXPGPATH];
	char		pool[MAXPGPATH];

	st->code = KV_OK;
	InDirectory(temp, STORE_SNAPSHOT_TEMP);
	InDirectory(pool, STORE_POOL);
	s->system = GetSystemIdentifier();
	s->instance = StoreInstance();
	s->flushed = StoreFlushedLsn();
	s->made = GetCurrentTimestamp();
	PG_TRY();
	{
		StoreRemoveTree(STORE_SNAPSHOT_TEMP);
		MakeDirectory(temp);
		MakeDirectory(pool);
		Summarize(db, &all, st);
		if (st->code == KV_OK)
			KvMakeSnapshot(db, temp, pool, pooled, arg, &made, st);
		if (st->code == KV_OK)
			SummarizeNew(db, &all, st);
		if (st->code == KV_OK)
		{
			OrbitStopPoint("snapshot-after-links");
			DescribeAll(&all, &made, dead, s);
			Publish(s, temp);
		}
	}
	PG_CATCH();
	{
		StoreCatchError(context, st);
	}
	PG_END_TRY();
	free(all.files);
	KvFreeSnapshot(&made);
}

/* ---- removing ---------------------------------------------------------------------------------- */

/* A directory of ours with all that is in it.  What cannot be removed is logged. */
void
StoreRemoveTree(const char *name)
{
	char		path[MAXPGPATH];
	struct stat st;

	InDirectory(path, name);
	if (lstat(path, &st) == 0)
		(void) rmtree(path, true);
}

/* Its name goes first, durably, so that what remains after a crash is not taken for a snapshot. */
bool
StoreRemoveSnapshot(uint64 serial)
{
	char		path[MAXPGPATH];
	char		old[MAXPGPATH];

	StoreRemoveTree(STORE_SNAPSHOT_OLD);
	StoreSnapshotPath(path, serial, "");
	InDirectory(old, STORE_SNAPSHOT_OLD);
	if (rename(path, old) != 0 && errno != ENOENT)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", path, old)));
		return false;
	}
	fsync_fname_ext(StoreDirectory(), true, false, LOG);
	OrbitStopPoint("snapshot-removing");
	StoreRemoveTree(STORE_SNAPSHOT_OLD);
	return true;
}

void
StoreCleanSnapshots(void)
{
	StoreRemoveTree(STORE_SNAPSHOT_TEMP);
	StoreRemoveTree(STORE_SNAPSHOT_OLD);
	StoreRemoveTree(STORE_RESTORE_TEMP);
}

/*
 * Its space is to be free now, but an idle process may have the file open under its other name, which is gone
 * (see GiveBack in rocks_fs.cpp): so it is emptied first.  Not while somebody may be copying it: who copies
 * a file that shrinks fills it up with zeroes.
 */
void
StoreRemovePoolFile(uint64 number, bool copied)
{
	char		path[MAXPGPATH];
	struct stat st;

	StorePoolPath(path, number);
	if (!copied && stat(path, &st) == 0 && st.st_nlink == 1 && truncate(path, 0) != 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not truncate file \"%s\": %m", path)));
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* ---- CLEAN --------------------------------------------------------------------------------------- */

/* Durable; ERROR. */
void
StoreWriteClean(uint64 serial)
{
	char		text[STORE_SNAPSHOT_NAME + 1];

	StoreSnapshotName(text, serial);
	strlcat(text, "\n", sizeof(text));
	(void) StoreReplaceFile(CLEAN_FILE, text, ERROR);
}

/* Before anything is written that the snapshot does not have.  Durable; ERROR. */
void
StoreRemoveClean(void)
{
	char		path[MAXPGPATH];

	InDirectory(path, CLEAN_FILE);
	if (access(path, F_OK) != 0 && errno == ENOENT)
		return;
	(void) durable_unlink(path, ERROR);
}

uint64
StoreReadClean(void)
{
	char		path[MAXPGPATH];
	char	   *text;
	Size		len;
	uint64		serial = 0;

	InDirectory(path, CLEAN_FILE);
	text = ReadWhole(path, &len);
	if (text == NULL)
		return 0;
	if (len > 0 && text[len - 1] == '\n')
		text[len - 1] = '\0';
	if (!ParseName(text, &serial))
		serial = 0;
	pfree(text);
	return serial;
}
