# Storages and transactions that are still running, prepared, or were cut off by a
# crash; records that are not in RocksDB yet; unlogged and temporary tables of an
# earlier life of the server; orphans.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use OrbitStorages qw(storages_setup settled await_storages);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = PostgreSQL::Test::Cluster->new('main');
storages_setup($node);
$node->append_conf('postgresql.conf', "orbit.flush_interval = '1h'\nrestart_after_crash = on\nremove_temp_files_after_crash = off");
$node->start;
my $place = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE one LOCATION '$place'");
$node->safe_psql('postgres', q(
CREATE EXTENSION orbit_fdw;
CREATE FUNCTION orbit_stop_point_set(name text, action text, skip int) RETURNS void
	AS 'orbit_fdw' LANGUAGE C STRICT;
CREATE FUNCTION orbit_stop_point_clear(name text) RETURNS void AS 'orbit_fdw' LANGUAGE C STRICT;
CREATE FUNCTION orbit_stop_point_waiters(name text) RETURNS int AS 'orbit_fdw' LANGUAGE C STRICT;
));

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub rows { return sql("SELECT count(*), sum(i) FROM $_[0]") }

my $rows = 'SELECT g FROM generate_series(1, 3000) g';
my $all = '3000|4501500';

sub stop_at { sql("SELECT orbit_stop_point_set('$_[0]', 'wait', 0)") }
sub go_on   { sql("SELECT orbit_stop_point_clear('$_[0]')") }

sub arrived
{
	my ($point) = @_;
	return $node->poll_query_until('postgres', "SELECT orbit_stop_point_waiters('$point') > 0");
}

# SIGKILL to a session's backend; the server restarts itself.
sub kill_session
{
	my ($session) = @_;
	kill 'KILL', $session->query_safe('SELECT pg_backend_pid()');
	$session->{run}->finish;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) == 0;
		sleep 0.1;
	}
	die 'the server did not come back';
}

# Several rounds of the worker, each with all it may do.
sub rounds
{
	for (1 .. 2)
	{
		sql('CREATE TABLE round (i int) USING orbit; DROP TABLE round; SELECT orbit_flush()');
		sleep 0.3;
	}
	return;
}

sub creating_and
{
	my ($tables) = @_;
	return $node->poll_query_until('postgres',
		q(SELECT string_agg(coalesce(relation::text, state), ',' ORDER BY relation::text) FROM orbit_storages()),
		"$tables");
}

# ---- a transaction that creates ---------------------------------------------------------

stop_at('row_create_registered');
my $session = $node->background_psql('postgres');
$session->query_until(qr/started/, "\\echo started\nCREATE TABLE t (i int) USING orbit;\n");
ok(arrived('row_create_registered'), 'a table is being made: its record is there, its file is not');
sql('SELECT orbit_flush()');
sleep 1;
ok(creating_and('creating'), 'the record is in RocksDB and is kept');
go_on('row_create_registered');
$session->query_safe('SELECT 1');
sql("INSERT INTO t $rows");
rounds();
is(settled($node), 't', 'and belongs to the table then');
is(rows('t'), $all, 'which has its rows');

$session->query_safe('BEGIN');
$session->query_safe('CREATE TABLE open (i int) USING orbit');
$session->query_safe("INSERT INTO open $rows");
rounds();
ok(creating_and('t,creating'), 'a transaction that goes on for long');
is($session->query_safe('SELECT count(*) FROM open'), 3000, 'its rows');
$session->query_safe('COMMIT');
is(rows('open'), $all, 'and after its commit');
rounds();
is(settled($node), 'open,t', 'nothing is collected then');

# ---- SET TABLESPACE whose record is only in a write buffer ----------------------------------

sql('ALTER TABLE t SET TABLESPACE one');
sleep 1;
is(settled($node), 'open,t', 'the record of the new file was in a write buffer when the old one went');
is(rows('t'), $all, 'rows');

stop_at('storages-before-confirm');
sql('ALTER TABLE t SET TABLESPACE pg_default');
ok(arrived('storages-before-confirm'), 'the worker is about to confirm that t is gone');
sql('ALTER TABLE t SET TABLESPACE one');
go_on('storages-before-confirm');
sleep 1;
is(settled($node), 'open,t', 'moved once more between look and confirmation');
is(rows('t'), $all, 'rows');

