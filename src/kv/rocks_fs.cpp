/*
 * rocks_fs.cpp: the file system under the primary, the environment under a
 * secondary, and directories.
 *
 * Deferred deletion: a secondary opens SST files when it needs them, so the
 * primary must not delete one that a reader's version still names.  DeleteFile
 * of an SST in the live directory only notes the name.  The next generation
 * ingested proves, to whoever reads it, that the version edit which dropped the
 * file has been seen; the file waits under that tag until every reader is there.
 *
 * The list is lost with the process.  At the next open RocksDB finds the files
 * again as unreferenced and deletes them through here, so they wait for a new
 * generation and for the readers like all others; nothing depends on knowing
 * that no reader survived.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kv/rocks.h"

using rocksdb::DirFsyncOptions;
using rocksdb::FSDirectory;
using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Status;

namespace kv
{

namespace
{

/*
 * On btrfs RocksDB skips the fsync of a directory that got a new file, because
 * fsync of the file does it there.  An ingested file is a hard link, of which
 * this is said nowhere: sync the directory.
 */
class SyncedDirectory : public rocksdb::FSDirectoryWrapper
{
  public:
	explicit SyncedDirectory(std::unique_ptr<FSDirectory> &&dir)
		: FSDirectoryWrapper(std::move(dir)) {}

	IOStatus	FsyncWithDirOptions(const IOOptions &o, IODebugContext *dbg,
									const DirFsyncOptions &how) override
	{
		if (how.reason == DirFsyncOptions::kNewFileSynced)
			return FSDirectoryWrapper::FsyncWithDirOptions(o, dbg, DirFsyncOptions());
		return FSDirectoryWrapper::FsyncWithDirOptions(o, dbg, how);
	}
};

/* Directory part without doubled or trailing slashes. */
std::string
DirectoryOf(const std::string &path)
{
	std::string out;
	size_t		end = path.find_last_of('/');

	for (size_t i = 0; end != std::string::npos && i < end; i++)
		if (path[i] != '/' || out.empty() || out.back() != '/')
			out += path[i];
	while (out.size() > 1 && out.back() == '/')
		out.pop_back();
	return out;
}

}								/* namespace */

DeferFs::DeferFs(const std::string &live)
	: FileSystemWrapper(BaseFileSystem(true)), live_(DirectoryOf(live + "/"))
{
}

/* Is path an SST of the live directory?  *name: its last component. */
bool
DeferFs::LiveSst(const std::string &path, std::string *name) const
{
	static const std::string suffix = ".sst";

	if (path.size() <= suffix.size() ||
		path.compare(path.size() - suffix.size(), suffix.size(), suffix) != 0)
		return false;
	if (DirectoryOf(path) != live_)
		return false;
	*name = path.substr(path.find_last_of('/') + 1);
	return true;
}

/*
 * Is path the MANIFEST that CURRENT names?  When CURRENT cannot be replaced, RocksDB takes the new
 * MANIFEST for the valid one all the same and may delete the old one; the database could then not be
 * opened any more.
 */
