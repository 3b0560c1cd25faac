/*
 * kv_test.cpp: src/kv alone, without a server.  Prints TAP.
 *
 *   kv_test [scratch directory] [factor]
 *
 * What a database must hold is a function of its generation (struct Model), so each
 * process can tell by itself.  factor multiplies the kills and the time that the
 * readers run (default 1).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "kv_testing.h"

namespace kv
{
extern uint64_t manifest_bytes_for_tests;
}

/* ---- system calls that fail -------------------------------------------------------- */

/*
 * These stand in front of the C library's, also for RocksDB.  While armed, the call number `fail_at` of this
 * thread that concerns RocksDB's files (but LOG) fails with fail_errno; a write leaves half of its bytes.
 */
static bool armed;
static thread_local bool main_thread;
static int	calls, fail_at, fail_errno;
static char failed_call[60];

static bool
Fails(const char *call, const char *path)
{
	const char *name = strrchr(path, '/');

	if (strstr(path, "/pgsql_tmp_") == nullptr || strncmp(name, "/LOG", 4) == 0 || ++calls != fail_at)
		return false;
	snprintf(failed_call, sizeof failed_call, "%s %s", call, name + 1);
	errno = fail_errno;
	return true;
}

static bool
Fails(const char *call, int fd)
{
	char		link[40], path[300];
	ssize_t		n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	path[n < 0 ? 0 : n] = '\0';
	return n > 0 && Fails(call, path);
}

#define ARMED (armed && main_thread)

extern "C" ssize_t
write(int fd, const void *p, size_t n)
{
	if (ARMED && Fails("write", fd))
	{
		syscall(SYS_write, fd, p, n / 2);
		errno = fail_errno;
		return -1;
	}
	return syscall(SYS_write, fd, p, n);
}

extern "C" int
fsync(int fd)
{
	return ARMED && Fails("fsync", fd) ? -1 : syscall(SYS_fsync, fd);
}

extern "C" int
fdatasync(int fd)
{
	return ARMED && Fails("fdatasync", fd) ? -1 : syscall(SYS_fdatasync, fd);
}

extern "C" int
link(const char *from, const char *to) noexcept
{
	return ARMED && Fails("link", to) ? -1 : syscall(SYS_link, from, to);
}

extern "C" int
rename(const char *from, const char *to) noexcept
{
	return ARMED && Fails("rename", to) ? -1 : syscall(SYS_rename, from, to);
}

extern "C" int
unlink(const char *path) noexcept
{
	return ARMED && Fails("unlink", path) ? -1 : syscall(SYS_unlink, path);
}

extern "C" int
open(const char *path, int flags,...)
{
	va_list		args;
	int			mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	return ARMED && Fails("open", path) ? -1 : syscall(SYS_open, path, flags, mode);
}

/* ---- the model ------------------------------------------------------------------------------ */

/*
 * Generation g (unless a multiple of 5: those are empty batches) adds to three
 * pages of storage 1 one entry each, whose xid is g + 3, and one index entry; it
 * sets one record in pg_tables and in pg_metadata to g.
 */
constexpr uint32_t Pages = 150;
using Page = std::map<int, vector<uint32_t>>;	/* slot -> xids, newest first */

static string
Payload(uint32_t xid, uint32_t page)
{
	string		s;

	for (uint32_t i = 0, n = 40 + Hash(xid, page) % 400; i < n; i++)
		s += static_cast<char>(Hash(xid + i / 4, page));
	return s;
}

static string
Encode(const Page &page, uint32_t number)
{
	CodecBuf	out = {};
	CodecBuilder b;
	string		image;

	CodecBuildBegin(&b, &out);
	for (auto &chain : page)
	{
		CHECK(CodecBuildChain(&b, chain.first), "chain");
		for (uint32_t xid : chain.second)
		{
			string		payload = Payload(xid, number);
			vector<char> bytes(sizeof(CodecEntry) + 8 + payload.size());
			CodecEntry *e = reinterpret_cast<CodecEntry *>(bytes.data());

			e->len = payload.size();
			e->xid = xid;
			e->cid = 0;
			e->kind_flags = CODEC_UPDATE;
			e->tag = xid % 200;
			memcpy(bytes.data() + CODEC_ENTRY_HEADER, payload.data(), payload.size());
			CHECK(CodecBuildEntry(&b, e), "entry");
		}
	}
	CHECK(CodecBuildFinish(&b), "page");
	CodecBuildFree(&b);
	image.assign(out.data, out.len);
	CodecBufFree(&out);
	return image;
}

struct Model
{
	uint64_t	generation = 0;
	uint64_t	last = 0;		/* last one that wrote something */
	std::map<uint32_t, Page> pages;
	std::set<string> index;

	static string IndexKey(uint64_t g)
	{
		return Big(2, 8) + string("k") + Big(Hash(g, 9), 4) + Big(g, 6);
	}

	/* Goes to the next generation; the new entries, by page. */
	std::map<uint32_t, Page> Step()
	{
		std::map<uint32_t, Page> delta;

		generation++;
		if (generation % 5 == 0)
			return delta;
		last = generation;
		for (int i = 0; i < 3; i++)
		{
			uint32_t	page = Hash(generation, i) % Pages;
			int			slot = 1 + generation % 7;

			if (delta.count(page))
				continue;
			delta[page][slot].push_back(generation + 3);
			auto	   &chain = pages[page][slot];

			chain.insert(chain.begin(), generation + 3);
		}
		index.insert(IndexKey(generation));
		return delta;
	}

	void		To(uint64_t g)
	{
		while (generation < g)
			Step();
	}
};