# ---- prepared transactions ---------------------------------------------------------------------

sql("BEGIN; CREATE TABLE p (i int) USING orbit; INSERT INTO p $rows; PREPARE TRANSACTION 'make'");
sql("BEGIN; DROP TABLE open; PREPARE TRANSACTION 'drop'");
sql("BEGIN; ALTER TABLE t SET TABLESPACE pg_default; PREPARE TRANSACTION 'move'");
rounds();
ok(await_storages($node, 3), 'prepared transactions keep old and new storages');
$node->stop('immediate');
$node->start;
rounds();
ok(await_storages($node, 3), 'also after a crash');
$node->restart;
rounds();
ok(await_storages($node, 3), 'and after a restart');
sql("COMMIT PREPARED 'make'");
sql("ROLLBACK PREPARED 'drop'");
sql("COMMIT PREPARED 'move'");
rounds();
is(settled($node), 'open,p,t', 'as they ended');
is(rows($_), $all, "rows of $_") for 'open', 'p', 't';
sql("BEGIN; DROP TABLE open; PREPARE TRANSACTION 'drop'; COMMIT PREPARED 'drop'");
sql("BEGIN; CREATE TABLE q (i int) USING orbit; INSERT INTO q $rows; PREPARE TRANSACTION 'make'");
sql("ROLLBACK PREPARED 'make'");
rounds();
is(settled($node), 'p,t', 'and the other way round');

# ---- unlogged and temporary tables --------------------------------------------------------------

sql("CREATE UNLOGGED TABLE u (i int) USING orbit; INSERT INTO u $rows");
$session = $node->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE tt (i int) USING orbit');
$session->query_safe("INSERT INTO tt $rows");
rounds();
like(settled($node), qr/^p,pg_temp_\d+\.tt,t,u$/, 'an unlogged and a temporary table');
$session->quit;
rounds();
$node->restart;
rounds();
is(settled($node), 'p,t,u', 'a restart keeps the unlogged one');
is(rows('u'), $all, 'and its rows');

$session = $node->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE tt (i int) USING orbit');
$session->query_safe("INSERT INTO tt $rows");
sql("CREATE UNLOGGED TABLE fresh (i int) USING orbit; INSERT INTO fresh $rows");
rounds();
kill_session($session);
rounds();
is(settled($node), 'p,t', 'a crash ends both');
is(rows('u'), '0|', 'the unlogged table is empty');
sql("INSERT INTO u $rows");
rounds();
is(settled($node), 'p,t,u', 'it can be used again');
is(rows('u'), $all, 'and keeps its rows');

# ---- a crash in a transaction that creates ----------------------------------------------------------

is(sql('SELECT count(*) FROM orbit_orphans()'), 0, 'no orphans so far');
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe('CREATE TABLE lost (i int) USING orbit');
$session->query_safe("INSERT INTO lost $rows");
sql('CHECKPOINT');
is(sql('SELECT count(*) FROM orbit_orphans()'), 0, 'a table that is being made is no orphan');
kill_session($session);
rounds();
my ($storage, $file) = split /\|/, sql('SELECT storage, file FROM orbit_orphans()');
ok(defined $storage && $storage > 0, 'a crash leaves its file and its rows');
ok(-f $node->data_dir . "/$file", 'the file is the one listed');
my ($rc, $out, $err) = $node->psql('postgres',
	"SELECT orbit_drop_orphan(storage) FROM orbit_storages() WHERE relation = 't'::regclass");
like($err, qr/has no orphaned file/, 'what belongs to a relation is not dropped');
sql("BEGIN; SELECT orbit_drop_orphan($storage); ROLLBACK");
ok(-s $node->data_dir . "/$file", 'nor an orphan in a transaction that is rolled back');
sql("SELECT orbit_drop_orphan($storage)");
rounds();
is(settled($node), 'p,t', 'it is gone');
is(sql('SELECT count(*) FROM orbit_orphans()'), 0, 'and listed no more');
is(rows($_), $all, "rows of $_") for 'p', 't';
$node->stop;

done_testing();
