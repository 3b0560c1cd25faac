# A table's rows do not lie in its file, so a file that moves must take nothing along and
# lose nothing: ALTER TABLE SET TABLESPACE, committed and undone, and ALTER DATABASE SET TABLESPACE,
# which moves files without asking the access method.  After each, a crash and a restart.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node worker_pid wait_recovered);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = orbit_node('main', 'autovacuum = off', 'restart_after_crash = on',
	q{default_table_access_method = 'orbit'}, 'fsync = off');
my $base = PostgreSQL::Test::Utils::tempdir_short();
for my $space ('near', 'far')
{
	mkdir "$base/$space" or die $!;
	$node->safe_psql('postgres', "CREATE TABLESPACE $space LOCATION '$base/$space'");
}

sub sql { return $node->safe_psql('mv', $_[0]) }

sub refusal
{
	my ($db, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, $sql);
	return $err;
}

# kill -9 of the storage worker: the postmaster ends everybody and replays the WAL.
sub crash
{
	my $pid = worker_pid($node) or die 'no worker';
	kill 'KILL', $pid;
	wait_recovered($node, $pid) or die 'the server does not come back';
}

my $kept = 0;    # rounds of changes that are to be seen

# One round: new rows, changes in place and by new rows, deletes, and an aborted try of each.
my $change = q{
INSERT INTO %1$s SELECT %2$d * 1000 + g, g %% 10, repeat('r', g), repeat(md5(g::text), 100) FROM generate_series(1, 100) g;
UPDATE %1$s SET s = s || '+' WHERE id %% 3 = 0;
UPDATE %1$s SET k = k + 1 WHERE id %% 5 = 0;
DELETE FROM %1$s WHERE id %% 1000 = 50;
BEGIN; DELETE FROM %1$s WHERE id %% 7 = 0; UPDATE %1$s SET k = -1, s = 'never'; ROLLBACK;};

sub change
{
	my (@tables) = @_;
	$kept++;
	sql(sprintf($change, $_, $kept)) for @tables, 'twin';
	return;
}

# Every table by a scan and by each index against a heap that had the same.
sub same
{
	my ($what, @tables) = @_;
	my $sum = q{SELECT count(*), sum(hashtext(x::text)::bigint) FROM %s x};
	my $expected = sql(sprintf($sum, 'twin'));
	for my $table (@tables)
	{
		my $got = sql(sprintf($sum, $table) . ';'
			  . 'SET enable_seqscan = off; SET enable_bitmapscan = off;'
			  . "SELECT count(*) FROM twin t JOIN LATERAL (SELECT * FROM $table x WHERE x.id = t.id) x ON x::text = t::text;"
			  . "SELECT count(*) FROM generate_series(0, 20) g, LATERAL (SELECT FROM $table x WHERE x.k = g) x");
		my ($n) = $expected =~ /^(\d+)/;
		is($got, "$expected\n$n\n$n", "$table: $what");
	}
	return;
}

sub tablespace_of
{
	my ($table) = @_;
	return sql(qq{SELECT coalesce(spcname, 'default') || ' ' || (pg_relation_filepath('$table') LIKE 'pg_tblspc/%')
		FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = reltablespace WHERE c.oid = '$table'::regclass});
}

$node->safe_psql('postgres', 'CREATE DATABASE mv');
sql('CREATE EXTENSION orbit_fdw') if sql(q{SELECT count(*) FROM pg_am WHERE amname = 'orbit'}) == 0;
for my $table ('plain', 'wanders', 'twin')
{
	my $am = $table eq 'twin' ? 'heap' : 'orbit';
	sql("CREATE TABLE $table (id INT PRIMARY KEY, k INT, s TEXT, wide TEXT) USING $am; CREATE INDEX ON $table (k)");
}
sql('CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) i');
my @both = ('plain', 'wanders');

# ---- a table moves ---------------------------------------------------------------------------

# At once: its file may not have been written out yet.
change(@both);
sql('ALTER TABLE wanders SET TABLESPACE near');
same('moved', 'wanders');
crash();
is(tablespace_of('wanders'), 'near true', 'it is where it was moved');
same('moved, after a crash', @both);

