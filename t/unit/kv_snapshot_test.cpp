/*
 * kv_snapshot_test.cpp: snapshots (src/kv/rocks_snapshot.cpp), and file systems without hard links.
 * Prints TAP.
 *
 *   kv_snapshot_test [scratch directory]
 *
 * Faults come through the table of base/faults.h, in memory of this process.
 */
#include "base/faults.h"
#include "kv_testing.h"

static OrbitFaultTable faults;

/* ---- faults ----------------------------------------------------------------------- */

/* Of calls on files that fit the pattern, `skip` go well, then one fails; all of them when `all`. */
static void
Arm(int calls, const char *pattern, OrbitFaultAction action, int skip = 0, bool all = false)
{
	OrbitFault &f = faults.faults[0];

	memset(&faults, 0, sizeof faults);
	f.calls = calls;
	f.action = action;
	f.skip = skip;
	f.times = all ? 0 : 1;
	snprintf(f.pattern, sizeof f.pattern, "%s", pattern);
	f.armed = 1;
	faults.armed = 1;
	KvUseFaults(&faults);
}

static int
Disarm()
{
	KvUseFaults(nullptr);
	return faults.faults[0].hits;
}

/* ---- data -------------------------------------------------------------------------- */

/* Every key of a generation up to n has a value that later ones replace. */
static string
Value(int key, int generation)
{
	return "value " + std::to_string(generation) + " of " + std::to_string(key) + string(300, 'v');
}

static void
Flush(KvDb *db, int generation)
{
	KvBatch    *b = Begin(db);

	for (int key = generation % 3; key < 300; key += 3)
		Put(b, ORBIT_PG_INDEXES, Big(2, 8) + Big(key, 4), Value(key, generation));
	Commit(b);
}

static void
FlushUpTo(KvDb *db, int first, int last)
{
	for (int g = first; g <= last; g++)
		Flush(db, g);
}

/* It is what was there after these flushes. */
static void
Compare(KvDb *db, int generation)
{
	string		value;

	for (int key = 0; key < 300; key++)
	{
		int			last = generation - (generation - key % 3) % 3;

		MUST(Get(db, ORBIT_PG_INDEXES, Big(2, 8) + Big(key, 4), &value));
		CHECK(value == Value(key, last), "key %d at generation %d: %.20s", key, generation, value.c_str());
	}
}

/* ---- files ------------------------------------------------------------------------- */

static string
PoolFile(const string &pool, uint64_t number)
{
	char		name[40];

	snprintf(name, sizeof name, "/%06lu.sst", (unsigned long) number);
	return pool + name;
}

static string
Contents(const string &path)
{
	FILE	   *f = fopen(path.c_str(), "r");
	string		text;
	char		buf[65536];
	size_t		n;

	CHECK(f != nullptr, "cannot open %s", path.c_str());
	while ((n = fread(buf, 1, sizeof buf, f)) > 0)
		text.append(buf, n);
	fclose(f);
	return text;
}

static struct stat
Stat(const string &path)
{
	struct stat s;

	CHECK(stat(path.c_str(), &s) == 0, "%s is missing", path.c_str());
	return s;
}

static void
Run(const string &command)
{
	CHECK(system(command.c_str()) == 0, "%s", command.c_str());
}

/* A database out of a snapshot, opened. */
static KvDb *
Restore(const char *name, const string &dir, const string &pool, const KvSnapshot &s)
{
	string		copy = Fresh(name), live = copy + "/pgsql_tmp_live";

	CHECK(mkdir(live.c_str(), 0700) == 0, "mkdir");
	Run("cp '" + dir + "/CURRENT' '" + dir + "/" + s.manifest + "' '" + live + "'");
	for (int i = 0; i < s.nfiles; i++)
		Run("cp '" + PoolFile(pool, s.files[i].number) + "' '" + live + "'");
	return Primary(copy);
}

/* The files are there as the snapshot says, each with so many names (0: no matter); how many have one. */
static int
CheckFiles(const string &dir, const string &pool, const KvSnapshot &s, int names)
{
	int			alone = 0;

	CHECK(s.nfiles > 0, "no file");
	CHECK(Contents(dir + "/CURRENT") == string(s.manifest) + "\n", "CURRENT");
	CHECK((uint64_t) Stat(dir + "/" + s.manifest).st_size == s.manifest_bytes, "MANIFEST");
	for (int i = 0; i < s.nfiles; i++)
	{
		struct stat f = Stat(PoolFile(pool, s.files[i].number));

		CHECK(i == 0 || s.files[i].number > s.files[i - 1].number, "not ascending");
		CHECK((uint64_t) f.st_size == s.files[i].bytes, "bytes");
		CHECK(names == 0 || (int) f.st_nlink == names, "%d names", (int) f.st_nlink);
		alone += f.st_nlink == 1;
	}
	return alone;
}