/* One flush of the model into db. */
static void
Flush(KvDb *db, Model *m)
{
	std::set<uint32_t> known;

	for (auto &p : m->pages)
		known.insert(p.first);

	auto		delta = m->Step();
	KvBatch    *b = Begin(db);

	for (auto &p : delta)
	{
		string		key = PageKey(1, p.first), value = Encode(p.second, p.first);

		if (known.count(p.first))
			Merge(b, key, value);
		else
			Put(b, ORBIT_PG_DATA, key, value);
	}
	if (m->last == m->generation)
	{
		char		key[CODEC_STORAGE_KEY_SIZE];

		CodecStorageKey(key, 1, CODEC_RECORD_COUNTERS);
		Put(b, ORBIT_PG_INDEXES, Model::IndexKey(m->generation), "");
		Put(b, ORBIT_PG_TABLES, string(key, sizeof key), Number(m->generation));
		Put(b, ORBIT_PG_METADATA, CODEC_META_FLUSHED, Number(m->generation));
	}
	shm->inside = 1;
	uint64_t	g = Commit(b);

	shm->inside = 0;
	CHECK(g == m->generation, "generation %lu, the model is at %lu", g, m->generation);
	shm->generation = g;
}

static void
ComparePages(KvDb *db, const Model &m)
{
	KvIter	   *it = Iterate(db, ORBIT_PG_DATA);
	size_t		n = 0;

	for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it), n++)
	{
		uint64_t	storage;
		uint32_t	page;
		string		key = Key(it);

		CHECK(CodecPageKeyParse(key.data(), key.size(), &storage, &page), "strange key");
		auto		want = m.pages.find(page);

		CHECK(want != m.pages.end(), "generation %lu: page %u is too much", m.generation, page);
		CHECK(Value(it) == Encode(want->second, page), "generation %lu: page %u differs",
			  m.generation, page);
	}
	MUST(Status(it));
	KvIterDestroy(it);
	CHECK(n == m.pages.size(), "generation %lu: %zu pages, not %zu", m.generation, n,
		  m.pages.size());
	for (int i = 0; i < 10; i++)
	{
		uint32_t	page = Hash(m.generation, i + 100) % (Pages + 5);
		string		value;
		KvStatus	st = Get(db, ORBIT_PG_DATA, PageKey(1, page), &value);
		auto		want = m.pages.find(page);

		EXPECT(st, want == m.pages.end() ? KV_NOT_FOUND : KV_OK);
		CHECK(st.code == KV_NOT_FOUND || value == Encode(want->second, page), "get differs");
	}
}

/* The families may stand at different generations in a secondary. */
static void
Compare(KvDb *db, Model *m)
{
	string		value, keys;
	char		key[CODEC_STORAGE_KEY_SIZE];
	Model		index, tables, metadata;

	m->To(Generation(db, ORBIT_PG_DATA));
	ComparePages(db, *m);

	index.To(Generation(db, ORBIT_PG_INDEXES));
	for (auto &k : index.index)
		keys += k + " ";
	CHECK(Scan(db, ORBIT_PG_INDEXES) == keys, "index entries of generation %lu",
		  index.generation);
	if (!index.index.empty())
		MUST(Get(db, ORBIT_PG_INDEXES, *index.index.begin(), &value));

	tables.To(Generation(db, ORBIT_PG_TABLES));
	metadata.To(Generation(db, ORBIT_PG_METADATA));
	if (tables.last == 0 || metadata.last == 0)
		return;
	CodecStorageKey(key, 1, CODEC_RECORD_COUNTERS);
	MUST(Get(db, ORBIT_PG_TABLES, string(key, sizeof key), &value));
	CHECK(NumberOf(value) == tables.last, "pg_tables: %lu, not %lu", NumberOf(value), tables.last);
	MUST(Get(db, ORBIT_PG_METADATA, CODEC_META_FLUSHED, &value));
	CHECK(NumberOf(value) == metadata.last, "pg_metadata: %lu, not %lu", NumberOf(value),
		  metadata.last);
}

/* ---- one process ------------------------------------------------------------------------------- */

static void
TestBasics()
{
	string		dir = Fresh("basics"), value, a = "a", b = "b", d = "d";
	KvDb	   *db = Primary(dir);

	CHECK(Generation(db, ORBIT_PG_DATA) == 0, "generation of an empty database");
	EXPECT(Get(db, ORBIT_PG_METADATA, "a", &value), KV_NOT_FOUND);
	CHECK(Scan(db, ORBIT_PG_METADATA).empty(), "scan of an empty family");

	KvBatch    *batch = Begin(db);

	for (const char *k : {"a", "b", "c", "d"})
		Put(batch, ORBIT_PG_METADATA, k, string("value of ") + k);
	CHECK(Commit(batch) == 1, "first generation");
	MUST(Get(db, ORBIT_PG_METADATA, "b", &value));
	CHECK(value == "value of b", "%s", value.c_str());
	CHECK(Scan(db, ORBIT_PG_METADATA) == "a b c d ", "scan");
	CHECK(Scan(db, ORBIT_PG_METADATA, &b) == "b c d ", "lower bound");
	CHECK(Scan(db, ORBIT_PG_METADATA, &b, &d) == "b c ", "bounds");

	KvIter	   *it = Iterate(db, ORBIT_PG_METADATA, &a, &d);

	KvIterSeek(it, "bb", 2);
	CHECK(KvIterValid(it) && Key(it) == "c", "seek");
	KvIterSeekForPrev(it, "bb", 2);
	CHECK(KvIterValid(it) && Key(it) == "b" && Value(it) == "value of b", "seek for prev");
	KvIterPrev(it);
	CHECK(KvIterValid(it) && Key(it) == "a", "prev");
	KvIterPrev(it);
	CHECK(!KvIterValid(it), "prev stops at the first key, not at a generation key");
	MUST(Status(it));

	KvStatus	st;

	batch = Begin(db);
	KvBatchDelete(batch, ORBIT_PG_METADATA, "b", 1, &st);
	MUST(st);
	Put(batch, ORBIT_PG_METADATA, "c", "new");
	CHECK(Commit(batch) == 2, "second generation");
	EXPECT(Get(db, ORBIT_PG_METADATA, "b", &value), KV_NOT_FOUND);
	CHECK(Scan(db, ORBIT_PG_METADATA) == "a c d ", "scan after delete");
	KvIterSeek(it, "b", 1);
	CHECK(KvIterValid(it) && Key(it) == "b", "an iterator keeps its version");
	KvIterDestroy(it);

	/* the trim at 128 retires files that only generation 129 can tag */
	for (int i = 3; i <= 128; i++)
		CHECK(Commit(Begin(db)) == static_cast<uint64_t>(i), "empty batches count on");
	CHECK(List(dir + "/pgsql_tmp_live", ".sst").size() >= 4 * 120, "retired files wait");
	int			untagged, waiting;

	KvUnlinkRetired(db, 0, &untagged, &waiting);
	CHECK(untagged > 4 * 50 && waiting > 4 * 110, "%d of %d untagged", untagged, waiting);
	Commit(Begin(db));
	KvUnlinkRetired(db, 128, &untagged, &waiting);
	CHECK(untagged == 0 && waiting > 4 * 50, "a tag above min_generation: %d %d", untagged, waiting);
	KvUnlinkRetired(db, 129, &untagged, &waiting);
	CHECK(untagged == 0 && waiting == 0, "%d %d", untagged, waiting);
	CHECK(List(dir + "/pgsql_tmp_live", ".sst").size() < 4 * 5, "trimmed generation keys are deleted");
	CHECK(KvLevelZeroFiles(db) <= 2, "generation keys climb to level 0");
	KvClose(db);

	db = Primary(dir);
	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		CHECK(Generation(db, static_cast<OrbitFamily>(f)) == 129, "generation after reopening");
	MUST(Get(db, ORBIT_PG_METADATA, "c", &value));
	CHECK(value == "new", "%s", value.c_str());
	CHECK(Commit(Begin(db)) == 130, "generation goes on");
	KvClose(db);
}

