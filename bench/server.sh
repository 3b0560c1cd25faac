# Sourced by the benchmarks: servers of their own in a scratch directory ($SCRATCH), reached as user
# bench on a socket there.  At the end they and the directory are gone, but with KEEP=1.
. "$(dirname "${BASH_SOURCE[0]}")/installed.sh"

SCRATCH=$(mktemp -d /tmp/orbit_fdw_bench.XXXXXX) || die "cannot make a directory in /tmp"
chmod 755 "$SCRATCH"
[ "$(id -u)" -ne 0 ] || chown "$OWNER" "$SCRATCH"
export PGHOST=$SCRATCH PGPORT=5432 PGUSER=bench PGDATABASE=postgres
unset PGOPTIONS PGSERVICE

clean_up()
{
	local pidfile

	for pidfile in "$SCRATCH"/*/postmaster.pid; do
		[ -f "$pidfile" ] && as_owner "$BINDIR/pg_ctl" -D "$(dirname "$pidfile")" -m immediate stop >/dev/null 2>&1
	done
	[ -n "${KEEP:-}" ] && echo "Kept $SCRATCH" && return
	rm -rf "$SCRATCH"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# With the extension, the settings given, and those of CONF.
make_server()					# make_server DIRECTORY SETTING...
{
	local directory=$SCRATCH/$1

	shift
	as_owner "$BINDIR/initdb" -D "$directory" -U bench -A trust --no-locale -E UTF8 >/dev/null || die "initdb failed"
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$SCRATCH'" \
		"shared_preload_libraries = 'orbit_fdw'" "$@" "${CONF:-}" |
		as_owner tee -a "$directory/postgresql.conf" >/dev/null
}

start()							# start DIRECTORY; its log is DIRECTORY.log
{
	as_owner "$BINDIR/pg_ctl" -D "$SCRATCH/$1" -l "$SCRATCH/$1.log" -w -t 3600 start >/dev/null ||
		die "the server did not start: $(tail -1 "$SCRATCH/$1.log")"
}

stop()							# stop DIRECTORY MODE
{
	as_owner "$BINDIR/pg_ctl" -D "$SCRATCH/$1" -m "$2" -w -t 3600 stop >/dev/null || die "the server does not stop"
}

sql_in()						# sql_in DATABASE STATEMENT...
{
	local db=$1 args=()

	shift
	for statement; do args+=(-c "$statement"); done
	as_owner "$BINDIR/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$db" "${args[@]}" || die "failed: $*"
}

sql()							# sql STATEMENT...
{
	sql_in postgres "$@"
}