/* ---- tests ------------------------------------------------------------------------- */

static void
TestContents()
{
	string		base = Fresh("contents"), dir = Fresh("contents_snap"), pool = Fresh("contents_pool");
	KvDb	   *db = Primary(base);
	KvSnapshot	s;
	KvStatus	st;
	uint64_t   *live;
	int			nlive;

	FlushUpTo(db, 1, 30);
	/* so that no compaction of RocksDB's own comes in between */
	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		Compact(db, static_cast<OrbitFamily>(f));
	MUST(MakeSnapshot(db, dir, pool, &s));
	CHECK(s.generation == 30, "generation %lu", (unsigned long) s.generation);
	CheckFiles(dir, pool, s, 2);
	KvLiveFiles(db, &live, &nlive, &st);
	MUST(st);
	CHECK(nlive == s.nfiles, "%d files in use, %d in the snapshot", nlive, s.nfiles);
	for (int i = 0; i < nlive; i++)
		CHECK(live[i] == s.files[i].number, "file %d", i);
	free(live);

	/* whatever becomes of RocksDB */
	FlushUpTo(db, 31, 60);
	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		Compact(db, static_cast<OrbitFamily>(f));
	FlushUpTo(db, 61, 62);
	KvUnlinkRetired(db, UINT64_MAX, &nlive, &nlive);
	Compare(db, 62);
	KvClose(db);
	CHECK(CheckFiles(dir, pool, s, 0) > 0, "RocksDB has not given up any of them");
	db = Restore("contents_copy", dir, pool, s);
	CHECK(Generation(db, ORBIT_PG_INDEXES) == 30, "generation of the copy");
	Compare(db, 30);
	FlushUpTo(db, 31, 40);
	Compare(db, 40);
	KvClose(db);
	KvFreeSnapshot(&s);
}

static bool
IsPooled(uint64_t number, void *arg)
{
	return ((std::set<uint64_t> *) arg)->count(number) != 0;
}

/* Files that another snapshot has put there stay as they are; others are replaced. */
static void
TestPool()
{
	string		base = Fresh("pool"), dir = Fresh("pool_snap"), pool = Fresh("pool_pool");
	string		dir2 = Fresh("pool_snap2"), foreign = Fresh("pool_foreign");
	KvDb	   *db = Primary(base);
	KvSnapshot	s;
	KvSnapshot	s2;
	std::set<uint64_t> pooled;

	FlushUpTo(db, 1, 5);
	MUST(MakeSnapshot(db, dir, pool, &s));
	for (int i = 0; i < s.nfiles; i++)
		pooled.insert(s.files[i].number);
	FlushUpTo(db, 6, 8);
	CHECK(unlink(PoolFile(pool, s.files[0].number).c_str()) == 0, "unlink");
	MUST(MakeSnapshot(db, dir2, pool, &s2, IsPooled, &pooled));
	CHECK(access(PoolFile(pool, s.files[0].number).c_str(), F_OK) != 0, "one too many");
	KvFreeSnapshot(&s2);

	/* one's own name, somebody else's file, and none */
	Run("echo foreign >'" + PoolFile(pool, s.files[0].number) + "'");
	MUST(MakeSnapshot(db, dir2, pool, &s2));
	CheckFiles(dir2, pool, s2, 2);
	KvClose(db);
	db = Restore("pool_copy", dir2, pool, s2);
	Compare(db, 8);
	KvClose(db);
	KvFreeSnapshot(&s);
	KvFreeSnapshot(&s2);
}