static void
TestMerge()
{
	string		dir = Fresh("merge"), value;
	KvDb	   *db = Primary(dir);
	Model		m;

	for (int i = 0; i < 40; i++)
		Flush(db, &m);
	Compare(db, &m);
	Compact(db, ORBIT_PG_DATA);
	Compare(db, &m);

	/* a delta without a base, then garbage on top of it */
	KvBatch    *b = Begin(db);
	Page		page;

	page[4] = {77, 76};
	Merge(b, PageKey(9, 1), Encode(page, 1));
	Put(b, ORBIT_PG_DATA, PageKey(9, 2), Encode(page, 2));
	Commit(b);
	MUST(Get(db, ORBIT_PG_DATA, PageKey(9, 1), &value));
	CHECK(value == Encode(page, 1), "lone operand");
	b = Begin(db);
	Merge(b, PageKey(9, 1), "garbage");
	Commit(b);

	KvStatus	st = Get(db, ORBIT_PG_DATA, PageKey(9, 1), &value);

	EXPECT(st, KV_CORRUPTION);
	CHECK(strstr(st.message, "damaged page"), "%s", st.message);

	KvIter	   *it = Iterate(db, ORBIT_PG_DATA);
	string		from = PageKey(9, 0);

	KvIterSeek(it, from.data(), from.size());
	CHECK(!KvIterValid(it), "an iterator shows a page that cannot be merged");
	EXPECT(Status(it), KV_CORRUPTION);
	KvIterDestroy(it);
	MUST(Get(db, ORBIT_PG_DATA, PageKey(9, 2), &value));
	KvClose(db);
}

static void
TestRefusals()
{
	string		dir = Fresh("refusals");
	KvStatus	st;
	KvDb	   *db = Primary(dir), *second;
	KvOptions	o = Small();
	KvBatch    *b = Begin(db);
	uint64_t	g;
	char		key[CODEC_GENERATION_KEY_SIZE];
	string		value;

	Put(b, ORBIT_PG_TABLES, "b", "1");
	KvBatchPut(b, ORBIT_PG_TABLES, "b", 1, "2", 1, &st);
	EXPECT(st, KV_INVALID);
	KvBatchPut(b, ORBIT_PG_TABLES, "c", 1, "2", 1, &st);
	EXPECT(st, KV_INVALID);		/* the batch has failed */
	KvBatchCommit(b, &g, &st);
	EXPECT(st, KV_INVALID);
	CHECK(List(dir + "/pgsql_tmp_stage", "").empty(), "a failed batch leaves files");
	EXPECT(Get(db, ORBIT_PG_TABLES, "b", &value), KV_NOT_FOUND);

	b = Begin(db);
	CodecGenerationKey(key, 5);
	KvBatchPut(b, ORBIT_PG_TABLES, key, sizeof key, "", 0, &st);
	EXPECT(st, KV_INVALID);
	KvBatchAbort(b);

	b = Begin(db);
	KvBatchMerge(b, ORBIT_PG_TABLES, "b", 1, "", 0, &st);
	EXPECT(st, KV_INVALID);
	KvBatchAbort(b);

	b = Begin(db);
	Put(b, ORBIT_PG_DATA, PageKey(1, 1), string(300000, 'x'));
	KvBatchSplit(b, ORBIT_PG_DATA, &st);
	MUST(st);
	Put(b, ORBIT_PG_DATA, PageKey(2, 1), "y");
	KvBatchAbort(b);
	CHECK(List(dir + "/pgsql_tmp_stage", "").empty(), "an aborted batch leaves files");
	CHECK(Commit(Begin(db)) >= 1, "work goes on");

	KvOpenPrimary(dir.c_str(), &o, &second, &st);
	EXPECT(st, KV_BUSY);
	CHECK(second == nullptr, "handle in spite of an error");
	KvClose(db);

	o.compression = 9;
	KvOpenPrimary(dir.c_str(), &o, &second, &st);
	EXPECT(st, KV_INVALID);
	o = Small();
	KvOpenSecondary((dir + "/nothing").c_str(), &o, &second, &st);
	EXPECT(st, KV_INVALID);
	KvOpenPrimary((dir + "/nothing").c_str(), &o, &second, &st);
	EXPECT(st, KV_IO_ERROR);
	db = Secondary(dir);
	b = KvBatchBegin(db, &st);
	EXPECT(st, KV_INVALID);
	CHECK(b == nullptr, "batch of a secondary");
	KvClose(db);
	KvClose(nullptr);
}

