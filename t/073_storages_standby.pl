# A standby judges by its own files: what was dropped on the primary goes there too,
# and nothing else does, whatever is still to be replayed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use OrbitStorages qw(storages_setup settled await_storages);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $rows = 'SELECT g FROM generate_series(1, 3000) g';
my $all = '3000|4501500';

my $primary = PostgreSQL::Test::Cluster->new('primary');
storages_setup($primary, allows_streaming => 1);
$primary->append_conf('postgresql.conf', 'allow_in_place_tablespaces = on');
$primary->start;
$primary->safe_psql('postgres', $_) for (
	'CREATE EXTENSION orbit_fdw',
	q(SET allow_in_place_tablespaces = on; CREATE TABLESPACE one LOCATION ''),
	"CREATE TABLE t (i int) USING orbit; INSERT INTO t $rows",
	"CREATE TABLE before (i int) USING orbit; INSERT INTO before $rows",
	"CREATE UNLOGGED TABLE u (i int) USING orbit; INSERT INTO u $rows",
	'CREATE DATABASE d');
$primary->safe_psql('d', "CREATE EXTENSION orbit_fdw; CREATE TABLE x (i int) USING orbit; INSERT INTO x $rows");
settled($primary);

# Stopped, so that the copy has RocksDB's files as they were.
$primary->stop;
$primary->backup_fs_cold('cold');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->start;
$standby->init_from_backup($primary, 'cold', has_streaming => 1);
$standby->start;

sub names { return $standby->safe_psql('postgres',
	q(SELECT string_agg(coalesce(relation::text, 'd'), ',' ORDER BY relation::text) FROM orbit_storages())) }
sub becomes
{
	my ($expected, $name) = @_;
	$primary->wait_for_catchup($standby);
	my $got = '';
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$got = names();
		last if $got eq $expected;
		sleep 0.1;
	}
	is($got, $expected, $name);
}
# A little later it is still so.
sub stays
{
	my ($expected, $name) = @_;
	becomes($expected, $name);
	$primary->safe_psql('postgres', 'CREATE TABLE round (i int) USING orbit; DROP TABLE round') for 1 .. 2;
	sleep 1;
	becomes($expected, "$name, and stays so");
}
sub rows { return $standby->safe_psql($_[1] // 'postgres', "SELECT count(*), sum(i) FROM $_[0]") }

stays('before,t,d', 'a standby has the permanent tables');
is(rows($_), $all, "rows of $_") for 'before', 't';
is(rows('x', 'd'), $all, 'rows of x');

# Transactions that still run, or are prepared, when their records arrive.
my $session = $primary->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe('SAVEPOINT s');
$session->query_safe('CREATE TABLE open (i int) USING orbit');
$session->query_safe("INSERT INTO open $rows");
$primary->safe_psql('postgres', "BEGIN; CREATE TABLE p (i int) USING orbit; INSERT INTO p $rows; PREPARE TRANSACTION 'p'");
$primary->safe_psql('postgres', 'CHECKPOINT');
stays('before,t,d,d,d', 'creations on their way');
$standby->restart;
stays('before,t,d,d,d', 'over a restart of the standby');
$session->query_safe('COMMIT');
$session->quit;
$primary->safe_psql('postgres', "COMMIT PREPARED 'p'");
stays('before,open,p,t,d', 'creations committed');
is(rows($_), $all, "rows of $_") for 'open', 'p';

$primary->safe_psql('postgres', $_) for 'DROP TABLE open, p', 'BEGIN; DROP TABLE t; ROLLBACK',
	'ALTER TABLE t SET TABLESPACE one', "BEGIN; CREATE TABLE no (i int) USING orbit; INSERT INTO no $rows; ROLLBACK",
	"TRUNCATE before", "INSERT INTO before $rows";
stays('before,t,d', 'drops, a rollback, a move, TRUNCATE');
is(rows($_), $all, "rows of $_") for 'before', 't';

$primary->safe_psql('postgres', 'ALTER DATABASE d SET TABLESPACE one');
stays('before,t,d', 'a database moves');
is(rows('x', 'd'), $all, 'its rows');
$primary->safe_psql('postgres', 'DROP DATABASE d');
becomes('before,t', 'and is dropped');

$primary->safe_psql('postgres', "CREATE TABLE last (i int) USING orbit; INSERT INTO last $rows");
$primary->wait_for_catchup($standby);
$standby->stop('immediate');
$primary->safe_psql('postgres', 'DROP TABLE last');
$standby->start;
becomes('before,t', 'dropped while the standby was away');
is(rows($_), $all, "rows of $_") for 'before', 't';

$primary->stop;
$standby->promote;
$standby->safe_psql('postgres', "INSERT INTO u $rows; DROP TABLE before");
is(settled($standby), 't,u', 'promoted, it goes on');
is(rows($_), $all, "rows of $_") for 't', 'u';
$standby->stop;

done_testing();
