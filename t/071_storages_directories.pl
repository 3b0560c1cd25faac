# Databases and tablespaces: storages of dropped ones go, storages of moved ones
# stay, and so do those of a tablespace that cannot be reached.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use OrbitStorages qw(storages_setup settled await_storages);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
storages_setup($node);
$node->start;
$node->safe_psql('template1', 'CREATE EXTENSION orbit_fdw');
$node->safe_psql('postgres', 'CREATE EXTENSION orbit_fdw');

my %place;
for my $name ('one', 'two')
{
	$place{$name} = PostgreSQL::Test::Utils::tempdir();
	$node->safe_psql('postgres', "CREATE TABLESPACE $name LOCATION '$place{$name}'");
}

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }
sub rows { return sql("SELECT count(*), sum(i) FROM $_[0]", $_[1]) }

my $rows = 'SELECT g FROM generate_series(1, 3000) g';
my $all = '3000|4501500';
my $n = 0;    # storages that must be there

sub table
{
	my ($name, $database, $where) = @_;
	sql("CREATE TABLE $name (i int) USING orbit " . ($where // ''), $database);
	sql("INSERT INTO $name $rows", $database);
	$n++;
}

# Several rounds of the worker, each with all it may do.
sub rounds
{
	sql('CREATE TABLE round (i int) USING orbit; DROP TABLE round') for 1 .. 2;
	sleep 1;
	return await_storages($node, $n);
}

# ---- SET TABLESPACE -----------------------------------------------------------------

table('t');
sql('ALTER TABLE t SET TABLESPACE one');
ok(rounds(), 'SET TABLESPACE makes no storage');
is(rows('t'), $all, 'and keeps the rows');
sql('BEGIN; ALTER TABLE t SET TABLESPACE two; ROLLBACK');
ok(rounds(), 'rolled back');
is(rows('t'), $all, 'and keeps the rows');
sql('ALTER TABLE t SET TABLESPACE two; ALTER TABLE t SET TABLESPACE pg_default; ALTER TABLE t SET TABLESPACE two');
ok(rounds(), 'there and back');
is(rows('t'), $all, 'and keeps the rows');
sql('CREATE UNLOGGED TABLE u (i int) USING orbit');
sql("INSERT INTO u $rows; ALTER TABLE u SET TABLESPACE one");
$n++;
ok(rounds(), 'an unlogged table');
is(rows('u'), $all, 'and keeps the rows');
like(sql('SELECT file FROM orbit_storages() WHERE relation = $$t$$::regclass'), qr{^pg_tblspc/\d+/PG_15}, 'the file is shown');
sql('DROP TABLE u');
$n--;
ok(rounds(), 'dropped in another tablespace');

# ---- databases ------------------------------------------------------------------------

sql('CREATE DATABASE d');
table('t', 'd');
table('away', 'd', 'TABLESPACE two');
ok(rounds(), 'tables of two databases');
my ($rc, $out, $err) = $node->psql('postgres', 'CREATE DATABASE e TEMPLATE d');
like($err, qr/cannot create a database from template "d"/, 'no copies of a database with orbit tables');

sql('ALTER DATABASE d SET TABLESPACE one');
ok(rounds(), 'a database moves');
is(rows('t', 'd'), $all, 'and keeps the rows');
is(rows('away', 'd'), $all, 'also elsewhere');
sql("CREATE TABLE x (i int) USING orbit; INSERT INTO x $rows", 'd');
$n++;
ok(rounds(), 'it may have new ones there');
sql('ALTER DATABASE d SET TABLESPACE pg_default');
ok(rounds(), 'and moves back');
is(rows('t', 'd'), $all, 'with its rows');
is(rows('x', 'd'), $all, 'also the new ones');
sql('DROP TABLE x', 'd');
$n--;
ok(rounds(), 'a table dropped that was made elsewhere');

($rc, $out, $err) = $node->psql('postgres', 'CREATE DATABASE e TEMPLATE d');
isnt($rc, 0, 'still no copies');
sql('DROP TABLE t, away', 'd');
$n -= 2;
sql('CREATE DATABASE e TEMPLATE d');
ok(rounds(), 'the tables of the template are gone');
sql('DROP DATABASE e');
sql('CREATE DATABASE e TEMPLATE d STRATEGY file_copy');
table('t', 'e');
is(rows('t', 'e'), $all, 'a database made from it has tables of its own');

# A restart before the worker could have looked: it is not the directory that proves
# the drop.
sql('DROP DATABASE e');
$n--;
$node->stop('immediate');
$node->start;
ok(rounds(), 'DROP DATABASE and a crash');

sql('CREATE TABLE x TABLESPACE one AS SELECT 1; DROP TABLE x');
table('x', undef, 'TABLESPACE one');
sql('DROP TABLE x; CHECKPOINT');
sql('DROP TABLESPACE one');
$n--;
$node->stop('immediate');
$node->start;
ok(rounds(), 'DROP TABLESPACE and a crash');

# ---- what cannot be reached --------------------------------------------------------------

table('t', 'd');
sql('SELECT orbit_flush()');
my $base = $node->data_dir . '/base/' . sql(q(SELECT oid FROM pg_database WHERE datname = 'd'));
my ($link) = glob($node->data_dir . '/pg_tblspc/*');

# Hides a directory while the server runs for a while.
sub hidden
{
	my ($what, $hide, $back) = @_;
	$node->stop;
	$hide->();
	$node->start;
	ok(rounds(), "$what: storages are kept");
	$node->stop;
	$back->();
	$node->start;
	is(rows('t'), $all, "$what: rows are there again");
	is(rows('t', 'd'), $all, "$what: in the other database as well");
}

hidden('a tablespace that is not mounted',
	sub { rename $place{two}, "$place{two}.away"; mkdir $place{two} },
	sub { rmdir $place{two}; rename "$place{two}.away", $place{two} });
my $to = readlink $link;
hidden('a tablespace without its link',
	sub { unlink $link },
	sub { symlink $to, $link });
hidden('a database without its directory',
	sub { rename $base, "$base.away" },
	sub { rename "$base.away", $base });

sql('DROP DATABASE d');
sql('DROP TABLE t');
$n = 0;
ok(rounds(), 'everything goes at last');
$node->stop;

done_testing();