/* Keys of several lengths around the prefix extractor's domain. */
static void
TestIndexKeys()
{
	string		dir = Fresh("index"), value, all, under;
	KvDb	   *db = Primary(dir);
	std::set<string> keys;
	KvStatus	st;

	for (int i = 0; i < 3000; i++)
	{
		string		k = Big(1 + Hash(i, 1) % 3, 8);

		for (uint32_t j = 0, n = Hash(i, 2) % 40; j < n; j++)
			k += static_cast<char>(Hash(i, j + 3) % 3);
		keys.insert(k);
	}
	for (int round = 0; round < 3; round++)
	{
		KvBatch    *b = Begin(db);
		int			i = 0;

		for (auto &k : keys)
			if (i++ % 3 == round)
				Put(b, ORBIT_PG_INDEXES, k, std::to_string(k.size()));
		Commit(b);
	}
	for (int compacted = 0; compacted < 2; compacted++)
	{
		string		low = Big(2, 8), high = Big(3, 8);

		for (auto &k : keys)
		{
			MUST(Get(db, ORBIT_PG_INDEXES, k, &value));
			CHECK(value == std::to_string(k.size()), "value");
			st = Get(db, ORBIT_PG_INDEXES, k + "absent", &value);
			EXPECT(st, keys.count(k + "absent") ? KV_OK : KV_NOT_FOUND);
		}
		all = under = "";
		for (auto &k : keys)
		{
			all += k + " ";
			if (k >= low && k < high)
				under += k + " ";
		}
		CHECK(Scan(db, ORBIT_PG_INDEXES) == all, "scan of everything");
		CHECK(Scan(db, ORBIT_PG_INDEXES, &low, &high) == under, "scan of one storage");
		Compact(db, ORBIT_PG_INDEXES);
	}
	KvClose(db);
}

static void
TestProperties()
{
	string		dir = Fresh("properties");
	KvDb	   *db = Primary(dir);
	Model		m;

	for (int i = 0; i < 30; i++)
		Flush(db, &m);

	char	   *text = KvTextProperty(db, ORBIT_PG_DATA, "rocksdb.levelstats");
	uint64_t	keys = 0;

	CHECK(text != nullptr && strstr(text, "Level"), "text property");
	free(text);
	CHECK(KvIntProperty(db, ORBIT_PG_DATA, "rocksdb.estimate-num-keys", &keys) && keys > 0,
		  "number property");
	CHECK(!KvIntProperty(db, ORBIT_PG_DATA, "rocksdb.nothing", &keys), "unknown property");
	KvClose(db);
}

/* Large fresh storages, a file each: to the lowest level, none in level 0. */
static void
TestLevels()
{
	string		dir = Fresh("levels"), page(6000, 'p'), value;
	KvDb	   *db = Primary(dir);
	KvStatus	st;
	uint32_t	next = 1;

	for (int flush = 0; flush < 10; flush++)
	{
		KvBatch    *b = Begin(db);

		for (uint64_t storage = 1; storage <= 2; storage++)
		{
			for (uint32_t p = next; p < next + 50; p++)
				Put(b, ORBIT_PG_DATA, PageKey(storage, p), page + std::to_string(p));
			KvBatchSplit(b, ORBIT_PG_DATA, &st);
			MUST(st);
		}
		next += 50;
		Commit(b);
	}
	CHECK(KvLevelZeroFiles(db) == 0, "%d files in level 0", KvLevelZeroFiles(db));

	char	   *lowest = KvTextProperty(db, ORBIT_PG_DATA, "rocksdb.num-files-at-level6");

	CHECK(lowest && atoi(lowest) >= 10 + 2 * 10, "only %s files at the bottom", lowest);
	free(lowest);
	MUST(Get(db, ORBIT_PG_DATA, PageKey(2, 77), &value));
	CHECK(value == page + "77", "page");
	KvClose(db);
}

/* Threads of RocksDB block every signal; a secondary has none. */
static void
TestThreads()
{
	string		dir = Fresh("threads");
	KvDb	   *db = Primary(dir);
	Model		m;

	for (int i = 0; i < 20; i++)
		Flush(db, &m);
	Compact(db, ORBIT_PG_DATA);
	Compact(db, ORBIT_PG_METADATA);

	int			threads = 0;
	sigset_t	now;

	for (auto &task : List("/proc/self/task", ""))
	{
		FILE	   *f = fopen(("/proc/self/task/" + task + "/status").c_str(), "r");
		char		line[300];
		unsigned long long mask = 0;

		if (atoi(task.c_str()) == getpid() || f == nullptr)
			continue;
		while (fgets(line, sizeof line, f))
			if (strncmp(line, "SigBlk:", 7) == 0)
				mask = strtoull(line + 7, nullptr, 16);
		fclose(f);
		threads++;
		for (int sig : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGURG})
			CHECK(mask >> (sig - 1) & 1, "thread %s takes signal %d", task.c_str(), sig);
	}
	CHECK(threads > 0, "no thread seen");
	pthread_sigmask(SIG_SETMASK, nullptr, &now);
	CHECK(!sigismember(&now, SIGTERM) && !sigismember(&now, SIGALRM), "mask not restored");
	KvClose(db);
}

static void
TestSecondaryThreads()
{
	string		dir = scratch + "/threads";
	KvDb	   *db = Secondary(dir);
	Model		m;
	uint64_t	reached;
	bool		reopened;
	KvStatus	st;

	KvIter	   *it = Iterate(db, ORBIT_PG_METADATA);

	Compare(db, &m);
	KvCatchUp(db, 21, &reached, &reopened, &st);
	EXPECT(st, KV_STALE);
	CHECK(reached == 20 && reopened, "reached %lu", reached);
	Compare(db, &m);
	KvIterSeek(it, "", 0);
	CHECK(KvIterValid(it) && Key(it) == CODEC_META_FLUSHED, "an iterator from before the reopen");
	KvIterDestroy(it);
	CHECK(List("/proc/self/task", "").size() == 1, "a secondary has started threads");
	KvClose(db);
	CHECK(List(dir, "LOG").empty() && List(dir + "/nowal", "").empty(), "files of a secondary");
}

/* ---- damage ------------------------------------------------------------------------------------ */

constexpr uint32_t DamagePages = 400;

static string
DamageValue(uint32_t p)
{
	string		s;

	for (int i = 0; i < 4000; i++)
		s += static_cast<char>(Hash(p, i));
	return s;
}