/* Copies where there are no links. */
static void
TestNoLinks()
{
	for (OrbitFaultAction action : {ORBIT_FAULT_EXDEV, ORBIT_FAULT_EPERM, ORBIT_FAULT_EMLINK})
	{
		string		base = Fresh("nolinks"), dir = Fresh("nolinks_snap"), pool = Fresh("nolinks_pool");
		KvDb	   *db;
		KvSnapshot	s;
		int			hits;

		Arm(ORBIT_FAULT_LINK, "*", action, 0, true);
		db = Primary(base);
		FlushUpTo(db, 1, 10);
		Run("echo foreign >'" + pool + "/000012.sst'");
		hits = faults.faults[0].hits;
		MUST(MakeSnapshot(db, dir, pool, &s));
		CHECK(faults.faults[0].hits >= hits + s.nfiles, "no link was tried");
		CheckFiles(dir, pool, s, 1);
		Compact(db, ORBIT_PG_INDEXES);
		FlushUpTo(db, 11, 20);
		Compare(db, 20);
		KvClose(db);
		db = Primary(base);
		Compare(db, 20);
		KvClose(db);
		db = Restore("nolinks_copy", dir, pool, s);
		Compare(db, 10);
		FlushUpTo(db, 11, 12);
		KvClose(db);
		CHECK(Disarm() > hits, "no fault was met");
		KvFreeSnapshot(&s);
	}
}

/* Each call on a file fails once: the pool is as before, and the next snapshot can be made. */
static void
TestFailures(OrbitFaultAction action, KvCode want)
{
	string		base = Fresh("fails"), dir = Fresh("fails_snap"), pool = Fresh("fails_pool");
	KvDb	   *db = Primary(base);
	KvSnapshot	s;
	const int	calls = ORBIT_FAULT_CREATE | ORBIT_FAULT_WRITE | ORBIT_FAULT_SYNC | ORBIT_FAULT_LINK;
	int			n = 0;

	FlushUpTo(db, 1, 10);
	for (;; n++)
	{
		KvStatus	st;
		int			hits;

		Arm(calls, "*/fails_*", action, n);
		st = MakeSnapshot(db, dir, pool, &s);
		hits = Disarm();
		if (st.code == KV_OK)
		{
			CHECK(hits <= n, "%d calls, and the fault after %d of them was not met", hits, n);
			break;
		}
		EXPECT(st, want);
		CHECK(s.files == nullptr, "files of a snapshot that failed");
		CHECK(List(pool, ".sst").empty(), "after call %d failed %zu files are in the pool", n,
			  List(pool, ".sst").size());
		Flush(db, 11 + n);
		Compare(db, 11 + n);
	}
	CHECK(n > 15, "only %d calls", n);
	CheckFiles(dir, pool, s, 2);
	KvClose(db);
	db = Restore("fails_copy", dir, pool, s);
	Compare(db, 10 + n);
	KvClose(db);
	KvFreeSnapshot(&s);
}

/* A copy of a file that is cut short by a full disk leaves nothing either. */
static void
TestFailedCopy()
{
	string		base = Fresh("cut"), dir = Fresh("cut_snap"), pool = Fresh("cut_pool");
	KvDb	   *db = Primary(base);
	KvStatus	st;
	OrbitFault &f = faults.faults[1];

	FlushUpTo(db, 1, 10);
	Arm(ORBIT_FAULT_LINK, "*/cut_pool/*", ORBIT_FAULT_EPERM, 0, true);
	f = faults.faults[0];
	f.calls = ORBIT_FAULT_WRITE;
	f.action = ORBIT_FAULT_NO_SPACE;
	f.skip = 3;
	f.times = 1;
	faults.armed = 2;
	st = MakeSnapshot(db, dir, pool);
	Disarm();
	EXPECT(st, KV_NO_SPACE);
	CHECK(f.hits == 4, "%d writes", f.hits);
	CHECK(List(pool, ".sst").empty(), "a part of a file is left");
	MUST(MakeSnapshot(db, dir, pool));
	KvClose(db);
}

int
main(int argc, char **argv)
{
	Setup(argc, argv);
	printf("1..6\n");
	Report("a snapshot stays what it was", Wait(Child(TestContents)));
	Report("files in the pool", Wait(Child(TestPool)));
	Report("file systems without hard links", Wait(Child(TestNoLinks)));
	Report("each call fails with ENOSPC once",
		   Wait(Child([] { TestFailures(ORBIT_FAULT_NO_SPACE, KV_NO_SPACE); })));
	Report("each call fails with EIO once",
		   Wait(Child([] { TestFailures(ORBIT_FAULT_IO, KV_IO_ERROR); })));
	Report("a copy that fails", Wait(Child(TestFailedCopy)));
	return Finish(argc);
}