change(@both);
sql('SELECT orbit_flush()');
change(@both);
sql(q{BEGIN;
	UPDATE wanders SET k = 15;
	ALTER TABLE wanders SET TABLESPACE far;
	INSERT INTO wanders VALUES (-1, 1, 'never');
	UPDATE wanders SET s = 'never' WHERE id > 100;
	SELECT orbit_flush();
	ROLLBACK});
same('a move that is undone', 'wanders');
sql(q{BEGIN; SAVEPOINT a;
	ALTER TABLE wanders SET TABLESPACE far; UPDATE wanders SET k = 15;
	ROLLBACK TO a;
	ALTER TABLE wanders SET TABLESPACE pg_default;
	COMMIT});
is(tablespace_of('wanders'), 'default false', 'moved after an undone move');
change(@both);
same('moved after an undone move', @both);

# In another database, for a crash leaves the copied file behind, as it does of a heap table.
$node->safe_psql('postgres', 'CREATE TABLE left_alone AS SELECT generate_series(1, 1000) i');
my $mover = $node->background_psql('postgres');
$mover->query_safe('BEGIN; ALTER TABLE left_alone SET TABLESPACE near; UPDATE left_alone SET i = 0; SELECT orbit_flush()');
crash();
eval { $mover->quit };
is($node->safe_psql('postgres', q{SELECT count(*), sum(i), pg_relation_filepath('left_alone') LIKE 'base/%' FROM left_alone}),
	'1000|500500|t', 'a crash in the middle of a move undoes it');
same('a crash in the middle of a move', @both);
is(sql('SELECT count(*) FROM unlogged'), 0, 'the unlogged table was emptied by the crash');
sql('INSERT INTO unlogged SELECT generate_series(1, 1000)');

# ---- a database moves --------------------------------------------------------------------------

change(@both);
sql('SELECT orbit_flush()');
change(@both);
$node->safe_psql('postgres', 'ALTER DATABASE mv SET TABLESPACE far');
is(tablespace_of('plain'), 'default true', 'the files are in the new tablespace');
same('the database moved', @both);
# The rows of both databases would be the same ones.  No record says where the files are now.
like(refusal('postgres', 'CREATE DATABASE copy TEMPLATE mv'),
	qr/cannot create a database from template "mv"/, 'the moved database is no template');
is(sql('SELECT count(*), sum(i) FROM unlogged'), '1000|500500', 'unlogged: the database moved');
crash();
same('the database moved, after a crash', @both);
is(sql('SELECT count(*) FROM unlogged'), 0, 'unlogged: emptied by the crash');
sql('INSERT INTO unlogged SELECT generate_series(1, 1000)');
change(@both);
$node->restart;
same('the database moved, after a restart', @both);
is(sql('SELECT count(*), sum(i) FROM unlogged'), '1000|500500', 'unlogged: after a restart');

# Nor is one with a single table, which has moved by itself.
sql('DROP TABLE wanders, unlogged; CREATE TABLE wanders AS TABLE plain');
change('plain');
sql('ALTER TABLE plain SET TABLESPACE near; DROP TABLE wanders; CHECKPOINT');
like(refusal('postgres', 'CREATE DATABASE copy TEMPLATE mv'),
	qr/cannot create a database from template "mv"/, 'a table that has moved by itself is found');
same('moved within the moved database', 'plain');

# There and back; what lies in the target by itself is in the way.
like(refusal('postgres', 'ALTER DATABASE mv SET TABLESPACE near'),
	qr/some relations of database "mv" are already in tablespace "near"/, 'a move that is refused');
same('a refused move', 'plain');
sql('ALTER TABLE plain SET TABLESPACE far');
$node->safe_psql('postgres', "ALTER DATABASE mv SET TABLESPACE $_") for 'near', 'pg_default';
crash();
is(tablespace_of('plain'), 'default false', 'back again');
same('the database moved twice, after a crash', 'plain');
change('plain');
same('and the table goes on', 'plain');

sql('DROP TABLE plain; CHECKPOINT');
is($node->psql('postgres', 'CREATE DATABASE copy TEMPLATE mv'), 0, 'without its tables it is a template again');
$node->safe_psql('postgres', 'DROP DATABASE copy; DROP DATABASE mv; DROP TABLESPACE far');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing else died');
$node->stop;
done_testing();