static void
MakePages(const string &dir)
{
	KvOptions	o = Small();

	o.compression = o.bottommost_compression = 0;

	KvDb	   *db = Primary(dir, o);
	KvBatch    *b = Begin(db);

	for (uint32_t p = 0; p < DamagePages; p++)
		Put(b, ORBIT_PG_DATA, PageKey(1, p), DamageValue(p));
	Commit(b);
	KvClose(db);
}

/* Reads all pages both ways; every answer is right or the error expected. */
static void
ReadDamaged(KvDb *db, KvCode want)
{
	KvIter	   *it = Iterate(db, ORBIT_PG_DATA);
	uint32_t	n = 0, bad = 0;

	for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it), n++)
		CHECK(Key(it) == PageKey(1, n) && Value(it) == DamageValue(n), "page %u is wrong", n);
	CHECK(n < DamagePages, "the damage was not met");
	EXPECT(Status(it), want);
	KvIterDestroy(it);
	for (uint32_t p = 0; p < DamagePages; p++)
	{
		string		value;
		KvStatus	st = Get(db, ORBIT_PG_DATA, PageKey(1, p), &value);

		if (st.code != KV_OK)
			EXPECT(st, want);
		else
			CHECK(value == DamageValue(p), "page %u is wrong", p);
		bad += st.code != KV_OK;
	}
	CHECK(bad > 0 && bad < DamagePages / 2, "%u pages cannot be read", bad);
}

static void
FlipByte(const string &file, off_t at)
{
	int			fd = open(file.c_str(), O_RDWR);
	char		byte;

	CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1, "%s", file.c_str());
	byte ^= 0x10;
	CHECK(pwrite(fd, &byte, 1, at) == 1, "write");
	close(fd);
}

static void
TestCorruption()
{
	string		dir = Fresh("corruption");

	MakePages(dir);

	string		file = Biggest(dir + "/pgsql_tmp_live");
	struct stat s;

	CHECK(stat(file.c_str(), &s) == 0, "%s", file.c_str());
	FlipByte(file, s.st_size / 2);

	KvDb	   *db = Secondary(dir);

	ReadDamaged(db, KV_CORRUPTION);
	KvClose(db);
	db = Primary(dir);
	ReadDamaged(db, KV_CORRUPTION);
	KvClose(db);
}

/* One block cannot be read: compactions that need it fail, commits and other rows do not care. */
static void
TestDamagedCompaction()
{
	string		dir = Fresh("damaged_compaction");
	KvOptions	o = Small();
	KvStatus	st;
	bool		failed = false;

	o.target_file_bytes = 0;	/* so level 0 goes straight to the damaged level */

	MakePages(dir);
	FlipByte(Biggest(dir + "/pgsql_tmp_live"), 30000);

	KvDb	   *db = Primary(dir, o);

	for (int i = 0; i < 200 && !failed; i++)
	{
		KvBatch    *b = Begin(db);

		for (uint32_t p = 0; p < DamagePages; p += 21) /* the first and the last */
			Put(b, ORBIT_PG_DATA, PageKey(1, p), DamageValue(p));
		Commit(b);
		failed = KvCompactionFailed(db, ORBIT_PG_DATA, &st);
		usleep(10000);
	}
	CHECK(failed, "no compaction met the damage");
	EXPECT(st, KV_CORRUPTION);
	CHECK(!KvCompactionFailed(db, ORBIT_PG_TABLES, &st), "another family");
	KvBackgroundError(db, &st);
	MUST(st);

	/* RocksDB begins it anew after a second, and does not while it is paused */
	for (int i = 0; i < 30 && !KvCompactionFailed(db, ORBIT_PG_DATA, &st); i++)
		usleep(100000);
	EXPECT(st, KV_CORRUPTION);
	KvPauseCompaction(db, ORBIT_PG_DATA, true, &st);
	MUST(st);
	usleep(1200000);
	(void) KvCompactionFailed(db, ORBIT_PG_DATA, &st);
	for (int i = 0; i < 25; i++, usleep(100000))
		CHECK(!KvCompactionFailed(db, ORBIT_PG_DATA, &st), "a paused family compacts");
	KvPauseCompaction(db, ORBIT_PG_DATA, false, &st);
	MUST(st);
	for (int i = 0; i < 30 && !KvCompactionFailed(db, ORBIT_PG_DATA, &st); i++)
		usleep(100000);
	EXPECT(st, KV_CORRUPTION);

	KvBatch    *b = Begin(db);

	Put(b, ORBIT_PG_DATA, PageKey(2, 1), "x");
	Commit(b);
	KvClose(db);
	db = Primary(dir);
	ReadDamaged(db, KV_CORRUPTION);
	KvClose(db);
}

/* K20: without a file in the middle a scan must not end early and say OK. */
static void
TestMissingFile()
{
	string		dir = Fresh("missing");
	KvOptions	o = Small();
	KvDb	   *db;
	KvStatus	st;

	MakePages(dir);
	o.max_open_files = 20;
	db = Secondary(dir, o);

	vector<string> files = List(dir + "/pgsql_tmp_live", ".sst");

	std::sort(files.begin(), files.end());
	CHECK(files.size() > 20, "only %zu files", files.size());
	CHECK(unlink((dir + "/pgsql_tmp_live/" + files[files.size() * 3 / 4]).c_str()) == 0, "unlink");
	ReadDamaged(db, KV_IO_ERROR);
	KvClose(db);
	KvOpenPrimary(dir.c_str(), &o, &db, &st);
	EXPECT(st, KV_CORRUPTION);
}

/* ---- every system call of a commit fails once --------------------------------------------- */

