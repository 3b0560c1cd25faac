# The commit log and backups: a backup that runs may hold a snapshot with rows that are not frozen there;
# VACUUM does not let the commit log of their transactions go before it ends.  Without a backup it does, and the
# newest snapshot proves it.  A standby keeps the files while it is backed up.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node in_background wait_done);
use OrbitXids qw(set_next_xid);

my $node = orbit_node('primary', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = '1h'}, q{orbit.reclaim_delay = '1h'});

sub sql { return $node->safe_psql('postgres', shift) }

sub frozen { return sql(q{SELECT relfrozenxid FROM pg_class WHERE relname = 'old'}) }

sql(q{
CREATE TABLE old (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO old SELECT g, 'row ' || g FROM generate_series(1, 1000) g;
BEGIN; INSERT INTO old VALUES (5000, 'undone'); ROLLBACK;
SELECT orbit_flush();
});

# a cluster in which 3 million transactions have gone by
$node->stop;
set_next_xid($node, 3_100_000, 0);
$node->start;
my $segment = $node->data_dir . '/pg_xact/0000';

sub freeze_all
{
	for my $database (split /\n/, sql('SELECT datname FROM pg_database WHERE datallowconn'))
	{
		$node->safe_psql($database, 'VACUUM (FREEZE)');
	}
	sql(q{UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'});
	$node->safe_psql('template0', 'VACUUM (FREEZE)');
	sql(q{UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'});
	sql('VACUUM (FREEZE)');
	return;
}

# ---- a backup of the primary -----------------------------------------------------------------------
my $backup = in_background($node, q{SELECT pg_backup_start('b', true)});
wait_done($node, 'SELECT pg_backup_start');
my $copy = PostgreSQL::Test::Cluster->new('copy');
my $data = $copy->data_dir;
mkdir $data;
chmod 0700, $data;
system("cp -a '" . $node->data_dir . "/orbit' '$data/'") == 0 or die 'cp';
system('rm', '-rf', "$data/orbit/pgsql_tmp_live") == 0 or die 'rm';
my $before = frozen();
freeze_all();
ok(frozen() < 1_000_000, 'while a backup runs relfrozenxid does not pass what its snapshots need: ' . frozen() . " ($before)");
ok(-e $segment, 'the commit log stays');
my $archive = $node->data_dir;
system("cd '$archive' && tar cf - --exclude=./orbit --exclude=./pg_wal --exclude=postmaster.pid . | tar xf - -C '$data'") == 0 or die 'tar';
$backup->query_until(qr/end of label/, "\\o $data/backup_label\nSELECT labelfile FROM pg_backup_stop(false);\n\\o\n\\echo end of label\n");
$backup->quit;
my $label = slurp_file("$data/backup_label") =~ s/\n+\z/\n/r;
open my $fh, '>', "$data/backup_label" or die;
print $fh $label;
close $fh;
system("cp -a '$archive/pg_wal' '$data/pg_wal'") == 0 or die 'cp';

# ---- without a backup --------------------------------------------------------------------------------
freeze_all();
ok(frozen() > 3_000_000, 'without one it advances: ' . frozen());
ok(!-e $segment, 'and the commit log is truncated');
my ($oldest) = slurp_file((sort glob("$archive/orbit/snap-*"))[-1] . '/SNAPSHOT') =~ /^oldest (\d+)$/m;
ok($oldest > 3_000_000, "the newest snapshot needs nothing of that: $oldest");
my $n = () = glob("$archive/orbit/snap-*");
sql('VACUUM (FREEZE)') for 1 .. 3;
my $again = () = glob("$archive/orbit/snap-*");
is($again, $n, 'what is proven needs no other snapshot');

# ---- the copy -----------------------------------------------------------------------------------------
$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\nlisten_addresses = ''");
$copy->start;
for my $round ('restored', 'killed')
{
	is($copy->safe_psql('postgres', 'SELECT count(*), sum(id) FROM old'), '1000|500500', "$round: rows that were not frozen, and not the undone one");
	is($copy->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*), sum(id) FROM old WHERE id > 0'), '1000|500500', "$round: by index");
	$copy->stop('immediate');
	$copy->start if $round eq 'restored';
}

# ---- the files of a server that crashed after the truncation --------------------------------------------
$node->stop('immediate');
system('rm', '-rf', $data) == 0 or die;
system('cp', '-a', $archive, $data) == 0 or die;
system('rm', '-rf', "$data/orbit/pgsql_tmp_live", "$data/postmaster.pid") == 0 or die;
$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\nlisten_addresses = ''");
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*), sum(id) FROM old'), '1000|500500', 'a copy of a crashed server, without the live directory');
$copy->stop('immediate');
done_testing();
