/*
 * rocks_log.cpp: where RocksDB's own words go: pgsql_tmp_live/LOG for the primary, nowhere
 * for a secondary.
 *
 * RocksDB's logger is not used: when a write to LOG fails, as on a full disk, the
 * next line ends the process by an assertion (Debian builds librocksdb with
 * assertions).  This one loses the line instead, and keeps two files of LogBytes.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kv/rocks.h"

using rocksdb::InfoLogLevel;
using rocksdb::Logger;

namespace kv
{

namespace
{

constexpr uint64_t LogBytes = 4 << 20;

class FileLogger : public Logger
{
  public:
	explicit FileLogger(const std::string &live)
		: Logger(InfoLogLevel::INFO_LEVEL), path_(live + "/LOG"), old_(live + "/LOG.old")
	{
		Open();
	}
	~FileLogger() override
	{
		if (fd_ >= 0)
			close(fd_);
	}
	using Logger::Logv;
	void		Logv(const char *format, va_list args) override
		__attribute__((format(printf, 2, 0)));
	size_t		GetLogFileSize() const override { return bytes_; }

  private:
	void		Open();
	void		Write(const char *line, size_t len);

	const std::string path_;
	const std::string old_;
	std::mutex	mutex_;
	int			fd_ = -1;
	uint64_t	bytes_ = 0;
};

void
FileLogger::Open()
{
	struct stat s;

	fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	bytes_ = fd_ >= 0 && fstat(fd_, &s) == 0 ? s.st_size : 0;
}

void
FileLogger::Write(const char *line, size_t len)
{
	std::lock_guard<std::mutex> lock(mutex_);

	if (bytes_ >= LogBytes)
	{
		close(fd_);
		(void) rename(path_.c_str(), old_.c_str());
		fd_ = -1;
	}
	if (fd_ < 0)
		Open();
	if (fd_ >= 0 && write(fd_, line, len) > 0)
		bytes_ += len;
}

/* Some lines, with the numbers of all files in them, are cut off. */
void
FileLogger::Logv(const char *format, va_list args)
{
	char		line[4096];
	struct timespec now;
	struct tm	t;
	size_t		room = sizeof line - 1; /* for the newline */
	size_t		n;
	int			made;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &t);
	n = strftime(line, room, "%Y-%m-%d %H:%M:%S", &t);
	n += snprintf(line + n, room - n, ".%06ld UTC [%d] ", now.tv_nsec / 1000,
				  static_cast<int>(gettid()));
	made = vsnprintf(line + n, room - n, format, args);
	if (made > 0)
		n = n + made < room ? n + made : room - 1;
	if (line[n - 1] != '\n')
		line[n++] = '\n';
	Write(line, n);
}

class NullLogger : public Logger
{
  public:
	NullLogger() : Logger(InfoLogLevel::NUM_INFO_LOG_LEVELS) {}
	using Logger::Logv;
	void		Logv(const char *, va_list) override {}
};

}								/* namespace */

std::shared_ptr<Logger>
NewFileLogger(const std::string &live)
{
	return std::make_shared<FileLogger>(live);
}

std::shared_ptr<Logger>
NewNullLogger()
{
	return std::make_shared<NullLogger>();
}

}								/* namespace kv */
