# Sourced by the scripts beside it: where things are and who runs the server.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PG_CONFIG=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
ORBIT_PORT=${ORBIT_PORT:-15432}
DATA_LINK=$TOP/orbit_data

# One clear line, and a status that says so.
die()
{
	echo "orbit_fdw: $*" >&2
	exit 1
}

# A server cannot run as root: as root everything of it runs as the user whose
# data they are, and that is postgres when there are none yet.
OWNER=$(id -un)
if [ "$(id -u)" -eq 0 ]; then
	OWNER=$(stat -L -c %U "$DATA_LINK" 2>/dev/null || echo postgres)
	[ "$OWNER" != root ] || OWNER=postgres
fi

as_owner()
{
	if [ "$(id -u)" -eq 0 ]; then
		(cd / && exec runuser -u "$OWNER" -- "$@")
	else
		"$@"
	fi
}

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "installing the extension needs root: run as root, or install sudo"
	fi
}

# Sets BINDIR; the server's programs must be of PostgreSQL 15.
find_postgres()
{
	local version

	[ -x "$PG_CONFIG" ] || die "$PG_CONFIG is missing: run make deps"
	version=$("$PG_CONFIG" --version | head -1)
	case $version in
		"PostgreSQL 15."*) ;;
		*) die "$PG_CONFIG is of $version: orbit_fdw needs PostgreSQL 15" ;;
	esac
	BINDIR=$("$PG_CONFIG" --bindir)
	[ -x "$BINDIR/postgres" ] || die "no server in $BINDIR: install postgresql-15"
}

# The data directory: ./orbit_data itself, or where it points.
data_dir()
{
	readlink -f "$DATA_LINK"
}

server_running()
{
	as_owner "$BINDIR/pg_ctl" -D "$(data_dir)" status >/dev/null 2>&1
}

# The port that the cluster's own settings name.
server_port()
{
	as_owner "$BINDIR/postgres" -C port -D "$(data_dir)"
}