bool
DeferFs::NamedByCurrent(const std::string &path) const
{
	std::string name = path.substr(path.find_last_of('/') + 1);
	char		current[100];
	ssize_t		n = -1;
	int			fd;

	if (name.compare(0, 9, "MANIFEST-") != 0)
		return false;
	fd = open((live_ + "/CURRENT").c_str(), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT; /* one is being made, or who knows */
	n = read(fd, current, sizeof current);
	close(fd);
	return n < 0 || std::string(current, n) == name + "\n";
}

IOStatus
DeferFs::DeleteFile(const std::string &path, const IOOptions &o, IODebugContext *dbg)
{
	std::string name;

	if (NamedByCurrent(path))
		return IOStatus::OK();	/* the next open finds it and deletes it if it is old */

	if (!LiveSst(path, &name))
		return FileSystemWrapper::DeleteFile(path, o, dbg);

	std::lock_guard<std::mutex> lock(mutex_);

	waiting_.emplace(name, 0);	/* a second request keeps the tag */
	return IOStatus::OK();
}

/*
 * RocksDB never gives a file number out twice while the file exists.  Were it
 * otherwise, the new file would be deleted in the old one's place.
 */
IOStatus
DeferFs::RefuseWaiting(const std::string &path)
{
	std::string name;

	if (!LiveSst(path, &name))
		return IOStatus::OK();

	std::lock_guard<std::mutex> lock(mutex_);

	if (waiting_.count(name) != 0)
		return IOStatus::IOError("file number reused while its deletion waits", path);
	return IOStatus::OK();
}

IOStatus
DeferFs::NewWritableFile(const std::string &name, const FileOptions &o,
						 std::unique_ptr<rocksdb::FSWritableFile> *file, IODebugContext *dbg)
{
	IOStatus	s = RefuseWaiting(name);

	return s.ok() ? FileSystemWrapper::NewWritableFile(name, o, file, dbg) : s;
}

/*
 * RocksDB copies a file where there are no hard links, but knows fewer ways in which file systems say so.
 * All that a status has of errno is its text.
 */
static bool
MeansNoLinks(const IOStatus &s)
{
	if (!s.IsIOError())
		return false;
	for (int err : {EPERM, EMLINK, ENOSYS})
	{
		if (s.ToString().find(strerror(err)) != std::string::npos)
			return true;
	}
	return false;
}

IOStatus
DeferFs::LinkFile(const std::string &from, const std::string &to, const IOOptions &o,
				  IODebugContext *dbg)
{
	IOStatus	s = RefuseWaiting(to);
	std::string name;

	if (s.ok())
		s = FileSystemWrapper::LinkFile(from, to, o, dbg);
	if (MeansNoLinks(s))
		s = IOStatus::NotSupported(s.ToString());
	if ((s.ok() || s.IsNotSupported()) && LiveSst(to, &name))
	{
		std::lock_guard<std::mutex> lock(mutex_);

		linked_.push_back(name);
	}
	return s;
}

void
DeferFs::BeginLinks()
{
	std::lock_guard<std::mutex> lock(mutex_);

	linked_.clear();
}

/*
 * An ingest that fails forgets the file it was about to sync; it would lie there, one more at each try on a
 * disk that is full perhaps, until RocksDB looks through the directory, hours later.
 */
void
DeferFs::RetireLinks()
{
	std::lock_guard<std::mutex> lock(mutex_);

	for (const auto &name : linked_)
	{
		/* where there are no links it may not have come to the copy */
		if (access((live_ + "/" + name).c_str(), F_OK) == 0)
			waiting_.emplace(name, 0);
	}
}

IOStatus
DeferFs::RenameFile(const std::string &from, const std::string &to, const IOOptions &o,
					IODebugContext *dbg)
{
	IOStatus	s = RefuseWaiting(to);

	return s.ok() ? FileSystemWrapper::RenameFile(from, to, o, dbg) : s;
}

IOStatus
DeferFs::NewDirectory(const std::string &name, const IOOptions &o,
					  std::unique_ptr<FSDirectory> *dir, IODebugContext *dbg)
{
	IOStatus	s = FileSystemWrapper::NewDirectory(name, o, dir, dbg);

	if (s.ok())
		dir->reset(new SyncedDirectory(std::move(*dir)));
	return s;
}

std::vector<std::string>
DeferFs::Untagged()
{
	std::lock_guard<std::mutex> lock(mutex_);
	std::vector<std::string> names;

	for (const auto &file : waiting_)
		if (file.second == 0)
			names.push_back(file.first);
	return names;
}

/* names come from Untagged() and only Unlink() removes any, so all are there. */
void
DeferFs::Tag(const std::vector<std::string> &names, uint64_t generation) noexcept
{
	std::lock_guard<std::mutex> lock(mutex_);

	for (const auto &name : names)
	{
		auto		it = waiting_.find(name);

		if (it != waiting_.end())
			it->second = generation;
	}
}

/*
 * Unlinks a file that no reader needs any more.  Its space is to be free now, but an idle process
 * may have it open in its table cache, for hours: so it is emptied first, unless it has
 * another name, in a snapshot.  No process reads what it has open there: before it reads
 * anything it proves a version in which the file does not occur.  False: not done.
 */
bool
DeferFs::GiveBack(const std::string &path)
{
	struct stat s;
	bool		alone = stat(path.c_str(), &s) == 0 && s.st_nlink == 1;
	IOStatus	io;

	/* RocksDB's own file system has no such call; where it fails, the space comes later */
	if (alone && truncate(path.c_str(), 0) != 0)
		errno = 0;
	io = FileSystemWrapper::DeleteFile(path, IOOptions(), nullptr);
	return io.ok() || io.IsPathNotFound();
}

/*
 * The files go without the lock, which RocksDB's threads take.  Until then they
 * stay listed, so a scan of RocksDB that still sees one does not list it anew.
 */
void
DeferFs::Unlink(uint64_t min_generation, int *untagged, int *waiting)
{
	std::vector<std::string> gone;

	{
		std::lock_guard<std::mutex> lock(mutex_);

		for (const auto &file : waiting_)
			if (file.second != 0 && file.second <= min_generation)
				gone.push_back(file.first);
	}

	for (auto &name : gone)
		if (!GiveBack(live_ + "/" + name))
			name.clear();		/* try again at the next call */

	std::lock_guard<std::mutex> lock(mutex_);

	for (const auto &name : gone)
		waiting_.erase(name);
	*untagged = 0;
	for (const auto &file : waiting_)
		*untagged += file.second == 0;
	*waiting = static_cast<int>(waiting_.size());
}

/* ---- environment of a secondary ---------------------------------------------- */

namespace
{

/*
 * Opening any database starts a thread in each pool, which a secondary never
 * uses.  Should RocksDB schedule work after all, the pool is started then.
 */
class ThreadlessEnv : public rocksdb::EnvWrapper
{
  public:
	ThreadlessEnv() : EnvWrapper(rocksdb::Env::Default())
	{
		/* otherwise each file would pass through a chain of adapters */
		file_system_ = BaseFileSystem(false);
		system_clock_ = rocksdb::Env::Default()->GetSystemClock();
	}

	const char *Name() const override { return "OrbitThreadlessEnv"; }
	void		IncBackgroundThreadsIfNeeded(int, Priority) override {}
	void		Schedule(void (*function) (void *), void *arg, Priority pri, void *tag,
						 void (*unschedule) (void *)) override
	{
		SignalGuard guard;

		EnvWrapper::IncBackgroundThreadsIfNeeded(1, pri);
		EnvWrapper::Schedule(function, arg, pri, tag, unschedule);
	}
};

}								/* namespace */

std::unique_ptr<rocksdb::Env>
NewThreadlessEnv()
{
	return std::unique_ptr<rocksdb::Env>(new ThreadlessEnv());
}

/* ---- directories ------------------------------------------------------------------ */

Status
ErrnoStatus(const char *what, const std::string &path, int err)
{
	if (err == ENOSPC || err == EDQUOT)
		return Status::NoSpace(std::string(what) + " " + path, strerror(err));
	return Status::IOError(std::string(what) + " " + path, strerror(err));
}

/* The mode is the umask's business: PostgreSQL's is 077 or 027. */
Status
MakeDirectory(const std::string &path)
{
	if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
		return ErrnoStatus("could not create directory", path, errno);
	return Status::OK();
}

Status
SyncDirectory(const std::string &path)
{
	int			fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int			err = 0;

	if (fd < 0)
		return ErrnoStatus("could not open directory", path, errno);
	if (Syncs() && fsync(fd) != 0)
		err = errno;
	close(fd);
	return err == 0 ? Status::OK() : ErrnoStatus("could not fsync directory", path, err);
}

Status
EmptyDirectory(const std::string &path)
{
	DIR		   *dir = opendir(path.c_str());
	int			err = 0;

	if (dir == nullptr)
		return ErrnoStatus("could not open directory", path, errno);
	while (struct dirent *entry = readdir(dir))
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), entry->d_name, 0) != 0 && errno != ENOENT)
			err = errno;
	}
	closedir(dir);
	return err == 0 ? Status::OK() : ErrnoStatus("could not empty directory", path, err);
}

}								/* namespace kv */

bool
KvLinkImpossible(int err)
{
	return err == EPERM || err == EOPNOTSUPP || err == EXDEV || err == EMLINK || err == ENOSYS;
}
