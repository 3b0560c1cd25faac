# Sourced by the scripts beside it: a scratch directory with PostgreSQL's suites, and servers in it.
# Needs scripts/common.sh, TOP as the current directory, RESULTS.

"$TOP/scripts/install-deps" build server test || exit 1
find_postgres
PGXS=$(dirname "$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")")
SOURCE=$(upstream/fetch) || exit 1

# ---- scratch --------------------------------------------------------------------

make_scratch()
{
	SCRATCH=$(mktemp -d /tmp/orbit_fdw_upstream.XXXXXX) || die "cannot make a directory in /tmp"
	rm -rf "$RESULTS"
	mkdir -p "$RESULTS" || die "no permission to write in $TOP/build"
	cp -r "$SOURCE/src/test/regress" "$SOURCE/src/test/isolation" "$SOURCE/dl" upstream/contents.sql "$SCRATCH/"
	chmod 755 "$SCRATCH"
	[ "$(id -u)" -ne 0 ] || chown -R "$OWNER" "$SCRATCH"
}

clean_up()
{
	local pidfile

	[ -n "${SCRATCH:-}" ] || return
	for pidfile in "$SCRATCH"/data.*/postmaster.pid; do
		[ -f "$pidfile" ] && as_owner "$BINDIR/pg_ctl" -D "$(dirname "$pidfile")" -m immediate stop >/dev/null 2>&1
	done
	[ -n "${ORBIT_UPSTREAM_KEEP:-}" ] && echo "Kept $SCRATCH" && return
	rm -rf "$SCRATCH"
}

in_scratch()
{
	(
		cd "$SCRATCH" || exit 1
		set -- env -u PGDATABASE -u PGDATA -u PGOPTIONS -u PGSERVICE HOME="$SCRATCH" PATH="$BINDIR:$PATH" \
			LC_ALL=C PGHOST="$SCRATCH" PGPORT=5432 PGUSER=postgres "$@"
		if [ "$(id -u)" -eq 0 ]; then
			exec runuser -u "$OWNER" -- "$@"
		fi
		exec "$@"
	) </dev/null
}

# ---- servers ----------------------------------------------------------------------

# A run is heap, or orbit with small or large buffers.
settings()						# settings RUN
{
	cat <<-END
		listen_addresses = ''
		unix_socket_directories = '$SCRATCH'
		fsync = off
		max_prepared_transactions = 2
		default_table_access_method = 'orbit'
		log_line_prefix = '%m [%p] %e %b %a '
	END
	case $1 in
		heap) return ;;
		small)
			cat <<-END
				orbit.write_buffer_size = '1MB'
				orbit.max_write_buffers = 4
				orbit.flush_interval = '500ms'
			END
			;;
		large) echo "orbit.write_buffer_size = '64MB'" ;;
	esac
	echo "shared_preload_libraries = 'orbit_fdw'"
}

start_server()					# start_server RUN
{
	local data=$SCRATCH/data.$1

	in_scratch "$BINDIR/initdb" -D "$data" -U postgres -A trust --no-locale -E UTF8 >/dev/null || die "initdb failed"
	settings "$1" | as_owner tee -a "$data/postgresql.conf" >/dev/null
	in_scratch "$BINDIR/pg_ctl" -D "$data" -l "$SCRATCH/$1.log" -w start >/dev/null ||
		die "the server did not start: $(tail -1 "$SCRATCH/$1.log")"
}

stop_server()
{
	in_scratch "$BINDIR/pg_ctl" -D "$SCRATCH/data.$1" -m fast -w stop >/dev/null || die "the server does not stop"
}

# What PostgreSQL's drivers set for a database that they create.
create_database()				# create_database RUN NAME
{
	local method="CREATE EXTENSION orbit_fdw" setting

	[ "$1" != heap ] || method="CREATE ACCESS METHOD orbit TYPE TABLE HANDLER heap_tableam_handler"
	in_scratch psql -X -q -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE $2 TEMPLATE template0" || die "no database"
	for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" \
		"bytea_output TO 'hex'" "timezone_abbreviations TO 'Default'"; do
		in_scratch psql -X -q -d "$2" -c "ALTER DATABASE $2 SET $setting" || die "no database"
	done
	in_scratch psql -X -q -v ON_ERROR_STOP=1 -d "$2" -c "$method" || die "no access method"
}

# ---- suites ---------------------------------------------------------------------------

# The drivers count what differs from the shipped expected files: nothing that is of use here.
run_suite()						# run_suite RUN SUITE
{
	local out=$SCRATCH/out.$1.$2 driver database schedule limit=1800

	case $2 in
		regress) driver=$PGXS/src/test/regress/pg_regress database=regression schedule=parallel_schedule ;;
		isolation) driver=$PGXS/src/test/isolation/pg_isolation_regress database=isolation_regression
			schedule=isolation_schedule ;;
		*) die "no suite $2: there are regress and isolation" ;;
	esac
	create_database "$1" "$database"
	in_scratch mkdir -p "$out"
	in_scratch timeout -k 30 $limit "$driver" --use-existing --dbname="$database" --bindir="$BINDIR" \
		--inputdir="$SCRATCH/$2" --outputdir="$out" --dlpath="$SCRATCH/dl" \
		--max-concurrent-tests=20 --schedule="$SCRATCH/$2/$schedule" --host="$SCRATCH" --port=5432 \
		--user=postgres >"$SCRATCH/$1.$2.out" 2>&1
	[ $? -lt 2 ] || echo "The suite $2 on $1 did not run to its end: $(tail -1 "$SCRATCH/$1.$2.out")"
}

# What is tested is a development build.
build_and_install()
{
	{
		make -j"$(nproc)" ORBIT_DEV=1 all && as_root make ORBIT_DEV=1 install
	} >"$RESULTS/build.log" 2>&1 || die "the development build failed: see $RESULTS/build.log"
	echo "Sources $(basename "$SOURCE"), server $("$PG_CONFIG" --version)"
}


# ---- contents of tables --------------------------------------------------------------

# A line for each permanent table of a database (contents.sql); of materialized views, too, unless told.
table_contents()				# table_contents DATABASE [PORT [KINDS]]
{
	local port=${2:-5432} kinds=${3:-r m}

	in_scratch psql -X -q -At -p "$port" -d "$1" -v ON_ERROR_STOP=1 -v kinds="$kinds" -f contents.sql >"$SCRATCH/contents.$$" &&
		[ -s "$SCRATCH/contents.$$" ] &&
		in_scratch psql -X -q -At -p "$port" -d "$1" -v ON_ERROR_STOP=1 -f "contents.$$"
}
