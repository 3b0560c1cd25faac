/*
 * kv_testing.h: what the unit tests of src/kv share: processes, TAP, files, short forms of
 * the interface.  Every database is opened in a forked child, never before a fork.
 */
#ifndef KV_TESTING_H
#define KV_TESTING_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "kv/kv.h"

using std::string;
using std::vector;

/* ---- processes and TAP ------------------------------------------------------------ */

constexpr int Readers = 2;
constexpr int Skip = 77;

struct Shared
{
	std::atomic<uint64_t> generation;	/* newest acknowledged */
	std::atomic<uint64_t> pin[Readers];
	std::atomic<uint64_t> ready, inside, stop;
	std::atomic<uint64_t> views, reopens, most_files, kills_inside, waited, bumps;
	char		why[2000];
};

static Shared *shm;
static string scratch;
static int	factor = 1;
static int	tests, failures;

inline void
Fail(int line, const char *format,...)
{
	va_list		args;
	size_t		n;

	va_start(args, format);
	n = snprintf(shm->why, sizeof shm->why, "line %d: ", line);
	vsnprintf(shm->why + n, sizeof shm->why - n, format, args);
	va_end(args);
	_exit(1);
}

#define CHECK(cond, ...) do { if (!(cond)) Fail(__LINE__, __VA_ARGS__); } while (0)
#define MUST(x) EXPECT(x, KV_OK)
#define EXPECT(x, want) \
	do { \
		const KvStatus &st_ = (x); \
		CHECK(st_.code == (want), "code %d, not %d: %s", st_.code, (want), st_.message); \
	} while (0)

inline pid_t
Child(const std::function<void()> &f)
{
	pid_t		pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
	{
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(120 * factor);
		f();
		_exit(0);
	}
	return pid;
}

/* 0, Skip, or something else for a failure. */
inline int
Wait(pid_t pid)
{
	int			status;

	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		snprintf(shm->why, sizeof shm->why, "signal %d", WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

inline void
Report(const char *name, int result)
{
	tests++;
	if (result == Skip)
		printf("ok %d - %s # SKIP %s\n", tests, name, shm->why);
	else
		printf("%s %d - %s\n", result == 0 ? "ok" : "not ok", tests, name);
	if (result != 0 && result != Skip)
	{
		failures++;
		printf("# %s\n", shm->why);
	}
	fflush(stdout);
}

inline double
Now()
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

inline uint32_t
Hash(uint64_t a, uint64_t b)
{
	uint64_t	h = (a * 1000003 + b + 1) * UINT64_C(0x9e3779b97f4a7c15);

	h ^= h >> 29;
	h *= UINT64_C(0xbf58476d1ce4e5b9);
	return static_cast<uint32_t>(h >> 32);
}

/* ---- files ----------------------------------------------------------------------------- */

inline vector<string>
List(const string &dir, const string &suffix)
{
	vector<string> names;
	DIR		   *d = opendir(dir.c_str());

	while (struct dirent *e = d ? readdir(d) : nullptr)
	{
		string		name = e->d_name;

		if (name[0] != '.' && name.size() >= suffix.size() &&
			name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0)
			names.push_back(name);
	}
	if (d)
		closedir(d);
	return names;
}

inline string
Fresh(const char *name)
{
	string		dir = scratch + "/" + name;
	string		command = "rm -rf '" + dir + "'";

	if (system(command.c_str()) != 0 || mkdir(dir.c_str(), 0700) != 0)
		Fail(__LINE__, "cannot make %s", dir.c_str());
	return dir;
}

inline string
Biggest(const string &dir)
{
	string		best;
	off_t		most = -1;

	for (auto &name : List(dir, ".sst"))
	{
		struct stat s;

		if (stat((dir + "/" + name).c_str(), &s) == 0 && s.st_size > most)
		{
			most = s.st_size;
			best = dir + "/" + name;
		}
	}
	return best;
}

/* ---- short forms of the interface --------------------------------------------------------- */

inline KvOptions
Small()
{
	KvOptions	o = {};

	o.block_cache_bytes = 1 << 20;
	o.target_file_bytes = 64 << 10;
	o.max_background_jobs = 2;
	o.compression = 1;
	o.bottommost_compression = 2;
	o.max_open_files = 40;
	return o;
}

inline KvDb *
Primary(const string &dir, KvOptions o = Small())
{
	KvStatus	st;
	KvDb	   *db;

	KvOpenPrimary(dir.c_str(), &o, &db, &st);
	MUST(st);
	return db;
}

inline KvDb *
Secondary(const string &dir, KvOptions o = Small())
{
	KvStatus	st;
	KvDb	   *db;

	KvOpenSecondary(dir.c_str(), &o, &db, &st);
	MUST(st);
	return db;
}

inline KvBatch *
Begin(KvDb *db)
{
	KvStatus	st;
	KvBatch    *b = KvBatchBegin(db, &st);

	MUST(st);
	return b;
}

inline uint64_t
Commit(KvBatch *b)
{
	KvStatus	st;
	uint64_t	generation;

	KvBatchCommit(b, &generation, &st);
	MUST(st);
	return generation;
}

inline void
Put(KvBatch *b, OrbitFamily f, const string &key, const string &value)
{
	KvStatus	st;

	KvBatchPut(b, f, key.data(), key.size(), value.data(), value.size(), &st);
	MUST(st);
}

inline void
Merge(KvBatch *b, const string &key, const string &value)
{
	KvStatus	st;

	KvBatchMerge(b, ORBIT_PG_DATA, key.data(), key.size(), value.data(), value.size(), &st);
	MUST(st);
}

inline KvStatus
Get(KvDb *db, OrbitFamily f, const string &key, string *value)
{
	KvStatus	st;
	CodecBuf	out = {};

	KvGet(db, f, key.data(), key.size(), &out, &st);
	value->assign(out.data ? out.data : "", out.len);
	CodecBufFree(&out);
	return st;
}

inline uint64_t
Generation(KvDb *db, OrbitFamily f)
{
	KvStatus	st;
	uint64_t	generation;

	KvGeneration(db, f, &generation, &st);
	MUST(st);
	return generation;
}

inline KvIter *
Iterate(KvDb *db, OrbitFamily f, const string *lower = nullptr, const string *upper = nullptr)
{
	KvStatus	st;
	KvIter	   *it = KvIterCreate(db, f, lower ? lower->data() : nullptr, lower ? lower->size() : 0,
								  upper ? upper->data() : nullptr, upper ? upper->size() : 0,
								  0, &st);

	MUST(st);
	return it;
}

inline string
Key(KvIter *it)
{
	const char *p;
	size_t		n;

	KvIterKey(it, &p, &n);
	return string(p, n);
}

inline string
Value(KvIter *it)
{
	const char *p;
	size_t		n;

	KvIterValue(it, &p, &n);
	return string(p, n);
}

inline KvStatus
Status(KvIter *it)
{
	KvStatus	st;

	KvIterStatus(it, &st);
	return st;
}

inline string
Scan(KvDb *db, OrbitFamily f, const string *lower = nullptr, const string *upper = nullptr)
{
	KvIter	   *it = Iterate(db, f, lower, upper);
	string		out;

	for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it))
		out += Key(it) + " ";
	MUST(Status(it));
	KvIterDestroy(it);
	return out;
}

