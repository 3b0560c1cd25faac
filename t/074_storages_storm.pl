# Hundreds of tables that come and go in several sessions at once, while files are compacted at random
# all the time: in the end nothing is left of those that went, and everything is there of those that stay.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";
use OrbitStorages qw(storages_setup settled);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $sessions = 4;
my $turns = 30;
my $node = PostgreSQL::Test::Cluster->new('main');
storages_setup($node);
$node->append_conf('postgresql.conf', "orbit.reclaim_threshold = 0\nfsync = off\nautovacuum = on\nautovacuum_naptime = '1s'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION orbit_fdw');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A turn makes about eight storages, of which one may stay: each session's own table s<n>,
# and every tenth turn a table kept for good.
sub turn
{
	my ($s, $t) = @_;
	my $rows = "SELECT g, repeat(md5(g::text || '$s.$t'), 1 + g % 5) FROM generate_series(1, " . (1 + ($s * 37 + $t * 53) % 400) . ') g';
	my $columns = '(i int PRIMARY KEY, v text) USING orbit';
	my @sql = (
		"CREATE TABLE a$s $columns; INSERT INTO a$s $rows; DROP TABLE a$s",
		"BEGIN; CREATE TABLE b$s $columns; INSERT INTO b$s $rows; ROLLBACK",
		"CREATE TEMP TABLE c$s $columns; INSERT INTO c$s $rows; TRUNCATE c$s; INSERT INTO c$s $rows; DROP TABLE c$s",
		"BEGIN; TRUNCATE s$s; INSERT INTO s$s $rows; ROLLBACK",
		"TRUNCATE s$s; INSERT INTO s$s $rows",
		"CREATE TEMP TABLE d${s}_$t $columns; INSERT INTO d${s}_$t $rows",
		"CREATE UNLOGGED TABLE e$s $columns; INSERT INTO e$s $rows; DROP TABLE e$s",
		"VACUUM FULL s$s");
	push @sql, "CREATE TABLE kept_${s}_$t $columns; INSERT INTO kept_${s}_$t $rows" if $t % 10 == 0;
	return join(";\n", @sql) . ";\n";
}

sql("CREATE TABLE s$_ (i int PRIMARY KEY, v text) USING orbit") for 1 .. $sessions;
my @running;
for my $s (1 .. $sessions)
{
	my $psql = $node->background_psql('postgres', on_error_stop => 1);
	$psql->query_until(qr/begun/, "\\echo begun\n" . join('', map { turn($s, $_) } 1 .. $turns) . "\\echo all done\n");
	push @running, $psql;
}
for my $psql (@running)
{
	$psql->query_until(qr/all done/, '');
	$psql->quit;
}

my $start = time;
my @stay = sort map { my $s = $_; ("s$s", map { "kept_${s}_" . 10 * $_ } 1 .. $turns / 10) } 1 .. $sessions;
is(settled($node), join(',', @stay), 'of ' . 8 * $turns * $sessions . ' storages these are left');
note(sprintf 'after %.1f s', time - $start);

sub expected
{
	my ($s, $t) = @_;
	return sql("SELECT count(*), sum(hashtext(repeat(md5(g::text || '$s.$t'), 1 + g % 5))::bigint) FROM generate_series(1, "
		. (1 + ($s * 37 + $t * 53) % 400) . ') g');
}

my @wrong;
for my $s (1 .. $sessions)
{
	for my $t (map { 10 * $_ } 1 .. $turns / 10)
	{
		for my $name ($t == $turns ? ("s$s", "kept_${s}_$t") : ("kept_${s}_$t"))
		{
			push @wrong, $name unless sql("SELECT count(*), sum(hashtext(v)::bigint) FROM $name") eq expected($s, $t);
			push @wrong, "$name by index" unless sql("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(v) FROM $name WHERE i > 0") eq (split /\|/, expected($s, $t))[0];
		}
	}
}
is("@wrong", '', 'their rows');
is(sql(q{SELECT count(*) FROM pg_class c, orbit_verify(c.oid::regclass) v WHERE relkind = 'r' AND relam = (SELECT oid FROM pg_am WHERE amname = 'orbit') AND v.problem IS NOT NULL}), 0, 'orbit_verify()');

$node->restart;
is(settled($node), join(',', @stay), 'the same after a restart');
$node->stop('fast');
done_testing();