/* Flush number i of a database that these tests make; the caller tries again until it succeeds. */
static KvStatus
FaultCommit(KvDb *db, uint32_t i)
{
	KvBatch    *b = Begin(db);
	KvStatus	st;
	uint64_t	g;
	string		key = PageKey(1, i), old = PageKey(1, 0), value = DamageValue(i);
	string		entry = Encode({{1, {i + 3}}}, 0), number = Number(i), name = "number";

	KvBatchMerge(b, ORBIT_PG_DATA, old.data(), old.size(), entry.data(), entry.size(), &st);
	if (st.code == KV_OK)
		KvBatchPut(b, ORBIT_PG_DATA, key.data(), key.size(), value.data(), value.size(), &st);
	for (auto f : {ORBIT_PG_TABLES, ORBIT_PG_METADATA})
		if (st.code == KV_OK)
			KvBatchPut(b, f, name.data(), name.size(), number.data(), number.size(), &st);
	if (st.code == KV_OK)
		KvBatchCommit(b, &g, &st);
	else
		KvBatchAbort(b);
	return st;
}

/* Holds the flushes up to `last`, or one more if that one may have happened. */
static void
FaultCompare(KvDb *db, uint32_t *last, bool maybe)
{
	string		value;
	uint32_t	n;
	Page		page;

	MUST(Get(db, ORBIT_PG_METADATA, "number", &value));
	n = NumberOf(value);
	CHECK(n == *last || (maybe && n == *last + 1), "flush %u, not %u", n, *last);
	MUST(Get(db, ORBIT_PG_TABLES, "number", &value));
	CHECK(NumberOf(value) == n, "pg_tables %lu, pg_metadata %u", NumberOf(value), n);
	for (uint32_t i = 1; i <= n; i++)
	{
		MUST(Get(db, ORBIT_PG_DATA, PageKey(1, i), &value));
		CHECK(value == DamageValue(i), "page %u", i);
		page[1].insert(page[1].begin(), i + 3);
	}
	EXPECT(Get(db, ORBIT_PG_DATA, PageKey(1, n + 1), &value), KV_NOT_FOUND);
	MUST(Get(db, ORBIT_PG_DATA, PageKey(1, 0), &value));
	CHECK(value == Encode(page, 0), "page 0");
	*last = n;
}

static size_t
FilesOfVersion(KvDb *db)
{
	size_t		n = 0;

	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		for (int level = 0; level < 7; level++)
		{
			string		name = "rocksdb.num-files-at-level" + std::to_string(level);
			char	   *text = KvTextProperty(db, static_cast<OrbitFamily>(f), name.c_str());

			CHECK(text != nullptr, "%s", name.c_str());
			n += atoi(text);
			free(text);
		}
	return n;
}

/* Whatever a failure has left behind is deleted after some more generations. */
static void
CheckNoOrphans(KvDb *db, const string &dir, uint32_t *last)
{
	size_t		files = 1, used = 0;
	int			untagged, waiting;

	for (double end = Now() + 10; Now() < end && files != used;)
	{
		KvUnlinkRetired(db, UINT64_MAX, &untagged, &waiting);
		files = List(dir + "/pgsql_tmp_live", ".sst").size();
		used = FilesOfVersion(db);
		if (files != used)
		{
			KvStatus	st = FaultCommit(db, ++*last);

			MUST(st);
			shm->generation = *last;
		}
	}
	CHECK(files == used, "%s: %zu files, %zu used", failed_call, files, used);
	/* one whose own deletion failed stays there till the next open */
	size_t		excused = strncmp(failed_call, "unlink", 6) == 0;

	CHECK(List(dir + "/pgsql_tmp_stage", "").size() <= excused, "%s: files in stage", failed_call);
	CHECK(List(dir + "/pgsql_tmp_live", "").size() < files + 40, "%s: files pile up", failed_call);
}

/*
 * One commit in which call number n fails.  Then either the process ends, or it tries again, as the
 * worker does.
 * The last flush is kept in shm->generation.  Exits with Skip when the commit has fewer calls.
 */
static void
OneFault(const string &dir, int n, int error, bool dies)
{
	KvDb	   *db = Primary(dir);
	uint32_t	last = shm->generation;
	KvStatus	st;

	FaultCompare(db, &last, true);
	/* a MANIFEST that has failed stays so in memory: meet it with and without a flush before */
	if (n % 2 == 0)
	{
		st = FaultCommit(db, ++last);
		MUST(st);
	}
	shm->generation = last;

	calls = 0;
	fail_at = n;
	fail_errno = error;
	main_thread = armed = true;
	st = FaultCommit(db, last + 1);
	armed = false;
	if (calls < n)
		_exit(Skip);
	CHECK(st.code == KV_OK || st.code == KV_IO_ERROR || st.code == KV_NO_SPACE,
		  "%s: code %d: %s", failed_call, st.code, st.message);
	if (st.code == KV_OK)
		shm->generation = ++last;
	if (dies)
		_exit(0);
	for (int tries = 0; st.code != KV_OK; tries++)
	{
		CHECK(tries < 2, "%s: commits go on failing: %s", failed_call, st.message);
		KvResume(db, &st);
		MUST(st);
		st = FaultCommit(db, last + 1);
		if (st.code == KV_OK)
			shm->generation = ++last;
	}
	KvBackgroundError(db, &st);
	MUST(st);
	FaultCompare(db, &last, false);
	st = FaultCommit(db, ++last);
	MUST(st);
	shm->generation = last;
	FaultCompare(db, &last, false);

	KvDb	   *reader = Secondary(dir);

	FaultCompare(reader, &last, false);
	KvClose(reader);
	CheckNoOrphans(db, dir, &last);
	KvClose(db);
}

static int
TestFaults(const char *name, uint64_t manifest_bytes)
{
	string		dir = Fresh(name);
	int			result;

	kv::manifest_bytes_for_tests = manifest_bytes;
	shm->generation = 0;
	result = Wait(Child([&]() {
		KvDb	   *db = Primary(dir);

		KvStatus	st = FaultCommit(db, 1);

		MUST(st);
		KvClose(db);
	}));
	shm->generation = 1;
	for (int n = 1; result == 0; n++)
		result = Wait(Child([&]() { OneFault(dir, n, n & 2 ? EIO : ENOSPC, (n >> 2) % 3 == 0); }));
	kv::manifest_bytes_for_tests = 0;
	shm->generation = 0;
	return result == Skip ? 0 : result;
}

/* ---- full disk --------------------------------------------------------------------------------- */