inline string
Number(uint64_t v)
{
	return string(reinterpret_cast<char *>(&v), sizeof v);
}

inline uint64_t
NumberOf(const string &s)
{
	uint64_t	v = 0;

	CHECK(s.size() == sizeof v, "%zu bytes instead of a number", s.size());
	memcpy(&v, s.data(), sizeof v);
	return v;
}

inline string
Big(uint64_t v, int bytes)
{
	string		s;

	while (bytes--)
		s += static_cast<char>(v >> 8 * bytes);
	return s;
}

inline string
PageKey(uint64_t storage, uint32_t page)
{
	char		key[CODEC_PAGE_KEY_SIZE];

	CodecPageKey(key, storage, page);
	return string(key, sizeof key);
}

inline void
Compact(KvDb *db, OrbitFamily f)
{
	KvStatus	st;

	KvCompactRange(db, f, nullptr, 0, nullptr, 0, &st);
	MUST(st);
}

/* What is in the pool already: nothing. */
inline bool
NotPooled(uint64_t number, void *arg)
{
	return false;
}

/* A snapshot in dir, whose files get names in the directory pool; out: NULL, or to be freed. */
inline KvStatus
MakeSnapshot(KvDb *db, const string &dir, const string &pool, KvSnapshot *out = nullptr,
		 KvPooled pooled = NotPooled, void *arg = nullptr)
{
	KvStatus	st;
	KvSnapshot	s;

	KvMakeSnapshot(db, dir.c_str(), pool.c_str(), pooled, arg, &s, &st);
	if (out != nullptr)
		*out = s;
	else
		KvFreeSnapshot(&s);
	return st;
}

/* ---- a file system to be filled -------------------------------------------------- */

inline bool
WriteFile(const char *path, const string &text)
{
	int			fd = open(path, O_WRONLY);
	bool		ok = fd >= 0 &&
		write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());

	close(fd);
	return ok;
}

/* A small file system of our own; false when that is not allowed here. */
inline bool
MountSmall(const string &dir, const char *options)
{
	string		uid = std::to_string(getuid()), gid = std::to_string(getgid());

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
		return false;
	return WriteFile("/proc/self/setgroups", "deny") &&
		WriteFile("/proc/self/uid_map", "0 " + uid + " 1") &&
		WriteFile("/proc/self/gid_map", "0 " + gid + " 1") &&
		mount("tmpfs", dir.c_str(), "tmpfs", 0, options) == 0;
}

/* ---- main ---------------------------------------------------------------------- */

/* Scratch directory and shared memory. */
inline void
Setup(int argc, char **argv)
{
	static char made[] = "/tmp/kv_test.XXXXXX";

	shm = static_cast<Shared *>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
									 MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	scratch = argc > 1 ? argv[1] : mkdtemp(made);
	factor = argc > 2 ? atoi(argv[2]) : 1;
}

/* The exit code. */
inline int
Finish(int argc)
{
	if (argc <= 1 && system(("rm -rf '" + scratch + "'").c_str()) != 0)
		printf("# cannot remove %s\n", scratch.c_str());
	return failures == 0 ? 0 : 1;
}

#endif							/* KV_TESTING_H */
