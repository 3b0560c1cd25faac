# What is left of dropped tables in RocksDB goes: DROP, TRUNCATE, rewrites, rollbacks,
# temporary and unlogged tables, databases, tablespaces; and nothing else does.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use OrbitStorages qw(storages_setup storages settled await_storages sst_bytes);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
storages_setup($node);
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION orbit_fdw');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Every statement makes storages; at the end only those of $tables may be left.
sub leaves
{
	my ($name, $tables, @statements) = @_;
	sql($_) for @statements;
	is(settled($node), $tables, $name);
}

my $rows = q(SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, 2000) g);

sql("CREATE TABLE keep (i int PRIMARY KEY, v text) USING orbit; INSERT INTO keep $rows");
my $keep = sql('SELECT count(*), sum(length(v)) FROM keep');
is(settled($node), 'keep', 'a table is there');
my $bytes = sst_bytes($node);

# ---- one table ------------------------------------------------------------------------

my $create = "CREATE TABLE t (i int, v text) USING orbit; INSERT INTO t $rows";

leaves('DROP TABLE', 'keep', $create, 'SELECT orbit_flush()', 'DROP TABLE t');
leaves('DROP TABLE of rows that were never flushed', 'keep', $create, 'DROP TABLE t');
leaves('DROP TABLE of an empty table', 'keep', 'CREATE TABLE t (i int) USING orbit', 'DROP TABLE t');
leaves('rollback of a creation', 'keep', "BEGIN; $create; ROLLBACK");
leaves('rollback of a creation to a savepoint', 'keep', "BEGIN; SAVEPOINT s; $create; ROLLBACK TO s; COMMIT");
leaves('TRUNCATE', 'keep,t', $create, 'TRUNCATE t', "INSERT INTO t $rows");
is(sql('SELECT count(*) FROM t'), 2000, 'rows after TRUNCATE');
leaves('TRUNCATE rolled back', 'keep,t', "BEGIN; TRUNCATE t; INSERT INTO t $rows; ROLLBACK");
is(sql('SELECT count(*) FROM t'), 2000, 'rows after TRUNCATE was rolled back');
leaves('rewrites', 'keep,t', 'VACUUM FULL t', 'ALTER TABLE t ALTER i TYPE bigint',
	'ALTER TABLE t SET UNLOGGED', 'ALTER TABLE t SET LOGGED');
leaves('TRUNCATE in the transaction that created', 'keep,t,t2',
	"BEGIN; CREATE TABLE t2 (i int, v text) USING orbit; INSERT INTO t2 $rows; TRUNCATE t2; INSERT INTO t2 $rows; COMMIT",
	'CHECKPOINT');
is(sql('SELECT count(*) FROM t2'), 2000, 'its rows');
leaves('SET ACCESS METHOD heap', 'keep,t', 'ALTER TABLE t2 SET ACCESS METHOD heap', 'DROP TABLE t2');
is(sql('SELECT count(*) FROM t'), 2000, 'rows after all this');
leaves('DROP TABLE at last', 'keep', 'DROP TABLE t');
leaves('materialized views', 'keep,mv',
	'CREATE MATERIALIZED VIEW mv USING orbit AS SELECT * FROM keep', 'REFRESH MATERIALIZED VIEW mv');
leaves('and their end', 'keep', 'DROP MATERIALIZED VIEW mv');

# ---- unlogged and temporary ----------------------------------------------------------------

leaves('unlogged table', 'keep,u', "CREATE UNLOGGED TABLE u (i int, v text) USING orbit; INSERT INTO u $rows");
leaves('TRUNCATE of an unlogged table', 'keep,u', 'TRUNCATE u', "INSERT INTO u $rows");
is(sql('SELECT count(*) FROM u'), 2000, 'rows of the unlogged table');
leaves('DROP of an unlogged table', 'keep', 'DROP TABLE u');
leaves('temporary tables of a session that ended', 'keep',
	"CREATE TEMP TABLE tt (i int, v text) USING orbit; INSERT INTO tt $rows");
leaves('ON COMMIT DROP, ON COMMIT DELETE ROWS', 'keep',
	"BEGIN; CREATE TEMP TABLE tt (i int, v text) USING orbit ON COMMIT DROP; INSERT INTO tt $rows; COMMIT;
	 CREATE TEMP TABLE td (i int, v text) USING orbit ON COMMIT DELETE ROWS;
	 BEGIN; INSERT INTO td $rows; COMMIT; BEGIN; INSERT INTO td $rows; COMMIT; DROP TABLE td;");

my $session = $node->background_psql('postgres');
$session->query_safe("CREATE TEMP TABLE tt (i int, v text) USING orbit");
$session->query_safe("INSERT INTO tt $rows");
like(settled($node), qr/^keep,pg_temp_\d+\.tt$/, 'a temporary table in use');
is($session->query_safe('SELECT count(*) FROM tt'), 2000, 'its rows');
$session->query_safe('TRUNCATE tt');
$session->query_safe("INSERT INTO tt SELECT * FROM keep LIMIT 7");
like(settled($node), qr/^keep,pg_temp_\d+\.tt$/, 'after TRUNCATE');
is($session->query_safe('SELECT count(*) FROM tt'), 7, 'its rows');
$session->quit;

# In a session that goes on, too.
$session = $node->background_psql('postgres');
$session->query_safe('CREATE TEMP TABLE td (i int) USING orbit ON COMMIT DELETE ROWS');
$session->query_safe("BEGIN; INSERT INTO td VALUES ($_); COMMIT") for 1 .. 5;
like(settled($node), qr/^keep,pg_temp_\d+\.td$/, 'ON COMMIT DELETE ROWS leaves one storage at a time');
$session->query_safe('BEGIN');
$session->query_safe('INSERT INTO td VALUES (1)');
is($session->query_safe('SELECT count(*) FROM td'), 1, 'and a row of the next transaction');
$session->query_safe('COMMIT');
$session->quit;
is(settled($node), 'keep', 'its session has ended');

# ---- what is left --------------------------------------------------------------------------------

is(sql('SELECT count(*), sum(length(v)) FROM keep'), $keep, 'the table that was never touched');
is(sql('SELECT count(*) FROM orbit_orphans()'), 0, 'no orphans');
# Beside the table there are files of one generation key each.
cmp_ok(sst_bytes($node), '<', $bytes + 150_000, 'the space has come back');

$node->restart;
is(settled($node), 'keep', 'nothing comes back after a restart');
is(sql('SELECT count(*), sum(length(v)) FROM keep'), $keep, 'and nothing is lost');
$node->stop;

done_testing();