static void
TestFullDisk()
{
	string		dir = Fresh("full");
	KvStatus	st = {};
	Model		m;

	if (!MountSmall(dir, "size=12m"))
	{
		snprintf(shm->why, sizeof shm->why, "cannot mount a file system here");
		_exit(Skip);
	}

	KvDb	   *db = Primary(dir);
	int			fd = open((dir + "/filler").c_str(), O_CREAT | O_WRONLY, 0600);
	int			refused = 0;
	string		noise;

	for (int i = 0; i < 20; i++)
		Flush(db, &m);
	for (int i = 0; i < 8192; i++)
		noise += static_cast<char>(Hash(i, 5));
	for (int room = 0; room <= 400; room += 20)
	{
		uint64_t	g;

		/* fill the disk, then leave a little room: each round fails elsewhere */
		lseek(fd, 0, SEEK_END);
		while (write(fd, noise.data(), noise.size()) == static_cast<ssize_t>(noise.size()))
			;
		off_t		size = lseek(fd, 0, SEEK_END);

		CHECK(ftruncate(fd, size - room * 1024) == 0, "truncate");

		KvBatch    *b = Begin(db);

		for (uint32_t p = 0; p < 20; p++)
		{
			string		key = PageKey(50, p);

			KvBatchPut(b, ORBIT_PG_DATA, key.data(), key.size(), noise.data(), noise.size(), &st);
		}
		KvBatchCommit(b, &g, &st);
		refused += st.code == KV_NO_SPACE;
		CHECK(st.code == KV_OK || st.code == KV_NO_SPACE, "code %d: %s", st.code, st.message);
		CHECK(ftruncate(fd, 0) == 0, "truncate");
		KvResume(db, &st);
		MUST(st);
		KvBackgroundError(db, &st);
		MUST(st);
		CHECK(List(dir + "/pgsql_tmp_stage", "").empty(), "a failed commit leaves files");
		for (auto &page : m.pages)
		{
			string		value;

			MUST(Get(db, ORBIT_PG_DATA, PageKey(1, page.first), &value));
			CHECK(value == Encode(page.second, page.first), "old data has changed");
		}
	}
	CHECK(refused > 3, "only %d commits met a full disk", refused);
	KvClose(db);
	db = Primary(dir);
	KvClose(db);
	umount2(dir.c_str(), MNT_DETACH);
}

/* ---- several processes ---------------------------------------------------------------------------- */

static int
TestBusy()
{
	string		dir = Fresh("busy");
	pid_t		owner;
	int			result;

	shm->ready = shm->stop = 0;
	owner = Child([&] {
		Primary(dir);
		shm->ready = 1;
		while (!shm->stop)
			usleep(1000);
	});
	while (!shm->ready && waitpid(owner, nullptr, WNOHANG) == 0)
		usleep(1000);
	result = Wait(Child([&] {
		KvStatus	st;
		KvDb	   *db;
		KvOptions	o = Small();

		KvOpenPrimary(dir.c_str(), &o, &db, &st);
		EXPECT(st, KV_BUSY);
	}));
	kill(owner, SIGKILL);
	Wait(owner);
	return result || Wait(Child([&] { KvClose(Primary(dir)); }));
}

/* Kills while the database is being made: the next open completes it. */
static int
TestKillsAtBirth()
{
	for (int i = 0; i < 20 * factor; i++)
	{
		string		dir = Fresh("birth");
		pid_t		pid = Child([&] { Primary(dir); pause(); });
		int			result;

		usleep(Hash(i, 3) % 25000);
		kill(pid, SIGKILL);
		waitpid(pid, nullptr, 0);
		result = Wait(Child([&] {
			KvDb	   *db = Primary(dir);
			Model		m;

			Flush(db, &m);
			Compare(db, &m);
			KvClose(db);
			Compare(db = Secondary(dir), &m);
			KvClose(db);
		}));
		if (result != 0)
			return result;
	}
	return 0;
}

/* Kills the primary at any moment, half of the time inside a commit. */
static int
TestKills()
{
	string		dir = Fresh("kills");
	int			kills = 50 * factor;

	shm->generation = shm->kills_inside = 0;
	for (int i = 0; i <= kills; i++)
	{
		shm->ready = shm->inside = 0;

		pid_t		pid = Child([&] {
			KvDb	   *db = Primary(dir);
			Model		m;
			int			untagged, waiting;

			for (int f = 1; f < ORBIT_NFAMILIES; f++)
				CHECK(Generation(db, static_cast<OrbitFamily>(f)) == Generation(db, ORBIT_PG_DATA),
					  "families differ");
			CHECK(Generation(db, ORBIT_PG_DATA) >= shm->generation,
				  "an acknowledged flush is gone: %lu < %lu", Generation(db, ORBIT_PG_DATA),
				  shm->generation.load());
			Compare(db, &m);
			CHECK(List(dir + "/pgsql_tmp_stage", "").empty(), "leftovers in stage");
			shm->ready = 1;
			while (i < kills)
			{
				Flush(db, &m);
				KvUnlinkRetired(db, UINT64_MAX, &untagged, &waiting);
				if (m.generation % 50 == 0)
					Compact(db, ORBIT_PG_DATA);
			}
			KvClose(db);
		});

		if (i == kills)
			return Wait(pid);
		while (!shm->ready)
		{
			if (waitpid(pid, nullptr, WNOHANG) != 0)
				return 1;
			usleep(200);
		}
		usleep(Hash(i, 1) % 60000);
		for (double end = Now() + 1; i % 2 && !shm->inside && Now() < end;)
			;
		for (int n = Hash(i, 2) % 200; i % 2 && n > 0; n--)
			usleep(50);
		kill(pid, SIGKILL);
		shm->kills_inside += shm->inside;
		waitpid(pid, nullptr, 0);
	}
	return 0;
}

/*
 * A backend: catch up to what is published, prove, compare, move the pin.  An
 * iterator stays open over catch-ups, as scans of a statement may.
 */
static void
Reader(const string &dir, int me)
{
	KvDb	   *db = Secondary(dir);
	Model		m;

	for (int round = 1; !shm->stop; round++)
	{
		KvStatus	st;
		uint64_t	want = shm->generation, reached;
		bool		reopened;
		KvIter	   *it = Iterate(db, ORBIT_PG_DATA);
		Model		old = m;
		size_t		n = 0;

		KvCatchUp(db, want, &reached, &reopened, &st);
		MUST(st);
		CHECK(reached >= want, "OK at %lu, not %lu", reached, want);
		shm->reopens += reopened;
		/* the pin still covers the old version, whatever has happened since */
		if (old.generation > 0)
		{
			for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it))
				n++;
			MUST(Status(it));
			CHECK(n == old.pages.size(), "old version: %zu pages, not %zu", n, old.pages.size());
		}
		KvIterDestroy(it);
		Compare(db, &m);
		CHECK(m.generation >= want, "stale");
		shm->pin[me] = reached;
		shm->views++;

		uint64_t	files = List("/proc/self/fd", "").size();

		if (files > shm->most_files)
			shm->most_files = files;
		if (round % 200 == 0)
		{
			KvClose(db);
			db = Secondary(dir);
			m.To(Generation(db, ORBIT_PG_DATA));
		}
		usleep(Hash(round, me) % 3000);
	}
	KvClose(db);
}

static uint64_t
LowestPin()
{
	uint64_t	low = UINT64_MAX;

	for (auto &pin : shm->pin)
		low = pin < low ? pin.load() : low;
	return low;
}

/* The worker, until told to stop or killed; phase 1 also closes and reopens. */
static void
Writer(const string &dir, int phase, double seconds)
{
	KvDb	   *db = Primary(dir);
	Model		m;
	int			untagged = 0, waiting = 0;
	double		end = Now() + seconds;

	m.To(Generation(db, ORBIT_PG_DATA));
	Compare(db, &m);
	shm->ready = 1;
	for (int i = 1; Now() < end; i++)
	{
		Flush(db, &m);
		KvUnlinkRetired(db, LowestPin(), &untagged, &waiting);
		if (static_cast<uint64_t>(waiting) > shm->waited)
			shm->waited = waiting;
		if (i % 25 == 0)
			Compact(db, static_cast<OrbitFamily>(i / 25 % ORBIT_NFAMILIES));
		if (phase == 1 && i == 60)
		{
			KvClose(db);
			db = Primary(dir);
		}
	}
	/* at rest: a few more generations, and every file retired is gone */
	size_t		files = 1, used = 0;

	for (end = Now() + 5; Now() < end && (waiting > 0 || files != used); usleep(20000))
	{
		if (untagged > 0)
		{
			Flush(db, &m);
			shm->bumps++;
		}
		KvUnlinkRetired(db, LowestPin(), &untagged, &waiting);
		files = List(dir + "/pgsql_tmp_live", ".sst").size();
		used = FilesOfVersion(db);
	}
	CHECK(waiting == 0 && files == used, "%d files wait for ever, %d untagged; %zu files, %zu used",
		  waiting, untagged, files, used);
	Compare(db, &m);
	KvClose(db);
}

static int
TestReaders()
{
	string		dir = Fresh("readers");
	pid_t		reader[Readers], writer;
	int			result = 0;

	kv::manifest_bytes_for_tests = 16 << 10;
	shm->stop = shm->generation = shm->views = shm->reopens = shm->most_files = 0;
	shm->waited = shm->bumps = 0;
	for (auto &pin : shm->pin)
		pin = 0;
	if (Wait(Child([&] { KvDb *db = Primary(dir); Model m; Flush(db, &m); KvClose(db); })) != 0)
		return 1;
	for (int i = 0; i < Readers; i++)
		reader[i] = Child([&] { Reader(dir, i); });

	shm->ready = 0;
	writer = Child([&] { Writer(dir, 0, 1000); });
	usleep(1200000 * factor);
	kill(writer, SIGKILL);		/* readers go on over a new primary */
	waitpid(writer, nullptr, 0);
	result |= Wait(Child([&] { Writer(dir, 1, 2.5 * factor); }));
	shm->stop = 1;
	for (pid_t pid : reader)
		result |= Wait(pid);
	kv::manifest_bytes_for_tests = 0;
	printf("# %lu generations, %lu views proven and compared, %lu reopens, at most %lu open files, "
		   "at most %lu retired files, %lu bumps at the end\n",
		   shm->generation.load(), shm->views.load(), shm->reopens.load(), shm->most_files.load(),
		   shm->waited.load(), shm->bumps.load());
	if (result == 0 && (shm->most_files > 40 + 15 || shm->views < 20))
	{
		snprintf(shm->why, sizeof shm->why, "too many open files or too few views");
		result = 1;
	}
	return result;
}

int
main(int argc, char **argv)
{
	Setup(argc, argv);
	printf("1..18\n");
	Report("put, get, delete, iterate, generations, reopen", Wait(Child(TestBasics)));
	Report("merge, and a damaged operand", Wait(Child(TestMerge)));
	Report("refusals", Wait(Child(TestRefusals)));
	Report("index keys of all lengths", Wait(Child(TestIndexKeys)));
	Report("properties", Wait(Child(TestProperties)));
	Report("fresh pages fall to the lowest level", Wait(Child(TestLevels)));
	Report("threads block signals", Wait(Child(TestThreads)));
	Report("a secondary starts no thread and says when it is stale",
		   Wait(Child(TestSecondaryThreads)));
	Report("a flipped byte gives an error, never wrong data", Wait(Child(TestCorruption)));
	Report("a missing file ends a scan with an error", Wait(Child(TestMissingFile)));
	Report("a damaged block fails compactions, not commits", Wait(Child(TestDamagedCompaction)));
	Report("each system call of a commit fails once", TestFaults("faults", 0));
	Report("the same, with a new MANIFEST in each commit", TestFaults("faults_manifest", 1));
	Report("full disk", Wait(Child(TestFullDisk)));
	Report("lock", TestBusy());
	Report("kill -9 while the database is made", TestKillsAtBirth());
	Report("kill -9 at any moment", TestKills());
	printf("# %lu kills inside a commit, generation %lu\n", shm->kills_inside.load(),
		   shm->generation.load());
	Report("readers in other processes", TestReaders());
	return Finish(argc);
}
